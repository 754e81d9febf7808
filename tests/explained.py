"""What tests of explanations share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from daskcache.explain import Explanation
from tests.workspace import Workspace

MODULE = """
    import numpy as np
    import params

    LEVEL = 2.0

    def helper(x):
        return x * 2

    def detrend(x, window=3):
        return helper(x) - LEVEL / window

    def scale(x):
        return x * params.FACTOR

    def curved(x):
        return np.sin(x)

    class Model:
        def __init__(self, slope):
            self.slope = slope
        def __call__(self, x):
            return x * self.slope
"""
PARAMS = "FACTOR = 3.0\n"


@pytest.fixture(name="workspace")
def workspace_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    space = Workspace(code)
    space.write({"anomaly.py": MODULE, "params.py": PARAMS})
    yield space
    space.forget()


def edit(workspace: Workspace, old: str, new: str) -> Any:
    files = {"anomaly.py": MODULE, "params.py": PARAMS}
    assert any(old in source for source in files.values())
    workspace.write({name: source.replace(old, new) for name, source in files.items()})
    return workspace.load("anomaly")


def causes(found: Explanation) -> dict[str, int]:
    assert isinstance(found, Explanation)
    return {cause.text: cause.blocks for cause in found}


def numbers(length: int = 12, chunks: int = 3) -> da.Array:
    return da.arange(length, chunks=chunks).astype("f8")


@pytest.fixture(name="source")
def source_fixture(tmp_path: Path) -> str:
    path = tmp_path / "source.zarr"
    xr.Dataset({"t2m": (("t", "x"), np.arange(24.0).reshape(6, 4))}).to_zarr(
        path, encoding={"t2m": {"chunks": (2, 2)}}, consolidated=False
    )
    return str(path)


def open_source(path: str, **chunks: int) -> xr.Dataset:
    return xr.open_zarr(path, chunks=chunks or {}, consolidated=False)

"""Causes that lie in sources, and the blocks that each costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.fingerprint import condense
from tests.explained import causes, numbers, open_source, source_fixture, workspace_fixture  # noqa: F401
from tests.workspace import Workspace


def test_a_chunk_of_a_source(source: str) -> None:
    (open_source(source) + 1).cache.persist("entry")
    array: Any = zarr.open_group(source)["t2m"]
    array[4:, :2] = -1
    found = (open_source(source) + 1).cache.explain("entry")
    assert causes(found) == {f"source {source}/t2m chunk (2, 0) changed": 1}
    array[:2, :] = -1
    found = (open_source(source).mean("x") + 1).cache.explain("entry")
    assert causes((open_source(source) + 1).cache.explain("entry")) == {
        f"source {source}/t2m chunk ({place}) changed": 1 for place in ("0, 0", "0, 1", "2, 0")
    }


def test_one_chunk_that_several_blocks_need(source: str) -> None:
    def build() -> xr.Dataset:
        ds = open_source(source)
        return xr.Dataset({"mean": ds.t2m.mean("t"), "double": ds.t2m * 2})

    build().cache.persist("entry")
    array: Any = zarr.open_group(source)["t2m"]
    array[0, 0] = -1
    assert causes(build().cache.explain("entry")) == {f"source {source}/t2m chunk (0, 0) changed": 2}


def test_a_source_that_has_grown(source: str) -> None:
    (open_source(source) + 1).cache.persist("entry")
    xr.Dataset({"t2m": (("t", "x"), np.zeros((2, 4)))}).to_zarr(source, append_dim="t", consolidated=False)
    found = (open_source(source) + 1).cache.explain("entry")
    assert causes(found) == {"`t2m` grew along `t` from 6 to 8": 2}


def test_another_source(source: str, tmp_path: Path) -> None:
    (open_source(source) + 1).cache.persist("entry")
    other = str(tmp_path / "other.zarr")
    open_source(source).drop_encoding().to_zarr(other, consolidated=False)
    found = (open_source(other) + 1).cache.explain("entry")
    assert causes(found) == {f"source {other}/t2m was not read": 6}


def test_a_file(tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    path = tmp_path / "data.nc"
    values = xr.Dataset({"v": ("t", np.arange(6.0))})
    values.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf", chunks={"t": 2}) as ds:
        (ds + 1).cache.persist("entry")
    (values + 1).to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf", chunks={"t": 2}) as ds:
        found = (ds + 1).cache.explain("entry")
    assert causes(found) == {f"source {path}/v changed": 3}


def test_a_file_that_a_function_declares(workspace: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "table.txt"
    table.write_text("1")
    workspace.write(
        {
            "reader.py": f"""
        import daskcache
        TABLE = daskcache.source({str(table)!r})
        def look(x, path=TABLE):
            with open(path) as file:
                return x + int(file.read())
    """
        }
    )
    look = workspace.load("reader").look
    daskcache.persist(numbers().map_blocks(look), "entry")
    table.write_text("22")
    found = daskcache.explain(numbers().map_blocks(look), "entry")
    assert causes(found) == {f"file {table}, which `reader.look` reads, changed": 4}


def test_very_many_objects_are_condensed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condense, "_MOST_OBJECTS", 4)
    (open_source(source) + 1).cache.persist("entry")
    info: Any = Catalog(Settings.from_config().store).open("entry").info
    grain, packed = info["recipe"]["objects"][f"{source}/t2m"]
    assert grain > 0
    assert len(packed) == 3 * 16
    array: Any = zarr.open_group(source)["t2m"]
    array[0, 0] = -1
    found = (open_source(source) + 1).cache.explain("entry")
    assert causes(found) == {f"source {source}/t2m changed, in t2m/c/0": 1}

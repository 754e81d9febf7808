"""What a manifest says of where its data came from: JSON, with digests, without secrets."""

from __future__ import annotations

import datetime as dt
import json
import platform
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

import daskcache
from daskcache.catalog import Catalog
from daskcache.config import Settings
from tests.labelled import one


def info_of(thing: Any) -> dict[str, Any]:
    daskcache.persist(thing, "entry")
    return dict(Catalog(Settings.from_config().store).open("entry").info)


def helper(block: Any, by: Any) -> Any:
    return block * by


def test_names_the_functions() -> None:
    base = da.ones(4, chunks=2)
    text = json.dumps(
        info_of(xr.Dataset({"a": ("x", base.map_blocks(helper, 2)), "b": ("x", np.sin(base))}))["recipe"]
    )
    assert "helper" in text
    assert "sin" in text


def test_functions_of_one_name_are_all_there() -> None:
    def through(*functions: Any) -> Any:
        array = da.ones(4, chunks=2)
        for function in functions:
            array = array.map_blocks(function)
        return info_of(array)["recipe"]

    recipes = [through(lambda b: b + 1, lambda b: b + 2), through(lambda b: b + 2, lambda b: b + 2)]
    assert recipes[0] != recipes[1]


def test_environment_and_time() -> None:
    found = info_of(one(da.ones(4)))
    assert found["environment"]["python"] == platform.python_version()
    assert found["environment"]["dask"] == dask.__version__
    assert found["environment"]["daskcache"] == daskcache.__version__
    assert abs(dt.datetime.fromisoformat(found["created"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(
        minutes=5
    )
    json.dumps(found, allow_nan=False)


def test_sources_and_no_secrets(tmp_path: Path) -> None:
    one(np.arange(4.0)).to_zarr(tmp_path / "source.zarr", zarr_format=2, consolidated=True)
    ds = xr.open_zarr(tmp_path / "source.zarr", chunks={})
    secret = "correct horse battery staple"

    def with_secret(block: Any, argument: Any) -> Any:
        return block if secret != argument else None

    found = info_of(ds.assign(w=("x", ds.v.data.map_blocks(with_secret, "another phrase", dtype="f8"))))
    assert any("source.zarr" in path for path in found["sources"])
    text = json.dumps(found)
    assert "horse" not in text
    assert "another phrase" not in text

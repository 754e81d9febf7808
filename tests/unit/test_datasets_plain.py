"""What plain xarray makes of a manifest: the same as we do."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import pandas as pd
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache.datasets import assemble
from tests.labelled import (
    OBJECTS,
    assert_same,
    order_of_everything,
    tree,
)

READER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "daskcache":
            raise ImportError("daskcache is out of reach")

sys.meta_path.insert(0, Refuse())
import json, pickle, warnings
import xarray as xr, zarr

manifest, expected, rectilinear = sys.argv[1:]
zarr.config.set({"array.rectilinear_chunks": rectilinear == "True"})
backend = {"consolidated": False, "storage_options": {"fo": manifest}}
with open(expected, "rb") as file:
    expected = pickle.load(file)
openers = {xr.Dataset: xr.open_dataset, xr.DataArray: xr.open_dataarray, xr.DataTree: xr.open_datatree}
plain = openers[type(expected)]("reference://", engine="zarr", backend_kwargs=backend)
xr.testing.assert_identical(plain.load(), expected)
try:
    import daskcache
except ImportError:
    print("equal")
"""


def read_plainly(root: Path, entry: str, expected: Any, tmp_path: Path) -> str:
    (manifest,) = (root / "namespaces" / "default" / entry / "@").glob("*.json")
    needs = any(
        json.loads(text).get("chunk_grid", {}).get("name") == "rectilinear"
        for name, text in json.loads(manifest.read_bytes())["refs"].items()
        if name.endswith("zarr.json")
    )
    pickled = tmp_path / "expected.pickle"
    pickled.write_bytes(pickle.dumps(expected.load()))
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            READER,
            str(manifest),
            str(pickled),
            str(needs),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pipeline() -> xr.Dataset:
    """Give results of all three kinds of grid: blocks of equal length, of leap years, and large ones of any length."""
    time = pd.date_range("2000-01-01", "2002-12-31", unit="ns")
    values = da.random.default_rng(3).normal(size=(len(time), 4, 3), chunks=(366, 4, 3))
    ds = xr.Dataset({"t": (("time", "lat", "lon"), values)}, {"time": time})
    ds = ds.assign_coords(lat=[3.0, 2, 1, 0], label=("lon", ["a", "b", "c"]))
    anomalies = ds.t.groupby("time.month") - ds.t.groupby("time.month").mean()
    cells = da.random.default_rng(4).normal(size=(12, 9000), chunks=((5, 4, 3), 9000))
    return xr.Dataset(
        {
            "regular": ds.t.mean("lat"),
            "rectilinear": anomalies.chunk(time=(366, 365, 365)).rename(time="day"),
            "inner": (("step", "cell"), cells * 2),
        },
        attrs={"title": "results"},
    )


def test_plain_xarray_opens_the_results_of_a_pipeline(store_root: Path, tmp_path: Path) -> None:
    results = pipeline()
    kept = daskcache.persist(results, "results")
    manifest = daskcache.catalog.Catalog(str(store_root)).open("results")
    assert {variable.name: variable.grid.kind for variable in manifest.variables if not variable.in_memory} == {
        "regular": "regular", "rectilinear": "rectilinear", "inner": "inner", "month": "rectilinear"
    }  # fmt: skip
    results = results.compute()
    assert_same(kept.compute(), results)
    assert read_plainly(store_root, "results", results, tmp_path) == "equal\n"
    moved = tmp_path / "moved"
    store_root.rename(moved)
    (document,) = moved.glob("namespaces/default/results/@/*.json")
    options = {"fo": str(document), "template_overrides": {"root": str(moved)}}
    with zarr.config.set({"array.rectilinear_chunks": True}):
        backend = {"consolidated": False, "storage_options": options}
        plain = xr.open_dataset("reference://", engine="zarr", backend_kwargs=backend).load()
    xr.testing.assert_identical(plain, results)
    assert_same(daskcache.open("results", store=str(moved)).compute(), results)


# Not all: names with spaces cannot be listed as coordinates; numpy's other units and JSON texts xarray cannot decode.
PLAIN = [
    "order_of_everything",
    "large",
    "only_coordinates",
    "irregular_grids",
    "one_array_twice",
    "no_size",
    "scalars",
    "tree",
    "array_unnamed",
    "array_named_like_its_dimension",
    "cftime_360_day",
    "values_f8",
    "values_big_f4",
    "values_M8_us",
    "values_m8_ms",
    "values_T",
    "index_pandas_str",
    "index_descending",
]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_xarray_opens_what_was_persisted(name: str, store_root: Path) -> None:
    make = {"large": large_plain, **OBJECTS}[name]
    thing = make()
    daskcache.persist(thing, "entry")
    (manifest,) = (store_root / "namespaces" / "default" / "entry" / "@").glob("*.json")
    openers: dict[Any, Any] = {xr.Dataset: xr.open_dataset, xr.DataArray: xr.open_dataarray}
    opener = openers.get(type(thing), xr.open_datatree)
    backend = {"consolidated": False, "storage_options": {"fo": str(manifest)}}
    with zarr.config.set({"array.rectilinear_chunks": True}):
        plain = opener("reference://", engine="zarr", backend_kwargs=backend).load()
    expected = thing.compute()
    if isinstance(expected, xr.DataTree):
        expected.name = None  # which Zarr has no place for
    xr.testing.assert_identical(plain, expected)


def large_plain() -> xr.Dataset:
    large = OBJECTS["large_in_memory"]()
    return large.drop_vars(["integers", "missing"])


def test_order_survives_a_rename_of_the_store(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(order_of_everything(), "entry")
    store_root.rename(tmp_path / "elsewhere")
    assert_same(daskcache.open("entry", store=str(tmp_path / "elsewhere")), order_of_everything())


def test_assemble_is_what_open_gives(store_root: Path) -> None:
    daskcache.persist(tree(), "entry")
    manifest = daskcache.catalog.Catalog(str(store_root)).open("entry")
    assert_same(assemble(manifest, str(store_root)), tree())

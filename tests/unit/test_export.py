"""What is exported opens without daskcache and is equal; nothing half written has the target's name."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import icechunk
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import daskcache
from daskcache import stores
from daskcache.cli import cache
from daskcache.errors import DaskcacheError, EntryNotFoundError, InvalidInputError
from daskcache.export import copy as copying
from daskcache.pool import StoredBlock
from tests.producers import objects

FORMATS = {"zarr": ".zarr", "zarr2": ".zarr", "netcdf": ".nc", "kerchunk": ".json", "icechunk": ".icechunk"}


def sample() -> xr.Dataset:
    rng = np.random.default_rng(1)
    t2m = da.from_array(rng.random((10, 6)).astype("f4"), chunks=(4, 6))
    return xr.Dataset(
        {
            "t2m": (("time", "lat"), t2m, {"units": "K"}),
            "counts": ("time", da.arange(10, chunks=5).astype("i2")),
            "name": ("lat", np.array(list("abcdef"))),
        },
        coords={"time": pd.date_range("2001-01-01", periods=10), "lat": np.linspace(-50, 50, 6)},
        attrs={"title": "a sample"},
    )


def open_exported(path: str, chosen: str, **options: Any) -> xr.Dataset:
    if chosen == "netcdf":
        return xr.open_dataset(path, engine="h5netcdf", **options)
    if chosen == "kerchunk":
        arguments = {"consolidated": False, "storage_options": {"fo": path}}
        return xr.open_dataset("reference://", engine="zarr", backend_kwargs=arguments, **options)
    if chosen == "icechunk":
        return xr.open_dataset(open_repository(path), engine="zarr", consolidated=False, **options)
    return xr.open_dataset(path, engine="zarr", **options)


def open_repository(path: str) -> Any:
    storage = icechunk.local_filesystem_storage(path)
    (prefix,) = icechunk.Repository.fetch_config(storage).virtual_chunk_containers
    access = icechunk.containers_credentials({prefix: icechunk.Credentials.LocalFileSystemAccess()})
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
    return repository.readonly_session("main").store


@pytest.mark.parametrize("chosen", FORMATS)
def test_a_dataset_comes_back(chosen: str, tmp_path: Path) -> None:
    ds = sample()
    daskcache.persist(ds, "sample")
    target = tmp_path / f"out{FORMATS[chosen]}"
    assert daskcache.export("sample", target, format=chosen) == str(target)
    with open_exported(str(target), chosen) as found:
        xr.testing.assert_equal(found.load(), ds.compute())
        assert found.attrs == ds.attrs
        assert found.t2m.attrs["units"] == "K"
        assert found.t2m.dtype == ds.t2m.dtype
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("chosen", FORMATS)
def test_irregular_blocks(chosen: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((9, 20000))
    ds = xr.Dataset({"a": (("x", "y"), da.from_array(values, chunks=((2, 4, 3), (20000,))))})
    daskcache.persist(ds, "irregular")
    target = str(tmp_path / f"out{FORMATS[chosen]}")
    daskcache.export("irregular", target, format=chosen)
    with zarr.config.set({"array.rectilinear_chunks": True}), open_exported(target, chosen) as found:
        xr.testing.assert_equal(found.load(), ds.compute())


def test_zarr_is_a_copy_of_the_objects(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(sample(), "sample")
    target = Path(daskcache.export("sample", tmp_path / "out.zarr"))
    copied = {path.read_bytes() for path in (target / "t2m" / "c").rglob("*") if path.is_file()}
    assert len(copied) == 3
    assert copied <= {path.read_bytes() for path in objects(store_root)}
    assert xr.open_zarr(target).t2m.data.chunks == ((4, 4, 2), (6,))


@pytest.mark.parametrize("chosen", ["zarr", "zarr2", "netcdf"])
def test_other_kinds(chosen: str, tmp_path: Path) -> None:
    ds = sample()
    ending = FORMATS[chosen]
    for name, thing, expected in [
        ("dataarray", ds.t2m, ds.t2m.to_dataset()),
        ("array", da.arange(5, chunks=2) * 2, None),
        ("empty", xr.Dataset(attrs={"title": "nothing"}), xr.Dataset(attrs={"title": "nothing"})),
    ]:
        daskcache.persist(thing, name)
        path = daskcache.export(name, tmp_path / f"{name}{ending}", format=chosen)
        with open_exported(path, chosen) as found:
            if expected is None:
                (array,) = found.data_vars.values()
                assert array.values.tolist() == [0, 2, 4, 6, 8]
            else:
                xr.testing.assert_equal(found.load(), expected.compute())
    tree = xr.DataTree.from_dict({"/": ds[["counts"]], "/below": ds[["t2m"]]})
    daskcache.persist(tree, "tree")
    path = daskcache.export("tree", tmp_path / f"tree{ending}", format=chosen)
    engine = "h5netcdf" if chosen == "netcdf" else "zarr"
    with xr.open_datatree(path, engine=engine) as opened:
        xr.testing.assert_equal(opened.load(), tree.compute())


@pytest.mark.parametrize("chosen", ["zarr", "zarr2", "netcdf"])
def test_nothing_is_left_of_one_that_failed(chosen: str, store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(sample(), "sample")
    objects(store_root)[1].unlink()
    with pytest.raises((DaskcacheError, RuntimeError), match="is not in store"):
        daskcache.export("sample", tmp_path / "out", format=chosen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", ["zarr2", "netcdf"])
def test_nothing_comes_back_of_one_that_failed(chosen: str, store_root: Path, tmp_path: Path) -> None:
    """Where others are still at work when one fails."""
    daskcache.persist(da.ones(64, chunks=1) + 1, "ones")
    running: list[int] = []
    numbers = itertools.count(1)
    read = StoredBlock.__getitem__

    def read_slowly(self: StoredBlock, index: Any) -> Any:
        running.append(number := next(numbers))
        if number == 2:
            raise RuntimeError("broken")
        time.sleep(0.3)
        return read(self, index)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(num_workers=4):
        patch.setattr(StoredBlock, "__getitem__", read_slowly)
        with pytest.raises(RuntimeError, match="broken"):
            daskcache.export("ones", tmp_path / "out", format=chosen)
        assert 1 < len(running) < 64
        count = len(running)
        time.sleep(0.5)
        assert len(running) == count
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", FORMATS)
def test_what_is_there_stays(chosen: str, tmp_path: Path) -> None:
    daskcache.persist(sample(), "sample")
    target = tmp_path / "out"
    target.write_text("mine")
    with pytest.raises(InvalidInputError, match=r"something is at .* already"):
        daskcache.export("sample", target, format=chosen)
    assert target.read_text() == "mine"


def test_a_url(tmp_path: Path) -> None:
    ds = sample()
    daskcache.persist(ds, "sample")
    for form in ("zarr", "zarr2"):
        target = f"memory://{tmp_path.name}-{form}.zarr"
        daskcache.export("sample", target, format=form)
        xr.testing.assert_equal(xr.open_zarr(stores.open(target)).load(), ds.compute())
        with pytest.raises(InvalidInputError, match="already"):
            daskcache.export("sample", target, format=form)
    with pytest.raises(InvalidInputError, match="local paths only"):
        daskcache.export("sample", "s3://bucket/x.nc")


def test_metadata_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daskcache.persist(sample(), "sample")
    written: list[str] = []
    monkeypatch.setattr(copying, "_put", lambda target, key, data: written.append(key))
    daskcache.export("sample", f"memory://{tmp_path.name}-last.zarr")
    names = [os.path.basename(key) == "zarr.json" for key in written]
    assert names == sorted(names)
    assert written[-1] == "zarr.json"


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected one of zarr, .*\.nc"):
        daskcache.export("x", tmp_path / "out.txt")
    with pytest.raises(EntryNotFoundError):
        daskcache.export("x", tmp_path / "out.zarr")
    assert list(tmp_path.iterdir()) == []


def test_versions_and_the_command(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(sample(), "sample")
    first = daskcache.catalog.Catalog(str(store_root)).open("sample").version
    daskcache.persist(sample()[["counts"]] + 1, "sample")
    path = str(tmp_path / "first.zarr")
    result = CliRunner().invoke(cache, ["--store", str(store_root), "export", f"sample@{first[:12]}", path])
    assert result.output == f"{path}\n"
    assert xr.open_zarr(path).counts.values.tolist() == list(range(10))
    result = CliRunner().invoke(cache, ["--store", str(store_root), "export", "sample@", path])
    assert result.exit_code == 1

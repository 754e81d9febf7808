"""Files that are open for writing hold less than their handles show: they have no token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.sources import find_source

h5py = pytest.importorskip("h5py")
netCDF4 = pytest.importorskip("netCDF4")
WRITING = ("r+", "a")


def look(array: Any) -> bytes:
    source = find_source(array, Fingerprinter())
    assert source is not None
    return source.region(())


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.arange(6.0)
    return tmp_path / "a.h5"


@pytest.fixture
def netcdf(tmp_path: Path) -> Path:
    xr.Dataset({"a": ("x", np.arange(6.0))}).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    return tmp_path / "a.nc"


@pytest.mark.parametrize("mode", WRITING)
def test_a_dataset_of_h5py(mode: str, hdf5: Path) -> None:
    with h5py.File(hdf5, mode) as file, pytest.raises(UncacheableError, match=r"open for writing.*mode='r'"):
        look(file["a"])
    with h5py.File(hdf5) as file:
        look(file["a"])


def test_a_file_that_is_being_made(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.arange(6.0)
        with pytest.raises(UncacheableError, match="open for writing"):
            look(file["a"])
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("x", 6)
        with pytest.raises(UncacheableError, match="open for writing"):
            look(file.createVariable("a", "f8", ("x",)))


@pytest.mark.parametrize("mode", WRITING)
@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_a_variable_of_netcdf4(mode: str, form: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    xr.Dataset({"a": ("x", np.arange(6.0))}).to_netcdf(path, engine="netcdf4", format=form)
    with netCDF4.Dataset(path, mode) as file, pytest.raises(UncacheableError, match="open for writing"):
        look(file["a"])
    with netCDF4.Dataset(path) as file:
        look(file["a"])


def test_another_file_may_be_open_for_writing(netcdf: Path, tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "b.nc", "w"), netCDF4.Dataset(netcdf) as file:
        look(file["a"])


def test_a_handle_that_xarray_was_given(netcdf: Path) -> None:
    for mode in ("a", "r"):
        with netCDF4.Dataset(netcdf, mode) as file:
            array = xr.open_dataset(xr.backends.NetCDF4DataStore(file), chunks={}).a
            tokens = daskcache.tokens.GraphTokens(array.data.__dask_graph__(), Fingerprinter())
            [key] = array.data.__dask_keys__()
            assert (tokens.token(key) is None) == (mode == "a")
            assert mode == "r" or "open for writing" in str(tokens.reason(key))


def test_a_handle_of_h5netcdf_that_xarray_was_given(netcdf: Path) -> None:
    h5netcdf = pytest.importorskip("h5netcdf")
    for mode in ("a", "r"):
        with h5netcdf.File(netcdf, mode) as file:
            store = xr.backends.H5NetCDFStore(file)
            array = store.load()[0]["a"]._data
            if mode == "r":
                look(array)
            else:
                with pytest.raises(UncacheableError, match="open for writing"):
                    look(array)


def test_a_store_of_xarrays_that_may_be_written(netcdf: Path) -> None:
    for mode in ("a", "r"):
        store = xr.backends.NetCDF4DataStore.open(str(netcdf), mode=mode)
        array = store.load()[0]["a"]._data
        if mode == "r":
            look(array)
        else:
            with pytest.raises(UncacheableError, match="open for writing"):
                look(array)
        store.close()


@pytest.mark.filterwarnings("ignore:2 blocks cannot be keyed:daskcache.DaskcacheWarning")
@pytest.mark.parametrize("library", ["h5py", "netCDF4"])
def test_what_was_written_between_two_computations_is_seen(library: str, hdf5: Path, netcdf: Path) -> None:
    def double(block: Any) -> Any:
        return block * 2

    file = h5py.File(hdf5, "r+") if library == "h5py" else netCDF4.Dataset(netcdf, "a")
    variable = file["a"]
    made = da.from_array(variable, chunks=3).map_blocks(double, dtype="f8")
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        before = np.asarray(made.compute())
        variable[:] = np.arange(6.0) + 100
        after = np.asarray(made.compute())
    file.close()
    assert before.tolist() == [0, 2, 4, 6, 8, 10]
    assert after.tolist() == [200, 202, 204, 206, 208, 210]


@pytest.mark.parametrize("lacking", ["fcntl", "/dev/fd"])
def test_where_it_cannot_be_told_there_is_no_token(
    lacking: str, netcdf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> list[str]:
        raise FileNotFoundError(path)

    if lacking == "fcntl":
        monkeypatch.setattr("daskcache.fingerprint.sources_files.fcntl", None)
    else:
        monkeypatch.setattr("daskcache.fingerprint.sources_files.os.listdir", refuse)
    with netCDF4.Dataset(netcdf) as file, pytest.raises(UncacheableError, match="does not tell whether"):
        look(file["a"])
    with xr.open_dataset(netcdf, engine="netcdf4", chunks={}) as ds:
        assert daskcache.token(ds) == daskcache.token(ds)

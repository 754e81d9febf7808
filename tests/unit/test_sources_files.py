"""Sources in files: NetCDF through each of xarray's engines, HDF5, memory maps, and what is refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from daskcache.errors import UncacheableError
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.sources import find_source
from tests.sources import ENCODING, digests_of, literal_of, make_dataset, rewrite, source_of

# Reading less than a chunk of a file is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate")

ENGINES = ("netcdf4", "h5netcdf", "scipy")
LAZY = ("t", "packed", "flag", "when")


def write(path: Path, engine: str = "netcdf4", start: int = 0, stop: int = 6, **options: Any) -> None:
    make_dataset(start, stop).to_netcdf(path, engine=engine, encoding=ENCODING, **options)


def open_lazily(path: Any, engine: str = "netcdf4", **options: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine=engine, chunks={"time": 2}, **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variable", LAZY)
def test_regions_of_a_file_are_the_file_the_variable_and_the_positions(
    tmp_path: Path, engine: str, variable: str
) -> None:
    write(tmp_path / "a.nc", engine)
    with open_lazily(tmp_path / "a.nc", engine) as dataset:
        data = dataset[variable]
        before = digests_of(data)
        assert len(set(before)) == 3
        assert digests_of(data) == before
        assert list(source_of(data).stamps(())) == [str(tmp_path / "a.nc")]
        assert source_of(data).describe() == f"{tmp_path}/a.nc/{variable}"
        rewrite(tmp_path / "a.nc")
        assert not set(digests_of(data)) & set(before)


def test_variables_groups_and_engines_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.nc")
    write(tmp_path / "a.nc", group="deep/down", mode="a")
    seen = set()
    for engine in ("netcdf4", "h5netcdf"):
        for group in (None, "deep/down"):
            with open_lazily(tmp_path / "a.nc", engine, group=group) as dataset:
                for variable in LAZY:
                    seen.add(digests_of(dataset[variable])[0])
    assert len(seen) == 2 * 2 * len(LAZY)


def test_character_variables_are_read_whole_along_their_characters(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", "scipy")
    with open_lazily(tmp_path / "a.nc", "scipy") as dataset:
        assert [step.name for step in source_of(dataset.name).trace.steps] == [
            "StackedBytesArray",
            "function",
        ]
        assert len(set(digests_of(dataset.name))) == 3


def test_decoding_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.nc")
    with open_lazily(tmp_path / "a.nc") as plain, open_lazily(tmp_path / "a.nc", mask_and_scale=False) as raw:
        assert not set(digests_of(plain.packed)) & set(digests_of(raw.packed))
        assert digests_of(plain.t) == digests_of(raw.t)


@pytest.mark.parametrize("preprocess", [None, lambda dataset: dataset.isel(x=slice(1, 3))])
def test_one_more_file_leaves_the_others_alone(tmp_path: Path, preprocess: Any) -> None:
    def digests() -> set[bytes]:
        options: dict[str, Any] = {
            "data_vars": "all",
            "compat": "no_conflicts",
            "join": "outer",
            "coords": "different",
        }
        paths = sorted(tmp_path.glob("*.nc"))
        fingerprinter = Fingerprinter()
        with xr.open_mfdataset(
            paths, preprocess=preprocess, combine="nested", concat_dim="time", **options
        ) as dataset:
            graph = dict(dataset.packed.data.__dask_graph__())
            literals = [
                getattr(value, "value", value) for key, value in graph.items() if "original-" in str(key)
            ]
            sources = [find_source(literal, fingerprinter) for literal in literals]
            return {source.region(()) for source in sources if source is not None}

    for number in range(2):
        write(tmp_path / f"{number}.nc", start=3 * number, stop=3 * number + 3)
    before = digests()
    assert len(before) == 2
    write(tmp_path / "2.nc", start=6, stop=9)
    after = digests()
    assert len(after) == 3
    assert before < after


class TestModes:
    """How closely files are looked at."""

    def test_content_is_read_once_a_pass_and_survives_a_copy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "a.nc")
        (tmp_path / "b.nc").write_bytes((tmp_path / "a.nc").read_bytes())
        from daskcache.fingerprint import places

        reads: list[str] = []
        hash_bytes = places.hash_bytes
        monkeypatch.setattr(places, "hash_bytes", lambda pieces: reads.append("read") or hash_bytes(pieces))
        digests = []
        for name in ("a.nc", "b.nc"):
            fingerprinter = Fingerprinter(source_check="content")
            with open_lazily(tmp_path / name) as dataset:
                digests.append([digests_of(dataset[variable], fingerprinter) for variable in LAZY])
        assert digests[0] == digests[1]
        assert len(reads) == 2

    @pytest.mark.parametrize("check", ["metadata", "none"])
    def test_metadata_and_none_stay_when_the_file_changes(self, tmp_path: Path, check: str) -> None:
        write(tmp_path / "a.nc")
        with open_lazily(tmp_path / "a.nc") as dataset:
            before = digests_of(dataset.t, Fingerprinter(source_check=check))
            rewrite(tmp_path / "a.nc")
            assert digests_of(dataset.t, Fingerprinter(source_check=check)) == before
            assert digests_of(dataset.packed, Fingerprinter(source_check=check))[0] != before[0]


class TestWithoutXarray:
    """Arrays of h5py, netCDF4 and numpy's memory maps."""

    def test_h5py(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["g/a"] = np.arange(6)
            file["g/b"] = np.arange(6)
        with h5py.File(tmp_path / "a.h5") as file:
            data = da.from_array(file["g/a"], chunks=2)
            assert len(set(digests_of(data)) | set(digests_of(da.from_array(file["g/b"], chunks=2)))) == 6
            assert source_of(data).describe() == f"{tmp_path}/a.h5/g/a"

    def test_h5py_in_other_files_is_refused(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "a.h5", "w") as file:
            layout = h5py.VirtualLayout(shape=(6,), dtype="i8")
            layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "a", shape=(6,))
            file.create_virtual_dataset("a", layout)
            with pytest.raises(UncacheableError, match="other files"):
                source_of(file["a"])

    def test_netcdf4(self, tmp_path: Path) -> None:
        import netCDF4

        write(tmp_path / "a.nc")
        with netCDF4.Dataset(tmp_path / "a.nc") as file:
            variable = file["packed"]
            scaled = source_of(variable).region(())
            variable.set_auto_maskandscale(False)
            assert source_of(variable).region(()) != scaled

    def test_a_memory_map_is_its_place_in_the_file(self, tmp_path: Path) -> None:
        np.arange(24, dtype="i8").tofile(tmp_path / "a.bin")
        whole = np.memmap(tmp_path / "a.bin", dtype="i8", mode="r", shape=(4, 6))
        rows = [source_of(row).region(()) for row in (whole[0], whole[1])]
        assert rows[0] != rows[1]
        tail = np.memmap(tmp_path / "a.bin", dtype="i8", mode="r", offset=48, shape=(6,))
        assert source_of(tail).region(()) == rows[1]
        assert source_of(whole.T).region(()) != source_of(whole).region(())
        with_order = np.memmap(tmp_path / "a.bin", dtype="i8", mode="r", shape=(4, 6), order="F")
        assert source_of(with_order).region(()) != source_of(whole).region(())

    def test_a_memory_map_that_may_be_written_is_an_array_in_memory(self, tmp_path: Path) -> None:
        np.arange(6, dtype="i8").tofile(tmp_path / "a.bin")
        for mode in ("r+", "c"):
            assert find_source(np.memmap(tmp_path / "a.bin", dtype="i8", mode=mode), Fingerprinter()) is None
        read = np.memmap(tmp_path / "a.bin", dtype="i8", mode="r")
        assert find_source(read + 1, Fingerprinter()) is None
        assert find_source(read.copy(), Fingerprinter()) is None


class TestRefused:
    """What cannot be told apart from something else."""

    def test_data_in_memory(self, tmp_path: Path) -> None:
        write(tmp_path / "a.nc", "h5netcdf")
        data = (tmp_path / "a.nc").read_bytes()
        with (
            xr.open_dataset(io.BytesIO(data), engine="h5netcdf", chunks={}) as dataset,
            pytest.raises(UncacheableError, match="without a path"),
        ):
            source_of(dataset.t)
        with (
            xr.open_dataset(data, engine="netcdf4") as dataset,
            pytest.raises(UncacheableError, match="in memory"),
        ):
            source_of(dataset.t.variable._data)

    def test_an_open_file_is_known_by_its_path_until_it_is_replaced(self, tmp_path: Path) -> None:
        write(tmp_path / "a.nc", "h5netcdf")
        with (
            (tmp_path / "a.nc").open("rb") as file,
            xr.open_dataset(file, engine="h5netcdf", chunks={}) as dataset,
        ):
            assert list(source_of(dataset.t).stamps(())) == [str(tmp_path / "a.nc")]
            rewrite(tmp_path / "a.nc")
            with pytest.raises(UncacheableError, match="before it was replaced"):
                source_of(dataset.t)

    def test_a_file_that_has_gone(self, tmp_path: Path) -> None:
        write(tmp_path / "a.nc")
        with open_lazily(tmp_path / "a.nc") as dataset:
            literal = pickle.loads(pickle.dumps(literal_of(dataset.t)))
            (tmp_path / "a.nc").unlink()
            with pytest.raises(UncacheableError, match="no file on this machine"):
                source_of(literal)


@pytest.mark.filterwarnings("ignore:Use `@` matmul")
def test_geotiff(tmp_path: Path) -> None:
    rasterio, rioxarray = pytest.importorskip("rasterio"), pytest.importorskip("rioxarray")
    profile = {"driver": "GTiff", "height": 4, "width": 6, "count": 2, "dtype": "int16", "nodata": -1}
    transform = rasterio.transform.from_origin(10, 50, 0.5, 0.5)
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as file:
        file.write(np.arange(48, dtype="i2").reshape(2, 4, 6))
    plain = rioxarray.open_rasterio(tmp_path / "a.tif", chunks={"band": 1})
    masked = rioxarray.open_rasterio(tmp_path / "a.tif", chunks={"band": 1}, masked=True)
    before = digests_of(plain)
    assert len({*before, *digests_of(masked)}) == 4
    bands = rioxarray.open_rasterio(tmp_path / "a.tif", chunks={}, band_as_variable=True)
    assert digests_of(bands.band_1) != digests_of(bands.band_2)
    rewrite(tmp_path / "a.tif")
    assert not set(before) & set(digests_of(plain))

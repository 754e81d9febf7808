"""A source that changes between its fingerprint and its read, or under the read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.array.core import getter

from daskcache.errors import SourceChangedError
from daskcache.fingerprint.guard import GuardedSource
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.sources import find_source
from tests.sources import ENCODING, literal_of, make_dataset, rewrite, source_of


def guard(array: Any, index: Any = ()) -> GuardedSource:
    literal = literal_of(array)
    return GuardedSource(literal, source_of(literal).stamps(index))


@pytest.fixture
def stored(tmp_path: Path) -> zarr.Array[Any]:
    array = zarr.create_array(tmp_path / "a", shape=(6, 4), chunks=(2, 4), dtype="f4")
    array[:] = np.arange(24).reshape(6, 4)
    return array


class _RewrittenWhileRead(zarr.Array):  # type: ignore[type-arg]
    """An array of which a chunk is replaced each time that it has been read."""

    def __getitem__(self, index: Any) -> Any:
        block = super().__getitem__(index)
        rewrite(Path(str(self.store.root)) / "c/0/0")  # type: ignore[attr-defined]
        return block


def test_reads_as_its_array_does(stored: zarr.Array[Any]) -> None:
    guarded = guard(stored)
    assert (guarded.shape, guarded.dtype, guarded.ndim, len(guarded)) == ((6, 4), np.dtype("f4"), 2, 6)
    for index in [(slice(1, 3),), (0, slice(None)), (Ellipsis, 1), ()]:
        np.testing.assert_array_equal(guarded[index], stored[index])
    np.testing.assert_array_equal(np.asarray(guarded), stored[:])
    np.testing.assert_array_equal(da.from_array(guarded, chunks=2).compute(), stored[:])


def test_has_the_identity_of_its_array_and_pickles(stored: zarr.Array[Any]) -> None:
    guarded = guard(stored)
    again = pickle.loads(pickle.dumps(guarded))
    for index in [(slice(1, 3),), ()]:
        assert source_of(guarded).region(index) == source_of(stored).region(index)
        assert source_of(again).region(index) == source_of(stored).region(index)
    assert again.expected == guarded.expected
    np.testing.assert_array_equal(again[1:3], stored[1:3])


def test_a_change_before_the_read_raises_for_what_it_touches(stored: zarr.Array[Any], tmp_path: Path) -> None:
    guarded = guard(stored)
    rewrite(tmp_path / "a/c/1/0")
    np.testing.assert_array_equal(guarded[0:2], stored[0:2])
    with pytest.raises(SourceChangedError, match=r"a/c/1/0, read through Array, .* nothing .* is stored"):
        guarded[2:4]


def test_a_change_during_the_read_raises(stored: zarr.Array[Any]) -> None:
    changing = _RewrittenWhileRead(stored.async_array)
    guarded = GuardedSource(changing, source_of(stored).stamps(()))
    with pytest.raises(SourceChangedError, match="c/0/0"):
        guarded[0:2]


def test_chunks_that_come_and_go_are_changes(stored: zarr.Array[Any], tmp_path: Path) -> None:
    (tmp_path / "a/c/1/0").unlink()
    guarded = guard(stored)
    stored[2:4] = 1
    with pytest.raises(SourceChangedError, match="missing, now"):
        guarded[2:4]
    (tmp_path / "a/c/0/0").unlink()
    with pytest.raises(SourceChangedError, match="now missing"):
        guarded[0:2]


def test_only_what_the_pass_looked_at_is_compared(stored: zarr.Array[Any], tmp_path: Path) -> None:
    guarded = guard(stored, (slice(0, 2),))
    rewrite(tmp_path / "a/c/2/0")
    np.testing.assert_array_equal(guarded[4:6], stored[4:6])


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "scipy"])
class TestFiles:
    """Files are kept open by xarray, and an open handle shows the file as it was."""

    def write(self, path: Path, engine: str, offset: float) -> None:
        temporary = path.with_suffix(".tmp")
        dataset = make_dataset()[["t", "packed"]]
        dataset.assign(t=dataset.t + offset).to_netcdf(
            temporary, engine=engine, encoding={"packed": ENCODING["packed"]}
        )
        temporary.replace(path)

    def test_a_replaced_file_is_a_change(self, tmp_path: Path, engine: str) -> None:
        self.write(tmp_path / "a.nc", engine, 0)
        with xr.open_dataset(tmp_path / "a.nc", engine=engine, chunks={}) as dataset:
            guarded = guard(dataset.t)
            assert guarded[0, 0] == 0
            self.write(tmp_path / "a.nc", engine, 100)
            with pytest.raises(SourceChangedError, match=r"a\.nc"):
                guarded[0, 0]

    def test_a_new_pass_reads_the_new_file_not_the_open_one(self, tmp_path: Path, engine: str) -> None:
        self.write(tmp_path / "a.nc", engine, 0)
        with xr.open_dataset(tmp_path / "a.nc", engine=engine, chunks={}) as dataset:
            assert dataset.t.values[0, 0] == 0
            for offset in (100, 200):
                self.write(tmp_path / "a.nc", engine, offset)
                guarded = guard(dataset.t)
                assert guarded[0, 0] == offset
                assert guarded[0, 1] == offset + 1

    def test_a_file_that_has_gone_is_a_change(self, tmp_path: Path, engine: str) -> None:
        self.write(tmp_path / "a.nc", engine, 0)
        with xr.open_dataset(tmp_path / "a.nc", engine=engine, chunks={}) as dataset:
            guarded = guard(dataset.packed)
            (tmp_path / "a.nc").unlink()
            with pytest.raises(SourceChangedError, match="cannot look at the source again"):
                guarded[0, 0]


def test_stands_in_a_graph_of_xarray(tmp_path: Path) -> None:
    make_dataset().to_zarr(tmp_path / "z", encoding=ENCODING, zarr_format=2, consolidated=True)
    dataset = xr.open_zarr(tmp_path / "z")
    literal = literal_of(dataset.packed)
    guarded = guard(literal)
    assert find_source(guarded, Fingerprinter()) is not None
    index = (slice(1, 4), slice(0, 2))
    np.testing.assert_array_equal(getter(guarded, index), getter(literal, index))
    np.testing.assert_array_equal(guarded[index], dataset.packed.values[index])

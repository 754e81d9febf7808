"""Arrays read through levels and limits: known by the objects whose word counts, or not at all."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

import daskcache
from daskcache import stores
from daskcache.errors import UncacheableError
from daskcache.stores import Fanout, Level, Levels, Limit
from tests import producers
from tests.producers import count, double
from tests.sources import digests_of, make_dataset, source_of

CHUNKS = "(^|/)c/"


@pytest.fixture
def home(tmp_path: Path) -> Store:
    make_dataset(strings=False)[["t"]].to_zarr(
        tmp_path / "home", consolidated=False, encoding={"t": {"chunks": (2, 4)}}
    )
    return stores.open(tmp_path / "home")


def open_zarr(store: Store) -> xr.Dataset:
    return xr.open_zarr(store, consolidated=False, chunks={"time": 2})


def test_a_chain_is_known_by_its_home_also_when_copies_lie_in_front(tmp_path: Path, home: Store) -> None:
    fast = stores.open(tmp_path / "fast")
    chain = Levels(Level(fast, write=False), home, fixed=CHUNKS)
    plain = digests_of(open_zarr(home).t)
    assert digests_of(open_zarr(chain).t) == plain
    open_zarr(chain).t.load()
    assert len(stores.list_dirs(fast, "t/c")) == 3
    assert digests_of(open_zarr(chain).t) == plain
    assert digests_of(open_zarr(Limit(chain, max_object="1 MB")).t) == plain
    assert digests_of(open_zarr(Levels(home)).t) == plain


def test_a_fan_out_is_known_by_the_objects_of_its_parts(tmp_path: Path, home: Store) -> None:
    plain = digests_of(open_zarr(home).t)
    other = stores.open(tmp_path / "other")
    fanout = Fanout(home, other, fixed=CHUNKS)
    stores.put(
        fanout, "zarr.json", stores.get(home, "zarr.json") or b""
    )  # which makes the first one the home
    assert digests_of(open_zarr(fanout).t) == plain
    array = zarr.open_array(fanout, path="t")
    array[2:4] = array[2:4]
    written = digests_of(open_zarr(fanout).t)
    assert [one == other for one, other in zip(plain, written, strict=True)] == [True, False, True]
    assert digests_of(open_zarr(Fanout(other, home, fixed=CHUNKS)).t) == written


def test_what_the_home_lacks_is_known_by_who_has_it(tmp_path: Path, home: Store) -> None:
    mirror = stores.open(tmp_path / "mirror")
    for key in stores.drive.walk(home, ""):
        stores.put(mirror, key, stores.get(home, key))
    stores.delete(home, "t/c/1/0")
    chain = Levels(MemoryStore(), home, mirror.with_read_only(True), fixed=CHUNKS)
    found = digests_of(open_zarr(chain).t)
    alone, other = digests_of(open_zarr(home).t), digests_of(open_zarr(mirror).t)
    assert found == [alone[0], other[1], alone[2]]


def test_an_object_that_is_written_again_is_another_source(tmp_path: Path, home: Store) -> None:
    chain = Levels(MemoryStore(), home, fixed=CHUNKS)
    before = digests_of(open_zarr(chain).t)
    zarr.open_array(home, path="t")[2:4] = 7
    after = digests_of(open_zarr(chain).t)
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize("kind", ["nothing is fixed", "other keys are", "fan-out"])
def test_what_may_be_an_old_copy_is_not_known(home: Store, kind: str) -> None:
    chain = {
        "nothing is fixed": lambda: Levels(MemoryStore(), home),
        "other keys are": lambda: Levels(
            MemoryStore(), home, home.with_read_only(True), fixed="(^|/)zarr.json"
        ),
        "fan-out": lambda: Fanout(home, MemoryStore()),
    }[kind]()
    with pytest.raises(UncacheableError, match="does not know whose t/c/0/0 it reads"):
        source_of(open_zarr(chain).t).region((slice(0, 2),))


def test_a_pipeline_over_levels_is_stored_and_found_by_who_reads_the_home(
    tmp_path: Path, home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv(producers.CALLS, str(tmp_path / "calls"))
    chain = Levels(Limit(stores.open(tmp_path / "fast"), max_size="1 MB"), home, fixed=CHUNKS)

    def compute(store: Store) -> np.ndarray:
        data = open_zarr(store).t
        return data.copy(data=data.data.map_blocks(double, dtype="f4", meta=np.empty((0, 0), "f4"))).values

    expected = make_dataset(strings=False).t.values * 2
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        for store, calls in ((chain, 3), (chain, 0), (home, 0)):
            assert (compute(store) == expected).all()
            assert count() == calls

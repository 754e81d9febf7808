"""What persist says, refuses, counts and gives back."""

import re
import time
import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.errors import (
    EntryNotFoundError,
    InvalidInputError,
    ReadOnlyError,
    StoreFullError,
    UncacheableError,
)
from tests import producers
from tests.producers import count, doubled, objects, produced

EXPECTED = np.arange(12) * 2

BAD_NAMES = [
    "", "/", "/x", "x/", "a//b", ".", "..", "../x", "x/..", "a/../b", "a/./b", "a\\b", "C:\\x", "a\0b", "%2e%2e",
    "a%2fb", "a b", "a@b", "@", "~", "con", "NUL", "a/aux", "com1.txt", "x.", "x ", "é", "a\nb", "a" * 201,
    "a#b", "a?b", "*", "x.partial/..",
]  # fmt: skip


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def dataset():
    x = doubled()
    return xr.Dataset({"t": ("x", x), "u": ("x", x + 1)}, {"x": np.arange(12)}, {"title": "a"})


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_before_anything_is_touched(store_root, name):
    with daskcache.activate():
        for attempt in (
            lambda: daskcache.persist(doubled(), name),
            lambda: daskcache.checkpoint(doubled(), name),
            lambda: daskcache.open(name),
            lambda: dataset().cache.persist(name),
        ):
            with pytest.raises(InvalidInputError):
                attempt()
    assert not store_root.exists()
    assert count() == 0


@pytest.mark.parametrize("namespace", ["..", "a/b", "/a", "a\0", "con", "%2e", "a b", "@"])
def test_bad_namespaces_are_refused_too(store_root, namespace):
    with pytest.raises(InvalidInputError):
        daskcache.persist(doubled(), "x", namespace=namespace)
    with pytest.raises(InvalidInputError):
        daskcache.open("x", namespace=namespace)
    assert not store_root.exists()
    assert count() == 0


@pytest.mark.parametrize("mode", ["off", "read"])
def test_modes_that_do_not_write(store_root, mode):
    daskcache.persist(doubled(3), "kept")
    count()
    before = objects(store_root)
    with dask.config.set({"daskcache.mode": mode}):
        with pytest.raises(
            ReadOnlyError, match=f"persist has to store, and daskcache.mode is '{mode}'; set it to"
        ):
            daskcache.persist(doubled(), "x")
        with daskcache.activate():
            assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
    assert count() == (3 if mode == "read" else 4)
    assert objects(store_root) == before
    with pytest.raises(EntryNotFoundError):
        daskcache.open("x")


def test_size_and_path_come_first(store_root, capsys, caplog):
    with dask.config.set({"daskcache.progress": True}), caplog.at_level("INFO", "daskcache"):
        daskcache.persist(doubled(), "x", namespace="n")
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"daskcache: storing 4 of 4 blocks, at most 96 B, as n/x in {store_root}"
    assert first in caplog.messages
    with dask.config.set({"daskcache.progress": False}):
        daskcache.persist(doubled() + 1, "x")
        assert capsys.readouterr().err == ""


def test_what_cannot_fit_is_refused_before_it_computes(store_root, monkeypatch):
    monkeypatch.setattr(stores, "free_bytes", lambda store: 95)
    message = rf"^default/x needs at most 96 B, and {re.escape(str(store_root))} has 95 B left: nothing was computed; make room"
    with pytest.raises(StoreFullError, match=message):
        daskcache.persist(doubled(), "x")
    assert count() == 0
    assert not objects(store_root)
    with dask.config.set({"daskcache.check-space": False}):
        daskcache.persist(doubled(), "x")
    assert count() == 4
    # Nothing is needed, so nothing is refused.
    monkeypatch.setattr(stores, "free_bytes", lambda store: 0)
    daskcache.persist(doubled(), "x")
    assert count() == 0


def test_persist_again_computes_and_stores_nothing(store_root):
    first = daskcache.persist(dataset(), "x")
    assert count() == 4 or count() == 0
    one = daskcache.last_run()
    assert (one.blocks, one.computed, one.reused, one.stored, one.loaded, one.conflicts) == (8, 8, 0, 8, 0, 0)
    assert one.stored_bytes == sum(path.stat().st_size for path in objects(store_root))
    before = {path: path.stat().st_mtime_ns for path in objects(store_root)}
    second = daskcache.persist(dataset(), "x")
    two = daskcache.last_run()
    assert (two.blocks, two.computed, two.reused, two.stored, two.loaded) == (8, 0, 8, 0, 0)
    assert two.version == one.version
    assert two.total_bytes == one.total_bytes
    assert count() == 0
    assert {path: path.stat().st_mtime_ns for path in objects(store_root)} == before
    xr.testing.assert_identical(first.compute(), second.compute())
    assert (one.entry, one.namespace, one.store) == ("x", "default", str(store_root))


def test_no_name_is_the_version(store_root):
    kept = daskcache.persist(doubled())
    did = daskcache.last_run()
    assert did.entry == did.version
    assert len(did.version) == 40
    assert (daskcache.open(did.version).compute() == kept.compute()).all()


def test_two_names_share_blocks(store_root):
    daskcache.persist(doubled(), "a")
    found = objects(store_root)
    count()
    daskcache.persist(doubled(), "b", namespace="other")
    assert count() == 0
    assert objects(store_root) == found
    assert (daskcache.open("b", namespace="other").compute() == EXPECTED).all()
    with pytest.raises(EntryNotFoundError):
        daskcache.open("b")


@pytest.mark.parametrize("active", [False, True])
def test_persist_of_what_was_persisted(store_root, active):
    kept = daskcache.persist(dataset(), "a")
    found = objects(store_root)
    count()
    if active:
        with daskcache.activate():
            again = daskcache.persist(kept, "b")
    else:
        again = daskcache.persist(kept, "b")
    assert daskcache.last_run().computed == 0
    assert objects(store_root) == found
    assert again.cache.token == kept.cache.token == dataset().cache.token
    xr.testing.assert_identical(again.compute(), dataset().compute())


def test_a_scalar_persisted_twice(store_root):
    total = doubled().sum()
    kept = daskcache.persist(total, "total")
    assert type(kept.compute()) is type(total.compute())
    found = objects(store_root)
    daskcache.persist(kept, "again")
    assert objects(store_root) == found
    assert daskcache.token(kept) == daskcache.token(total)


@pytest.mark.parametrize("active", [False, True])
def test_a_function_that_is_not_deterministic(store_root, active, monkeypatch):
    x = produced(producers.random)
    kept = daskcache.persist(x, "x").compute()
    # Another run, which began before the first had stored anything.
    monkeypatch.setattr("daskcache.listing.Listing.find_as_known", lambda self, block, known: None)
    monkeypatch.setattr("daskcache.catalog.Catalog.token_index", lambda self: {})
    monkeypatch.setattr("daskcache.sharing.look_up", lambda block: None)
    if active:
        with (
            daskcache.activate(),
            pytest.warns(
                daskcache.DaskcacheWarning,
                match="gave other bytes than those stored .* it is not deterministic; seed",
            ),
        ):
            marked = daskcache.checkpoint(x, None).compute()
        assert (marked == kept).all(), "all use what was stored first"
    else:
        again = daskcache.persist(x, "y")
        did = daskcache.last_run()
        assert (did.conflicts, did.stored) == (4, 0)
        assert (again.compute() == kept).all()


def test_inside_the_pass(store_root):
    with daskcache.activate():
        clim = daskcache.persist(doubled(), "clim")
        count()
        anom = daskcache.persist(doubled() - clim.mean(), "anom")
        assert count() == 0
        assert daskcache.last_run().loaded >= 4
    assert (anom.compute() == EXPECTED - EXPECTED.mean()).all()


def test_a_tree(store_root):
    tree = xr.DataTree.from_dict({"/": dataset(), "/a/b": xr.Dataset({"v": ("y", doubled(6))})})
    kept = tree.cache.persist("tree")
    count()
    xr.testing.assert_identical(kept.compute(), tree.compute())
    count()
    xr.testing.assert_identical(daskcache.open("tree").compute(), kept.compute())
    assert count() == 0
    tree.cache.persist("tree")
    assert daskcache.last_run().computed == 0


def test_what_cannot_be_keyed_or_stored_computes_nothing(store_root):
    x = da.arange(12, chunks=3).map_blocks(lambda block: block + time.time(), dtype="f8", meta=np.empty(0))
    with pytest.raises(UncacheableError, match="variable"):
        daskcache.persist(x + doubled(), "x")
    with pytest.raises(UncacheableError):
        daskcache.persist(doubled().astype(object), "x")
    assert count() == 0
    assert not store_root.exists() or not objects(store_root)


def test_a_block_that_is_not_what_was_declared(store_root):
    x = da.arange(6, chunks=3).map_blocks(lambda block: block.astype("f4"), dtype="f8", meta=np.empty(0))
    with pytest.raises(
        UncacheableError,
        match=r"returned float32 \(3,\) where float64 \(3,\) was declared: it was not stored",
    ):
        daskcache.persist(x, "x")
    assert not objects(store_root)
    with (
        daskcache.activate(),
        pytest.warns(daskcache.DaskcacheWarning, match="where float64 .* was declared"),
    ):
        assert (daskcache.checkpoint(x, "x").compute() == np.arange(6)).all()
    assert not objects(store_root)
    with pytest.raises(EntryNotFoundError):
        daskcache.open("x")


def test_rechunked_first(store_root):
    kept = daskcache.persist(doubled(), "x", chunks=6)
    assert kept.chunks == ((6, 6),)
    assert dataset().cache.persist("y", chunks={"x": 4}).chunksizes == {"x": (4, 4, 4)}


def test_the_same_name_again_keeps_versions(store_root):
    for number in range(5):
        daskcache.persist(doubled() + number, "x")
    assert (daskcache.open("x").compute() == EXPECTED + 4).all()
    assert len(list(Path(store_root, "namespaces/default/x/@").glob("*.idx"))) == 3


def test_no_warnings(store_root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset().cache.persist("quiet").compute()

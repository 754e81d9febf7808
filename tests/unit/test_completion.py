"""When a checkpoint is published: as soon as one run has all of it, and not before."""

import dask
import dask.array as da
import numpy as np
import pytest

import daskcache
from daskcache.errors import DaskcacheWarning, EntryNotFoundError
from tests.producers import objects


def array():
    return da.arange(12, chunks=3) * 2


def test_a_part_is_stored_and_not_published(store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(array(), "x")
        assert (x[:4].compute() == [0, 2, 4, 6]).all()
        assert len(objects(store_root)) == 2
        with pytest.raises(EntryNotFoundError, match="no version of entry 'x'"):
            daskcache.open("x")
        assert (x.compute() == np.arange(12) * 2).all()
        assert (daskcache.open("x").compute() == np.arange(12) * 2).all()


def test_another_name_for_what_is_stored(store_root):
    with daskcache.activate():
        daskcache.checkpoint(array(), "x").compute()
        daskcache.checkpoint(array(), "y").compute()
    assert (daskcache.open("y").compute() == np.arange(12) * 2).all()
    assert len(objects(store_root)) == 4


def test_each_kind_of_run_publishes(store_root):
    with daskcache.activate():
        dask.persist(daskcache.checkpoint(array() + 1, "persisted"))
        (planned,) = dask.optimize(daskcache.checkpoint(array() + 2, "optimised"))
        with pytest.raises(EntryNotFoundError):
            daskcache.open("optimised")
        planned.compute(optimize_graph=False)
        dask.compute(daskcache.checkpoint(array() + 3, "one"), daskcache.checkpoint(array() + 4, "two"))
    for name, number in (("persisted", 1), ("optimised", 2), ("one", 3), ("two", 4)):
        assert (daskcache.open(name).compute() == np.arange(12) * 2 + number).all(), name


def test_what_cannot_be_published_is_said_and_the_result_is_right(store_root, monkeypatch):
    def fail(self, entry, manifest, run=None):
        raise daskcache.StoreError("no room for documents")

    monkeypatch.setattr("daskcache.catalog.Catalog.publish", fail)
    with (
        daskcache.activate(),
        pytest.warns(
            DaskcacheWarning, match="the result is right, but was not published: no room for documents"
        ),
    ):
        assert (daskcache.checkpoint(array(), "x").compute() == np.arange(12) * 2).all()

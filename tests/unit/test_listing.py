"""Looking blocks up: what manifests name is counted on where a few of it are there, and never twice in vain."""

import pickle

import dask
import numpy as np
import pytest

import daskcache
from daskcache import listing, recovery, stores
from daskcache.dask_internals import DataNode
from daskcache.errors import DaskcacheWarning, NotStoredError
from daskcache.listing import SAMPLE
from daskcache.recovery import RecoverableBlock
from tests.producers import count, double, objects, produced
from tests.troubles import calls_fixture  # noqa: F401

BLOCKS = 3 * SAMPLE


@pytest.fixture
def far(monkeypatch):
    """Take stores for ones that are far away, and give what is asked of them: names of what is listed and looked at."""
    asked = {"listed": [], "looked": []}
    find_objects, size = stores.find_objects, stores.size

    def find(store, wanted):
        asked["listed"] += wanted
        return find_objects(store, wanted)

    def look(store, key):
        asked["looked"].append(key)
        return size(store, key)

    monkeypatch.setattr(listing, "LocalStore", type(None))
    monkeypatch.setattr(stores, "find_objects", find)
    monkeypatch.setattr(stores, "size", look)
    return asked


def marked():
    return daskcache.checkpoint(produced(double, n=3 * BLOCKS), "x")


EXPECTED = np.arange(3 * BLOCKS) * 2


@pytest.fixture
def stored(store_root, far):
    """Give what is looked at when all is stored."""
    with daskcache.activate(str(store_root)):
        marked().compute()
        assert count() == BLOCKS
        for names in far.values():
            names.clear()
        assert (marked().compute() == EXPECTED).all()
        assert count() == 0
        assert far["listed"] == []
        yield far["looked"]


def test_of_what_a_manifest_names_a_few_are_looked_at(stored):
    assert SAMPLE <= len(stored) == len(set(stored)) <= SAMPLE + 1


def test_where_all_has_gone_all_is_computed(stored, store_root):
    for path in objects(store_root):
        path.unlink()
    assert (marked().compute() == EXPECTED).all()
    assert count() == BLOCKS == len(objects(store_root))


def test_what_has_gone_unseen_is_computed_where_it_is_loaded(stored, store_root):
    one = next(path for path in objects(store_root) if not any(key.endswith(path.name) for key in stored))
    one.unlink()
    with pytest.warns(DaskcacheWarning, match="could not be read and was computed again") as warned:
        assert (marked().compute() == EXPECTED).all()
    assert len(warned) == 1
    assert count() == 1
    assert one.exists()


def test_what_could_not_be_computed_where_it_was_loaded_is_by_the_next_run(store_root, calls, monkeypatch):
    monkeypatch.setattr(recovery, "PACKED_TASKS", 0)
    x = produced(double)
    with daskcache.activate(str(store_root), policy="outputs"):
        x.compute()
        assert count() == 4
        loads = dict(dask.optimize(x)[0].dask).values()
        blocks = [arg.value for node in loads for arg in node.args if isinstance(arg, DataNode)]
        block = next(value for value in blocks if isinstance(value, RecoverableBlock))
        elsewhere = pickle.loads(pickle.dumps(block))
        (store_root / block.key).unlink()
        with pytest.raises(NotStoredError, match="running again computes it again"):
            elsewhere[...]
        for calls_expected in (1, 0):
            assert (x.compute() == np.arange(12) * 2).all()
            assert count() == calls_expected

"""A scheduler or workers on which the package is not installed, each a process of its own."""

import warnings
from importlib.util import find_spec

import dask
import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

import daskcache
from daskcache import errors
from daskcache.errors import DaskcacheError, DaskcacheWarning
from tests.clusters import processes
from tests.producers import objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGE = "workers without daskcache, so all is computed, and nothing is loaded or stored"


def plain(n=12):
    """A pipeline that needs nothing but dask."""
    return da.arange(n, chunks=3) * 2


def test_a_scheduler(tmp_path, store_root):
    with processes(tmp_path, 0) as bare:
        bare.stop()
        bare.start_scheduler(package=False)
        with bare.client() as client, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(
                DaskcacheError, match="has no daskcache: nothing was stored; install it there"
            ):
                daskcache.persist(plain(), "x")
            with daskcache.activate(), pytest.raises(RuntimeError) as caught:
                daskcache.checkpoint(plain(), "x").compute()
            assert "No module named 'daskcache'" in chain_of(caught.value)
            assert client.status == "running"
    assert not objects(store_root)


def forget_warnings():
    """Be a scheduler that has warned nobody."""
    errors._warned.clear()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One worker that has the package, and one that has not."""
    with processes(tmp_path_factory.mktemp("cluster"), 1) as made:
        made.start_worker(package=False)
        yield made


@pytest.fixture
def client(mixed):
    with mixed.client(2) as client:
        yield client
        assert len(client.scheduler_info()["workers"]) == 2, "no worker was lost"


def test_a_persist_is_refused(client, store_root):
    with pytest.raises(
        DaskcacheError, match="workers without daskcache; nothing was stored; install it there"
    ):
        daskcache.persist(plain(), "x")
    assert not objects(store_root)


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_a_computation_is_right(client, store_root, policy):
    """With marks and without, twice, nothing stored; each client is told once."""
    expected = np.arange(12) * 2
    client.run_on_scheduler(forget_warnings)
    with daskcache.activate(policy=policy), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            marked = daskcache.checkpoint(plain(), "x")
            assert (marked.compute() == expected).all()
            assert (marked + 1).sum().compute() == (expected + 1).sum()
            assert (plain().compute() == expected).all()
            assert (client.persist(marked + 2).compute() == expected + 2).all()
        # It comes beside the results, so once more than once would have come by now.
        told = [each.category for each in caught if MESSAGE in str(each.message)]
    assert told == [DaskcacheWarning]
    assert not objects(store_root)


def test_what_was_stored_cannot_be_read_there(client):
    with dask.config.set(scheduler="threads"):
        kept = daskcache.persist(plain(), "x")
    with (
        daskcache.activate(),
        pytest.raises(DaskcacheError, match="workers without daskcache, which the task"),
    ):
        (kept + 1).sum().compute()


def test_once_the_worker_has_gone(mixed, client, store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(plain(), "x")
        x.compute()
        assert not objects(store_root)
        (gone,) = [address for address, found in client.run(find_spec, "daskcache").items() if found is None]
        client.retire_workers([gone])
        assert (x.compute() == np.arange(12) * 2).all()
        assert len(objects(store_root)) == 4
    mixed.start_worker(package=False)
    client.wait_for_workers(2, timeout=60)
    with daskcache.activate():
        assert ((x + 1).compute() == np.arange(12) * 2 + 1).all()


def chain_of(error):
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)

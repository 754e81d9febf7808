"""Every scheduler of dask's: cold, warm in another client, under the pass, with a worker that dies."""

import pickle
import warnings

import dask
import numpy as np
import pytest
from distributed import Client

import daskcache
from daskcache.errors import DaskcacheWarning
from daskcache.optimizer import Optimizer
from tests import producers
from tests.producers import count, doubled, objects, produced

EXPECTED = np.arange(12) * 2


pytestmark = [pytest.mark.usefixtures("calls"), pytest.mark.timeout(300)]


@pytest.mark.slow
def test_cold_and_warm(run, store_root):
    kept = run(lambda: daskcache.persist(doubled(), "x").compute())
    assert (kept == EXPECTED).all()
    assert count() == 4
    assert daskcache.last_run().stored == 4
    assert len(objects(store_root)) == 4
    again = run(lambda: daskcache.persist(doubled(), "x").compute())
    assert (again == EXPECTED).all()
    assert count() == 0
    did = daskcache.last_run()
    assert (did.computed, did.loaded, did.reused, did.stored) == (0, 0, 4, 0)
    # What is built on it loads it, in whatever process.
    more = run(lambda: daskcache.persist(doubled() + 1, "y").compute())
    assert (more == EXPECTED + 1).all()
    assert count() == 0
    assert daskcache.last_run().loaded == 4


@pytest.mark.slow
def test_under_the_pass(run, store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        total = (x + 1).sum()
        result = run(total.compute)
        assert result == (EXPECTED + 1).sum()
        assert type(result) is type((doubled() + 1).sum().compute(scheduler="sync", optimize_graph=False))
        count()
        assert len(objects(store_root)) == 4
        assert run(total.compute) == (EXPECTED + 1).sum()
        assert (run(x.compute) == EXPECTED).all()
        assert count() == 0
        assert run(lambda: daskcache.open("x").sum().compute()) == EXPECTED.sum()
        # Without a mark, what is published is found.
        assert (run((doubled() * 3).compute) == EXPECTED * 3).all()
        assert count() == 0


@pytest.mark.slow
def test_a_bad_object(run, store_root):
    """In other processes the task comes along with the load."""
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        run(x.compute)
        count()
        for path in objects(store_root)[:2]:
            data = bytearray(path.read_bytes())
            data[-6] ^= 1
            path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DaskcacheWarning)  # it may be another process that warns
            assert (run((x + 1).compute) == EXPECTED + 1).all()
        assert count() == 2
        assert (run((x + 2).compute) == EXPECTED + 2).all()
        assert count() == 0


def test_a_worker_that_dies(cluster, tmp_path, store_root):
    flag = tmp_path / "died"
    x = produced(producers.kill_worker, str(flag), n=24)
    with Client(cluster):
        kept = daskcache.persist(x, "x")
        assert (kept.compute() == np.arange(24) * 2).all()
    assert flag.exists()
    assert len(objects(store_root)) == 8
    assert count() >= 8
    flag.unlink()
    with daskcache.activate(), Client(cluster):
        marked = daskcache.checkpoint(produced(producers.kill_worker, str(flag), n=30), "y")
        assert (marked.compute() == np.arange(30) * 2).all()
    # The blocks of x, which kept their tokens, were loaded; so nobody died, unless in a block that is new.
    assert 2 <= count() <= 4


def test_the_optimizer_runs_on_the_scheduler(cluster, store_root):
    with daskcache.activate(), Client(cluster) as client:
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        count()
        future = client.compute(x + 1)
        assert (future.result() == EXPECTED + 1).all()
        assert count() == 0
        kept = client.persist(x + 2)
        assert (kept.compute() == EXPECTED + 2).all()
        assert count() == 0


def test_optimizers_compare_and_travel(store_root):
    with daskcache.activate(), daskcache.activate(namespace="other") as other:
        one = dask.config.get("array_optimize")
        assert one.settings == other.settings
    with daskcache.activate(namespace="other"):
        two = dask.config.get("array_optimize")
    with daskcache.activate():
        three = dask.config.get("array_optimize")
    assert one == two
    assert hash(one) == hash(two)
    assert one != three
    with pytest.raises(AttributeError):
        one.settings = None
    back = pickle.loads(pickle.dumps(one))
    assert isinstance(back, Optimizer)
    assert back == one
    assert hash(back) == hash(one)


def test_no_secret_is_in_a_graph(store_root, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        (planned,) = dask.optimize(x + 1)
        optimizer = dask.config.get("array_optimize")
        for thing in (optimizer, dict(planned.dask), x.dask):
            data = pickle.dumps(thing)
            assert b"a-very-secret-key" not in data
            # The optimizer names each function that the user has loaded, here those of all tests.
            assert thing is optimizer or len(data) < 20_000

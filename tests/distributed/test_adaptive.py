"""A cluster that grows with its work and shrinks when there is none: the same answer, no lost block."""

import os
import time
import warnings

import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import Client, LocalCluster

import daskcache
from tests import producers
from tests.producers import count, objects, produced, slowly

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]


@pytest.fixture
def client(tmp_path, monkeypatch):
    (tmp_path / "calls").mkdir()
    # Workers inherit it.
    monkeypatch.setenv(producers.CALLS, str(tmp_path / "calls"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a busy machine
        with (
            LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                host="127.0.0.1",
                local_directory=str(tmp_path),
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2, target_duration="1s")
            yield client


def workers(client):
    return len(client.scheduler_info()["workers"])


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_grows_and_shrinks_under_a_run(client, store_root):
    assert os.environ[producers.CALLS]
    x = produced(slowly, 0.2, n=150)
    expected = np.arange(150) * 2
    daskcache.persist(x, "x", wait=False)
    run = daskcache.last_run()
    wait_until(lambda: workers(client) == 2)
    run.wait(200)
    assert count() == 50
    assert (run.computed, run.stored) == (50, 50)
    wait_until(lambda: workers(client) == 0)
    with daskcache.activate():
        y = daskcache.checkpoint(produced(slowly, 0.2, n=153), "y")
        assert y.sum().compute() == (np.arange(153) * 2).sum()
        assert count() == 1, "what was stored before all workers had gone was loaded"
    assert len(objects(store_root)) == 51
    assert (daskcache.open("x").compute(scheduler="threads") == expected).all()

"""What daskcache relies on of distributed beyond its documented interface; each test says what breaks when it moves."""

import asyncio
import warnings
from importlib.util import find_spec

import dask
import dask.array as da
import pytest

pytest.importorskip("distributed")

import distributed
from distributed import Client, LocalCluster, Scheduler
from distributed.protocol import Serialized, deserialize
from distributed.protocol import pickle as of_distributed

from daskcache import cluster


@pytest.fixture(scope="module")
def client():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a busy machine
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp://"
            ) as made,
            Client(made) as client,
        ):
            yield client


def test_schedulers_of_this_process_are_listed(client):
    """Else a scheduler cannot tell the client what it plans, warn it, or ask for workers without the package."""
    (found,) = [each for each in Scheduler._instances if each.status.name == "running"]
    assert found is client.cluster.scheduler
    assert list(found.workers) == list(client.scheduler_info()["workers"])
    assert cluster.scheduler() is None, "with a client in the same process"


def test_workers_know_the_state_of_their_tasks(client):
    """Else a task that waits for a block would go on when nobody wants it any more."""

    def look():
        worker = distributed.get_worker()
        key = distributed.worker.thread_state.key
        return worker.state.tasks[key].state, worker.status.name, cluster._is_unwanted(key, worker)

    assert client.submit(look).result() == ("executing", "running", False)

    def look_for_another():
        return cluster._is_unwanted("no such key", distributed.get_worker())

    assert client.submit(look_for_another).result()


def test_the_scheduler_asks_its_workers(client):
    """Else a worker without the package is met by a task that it cannot read."""
    scheduler = client.cluster.scheduler
    question = {
        "op": "run",
        "function": of_distributed.dumps(find_spec),
        "args": of_distributed.dumps(("dask",)),
    }
    asking = asyncio.run_coroutine_threadsafe(
        scheduler.broadcast(msg=question, on_error="ignore"), scheduler.loop.asyncio_loop
    )
    (answer,) = asking.result(30).values()
    assert answer["status"] == "OK"
    assert not cluster._is_lacking(answer)
    assert cluster._is_lacking({"status": "OK", "result": None})
    assert cluster._is_lacking({"status": "error"})
    frames = distributed.protocol.serialize(None)
    assert cluster._is_lacking({"status": "OK", "result": Serialized(*frames)})
    assert deserialize(*frames) is None


SEEN = []


def optimize(dsk, keys, **kwargs):
    """Pickled by its name, so that the scheduler in this process runs this one."""
    SEEN.append(cluster._is_in_event_loop())
    return dask.array.optimization.optimize(dsk, keys, **kwargs)


def test_graphs_are_optimized_outside_of_the_event_loop(client):
    """Else the scheduler could not ask its workers there, and would stand still while the pass reads a store."""
    SEEN.clear()
    with dask.config.set(array_optimize=optimize):
        assert da.ones(4, chunks=2).sum().compute() == 4
    assert SEEN == [False]

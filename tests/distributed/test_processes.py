"""Scheduler and workers as processes of their own, and what befalls tasks there: the same answer, no lost block."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import CancelledError

import dask
import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import Client, futures_of, wait

import daskcache
from daskcache.catalog import Catalog
from daskcache.errors import DaskcacheWarning, NotStoredError
from tests import producers
from tests.clusters import ROOT, kill, processes, wait_until_idle
from tests.producers import count, doubled, leftovers, objects, produced, slowly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECRET = "a-very-secret-key"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(directory):
    (directory / "calls").mkdir()
    settings = {producers.CALLS: str(directory / "calls"), "AWS_SECRET_ACCESS_KEY": SECRET}
    with processes(directory, 2, **settings) as made:
        yield made


@pytest.fixture
def client(cluster, directory, monkeypatch):
    monkeypatch.setenv(producers.CALLS, str(directory / "calls"))
    cluster.workers[:] = [worker for worker in cluster.workers if worker.poll() is None]
    while len(cluster.workers) < 2:
        cluster.start_worker()
    count()
    with cluster.client(2) as client:
        yield client


def expected(x):
    """What `produced` gives, as numpy has it."""
    return np.arange(x.size) * 2


def check(kept, x, root, blocks=None):
    """The answer is right, and each block is stored."""
    assert (kept.compute() == expected(x)).all()
    assert len(objects(root)) == (x.npartitions if blocks is None else blocks)
    count()
    daskcache.persist(x, "again", store=str(root))
    assert count() == 0


def test_a_persist_tells_what_it_does(client, store_root):
    x = produced(slowly, 0.02, n=36)
    kept = daskcache.persist(x, "x")
    run = daskcache.last_run()
    assert (run.computed, run.stored, run.loaded, run.shared, run.conflicts) == (12, 12, 0, 0, 0)
    assert run.stored_bytes == sum(path.stat().st_size for path in objects(store_root)) == run.total_bytes
    assert run.done
    assert run.progress == 1.0
    assert run.seconds > 0.1
    check(kept, x, store_root)


def test_a_computation_under_the_pass_tells_what_it_does(client, store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(produced(slowly, 0.02, n=144), "x")
        assert x.sum().compute() == expected(x).sum()
        first = run = daskcache.last_run().wait()
        assert (run.kind, run.wanted, run.computed, run.stored, run.loaded) == ("compute", 48, 48, 48, 0)
        assert run.stored_bytes == sum(path.stat().st_size for path in objects(store_root))
        count()
        assert (x + 1).sum().compute() == (expected(x) + 1).sum()
        assert count() == 0
        # The scheduler tells of its plan before the result is there.
        run = daskcache.last_run().wait()
        assert (run.wanted, run.computed, run.stored, run.loaded) == (0, 0, 0, 48)
    events = [event for _, event in client.get_events("daskcache") if event["run"] in (first.id, run.id)]
    assert sum(event.get("stored", 0) for event in events if event["run"] == first.id) == 48
    assert len(events) < 48, "several blocks in one event"
    assert SECRET not in repr(events)


def test_warnings_of_workers_and_schedulers_reach_the_client(client, store_root):
    x = produced(producers.as_single, n=12)
    with daskcache.activate(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (daskcache.checkpoint(x, "x").compute() == expected(x)).all()
        assert daskcache.last_run().wait().unstored == 4
        wait_until(lambda: any("where int64 (3,) was declared" in str(each.message) for each in caught))
    local = da.arange(12, chunks=3).map_blocks(
        lambda block: block + time.time(), dtype="f8", meta=np.empty(0)
    )
    with daskcache.activate(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of what ran before
        daskcache.checkpoint(local, "y").compute()
        # It comes beside the result.
        wait_until(lambda: any("blocks cannot be keyed" in str(each.message) for each in caught))
    assert {each.category for each in caught} == {DaskcacheWarning}
    assert not objects(store_root)


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_waiting(client, store_root, tmp_path):
    gate = tmp_path / "gate"
    gate.write_text("4")
    x = produced(producers.gated, 0.1, str(gate), n=36)
    kept = daskcache.persist(x, "x", wait=False)
    run = daskcache.last_run()
    assert not run.done
    gate.unlink()
    seen = []
    # Some of it waits on the cluster, with both workers busy.
    assert (kept[5:30].compute() == expected(x)[5:30]).all()
    while not run.done:
        seen.append(run.progress)
        time.sleep(0.02)
    assert seen == sorted(seen)
    assert (run.wait().computed, run.progress) == (12, 1.0)
    assert (run.result().compute() == expected(x)).all()
    check(kept, x, store_root)
    assert (daskcache.open("x").compute() == expected(x)).all()


def test_cancelled(client, store_root, tmp_path):
    gate = tmp_path / "gate"
    gate.write_text("8")
    x = produced(producers.gated, 0.1, str(gate), n=90)
    kept = daskcache.persist(x, "x", wait=False)
    run = daskcache.last_run()
    wait_until(lambda: run.stored > 2)
    run.cancel()
    with pytest.raises(CancelledError, match="was cancelled; what it stored stays"):
        run.wait(60)
    with pytest.raises(NotStoredError, match="has ended"):
        kept.compute()
    wait_until(lambda: not any(client.processing().values()))
    gate.unlink()
    wait_until_idle(client)
    stored = len(objects(store_root))
    assert 2 < stored < 30
    count()
    check(daskcache.persist(x, "x"), x, store_root)
    assert daskcache.last_run().reused == 30


@pytest.mark.parametrize("waits", [True, False])
def test_cancelled_before_it_is_sent(client, store_root, monkeypatch, waits):
    compute = client.compute

    def cancel_first(*args, **kwargs):
        daskcache.last_run().cancel()
        return compute(*args, **kwargs)

    monkeypatch.setattr(client, "compute", cancel_first)
    with contextlib.suppress(CancelledError):
        daskcache.persist(produced(slowly, 0.1, n=90), "x", wait=waits)
    with pytest.raises(CancelledError, match="was cancelled; what it stored stays"):
        daskcache.last_run().wait(60)
    wait_until_idle(client)
    assert len(objects(store_root)) < 30


def test_an_error_is_kept(client, store_root):
    kept = daskcache.persist(produced(producers.failing, n=12), "x", wait=False)
    run = daskcache.last_run()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="this block cannot be computed"):
            run.wait(30)
    assert "ArithmeticError" in run.outcome
    with pytest.raises(NotStoredError):
        kept.compute()
    with pytest.raises(ArithmeticError):
        daskcache.persist(produced(producers.failing, n=12), "x")


def test_a_client_that_leaves(cluster, client, store_root):
    x = produced(slowly, 0.1, n=36)
    with Client(cluster.address, set_as_default=True):
        daskcache.persist(x, "x", wait=False)
    wait_until(lambda: len(objects(store_root)) == 12)
    wait_until(lambda: (store_root / "namespaces/default/x/@/latest").exists())
    check(daskcache.open("x"), x, store_root)


def test_retries(client, store_root, tmp_path):
    x = produced(producers.flaky, str(tmp_path), n=24)
    with dask.annotate(retries=3):
        kept = daskcache.persist(x, "x")
    assert count() == 16
    check(kept, x, store_root)
    with daskcache.activate():
        y = produced(producers.flaky, str(tmp_path), n=48)
        with dask.annotate(retries=3):
            assert daskcache.checkpoint(y, "y").sum().compute(retries=3) == expected(y).sum()
    check(daskcache.open("y"), y, store_root, 16)


def test_stolen_tasks(client, store_root):
    """What one worker would run, because it holds the inputs, others take from it."""
    (first, *_) = client.scheduler_info()["workers"]
    held = client.persist(da.arange(60, chunks=3), workers=[first])
    wait(held)
    x = held.map_blocks(slowly, 0.2, dtype="i8", meta=np.empty(0, "i8"))
    before = len(client.get_events("stealing"))
    kept = daskcache.persist(x, "x")
    kinds = [event[0] for _, event in client.get_events("stealing")[before:]]
    assert "confirm" in kinds, "some were stolen"
    assert count() == 20
    check(kept, x, store_root)


def test_workers_that_come_and_go(cluster, client, store_root):
    x = produced(slowly, 0.1, n=120)
    kept = daskcache.persist(x, "x", wait=False)
    wait_until(lambda: len(objects(store_root)) > 2)
    cluster.start_worker()
    client.wait_for_workers(3, timeout=60)
    leaving = list(client.scheduler_info()["workers"])[:2]
    client.retire_workers(leaving)
    daskcache.last_run().wait(60)
    check(kept, x, store_root)
    wait_until(lambda: sum(worker.poll() is None for worker in cluster.workers) == 1)


def test_replicated_tasks(client, store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(36), "x")
        held = client.persist(x)
        client.replicate(futures_of(held))
        assert (held.compute() == expected(x)).all()
        assert count() == 12
        kept = daskcache.persist(held + 0, "y")
        assert (kept.compute() == expected(x)).all()
        assert count() == 0
    assert len(objects(store_root)) == 24


@pytest.mark.parametrize(
    "ways",
    [("persist", "outputs"), pytest.param(("checkpoints", "auto"), marks=pytest.mark.nightly)],
    ids=" ".join,
)
def test_a_nanny_that_restarts_its_worker(cluster, client, store_root, tmp_path, ways):
    """Killed while it writes: once in each run, in the middle of an object."""
    cluster.kill_workers()
    cluster.wait_for_the_dead(client)
    cluster.start_worker("--nanny")
    client.wait_for_workers(1, timeout=60)
    for way in ways:
        root = store_root / way
        flag = tmp_path / way
        killed = client.run(os.getpid)
        client.run(producers.die_in_write, str(flag), 3)
        x = produced(slowly, 0.02, n=36)
        if way == "persist":
            kept = daskcache.persist(x, "x", store=str(root))
            assert daskcache.last_run().blocks == 12
        else:
            with daskcache.activate(str(root), policy=way):
                assert (under(way, x).compute() == expected(x)).all()
        assert flag.exists()
        assert set(client.run(os.getpid).values()).isdisjoint(killed.values())
        if way == "persist":
            check(kept, x, root)
        else:
            check_warm(way, x, root)
        assert len(leftovers(root)) == 1
    cluster.kill_workers()


POLICIES = ["checkpoints", "outputs", "auto"]
# What differs between the policies is how blocks are found again; one of each kind is run each time.
OFTEN_AND_NIGHTLY = [pytest.param("checkpoints", marks=pytest.mark.nightly), "outputs"]


def under(policy, x):
    """Mark what is marked under that policy."""
    return daskcache.checkpoint(x, "x") if policy == "checkpoints" else x


def check_warm(policy, x, root):
    """A new graph loads all that there is."""
    assert len(objects(root)) == x.npartitions
    count()
    with daskcache.activate(str(root), policy=policy):
        assert (under(policy, x).compute() == expected(x)).all()
    assert count() == 0
    assert daskcache.last_run().loaded == x.npartitions


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("how", ["annotation", "argument"])
def test_retries_under_the_pass(client, store_root, tmp_path, policy, how):
    """Each task fails once, and is not stored twice."""
    x = produced(producers.flaky, str(tmp_path), n=24)
    with daskcache.activate(policy=policy):
        marked = under(policy, x)
        if how == "annotation":
            with dask.annotate(retries=1):
                found = marked.compute()
        else:
            found = client.compute(marked, retries=1).result()
        assert (found == expected(x)).all()
        assert count() == 16
        run = daskcache.last_run().wait()
        assert (run.computed, run.stored) == (8, 8)
    check_warm(policy, x, store_root)


@pytest.mark.parametrize("policy", OFTEN_AND_NIGHTLY)
def test_stolen_tasks_under_the_pass(client, store_root, policy):
    """What one worker would run, because it is asked to, others take from it."""
    (first, *_) = client.scheduler_info()["workers"]
    x = produced(slowly, 0.1, n=60)
    before = len(client.get_events("stealing"))
    with daskcache.activate(policy=policy), dask.annotate(workers=[first], allow_other_workers=True):
        kept = client.persist(under(policy, x))
        wait(kept)
    moved = [event for _, event in client.get_events("stealing")[before:] if event[0] == "confirm"]
    assert first in {victim for *_, victim, _, _ in moved}, "some were stolen"
    assert (kept.compute() == expected(x)).all()
    assert count() == 20
    del kept
    check_warm(policy, x, store_root)


INTERRUPTED = """
import signal, sys
import daskcache
from distributed import Client
from tests.producers import gated, produced

# Shells have what they run in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

address, root, policy, gate = sys.argv[1:]
with Client(address), daskcache.activate(root, policy=policy):
    x = produced(gated, 0.0, gate, n=48)
    x = daskcache.checkpoint(x, "x") if policy == "checkpoints" else x
    try:
        print("ready", flush=True)
        x.compute()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("policy", OFTEN_AND_NIGHTLY)
def test_interrupted_under_the_pass(cluster, client, store_root, tmp_path, policy):
    """Ctrl-C waits for no task, and leaves whole blocks, which the next computation uses."""
    gate = tmp_path / "gate"
    gate.write_text("5")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, cluster.address, store_root, policy, gate],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: len(objects(store_root)) >= 5)
    process.send_signal(signal.SIGINT)
    # Both workers are held up until after that.
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    gate.unlink()
    wait_until_idle(client)
    stored = len(objects(store_root))
    assert 5 <= stored <= 7
    assert not leftovers(store_root)
    assert all(path.stat().st_size > 4 for path in objects(store_root)), "whole, as their readers find"
    if policy != "checkpoints":
        # The task that lists them all does not run any more: workers list what they have stored in their own time.
        wait_until(lambda: len(Catalog(str(store_root)).token_index()) == stored)
    count()
    with daskcache.activate(policy=policy):
        x = produced(producers.gated, 0.0, str(gate), n=48)
        assert (under(policy, x).compute() == expected(x)).all()
    assert count() == 16 - stored
    assert len(objects(store_root)) == 16


NO_PACKAGE = "No module named 'daskcache'"


@pytest.mark.parametrize("policy", OFTEN_AND_NIGHTLY)
def test_a_worker_without_the_package_joins(cluster, client, directory, store_root, tmp_path, policy):
    """In the middle of a run, which does not ask it: it cannot read what it is given, and others do that."""
    gate = tmp_path / "gate"
    gate.write_text("4")
    x = produced(producers.gated, 0.0, str(gate), n=90)
    log = directory / "worker.log"
    before = log.read_text().count(NO_PACKAGE)
    with daskcache.activate(policy=policy):
        future = client.compute(under(policy, x))
        wait_until(lambda: len(objects(store_root)) >= 4)
        bare = cluster.start_worker(package=False)
        wait_until(lambda: log.read_text().count(NO_PACKAGE) > before)
        gate.unlink()
        assert (future.result() == expected(x)).all()
        assert count() == 30
    wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)
    kill(bare)
    check_warm(policy, x, store_root)

"""What workers do with stores: in which threads, how often they open one, and what they tell of it."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import Client, wait

import daskcache
from daskcache.chunks import handles
from tests import watching
from tests.producers import objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

POLICIES = ["checkpoints", "outputs", "auto"]
WAYS = ["persist", *POLICIES]
BLOCKS = 12
OF_TASKS = "Dask-Default-Threads"
NUMBERS = itertools.count()


@pytest.fixture
def client(watched):
    return watched


@pytest.fixture
def x():
    """An array that no other test has."""
    start = 1000 * next(NUMBERS)
    return da.arange(start, start + 3 * BLOCKS, chunks=3).map_blocks(
        watching.seen_doubling, dtype="i8", meta=np.empty(0, "i8")
    )


def store(x, way):
    """Have a cluster store an array, and load it again."""
    expected = x.compute(scheduler="sync", optimize_graph=False)
    if way == "persist":
        kept = daskcache.persist(x, "x")
        assert (kept + 1).sum().compute() == (expected + 1).sum()
        return
    with daskcache.activate(policy=way):
        x = daskcache.checkpoint(x, "x") if way == "checkpoints" else x
        assert (x.compute() == expected).all()
        assert (x + 1).sum().compute() == (expected + 1).sum()
        run = daskcache.last_run()
        assert (run.loaded, run.wait().stored > 0) == (BLOCKS, way != "checkpoints")


def on_scheduler(client, function, *args):
    def call(dask_scheduler):
        return function(*args)

    return client.run_on_scheduler(call)


@pytest.mark.parametrize("way", WAYS)
def test_event_loops_leave_stores_alone(client, store_root, x, way):
    """Those of the workers, whose tasks write each block with one put, and the scheduler's, which has the pass run."""
    loops = client.run(watching.loop_thread)
    loop = on_scheduler(client, watching.loop_thread)
    client.run(watching.watch_files, str(store_root))
    on_scheduler(client, watching.watch_files, str(store_root))
    store(x, way)
    seen = client.run(watching.stop_watching)
    planned, _ = on_scheduler(client, watching.stop_watching)
    puts, gets = Counter(), set()
    for worker, (touched, tasks) in seen.items():
        assert loops[worker] not in {each.thread for each in touched}
        assert all(OF_TASKS in name for name in tasks)
        of_blocks = [each for each in touched if "/chunks/" in each.path]
        # A file that is written gets its name by a link.
        linked = [each for each in of_blocks if each.event == "os.link"]
        assert all(OF_TASKS in each.name for each in linked)
        puts.update(each.path.partition(".")[0] for each in linked)
        gets |= {each.path for each in of_blocks if each.event == "open" and not each.writes}
    assert puts == Counter(str(path) for path in objects(store_root))
    # The sum is a result, too; on a busy machine ``auto`` may find more worth storing.
    assert len(puts) == BLOCKS + (way == "outputs") or (way == "auto" and len(puts) > BLOCKS)
    assert len(gets) == BLOCKS
    assert planned or way == "persist"
    assert loop not in {each.thread for each in planned}


def list_after(seconds):
    daskcache.journal._FLUSH_S = seconds


def test_event_loops_list_nothing(client, store_root, x):
    """The next graph has all workers list what they have stored, which they do beside their loops."""
    loops = client.run(watching.loop_thread)
    client.run(list_after, 600.0)
    with daskcache.activate(policy="outputs"):
        kept = client.persist(x)
        wait(kept)
        client.run(watching.watch_files, str(store_root))
        assert (x + 1).max().compute() == x[-1].compute(scheduler="sync", optimize_graph=False) + 1
        seen = client.run(watching.stop_watching)
    client.run(list_after, 2.0)
    listed = [
        (worker, each)
        for worker, (touched, _) in seen.items()
        for each in touched
        if "/namespaces/" in each.path and each.writes
    ]
    assert {worker for worker, _ in listed} == {worker for worker, held in client.has_what().items() if held}
    assert not [each for worker, each in listed if each.thread == loops[worker]]


KINDS = {
    "numbers": lambda x: x,
    # They are read and written through a Zarr array; numbers go past it.
    "texts": lambda x: x.astype("U8"),
}


def forget_arrays():
    handles._idle.clear()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_opens_a_store_once(client, store_root, x, kind, way):
    """However many blocks its tasks write and read in however many graphs; and a Zarr array for blocks of one shape."""
    client.run(forget_arrays)
    client.run(watching.count_opened)
    with daskcache.activate(policy="checkpoints" if way == "persist" else way):
        for part in map(KINDS[kind], (x, x + 1, (x * 2)[3:17])):
            kept = daskcache.persist(part, "part") if way == "persist" else part
            kept = daskcache.checkpoint(kept, "part") if way == "checkpoints" else kept
            for _ in range(2):
                kept.compute()
                kept[2:5].compute()
    assert len(objects(store_root)) >= 2 * BLOCKS
    arrays = Counter()
    for worker, (opened, held) in client.run(watching.give_opened).items():
        assert held == [str(store_root)]
        # Of threads that come at once, and one that lists, the first keeps its own. An array is one thread's at a time.
        assert opened.pop(str(store_root)) <= client.nthreads()[worker] + 1
        assert all(times <= client.nthreads()[worker] for times in opened.values())
        arrays.update(opened)
    # Selections of one text are results, too.
    assert arrays.keys() - {"array of (1,)"} == (
        set() if kind == "numbers" else {"array of (3,)", "array of (2,)"}
    )


COUNTS = ("computed", "stored", "stored_bytes", "conflicts", "unstored")
PLANNED = ("kind", "store", "namespace", "entry", "blocks", "wanted", "loaded")


def told(client, run):
    """Add up what the cluster was told of a run; what was planned comes in one event."""
    events = [event for _, event in client.get_events("daskcache") if event["run"] == run.id]
    plans = [event for event in events if "kind" in event]
    counts = [event for event in events if "kind" not in event]
    for event in counts:
        assert all(type(value) is int for name, value in event.items() if name in COUNTS)
    return plans, {name: sum(event.get(name, 0) for event in counts) for name in COUNTS}


@pytest.mark.parametrize("way", WAYS)
def test_events_tell_the_figures_of_a_run(client, store_root, x, way):
    """For whoever looks: another client sees them on the dashboard's topic, cold and warm."""
    with daskcache.activate(policy="checkpoints" if way == "persist" else way):
        kept = daskcache.checkpoint(x, "x") if way == "checkpoints" else x
        for stored in (BLOCKS, 0):
            if way == "persist":
                daskcache.persist(x, "x")
            else:
                kept.compute()
            run = daskcache.last_run().wait()
            with Client(client.scheduler.address, set_as_default=False) as other:
                wait_until(lambda run=run, other=other: told(other, run)[1]["stored"] == run.stored)
                plans, counts = told(other, run)
            assert (run.computed, run.stored, run.unstored) == (stored, stored, 0)
            assert counts == {name: getattr(run, name) for name in COUNTS}
            assert (run.stored_bytes > 0) == (stored > 0)
            assert len(plans) == (way != "persist")
            for plan in plans:
                assert plan == {"run": run.id} | {name: getattr(run, name) for name in PLANNED}
                assert plan["kind"] == "compute"
                assert plan["store"] == str(store_root)
                assert (plan["wanted"], plan["loaded"], plan["blocks"]) == (stored, BLOCKS - stored, BLOCKS)


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

"""What a scheduler gets of a graph that went through the pass: which tasks, and what it is told of each."""

from __future__ import annotations

import itertools
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

pytest.importorskip("distributed")

from distributed import futures_of, wait

import daskcache
from tests import producers
from tests.producers import count
from tests.watching import arrivals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

POLICIES = ["checkpoints", "outputs", "auto"]
BLOCKS = 4
NUMBERS = itertools.count()


@pytest.fixture
def client(watched):
    return watched


@pytest.fixture
def start():
    """A number that no other test has, so that neither the store nor the scheduler knows a key."""
    return 100 * next(NUMBERS)


def plain(start):
    x = da.arange(start, start + 3 * BLOCKS, chunks=3)
    return x.map_blocks(producers.double, dtype="i8", meta=np.empty(0, "i8"))


def make(policy, start):
    return daskcache.checkpoint(plain(start), "x") if policy == "checkpoints" else plain(start)


def expected(start):
    return np.arange(start, start + 3 * BLOCKS) * 2


USES = {
    "itself": lambda x: [x],
    "sum": lambda x: [(x * 3).sum()],
    "rechunk": lambda x: [x.rechunk(7)],
    "two": lambda x: [x.max(), x[4:9] + 8],
    "dataset": lambda x: [xr.Dataset({"t": ("x", x - 1), "u": ("x", x + 5)}).chunk()],
}


def story(keys, dask_scheduler):
    return dask_scheduler.story(*keys)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("use", USES)
def test_a_warm_run_brings_no_task_of_what_is_stored(client, store_root, use, policy, start):
    right = dask.compute(*USES[use](plain(start)), scheduler="sync")
    with daskcache.activate(policy=policy):
        make(policy, start).compute(scheduler="threads")
        x = make(policy, start)
        gone = {key for name, layer in x.dask.layers.items() if name != x.name for key in layer}
        wanted = USES[use](make(policy, start))
        left = {key for each in wanted for key in each.__dask_graph__()} - set(x.dask)
        count()
        found = dask.compute(*wanted)
        assert count() == 0
        seen = arrivals(client)
        loads = sum(task.loads for task in seen)
        assert 0 < loads <= len(wanted) * BLOCKS
        # One more task for each collection puts it together.
        assert len(seen) <= loads + len(left) + len(wanted)
        assert not {name for task in seen for name in task.functions if "double" in name or "arange" in name}
        assert not gone & {task.key for task in seen}
        assert client.run_on_scheduler(story, list(gone)) == []
        if policy == "outputs":
            # The results themselves are stored by now.
            again = dask.compute(*USES[use](make(policy, start)))
            seen = arrivals(client)
            assert {name for task in seen for name in task.functions} <= GATHERING
            assert all(map(same, again, right))
    assert all(map(same, found, right))


GATHERING = {
    "getter",
    "read_only_element",
    "_execute_subgraph",
    "finalize",
    "to_container",
    "_list_after",
    "_dask_postcompute",
}


def same(one, other):
    return one.identical(other) if isinstance(one, xr.Dataset) else np.array_equal(one, other)


ANNOTATIONS = {
    "priority": 7,
    "retries": 2,
    "resources": {"seat": 1},
    "workers": ["worker-0"],
    "allow_other_workers": True,
}


def set_fusing(is_active):
    dask.config.set({"optimization.fuse.active": is_active})


@pytest.fixture
def unfused(client):
    """Where a user wants annotations of layers to be heeded: dask drops them when it fuses tasks."""
    client.run_on_scheduler(set_fusing, False)
    yield
    client.run_on_scheduler(set_fusing, None)


def address_of(client, name):
    (address,) = (
        address for address, each in client.scheduler_info()["workers"].items() if each["name"] == name
    )
    return address


def check(task, client):
    """The scheduler's own state of a task is what the annotations ask for."""
    assert task.annotations == ANNOTATIONS
    assert (task.priority, task.retries, task.resources) == (7, 2, {"seat": 1})
    assert (task.workers, task.loose) == ({address_of(client, "worker-0")}, True)


@pytest.mark.parametrize(
    ("policy", "state"),
    [(None, "cold"), *itertools.product(["only the mark", *POLICIES], ["cold", "part", "warm"])],
)
@pytest.mark.usefixtures("unfused")
def test_annotations_of_layers_reach_the_scheduler(client, store_root, policy, state, start):
    """Each task of a layer has them, also the loads that stand for it, and those that store; without the pass, too."""
    stored = {"cold": 0, "part": BLOCKS // 2, "warm": BLOCKS}[state]
    is_marked_alone = policy == "only the mark"
    policy = "checkpoints" if is_marked_alone else policy
    with daskcache.activate(policy=policy or "outputs", mode="readwrite" if policy else "off"):
        if stored:
            make(policy, start)[: 3 * stored].compute(scheduler="threads")
        before = plain(start)
        with dask.annotate(**ANNOTATIONS):
            x = daskcache.checkpoint(before, "x") if is_marked_alone else make(policy, start)
        assert (x.compute() == expected(start)).all()
    seen = arrivals(client)
    own = [task for task in seen if not str(task.key).startswith("finalize")]
    assert len(seen) == len(own) + 1
    of_marks = [task for task in own if task.key[0] == x.name]
    assert len(of_marks) == BLOCKS
    for task in of_marks if is_marked_alone else own:
        check(task, client)
    assert sum(task.loads for task in own) == stored
    assert sum(task.functions.count("double") for task in own) == BLOCKS - stored
    assert sum("keep" in name for task in own for name in task.functions) == (BLOCKS - stored) * bool(policy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("state", ["cold", "part", "warm"])
def test_annotations_of_a_call_reach_the_scheduler(client, store_root, policy, state, start):
    """Each task has them, as those that dask has fused."""
    stored = {"cold": 0, "part": BLOCKS // 2, "warm": BLOCKS}[state]
    with daskcache.activate(policy=policy):
        if stored:
            make(policy, start)[: 3 * stored].compute(scheduler="threads")
        with dask.annotate(**ANNOTATIONS):
            total = (make(policy, start) + 1).sum().compute()
    assert total == (expected(start) + 1).sum()
    seen = arrivals(client)
    for task in seen:
        check(task, client)
    assert sum(task.loads for task in seen) == stored
    assert sum(task.functions.count("double") for task in seen) == BLOCKS - stored


def known(keys, dask_scheduler):
    return [key for key in keys if key in dask_scheduler.tasks]


def wait_until_forgotten(client, keys):
    end = time.monotonic() + 60
    while client.run_on_scheduler(known, keys):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.usefixtures("unfused")
def test_blocks_are_made_and_loaded_where_they_may_be(client, store_root, policy, start):
    with daskcache.activate(policy=policy):
        for name, until in (("worker-0", BLOCKS // 2), ("worker-1", BLOCKS), ("worker-0", BLOCKS)):
            with dask.annotate(workers=[name]):
                x = make(policy, start)[: 3 * until]
            kept = client.persist(x)
            wait(kept)
            places = {place for holders in client.who_has(kept).values() for place in holders}
            assert places == {address_of(client, name)}
            assert len(client.who_has(kept)) == until
            held = [future.key for future in futures_of(kept)]
            del kept
            wait_until_forgotten(client, held)
    seen = arrivals(client)
    assert len({task.workers for task in seen}) == 2

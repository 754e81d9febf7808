"""The policy ``auto``: intermediate blocks that took long are stored, others are not, and both can be told."""

import threading
import time

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize

import daskcache
from daskcache.catalog.packs import read_weighed
from daskcache.costs import WORTH, weigh_tasks
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from tests import producers
from tests.producers import count, doubled, objects, produced


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))
    monkeypatch.setattr("daskcache.costs._rates", {})


class Clock(threading.local):
    """Tells each thread a time of its own: a look takes a millisecond, and sleep as long as was said."""

    now = 0.0

    def perf_counter(self):
        self.now += 0.001
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("daskcache.costs.time", made)
    monkeypatch.setattr(producers, "time", made)


def slow(seconds=0.2):
    return produced(producers.slowly, seconds)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_costly_intermediate_is_stored(store_root, scheduler):
    with daskcache.activate(policy="auto"), dask.config.set(scheduler=scheduler):
        x = slow()
        assert dask.compute(x.sum(), x.max()) == (132, 22)
        assert count() == 4
        found = daskcache.last_run().weighed
        assert (found["slowly"].stored, found["slowly"].left) == (4, 0)
        assert found["slowly"].compute_s >= 4 * 0.2
        assert found["slowly"].compute_s >= WORTH * found["slowly"].store_s > 0
        assert repr(found["slowly"]).startswith("<4 of 4 blocks stored: one took 0.2")
        # In the store, too.
        (kept,) = [
            one for layer, one in read_weighed(str(store_root), "default").items() if layer == "slowly"
        ]
        assert kept == found["slowly"]
        # Another analysis of the same blocks.
        assert slow().min().compute() == 0
        assert count() == 0


@pytest.mark.usefixtures("clock")
def test_a_cheap_intermediate_is_not(store_root):
    with daskcache.activate(policy="auto"), dask.config.set(scheduler="sync"):
        x = doubled()
        assert dask.compute(x.sum(), x.max()) == (132, 22)
        found = daskcache.last_run().weighed
        assert (found["double"].stored, found["double"].left) == (0, 4)
        assert len(objects(store_root)) == 2, "the results alone"


@pytest.mark.usefixtures("clock")
def test_what_a_block_depends_on_counts(store_root):
    """The sums of blocks are cheap by themselves, and no more so where the blocks they are made of took long."""
    with (
        daskcache.activate(policy="auto"),
        dask.config.set({"scheduler": "sync", "optimization.fuse.active": None}),
    ):
        x = slow(0.3).rechunk(6)
        assert x.sum().compute() == 132
        found = daskcache.last_run().weighed
        assert sum(one.stored for one in found.values()) >= 4
        assert slow(0.3).rechunk(6).mean().compute() == 11
        count()
        assert (slow(0.3).rechunk(6) + 1).max().compute() == 23
        assert count() == 0


def test_a_planned_graph_keeps_its_tokens(store_root):
    with daskcache.activate(policy="auto"):
        x = slow(0.0)
        y = (x.sum() + x.max()) * 2
        token = GraphTokens(y.dask, Fingerprinter()).token((y.name,))
        (planned,) = dask.optimize(y)
        assert weigh_tasks(dict(planned.dask))
        assert GraphTokens(planned.dask, Fingerprinter()).token((y.name,)) == token


@pytest.mark.usefixtures("clock")
def test_a_weighed_task_is_handled_as_the_task_that_it_is(store_root):
    """As dask does with tasks that it renames, fuses with others, or sends to a worker."""
    with daskcache.activate(policy="auto"):
        (planned,) = dask.optimize(slow(1.0).sum())
    graph = dict(planned.dask)
    key = next(iter(weigh_tasks(graph))).key
    task, plain = graph[key], graph[key].plain
    renamed = task.copy()
    renamed.key = "another"
    for made, name in (
        (task, key),
        (renamed, "another"),
        (renamed.copy(), "another"),
        (renamed.substitute({}), "another"),
        (task.substitute({}, key="third"), "third"),
        (cloudpickle.loads(cloudpickle.dumps(renamed)), "another"),
    ):
        assert type(made) is type(task)
        assert (made.key, made.dependencies, made.data_producer) == (
            name,
            plain.dependencies,
            plain.data_producer,
        )
        assert (made.func, made.args, made.kwargs) == (plain.func, plain.args, plain.kwargs) or name != key
        assert made.question.key == key
        assert not made.is_coro
        assert "slowly" in repr(made) or "subgraph" in repr(made)
        before = count()
        made({})
        assert count() == before + 1
    assert tokenize(task) == tokenize(plain)
    assert len(objects(store_root)) == 1


def test_as_many_tasks_as_without(store_root):
    x = slow(0.0)
    y = dask.compute(x.sum(), x.max())
    with daskcache.activate(policy="checkpoints"):
        plain = dict(dask.optimize(x.sum() + x.max())[0].dask)
    with daskcache.activate(policy="auto"):
        (planned,) = dask.optimize(x.sum() + x.max())
    # One notes what the result is, one lists it, and the result waits for that.
    assert len(dict(planned.dask)) <= len(plain) + 3
    assert y == (132, 22)


def test_cost_of_a_costly_pipeline(store_root):
    """A run that stores what is worth it takes little longer: storing is about half of a fifth."""

    def run(policy, seconds):
        start = time.perf_counter()
        with daskcache.activate(policy=policy), dask.config.set(scheduler="sync"):
            x = slow(seconds)
            dask.compute(x.sum(), x.max())
        assert count() == 4
        return time.perf_counter() - start

    ratios = []
    while not ratios or (ratios[-1] >= 1.5 and len(ratios) < 10):
        # Of no block that is stored already.
        seconds = 0.2 + len(ratios) / 1000
        plain, cold = run("checkpoints", seconds), run("auto", seconds)
        assert daskcache.last_run().weighed["slowly"].stored
        ratios.append(cold / plain)
    assert ratios[-1] < 1.5


def test_results_under_auto_are_as_without(store_root):
    x = da.random.default_rng(0).normal(size=(40, 40), chunks=10)
    y = [(x @ x.T).mean(axis=0), x.rechunk((40, 5)).std(axis=0), da.cumsum(x, axis=1)]
    plain = dask.compute(*y, scheduler="sync")
    with daskcache.activate(policy="auto"):
        for _ in range(2):
            for one, other in zip(dask.compute(*y, scheduler="sync"), plain, strict=True):
                assert np.array_equal(one, other)


def test_marked_blocks_are_stored_as_marked(store_root):
    """They look first whether another run has stored them, in an order of the process's own, and so under keys of its own."""
    with daskcache.activate(policy="auto"), dask.config.set(scheduler="sync"):
        for expected in (1, 0):
            # What fills blocks is asked by their numbers; all are alike, and so looked for and found after the first.
            x = da.ones(4, chunks=1).map_blocks(producers.double, dtype=float, meta=np.empty(0))
            assert dask.delayed(np.sum)(daskcache.checkpoint(x, "x")).compute() == 8
            assert count() == expected
        assert daskcache.open("x").compute().sum() == 8

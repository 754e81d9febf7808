"""Two runs that begin the same cold pipeline at once share the work, and disagree about nothing."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import dask
import numpy as np
import pytest

import daskcache
from daskcache import sharing
from tests import producers
from tests.clusters import ROOT, processes
from tests.producers import count, listed, objects, produced, slowly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BLOCKS = 48
SECONDS = 0.02
EXPECTED = np.arange(BLOCKS * 3) * 2

# The gate is a file in the directory of each process, or of its cluster; without one all pass.
SCRIPT = f"""
    import sys
    import dask
    import daskcache
    from tests.producers import gated, look_always, produced

    how, where, threads, root = sys.argv[1:]
    x = produced(gated, {SECONDS}, "gate", n={BLOCKS} * 3) + 0
    if where == "threads":
        look_always()
    else:
        from distributed import Client
        client = Client(where)
        client.wait_for_workers(1)
        client.run(look_always)
    daskcache.persist(x[:3] * 5, "warm-up", store=root + how + str(id(x)))
    print("ready", flush=True)
    sys.stdin.readline()
    with dask.config.set(num_workers=int(threads)):
        if how == "persist":
            result = daskcache.persist(x, "x", store=root)
        elif how == "outputs":
            with daskcache.activate(root, policy="outputs"):
                x.compute()
        else:
            with daskcache.activate(root):
                result = daskcache.checkpoint(x, "x")
                result.sum().compute()
    run = daskcache.last_run().wait()
    print(run.computed, run.shared, run.stored, run.conflicts, run.wanted, flush=True)
"""


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv(producers.CALLS, str(tmp_path / "calls"))


class Run:
    """One of two runs, which waits until it is told to begin."""

    def __init__(self, directory, how, root, cluster=None, threads=1):
        self.directory = directory
        (directory / "gate").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), producers.CALLS: str(directory / "calls")}
        place = "threads" if cluster is None else cluster.address
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                textwrap.dedent(SCRIPT),
                how,
                place,
                str(threads),
                str(root),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=environment,
            text=True,
        )

    def wait(self):
        assert self.process.stdout.readline() == "ready\n"
        count(self.directory / "calls")

    def begin(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def let_through(self, calls):
        """Have it wait in the producer of a later block; None for no more."""
        gate = self.directory / "gate"
        gate.unlink() if calls is None else gate.write_text(str(calls))

    @property
    def calls(self):
        return len(list((self.directory / "calls").iterdir()))

    def end(self):
        """Give what it has computed, shared, stored, found in conflict, and wanted."""
        return tuple(map(int, self.process.communicate(timeout=120)[0].split()))


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """Give two clusters of one worker, by their directories."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name in ("one", "two"):
            directory = tmp_path_factory.mktemp(name)
            (directory / "calls").mkdir()
            calls = {producers.CALLS: str(directory / "calls")}
            made[directory] = stack.enter_context(processes(directory, 1, **calls))
        yield made


@contextlib.contextmanager
def two_runs(places, how, root, threads=1):
    """Give two runs, each in one of two directories, with its cluster if it has one."""
    made = []
    try:
        for directory, cluster in places.items():
            (directory / "calls").mkdir(parents=True, exist_ok=True)
            made.append(Run(directory, how, root, cluster, threads))
        for run in made:
            run.wait()
        yield made
    finally:
        for run in made:
            run.process.kill()
            run.process.communicate()


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_opens(how, root):
    assert len(objects(root)) == BLOCKS
    if how == "outputs":
        assert len(listed(root)) == BLOCKS
    else:
        assert (daskcache.open("x", store=str(root)).compute() == EXPECTED).all()


@pytest.mark.parametrize("how", ["persist", "compute", "outputs"])
def test_two_processes(tmp_path, how):
    """How many blocks both compute depends on what else the machine does; that they agree does not."""
    root = tmp_path / "store"
    with two_runs(dict.fromkeys((tmp_path / "one", tmp_path / "two")), how, root, threads=2) as runs:
        for run in runs:
            run.begin()
        found = [run.end() for run in runs]
        assert [run.calls for run in runs] == [computed for computed, *_ in found]
    for computed, shared, stored, conflicts, wanted in found:
        assert conflicts == 0
        # One that begins late finds some stored when it is planned.
        assert computed + shared == wanted
        assert stored <= computed
    (one, other) = found
    assert max(one[4], other[4]) == BLOCKS
    assert one[2] + other[2] == BLOCKS, "each object has one creator"
    check_opens(how, root)


@pytest.mark.parametrize("how", ["persist", "compute", "outputs"])
@pytest.mark.parametrize("where", ["processes", "clusters"])
def test_what_one_has_stored_the_other_does_not_compute(tmp_path, request, how, where):
    """Both are planned before anything is stored; then each finds all that the other has done meanwhile."""
    root, half = tmp_path / "store", BLOCKS // 2
    places = dict.fromkeys((tmp_path / "one", tmp_path / "two"))
    if where == "clusters":
        places = request.getfixturevalue("clusters")
    with two_runs(places, how, root) as (one, other):
        other.let_through(0)
        other.begin()
        until(lambda: other.calls == 1)
        assert not objects(root)
        one.let_through(half)
        one.begin()
        until(lambda: one.calls == half + 1)
        # Those that no name lists are listed soon, though no more are stored.
        until(lambda: len(listed(root) if how == "outputs" else objects(root)) == half)
        other.let_through(None)
        computed, shared, stored, conflicts, wanted = other.end()
        # Its first one may be among them.
        assert BLOCKS - half <= computed <= BLOCKS - half + 1
        assert (other.calls, shared, stored) == (computed, BLOCKS - computed, BLOCKS - half)
        assert (conflicts, wanted) == (0, BLOCKS)
        one.let_through(None)
        assert one.end() == (half + 1, BLOCKS - half - 1, half, 0, BLOCKS)
        assert one.calls == half + 1
    check_opens(how, root)


def test_a_block_that_is_stored_meanwhile_is_not_computed(store_root):
    """In one process: what another run stores between the plan and the task."""
    x = produced(slowly, 0.02, n=BLOCKS * 3)
    with dask.config.set(num_workers=1):
        first = threading.Thread(target=lambda: daskcache.persist(x, "x"))
        first.start()
        daskcache.persist(x, "y")
        first.join()
    assert count() < 1.25 * BLOCKS
    assert len(objects(store_root)) == BLOCKS


def test_what_becomes_no_chain_is_computed(store_root, monkeypatch):
    """A block that is used otherwise too is looked for all the same; inputs of a mean have been computed by then."""
    x = produced(slowly, 0.0, n=12)
    daskcache.persist(x, "x")
    daskcache.persist(x.sum(), "total")
    count()
    hide(monkeypatch)
    both = dask.array.stack([x, x + 1])
    assert (daskcache.persist(both, "both").compute() == np.stack([EXPECTED[:12], EXPECTED[:12] + 1])).all()
    hidden = count()
    assert hidden == 4, "each block once, for two rows"
    daskcache.persist(x.sum(), "total")
    assert count() == 4
    assert daskcache.last_run().shared == 1
    daskcache.persist(x, "x")
    assert count() == 0
    assert daskcache.last_run().shared == 4


def test_what_a_policy_stores_is_found_once_it_is_listed(store_root, monkeypatch):
    monkeypatch.setattr("daskcache.sharing._PAUSE_S", 0.0)
    x = produced(slowly, 0.0, n=11).astype(float)
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="synchronous"):
        assert (x.compute() == EXPECTED[:11]).all()
        assert count() == 4
        hide(monkeypatch)
        assert (x.compute() == EXPECTED[:11]).all()
        assert count() == 0
        run = daskcache.last_run()
        assert (run.computed, run.shared, run.conflicts) == (0, 4, 0)
    assert len(objects(store_root)) == 4


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_a_padded_block_of_a_checkpoint_is_not_taken_for_its_siblings(store_root, policy):
    x = produced(slowly, 0.0, n=11).astype(float)
    daskcache.persist(x, "x", namespace="other")
    with daskcache.activate(policy=policy), dask.config.set(scheduler="synchronous"):
        for _ in range(2):
            np.testing.assert_array_equal(x.compute(), EXPECTED[:11])


def test_what_looks_has_the_token_of_what_it_computes(store_root):
    """As where dask optimises arrays before it writes them, and once more with the writes."""
    x = produced(slowly, 0.0, n=12) + 1
    with daskcache.activate(policy="outputs"):
        (planned,) = dask.optimize(x)
        assert (planned.compute() == EXPECTED[:12] + 1).all()
        assert count() == 4
        assert (x.compute() == EXPECTED[:12] + 1).all()
        assert count() == 0
    assert len(objects(store_root)) == 4


def hide(monkeypatch):
    """Have runs find nothing when they are planned, as if it were stored later."""
    monkeypatch.setattr("daskcache.listing.Listing.find_as_known", lambda self, block, known: None)
    monkeypatch.setattr("daskcache.catalog.Catalog.token_index", lambda self: {})


NOW = [0.0]


@daskcache.version("1")
def pretend(block, seconds):
    """Take so long by the clock of the test."""
    NOW[0] += seconds
    return block * 2


def test_looks_that_do_not_pay(store_root, monkeypatch):
    """On a store that is far away, blocks that cost less than ten looks are not looked for once that is known."""
    monkeypatch.setattr(sharing, "LocalStore", type(None))
    monkeypatch.setattr(sharing, "MemoryStore", type(None))
    monkeypatch.setattr(sharing, "time", SimpleNamespace(perf_counter=lambda: NOW[0]))
    looked = []

    def look(block):
        looked.append(block)
        NOW[0] += 0.02

    monkeypatch.setattr(sharing, "look_up", look)
    with dask.config.set(scheduler="synchronous"):
        daskcache.persist(produced(pretend, 0.15, n=90), "cheap")
        assert len(looked) == 1
        looked.clear()
        daskcache.persist(produced(pretend, 0.25, n=9), "costly")
        assert len(looked) == 3

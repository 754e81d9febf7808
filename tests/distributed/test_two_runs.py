"""Two runs that begin the same cold pipeline at once share the work, and disagree about nothing."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest

import daskcache
from daskcache import sharing
from tests import producers
from tests.clusters import processes
from tests.producers import count, objects, produced, slowly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BLOCKS = 48
SECONDS = 0.15
EXPECTED = np.arange(BLOCKS * 3) * 2

SCRIPT = f"""
    import sys
    import dask
    import daskcache
    from tests.producers import produced, slowly

    how, where, root = sys.argv[1:]
    x = produced(slowly, {SECONDS}, n={BLOCKS} * 3) + 0
    if where != "threads":
        from distributed import Client
        client = Client(where)
        client.wait_for_workers(1)
    daskcache.persist(x[:3] * 5, "warm-up", store=root + how + str(id(x)))
    print("ready", flush=True)
    sys.stdin.readline()
    with dask.config.set(num_workers=2):
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


def run_twice(how, where, root):
    """Run the script in two processes that begin together; give what each printed."""
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), how, place, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for place in where
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    count()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    return [tuple(map(int, process.communicate(timeout=120)[0].split())) for process in started]


def check_shared(found, root):
    calls = count()
    (one, other) = found
    assert len(objects(root)) == BLOCKS
    # How many blocks both compute depends on what else the machine does; that they look, and find, does not: each walks
    # its own order, so that of two that both compute all none has ever met the other's.
    assert BLOCKS <= calls < 2 * BLOCKS, found
    for computed, shared, stored, conflicts, wanted in found:
        assert conflicts == 0
        # One that begins late finds some stored when it is planned.
        assert computed + shared == wanted
        assert stored <= computed
    assert max(one[4], other[4]) == BLOCKS
    assert one[2] + other[2] == BLOCKS, "each object has one creator"


@pytest.mark.parametrize("how", ["persist", "compute", "outputs"])
def test_two_processes(tmp_path, how):
    root = tmp_path / "store"
    check_shared(run_twice(how, ["threads", "threads"], root), root)
    if how != "outputs":
        assert (daskcache.open("x", store=str(root)).compute() == EXPECTED).all()


def test_two_clusters(tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with processes(tmp_path / "one", 1) as one, processes(tmp_path / "two", 1) as two:
        root = tmp_path / "store"
        check_shared(run_twice("persist", [one.address, two.address], root), root)
        assert (daskcache.open("x", store=str(root)).compute() == EXPECTED).all()


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

"""A cluster of which something is killed at any moment: the rerun is right and computes only what was not stored."""

import contextlib
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import numpy as np
import pytest

import daskcache
from tests import producers
from tests.clusters import kill, processes, wait_until_idle
from tests.producers import count, listed, objects, tokens_of

pytest.importorskip("distributed")

BLOCKS = 16
SECONDS = 0.05
WORKERS = 2
"""Of one thread each."""
EXPECTED = np.arange(BLOCKS * 3) * 2
WAYS = ("persist", "outputs at once", "compute", "auto at once", "outputs")
"""How blocks are stored; "at once" without the pauses, a tenth of the time else, in which blocks wait to be listed."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = f"""
    import sys
    import dask
    from distributed import Client
    import daskcache
    from tests.producers import gated, produced

    address, how, gate = sys.argv[1:]
    client = Client(address, timeout=30)
    print("ready", flush=True)
    for root in iter(sys.stdin.readline, ""):
        x = produced(gated, {SECONDS}, gate, n={BLOCKS} * 3)
        if how == "persist":
            result = daskcache.persist(x, "x", store=root.strip())
        elif how == "compute":
            with daskcache.activate(root.strip()):
                result = daskcache.checkpoint(x, "x").sum().compute()
        else:
            with daskcache.activate(root.strip(), policy=how):
                result = x.compute() if how == "outputs" else dask.compute(x.sum(), x.max())
        print("done", flush=True)
"""


class Place:
    """A cluster, and what its tasks count."""

    def __init__(self, directory, cluster):
        self.directory = directory
        self.cluster = cluster
        self.number = 0
        self.calls = directory / "calls"
        self.gate = directory / "gate"

    def new_store(self):
        self.number += 1
        return self.directory / f"store{self.number}"

    def set_up(self, is_at_once):
        """Make it certain what workers store, look for, and list."""
        with self.cluster.client(WORKERS) as client:
            client.run(producers.list_at_once, is_so=is_at_once)
            client.run(producers.look_always)
            client.run(producers.store_all)

    def start_client(self, how):
        made = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT)),
                *(self.cluster.address, how, str(self.gate)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.cluster.environment,
            cwd=Path(__file__).parents[2],
            text=True,
            start_new_session=True,
        )
        assert made.stdout.readline() == "ready\n"
        return made

    def kill(self, who, client):
        cluster = self.cluster
        if who == "client":
            kill(client)
        elif who == "worker":
            kill(cluster.workers.pop(0))
        elif who == "workers":
            cluster.kill_workers()
        else:
            kill(cluster.scheduler)

    def repair(self):
        cluster = self.cluster
        if cluster.scheduler.poll() is not None:
            cluster.stop()
            cluster.start_scheduler()
        while len(cluster.workers) < WORKERS:
            cluster.start_worker()

    def pipeline(self):
        return producers.produced(producers.gated, SECONDS, str(self.gate), n=BLOCKS * 3)

    def rerun(self, root, how, unlisted):
        with self.cluster.client(WORKERS) as client:
            # What a client that is gone wanted is finished first.
            self.gate.unlink(missing_ok=True)
            wait_until_idle(client)
            before = len(objects(root))
            assert all(path.stat().st_size > 4 for path in objects(root)), "an object that is there is whole"
            count()
            x = self.pipeline()
            if how == "persist":
                kept = daskcache.persist(x, "x", store=str(root))
                run = daskcache.last_run()
                assert (run.computed, run.reused, run.stored) == (BLOCKS - before, before, BLOCKS - before)
            elif how == "compute":
                with daskcache.activate(str(root)):
                    kept = daskcache.checkpoint(x, "x")
                    assert kept.sum().compute() == EXPECTED.sum()
            else:
                # What is stored and not listed is not found.
                before = self.see_listed(root, unlisted)
                with daskcache.activate(str(root), policy=how):
                    if how == "outputs":
                        assert (x.compute() == EXPECTED).all()
                    else:
                        assert dask.compute(x.sum(), x.max()) == (EXPECTED.sum(), EXPECTED.max())
            assert count() == BLOCKS - before
            if how in ("persist", "compute"):
                opened = daskcache.open("x", store=str(root))
                assert (opened.compute(scheduler="threads") == EXPECTED).all()
        return before

    def see_listed(self, root, unlisted):
        """Tell how many blocks are listed, once those who live have listed all that they have."""
        end = time.monotonic() + 60
        while len(objects(root)) - len(listed(root)) > unlisted and time.monotonic() < end:
            time.sleep(0.01)
        assert 0 <= len(objects(root)) - len(listed(root)) <= unlisted
        return len(listed(root) & tokens_of(self.pipeline()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cluster")
    calls = directory / "calls"
    calls.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        processes(directory, WORKERS, **{producers.CALLS: str(calls)}) as cluster,
    ):
        patch.setenv(producers.CALLS, str(calls))
        yield Place(directory, cluster)


def kill_at_random_points(place, who, ways, rng):
    seen = []
    for number, way in enumerate(ways):
        how, _, is_at_once = way.partition(" ")
        place.repair()
        if how in ("outputs", "auto"):
            place.set_up(bool(is_at_once))
        root = place.new_store()
        client = place.start_client(how)
        stored = round(number * BLOCKS / len(ways))
        count()
        # A few blocks more than are waited for, however late this process sees them.
        place.gate.write_text(f"{stored + 3}")
        client.stdin.write(f"{root}\n")
        client.stdin.flush()
        # Where they wait to be listed, it is the list that is waited for: it grows though nothing else happens any more.
        found = listed if way == "outputs" else objects
        end = time.monotonic() + 60
        while len(found(root)) < stored and client.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        has_come = len(found(root)) >= stored
        time.sleep(rng.uniform(0.0, 2 * SECONDS))
        place.kill(who, client)
        if not has_come:
            kill(client)
            raise AssertionError(f"{len(found(root))} of {stored} blocks were seen")
        if who == "worker":
            see_survivor(place, root, client, how)
        kill(client)
        with contextlib.suppress(BrokenPipeError):
            client.stdin.close()
        client.stdout.close()
        place.repair()
        # Who lives lists what it has; of those killed each has one block stored and not listed, if it lists at once.
        unlisted = 0 if who in ("client", "worker") else WORKERS if is_at_once else 3
        seen.append(place.rerun(root, how, unlisted))
    return seen


def see_survivor(place, root, client, how):
    """Let the other worker go on; it computes what the one that was killed has not stored, or not listed."""
    begun = len(list(place.calls.iterdir()))
    place.gate.unlink()
    assert client.stdout.readline() == "done\n"
    assert len(objects(root)) >= BLOCKS
    # Each looks for its block before it computes it, but for those on the way under `auto`: they are not looked for, and
    # what was made of them has gone with the worker.
    twice = begun if how == "auto" else 1
    assert BLOCKS <= len(list(place.calls.iterdir())) <= BLOCKS + twice


@pytest.mark.parametrize(
    ("who", "ways"),
    [
        ("client", ("outputs", "auto at once", "persist", "compute")),
        ("worker", ("outputs at once", "persist", "auto at once")),
        ("workers", ("compute", "outputs at once")),
        ("scheduler", ("persist", "auto at once")),
    ],
)
def test_killed_at_random_points(place, who, ways):
    seen = kill_at_random_points(place, who, ways, random.Random(f"20261121 {who}"))
    assert who == "worker" or len(set(seen)) > len(ways) // 2, f"the moments differed: {seen}"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("who", "times"), [("client", 40), ("worker", 30), ("workers", 25), ("scheduler", 20)]
)
def test_killed_at_a_hundred_points(place, who, times):
    ways = [WAYS[number % len(WAYS)] for number in range(times)]
    seen = kill_at_random_points(place, who, ways, random.Random())
    assert who == "worker" or len(set(seen)) > times // 4, f"the moments differed: {seen}"

"""A cluster of which something is killed at any moment: the rerun is right and computes only what was not stored."""

import contextlib
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import daskcache
from tests import producers
from tests.clusters import kill, processes, wait_until_idle
from tests.producers import count, objects

pytest.importorskip("distributed")

BLOCKS = 16
SECONDS = 0.05
EXPECTED = np.arange(BLOCKS * 3) * 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = f"""
    import sys
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
        else:
            with daskcache.activate(root.strip()):
                result = daskcache.checkpoint(x, "x").sum().compute()
        print("done", flush=True)
"""


class Place:
    """A cluster, and what its tasks count."""

    def __init__(self, directory, cluster):
        self.directory = directory
        self.cluster = cluster
        self.number = 0
        self.gate = directory / "gate"

    def new_store(self):
        self.number += 1
        return self.directory / f"store{self.number}"

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

    def repair(self, who):
        cluster = self.cluster
        if who == "scheduler":
            cluster.stop()
            cluster.start_scheduler()
        while len(cluster.workers) < 2:
            cluster.start_worker()

    def rerun(self, root, how):
        with self.cluster.client(2) as client:
            # What a client that is gone wanted is finished first.
            self.gate.unlink(missing_ok=True)
            wait_until_idle(client)
            before = len(objects(root))
            assert all(path.stat().st_size > 4 for path in objects(root)), "an object that is there is whole"
            count()
            x = producers.produced(producers.gated, SECONDS, str(self.gate), n=BLOCKS * 3)
            if how == "persist":
                kept = daskcache.persist(x, "x", store=str(root))
                run = daskcache.last_run()
                assert (run.computed, run.reused, run.stored) == (BLOCKS - before, before, BLOCKS - before)
            else:
                with daskcache.activate(str(root)):
                    kept = daskcache.checkpoint(x, "x")
                    assert kept.sum().compute() == EXPECTED.sum()
            assert count() == BLOCKS - before
            assert (daskcache.open("x", store=str(root)).compute(scheduler="threads") == EXPECTED).all()
        return before


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cluster")
    calls = directory / "calls"
    calls.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        processes(directory, 2, **{producers.CALLS: str(calls)}) as cluster,
    ):
        patch.setenv(producers.CALLS, str(calls))
        yield Place(directory, cluster)


def kill_at_random_points(place, who, times, rng):
    seen = []
    for number in range(times):
        how = ("persist", "compute")[number % 2]
        place.repair(who)
        root = place.new_store()
        client = place.start_client(how)
        stored = round(number * BLOCKS / times)
        count()
        # A few blocks more than are waited for, however late this process sees them.
        place.gate.write_text(f"{stored + 3}")
        client.stdin.write(f"{root}\n")
        client.stdin.flush()
        end = time.monotonic() + 60
        while len(objects(root)) < stored and client.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 2 * SECONDS))
        place.kill(who, client)
        if who == "worker":
            # The other one goes on.
            place.gate.unlink()
            assert client.stdout.readline() == "done\n"
            assert len(objects(root)) == BLOCKS
        kill(client)
        with contextlib.suppress(BrokenPipeError):
            client.stdin.close()
        client.stdout.close()
        place.repair(who)
        seen.append(place.rerun(root, how))
    return seen


@pytest.mark.parametrize(("who", "times"), [("client", 4), ("worker", 2), ("workers", 2), ("scheduler", 2)])
def test_killed_at_random_points(place, who, times):
    seen = kill_at_random_points(place, who, times, random.Random(f"20261121 {who}"))
    assert who == "worker" or len(set(seen)) > times // 2, f"the moments differed: {seen}"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("who", "times"), [("client", 40), ("worker", 30), ("workers", 24), ("scheduler", 20)]
)
def test_killed_at_a_hundred_points(place, who, times):
    seen = kill_at_random_points(place, who, times, random.Random())
    assert who == "worker" or len(set(seen)) > times // 4, f"the moments differed: {seen}"

"""A process that is killed at any moment: what was stored stays, the rerun computes the rest, the result is right."""

import contextlib
import os
import random
import signal
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
from tests.clusters import processes, wait_until_idle
from tests.producers import count, doubled, leftovers, objects

BLOCKS = 40
EXPECTED = np.arange(BLOCKS * 3) * 2

pytestmark = pytest.mark.timeout(600)

SCRIPT = f"""
    import os, signal, sys, time
    import numpy as np
    import daskcache
    from daskcache import stores
    from daskcache.stores import local
    from tests import producers
    from tests.producers import produced, slowly

    root, how, hook, number = sys.argv[1:]

    def die_at(name, when):
        original, calls = getattr(local, name), []

        def hooked(path, data):
            relative = os.path.relpath(path, root)
            if hook and hook.lstrip("!") in relative:
                calls.append(1)
                if len(calls) >= int(number) and hook.startswith("!"):
                    os.kill(os.getpid(), signal.SIGKILL)
            result = original(path, data)
            if calls and len(calls) >= int(number) and hook in relative:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(local, name, hooked)

    die_at("create", hook)
    die_at("put", hook)

    if hook == "half":
        write, written = local.write_all, []

        def write_half(descriptor, data):
            written.append(1)
            if len(written) == int(number):
                os.write(descriptor, bytes(data)[: len(bytes(data)) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write(descriptor, data)

        local.write_all = write_half

    if hook == "calls":
        note, noted = producers._note, []

        def note_and_wait():
            note()
            noted.append(1)
            while len(noted) > int(number):
                time.sleep(1)

        producers._note = note_and_wait

    x = produced(slowly, 0.01, n={BLOCKS} * 3)
    print("ready", flush=True)
    if how == "persist":
        result = daskcache.persist(x, "x", store=root).compute()
    else:
        with daskcache.activate(root):
            result = daskcache.checkpoint(x, "x").compute()
    assert (result == np.arange({BLOCKS} * 3) * 2).all()
    print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def start(root, how, hook="", number=0):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(root), how, hook, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def run_to_the_end(root, how):
    process = start(root, how)
    out, err = process.communicate(timeout=300)
    assert out.split() == ["ready", "done"], err


def check_whole(root):
    """No object there is empty or cut down to its checksum; `rerun` reads all, and the reader checks sums."""
    for path in objects(root):
        assert path.stat().st_size > 4, "an object that is there is whole"


def rerun(root, how, here=True):
    """Finish a run that was killed, and see that it computes just what had not been stored."""
    check_whole(root)
    before = len(objects(root))
    partial = {path.name for path in leftovers(root)}
    count()
    if here:
        x = producers.produced(producers.slowly, 0.01, n=BLOCKS * 3)
        if how == "persist":
            result = daskcache.persist(x, "x", store=str(root))
            assert (result.compute() == EXPECTED).all()
        else:
            with daskcache.activate(str(root)):
                assert (daskcache.checkpoint(x, "x").compute() == EXPECTED).all()
    else:
        run_to_the_end(root, how)
    assert count() == BLOCKS - before
    assert len(objects(root)) == BLOCKS
    assert {path.name for path in leftovers(root)} == partial, "what others have not finished is left alone"
    # And the name opens it, whole.
    assert (daskcache.open("x", store=str(root)).compute() == EXPECTED).all()
    count()
    return before


def kill_when(root, stored, rng, how="persist"):
    """Kill a run at a random moment after it has stored so many blocks; 0 is before the first."""
    # A few blocks more than are waited for, however late this process sees them.
    process = start(root, how, "calls", stored - len(objects(root)) + 3)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    deadline = time.monotonic() + 30
    while len(objects(root)) < stored and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.02))
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "times"), [("persist", 8), ("compute", 6)])
def test_killed_at_random_moments(tmp_path, how, times):
    rng = random.Random(f"20261121 {how}")
    progress = []
    for number in range(times):
        root = tmp_path / f"store{number}"
        kill_when(root, round(number * BLOCKS / times), rng, how)
        progress.append(rerun(root, how))
    assert len(set(progress)) > times // 2, f"the moments differed: {progress}"


@pytest.mark.slow
def test_killed_again_and_again_over_one_store(tmp_path):
    rng = random.Random(7)
    root, before = tmp_path / "store", 0
    for _ in range(4):
        kill_when(root, before + 1, rng)
        check_whole(root)
        after = len(objects(root))
        assert after >= before, "nothing that was stored is lost"
        before = after
    rerun(root, "persist", here=False)


@pytest.mark.parametrize(
    ("how", "hook", "number", "stored"),
    [
        ("persist", "runs/", 1, 0),
        ("persist", "chunks/", 1, None),
        ("persist", "!chunks/", 7, None),
        ("persist", "half", 9, None),
        ("persist", "!.idx", 1, BLOCKS),
        ("persist", ".idx", 1, BLOCKS),
        ("persist", "!@/latest", 1, BLOCKS),
        ("persist", "@/latest", 1, BLOCKS),
        ("compute", "half", 12, None),
        ("compute", ".idx", 1, BLOCKS),
        ("compute", "!@/latest", 1, BLOCKS),
    ],
)
def test_killed_between_two_writes(tmp_path, how, hook, number, stored):
    root = tmp_path / "store"
    process = start(root, how, hook, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, (out, err)
    found = len(objects(root))
    if stored is not None:
        assert found == stored
    latest = root / "namespaces/default/x/@/latest"
    assert latest.exists() is (hook == "@/latest"), "the name opens nothing before all is there"
    rerun(root, how)


def test_what_a_killed_writer_leaves_is_no_object(tmp_path):
    """Leftovers of a size that may be anything are never listed, read or published."""
    root = tmp_path / "store"
    daskcache.persist(doubled(), "x", store=str(root))
    for path in objects(root):
        for content in (b"", path.read_bytes()[:7], path.read_bytes()):
            path.with_name(f"{path.name}.{os.urandom(16).hex()}.partial").write_bytes(content)
    (root / f"namespaces/default/x/@/latest.{os.urandom(16).hex()}.partial").write_bytes(b"{")
    found = objects(root)
    found[0].unlink()
    count()
    kept = daskcache.persist(doubled(), "x", store=str(root))
    assert (kept.compute() == np.arange(12) * 2).all()
    assert count() == 1
    assert objects(root) == found
    assert len(leftovers(root)) == 13


LONG = 0.5
INTERRUPTED = f"""
    import signal, sys, time
    import dask
    import daskcache
    from tests.producers import produced, slowly

    # Shells have what they run in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    address, root = sys.argv[1:]
    if __name__ == "__main__":
        if address:
            from distributed import Client
            client = Client(address)
        x = produced(slowly, {LONG}, n={BLOCKS} * 3)
        print("ready", flush=True)
        try:
            with dask.config.set(num_workers=2):
                daskcache.persist(x, "x", store=root)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_interrupted(tmp_path, where):
    """Ctrl-C stops at once, and leaves whole blocks."""
    with contextlib.ExitStack() as stack:
        address = ""
        if where == "cluster":
            cluster = stack.enter_context(processes(tmp_path, 2))
            address = cluster.address
        root = tmp_path / "store"
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(INTERRUPTED), address, str(root)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout.readline() == "ready\n"
        while len(objects(root)) < 3:
            time.sleep(0.01)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - begun < LONG * BLOCKS / 4
        process.communicate(timeout=30)
        if where == "cluster":
            with cluster.client() as client:
                wait_until_idle(client)
        stored = len(objects(root))
        assert 3 <= stored < BLOCKS
        check_whole(root)
        assert not leftovers(root)
    count()
    x = producers.produced(producers.slowly, LONG, n=BLOCKS * 3)
    with dask.config.set(num_workers=20):
        assert (daskcache.persist(x, "x", store=str(root)).compute() == EXPECTED).all()
    assert count() == BLOCKS - stored

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
from tests.producers import count, doubled, leftovers, listed, objects, produced, slowly, tokens_of

BLOCKS = 40
EXPECTED = np.arange(BLOCKS * 3) * 2
POLICIES = ("outputs", "auto", "outputs at once", "auto at once")
"""How runs store what is not marked; "at once", by one thread, without the pauses that are a tenth of the time else."""

pytestmark = pytest.mark.timeout(600)

SCRIPT = f"""
    import os, signal, sys, time
    import dask
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

    policy, _, is_at_once = how.partition(" ")
    if is_at_once:
        producers.list_at_once()
        dask.config.set(num_workers=1)
    producers.store_all()
    x = produced(slowly, 0.01, n={BLOCKS} * 3)
    print("ready", flush=True)
    expected = np.arange({BLOCKS} * 3) * 2
    if how == "persist":
        assert (daskcache.persist(x, "x", store=root).compute() == expected).all()
    elif how == "compute":
        with daskcache.activate(root):
            assert (daskcache.checkpoint(x, "x").compute() == expected).all()
    else:
        with daskcache.activate(root, policy=policy):
            if policy == "outputs":
                assert (x.compute() == expected).all()
            else:
                # Stored are the blocks on the way to both, and what is made of them.
                assert dask.compute(x.sum(), x.max()) == (expected.sum(), expected.max())
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
        x = pipeline()
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


def pipeline():
    return produced(slowly, 0.01, n=BLOCKS * 3)


def listed_of_it(root):
    return listed(root) & tokens_of(pipeline())


def rerun_under(root, policy, unlisted=None):
    """Finish a run that was killed, and see that it computes just what had not been listed."""
    check_whole(root)
    if unlisted is not None:
        assert 0 <= len(objects(root)) - len(listed(root)) <= unlisted
    x = pipeline()
    before = len(listed_of_it(root))
    count()
    with daskcache.activate(str(root), policy=policy):
        if policy == "outputs":
            assert (x.compute() == EXPECTED).all()
            assert tokens_of(x) <= listed(root)
        else:
            assert dask.compute(x.sum(), x.max()) == (EXPECTED.sum(), EXPECTED.max())
    assert count() == BLOCKS - before
    return before


def kill_when(root, stored, rng, how="persist"):
    """Kill a run at a random moment after it has stored so many blocks; 0 is before the first."""
    # A few blocks more than are waited for, however late this process sees them.
    process = start(root, how, "calls", stored - len(objects(root)) + 3)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    # What lies in the store, or what is listed by and by of the blocks that may be computed.
    seen = listed_of_it if how in ("outputs", "auto") else objects
    deadline = time.monotonic() + 60
    while len(seen(root)) < stored and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.02))
    process.kill()
    process.communicate()
    assert len(seen(root)) >= stored


def kill_at_random_moments(tmp_path, how, times, rng):
    progress = []
    for number in range(times):
        root = tmp_path / f"store{number}"
        kill_when(root, round(number * BLOCKS / times), rng, how)
        policy, _, is_at_once = how.partition(" ")
        if policy in ("persist", "compute"):
            progress.append(rerun(root, how))
        else:
            # One thread has one block stored and not listed at most. Elsewhere it was waited for what is listed.
            progress.append(rerun_under(root, policy, 1 if is_at_once else None))
    return progress


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "times"), [("persist", 4), ("compute", 3), *((policy, 2) for policy in POLICIES)]
)
def test_killed_at_random_moments(tmp_path, how, times):
    progress = kill_at_random_moments(tmp_path, how, times, random.Random(f"20261121 {how}"))
    assert len(set(progress)) > times // 2, f"the moments differed: {progress}"


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("how", POLICIES)
def test_killed_at_a_hundred_moments(tmp_path, how):
    progress = kill_at_random_moments(tmp_path, how, 25, random.Random())
    assert len(set(progress)) > 10, f"the moments differed: {progress}"


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


@pytest.mark.parametrize(
    ("hook", "number", "stored", "found"),
    [
        ("!/@/", 1, 1, 0),
        ("/@/", 5, 5, 5),
        # One more than may lie side by side: the next is what they are put together in.
        ("!/@/", 34, 33, 33),
        ("/@/", 34, 33, 33),
    ],
)
def test_killed_while_it_lists(tmp_path, hook, number, stored, found):
    root = tmp_path / "store"
    process = start(root, "outputs at once", hook, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, (out, err)
    assert len(objects(root)) == stored
    assert rerun_under(root, "outputs") == found


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

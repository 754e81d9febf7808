"""Law 7, a cache only helps: whatever is wrong with a store, compute() is right, and persist() says what is wrong."""

import errno
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

import daskcache
from daskcache import stores
from daskcache.errors import (
    EntryNotFoundError,
    NotStoredError,
    ReadOnlyError,
    StoreError,
    StoreFullError,
    UncacheableError,
)
from tests import producers
from tests.producers import count, doubled, leftovers, objects, produced, put_file_in_place
from tests.troubles import (  # noqa: F401
    EXPECTED,
    IS_ROOT,
    calls_fixture,
    compute_silently,
    compute_with_one_warning,
    scheduler_fixture,
    settle,
)

# Stores that cannot be used at all.


def in_the_way(tmp_path):
    put_file_in_place(tmp_path / "file")
    return str(tmp_path / "file" / "store")


def a_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo" / "store")


def itself_a_file(tmp_path):
    put_file_in_place(tmp_path / "store")
    return str(tmp_path / "store")


@pytest.mark.parametrize("place", [in_the_way, a_fifo, itself_a_file])
def test_a_store_that_cannot_be_there(tmp_path, place):
    root = place(tmp_path)
    message = rf"store {root} failed: cannot write \S+ \((Not a directory|File exists)\); check that the root"
    with daskcache.activate(root):
        x = daskcache.checkpoint(doubled(), "x")
        result = compute_with_one_warning(x, f"the store is left alone and all is computed: {message}")
        assert (result == EXPECTED).all()
        assert (compute_silently(x + 1) == EXPECTED + 1).all()
        assert count() == 8
        with pytest.raises(StoreError, match=message):
            daskcache.persist(doubled(), "x")
        assert count() == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [("get", errno.EIO), ("get", errno.EACCES), ("list_dirs", errno.EACCES), ("list_objects", errno.ESTALE)],
)
def test_a_store_that_cannot_be_read(store_root, monkeypatch, name, code):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        assert count() == 4

        def fail(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(stores.local, name, fail)
        result = compute_with_one_warning(
            x, rf"all is computed: store {store_root} failed: cannot (read|list) "
        )
        assert (result == EXPECTED).all()
        assert count() == 4
        with pytest.raises(StoreError, match=rf"store {store_root} failed: cannot (read|list) \S+ "):
            daskcache.persist(doubled() + 1, "y")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.EROFS, ReadOnlyError, "takes no writes: cannot write .* (Read-only file system)"),
        (errno.EACCES, ReadOnlyError, "takes no writes: cannot write .* (Permission denied)"),
        (errno.ENOSPC, StoreFullError, "is full: cannot write .* (No space left on device)"),
        (errno.EDQUOT, StoreFullError, "is full: cannot write .* (Disk quota exceeded)"),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_store_that_takes_no_writes(store_root, monkeypatch, code, error, message, after):
    message = re.escape(message).replace(re.escape(".*"), ".*")
    write = stores.local.write_all
    written = []

    def fail(descriptor, data):
        written.append(1)
        if len(written) > after:
            os.write(descriptor, bytes(data)[:3])
            raise OSError(code, os.strerror(code))
        write(descriptor, data)

    with daskcache.activate():
        daskcache.persist(doubled(3), "other")
        count()
        monkeypatch.setattr(stores.local, "write_all", fail)
        x = daskcache.checkpoint(doubled(), "x")
        before = "nothing is written" if after == 0 else "computed only|not published"
        result = compute_with_one_warning(x, rf"({before}).*{message}")
        assert (result == EXPECTED).all()
        assert count() <= 4
        written.clear()
        # One after the other: threads of a run that failed would go on storing.
        with dask.config.set(scheduler="synchronous"), pytest.raises(error, match=message):
            daskcache.persist(doubled(24), "y")
        monkeypatch.setattr(stores.local, "write_all", write)
        with pytest.raises(EntryNotFoundError):
            daskcache.open("y")
        missing = 8 - len({path.name for path in objects(store_root)})
        count()
        assert (daskcache.persist(doubled(24), "y").compute() == np.arange(24) * 2).all()
        assert count() == missing


def test_a_disk_that_fills_up_in_the_middle(tmp_path):
    """A file system with real ends, where this process may mount one."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = (
        IS_ROOT
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("only root may mount a small file system")
    try:
        noise = np.random.default_rng(0).integers(0, 2**62, 8 * 8192)
        x = da.from_array(noise, chunks=8192).map_blocks(producers.double, dtype="i8", meta=np.empty(0, "i8"))
        with daskcache.activate(str(root / "store")):
            with pytest.raises(
                StoreFullError, match=r"needs at most 512.00 kiB, and .* left: nothing was computed"
            ):
                daskcache.persist(x, "x")
            assert count() == 0
            result = compute_with_one_warning(
                daskcache.checkpoint(x, "x"), "computed only: store .* is full: cannot write"
            )
            assert (result == noise * 2).all()
            count()
            with (
                dask.config.set({"daskcache.check-space": False}),
                pytest.raises(
                    StoreFullError,
                    match=r"is full: cannot write chunks/.*; free space there, or name another root",
                ),
            ):
                daskcache.persist(x, "x")
        settle(root)
        sizes = {path.stat().st_size for path in objects(root / "store")}
        assert sizes
        assert min(sizes) > 65536
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


CHILD = """
    import sys, warnings
    import numpy as np, dask.array as da
    import daskcache
    from daskcache.errors import *
    from tests.producers import doubled
    root, prepare = sys.argv[1:]
    exec(prepare)
    with daskcache.activate(root), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = daskcache.checkpoint(doubled(), "x")
        assert (x.compute(scheduler="sync") == np.arange(12) * 2).all()
        assert [w.category for w in caught] == [DaskcacheWarning], caught
        print(caught[0].message)
        try:
            daskcache.persist(doubled(48), "y")
        except StoreError as error:
            print(type(error).__name__, error)
"""


def run_child(root, prepare="", **kwargs):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(root), prepare],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        **kwargs,
    )


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_store_of_somebody_else(mode, monkeypatch):
    base = Path(tempfile.mkdtemp())
    base.chmod(0o777)
    calls = base / "calls"
    calls.mkdir()
    calls.chmod(0o777)
    home = base / "home"
    home.mkdir()
    home.chmod(0o777)
    env = {**os.environ, producers.CALLS: str(calls), "HOME": str(home), "DASK_CONFIG": str(home)}
    monkeypatch.setenv(producers.CALLS, str(calls))
    root = base / "store"
    daskcache.persist(doubled(3), "x0", store=str(root))
    count()
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(mode)
    # After the imports, because others may not be allowed to read this Python.
    prepare = (
        f"daskcache.persist(doubled(3), 'w', store={str(base / 'first')!r}); import os; "
        "[os.unlink(entry.path) for entry in os.scandir(os.environ['TEST_CALLS'])]; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    )
    done = run_child(root, prepare, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if mode:
        # What is stored is loaded all the same.
        assert re.search(
            "nothing is written: store .* takes no writes: cannot write runs/.*Permission denied", lines[0]
        )
        assert lines[1].startswith(f"ReadOnlyError store {root} takes no writes: cannot write runs/")
        assert len(list(calls.iterdir())) == 3
    else:
        assert re.search("all is computed: store .* failed: cannot .*Permission denied", lines[0])
        assert re.match(f"(Store|ReadOnly)Error store {root} ", lines[1])
        assert len(list(calls.iterdir())) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of POSIX")
def test_files_that_may_not_grow(tmp_path, calls):
    """Whoever may not mount anything can still limit the size of files."""
    prepare = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))"
    )
    done = run_child(tmp_path / "store", prepare)
    assert done.returncode == 0, done.stderr
    warned, raised = done.stdout.splitlines()
    assert re.search("nothing is written: store .* is full: cannot write .*File too large", warned)
    assert raised.startswith(f"StoreFullError store {tmp_path}/store is full: cannot write ")
    assert not [path for path in tmp_path.rglob("store/**/*") if path.is_file() and path.stat().st_size >= 20]
    assert not leftovers(tmp_path)


def test_a_store_that_goes_away_in_the_middle(store_root, scheduler):
    x = produced(producers.ruin, str(store_root), 7)
    with daskcache.activate():
        kept = daskcache.persist(doubled(), "kept")
        count()
        result = compute_with_one_warning(
            daskcache.checkpoint(x, "x"), "computed only|not published|computed again"
        )
        assert (result == EXPECTED).all()
        with pytest.raises((StoreError, NotStoredError), match=r"cannot read chunks/|is not in store"):
            kept.compute()
    os.remove(store_root)
    y = produced(producers.ruin, str(store_root), 4)
    with pytest.raises(StoreError, match=f"store {store_root} failed: cannot write"):
        daskcache.persist(y, "y")
    # Another thread may fail while the one in the middle is at it.
    deadline = time.monotonic() + 30
    while not store_root.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.remove(store_root)


def test_loads_when_the_store_goes_away(store_root, scheduler):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        count()
        (planned,) = dask.optimize(x + 1)
        put_file_in_place(store_root)
        result = compute_with_one_warning(
            planned, f"could not be read and was computed again, the result is right: .*{store_root}"
        )
    assert (result == EXPECTED + 1).all()
    assert count() == 4
    os.remove(store_root)


# Defects of our own.

PLACES = {
    "planning": ("optimizer.make_plan", "nothing is loaded or stored, and all is computed"),
    "behind the optimizer": ("optimizer.look_first", "nothing is loaded or stored, and all is computed"),
    "weighing": ("optimizer.weigh", "nothing is loaded or stored, and all is computed"),
    "writing": ("writing.write_block", "a block was computed and is not stored"),
    "listing": ("journal.put_pack", "what was stored is not listed"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_defect_costs_the_cache_alone(store_root, monkeypatch, caplog, place):
    def fail(*args, **kwargs):
        raise IndexError(f"of {place}")

    name, consequence = PLACES[place]
    monkeypatch.setattr(f"daskcache.{name}", fail)
    monkeypatch.setattr("daskcache.errors._warned", set())
    with daskcache.activate(policy="auto"), dask.config.set(scheduler="sync"):
        message = f"the pass failed, .*: {consequence}; please report IndexError: of {place}"
        assert (compute_with_one_warning(doubled() * 3, message) == EXPECTED * 3).all()
        assert (compute_silently(doubled() * 4) == EXPECTED * 4).all()
    assert count() == 8
    assert "in fail" in caplog.text, "where it was"


def test_what_another_optimizer_refuses_is_no_defect(store_root):
    def refuse(dsk, keys, **kwargs):
        raise LookupError("not this graph")

    with (
        dask.config.set(array_optimize=refuse),
        daskcache.activate(),
        pytest.raises(LookupError, match="not this"),
    ):
        daskcache.checkpoint(doubled(), "x").compute()


def test_what_is_meant_is_raised(store_root):
    x = da.arange(4, chunks=2).map_blocks(
        lambda block: block + os.getpid(), dtype="i8", meta=np.empty(0, "i8")
    )
    with (
        daskcache.activate(on_uncacheable="raise"),
        pytest.raises(UncacheableError, match="reads the environment"),
    ):
        daskcache.checkpoint(x, "x").compute()

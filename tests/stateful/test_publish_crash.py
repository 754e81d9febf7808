"""A publish that ends anywhere: a plain reader sees old or new chunks and valid documents, and the next one completes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import MemoryStore, WrapperStore

import daskcache
from daskcache.transfer import claims

CHUNK = 4


class Killed(BaseException):
    """Ends a publish as the end of its process would."""


class Mortal(WrapperStore):
    """A store whose process dies before some put; puts that run beside each other go first, as they may."""

    def __init__(self, store: Any = None, left: float = float("inf")) -> None:
        super().__init__(store if store is not None else MemoryStore())
        self.left = left

    async def set(self, key: str, value: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        await super().set(key, value)


def state(days: int, edits: tuple[int, ...] = ()) -> xr.Dataset:
    """Give a field of so many days, of which some were edited."""
    values = np.arange(days * 6.0).reshape(days, 6)
    values[list(edits)] += 1000
    t = da.concatenate(
        [da.from_array(values[i : i + CHUNK], chunks=(CHUNK, 3)) for i in range(0, days, CHUNK)]
    )
    when = pd.date_range("2001-01-01", periods=days)
    return xr.Dataset(
        {"t": (("time", "x"), t), "count": ("time", da.arange(days, chunks=CHUNK))}, {"time": when}
    )


def read(target: Any) -> xr.Dataset:
    return xr.open_zarr(target, chunks=None).load()


def check(target: Any, before: xr.Dataset, after: xr.Dataset) -> None:
    """Read as anybody would, chunk by chunk."""
    found = xr.open_zarr(target, chunks=None)
    for name, variable in found.variables.items():
        extents = [ds[name].shape for ds in (before, after)]
        assert variable.shape in extents
        values = variable.values
        for start in range(0, variable.shape[0], CHUNK):
            region = slice(start, start + CHUNK)
            part = values[region]
            candidates = [ds[name].values[region] for ds in (before, after)]
            if part.ndim == 1:
                # The edge of a shorter extent is a part of a longer one's chunk.
                assert any(np.array_equal(part, other[: len(part)]) for other in candidates), name
                continue
            for x in (slice(0, 3), slice(3, 6)):
                assert any(np.array_equal(part[:, x], other[: len(part), x]) for other in candidates), name


STATES = {"before": state(10), "after": state(14, (1, 5)), "later": state(14, (2,))}
BEFORE, AFTER, LATER = (ds.compute() for ds in STATES.values())


def copy_of(store: MemoryStore) -> MemoryStore:
    return MemoryStore({**store._store_dict})


@pytest.fixture(autouse=True)
def entries() -> None:
    for name, ds in STATES.items():
        daskcache.persist(ds, name)


def crash(target: Any, entry: str, left: int) -> bool:
    """Publish until the store dies; tell whether it did."""
    mortal = Mortal(target, left)
    try:
        daskcache.publish(entry, mortal)
    except Killed:
        return True
    return False


def test_a_crash_before_each_put() -> None:
    begun = MemoryStore()
    daskcache.publish("before", begun)
    crashes = 0
    for left in range(200):
        target = copy_of(begun)
        if not crash(target, "after", left):
            break
        crashes += 1
        check(target, BEFORE, AFTER)
        # What was withdrawn before it was written over is not taken for what it was.
        back = copy_of(target)
        daskcache.publish("later", back)
        xr.testing.assert_identical(read(back), LATER)
        daskcache.publish("after", target)
        xr.testing.assert_identical(read(target), AFTER)
        assert daskcache.publish("after", target).chunks == 0
    assert crashes > 15


def test_a_crash_before_each_put_of_the_first_publish() -> None:
    crashes = 0
    for left in range(200):
        target = MemoryStore()
        if not crash(target, "before", left):
            break
        crashes += 1
        with pytest.raises(FileNotFoundError):
            xr.open_zarr(target)
        daskcache.publish("after", target)
        xr.testing.assert_identical(read(target), AFTER)
    assert crashes > 10


def test_a_source_that_goes_back_after_a_crash() -> None:
    """Chunks were written over, and the old values are wanted again: that they were there once counts for nothing."""
    begun = MemoryStore()
    daskcache.publish("before", begun)
    other = state(10, (1, 5, 9))
    daskcache.persist(other, "other")
    for left in range(1, 30):
        target = copy_of(begun)
        if not crash(target, "other", left):
            break
        daskcache.publish("before", target)
        xr.testing.assert_identical(read(target), BEFORE)
    assert left > 5


def test_without_withdrawing_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test before tells: it fails where claims are not withdrawn first."""
    put = claims.withdraw

    def keep(store: Any, path: str, publisher: str, kept: Any) -> None:
        found = claims.read_claims(store, path)
        put(store, path, publisher, kept if found is None else {**found.chunks, **kept})

    monkeypatch.setattr(claims, "withdraw", keep)
    with pytest.raises(AssertionError):
        test_a_source_that_goes_back_after_a_crash()


PUBLISH = """
import os, sys, time, dask, daskcache
from daskcache.transfer import published
copy = published._copy
# A disk that takes its time, so that there is a moment to be killed in.
published._copy = lambda route, piece: (time.sleep(0.01), copy(route, piece))[1]
for _ in sys.stdin:
    # A process for each publish, which need not import all of it again.
    child = os.fork()
    if not child:
        with dask.config.set({"daskcache.store": sys.argv[1]}):
            print(os.getpid(), flush=True)
            daskcache.publish(sys.argv[2], sys.argv[3])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_processes_that_are_killed(tmp_path: Path, store_root: Path) -> None:
    days = 80
    versions = {"v0": state(days), "v1": state(days + 60, tuple(range(0, days, 3)))}
    for name, ds in versions.items():
        daskcache.persist(ds, name)
        versions[name] = ds.compute()
    target = str(tmp_path / "out.zarr")
    daskcache.publish("v0", target)
    opened_before = xr.open_zarr(target)
    chance = random.Random(5)
    killed = 0
    command = [sys.executable, "-c", PUBLISH, str(store_root), "v1", target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(8):
            parent.stdin.write(b"publish\n")
            child = int(parent.stdout.readline())
            time.sleep(chance.uniform(0.02, 0.12))
            with contextlib.suppress(ProcessLookupError):  # it may be done by then
                os.kill(child, signal.SIGKILL)
            killed += int(parent.stdout.readline()) == -signal.SIGKILL
            check(target, versions["v0"], versions["v1"])
            xr.testing.assert_identical(opened_before.time.load(), versions["v0"].time)
            assert opened_before.t.values.shape == (days, 6)
        parent.stdin.close()
    assert killed
    daskcache.publish("v1", target)
    xr.testing.assert_identical(read(target), versions["v1"])
    assert daskcache.publish("v1", target).chunks == 0

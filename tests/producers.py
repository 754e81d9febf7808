"""Functions of a user's that tell in a file how often they ran, in whatever process that was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import dask.array as da
import numpy as np
from dask.core import flatten

import daskcache
from daskcache import costs, journal, sharing
from daskcache.catalog import pack_blocks, read_packs
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens

CALLS = "TEST_CALLS"
"""Names, in the environment, the directory that gets one file for each call."""


def _note() -> None:
    open(os.path.join(os.environ[CALLS], uuid.uuid4().hex), "x").close()


def count(directory: Path | None = None) -> int:
    """Tell how often producers ran, and begin again from zero."""
    names = list(Path(directory or os.environ[CALLS]).iterdir())
    for name in names:
        name.unlink()
    return len(names)


@daskcache.version("1")
def double(block):
    """The producer of most tests."""
    _note()
    return block * 2


@daskcache.version("1")
def slowly(block, seconds):
    """A producer that leaves time to be killed."""
    _note()
    time.sleep(seconds)
    return block * 2


@daskcache.version("1")
def gated(block, seconds, gate):
    """A producer that lets as many calls pass as a file says, and all once the file is gone."""
    _note()
    with contextlib.suppress(FileNotFoundError):
        while len(os.listdir(os.environ[CALLS])) > int(Path(gate).read_text()):
            time.sleep(0.01)
    time.sleep(seconds)
    return block * 2


@daskcache.version("1")
def random(block):
    """A producer that gives other values each time, and hides it."""
    _note()
    return block + np.frombuffer(os.urandom(8), "u8")[0].astype(block.dtype)


@daskcache.version("1")
def ruin(block, root, at):
    """A producer that puts a file in the place of the store when it comes to some value."""
    _note()
    if at in block and os.path.isdir(root):
        file = Path(f"{root}-{uuid.uuid4().hex}")
        file.write_text("in the way")
        while file.exists():
            # A writer of another thread may make the directory again before the file is there.
            with contextlib.suppress(IsADirectoryError):
                os.rename(root, f"{root}-{uuid.uuid4().hex}")
                os.rename(file, root)
    return block * 2


@daskcache.version("1")
def kill_worker(block, flag):
    """A producer that ends its process, the first time."""
    _note()
    if 5 in block and not os.path.exists(flag):
        open(flag, "x").close()
        os._exit(1)
    return block * 2


def produced(function, *args, n: int = 12, chunks: int = 3) -> da.Array:
    """Make a pipeline of one call for each block, and none to find out what it gives."""
    return da.arange(n, chunks=chunks).map_blocks(function, *args, dtype="i8", meta=np.empty(0, "i8"))


def doubled(n: int = 12, chunks: int = 3) -> da.Array:
    """Make the pipeline of most tests."""
    return produced(double, n=n, chunks=chunks)


def objects(root: str | Path) -> list[Path]:
    """List a store's chunk objects."""
    return sorted(path for path in Path(root).glob("chunks/*/*") if not path.name.endswith(".partial"))


def leftovers(root: str | Path) -> list[Path]:
    """List what a writer has not finished."""
    return list(Path(root).rglob("*.partial"))


def listed(root: str | Path, namespace: str = "default") -> set[bytes]:
    """Give the tokens of the blocks that are listed without a name: of others nothing is known to the next run."""
    packs, errors = read_packs(str(root), namespace)
    assert not errors
    return {row.block.token for pack in packs.values() for row in pack_blocks(str(root), pack)}


def tokens_of(x: da.Array) -> set[bytes]:
    """Give the tokens of an array's blocks."""
    tokens = GraphTokens(x.dask, Fingerprinter())
    return {tokens.token(key) for key in flatten(x.__dask_keys__())}


def list_at_once(*, is_so: bool = True) -> None:
    """Have tasks of this process list each block before they end, and nobody else, however much time that takes."""
    journal._FLUSH_S, journal._COSTLIER = (0, 0) if is_so else _PACE
    journal._Journal._set_timer = (lambda self: None) if is_so else _SET_TIMER


def look_always() -> None:
    """Have tasks of this process look for their block whenever they begin, in what is listed by then."""
    sharing._PAUSE_S = sharing.COSTLIER = 0


def store_all() -> None:
    """Have the policy ``auto`` store whatever it weighs in this process, however long this machine takes for it."""
    costs.WORTH = 0


_PACE = journal._FLUSH_S, journal._COSTLIER
_SET_TIMER = journal._Journal._set_timer


def put_file_in_place(root: str | Path) -> None:
    """Make a store unreachable."""
    shutil.rmtree(root, ignore_errors=True)
    Path(root).parent.mkdir(parents=True, exist_ok=True)
    Path(root).write_text("in the way")


@daskcache.version("1")
def flaky(block, directory):
    """A producer that fails the first time for each block."""
    _note()
    try:
        open(os.path.join(directory, f"failed-{block.flat[0]}"), "x").close()
    except FileExistsError:
        return block * 2
    raise ConnectionError("the first time fails")


@daskcache.version("1")
def failing(block):
    """A producer that always fails."""
    _note()
    raise ArithmeticError("this block cannot be computed")


@daskcache.version("1")
def as_single(block):
    """A producer that returns another dtype than is declared."""
    _note()
    return (block * 2).astype("f4")


def die_in_write(flag: str, number: int) -> None:
    """Have this process killed in the middle of its n-th object, unless that has happened before."""
    from daskcache.stores import local

    if os.path.exists(flag):
        return
    write, written = local.write_all, []

    def write_half(descriptor, data):
        written.append(1)
        if len(written) == number:
            open(flag, "x").close()
            os.write(descriptor, bytes(data)[: len(bytes(data)) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(descriptor, data)

    local.write_all = write_half

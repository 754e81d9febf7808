"""Programs whose standard error somebody looks at: on a terminal, or through a pipe, as a notebook's kernel has it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]

PRELUDE = """
import os
import sys
import time

import dask
import dask.array as da
import numpy as np

import daskcache

@daskcache.version("1")
def wait_for(block, gate):
    while os.path.exists(gate):
        time.sleep(0.01)
    return block

@daskcache.version("1")
def last(block, seconds):
    time.sleep(seconds)
    return block

def made(function, argument):
    return da.arange(4, chunks=2).map_blocks(function, argument, dtype="i8", meta=np.empty(0, "i8"))

def tell(name):
    print("==", name, file=sys.stderr, flush=True)

def gated(name):
    "Begin a section, and give what is computed as soon as somebody has seen a bar in it."
    gate = os.path.join(os.environ["TEST_GATES"], name)
    open(gate, "x").close()
    tell(name)
    return made(wait_for, gate)
"""
BAR = "% Completed"


def watch(
    source: str, store: Path, gates: Path, *, terminal: bool, kernel: bool = False, **environment: str
) -> dict[str, str]:
    """Run a program, open the gate of each section once a bar is seen there, and give what each section showed.

    Whoever waits for a bar that does not come fails after a minute.
    """
    gates.mkdir(exist_ok=True)
    program = PRELUDE + textwrap.dedent(source)
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            _in_kernel(program) if kernel else program,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TEST_GATES": str(gates), "DASK_DASKCACHE__STORE": str(store), **environment},
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while data := _read(ours, seen):
                seen += data
                name, text = _sections(seen)[-1]
                if BAR in text:
                    (gates / name).unlink(missing_ok=True)
        finally:
            os.close(ours)
            process.kill()
    assert "Traceback" not in seen.decode(), seen.decode()
    return dict(_sections(seen))


def _in_kernel(program: str) -> str:
    """Give a program that runs another in IPython's own shell, which a notebook's kernel has set itself at."""
    return f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.kernel = object()
shell.run_cell({program!r}).raise_error()
"""


def _read(descriptor: int, seen: bytes) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], 60)
    assert ready, f"nothing more came after\n{seen.decode()}"
    try:
        return os.read(descriptor, 2**16)
    except OSError:  # what Linux says where nobody holds the terminal any more
        return b""


def _sections(seen: bytes) -> list[tuple[str, str]]:
    # A terminal has \\r\\n.
    first, *parts = seen.decode(errors="replace").replace("\r\n", "\n").split("== ")
    return [("", first), *((name, text) for part in parts for name, _, text in [part.partition("\n")])]

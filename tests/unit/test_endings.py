"""What a program leaves when it ends, fails or is interrupted: Python gives it no more threads then."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import daskcache
from daskcache.catalog import Catalog
from tests import producers
from tests.producers import count, leftovers, objects

BLOCKS = 8
# Blocks of 400 kB, which threads of their own compress.
PIPELINE = f"""
import os
import sys

import dask
import dask.array as da
import numpy as np

import daskcache
from tests.producers import failing, gated, produced, slowly

@daskcache.version("1")
def give(block, fails):
    if fails and len(os.listdir(os.environ["{producers.CALLS}"])) == 3:  # blocks come in an order of the process
        failing(block)
    return slowly(block, 0.1)

def make(function, *arguments):
    x = da.arange(50_000 * {BLOCKS}, chunks=50_000)
    return x.map_blocks(function, *arguments, dtype="i8", meta=np.empty(0, "i8"))
"""
ENVIRONMENT = {"DASK_DASKCACHE__ENABLED": "true", "DASK_DASKCACHE__POLICY": "outputs"}


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))
    return directory


def start(store_root, source):
    return subprocess.Popen(
        [sys.executable, "-c", PIPELINE + textwrap.dedent(source)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **ENVIRONMENT, "DASK_DASKCACHE__STORE": str(store_root)},
        # Jobs in the background of a shell ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_program_that_does_not_wait_for_what_it_persists(store_root):
    """The interpreter waits for it at its end."""
    process = start(store_root, 'daskcache.persist(make(give, False), "x", wait=False)')
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert count() == BLOCKS
    assert len(daskcache.open("x", store=str(store_root)).compute()) == 50_000 * BLOCKS


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_program_that_fails(store_root, scheduler):
    """What it has stored just before is found as well."""
    process = start(store_root, f'make(give, True).compute(scheduler="{scheduler}", num_workers=1)')
    assert process.communicate(timeout=60)[1].rstrip().endswith("this block cannot be computed")
    assert count() == 4
    assert len(Catalog(str(store_root)).token_index()) == len(objects(store_root)) == 3


def test_a_program_that_is_interrupted(store_root, tmp_path, calls):
    """Tasks that had begun are finished, stored and found, and nobody is told of a defect."""
    gate = tmp_path / "gate"
    gate.write_text("2")
    program = f'make(gated, 0.1, "{gate}").compute(num_workers=2)'
    process = start(store_root, program)
    deadline = time.monotonic() + 60
    while not objects(store_root) or len(list(calls.iterdir())) < len(objects(store_root)) + 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    gate.unlink()
    told = process.communicate(timeout=60)[1]
    assert told.startswith("Traceback")
    assert told.rstrip().endswith("KeyboardInterrupt")
    begun = count()
    assert begun == len(objects(store_root)) < BLOCKS
    assert not leftovers(store_root)
    assert len(Catalog(str(store_root)).token_index()) == begun
    assert start(store_root, program).communicate(timeout=60)[1] == ""
    assert count() == BLOCKS - begun

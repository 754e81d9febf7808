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
import time

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

@daskcache.version("1")
def unevenly(block):  # so that no two end together
    return slowly(block, 0.3 * (1 + len(os.listdir(os.environ["{producers.CALLS}"]))))

def make(function, *arguments, of=da.arange(50_000 * {BLOCKS}, chunks=50_000)):
    return of.map_blocks(function, *arguments, dtype="i8", meta=np.empty(0, "i8"))
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


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_program_that_does_not_wait_for_what_it_persists(store_root):
    """The interpreter waits for it at its end."""
    process = start(store_root, 'daskcache.persist(make(give, False), "x", wait=False)')
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert count() == BLOCKS
    assert len(daskcache.open("x", store=str(store_root)).compute()) == 50_000 * BLOCKS


@pytest.mark.parametrize("other", ["", ', of=da.zeros(400_000, dtype="i8", chunks=50_000)'])
def test_a_program_that_does_not_wait_and_does_not_compute_all(store_root, other):
    """Of blocks that are there, or equal to others, it reads the checksums: at its end without threads."""
    program = f'daskcache.persist(make(slowly, 0.3{other}), "x", wait=False)'
    if not other:
        process = start(store_root, program)
        wait_until(lambda: objects(store_root))
        process.kill()
        process.communicate()
        assert not (store_root / "namespaces/default/x").exists()
    assert start(store_root, program).communicate(timeout=60)[1] == ""
    assert len(daskcache.open("x", store=str(store_root)).compute()) == 50_000 * BLOCKS
    (variable,) = Catalog(str(store_root)).open("x").variables
    assert variable.checksums.all()


def test_a_program_that_does_not_wait_for_what_needs_threads(store_root):
    """What Zarr encodes fails at the end, and never hangs."""
    process = start(
        store_root,
        """
        @daskcache.version("1")
        def tell(block):
            return slowly(block, 0.3).astype("T")

        texts = da.arange(80, chunks=10).map_blocks(tell, dtype="T", meta=np.empty(0, "T"))
        daskcache.persist(texts, "x", wait=False)
        """,
    )
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    if told:
        assert told.startswith("a persist that was not waited for failed: RuntimeError: ")
        assert told.count("\n") == 1
    assert (store_root / "namespaces/default/x").exists() == (not told)


def test_a_program_that_is_interrupted_while_it_waits(store_root):
    """What it waits for is cancelled, and what had begun is stored."""
    process = start(
        store_root,
        """
        with dask.config.set(num_workers=2):
            daskcache.persist(make(unevenly), "x", wait=False)
        daskcache.last_run().wait()
        """,
    )
    wait_until(lambda: objects(store_root))
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert told.startswith("Traceback")
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert count() == len(objects(store_root)) < 5
    assert not leftovers(store_root)


def test_a_program_that_does_not_wait_for_what_fails(store_root):
    """The log has a line, and blocks that had begun are stored."""
    process = start(
        store_root,
        """
        @daskcache.version("1")
        def fail(block):
            if len(os.listdir(os.environ["TEST_CALLS"])) == 3:
                failing(block)
            return unevenly(block)

        with dask.config.set(num_workers=2):
            daskcache.persist(make(fail), "x", wait=False)
        """,
    )
    line = "a persist that was not waited for failed: ArithmeticError: this block cannot be computed\n"
    assert process.communicate(timeout=60)[1] == line
    assert count() == 4
    assert len(objects(store_root)) == 3
    assert not leftovers(store_root)


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
    wait_until(lambda: objects(store_root) and len(list(calls.iterdir())) >= len(objects(store_root)) + 2)
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

"""Results that are larger than what a process may hold: written block by block, also those in containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = 16 * 2**20

PROGRAM = """
import sys
import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import daskcache

blocks, form = int(sys.argv[2]), sys.argv[3]
dask.config.set({"daskcache.store": sys.argv[1], "scheduler": "threads", "num_workers": 2})


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@daskcache.version("1")
def fill(block_id):
    return np.full((1, 2**21), float(block_id[0]))


def field(blocks):
    x = da.map_blocks(fill, chunks=((1,) * blocks, (2**21,)), dtype="f8", meta=np.empty((0, 0)))
    return xr.Dataset({"t": (("time", "x"), x)}, {"time": pd.date_range("2000", periods=blocks)})


@daskcache.cache
def plain(blocks):
    return field(blocks)


@daskcache.cache
def held(blocks):
    return {"mean": 1.5, "parts": [field(blocks).t, field(blocks).t.data]}


@daskcache.timeseries("time")
@daskcache.cache
def clipped(blocks, start_time=None, end_time=None):
    return field(blocks)


call = {"plain": plain, "container": held, "timeseries": clipped}[form]
call(2)
before = peak()
call(blocks)
print(peak() - before)
"""


def grown(directory: Path, blocks: int, form: str) -> int:
    """Give by how many bytes the most memory that a process had grew while a result was stored."""
    arguments = [sys.executable, "-c", PROGRAM, str(directory / "store"), str(blocks), form]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("form", ["plain", "container", "timeseries"])
@pytest.mark.parametrize("blocks", [24, pytest.param(128, marks=pytest.mark.nightly)])
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
def test_memory_does_not_grow_with_the_result(tmp_path: Path, form: str, blocks: int) -> None:
    found = grown(tmp_path, blocks, form)
    # Two threads hold a few blocks each, and what they are encoded to.
    assert found < 10 * BLOCK, f"{found / BLOCK:.1f} blocks"

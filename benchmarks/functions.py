"""Recalling results of functions in a warm process: a small value, and a dataset of 100 MB that is opened lazily."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import xarray as xr
from measure import header

import daskcache

__all__ = ["run"]

CALLS = 200
SMALL_LIMIT_MS = 1.0
LARGE_LIMIT_MS = 10.0


@daskcache.cache
def small(number):
    return {"values": [1.5, 2.5, 3.5], "number": number}


@daskcache.cache
def large():
    steps = da.arange(100, chunks=10)[:, None] * da.ones((1, 131072))
    return xr.Dataset({"t": (("time", "x"), steps)}, {"time": range(100)})


def run(directory: Path, repeats: int) -> None:
    """Measure hits, beside the least that any store of files could do: read and parse a small JSON file."""
    header("functions: a warm hit, in ms of processor time")
    file = directory / "floor.json"
    file.write_text(json.dumps({"values": [1.5, 2.5, 3.5], "number": 1}))
    with dask.config.set({"daskcache.store": str(directory / "store")}):
        floor = _milliseconds(lambda: json.loads(file.read_text()))
        print(f"  reading and parsing a file of JSON           {floor}")
        print(
            f"  a small value                                {_milliseconds(lambda: small(1))} (limit {SMALL_LIMIT_MS})"
        )
        print(
            f"  the same, nothing verified                   {_milliseconds(lambda: small(1, verify='never'))}"
        )
        print(
            f"  the same, from memory                        {_milliseconds(lambda: small(1, memoize=True))}"
        )
        print(
            f"  {large().nbytes >> 20} MB of a dataset, opened lazily        {_milliseconds(large)} (limit {LARGE_LIMIT_MS})"
        )


def _milliseconds(call: Callable[[], object]) -> str:
    call()
    costs = []
    for _ in range(CALLS):
        before = time.process_time()
        call()
        costs.append(1000 * (time.process_time() - before))
    return f"{statistics.median(costs):6.2f} (least {min(costs):.2f})"

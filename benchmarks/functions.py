"""Cached functions: recalled in a warm process, and called for the first time against ``to_zarr``."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import pandas as pd
import xarray as xr
from measure import compare, header
from workloads import LATITUDES, LONGITUDES, dataset, remove, to_zarr
from zarr.codecs import BloscCodec, Crc32cCodec

import daskcache

__all__ = ["run"]

CALLS = 200
SMALL_LIMIT_MS = 1.0
LARGE_LIMIT_MS = 10.0
COLD_LIMIT = 1.05
BLOCKS, MEGABYTES = 12, 16
DAYS = MEGABYTES * 10**6 // (4 * LATITUDES * LONGITUDES)


@daskcache.cache
def small(number):
    return {"values": [1.5, 2.5, 3.5], "number": number}


@daskcache.cache
def large():
    steps = da.arange(100, chunks=10)[:, None] * da.ones((1, 131072))
    return xr.Dataset({"t": (("time", "x"), steps)}, {"time": range(100)})


def fields(number: int, is_costly: bool) -> xr.Dataset:
    data = dataset(DAYS, BLOCKS, is_costly=is_costly, seed=number / 8)
    return data.assign_coords(time=pd.date_range("2000", periods=DAYS * BLOCKS))


@daskcache.cache
def whole(number, is_costly):
    return fields(number, is_costly)


@daskcache.timeseries("time")
@daskcache.cache
def hinted(number, is_costly, start_time=None, end_time=None):
    return fields(number, is_costly)


def run(directory: Path, repeats: int) -> None:
    """Measure first calls against ``to_zarr``, and hits beside the least that any store of files could do."""
    header("functions: first call / to_zarr of the same graph and codecs")
    inner = _inner_shape(directory)
    for is_costly, label in ((True, "costly"), (False, "cheap")):
        for function, shape, what in (
            (whole, None, "cached"),
            (hinted, None, "@timeseries"),
            (hinted, inner, "@timeseries, to_zarr of such shards"),
        ):
            _compare_cold(f"{label} map, {what}", function, shape, is_costly, directory, repeats)
    _run_warm(directory)


def _inner_shape(directory: Path) -> tuple[int, ...]:
    """Give the inner chunks that the default hints make of the blocks."""
    with dask.config.set({"daskcache.store": str(directory / "ours")}):
        found = hinted(0, False).t2m.data
    block = next(part for part in _parts_of(found.dask[(found.name, 0, 0, 0)]) if hasattr(part, "spec"))
    return block.spec.inner_shape


def _parts_of(task) -> list[object]:
    return [getattr(argument, "value", argument) for argument in task.args]


def _compare_cold(label, function, inner, is_costly, directory: Path, repeats: int) -> None:
    def ours(number: int) -> Callable[[], object]:
        store = directory / "ours"
        remove(store)

        def call() -> object:
            with dask.config.set({"daskcache.store": str(store)}):
                return function(number, is_costly)

        return call

    def theirs(number: int) -> Callable[[], object]:
        path, data = directory / "theirs", fields(number, is_costly)
        remove(path)
        return lambda: to_zarr(data, path) if inner is None else _to_shards(data, path, inner)

    compare(label, ours, theirs, repeats=repeats, limit=COLD_LIMIT)


def _to_shards(data: xr.Dataset, path: Path, inner: tuple[int, ...]) -> None:
    """Write what `to_zarr` writes in shards: zarr has no checksum of a shard, as we have none."""
    codecs = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec())
    encoding = {
        "t2m": {
            "compressors": codecs,
            "_FillValue": None,
            "chunks": inner,
            "shards": (DAYS, LATITUDES, LONGITUDES),
        }
    }
    padded = [
        -(-size // part) * part for size, part in zip((DAYS, LATITUDES, LONGITUDES), inner, strict=True)
    ]
    encoding["t2m"]["shards"] = tuple(padded)
    data.drop_encoding().to_zarr(
        path, encoding=encoding, consolidated=False, write_empty_chunks=True, mode="w", safe_chunks=False
    )


def _run_warm(directory: Path) -> None:
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

"""Warm recall against ``open_zarr`` of the same chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr
from measure import compare, header
from workloads import LATITUDES, LONGITUDES, dataset, remove, to_zarr

import daskcache

__all__ = ["run"]

LIMIT = 1.05
DAY_BYTES = 4 * LATITUDES * LONGITUDES


def run(directory: Path, repeats: int) -> None:
    """Measure opening by name, and persisting the whole pipeline again, each with compute."""
    header("warm: recall and compute / open_zarr and compute, the same codecs, threads")
    for megabytes, blocks in ((1, 200), (4, 64), (16, 24)):
        days = megabytes * 10**6 // DAY_BYTES
        data = dataset(days, blocks, is_costly=False)
        store, path = directory / "ours", directory / "theirs"
        daskcache.persist(data, "entry", store=str(store))
        to_zarr(data, path)

        def theirs(number: int, path: Path = path) -> Callable[[], object]:
            return lambda: xr.open_zarr(path, consolidated=False).compute()

        def opened(number: int, store: Path = store) -> Callable[[], object]:
            return lambda: daskcache.open("entry", store=str(store)).compute()

        def persisted(number: int, store: Path = store, data: xr.Dataset = data) -> Callable[[], object]:
            return lambda: daskcache.persist(data, "entry", store=str(store)).compute()

        label = f"{blocks} blocks of {megabytes} MB"
        compare(f"open, {label}", opened, theirs, repeats=repeats, limit=LIMIT)
        compare(f"persist again, {label}", persisted, theirs, repeats=repeats, limit=LIMIT)
        remove(store)
        remove(path)

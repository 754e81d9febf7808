"""Cold persist against ``to_zarr`` with the same codecs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr
from measure import compare, header
from workloads import LATITUDES, LONGITUDES, dataset, from_zarr, remove, to_zarr

import daskcache

__all__ = ["run"]

LIMIT = 1.05
DAY_BYTES = 4 * LATITUDES * LONGITUDES


def run(directory: Path, repeats: int) -> None:
    """Measure costly and cheap maps, made by tasks and read from Zarr, in chunks of 1, 4 and 16 MB."""
    header("cold: persist / to_zarr of the same graph, the same codecs, threads")
    for is_costly, label in ((True, "costly map"), (False, "cheap map")):
        for megabytes, blocks in ((1, 96), (4, 32), (16, 12)):
            days = megabytes * 10**6 // DAY_BYTES

            def make(
                number: int, days: int = days, blocks: int = blocks, is_costly: bool = is_costly
            ) -> xr.Dataset:
                return dataset(days, blocks, is_costly=is_costly, seed=number / 8)

            _compare(f"{label}, {blocks} blocks of {megabytes} MB", make, directory, repeats)
    for megabytes, blocks in ((1, 96), (4, 32), (16, 12)):
        days = megabytes * 10**6 // DAY_BYTES
        source = directory / f"source-{megabytes}"

        def read(number: int, source: Path = source, days: int = days, blocks: int = blocks) -> xr.Dataset:
            return from_zarr(source, days, blocks)

        _compare(f"from Zarr, cheap map, {blocks} blocks of {megabytes} MB", read, directory, repeats)
        remove(source)


def _compare(label: str, make: Callable[[int], xr.Dataset], directory: Path, repeats: int) -> None:
    def ours(number: int) -> Callable[[], object]:
        store, data = directory / "ours", make(number)
        remove(store)
        return lambda: daskcache.persist(data, "entry", store=str(store))

    def theirs(number: int) -> Callable[[], object]:
        path, data = directory / "theirs", make(number)
        remove(path)
        return lambda: to_zarr(data, path)

    compare(label, ours, theirs, repeats=repeats, limit=LIMIT)

"""A persist of 10,000 small blocks of which most are stored: what planning costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
from measure import compare, header

import daskcache

__all__ = ["run"]

BLOCKS = 10_000
NEW = 100


def run(directory: Path, repeats: int) -> None:
    """Measure persisting again with some blocks more against dask's own optimizer of the whole graph."""
    header(
        f"partial: {BLOCKS} blocks of which {NEW} are new; dask's own is to optimise the graph, nothing run"
    )
    store = str(directory / "store")
    daskcache.persist(_grown(0), "entry", store=store)

    def partly(number: int) -> Callable[[], object]:
        array = _grown(NEW * (number + 1))
        return lambda: daskcache.persist(array, f"partly-{number}", store=store)

    def wholly(number: int) -> Callable[[], object]:
        array = _grown(0)
        return lambda: daskcache.persist(array, "entry", store=store)

    def optimize(number: int) -> Callable[[], object]:
        array = _grown(0)
        return lambda: dask.optimize(array)

    compare(f"persist, {NEW} blocks new", partly, optimize, repeats=min(repeats, 5))
    compare("persist, nothing new", wholly, optimize, repeats=min(repeats, 5))


def _grown(new: int) -> da.Array:
    array = da.arange((BLOCKS + new) * 4, chunks=4).map_blocks(_scaled, 3, dtype="i8")
    return array + 1


def _scaled(block: Any, factor: int) -> Any:
    return block * factor

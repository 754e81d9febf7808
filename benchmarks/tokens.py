"""Tokens and the whole pass against dask's own optimizer of the same graph."""

from __future__ import annotations

import functools
import operator
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import pandas as pd
import xarray as xr
from dask.array.optimization import optimize as optimize_with_dask
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.order import order
from measure import compare, header, timed

import daskcache
from daskcache.config import Settings
from daskcache.fingerprint import Fingerprinter
from daskcache.optimizer import Optimizer, rewrite
from daskcache.tokens import GraphTokens
from daskcache.tokens.collecting import without_collecting

__all__ = ["run"]

SIDE = 200
LARGE, SMALL = 650, 80
"""Blocks in time of the mixture, of some 1,540 tasks each."""
DASK_US = 120
"""What dask's optimize and order take of the mixture, a task, on the machine for which the limits are given."""
MOST_TOKENS_US, MOST_US = 5, 8
"""What tokens, and the whole pass, may take there."""


def run(directory: Path, repeats: int) -> None:
    """Measure a graph of blockwise layers, the same materialised, and one of slices and concatenations."""
    settings = Settings.from_config(store=str(directory / "store"))
    # An index that is not empty, so that the pass has something to look up; it finds nothing.
    daskcache.persist(da.ones(2, chunks=1) + 3, "other", store=settings.store)
    repeats = max(repeats // 2, 3)
    for label, make in (
        ("blockwise", _elementwise),
        ("materialised", lambda: _materialised(_elementwise())),
        ("overlapping", _overlapping),
        ("reduction, materialised", lambda: _materialised(_reduction())),
        ("groupby of flox, materialised", lambda: _materialised(_grouped())),
        ("rechunked, materialised", lambda: _materialised(_rechunked())),
    ):
        _measure(label, make, settings, repeats)
    _measure_large(settings)
    _measure_policies(settings)


def _measure_policies(settings: Settings) -> None:
    """Measure all of the pass but dask's optimize: also looking first and weighing, by which tasks are wrapped."""
    _measure_added(LARGE, settings, "nothing stored", 3)
    _measure_added(SMALL, settings, "nothing stored", 5)
    for size, label, share, repeats in (
        (LARGE, "a hundredth of one layer stored", 0.01, 3),
        (SMALL, "half of one layer stored", 0.5, 5),
        (SMALL, "all of that layer stored", 1, 5),
    ):
        base = _base(size)
        daskcache.persist(
            base.blocks[: int(size * share)], "base", store=settings.store, namespace=f"part-{size}"
        )
        _measure_added(size, replace(settings, namespace=f"part-{size}"), label, repeats)


def _measure_added(size: int, settings: Settings, label: str, repeats: int) -> None:
    array = _mixed(size)
    count = sum(map(len, array.dask.layers.values()))
    header(f"tokens: all of the pass under each policy, {count} tasks, {array.npartitions} outputs, {label}")
    keys = array.__dask_keys__()
    # Functions are seen once a process, and layers of dask's may make their tasks when they are asked for them.
    few = _mixed(2)
    Optimizer(settings)(few.dask, few.__dask_keys__())
    optimize_with_dask(array.dask, keys)
    without = min(timed(partial(optimize_with_dask, array.dask, keys)).cpu_s for _ in range(repeats))
    for policy in ("checkpoints", "outputs", "auto"):
        dasks: list[float] = []
        # As the pass calls it, which would else be given what the search for garbage costs dask.
        optimizer = Optimizer(replace(settings, policy=policy), without_collecting(partial(_note, dasks)))
        whole = [timed(partial(optimizer, array.dask, keys)).cpu_s for _ in range(repeats)]
        ours = min(map(operator.sub, whole, dasks))
        print(
            f"  {policy:<44} {1e6 * ours / count:5.2f} µs a task   {_beside_dask(1e6 * ours / count, MOST_US, size)}; with dask's "
            f"optimize {1e6 * min(whole) / count:.1f} µs, x{min(whole) / without:.2f} of that without the pass",
            flush=True,
        )


@functools.cache
def _time_dask(size: int) -> float:
    """Measure what dask's optimize and order take of a mixture, in microseconds a task."""
    array = _mixed(size)
    costs = [timed(lambda: order(optimize_with_dask(array.dask, array.__dask_keys__()))) for _ in range(2)]
    return 1e6 * min(cost.cpu_s for cost in costs) / sum(map(len, array.dask.layers.values()))


def _beside_dask(ours: float, most: float, size: int) -> str:
    """Give a time as a ratio to its limit; of the large mixture, for which that is given, to dask's in the same run."""
    if size != LARGE:
        return f"x{ours / most:.2f} of the limit of {most} µs"
    ratio = ours / _time_dask(size)
    return (
        f"x{ratio:.3f} of dask's optimize and order, {_time_dask(size):.0f} µs; x{ratio / (most / DASK_US):.2f} of the limit "
        f"of {most} µs beside {DASK_US}"
    )


def _note(dasks: list[float], dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Optimize as dask does, and note how long it takes."""
    before = time.process_time()
    result = optimize_with_dask(dsk, keys, **kwargs)
    dasks.append(time.process_time() - before)
    return result


def _measure_large(settings: Settings) -> None:
    """Measure a mixture of a million tasks: elementwise, reductions, a groupby of flox, a rechunk."""
    array = _mixed(LARGE)
    count = sum(map(len, array.dask.layers.values()))
    header(f"tokens: a mixture, {count} tasks, {array.npartitions} outputs, the least of three")
    # Once before: a layer of dask's may make its tasks when it is asked for them, and functions are seen once a process.
    GraphTokens(array.dask, Fingerprinter()).token(_flat(array)[0])
    make_tokens = without_collecting(lambda: GraphTokens(array.dask, Fingerprinter()).evaluate(_flat(array)))
    make_all = partial(rewrite, array.dask, array.__dask_keys__(), settings)
    for label, run_once, most in (
        ("tokens", make_tokens, MOST_TOKENS_US),
        ("the pass before dask's optimize", make_all, MOST_US),
    ):
        ours = 1e6 * min(timed(run_once).cpu_s for _ in range(3)) / count
        print(f"  {label:<44} {ours:5.2f} µs a task   {_beside_dask(ours, most, LARGE)}", flush=True)
    tracemalloc.start()
    rewrite(array.dask, array.__dask_keys__(), settings)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"  the pass, at most {most / count:34.0f} bytes a task", flush=True)


def _measure(label: str, make: Callable[[], da.Array], settings: Settings, repeats: int) -> None:
    array = make()
    keys = array.__dask_keys__()
    tokens = GraphTokens(array.dask, Fingerprinter())
    count = len(tokens.evaluate(_flat(array)))
    header(f"tokens: {label}, {count} tasks, {array.npartitions} outputs")

    def token(number: int) -> Callable[[], object]:
        graph = make().dask
        return lambda: GraphTokens(graph, Fingerprinter()).evaluate(_flat(array))

    def rewrite(number: int) -> Callable[[], object]:
        graph, optimizer = make().dask, Optimizer(settings)
        return lambda: optimizer(graph, keys)

    def optimize(number: int) -> Callable[[], object]:
        graph = make().dask
        return lambda: optimize_with_dask(graph, keys)

    compare("tokens / dask's optimize", token, optimize, repeats=repeats)
    compare("pass and dask's optimize / dask's optimize", rewrite, optimize, repeats=repeats)
    cost = min((timed(token(0)) for _ in range(3)), key=lambda cost: cost.cpu_s)
    graph = make().dask
    dict(graph)
    tracemalloc.start()
    kept = GraphTokens(graph, Fingerprinter())
    found = kept.evaluate(_flat(array))
    nbytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"  {1e6 * cost.cpu_s / count:.1f} µs and {nbytes / len(found):.0f} bytes a task", flush=True)


def _flat(array: da.Array) -> list[Any]:
    return [(array.name, *index) for index in _indices(array.numblocks)]


def _indices(numblocks: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for count in numblocks:
        found = [(*index, i) for index in found for i in range(count)]
    return found


def _elementwise() -> da.Array:
    x = da.ones((SIDE, SIDE), chunks=1)
    return (x + 1) * x.T - 2


def _materialised(array: da.Array) -> da.Array:
    layers = {name: MaterializedLayer(dict(layer)) for name, layer in array.dask.layers.items()}
    graph = HighLevelGraph(layers, array.dask.dependencies)
    return da.Array(graph, array.name, array.chunks, meta=array._meta)


def _overlapping() -> da.Array:
    x = da.ones((SIDE // 2 * 4, SIDE // 2 * 4), chunks=4)
    return da.map_overlap(_smooth, x, depth=1, boundary="reflect", meta=x._meta)


def _reduction() -> da.Array:
    return (da.ones((SIDE, SIDE), chunks=1) + 1).mean(split_every=4)


def _grouped() -> da.Array:
    times = pd.date_range("2001-01-01", periods=3650, freq="D")
    data = xr.DataArray(da.ones((3650, 60), chunks=(10, 1)), {"time": times}, ("time", "x"))
    return data.groupby("time.month").mean(method="map-reduce").data


def _rechunked() -> da.Array:
    return (da.ones((SIDE * 600, 4), chunks=(6, 4)) + 1).rechunk((4, 2))


def _base(count: int) -> da.Array:
    x = da.ones((10 * count, 40, 40), chunks=(10, 4, 4))
    return (x + 1) * 2 - x.mean(axis=0)


def _mixed(count: int) -> da.Array:
    times = pd.date_range("1950-01-01", periods=10 * count, freq="D")
    x = _base(count)
    monthly = xr.DataArray(x, {"time": times}, ("time", "lat", "lon")).groupby("time.month")
    rechunked = x.rechunk((7, 5, 4))
    means = rechunked.mean(), monthly.mean(method="map-reduce").data.mean()
    return da.stack([*means, rechunked.max(axis=(1, 2)).sum()])


def _smooth(block: Any) -> Any:
    return block

"""What growth keeps: a source of 720 days in blocks of 30 grows by a block, and old blocks keep their tokens.

Lost is what really depends on the new data, or what dask cuts elsewhere once the axis is longer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

import daskcache
from daskcache.datasets import outline
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens

OLD, NEW, BLOCK = 720, 750, 30
BASELINE = slice(None, "2000-12-31")


def days(count: int, start: str = "2000-01-01") -> xr.Dataset:
    """Make a field whose first days do not depend on how many there are."""
    # Never twice the same value: equal blocks would share a token for another reason.
    values = np.sin(np.arange(count * 6.0) ** 1.1 + pd.Timestamp(start).day_of_year).reshape(count, 2, 3)
    return xr.Dataset(
        {"t": (("time", "lat", "lon"), values)},
        coords={"time": pd.date_range(start, periods=count), "lat": [1.0, 2.0], "lon": [1.0, 2.0, 3.0]},
    )


def from_memory(root: Path, count: int) -> xr.Dataset:
    return days(count).chunk(time=BLOCK)


def from_zarr(root: Path, count: int) -> xr.Dataset:
    if not (root / "source.zarr").exists():
        days(OLD).chunk(time=BLOCK).to_zarr(root / "source.zarr", zarr_format=2)
    if count > OLD:
        new = days(count).isel(time=slice(OLD, None)).chunk(time=BLOCK)
        new.to_zarr(root / "source.zarr", append_dim="time")
    return xr.open_zarr(root / "source.zarr")


def from_files(root: Path, count: int) -> xr.Dataset:
    names = [root / f"{start:04}.nc" for start in range(0, count, BLOCK)]
    for start, name in zip(range(0, count, BLOCK), names, strict=True):
        if not name.exists():
            days(count).isel(time=slice(start, start + BLOCK)).to_netcdf(name, engine="h5netcdf")
    return xr.open_mfdataset([str(name) for name in names], engine="h5netcdf", chunks={})


SOURCES: dict[str, Callable[[Path, int], xr.Dataset]] = {
    "memory": from_memory,
    "zarr": from_zarr,
    "files": from_files,
}


def anomaly(ds: xr.Dataset, group: str, period: slice) -> xr.Dataset:
    return ds.groupby(group) - ds.sel(time=period).groupby(group).mean()


def twice(block: Any) -> Any:
    return block * 2


def twice_with_id(block: Any, block_id: Any = None) -> Any:
    return block * 2


def twice_with_info(block: Any, block_info: Any = None) -> Any:
    return block * 2


Operation = Callable[[xr.Dataset], Any]

# Operation: how it is applied, how many blocks there were, how many of them are lost.
OPERATIONS: dict[str, tuple[Operation, int, int]] = {
    # All old blocks are kept.
    "elementwise": (lambda ds: np.sqrt(abs(ds * 2 + 1)), 24, 0),
    "time coordinate": (lambda ds: ds * ds.time.dt.dayofyear, 24, 0),
    "where": (lambda ds: ds.where(ds.time.dt.month > 3), 24, 0),
    "spatial mean": (lambda ds: ds.mean(("lat", "lon")), 24, 0),
    "weighted mean": (lambda ds: ds.weighted(np.cos(np.deg2rad(ds.lat))).mean(("lat", "lon")), 24, 0),
    "spatial interpolation": (lambda ds: ds.interp(lat=[1.2, 1.7]), 24, 0),
    "cumsum": (lambda ds: ds.cumsum("time"), 24, 0),
    "parallel cumsum": (lambda ds: da.cumsum(ds.t.data, axis=0, method="blelloch"), 24, 0),
    "forward fill": (lambda ds: ds.ffill("time"), 24, 0),
    "concat": (lambda ds: xr.concat([ds, ds * 2], dim="member"), 48, 0),
    "concat before": (lambda ds: xr.concat([days(60, "1999-11-02").chunk(time=30), ds], "time"), 26, 0),
    "anomaly of months": (lambda ds: anomaly(ds, "time.month", BASELINE), 720, 0),
    "xr.map_blocks": (lambda ds: xr.map_blocks(twice, ds, template=ds), 24, 0),
    "block_id": (lambda ds: ds.t.data.map_blocks(twice_with_id, dtype="f8"), 24, 0),
    "apply_ufunc": (lambda ds: xr.apply_ufunc(twice, ds, dask="parallelized"), 24, 0),
    "rechunk in time": (lambda ds: ds.chunk(time=45), 16, 0),
    "coarsen": (lambda ds: ds.coarsen(time=10).mean(), 24, 0),
    "coarsen across blocks": (lambda ds: ds.coarsen(time=20, boundary="trim").mean(), 36, 0),
    # All but those at the edge. dask cuts the last leap day of a daily climatology elsewhere.
    "anomaly of days": (lambda ds: anomaly(ds, "time.dayofyear", BASELINE), 48, 1),
    "diff": (lambda ds: ds.diff("time"), 47, 1),
    "shift": (lambda ds: ds.shift(time=2), 24, 1),
    "shift back": (lambda ds: ds.shift(time=-2), 24, 1),
    "map_overlap": (lambda ds: ds.t.data.map_overlap(twice, depth={0: 2}, boundary="none"), 24, 1),
    "map_overlap, reflected": (lambda ds: ds.t.data.map_overlap(twice, {0: 2}, "reflect"), 24, 1),
    "resample months": (lambda ds: ds.resample(time="ME").mean(), 24, 1),
    "resample months, max": (lambda ds: ds.resample(time="MS").max(), 24, 1),
    "rolling": (lambda ds: ds.rolling(time=7).mean().t.data.rechunk({1: -1, 2: -1}), 24, 1),
    "rolling max": (lambda ds: ds.rolling(time=7).max().t.data.rechunk({1: -1, 2: -1}), 24, 1),
    # xarray pads a centred window, and dask cuts the padding off as a block of one day: two blocks and that one.
    "rolling, centred": (
        lambda ds: ds.rolling(time=7, center=True).mean().t.data.rechunk({1: -1, 2: -1}),
        25,
        3,
    ),
    # Part, or what is inherent.
    "resample years": (lambda ds: ds.sel(time=slice("2001")).resample(time="YE").mean(), 1, 1),
    "groupby days": (lambda ds: ds.groupby("time.dayofyear").mean(), 25, 5),
    "groupby months": (lambda ds: ds.groupby("time.month").mean(), 12, 2),
    "anomaly of the whole": (lambda ds: anomaly(ds, "time.month", slice(None)), 720, 113),
    "whole mean": (lambda ds: ds.mean("time"), 1, 1),
    "whole quantile": (lambda ds: ds.chunk(time=-1).quantile(0.5, "time"), 1, 1),
    "backward fill": (lambda ds: ds.bfill("time"), 24, 24),
    "one chunk": (lambda ds: ds.chunk(time=-1), 1, 1),
    # The function is told how many blocks there are.
    "block_info": (lambda ds: ds.t.data.map_blocks(twice_with_info, dtype="f8"), 24, 24),
}
# Groups that come back each year hold the first days as well as the last.
SCATTERED = {"groupby days", "groupby months", "anomaly of the whole"}
TABLE = [
    "elementwise",
    "time coordinate",
    "spatial mean",
    "cumsum",
    "forward fill",
    "concat",
    "anomaly of months",
]
TABLE += ["diff", "rolling", "resample months", "groupby months", "whole mean", "backward fill"]


def block_tokens(obj: Any) -> list[bytes]:
    """Give the tokens of all blocks."""
    _, arrays = outline(obj)
    tokens = GraphTokens(HighLevelGraph.merge(*(array.dask for array in arrays.values())), Fingerprinter())
    found = [tokens.token(key) for key in keys_of(list(arrays.values()))]
    assert None not in found
    return [token for token in found if token is not None]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("source", ["memory", "zarr"])
def test_growth_keeps_what_does_not_depend_on_it(source: str, name: str, tmp_path: Path) -> None:
    check(source, name, tmp_path)


@pytest.mark.parametrize("name", TABLE)
def test_one_more_file_keeps_the_blocks_of_the_others(name: str, tmp_path: Path) -> None:
    check("files", name, tmp_path)


def check(source: str, name: str, root: Path) -> None:
    operation, count, lost = OPERATIONS[name]
    if source == "memory" and name in ("diff", "shift"):
        # Values at hand are compared by value, wherever dask cuts them.
        lost = 0
    before = block_tokens(operation(SOURCES[source](root, OLD)))
    after = block_tokens(operation(SOURCES[source](root, NEW)))
    assert len(before) == len(set(before)) == count
    kept = set(after)
    places = [place for place, token in enumerate(before) if token not in kept]
    assert len(places) == lost
    if name not in SCATTERED:
        assert places == list(range(count - lost, count)), "what lies at the edge is lost, nothing else"


@pytest.mark.parametrize("source", ["zarr", "files"])
@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("elementwise", 1),
        ("cumsum", 1),
        ("forward fill", 1),
        ("diff", 3),
        ("rolling", 2),
        ("resample months", 2),
        ("anomaly of months", 30),
        ("anomaly of days", 3),
    ],
)
def test_a_second_persist_computes_only_the_new_blocks(
    name: str, computed: int, source: str, tmp_path: Path
) -> None:
    operation = OPERATIONS[name][0]
    kept = daskcache.persist(operation(SOURCES[source](tmp_path, OLD)), "grown")
    first = daskcache.last_run()
    grown = operation(SOURCES[source](tmp_path, NEW))
    result = daskcache.persist(grown, "grown")
    run = daskcache.last_run()
    assert first is not None
    assert run is not None
    assert (first.computed, first.reused) == (OPERATIONS[name][1], 0)
    assert (run.computed, run.reused) == (computed, run.blocks - computed)
    expected = operation(days(NEW).chunk(time=BLOCK))
    if isinstance(kept, da.Array):
        np.testing.assert_array_equal(result.compute(), expected.compute())
    else:
        xr.testing.assert_identical(result.compute(), expected.compute())

"""What is asked of a cached function along time decides what is computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.processors import region, select, timeseries
from tests.producers import CALLS, count, double

DAYS = 360
BLOCK = 30


def make(days: int = DAYS) -> xr.Dataset:
    """A year of fields in blocks of a month of thirty days."""
    values = np.arange(days * 6 * 8, dtype="f4").reshape(days, 6, 8)
    ds = xr.Dataset(
        {"t": (("time", "lat", "lon"), values)},
        {
            "time": pd.date_range("2001-01-01", periods=days),
            "lat": np.linspace(-50, 50, 6),
            "lon": np.arange(8) * 45.0,
        },
    )
    return ds.chunk(time=BLOCK)


def twice(ds: xr.Dataset) -> xr.Dataset:
    meta = np.empty((0, 0, 0), "f4")
    return ds.assign(t=ds.t.copy(data=ds.t.data.map_blocks(double, dtype="f4", meta=meta)))


@daskcache.cache
@timeseries("time")
def doubled_below(start_time=None, end_time=None):
    return twice(make())


@timeseries("time")
@daskcache.cache
def doubled_clipping(start_time=None, end_time=None):
    return twice(make().sel(time=slice(start_time, end_time)))


@timeseries("time")
@region()
@daskcache.cache
@select("lat")
def chained(start_time=None, end_time=None, lat=None):
    return twice(make())


@pytest.fixture
def active(tmp_path, monkeypatch):
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    (tmp_path / "calls").mkdir()
    with daskcache.activate(str(tmp_path / "store")):
        yield


def day(number: int) -> str:
    return str((pd.Timestamp("2001-01-01") + pd.Timedelta(days=number)).date())


def expected(first: int, last: int) -> xr.Dataset:
    return make().isel(time=slice(first, last + 1)).compute() * 2


@pytest.mark.parametrize("function", [doubled_below, doubled_clipping], ids=["ignoring", "clipping"])
def test_extensions_and_holes_compute_only_the_missing_blocks(active, function) -> None:
    # First and last day that are asked for, and the blocks that this must compute.
    asked = [
        (60, 119, 2),
        (60, 119, 0),
        (60, 179, 2),
        (0, 179, 2),
        (270, 359, 3),
        (180, 269, 3),
        (0, 359, 0),
    ]
    for first, last, blocks in asked:
        found = function(start_time=day(first), end_time=day(last))
        xr.testing.assert_identical(found.compute(), expected(first, last))
        assert count() == blocks, (first, last)


def test_what_is_inside_computes_nothing(active) -> None:
    doubled_below("2001-01-01", "2001-06-29").compute()
    assert count() == 6
    for first, last in [(0, 5), (10, 100), (29, 30), (179, 179)]:
        found = doubled_below(day(first), day(last))
        xr.testing.assert_identical(found.compute(), expected(first, last))
    assert count() == 0


def test_a_cut_block_is_computed_whole_and_serves_what_comes_later(active) -> None:
    doubled_below(day(40), day(50)).compute()
    assert count() == 1
    xr.testing.assert_identical(doubled_below(day(35), day(59)).compute(), expected(35, 59))
    assert count() == 0


def test_processors_in_any_order(active) -> None:
    found = chained(day(0), day(29), lat=[-50, 50], region=(-100, -90, 100, 90))
    assert found.t.shape == (30, 2, 5)
    np.testing.assert_array_equal(found.lon, [270, 315, 0, 45, 90])
    want = expected(0, 29).sel(lat=[-50, 50], lon=[270, 315, 0, 45, 90])
    xr.testing.assert_identical(found.compute(), want)
    assert count() == 1
    assert chained(day(3), day(4), lat=30).t.shape == (2, 8)
    assert count() == 0

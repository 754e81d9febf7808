"""What is asked of a cached function along time decides what is computed."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.errors import InvalidInputError
from daskcache.processors import region, select, timeseries
from tests.producers import CALLS, _note, count, double

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


@daskcache.version("1")
def noted() -> None:
    _note()


@timeseries("time")
@daskcache.cache
def table(start_time=None, end_time=None):
    noted()
    labels = pd.date_range(start_time, end_time)
    return pd.DataFrame({"time": labels, "v": labels.day_of_year})


def test_a_result_in_memory_is_computed_for_what_was_not_covered(active) -> None:
    for first, last, runs in [
        ("2001-03-01", "2001-03-31", 1),
        ("2001-03-05", "2001-03-06", 0),
        ("2001-03-20", "2001-04-02", 1),
        ("2001-03-01", "2001-03-02", 0),
        ("2001-04-01", "2001-04-02", 0),
    ]:
        found = table(first, last)
        assert found.time.tolist() == pd.date_range(first, last).tolist()
        assert count() == runs, (first, last)


@daskcache.cache(hints=daskcache.Hints("time", chunk_by_arg={"grid": {"fine": {"lat": 3}}}))
def gridded(grid):
    lats = {"fine": 90, "coarse": 60}[grid]
    return xr.Dataset({"t": (("time", "lat", "lon"), da.zeros((100, lats, 120), chunks=(50, lats, 120)))})


def test_inner_chunks_by_argument(active, tmp_path) -> None:
    shapes = {}
    for grid in ("fine", "coarse"):
        gridded(grid).compute()
        found = gridded(grid).t.data
        task = found.dask[(found.name, 0, 0, 0)]
        block = next(arg for arg in (getattr(a, "value", a) for a in task.args) if hasattr(arg, "token"))
        shapes[grid] = block.spec.inner_shape
    assert shapes["fine"][:2] == (50, 3)
    assert shapes["coarse"][0] == 50
    assert shapes["coarse"][1] != 3


def test_nothing_is_stored_of_a_time_without_data(active) -> None:
    with pytest.raises(InvalidInputError, match="no data in the time"):
        doubled_below("2005", "2006")
    assert count() == 0

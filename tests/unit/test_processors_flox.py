"""Groups along time, whose blocks flox makes: a range that grows computes only what is new."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.processors import timeseries
from tests.producers import CALLS, count, double

pytest.importorskip("flox")

TIMES = pd.date_range("2000-01-01", "2003-12-31")
MONTHS = tuple(int(days) for days in pd.Series(1, TIMES).resample("MS").sum())
SPECIES = {"by month": MONTHS, "by thirty days": 30}


def make(chunks: int | tuple[int, ...]) -> xr.Dataset:
    """Four years of days, one of them a leap year, of which each block is counted when it is computed."""
    values = np.arange(len(TIMES) * 6, dtype="f4").reshape(-1, 6)
    ds = xr.Dataset({"t": (("time", "x"), values)}, {"time": TIMES}).chunk(time=chunks)
    counted = ds.t.data.map_blocks(double, dtype="f4", meta=np.empty((0, 0), "f4"))
    return ds.assign(t=ds.t.copy(data=counted))


@timeseries("time")
@daskcache.cache
def monthly(blocks, start_time=None, end_time=None):
    return make(SPECIES[blocks]).resample(time="MS").mean()


@daskcache.cache
def climatology(blocks):
    return make(SPECIES[blocks]).groupby("time.month").mean()


@timeseries("time")
@daskcache.cache
def anomalies(blocks, start_time=None, end_time=None):
    return make(SPECIES[blocks]).groupby("time.month") - climatology(blocks)


@timeseries("time")
@daskcache.cache
def monthly_of_its_own_range(blocks, start_time=None, end_time=None):
    return make(SPECIES[blocks]).sel(time=slice(start_time, end_time)).resample(time="MS").mean()


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    (tmp_path / "calls").mkdir()


def expected(function, blocks, first: str, last: str) -> xr.Dataset:
    found = function.__wrapped__(blocks, None, None).sel(time=slice(first, last)).compute()
    count()
    return found


# First and last month that are asked for, what flox makes of them, and what it reads for that: blocks of thirty days
# reach into the months beside.
RANGES = [
    ("2001-01", "2001-06", 6, 7),
    ("2001-01", "2001-06", 0, 0),
    ("2001-02", "2001-03", 0, 0),
    ("2001-01", "2001-12", 6, 7),  # later
    ("2000-07", "2001-12", 6, 7),  # earlier
    ("2002-07", "2003-12", 18, 19),  # apart
    ("2002-01", "2002-06", 6, 7),  # the hole
    ("2000-07", "2003-12", 0, 0),
]


@pytest.mark.parametrize("blocks", SPECIES)
def test_resampled_months_are_computed_once(blocks: str) -> None:
    for first, last, months, read in RANGES:
        found = monthly(blocks, first, last)
        computed = count()
        xr.testing.assert_allclose(found.compute(), expected(monthly, blocks, first, last))
        assert computed == (months if blocks == "by month" else read), (first, last)


@pytest.mark.parametrize("blocks", SPECIES)
def test_anomalies_of_a_cached_climatology_are_computed_once(blocks: str) -> None:
    climatology(blocks)
    assert count() == make(SPECIES[blocks]).t.data.npartitions
    for first, last, months, read in RANGES:
        found = anomalies(blocks, first, last)
        computed = count()
        xr.testing.assert_allclose(found.compute(), expected(anomalies, blocks, first, last))
        assert computed <= (months if blocks == "by month" else read), (first, last)
        assert computed > 0 or not months


def test_a_function_that_clips_by_itself_keeps_what_is_older_where_its_range_grows() -> None:
    """At its end alone: flox numbers groups from the first one on."""
    monthly_of_its_own_range("by month", "2001-01", "2001-06")
    assert count() == 6
    found = monthly_of_its_own_range("by month", "2001-01", "2001-12")
    assert count() == 6
    xr.testing.assert_allclose(found.compute(), expected(monthly, "by month", "2001-01", "2001-12"))
    assert count() == 0
    monthly_of_its_own_range("by month", "2001-03", "2001-11")
    assert count() == 0

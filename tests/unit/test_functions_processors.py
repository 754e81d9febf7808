"""Cached functions with processors: what they take stays out of the key, and blocks are shared by all ranges."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.processors import select, timeseries
from tests import producers
from tests.producers import count, doubled


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


DAYS = pd.date_range("2000-01-01", periods=12)


def series() -> xr.DataArray:
    return xr.DataArray(doubled(), {"time": DAYS}, "time", name="t")


@pytest.mark.parametrize("is_above", [True, False])
def test_above_and_below_one_result_serves_all_ranges(is_above: bool) -> None:
    log: list[int] = []

    def load(start_time=None, end_time=None, *, log):
        log.append(1)
        return series()

    cached = daskcache.cache(ignore=["log"])
    decorate = timeseries("time")
    function = decorate(cached(load)) if is_above else cached(decorate(load))
    whole = function(log=log)
    assert whole.sizes["time"] == 12
    assert count() == 4
    part = function("2000-01-02", "2000-01-04", log=log)
    np.testing.assert_array_equal(part, [2, 4, 6])
    assert (len(log), count()) == (1, 0)
    assert isinstance(part.data, da.Array)


def test_another_range_computes_only_the_blocks_that_are_missing() -> None:
    log: list[int] = []

    @timeseries("time")
    @daskcache.cache(ignore=["log"])
    def load(start_time, end_time, *, log):
        log.append(1)
        return series()

    first = load("2000-01-01", "2000-01-03", log=log)
    np.testing.assert_array_equal(first, [0, 2, 4])
    done = count()
    assert done < 4
    wider = load("2000-01-01", "2000-01-06", log=log)
    np.testing.assert_array_equal(wider, 2 * np.arange(6))
    assert done + count() == 2
    load("2000-01-02", "2000-01-05", log=log)
    assert count() == 0


def test_several_processors_and_a_name_of_their_own(store_root) -> None:
    @select("x")
    @timeseries("time")
    @daskcache.cache(name="grid", expires="30d")
    def grid(start_time=None, end_time=None):
        values = np.arange(24).reshape(12, 2)
        return xr.Dataset(
            {"t": (("time", "x"), da.from_array(values, chunks=(6, 2)))}, {"time": DAYS, "x": [10, 20]}
        )

    assert grid("2000-01-03", "2000-01-03", x=20).t.values.tolist() == [5]
    assert grid("2000-01-04", "2000-01-04", x=20, fail_if_missing=True).t.values.tolist() == [7]
    assert grid("2000-01-03", "2000-01-03", x=10).t.values.tolist() == [4]
    assert len(list(store_root.glob("namespaces/default/grid/*"))) == 1


def test_memoized_results_are_clipped_in_memory() -> None:
    @timeseries("time")
    @daskcache.cache
    def table(start_time=None, end_time=None):
        return pd.DataFrame({"a": range(12)}, index=pd.DatetimeIndex(DAYS, name="time"))

    table()
    for _ in range(2):
        assert table("2000-01-02", "2000-01-03", memoize=True).a.tolist() == [1, 2]
    assert len(table(memoize=True)) == 12

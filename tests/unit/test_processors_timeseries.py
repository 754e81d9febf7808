"""Clipping in time: ends in every form, labels in every form, results of every kind."""

from __future__ import annotations

import datetime as dt

import cftime
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from daskcache import timeseries
from daskcache.errors import InvalidInputError
from daskcache.processors.times import Moment, Span, positions

DAYS = pd.date_range("2000-01-01", "2001-12-31")


def clipped(labels: pd.Index, start=None, end=None) -> list[str]:
    found = labels[positions(labels, Span.parse(start, end))]
    return [str(label)[:10] for label in found]


STARTS = [
    ("2000-02-10", "2000-02-10"),
    ("20000210", "2000-02-10"),
    ("2000-02", "2000-02-01"),
    ("2001", "2001-01-01"),
    ("2000-02-10T00:00", "2000-02-10"),
    ("2000-02-10 00:00:01", "2000-02-11"),
    ("2000-02-10T00:00:00.000000001", "2000-02-11"),
    ("2000-02-09T23:00-01:00", "2000-02-10"),
    (dt.datetime(2000, 2, 10), "2000-02-10"),
    (dt.datetime(2000, 2, 10, 0, 0, 0, 1), "2000-02-11"),
    (dt.datetime(2000, 2, 10, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), "2000-02-10"),
    (dt.date(2000, 2, 10), "2000-02-10"),
    (np.datetime64("2000-02-10"), "2000-02-10"),
    (np.datetime64("2000-02-10T12", "ns"), "2000-02-11"),
    (pd.Timestamp("2000-02-10"), "2000-02-10"),
    (pd.Timestamp("2000-02-10", tz="UTC"), "2000-02-10"),
    (pd.Period("2000-02"), "2000-02-01"),
    (cftime.datetime(2000, 2, 10), "2000-02-10"),
    (cftime.datetime(2000, 2, 30, calendar="360_day"), "2000-03-01"),
    (None, "2000-01-01"),
]

ENDS = [
    ("2000-02-10", "2000-02-10"),
    ("2000-02", "2000-02-29"),
    ("2000-12", "2000-12-31"),
    ("2000", "2000-12-31"),
    ("2000-02-10T00", "2000-02-10"),
    ("2000-02-09T23:59:59", "2000-02-09"),
    ("2000-02-10T00:00Z", "2000-02-10"),
    ("2000-02-10T00:30+01:00", "2000-02-09"),
    (dt.datetime(2000, 2, 10), "2000-02-10"),
    (dt.datetime(2000, 2, 9, 23, 59, 59, 999999), "2000-02-09"),
    (dt.date(2000, 2, 10), "2000-02-10"),
    (np.datetime64("2000-02-10"), "2000-02-10"),
    (pd.Period("2000-02"), "2000-02-29"),
    (pd.Timestamp("2000-02-10"), "2000-02-10"),
    (cftime.DatetimeNoLeap(2000, 2, 10), "2000-02-10"),
    (None, "2001-12-31"),
]


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize(("start", "first"), STARTS)
def test_starts(unit, start, first) -> None:
    assert clipped(DAYS.as_unit(unit), start)[0] == first


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize(("end", "last"), ENDS)
def test_ends(unit, end, last) -> None:
    assert clipped(DAYS.as_unit(unit), end=end)[-1] == last


@pytest.mark.parametrize(("end", "last"), ENDS)
def test_labels_in_any_order(end, last) -> None:
    assert clipped(DAYS[::-1], end=end)[0] == last
    mixed = DAYS[np.random.default_rng(0).permutation(len(DAYS))]
    assert max(clipped(mixed, end=end)) == last
    assert clipped(mixed, "2000-02-05", end) == [
        day for day in (str(label)[:10] for label in mixed) if "2000-02-05" <= day <= last
    ]


@pytest.mark.parametrize("calendar", ["standard", "noleap", "all_leap", "360_day", "julian"])
def test_calendars(calendar) -> None:
    labels = xr.date_range("1999-12-01", periods=800, calendar=calendar, use_cftime=True)
    found = labels[positions(labels, Span.parse("2000-02", "2000-02"))]
    days = {"standard": 29, "julian": 29, "noleap": 28, "all_leap": 29, "360_day": 30}[calendar]
    assert [label.day for label in found] == list(range(1, days + 1))
    assert {(label.year, label.month) for label in found} == {(2000, 2)}
    assert len(labels[positions(labels, Span.parse("2000-02-28", "2000-02-28"))]) == 1
    end = cftime.datetime(2000, 1, 2, calendar=calendar)
    assert labels[positions(labels, Span.parse(None, end))][-1] == end


def test_zones_of_labels() -> None:
    labels = pd.date_range("2000-03-25", "2000-03-28", freq="h", tz="Europe/Berlin")
    one_day = labels[positions(labels, Span.parse("2000-03-26", "2000-03-26"))]
    # The day on which clocks are put forward.
    assert len(one_day) == 23
    assert {label.day for label in one_day} == {26}
    utc = labels[positions(labels, Span.parse("2000-03-26T00:00Z", "2000-03-26T00:59Z"))]
    assert [str(label) for label in utc] == ["2000-03-26 01:00:00+01:00"]
    twice = pd.date_range("2000-10-28", "2000-10-30", freq="h", tz="Europe/Berlin")
    assert len(twice[positions(twice, Span.parse("2000-10-29", "2000-10-29"))]) == 25
    assert len(twice[positions(twice, Span.parse("2000-10-29T02", "2000-10-29T02"))]) == 2


def test_years_that_nanoseconds_do_not_reach() -> None:
    nanoseconds = DAYS.as_unit("ns")
    assert clipped(nanoseconds, "0001", "9999")[0] == "2000-01-01"
    assert len(clipped(nanoseconds, "0001", "9999")) == len(DAYS)
    assert clipped(nanoseconds, "9999") == clipped(nanoseconds, None, "0001") == []
    ancient = pd.DatetimeIndex(np.array(["0800-06-01", "0801-06-01"], "M8[s]"))
    assert clipped(ancient, "0801") == ["0801-06-01"]


@pytest.mark.parametrize(
    "wrong",
    ["", "soon", "2000-13", "2000-00-01", "2000-1", "12:00", 2000, 1.5, True, [], pd.NaT, "2000-01-01T25"],
)
def test_what_is_no_time_is_refused(wrong) -> None:
    with pytest.raises(InvalidInputError, match="no time"):
        Moment.parse(wrong, "start")


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="ends before it starts"):
        Span.parse("2001", "2000")
    assert len(clipped(DAYS, "2000-01-05", "2000-01-05")) == 1


def frame() -> pd.DataFrame:
    return pd.DataFrame({"time": DAYS, "v": np.arange(len(DAYS))})


def tree() -> xr.DataTree:
    root = xr.Dataset({"a": ("time", np.arange(len(DAYS)))}, {"time": DAYS})
    below = xr.Dataset({"b": ("time", np.arange(len(DAYS)) * 2)})
    return xr.DataTree.from_dict({"/": root, "/below": below, "/fixed": xr.Dataset({"c": 1})}, name="tree")


def array() -> xr.DataArray:
    return xr.DataArray(np.arange(len(DAYS)), {"time": DAYS}, "time", "time-like")


KINDS = {
    "dataset": (lambda: array().to_dataset(name="v"), lambda r: r.v.values),
    "dataarray": (array, lambda r: r.values),
    "lazy": (lambda: array().chunk(time=31), lambda r: r.compute().values),
    "unnamed": (lambda: array().rename(None), lambda r: r.values),
    "named as its coordinate": (lambda: array().rename("time"), lambda r: r.values),
    "datatree": (tree, lambda r: r["below/b"].values // 2),
    "column": (frame, lambda r: r["v"].to_numpy()),
    "index": (lambda: frame().set_index("time"), lambda r: r["v"].to_numpy()),
    "unnamed index": (lambda: frame().set_index("time").rename_axis(None), lambda r: r["v"].to_numpy()),
    "series": (lambda: frame().set_index("time")["v"], lambda r: r.to_numpy()),
    "levels": (lambda: frame().assign(k=1).set_index(["k", "time"]), lambda r: r["v"].to_numpy()),
    "periods": (lambda: frame().set_index(DAYS.to_period("D"))[["v"]], lambda r: r["v"].to_numpy()),
    "dask column": (lambda: dd.from_pandas(frame(), npartitions=5), lambda r: r.compute()["v"].to_numpy()),
    "dask index": (
        lambda: dd.from_pandas(frame().set_index("time"), npartitions=5),
        lambda r: r.compute()["v"].to_numpy(),
    ),
    "dask series": (
        lambda: dd.from_pandas(frame().set_index("time"), npartitions=5)["v"],
        lambda r: r.compute().to_numpy(),
    ),
    "unknown divisions": (
        lambda: dd.from_pandas(frame().set_index("time"), npartitions=5).clear_divisions(),
        lambda r: r.compute()["v"].to_numpy(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_every_kind(kind) -> None:
    make, values = KINDS[kind]

    @timeseries("time")
    def function(start_time=None, end_time=None):
        return make()

    for start, end in [("2000-02", "2000-02"), ("2000-02-10", None), (None, "2000-03-05"), (None, None)]:
        found = function(start, end)
        assert type(found) is type(make())
        expected = np.arange(len(DAYS))[positions(DAYS, Span.parse(start, end))]
        np.testing.assert_array_equal(values(found), expected)
    if kind == "datatree":
        assert found.name == "tree"
        assert int(found["fixed/c"]) == 1
    if kind in ("dataarray", "unnamed", "named as its coordinate"):
        assert found.name == make().name


def test_polars_and_arrow() -> None:
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    data = frame()
    columns = {name: data[name].to_list() for name in data}
    polars_frame = pl.DataFrame(columns)
    for result in (polars_frame, polars_frame.lazy(), pa.Table.from_pandas(data, preserve_index=False)):

        @timeseries("time")
        def function(result=result):
            return result

        found = function(start_time="2000-02", end_time="2000-02-10")
        found = found.collect() if hasattr(found, "collect") else found
        assert list(found["v"].to_pylist() if hasattr(found["v"], "to_pylist") else found["v"]) == list(
            range(31, 41)
        )


def test_null_stays_null() -> None:
    @timeseries("time")
    def nothing(start_time=None, end_time=None):
        return None

    assert nothing("2000", "2001") is None


@pytest.mark.parametrize(
    "result", [3, np.arange(3), [1], xr.Dataset({"a": ("x", [1])}), pd.DataFrame({"a": [1]})]
)
def test_what_has_no_times_is_refused(result) -> None:
    with pytest.raises(InvalidInputError, match="'time'"):
        timeseries("time")(lambda: result)(start_time="2000")


def test_labels_that_are_no_times_are_refused() -> None:
    numbers = xr.DataArray([1, 2], {"time": [1, 2]}, "time")
    with pytest.raises(InvalidInputError, match="int64, not times"):
        timeseries("time")(lambda: numbers)(start_time="2000")


def test_there_must_be_data_in_the_time_asked_for() -> None:
    function = timeseries("time")(lambda: array())
    with pytest.raises(InvalidInputError, match="from 2000-01-01 00:00:00 to 2001-12-31 00:00:00"):
        function(start_time="2005", end_time="2006")
    assert function(start_time="1990", end_time="2000-01-01").size == 1
    empty = timeseries("time", require="none")(lambda: array())
    assert empty(start_time="2005").size == 0
    with pytest.raises(InvalidInputError, match="require"):
        timeseries("time", require="all")


def test_names_of_arguments_and_the_first_coordinate_that_is_there() -> None:
    @timeseries(["valid_time", "time"], start="since", end="until")
    def function(since, until, offset=0):
        assert since == "2000-02"
        return array() + offset

    assert function("2000-02", "2000-02", offset=1).values[0] == 32
    assert function(until="2000-03", since="2000-02").size == 60


def test_times_that_are_no_dimension() -> None:
    steps = xr.DataArray(np.arange(5), {"valid": ("step", DAYS[:5])}, "step")
    found = timeseries("valid")(lambda: steps)(start_time="2000-01-02", end_time="2000-01-03")
    assert found.values.tolist() == [1, 2]


def test_what_is_covered() -> None:
    processor = timeseries("time")
    part = array().sel(time=slice("2000-02", "2000-03"))
    for asked, inside in [
        (("2000-02-05", "2000-03-05"), True),
        (("2000-02", "2000-03"), True),
        (("2000-02-01T00:00", dt.datetime(2000, 3, 31)), True),
        (("2000-01-31", "2000-03"), False),
        (("2000-02", None), False),
        ((None, None), False),
    ]:
        coverage = processor.coverage(part, Span.parse("2000-02", "2000-03"))
        assert processor.covers(coverage, Span.parse(*asked)) is inside, asked
    # What came beyond what was asked counts as well.
    coverage = processor.coverage(part, Span.parse("2000-02-10", "2000-02-12"))
    assert processor.covers(coverage, Span.parse("2000-02-01", dt.datetime(2000, 3, 31)))
    assert processor.covers(processor.coverage(part, Span()), Span.parse("1800", "2200"))


def test_what_is_covered_in_a_time_zone() -> None:
    processor = timeseries("time")
    labels = pd.date_range("2000-03-25", periods=48, freq="h", tz="Europe/Berlin")
    table = pd.DataFrame({"time": labels})
    coverage = processor.coverage(table, Span.parse("2000-03-25", "2000-03-26"))
    assert processor.covers(coverage, Span.parse("2000-03-24T23:00Z", "2000-03-25"))
    assert not processor.covers(coverage, Span.parse("2000-03-24T22:59Z", "2000-03-25"))

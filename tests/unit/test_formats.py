"""What comes back is what went in."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import dask
import dask.array as da
import geopandas
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import pytz
import shapely
import xarray as xr

import daskcache
from daskcache import formats
from daskcache.catalog import Catalog
from daskcache.errors import DaskcacheWarning, InvalidInputError, NotStoredError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats.plain import decode_value
from daskcache.formats.zones import in_zone


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Inner:
    values: tuple[float, ...]


@dataclasses.dataclass
class Outer:
    name: str
    inner: Inner
    made: int = dataclasses.field(init=False, default=3)

    def __post_init__(self) -> None:
        self.made += 1


class Weird:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Weird and other.x == self.x

    __hash__ = None


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def with_attrs() -> pd.DataFrame:
    made = frame(a=[1])
    made.attrs = {"units": "K", "range": (0, 1)}
    return made


DAYS = pd.date_range("2000", periods=3, freq="D", name="day")
HOURS = dt.timezone(-dt.timedelta(hours=3, minutes=30))
ZONES = [
    dt.UTC, HOURS, ZoneInfo("UTC"), ZoneInfo("Europe/Rome"), ZoneInfo("Etc/GMT+3"),
    pytz.UTC, pytz.timezone("Europe/Rome"), pytz.FixedOffset(-90),
]  # fmt: skip
TABLES = {
    "integers": frame(a=[1, 2]),
    "no rows": frame(a=[1, 2]).iloc[:0],
    "nothing": pd.DataFrame(),
    "dates": pd.DataFrame({"a": pd.date_range("2000", periods=3, tz="Europe/Berlin")}, index=DAYS),
    "zones": pd.DataFrame(
        {at: pd.to_datetime(["2000-01-01", None]).tz_localize(zone) for at, zone in enumerate(ZONES)},
        index=pd.DatetimeIndex(["2000-01-01", "2000-07-01"], tz=dt.UTC),
    ),
    "zones of levels": pd.DataFrame(
        {"a": pd.date_range("2000", periods=4, tz=ZoneInfo("UTC"), unit="s")},
        index=pd.MultiIndex.from_product(
            [pd.to_datetime(["2000-01-01", "2000-07-01"]).tz_localize(zone) for zone in (dt.UTC, ZONES[-2])]
        ),
    ),
    "zones and categories": pd.DataFrame(
        {"a": pd.date_range("2000", periods=2, tz="UTC"), "b": pd.Categorical([1, 2])},
    ),
    "categories": frame(a=pd.Categorical(["b", "a", "b"], ["b", "a"], ordered=True)),
    "levels": pd.DataFrame(
        np.arange(6.0).reshape(2, 3),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", None]),
        index=pd.MultiIndex.from_product([[1], ["u", "v"]], names=["p", "q"]),
    ),
    "columns of numbers": pd.DataFrame(np.arange(6.0).reshape(2, 3)),
    "columns of one name": pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=["a", "a", "b"]),
    "objects": frame(a=pd.Series(["x", "y"], dtype=object)),
    "texts": frame(a=["x", None]),
    "nullable": frame(a=pd.array([1, None], dtype="Int32"), b=pd.array([True, None], dtype="boolean")),
    "periods": frame(a=pd.period_range("2000", periods=2, freq="M")),
    "small floats": frame(a=np.array([1, np.nan], "f4"), b=np.array([1, 2], "m8[s]")),
    "a range": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(5, 9, 2, name="k")),
    "attributes": with_attrs(),
    "a column": pd.Series([1.5, 2], index=["a", "b"], name=("x", 1)),
    "an unnamed column": pd.Series(["a"], dtype="category"),
    "an index": DAYS,
    "an index of levels": pd.MultiIndex.from_tuples([(1, "a")], names=["x", "y"]),
}


def kept(value: Any, **options: Any) -> Any:
    """Give what a second call of a cached function gives, out of the store."""

    @daskcache.cache(cache_args=[], name="kept", **options)
    def give(value):
        return value

    give(value, recompute=True)
    return give(None, fail_if_missing=True)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_pandas(name: str) -> None:
    value = TABLES[name]
    found = kept(value)
    assert type(found) is type(value)
    assert Fingerprinter().fingerprint(found) == Fingerprinter().fingerprint(value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (pytz.UTC, ZoneInfo("UTC")),
        (pytz.timezone("Europe/Rome"), ZoneInfo("Europe/Rome")),
        (pytz.FixedOffset(-210), HOURS),
        (dt.UTC, dt.UTC),
    ],
    ids=["UTC", "named", "offset", "of datetime"],
)
def test_zones_of_pytz_are_those_of_the_standard_library(given: Any, wanted: Any) -> None:
    # Arrow gives them up to its version 24 where pytz is installed.
    found = in_zone(pd.Series(pd.to_datetime(["2000-01-01"])).dt.tz_localize(given), None)
    same = Fingerprinter().fingerprint
    assert same(found.dtype.tz) == same(wanted)
    assert found[0] == pd.Timestamp("2000-01-01", tz=given)


def test_tables_that_would_not_come_back_are_refused() -> None:
    named = dt.timezone(dt.timedelta(hours=1), "here")
    times = pd.date_range("2000", periods=2, tz=named)
    for value in (
        frame(a=times),
        pd.DataFrame(index=times),
        frame(a=[{"x": 1}, [1]]),
        frame(a=pd.Series([1, "a"], dtype=object)),
        frame(a=[1 + 2j]),
    ):
        with pytest.raises(UncacheableError):
            formats.find_format(value).encode(value)


def test_tables_of_arrow_polars_and_geopandas() -> None:
    for table in (pa.table({"a": [1, None], "b": [[1], []]}), pa.record_batch({"a": ["x"]})):
        found = kept(table)
        assert type(found) is type(table)
        assert found.equals(table)
        assert found.schema.equals(table.schema, check_metadata=True)
    for table in (pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": [[1], [2]]}), pl.Series("q", [1.5])):
        found = kept(table)
        assert type(found) is type(table)
        assert found.equals(table)
    points = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2)], crs=4326)
    for table in (points, points.geometry.rename("g")):
        found = kept(table)
        assert type(found) is type(table)
        assert found.equals(table)
        assert found.crs == table.crs


def test_large_tables_lie_in_the_pool_and_are_checked(store_root) -> None:
    table = frame(a=np.random.default_rng(0).normal(size=20_000))
    pd.testing.assert_frame_equal(kept(table), table)
    (path,) = (path for path in store_root.glob("chunks/*/*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))

    @daskcache.cache(cache_args=[], name="kept")
    def give(value):
        return value

    with pytest.warns(DaskcacheWarning, match="cannot be read, and is computed"):
        pd.testing.assert_frame_equal(give(table), table)
    assert daskcache.verify().is_sound


def test_tables_of_dask_are_stored_by_partition_and_opened_lazily(store_root) -> None:
    import dask.dataframe as dd

    table = pd.DataFrame({"a": range(10), "b": list("abcdefghij")}, index=pd.Index(range(10), name="k"))
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    def make(log):
        log.append(1)
        return dd.from_pandas(table, npartitions=3)

    for found in (make(log), make(log)):
        assert type(found) is dd.DataFrame
        assert found.divisions == dd.from_pandas(table, npartitions=3).divisions
        pd.testing.assert_frame_equal(found.compute(), dd.from_pandas(table, npartitions=3).compute())
        assert found.a.sum().compute() == 45

    @daskcache.cache(ignore=["log"])
    def total(frame, log):
        log.append(2)
        return int(frame.a.sum().compute())

    assert [total(make(log), log), total(make(log), log)] == [45, 45]
    assert log == [1, 2]
    opened = daskcache.open(next(iter(Catalog(str(store_root)).entries())))
    assert (type(opened), opened.divisions) == (dd.DataFrame, make(log).divisions)
    column = kept(dd.from_pandas(table, npartitions=2).b)
    pd.testing.assert_series_equal(column.compute(), dd.from_pandas(table.b, npartitions=2).compute())


ARRAYS = [
    np.arange(6).reshape(2, 3), np.array(1.5), np.array(["a", "bc"]), np.empty((0, 3), ">f4"),
    np.array(["2000-01-01"], "M8[s]"), xr.DataArray([1, 2], dims="x", name="x"),
    xr.DataArray(da.ones(3, chunks=2), {"x": [1, 2, 3]}, "x", name=None, attrs={"units": "K"}),
    xr.Dataset({"b": ("x", [1.5]), "a": ("y", ["s"])}, {"x": pd.date_range("2000", periods=1)}, {"title": (1, 2)}),
    xr.DataTree.from_dict({"/": xr.Dataset({"a": 1}), "/b": xr.Dataset({"c": ("x", da.arange(4, chunks=2))})}),
]  # fmt: skip


@pytest.mark.parametrize("value", ARRAYS, ids=range(len(ARRAYS)))
def test_arrays(value: Any) -> None:
    found = kept(value)
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)
        return
    assert found.identical(value)
    if isinstance(value, xr.Dataset):
        assert list(found.variables) == list(value.variables)


def test_arrays_that_would_not_come_back_are_not_stored() -> None:
    for value in (np.array(["2000-01-01"], "M8[D]"), np.ma.masked_array([1], [True]), np.rec.array([(1,)])):
        function = daskcache.cache(cache_args=[], name="refused")(lambda value: value)
        with pytest.warns(DaskcacheWarning, match="computed each time"):
            assert function(value) is value


VALUES = [
    None, True, 3, -0.0, math.inf, 1 + 2j, "text\ud800", b"\0", [1, [2]], (1, (2,)), {"a": 1, 2: [3]}, {1, "a"}, frozenset({1}),
    {"!": "tuple", "items": []}, np.float32(1.5), np.int8(3), np.datetime64("2000"), dt.date(2000, 1, 1), dt.time(1, 2, fold=1),
    dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(2000, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    dt.timedelta(days=1), decimal.Decimal("1.10"), range(1, 9, 2), slice(1, None), Colour.RED, Level.LOW, Pair(1, (2,)),
    Outer("a", Inner((1.0, 2.0))), bytearray(b"ab"),
]  # fmt: skip


# Numbered: a set prints its elements in another order in each process.
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_values(value: Any) -> None:
    found = kept(value)
    assert type(found) is type(value)
    assert found == value
    # Equal sets may show their elements in another order.
    assert repr(sorted(found, key=repr) if type(found) is set else found) == repr(
        sorted(value, key=repr) if type(value) is set else value
    )
    if isinstance(value, dt.datetime):
        assert found.tzinfo == value.tzinfo


def test_values_that_would_not_come_back_are_refused() -> None:
    class Local(NamedTuple):
        a: int

    loop: list[Any] = []
    loop.append(loop)
    extended = Outer("a", Inner(()))
    extended.more = 1
    offset = dt.datetime(2000, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    for value in (
        Local(1),
        Weird(1),
        [Weird(1)],
        loop,
        extended,
        [offset],
        object(),
        print,
        np.array([object()]),
    ):
        with pytest.raises(UncacheableError):
            formats.find_format(value).encode(value)


def test_reading_imports_nothing_and_calls_nothing() -> None:
    """A document may name any class; it is taken only if it is loaded, and of the kind that the document says."""
    forged = [
        {"!": "dataclass", "module": "subprocess", "name": "Popen", "fields": {"args": "touch /tmp/x"}},
        {"!": "dataclass", "module": "this", "name": "s", "fields": {}},
        {"!": "enum", "module": "os", "name": "system", "member": "x"},
        {"!": "named", "module": "builtins", "name": "tuple", "items": [1]},
        {"!": "dataclass", "module": __name__, "name": "Outer.__init__", "fields": {}},
    ]
    for document in forged:
        with pytest.raises(NotStoredError):
            decode_value(document)
    assert "this" not in sys.modules
    with pytest.raises(NotStoredError, match="are not what they were"):
        decode_value({"!": "dataclass", "module": __name__, "name": "Inner", "fields": {"other": 1}})
    for malformed in (
        {"!": "aware"},
        {"!": "named", "module": 1},
        {"!": ["x"]},
        {"!": "decimal", "text": "x"},
    ):
        with pytest.raises((InvalidInputError, NotStoredError)):
            decode_value(malformed)


def entry_of(store_root: Path) -> str:
    (entry,) = (path.parent for path in store_root.glob("*/*/kept/*/@"))
    return entry.relative_to(store_root / "namespaces/default").as_posix()


def test_an_instance_of_a_class_that_is_not_loaded_is_not_read(store_root, monkeypatch) -> None:
    assert kept(Outer("a", Inner(()))) == Outer("a", Inner(()))
    monkeypatch.delattr(sys.modules[__name__], "Inner")
    with pytest.raises(NotStoredError, match="has not imported"):
        daskcache.open(entry_of(store_root))


def test_registered_formats(store_root) -> None:
    with pytest.warns(DaskcacheWarning, match="has no format"):
        daskcache.cache(cache_args=[], name="weird")(lambda value: value)(Weird(1))
    formats.register(
        Weird,
        name="tests.Weird",
        encode=lambda value: str(value.x).encode(),
        decode=lambda data: Weird(int(data)),
    )
    assert kept(Weird(7)) == Weird(7)
    entry = entry_of(store_root)
    assert daskcache.open(entry) == Weird(7)
    program = f"import daskcache; daskcache.open({entry!r}, store={str(store_root)!r})"
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "does not know; import what registers it" in other.stderr
    with pytest.raises(InvalidInputError, match="of daskcache itself"):
        formats.register(Weird, name="json", encode=bytes, decode=bytes)


def test_serializers_and_pickle(store_root) -> None:
    weird = (lambda value: json.dumps(value.x), lambda text: Weird(json.loads(text)))
    assert kept(Weird([1]), serializer=weird) == Weird([1])
    assert kept({"a": (1,)}, serializer=json) == {"a": [1]}
    with pytest.raises(InvalidInputError, match=r"name the store in the setting daskcache.functions.pickle"):
        kept(Weird(1), format="pickle")
    with pytest.raises(InvalidInputError, match="asked for by format='pickle'"):
        daskcache.cache(serializer=pickle)(lambda: 1)
    with dask.config.set({"daskcache.functions.pickle": [str(store_root)]}):
        assert kept(Weird(1), format="pickle") == Weird(1)
    entry = entry_of(store_root)
    with pytest.raises(NotStoredError, match="'pickle', which this process does not know"):
        daskcache.open(entry)


def test_what_cannot_be_serialized_publishes_nothing(store_root) -> None:
    function = daskcache.cache(cache_args=[], format="pickle", name="open")(lambda value: value)
    with (
        dask.config.set({"daskcache.functions.pickle": str(store_root)}),
        pytest.warns(DaskcacheWarning, match="cannot be serialized"),
    ):
        function(lambda: 1)
    assert not list(store_root.glob("namespaces/*/open/*"))


def test_formats_by_name() -> None:
    assert kept([1], format="json") == [1]
    assert kept(np.ones(2), format="zarr").tolist() == [1, 1]
    pd.testing.assert_frame_equal(kept(frame(a=[1]), format="parquet"), frame(a=[1]))
    for value, name in (
        (frame(a=[1]), "zarr"),
        ([1], "parquet"),
        (np.ones(2), "parquet"),
        (frame(a=[1]), "json"),
    ):
        with pytest.warns(DaskcacheWarning, match="computed each time"):
            daskcache.cache(cache_args=[], name=f"as-{name}", format=name)(lambda value: value)(value)
    with pytest.raises(InvalidInputError, match="unknown format"):
        formats.find_format(1, "xml")

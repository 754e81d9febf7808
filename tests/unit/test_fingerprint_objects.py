"""Values of every kind the design lists: equal ones agree, different ones do not."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import logging
import operator
import pathlib
import pickle
import re
import struct
import threading
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import toolz
import xarray as xr
from dask.utils import SerializableLock

from daskcache.fingerprint import Fingerprinter, fingerprint


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Permission(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Options:
    alpha: float
    names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    alpha: float
    beta: int = 2


class Typed(typing.NamedTuple):
    a: int
    b: str = "x"


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a: object, b: object) -> None:
        self.a = a
        self.b = b


class Expensive:
    def __init__(self, size: int) -> None:
        self.size = size

    @functools.cached_property
    def table(self) -> list[int]:
        return list(range(self.size))


class MyInt(int):
    pass


class MyList(list[object]):
    pass


class MySet(set[object]):
    pass


Point = collections.namedtuple("Point", ["x", "y"])
Other = collections.namedtuple("Other", ["x", "y"])


def double(x: float) -> float:
    return x * 2


def halve(x: float) -> float:
    return x / 2


NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000))[0]
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
TIMES = pd.date_range("2000-01-01", periods=3, freq="D", unit="ns")
DATASET = xr.Dataset(
    {"t": (("time", "x"), np.arange(6.0).reshape(3, 2), {"units": "K"})},
    coords={"time": TIMES, "x": [1, 2]},
    attrs={"title": "test"},
)

# Each of a group differs from each other one of it.
DIFFERENT: dict[str, Callable[[], list[Any]]] = {
    "scalars": lambda: [
        1, 1.0, True, "1", b"1", np.int64(1), np.int32(1), np.float64(1), np.float32(1), np.bool_(True), 1 + 0j,
        np.str_("1"), np.bytes_(b"1"), decimal.Decimal(1), decimal.Decimal("1.0"), fractions.Fraction(1), MyInt(1),
        Level.LOW, bytearray(b"1"), memoryview(b"1"), (1,), [1], {1}, frozenset({1}), {1: None}, -1, 257, 2**64,
        -(2**64), 10**5000, None, "None", False, 0, "", b"", (), [], {}, set(), frozenset(), ..., NotImplemented,
        Colour.RED, "RED",
    ],
    "floats": lambda: [0.0, -0.0, NAN, OTHER_NAN, float("inf"), -float("inf"), 0.1, 0.1 + 1e-17 * 2, complex(0, -0.0), 0j],
    "numpy floats": lambda: [np.float64(x) for x in (0.0, -0.0, NAN, OTHER_NAN)],
    "sequences": lambda: [
        [1, 2], [2, 1], (1, 2), [[1], 2], [1, [2]], [[1, 2]], ["1", "2"], ["12"], ["1", "2", ""], range(1, 3),
        range(1, 3, 2), slice(1, 2), slice(1, 2, 1), slice(None, 2), collections.deque([1, 2]),
        collections.deque([1, 2], 2), MyList([1, 2]), Point(1, 2), Other(1, 2), Typed(1, "2"), Typed(1), np.array([1, 2]),
        {1, 2}, MySet({1, 2}), iter_view({1: 2}.keys()), iter_view({1: 2}.values()),
    ],
    "mappings": lambda: [
        {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}, [("a", 1), ("b", 2)], collections.OrderedDict(a=1, b=2),
        {"b": 2, "a": 1}, collections.Counter(b=2, a=1), types.MappingProxyType({"b": 2, "a": 1}), {(1, 2): {"b": 2, "a": 1}}, {(1, 2): {"a": 1, "b": 2}},
        collections.OrderedDict(b=2, a=1), collections.defaultdict(list, a=1, b=2),
        collections.defaultdict(dict, a=1, b=2), collections.Counter(a=1, b=2), types.MappingProxyType({"a": 1, "b": 2}),
        types.SimpleNamespace(a=1, b=2), collections.ChainMap({"a": 1, "b": 2}), {"a": 1, ("b",): 2},
    ],
    "strings": lambda: ["a", "A", "á", "a\u0301", "\ud800", "a\x00", "", " ", ("a_b", "c"), ("a", "b_c")],
    "times": lambda: [
        dt.date(2000, 1, 1), dt.datetime(2000, 1, 1), dt.datetime(2000, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2000, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), dt.datetime(2000, 1, 1, fold=1),
        dt.datetime(2000, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), dt.time(1), dt.time(1, fold=1), dt.timedelta(1),
        dt.timedelta(1, 1), dt.UTC, zoneinfo.ZoneInfo("Europe/Berlin"), np.datetime64("2000-01-01"),
        np.datetime64("2000-01-01", "ns"), np.timedelta64(1, "D"), pd.Timestamp("2000-01-01"),
        pd.Timestamp("2000-01-01", tz="UTC"), pd.Timestamp("2000-01-01").as_unit("ns"), pd.Timedelta(1, "D"), pd.NaT, pd.NA, np.datetime64("NaT", "s"),
        pd.Period("2000-01", "M"), pd.Period("2000-01-01", "D"), pd.Interval(0, 1), pd.Interval(0, 1, "left"),
        cftime.DatetimeNoLeap(2000, 1, 1), cftime.Datetime360Day(2000, 1, 1), cftime.DatetimeNoLeap(2000, 1, 2),
        cftime.datetime(2000, 1, 1, calendar="noleap"), cftime.datetime(2000, 1, 1, calendar="standard"), cftime.datetime(2000, 1, 1, calendar="standard", has_year_zero=True),
        pd.offsets.Day(), pd.offsets.Day(2), pd.offsets.Hour(24), pd.offsets.MonthEnd(), pd.offsets.MonthBegin(),
        pd.DateOffset(months=1), pd.offsets.CustomBusinessDay(holidays=["2000-01-03"]), pd.offsets.CustomBusinessDay(),
    ],
    "arrays": lambda: [
        np.arange(4), np.arange(4.0), np.arange(4, dtype=">i8"), np.arange(4, dtype="i4"), np.arange(4).reshape(2, 2),
        np.arange(4)[::-1], np.arange(4).reshape(1, 4), np.zeros(0), np.zeros((0, 3)), np.zeros((3, 0)), np.array(0),
        np.array(0.0), np.array(-0.0), np.array([NAN]), np.array([OTHER_NAN]), np.array(["a", "b"]), np.array(["a", "bb"]),
        np.array(["a", "b"], dtype=object), np.array(["a", "b"], dtype=np.dtypes.StringDType()),
        np.array(["a", "b"], dtype=np.dtypes.StringDType(na_object=None)), np.array([1, "a"], dtype=object), np.array([True, False]),
        np.array([1, 2], dtype="M8[s]"), np.array([1, 2], dtype="M8[us]"), np.array([1, 2], dtype="m8[s]"),
        np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 3], [0, 1]), np.ma.masked_array([1, 2], [1, 0]),
        np.ma.masked_array([1, 2], [0, 1], fill_value=3), np.ma.masked, np.array([[1, 2]]).view(np.matrix), np.arange(4.0).astype("f2"),
        np.array([1, 2]).view(np.recarray), np.array([1 + 2j]), np.longdouble(1), np.array([1], dtype=np.longdouble),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.array([(1, 2.0)], dtype=[("a", "i4"), ("c", "f8")]),
        np.array([(1, 2.0)], dtype=np.dtype([("a", "i4"), ("b", "f8")], align=True)),
        np.array([(1, "x")], dtype=[("a", "i4"), ("b", object)]), np.void(b"abc"),
    ],
    "dtypes": lambda: [
        np.dtype("f8"), np.dtype(">f8"), np.dtype("f4"), np.dtype("M8[s]"), np.dtype("M8"), np.dtype("U3"), np.dtype("S3"), np.dtype("V3"),
        np.dtype([("a", "f8")]), np.dtype([("b", "f8")]), np.dtype([("a", "f8"), ("b", "f8")]), np.dtype(("f8", (2,))),
        np.dtype({"names": ["a"], "formats": ["f8"], "offsets": [8]}), np.dtypes.StringDType(), np.dtype(object),
        np.dtypes.StringDType(na_object=np.nan), np.float64, float, "f8",
    ],
    "generators": lambda: [
        np.random.default_rng(1), np.random.default_rng(2), np.random.Generator(np.random.MT19937(1)), np.random.RandomState(1),
        np.random.RandomState(2), np.random.PCG64(1), np.random.SeedSequence(1), np.random.SeedSequence(1, spawn_key=(1,)),
        spawned(np.random.default_rng(1)), advanced(np.random.default_rng(1)),
    ],
    "pandas": lambda: [
        pd.Index([1, 2]), pd.Index([1, 2], name="a"), pd.Index([1.0, 2.0]), pd.RangeIndex(1, 3), pd.Index(["1", "2"]), pd.Index([1, "2"], dtype=object),
        TIMES, TIMES[:2], TIMES.tz_localize("UTC"), pd.DatetimeIndex(list(TIMES)), TIMES.as_unit("s"), TIMES.to_period("D"),
        pd.timedelta_range("1D", periods=2), pd.MultiIndex.from_product([[1, 2], ["a"]]), pd.MultiIndex.from_product([[1, 2], ["b"]]),
        pd.MultiIndex.from_product([[1, 2], ["a"]], names=["x", "y"]), pd.CategoricalIndex(["a", "b"]), pd.interval_range(0, 2),
        pd.Series([1, 2]), pd.Series([1, 2], name="a"), pd.Series([1, 2], index=[1, 2]), pd.Series([1, 2], dtype="Int64"),
        pd.Series([1, None], dtype="Int64"), pd.Series([1, 0], dtype="Int64"), pd.Series([1.0, None], dtype="Float64"),
        pd.Series([True, None], dtype="boolean"), pd.Series(["a", None], dtype="string[pyarrow]"), pd.Series(["a", None], dtype=object),
        pd.Series(["a", None], dtype="string[python]"), pd.Series(["a", "b"], dtype="category"),
        pd.Series(pd.Categorical(["a", "b"], ordered=True)), pd.Series(pd.Categorical(["a", "b"], categories=["b", "a"])),
        pd.Series([0, 1], dtype=pd.SparseDtype(int)), pd.Series([1, 2], dtype="int64[pyarrow]"), pd.Series([1.5, None], dtype="double[pyarrow]"),
        pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]}), pd.DataFrame({"a": [1, 2], "b": [3, 4]}), pd.DataFrame({"b": [3, 4], "a": [1, 2]}),
        pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [1, 2]}, index=[1, 2]), pd.Categorical(["a"]), pd.arrays.SparseArray([1]),
        pd.CategoricalDtype(["a"]), pd.CategoricalDtype(["a"], ordered=True), pd.DatetimeTZDtype("ns", "UTC"), pd.DatetimeTZDtype("s", "UTC"),
        pd.Int64Dtype(), pd.StringDtype("python"), pd.StringDtype("pyarrow"), pd.ArrowDtype(pa.int64()),
    ],
    "pyarrow": lambda: [
        pa.array([1, None]), pa.array([1, 0]), pa.array([1.0, None]), pa.array([1, None], pa.int32()), pa.array(["a", None]), pa.array(["a", ""]),
        pa.array(["a", ""], pa.large_string()), pa.array([b"a", b""]), pa.array([[1], None]), pa.array([[1], []]), pa.array([[], [1]]), pa.array([{"a": 1}, None]),
        pa.array([{"a": 1}, {"a": None}]), pa.array(["a", "b"]).dictionary_encode(), pa.array([True, None]), pa.array([dt.date(2000, 1, 1)]),
        pa.array([dt.datetime(2000, 1, 1)]), pa.array([decimal.Decimal("1.5")]), pa.nulls(2), pa.nulls(3), pa.chunked_array([[1], [2]]), pa.table({"a": [1]}),
        pa.table({"a": [1]}).replace_schema_metadata({"k": "v"}), pa.table({"b": [1]}), pa.record_batch({"a": [1]}), pa.scalar(1), pa.scalar(1.0),
        pa.schema([("a", pa.int8())]), pa.schema([("a", pa.int16())]), pa.int8(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.field("a", pa.int8()),
        pa.field("a", pa.int8(), nullable=False), pa.py_buffer(b"a"), pa.array([], pa.string()), pa.array([], pa.int8()),
    ],
    "xarray": lambda: [
        DATASET, DATASET.t, DATASET.t.variable, DATASET.assign_attrs(title="x"), DATASET.rename(x="y"), DATASET.rename(t="u"), DATASET.drop_vars("x"),
        DATASET.isel(time=[0]), DATASET.transpose(), DATASET + 1, DATASET.t.rename(None), DATASET.t.drop_attrs(), DATASET.astype("f4"),
        DATASET.reset_coords("x") if "x" not in DATASET.dims else DATASET.drop_indexes("x"), DATASET.time, DATASET.time.variable, DATASET.stack(z=("time", "x")),
        xr.DataTree.from_dict({"/": DATASET}), xr.DataTree.from_dict({"/": DATASET, "/a": DATASET}), xr.DataTree.from_dict({"/": DATASET, "/b": DATASET}),
    ],
    "callables": lambda: [
        double, halve, functools.partial(double), functools.partial(double, 1), functools.partial(double, x=1), functools.partial(halve, 1),
        toolz.compose(double, halve), toolz.compose(halve, double), toolz.curry(double), toolz.curry(double, x=1), operator.itemgetter(1),
        operator.itemgetter("1"), operator.itemgetter(1, 2), operator.attrgetter("a"), operator.attrgetter("a.b"), operator.methodcaller("a"),
        operator.methodcaller("a", 1), operator.methodcaller("a", b=1), np.sin, np.cos, np.add, np.add.reduce, np.multiply.reduce, np.mean, np.nanmean,
        np.vectorize(double), np.vectorize(halve), np.vectorize(double, otypes=[float]), len, max, "a".join, "b".join, str.join, int.from_bytes, dict.fromkeys,
        xr.Dataset.mean, xr.Dataset.sum, property(double), staticmethod(double), classmethod(double), functools.lru_cache(double), Slots, Options, Typed,
    ],
    "instances": lambda: [
        Options(1), Options(1, ["a"]), Options(1.0), Slotted(1), Slotted(1, 3), Slots(1, 2), Slots(2, 1), Expensive(1), Expensive(2), Colour.RED, Colour.BLUE, Colour,
        Permission.READ, Permission.WRITE, Permission.READ | Permission.WRITE, Permission(0), Level.LOW, re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a"),
        uuid.UUID(int=1), uuid.UUID(int=2), pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b"), pathlib.PureWindowsPath("a"), "a", ValueError("a"), KeyError("a"),
        list[int], list[str], np.poly1d([1, 2]), np.poly1d([1, 3]), threading.Lock(), logging.getLogger("a"),
    ],
}  # fmt: skip


def iter_view(view: Any) -> Any:
    return view


def spawned(generator: np.random.Generator) -> np.random.Generator:
    generator.spawn(1)
    return generator


def advanced(generator: np.random.Generator) -> np.random.Generator:
    generator.random()
    return generator


@pytest.mark.parametrize("group", DIFFERENT)
def test_different_values_differ_and_equal_ones_agree(group: str) -> None:
    values, again = DIFFERENT[group](), DIFFERENT[group]()
    walk, other = Fingerprinter(), Fingerprinter()
    digests = [walk.fingerprint(value) for value in values]
    clashes = [
        (values[first], values[second])
        for second in range(len(values))
        for first in range(second)
        if digests[first] == digests[second]
    ]
    assert not clashes
    assert [other.fingerprint(value) for value in again] == digests
    backwards = Fingerprinter()
    assert [backwards.fingerprint(value) for value in reversed(values)][::-1] == digests


@pytest.mark.parametrize(
    "group", ["sequences", "times", "arrays", "dtypes", "generators", "pandas", "xarray", "instances"]
)
def test_a_value_that_was_pickled_is_the_same(group: str) -> None:
    for value in DIFFERENT[group]():
        if type(value).__name__ in {"mappingproxy", "dict_keys", "dict_values", "lock"}:
            continue
        # Protocol 4 of numpy 2.5 gives a big-endian array back in native order.
        copied = pickle.loads(pickle.dumps(value, protocol=5))
        assert fingerprint(copied) == fingerprint(value), value


@pytest.mark.parametrize("group", ["sequences", "mappings", "scalars"])
def test_containers_take_their_elements_in(group: str) -> None:
    values = DIFFERENT[group]()
    for wrap in (lambda value: [value], lambda value: (0, value), lambda value: {"k": value}, Options):
        digests = [fingerprint(wrap(value)) for value in values]
        assert len(set(digests)) == len(digests)


SAME: list[tuple[str, Callable[[], list[Any]]]] = [
    ("order of attributes", lambda: [types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)]),
    ("memory layout", lambda: [np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))]),
    ("strides", lambda: [np.arange(6)[::2].copy(), np.arange(6)[::2]]),
    ("reversed strides", lambda: [np.arange(6)[::-1].copy(), np.arange(6)[::-1]]),
    ("large strides", lambda: [np.arange(2**21).reshape(2, -1).T.copy(), np.arange(2**21).reshape(2, -1).T]),
    ("broadcast", lambda: [np.zeros((3, 2)), np.broadcast_to(0.0, (3, 2))]),
    ("writeable flag", lambda: [np.arange(3), frozen(np.arange(3))]),
    ("padding between fields", lambda: [padded(0), padded(255)]),
    ("padding of long doubles", lambda: [long_double(0), long_double(255)]),
    ("behind missing values", lambda: [missing_integers(1), missing_integers(2)]),
    ("behind gaps", lambda: [pa.array([1, None, 3]), arrow_gap()]),
    ("sliced arrow", lambda: [pa.array(["a", None, "b"])[1:], pa.array([None, "b"])]),
    ("sliced nested arrow", lambda: [pa.array([[1], [2, 3], None])[1:], pa.array([[2, 3], None])]),
    ("chunks of a column", lambda: [pa.chunked_array([[1, 2], [3]]), pa.chunked_array([[1], [2, 3]])]),
    ("locks", lambda: [threading.Lock(), threading.RLock(), SerializableLock(), SerializableLock("x"), threading.Condition()]),
    ("loggers", lambda: [logging.getLogger("a"), logging.getLogger("b")]),
    ("cached properties", lambda: [Expensive(3), used(Expensive(3))]),
    ("encodings", lambda: [DATASET, encoded(DATASET)]),
    ("frozensets", lambda: [frozenset("abc"), frozenset("cba")]),
    ("ufuncs", lambda: [np.sin, pickle.loads(pickle.dumps(np.sin))]),
    ("deep copies", lambda: [[Options(1, ["a"])], copy.deepcopy([Options(1, ["a"])])]),
]  # fmt: skip


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def padded(filler: int) -> np.ndarray:
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    array = np.full(2 * dtype.itemsize, filler, "u1").view(dtype)
    array["a"], array["b"] = 1, 2.0
    return array


def long_double(filler: int) -> np.ndarray:
    array = np.full(2 * np.dtype(np.longdouble).itemsize, filler, "u1").view(np.longdouble)
    array[:] = 1.5
    if np.finfo(np.longdouble).nmant == 63:
        array.view("u1").reshape(2, -1)[:, 10:] = filler
    return array


def missing_integers(behind: int) -> pd.arrays.IntegerArray:
    return pd.arrays.IntegerArray(np.array([behind, 5]), np.array([True, False]))


def arrow_gap() -> pa.Array:
    return pa.Array.from_buffers(
        pa.int64(), 3, [pa.py_buffer(bytes([0b101])), pa.py_buffer(np.array([1, 99, 3]))]
    )


def used(expensive: Expensive) -> Expensive:
    assert len(expensive.table) == 3
    return expensive


def encoded(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy(deep=True)
    dataset.t.encoding["source"] = "/somewhere"
    dataset.encoding["source"] = "/somewhere"
    return dataset


@pytest.mark.parametrize(("what", "make"), SAME, ids=[what for what, _ in SAME])
def test_what_is_not_part_of_the_value(what: str, make: Callable[[], list[Any]]) -> None:
    assert len({fingerprint(value) for value in make()}) == 1

"""Labelled objects of every kind, and what it means that two are the same."""

from __future__ import annotations

import collections
import datetime as dt
import enum
from collections.abc import Callable, Iterator
from typing import Any

import cftime
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

import daskcache

Maker = Callable[[], Any]
OBJECTS: dict[str, Maker] = {}
"""By name, what makes an object that can be stored."""

KEPT = ("units", "calendar", "coordinates", "grid_mapping")
UNITS = ("W", "D", "h", "m", "s", "ms", "us", "ns")
CALENDARS = ("standard", "proleptic_gregorian", "julian", "noleap", "all_leap", "360_day")


def labelled(function: Maker) -> Maker:
    OBJECTS[function.__name__] = function
    return function


def one(values: Any, dims: Any = "x", **members: Any) -> xr.Dataset:
    return xr.Dataset({"v": (dims, values)}, **members)


def both(values: np.ndarray[Any, Any]) -> xr.Dataset:
    """Hold values in memory, as a dask array, and as a scalar of each."""
    lazy = da.from_array(values, chunks=max(1, len(values) - 1))
    return xr.Dataset({"memory": ("x", values), "lazy": ("x", lazy), "point": ((), values[0]), "at": lazy[0]})


def objects(*values: Any) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), "O")
    for i, value in enumerate(values):
        array[i] = value
    return array


NUMBERS = {
    "bool": np.array([True, False, True]),
    "u1": np.array([0, 255], "u1"),
    "i8": np.array([-(2**63), 2**63 - 1, 0]),
    "u8": np.array([0, 2**64 - 1], "u8"),
    "f2": np.array([0x7E01, 0x8000, 0x0001], "u2").view("f2"),
    "f4": np.array([0x7FC00123, 0xFFC00000, 0x80000000], "u4").view("f4"),
    "f8": np.array([0x7FF8000000000ABC, 0xFFF8000000000000, 1 << 63], "u8").view("f8"),
    "big_f4": np.array([0x7FC00123, 0x80000000, 0x3F800000], ">u4").view(">f4"),
    "big_i2": np.array([1, -2], ">i2"),
    "c8": np.array([1 - 0j, complex(np.nan, -0.0)], "c8"),
    "c16": np.array([complex(-0.0, np.inf), 1j]),
    "S": np.array([b"ab", b"", b"\xff\0c"]),
    "U": np.array(["é", "", "longer"]),
    "big_U": np.array(["é", "", "longer"], ">U7"),
    "T": np.array(["é", "", "with\0zero"], "T"),
    "T_strict": np.array(["a", "b"], np.dtypes.StringDType(coerce=False)),
    "big_times": np.array(["2000-01-01", "NaT"], ">M8[us]"),
    **{f"M8_{unit}": np.array(["2000-01-06", "NaT", "1900-01-01"], f"M8[{unit}]") for unit in UNITS},
    **{f"m8_{unit}": np.array([1, "NaT", -(2**30)], f"m8[{unit}]") for unit in UNITS},
}
OBJECTS |= {f"values_{name}": lambda values=values: both(values) for name, values in NUMBERS.items()}
OBJECTS |= {
    f"cftime_{name}": lambda name=name: xr.Dataset(
        {"v": ("t", xr.date_range("1899-12-28", periods=5, calendar=name, use_cftime=True).values)},
        {
            "t": xr.date_range("2000-01-01", periods=5, calendar=name, use_cftime=True),
            "start": xr.date_range("0001-01-01", periods=1, calendar=name, use_cftime=True)[0],
        },
    ).chunk(t=2)[["t", "start"]]
    for name in CALENDARS
}
INDEXES = {
    "descending": np.array([3.0, 2.0, 1.0]),
    "f4": np.arange(3, dtype="f4"),
    "big": np.arange(3, dtype=">f4"),
    "bool": np.array([True, False, True]),
    "complex": np.array([1j, 2, 3]),
    "bytes": np.array([b"a", b"b", b"c"]),
    "U": np.array(["a", "b", "c"]),
    "T": np.array(["a", "b", "c"], "T"),
    "pandas_str": pd.Index(["a", "b", "c"]),
    "object": pd.Index(["a", "b", "c"], dtype=object),
    "integers": pd.Index([1, 2, 3], dtype=object),
    "dates": pd.date_range("2000", periods=3),
    "timedeltas": pd.timedelta_range("1D", periods=3),
    "cftime": xr.date_range("2000", periods=3, calendar="noleap", use_cftime=True),
}
OBJECTS |= {
    f"index_{name}": lambda values=values: one(da.arange(3, chunks=2), coords={"x": values})
    for name, values in INDEXES.items()
}


class Level(enum.IntEnum):
    SURFACE = 3


ATTRIBUTES = {
    "none": None,
    "nan": float("nan"),
    "inf": -np.inf,
    "large": 2**80,
    "bytes": b"\xff",
    "complex": 1j,
    "tuple": (1, (2.5, None)),
    "nested": {"a": [1, {"b": ()}], 3: "key"},
    "array": np.array([[1, 2]], ">i2"),
    "texts": np.array(["a", "bc"]),
    "objects": np.array(["a", None], object),
    "scalar": np.float32(0.1),
    "date": np.datetime64("2000-01-01", "us"),
    "datetime": dt.datetime(2000, 1, 1, 3),
    "timedelta": dt.timedelta(1, 2, 3),
    "ordered": collections.OrderedDict(b=1, a=2),
    "enum": Level.SURFACE,
    "surrogate": "a\ud800",
    "empty": "",
}


OBJECTS |= {
    f"attribute_{name}": lambda value=value: one([1], attrs={"k": value, "other": 1})
    for name, value in ATTRIBUTES.items()
}


@labelled
def attributes() -> xr.Dataset:
    values = xr.Variable("x", da.arange(3, chunks=2), ATTRIBUTES)
    return xr.Dataset({"v": values}, attrs={**ATTRIBUTES, 3: "named by a number"})


@labelled
def undecoded() -> xr.Dataset:
    packing = {
        "_FillValue": np.int16(-1),
        "scale_factor": 0.5,
        "coordinates": "lon",
        "units": "days since 2000",
    }
    return xr.Dataset(
        {"v": ("x", da.arange(-1, 3, dtype="i2", chunks=2), packing), "lon": ("x", np.arange(4.0))}
    )


@labelled
def inherited_encoding() -> xr.Dataset:
    ds = xr.Dataset(
        {"v": ("x", da.from_array(np.array([-1.0, 0.0, 1.5]), chunks=2)), "crs": 0},
        {"t": ("x", np.array(["2000-01-01", "2000-02-01", "NaT"], "M8[ns]")), "lon": ("x", np.arange(3.0))},
    )
    ds.v.encoding = {
        "_FillValue": -1.0,
        "scale_factor": 0.1,
        "dtype": "i2",
        "grid_mapping": "crs",
        "coordinates": "lon",
    }
    ds.t.encoding = {"units": "days since 1900-01-01", "calendar": "proleptic_gregorian", "chunks": (1,)}
    ds.encoding = {"coordinates": "t", "unlimited_dims": {"x"}, "source": "somewhere.nc"}
    return ds


@labelled
def floats_since() -> xr.Dataset:
    return one(da.from_array(np.array([0.5, np.nan]), chunks=1)).assign(
        v=lambda ds: ds.v.assign_attrs(units="days since 2000-01-01", calendar="noleap")
    )


HELD_OBJECTS = {
    "texts": objects("a", "", "b\0ü"),
    "missing": objects("a", None, np.nan),
    "bytes": objects(b"a", b"", b"bc"),
    "bytes_with_zeros": objects(b"a\0", b"", b"bc"),
    "integers": objects(1, 2, 2**63 - 1),
    "large": objects(1, 2, 2**70),
    "floats": objects(1.5, -0.0, np.inf),
    "bools": objects(True, False, True),
    "mixed": objects("a", 1, (1, 2.5)),
    "numpy": objects(np.float32(1), np.int8(2), np.str_("a")),
    "none": objects(None).reshape(()),
    "text": objects("a").reshape(()),
    "number": objects(3).reshape(()),
    "date": objects(cftime.DatetimeNoLeap(2000, 2, 28)).reshape(()),
    "nothing": objects(),
}
OBJECTS |= {
    f"objects_{name}": lambda values=values: one(values, ["x"][: values.ndim])
    for name, values in HELD_OBJECTS.items()
}


@labelled
def large_in_memory() -> xr.Dataset:
    return xr.Dataset(
        {
            "exactly_64_KiB": ("a", np.arange(8192.0)),
            "more": ("b", np.arange(8193.0)),
            "large": ("c", np.arange(200_000.0)),
            "texts": ("d", np.arange(20_000).astype("U").astype(object)),
            "few_long_texts": ("e", objects("a" * 70_000, "b" * 70_000)),
            "U": ("d", np.arange(20_000).astype("U")),
            "dates": ("f", xr.date_range("1850", periods=9000, calendar="360_day", use_cftime=True).values),
            "times": ("g", np.arange(10_000).astype("M8[s]")),
            "integers": ("g", np.arange(10_000).astype(object)),
            "missing": ("g", objects(*(["a", None] * 5000))),
        }
    )


@labelled
def order_of_everything() -> xr.Dataset:
    ds = xr.Dataset(
        {
            "z": (("lat", "time"), da.ones((2, 3), chunks=1)),
            "time": ("time", [3, 1, 2]),
            "height": ((), 2.0),
            "a": ("time", np.arange(3)),
            "lon": (("time", "lat"), da.zeros((3, 2), chunks=2)),
            "lat": ("lat", [2.0, 1.0]),
            "lonely": ("other", [1, 2]),
        },
        attrs={"z": 1, "a": 2},
    )
    return ds.set_coords(["height", "lon", "lonely"])


@labelled
def only_coordinates() -> xr.Dataset:
    return xr.Dataset(coords={"x": [1, 2], "y": ("x", da.arange(2, chunks=1)), "q": 1})


@labelled
def without_index() -> xr.Dataset:
    return xr.Dataset({"v": ("x", np.arange(4))}, {"x": np.arange(4.0), "y": [1, 2]}).drop_indexes("x")


@labelled
def dask_dimension_coordinate() -> xr.Dataset:
    return without_index().chunk(x=3)


@labelled
def index_of_another_coordinate() -> xr.Dataset:
    labels = xr.Dataset(
        {"v": ("x", da.arange(3, chunks=2))}, {"lon": ("x", [2, 1, 3]), "name": ("x", list("abc"))}
    )
    return labels.set_xindex("lon").set_xindex("name")


@labelled
def irregular_grids() -> xr.Dataset:
    return xr.Dataset(
        {
            "regular": (("x", "y"), da.arange(70, chunks=7).reshape(10, 7).rechunk((4, 7))),
            "rectilinear": (("x", "y"), da.ones((10, 7), chunks=((3, 5, 2), (1, 6)))),
            "inner": (("x", "w"), da.random.default_rng(1).random((10, 9000), chunks=((3, 5, 2), 9000))),
            "texts": ("x", da.from_array(np.arange(10).astype("U"), chunks=((1, 5, 4),))),
            "gaps": ("x", da.arange(10, chunks=10).rechunk(((0, 4, 0, 6, 0),))),
        }
    )


@labelled
def no_size() -> xr.Dataset:
    return xr.Dataset(
        {
            "lazy": (("n", "x"), da.zeros((0, 3), chunks=(1, 2))),
            "memory": ("n", np.zeros(0, "f4")),
            "texts": ("n", np.zeros(0, "U1")),
            "objects": ("n", objects()),
            "times": ("n", np.zeros(0, "M8[s]")),
        }
    )


@labelled
def scalars() -> xr.Dataset:
    return xr.Dataset(
        {"lazy": da.arange(3, chunks=1).sum(), "memory": 3.5}, {"where": da.ones((), chunks=())}
    )


@labelled
def one_array_twice() -> xr.Dataset:
    array = da.arange(4, chunks=2)
    return xr.Dataset({"a": ("x", array), "b": ("x", array, {"units": "K"}), "c": ("y", array)})


@labelled
def odd_names() -> xr.Dataset:
    names = ["with space", "ünï", 'quo"te', "{{root}}", "c", "0", "a.b", "%2e", "*?"]
    return xr.Dataset({name: (f"dim of {name}", da.arange(3, chunks=2)) for name in names}, {"two words": 1})


@labelled
def nothing() -> xr.Dataset:
    return xr.Dataset()


@labelled
def attributes_alone() -> xr.Dataset:
    return xr.Dataset(attrs={"title": "nothing"})


def array(name: Any, **coords: Any) -> xr.DataArray:
    values = da.arange(4, chunks=3) * 2
    return xr.DataArray(values, {"x": [3, 1, 2, 0], **coords}, ["x"], name, {"units": "K"})


OBJECTS |= {
    "array_named": lambda: array("t"),
    "array_unnamed": lambda: array(None),
    "array_named_like_its_dimension": lambda: array("x"),
    "array_named_like_a_lazy_coordinate": lambda: array("lon", lon=("x", da.arange(4, chunks=2))),
    "array_named_for_no_path": lambda: array("m/s"),
    "array_named_by_nothing": lambda: array(""),
    "array_named_by_a_tuple": lambda: array(("t", 1)),
    "array_in_memory": lambda: xr.DataArray([1, 2], dims="x", name="v"),
    "array_of_a_point": lambda: array("t", height=2)[1],
    "dask_array": lambda: da.arange(10, chunks=3) + 1,
    "dask_scalar": lambda: da.arange(10, chunks=3).sum(),
    "dask_array_irregular": lambda: da.ones((5, 4), chunks=((1, 3, 1), 2)),
    "dask_array_of_days": lambda: da.from_array(np.array(["2000", "NaT"], "M8[D]"), chunks=1),
}


@labelled
def tree() -> xr.DataTree:
    lon = ("x", da.arange(3, chunks=2))
    result = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"a": ("x", da.ones(3, chunks=2))}, {"x": [3, 2, 1], "lon": lon}, {"at": "root"}),
            "/zz/leaf": xr.Dataset(
                {"b": (("x", "y"), da.ones((3, 2), chunks=2))}, {"y": [1, 2]}, {"at": "leaf"}
            ),
            "/empty": xr.Dataset(),
            "/attributes": xr.Dataset(attrs={"at": "middle"}),
            "/zz/second": xr.Dataset({"a": ("x", np.arange(3))}),
        },
        name="trunk",
    )
    result["zz/leaf"].encoding = {"coordinates": "h"}
    return result


@labelled
def empty_tree() -> xr.DataTree:
    return xr.DataTree()


@labelled
def subtree() -> xr.DataTree:
    node = tree()["zz"]
    assert set(node.coords) == {"x"}
    return node


def has_dask(thing: Any) -> bool:
    if isinstance(thing, da.Array):
        return True
    return any(variable.chunks is not None for _, ds in datasets(thing) for variable in ds.variables.values())


def datasets(thing: Any) -> Iterator[tuple[str, xr.Dataset]]:
    if isinstance(thing, xr.DataTree):
        for node in thing.subtree:
            yield node.relative_to(thing), node.to_dataset(inherit=node is thing)
    elif isinstance(thing, xr.DataArray):
        yield "", thing.rename("values, whatever their name").to_dataset()
    else:
        yield "", thing


def assert_same(actual: Any, expected: Any, *, encoding: str = "kept") -> None:
    """Compare two objects in all that a user could see, and compute both.

    Parameters
    ----------
    actual, expected : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The objects.
    encoding : {"kept", "all"}, optional
        Whether only what survives of the expected encoding has to be there, or all.
    """
    assert type(actual) is type(expected)
    if isinstance(expected, da.Array):
        assert actual.chunks == expected.chunks
        assert actual.dtype == expected.dtype
        assert_same_values(actual.compute(), expected.compute())
        return
    if not isinstance(expected, xr.DataTree) or expected.parent is None:
        xr.testing.assert_identical(actual, expected)
    assert actual.name == expected.name if not isinstance(expected, xr.Dataset) else True
    theirs, ours = dict(datasets(expected)), dict(datasets(actual))
    assert list(ours) == list(theirs)
    for path, dataset in theirs.items():
        assert_same_dataset(ours[path], dataset, encoding)
        # A tree orders dimensions by variables that it has reordered since.
        assert isinstance(expected, xr.DataTree) or list(ours[path].sizes) == list(dataset.sizes)


def assert_same_dataset(actual: xr.Dataset, expected: xr.Dataset, encoding: str) -> None:
    xr.testing.assert_identical(actual, expected)
    assert list(actual.variables) == list(expected.variables)
    assert list(actual.coords) == list(expected.coords)
    assert dict(actual.sizes) == dict(expected.sizes)
    assert_same_attributes(actual.attrs, expected.attrs)
    assert actual.encoding == chosen(expected.encoding, encoding)
    assert list(actual.xindexes) == list(expected.xindexes)
    for name, index in expected.xindexes.items():
        assert type(actual.xindexes[name]) is type(index)
    for name, index in expected.indexes.items():
        assert type(actual.indexes[name]) is type(index)
        assert actual.indexes[name].dtype == index.dtype
        assert actual.indexes[name].name == index.name
    for name, variable in expected.variables.items():
        other = actual.variables[name]
        assert type(other) is type(variable), name
        assert other.dims == variable.dims, name
        assert other.dtype == variable.dtype, name
        assert other.chunks == variable.chunks, name
        assert_same_attributes(other.attrs, variable.attrs)
        assert other.encoding == chosen(variable.encoding, encoding), name
        # Numpy's scalars, which 0-d blocks are when they are computed, know neither byte order nor lengths.
        dtype = variable.dtype if variable.dtype.kind != "O" else None
        assert_same_values(np.asarray(other.values, dtype), np.asarray(variable.values, dtype))


def chosen(encoding: Any, which: str) -> dict[str, Any]:
    return dict(encoding) if which == "all" else {key: encoding[key] for key in KEPT if key in encoding}


def assert_same_values(actual: Any, expected: Any) -> None:
    assert np.shape(actual) == np.shape(expected)
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    if expected.dtype.kind in "OT":
        assert repr(actual.tolist()) == repr(expected.tolist())
    else:
        assert actual.tobytes() == expected.tobytes()


def assert_same_attributes(actual: Any, expected: Any) -> None:
    assert list(actual) == list(expected)
    for key, value in expected.items():
        # Of subclasses, such as an OrderedDict, the plain value is kept.
        assert isinstance(value, type(actual[key])), key
        if isinstance(value, np.ndarray | np.generic):
            assert_same_values(actual[key], value)


MADE: list[int] = []


# Declared, because what it counts is no part of what it is.
@daskcache.version("1")
def produce(block: Any) -> Any:
    MADE.append(1)
    return block


class Calls:
    """Counts what producers do in this process, in whatever thread, from now on."""

    def __init__(self) -> None:
        MADE.clear()

    @property
    def made(self) -> int:
        return len(MADE)

    def array(self, meta: Any, shape: Any = (4,), chunks: Any = 2, dtype: Any = None) -> da.Array:
        """Give an array that would notice being computed."""
        base = da.arange(np.prod(shape), chunks=-1).reshape(shape).rechunk(chunks)
        return base.map_blocks(produce, meta=meta, dtype=dtype or meta.dtype)

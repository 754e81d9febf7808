"""Tables that go into databases and come back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import shapely


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def with_attrs() -> pd.DataFrame:
    made = frame(a=[1])
    made.attrs = {"units": "K", "range": (0, 1)}
    return made


DAYS = pd.date_range("2000", periods=3, freq="D", name="day")

HELD: dict[str, Any] = {
    "integers": frame(a=[1, 2], b=np.array([2**63 - 1, -(2**63)])),
    "small integers": frame(
        **{kind: np.array([0, 7], kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "u8")}
    ),
    "floats": frame(
        a=[1.5, np.nan], b=np.array([np.inf, 1e-300]), c=np.array([0.1, 3], "f4"), d=np.array([1, 2], "f2")
    ),
    "booleans": frame(a=[True, False], b=pd.array([True, None], "boolean")),
    "no rows": frame(a=[1, 2], b=pd.Categorical(["x", "y"])).iloc[:0],
    "no columns": pd.DataFrame(index=[3, 4]),
    "nothing": pd.DataFrame(),
    "texts": frame(a=["x", None], b=["", "é\n'\"%s"], c=pd.array(["a", None], "string")),
    "objects": frame(a=pd.Series(["x", "y"], dtype=object), b=pd.Series([b"\0\xff", b""], dtype=object)),
    "dates of Python": frame(a=pd.Series([dt.date(2000, 2, 29), None], dtype=object)),
    "times": pd.DataFrame(
        {
            "a": pd.date_range("2000", periods=3, tz="Europe/Berlin"),
            "b": pd.date_range("1960", periods=3, unit="ns"),
        },
        index=DAYS,
    ),
    "zones": pd.DataFrame(
        {"a": pd.date_range("2000", periods=2, tz="UTC")}, index=DAYS[:2].tz_localize("UTC")
    ),
    "seconds": frame(a=np.array(["1500-01-01", "NaT"], "M8[s]"), b=np.array([1, 2], "m8[s]")),
    "categories": frame(
        a=pd.Categorical(["b", "a", "b"], ["b", "a", "z"], ordered=True), b=pd.Categorical([1, 2, None])
    ),
    "nullable": frame(a=pd.array([1, None], dtype="Int32"), b=pd.array([1.5, None], dtype="Float64")),
    "levels": pd.DataFrame(
        np.arange(6.0).reshape(2, 3),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", None]),
        index=pd.MultiIndex.from_product([[1], ["u", "v"]], names=["p", "q"]),
    ),
    "columns of numbers": pd.DataFrame(np.arange(6.0).reshape(2, 3)),
    "columns of one name": pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=["a", "a", "b"]),
    "odd names": pd.DataFrame([[1, 2, 3, 4, 5]], columns=['t (K) "x"', "a%b:c", "T", "t", "x" * 80]),
    "names of ours": pd.DataFrame([[1, 2]], columns=["daskcache_row", "daskcache_part"]),
    "a range": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(5, 9, 2, name="k")),
    "attributes": with_attrs(),
    "a column": pd.Series([1.5, 2], index=["a", "b"], name=("x", 1)),
    "an index": DAYS,
    "polars": pl.DataFrame(
        {
            "a": ["x", None],
            "e": pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"])),
            "t": [dt.datetime(2000, 1, 1), None],
        }
    ),
    "a column of polars": pl.Series("a", [1, None, 3]),
    "Arrow": pa.table(
        {"a": pa.array([1, None], pa.int8()), "d": pa.array([1, 2], pa.date32()), "n": pa.nulls(2)}
    ),
    "geometries": geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2)], crs=4326),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "fine times": (frame(a=pd.DatetimeIndex(["2000-01-01 00:00:00.000000001"])), "column 'a'.*cannot hold"),
    "periods": (frame(a=pd.period_range("2000", periods=2, freq="M")), "column 'a' is of the type"),
    "lists": (pa.table({"a": [[1], [2]]}), "column 'a' is of the type list"),
    "huge integers": (frame(a=np.array([2**64 - 1], "u8")), "column 'a'.*cannot hold"),
    "late times": (frame(a=np.array(["12000-01-01"], "M8[s]")), "column 'a' holds a date that"),
}

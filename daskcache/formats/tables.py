"""Tables as Parquet: of pandas, geopandas, polars and Arrow. What would not come back as it is, is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from daskcache.attributes import decode_attribute, encode_attribute
from daskcache.errors import MissingExtraError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats.base import Encoded, Format, add_format, is_of_type
from daskcache.formats.zones import describe_zones, in_zone

__all__ = ["decode_frame", "encode_frame", "frame_of", "read_parquet"]

_COMPRESSION = "zstd"


def encode_frame(frame: pd.DataFrame) -> Encoded:
    """Write a table of pandas as Parquet, and read it again to see that nothing is lost.

    Parameters
    ----------
    frame : pandas.DataFrame
        With any index and columns.

    Returns
    -------
    Encoded
        One file.

    Raises
    ------
    UncacheableError
        A column, label or attribute has no form in Parquet that gives it back.
    MissingExtraError
        There is no pyarrow.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="k"))
    >>> encoded = encode_frame(table)
    >>> decode_frame(encoded.parts, encoded.attrs)
       a
    k
    x  1
    y  2
    """
    pa, pq = _arrow()
    attrs: dict[str, Any] = {
        "dtypes": [str(dtype) for dtype in frame.dtypes],
        "index": _describe_index(frame.index),
        "columns": _describe_index(frame.columns),
        "attrs": dict(frame.attrs),
    }
    encode_attribute(attrs)
    plain = frame.copy(deep=False)
    plain.attrs = {}
    labels = frame.columns
    is_plain = not isinstance(labels, pd.MultiIndex) and all(type(label) is str for label in labels)
    if not (is_plain and labels.is_unique):
        # Names of columns are texts in Parquet, each another; others are kept beside.
        attrs["labels"] = [_plain_label(label) for label in labels]
        attrs["names"] = list(labels.names)
        attrs["is_multi"] = isinstance(labels, pd.MultiIndex)
        plain.columns = pd.Index([str(at) for at in range(len(labels))])
    sink = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pandas(plain), sink, compression=_COMPRESSION)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UncacheableError(f"a table has no form in Parquet: {error}") from error
    same = Fingerprinter().fingerprint
    found = frame
    told: dict[str, Callable[[pd.DataFrame], Any]] = {"zones": describe_zones, "categories": _categories_of}
    # What Parquet keeps by itself is not said again: parts of one table are described alike.
    for names in ((), ("zones",), ("categories",), ("zones", "categories")):
        besides = {name: told[name](frame) for name in names}
        if not all(besides.values()):
            continue
        encoded = Encoded((sink.getvalue(),), {**attrs, **besides})
        found = decode_frame(encoded.parts, decode_attribute(encode_attribute(encoded.attrs)))
        if same(found) == same(frame):
            return encoded
    raise UncacheableError(
        f"a table would come back from Parquet as another one ({_difference(frame, found)}); convert what differs, such "
        "as columns of objects, first"
    )


def decode_frame(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> pd.DataFrame:
    """Read what `encode_frame` wrote.

    Parameters
    ----------
    parts : sequence of bytes
        One file.
    attrs : mapping
        What came with it.

    Returns
    -------
    pandas.DataFrame
        With the same types, labels and index.

    Examples
    --------
    >>> encoded = encode_frame(pd.DataFrame({"a": [1.5]}))
    >>> decode_frame(encoded.parts, encoded.attrs).a.dtype
    dtype('float64')
    """
    return frame_of(read_parquet(parts[0]), attrs)


def frame_of(table: Any, attrs: Mapping[str, Any]) -> pd.DataFrame:
    """Make a table of pandas of one of Arrow.

    Parameters
    ----------
    table : pyarrow.Table
        What the file of `encode_frame` holds.
    attrs : mapping
        What came with it.

    Returns
    -------
    pandas.DataFrame
        With the same types, labels and index.
    """
    frame: pd.DataFrame = table.to_pandas()
    zones = attrs.get("zones") or {"columns": [None] * frame.shape[1], "index": [None] * frame.index.nlevels}
    for at, (dtype, zone) in enumerate(zip(attrs["dtypes"], zones["columns"], strict=True)):
        given = frame.iloc[:, at]
        column = in_zone(given, zone)
        # Parquet knows no seconds, and Arrow no texts that are objects.
        if dtype.startswith(("object", "datetime64[", "timedelta64[")):
            column = _cast(column, dtype, zone)
        if column is not given:
            frame.isetitem(at, column)
    for at, categories, dtype, ordered in attrs.get("categories", ()):
        kind = pd.CategoricalDtype(pd.Index(categories, dtype=dtype), ordered)
        frame.isetitem(at, pd.Categorical(frame.iloc[:, at], dtype=kind))
    frame.index = _restore_index(frame.index, attrs["index"], zones["index"])
    if "labels" in attrs:
        labels, names = attrs["labels"], attrs["names"]
        if attrs["is_multi"]:
            frame.columns = pd.MultiIndex.from_tuples([tuple(label) for label in labels], names=names)
        else:
            frame.columns = pd.Index(labels, name=names[0], tupleize_cols=False)
    frame.columns = _restore_index(frame.columns, attrs["columns"], [None] * frame.columns.nlevels)
    frame.attrs = dict(attrs["attrs"])
    return frame


def _categories_of(frame: pd.DataFrame) -> list[list[Any]]:
    """Give each categorical column's number, categories, their dtype, and whether they are ordered."""
    found: list[list[Any]] = []
    for at, dtype in enumerate(frame.dtypes):
        if isinstance(dtype, pd.CategoricalDtype):
            categories = dtype.categories
            is_plain = categories.dtype.kind in "biufmM" and isinstance(categories.dtype, np.dtype)
            values = categories.to_numpy() if is_plain else categories.tolist()
            found.append([at, values, str(categories.dtype), bool(dtype.ordered)])
    try:
        encode_attribute(found)
    except UncacheableError:
        return []
    return found


def _describe_index(index: pd.Index[Any]) -> dict[str, Any]:
    if isinstance(index, pd.RangeIndex):
        # Arrow keeps its name with its length, which parts of a table do not have.
        return {"range": [index.start, index.stop, index.step], "name": index.name}
    if isinstance(index, pd.MultiIndex):
        return {}
    frequency = getattr(index, "freqstr", None)
    return {"dtype": str(index.dtype), **({} if frequency is None else {"freq": frequency})}


def _restore_index(
    index: pd.Index[Any], described: Mapping[str, Any], zones: Sequence[str | None]
) -> pd.Index[Any]:
    if isinstance(index, pd.MultiIndex):
        levels = [in_zone(level, zone) for level, zone in zip(index.levels, zones, strict=True)]
        changed = any(new is not old for new, old in zip(levels, index.levels, strict=True))
        return index.set_levels(levels, verify_integrity=False) if changed else index
    if "range" in described:
        start, stop, step = described["range"]
        return pd.RangeIndex(start, stop, step, name=described.get("name", index.name))
    if "labels" in described:
        # Some rows of a table with a range.
        labels: pd.Index[Any] = pd.Index(described["labels"], dtype="int64", name=described.get("name"))
        return labels
    (zone,) = zones
    index = in_zone(index, zone)
    if "dtype" in described:
        index = _cast(index, described["dtype"], zone)
    if "freq" in described and isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        index = type(index)(index, freq=described["freq"])
    return index


def _cast(values: Any, dtype: str, zone: str | None) -> Any:
    """Give a column or an index the type that it had."""
    if str(values.dtype) == dtype:
        return values
    if not isinstance(values.dtype, pd.DatetimeTZDtype) or not dtype.startswith("datetime64["):
        return values.astype(dtype)
    # Not every zone can be made of its name.
    unit, _, name = dtype.removeprefix("datetime64[").removesuffix("]").partition(", ")
    instants: Any = values.dt if isinstance(values, pd.Series) else values
    return in_zone(instants.as_unit(unit), zone or ("datetime" if name == "UTC" else None))


def _plain_label(label: Any) -> Any:
    return list(label) if isinstance(label, tuple) else label


def _difference(given: pd.DataFrame, found: pd.DataFrame) -> str:
    for at, (one, other) in enumerate(zip(given.dtypes, found.dtypes, strict=True)):
        if one != other:
            return f"column {given.columns[at]!r} of {one} as {other}"
    for at, label in enumerate(given.columns):
        if not given.iloc[:, at].equals(found.iloc[:, at]):
            return f"values of column {label!r}"
    return "its index, columns or attributes"


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            "tables are stored as Parquet by pyarrow; pip install 'daskcache[dataframe]'"
        ) from error
    return pa, pq


def read_parquet(data: bytes) -> Any:
    """Read a file of Parquet.

    Parameters
    ----------
    data : bytes
        Its content.

    Returns
    -------
    pyarrow.Table
        What it holds.
    """
    pa, pq = _arrow()
    return pq.ParquetFile(pa.BufferReader(data)).read()


def _encode_series(series: pd.Series[Any]) -> Encoded:
    frame = series.to_frame("values")
    frame.attrs = {}
    encoded = encode_frame(frame)
    own = {"name": series.name, "own": dict(series.attrs)}
    encode_attribute(own)
    return Encoded(encoded.parts, {**encoded.attrs, **own})


def _series_of(table: Any, attrs: Mapping[str, Any]) -> Any:
    series = frame_of(table, attrs).iloc[:, 0].rename(attrs["name"])
    series.attrs = dict(attrs["own"])
    return series


def _encode_index(index: pd.Index[Any]) -> Encoded:
    return encode_frame(pd.DataFrame(index=index))


def _encode_arrow(value: Any) -> Encoded:
    pa, pq = _arrow()
    is_batch = isinstance(value, pa.RecordBatch)
    table = pa.Table.from_batches([value]) if is_batch else value
    sink = io.BytesIO()
    try:
        # As they are: else the items of lists are called otherwise.
        pq.write_table(table, sink, compression=_COMPRESSION, use_compliant_nested_type=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UncacheableError(f"a table has no form in Parquet: {error}") from error
    data = sink.getvalue()
    found = read_parquet(data)
    if not found.schema.equals(table.schema, check_metadata=True) or not found.equals(table):
        raise UncacheableError(
            "a table of Arrow would come back from Parquet as another one; cast the columns that differ first"
        )
    return Encoded((data,), {"is_batch": is_batch})


def _arrow_of(table: Any, attrs: Mapping[str, Any]) -> Any:
    if not attrs["is_batch"]:
        return table
    pa, _ = _arrow()
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _encode_polars(value: Any) -> Encoded:
    import polars as pl

    is_series = isinstance(value, pl.Series)
    frame = value.to_frame() if is_series else value
    sink = io.BytesIO()
    try:
        frame.write_parquet(sink)
        found = pl.read_parquet(io.BytesIO(sink.getvalue()))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
        raise UncacheableError(f"a table has no form in Parquet: {error}") from error
    if found.schema != frame.schema or not found.equals(frame):
        raise UncacheableError(
            "a table of polars would come back from Parquet as another one; cast the columns that differ first"
        )
    return Encoded((sink.getvalue(),), {"is_series": is_series})


def _decode_polars(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> Any:
    try:
        import polars as pl
    except ImportError as error:
        raise MissingExtraError("this is a table of polars; pip install 'daskcache[polars]'") from error
    frame = pl.read_parquet(io.BytesIO(parts[0]))
    return frame.to_series() if attrs["is_series"] else frame


def _polars_of(table: Any, attrs: Mapping[str, Any]) -> Any:
    try:
        import polars as pl
    except ImportError as error:
        raise MissingExtraError("this is a table of polars; pip install 'daskcache[polars]'") from error
    frame: Any = pl.from_arrow(table)
    return frame.to_series() if attrs["is_series"] else frame


def _encode_geopandas(value: Any) -> Encoded:
    sink = io.BytesIO()
    attrs = {"is_series": is_of_type(value, "geopandas", "GeoSeries"), "attrs": dict(value.attrs)}
    frame = value.to_frame("geometry" if value.name is None else value.name) if attrs["is_series"] else value
    attrs["name"] = value.name if attrs["is_series"] else None
    encode_attribute(attrs)
    try:
        frame.to_parquet(sink, compression=_COMPRESSION)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UncacheableError(f"a table has no form in GeoParquet: {error}") from error
    found = _decode_geopandas([sink.getvalue()], attrs)
    # Their equality sees geometries, values and labels; not the types nor the coordinate reference system.
    same_types = [found.dtype] == [value.dtype] if attrs["is_series"] else found.dtypes.equals(value.dtypes)
    same_index = found.index.equals(value.index) and found.index.names == value.index.names
    if not (same_types and same_index and found.crs == value.crs and found.equals(value)):
        raise UncacheableError(
            "a table of geopandas would come back from GeoParquet as another one; convert the columns that differ first"
        )
    return Encoded((sink.getvalue(),), attrs)


def _decode_geopandas(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> Any:
    try:
        import geopandas
    except ImportError as error:
        raise MissingExtraError("this is a table of geopandas; pip install 'daskcache[geo]'") from error
    found: Any = geopandas.read_parquet(io.BytesIO(parts[0]))
    if attrs["is_series"]:
        found = found.iloc[:, 0].rename(attrs["name"])
    found.attrs = dict(attrs["attrs"])
    return found


def _geopandas_of(table: Any, attrs: Mapping[str, Any]) -> Any:
    _, pq = _arrow()
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return _decode_geopandas([sink.getvalue()], attrs)


def _of(module: str, *names: str) -> Callable[[Any], bool]:
    return lambda value: is_of_type(value, module, *names)


def _add(
    name: str,
    accepts: Callable[[Any], bool],
    encode: Callable[[Any], Encoded],
    of_columns: Callable[[Any, Mapping[str, Any]], Any],
    decode: Callable[[Sequence[bytes], Mapping[str, Any]], Any] | None = None,
) -> None:
    read = decode or (lambda parts, attrs: of_columns(read_parquet(parts[0]), attrs))
    add_format(Format(name, "table", accepts, encode, read, of_columns=of_columns))


_add("pandas", _of("pandas", "DataFrame"), encode_frame, frame_of)
_add("pandas.Series", _of("pandas", "Series"), _encode_series, _series_of)
_add(
    "pandas.Index",
    lambda value: isinstance(value, pd.Index) and type(value).__module__.partition(".")[0] == "pandas",
    _encode_index,
    lambda table, attrs: frame_of(table, attrs).index,
)
_add("arrow", _of("pyarrow", "Table", "RecordBatch"), _encode_arrow, _arrow_of)
_add("polars", _of("polars", "DataFrame", "Series"), _encode_polars, _polars_of, _decode_polars)
_add(
    "geopandas",
    _of("geopandas", "GeoDataFrame", "GeoSeries"),
    _encode_geopandas,
    _geopandas_of,
    _decode_geopandas,
)

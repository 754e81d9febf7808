"""pandas, pyarrow and cftime: by values and types, not by how they came to lie in memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles, handles_subclasses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__: list[str] = []


# Where pandas' own objects keep what they are made of, and what they have worked out.
_OF_PANDAS = frozenset(
    [
        "_attrs",
        "_cache",
        "_codes",
        "_data",
        "_flags",
        "_freq",
        "_id",
        "_item_cache",
        "_levels",
        "_mgr",
        "_name",
        "_names",
        "_no_setting_name",
        "_range",
        "_references",
        "_typ",
        "sortorder",
    ]
)


def _type_name(obj: Any) -> str | type:
    """Name a type of the library's own; a subclass that someone else made is more than its name."""
    kind = type(obj)
    return kind.__qualname__ if kind.__module__.partition(".")[0] in {"pandas", "cftime"} else kind


def _parts(fp: Fingerprinter, tag: bytes, **children: Any) -> Node:
    return Node(tuple(children.values()), lambda parts: fp.combine(tag, parts), tuple(children))


@handles_subclasses("pandas:Index")
def _index(fp: Fingerprinter, obj: Any) -> Node:
    kind = _type_name(obj)
    if kind == "RangeIndex":
        return _parts(fp, b"index", type=kind, range=range(obj.start, obj.stop, obj.step), name=obj.name)
    if kind == "MultiIndex":
        levels, codes = tuple(obj.levels), tuple(obj.codes)
        return _parts(fp, b"index", type=kind, levels=levels, codes=codes, names=tuple(obj.names))
    frequency = getattr(obj, "freq", None)
    values = obj.array
    if (
        _type_name(values) in {"DatetimeArray", "TimedeltaArray"}
        and getattr(values, "freq", None) is not None
    ):
        values = values.view(values.dtype)  # pandas 3.0 keeps an index's frequency in its values as well
    own = {"metadata": kept} if (kept := _metadata(obj)) else {}
    return _parts(fp, b"index", type=kind, values=values, names=tuple(obj.names), frequency=frequency, **own)


@handles_subclasses("pandas:Series")
def _series(fp: Fingerprinter, obj: Any) -> Node:
    return _parts(
        fp,
        b"series",
        type=_type_name(obj),
        values=obj.array,
        index=obj.index,
        name=obj.name,
        attributes=obj.attrs,
        metadata=_metadata(obj),
    )


@handles_subclasses("pandas:DataFrame")
def _frame(fp: Fingerprinter, obj: Any) -> Node:
    columns = tuple(obj.iloc[:, position].array for position in range(obj.shape[1]))
    return _parts(
        fp,
        b"frame",
        type=_type_name(obj),
        columns=obj.columns,
        index=obj.index,
        values=columns,
        attributes=obj.attrs,
        metadata=_metadata(obj),
    )


def _metadata(obj: Any) -> tuple[Any, ...]:
    """List what a subclass of pandas' types keeps besides; they all name it in one attribute made for that."""
    names = [name for name in getattr(obj, "_metadata", ()) if name not in {"name", "_name"}]
    for name in vars(obj).keys() - names:
        is_theirs = name.startswith("_") and type(obj).__module__.partition(".")[0] == "pandas"
        if not (name in _OF_PANDAS or is_theirs):
            raise UncacheableError(
                f"{type(obj)} leaves it out of what it gives to pickle, so that a worker would compute with another "
                "value; name it in the class's _metadata, or put it in attrs",
                (f"attribute {name}",),
            )
    return tuple((name, getattr(obj, name, None)) for name in names)


@handles("pandas:Timestamp")
def _timestamp(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"timestamp", (obj.asm8, obj.fold, obj.tzinfo))


@handles("pandas:Timedelta")
def _timedelta(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"timestamp delta", (obj.asm8,))


@handles("pandas:NaTType", "pandas:NAType")
def _missing(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"missing", type(obj).__qualname__.encode())


@handles("pandas:Period")
def _period(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"period", (obj.ordinal, obj.freq))


@handles("pandas:Interval")
def _interval(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"interval", (obj.left, obj.right, obj.closed))


@handles_subclasses("pandas:BaseOffset")
def _offset(fp: Fingerprinter, obj: Any) -> Node:
    return _parts(
        fp, b"offset", type=_type_name(obj), n=obj.n, normalize=obj.normalize, keywords=dict(obj.kwds)
    )


@handles("numpy:busdaycalendar")
def _business_days(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"busdaycalendar", (obj.weekmask, obj.holidays))


@handles_subclasses("pandas:ExtensionArray")
def _extension_array(fp: Fingerprinter, obj: Any) -> Node:
    """Take an array of pandas by its kind: what lies behind a missing value is no value."""
    numpy: Any = sys.modules["numpy"]
    kind, dtype = _type_name(obj), obj.dtype
    if kind == "NumpyExtensionArray":
        return _parts(fp, b"extension", values=obj.to_numpy())
    if kind in {"DatetimeArray", "TimedeltaArray", "PeriodArray"}:
        frequency = getattr(obj, "freq", None) if kind != "PeriodArray" else None
        return _parts(fp, b"extension", type=kind, dtype=dtype, values=obj.view("i8"), frequency=frequency)
    if kind == "Categorical":
        return _parts(fp, b"extension", type=kind, dtype=dtype, codes=obj.codes)
    if kind == "IntervalArray":
        return _parts(fp, b"extension", type=kind, left=obj.left, right=obj.right, closed=obj.closed)
    if kind == "SparseArray":
        return _parts(fp, b"extension", type=kind, dtype=dtype, values=numpy.asarray(obj))
    numpy_dtype: Any = getattr(dtype, "numpy_dtype", None)
    if kind in {"IntegerArray", "FloatingArray", "BooleanArray"}:
        # Zero where missing; a NaN that is a value stays one.
        values = obj.to_numpy(dtype=numpy_dtype, na_value=numpy_dtype.type(0))
        return _parts(fp, b"extension", type=kind, missing=numpy.asarray(obj.isna()), values=values)
    if isinstance(kind, str) and "Arrow" in kind and hasattr(obj, "__arrow_array__"):
        return _parts(fp, b"extension", type=kind, dtype=dtype, values=obj.__arrow_array__())
    if type(obj).__module__.partition(".")[0] != "pandas":
        # Libraries keep more in theirs than the elements: a unit, a projection.
        return _parts(fp, b"extension", type=type(obj), dtype=dtype, state=_state_of(obj))
    return _parts(fp, b"extension", type=kind, dtype=dtype, values=numpy.asarray(obj, dtype=object))


def _state_of(obj: Any) -> Any:
    """Take a library's own array or dtype apart as pickle would."""
    return obj.__reduce_ex__(4)[1:]


@handles_subclasses("pandas:ExtensionDtype")
def _extension_dtype(fp: Fingerprinter, obj: Any) -> Node:
    kind = _type_name(obj)
    if kind == "CategoricalDtype":
        return _parts(fp, b"extension dtype", type=kind, categories=obj.categories, ordered=obj.ordered)
    if kind == "DatetimeTZDtype":
        return _parts(fp, b"extension dtype", type=kind, unit=obj.unit, zone=obj.tz)
    if kind == "IntervalDtype":
        return _parts(fp, b"extension dtype", type=kind, subtype=obj.subtype, closed=obj.closed)
    if kind == "SparseDtype":
        return _parts(fp, b"extension dtype", type=kind, subtype=obj.subtype, fill=obj.fill_value)
    if kind == "ArrowDtype":
        return _parts(fp, b"extension dtype", type=kind, arrow=obj.pyarrow_dtype)
    if kind == "StringDtype":
        return _parts(fp, b"extension dtype", type=kind, storage=obj.storage, missing=obj.na_value)
    if type(obj).__module__.partition(".")[0] != "pandas":
        return _parts(fp, b"extension dtype", type=type(obj), name=str(obj), state=_state_of(obj))
    return _parts(fp, b"extension dtype", type=kind, name=str(obj))


@handles_subclasses("cftime:datetime")
def _cftime(fp: Fingerprinter, obj: Any) -> Node:
    date = (obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond)
    return combine_items(fp, b"cftime", (_type_name(obj), obj.calendar, obj.has_year_zero, date))


@handles_subclasses("pyarrow:DataType")
def _arrow_type(fp: Fingerprinter, obj: Any) -> bytes:
    pyarrow: Any = sys.modules["pyarrow"]
    schema = pyarrow.schema([("", obj)])
    return fp.digester.digest(b"arrow type", schema.serialize().to_pybytes())


@handles("pyarrow:Field")
def _arrow_field(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"arrow field", (obj.name, obj.type, obj.nullable, obj.metadata))


@handles("pyarrow:Schema")
def _arrow_schema(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"arrow schema", (tuple(obj), obj.metadata))


@handles("pyarrow:Table", "pyarrow:RecordBatch")
def _arrow_table(fp: Fingerprinter, obj: Any) -> Node:
    return _parts(
        fp, b"arrow table", type=type(obj).__qualname__, schema=obj.schema, columns=tuple(obj.columns)
    )


@handles("pyarrow:ChunkedArray")
def _arrow_chunked(fp: Fingerprinter, obj: Any) -> Node:
    # Where a column is cut says nothing of its values.
    pyarrow: Any = sys.modules["pyarrow"]
    whole = pyarrow.concat_arrays(obj.chunks) if obj.num_chunks else None
    return _parts(fp, b"arrow chunked", type=obj.type, values=whole)


@handles_subclasses("pyarrow:Scalar")
def _arrow_scalar(fp: Fingerprinter, obj: Any) -> Node:
    pyarrow: Any = sys.modules["pyarrow"]
    array = pyarrow.array([obj.as_py()], type=obj.type)
    return combine_items(fp, b"arrow scalar", (array,))


@handles("pyarrow:Buffer")
def _arrow_buffer(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"arrow buffer", obj.to_pybytes())


@handles_subclasses("pyarrow:Array")
def _arrow_array(fp: Fingerprinter, obj: Any) -> Node:
    """Take an array by type, gaps and values: buffers hold offsets, padding and what lies behind a gap."""
    pyarrow: Any = sys.modules["pyarrow"]
    types = pyarrow.types
    kind = obj.type
    parts: dict[str, Any] = {"type": kind, "missing": obj.is_null().to_numpy(zero_copy_only=False)}
    if types.is_dictionary(kind):
        parts.update(indices=obj.indices, dictionary=obj.dictionary)
    elif types.is_struct(kind):
        parts.update(fields=tuple(obj.flatten()))
    elif types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        filled = obj if obj.null_count == 0 else obj.fill_null(pyarrow.scalar(0, pyarrow.int8()).cast(kind))
        parts.update(values=filled.to_numpy(zero_copy_only=False))
    elif types.is_temporal(kind) and kind.bit_width in {32, 64} and not types.is_interval(kind):
        parts.update(values=obj.view(pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()))
    elif (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    ):
        parts.update(_strings(pyarrow, obj))
    elif types.is_list(kind) or types.is_large_list(kind):
        lengths = obj.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        parts.update(lengths=lengths, values=obj.flatten())
    else:
        parts.update(values=obj.to_pylist())
    return _parts(fp, b"arrow array", **parts)


def _strings(pyarrow: Any, obj: Any) -> dict[str, Any]:
    numpy: Any = sys.modules["numpy"]
    is_text = pyarrow.types.is_string(obj.type) or pyarrow.types.is_large_string(obj.type)
    filled = obj.fill_null("" if is_text else b"") if obj.null_count else obj
    wide = filled.cast(pyarrow.large_binary())
    if not len(wide):
        return {"lengths": None, "values": None}
    _, offsets, data = wide.buffers()
    edges = numpy.frombuffer(offsets, dtype="<i8")[wide.offset : wide.offset + len(wide) + 1]
    start, stop = int(edges[0]), int(edges[-1])
    values = numpy.frombuffer(data, dtype="u1")[start:stop] if data is not None else numpy.empty(0, "u1")
    return {"lengths": numpy.diff(edges), "values": values}

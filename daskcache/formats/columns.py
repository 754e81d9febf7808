"""Tables as columns of few types, which databases and Delta hold exactly, and back."""

from __future__ import annotations

import io
from typing import Any

from daskcache.errors import MissingExtraError, UncacheableError

__all__ = ["arrow", "combine", "from_template", "lower", "lower_type", "restore", "template_of"]


def arrow() -> Any:
    """Import pyarrow.

    Returns
    -------
    module
        The library.

    Raises
    ------
    MissingExtraError
        It is not installed.

    Examples
    --------
    >>> arrow().__name__
    'pyarrow'
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError(
            "tables are taken apart by pyarrow; pip install 'daskcache[dataframe]'"
        ) from error
    return pa


def lower_type(kind: Any) -> Any:
    """Give the plain type that stands for a type of Arrow.

    Parameters
    ----------
    kind : pyarrow.DataType
        Any type.

    Returns
    -------
    pyarrow.DataType or None
        A boolean, a signed integer, a float, a text, bytes, a date, a time, microseconds, or a decimal. None where no such
        type holds all of its values.

    Examples
    --------
    >>> import pyarrow as pa
    >>> lower_type(pa.uint16()), lower_type(pa.duration("s")), lower_type(pa.list_(pa.int8()))
    (DataType(int32), DataType(int64), None)
    """
    pa = arrow()
    types = pa.types
    if types.is_dictionary(kind):
        return lower_type(kind.value_type)
    if types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if types.is_fixed_size_binary(kind) and not types.is_decimal(kind):
        return pa.binary()
    for test, plain in _PLAIN:
        if getattr(types, test)(kind):
            return kind if plain is None else getattr(pa, plain[0])(*plain[1:])
    return None


# None: the type itself.
_PLAIN: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("is_null", ("int8",)),
    ("is_boolean", None),
    ("is_uint8", ("int16",)),
    ("is_uint16", ("int32",)),
    ("is_uint32", ("int64",)),
    ("is_uint64", ("int64",)),
    ("is_signed_integer", None),
    ("is_float16", ("float32",)),
    ("is_floating", None),
    ("is_string", None),
    ("is_large_string", ("string",)),
    ("is_string_view", ("string",)),
    ("is_binary", None),
    ("is_large_binary", ("binary",)),
    ("is_binary_view", ("binary",)),
    ("is_date", ("date32",)),
    ("is_time", ("time64", "us")),
    ("is_duration", ("int64",)),
    ("is_decimal128", None),
)


def lower(table: Any, where: str) -> Any:
    """Give a table whose columns are of plain types, from which `restore` makes the same again.

    Parameters
    ----------
    table : pyarrow.Table
        The table.
    where : str
        What cannot hold the others, for messages.

    Returns
    -------
    pyarrow.Table
        With the same names and rows, without metadata.

    Raises
    ------
    UncacheableError
        A column has no plain type that holds its values.

    Examples
    --------
    >>> import pyarrow as pa
    >>> lower(pa.table({"a": pa.array([1, 2], pa.duration("s"))}), "SQL").schema.field("a").type
    DataType(int64)
    """
    pa = arrow()
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = lower_type(column.type)
        if plain is None:
            raise UncacheableError(
                f"column {name!r} is of the type {column.type}, which {where} cannot hold; convert it, or store the table with "
                "format='parquet'"
            )
        try:
            columns.append(_cast(column, plain))
        except pa.ArrowException as error:
            raise UncacheableError(
                f"column {name!r} of the type {column.type} has values that {where} cannot hold as {plain}: {error}; "
                "round or convert them, or store the table with format='parquet'"
            ) from error
    fields = [pa.field(name, column.type) for name, column in zip(table.column_names, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def restore(plain: Any, template: Any) -> Any:
    """Make a table of plain columns what it was.

    Parameters
    ----------
    plain : pyarrow.Table
        As `lower` gives it, or rows of it.
    template : pyarrow.Table
        What `from_template` gives: the types, metadata and dictionaries.

    Returns
    -------
    pyarrow.Table
        With the rows of the first and the types of the second.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"a": pa.array(["x", "y"]).dictionary_encode()})
    >>> restore(lower(table, "SQL"), from_template(template_of(table))).equals(table)
    True
    """
    pa = arrow()
    columns = []
    for column, model in zip(plain.columns, template.columns, strict=True):
        kind = model.type
        if pa.types.is_dictionary(kind):
            dictionary = _dictionary(model)
            places = _compute().index_in(column.cast(dictionary.type), value_set=dictionary)
            indices = pa.concat_arrays(places.chunks or [pa.array([], places.type)]).cast(kind.index_type)
            found = pa.DictionaryArray.from_arrays(indices, dictionary, ordered=kind.ordered)
            columns.append(pa.chunked_array([found], type=kind))
        elif pa.types.is_null(kind):
            columns.append(pa.chunked_array([pa.nulls(len(column))]))
        else:
            columns.append(_cast(column, kind))
    return pa.Table.from_arrays(columns, schema=template.schema)


def template_of(table: Any) -> bytes:
    """Write down a table without its rows: the types, metadata and dictionaries.

    Parameters
    ----------
    table : pyarrow.Table
        The table.

    Returns
    -------
    bytes
        A stream of Arrow's.
    """
    pa = arrow()
    arrays = []
    for column in table.columns:
        whole = combine(column)
        arrays.append(whole.slice(0, 0))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=table.schema))
    return sink.getvalue()


def from_template(data: bytes) -> Any:
    """Read what `template_of` wrote.

    Parameters
    ----------
    data : bytes
        A stream of Arrow's.

    Returns
    -------
    pyarrow.Table
        Without rows.
    """
    return arrow().ipc.open_stream(data).read_all()


def combine(column: Any) -> Any:
    """Give a column as one array.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        The column.

    Returns
    -------
    pyarrow.Array
        All of its values; of a dictionary's those of all chunks.
    """
    pa = arrow()
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _compute() -> Any:
    import pyarrow.compute as pc

    return pc


def _dictionary(model: Any) -> Any:
    pa = arrow()
    return model.chunk(0).dictionary if model.num_chunks else pa.array([], model.type.value_type)


def _cast(column: Any, kind: Any) -> Any:
    pa = arrow()
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == kind:
        return column
    if types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    if types.is_timestamp(column.type) and column.type.tz != kind.tz:
        # A zone is a way to show an instant: the numbers are the same.
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit, kind.tz))
    elif types.is_duration(column.type):
        return column.cast(pa.int64())
    return column.cast(kind)

"""Columns and their values in a database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from daskcache.errors import UncacheableError
from daskcache.formats.columns import arrow, lower, lower_type
from daskcache.formats.contents import Wanted
from daskcache.formats.database import sqlalchemy

__all__ = ["column_type", "condition", "from_rows", "to_rows"]


def column_type(kind: Any, name: str, dialect: str) -> Any:
    """Give the column that holds values of a type of Arrow.

    Parameters
    ----------
    kind : pyarrow.DataType
        The type.
    name : str
        The column, for messages.
    dialect : str
        ``sqlite`` or ``postgresql``.

    Returns
    -------
    sqlalchemy.types.TypeEngine
        The column's type.

    Raises
    ------
    UncacheableError
        There is none.

    Examples
    --------
    >>> import pyarrow as pa
    >>> column_type(pa.duration("s"), "a", "sqlite")
    BigInteger()
    """
    sa = sqlalchemy()
    types = arrow().types
    plain = lower_type(kind)
    if plain is None or (types.is_decimal(plain) and dialect == "sqlite"):
        raise UncacheableError(
            f"column {name!r} is of the type {kind}, which {_NAMES[dialect]} cannot hold; convert it, or store the table "
            "with format='parquet'"
        )
    if types.is_decimal(plain):
        return sa.Numeric(plain.precision, plain.scale)
    if types.is_timestamp(plain):
        return sa.DateTime(timezone=plain.tz is not None and dialect == "postgresql")
    found = {
        "bool": sa.Boolean,
        "int8": sa.SmallInteger,
        "int16": sa.SmallInteger,
        "int32": sa.Integer,
        "int64": sa.BigInteger,
        "float": sa.Double,
        "double": sa.Double,
        "string": sa.Text,
        "binary": sa.LargeBinary,
        "date32[day]": sa.Date,
        "time64[us]": sa.Time,
    }
    return found[str(plain)]()


_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def to_rows(table: Any, dialect: str) -> Iterator[tuple[Any, ...]]:
    """Give the rows of a table as Python's values.

    Parameters
    ----------
    table : pyarrow.Table
        The table.
    dialect : str
        ``sqlite`` or ``postgresql``.

    Returns
    -------
    iterator of tuple
        One for each row.

    Raises
    ------
    UncacheableError
        The database has no such values.
    """
    pa = arrow()
    columns = []
    for name, column in zip(table.column_names, lower(table, _NAMES[dialect]).columns, strict=True):
        if pa.types.is_timestamp(column.type) and column.type.tz is not None and dialect == "sqlite":
            # Which keeps times without zones: those of UTC.
            column = column.cast(pa.int64()).cast(pa.timestamp("us"))
        try:
            values = column.to_pylist()
        except (OverflowError, ValueError) as error:
            raise UncacheableError(
                f"column {name!r} holds a date that {_NAMES[dialect]} cannot hold ({error}); store the table with "
                "format='parquet'"
            ) from error
        columns.append(values)
    return zip(*columns, strict=True) if columns else iter([()] * table.num_rows)


def from_rows(rows: Sequence[Sequence[Any]], schema: Any) -> Any:
    """Make plain columns of what a database gives.

    Parameters
    ----------
    rows : sequence of sequence
        Values of Python's.
    schema : pyarrow.Schema
        What they stand for.

    Returns
    -------
    pyarrow.Table
        As `daskcache.formats.columns.lower` gives it.
    """
    pa = arrow()
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in schema]
    kinds = [lower_type(field.type) for field in schema]
    arrays = [pa.chunked_array([_array(values, kind)]) for values, kind in zip(columns, kinds, strict=True)]
    fields = [pa.field(field.name, kind) for field, kind in zip(schema, kinds, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def condition(column: Any, kind: Any, wanted: Wanted, dialect: str) -> Any:
    """Say in SQL which rows are wanted.

    Parameters
    ----------
    column : sqlalchemy.Column
        The column.
    kind : pyarrow.DataType
        Its type in the table.
    wanted : Wanted
        What is wanted of it.
    dialect : str
        ``sqlite`` or ``postgresql``.

    Returns
    -------
    sqlalchemy.ColumnElement or None
        True for all rows that are wanted, and maybe for others; None where the database cannot tell.
    """
    sa = sqlalchemy()
    types = arrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if wanted.values is not None:
        values = [_plain(value, kind, dialect, 0) for value in wanted.values]
        is_exact = not types.is_timestamp(kind) and all(value is not None for value in values)
        return column.in_(values) if is_exact else None
    if wanted.bounds is None or lower_type(kind) is None or types.is_string(lower_type(kind)):
        # A database may sort texts in its own way.
        return None
    low, high = wanted.bounds(getattr(kind, "tz", None))
    found = []
    for bound, is_low in ((low, True), (high, False)):
        if bound is not None:
            value = _plain(bound, kind, dialect, -1 if is_low else 1)
            if value is None:
                return None
            found.append(column >= value if is_low else column <= value)
    return sa.and_(*found) if found else None


def _plain(value: Any, kind: Any, dialect: str, widen: int) -> Any:
    """Give a value as one of a column's, a microsecond off where that can be needed; None for one of another type."""
    types = arrow().types
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if types.is_timestamp(kind):
        if not isinstance(value, dt.datetime | np.datetime64) or pd.isna(value):
            return None
        moment = pd.Timestamp(value)
        if (moment.tzinfo is None) != (kind.tz is None):
            return None
        if moment.tzinfo is not None:
            moment = moment.tz_convert("UTC")
            moment = moment.tz_localize(None) if dialect == "sqlite" else moment
        try:
            return moment.floor("us").to_pydatetime(warn=False) + dt.timedelta(microseconds=widen)
        except (OverflowError, ValueError):
            return None
    if isinstance(value, bool):
        return value if types.is_boolean(kind) else None
    if isinstance(value, int):
        fits = (types.is_integer(kind) or types.is_floating(kind)) and abs(value) < 2**53
        return value if fits else None
    if isinstance(value, float):
        return value if types.is_floating(kind) and np.isfinite(value) else None
    if isinstance(value, str):
        return value if types.is_string(lower_type(kind) or kind) and "\0" not in value else None
    return None


def _array(values: Sequence[Any], kind: Any) -> Any:
    pa = arrow()
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        values = [
            value.replace(tzinfo=dt.UTC) if value is not None and value.tzinfo is None else value
            for value in values
        ]
    if pa.types.is_floating(kind):
        # Half precision is lowered to single, which Python does not know.
        return pa.array(values, pa.float64()).cast(kind)
    return pa.array(values, kind)

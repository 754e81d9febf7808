"""Rows of tables in a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from daskcache.errors import UncacheableError
from daskcache.formats.columns import from_template, restore
from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.database import sqlalchemy
from daskcache.formats.holding import Holding
from daskcache.formats.sql_names import PART, ROW, column_names
from daskcache.formats.sql_types import column_type, condition, from_rows, to_rows

__all__ = ["insert_part", "layout", "read_columns", "read_part", "select_rows"]

_BATCH = 10_000


def layout(name: str, dialect: str, template: Any) -> Any:
    """Describe the table that holds rows.

    Parameters
    ----------
    name : str
        What it is called.
    dialect : str
        ``sqlite`` or ``postgresql``.
    template : pyarrow.Table
        The columns.

    Returns
    -------
    sqlalchemy.Table
        With two columns more, which say whose the rows are.

    Raises
    ------
    UncacheableError
        The database has no column for one of them.
    """
    sa = sqlalchemy()
    names = column_names(template.column_names)
    columns = [
        sa.Column(called, column_type(field.type, field.name, dialect), key=f"c{number}", nullable=True)
        for number, (called, field) in enumerate(zip(names, template.schema, strict=True))
    ]
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(PART, sa.Integer, key=PART, primary_key=True, autoincrement=False),
        sa.Column(ROW, sa.BigInteger, key=ROW, primary_key=True, autoincrement=False),
        *columns,
    )


def insert_part(connection: Any, table: Any, part: int, contents: Contents, dialect: str) -> None:
    """Put the rows of a part into a table.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction.
    table : sqlalchemy.Table
        As `layout` gives it.
    part : int
        The part's number.
    contents : Contents
        Its rows.
    dialect : str
        ``sqlite`` or ``postgresql``.

    Raises
    ------
    UncacheableError
        The database cannot hold a value.
    """
    sa = sqlalchemy()
    names = [column.key for column in table.columns]
    statement = sa.insert(table)
    for start in range(0, contents.table.num_rows, _BATCH):
        piece = contents.table.slice(start, _BATCH)
        rows = to_rows(piece, dialect)
        batch = [
            dict(zip(names, (part, start + number, *values), strict=True))
            for number, values in enumerate(rows)
        ]
        try:
            connection.execute(statement, batch)
        except (sa.exc.DataError, sa.exc.IntegrityError, UnicodeError, OverflowError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise UncacheableError(
                f"the database cannot hold a value of table {table.name}: {reason}; change it, or use "
                "format='parquet'"
            ) from None


def read_part(connection: Any, name: str, dialect: str, holding: Holding, part: int) -> Any:
    """Read the rows of a part.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction.
    name : str
        The table's.
    dialect : str
        ``sqlite`` or ``postgresql``.
    holding : Holding
        What the table holds.
    part : int
        The part's number.

    Returns
    -------
    pyarrow.Table
        Of the types that they had.
    """
    sa = sqlalchemy()
    template = from_template(holding.template)
    table = layout(name, dialect, template)
    columns = list(table.columns)[2:]
    query = sa.select(table.c[ROW], *columns).where(table.c[PART] == part).order_by(table.c[ROW])
    rows = connection.execute(query).all()
    return restore(from_rows([row[1:] for row in rows], template.schema), template)


def read_columns(
    connection: Any, name: str, dialect: str, holding: Holding, names: Sequence[str]
) -> dict[int, Any]:
    """Read some columns of all parts, in one query.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction.
    name : str
        The table's.
    dialect : str
        ``sqlite`` or ``postgresql``.
    holding : Holding
        What the table holds.
    names : sequence of str
        The columns.

    Returns
    -------
    dict of int to pyarrow.Table
        By part.
    """
    sa = sqlalchemy()
    whole = from_template(holding.template)
    table = layout(name, dialect, whole)
    template = whole.select(list(names))
    columns = [table.c[f"c{whole.column_names.index(one)}"] for one in names]
    rows: dict[int, list[Any]] = {part: [] for part in holding.pieces}
    for part, *values in connection.execute(
        sa.select(table.c[PART], *columns).order_by(table.c[PART], table.c[ROW])
    ):
        # Others are not of the table as it is known.
        if part in rows:
            rows[part].append(values)
    return {part: restore(from_rows(found, template.schema), template) for part, found in rows.items()}


def select_rows(
    connection: Any, name: str, dialect: str, holding: Holding, wanted: Sequence[Wanted]
) -> Contents:
    """Read rows of all parts.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction.
    name : str
        The table's.
    dialect : str
        ``sqlite`` or ``postgresql``.
    holding : Holding
        What the table holds.
    wanted : sequence of Wanted
        Which rows.

    Returns
    -------
    Contents
        These, and maybe others.
    """
    sa = sqlalchemy()
    whole = holding.whole()
    template = whole.table
    table = layout(name, dialect, template)
    columns = list(table.columns)[2:]
    chosen = table.c[PART].in_(list(holding.pieces))
    order = (table.c[PART], table.c[ROW])
    filters = [] if "labels" in whole.attrs else list(_filters(dialect, template, columns, wanted))
    if not filters or not whole.needs_positions:
        query = sa.select(*order, *columns).where(chosen, *filters).order_by(*order)
        rows = connection.execute(query).all()
        return whole.with_rows(restore(from_rows([row[2:] for row in rows], template.schema), template))
    number = (sa.func.row_number().over(order_by=order) - 1).label("daskcache_position")
    inner = sa.select(number, *columns).where(chosen).subquery()
    again = list(inner.columns)
    filters = list(_filters(dialect, template, again[1:], wanted))
    query = sa.select(*again).where(*filters).order_by(again[0])
    rows = connection.execute(query).all()
    found = restore(from_rows([row[1:] for row in rows], template.schema), template)
    positions = np.fromiter((row[0] for row in rows), "i8", len(rows))
    return whole.take(found.replace_schema_metadata(template.schema.metadata), positions)


def _filters(dialect: str, template: Any, columns: Sequence[Any], wanted: Sequence[Wanted]) -> Iterator[Any]:
    names = template.column_names
    for one in wanted:
        found_name = next((name for name in one.columns if name in names), None)
        if found_name is not None:
            number = names.index(found_name)
            found = condition(columns[number], template.schema.field(number).type, one, dialect)
            if found is not None:
                yield found

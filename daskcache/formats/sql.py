"""Tables in a database: a table for each entry, and one that lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, override
from uuid import uuid4

from daskcache.errors import NotStoredError, StoreError, UncacheableError
from daskcache.formats.columns import from_template
from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.database import Database, sqlalchemy
from daskcache.formats.holding import Holding, Parts, Rows, merge
from daskcache.formats.keeper import Keeper
from daskcache.formats.ledger import Contribution, Ledger, Writing
from daskcache.formats.sql_names import INDEX, PART, digest_of, table_name
from daskcache.formats.sql_rows import insert_part, layout, read_columns, read_part, select_rows
from daskcache.manifest import Manifest

__all__ = ["SQL", "SqlKeeper"]

SQL = "sql"
"""What manifests call tables that lie in a database."""


@dataclass(frozen=True, slots=True)
class SqlKeeper(Keeper):
    """The table of one entry in a database.

    Examples
    --------
    >>> import pandas as pd
    >>> from tempfile import mkdtemp
    >>> from daskcache.manifest import Node
    >>> keeper = SqlKeeper(Database.of(f"sqlite:///{mkdtemp()}/results.db"), "/data", "default", "mean/call-00")
    >>> rows = Rows("pandas", [Contents.of(pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="k")))])
    >>> made = []
    >>> keeper.write(Contribution("call"), rows, None, Writing(lambda attrs, _: made.append(attrs)))
    >>> manifest = Manifest.build("table", (), name="sql", nodes={"": Node(made[0])})
    >>> keeper.read(manifest, keeper.look(manifest)).value()
       a
    k
    x  1
    y  2
    """

    database: Database
    """Where the table lies."""
    store: str
    """The store that has the entry, without credentials: stores that share a database share no tables."""
    namespace: str
    """The entry's."""
    entry: str
    """Its name."""

    @property
    @override
    def name(self) -> str:
        return SQL

    @property
    def id(self) -> str:
        """What the list of tables knows it by."""
        return digest_of(self.store, self.namespace, self.entry)

    @property
    def table(self) -> str:
        """What the table is called."""
        return table_name(self.store, self.namespace, self.entry)

    @override
    def write(self, own: Contribution, rows: Rows, keys: Sequence[str] | None, how: Writing) -> None:
        sa, dialect = sqlalchemy(), self.database.dialect
        with self.database.begin(write=True) as connection:
            listed = self._prepare(connection)
            before = self._find(connection, listed)
            is_new = before is None or keys is None or how.is_anew()
            holding = None if is_new or before is None else before[0]
            living = Ledger() if holding is None else holding.ledger.living(how.is_changed)

            keyed: dict[int, Any] = {}

            def read(part: int, names: Sequence[str] | None) -> Any:
                assert holding is not None
                if names is None:
                    return read_part(connection, self.table, dialect, holding, part)
                if not keyed:
                    # Of all parts at once, however many calls there were.
                    keyed.update(read_columns(connection, self.table, dialect, holding, names))
                return keyed[part]

            merged = merge(holding, Parts(read), living, own, rows, keys)
            table = layout(self.table, dialect, from_template(merged.holding.template))
            if len(merged.holding.ledger.contributions) == 1:
                # Nothing stays of other calls, whose columns may have been others.
                self._drop(connection, table, is_ours=before is not None)
                table.create(connection)
            else:
                stays = [part for part in merged.holding.pieces if part not in merged.changed]
                connection.execute(sa.delete(table).where(table.c[PART].not_in(stays)))
            given = chain(merged.changed.items(), zip(merged.added, rows.parts, strict=True))
            for part, contents in given:
                insert_part(connection, table, part, contents, dialect)
                found = read_part(connection, self.table, dialect, merged.holding, part)
                if not contents.is_same(found.replace_schema_metadata(contents.table.schema.metadata)):
                    raise UncacheableError(
                        f"database {self.database.label} gives other values back than it was given, such as NULL for NaN or "
                        f"0 for -0, in {_difference(contents.table, found)}; change these, or use format='parquet'"
                    )
            stamp = self._note(connection, listed, merged.holding)
            where = {"database": self.database.label, "table": self.table, "id": self.id}
            # Before the transaction ends: of two writers the one whose rows count is the last to publish.
            how.publish({**where, "stamp": stamp, "is_gathered": keys is not None}, ())

    @override
    def look(self, manifest: Manifest) -> Holding:
        attrs = manifest.nodes[""].attrs
        self._check(attrs)
        with self.database.begin(write=False) as connection:
            found = self._find(connection, self._listed())
        if found is None:
            raise NotStoredError(f"table {self.table} is not in database {self.database.label}")
        holding, stamp = found
        if stamp != attrs["stamp"] and not holding.is_gathered:
            raise NotStoredError(f"table {self.table} was replaced since")
        return holding

    @override
    def lost(self, manifest: Manifest) -> set[int]:
        # That is for the database to say when they are read.
        return set()

    @override
    def read(self, manifest: Manifest, holding: Holding, wanted: Sequence[Wanted] = ()) -> Contents:
        with self._reading(holding) as connection:
            return select_rows(connection, self.table, self.database.dialect, holding, wanted)

    @override
    def read_part(self, manifest: Manifest, holding: Holding, part: int) -> Contents:
        with self._reading(holding, part) as connection:
            return holding.part(part).with_rows(
                read_part(connection, self.table, self.database.dialect, holding, part)
            )

    @contextmanager
    def _reading(self, holding: Holding, part: int | None = None) -> Iterator[Any]:
        """Open a transaction in which the table is as it was looked at."""
        sa = sqlalchemy()
        with self.database.begin(write=False) as connection:
            if self.database.dialect == "postgresql":
                # Before the first look, which fixes what is seen: tables that are replaced are not subject to that.
                quoted = sa.sql.quoted_name(self.table, quote=True)
                preparer = connection.dialect.identifier_preparer
                try:
                    connection.exec_driver_sql(f"LOCK TABLE {preparer.quote(quoted)} IN ACCESS SHARE MODE")
                except sa.exc.ProgrammingError as error:
                    raise NotStoredError(
                        f"table {self.table} is not in database {self.database.label}"
                    ) from error
            found = self._find(connection, self._listed())
            there = {} if found is None else found[0].pieces
            parts = holding.pieces if part is None else [part]
            if any(
                number not in there or there[number].digest != holding.pieces[number].digest
                for number in parts
            ):
                raise NotStoredError(f"table {self.table} was changed while it was read")
            yield connection

    def _drop(self, connection: Any, table: Any, *, is_ours: bool) -> None:
        sa = sqlalchemy()
        if not is_ours and sa.inspect(connection).has_table(self.table):
            raise StoreError(
                f"database {self.database.label} has a table {self.table} that daskcache did not make; rename it"
            )
        table.drop(connection, checkfirst=True)

    def _check(self, attrs: Mapping[str, Any]) -> None:
        if attrs["database"] != self.database.label:
            raise NotStoredError(
                f"it lies in the database {attrs['database']}; set daskcache.functions.database to its URL, and not to "
                f"{self.database.label}"
            )
        if attrs["id"] != self.id:
            raise NotStoredError(f"table {attrs['table']!r:.80} is not that of {self.entry}")

    def drop(self, is_forgotten: Callable[[str], bool], *, dry_run: bool = False) -> bool:
        """Drop the table, where nothing needs it any more.

        Parameters
        ----------
        is_forgotten : callable
            Given when its rows were stored, ISO 8601: whether nothing does. Asked while nobody writes it.
        dry_run : bool, optional
            Only tell.

        Returns
        -------
        bool
            Whether it was dropped.
        """
        sa = sqlalchemy()
        with self.database.begin(write=True) as connection:
            listed = self._prepare(connection)
            row = connection.execute(sa.select(listed.c.stored).where(listed.c.id == self.id)).first()
            if row is None or not is_forgotten(str(row.stored)):
                return False
            if not dry_run:
                sa.Table(self.table, sa.MetaData()).drop(connection, checkfirst=True)
                connection.execute(sa.delete(listed).where(listed.c.id == self.id))
            return True

    def _listed(self) -> Any:
        return listed_tables()

    def _prepare(self, connection: Any) -> Any:
        """Have this the only writer of the table, and the list of tables there."""
        listed = self._listed()
        if self.database.dialect == "postgresql":
            # The first makes the list; each entry has its own queue.
            for number in (digest_of("", INDEX), self.id):
                key = int(number[:15], 16)
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({key})")
                if number != self.id:
                    listed.create(connection, checkfirst=True)
            return listed
        listed.create(connection, checkfirst=True)
        return listed

    def _find(self, connection: Any, listed: Any) -> tuple[Holding, str] | None:
        sa = sqlalchemy()
        query = sa.select(listed.c.document, listed.c.stamp).where(listed.c.id == self.id)
        try:
            row = connection.execute(query).first()
        except (sa.exc.ProgrammingError, sa.exc.OperationalError) as error:
            if not is_missing(error):
                raise
            return None
        if row is None:
            return None
        try:
            return Holding.from_json(json.loads(row.document)), str(row.stamp)
        except ValueError as error:
            raise NotStoredError(f"table {self.table} in {self.database.label}: {error}") from error

    def _note(self, connection: Any, listed: Any, holding: Holding) -> str:
        sa = sqlalchemy()
        stamp = uuid4().hex
        connection.execute(sa.delete(listed).where(listed.c.id == self.id))
        connection.execute(
            sa.insert(listed),
            {
                "id": self.id,
                "store": self.store,
                "namespace": self.namespace,
                "entry": self.entry,
                "table_name": self.table,
                "rows": holding.rows,
                "stored": datetime.now(UTC).isoformat(timespec="microseconds"),
                "stamp": stamp,
                "document": json.dumps(holding.to_json()),
            },
        )
        return stamp


def listed_tables() -> Any:
    """Describe the list of all tables.

    Returns
    -------
    sqlalchemy.Table
        One row for each table.
    """
    sa = sqlalchemy()
    return sa.Table(
        INDEX,
        sa.MetaData(),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("stored", sa.Text, nullable=False),
        sa.Column("stamp", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )


def is_missing(error: Any) -> bool:
    """Whether an error of SQLAlchemy's says that a table is not there.

    Parameters
    ----------
    error : sqlalchemy.exc.DBAPIError
        The error.

    Returns
    -------
    bool
        Whether it does.
    """
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01"


def _difference(given: Any, found: Any) -> str:
    for name, one, other in zip(given.column_names, given.columns, found.columns, strict=True):
        if one.null_count != other.null_count or not one.equals(other):
            return f"column {name!r}"
    return "a column of floats"

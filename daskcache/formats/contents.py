"""A table taken apart: its columns, and what it takes to make the same object of them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats.base import find_format, get_format
from daskcache.formats.columns import combine
from daskcache.formats.tables import read_parquet

__all__ = ["Contents", "Wanted"]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Rows that somebody asks for, by one column; he may be given more than these, and selects among them himself."""

    columns: tuple[str, ...]
    """Names of the column; the first that a table has counts."""
    bounds: Callable[[Any], tuple[Any, Any]] | None = None
    """From and to, both included, None where open; given the time zone that the column is shown in, or None."""
    values: tuple[Any, ...] | None = None
    """Or the values themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """A table as columns of Arrow."""

    form: str
    """The format that it has a value of, such as ``pandas``."""
    table: Any
    """The columns, index levels among them: `pyarrow.Table`."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """What the format needs besides."""

    @classmethod
    def of(cls, value: Any) -> Contents:
        """Take a table apart.

        Parameters
        ----------
        value : object
            A table of pandas, geopandas, polars or Arrow, or a column or an index.

        Returns
        -------
        Contents
            Of which `value` makes the same again.

        Raises
        ------
        UncacheableError
            It is no table, or would not come back as it is.
        MissingExtraError
            There is no pyarrow.

        Examples
        --------
        >>> Contents.of(pd.DataFrame({"a": [1, 2]}, index=["x", "y"])).value().loc["y", "a"]
        np.int64(2)
        """
        form = find_format(value)
        if form.kind != "table" or form.of_columns is None:
            raise UncacheableError(f"a value of type {type(value)} is no table")
        encoded = form.encode(value)
        made = cls(form.name, read_parquet(encoded.parts[0]), encoded.attrs)
        if form.name == "polars":
            found = made.value()
            is_same = _types_of(found) == _types_of(value) and found.equals(value)
            if not is_same:
                raise UncacheableError("a table of polars would come back from its columns as another one")
        return made

    def value(self) -> Any:
        """Make the object again.

        Returns
        -------
        object
            As it was.

        Raises
        ------
        NotStoredError
            This process does not know its format.
        """
        make = get_format(self.form).of_columns
        if make is None:
            raise UncacheableError(f"the format {self.form!r} makes no tables")
        return make(self.table, self.attrs)

    def take(self, table: Any, positions: np.ndarray[Any, Any]) -> Contents:
        """Give some of the rows, as selecting them by position would.

        Parameters
        ----------
        table : pyarrow.Table
            These rows.
        positions : numpy.ndarray
            Which they are, shape (rows,), ascending.

        Returns
        -------
        Contents
            Of the same format.
        """
        index = dict(self.attrs.get("index") or {})
        is_whole = not len(positions) or bool((np.diff(positions) == 1).all())
        if "range" in index:
            full = pd.RangeIndex(*index.pop("range"))
            first = int(positions[0]) if len(positions) else 0
            part: Any = full[first : first + len(positions)] if is_whole else full[positions]
            if isinstance(part, pd.RangeIndex):
                index["range"] = [part.start, part.stop, part.step]
            else:
                index["labels"] = part.tolist()
        elif "labels" in index:
            index["labels"] = [index["labels"][position] for position in positions.tolist()]
        elif not is_whole:
            index.pop("freq", None)
        attrs = {**self.attrs, "index": index} if "index" in self.attrs else self.attrs
        return Contents(self.form, table, attrs)

    @property
    def needs_positions(self) -> bool:
        """Whether the index of some of the rows follows from their positions."""
        return not {"range", "labels", "freq"}.isdisjoint(self.attrs.get("index") or {})

    def joined(self, rows: int) -> Contents:
        """Give what this is a part of, where several parts are one table.

        Parameters
        ----------
        rows : int
            How many the table has.

        Returns
        -------
        Contents
            Without rows. A range as index counts all of them anew; no index has a frequency.
        """
        index = dict(self.attrs.get("index") or {})
        index.pop("freq", None)
        if not {"range", "labels"}.isdisjoint(index):
            index = {"range": [0, rows, 1], "name": index.get("name")}
        attrs = {**self.attrs, "index": index} if "index" in self.attrs else self.attrs
        return Contents(self.form, self.table.slice(0, 0), attrs)

    def with_rows(self, table: Any) -> Contents:
        """Put rows into it.

        Parameters
        ----------
        table : pyarrow.Table
            With the own columns.

        Returns
        -------
        Contents
            Of which `value` makes an object.
        """
        return Contents(self.form, table.replace_schema_metadata(self.table.schema.metadata), self.attrs)

    def is_same(self, other: Any) -> bool:
        """Whether another table has the same columns, bit by bit.

        Parameters
        ----------
        other : pyarrow.Table
            The other.

        Returns
        -------
        bool
            False also where a zero has another sign, or a gap is no NaN any more.
        """
        if not other.schema.equals(self.table.schema, check_metadata=True):
            return False
        same = Fingerprinter().fingerprint
        pairs = zip(self.table.columns, other.columns, strict=True)
        return all(same(combine(one)) == same(combine(two)) for one, two in pairs)


def _types_of(value: Any) -> Any:
    return value.schema if hasattr(value, "schema") else (value.name, value.dtype)

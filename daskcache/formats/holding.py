"""What is known of a table that is kept in parts: whose rows they are, and what it takes to make objects of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from daskcache.attributes import decode_attribute, encode_attribute
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats.columns import arrow, combine, from_template, template_of
from daskcache.formats.contents import Contents
from daskcache.formats.ledger import Contribution, Ledger

__all__ = ["Holding", "Merged", "Parts", "Piece", "Rows", "check_keys", "merge"]

_LAYOUT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One part of a table, without its rows."""

    attrs: Mapping[str, Any]
    """What the format needs besides the columns."""
    rows: int
    """How many it has."""
    digest: str
    """Of its columns, in hex: what tells it from any other."""

    @classmethod
    def of(cls, contents: Contents) -> Piece:
        """Describe some rows.

        Parameters
        ----------
        contents : Contents
            The rows.

        Returns
        -------
        Piece
            Equal ones of equal rows.
        """
        same = Fingerprinter().fingerprint
        columns = [combine(column) for column in contents.table.columns]
        digest = same((columns, encode_attribute(dict(contents.attrs)))).hex()
        return cls(contents.attrs, contents.table.num_rows, digest)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a call gave: a table, or one of dask in several parts."""

    form: str
    """The format that each part has a value of."""
    parts: Sequence[Contents]
    """At least one."""
    frame: Mapping[str, Any] | None = None
    """Of a table of dask: its divisions, and whether it is one column."""


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """All of a table but its rows."""

    form: str
    """The format that each part has a value of."""
    template: bytes
    """The columns: `template_of` the newest rows."""
    ledger: Ledger = field(default_factory=Ledger)
    """Whose rows they are."""
    pieces: Mapping[int, Piece] = field(default_factory=dict)
    """By part."""
    keys: tuple[str, ...] = ()
    """What tells rows from each other, where calls update each other's."""
    is_gathered: bool = False
    """Whether several calls put rows into it."""
    frame: Mapping[str, Any] | None = None
    """Of a table of dask: its divisions, and whether it is one column."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(piece.rows for piece in self.pieces.values())

    def only(self, ledger: Ledger) -> Holding:
        """Give what some of the contributions have put in.

        Parameters
        ----------
        ledger : Ledger
            These.

        Returns
        -------
        Holding
            Of their parts.
        """
        pieces = {part: self.pieces[part] for part in ledger.parts}
        frame = self.frame
        if frame is not None and len(pieces) < len(self.pieces):
            frame = {**frame, "divisions": [None] * (len(pieces) + 1)}
        return replace(self, ledger=ledger, pieces=pieces, frame=frame)

    def part(self, number: int) -> Contents:
        """Give what a part is, without its rows.

        Parameters
        ----------
        number : int
            The part.

        Returns
        -------
        Contents
            To be given rows.
        """
        return Contents(self.form, from_template(self.template), self.pieces[number].attrs)

    def whole(self) -> Contents:
        """Give what all parts together are, without their rows.

        Returns
        -------
        Contents
            To be given rows; the result of one call is just as it was.
        """
        newest = self.part(max(self.pieces))
        return newest.joined(self.rows) if self.is_gathered else newest

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON.

        Returns
        -------
        dict
            What `from_json` reads.
        """
        return {
            "layout": _LAYOUT,
            "form": self.form,
            "template": base64.b64encode(self.template).decode("ascii"),
            "columns": {field.name: str(field.type) for field in from_template(self.template).schema},
            "ledger": self.ledger.to_json(),
            "pieces": [
                [part, encode_attribute(dict(piece.attrs)), piece.rows, piece.digest]
                for part, piece in self.pieces.items()
            ],
            "keys": list(self.keys),
            "is_gathered": self.is_gathered,
            "frame": None if self.frame is None else encode_attribute(dict(self.frame)),
        }

    @classmethod
    def from_json(cls, document: Any) -> Holding:
        """Read what `to_json` gave.

        Parameters
        ----------
        document : dict
            Parsed JSON.

        Returns
        -------
        Holding
            The same.

        Raises
        ------
        InvalidInputError
            It is not of that form, or of a newer one.

        Examples
        --------
        >>> import pandas as pd
        >>> rows = Rows("pandas", [Contents.of(pd.DataFrame({"a": [1, 2]}))])
        >>> made = merge(None, Parts(), Ledger(), Contribution("call"), rows, None).holding
        >>> Holding.from_json(json.loads(json.dumps(made.to_json()))).rows
        2
        """
        try:
            if document["layout"] != _LAYOUT:
                raise InvalidInputError(
                    f"a table is kept in the layout {document['layout']!r}, which a newer daskcache knows; update it"
                )
            frame = document["frame"]
            return cls(
                str(document["form"]),
                base64.b64decode(document["template"]),
                Ledger.from_json(document["ledger"]),
                {
                    int(part): Piece(decode_attribute(attrs), int(rows), str(digest))
                    for part, attrs, rows, digest in document["pieces"]
                },
                tuple(map(str, document["keys"])),
                bool(document["is_gathered"]),
                None if frame is None else decode_attribute(frame),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"what is known of a table is damaged: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Reads the rows of a table part by part."""

    read: Callable[[int, Sequence[str] | None], Any] = lambda part, names: None
    """Given a part and names of columns, or None for all: its rows as `pyarrow.Table`."""

    def keys_of(self, part: int, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """Give what each row is known by.

        Parameters
        ----------
        part : int
            The part.
        keys : sequence of str
            Names of columns.

        Returns
        -------
        list of tuple
            One for each row; none where there are no keys.
        """
        return _keys_of(self.read(part, keys), keys) if keys else []


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What a table becomes by what one more call gives."""

    holding: Holding
    """All but its rows."""
    added: tuple[int, ...]
    """The numbers of the new parts, in the order of what was given."""
    changed: Mapping[int, Contents]
    """What is left of those that lost rows."""


def merge(
    before: Holding | None,
    parts: Parts,
    living: Ledger,
    own: Contribution,
    rows: Rows,
    keys: Sequence[str] | None,
) -> Merged:
    """Put what a call gave into a table.

    Parameters
    ----------
    before : Holding or None
        The table; None for a new one.
    parts : Parts
        Reads its rows.
    living : Ledger
        Whose rows still hold; all others go.
    own : Contribution
        The call and its sources.
    rows : Rows
        What it gave.
    keys : sequence of str or None
        Columns: a row takes the place of the one with the same values in them. None of them: rows are added. None: the
        table is the result of one call.

    Returns
    -------
    Merged
        In which what the call gave before is replaced by what it gives now.

    Raises
    ------
    UncacheableError
        Two of the rows have the same keys, a key is missing, or the columns are not those of the table.

    Examples
    --------
    >>> import pandas as pd
    >>> def rows(**columns):
    ...     return Rows("pandas", [Contents.of(pd.DataFrame(columns))])
    >>> first = merge(None, Parts(), Ledger(), Contribution("a"), rows(k=[1, 2], v=[1.0, 2.0]), ["k"])
    >>> there = Parts(lambda part, names: rows(k=[1, 2], v=[1.0, 2.0]).parts[0].table)
    >>> second = merge(first.holding, there, first.holding.ledger, Contribution("b"), rows(k=[2], v=[9.0]), ["k"])
    >>> second.added, {part: contents.table.to_pylist() for part, contents in second.changed.items()}
    ((1,), {0: [{'k': 1, 'v': 1.0}]})
    """
    if before is None:
        living = Ledger()
    elif before.is_gathered and before.keys != tuple(keys or ()):
        raise UncacheableError(
            f"the table is kept by the keys {list(before.keys)}, and rows are given by {list(keys or ())}; change the function's "
            "version, which begins another table"
        )
    given = check_keys(rows, keys or ())
    over: set[int] = set()
    earlier = living.find(own.id)
    if earlier is not None:
        lost = {key for part in earlier.parts for key in parts.keys_of(part, keys or ())} - given
        over.update(() if lost else earlier.over)
        kept = tuple(one for one in living.contributions if one.id != own.id)
        # What lay below rows that go is not there any more.
        living = living.without(earlier.parts) if lost else Ledger(kept)
    first = max(before.pieces if before is not None else (), default=-1) + 1
    numbers = tuple(range(first, first + len(rows.parts)))
    pieces: dict[int, Piece] = {}
    changed: dict[int, Contents] = {}
    for part in living.parts:
        assert before is not None
        there = before.part(part)
        _check_columns(there, rows.parts[0], before.form == rows.form)
        pieces[part] = before.pieces[part]
        stays = np.array([key not in given for key in parts.keys_of(part, keys or ())], bool)
        if not stays.all():
            over.add(part)
            # Without rows, Arrow lets go of categories.
            left = parts.read(part, None).filter(arrow().array(stays)) if stays.any() else there.table
            changed[part] = there.take(left, np.flatnonzero(stays))
            pieces[part] = Piece.of(changed[part])
    pieces |= {part: Piece.of(contents) for part, contents in zip(numbers, rows.parts, strict=True)}
    frame = rows.frame
    if frame is not None and living.contributions:
        frame = {**frame, "divisions": [None] * (len(pieces) + 1)}
    contribution = replace(own, parts=numbers, over=tuple(sorted(over.intersection(living.parts))))
    holding = Holding(
        rows.form,
        template_of(rows.parts[-1].table),
        Ledger((*living.contributions, contribution)),
        pieces,
        tuple(keys or ()),
        keys is not None,
        frame,
    )
    return Merged(holding, numbers, changed)


def check_keys(rows: Rows, keys: Sequence[str]) -> set[tuple[Any, ...]]:
    """Refuse rows that keys do not tell from each other.

    Parameters
    ----------
    rows : Rows
        The rows.
    keys : sequence of str
        Names of columns, or of levels of the index.

    Returns
    -------
    set of tuple
        The keys.

    Raises
    ------
    UncacheableError
        A column is not there, a key is missing, or two rows have the same.
    """
    found: set[tuple[Any, ...]] = set()
    for contents in rows.parts:
        names = contents.table.column_names
        missing = [name for name in keys if name not in names]
        if missing:
            raise UncacheableError(
                f"upsert_keys names {missing}, and the table has {names}; name columns of the table, or levels of its index"
            )
        gaps = [name for name in keys if contents.table.column(name).null_count]
        if gaps:
            raise UncacheableError(f"some rows have no value of {gaps}, which upsert_keys names")
        for key in _keys_of(contents.table, keys):
            # Only NaN is not what it is.
            if any(value != value for value in key):
                raise UncacheableError(f"some rows have no number in {list(keys)}, which upsert_keys names")
            if key in found:
                raise UncacheableError(
                    f"two rows have the same {dict(zip(keys, key, strict=True))!r}, which upsert_keys names; return one of them"
                )
            found.add(key)
    return found


def _keys_of(table: Any, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    if not keys:
        return []
    return list(zip(*(table.column(name).to_pylist() for name in keys), strict=True))


def _check_columns(there: Contents, given: Contents, is_same_form: bool) -> None:
    """Refuse rows that would not be of the table's types."""
    pa = arrow()
    one, other = there.table, given.table
    is_same = is_same_form and one.schema.equals(other.schema)
    is_same = is_same and _described(there) == _described(given)
    for a, b in zip(one.columns, other.columns, strict=False) if is_same else ():
        if pa.types.is_dictionary(a.type):
            is_same = is_same and combine(a).dictionary.equals(combine(b).dictionary)
    if not is_same:
        shown = (", ".join(f"{field.name}: {field.type}" for field in table.schema) for table in (other, one))
        raise UncacheableError(
            "the rows are of other columns, types or categories than the table that they are put into: {} and {}; return "
            "the same ones, or change the function's version, which begins another table".format(*shown)
        )


def _described(contents: Contents) -> Any:
    """Give what must be the same in all parts, besides the columns' types."""
    attrs = {name: value for name, value in contents.attrs.items() if name not in ("attrs", "own")}
    if "index" in attrs:
        # A range that lost rows is told by its numbers.
        is_range = not {"range", "labels"}.isdisjoint(attrs["index"])
        attrs["index"] = "range" if is_range else attrs["index"].get("dtype")
    metadata = dict(contents.table.schema.metadata or {})
    if contents.form.startswith("pandas"):
        return attrs
    if b"geo" in metadata:
        geo = json.loads(metadata.pop(b"geo"))
        for column in geo.get("columns", {}).values():
            column.pop("bbox", None)
        metadata.pop(b"pandas", None)
        return attrs, geo, metadata
    return attrs, metadata

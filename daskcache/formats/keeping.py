"""Tables that are kept in parts, wherever that is: in the store, in a database, as Delta."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import dask.config
import numpy as np
import pandas as pd

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, MissingExtraError, UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint_as
from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.database import Database
from daskcache.formats.delta import DELTA, DeltaKeeper
from daskcache.formats.entries import read_part
from daskcache.formats.frames import draft_frame, is_dask_frame
from daskcache.formats.gathered import GATHERED, GatheredKeeper
from daskcache.formats.holding import Holding, Rows
from daskcache.formats.keeper import Keeper
from daskcache.formats.ledger import Ledger
from daskcache.formats.sql import SQL, SqlKeeper
from daskcache.formats.tables import read_parquet
from daskcache.manifest import Manifest

__all__ = ["Keeper", "KeptPartition", "Opened", "is_kept", "keeper_of", "open_kept", "take_apart"]


def is_kept(manifest: Manifest) -> bool:
    """Whether a manifest is of a table that is kept in parts.

    Parameters
    ----------
    manifest : Manifest
        Any.

    Returns
    -------
    bool
        Whether `keeper_of` gives what reads it.

    Examples
    --------
    >>> is_kept(Manifest.build("table", (), name="sql")), is_kept(Manifest.build("table", (), name="pandas"))
    (True, False)
    """
    return manifest.kind == "table" and manifest.name in (SQL, DELTA, GATHERED)


def keeper_of(name: str | None, settings: Settings, entry: str, database: str | None = None) -> Keeper:
    """Give what keeps the table of an entry.

    Parameters
    ----------
    name : str or None
        The format that a function asks for, or what a manifest calls such tables.
    settings : Settings
        The store and namespace.
    entry : str
        The name.
    database : str, optional
        The database, in place of the configured one.

    Returns
    -------
    Keeper
        Nobody has been asked anything yet.

    Raises
    ------
    InvalidInputError
        There is none of that name, or no database is named.
    MissingExtraError
        What it needs is not installed.

    Examples
    --------
    >>> keeper_of("sql", Settings("/data"), "mean/call-00", "sqlite:////data/results.db").table
    'mean_...'
    """
    if name == SQL:
        return SqlKeeper(Database.of(database), stores.describe(settings.store), settings.namespace, entry)
    if name == DELTA:
        return DeltaKeeper(settings, entry)
    if name in (GATHERED, "parquet", None):
        return GatheredKeeper(settings, entry)
    raise InvalidInputError(
        f"tables are kept in parts as 'parquet', 'sql' or 'delta', and format={name!r} is asked for"
    )


@dataclass(frozen=True, slots=True, eq=False)
class _StagedParts(Sequence[Contents]):
    """The partitions of a table of dask, each read when it is looked at."""

    make: Callable[[int], Contents]
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, number: int) -> Contents: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Contents]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self.make(one) for one in range(self.size)[number]]
        return self.make(range(self.size)[number])

    def __iter__(self) -> Iterator[Contents]:
        return map(self.make, range(self.size))


def take_apart(result: Any, settings: Settings, keys: Sequence[str] | None = None) -> Rows:
    """Give the columns of a table.

    Parameters
    ----------
    result : object
        A table in memory, or one of dask, whose partitions are computed, and stored as Parquet until they are where they
        belong.
    settings : Settings
        The store.
    keys : sequence of str, optional
        What tells rows from each other, where other calls fill the same table.

    Returns
    -------
    Rows
        By partition.

    Raises
    ------
    UncacheableError
        It is no table, or would not come back as it is.
    """
    if not is_dask_frame(result):
        contents = Contents.of(result if keys is None else _spread_index(result))
        return Rows(contents.form, [contents])
    if keys and result._meta.index.name in keys:
        result = result.map_partitions(_spread_index, meta=result._meta)
    draft = draft_frame(result, settings, {})
    attrs = draft.manifest.nodes[""].attrs
    is_series = bool(attrs["is_series"])
    form = "pandas.Series" if is_series else "pandas"
    variables = draft.manifest.variables[1:]

    def make(number: int) -> Contents:
        found = attrs["parts"][number + 1]
        own = {"name": found["name"], "own": {}} if is_series else {}
        table = read_parquet(read_part(variables[number], settings.pool_root))
        return Contents(form, table, {**found["frame"], **own})

    frame = {"divisions": list(attrs["divisions"]), "is_series": is_series}
    return Rows(form, _StagedParts(make, len(variables)), frame)


def _spread_index(value: Any) -> Any:
    """Make of a range as index its numbers, where they say more than how many rows there are."""
    index = getattr(value, "index", None)
    if not isinstance(index, pd.RangeIndex):
        return value
    if (index.name, index.start, index.step) == (None, 0, 1):
        return value
    spread = value.copy(deep=False)
    spread.index = pd.Index(index.to_numpy(), name=index.name)
    return spread


@dataclass(frozen=True, slots=True, eq=False)
class KeptPartition:
    """A part of a table, as the literal of the task that reads it: its identity is that of its rows."""

    keeper: Keeper
    """Reads it."""
    manifest: Manifest
    """Of the entry."""
    holding: Holding
    """Of this part alone."""

    @property
    def digest(self) -> str:
        """Of the rows."""
        (piece,) = self.holding.pieces.values()
        return piece.digest

    def __daskcache_region__(self, index: Any, fingerprinter: Fingerprinter) -> bytes:
        return fingerprinter.digester.digest(b"kept partition", self.digest.encode())

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "daskcache.KeptPartition", repr(self.keeper), self.digest


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A table that is kept in parts, looked at."""

    keeper: Keeper
    """Reads it."""
    manifest: Manifest
    """Of the entry."""
    holding: Holding
    """All but its rows."""

    @property
    def is_lazy(self) -> bool:
        """Whether it is a table of dask."""
        return self.holding.frame is not None

    def living(self, is_changed: Callable[[Mapping[str, str | None]], bool]) -> Ledger:
        """Give the contributions that still hold; see `Ledger.living`."""
        living = self.holding.ledger.living(is_changed)
        return living.without(self.keeper.lost(self.manifest))

    def value(self, ledger: Ledger, wanted: Sequence[Wanted] = ()) -> Any:
        """Read what some of the contributions have put in.

        Parameters
        ----------
        ledger : Ledger
            These.
        wanted : sequence of Wanted
            Rows that are asked for; others may come as well.

        Returns
        -------
        object
            A table as the function returns it; lazy, if that is of dask.
        """
        holding = self.holding.only(ledger)
        if holding.frame is None:
            return self.keeper.read(self.manifest, holding, wanted).value()
        try:
            import dask.dataframe as dd
        except ImportError as error:
            raise MissingExtraError("this is a table of dask; pip install 'daskcache[dataframe]'") from error
        parts = [
            KeptPartition(
                self.keeper,
                self.manifest,
                replace(holding, pieces={part: piece}, ledger=Ledger(), frame=None),
            )
            for part, piece in holding.pieces.items()
        ]
        first = holding.part(min(holding.pieces))
        meta = first.take(first.table, np.empty(0, "i8")).value()
        with dask.config.set({"dataframe.convert-string": False}):
            divisions = tuple(holding.frame["divisions"])
            return dd.from_map(_read_partition, parts, meta=meta, divisions=divisions)


# What is read is told by the literal, and not by how it is read.
@fingerprint_as("daskcache.formats.keeping.read_partition", 0)
def _read_partition(part: KeptPartition) -> Any:
    (number,) = part.holding.pieces
    return part.keeper.read_part(part.manifest, part.holding, number).value()


def open_kept(manifest: Manifest, settings: Settings, entry: str, database: str | None = None) -> Opened:
    """Look at a table that is kept in parts.

    Parameters
    ----------
    manifest : Manifest
        Of the entry.
    settings : Settings
        The store and namespace.
    entry : str
        The name.
    database : str, optional
        The database, in place of the configured one.

    Returns
    -------
    Opened
        Of which parts are read.

    Raises
    ------
    NotStoredError
        It is not there any more.
    """
    if not isinstance(manifest.name, str):
        raise UncacheableError(f"a manifest names the format {manifest.name!r:.80}; expected a text")
    keeper = keeper_of(manifest.name, settings, entry, database)
    return Opened(keeper, manifest, keeper.look(manifest))

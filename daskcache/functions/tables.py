"""Results that are kept in parts: tables in databases, as Delta, and those that several calls fill."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from daskcache.catalog import Catalog
from daskcache.catalog.versions import expiry_of
from daskcache.config import Settings
from daskcache.errors import CorruptChunkError, EntryNotFoundError, NotStoredError, warn_once
from daskcache.formats.contents import Wanted
from daskcache.formats.delta import DELTA
from daskcache.formats.frames import is_dask_frame
from daskcache.formats.keeping import keeper_of, open_kept, take_apart
from daskcache.formats.ledger import Contribution, Writing
from daskcache.formats.sql import SQL
from daskcache.functions.keys import Call
from daskcache.functions.memory import MEMORY, copy_value, size_of
from daskcache.functions.options import Definition, Options
from daskcache.functions.sources import Sources, find_changed
from daskcache.manifest import Manifest, Node
from daskcache.publishing import Draft

__all__ = ["Table", "is_in_parts", "recall_table", "save_table"]

logger = logging.getLogger("daskcache")

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What is asked of a table that is kept in parts."""

    database: str | None = None
    """The function's, in place of the configured one."""
    own: str | None = None
    """Whose rows have to be in it; None where all that is in it is welcome."""
    wanted: tuple[Wanted, ...] = ()
    """Rows that are asked for."""


def is_in_parts(definition: Definition) -> bool:
    """Whether the results of a function are tables that are kept in parts.

    Parameters
    ----------
    definition : Definition
        The function's.

    Returns
    -------
    bool
        Whether `save_table` stores them.

    Examples
    --------
    >>> is_in_parts(Definition(format="sql")), is_in_parts(Definition(upsert_keys=())), is_in_parts(Definition())
    (True, True, False)
    """
    return definition.format in (SQL, DELTA) or definition.upsert_keys is not None


def save_table(
    result: Any,
    call: Call,
    settings: Settings,
    definition: Definition,
    own: str,
    describe: Callable[[], tuple[dict[str, Any], Sources]],
    publish: Callable[[Draft], object],
    *,
    is_anew: bool,
) -> bool:
    """Put a result into the table of its entry.

    Parameters
    ----------
    result : object
        What the function returned.
    call : Call
        The call.
    settings : Settings
        The store and namespace, which take writes.
    definition : Definition
        Of which the format, the database and the keys count.
    own : str
        Tells the call from others that fill the table.
    describe : callable
        Gives what the manifest says of the call, and the sources of the result.
    publish : callable
        Publishes the entry.
    is_anew : bool
        Whether nothing stays of what earlier calls have put in.

    Returns
    -------
    bool
        Whether it is read only when it is computed.

    Raises
    ------
    UncacheableError
        It is no table, or the table cannot hold it.
    StoreError
        The store or the database cannot be written.
    """
    keys = definition.upsert_keys
    keeper = keeper_of(definition.format, settings, call.entry, definition.database)
    rows = take_apart(result, settings, keys)
    info, sources = describe()
    described = dict(info["call"])
    if keys is not None:
        # What holds of one call holds of its rows alone, and the list of calls says it.
        described["sources"] = {}
        described["coverage"] = [None] * len(described.get("coverage") or ())

    def publish_as(attrs: Mapping[str, Any], variables: tuple[Any, ...]) -> None:
        nodes = {"": Node(dict(attrs))}
        said = {**info, "call": described}
        publish(Draft(Manifest.build("table", variables, name=keeper.name, nodes=nodes, info=said)))

    def begins_anew() -> bool:
        return is_anew or keys is None or _has_gone(settings, call.entry)

    how = Writing(publish_as, _Changes("sources"), begins_anew)
    keeper.write(Contribution(own, sources=dict(sources)), rows, keys, how)
    return is_dask_frame(result)


def recall_table(
    manifest: Manifest,
    call: Call,
    settings: Settings,
    options: Options,
    table: Table,
) -> tuple[Any, Sources, bool] | None:
    """Read the table of an entry.

    Parameters
    ----------
    manifest : Manifest
        The entry's.
    call : Call
        The call.
    settings : Settings
        The store and namespace.
    options : Options
        Of which ``verify`` and ``memoize`` count.
    table : Table
        What is asked of it.

    Returns
    -------
    value : object
        The table, of which rows may be left out that nobody asked for.
    sources : dict
        What it was made from.
    is_lazy : bool
        Whether it is read only when it is computed.
        None in place of the three where it has to be computed.

    Raises
    ------
    NotStoredError, StoreError
        It cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        try:
            opened = open_kept(manifest, settings, call.entry, table.database)
        except NotStoredError as error:
            logger.info("%s is computed again: %s", call.entry, error)
            return None
        holding = opened.holding
        living = opened.living(_Changes(options.verify))
        if not living.contributions or (table.own is not None and living.find(table.own) is None):
            return None
        gone = len(holding.ledger.contributions) - len(living.contributions)
        if gone:
            warn_once(
                f"{gone} of the {len(holding.ledger.contributions)} calls that filled the table of {call.entry} have read "
                "what is not as it was, or have lost rows to such; their rows are left out until they are called again"
            )
        place = ("table", settings.store, settings.namespace, call.entry)
        stamp = tuple(holding.pieces[part].digest for part in living.parts)
        kept = MEMORY.get(place) if options.memoize else None
        if kept is not None and kept[0] == stamp:
            return copy_value(kept[1]), living.sources, False
        try:
            value = opened.value(living, () if options.memoize else table.wanted)
        except NotStoredError:
            # Another process has changed it since it was looked at.
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        if options.memoize and not opened.is_lazy:
            MEMORY.put(place, (stamp, copy_value(value)), size_of(value) + 1024)
        return value, living.sources, opened.is_lazy
    raise AssertionError("the last attempt returns or raises")


class _Changes:
    """Whether sources are not as they were; each is looked at once."""

    def __init__(self, verify: str) -> None:
        self._verify = verify
        self._known: dict[tuple[str, str | None], bool] = {}

    def __call__(self, sources: Mapping[str, str | None]) -> bool:
        if self._verify == "never":
            return False
        for pair in sources.items():
            if pair not in self._known:
                self._known[pair] = find_changed(dict([pair])) is not None
        return any(self._known[pair] for pair in sources.items())


def _has_gone(settings: Settings, entry: str) -> bool:
    """Whether an entry was cleared, or has expired."""
    catalog = Catalog.of(settings)
    latest = catalog.latest(entry)
    if latest is None:
        return True
    try:
        expiry = expiry_of(catalog.open(entry, latest.version))
    except EntryNotFoundError:
        return True
    except CorruptChunkError:
        # Of what the calls have put in, others know.
        return False
    return expiry is not None and datetime.fromisoformat(expiry) <= datetime.now(UTC)

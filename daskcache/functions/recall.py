"""Results that are stored: looked up, looked over, and opened by reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from daskcache import stores
from daskcache.catalog import Catalog, time_of
from daskcache.catalog.documents import Documents
from daskcache.catalog.layout import entry_key
from daskcache.catalog.versions import expiry_of
from daskcache.config import Settings
from daskcache.datasets import PackedBlocks
from daskcache.errors import InvalidInputError, NotStoredError
from daskcache.formats import Format
from daskcache.formats.frames import is_frame
from daskcache.formats.keeping import is_kept
from daskcache.formats.opening import open_stored
from daskcache.functions.keys import Call
from daskcache.functions.memory import MEMORY, RememberedBlocks, copy_value, size_of
from daskcache.functions.options import Options
from daskcache.functions.sources import Sources, find_changed
from daskcache.functions.tables import Table, recall_table
from daskcache.listing import Listing
from daskcache.manifest import Manifest

__all__ = ["Recalled", "drop_older", "memory_key", "recall"]

logger = logging.getLogger("daskcache")

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, eq=False)
class Recalled:
    """A result that was stored."""

    value: Any
    """As the function returned it; lazy where that was lazy. None where only its path was asked for."""
    sources: Sources
    """What it was read from."""
    path: str = ""
    """The manifest's, for people and other readers; where it was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    manifest: Manifest
    value: Any
    has_value: bool


def memory_key(settings: Settings, call: Call) -> tuple[str, ...]:
    """Give the key under which a call's result is kept in memory."""
    return "call", settings.store, settings.namespace, call.entry


def drop_older(call: Call, settings: Settings) -> None:
    """Drop all versions of a call's result but the newest; their blocks are left to `daskcache.gc`.

    Parameters
    ----------
    call : Call
        The call.
    settings : Settings
        The store and namespace.

    Raises
    ------
    StoreError
        The store does not take it.
    """
    catalog = Catalog.of(settings)
    latest = catalog.latest(call.entry)
    if latest is not None:
        versions = [one.version for one in catalog.versions(call.entry) if one.version != latest.version]
        catalog.drop(call.entry, versions)


def recall(
    call: Call,
    settings: Settings,
    options: Options,
    covers: Callable[[Any], bool] = lambda _: True,
    form: Format | None = None,
    table: Table | None = None,
) -> Recalled | None:
    """Find the result of a call, and see that it still is its result.

    Parameters
    ----------
    call : Call
        The call.
    settings : Settings
        The store and namespace.
    options : Options
        Of which ``verify``, ``memoize``, ``retry_null`` and ``path_only`` count.
    covers : callable, optional
        Whether what processors said of a stored result holds what is asked now.
    form : Format, optional
        The format of the function's own serializer.
    table : Table, optional
        What counts of tables that are kept in parts.

    Returns
    -------
    Recalled or None
        None where it has to be computed: nothing is stored, it has expired, a source is not as it was, a block is gone,
        or the function itself shall say what its blocks are.

    Raises
    ------
    NotStoredError, StoreError
        The store cannot be read, or holds something that this process does not know.

    Notes
    -----
    Two requests; a look at each source, which lists those that have many objects; and a listing for each group of blocks.
    With ``verify="never"`` the first two alone.
    """
    catalog = Catalog.of(settings)
    place = memory_key(settings, call)
    kept: _Kept | None = MEMORY.get(place) if options.memoize else None
    if kept is not None and not covers(_described(kept.manifest).get("coverage", ())):
        kept = None
    manifest = kept.manifest if kept is not None else _read(catalog, call, covers)
    if manifest is None:
        return None
    described = _described(manifest)
    sources: Sources = dict(described.get("sources", {}))
    is_table = is_kept(manifest)
    if is_table and options.verify == "graph" and manifest.nodes[""].attrs.get("is_gathered"):
        # The graphs of all the calls that filled it are not known.
        options = options.with_({"verify": "sources"})
    why = _find_fault(manifest, described, sources, call, options)
    if why is None and kept is None and options.verify != "never" and not is_table:
        why = _find_gone(manifest, catalog.root_of(manifest))
    if why is not None:
        logger.info("%s is computed again: %s", call.entry, why)
        MEMORY.drop(place)
        return None
    if kept is None and settings.mode == "readwrite" and not _is_new(manifest):
        catalog.note_use(call.entry, manifest.version, time_of(manifest))
    if options.path_only:
        where = entry_key(settings.namespace, call.entry, f"{manifest.version}.json")
        return Recalled(None, sources, f"{stores.describe(settings.store).rstrip('/')}/{where}")
    if is_table:
        found = recall_table(manifest, call, settings, options, table or Table())
        return None if found is None else Recalled(found[0], found[1])
    if kept is not None and kept.has_value:
        return Recalled(copy_value(kept.value), sources)
    blocks = RememberedBlocks if options.memoize else None
    try:
        value = open_stored(manifest, catalog.root_of(manifest), blocks, form)
    except InvalidInputError as error:
        # Of another release, or by somebody who writes to the store by himself.
        raise NotStoredError(f"{call.entry} is malformed: {error}") from error
    is_lazy = is_frame(manifest) or any(not variable.in_memory for variable in manifest.variables)
    if options.retry_null and value is None:
        return None
    if options.memoize:
        # Of what is lazy the blocks are kept, by those that read them.
        size = 0 if is_lazy else size_of(value)
        MEMORY.put(place, _Kept(manifest, None if is_lazy else copy_value(value), not is_lazy), size + 1024)
    return Recalled(value, sources)


def _is_new(manifest: Manifest) -> bool:
    """Whether it was published within a day, so that its use need not be noted."""
    published = time_of(manifest)
    return bool(published) and datetime.now(UTC) - datetime.fromisoformat(published) < _DAY


def _described(manifest: Manifest) -> Mapping[str, Any]:
    found: Any = manifest.info.get("call", {})
    return found if isinstance(found, Mapping) else {}


def _read(catalog: Catalog, call: Call, covers: Callable[[Any], bool]) -> Manifest | None:
    # Without looking at the store's format, which each document has as well.
    documents = Documents(catalog.root, catalog.namespace, call.entry)
    latest = documents.read_latest()
    if latest is None:
        return None
    newest = documents.read(latest.version)
    if covers(_described(newest).get("coverage", ())):
        return newest
    # An older version may hold what the newest does not, such as another range.
    for info in catalog.versions(call.entry):
        older = catalog.open(call.entry, info.version)
        if covers(_described(older).get("coverage", ())):
            return older
        if _described(older).get("is_anew"):
            # Somebody wanted nothing more of those before it.
            return None
    return None


def _find_fault(
    manifest: Manifest, described: Mapping[str, Any], sources: Sources, call: Call, options: Options
) -> str | None:
    if described.get("key") != call.key.hex():
        return "what lies there is not its result"
    expiry = expiry_of(manifest)
    if expiry is not None and datetime.fromisoformat(expiry) <= datetime.now(UTC):
        return "it has expired"
    if options.verify == "graph":
        return "its graph is asked for"
    return find_changed(sources) if options.verify == "sources" else None


def _find_gone(manifest: Manifest, root: str) -> str | None:
    """Name a block that is not there any more, such as one that was damaged and moved aside."""
    in_pool = [variable for variable in manifest.variables if variable.inline is None]
    if not in_pool:
        return None
    listing = Listing(root)
    for variable in in_pool:
        for block in PackedBlocks(root, variable):
            if listing.find(block) is None:
                return f"{block.key} is gone"
    return None

"""Entries, namespaces and whole stores, copied to another store, and kept equal there."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from dask.utils import format_bytes

from daskcache import stores
from daskcache.catalog import (
    Catalog,
    Latest,
    RunRecord,
    Runs,
    Wanted,
    list_packs,
    pack_key,
    read_pack,
    time_of,
)
from daskcache.catalog.documents import Documents
from daskcache.catalog.layout import check_format
from daskcache.chunks import ChunkSpec
from daskcache.config import Pool, Settings, pool_root
from daskcache.errors import EntryNotFoundError, InvalidInputError, NotStoredError, ReadOnlyError, StoreError
from daskcache.forgetting import refreshing, wait_for_sweep
from daskcache.listing import Listing
from daskcache.manifest import Manifest, to_idx
from daskcache.names import check_name
from daskcache.progress import drawing_bar, shows_progress
from daskcache.transfer.blocks import Arrived, Wish, complete, known_blocks, look_at, move_block, wishes_of

__all__ = ["Copied", "copy", "mirror"]

logger = logging.getLogger("daskcache")

_WIDTH = 8
_BATCH = 16 * _WIDTH
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, or would be."""

    source: str
    """The store that it comes from, without credentials."""
    target: str
    """The store that it goes to, without credentials."""
    dry_run: bool
    """Whether nothing was written."""
    entries: int = 0
    """Entries that were looked at."""
    versions: int = 0
    """Versions that were not there yet."""
    blocks: int = 0
    """Blocks that were not there yet."""
    size_bytes: int = 0
    """Their size, as far as their versions tell."""
    kept: int = 0
    """Blocks that were there already."""
    dropped: int = 0
    """Versions that the source does not have any more, and that the target has forgotten."""

    def __str__(self) -> str:
        done, forgot = ("would copy", "would forget") if self.dry_run else ("copied", "forgot")
        text = (
            f"{done} {self.versions} versions of {self.entries} entries with {self.blocks} blocks "
            f"({format_bytes(self.size_bytes)}) from {self.source} to {self.target}; {self.kept} blocks are there"
        )
        return f"{text}; {forgot} {self.dropped} versions" if self.dropped else text


def copy(
    target: Any,
    entry: str | None = None,
    *,
    version: str | None = None,
    namespace: str | None = None,
    store: Any = None,
    everywhere: bool = False,
    dry_run: bool = False,
) -> Copied:
    """Copy an entry, a namespace or a whole store to another store, where it is an entry as well.

    Parameters
    ----------
    target : str, path, mapping or sequence
        The other store, as `daskcache.store` takes it.
    entry : str, optional
        The name; by default all of the namespace.
    version : str, optional
        One of its versions; by default all.
    namespace : str, optional
        Instead of the configured one; it has the same name in the other store.
    store : str, optional
        URL or path to copy from, instead of the configured one.
    everywhere : bool, optional
        All namespaces of the store.
    dry_run : bool, optional
        Only tell what would be copied.

    Returns
    -------
    Copied
        Counts and bytes.

    Raises
    ------
    EntryNotFoundError
        There is no such entry or version.
    InvalidInputError
        A version is given without an entry, or an entry with ``everywhere``; or both stores are one.
    NotStoredError, CorruptChunkError
        A block is missing or damaged where it comes from; its version is not copied.
    ReadOnlyError
        The other store or namespace takes no writes.
    StoreFullError, StoreError
        One of the stores failed. What was copied until then stays, and copying again goes on from there.

    Notes
    -----
    What is there is not copied again. Costs a read and a put for each missing block, eight at a time, and one listing for
    each group of blocks. Each block is decoded on its way, and compared with what its version knows of it. Blocks come
    first, then documents, then what the name opens: that becomes the source's newest version, unless the other store has
    published a newer one. A record protects what is copied from a sweep of the other store that goes on meanwhile, as
    with a `persist`. Where a version is dropped from the source meanwhile, it is left out.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2), "numbers", store="memory://doc-copy")
    >>> daskcache.copy("memory://doc-copied", "numbers", store="memory://doc-copy").blocks
    2
    >>> daskcache.open("numbers", store="memory://doc-copied").compute()
    array([0, 1, 2, 3])
    """
    if entry is None and version is not None:
        raise InvalidInputError(f"version {version!r} is given without the entry that has it")
    pair = _Pair.of(target, entry, namespace, store, everywhere)
    return pair.copy(entry, version, everywhere=everywhere, mirrors=False, dry_run=dry_run)


def mirror(
    target: Any,
    entry: str | None = None,
    *,
    namespace: str | None = None,
    store: Any = None,
    everywhere: bool = False,
    dry_run: bool = False,
) -> Copied:
    """Keep an entry, a namespace or a whole store equal in another store: what the source forgot goes there, too.

    Parameters
    ----------
    target : str, path, mapping or sequence
        The other store, as `daskcache.store` takes it.
    entry : str, optional
        The name; by default all of the namespace.
    namespace : str, optional
        Instead of the configured one; it has the same name in the other store.
    store : str, optional
        URL or path of the source, instead of the configured one.
    everywhere : bool, optional
        All namespaces that the source has; others of the target are left alone.
    dry_run : bool, optional
        Only tell what would be done.

    Returns
    -------
    Copied
        Counts and bytes.

    Raises
    ------
    EntryNotFoundError
        Neither store has such an entry.
    InvalidInputError
        An entry is given with ``everywhere``; both stores are one; or the source has no entries at all, so that all of
        the target's would go.
    NotStoredError, CorruptChunkError, ReadOnlyError, StoreFullError, StoreError
        As `copy`.

    Notes
    -----
    As `copy`, and each name opens what it opens at the source. Versions that the source does not have are dropped, as
    `daskcache.clear` does: their blocks stay for a grace period, and go with a later `daskcache.gc` of the target. What
    runs stored without a name is added, and never dropped.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2), "numbers", store="memory://doc-mirror")
    >>> kept = daskcache.persist(da.arange(4, chunks=2) * 2, "doubled", store="memory://doc-mirror")
    >>> daskcache.mirror("memory://doc-mirrored", store="memory://doc-mirror").versions
    2
    >>> dropped = daskcache.clear("doubled", store="memory://doc-mirror")
    >>> daskcache.mirror("memory://doc-mirrored", store="memory://doc-mirror").dropped
    1
    """
    pair = _Pair.of(target, entry, namespace, store, everywhere)
    return pair.copy(entry, None, everywhere=everywhere, mirrors=True, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two stores."""

    source: Settings
    target: str

    @classmethod
    def of(cls, target: Any, entry: str | None, namespace: str | None, store: Any, everywhere: bool) -> _Pair:
        if entry is not None:
            check_name(entry)
            if everywhere:
                raise InvalidInputError(
                    f"entry {entry!r} is given, and everywhere=True means all entries; give one of both"
                )
        source = Settings.from_config(store=store, namespace=namespace)
        other = Settings.from_config(store=target).store
        if source.store == other:
            raise InvalidInputError(
                f"source and target are one store, {stores.describe(other)}; name another"
            )
        return cls(source, other)

    def copy(
        self, entry: str | None, version: str | None, *, everywhere: bool, mirrors: bool, dry_run: bool
    ) -> Copied:
        check_format(stores.open(self.source.store))
        check_format(stores.open(self.target), create=not dry_run)
        here = Catalog.of(self.source)
        counts: Counter[str] = Counter()
        seen: set[str] = set()
        for namespace in here.namespaces() if everywhere else [self.source.namespace]:
            settings = Settings.from_config(store=self.target, namespace=namespace)
            if settings.mode not in ("write", "readwrite") and not dry_run:
                raise ReadOnlyError(
                    f"daskcache.mode of namespace {namespace!r} is {settings.mode!r}; set it to 'readwrite', or copy to "
                    "another"
                )
            work = _Namespace(self.source.store, settings, counts, seen, mirrors, dry_run)
            work.copy(entry, version)
        return Copied(stores.describe(self.source.store), stores.describe(self.target), dry_run, **counts)


@dataclass(frozen=True, slots=True)
class _Namespace:
    """One namespace of both stores."""

    source: str
    settings: Settings
    """Of the target."""
    counts: Counter[str]
    seen: set[str]
    """Of a dry run, the blocks that would be there by now, by root and key."""
    mirrors: bool
    dry_run: bool

    def copy(self, entry: str | None, version: str | None) -> None:
        ours, theirs = (Catalog(root, self.settings.namespace) for root in (self.source, self.settings.store))
        entries = ours.entries() if entry is None else [entry]
        if self.mirrors and entry is None and not entries and theirs.entries():
            raise InvalidInputError(
                f"namespace {ours.namespace!r} of {stores.describe(self.source)} has no entries, and those of "
                f"{stores.describe(self.settings.store)} would all be forgotten; use daskcache.clear if that is meant"
            )
        for name in entries:
            self._copy_entry(name, version)
        if entry is None:
            for name in set(theirs.entries()).difference(entries) if self.mirrors else ():
                self._copy_entry(name, None)
            for kind in ("shared", "private"):
                self._copy_packs(kind)

    def _copy_entry(self, entry: str, version: str | None) -> None:
        ours, theirs = (
            Documents(root, self.settings.namespace, entry) for root in (self.source, self.settings.store)
        )
        names = ours.list_versions() if version is None else [ours.complete(version)]
        latest = ours.read_latest()
        files = stores.list_sizes(theirs.store, theirs.key())
        there = {name for name in theirs.list_versions() if f"{name}.json" in files}
        if not names and not (self.mirrors and there):
            raise EntryNotFoundError(f"{ours} has no versions")
        self.counts["entries"] += 1
        manifests = {name: found for name in names if (found := _read(ours, name)) is not None}
        before = [found for name in there if (found := _read(theirs, name)) is not None]
        for kind in ("shared", "private"):
            group = [manifest for manifest in manifests.values() if manifest.pool == kind]
            new = [manifest for manifest in group if manifest.version not in there]
            self.counts["versions"] += len(new)
            try:
                with self._moving(kind, entry, group, len(new) > 0, before) as arrived:
                    for manifest in new if not self.dry_run else ():
                        theirs.put(complete(manifest, self._roots(kind)[1], arrived))
            except NotStoredError:
                gone = set(names).difference(ours.list_versions())
                if not gone:
                    raise
                # Dropped and swept since they were listed: what is left is copied.
                logger.info("versions %s of %s were dropped meanwhile", sorted(gone), ours)
                self._copy_entry(entry, version)
                return
        self._point(theirs, latest, manifests, version)
        if self.mirrors:
            gone = there.difference(names)
            self.counts["dropped"] += len(gone)
            if not self.dry_run:
                theirs.drop(gone)

    def _point(
        self, theirs: Documents, latest: Latest | None, manifests: Mapping[str, Manifest], version: str | None
    ) -> None:
        """Let the name open what it opens at the source."""
        if version is not None:
            ((name, manifest),) = manifests.items()
            latest = Latest(name, time_of(manifest), None)
        if latest is None or latest.version not in manifests or self.dry_run:
            return
        now = theirs.read_latest()
        is_newer = now is None or (version is None and now.time < latest.time)
        if (now != latest) if self.mirrors else is_newer:
            theirs.put_latest(latest)

    def _copy_packs(self, kind: Pool) -> None:
        """Copy the lists of what was stored without a name, and its blocks."""
        here, there = self._roots(kind)
        namespace = self.settings.namespace
        for name in set(list_packs(here, namespace)).difference(list_packs(there, namespace)):
            # One that has gone was put together with others, or dropped.
            pack = read_pack(here, namespace, name)
            if pack is None:
                continue
            with self._moving(kind, "", [pack], True, ()) as arrived:
                if not self.dry_run:
                    whole = to_idx(complete(pack, there, arrived))
                    stores.put(stores.open(there), pack_key(namespace, name), whole)

    def _roots(self, kind: Pool) -> tuple[str, str]:
        namespace = self.settings.namespace
        return pool_root(self.source, namespace, kind), pool_root(self.settings.store, namespace, kind)

    @contextlib.contextmanager
    def _moving(
        self, kind: Pool, entry: str, manifests: Sequence[Manifest], is_new: bool, before: Sequence[Manifest]
    ) -> Iterator[dict[str, Arrived]]:
        """Give what lies in the other pool once all blocks of some versions do; nothing of it goes until they are there."""
        here, there = self._roots(kind)
        wishes: dict[str, Wish] = {}
        for manifest in manifests:
            wishes |= wishes_of(manifest, here)
        missing = [wish for wish in _missing(there, wishes) if f"{there}/{wish.block.key}" not in self.seen]
        if self.dry_run:
            self.seen.update(f"{there}/{wish.block.key}" for wish in missing)
        self.counts["blocks"] += len(missing)
        self.counts["size_bytes"] += sum(wish.block.size_bytes or 0 for wish in missing)
        self.counts["kept"] += len(wishes) - len(missing)
        if self.dry_run or not wishes or not (missing or is_new):
            yield {}
            return
        runs, run = Runs(self.settings.store, there), uuid.uuid4().hex
        runs.put(_record(run, self.settings.namespace, entry, wishes.values()))
        arrived: dict[str, Arrived] = {}
        with refreshing(runs, run, self.settings.keep_s):
            for _ in range(_ATTEMPTS):
                # Before the record was put, a sweep may have found some of it to be garbage.
                self._move(there, _missing(there, wishes), arrived)
                wait_for_sweep(there)
                if not _missing(there, wishes):
                    break
            else:
                raise StoreError(
                    f"blocks of {entry!r} go from store {stores.describe(there)} as they are copied; look at what else "
                    "deletes there"
                )
            if is_new:
                self._look(there, wishes, arrived, known_blocks([m for m in before if m.pool == kind]))
            yield arrived
        runs.finish(run)

    def _move(self, root: str, missing: Sequence[Wish], arrived: dict[str, Arrived]) -> None:
        target = stores.open(root)
        done, wanted = 0, iter(missing)
        shows_bar = shows_progress(self.settings.progress)
        with (
            drawing_bar(lambda: done / max(len(missing), 1), shows_bar) as draw,
            ThreadPoolExecutor(_WIDTH) as threads,
        ):
            while part := list(islice(wanted, _BATCH)):
                found = threads.map(lambda wish: move_block(target, wish), part)
                for wish, one in zip(part, found, strict=True):
                    arrived[wish.block.key] = one
                    done += 1
                    draw()

    def _look(
        self,
        root: str,
        wishes: Mapping[str, Wish],
        arrived: dict[str, Arrived],
        known: Mapping[tuple[int, bytes, int], tuple[int, bytes]],
    ) -> None:
        """See which objects lay there already, so that nothing wrong is said of them."""
        target, listing = stores.open(root), Listing(root)

        def look(wish: Wish) -> Arrived:
            found = listing.find(wish.block)
            size = 0 if found is None else found.size_bytes or 0
            noted = known.get((int(wish.block.group, 16), wish.block.token, size))
            if noted is not None and noted[0] == wish.checksum:
                return Arrived(size, *noted, is_same=True)
            return look_at(target, wish, size)

        rest = [wish for key, wish in wishes.items() if key not in arrived]
        listing.look_ahead(wish.block for wish in rest)
        with ThreadPoolExecutor(_WIDTH) as threads:
            for wish, found in zip(rest, threads.map(look, rest), strict=True):
                arrived[wish.block.key] = found


def _read(documents: Documents, version: str) -> Manifest | None:
    """Read a version, unless it was dropped since it was listed."""
    try:
        return documents.read(version)
    except EntryNotFoundError:
        return None


def _missing(root: str, wishes: Mapping[str, Wish]) -> list[Wish]:
    listing = Listing(root)
    listing.look_ahead(wish.block for wish in wishes.values())
    return [wish for wish in wishes.values() if listing.find(wish.block) is None]


def _record(run: str, namespace: str, entry: str, wishes: Iterable[Wish]) -> RunRecord:
    alike: dict[tuple[str, ChunkSpec], list[bytes]] = {}
    for wish in wishes:
        alike.setdefault((wish.block.group, wish.block.spec), []).append(wish.block.token)
    wants = tuple(
        Wanted("", group, spec, np.frombuffer(b"".join(tokens), "u1").reshape(-1, 20))
        for (group, spec), tokens in alike.items()
    )
    return RunRecord.start(run, namespace, entry, wants)

"""Sweeping: deleting what no version, tombstone or run needs, beside runs that go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from dask.utils import format_bytes
from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import NAMESPACES, RUNS, VERSIONS, run_key, walk_entries
from daskcache.config import Settings, parse_seconds
from daskcache.forgetting.lease import BATCH_S, Lease
from daskcache.forgetting.roots import Pool, chunk_ids, list_namespaces, run_chunk_ids

__all__ = ["Swept", "gc", "sweep", "sweep_also"]

_BATCH = 1000
_WIDTH = 16

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted, or would delete."""

    store: str
    """The store's root, without credentials."""
    dry_run: bool
    """Whether nothing was deleted."""
    chunks: int = 0
    """Blocks that nothing needs."""
    chunk_bytes: int = 0
    """Their size."""
    kept: int = 0
    """Blocks that are left."""
    kept_bytes: int = 0
    """Their size."""
    documents: int = 0
    """Tombstones and records of runs that protect nothing any more."""
    leftovers: int = 0
    """Damaged objects that were moved aside, and what writers that died had begun."""
    tables: int = 0
    """Tables in databases or as Delta whose entries are gone."""

    def __str__(self) -> str:
        done = "would delete" if self.dry_run else "deleted"
        tables = f"{self.tables} tables, " if self.tables else ""
        return (
            f"{done} {self.chunks} blocks ({format_bytes(self.chunk_bytes)}), {tables}{self.documents} old documents and "
            f"{self.leftovers} leftovers from {self.store}; {self.kept} blocks ({format_bytes(self.kept_bytes)}) stay"
        )

    def __add__(self, other: Swept) -> Swept:
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("chunks", "chunk_bytes", "kept", "kept_bytes", "documents", "leftovers", "tables")
        }
        return replace(self, **counts)


def gc(
    *,
    grace: str | float | None = None,
    dry_run: bool = False,
    store: str | None = None,
    wait: str | float = "5s",
) -> Swept:
    """Delete the blocks that nothing needs: no version, none that was dropped lately, and no run.

    Parameters
    ----------
    grace : str or float, optional
        Such as ``"7d"``, or seconds: nothing is deleted that was written or dropped within it. By default
        ``daskcache.forgetting.grace``, which should be longer than all clocks and pauses can be off.
    dry_run : bool, optional
        Only tell what would be deleted.
    store : str, optional
        URL or path, instead of the configured one.
    wait : str or float, optional
        Time between looking for blocks and for what needs them.

    Returns
    -------
    Swept
        Counts and bytes.

    Raises
    ------
    StoreError
        A namespace, a version or the record of a run cannot be read, so that nobody may say what is needed: nothing was
        deleted. Or another process is sweeping.
    ReadOnlyError
        The store takes no writes.
    InvalidInputError
        A span of time is none.

    Notes
    -----
    Safe beside runs that read, write and reuse blocks. A block that a run reuses just when it is deleted is computed
    again by that run. Costs one listing for each group of blocks, and reads every manifest; deletes sixteen objects at a
    time.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> store = "memory://doc-gc"
    >>> kept = daskcache.persist(da.arange(4, chunks=2) * 2, "numbers", store=store)
    >>> daskcache.gc(store=store, grace=0, wait=0).chunks
    0
    >>> daskcache.clear("numbers", store=store).dropped
    1
    >>> daskcache.gc(store=store, grace=0, wait=0).chunks
    2
    """
    settings = Settings.from_config(store=store, grace_s=grace)
    wait_s = parse_seconds(wait, "wait")
    total = Swept(stores.describe(settings.store), dry_run)
    for pool in Pool.all_of(settings.store):
        steps = sweep(pool, settings.grace_s, settings.keep_s, wait_s=wait_s, dry_run=dry_run)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                total += done.value
                break
    for more in _MORE:
        total += more(settings, dry_run)
    return total


_MORE: list[Callable[[Settings, bool], Swept]] = []


def sweep_also(more: Callable[[Settings, bool], Swept]) -> None:
    """Let `gc` sweep what does not lie in pools.

    Parameters
    ----------
    more : callable
        Given the settings and whether it is a dry run; called after all pools are swept.
    """
    _MORE.append(more)


def sweep(
    pool: Pool,
    grace_s: float,
    keep_s: float,
    *,
    wait_s: float = 0.0,
    dry_run: bool = False,
    batch: int = _BATCH,
    width: int = _WIDTH,
    now: Clock = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[str, None, Swept]:
    """Sweep one pool, step by step.

    Parameters
    ----------
    pool : Pool
        What is swept.
    grace_s : float
        Seconds for which nothing is deleted that was written or dropped.
    keep_s : float
        Seconds for which what an unfinished run wants is not deleted.
    wait_s : float, optional
        Seconds between looking for blocks and for what needs them.
    dry_run : bool, optional
        Only count.
    batch, width : int, optional
        Deletes before runs are looked for again, and at the same time.
    now, sleep : callable, optional
        The clock of this process, which measures how long things take; ages are told by the store's.

    Returns
    -------
    Swept
        What it came to.

    Yields
    ------
    str
        What was done, between any two requests that others may come between.
    """
    store = stores.open(pool.pool_root)
    lease = None if dry_run else Lease.take(store, now)
    try:
        clock = now() if lease is None else lease.written(store) or now()
        ages = _Ages(clock, grace_s, keep_s)
        found = _Found(pool, ages, stores.describe(pool.root), dry_run)
        yield "took the lease"
        yield from found.list_chunks(_home(store))
        if found.candidates and wait_s:
            sleep(wait_s)
        yield "waited"
        yield from found.strike_runs()
        yield from found.strike_documents()
        if lease is None:
            return found.counted()
        number = 0
        for group, names in list(found.candidates.items()):
            left = sorted(names)
            while left:
                number += 1
                part, left = left[:batch], left[batch:]
                lease = lease.refresh(store, number, now)
                yield "announced a batch"
                # One that was put there anew since is left alone.
                listed = stores.list_objects(_home(store), f"chunks/{group}")
                part = [name for name in part if name in listed and ages.is_old(listed[name][1])]
                started = now()
                yield from found.strike_runs()
                part = [name for name in part if name in found.candidates[group]]
                while part and now() - started < BATCH_S:
                    now_, part = part[:width], part[width:]
                    _delete(store, [f"chunks/{group}/{name}" for name in now_])
                    found.deleted(group, now_)
                    yield "deleted"
                left = part + left  # too slow to go on without looking again
        lease = lease.refresh(store, 0, now)
        yield from found.delete_rest()
        return found.counted()
    finally:
        if lease is not None:
            lease.release(store)


@dataclass(frozen=True, slots=True)
class _Ages:
    """How old things are by the store's clock."""

    clock: float
    grace_s: float
    keep_s: float

    def is_old(self, written: float | None, span_s: float | None = None) -> bool:
        """Whether something is older than the grace period. What has no time is never, but where there is no grace."""
        span_s = self.grace_s if span_s is None else span_s
        return span_s == 0 if written is None else self.clock - written >= span_s


class _Found:
    """What one sweep knows by now."""

    def __init__(self, pool: Pool, ages: _Ages, shown: str, dry_run: bool) -> None:
        self._pool = pool
        self._ages = ages
        self._runs: dict[str, tuple[int, float | None]] = {}
        self._old_documents: set[tuple[str, str]] = set()
        self._swept = Swept(shown, dry_run)
        self.candidates: dict[str, dict[str, int]] = {}

    def list_chunks(self, store: Store) -> Generator[str, None, None]:
        kept, kept_bytes = 0, 0
        for group in stores.list_dirs(store, "chunks"):
            listed = stores.list_objects(store, f"chunks/{group}")
            old = {
                name: size
                for name, (size, written) in listed.items()
                if not name.endswith(".partial") and self._ages.is_old(written)
            }
            kept += sum(1 for name in listed if name not in old and not name.endswith(".partial"))
            kept_bytes += sum(size for name, (size, _) in listed.items() if name not in old)
            if old:
                self.candidates[group] = old
            yield "listed a group"
        self._swept = replace(self._swept, kept=kept, kept_bytes=kept_bytes)

    def strike_runs(self) -> Generator[str, None, None]:
        """Strike what runs want from the candidates: records that are new, or were written again."""
        names = self._pool.runs.names()
        yield "listed the runs"
        for run, stat in names.items():
            if stat[1] is not None and self._runs.get(run) == stat:
                continue
            record = self._pool.runs.read(run)
            yield "read a run"
            if record is None:
                continue
            self._runs[run] = stat
            # A finished run's version protects its blocks, or its tombstone does.
            span_s = self._ages.keep_s if record.finished is None else self._ages.grace_s
            place = self._pool.pool_root, run_key(run)
            if self._ages.is_old(stat[1], span_s):
                self._old_documents.add(place)
            else:
                # One that was old may have been refreshed.
                self._old_documents.discard(place)
                self._strike(run_chunk_ids(record))

    def strike_documents(self) -> Generator[str, None, None]:
        for document in self._pool.documents():
            if document.is_tombstone and self._ages.is_old(document.written):
                self._old_documents.add((self._pool.root, document.key))
                continue
            for variable in document.manifest.variables:
                self._strike(chunk_ids(variable))
            yield "read a manifest"

    def deleted(self, group: str, names: Iterable[str]) -> None:
        sizes = [self.candidates[group].pop(name) for name in names]
        self._swept += Swept("", False, chunks=len(sizes), chunk_bytes=sum(sizes))

    def delete_rest(self) -> Generator[str, None, None]:
        for root, key in sorted(self._old_documents):
            stores.delete(stores.open(root), key)
            yield "deleted a document"
        for root, key in self._leftovers():
            stores.delete(stores.open(root), key)
            self._swept += Swept("", False, leftovers=1)
            yield "deleted a leftover"
        self._swept += Swept("", False, documents=len(self._old_documents))
        self._old_documents.clear()

    def counted(self) -> Swept:
        """Give what it came to; of a dry run, what it would have come to."""
        if not self._swept.dry_run:
            return self._swept
        sizes = [size for group in self.candidates.values() for size in group.values()]
        leftovers = sum(1 for _ in self._leftovers())
        return self._swept + Swept(
            "", True, len(sizes), sum(sizes), 0, 0, len(self._old_documents), leftovers
        )

    def _strike(self, ids: Iterable[tuple[str, str]]) -> None:
        count, nbytes = 0, 0
        for group, name in ids:
            size = self.candidates.get(group, {}).pop(name, None)
            if size is not None:
                count, nbytes = count + 1, nbytes + size
        self._swept += Swept("", False, kept=count, kept_bytes=nbytes)

    def _leftovers(self) -> Iterable[tuple[str, str]]:
        """Find what was moved aside, and what writers have begun and never finished."""
        pool_root = self._pool.pool_root
        store = _home(stores.open(pool_root))
        for key, written in _walk(store, "quarantine"):
            if self._ages.is_old(written):
                yield pool_root, key
        places = [(pool_root, RUNS), (pool_root, "gc")]
        places += [(pool_root, f"chunks/{group}") for group in stores.list_dirs(store, "chunks")]
        root = self._pool.root
        owners = list_namespaces(root) if self._pool.namespace is None else [self._pool.namespace]
        for namespace in owners:
            base = f"{NAMESPACES}/{namespace}"
            places.append((root, f"{base}/{VERSIONS}"))
            entries = walk_entries(stores.open(root), namespace)
            places += [(root, f"{base}/{entry}/{VERSIONS}") for entry in entries]
        for where, prefix in places:
            for name, (_, written) in stores.list_objects(_home(stores.open(where)), prefix).items():
                if name.endswith(".partial") and self._ages.is_old(written):
                    yield where, f"{prefix}/{name}"


def _home(store: Store) -> Store:
    """Give what is swept: of levels the home, for nothing is deleted from mirrors behind it."""
    return store.home if isinstance(store, stores.Levels) else store


def _walk(store: Store, prefix: str) -> Iterator[tuple[str, float | None]]:
    for name, (_, written) in stores.list_objects(store, prefix).items():
        yield f"{prefix}/{name}", written
    for name in stores.list_dirs(store, prefix):
        yield from _walk(store, f"{prefix}/{name}")


def _delete(store: Store, keys: Sequence[str]) -> None:
    if len(keys) == 1:
        stores.delete(store, keys[0])
        return
    with ThreadPoolExecutor(_WIDTH) as threads:
        # All are waited for, and the first error is raised.
        list(threads.map(lambda key: stores.delete(store, key), keys))

"""What protects blocks from being swept: versions, tombstones, and the records of runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog import RunRecord, Runs, list_packs, pack_key, read_pack
from daskcache.catalog.layout import NAMESPACES, TOMBSTONE, VERSIONS, entry_key, is_segment, walk_entries
from daskcache.chunks import chunk_id
from daskcache.config import pool_root
from daskcache.errors import CorruptChunkError, StoreError
from daskcache.manifest import Manifest, StoredVariable, from_idx
from daskcache.names import is_version

__all__ = ["Document", "Pool", "chunk_ids", "run_chunk_ids"]

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest in the store, and where."""

    key: str
    """Relative to the store's root."""
    manifest: Manifest
    """What it says."""
    written: float | None
    """When it was written, by the store's clock."""
    is_tombstone: bool
    """Whether its version was dropped."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool of a store: the shared one, or a namespace's own."""

    root: str
    """The store's root."""
    namespace: str | None = None
    """Whose own it is; None for the shared one."""

    @property
    def pool_root(self) -> str:
        """Below which ``chunks`` lie."""
        return self.root if self.namespace is None else pool_root(self.root, self.namespace, "private")

    @property
    def runs(self) -> Runs:
        """The records of runs that want its blocks."""
        return Runs(self.root, self.pool_root)

    @classmethod
    def all_of(cls, root: str) -> list[Pool]:
        """Find the pools of a store.

        Parameters
        ----------
        root : str
            The store's root.

        Returns
        -------
        list of Pool
            The shared one first.

        Raises
        ------
        StoreError
            A namespace cannot be listed.
        """
        own = [cls(root, name) for name in list_namespaces(root)]
        return [cls(root), *(pool for pool in own if stores.list_dirs(stores.open(pool.pool_root), "chunks"))]

    def documents(self) -> Iterator[Document]:
        """Read all manifests whose blocks lie here, the tombstones of those that were dropped, and packs.

        Yields
        ------
        Document
            Versions of entries, entry by entry.

        Raises
        ------
        StoreError
            A namespace or a document cannot be read, so that nobody may say what is needed.
        """
        store = stores.open(self.root)
        names = list_namespaces(self.root) if self.namespace is None else [self.namespace]
        kind = "shared" if self.namespace is None else "private"
        for namespace in names:
            for entry in walk_entries(store, namespace):
                for found in _read_all(store, entry_key(namespace, entry)):
                    if found.manifest.pool == kind:
                        yield found
            yield from self._dropped_packs(namespace)
            yield from self._packs(namespace)

    def _packs(self, namespace: str) -> Iterator[Document]:
        done: set[str] = set()
        for _ in range(_ATTEMPTS):
            left = [name for name in list_packs(self.pool_root, namespace) if name not in done]
            if not left:
                return
            for name in left:
                # One that has gone was put together with others, into a pack that is listed the next time.
                done.add(name)
                pack = read_pack(self.pool_root, namespace, name)
                if pack is not None:
                    yield Document(self._key(pack_key(namespace, name)), pack, None, False)
        raise StoreError(
            f"the lists of stored blocks of namespace {namespace!r} in store {stores.describe(self.root)} change faster "
            "than they can be read; try again"
        )

    def _dropped_packs(self, namespace: str) -> Iterator[Document]:
        store = stores.open(self.pool_root)
        for name, (_, written) in stores.list_objects(store, pack_key(namespace)).items():
            version = name.removesuffix(TOMBSTONE)
            if version == name or not is_version(version):
                continue
            key = pack_key(namespace, version, TOMBSTONE)
            data = stores.get(store, key)
            if data is not None:
                yield Document(self._key(key), from_idx(data), written, True)

    def _key(self, key: str) -> str:
        """Give a key of the pool as one of the store."""
        return key if self.namespace is None else f"{NAMESPACES}/{self.namespace}/{VERSIONS}/{key}"


def list_namespaces(root: str) -> list[str]:
    """List the namespaces of a store.

    Parameters
    ----------
    root : str
        The store's root.

    Returns
    -------
    list of str
        Names, sorted.

    Examples
    --------
    >>> list_namespaces("memory://doc-empty")
    []
    """
    return [name for name in stores.list_dirs(stores.open(root), NAMESPACES) if is_segment(name)]


def chunk_ids(variable: StoredVariable) -> Iterator[tuple[str, str]]:
    """Give the objects of a variable.

    Parameters
    ----------
    variable : StoredVariable
        Of a manifest.

    Yields
    ------
    group : str
        The pool's group.
    id : str
        The object's name in it.

    Examples
    --------
    >>> list(chunk_ids(StoredVariable("t", (), np.dtype("f4"), (), inline=b"encoded")))
    []
    """
    if variable.inline is not None:
        return
    groups = [f"{group:04x}" for group in variable.groups.tolist()]
    tokens = np.ascontiguousarray(variable.tokens).tobytes()
    for number, (_, spec) in enumerate(variable.specs()):
        yield groups[number], chunk_id(tokens[20 * number : 20 * number + 20], spec)


def run_chunk_ids(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Give the objects that a run wants.

    Parameters
    ----------
    record : RunRecord
        What it said.

    Yields
    ------
    group : str
        The pool's group.
    id : str
        The object's name in it.

    Examples
    --------
    >>> list(run_chunk_ids(RunRecord.start("r1", "default", "era5", ())))
    []
    """
    for wanted in record.wants:
        tokens = np.ascontiguousarray(wanted.tokens).tobytes()
        for start in range(0, len(tokens), 20):
            yield wanted.group, chunk_id(tokens[start : start + 20], wanted.spec)


def _read_all(store: Store, directory: str) -> Iterator[Document]:
    done: set[str] = set()
    for _ in range(_ATTEMPTS):
        has_gone = False
        for name, (_, written) in stores.list_objects(store, directory).items():
            stem, _, ending = name.partition(".")
            if name in done or not is_version(stem) or f".{ending}" not in (".idx", TOMBSTONE):
                continue
            data = stores.get(store, f"{directory}/{name}")
            if data is None:
                # Dropped since it was listed, and its tombstone was put before.
                has_gone = True
                continue
            done.add(name)
            key = f"{directory}/{name}"
            try:
                manifest = from_idx(data)
            except CorruptChunkError as error:
                raise CorruptChunkError(
                    f"{key} in store {stores.describe(store)} cannot be read, so nobody knows which blocks it needs, and "
                    f"nothing is swept: {error}; or drop that version with `daskcache clear`"
                ) from error
            yield Document(key, manifest, written, f".{ending}" == TOMBSTONE)
        if not has_gone:
            return
    raise StoreError(
        f"{directory} in store {stores.describe(store)} changes faster than it can be read; try again"
    )

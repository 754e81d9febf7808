"""Publishing: a plain Zarr store elsewhere that is kept up to date with an entry."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dask.utils import format_bytes
from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog import Catalog, time_of
from daskcache.catalog.layout import entry_key
from daskcache.config import Settings
from daskcache.errors import EntryNotFoundError, InvalidInputError, NotStoredError
from daskcache.export.copy import read_reference
from daskcache.identity import identify
from daskcache.manifest import Manifest
from daskcache.parts import Collection
from daskcache.progress import drawing_bar, shows_progress
from daskcache.publishing import draft_manifest
from daskcache.stores import drive
from daskcache.stores.copying import Route
from daskcache.transfer import claims
from daskcache.transfer.plain import (
    Piece,
    check_growth,
    chunk_specs,
    document_key,
    pieces_of,
    write_documents,
)
from daskcache.transfer.target import WIDTH, clear_target, open_target, read_arrays, unchanged

__all__ = ["Published", "PublishedArray", "publish", "publish_object"]

_BATCH = 16 * WIDTH
_COMMIT_S = 2.0
"""Seconds of work that a publish which is killed may have to do again."""


@dataclass(frozen=True, slots=True)
class PublishedArray:
    """What was written of one array."""

    path: str
    """Its path."""
    chunks: int
    """Blocks that were written: new ones, and those that changed."""
    size_bytes: int
    """Their size."""
    kept: int
    """Blocks that were there already."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish wrote, or would write."""

    target: str
    """Where, without credentials."""
    namespace: str
    """Where the entry lies."""
    entry: str
    """Its name."""
    version: str
    """The version, 40 hex digits."""
    dry_run: bool
    """Whether nothing was written."""
    arrays: tuple[PublishedArray, ...]
    """In the order in which they were written."""
    documents: int
    """Documents of arrays and groups that were written."""
    linked: int = 0
    """Chunks that are hard links to objects of the pool."""
    copied: int = 0
    """Chunks that the server copied."""
    streamed: int = 0
    """Chunks that went through this process."""

    @property
    def chunks(self) -> int:
        """Blocks that were written, of all arrays."""
        return sum(array.chunks for array in self.arrays)

    @property
    def size_bytes(self) -> int:
        """Their size."""
        return sum(array.size_bytes for array in self.arrays)

    def __str__(self) -> str:
        done = "would write" if self.dry_run else "wrote"
        lines = [
            f"{done} {self.chunks} blocks ({format_bytes(self.size_bytes)}) and {self.documents} documents of "
            f"{self.namespace}/{self.entry}@{self.version[:12]} to {self.target}"
        ]
        lines += [
            f"  {array.path}: {array.chunks} blocks ({format_bytes(array.size_bytes)}), {array.kept} are there"
            for array in self.arrays
            if array.chunks
        ]
        return "\n".join(lines)


def publish(
    name: str,
    target: Any,
    *,
    namespace: str | None = None,
    version: str | None = None,
    store: Any = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Published:
    """Bring a plain Zarr store up to date with an entry, for readers that know nothing of daskcache.

    Parameters
    ----------
    name : str
        The entry.
    target : str, path, mapping, sequence or zarr.abc.store.Store
        Where nothing is yet, or what was published before: what `daskcache.stores.open` takes, or any store of Zarr's.
    namespace : str, optional
        Instead of the configured one.
    version : str, optional
        One of its versions, or as many of its first digits as tell it from others; by default the newest.
    store : str, optional
        URL or path of the entry's store, instead of the configured one.
    overwrite : bool, optional
        Whether a Zarr store that is there is removed first, whoever wrote it.
    dry_run : bool, optional
        Only tell what would be written.

    Returns
    -------
    Published
        Blocks and bytes by array.

    Raises
    ------
    InvalidInputError
        Something else is at the target, or readers of what is there would be disturbed: an array shrinks, or has other
        chunks, codecs or another dtype. Or the entry holds no arrays.
    EntryNotFoundError
        There is no such entry or version.
    NotStoredError
        A block is missing.
    StoreFullError, ReadOnlyError, StoreError
        A store failed, or the target has no room or takes no writes. What was written until then stays, and publishing
        again goes on from there.

    Notes
    -----
    Only chunks are written whose blocks' tokens changed: one request each, a hard link within a file system, a copy by
    the server within a bucket or between two of one server, else a read and a write. A chunk appears whole or not at all.
    Chunks come first, those of coordinates after others, then documents, the root's last: whoever has opened the store
    before goes on reading what it was opened as, and whoever opens it in between sees the extent of before, with old and
    new chunks. A publish that was killed is completed by the next one. One process may publish to a target at a time.

    Examples
    --------
    >>> import dask.array as da, daskcache, tempfile, xarray as xr
    >>> target = tempfile.mkdtemp() + "/numbers.zarr"
    >>> for length in (4, 6):
    ...     ds = xr.Dataset({"t": ("x", da.arange(length, chunks=2))}, {"x": range(length)})
    ...     kept = daskcache.persist(ds, "numbers", store="memory://doc-publish-entry")
    ...     print(daskcache.publish("numbers", target, store="memory://doc-publish-entry").chunks)
    3
    2
    >>> xr.open_zarr(target).t.values
    array([0, 1, 2, 3, 4, 5])
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    catalog = Catalog.of(settings)
    manifest = catalog.open(name, version)
    if settings.mode == "readwrite" and not dry_run:
        catalog.note_use(name, manifest.version, time_of(manifest))
    return _publish(manifest, catalog, name, settings, target, overwrite=overwrite, dry_run=dry_run)


def publish_object(
    obj: Collection,
    target: Any,
    *,
    namespace: str | None = None,
    store: Any = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Published:
    """Bring a plain Zarr store up to date with an object that was opened from the store, or persisted.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        What an entry holds.
    target, namespace, store, overwrite, dry_run : optional
        As for `publish`.

    Returns
    -------
    Published
        Blocks and bytes by array.

    Raises
    ------
    EntryNotFoundError
        No entry of the namespace holds it.
    Exception
        As `publish`.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2), "numbers", store="memory://doc-publish-object")
    >>> publish_object(kept, "memory://doc-publish-object.zarr", store="memory://doc-publish-object").chunks
    2
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    identified = identify(obj, settings)
    identified.require_tokens()
    draft = draft_manifest(identified.outline, identified.targets, settings, identified.fingerprinter, {})
    catalog = Catalog.of(settings)
    version = draft.manifest.version
    where = stores.open(settings.store)
    found = (
        entry
        for entry in catalog.entries()
        if stores.exists(where, entry_key(settings.namespace, entry, f"{version}.idx"))
    )
    name = next(found, None)
    if name is None:
        raise EntryNotFoundError(
            f"no entry of namespace {settings.namespace!r} in store {stores.describe(settings.store)} holds this object; "
            "persist it under a name first, or publish the entry by its name"
        )
    manifest = catalog.open(name, version)
    return _publish(manifest, catalog, name, settings, target, overwrite=overwrite, dry_run=dry_run)


def _publish(
    manifest: Manifest,
    catalog: Catalog,
    name: str,
    settings: Settings,
    target: Any,
    *,
    overwrite: bool,
    dry_run: bool,
) -> Published:
    if manifest.kind in ("table", "value"):
        raise InvalidInputError(
            f"entry {name!r} holds a {manifest.kind}, which is no array; publish entries that hold arrays"
        )
    place = open_target(target)
    work = _Work.plan(manifest, catalog.root_of(manifest), place, overwrite=overwrite)
    ways: Counter[str] = Counter()
    if not dry_run and (work.changes or overwrite):
        if overwrite:
            clear_target(place, [variable.path for variable in manifest.variables])
        ways = work.carry_out(shows_bar=shows_progress(settings.progress))
    return Published(
        stores.describe(place),
        settings.namespace,
        name,
        manifest.version,
        dry_run,
        tuple(array.summary for array in work.arrays),
        len(work.documents),
        **ways,
    )


@dataclass(frozen=True, slots=True)
class _Array:
    """What is to be done for one array."""

    path: str
    pieces: tuple[Piece, ...]
    """To be written."""
    kept: dict[str, str]
    """Claims that stay."""
    is_new: bool
    """Whether it has no claims yet."""

    @property
    def summary(self) -> PublishedArray:
        size = sum(piece.size_bytes for piece in self.pieces)
        return PublishedArray(self.path, len(self.pieces), size, len(self.kept))


@dataclass(frozen=True, slots=True)
class _Work:
    """All that is to be done, in order."""

    source: Store
    target: Store
    arrays: tuple[_Array, ...]
    documents: tuple[tuple[str, bytes], ...]

    @classmethod
    def plan(cls, manifest: Manifest, root: str, target: Store, *, overwrite: bool) -> _Work:
        paths = [variable.path for variable in manifest.variables]
        before = None if overwrite else read_arrays(target, paths)
        specs = chunk_specs(manifest, before or {})
        documents = dict(write_documents(manifest, specs))
        for path, document in (before or {}).items():
            check_growth(document, json.loads(documents[path]), path)
        # Coordinates last, so that a label never is there before what it labels.
        variables = sorted(manifest.variables, key=lambda variable: variable.is_coord)
        with ThreadPoolExecutor(WIDTH) as threads:
            known = list(
                threads.map(
                    lambda var: None if overwrite else claims.read_claims(target, var.path), variables
                )
            )
        arrays = []
        for variable, found in zip(variables, known, strict=True):
            claimed = {} if found is None else found.chunks
            pieces, kept = [], {}
            for piece in pieces_of(variable, root, specs.get(variable.path)):
                if claimed.get(piece.place) == piece.name:
                    kept[piece.place] = piece.name
                else:
                    pieces.append(piece)
            arrays.append(_Array(variable.path, tuple(pieces), kept, found is None))
        is_there = {} if overwrite else unchanged(target, documents)
        rest = tuple((path, data) for path, data in documents.items() if not is_there.get(path, False))
        return cls(stores.open(root), target, tuple(arrays), rest)

    @property
    def changes(self) -> bool:
        return bool(self.documents) or any(array.pieces or array.is_new for array in self.arrays)

    def carry_out(self, *, shows_bar: bool) -> Counter[str]:
        publisher = uuid.uuid4().hex
        ways: Counter[str] = Counter()
        total = sum(len(array.pieces) for array in self.arrays) or 1
        done = 0
        route = Route.between(self.source, self.target)
        with drawing_bar(lambda: done / total, shows_bar) as draw, ThreadPoolExecutor(WIDTH) as threads:
            for array in self.arrays:
                for part in self._write(array, publisher, lambda piece: _copy(route, piece), threads):
                    ways.update(part)
                    done += 1
                    draw()
        for path, data in self.documents:
            drive.put(self.target, document_key(path), data)
        return ways

    def _write(
        self,
        array: _Array,
        publisher: str,
        copy: Callable[[Piece], Counter[str]],
        threads: ThreadPoolExecutor,
    ) -> Iterator[Counter[str]]:
        """Write an array's chunks; what is claimed is true at every moment."""
        if not array.pieces and not array.is_new:
            return
        claims.withdraw(self.target, array.path, publisher, array.kept)
        written = dict(array.kept)
        pieces = iter(array.pieces)
        committed = time.monotonic()
        while part := list(islice(pieces, _BATCH)):
            for piece, ways in zip(part, threads.map(copy, part), strict=True):
                written[piece.place] = piece.name
                yield ways
            if time.monotonic() - committed > _COMMIT_S:
                claims.commit(self.target, array.path, publisher, written)
                committed = time.monotonic()
        if array.pieces:
            claims.commit(self.target, array.path, publisher, written)


def _copy(route: Route, piece: Piece) -> Counter[str]:
    ways: Counter[str] = Counter()
    for reference in piece.references:
        if reference.object is not None and reference.size_bytes is None:
            way = route.copy(reference.object, reference.key)
            if way is None:
                raise NotStoredError(
                    f"{reference.object} is not in store {stores.describe(route.source)}; persist the entry again, which "
                    "computes what is missing"
                )
            ways[way] += 1
        else:
            drive.put(route.target, reference.key, read_reference(route.source, reference))
            ways["streamed"] += 1
    return ways

"""A plain Zarr store of the objects of the pool, copied as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype

from daskcache import stores
from daskcache.errors import NotStoredError
from daskcache.manifest import Manifest, Reference, documents_of, iterate_references
from daskcache.stores.sync import wait_for

__all__ = ["copy_chunks", "read_reference"]

_WIDTH = 8


def copy_chunks(manifest: Manifest, root: str, target: Store) -> None:
    """Write a Zarr store of version 3: the chunks first, and then what makes them one.

    Parameters
    ----------
    manifest : Manifest
        What is stored.
    root : str
        The pool that holds its blocks.
    target : zarr.abc.store.Store
        Where nothing is yet.

    Raises
    ------
    NotStoredError
        A block is missing.
    StoreError
        One of the stores failed.
    """
    source = stores.open(root)
    references = (reference for variable in manifest.variables for reference in iterate_references(variable))

    def copy(reference: Reference) -> None:
        _put(target, reference.key, read_reference(source, reference))

    with ThreadPoolExecutor(_WIDTH) as threads:
        while part := list(islice(references, 16 * _WIDTH)):
            list(threads.map(copy, part))
    for key, document in _documents(manifest):
        _put(target, key, json.dumps(document).encode("ascii"))


def read_reference(source: Store, reference: Reference) -> bytes:
    """Read a chunk.

    Parameters
    ----------
    source : zarr.abc.store.Store
        The pool.
    reference : Reference
        Where it lies.

    Returns
    -------
    bytes
        All of the chunk.

    Raises
    ------
    NotStoredError
        It is missing, or its object was cut off.
    StoreError
        The store cannot be read.
    """
    if reference.object is None:
        return reference.inline
    size = reference.size_bytes
    part = None if size is None else RangeByteRequest(reference.offset, reference.offset + size)
    data = stores.get(source, reference.object, part)
    if data is None or (size is not None and len(data) != size):
        raise NotStoredError(
            f"{reference.object} is not in store {stores.describe(source)}, or not whole; persist the entry again, which "
            "computes what is missing"
        )
    return data


def _documents(manifest: Manifest) -> Iterator[tuple[str, dict[str, object]]]:
    """Give the metadata, the root's last: without it nobody opens the store."""
    for path, document in sorted(documents_of(manifest).items(), key=lambda item: -len(item[0])):
        yield f"{path}/zarr.json" if path else "zarr.json", document


def _put(target: Store, key: str, data: bytes) -> None:
    wait_for(target.set(key, default_buffer_prototype().buffer.from_bytes(data)))

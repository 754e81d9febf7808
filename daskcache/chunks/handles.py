"""Zarr arrays of one chunk over a store in memory, kept open because opening costs more than small blocks do."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from daskcache.chunks.spec import STRING, ChunkSpec
from daskcache.stores import describe
from daskcache.stores.faults import translating

__all__ = ["RAW_DTYPES", "ChunkStore", "Handle", "ObjectInStore", "borrowed"]

RAW_DTYPES = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}
"""What elements of so many bytes are seen as while they are encoded."""

_CONFIG = {
    # Blocks that hold only the fill value are blocks that are stored, inner chunks too.
    "write_empty_chunks": True,
    "read_missing_chunks": False,
    # A further request costs less than fetching more than this that nobody asked for.
    "sharding_coalesce_max_gap_bytes": 16 * 1024,
}

_MAX_KINDS = 64

_METADATA = "zarr.json"


@dataclass(frozen=True, slots=True)
class ObjectInStore:
    """A pool object that is read in parts."""

    store: Store
    """Where it lies."""
    key: str
    """Its key there."""


class ChunkStore(Store):
    """A Zarr store of one array document and one chunk, which may stand for an object of another store.

    It maps keys itself: Zarr's partial reads bypass the mapping of a ``WrapperStore``.

    Parameters
    ----------
    document : bytes
        The array's ``zarr.json``.
    """

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self._document = document
        self.content: ZarrBuffer | ObjectInStore | None = None

    def take(self) -> memoryview:
        """Give the chunk that was written, and forget it.

        Returns
        -------
        memoryview
            Its bytes, not copied.
        """
        content, self.content = self.content, None
        if not isinstance(content, ZarrBuffer):
            raise RuntimeError("Zarr has written no chunk")
        return memoryview(content.as_numpy_array()).cast("B")

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Store.__hash__

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> ZarrBuffer | None:
        """Give the document, the chunk or a part of it."""
        if key == _METADATA:
            return prototype.buffer.from_bytes(self._document)
        content = self.content
        if isinstance(content, ObjectInStore):
            with translating(describe(content.store), f"read {content.key}"):
                return await content.store.get(content.key, prototype, byte_range)
        if content is None or byte_range is None:
            return content
        return content[_as_slice(byte_range, len(content))]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[ZarrBuffer | None]:
        """Give parts of the chunk."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether the document or the chunk is there."""
        return key == _METADATA or self.content is not None

    async def set(self, key: str, value: ZarrBuffer) -> None:
        """Keep the chunk."""
        self.content = value

    async def delete(self, key: str) -> None:
        """Forget the chunk."""
        self.content = None

    def list(self) -> AsyncIterator[str]:
        """List nothing: Zarr asks for keys that it knows."""
        return _nothing()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List nothing: Zarr asks for keys that it knows."""
        return _nothing()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List nothing: Zarr asks for keys that it knows."""
        return _nothing()

    @property
    def supports_writes(self) -> bool:
        """It takes the chunk."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """It forgets the chunk."""
        return True

    @property
    def supports_listing(self) -> bool:
        """There is nothing to list."""
        return False


async def _nothing() -> AsyncIterator[str]:
    no_keys: tuple[str, ...] = ()
    for key in no_keys:
        yield key


def _as_slice(byte_range: ByteRequest, size: int) -> slice:
    match byte_range:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(size - suffix, 0), None)


@dataclass(frozen=True, slots=True)
class Handle:
    """An open array of one chunk; one thread's at a time."""

    store: ChunkStore
    """What lies under it."""
    array: zarr.Array[Any]
    """The array."""


class _Idle:
    """Handles that nobody uses at the moment, by specification and shape; those of old kinds are dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: OrderedDict[Any, list[Handle]] = OrderedDict()

    def pop(self, kind: Any) -> Handle | None:
        with self._lock:
            handles = self._handles.get(kind)
            return handles.pop() if handles else None

    def push(self, kind: Any, handle: Handle) -> None:
        with self._lock:
            self._handles.setdefault(kind, []).append(handle)
            self._handles.move_to_end(kind)
            if len(self._handles) > _MAX_KINDS:
                self._handles.popitem(last=False)

    def clear(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it when the process forked
        self._handles = OrderedDict()


_idle = _Idle()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


@contextmanager
def borrowed(spec: ChunkSpec, raw_shape: tuple[int, ...]) -> Iterator[Handle]:
    """Lend a handle for blocks of one shape; one that an error has gone through is not used again.

    Parameters
    ----------
    spec : ChunkSpec
        How the blocks are encoded.
    raw_shape : tuple of int
        The shape of the block's raw words.

    Yields
    ------
    Handle
        No other thread's until the end.

    Examples
    --------
    >>> with borrowed(ChunkSpec.for_block("f4", (3,)), (3,)) as handle:
    ...     handle.array.dtype.itemsize
    4
    """
    kind = (spec, raw_shape)
    handle = _idle.pop(kind) or _open(spec, raw_shape)
    yield handle
    handle.store.content = None
    _idle.push(kind, handle)


def _open(spec: ChunkSpec, raw_shape: tuple[int, ...]) -> Handle:
    store = ChunkStore(json.dumps(_raw_metadata(spec, raw_shape)).encode())
    array = zarr.open_array(store, mode="r+", zarr_format=3, config=_CONFIG)  # type: ignore[arg-type]
    return Handle(store, array)


def _raw_metadata(spec: ChunkSpec, raw_shape: tuple[int, ...]) -> dict[str, Any]:
    """Give the document of an array of raw words whose chunk has the bytes of the real one."""
    ndim = max(len(spec.chunk_shape), 1)

    def to_raw(shape: tuple[int, ...]) -> list[int]:
        # Fixed-length bytes have a last dimension of single ones, 0-d blocks one of length 1.
        return [*(shape or (1,)), *raw_shape[ndim:]]

    codecs = spec.zarr_codecs()
    serializer = codecs[0]
    if spec.inner_shape is not None:
        serializer["configuration"]["chunk_shape"] = to_raw(spec.inner_shape)
        serializer = serializer["configuration"]["codecs"][0]
    grid = {"name": "regular", "configuration": {"chunk_shape": to_raw(spec.chunk_shape)}}
    members: dict[str, Any] = {"codecs": codecs, "chunk_grid": grid}
    if spec.dtype != STRING:
        raw = RAW_DTYPES[1 if len(raw_shape) > ndim else spec.itemsize]
        members |= {"data_type": raw, "fill_value": [0.0, 0.0] if raw == "complex128" else 0}
        if np.dtype(raw).itemsize > 1:
            serializer["configuration"]["endian"] = sys.byteorder
    return spec.zarr_metadata(raw_shape, **members)

"""The plain chain of codecs, a compressor and a checksum, run here and now.

Zarr's pipeline goes through an event loop and its threads, which costs as much as compressing a megabyte does. What
comes out are the same bytes, which a test holds against Zarr's own. Shards and strings are left to the pipeline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Buffer
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from daskcache.chunks.spec import STRING, ChunkSpec

__all__ = ["is_plain", "pack", "unpack"]

CHECKSUM_BYTES = 4

_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_HEADER_BYTES = 16
_HANDOVER_BYTES = 256 * 1024
_MAX_THREADS = 64


def is_plain(spec: ChunkSpec) -> bool:
    """Tell whether blocks are one buffer each, of items of one size.

    Parameters
    ----------
    spec : ChunkSpec
        How blocks are encoded.

    Returns
    -------
    bool
        False for shards and strings.

    Examples
    --------
    >>> is_plain(ChunkSpec.for_block("f4", (3,))), is_plain(ChunkSpec.for_block("T", (3,)))
    (True, False)
    """
    return spec.inner_shape is None and spec.dtype != STRING


def pack(raw: np.ndarray[Any, Any], spec: ChunkSpec) -> memoryview:
    """Make the object that holds a block.

    Parameters
    ----------
    raw : numpy.ndarray
        The block as raw words, in no dimension longer than its chunk.
    spec : ChunkSpec
        How; `is_plain` holds.

    Returns
    -------
    memoryview
        The bytes that Zarr's pipeline makes of the block, padded with zeros where it is shorter than its chunk.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("u2", (3,))
    >>> unpack(pack(np.arange(2, dtype="u2"), spec), spec, (2,), np.dtype("u2"), (slice(1, 2),))
    array([1], dtype=uint16)
    """
    nbytes = math.prod(_full_shape(spec, raw.shape)) * raw.dtype.itemsize
    if nbytes < _HANDOVER_BYTES:
        return _pack(raw, spec)
    try:
        packed = _threads().submit(_pack, raw, spec)
    except RuntimeError:  # the interpreter is at its end, and has no threads for anybody
        return _pack(raw, spec)
    return packed.result()


def _pack(raw: np.ndarray[Any, Any], spec: ChunkSpec) -> memoryview:
    full = _full_shape(spec, raw.shape)
    if raw.shape == full:
        words = np.ascontiguousarray(raw)
    else:
        words = np.zeros(full, raw.dtype)
        words[tuple(map(slice, raw.shape))] = raw
    compressor = _compressor(spec)
    body = words.data.cast("B") if compressor is None else compressor.encode(words)
    return memoryview(b"".join((body, _checksum(body))))


@cache
def _threads() -> ThreadPoolExecutor:
    # As many as there are callers, who wait. Buffers that a thread of the scheduler's allocates among its blocks go
    # back to the system each time, and to be given them again costs as much as compressing; threads that do nothing
    # else keep them.
    return ThreadPoolExecutor(_MAX_THREADS, "daskcache-encode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


def unpack(
    data: Buffer,
    spec: ChunkSpec,
    raw_shape: tuple[int, ...],
    raw_dtype: np.dtype[Any],
    region: tuple[slice, ...],
) -> np.ndarray[Any, Any]:
    """Read a part of a block from the bytes of its object.

    Parameters
    ----------
    data : buffer
        What `pack` gave.
    spec : ChunkSpec
        How it was encoded; `is_plain` holds.
    raw_shape : tuple of int
        The shape of the block's raw words.
    raw_dtype : numpy.dtype
        Their dtype.
    region : tuple of slice
        The part, forward and of step 1; empty for all of the block.

    Returns
    -------
    numpy.ndarray
        Raw words, contiguous, writable, no one else's.

    Raises
    ------
    ValueError, RuntimeError
        The bytes fail their checksum, or are those of another kind of block.
    """
    view = memoryview(data).cast("B")
    body = view[:-CHECKSUM_BYTES]
    if _checksum(body) != view[-CHECKSUM_BYTES:]:
        raise ValueError("stored and computed checksum do not match")
    full = _full_shape(spec, raw_shape)
    words = _decompress(body, spec, math.prod(full) * raw_dtype.itemsize).view(raw_dtype).reshape(full)
    part = words[region or tuple(map(slice, raw_shape))]
    # A copy lets go of what was not asked for.
    return words if part.shape == full else np.ascontiguousarray(part)


def _full_shape(spec: ChunkSpec, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    # Fixed-length bytes have a last dimension of single ones, 0-d blocks one of length 1.
    chunk_shape = spec.chunk_shape or (1,)
    return (*chunk_shape, *raw_shape[len(chunk_shape) :])


def _checksum(body: Buffer) -> bytes:
    value: int = google_crc32c.value(np.frombuffer(body, "u1"))
    return value.to_bytes(CHECKSUM_BYTES, "little")


def _decompress(body: memoryview, spec: ChunkSpec, nbytes: int) -> np.ndarray[Any, Any]:
    compressor = _compressor(spec)
    if isinstance(compressor, Blosc):
        # Blosc takes its header at its word.
        header = np.frombuffer(body[:_BLOSC_HEADER_BYTES], "<u4")
        if (int(header[1]), int(header[3])) != (nbytes, len(body)):
            raise ValueError(
                f"a buffer of {header[3]} bytes for {header[1]}; expected {len(body)} for {nbytes}"
            )
        words = np.empty(nbytes, "u1")
        compressor.decode(body, words)
        return words
    found = body if compressor is None else memoryview(compressor.decode(body))
    if len(found) != nbytes:
        raise ValueError(f"a buffer for {len(found)} bytes; expected {nbytes}")
    return np.frombuffer(found, "u1").copy()


@lru_cache(maxsize=64)
def _compressor(spec: ChunkSpec) -> Blosc | Zstd | None:
    for codec in spec.zarr_codecs():
        options = codec.get("configuration", {})
        if codec["name"] == "blosc":
            return Blosc(
                options["cname"],
                options["clevel"],
                _SHUFFLES[options["shuffle"]],
                options["blocksize"],
                options["typesize"],
            )
        if codec["name"] == "zstd":
            return Zstd(options["level"], options["checksum"])
    return None

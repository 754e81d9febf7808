"""Blocks to bytes and back, as Zarr's own codec pipeline does it, and mostly through it.

Arrays are handed over as raw words of their item's size, in the machine's order: the codecs move bytes and
never look at values, so NaN payloads, signed zeros and byte order come through without a conversion, and the
result is what Zarr writes for the real data type.
"""

from __future__ import annotations

import math
from collections.abc import Buffer
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.abc.store import Store, SuffixByteRequest
from zarr.buffer import default_buffer_prototype

from daskcache.chunks.direct import CHECKSUM_BYTES, is_plain, pack, unpack
from daskcache.chunks.handles import RAW_DTYPES, Handle, ObjectInStore, borrowed
from daskcache.chunks.selection import Selection
from daskcache.chunks.spec import STRING, ChunkSpec, check_storable, storage_dtype
from daskcache.errors import CorruptChunkError, InvalidInputError, NotStoredError, UncacheableError
from daskcache.stores import get

__all__ = ["decode", "encode", "inner_ranges", "read_inner_ranges", "read_part"]

# What codecs raise at bytes that are not theirs. Never OSError or MemoryError: those say nothing of the bytes.
_MALFORMED = (ValueError, TypeError, RuntimeError, KeyError, IndexError, EOFError, OverflowError)


_BUFFER = default_buffer_prototype().buffer


def encode(block: np.ndarray[Any, Any], spec: ChunkSpec) -> memoryview:
    """Make the object that holds a block.

    Parameters
    ----------
    block : numpy.ndarray
        Of a dtype with the specification's storage form, in no dimension longer than its chunk; any memory
        order. Full-size blocks are not copied on the way to the compressor.
    spec : ChunkSpec
        How.

    Returns
    -------
    memoryview
        The bytes that Zarr writes, of shorter blocks padded with the fill value; none for a block of no size.
        Equal blocks give equal bytes (unless numcodecs' Blosc was told to use threads, which puts its
        pieces in the order in which they are done).

    Raises
    ------
    InvalidInputError
        The block is not of the specification's dtype or shape.
    UncacheableError
        A value has no storage form, such as a string with a lone surrogate.

    Examples
    --------
    >>> block = np.arange(6, dtype=">f4").reshape(2, 3)
    >>> spec = ChunkSpec.for_block(block.dtype, block.shape)
    >>> decode(encode(block, spec), spec, block.shape, block.dtype).dtype
    dtype('>f4')
    """
    _check_block(block, spec)
    if block.size == 0:
        return memoryview(b"")
    raw = _to_raw(block, spec)
    if is_plain(spec):
        return pack(raw, spec)
    with borrowed(spec, raw.shape) as handle:
        handle.array[...] = raw
        return handle.store.take()


def decode(
    data: Buffer, spec: ChunkSpec, shape: tuple[int, ...], dtype: Any, index: Any = None
) -> np.ndarray[Any, Any]:
    """Read a block, or a part of it, from the bytes of its object.

    Parameters
    ----------
    data : buffer
        What `encode` gave.
    spec : ChunkSpec
        How it was encoded.
    shape : tuple of int
        The block's shape.
    dtype : dtype-like
        The block's dtype in memory.
    index : int, slice, Ellipsis, tuple of them or Selection, optional
        The part; of a sharded block only the inner chunks that it touches are decoded.

    Returns
    -------
    numpy.ndarray
        The values, bit for bit; 0-d where numpy would give a scalar. Writable, and no one else's.

    Raises
    ------
    CorruptChunkError
        The bytes fail their checksum, or are those of another kind of block.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("i8", (4,))
    >>> data = encode(np.arange(4), spec)
    >>> decode(data, spec, (4,), "i8", slice(1, 3))
    array([1, 2])
    >>> decode(data[:-1], spec, (4,), "i8")
    Traceback (most recent call last):
        ...
    daskcache.errors.CorruptChunkError: ...
    """
    return _decode(memoryview(data), spec, shape, np.dtype(dtype), index)


def read_part(
    store: Store, key: str, spec: ChunkSpec, shape: tuple[int, ...], dtype: Any, index: Any
) -> np.ndarray[Any, Any]:
    """Read a part of a block from its object in a store, of a sharded block with range requests.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where the object lies.
    key : str
        Its key.
    spec : ChunkSpec
        How it was encoded.
    shape : tuple of int
        The block's shape.
    dtype : dtype-like
        The block's dtype in memory.
    index : int, slice, Ellipsis, tuple of them or Selection
        The part.

    Returns
    -------
    numpy.ndarray
        The values.

    Raises
    ------
    NotStoredError
        There is no such object.
    CorruptChunkError
        What was read fails its checksum.
    StoreError
        The store cannot be read.

    Notes
    -----
    One request for the shard's index, and one for each run of neighbouring inner chunks.

    Examples
    --------
    >>> from daskcache import stores
    >>> spec = ChunkSpec.for_block("i8", (4,), inner_shape=(2,))
    >>> store = stores.open("memory://doc-part")
    >>> stores.put(store, "a", encode(np.arange(4), spec))
    >>> read_part(store, "a", spec, (4,), "i8", slice(1, 2))
    array([1])
    """
    return _decode(ObjectInStore(store, key), spec, shape, np.dtype(dtype), index)


def inner_ranges(data: Buffer, spec: ChunkSpec) -> tuple[tuple[int, int], ...]:
    """Tell where the inner chunks lie in a sharded block's object.

    Parameters
    ----------
    data : buffer
        The object, or the end of it.
    spec : ChunkSpec
        How it was encoded, with inner chunks.

    Returns
    -------
    tuple of (int, int)
        Offset and size in bytes of each inner chunk, in C order of their grid.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("i8", (4,), inner_shape=(2,))
    >>> len(inner_ranges(encode(np.arange(4), spec), spec))
    2
    """
    index = np.frombuffer(memoryview(data)[-_index_bytes(spec) : -CHECKSUM_BYTES], "<u8").reshape(-1, 2)
    return tuple((int(offset), int(size)) for offset, size in index)


def read_inner_ranges(store: Store, key: str, spec: ChunkSpec) -> tuple[tuple[int, int], ...] | None:
    """Read from the end of a sharded block's object where its inner chunks lie.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where the object lies.
    key : str
        Its key.
    spec : ChunkSpec
        How it was encoded, with inner chunks.

    Returns
    -------
    tuple of (int, int) or None
        As `inner_ranges` gives them; None where there is no such object.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request, for the shard's index alone.

    Examples
    --------
    >>> from daskcache import stores
    >>> spec = ChunkSpec.for_block("i8", (4,), inner_shape=(2,))
    >>> store = stores.open("memory://doc-inner")
    >>> stores.put(store, "a", encode(np.arange(4), spec))
    >>> len(read_inner_ranges(store, "a", spec))
    2
    """
    tail = get(store, key, SuffixByteRequest(_index_bytes(spec)))
    return None if tail is None else inner_ranges(tail, spec)


def _index_bytes(spec: ChunkSpec) -> int:
    # Two words for each inner chunk, and a checksum.
    inner = spec.inner_shape or spec.chunk_shape
    count = math.prod(length // part for length, part in zip(spec.chunk_shape, inner, strict=True))
    return 16 * count + CHECKSUM_BYTES


def _check_block(block: np.ndarray[Any, Any], spec: ChunkSpec) -> None:
    # Strings in object arrays are told apart by the specification, which someone declared.
    dtype = getattr(block, "dtype", None)
    is_declared = spec.dtype == STRING and dtype == np.dtype(object)
    check_storable("T" if is_declared else dtype, block)
    if not is_declared and storage_dtype(block.dtype) != spec.dtype:
        raise InvalidInputError(f"the block has dtype {block.dtype}; expected one stored as {spec.dtype}")
    _check_shape(block.shape, spec)


def _check_shape(shape: tuple[int, ...], spec: ChunkSpec) -> None:
    if len(shape) != len(spec.chunk_shape) or any(
        length > limit for length, limit in zip(shape, spec.chunk_shape, strict=True)
    ):
        raise InvalidInputError(f"the block has shape {shape}; expected one that fits {spec.chunk_shape}")


def _to_raw(block: np.ndarray[Any, Any], spec: ChunkSpec) -> np.ndarray[Any, Any]:
    # Zarr hands 0-d values about as scalars, which a NaN's payload need not survive.
    block = block.reshape(1) if block.ndim == 0 else block
    if spec.dtype == STRING:
        return _to_strings(block)
    if block.dtype.kind == "S":
        raw = np.ascontiguousarray(block).view("uint8")
        return raw.reshape(*block.shape, block.dtype.itemsize)
    return block.view(RAW_DTYPES[block.dtype.itemsize])


def _to_strings(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if block.dtype.kind == "U":
        # NumPy before 2.5.3 cannot cast from foreign byte order.
        block = block.astype(block.dtype.newbyteorder("="), copy=False)
    try:
        return block.astype(np.dtypes.StringDType(coerce=False)).astype("T")
    except (ValueError, TypeError) as error:
        raise UncacheableError(
            f"a block of dtype {block.dtype} has values that are no valid strings ({error}); "
            "replace them before storing"
        ) from error


def _from_raw(raw: np.ndarray[Any, Any], spec: ChunkSpec, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if spec.dtype == STRING:
        if raw.dtype == dtype:
            return raw
        # StringDType has no byte order, and may differ in what else it takes.
        native = dtype if dtype.kind == "T" else dtype.newbyteorder("=")
        return raw.astype(native).astype(dtype, copy=False)
    values: np.ndarray[Any, Any] = raw.view(dtype)
    return values[..., 0] if dtype.kind == "S" else values


def _decode(
    source: memoryview | ObjectInStore,
    spec: ChunkSpec,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    index: Any,
) -> np.ndarray[Any, Any]:
    _check_shape(shape, spec)
    selection = index if isinstance(index, Selection) else Selection.of(shape, index)
    if 0 in selection.shape:
        return np.empty(selection.shape, dtype)[(*selection.rest, ...)]
    raw_shape = (shape or (1,)) + ((dtype.itemsize,) if dtype.kind == "S" else ())
    what = f"{shape} block of {spec.dtype}"
    if isinstance(source, memoryview) and is_plain(spec):
        raw = _unpack(source, spec, raw_shape, selection, what)
    else:
        with borrowed(spec, raw_shape) as handle:
            content = _BUFFER.from_bytes(source) if isinstance(source, memoryview) else source
            raw = _read(handle, content, selection.region or ..., what)
    values = _from_raw(raw, spec, dtype).reshape(selection.shape)
    return values[(*selection.rest, ...)]


def _unpack(
    data: memoryview, spec: ChunkSpec, raw_shape: tuple[int, ...], selection: Selection, what: str
) -> np.ndarray[Any, Any]:
    has_letters = len(raw_shape) > max(len(spec.chunk_shape), 1)
    raw_dtype = np.dtype(RAW_DTYPES[1 if has_letters else spec.itemsize])
    try:
        return unpack(data, spec, raw_shape, raw_dtype, selection.region)
    except _MALFORMED as error:
        raise _corrupt(error, what) from error


def _read(
    handle: Handle, content: ZarrBuffer | ObjectInStore, region: Any, what: str
) -> np.ndarray[Any, Any]:
    handle.store.content = content
    try:
        return np.asarray(handle.array[region])
    except zarr.errors.ChunkNotFoundError as error:
        raise NotStoredError("there is no such object; it has to be computed again") from error
    except BaseExceptionGroup as errors:
        raise _unwrapped(errors, what) from errors
    except _MALFORMED as error:
        if isinstance(error, RuntimeError) and "shutdown" in str(error):
            raise  # of the interpreter, whose threads are gone: says nothing of the bytes
        raise _corrupt(error, what) from error


def _corrupt(error: BaseException, what: str) -> CorruptChunkError:
    return CorruptChunkError(
        f"the object holds no {what}, or was damaged ({error}); it has to be computed again"
    )


def _unwrapped(error: BaseException, what: str) -> BaseException:
    """Give the one error to raise for what requests for the parts of a shard ran into."""
    if isinstance(error, BaseExceptionGroup):
        return _unwrapped(error.exceptions[0], what)
    if isinstance(error, FileNotFoundError):
        # The index of the shard was there a moment ago.
        return NotStoredError("the object went away while it was read; it has to be computed again")
    return _corrupt(error, what) if isinstance(error, _MALFORMED) else error

"""What tells one whole object from another, at next to no cost: its own checksums, which the codecs have made."""

from __future__ import annotations

from collections.abc import Buffer

import google_crc32c
import numpy as np
from zarr.abc.store import Store, SuffixByteRequest

from daskcache.chunks.direct import CHECKSUM_BYTES
from daskcache.chunks.encoding import inner_ranges
from daskcache.chunks.spec import ChunkSpec
from daskcache.stores import get

__all__ = ["checksum_of", "read_checksum"]

# Where a shard's index has no inner chunk.
_NOT_THERE = 2**64 - 1


def checksum_of(data: Buffer, spec: ChunkSpec) -> int:
    """Give the checksum that a block's object has.

    Parameters
    ----------
    data : buffer
        The whole object, undamaged.
    spec : ChunkSpec
        How it was encoded.

    Returns
    -------
    int
        32 bits: the CRC-32C that the object ends with; with inner chunks, that of theirs and of where they lie.

    Examples
    --------
    >>> from daskcache.chunks import encode
    >>> spec = ChunkSpec.for_block("i8", (4,))
    >>> checksum_of(encode(np.arange(4), spec), spec) == checksum_of(encode(np.arange(1, 5), spec), spec)
    False
    """
    view = memoryview(data).cast("B")
    if spec.inner_shape is None:
        return int.from_bytes(view[-CHECKSUM_BYTES:], "little")
    # Not the CRC of the whole shard: each inner chunk ends with its own, and the CRC of data followed by their CRC
    # tells only how long they are.
    ranges = np.array(inner_ranges(data, spec), "<u8").reshape(-1, 2)
    ends = ranges[ranges[:, 0] != _NOT_THERE].sum(axis=1).astype("i8")
    tails = np.frombuffer(view, "u1")[ends[:, None] + np.arange(-CHECKSUM_BYTES, 0)]
    value: int = google_crc32c.value(tails.tobytes() + ranges.tobytes())
    return value


def read_checksum(store: Store, key: str, spec: ChunkSpec) -> int | None:
    """Read the checksum of an object without the object.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where it lies.
    key : str
        Its key.
    spec : ChunkSpec
        How it was encoded.

    Returns
    -------
    int or None
        As `checksum_of` gives it. None where there is no such object, and with inner chunks, because theirs lie all over
        it.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request, for four bytes. That the object is whole is not checked.

    Examples
    --------
    >>> from daskcache import stores
    >>> from daskcache.chunks import encode
    >>> spec = ChunkSpec.for_block("i8", (4,))
    >>> store = stores.open("memory://doc-checksum")
    >>> stores.put(store, "a", encode(np.arange(4), spec))
    >>> read_checksum(store, "a", spec) == checksum_of(encode(np.arange(4), spec), spec)
    True
    """
    if spec.inner_shape is not None:
        return None
    tail = get(store, key, SuffixByteRequest(CHECKSUM_BYTES))
    return None if tail is None else checksum_of(tail, spec)

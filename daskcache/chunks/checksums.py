"""What tells one whole object from another, at next to no cost: its own checksums, which the codecs have made."""

from __future__ import annotations

from collections.abc import Buffer

import google_crc32c
import numpy as np

from daskcache.chunks.direct import CHECKSUM_BYTES
from daskcache.chunks.encoding import inner_ranges
from daskcache.chunks.spec import ChunkSpec

__all__ = ["checksum_of"]

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

"""Grids: how the blocks of an array are cut into chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np

from daskcache.chunks.hints import Hints, plan_inner
from daskcache.chunks.spec import DEFAULT_CODECS, STRING, ChunkSpec, storage_dtype
from daskcache.config import Codecs
from daskcache.errors import UncacheableError

__all__ = ["Grid", "plan_grid"]

MIN_INNER_BYTES = 64 * 1024
"""Irregular blocks whose inner chunks would be smaller are plain chunks of a rectilinear grid."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The blocks of an array and how their chunks are cut.

    Examples
    --------
    >>> grid = plan_grid(((31, 28, 31), (100, 50)), "float64")
    >>> grid.kind, grid.chunk_shape((1, 1))
    ('rectilinear', (28, 50))
    """

    kind: Literal["regular", "inner", "rectilinear"]
    """``regular``: one chunk shape for all; ``inner``: each block a shard of inner chunks that divide every
    block; ``rectilinear``: each block a plain chunk of its own shape."""
    chunks: tuple[tuple[int, ...], ...]
    """The blocks' lengths along each dimension, as dask has them."""
    regular: tuple[int | None, ...]
    """The regular length of each dimension, at least 1; None where lengths are irregular."""
    inner_shape: tuple[int, ...] | None = None
    """Lengths of the inner chunks where `kind` is ``inner``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return tuple(sum(lengths) for lengths in self.chunks)

    @property
    def numblocks(self) -> tuple[int, ...]:
        """The number of blocks along each dimension."""
        return tuple(len(lengths) for lengths in self.chunks)

    def block_shape(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of one block.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.

        Returns
        -------
        tuple of int
            Its lengths.
        """
        return tuple(lengths[i] for lengths, i in zip(self.chunks, index, strict=True))

    def chunk_shape(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape that one block is padded to.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.

        Returns
        -------
        tuple of int
            Lengths, each at least 1.
        """
        block = self.block_shape(index)
        if self.kind == "rectilinear":
            return tuple(max(length, 1) for length in block)
        return tuple(regular or max(length, 1) for regular, length in zip(self.regular, block, strict=True))

    def spec(
        self,
        index: tuple[int, ...],
        dtype: Any,
        codecs: Codecs = DEFAULT_CODECS,
        inner_shape: tuple[int, ...] | None = None,
    ) -> ChunkSpec:
        """Make the specification of one block's chunk.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.
        dtype : dtype-like
            What the blocks hold, in memory.
        codecs : Codecs, optional
            The compressor.
        inner_shape : tuple of int, optional
            Inner chunks that a hint asks for; only a regular grid takes them.

        Returns
        -------
        ChunkSpec
            Equal for blocks that are cut alike.
        """
        inner = inner_shape if self.kind == "regular" else self.inner_shape
        return _spec_for(np.dtype(dtype), self.chunk_shape(index), codecs, inner)

    def inner(self, hints: Hints | None, dims: tuple[str, ...], dtype: Any) -> tuple[int, ...] | None:
        """Choose the inner chunks that hints ask for.

        Parameters
        ----------
        hints : Hints or None
            How the blocks will be read.
        dims : tuple of str
            The dimensions' names.
        dtype : dtype-like
            What the blocks hold, in memory.

        Returns
        -------
        tuple of int or None
            What `spec` takes. None where blocks are left in one piece: without hints for these dimensions, where
            blocks are small or irregular, and for strings, whose bytes have no common size.
        """
        stored = storage_dtype(dtype)
        if self.kind != "regular" or stored == STRING:
            return None
        lengths = self.chunk_shape((0,) * len(self.chunks)) if all(self.chunks) else ()
        if not lengths:
            return None
        is_single = tuple(count == 1 for count in self.numblocks)
        return plan_inner(hints, dims, lengths, is_single, np.dtype(stored).itemsize)

    def indices(self) -> product[tuple[int, ...]]:
        """Give the blocks' places in C order.

        Returns
        -------
        iterator of tuple of int
            Indices into `chunks`.
        """
        return product(*(range(len(lengths)) for lengths in self.chunks))


@lru_cache(maxsize=1024)
def _spec_for(
    dtype: np.dtype[Any],
    chunk_shape: tuple[int, ...],
    codecs: Codecs,
    inner_shape: tuple[int, ...] | None,
) -> ChunkSpec:
    return ChunkSpec.for_block(dtype, chunk_shape, codecs, inner_shape)


def plan_grid(chunks: tuple[tuple[int, ...], ...], dtype: Any) -> Grid:
    """Decide how the blocks of an array are cut into chunks.

    Parameters
    ----------
    chunks : tuple of tuple of int
        The blocks' lengths along each dimension, as dask has them.
    dtype : dtype-like
        What the blocks hold, in memory.

    Returns
    -------
    Grid
        ``regular`` where along each dimension all blocks but the last are equal and the last is no longer.
        Else the inner chunks have length 1 along irregular dimensions, so that they divide every block
        whatever blocks come later, and the regular length along the others; where that makes them smaller
        than 64 KiB the grid is ``rectilinear``.

    Raises
    ------
    UncacheableError
        Lengths are unknown, or the dtype has no storage form.

    Examples
    --------
    >>> plan_grid(((30, 30, 12), (100,)), "float32").kind
    'regular'
    >>> plan_grid(((366, 365, 365), (180, 360)), "float32").inner_shape is None
    True
    >>> plan_grid(((366, 365, 365), (180,), (360,)), "float32").inner_shape
    (1, 180, 360)
    """
    storage_dtype(dtype)
    if any(math.isnan(length) for lengths in chunks for length in lengths):
        raise UncacheableError(
            "the blocks' lengths are unknown (nan), so their chunks have no grid; "
            "call compute_chunk_sizes() or rechunk with known lengths first"
        )
    chunks = tuple(tuple(int(length) for length in lengths) for lengths in chunks)
    regular = tuple(_regular_length(lengths) for lengths in chunks)
    if None not in regular:
        return Grid("regular", chunks, regular)
    inner = tuple(length or 1 for length in regular)
    if math.prod(inner) * np.dtype(dtype).itemsize >= MIN_INNER_BYTES:
        return Grid("inner", chunks, regular, inner)
    return Grid("rectilinear", chunks, regular)


def _regular_length(lengths: tuple[int, ...]) -> int | None:
    first = lengths[0] if lengths else 0
    is_regular = all(length == first for length in lengths[1:-1]) and lengths[-1:] <= (first,)
    return max(first, 1) if is_regular else None

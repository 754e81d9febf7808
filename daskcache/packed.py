"""The blocks of a stored variable, from the packed arrays of its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from daskcache.chunks import ChunkSpec, decode
from daskcache.manifest import StoredVariable
from daskcache.pool import StoredBlock

__all__ = ["PackedBlocks", "read_encoded"]


class PackedBlocks:
    """Gives the stored block for a tuple of block numbers, from the packed arrays of a manifest.

    Parameters
    ----------
    root : str
        The store's root.
    variable : StoredVariable
        A variable with tokens.
    """

    __slots__ = ("_dtype", "_encoded_dtype", "_grid", "_numblocks", "_root", "_spec", "_variable")

    def __init__(self, root: str, variable: StoredVariable) -> None:
        self._root = root
        self._variable = variable
        # What does not change from block to block, because it is asked for 100,000 times.
        self._grid = variable.grid
        self._numblocks = variable.numblocks
        self._encoded_dtype = variable.encoded_dtype
        # Objects are made when all blocks are there.
        self._dtype = variable.dtype if variable.dtype.kind != "O" else self._encoded_dtype
        is_alike = self._grid.kind == "regular" and variable.nblocks > 0
        self._spec = self._spec_of((0,) * len(self._numblocks)) if is_alike else None

    def __call__(self, index: tuple[int, ...]) -> StoredBlock:
        """Give the block of an index."""
        variable = self._variable
        number = 0
        for place, count in zip(index, self._numblocks, strict=True):
            number = number * count + place
        return StoredBlock(
            root=self._root,
            group=f"{variable.groups[number]:04x}",
            token=variable.tokens[number].tobytes(),
            spec=self._spec or self._spec_of(index),
            shape=self._grid.block_shape(index),
            dtype=self._dtype,
            size_bytes=int(variable.sizes[number]),
        )

    def _spec_of(self, index: tuple[int, ...]) -> ChunkSpec:
        variable = self._variable
        return self._grid.spec(index, self._encoded_dtype, variable.codecs, variable.inner_shape)

    def __iter__(self) -> Iterator[StoredBlock]:
        return map(self, self._grid.indices())


def read_encoded(variable: StoredVariable, root: str) -> np.ndarray[Any, Any]:
    """Read all of a variable, as it was encoded: dates as numbers, objects as what stands for them.

    Parameters
    ----------
    variable : StoredVariable
        One that fits into memory.
    root : str
        The root of the pool that holds its blocks.

    Returns
    -------
    numpy.ndarray
        Of the variable's shape and `encoded_dtype`; `daskcache.manifest.from_stored` makes of it what was in memory.

    Raises
    ------
    NotStoredError
        A block is missing.
    CorruptChunkError
        A block is damaged.

    Examples
    --------
    >>> from daskcache.chunks import encode
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> inline = bytes(encode(np.arange(3), spec))
    >>> read_encoded(StoredVariable("x", ("x",), np.dtype("i8"), ((3,),), inline=inline), "memory://doc-packed")
    array([0, 1, 2])
    """
    dtype = variable.encoded_dtype
    if variable.inline is not None:
        (_, spec), *_ = variable.specs()
        return decode(variable.inline, spec, variable.shape, dtype)
    values = np.empty(variable.shape, dtype)
    blocks = PackedBlocks(root, variable)
    starts = [np.cumsum([0, *lengths]) for lengths in variable.chunks]
    for index in variable.grid.indices():
        region = tuple(
            slice(int(start[i]), int(start[i + 1])) for start, i in zip(starts, index, strict=True)
        )
        values[region] = np.asarray(blocks(index))
    return values

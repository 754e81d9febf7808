"""Which elements of an array a read takes: indexing of indexing, composed down to the array that lies on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from daskcache.errors import UncacheableError

__all__ = ["AxisGrid", "Outer", "Points", "Region", "expand_index"]

Integers = npt.NDArray[np.int64]
Axis = int | range | Integers
"""What is taken of one axis: one position (the axis goes), a range, or a list of positions."""
AxisGrid = int | Integers
"""The chunks of one axis: their common length, or where each begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Outer:
    """A region that takes each axis on its own.

    Examples
    --------
    >>> region = Outer.whole((10, 4)).take((slice(2, 8),)).take((slice(1, 3), 0))
    >>> region.axes
    (range(3, 5), 0)
    >>> list(region.touch((3, 4)))
    [(1, 0)]
    """

    axes: tuple[Axis, ...]
    """One entry for each axis of the base array, in its coordinates; ranges are canonical."""

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Self:
        """Take all of an array."""
        return cls(tuple(_canonical(range(int(size))) for size in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes that remain."""
        return tuple(len(axis) for axis in self.axes if not isinstance(axis, int))

    def take(self, index: Any, hidden: int = 0) -> Self:
        """Take a part of this region, each axis on its own.

        Parameters
        ----------
        index : tuple
            Integers, slices, one-dimensional integer or boolean arrays, an ellipsis; missing entries are whole.
        hidden : int, optional
            How many of the last axes `index` does not see and takes wholly.

        Returns
        -------
        Outer
            In coordinates of the same base array.

        Raises
        ------
        UncacheableError
            The index is of another kind or out of bounds.
        """
        entries = iter(expand_index(index, len(self.shape), hidden))
        return type(self)(
            tuple(axis if isinstance(axis, int) else _take(axis, next(entries)) for axis in self.axes)
        )

    def points(self, keys: Sequence[Any], hidden: int = 0) -> Points:
        """Take single elements: the keys, one for each axis that remains, are broadcast together."""
        if hidden:
            raise UncacheableError("selects single elements of an array of characters; load it first")
        entries = iter(keys)
        return Points(
            tuple(
                np.asarray(axis, dtype=np.int64)
                if isinstance(axis, int)
                else _positions(axis, np.asarray(next(entries)))
                for axis in self.axes
            )
        )

    def touch(self, grid: Sequence[AxisGrid]) -> Iterator[tuple[int, ...]]:
        """Give the positions in the chunk grid of the chunks that hold the region, in C order."""
        return product(*(_touched(axis, chunks) for axis, chunks in zip(self.axes, grid, strict=True)))

    def bounds(self, grid: Sequence[AxisGrid]) -> list[tuple[int, int]]:
        """Give the first and the last chunk touched along each axis; nothing where the region is empty."""
        touched = [_touched(axis, chunks) for axis, chunks in zip(self.axes, grid, strict=True)]
        return [(axis[0], axis[-1]) for axis in touched] if all(touched) else []

    def encode(self, origin: Sequence[int]) -> Iterator[bytes]:
        """Give the region's canonical bytes, counted from an origin in the base array."""
        for axis, start in zip(self.axes, origin, strict=True):
            if isinstance(axis, int):
                yield b"i%d" % (axis - start)
            elif isinstance(axis, range):
                yield b"r%d:%d:%d" % (axis.start - start, len(axis), axis.step)
            else:
                yield b"a" + (axis - start).astype("<i8").tobytes()

    def select(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read the region of an array in memory."""
        for position in reversed(range(len(self.axes))):
            axis = self.axes[position]
            key: Any = _slice(axis) if isinstance(axis, range) else axis
            array = array[(*(slice(None),) * position, key)]
        return np.asarray(array)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A region of single elements (also a transposed one): positions of the axes are broadcast together."""

    positions: tuple[Integers, ...]
    """One array for each axis of the base array, in its coordinates."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return np.broadcast_shapes(*(array.shape for array in self.positions))

    def take(self, index: Any, hidden: int = 0) -> Points:
        """Take a part of this region, each of its own axes on its own."""
        shape = self.shape
        entries = expand_index(index, len(shape), hidden)
        axes = [_take(_canonical(range(size)), entry) for size, entry in zip(shape, entries, strict=True)]
        return Points(tuple(_take_broadcast(array, axes, shape) for array in self.positions))

    def points(self, keys: Sequence[Any], hidden: int = 0) -> Points:
        """Take single elements of this region."""
        if hidden:
            raise UncacheableError("selects single elements of an array of characters; load it first")
        shape = self.shape
        wrapped = tuple(
            _positions(_canonical(range(size)), np.asarray(key))
            for size, key in zip(shape, keys, strict=True)
        )
        return Points(tuple(np.broadcast_to(array, shape)[wrapped] for array in self.positions))

    def touch(self, grid: Sequence[AxisGrid]) -> Iterator[tuple[int, ...]]:
        """Give the positions in the chunk grid of the chunks that hold the region, in C order."""
        chunks = [_chunk_of(array, size) for array, size in zip(self.positions, grid, strict=True)]
        if not chunks or 0 in self.shape:
            return iter(() if chunks else ((),))
        varying = np.array([[size > 1 for size in _padded(array, len(self.shape))] for array in chunks])
        if (varying.sum(axis=0) <= 1).all():
            # A transposed array: broadcasting it would make as many positions as there are elements.
            return product(*(np.unique(array).tolist() for array in chunks))
        rows = np.stack([array.ravel() for array in np.broadcast_arrays(*chunks)], axis=1)
        return (tuple(row) for row in np.unique(rows, axis=0).tolist())

    def bounds(self, grid: Sequence[AxisGrid]) -> list[tuple[int, int]]:
        """Give the first and the last chunk touched along each axis; nothing where the region is empty."""
        if 0 in self.shape:
            return []
        chunks = (_chunk_of(array, size) for array, size in zip(self.positions, grid, strict=True))
        return [(int(array.min()), int(array.max())) for array in chunks]

    def encode(self, origin: Sequence[int]) -> Iterator[bytes]:
        """Give the region's canonical bytes, counted from an origin in the base array."""
        for array, start in zip(self.positions, origin, strict=True):
            yield b"p" + repr(array.shape).encode() + (array - start).astype("<i8").tobytes()

    def select(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read the region of an array in memory."""
        return np.asarray(array[self.positions])


Region = Outer | Points


def expand_index(index: Any, ndim: int, hidden: int = 0) -> tuple[Any, ...]:
    """Give one entry for each of `ndim` axes, the `hidden` last of them whole.

    Returns
    -------
    tuple
        One entry for each axis.

    Raises
    ------
    UncacheableError
        The index has more entries than axes, a new axis, or several ellipses.
    """
    entries = index if isinstance(index, tuple) else (index,)
    ellipses = [place for place, entry in enumerate(entries) if entry is Ellipsis]
    if any(entry is None for entry in entries) or len(ellipses) > 1:
        raise UncacheableError(
            f"reads a source with the index {entries!r}; only basic and integer indices are known"
        )
    if len(entries) - len(ellipses) > ndim - hidden:
        raise UncacheableError(f"reads a source of {ndim - hidden} dimensions with {len(entries)} indices")
    whole = slice(None)
    if ellipses:
        place = ellipses[0]
        missing = ndim - hidden - (len(entries) - 1)
        entries = (*entries[:place], *(whole,) * missing, *entries[place + 1 :])
    return (*entries, *(whole,) * (ndim - len(entries)))


def _take(axis: range | Integers, entry: Any) -> Axis:
    try:
        if isinstance(entry, slice):
            if isinstance(axis, range):
                return _canonical(axis[entry])
            return axis[entry]
        if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
            return int(axis[int(entry)])
        keys = np.asarray(entry)
        if keys.ndim == 0 and keys.dtype.kind in "iu":
            return int(axis[int(keys)])
        if keys.ndim == 1:
            return _positions(axis, keys)
    except (IndexError, TypeError) as error:
        raise UncacheableError(f"reads a source with the index {entry!r}: {error}") from error
    raise UncacheableError(
        f"reads a source with the index {entry!r}; expected integers, slices, lists of integers"
    )


def _positions(axis: range | Integers, keys: npt.NDArray[Any]) -> Integers:
    if keys.dtype.kind == "b" and keys.shape == (len(axis),):
        keys = np.flatnonzero(keys)
    elif keys.size == 0:
        keys = keys.astype(np.int64)
    elif keys.dtype.kind not in "iu":
        raise UncacheableError(f"reads a source with an index of dtype {keys.dtype}; expected integers")
    keys = keys.astype(np.int64, copy=False)
    if keys.size and (keys.min() < -len(axis) or keys.max() >= len(axis)):
        raise UncacheableError(f"reads a source with an index out of bounds for length {len(axis)}")
    keys = np.where(keys < 0, keys + len(axis), keys)
    return axis.start + axis.step * keys if isinstance(axis, range) else axis[keys]


def _canonical(axis: range) -> range:
    if not len(axis):
        return range(0)
    if len(axis) == 1:
        return range(axis[0], axis[0] + 1)
    return range(axis[0], axis[-1] + (1 if axis.step > 0 else -1), axis.step)


def _slice(axis: range) -> slice:
    return slice(axis.start, axis.stop if axis.stop >= 0 else None, axis.step)


def _touched(axis: Axis, chunks: AxisGrid) -> Sequence[int]:
    if isinstance(axis, int):
        return (int(_chunk_of(np.asarray(axis), chunks)),)
    if not len(axis):
        return ()
    if isinstance(axis, range):
        if isinstance(chunks, int) and abs(axis.step) <= chunks:
            low, high = sorted((axis[0], axis[-1]))
            return range(low // chunks, high // chunks + 1)
        axis = np.arange(axis.start, axis.stop, axis.step)
    touched: list[int] = np.unique(_chunk_of(axis, chunks)).tolist()
    return touched


def _chunk_of(positions: npt.NDArray[Any], chunks: AxisGrid) -> Integers:
    if isinstance(chunks, int):
        return positions // max(chunks, 1)
    return np.searchsorted(chunks, positions, side="right") - 1


def _padded(array: npt.NDArray[Any], ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - array.ndim) + array.shape


def _take_broadcast(array: Integers, axes: Sequence[Axis], shape: tuple[int, ...]) -> Integers:
    array = array.reshape(_padded(array, len(shape)))
    for position in reversed(range(len(shape))):
        axis = axes[position]
        key: Any = _slice(axis) if isinstance(axis, range) else axis
        if array.shape[position] != shape[position]:
            # Broadcast here: another array carries the axis' length.
            key = 0 if isinstance(axis, int) else slice(None) if len(axis) else slice(0)
        array = array[(*(slice(None),) * position, key)]
    return array

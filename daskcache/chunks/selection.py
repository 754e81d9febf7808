"""Basic indices, split into what is fetched and what numpy does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from daskcache.errors import InvalidInputError

__all__ = ["Selection", "is_basic"]


def is_basic(index: Any) -> bool:
    """Tell whether an index is made of whole numbers, slices and one ellipsis alone.

    Parameters
    ----------
    index : object
        What stands between the brackets.

    Returns
    -------
    bool
        False also for new axes, arrays and booleans.

    Examples
    --------
    >>> is_basic((3, slice(None), ...)), is_basic([1, 2])
    (True, False)
    """
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is Ellipsis or isinstance(part, slice) or (hasattr(part, "__index__") and not _is_array(part))
        for part in parts
    )


def _is_array(part: Any) -> bool:
    return isinstance(part, bool | np.bool_) or getattr(part, "ndim", 0) > 0


@dataclass(frozen=True, slots=True)
class Selection:
    """A basic index of an array: the box that covers it, and what is left to do in the box.

    Examples
    --------
    >>> selection = Selection.of((10, 20), (3, slice(15, 4, -5)))
    >>> selection.region, selection.rest, selection.is_whole
    ((slice(3, 4, 1), slice(5, 16, 1)), (0, slice(10, None, -5)), False)
    """

    region: tuple[slice, ...]
    """The box, one forward slice of step 1 for each dimension."""
    rest: tuple[int | slice, ...]
    """The index inside the box that completes the selection; empty where there is nothing left to do."""

    is_whole: bool
    """Whether the box is the whole array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the box."""
        return tuple(part.stop - part.start for part in self.region)

    @classmethod
    def of(cls, shape: tuple[int, ...], index: Any = None) -> Self:
        """Split an index.

        Parameters
        ----------
        shape : tuple of int
            The array's.
        index : int, slice, Ellipsis or tuple of them, optional
            None selects all.

        Returns
        -------
        Selection
            Its box and what is left.

        Raises
        ------
        InvalidInputError
            The index is not basic, or has too many parts.
        IndexError
            A number lies outside the array.
        """
        if index is None:
            return cls(tuple(slice(0, length, 1) for length in shape), (), True)
        split = [_split(part, length) for part, length in zip(expand(shape, index), shape, strict=True)]
        region = tuple(part for part, _ in split)
        rest = tuple(part for _, part in split)
        is_whole = all(part.stop - part.start == length for part, length in zip(region, shape, strict=True))
        return cls(region, () if all(part == slice(None) for part in rest) else rest, is_whole)

    def apply(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Select from the whole array.

        Parameters
        ----------
        array : numpy.ndarray
            Of the shape that the selection was made for.

        Returns
        -------
        numpy.ndarray
            A view; 0-d where numpy would give a scalar, which has no byte order.
        """
        part: np.ndarray[Any, Any] = array[self.region][(*self.rest, ...)]
        return part


def expand(shape: tuple[int, ...], index: Any) -> tuple[int | slice, ...]:
    """Give a basic index one part for each dimension.

    Parameters
    ----------
    shape : tuple of int
        The array's.
    index : int, slice, Ellipsis or tuple of them
        The index.

    Returns
    -------
    tuple of int or slice
        The same selection.

    Raises
    ------
    InvalidInputError
        The index is not basic, or has too many parts.

    Examples
    --------
    >>> expand((2, 3, 4), (..., 1))
    (slice(None, None, None), slice(None, None, None), 1)
    """
    parts = index if isinstance(index, tuple) else (index,)
    if not is_basic(index) or sum(part is Ellipsis for part in parts) > 1:
        raise InvalidInputError(f"the index is {index!r}; expected whole numbers, slices and one ellipsis")
    if len([part for part in parts if part is not Ellipsis]) > len(shape):
        raise InvalidInputError(f"the index {index!r} has too many parts for the shape {shape}")
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    before, after = parts[:at], parts[at + 1 :]
    missing = len(shape) - len(before) - len(after)
    return (*before, *(slice(None) for _ in range(missing)), *after)


def _split(part: int | slice, length: int) -> tuple[slice, int | slice]:
    if not isinstance(part, slice):
        number = part.__index__()
        if not -length <= number < length:
            raise IndexError(f"index {number} is out of bounds for a dimension of {length}")
        number %= length
        return slice(number, number + 1, 1), 0
    chosen = range(length)[part]
    if not chosen:
        return slice(0, 0, 1), slice(None)
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1
    if chosen.step == 1 or len(chosen) == 1:
        return slice(low, high, 1), slice(None)
    return slice(low, high, 1), slice(chosen[0] - low, None, chosen.step)

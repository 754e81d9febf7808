"""Hints: how what is stored will be read, and the inner chunks that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from dask.utils import parse_bytes

from daskcache.errors import InvalidInputError

__all__ = ["Access", "Hints", "plan_inner"]

TARGET_BYTES = 2**20
"""Inner chunks are at most so large by default."""

MIN_TARGET_BYTES = 64 * 1024
"""The default target of small blocks is not below this."""

PARTS = 32
"""The default target is at most this part of a block, so that reading a part of it is worth a request."""

_MOST_PADDING = 16
_MOST_SHAPES = 2_000_000
_LARGE = 0.75

Length = int | float | None


@dataclass(frozen=True, slots=True)
class Access:
    """One way in which stored blocks will be read.

    Examples
    --------
    >>> Access("time", weight=3), Access(("lat", "lon"))
    (Access(along=(('time', None),), weight=3.0), Access(along=(('lat', None), ('lon', None)), weight=1.0))
    >>> Access({"time": None, "lat": 20, "lon": 0.1}).length("lon", 360)
    36
    """

    along: Any
    """The dimensions along which more than one element is read: names, or names with lengths. A whole number is so
    many elements, a fraction that part of a block, None all of it. Along the others, one element is read."""
    weight: float = 1.0
    """How often it happens, beside others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "along", _to_lengths(self.along))
        if not self.weight > 0 or not math.isfinite(self.weight):
            raise InvalidInputError(f"the weight of an access is {self.weight!r}; expected a number above 0")
        object.__setattr__(self, "weight", float(self.weight))

    def length(self, dim: str, block: int) -> int:
        """Tell how many elements of a block are wanted along a dimension.

        Parameters
        ----------
        dim : str
            The dimension.
        block : int
            The block's length along it.

        Returns
        -------
        int
            At least 1, at most `block`.
        """
        lengths: dict[str, Length] = dict(self.along)
        wanted = lengths.get(dim, 1)
        if wanted is None:
            return block
        count = math.ceil(wanted * block) if isinstance(wanted, float) else wanted
        return max(1, min(block, count))


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of how stored blocks will be read.

    Examples
    --------
    >>> hints = Hints.of({"time": 3, ("lat", "lon"): 1})
    >>> [access.weight for access in hints.access]
    [3.0, 1.0]
    >>> Hints(chunk_by_arg={"grid": {"fine": {"lat": 60}}}).resolve({"grid": "fine"}).chunks
    (('lat', 60),)
    """

    access: Any = ()
    """How blocks are read: accesses, or a mapping of dimensions to weights."""
    target: int | str | None = None
    """Bytes of an inner chunk before compression, at most; None: 1 MiB, of blocks below 32 MiB a 32nd part, but at
    least 64 KiB."""
    chunks: Any = ()
    """Lengths of inner chunks along some dimensions, where they are not to follow from the accesses."""
    chunk_by_arg: Any = ()
    """For an argument of a cached function, lengths of inner chunks by its value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", tuple(_to_accesses(self.access)))
        if self.target is not None:
            object.__setattr__(self, "target", _to_bytes(self.target))
        object.__setattr__(self, "chunks", _to_chunks(self.chunks))
        object.__setattr__(self, "chunk_by_arg", _to_tables(self.chunk_by_arg))

    def __bool__(self) -> bool:
        return bool(self.access or self.chunks or self.chunk_by_arg)

    @classmethod
    def of(cls, given: Any) -> Self | None:
        """Read hints in any of the forms that functions take.

        Parameters
        ----------
        given : Hints, Access, str, tuple, mapping or list
            A dimension, several of them for one access, or weights by those; a list of accesses.

        Returns
        -------
        Hints or None
            None where nothing is known.

        Raises
        ------
        InvalidInputError
            It is none of these.

        Examples
        --------
        >>> Hints.of("time") == Hints.of({"time": 1}) == Hints(access=[Access("time")])
        True
        """
        if given is None:
            return None
        hints = given if isinstance(given, cls) else cls(access=given)
        return hints or None

    def resolve(self, arguments: Mapping[str, Any]) -> Self:
        """Put what the arguments of a call choose in the place of the tables.

        Parameters
        ----------
        arguments : mapping
            The arguments by name.

        Returns
        -------
        Hints
            Without tables. A value that is in no table chooses nothing.
        """
        chunks = dict(self.chunks)
        for name, table in self.chunk_by_arg:
            for value, lengths in table:
                if name in arguments and _is_same(arguments[name], value):
                    chunks.update(lengths)
        return replace(self, chunks=tuple(chunks.items()), chunk_by_arg=())

    def merge(self, other: Self | None) -> Self:
        """Add what else is known.

        Parameters
        ----------
        other : Hints or None
            The accesses are put together; where both give a length or a target, the other's is taken.

        Returns
        -------
        Hints
            Both.
        """
        if other is None:
            return self
        return type(self)(
            (*self.access, *other.access),
            self.target if other.target is None else other.target,
            {**dict(self.chunks), **dict(other.chunks)},
            {**dict(self.chunk_by_arg), **dict(other.chunk_by_arg)},
        )


def _to_lengths(given: Any) -> tuple[tuple[str, Length], ...]:
    if isinstance(given, str):
        given = (given,)
    pairs: Any = given.items() if isinstance(given, Mapping) else given
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"an access goes along {given!r}; expected dimensions, such as 'time'")
    found: list[tuple[str, Length]] = []
    for pair in pairs:
        dim, length = pair if isinstance(pair, tuple) and len(pair) == 2 else (pair, None)
        is_length = length is None or (
            isinstance(length, int | float) and not isinstance(length, bool) and length > 0
        )
        if not isinstance(dim, str) or not is_length or (isinstance(length, float) and length > 1):
            raise InvalidInputError(
                f"an access goes along {given!r}; expected names of dimensions, each alone or with how many elements "
                "are read along it: a whole number, a fraction of a block, or None for all"
            )
        found.append((dim, length))
    return tuple(sorted(found, key=lambda pair: pair[0]))


def _to_accesses(given: Any) -> Iterable[Access]:
    if isinstance(given, Access):
        return (given,)
    if isinstance(given, str):
        return (Access(given),)
    if isinstance(given, Mapping):
        return [Access(along, weight) for along, weight in given.items()]
    if isinstance(given, tuple) and given and all(isinstance(dim, str) for dim in given):
        return (Access(given),)
    if isinstance(given, tuple | list) and all(isinstance(access, Access) for access in given):
        return given
    raise InvalidInputError(
        f"hints are {given!r}; expected a dimension along which is read, a mapping of dimensions to weights, or a list "
        "of daskcache.Access"
    )


def _to_bytes(given: int | str) -> int:
    try:
        size = parse_bytes(given)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"the target of hints is {given!r}; expected bytes, or a text such as '1 MiB'"
        ) from error
    if size < 1:
        raise InvalidInputError(f"the target of hints is {given!r}; expected at least a byte")
    return int(size)


def _to_chunks(given: Any) -> tuple[tuple[str, int], ...]:
    pairs = dict(given)
    for dim, length in pairs.items():
        if (
            not isinstance(dim, str)
            or isinstance(length, bool)
            or not isinstance(length, int)
            or length < -1
            or not length
        ):
            raise InvalidInputError(
                f"inner chunks are {given!r}; expected lengths by dimension, with -1 for all of a block"
            )
    return tuple(sorted(pairs.items()))


def _to_tables(given: Any) -> tuple[tuple[str, tuple[tuple[Any, tuple[tuple[str, int], ...]], ...]], ...]:
    return tuple(
        (name, tuple((value, _to_chunks(lengths)) for value, lengths in dict(table).items()))
        for name, table in dict(given).items()
    )


def _is_same(given: Any, value: Any) -> bool:
    # Of one type, so that True is not 1; and never element by element.
    return type(given) is type(value) and bool(np.all(given == value))


def plan_inner(
    hints: Hints | None,
    dims: tuple[str, ...],
    block_shape: tuple[int, ...],
    is_single: tuple[bool, ...],
    itemsize: int,
) -> tuple[int, ...] | None:
    """Choose the shape of inner chunks.

    Parameters
    ----------
    hints : Hints or None
        How blocks will be read.
    dims : tuple of str
        The dimensions' names.
    block_shape : tuple of int
        The regular lengths of the blocks.
    is_single : tuple of bool
        Which dimensions are held in one block, so that they may be padded.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    tuple of int or None
        Lengths that divide the block's, but for padding along single ones. None where the block is better left in one
        piece.

    Notes
    -----
    Of all shapes that divide the block and are of at most the target's bytes, it is the one of which the accesses touch
    the fewest, by weight: an access that wants ``n`` of the ``b`` elements of a block along a dimension touches
    ``min(b, n + c - 1) / c`` inner chunks of length ``c``. Of equal ones it is the most compact that is not much smaller
    than the largest.

    Examples
    --------
    >>> plan_inner(Hints.of("time"), ("time", "lat", "lon"), (360, 180, 360), (False, True, True), 4)
    (360, 17, 33)
    >>> plan_inner(Hints.of(("lat", "lon")), ("time", "lat", "lon"), (360, 180, 360), (False, True, True), 4)
    (3, 180, 360)
    """
    if hints is None or not dims:
        return None
    of_interest = {dim for access in hints.access for dim, _ in access.along} | {
        dim for dim, _ in hints.chunks
    }
    if not of_interest.intersection(dims):
        return None
    inner = _plan_inner(replace(hints, chunk_by_arg=()), dims, block_shape, is_single, itemsize)
    return None if all(c >= b for c, b in zip(inner, block_shape, strict=True)) else inner


@lru_cache(maxsize=1024)
def _plan_inner(
    hints: Hints,
    dims: tuple[str, ...],
    block_shape: tuple[int, ...],
    is_single: tuple[bool, ...],
    itemsize: int,
) -> tuple[int, ...]:
    fixed = dict(hints.chunks)
    lengths = []
    for dim, block, single in zip(dims, block_shape, is_single, strict=True):
        possible = _lengths(block, single)
        if dim in fixed:
            wanted = block if fixed[dim] == -1 else fixed[dim]
            possible = [max((length for length in possible if length <= wanted), default=possible[0])]
        lengths.append(possible)
    while math.prod(map(len, lengths)) > _MOST_SHAPES:
        # Of many dimensions, every other length will do.
        longest = max(range(len(lengths)), key=lambda i: len(lengths[i]))
        lengths[longest] = sorted({*lengths[longest][::2], lengths[longest][-1]})
    nbytes = math.prod(block_shape) * itemsize
    target: Any = hints.target or min(TARGET_BYTES, max(nbytes // PARTS, MIN_TARGET_BYTES))
    grid = np.meshgrid(*lengths, indexing="ij", sparse=True)
    sizes = math.prod(axis.astype("f8") for axis in grid) * itemsize
    fitting = np.where(sizes <= target, sizes, 0)
    if not fitting.any():
        # What is fixed is larger than the target.
        return tuple(possible[0] for possible in lengths)
    touched: Any = 0.0
    for access in hints.access:
        count: Any = access.weight
        for dim, block, axis in zip(dims, block_shape, grid, strict=True):
            count = count * np.minimum(block, access.length(dim, block) + axis - 1) / axis
        touched = touched + count
    touched = np.where(fitting > 0, touched, np.inf)
    best = touched <= touched.min() * (1 + 1e-9)
    # Of equal ones the large, and of those the compact, so that neighbours lie beside each other.
    best &= fitting >= _LARGE * fitting[best].max()
    spread = sum(axis / block for axis, block in zip(grid, block_shape, strict=True))
    place = np.unravel_index(int(np.argmin(np.where(best, spread, np.inf))), best.shape)
    return tuple(possible[i] for possible, i in zip(lengths, place, strict=True))


def _lengths(block: int, single: bool) -> list[int]:
    """Give the lengths into which a block may be cut along a dimension, shortest first."""
    found = {length for length in range(1, math.isqrt(block) + 1) if block % length == 0}
    found |= {block // length for length in found}
    if single:
        for parts in range(1, block + 1):
            length = -(-block // parts)
            if (-(-block // length) * length - block) * _MOST_PADDING <= block:
                found.add(length)
    return sorted(found)

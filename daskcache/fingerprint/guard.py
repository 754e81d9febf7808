"""A source that says so when it changes under a read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskcache.errors import SourceChangedError, UncacheableError
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.places import Stamp
from daskcache.fingerprint.sources import Source, open_source
from daskcache.fingerprint.watch import Stamps, WholeSource

__all__ = ["GuardedReader", "GuardedSource", "Watched", "find_changed_file"]

Watched = FileSource | WholeSource
"""What can be looked at again."""


class GuardedSource:
    """Stand in a graph for a source's array, and compare what is read with what was fingerprinted.

    A block computed from newer data than its token was made from would be found again under the token of the older
    data, so that the read has to fail before anything of it is stored.

    Parameters
    ----------
    array : object
        The source's array.
    expected : Stamps, or mapping of str to tuple or None
        What `Source.stamps` gave when the fingerprint was taken; objects that are not in it are not compared.

    Notes
    -----
    Each read looks twice at every expected object that it touches: two calls of stat, or two requests.

    Examples
    --------
    >>> import zarr
    >>> from daskcache.fingerprint.sources import read_stamps
    >>> array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="i8")
    >>> guarded = GuardedSource(array, read_stamps(array))
    >>> guarded[:2]
    array([0, 0])
    >>> array[0] = 1
    >>> guarded[2:], guarded[:2]
    Traceback (most recent call last):
    daskcache.errors.SourceChangedError: memory:/c/0, read through Array, is not as it was when ...
    """

    __slots__ = ("array", "expected")

    array: Any
    """The source's array."""
    expected: Stamps
    """How its objects looked when they were fingerprinted."""

    def __init__(self, array: Any, expected: Stamps | Mapping[str, Stamp | None]) -> None:
        self.array = array
        self.expected = expected if isinstance(expected, Stamps) else Stamps.of(expected)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        if not self.expected:
            return np.asarray(self.array[index])
        source = self._open()
        self._compare(source, index)
        source.refresh()
        block = np.asarray(self.array[index])
        source.survey.forget()
        self._compare(source, index)
        return block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[(slice(None),) * self.ndim], dtype=dtype)

    def __daskcache_source__(self) -> Any:
        return self.array

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.array, self.expected)

    def __repr__(self) -> str:
        return f"GuardedSource({type(self.array).__name__}, shape={self.shape}, dtype={self.dtype})"

    def _open(self) -> Source:
        try:
            source = open_source(self.array)
        except UncacheableError as error:
            raise _unseen(error) from error
        if source is None:
            raise SourceChangedError(f"{type(self.array).__qualname__} is no source any more; {_CONSEQUENCE}")
        return source

    def _compare(self, source: Source, index: Any) -> None:
        try:
            stamps = source.stamps(index)
        except UncacheableError as error:
            raise _unseen(error) from error
        name = self.expected.find_changed(stamps)
        if name is not None:
            before = "missing, " if self.expected.was_missing(name) else ""
            raise SourceChangedError(
                f"{name}, read through {type(self.array).__name__}, is not as it was when this run was planned "
                f"({before}now {_describe(stamps[name])}); {_CONSEQUENCE}"
            )


class GuardedReader:
    """Stand in a task for a function that is given files to read, and look at these before and after the call.

    Parameters
    ----------
    function : callable
        What the task calls.
    expected : tuple of pairs of FileSource and bytes
        The files that this task is given, each with what `FileSource.look` gave when the token was made.

    Notes
    -----
    Each call looks twice at every file. What a function leaves to be read later is not guarded, but for generators,
    which are followed to their end.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("1")
    >>> file = FileSource(str(path))
    >>> guarded = GuardedReader(lambda: path.read_text(), ((file, file.look()),))
    >>> guarded()
    '1'
    >>> _ = path.write_text("12")
    >>> guarded()
    Traceback (most recent call last):
    daskcache.errors.SourceChangedError: ... is not as it was when this run was planned; ...
    """

    __slots__ = ("expected", "function")

    def __init__(self, function: Callable[..., Any], expected: Iterable[tuple[Watched, bytes]]) -> None:
        self.function = function
        self.expected = tuple(expected)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function between two looks.

        Parameters
        ----------
        *args, **kwargs
            Passed on.

        Returns
        -------
        object
            What the function gives.

        Raises
        ------
        SourceChangedError
            A file is not as it was when this run was planned.
        """
        self._compare()
        result = self.function(*args, **kwargs)
        if isinstance(result, Iterator):
            return self._follow(result)
        self._compare()
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self.expected)

    def _follow(self, result: Iterator[Any]) -> Iterator[Any]:
        yield from result
        self._compare()

    def _compare(self) -> None:
        changed = find_changed_file(self.expected)
        if changed is not None:
            raise SourceChangedError(changed)


def find_changed_file(expected: Iterable[tuple[Watched, bytes]]) -> str | None:
    """Say which of some files is not as it was seen.

    Parameters
    ----------
    expected : iterable of pairs of FileSource and bytes
        Files, each with what `FileSource.look` gave.

    Returns
    -------
    str or None
        What to tell the user; None where all are as they were.
    """
    for file, state in expected:
        try:
            found = file.look()
        except UncacheableError as error:
            return f"cannot look at the source again: {error}; {_CONSEQUENCE}"
        if found != state:
            return f"{file.name} is not as it was when this run was planned; {_CONSEQUENCE}"
    return None


_CONSEQUENCE = "nothing that was computed from it is stored. Run again: the new data get tokens of their own"


def _unseen(error: UncacheableError) -> SourceChangedError:
    # A file that has gone shows itself in this way.
    return SourceChangedError(f"cannot look at the source again: {error}; {_CONSEQUENCE}")


def _describe(stamp: Stamp | None) -> str:
    return "missing" if stamp is None else f"{stamp[0]} bytes, {stamp[1]}"

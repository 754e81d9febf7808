"""The exceptions of daskcache, grouped by what a caller would do about them.

Each is also a builtin exception, so that code which knows nothing of daskcache handles it well, and each
pickles intact, because it may cross a cluster.
"""

from __future__ import annotations

import logging
import sys
import warnings

from daskcache import cluster

__all__ = [
    "CorruptChunkError",
    "DaskcacheError",
    "DaskcacheWarning",
    "EffectError",
    "EntryNotFoundError",
    "InvalidInputError",
    "MissingExtraError",
    "NotStoredError",
    "NotSureError",
    "ReadOnlyError",
    "SourceChangedError",
    "StoreError",
    "StoreFullError",
    "UncacheableError",
    "WritesError",
    "warn_of_defect",
    "warn_once",
]


class DaskcacheError(Exception):
    """Base of every error that daskcache raises on purpose.

    Parameters
    ----------
    message : str
        What failed, what was given and expected, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError would quote the message, OSError look for an errno.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,)


class DaskcacheWarning(RuntimeWarning):
    """The result is right, but something was not stored or not found."""


class InvalidInputError(DaskcacheError, ValueError):
    """An argument, name or setting is not of the form that is expected."""


class MissingExtraError(DaskcacheError, ImportError):
    """An optional dependency is needed; the message names the extra that brings it."""


class NotStoredError(DaskcacheError, KeyError):
    """What was asked for does not lie in the store."""


class EntryNotFoundError(NotStoredError):
    """No published version of an entry has this name."""


class UncacheableError(DaskcacheError, TypeError):
    """Something has no deterministic identity, or no storage form.

    Parameters
    ----------
    message : str
        Why, and what to do.
    path : tuple of str, optional
        The way to the offending part, outermost first.
    """

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path

    def __str__(self) -> str:
        return " → ".join((*self.path, self.message))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.path)

    def within(self, step: str) -> UncacheableError:
        """Give the same error, seen from one step further out.

        Parameters
        ----------
        step : str
            Where the offending part lies in the outer object, such as ``"argument 2"``.

        Returns
        -------
        UncacheableError
            A new error whose path starts with `step`.
        """
        return type(self)(self.message, (step, *self.path))


class EffectError(UncacheableError):
    """Something is run for what it does, so that a stored result must not take its place."""


class WritesError(EffectError):
    """Code is seen to write files, so that it is taken to be run for that."""


class SourceChangedError(DaskcacheError, RuntimeError):
    """A source changed while a run was reading it."""


class StoreError(DaskcacheError, OSError):
    """A store cannot be reached, read or written."""


class NotSureError(StoreError):
    """Something was not found, and one of the places where it may lie cannot be asked."""


class StoreFullError(StoreError):
    """A store has no room for what would be written."""


class ReadOnlyError(StoreError, PermissionError):
    """A store or namespace does not take writes."""


class CorruptChunkError(StoreError):
    """A stored object fails its checksum or cannot be decoded."""


_MOST = 1000
_warned: set[str] = set()

# Modules whose lines tell a user nothing: dask optimises in a cached property, and runs tasks in threads.
_INNER = (
    *("daskcache", "daskcache_hook", "dask", "distributed", "xarray"),
    *("functools", "threading", "concurrent.futures.thread"),
)


def warn_once(message: str, *, about: str | None = None) -> None:
    """Warn, once per process for each message or matter; on a cluster, its clients as well.

    A store that is full would otherwise say so for every block. The line that is shown is the user's, where one is on
    the stack.

    Parameters
    ----------
    message : str
        What happened, and what it means for the result.
    about : str, optional
        The matter, where messages about it differ from block to block; by default the message itself.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_once("an example")
    ...     warn_once("an example")
    >>> len(caught)
    1
    """
    matter = message if about is None else about
    if matter not in _warned:
        if len(_warned) >= _MOST:
            # Workers live long, and some matters are of one run. Any may go: at worst it is told of again.
            _warned.pop()
        _warned.add(matter)
        # First, because a filter may make an error of the warning.
        cluster.forward_warning(message, DaskcacheWarning)
        warnings.warn(message, DaskcacheWarning, skip_file_prefixes=_inner_files())


def _inner_files() -> tuple[str, ...]:
    """Give how the names of files begin that are not the user's."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _INNER]
    # Python takes no name for its own beginning.
    return tuple(file.removesuffix("__init__.py").removesuffix("py") for file in files if file)


def warn_of_defect(consequence: str, error: Exception, origin: str = "") -> None:
    """Warn, once per process, that something failed in daskcache that nobody foresaw; the log has where.

    Parameters
    ----------
    consequence : str
        What it means for the user, whose result is right all the same.
    error : Exception
        What was raised.
    origin : str, optional
        Names the client's process, where each of a cluster's clients is to be told.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_defect("all is computed", KeyError("x"))
    >>> print(caught[0].message)
    the pass failed, which is a defect of daskcache's: all is computed; please report KeyError: 'x'
    """
    logging.getLogger("daskcache").warning("a defect: %s", consequence, exc_info=error)
    message = f"the pass failed, which is a defect of daskcache's: {consequence}; please report {type(error).__name__}: {error}"
    warn_once(message, about=f"defect {origin} {type(error).__name__} {consequence}")

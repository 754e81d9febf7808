"""What goes wrong in a store, as errors that name the root and the remedy, and never a credential."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from daskcache.errors import DaskcacheError, ReadOnlyError, StoreError, StoreFullError
from daskcache.secrets import conceal

__all__ = ["redact", "translating"]

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# What clients call it that number no errors: obstore's, and redis-py's.
_DENIED_NAMES = frozenset({"PermissionDeniedError", "NoPermissionError", "ReadOnlyError"})
_FULL_NAMES = frozenset({"OutOfMemoryError"})

# Passwords may have slashes, as Amazon's keys have; paths may end in "@".
_USER = re.compile(r"(?<=://)(?:[^/@\s]*@|[^/@\s:]*:[^@\s]*@(?=[^/\s]))")
_QUERY = re.compile(r"\?[^\s'\")]+")


def redact(text: str) -> str:
    """Take credentials and queries out of the URLs in a text.

    Parameters
    ----------
    text : str
        A message or URL.

    Returns
    -------
    str
        The same without what stands before ``@`` or after ``?``.

    Examples
    --------
    >>> redact("GET https://me:secret@host/key?signature=abc failed")
    'GET https://host/key failed'
    """
    return conceal(_QUERY.sub("", _USER.sub("", text)))


@contextmanager
def translating(root: str, action: str, *, writes: bool = False) -> Iterator[None]:
    """Raise what a store raises as an error of ours.

    Parameters
    ----------
    root : str
        The store's root, without credentials.
    action : str
        What is tried, such as ``"write chunks/00ff/ab"``.
    writes : bool, optional
        Whether a refusal means that the store takes no writes.

    Yields
    ------
    None
        Once.

    Raises
    ------
    StoreFullError
        There is no room: free some, or choose another root.
    ReadOnlyError
        The store refuses writes: change its permissions, or the mode.
    StoreError
        Anything else.

    Examples
    --------
    >>> with translating("/data/cache", "write a", writes=True):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    daskcache.errors.StoreFullError: store /data/cache is full: cannot write a (No space left on device); ...
    """
    try:
        yield
    except DaskcacheError:
        raise
    # Each client library has an exception tree of its own, and law 7 needs all of them.
    except Exception as error:  # noqa: BLE001  (raised again, in our words)
        translated = _translate(error, root, action, writes)
        # What it was raised from is shown with it.
        text = "".join(traceback.format_exception(error))
        raise translated from (error if conceal(text) == text else None)


def _translate(error: Exception, root: str, action: str, writes: bool) -> StoreError:
    code = getattr(error, "errno", None)
    reason = _reason(error)
    name = type(error).__name__
    if code in _FULL or name in _FULL_NAMES:
        return StoreFullError(
            f"store {root} is full: cannot {action} ({reason}); "
            "free space there, or name another root in `daskcache.store`"
        )
    denied = isinstance(error, PermissionError) or name in _DENIED_NAMES
    if writes and (denied or code in _DENIED):
        return ReadOnlyError(
            f"store {root} takes no writes: cannot {action} ({reason}); "
            "change its permissions, set `daskcache.mode: read`, or name another root in `daskcache.store`"
        )
    return StoreError(
        f"store {root} failed: cannot {action} ({reason}); "
        "check that the root exists and can be reached, or name another in `daskcache.store`"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        # Without the path, which the message has, and the number, which nobody knows.
        return redact(error.strerror)
    return redact(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

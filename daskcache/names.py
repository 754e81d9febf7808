"""Names of entries and namespaces, checked before they become paths."""

from __future__ import annotations

import re

from daskcache.errors import InvalidInputError

__all__ = ["check_name", "check_namespace", "is_version"]

MAX_SEGMENT = 200
"""Bytes of one segment; file systems take 255, and some add to it while they write."""

MAX_NAME = 700
"""Bytes of a whole name; object stores take 1,024 for a key, of which the rest needs its part."""

# ASCII alone: two spellings of one accented letter would be one file here and two objects there.
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_VERSION = re.compile(r"[0-9a-f]{40}", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.ASCII | re.IGNORECASE)


def check_name(name: str) -> str:
    """Refuse what may not name an entry.

    Parameters
    ----------
    name : str
        Segments of ASCII letters, digits, ``.``, ``_``, ``-``, joined by ``/``.

    Returns
    -------
    str
        The name, unchanged.

    Raises
    ------
    InvalidInputError
        The name would leave its namespace, or some file system or object store would not take it.

    Examples
    --------
    >>> check_name("era5/climatology-v1.2")
    'era5/climatology-v1.2'
    >>> check_name("../era5")
    Traceback (most recent call last):
    ...
    daskcache.errors.InvalidInputError: the name '../era5' holds '..', which would leave its directory; ...
    """
    return _check(name, "name")


def check_namespace(name: str) -> str:
    """Refuse what may not name a namespace.

    Parameters
    ----------
    name : str
        One segment of ASCII letters, digits, ``.``, ``_``, ``-``.

    Returns
    -------
    str
        The name, unchanged.

    Raises
    ------
    InvalidInputError
        It is not such a segment.

    Examples
    --------
    >>> check_namespace("ssp585")
    'ssp585'
    """
    _check(name, "namespace")
    if "/" in name:
        raise InvalidInputError(f"the namespace {name!r} holds '/'; only names of entries nest")
    return name


def is_version(text: object) -> bool:
    """Tell whether a text has the form of a version.

    Parameters
    ----------
    text : object
        Anything; a version is 40 hex digits in lower case.

    Returns
    -------
    bool
        True where it may stand in a path.

    Examples
    --------
    >>> is_version("0" * 40), is_version("latest")
    (True, False)
    """
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def _check(name: object, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"the {what} is {name!r}; expected a text that is not empty")
    # What was given may be huge or hold control characters; show little of it, quoted.
    shown = repr(name if len(name) <= 80 else name[:80] + "…")
    for segment in name.split("/"):
        reason = _refusal(segment)
        if reason:
            raise InvalidInputError(
                f"the {what} {shown} {reason}; use letters, digits, '.', '_' and '-', such as 'era5-daily'"
            )
    if len(name) > MAX_NAME:
        raise InvalidInputError(f"the {what} {shown} has {len(name)} bytes; expected at most {MAX_NAME}")
    return name


def _refusal(segment: str) -> str | None:
    if not segment:
        return "is absolute, ends with '/' or holds '//'"
    if segment in (".", ".."):
        return f"holds {segment!r}, which would leave its directory"
    if not _SEGMENT.fullmatch(segment):
        character = next(c for c in segment if not _SEGMENT.fullmatch(c))
        return f"holds {character!r}"
    if len(segment) > MAX_SEGMENT:
        return f"has a segment of {len(segment)} bytes, where {MAX_SEGMENT} are allowed"
    if segment.endswith("."):
        return "has a segment that ends with '.', which Windows drops"
    if _RESERVED.fullmatch(segment):
        return f"holds {segment!r}, which is a device on Windows"
    if segment.lower().endswith(".partial"):
        return "has a segment that ends with '.partial', as files do that are being written"
    return None

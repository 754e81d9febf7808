"""Versions of an entry, and which of them its name opens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from daskcache.catalog.layout import write_json
from daskcache.manifest import Manifest
from daskcache.names import is_version

__all__ = ["Latest", "VersionInfo", "expiry_of", "time_of"]


@dataclass(frozen=True, slots=True)
class Latest:
    """What an entry's name opens."""

    version: str
    """40 hex digits."""
    time: str
    """When it was published, ISO 8601 in UTC."""
    run: str | None
    """The run that published it."""

    def to_json(self) -> bytes:
        """Write the content of ``latest``.

        Returns
        -------
        bytes
            JSON.

        Examples
        --------
        >>> latest = Latest("0" * 40, "2026-01-01T00:00:00+00:00", None)
        >>> Latest.from_json(latest.to_json()) == latest
        True
        """
        return write_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote.

        Parameters
        ----------
        data : bytes
            JSON.

        Returns
        -------
        Latest
            The document.

        Raises
        ------
        ValueError
            It is no such document.

        Examples
        --------
        >>> Latest.from_json(b'{"version": "../.."}')
        Traceback (most recent call last):
        ...
        ValueError: expected a version, a time and a run, got {'version': '../..'}
        """
        document = json.loads(data)
        match document:
            case {"version": str(version), "time": str(time), "run": str() | None as run} if is_version(
                version
            ):
                return cls(version, time, run)
        raise ValueError(f"expected a version, a time and a run, got {document!r:.200}")


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of an entry."""

    version: str
    """40 hex digits."""
    time: str
    """When it was last published, ISO 8601 in UTC; empty where its document cannot be read."""
    size_bytes: int
    """Of its objects and inline values; blocks that other versions share count in each."""
    nblocks: int
    """Its blocks in the pool."""
    is_latest: bool
    """Whether the entry's name opens it."""
    expires: str | None = None
    """When `daskcache.expire` drops it at the latest, ISO 8601 in UTC; None for never."""


def time_of(manifest: Manifest) -> str:
    """Tell when a version was last published.

    Parameters
    ----------
    manifest : Manifest
        The version.

    Returns
    -------
    str
        ISO 8601 in UTC; empty where it never was.

    Examples
    --------
    >>> time_of(Manifest.build("dataset", ()))
    ''
    """
    published: Any = manifest.info.get("published", {})
    return str(published.get("time", ""))


def expiry_of(manifest: Manifest) -> str | None:
    """Tell when a version expires.

    Parameters
    ----------
    manifest : Manifest
        The version; ``expires_s`` of its info says how long it stays after it is published.

    Returns
    -------
    str or None
        ISO 8601 in UTC; None for never.

    Examples
    --------
    >>> published = {"time": "2026-01-01T00:00:00+00:00"}
    >>> expiry_of(Manifest.build("dataset", (), info={"expires_s": 3600, "published": published}))
    '2026-01-01T01:00:00+00:00'
    """
    seconds, begun = manifest.info.get("expires_s"), time_of(manifest)
    if seconds is None or not begun:
        return None
    try:
        return (datetime.fromisoformat(begun) + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return None  # past the year 9999

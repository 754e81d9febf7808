"""What a published store is known to hold: beside each array a document of ours, which readers of Zarr pass over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from zarr.abc.store import Store

from daskcache.errors import StoreError
from daskcache.stores import drive

__all__ = ["CLAIMS", "Claims", "commit", "read_claims", "withdraw"]

FORMAT = 0

CLAIMS = "daskcache.claims"
"""The document's name, in the directory of an array, whose content no reader of Zarr lists."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Which block lies in which place of an array."""

    publisher: str
    """Who wrote it last."""
    chunks: Mapping[str, str] = field(default_factory=dict)
    """By the place of a block's first chunk, such as ``0/3``, what names the block's bytes. A place that is not named
    may hold anything."""

    def to_json(self) -> bytes:
        """Write the document.

        Returns
        -------
        bytes
            JSON.

        Examples
        --------
        >>> Claims.from_json(Claims("p", {"0": "ab"}).to_json())
        Claims(publisher='p', chunks={'0': 'ab'})
        """
        document = {"format": FORMAT, "publisher": self.publisher, "chunks": dict(self.chunks)}
        return json.dumps(document, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote.

        Parameters
        ----------
        data : bytes
            The document.

        Returns
        -------
        Claims
            Nothing is claimed where it is not understood: all is written again then.

        Raises
        ------
        StoreError
            It has a newer format.

        Examples
        --------
        >>> Claims.from_json(b"{").chunks
        {}
        """
        try:
            document = json.loads(data)
            number = int(document["format"])
            if number <= FORMAT:
                chunks = {str(place): str(name) for place, name in document["chunks"].items()}
                return cls(str(document["publisher"]), chunks)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls("")
        raise StoreError(
            f"what was published has format {number}, and this daskcache reads and writes up to {FORMAT}; upgrade "
            "daskcache"
        )


def read_claims(target: Store, path: str) -> Claims | None:
    """Read what an array is known to hold.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The published store.
    path : str
        The array's.

    Returns
    -------
    Claims or None
        None where there is no document: the array is nobody's or somebody else's.

    Raises
    ------
    StoreError
        The store cannot be read, or the document has a newer format.

    Examples
    --------
    >>> from daskcache import stores
    >>> read_claims(stores.open("memory://doc-claims"), "t") is None
    True
    """
    data = drive.get(target, f"{path}/{CLAIMS}")
    return None if data is None else Claims.from_json(data)


def withdraw(target: Store, path: str, publisher: str, kept: Mapping[str, str]) -> None:
    """Claim only what stays, before anything else is touched.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The published store.
    path : str
        The array's.
    publisher : str
        Whose the array is from now on.
    kept : mapping of str to str
        The places that are not going to be written.

    Examples
    --------
    >>> from daskcache import stores
    >>> target = stores.open("memory://doc-claims-withdraw")
    >>> withdraw(target, "t", "p", {"0": "ab"})
    >>> read_claims(target, "t")
    Claims(publisher='p', chunks={'0': 'ab'})
    """
    drive.put(target, f"{path}/{CLAIMS}", Claims(publisher, kept).to_json())


def commit(target: Store, path: str, publisher: str, chunks: Mapping[str, str]) -> None:
    """Claim what has been written.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The published store.
    path : str
        The array's.
    publisher : str
        Who wrote it.
    chunks : mapping of str to str
        All places that are known.

    Raises
    ------
    StoreError
        Another process publishes to the same place. As the two may have written over each other, nothing of the array
        is claimed any more.

    Examples
    --------
    >>> from daskcache import stores
    >>> target = stores.open("memory://doc-claims-commit")
    >>> withdraw(target, "t", "p", {})
    >>> commit(target, "t", "p", {"0": "ab"})
    """
    found = read_claims(target, path)
    if found is None or found.publisher != publisher:
        if found is not None:
            withdraw(target, path, found.publisher, {})
        raise StoreError(
            f"another process publishes {path!r} to the same place; let one be done before the other begins, and publish "
            "again"
        )
    withdraw(target, path, publisher, chunks)

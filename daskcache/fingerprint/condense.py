"""The digests of a source's objects in little space, so that a manifest can tell which of them changed later."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from itertools import islice

__all__ = ["choose_grain", "condense", "hash_key", "name_directory", "pack", "unpack"]

_MOST_OBJECTS = 1024
_HASH_BYTES = 6


def hash_key(key: str) -> bytes:
    """Hash the key of a source's object, or of the directory that stands for it.

    Parameters
    ----------
    key : str
        The key.

    Returns
    -------
    bytes
        6 of them.
    """
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()


def condense(seen: Mapping[str, bytes], grain: int = 0) -> dict[bytes, bytes]:
    """Give one digest for each object of a source, or for each directory.

    Parameters
    ----------
    seen : mapping of str to bytes
        The objects' digests, by key.
    grain : int, optional
        How many parts of a key make its directory; 0: all.

    Returns
    -------
    dict of bytes to bytes
        By the hash of the key.

    Examples
    --------
    >>> len(condense({"t/c/0/0": b"a", "t/c/0/1": b"b", "t/c/1/0": b"c"}, grain=3))
    2
    """
    if not grain:
        return {hash_key(key): digest[:_HASH_BYTES] for key, digest in seen.items()}
    sums: dict[str, int] = {}
    for key, digest in seen.items():
        directory = name_directory(key, grain)
        sums[directory] = sums.get(directory, 0) + int.from_bytes(digest, "big")
    return {
        hash_key(directory): (total % (1 << 160)).to_bytes(20, "big")[-_HASH_BYTES:]
        for directory, total in islice(sorted(sums.items()), _MOST_OBJECTS)
    }


def name_directory(key: str, grain: int) -> str:
    """Give the first parts of an object's key.

    Parameters
    ----------
    key : str
        Such as ``t2m/c/3/0/0``, or of Zarr's older format ``t2m/3.0.0``.
    grain : int
        How many parts.

    Returns
    -------
    str
        With slashes.

    Examples
    --------
    >>> name_directory("t2m/3.0.0", 2)
    't2m/3'
    """
    return "/".join(key.replace(".", "/").split("/")[:grain])


def choose_grain(seen: Mapping[str, bytes]) -> int:
    """Choose how many parts of the keys are kept, so that no more than a thousand digests are.

    Parameters
    ----------
    seen : mapping of str to bytes
        The objects' digests, by key.

    Returns
    -------
    int
        0 where each object may have its own.
    """
    if len(seen) <= _MOST_OBJECTS:
        return 0
    grain = len(next(iter(seen)).replace(".", "/").split("/")) - 1
    while grain > 1 and len({name_directory(key, grain) for key in seen}) > _MOST_OBJECTS:
        grain -= 1
    return max(grain, 1)


def pack(objects: Mapping[bytes, bytes]) -> str:
    """Give the text of condensed digests: 16 characters for each.

    Parameters
    ----------
    objects : mapping of bytes to bytes
        What `condense` gave.

    Returns
    -------
    str
        Base64.
    """
    return b64encode(b"".join(key + digest for key, digest in sorted(objects.items()))).decode()


def unpack(packed: str) -> dict[bytes, bytes]:
    """Read what `pack` gave.

    Parameters
    ----------
    packed : str
        Base64.

    Returns
    -------
    dict of bytes to bytes
        Digests by the hash of a key.
    """
    data = b64decode(packed)
    width = 2 * _HASH_BYTES
    return {
        data[at : at + _HASH_BYTES]: data[at + _HASH_BYTES : at + width] for at in range(0, len(data), width)
    }

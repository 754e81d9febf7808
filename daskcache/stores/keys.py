"""Keys of objects: which ones a store may be asked for."""

from __future__ import annotations

import os

from daskcache.errors import InvalidInputError

__all__ = ["check_inside"]


def check_inside(key: str) -> str:
    """Refuse a key that leads out of its store.

    Parameters
    ----------
    key : str
        A key or prefix of Zarr's.

    Returns
    -------
    str
        The same; "" for the root's "/".

    Raises
    ------
    InvalidInputError
        It is absolute, has ``..`` among its segments, a backslash or a zero byte.

    Examples
    --------
    >>> check_inside("a/c/0")
    'a/c/0'
    >>> check_inside("../evil")
    Traceback (most recent call last):
        ...
    daskcache.errors.InvalidInputError: the key '../evil' leads out of the store
    """
    if key == "/":  # Zarr's word for everything, which a path library takes for the machine's root
        return ""
    drive = os.name == "nt" and key[1:2] == ":"
    if key.startswith("/") or drive or "\\" in key or "\0" in key or ".." in key.split("/"):
        raise InvalidInputError(f"the key {key!r} leads out of the store")
    return key

"""How stores are named in messages and documents."""

from __future__ import annotations

import os
from dataclasses import replace

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from daskcache.errors import InvalidInputError
from daskcache.locations import PREFIX, Compound, Location, parse_root
from daskcache.stores.driven import Driven
from daskcache.stores.faults import redact

__all__ = ["describe", "is_spread", "root_of"]

_ONLY_READ = ("http://", "https://")


def describe(store: Store | str | os.PathLike[str]) -> str:
    """Name a store for people and documents, without credentials or query.

    Parameters
    ----------
    store : zarr.abc.store.Store, str or path
        A store or what opens it.

    Returns
    -------
    str
        A path or URL; of levels, that of the one which keeps what is written, and of a fan-out the first.

    Examples
    --------
    >>> describe("s3://key:secret@bucket/cache?token=1")
    's3://bucket/cache'
    """
    if isinstance(store, LocalStore):
        return str(store.root)
    if isinstance(store, Driven) and store.home is not store:
        return "/".join(filter(None, (describe(store.home), getattr(store, "below", ""))))
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        return f"{protocol if isinstance(protocol, str) else protocol[0]}://{store.path.lstrip('/')}"
    if isinstance(store, Store):
        return redact(str(store))
    text = os.fspath(store)
    if text.startswith(PREFIX):
        return describe(_home(parse_root(text)).url)
    if "://" not in text:
        return text
    return redact(text).partition("#")[0]


def is_spread(root: str) -> bool:
    """Tell whether the blocks of a store lie in several places, so that no path leads to all of them.

    Parameters
    ----------
    root : str
        As `daskcache.locations.to_root` gives it.

    Returns
    -------
    bool
        Whether what keeps all that is written is a fan-out.

    Examples
    --------
    >>> is_spread("/data")
    False
    """
    place = parse_root(root)
    while isinstance(place, Compound) and place.kind == "levels":
        place = _written(place)[-1]
    return isinstance(place, Compound)


def _written(place: Compound) -> tuple[Location | Compound, ...]:
    written = [one for one in place.parts if one.write is not False and not _is_read_only(one)]
    return tuple(written) or place.parts


def _home(place: Location | Compound) -> Location:
    if isinstance(place, Location):
        return place
    home = _home(_written(place)[-1 if place.kind == "levels" else 0])
    return replace(home, url=f"{home.url}/{place.below}") if place.below else home


def _is_read_only(place: Location | Compound) -> bool:
    """Whether it is never written: so it was said, or its protocol has no writes."""
    is_served = isinstance(place, Location) and place.client is None and place.url.startswith(_ONLY_READ)
    return place.read_only or is_served


def root_of(store: Store) -> str:
    """Give the text that opens a store again in any process.

    Parameters
    ----------
    store : zarr.abc.store.Store
        A store.

    Returns
    -------
    str
        As `daskcache.locations.to_root` gives it.

    Raises
    ------
    InvalidInputError
        There is none: it was opened by other means, or with a secret given as a value.

    Examples
    --------
    >>> root_of(LocalStore("/data"))
    '/data'
    """
    root: str | None = getattr(store, "daskcache_root", None)
    if root is None and isinstance(store, LocalStore):
        root = str(store.root)
    if root is None:
        raise InvalidInputError(
            f"no URL stands for {redact(str(store))}; open it with daskcache.stores.open to use it by its root"
        )
    return root

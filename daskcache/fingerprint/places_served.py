"""Objects of sources in stores of our own: on servers, each of which tells what changes with an object, and composed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, override

from zarr.abc.store import Store

from daskcache.errors import StoreError, UncacheableError
from daskcache.fingerprint.places import Found, Place, hash_bytes

__all__ = ["ComposedPlace", "ServedPlace", "our_place_of"]


def our_place_of(store: Store, place_of: Callable[[Store], Place]) -> Place | None:
    """Give the place of a store of our own.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any; it is judged by what it offers, because stores lie above this module.
    place_of : callable
        Gives the places of the stores that one is composed of.

    Returns
    -------
    Place or None
        None for other stores.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> our_place_of(MemoryStore(), None) is None
    True
    """
    if not hasattr(type(store), "daskcache_root"):
        return None
    if hasattr(type(store), "stamps"):
        return ServedPlace(store)
    return ComposedPlace(store, place_of) if hasattr(type(store), "origins") else None


class ServedPlace(Place):
    """A store on a server."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.root = str(store)
        self._seen: dict[str, Found] = {}

    @override
    def forget(self) -> None:
        self._seen.clear()

    @override
    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        unseen = [key for key in dict.fromkeys(keys) if key not in self._seen]
        if unseen:
            try:
                stamps = self._store.stamps(unseen)
            except StoreError as error:
                raise UncacheableError(f"cannot look at what is below {self.root}: {error}") from error
            for key, stamp in zip(unseen, stamps, strict=True):
                self._seen[key] = Found(self.name(key), stamp)
        return [self._seen[key] for key in keys]

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        if self._store.has_query:
            raise UncacheableError(f"{self.root} is read with a query, which its path alone does not tell")
        return super().refer(keys)

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        try:
            data = self._store.get_object(key)
        except StoreError as error:
            raise UncacheableError(f"cannot read {self.name(key)}: {error}") from error
        return None if data is None else hash_bytes(iter((data,)))

    @override
    def _see(self, key: str) -> Found:
        return self.look([key], "", 1)[0]


class ComposedPlace(Place):
    """Several stores as one, which says of each key whose object it is."""

    def __init__(self, store: Any, place_of: Callable[[Store], Place]) -> None:
        self._store = store
        self._place_of = place_of
        self._places: dict[int, tuple[Store, Place]] = {}
        self.root = self._place(store.home).root

    @override
    def forget(self) -> None:
        for _, place in self._places.values():
            place.forget()

    @override
    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        together: dict[tuple[int, ...], list[str]] = {}
        for key in keys:
            together.setdefault(tuple(map(id, self._origins(key))), []).append(key)
        found: dict[str, Found] = {}
        for some in together.values():
            for place in self._origins(some[0]):
                missing = [key for key in some if key not in found or found[key].stamp is None]
                looked = zip(missing, place.look(missing, directory, total), strict=True) if missing else ()
                found.update((key, one) for key, one in looked if key not in found or one.stamp is not None)
        return [found[key] for key in keys]

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        return [self._origins(key)[0].refer([key])[0] for key in keys]

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        digests = (place.digest_bytes(key) for place in self._origins(key))
        return next((digest for digest in digests if digest is not None), None)

    @override
    def _see(self, key: str) -> Found:
        return self.look([key], "", 1)[0]

    def _origins(self, key: str) -> list[Place]:
        stores: Sequence[Store] = self._store.origins(key)
        if not stores:
            raise UncacheableError(
                f"reads through {self._store}, which does not know whose {key} it reads; name in fixed= what never changes "
                "once it is there, or read from the store that has it"
            )
        return [self._place(store) for store in stores]

    def _place(self, store: Store) -> Place:
        # The store is kept alive, so that its identity stays its own.
        known = self._places.get(id(store))
        if known is None:
            known = self._places[id(store)] = store, self._place_of(store)
        return known[1]

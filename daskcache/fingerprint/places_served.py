"""Objects of sources in our own stores on servers, each of which tells what changes with an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, override

from zarr.abc.store import Store

from daskcache.errors import StoreError, UncacheableError
from daskcache.fingerprint.places import Found, Place, hash_bytes

__all__ = ["ServedPlace", "tells_stamps"]


def tells_stamps(store: Store) -> bool:
    """Tell whether a store is one of ours that `ServedPlace` looks into.

    Returns
    -------
    bool
        Whether it has what is asked there; stores lie above this module.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> tells_stamps(MemoryStore())
    False
    """
    return hasattr(type(store), "daskcache_root") and hasattr(type(store), "stamps")


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

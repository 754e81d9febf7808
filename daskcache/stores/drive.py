"""Whole objects of any store, each kind in its best way, with what fails named in our words.

Below `objects`, which checks that keys are names of ours, and `composed`, whose keys may be anybody's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Buffer, Iterator

from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore

from daskcache.errors import ReadOnlyError
from daskcache.stores import local, remote
from daskcache.stores.driven import Driven, Listed
from daskcache.stores.faults import translating
from daskcache.stores.naming import describe
from daskcache.stores.sync import wait_for

__all__ = [
    "check_writable",
    "create",
    "delete",
    "exists",
    "get",
    "list_dirs",
    "list_objects",
    "path_of",
    "put",
    "size",
    "walk",
]


def create(store: Store, key: str, data: Buffer) -> bool:
    """Put an object unless it is there; tell whether this call did."""
    with translating(describe(store), f"write {key}", writes=True):
        check_writable(store)
        if isinstance(store, Driven):
            return store.create_object(key, data)
        if isinstance(store, LocalStore):
            return local.create(path_of(store, key), data)
        return remote.create(store, key, data)


def put(store: Store, key: str, data: Buffer) -> None:
    """Put an object, in place of one that may be there."""
    with translating(describe(store), f"write {key}", writes=True):
        check_writable(store)
        if isinstance(store, Driven):
            store.put_object(key, data)
        elif isinstance(store, LocalStore):
            local.put(path_of(store, key), data)
        else:
            remote.put(store, key, data)


def get(store: Store, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
    """Read an object or a part of it; None where there is none."""
    with translating(describe(store), f"read {key}"):
        if isinstance(store, Driven):
            return store.get_object(key, byte_range)
        if isinstance(store, LocalStore):
            return local.get(path_of(store, key), byte_range)
        return remote.get(store, key, byte_range)


def exists(store: Store, key: str) -> bool:
    """Tell whether an object is there."""
    with translating(describe(store), f"look for {key}"):
        if isinstance(store, Driven):
            return store.has_object(key)
        if isinstance(store, LocalStore):
            return local.exists(path_of(store, key))
        return remote.exists(store, key)


def size(store: Store, key: str) -> int | None:
    """Tell how large an object is; None where there is none."""
    with translating(describe(store), f"look for {key}"):
        if isinstance(store, Driven):
            return store.size_object(key)
        if isinstance(store, LocalStore):
            return local.size(path_of(store, key))
        return remote.size(store, key)


def delete(store: Store, key: str) -> None:
    """Remove an object; one that is missing is no error."""
    with translating(describe(store), f"delete {key}", writes=True):
        check_writable(store)
        if isinstance(store, Driven):
            store.delete_object(key)
        elif isinstance(store, LocalStore):
            local.delete(path_of(store, key))
        else:
            remote.delete(store, key)


def list_objects(store: Store, prefix: str) -> Listed:
    """List the objects directly under a prefix, those that are being written too."""
    with translating(describe(store), f"list {prefix}"):
        if isinstance(store, Driven):
            return store.list_here(prefix)
        if isinstance(store, LocalStore):
            return local.list_objects(path_of(store, prefix))
        return remote.list_objects(store, prefix)


def list_dirs(store: Store, prefix: str) -> list[str]:
    """List the prefixes directly under a prefix, sorted."""
    with translating(describe(store), f"list {prefix}"):
        if isinstance(store, Driven):
            return store.list_dirs(prefix)
        if isinstance(store, LocalStore):
            return local.list_dirs(path_of(store, prefix))
        return remote.list_dirs(store, prefix)


def walk(store: Store, prefix: str) -> Iterator[str]:
    """List all keys under a prefix, as the store's own listing takes it."""
    with translating(describe(store), f"list {prefix}"):
        if isinstance(store, Driven):
            yield from store.walk(prefix)
        else:
            yield from wait_for(_collect(store.list_prefix(prefix)))


async def _collect(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]


def path_of(store: LocalStore, key: str) -> str:
    """Give the path of an object's file.

    Parameters
    ----------
    store : zarr.storage.LocalStore
        Where.
    key : str
        Its key.

    Returns
    -------
    str
        The path.
    """
    return f"{store.root}/{key}"


def check_writable(store: Store) -> None:
    """Refuse a store that is open for reading only.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.

    Raises
    ------
    ReadOnlyError
        It is.
    """
    if not store.supports_writes:
        raise ReadOnlyError(
            f"store {describe(store)} can only be read, because its protocol has no writes; name another root in "
            "`daskcache.store`"
        )
    if store.read_only:
        raise ReadOnlyError(
            f"store {describe(store)} is open for reading only; open it without read_only, "
            "or name another root in `daskcache.store`"
        )

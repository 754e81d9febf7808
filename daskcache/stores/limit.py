"""A store that takes only small objects, or holds only so many bytes and drops what was not used for longest."""

from __future__ import annotations

from collections.abc import Buffer, Iterator
from dataclasses import replace
from typing import Any, Self

from dask.utils import parse_bytes
from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore, MemoryStore

from daskcache.errors import InvalidInputError, StoreFullError
from daskcache.locations import Compound, parse_root, unparse_root
from daskcache.stores import drive
from daskcache.stores.composed import Composed
from daskcache.stores.driven import Listed
from daskcache.stores.naming import describe, root_of
from daskcache.stores.tiers import LEDGER, DiskTier, MemoryTier

__all__ = ["Limit"]


class Limit(Composed):
    """A store with a limit on objects, on its size, or both.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any; with `max_size` a local directory or a store in memory.
    max_object : int or str, optional
        Bytes of the largest object that is taken, such as ``"1 MiB"``; larger ones are refused.
    max_size : int or str, optional
        Bytes that it may hold, such as ``"100 GiB"``. Before there would be more, what was not read or written for
        longest is removed.
    within : str, optional
        The directory whose content `max_size` bounds, where the store is a part of it.
    read_only : bool, optional
        Whether writes are refused.

    Raises
    ------
    InvalidInputError
        A limit is not a number of bytes, there is none, or the store's size cannot be bounded.

    Notes
    -----
    All processes of a machine share the account of a directory: its files are the truth, and one of them, locked
    for moments, holds an upper bound of their sizes, those that are being written included. So the limit is never
    exceeded, not by a process that is killed either; what such a one left half written is removed by the next that
    needs room. Whoever writes there must do so through a `Limit`. A put costs about 0.1 ms more, a read 0.01 ms.

    A file is removed while others may read it; they read it to its end.

    Examples
    --------
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> store = Limit(MemoryStore(), max_size="2 kB", max_object=1000)
    >>> array = zarr.create_array(store, shape=(8,), dtype="i1")
    >>> store.takes(1001)
    False
    """

    def __init__(
        self,
        store: Store,
        *,
        max_object: int | str | None = None,
        max_size: int | str | None = None,
        within: str | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__(read_only=read_only or store.read_only)
        self.store = store
        self.max_object = _to_bytes("max_object", max_object)
        self.max_size = _to_bytes("max_size", max_size)
        self.within = within
        if self.max_object is None and self.max_size is None:
            raise InvalidInputError("Limit needs max_object, max_size or both")
        self._tier: DiskTier | MemoryTier | None = None
        if self.max_size is None:
            return
        if isinstance(store, LocalStore):
            self._tier = DiskTier(str(store.root), within or str(store.root), self.max_size)
        elif isinstance(store, MemoryStore):
            self._tier = MemoryTier(store, self.max_size)
        else:
            raise InvalidInputError(
                f"the size of {describe(store)} cannot be bounded, only that of a local directory or of memory; "
                "give max_object alone, or a limit of the server's own"
            )

    @property
    def home(self) -> Store:
        """The store."""
        return self.store

    @property
    def daskcache_root(self) -> str:
        """What opens the same with the same limits."""
        found = parse_root(root_of(self.store))
        if isinstance(found, Compound):
            return unparse_root(replace(found, max_object=self.max_object))
        limited = replace(found, max_object=self.max_object, max_size=self.max_size, within=self.within)
        return unparse_root(limited)

    @property
    def _supports_sync_io(self) -> bool:
        return isinstance(self.store, LocalStore | MemoryStore) or getattr(
            self.store, "_supports_sync_io", False
        )

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same store, writable or not."""
        inner = self.store
        if inner.read_only and not read_only:
            inner = inner.with_read_only(read_only=False)
        return type(self)(
            inner,
            max_object=self.max_object,
            max_size=self.max_size,
            within=self.within,
            read_only=read_only,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and self._identity() == other._identity()

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, self._identity()

    def __repr__(self) -> str:
        return f"<Limit {describe(self.store)}>"

    __str__ = __repr__

    def _identity(self) -> tuple[Any, ...]:
        return self.store, self.max_object, self.max_size, self.within, self.read_only

    def origins(self, key: str) -> tuple[Store, ...]:
        """Give the stores that have what is read under a key: the one."""
        return (self.store,)

    def takes(self, nbytes: int) -> bool:
        """Tell whether an object of so many bytes is within the limits."""
        return all(limit is None or nbytes <= limit for limit in (self.max_object, self.max_size))

    def create_object(self, key: str, data: Buffer) -> bool:
        """Put an object unless it is there."""
        self._check_fits(key, data)
        if self._tier is None:
            return drive.create(self.store, key, data)
        return self._tier.write(key, data, create=True)

    def put_object(self, key: str, data: Buffer) -> None:
        """Put an object, in place of one that may be there."""
        self._check_fits(key, data)
        if self._tier is None:
            drive.put(self.store, key, data)
        else:
            self._tier.write(key, data, create=False)

    def get_object(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read an object or a part of it, which counts as its use."""
        if _is_hidden(key):
            return None
        if self._tier is None:
            return drive.get(self.store, key, byte_range)
        with self._tier.reading():
            found = drive.get(self.store, key, byte_range)
        if found is not None:
            self._tier.touch(key)
        return found

    def has_object(self, key: str) -> bool:
        """Tell whether an object is there."""
        return not _is_hidden(key) and drive.exists(self.store, key)

    def size_object(self, key: str) -> int | None:
        """Give an object's size in bytes."""
        return drive.size(self.store, key)

    def delete_object(self, key: str) -> None:
        """Remove an object."""
        self._check_writable()
        if self._tier is None:
            drive.delete(self.store, key)
        else:
            self._tier.delete(key)

    def list_here(self, prefix: str) -> Listed:
        """List the objects directly under a prefix."""
        listed = drive.list_objects(self.store, prefix)
        return {name: found for name, found in listed.items() if not _is_hidden(name)}

    def list_dirs(self, prefix: str) -> list[str]:
        """List the prefixes directly under a prefix."""
        return drive.list_dirs(self.store, prefix)

    def walk(self, prefix: str) -> Iterator[str]:
        """List all keys that begin with a prefix."""
        return (key for key in drive.walk(self.store, prefix) if not _is_hidden(key))

    def discard(self, key: str) -> bool:
        """Nothing lies behind this store."""
        return False

    def _check_fits(self, key: str, data: Buffer) -> None:
        self._check_writable()
        if _is_hidden(key):
            raise InvalidInputError(f"the key {key!r} is the name of the limit's own account")
        nbytes = memoryview(data).nbytes
        if not self.takes(nbytes):
            limit = min(limit for limit in (self.max_object, self.max_size) if limit is not None)
            raise StoreFullError(
                f"store {describe(self.store)} takes objects of up to {limit} bytes, and {key} has {nbytes}; "
                "raise the limit, or put it into a level behind this one"
            )


def _is_hidden(key: str) -> bool:
    return key.rpartition("/")[2] == LEDGER


def _make(store: Store, max_object: Any, max_size: Any, within: Any, read_only: bool) -> Limit:
    return Limit(store, max_object=max_object, max_size=max_size, within=within, read_only=read_only)


def _to_bytes(name: str, value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        number = int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{name} is {value!r}; expected bytes, such as 1000000 or '20 GiB'"
        ) from error
    if number < 0:
        raise InvalidInputError(f"{name} is {value!r}; expected a number of bytes that is not negative")
    return number

"""A fan-out: several stores as one, each object in one of them, chosen by its key."""

from __future__ import annotations

import re
from collections.abc import Buffer, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore, MemoryStore

from daskcache.errors import NotSureError, ReadOnlyError, StoreError, StoreFullError
from daskcache.locations import Compound, parse_root, unparse_root
from daskcache.stores import drive
from daskcache.stores.composed import Composed
from daskcache.stores.driven import Driven, Listed
from daskcache.stores.homes import Home
from daskcache.stores.naming import describe, root_of
from daskcache.stores.shares import Share, Shares, is_nearly_full, most_telling

__all__ = ["Fanout"]

_MOST_STALE = 100_000
"""Keys that are remembered of a store that could not be reached while they were overwritten."""


class Fanout(Composed):
    """Several stores as one, each object in one of them.

    An object goes to the store that its key draws (rendezvous hashing): one more store takes its part of the objects
    that come, and nothing else changes place. A store that is full, takes no writes or fails is passed over, with one
    warning, for half a minute; its objects go to the next one that their keys draw. An object is read from wherever
    it is.

    Parameters
    ----------
    *stores : zarr.abc.store.Store or Share
        The stores; with a weight each in a `Share`, such as their capacities. Those that are opened for reading only
        are read.
    read_only : bool, optional
        Whether writes are refused.
    fixed : str, optional
        A regular expression that finds the keys of objects which never change once they are there. Others all lie in
        one of the stores, their *home*: the first that took one. Where the home fails, so do they, because nobody
        could tell which of two copies is the newer one. By default each object is taken to be one that never changes.
    below : str, optional
        The path in each store below which all keys lie.

    Raises
    ------
    InvalidInputError
        There is no store, or the weights are wrong.

    Notes
    -----
    To create an object asks all other stores twice whether they have it, before and after: two writers that see
    different stores full do not leave two objects of one key. To read one that is missing asks all stores, and raises
    `NotSureError` where one of them cannot be asked. So does a listing, but for those of objects that `fixed` finds:
    they leave out what cannot be reached, with one warning, because what is not seen is computed again.

    Where an object is overwritten while the store that has it cannot be reached, the process that did so removes the
    old one before it reads from that store again; other processes would see the old one. Name in `fixed` what never
    changes, and there is no such case.

    A home that has less than 5 % and less than 64 MiB left takes no more than documents, as long as another one does.

    Examples
    --------
    >>> import numpy as np
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> first, second = MemoryStore(), MemoryStore()
    >>> array = zarr.create_array(Fanout(first, second), shape=(64,), chunks=(1,), dtype="i4")
    >>> array[:] = np.arange(64)
    >>> zarr.open_array(Fanout(second, first), mode="r")[[3, 60]].tolist()
    [3, 60]
    """

    def __init__(
        self, *stores: Store | Share, read_only: bool = False, fixed: str | None = None, below: str = ""
    ) -> None:
        self.shares = tuple(one if isinstance(one, Share) else Share(one) for one in stores)
        self.fixed = fixed
        self.below = below
        self._shares = Shares(self.shares)
        self._writable = [number for number, one in enumerate(self._shares.stores) if not one.read_only]
        super().__init__(read_only=read_only or not self._writable)
        self._is_fixed = re.compile(fixed or "").search
        self._home = Home(self._shares)

    @property
    def home(self) -> Store:
        """The store whose name stands for all: the first that takes writes."""
        return self._shares.stores[self._writable[0] if self._writable else 0]

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores."""
        return self._shares.stores

    @property
    def daskcache_root(self) -> str:
        """What opens the same stores again."""
        parts = [
            replace(parse_root(root_of(one.store)), read_only=one.store.read_only, weight=one.weight)
            for one in self.shares
        ]
        return unparse_root(Compound("fanout", tuple(parts), self.below))

    @property
    def _supports_sync_io(self) -> bool:
        """Zarr asks whether it may call `get_sync` in its event loop, which must not wait for itself."""
        return all(
            isinstance(store, LocalStore | MemoryStore) or getattr(store, "_supports_sync_io", False)
            for store in self.parts
        )

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same stores as one, writable or not."""
        return type(self)(*self.shares, read_only=read_only, fixed=self.fixed, below=self.below)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fanout) and self._identity() == other._identity()

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, self._identity()

    def __repr__(self) -> str:
        return f"<Fanout {', '.join(map(describe, self.parts))}>"

    __str__ = __repr__

    def _identity(self) -> tuple[Any, ...]:
        return self.shares, self.read_only, self.fixed, self.below

    def takes(self, nbytes: int) -> bool:
        """Tell whether one of the stores takes an object of so many bytes."""
        return any(_takes(self.parts[number], nbytes) for number in self._writable)

    # Reading

    def origins(self, key: str) -> tuple[Store, ...]:
        """Give the stores that have what is read under a key; none where one that comes back may bring an older object."""
        if self.fixed is None or self.below:
            return ()
        if self._is_fixed(key):
            return tuple(self.parts[number] for number in self._shares.order(key))
        number = self._home.number
        return () if number is None else (self.parts[number],)

    def get_object(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read an object, or a part of it, from wherever it is."""
        return self._find(key, lambda store, at: drive.get(store, at, byte_range))

    def has_object(self, key: str) -> bool:
        """Tell whether one of the stores has an object."""
        return bool(self._find(key, lambda store, at: drive.exists(store, at) or None))

    def size_object(self, key: str) -> int | None:
        """Give an object's size in bytes."""
        return self._find(key, drive.size)

    def list_here(self, prefix: str) -> Listed:
        """List the objects directly under a prefix in all stores; of two of one name, the younger one."""
        at = self._at(prefix)
        listed: Listed = {}
        for number, found in self._listings(prefix, lambda store: drive.list_objects(store, at)):
            for name, (size, written) in found.items():
                if self._counts(number, f"{prefix}/{name}"):
                    known = listed.get(name)
                    if known is None or (known[1] is not None and (written is None or written > known[1])):
                        listed[name] = size, written
        return listed

    def list_dirs(self, prefix: str) -> list[str]:
        """List the prefixes directly under a prefix in all stores."""
        at = self._at(prefix)
        found = self._listings(prefix, lambda store: drive.list_dirs(store, at))
        return sorted({name for _, names in found for name in names})

    def walk(self, prefix: str) -> Iterator[str]:
        """List all keys that begin with a prefix in all stores."""
        start = len(self.below) + 1 if self.below else 0
        found = self._listings(
            None, lambda store: [*drive.walk(store, f"{self.below}/{prefix}" if start else prefix)]
        )
        keys = (key[start:] for number, names in found for key in names if self._counts(number, key[start:]))
        yield from dict.fromkeys(keys)

    # Writing

    def put_object(self, key: str, data: Buffer) -> None:
        """Put an object, in place of one that may be there."""
        self._check_writable()
        at = self._at(key)
        if not self._is_fixed(key):
            self._home.ask(lambda store: drive.put(store, at, data), write=True)
            return
        number, _ = self._place(at, data, lambda store: drive.put(store, at, data))
        if self.fixed is None:
            self._replace_others(number, at, data)

    def create_object(self, key: str, data: Buffer) -> bool:
        """Put an object unless one of the stores has it."""
        self._check_writable()
        at = self._at(key)
        if not self._is_fixed(key):
            return bool(self._home.ask(lambda store: drive.create(store, at, data), write=True))
        if any(self._has(number, at) for number in self._shares.order(at)):
            return False
        number, created = self._place(at, data, lambda store: drive.create(store, at, data))
        if not created:
            return False
        others = (other for other in self._shares.order(at) if not self._shares.is_same(other, number))
        if any(self._has(other, at) for other in others):
            # Of two writers that came to different stores, each sees the other's object or is seen. One that goes
            # although nobody else's stays is written again by whoever misses it.
            with suppress(StoreError):
                drive.delete(self.parts[number], at)
            return False
        return True

    def delete_object(self, key: str) -> None:
        """Remove an object from all stores that take writes."""
        self._check_writable()
        at = self._at(key)
        if not self._is_fixed(key):
            self._home.ask(lambda store: drive.delete(store, at), write=True)
            return
        errors = []
        # Those first that are asked last, so that no older one comes to light.
        for number in reversed(self._shares.order(at)):
            try:
                if number in self._writable:
                    self._shares.ask(number, lambda store: drive.delete(store, at), write=True)
                    self._shares.stale(number).discard(at)
                elif self.fixed is None and self._has(number, at):
                    raise ReadOnlyError(f"store {describe(self.parts[number])} has {key}, and is only read")
            except StoreError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def discard(self, key: str) -> bool:
        """Remove a damaged object where another store has one as well."""
        if not self._is_fixed(key):
            return False
        at = self._at(key)
        having = [number for number in self._shares.order(at) if self._has(number, at)]
        if not having:
            return False
        first = self.parts[having[0]]
        if isinstance(first, Driven) and first.discard(at):
            return True
        if not any(not self._shares.is_same(having[0], other) for other in having) or first.read_only:
            return False
        drive.delete(first, at)
        return True

    # Asking the stores

    def _at(self, key: str) -> str:
        return f"{self.below}/{key}".rstrip("/") if self.below else key

    def _counts(self, number: int, key: str) -> bool:
        """Tell whether an object of a store is one of the fan-out's."""
        if key.rpartition("/")[2] == self._home.mark:
            return False
        return bool(self._is_fixed(key)) or number == self._home.number

    def _find[T](self, key: str, look: Callable[[Store, str], T | None]) -> T | None:
        at = self._at(key)
        if key.rpartition("/")[2] == self._home.mark:
            return None
        if not self._is_fixed(key):
            return self._home.ask(lambda store: look(store, at))
        failed: StoreError | None = None
        for number in self._shares.order(at):
            found, error = self._try(number, lambda store: look(store, at), at)
            if found is not None:
                return found
            failed = failed or error
        if failed is not None:
            raise NotSureError(f"{key} is not found, and may lie where nobody can look: {failed}") from failed
        return None

    def _has(self, number: int, at: str) -> bool:
        return bool(self._try(number, lambda store: drive.exists(store, at), at)[0])

    def _try[T](
        self, number: int, question: Callable[[Store], T], at: str = ""
    ) -> tuple[T | None, StoreError | None]:
        error = self._shares.why_resting(number)
        if error is None:
            try:
                return self._shares.ask(number, lambda store: question(self._fresh(number, store, at))), None
            except StoreError as failed:
                error = failed
        return None, error

    def _fresh(self, number: int, store: Store, at: str) -> Store:
        """Remove what was overwritten elsewhere while a store could not be reached."""
        stale = self._shares.stale(number)
        if at in stale:
            if not store.read_only:
                drive.delete(store, at)
            stale.discard(at)
        return store

    def _listings[T](self, prefix: str | None, question: Callable[[Store], T]) -> Iterator[tuple[int, T]]:
        """Ask all stores; leave out those that fail only where what they have is computed again, or is not wanted."""
        errors = []
        is_strict = prefix is None or self.fixed is None
        is_of_home = not is_strict and not self._is_fixed(f"{prefix}/0")
        for number in range(len(self.parts)):
            found, error = self._try(number, question)
            if found is not None:
                yield number, found
            if error is not None:
                if is_strict or (is_of_home and number == self._home.number):
                    raise error
                errors.append(error)
        if len(errors) == len(self.parts):
            raise errors[0]

    def _place[T](self, at: str, data: Buffer, write: Callable[[Store], T]) -> tuple[int, T]:
        """Write an object to the first store that takes it."""
        nbytes = memoryview(data).nbytes
        numbers = [n for n in self._shares.order(at) if n in self._writable and _takes(self.parts[n], nbytes)]
        if not numbers:
            raise StoreFullError(f"no store of {self} takes {at}, which has {nbytes} bytes; raise a limit")
        errors = []
        # Before nothing is stored, those are tried as well that failed a moment ago.
        passed_over = [
            n for n in numbers if self._shares.why_resting(n, write=True) or self._is_for_documents(n)
        ]
        for number in [*(n for n in numbers if n not in passed_over), *passed_over]:
            try:
                done = self._shares.ask(number, write, write=True)
            except StoreError as error:
                errors.append(error)
            else:
                self._shares.stale(number).discard(at)
                self._home.sign(number)
                return number, done
        raise most_telling(errors)

    def _is_for_documents(self, number: int) -> bool:
        return self.fixed is not None and self._home.is_at(number) and is_nearly_full(self.parts[number])

    def _replace_others(self, written: int, at: str, data: Buffer) -> None:
        """Let no older object of a key be found, now or when a store can be reached again."""
        order = self._shares.order(at)
        for place, number in enumerate(order):
            if self._shares.is_same(number, written) or number not in self._writable:
                continue
            found, error = self._try(number, lambda store: drive.exists(store, at), at)
            if error is not None:
                stale = self._shares.stale(number)
                if len(stale) >= _MOST_STALE:
                    raise StoreError(
                        f"{at} was overwritten too often to be remembered while {error}"
                    ) from error
                stale.add(at)
            elif found and place < order.index(written):
                drive.delete(self.parts[number], at)  # it refused the new one
            elif found:
                drive.put(self.parts[number], at, data)


def _takes(store: Store, nbytes: int) -> bool:
    return not isinstance(store, Driven) or store.takes(nbytes)


def _make(shares: tuple[Share, ...], read_only: bool, fixed: str | None, below: str) -> Fanout:
    return Fanout(*shares, read_only=read_only, fixed=fixed, below=below)

"""A chain of stores, fastest first: read through, with copies into the faster ones on the way."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Buffer, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore, MemoryStore

from daskcache.errors import InvalidInputError, NotSureError, StoreError, warn_once
from daskcache.locations import Compound, parse_root, unparse_root
from daskcache.stores import drive
from daskcache.stores.composed import Composed
from daskcache.stores.driven import Driven, Listed
from daskcache.stores.naming import describe, root_of

__all__ = ["Level", "Levels"]

_REST_S = 30.0
"""Seconds for which a level that failed is left alone: each call would wait for its time limits again."""


@dataclass(frozen=True, slots=True)
class Level:
    """A store's part in a chain."""

    store: Store
    """The store."""
    write: bool | None = None
    """Whether what is written goes here; None where it does if the store takes writes."""
    copy: bool | None = None
    """Whether what is read from a slower level is copied here; None where it is if the store takes writes."""

    @property
    def is_written(self) -> bool:
        """What is written goes here."""
        return not self.store.read_only if self.write is None else self.write

    @property
    def is_copied_to(self) -> bool:
        """What is read from a slower level is copied here."""
        return not self.store.read_only if self.copy is None else self.copy


class Levels(Composed):
    """Several stores as one, fastest first.

    An object is read from the first level that has it, and copied whole into the faster ones that take copies.
    What is written goes to the last level that is written, which is the *home*, then to the other ones. Where the
    home fails, so does the write. All other levels fail softly: one warning, and they are left alone for half a
    minute. Levels behind the home are mirrors: they are read in their order, and listed with it.

    Parameters
    ----------
    *levels : zarr.abc.store.Store or Level
        The stores, those that are marked in a `Level`. By default a store that takes writes is written and copied
        to, and one that is opened for reading only is neither.
    read_only : bool, optional
        Whether writes are refused; copies are made all the same.
    fixed : str, optional
        A regular expression that finds the keys of objects which never change once they are there. Others are
        read from the home and its mirrors and kept nowhere else. By default each object is taken to be such a
        one: what other processes overwrite in a slower level is not seen here once a faster one has a copy.

    Raises
    ------
    InvalidInputError
        There is no level, or a level that is to be written takes no writes.

    Notes
    -----
    A copy appears whole or not at all, and in place of nothing. Parts of objects are read from the first level that
    has the object, and not copied: fetching all of a large object for a point would cost more than it saves.
    Reading an object that no level has raises where a level failed that might have it, because Zarr takes a
    missing chunk for one of fill values.

    Examples
    --------
    >>> import numpy as np
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> fast, slow = MemoryStore(), MemoryStore()
    >>> array = zarr.create_array(slow, shape=(4,), dtype="i4")
    >>> array[:] = np.arange(4)
    >>> zarr.open_array(Levels(fast, slow), mode="r")[:].tolist()
    [0, 1, 2, 3]
    >>> zarr.open_array(fast, mode="r")[:].tolist()
    [0, 1, 2, 3]
    """

    def __init__(self, *levels: Store | Level, read_only: bool = False, fixed: str | None = None) -> None:
        self.levels = tuple(one if isinstance(one, Level) else Level(one) for one in levels)
        self.fixed = fixed
        if not self.levels:
            raise InvalidInputError("Levels needs at least one store")
        for level in self.levels:
            if level.store.read_only and (level.write or level.copy):
                raise InvalidInputError(
                    f"{describe(level.store)} is to be written or copied to, and is open for reading only"
                )
        written = [number for number, level in enumerate(self.levels) if level.is_written]
        super().__init__(read_only=read_only or not written)
        self._home = written[-1] if written else None
        self._is_fixed = re.compile(fixed or "").search
        self._resting: dict[int, float] = {}
        self._lock = threading.Lock()

    @property
    def home(self) -> Store:
        """The level whose word counts: the last that is written, else the last."""
        return self.levels[-1 if self._home is None else self._home].store

    @property
    def daskcache_root(self) -> str:
        """What opens the same levels again."""
        parts = [
            replace(
                parse_root(root_of(one.store)), write=one.write, copy=one.copy, read_only=one.store.read_only
            )
            for one in self.levels
        ]
        return unparse_root(Compound("levels", tuple(parts)))

    @property
    def parts(self) -> tuple[Store, ...]:
        """The levels' stores."""
        return tuple(level.store for level in self.levels)

    @property
    def _supports_sync_io(self) -> bool:
        """Zarr asks whether it may call `get_sync` in its event loop, which must not wait for itself."""
        return all(
            isinstance(level.store, LocalStore | MemoryStore)
            or getattr(level.store, "_supports_sync_io", False)
            for level in self.levels
        )

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same levels, writable or not."""
        return type(self)(*self.levels, read_only=read_only, fixed=self.fixed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Levels) and (self.levels, self.fixed, self.read_only) == (
            other.levels,
            other.fixed,
            other.read_only,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.levels, self.read_only, self.fixed)

    def __repr__(self) -> str:
        return f"<Levels {', '.join(describe(level.store) for level in self.levels)}>"

    __str__ = __repr__

    def takes(self, nbytes: int) -> bool:
        """Tell whether the home takes an object of so many bytes."""
        return _takes(self.home, nbytes)

    # Reading

    def origins(self, key: str) -> tuple[Store, ...]:
        """Give the stores that have what is read under a key.

        Parameters
        ----------
        key : str
            The key.

        Returns
        -------
        tuple of zarr.abc.store.Store
            Those whose word counts, then copies of what never changes. None for what may change and lies in several: a
            copy or a mirror may be older, and is read all the same.
        """
        authorities, readers = self._authorities(), self._readers(key)
        if len(readers) > 1 and (self.fixed is None or not self._is_fixed(key)):
            return ()
        ordered = (*authorities, *(number for number in readers if number not in authorities))
        return tuple(self.levels[number].store for number in ordered)

    def get_object(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read an object from the first level that has it."""
        failed: StoreError | None = None
        for number in self._readers(key):
            found, error = self._try(number, lambda store: drive.get(store, key, byte_range))
            if found is not None:
                if byte_range is None and self._is_fixed(key):
                    self._copy(key, found, number)
                return found
            failed = failed or (error if number in self._authorities() else None)
        if failed is not None:
            raise failed
        return None

    def has_object(self, key: str) -> bool:
        """Tell whether a level whose word counts has an object."""
        return any(self._ask_authorities(lambda store: drive.exists(store, key)))

    def size_object(self, key: str) -> int | None:
        """Give an object's size in bytes."""
        sizes = self._ask_authorities(lambda store: drive.size(store, key))
        return next((size for size in sizes if size is not None), None)

    def list_here(self, prefix: str) -> Listed:
        """List the objects directly under a prefix in the levels whose word counts."""
        listed: Listed = {}
        for found in self._ask_authorities(lambda store: drive.list_objects(store, prefix)):
            listed = {**(found or {}), **listed}
        return listed

    def list_dirs(self, prefix: str) -> list[str]:
        """List the prefixes directly under a prefix in the levels whose word counts."""
        found = self._ask_authorities(lambda store: drive.list_dirs(store, prefix))
        return sorted({name for names in found for name in names or ()})

    def walk(self, prefix: str) -> Iterator[str]:
        """List all keys that begin with a prefix in the levels whose word counts."""
        found = self._ask_authorities(lambda store: [*drive.walk(store, prefix)])
        yield from dict.fromkeys(key for keys in found for key in keys or ())

    def _authorities(self) -> Sequence[int]:
        """The home and its mirrors; where nothing is written, what takes no copies."""
        if self._home is not None:
            return range(self._home, len(self.levels))
        sources = [number for number, level in enumerate(self.levels) if not level.is_copied_to]
        return sources or range(len(self.levels))

    def _readers(self, key: str) -> Sequence[int]:
        return range(len(self.levels)) if self._is_fixed(key) else self._authorities()

    def _ask_authorities[T](self, ask: Callable[[Store], T]) -> Iterator[T | None]:
        errors = []
        authorities = self._authorities()
        for number in authorities:
            found, error = self._try(number, ask)
            if error is not None:
                if number == self._home:
                    raise error
                errors.append(error)
            yield found
        if len(errors) == len(authorities):
            raise errors[0]

    # Writing

    def put_object(self, key: str, data: Buffer) -> None:
        """Put an object into the levels that are written."""
        self._check_writable()
        drive.put(self.home, key, data)
        for number, level in self._caches():
            kept = False
            if self._is_fixed(key) and level.is_written and _takes(level.store, memoryview(data).nbytes):
                _, error = self._try(number, lambda store: drive.put(store, key, data), write=True)
                kept = error is None
            if not kept and self.fixed is None:
                # What is there may be the old object.
                drive.delete(level.store, key)

    def create_object(self, key: str, data: Buffer) -> bool:
        """Put an object into the home unless it is there, and then into the other levels that are written."""
        self._check_writable()
        if not drive.create(self.home, key, data):
            return False
        for number, level in self._caches():
            if self._is_fixed(key) and level.is_written and _takes(level.store, memoryview(data).nbytes):
                self._try(number, lambda store: drive.create(store, key, data), write=True)
        return True

    def delete_object(self, key: str) -> None:
        """Remove an object from the levels that are written or copied to."""
        self._check_writable()
        if self._is_fixed(key):
            for _, level in self._caches():
                drive.delete(level.store, key)
        drive.delete(self.home, key)

    def discard(self, key: str) -> bool:
        """Remove a damaged copy from the level that gave it, if that is in front of the home."""
        for number in self._readers(key):
            if number in self._authorities():
                break
            found, _ = self._try(number, lambda store: drive.exists(store, key))
            if found:
                if self.levels[number].store.read_only:
                    break
                drive.delete(self.levels[number].store, key)
                return True
        return False

    def _caches(self) -> list[tuple[int, Level]]:
        """The levels besides the home that may hold what it holds."""
        return [
            (number, level)
            for number, level in enumerate(self.levels)
            if number != self._home and (level.is_written or level.is_copied_to)
        ]

    def _copy(self, key: str, data: bytes, found_in: int) -> None:
        for number, level in enumerate(self.levels[:found_in]):
            if level.is_copied_to and _takes(level.store, len(data)):
                self._try(number, lambda store: drive.create(store, key, data), write=True)

    # Failing softly

    def _try[T](
        self, number: int, ask: Callable[[Store], T], *, write: bool = False
    ) -> tuple[T | None, StoreError | None]:
        """Ask a level; where it fails, say so once, and leave it alone for a while."""
        # A level that takes no writes may well be read.
        slot = -1 - number if write else number
        store = self.levels[number].store
        if self._resting.get(slot, 0.0) > time.monotonic():
            return None, StoreError(
                f"store {describe(store)} failed a moment ago, and is left alone for a while"
            )
        try:
            return ask(store), None
        except NotSureError as error:
            return None, error  # it has said what it cannot reach, and what it can is of use
        except StoreError as error:
            if number != self._home:
                with self._lock:
                    self._resting[slot] = time.monotonic() + _REST_S
                warn_once(
                    f"{error}. The other levels are used without it.",
                    about=f"level {'written' if write else 'read'} {describe(store)}",
                )
            return None, error


def _takes(store: Store, nbytes: int) -> bool:
    return not isinstance(store, Driven) or store.takes(nbytes)


def _make(levels: tuple[Level, ...], read_only: bool, fixed: str | None) -> Levels:
    return Levels(*levels, read_only=read_only, fixed=fixed)

"""The parts of a fan-out: which comes first for a key, which fails and is left alone, which are one and the same."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError, StoreFullError, warn_once
from daskcache.locations import Location, parse_root
from daskcache.stores.driven import Driven
from daskcache.stores.naming import describe, root_of

__all__ = ["Share", "Shares", "is_nearly_full", "most_telling"]

_REST_S = 30.0
"""Seconds for which a store that failed is left alone: each call would wait for its time limits again."""

_KEPT_FREE = 0.05
_KEPT_FREE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Share:
    """A store's part in a fan-out."""

    store: Store
    """The store."""
    weight: float | None = None
    """Its part of what is written, beside the others' weights, such as its capacity; None for equal parts."""


@dataclass(slots=True)
class _State:
    """What this process knows of a share; it changes, and is never pickled."""

    rests_until: dict[bool, tuple[float, StoreError]] = field(default_factory=dict)
    """Of reads and of writes: until when it is left alone, and why."""
    root: tuple[int, int] | None = None
    """Device and inode of its directory."""
    stale: set[str] = field(default_factory=set)
    """Keys that were overwritten elsewhere while it could not be reached."""


class Shares:
    """Several stores, in an order for each key.

    Parameters
    ----------
    shares : sequence of Share
        The stores and their weights.

    Raises
    ------
    InvalidInputError
        There is none, some have weights and others have not, or a weight is not positive.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        if not shares:
            raise InvalidInputError("Fanout needs at least one store")
        given = [share.weight for share in shares if share.weight is not None]
        if given and len(given) < len(shares):
            raise InvalidInputError(
                "some stores of a fan-out have a weight; give one to all of them or to none"
            )
        if not all(0 < weight < math.inf for weight in given):
            raise InvalidInputError(f"the weights of a fan-out are {given}; expected positive numbers")
        self._shares = shares
        self.stores = tuple(share.store for share in shares)
        names = [_name(store) for store in self.stores]
        # What comes first in order never depends on places in the sequence, but for stores of one name.
        numbered = [f"{name} {names[:number].count(name)}" for number, name in enumerate(names)]
        self._seeds = [blake2b(name.encode(), digest_size=16).digest() for name in numbered]
        leaves = [_leaves(store) for store in self.stores]
        self._same = [
            [any(_place(one) == _place(other) for one in mine for other in theirs) for theirs in leaves]
            for mine in leaves
        ]
        self._states = [_State() for _ in shares]
        self._lock = threading.Lock()

    def order(self, key: str) -> list[int]:
        """Give the numbers of all stores in the order in which a key belongs to them.

        Parameters
        ----------
        key : str
            The key of an object.

        Returns
        -------
        list of int
            Those first that take writes. One more store comes first for its part of the keys; the order of the others
            stays.
        """
        if len(self.stores) == 1:
            return [0]
        data = key.encode()
        scores = []
        for number, seed in enumerate(self._seeds):
            drawn = int.from_bytes(blake2b(data, digest_size=8, key=seed).digest(), "big")
            weight = self._shares[number].weight or 1.0
            score = -math.log((drawn + 0.5) / 2**64) / weight
            scores.append((self.stores[number].read_only, score, number))
        return [number for _, _, number in sorted(scores)]

    def is_same(self, one: int, other: int) -> bool:
        """Tell whether two stores share a place, so that an object of one may be that of the other.

        Parameters
        ----------
        one, other : int
            Numbers of stores.

        Returns
        -------
        bool
            Whether they do.
        """
        return self._same[one][other]

    def ask[T](self, number: int, question: Callable[[Store], T], *, write: bool = False) -> T:
        """Ask a store; where it fails, say so once, and leave it alone for a while.

        Parameters
        ----------
        number : int
            The store's.
        question : callable
            Takes the store.
        write : bool, optional
            Whether it is written. One that takes no writes may well be read.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        StoreError
            It failed.
        """
        state, store = self._states[number], self.stores[number]
        try:
            answer = self.ask_strictly(number, question)
        except StoreError as error:
            done = "written" if write else "read"
            with self._lock:
                state.rests_until[write] = time.monotonic() + _REST_S, error
            warn_once(
                f"{error}. The other stores of the fan-out are {done} without it, and it is tried again after a while.",
                about=f"fan-out {done} {describe(store)}",
            )
            raise
        if state.rests_until:
            with self._lock:
                state.rests_until.pop(write, None)
        return answer

    def ask_strictly[T](self, number: int, question: Callable[[Store], T]) -> T:
        """Ask a store that nothing can stand in for, whether it failed a moment ago or not.

        Parameters
        ----------
        number : int
            The store's.
        question : callable
            Takes the store.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        StoreError
            It failed.
        """
        self._check_there(number)
        return question(self.stores[number])

    def why_resting(self, number: int, *, write: bool = False) -> StoreError | None:
        """Tell why a store is left alone; None where it is not.

        Parameters
        ----------
        number : int
            The store's.
        write : bool, optional
            Whether it would be written.

        Returns
        -------
        StoreError or None
            What it failed with.
        """
        now = time.monotonic()
        for kind in (False, True)[: 1 + write]:
            until, error = self._states[number].rests_until.get(kind, (0.0, None))
            if until > now:
                return error
        return None

    def stale(self, number: int) -> set[str]:
        """Give the keys of which a store may hold an older object.

        Parameters
        ----------
        number : int
            The store's.

        Returns
        -------
        set of str
            To be added to, and discarded from.
        """
        return self._states[number].stale

    def _check_there(self, number: int) -> None:
        """Refuse a directory that has become another: its disk is no longer mounted."""
        store, state = self.stores[number], self._states[number]
        if not isinstance(store, LocalStore):
            return
        # Before the look, because another thread may make the directory after it.
        before = state.root
        try:
            status = os.stat(store.root)
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise StoreError(f"store {store.root} cannot be reached ({error.strerror})") from error
        else:
            found = status.st_dev, status.st_ino
        if before is None:
            state.root = state.root or found
        elif found != before:
            raise StoreError(
                f"store {store.root} is not the directory that it was: mount its disk again, or take it out of the "
                "fan-out and start the process anew"
            )


def is_nearly_full(store: Store) -> bool:
    """Tell whether a disk has no more room than what documents should find.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any; only local ones can tell.

    Returns
    -------
    bool
        Whether less than 5 % of it is free, and less than 64 MiB.
    """
    while isinstance(store, Driven) and store.home is not store:
        store = store.home
    if not isinstance(store, LocalStore) or not hasattr(os, "statvfs"):
        return False
    try:
        found = os.statvfs(store.root)
    except OSError:
        return False  # what is not there yet, or cannot be reached, says so when it is written
    return found.f_bavail * found.f_frsize < min(
        _KEPT_FREE_BYTES, _KEPT_FREE * found.f_blocks * found.f_frsize
    )


def most_telling(errors: Sequence[StoreError]) -> StoreError:
    """Give the error for which there is a remedy of its own.

    Parameters
    ----------
    errors : sequence of StoreError
        Those of several stores.

    Returns
    -------
    StoreError
        That a store is full, that it takes no writes, or else the first.
    """
    kinds = (StoreFullError, ReadOnlyError)
    return next((error for kind in kinds for error in errors if isinstance(error, kind)), errors[0])


def _name(store: Store) -> str:
    """Name a store apart from others: two servers may have buckets of one name."""
    while isinstance(store, Driven) and store.home is not store:
        store = store.home
    try:
        found = parse_root(root_of(store))
    except InvalidInputError:
        return describe(store)
    return f"{found.url} {found.storage_options}" if isinstance(found, Location) else describe(store)


def _place(store: Store) -> str:
    """Give what is equal for stores of which each has what the other has; their own ``==`` goes by content, too."""
    if isinstance(store, LocalStore):
        return os.path.realpath(store.root)
    if hasattr(type(store), "daskcache_root"):
        return _name(store)
    return f"{id(store.fs)} {store.path}" if isinstance(store, FsspecStore) else str(store)


def _leaves(store: Store) -> list[Store]:
    """Give the stores that one is made of."""
    inner = [one for one in store.parts if one is not store] if isinstance(store, Driven) else []
    return [leaf for one in inner for leaf in _leaves(one)] or [store]

"""The lease of the one process that sweeps a pool, by which publishers know of a batch in flight."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from zarr.abc.store import Store

from daskcache import stores
from daskcache.errors import StoreError

__all__ = ["BATCH_S", "Lease", "wait_for_sweep"]

BATCH_S = 30.0
"""Seconds after which a sweep looks for new runs again before it deletes any more."""

_STALE_S = 10 * BATCH_S
"""Seconds after which a lease that is not refreshed is that of a process which has died."""

_PREFIX = "gc"
_NAME = "lease.json"
_KEY = f"{_PREFIX}/{_NAME}"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Lease:
    """What the sweeping process says of itself."""

    id: str
    """Of the process's sweep."""
    time_s: float
    """When it was written, by the clock of that process."""
    batch: int = 0
    """Which batch is in flight; 0 while nothing is deleted."""

    @classmethod
    def take(cls, store: Store, now: Clock) -> Self:
        """Become the one that sweeps.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The pool.
        now : callable
            Tells the time in seconds since 1970.

        Returns
        -------
        Lease
            The own one.

        Raises
        ------
        StoreError
            Another process is sweeping.
        ReadOnlyError
            The store takes no writes.
        """
        own = cls(uuid.uuid4().hex, now())
        if stores.create(store, _KEY, own._to_json()):
            return own
        other = cls.read(store)
        if other is not None and now() - other.time_s < _STALE_S:
            raise StoreError(
                f"another process is sweeping {stores.describe(store)}, and said so {now() - other.time_s:.0f} s "
                f"ago; wait until it is done, or {_STALE_S:.0f} s after it has died"
            )
        stores.put(store, _KEY, own._to_json())
        return own.refresh(store, 0, now)

    @classmethod
    def read(cls, store: Store) -> Self | None:
        """Read the lease of whoever sweeps.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The pool.

        Returns
        -------
        Lease or None
            None where nobody does.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        data = stores.get(store, _KEY)
        if data is None:
            return None
        try:
            document: Any = json.loads(data)
            return cls(str(document["id"]), float(document["time_s"]), int(document["batch"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            # Written by something else: as if by a process that has died long ago.
            return cls("", 0.0)

    def refresh(self, store: Store, batch: int, now: Clock) -> Self:
        """Say that the sweep goes on.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The pool.
        batch : int
            The batch that begins, or 0.
        now : callable
            Tells the time.

        Returns
        -------
        Lease
            As it is now.

        Raises
        ------
        StoreError
            Another process has taken it over.
        """
        found = self.read(store)
        if found is None or found.id != self.id:
            raise StoreError(
                f"another process took over sweeping {stores.describe(store)}, because this one was not heard of "
                f"for {_STALE_S:.0f} s; leave it to the other"
            )
        renewed = replace(self, time_s=now(), batch=batch)
        stores.put(store, _KEY, renewed._to_json())
        return renewed

    def written(self, store: Store) -> float | None:
        """Tell what time it is by the store's clock.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The pool.

        Returns
        -------
        float or None
            When the lease was written, in seconds since 1970; None where the store does not tell.
        """
        return stores.list_objects(store, _PREFIX).get(_NAME, (0, None))[1]

    def release(self, store: Store) -> None:
        """Let others sweep.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The pool.
        """
        found = self.read(store)
        if found is not None and found.id == self.id:
            stores.delete(store, _KEY)

    def _to_json(self) -> bytes:
        return json.dumps({"id": self.id, "time_s": self.time_s, "batch": self.batch}).encode("ascii")


def wait_for_sweep(
    pool_root: str, *, now: Clock = time.time, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until no block is being deleted by a sweep that does not know of this run.

    Parameters
    ----------
    pool_root : str
        The pool.
    now, sleep : callable, optional
        The clock.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request where nobody sweeps. The run's record lies in the store already: whichever batch begins after this call
    sees it, so only the one in flight is waited for, at most for twice `BATCH_S`.

    Examples
    --------
    >>> wait_for_sweep("memory://doc-wait")
    """
    store = stores.open(pool_root)
    first = Lease.read(store)
    found = first
    while (
        found is not None
        and first is not None
        and found.batch > 0
        and (found.id, found.batch) == (first.id, first.batch)
        and abs(now() - first.time_s) < 2 * BATCH_S
    ):
        sleep(0.2)
        found = Lease.read(store)

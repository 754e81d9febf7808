"""Turns: of several processes that change one entry's table, one after another does."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import entry_key
from daskcache.config import Settings
from daskcache.errors import StoreError

__all__ = ["Turn", "take_turn"]

_STALE_S = 300.0
"""Seconds after which the turn of a process on another machine is that of one which has died."""

_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Turn:
    """The own turn."""

    store: Store
    """Where it is noted."""
    key: str
    """Under which key."""
    id: str
    """Tells it from others."""

    def check(self) -> None:
        """See that nobody has taken it away.

        Raises
        ------
        StoreError
            Another process has, because this one took too long.
        """
        found = _read(self.store, self.key)
        if found is None or found.get("id") != self.id:
            raise StoreError(
                f"another process has begun to write this table, because this one took more than {_STALE_S:.0f} s; "
                "call again"
            )


@contextmanager
def take_turn(settings: Settings, entry: str, *, patience_s: float = 2 * _STALE_S) -> Iterator[Turn]:
    """Wait until no other process changes the table of an entry, and keep others waiting.

    Parameters
    ----------
    settings : Settings
        The store and namespace.
    entry : str
        The name.
    patience_s : float, optional
        How long to wait at most.

    Yields
    ------
    Turn
        To be checked once more before anything is published.

    Raises
    ------
    StoreError
        Others never finished, or the store takes no writes.

    Notes
    -----
    Three requests where nobody else is there. The turn of a process that has died is taken over: at once on its own machine,
    otherwise after five minutes.

    Examples
    --------
    >>> with take_turn(Settings("memory://doc-turns"), "table") as turn:
    ...     turn.check()
    """
    store = stores.open(settings.store)
    key = entry_key(settings.namespace, entry, "turn")
    own = Turn(store, key, uuid.uuid4().hex)
    started = time.monotonic()
    while not stores.create(store, key, _describe(own.id)):
        other = _read(store, key)
        if other is not None and _is_dead(other):
            # Of two that notice, the one is first whose note is left after a moment.
            stores.put(store, key, _describe(own.id))
            time.sleep(4 * _PAUSE_S)
            left = _read(store, key)
            if left is not None and left.get("id") == own.id:
                break
        if time.monotonic() - started > patience_s:
            raise StoreError(f"another process has been writing the table of {entry} for {patience_s:.0f} s")
        time.sleep(_PAUSE_S)
    try:
        yield own
    finally:
        found = _read(store, key)
        if found is not None and found.get("id") == own.id:
            stores.delete(store, key)


def _describe(id_: str) -> bytes:
    note = {"id": id_, "host": socket.gethostname(), "pid": os.getpid(), "time_s": time.time()}
    return json.dumps(note).encode("ascii")


def _read(store: Store, key: str) -> dict[str, Any] | None:
    data = stores.get(store, key)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except ValueError:
        # Nobody's: as if of one that has died long ago.
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(note: dict[str, Any]) -> bool:
    pid, written = note.get("pid"), note.get("time_s")
    if not isinstance(pid, int) or not isinstance(written, int | float):
        return True
    if note.get("host") == socket.gethostname() and pid != os.getpid():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it is there, and another user's
    return time.time() - written > _STALE_S

"""What this process has stored because somebody computed it, until it is listed so that others find it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from daskcache import cluster
from daskcache.catalog import Listed, put_pack
from daskcache.errors import StoreError, warn_of_defect, warn_once
from daskcache.fingerprint.watch import Watch
from daskcache.listing import Listing
from daskcache.pool import StoredBlock
from daskcache.weighed import Weighed, merge, to_counts
from daskcache.writing import unstored_in

__all__ = ["Spot", "expect", "list_pending", "list_with", "note_done", "note_stored", "note_weighed"]

Spot = tuple[str, str]
"""Where a block is listed: a root and a namespace."""

logger = logging.getLogger("daskcache")

_FLUSH_S = 2.0
"""How long what is stored waits at most for its listing to begin; at least a hundredth of that, and after the first block
of a run a fortieth, so that what is over by then is listed once."""
_COSTLIER = 10
"""How many times as long as a listing took none follows, so that listing takes about a tenth of a process's time."""
_MOST = 8


@dataclass(slots=True, eq=False)
class _Journal:
    """What this process has stored in one run and not listed: of a run that is killed that is lost."""

    run: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    listing: threading.Lock = field(default_factory=threading.Lock)
    pending: dict[Spot, list[Listed]] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)
    awaited: set[bytes] = field(default_factory=set)
    watch: Watch = field(default_factory=Watch)
    due_s: float | None = None
    """When what is pending is listed, by a thread of its own if need be; None before the first block."""
    free_s: float = 0.0
    """When a task may list. Later only where a listing takes so long that a tenth of the time is more than may pass."""
    has_timer: bool = False

    def note(self, block: Listed, spot: Spot) -> None:
        with self.lock:
            self.pending.setdefault(spot, []).append(block)
            now = time.monotonic()
            if self.due_s is None:
                self.due_s = self.free_s = now + _pause_s(_FLUSH_S / 40)
            may_list = now >= self.free_s
        _list_when_this_process_ends()
        # Here and not in a thread of its own, so that a block is listed when its task is done. Who finds another at it does
        # not wait: his block is listed with all that come meanwhile.
        if may_list and not self.listing.locked():
            with self.listing:
                # Two may have come at once.
                if time.monotonic() >= self.free_s:
                    self._list({})
        self._set_timer()

    def _set_timer(self) -> None:
        with self.lock:
            if not self.pending or self.has_timer or self.due_s is None:
                return
            self.has_timer = True
            timer = threading.Timer(max(self.due_s - time.monotonic(), 0.0), self._list_by_time)
        timer.daemon = True
        # At the interpreter's end none starts, and the rest is listed.
        with contextlib.suppress(RuntimeError):
            timer.start()

    def _list_by_time(self) -> None:
        with self.listing:
            with self.lock:
                self.has_timer = False
                # Others may have listed since it was set, or while it waited for them.
                is_due = self.due_s is not None and time.monotonic() >= self.due_s
            if is_due:
                self._list({})
        self._set_timer()

    def done(self, token: bytes) -> None:
        with self.lock:
            is_last = self.awaited == {token}
            self.awaited.discard(token)
        if is_last:
            self.flush()

    def flush(self, more: Mapping[Spot, Sequence[Listed]] | None = None) -> None:
        # Who comes while another thread lists waits until that is done, because what he wants found is in its hands.
        with self.listing:
            self._list(more or {})

    def _list(self, more: Mapping[Spot, Sequence[Listed]]) -> None:
        start = time.monotonic()
        with self.lock:
            if not self.pending and not more:
                return
            taken, self.pending = self.pending, {}
            weighed, self.weighed = self.weighed, {}
        try:
            known = {row.block.token for rows in taken.values() for row in rows}
            targets = dict(taken)
            for spot, rows in more.items():
                new = [row for row in rows if row.block.token not in known]
                if new:
                    targets[spot] = [*targets.get(spot, ()), *new]
            _list_stored(targets, self.run, weighed, self.watch)
        except BaseException:
            # Ctrl-C: what is left is listed when the process ends.
            with self.lock:
                for spot, rows in taken.items():
                    self.pending.setdefault(spot, []).extend(rows)
                for layer, found in weighed.items():
                    self.weighed = merge(self.weighed, to_counts(layer, found))
            raise
        finally:
            now = time.monotonic()
            _took_s[0] = now - start
            with self.lock:
                self.due_s = now + _pause_s(_FLUSH_S / 100)
                self.free_s = max(self.due_s, now + _COSTLIER * _took_s[0])


_took_s = [0.0]
"""What the last listing of this process took, of whatever run: for the first of the next one."""


def _pause_s(least_s: float) -> float:
    return min(max(_COSTLIER * _took_s[0], least_s), _FLUSH_S)


def expect(run: str, tokens: Iterable[bytes], watch: Watch, *, elsewhere: bool = False) -> None:
    """Say which blocks a run is going to store, so that they are listed as soon as this process has all of them.

    Parameters
    ----------
    run : str
        The run's id.
    tokens : iterable of bytes
        The tokens of the blocks that no task of the run lists.
    watch : Watch
        What was seen of the sources. Nothing is listed when they are not as they were.
    elsewhere : bool, optional
        Whether other processes may have some of them: the workers of the scheduler that runs in this one.
    """
    journal = _journal_of(run)
    with journal.lock:
        journal.awaited.update(tokens)
        journal.watch = watch
    if elsewhere:
        _is_elsewhere.set()


def note_stored(run: str, block: StoredBlock, namespace: str, checksum: int) -> None:
    """Remember a block that lies in the store, for the next pack that this process makes.

    Parameters
    ----------
    run : str
        The run's id.
    block : StoredBlock
        The block.
    namespace : str
        Where it is to be listed.
    checksum : int
        Of its object; 0 where that is not known.
    """
    _journal_of(run).note(Listed(block, checksum), (block.root, namespace))


def note_done(run: str, token: bytes) -> None:
    """Note that a task of a run has stored its block, or has let it be; the last one lists what all have stored.

    Parameters
    ----------
    run : str
        The run's id.
    token : bytes
        The block's token.
    """
    _journal_of(run).done(token)


def note_weighed(run: str, layer: str, found: Weighed) -> None:
    """Remember what a block cost, for the next pack that this process makes.

    Parameters
    ----------
    run : str
        The run's id.
    layer : str
        The block's layer, as people see it.
    found : Weighed
        What was measured.
    """
    journal = _journal_of(run)
    with journal.lock:
        journal.weighed = merge(journal.weighed, to_counts(layer, found))


def list_with(run: str, more: Mapping[Spot, Sequence[Listed]], watch: Watch) -> None:
    """List what this process has stored in a run, and blocks that others have. A store that fails costs the list only.

    Parameters
    ----------
    run : str
        The run's id.
    more : mapping of tuple to sequence of Listed
        The others' blocks.
    watch : Watch
        What was seen of the sources.
    """
    journal = _journal_of(run)
    journal.watch = watch
    journal.flush(more)


def list_pending() -> None:
    """List all that this process has stored and not listed, and its workers, so that it is found from now on."""
    _list_own()
    if _is_elsewhere.is_set() and cluster.tell_workers(_list_on_worker):
        _is_elsewhere.clear()


def _list_own() -> None:
    with _lock:
        journals = list(_journals.values())
    for journal in journals:
        journal.flush()


async def _list_on_worker() -> None:
    # Not the workers' as well: one in the scheduler's process would ask itself, and wait for the answer.
    await asyncio.to_thread(_list_own)


def _list_stored(
    targets: Mapping[Spot, Sequence[Listed]], run: str, weighed: Mapping[str, Weighed], watch: Watch
) -> None:
    try:
        changed = watch.find_changed()
        if changed is not None:
            warn_once(
                f"what was stored is not listed, so that it is not found: {changed}",
                about=unstored_in(run),
            )
            return
        for (root, namespace), rows in targets.items():
            listing = Listing(root)
            listing.look_ahead(row.block for row in rows)
            stored = ((listing.find(row.block), row.checksum) for row in rows)
            listed = [Listed(block, checksum) for block, checksum in stored if block is not None]
            put_pack(root, namespace, listed, weighed)
    except Exception as error:  # noqa: BLE001  (a cache only helps, also where it is wrong)
        if not threading.main_thread().is_alive():
            # At the interpreter's end no thread starts, and a store may need one.
            logger.info("what was stored last is not listed: %s", error)
        elif isinstance(error, StoreError):
            warn_once(
                f"the result is right, but what was stored of it is not listed: {error}",
                about=unstored_in(run),
            )
        else:
            warn_of_defect("what was stored is not listed", error)


_journals: dict[str, _Journal] = {}
_lock = threading.Lock()
_is_elsewhere = threading.Event()
_listed_at_end: set[int] = set()


def _journal_of(run: str) -> _Journal:
    with _lock:
        if run not in _journals:
            while len(_journals) >= _MOST:
                # One that waits for something is listed late, not never.
                idle = (name for name, journal in _journals.items() if not journal.pending)
                del _journals[next(idle, next(iter(_journals)))]
            _journals[run] = _Journal(run)
        return _journals[run]


def _list_when_this_process_ends() -> None:
    """Have this process list what is left: its timers end with it, and nobody else knows."""
    if os.getpid() in _listed_at_end:
        return
    _listed_at_end.add(os.getpid())
    if multiprocessing.parent_process() is not None:
        # Processes of a pool or of a cluster leave without asking `atexit`.
        multiprocessing.util.Finalize(None, list_pending, exitpriority=10)
    else:
        atexit.register(_list_rest, os.getpid())


def _list_rest(process: int) -> None:
    # A fork calls it, too, and has locks that nobody will let go.
    for journal in list(_journals.values()) if os.getpid() == process else ():
        journal.flush()

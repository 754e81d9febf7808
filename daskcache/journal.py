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
"""How long what is stored waits at most; a quarter of that at the beginning of a run, which may be short."""
_BEGINNING_S = 20.0
_MOST = 8


@dataclass(slots=True, eq=False)
class _Journal:
    """What this process has stored in one run and not listed: of a run that is killed the rest is lost."""

    run: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    listing: threading.Lock = field(default_factory=threading.Lock)
    pending: dict[Spot, list[Listed]] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)
    awaited: set[bytes] = field(default_factory=set)
    watch: Watch = field(default_factory=Watch)
    began_s: float = field(default_factory=time.monotonic)

    def note(self, block: Listed, spot: Spot) -> None:
        with self.lock:
            is_first = not self.pending
            self.pending.setdefault(spot, []).append(block)
        if is_first:
            _list_when_this_process_ends()
            # One document for all that some seconds bring.
            share = min(max((time.monotonic() - self.began_s) / _BEGINNING_S, 0.25), 1.0)
            timer = threading.Timer(_FLUSH_S * share, self.flush)
            timer.daemon = True
            with contextlib.suppress(
                RuntimeError
            ):  # at the interpreter's end none starts, and the rest is listed
                timer.start()

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
        with self.lock:
            pending, self.pending = self.pending, {}
        known = {row.block.token for rows in pending.values() for row in rows}
        for spot, rows in more.items():
            new = [row for row in rows if row.block.token not in known]
            if new:
                pending.setdefault(spot, []).extend(new)
        if not pending:
            return
        changed = self.watch.find_changed()
        if changed is not None:
            warn_once(
                f"what was stored is not listed, so that it is not found: {changed}",
                about=unstored_in(self.run),
            )
            return
        with self.lock:
            weighed, self.weighed = self.weighed, {}
        _list_stored(pending, self.run, weighed)


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


def _list_stored(targets: Mapping[Spot, Sequence[Listed]], run: str, weighed: Mapping[str, Weighed]) -> None:
    try:
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

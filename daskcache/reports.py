"""What tasks tell of the run that they belong to: in one process at once, on a cluster by events."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from daskcache import cluster
from daskcache.runs import COUNTS, Figures, begin, find_run
from daskcache.weighed import is_weighed

__all__ = ["announce", "checksums_elsewhere", "checksums_here", "note", "note_checksum", "receive"]

_FLUSH_S = 0.2
_KEPT = 8
_ID_BYTES, _ROW_BYTES = 20, 24
_PLANNED = ("kind", "store", "namespace", "entry", "blocks", "wanted", "loaded")

ORIGIN = uuid.uuid4().hex[:8]
"""Names this process."""

_lock = threading.Lock()


def name_run(origin: str) -> str:
    """Give a computation an id.

    Parameters
    ----------
    origin : str
        `ORIGIN` of the process that wants it; empty for this one.

    Returns
    -------
    str
        32 hex digits, of which the first tell that process its own runs from those of others on its cluster.

    Examples
    --------
    >>> name_run("")[:8] == ORIGIN, len(name_run("0123abcd"))
    (True, 32)
    """
    return (origin or ORIGIN) + uuid.uuid4().hex[8:]


def announce(figures: Figures, *, elsewhere: bool) -> None:
    """Keep a computation whose graph was planned; where that was on a scheduler, tell the clients.

    Parameters
    ----------
    figures : Figures
        What was planned.
    elsewhere : bool
        Whether the graph came from another process.
    """
    if not elsewhere:
        begin(figures)
        return
    sender = cluster.scheduler()
    message = {"run": figures.id, **{name: getattr(figures, name) for name in _PLANNED}}
    if sender is None:
        receive(message)  # a cluster in the client's own process
    else:
        cluster.send(message, sender)


def receive(message: Mapping[str, Any]) -> None:
    """Take in what a scheduler or a worker tells of a run.

    Parameters
    ----------
    message : mapping
        Of ``run``, with what was planned or with counts.
    """
    run = message.get("run")
    if not isinstance(run, str):
        return
    found = find_run(run)
    if found is None and not run.startswith(ORIGIN):
        return  # of another client
    if "kind" in message:
        values = {name: message[name] for name in _PLANNED if name in message}
        if found is None:
            begin(Figures(run, **values))
        else:
            found.settle(**values)
        return
    if found is None:
        # Events of workers do not wait for those of the scheduler.
        found = begin(Figures(run, kind="compute"))
    found.add({name: value for name, value in message.items() if name in COUNTS or is_weighed(name)})


class _Sender:
    """What the tasks of one worker did since it told last, by run."""

    def __init__(self, worker: weakref.ref[Any]) -> None:
        self._worker = worker
        self._counts: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def add(self, run: str, counts: Mapping[str, Any]) -> None:
        with self._lock:
            is_first = not self._counts
            self._counts.setdefault(run, Counter()).update(counts)
        if is_first:
            # One event for all that a moment brings: a message for each block would be a load of its own.
            timer = threading.Timer(_FLUSH_S, self._flush)
            timer.daemon = True
            timer.start()

    def _flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        worker = self._worker()
        for run, numbers in counts.items() if worker is not None else ():
            cluster.send({"run": run, **numbers}, worker)


_senders: weakref.WeakKeyDictionary[Any, _Sender] = weakref.WeakKeyDictionary()


def note(run: str, **counts: float) -> None:
    """Count what a task did.

    Parameters
    ----------
    run : str
        The run's id.
    **counts
        Of `Figures`.

    Notes
    -----
    On a worker, told to the cluster's clients under the topic ``daskcache``, several blocks at a time.
    """
    worker = cluster.worker()
    if worker is None:
        found = find_run(run)
        if found is not None:
            found.add(counts)
        return
    with _lock:
        sender = _senders.get(worker)
        if sender is None:
            sender = _senders[worker] = _Sender(weakref.ref(worker))
    sender.add(run, counts)


# An object's id and its checksum for each block, one after the other: a tenth of what a mapping takes.
_checksums: OrderedDict[str, bytearray] = OrderedDict()


def note_checksum(run: str, identity: str, checksum: int) -> None:
    """Remember the checksum of an object that a task of this process stored on its way.

    Parameters
    ----------
    run : str
        The run's id. The newest few are remembered.
    identity : str
        The object's name in its group, 40 hex digits.
    checksum : int
        `daskcache.chunks.checksum_of` it.
    """
    row = bytes.fromhex(identity) + checksum.to_bytes(_ROW_BYTES - _ID_BYTES, "little")
    with _lock:
        if run not in _checksums:
            while len(_checksums) >= _KEPT:
                _checksums.popitem(last=False)
            _checksums[run] = bytearray()
        _checksums[run] += row


def checksums_here(run: str) -> dict[str, int]:
    """Give what this process remembers of the objects that a run stored on its way.

    Parameters
    ----------
    run : str
        The run's id.

    Returns
    -------
    dict of str to int
        Checksums by the objects' names in their groups.

    Examples
    --------
    >>> note_checksum("doc-sums", "00" * 20, 5)
    >>> checksums_here("doc-sums")["00" * 20]
    5
    """
    return _read_rows(_rows_of(run))


def checksums_elsewhere(run: str) -> dict[str, int]:
    """Ask the other workers of the cluster that this task runs on, as `checksums_here` asks this process.

    Parameters
    ----------
    run : str
        The run's id.

    Returns
    -------
    dict of str to int
        Checksums by the objects' names in their groups; none where this is no worker. Those of workers that are gone or
        do not answer are missing.

    Notes
    -----
    One message to the scheduler, and one to each worker.

    Examples
    --------
    >>> checksums_elsewhere("doc-sums")
    {}
    """
    return _read_rows(b"".join(cluster.ask_workers(_rows_of, run)))


def _rows_of(run: str) -> bytes:
    with _lock:
        return bytes(_checksums.get(run, b""))


def _read_rows(rows: bytes) -> dict[str, int]:
    starts = range(0, len(rows), _ROW_BYTES)
    return {
        rows[at : at + _ID_BYTES].hex(): int.from_bytes(rows[at + _ID_BYTES : at + _ROW_BYTES], "little")
        for at in starts
    }

"""Blocks that can be computed again where their object turns out to be bad in the middle of a run."""

from __future__ import annotations

import io
import logging
import pickle
import threading
from collections.abc import Buffer, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.local import get_sync
from dask.utils import ensure_dict

from daskcache.chunks import Selection
from daskcache.dask_internals import GraphNode, Key, convert_legacy_graph
from daskcache.errors import CorruptChunkError, NotStoredError, StoreError, warn_once
from daskcache.graph import load_task
from daskcache.guards import guard_sources
from daskcache.listing import note_lost
from daskcache.plan import Plan
from daskcache.pool import StoredBlock, write_block
from daskcache.reports import note
from daskcache.tokens import GraphTokens
from daskcache.writing import Writer

__all__ = ["PACKED_BYTES", "PACKED_TASKS", "Find", "RecoverableBlock", "Recovery"]

logger = logging.getLogger("daskcache")

PACKED_TASKS = 64
"""The largest sub-graph that travels with a load to another process, in tasks."""
PACKED_BYTES = 32 * 2**10
"""The largest that does, pickled."""
_PACKED_BYTES_OF_RUN = 32 * 2**20
_PACKED_GRAPH = 50_000

Find = Callable[[Key, bytes], StoredBlock | None]
"""Gives, for a key and its token, the stored block that may take its place, or None."""


class _Remedy(Protocol):
    """What gives the block whose object is bad."""

    def recompute(self, block: StoredBlock, error: Exception) -> np.ndarray[Any, Any]: ...

    def packed(self, block: StoredBlock) -> _Packed | None: ...

    @property
    def writes(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RecoverableBlock(StoredBlock):
    """A stored block that stands for a task of a known graph: where its object is bad, the task is run.

    In the process that made it, it refers to the graph. On its way to another it takes the task with it, and what that
    needs, if they are small; else it goes as a block of which nothing but a failure is told, to the next run.
    """

    remedy: _Remedy | None = None
    """Computes the block."""

    def _read(self, selection: Selection) -> np.ndarray[Any, Any]:
        try:
            return StoredBlock._read(self, selection)
        except (NotStoredError, StoreError) as error:
            if self.remedy is None:
                raise
            value = self.remedy.recompute(_plain(self), error)
            return selection.apply(value.reshape(self.shape) if value.ndim != self.ndim else value)

    def __reduce__(self) -> tuple[Any, ...]:
        _, fields = StoredBlock.__reduce__(self)
        packed = self.remedy.packed(self) if self.remedy is not None else None
        if packed is not None:
            return RecoverableBlock, (*fields, packed)
        return (_LostBlock if self.remedy is not None and self.remedy.writes else StoredBlock), fields


class _LostBlock(StoredBlock):
    """A stored block that nobody can compute where it is loaded: where its object is bad, the next run looks first."""

    __slots__ = ()

    def _read(self, selection: Selection) -> np.ndarray[Any, Any]:
        try:
            return StoredBlock._read(self, selection)
        except (NotStoredError, CorruptChunkError):
            note_lost(self)
            raise


class Recovery:
    """Computes blocks of one run again.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph before anything of it was replaced by loads.
    tokens : GraphTokens
        Its tokens.
    find : callable
        Gives, for a key and its token, the stored block that may take its place, or None.
    writer : Writer or None
        Checks blocks that are stored anew; None where nothing may be written.
    run : str
        The run's id: each run warns once in a process.

    Notes
    -----
    Costs nothing until a load fails. Then the tasks of the whole graph are made once, and those that the block needs
    are run in the thread that loads: from other stored blocks, and if one of these is bad as well, from the sources.
    So no recovery ever runs inside another one.
    """

    def __init__(
        self, dsk: HighLevelGraph, tokens: GraphTokens, find: Find, writer: Writer | None, run: str
    ) -> None:
        self._dsk = dsk
        self._tokens = tokens
        self._find = find
        self._writer = writer
        self._run = run
        # Tokens are not safe for several threads.
        self._lock = threading.Lock()
        self._bad: set[bytes] = set()
        self._tasks: Mapping[Key, GraphNode] | None = None
        self._packed: dict[Key, _Packed | None] = {}
        self._packed_bytes = 0

    @property
    def writes(self) -> bool:
        """Whether anything may be written."""
        return self._writer is not None

    def protect(self, plan: Plan) -> Plan:
        """Make the loads of a plan recoverable.

        Parameters
        ----------
        plan : Plan
            Of the same graph.

        Returns
        -------
        Plan
            The same otherwise.
        """
        # One for all: of tasks that have one token, each gives the value.
        remedy = _Live(self, {block.token: key for key, block in plan.loads.items()})
        loads = {
            key: RecoverableBlock(
                block.root,
                block.group,
                block.token,
                block.spec,
                block.shape,
                block.dtype,
                block.size_bytes,
                remedy,
            )
            for key, block in plan.loads.items()
        }
        return Plan(loads, plan.writes, plan.needed, plan.uncacheable)

    def recompute(self, key: Key, block: StoredBlock, error: Exception) -> np.ndarray[Any, Any]:
        """Compute a block whose object could not be read, and store it anew.

        Parameters
        ----------
        key : Hashable
            The task that it stands for.
        block : StoredBlock
            What could not be read.
        error : Exception
            Why.

        Returns
        -------
        numpy.ndarray
            The block.

        Raises
        ------
        NotStoredError, StoreError
            The error that was given: something that it is computed from lies in no graph and cannot be read either.
        SourceChangedError
            What it is computed from is not as it was when the run was planned.
        """
        with self._lock:
            self._bad.add(block.token)
        with _lock_of(block):
            try:
                # Another load may have been here first.
                return block[...]  # type: ignore[no-any-return]
            except (NotStoredError, StoreError) as again:
                logger.info("a block still cannot be read: %s", again)
            try:
                value = self._compute(key)
            except (NotStoredError, StoreError) as again:
                # It comes from something that was opened, of which nobody here knows how it was computed.
                raise error from again
            value = _store_anew(value, block, self._writer)
        _warn(self._run, error)
        return value

    def pack(self, key: Key) -> _Packed | None:
        """Give what another process needs to compute a block, where that is small.

        Parameters
        ----------
        key : Hashable
            The task that a load stands for.

        Returns
        -------
        _Packed or None
            None beyond `PACKED_TASKS` or `PACKED_BYTES`, 32 MiB in all, and for graphs of more than 50,000 tasks.
        """
        with self._lock:
            if key not in self._packed:
                self._packed[key] = self._pack(key)
            return self._packed[key]

    def _compute(self, key: Key) -> np.ndarray[Any, Any]:
        with self._lock:
            graph = self._cull(key, from_store=True)
        try:
            return _run(graph, key)
        except (NotStoredError, StoreError) as error:
            logger.info(
                "what a block is computed from cannot be read either, and is computed as well: %s", error
            )
        with self._lock:
            graph = self._cull(key, from_store=False)
        return _run(graph, key)

    def _pack(self, key: Key) -> _Packed | None:
        if self._packed_bytes > _PACKED_BYTES_OF_RUN:
            return None
        if self._tasks is None and sum(map(len, self._dsk.layers.values())) > _PACKED_GRAPH:
            return None
        graph = self._cull(key, from_store=True, limit=PACKED_TASKS)
        if len(graph) > PACKED_TASKS:
            return None
        data = _dump((graph, key, self._writer))
        if data is None:
            return None
        self._packed_bytes += len(data)
        return _Packed(self._run, data)

    def _cull(self, root: Key, *, from_store: bool, limit: int | None = None) -> dict[Key, GraphNode]:
        """Collect the tasks that a key needs; beyond the limit, some of them."""
        if self._tasks is None:
            # Guarded: a block of newer data must not be stored under an older token.
            guarded = guard_sources(self._dsk, self._tokens)
            self._tasks = convert_legacy_graph(ensure_dict(guarded))
        bad = {*self._bad, self._tokens.token(root)}
        found: dict[Key, GraphNode] = {}
        stack = [root]
        while stack:
            key = stack.pop()
            if key in found or key not in self._tasks:
                continue
            token = self._tokens.token(key) if from_store and key != root else None
            block = self._find(key, token) if token is not None and token not in bad else None
            if block is not None:
                found[key] = load_task(key, _plain(block))
            else:
                found[key] = self._tasks[key]
                stack.extend(found[key].dependencies)
            if limit is not None and len(found) > limit:
                break
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Live:
    """The tasks of the graph that this process holds, by token."""

    recovery: Recovery
    keys: Mapping[bytes, Key]

    def recompute(self, block: StoredBlock, error: Exception) -> np.ndarray[Any, Any]:
        return self.recovery.recompute(self.keys[block.token], block, error)

    def packed(self, block: StoredBlock) -> _Packed | None:
        return self.recovery.pack(self.keys[block.token])

    @property
    def writes(self) -> bool:
        return self.recovery.writes


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """A task and what it needs, pickled. It came with the graph, never from a store."""

    run: str
    data: bytes

    def recompute(self, block: StoredBlock, error: Exception) -> np.ndarray[Any, Any]:
        graph, key, writer = cloudpickle.loads(self.data)
        try:
            value = _run(graph, key)
        except (NotStoredError, StoreError) as again:
            raise error from again
        _warn(self.run, error)
        return _store_anew(value, block, writer)

    def packed(self, block: StoredBlock) -> _Packed:
        return self

    @property
    def writes(self) -> bool:
        return True


class _TooLargeError(Exception):
    """What is pickled is too large to travel."""


class _Bounded(io.RawIOBase):
    """A file that refuses to grow, so that a large array is not copied to find out that it is large."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if self.size > PACKED_BYTES:
            raise _TooLargeError
        self.parts.append(bytes(data))
        return size


def _dump(value: Any) -> bytes | None:
    for dump in (pickle.dump, cloudpickle.dump):
        file = _Bounded()
        try:
            dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)
        except _TooLargeError:
            return None
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
            # A run does not fail because its remedy cannot travel.
            logger.debug("a block's task cannot be pickled by %s: %s", dump.__module__, error)
            continue
        data = b"".join(file.parts)
        # Functions of the main module are pickled by name, which means others in another process.
        if dump is cloudpickle.dump or b"__main__" not in data:
            return data
    return None


def _run(graph: Mapping[Key, Any], key: Key) -> np.ndarray[Any, Any]:
    for held, node in graph.items():
        for other in node.dependencies:
            if other not in graph or other == held:
                raise NotStoredError(f"{other!r} is a future, which only its cluster can compute")
    # Without callbacks: those of the run that this is a part of count its own tasks.
    return np.asarray(get_sync(graph, key, callbacks=()))


_guard = threading.Lock()
_locks: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()


def _lock_of(block: StoredBlock) -> Any:
    """Give what only one thread of this process holds that computes a block, whatever graph its load is of.

    What one graph loads may be computed from a load of an older one, of the same block.
    """
    with _guard:
        return _locks.setdefault((block.root, block.key), threading.RLock())


def _store_anew(
    value: np.ndarray[Any, Any], block: StoredBlock, writer: Writer | None
) -> np.ndarray[Any, Any]:
    if writer is None or writer.refusal(value, block):
        return value
    try:
        receipt = write_block(block.root, block.group, block.token, block.spec, value)
        return np.asarray(block) if receipt.conflict else value
    except (NotStoredError, StoreError) as error:
        # It has been said that the store is not well.
        logger.info("a block was computed again, but not stored: %s", error)
        return value


def _plain(block: StoredBlock) -> StoredBlock:
    return StoredBlock(*StoredBlock.__reduce__(block)[1])


def _warn(run: str, error: Exception) -> None:
    note(run, lost=1)
    logger.info("computing a block again: %s", error)
    warn_once(
        f"a stored block could not be read and was computed again, the result is right: {error}",
        about=f"recovery {run}",
    )

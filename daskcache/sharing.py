"""Two runs at once: a task looks whether its block was stored meanwhile, before it does the costly part."""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from itertools import count
from typing import Any, Literal

from zarr.storage import LocalStore, MemoryStore

from daskcache import journal, stores
from daskcache.catalog import TokenIndex, read_packs
from daskcache.dask_internals import (
    GETTERS,
    Alias,
    DataNode,
    GraphNode,
    Key,
    Task,
    TaskRef,
    execute_graph,
    execute_subgraph,
)
from daskcache.errors import NotStoredError, StoreError
from daskcache.graph import ONLY_ELEMENT, find_calls, read_only_element
from daskcache.manifest import Manifest
from daskcache.outputs import OutputPlace, keep_output
from daskcache.pool import StoredBlock, look_up
from daskcache.reports import note
from daskcache.tokens.collecting import without_collecting
from daskcache.writing import Writer, keep_block, store_block

__all__ = ["STORING", "look_first", "run_looking"]

logger = logging.getLogger("daskcache")

STORING = (store_block, keep_block, keep_output)
"""Functions by which tasks store blocks."""

COSTLIER = 10
"""How many looks a block must cost to be looked for."""

Check = tuple[StoredBlock | OutputPlace, Writer, Literal["receipt", "block", "input"] | bytes]
"""Where a task's block belongs, the run's checks, and what the task gives: a receipt, the block, or the block to one that
stores it; the token of a block whose form is known only when it is there."""


@without_collecting
def look_first(dsk: Any, keys: Set[Key], among: Iterable[Key] | None = None) -> Any:
    """Make each task that stores a block look for it first.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        What dask's optimizer has made of a graph, with linear chains fused.
    keys : set of Hashable
        The keys that are wanted.
    among : iterable of Hashable, optional
        Keys with all tasks that store, where somebody has looked for them.

    Returns
    -------
    HighLevelGraph or Mapping
        The same but for tasks that end in a store task or lead through one: of these, all that was fused in front of
        the store task is run only where the block is not there. `dsk` itself where there is no such task.

    Notes
    -----
    That covers what becomes one task: chains in which each task has one input. Where several blocks come together, as
    in a mean or after a rechunk, what lies before that has run already. A block that is stored because a policy says so
    is looked for in what the namespace lists, which is read again now and then: its form is known only when it is there.

    Chains that need no other task are put into an order of the process's own, so that two runs that begin at once share
    the work; dask breaks ties by the keys' names. In one process a chain has one name, by which dask knows it again.
    """
    if not isinstance(dsk, dict):
        return dsk  # the user has switched dask's fusing off
    found = {key: dsk[key] for key in find_calls(dsk, STORING, among)}
    if not found:
        return dsk
    dependents: Counter[Key] | None = None
    result = dict(dsk)
    renamed: dict[Key, Key] = {}
    for key, node in found.items():
        if key not in result:
            continue  # a part of another by now
        names = _new_names()
        inner = _flatten(node, names)
        external = _inputs(inner)
        # By which dask knows what to put off until somebody needs it.
        produces = node.data_producer
        # dask leaves a producer alone where its store task has several dependents and came first. What a policy stores
        # has its own within it, and others may be weighed.
        while len(external) == 1 and node.func is not keep_output:
            (dep,) = external
            if dep not in result or dep in keys or result[dep].block_fusion:
                break
            if dependents is None:
                dependents = Counter(dep for node in dsk.values() for dep in node.dependencies)
            if dependents[dep] != 1:
                break
            before = result.pop(dep)
            produces = produces or before.data_producer
            inner.update(_flatten(before, names))
            external = _inputs(inner)
        checks = _checks(inner)
        if not checks:
            continue
        name = key
        if not external and type(key) is tuple and key not in keys:
            name = renamed[key] = (key[0], _number(key), *key[1:])
        del result[key]
        result[name] = _task(name, inner, key, checks, external, produces)
        if node.func is store_block:
            _let_producer_look(result, external, checks[key])
    if not renamed:
        return result
    # An alias has a name as well, by which dask would sort.
    for key, node in list(result.items()):
        if isinstance(node, Alias) and node.target in renamed and key not in keys:
            renamed[key] = renamed[node.target]
            del result[key]
    return {
        key: node.substitute(renamed) if not renamed.keys().isdisjoint(node.dependencies) else node
        for key, node in result.items()
    }


def _number(key: Key) -> int:
    """Give a number by which keys come in an order that other processes do not have."""
    return int.from_bytes(blake2b(f"{os.getpid()} {key!r}".encode(), digest_size=4, salt=_ORDER).digest())


_ORDER = os.urandom(blake2b.SALT_SIZE)


def _task(
    name: Key,
    inner: Mapping[Key, GraphNode],
    last: Key,
    checks: Mapping[Key, Check],
    inputs: Set[Key],
    produces: bool,
) -> Task:
    ordered = sorted(inputs, key=str)
    args = (inner, last, tuple(ordered), *map(TaskRef, ordered))
    return Task(name, run_looking, *args, checks=checks, _data_producer=produces)


def _let_producer_look(result: dict[Key, GraphNode], external: Set[Key], check: Check) -> None:
    """Make a task look whose block is stored by one task and used by others, so that it could not become one with it."""
    if len(external) != 1:
        return
    (key,) = external
    while isinstance(node := result.get(key), Alias):
        key = node.target
    if not isinstance(node, Task) or node.func in (run_looking, *GETTERS):
        return
    inner = _flatten(node, _new_names())
    result[key] = _task(key, inner, key, {key: (*check[:2], "input")}, _inputs(inner), node.data_producer)


def run_looking(
    inner: Mapping[Key, GraphNode],
    last: Key,
    inputs: Sequence[Key],
    *values: Any,
    checks: Mapping[Key, Check],
) -> Any:
    """Run the tasks that became one, but not those before a block that is stored by now.

    Parameters
    ----------
    inner : mapping of Hashable to GraphNode
        The tasks.
    last : Hashable
        Whose result is wanted.
    inputs : sequence of Hashable
        Keys of other tasks that these need.
    *values
        Their results.
    checks : mapping of Hashable to Check
        Tasks that store, and what they store.

    Returns
    -------
    object
        The result of `last`.
    """
    graph: dict[Key, GraphNode] = {}
    given = dict(zip(inputs, values, strict=True))
    missing: dict[Key, Check] = {}
    stack = [last]
    while stack:
        key = stack.pop()
        if key in graph:
            continue
        if key in given:
            graph[key] = DataNode(key, given[key])
            continue
        check = checks.get(key)
        if check is not None:
            found = _find(check)
            if found is not None:
                graph[key] = DataNode(key, found)
                continue
            missing[key] = check
        node = graph[key] = inner[key]
        stack.extend(node.dependencies)
    start = time.perf_counter()
    result = execute_graph(graph, keys=[last])[last]
    for target, writer, _ in missing.values():
        if isinstance(target, StoredBlock):
            _costs.add(target.root, _siblings(target, writer), time.perf_counter() - start)
    return result


# As a fused task's, its token is that of the last of its tasks.
run_looking.__daskcache_subgraph__ = True  # type: ignore[attr-defined]


def _siblings(target: StoredBlock, writer: Writer) -> str:
    """Name the blocks of a run that cost about the same."""
    return f"{writer.run} {target.group}"


def _find(check: Check) -> Any:
    """Give a block, or its receipt, where it is stored by now and is worth a look."""
    target, writer, gives = check
    if isinstance(target, OutputPlace):
        assert isinstance(gives, bytes)
        return _find_output(target, writer, gives)
    is_near = isinstance(stores.open(target.root), LocalStore | MemoryStore)
    if not is_near and not _costs.pays(target.root, _siblings(target, writer)):
        return None
    start = time.perf_counter()
    try:
        receipt = look_up(target)
        if not is_near:
            _costs.add(target.root, None, time.perf_counter() - start)
        if receipt is None:
            return None
        found = _read(target) if gives != "receipt" else receipt
    except (NotStoredError, StoreError):
        return None  # it is computed, and what is wrong with the store is told when it is written
    if gives != "input":
        note(writer.run, shared=1)
    return found


def _read(block: StoredBlock) -> Any:
    return block[(slice(None),) * block.ndim]


def _find_output(place: OutputPlace, writer: Writer, token: bytes) -> Any:
    """Give a block that another run has listed: nothing else tells its shape, for an object of its name may be padded."""
    block = _news_of(place.root, place.namespace, writer).find(token)
    is_only = block is not None and place.ndim == 0 and block.shape == ONLY_ELEMENT
    if block is None or not (is_only or block.ndim == place.ndim):
        return None
    try:
        found = read_only_element(block) if is_only else _read(block)
    except (NotStoredError, StoreError):
        return None
    note(writer.run, shared=1)
    journal.note_done(writer.run, token)
    return found


class _News:
    """What is listed in a namespace while a run lasts, read now and then."""

    def __init__(self, root: str, namespace: str, planned_s: float) -> None:
        self._root = root
        self._namespace = namespace
        self._since = planned_s - _SKEW_S
        self._packs: dict[str, Manifest] = {}
        self._index = TokenIndex(root, ())
        # What was listed when the run was planned is known to it.
        self._due_s = time.monotonic() + min(planned_s + _PAUSE_S - time.time(), _PAUSE_S)
        self._lock = threading.Lock()

    def find(self, token: bytes) -> StoredBlock | None:
        """Give the block that has a token; None also where it was listed just now."""
        if time.monotonic() >= self._due_s and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._index.get(token)

    def _look(self) -> None:
        start = time.monotonic()
        try:
            packs, errors = read_packs(self._root, self._namespace, since=self._since)
        except StoreError as error:
            packs, errors = self._packs, [error]
        for reason in errors:
            logger.info("what other runs have listed is not looked for: %s", reason)
        if packs.keys() != self._packs.keys():
            self._packs, self._index = packs, TokenIndex(self._root, packs.values())
        now = time.monotonic()
        self._due_s = now + max(_PAUSE_S, COSTLIER * (now - start))


def _news_of(root: str, namespace: str, writer: Writer) -> _News:
    place = (writer.run, root, namespace)
    with _news_lock:
        found = _news.pop(place, None) or _News(root, namespace, writer.planned_s)
        while len(_news) >= _MOST:
            del _news[next(iter(_news))]
        _news[place] = found
        return found


_PAUSE_S = 0.25
_SKEW_S = 60.0
"""By how much a store's clock may be behind. What was listed before a run was planned is only read in vain."""
_MOST = 8
_news: dict[tuple[str, str, str], _News] = {}
_news_lock = threading.Lock()


class _Costs:
    """What tasks and looks took lately in this process."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str | None], deque[float]] = {}
        self._lock = threading.Lock()

    def add(self, root: str, siblings: str | None, seconds: float) -> None:
        with self._lock:
            if len(self._seconds) > 10_000:
                self._seconds.clear()
            self._seconds.setdefault((root, siblings), deque(maxlen=15)).append(seconds)

    def pays(self, root: str, siblings: str) -> bool:
        """Whether siblings of a block cost far more than a look; where that is unknown, it is tried."""
        with self._lock:
            looks, tasks = self._seconds.get((root, None)), self._seconds.get((root, siblings))
            if not looks or not tasks:
                return True
            return statistics.median(tasks) >= COSTLIER * statistics.median(looks)


_costs = _Costs()


def _checks(inner: Mapping[Key, GraphNode]) -> dict[Key, Check]:
    """Find the tasks that store, of runs that may read what others have stored."""
    found: dict[Key, Check] = {}
    for key, node in inner.items():
        if isinstance(node, Task) and node.func is keep_output:
            place, token, writer = (_value(arg, inner) for arg in node.args[1:4])
            if isinstance(place, OutputPlace) and isinstance(writer, Writer) and writer.looks:
                found[key] = (place, writer, token)
        elif isinstance(node, Task) and node.func in (store_block, keep_block):
            target, writer = (_value(arg, inner) for arg in node.args[1:3])
            if isinstance(target, StoredBlock) and isinstance(writer, Writer) and writer.looks:
                found[key] = (target, writer, "block" if node.func is keep_block else "receipt")
    return found


def _value(arg: Any, graph: Mapping[Key, GraphNode]) -> Any:
    if isinstance(arg, TaskRef):
        arg = graph.get(arg.key)
    return arg.value if isinstance(arg, DataNode) else arg


def _inputs(inner: Mapping[Key, GraphNode]) -> set[Key]:
    return {dep for part in inner.values() for dep in part.dependencies} - inner.keys()


def _new_names() -> Iterator[Key]:
    """Give names that are no keys of the user's, who may well have numbers."""
    return (f"daskcache {number}" for number in count())


def _flatten(node: GraphNode, new_names: Iterator[Key]) -> dict[Key, GraphNode]:
    """Give the tasks that a task was fused of, also those of fused tasks among them, all but the last renamed."""
    if not isinstance(node, Task) or node.func is not execute_subgraph:
        return {node.key: node}
    graph, outkey, inkeys, *args = node.args
    names: dict[Key, Key] = {key: next(new_names) for key in graph}
    flat: dict[Key, GraphNode] = {}
    for inkey, arg in zip(inkeys, args, strict=True):
        if isinstance(arg, TaskRef):
            names[inkey] = arg.key
        else:
            name = names[inkey] = next(new_names)
            flat[name] = (
                arg.substitute({}, key=name) if isinstance(arg, Task) else DataNode(name, _value(arg, {}))
            )
    names[outkey] = node.key
    for key, part in graph.items():
        if isinstance(part, Alias):
            flat[names[key]] = Alias(names[key], names.get(part.target, part.target))
        else:
            flat.update(_flatten(part.substitute(names, key=names[key]), new_names))
    return flat

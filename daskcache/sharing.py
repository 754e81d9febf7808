"""Two runs at once: a task looks whether its block was stored meanwhile, before it does the costly part."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from itertools import count
from typing import Any, Literal

from zarr.storage import LocalStore, MemoryStore

from daskcache import journal, stores
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
from daskcache.errors import NotStoredError, StoreError, UncacheableError
from daskcache.outputs import Form, OutputPlace, form_of, keep_output
from daskcache.pool import StoredBlock, look_up
from daskcache.reports import note
from daskcache.writing import Writer, keep_block, store_block

__all__ = ["look_first", "run_looking"]

COSTLIER = 10
"""How many looks a block must cost to be looked for."""

Check = tuple[StoredBlock | OutputPlace, Writer, Literal["receipt", "block", "input"] | bytes]
"""Where a task's block belongs, the run's checks, and what the task gives: a receipt, the block, or the block to one that
stores it; the token of a block whose form is known only when it is there."""


def look_first(dsk: Any, keys: Set[Key]) -> Any:
    """Make each task that stores a block look for it first.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        What dask's optimizer has made of a graph, with linear chains fused.
    keys : set of Hashable
        The keys that are wanted.

    Returns
    -------
    HighLevelGraph or Mapping
        The same but for tasks that end in a store task or lead through one: of these, all that was fused in front of
        the store task is run only where the block is not there. `dsk` itself where there is no such task.

    Notes
    -----
    That covers what becomes one task: chains in which each task has one input. Where several blocks come together, as
    in a mean or after a rechunk, what lies before that has run already. A block that is stored because a policy says so
    is looked for in the forms that others of its layer had in this process: not the first one.

    Chains that need no other task are put into an order of the process's own, so that two runs that begin at once share
    the work; dask breaks ties by the keys' names. In one process a chain has one name, by which dask knows it again.
    """
    if not isinstance(dsk, dict):
        return dsk  # the user has switched dask's fusing off
    found = {key: node for key, node in dsk.items() if isinstance(node, Task) and _has_check(node)}
    if not found:
        return dsk
    dependents = Counter(dep for node in dsk.values() for dep in node.dependencies)
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
            if dep not in result or dependents[dep] != 1 or dep in keys or result[dep].block_fusion:
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
    formless = [key for key, (target, _, _) in missing.items() if isinstance(target, OutputPlace)]
    results = execute_graph(graph, keys=[last, *formless])
    for key, (target, writer, _) in missing.items():
        if isinstance(target, OutputPlace):
            _forms.add(_siblings(target, writer), form_of(results[key]))
        _costs.add(target.root, _siblings(target, writer), time.perf_counter() - start)
    return results[last]


# As a fused task's, its token is that of the last of its tasks.
run_looking.__daskcache_subgraph__ = True  # type: ignore[attr-defined]


def _siblings(target: StoredBlock | OutputPlace, writer: Writer) -> str:
    """Name the blocks of a run that cost about the same."""
    return f"{writer.run} {target.group if isinstance(target, StoredBlock) else target.function.hex()}"


def _find(check: Check) -> Any:
    """Give a block, or its receipt, where it is stored by now and is worth a look."""
    target, writer, gives = check
    store = stores.open(target.root)
    is_near = isinstance(store, LocalStore | MemoryStore)
    if not is_near and not _costs.pays(target.root, _siblings(target, writer)):
        return None
    if isinstance(target, OutputPlace):
        assert isinstance(gives, bytes)
        return _find_output(target, writer, gives)
    start = time.perf_counter()
    try:
        receipt = look_up(target)
        if not is_near:
            _costs.add(target.root, None, time.perf_counter() - start)
        if receipt is None:
            return None
        found = target[(slice(None),) * target.ndim] if gives != "receipt" else receipt
    except (NotStoredError, StoreError):
        return None  # it is computed, and what is wrong with the store is told when it is written
    if gives != "input":
        note(writer.run, shared=1)
    return found


def _find_output(place: OutputPlace, writer: Writer, token: bytes) -> Any:
    """Give a block in one of the forms that its siblings had. What lies under a token, in a form that tells, is that block."""
    for form in _forms.of(_siblings(place, writer)):
        try:
            target = place.block(token, form)
        except UncacheableError:
            continue
        found = _find((target, writer, "block"))
        if found is not None:
            journal.note_stored(writer.run, target, place.namespace, 0)
            journal.note_done(writer.run, token)
            return found.reshape(()) if form[0] is None else found
    return None


class _Forms:
    """What blocks of the same kind lately turned out to be in this process: inner ones, and those at an edge."""

    def __init__(self) -> None:
        self._found: dict[str, dict[Form, None]] = {}
        self._lock = threading.Lock()

    def add(self, siblings: str, form: Form | None) -> None:
        if form is None or not _tells(form):
            return
        with self._lock:
            if len(self._found) > 10_000:
                self._found.clear()
            found = self._found.setdefault(siblings, {})
            found.pop(form, None)
            while len(found) >= _FORMS:
                del found[next(iter(found))]
            found[form] = None

    def of(self, siblings: str) -> list[Form]:
        """Give the newest first."""
        with self._lock:
            return [*reversed(self._found.get(siblings, {}))]


def _tells(form: Form) -> bool:
    """Whether a block that lies in this form's place has this form.

    Blocks without elements lie nowhere, or everywhere. Times lie as integers of 8 bytes, and texts of all lengths as texts: a
    sibling may have been of another unit, or shorter.
    """
    shape, dtype = form
    return 0 not in (shape or ()) and dtype.kind not in "mMUT" and dtype.str[1:] != "i8"


_FORMS = 2
_forms = _Forms()


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


def _has_check(node: Task) -> bool:
    func = node.func
    if func is not execute_subgraph:
        return func is store_block or func is keep_block or func is keep_output
    for part in node.args[0].values():  # noqa: SIM110 -- of every graph that passes: a generator takes twice as long
        if isinstance(part, Task) and _has_check(part):
            return True
    return False


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

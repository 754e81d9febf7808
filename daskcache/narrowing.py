"""Reads of what is asked: selections that follow a read become a part of it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from dask.array.chunk import getitem

from daskcache.chunks import is_basic
from daskcache.dask_internals import (
    GETTERS,
    Alias,
    DataNode,
    GraphNode,
    Key,
    Task,
    TaskRef,
    execute_subgraph,
    getter,
    take,
)
from daskcache.graph import find_calls, name_layer
from daskcache.pool import StoredBlock
from daskcache.tokens.collecting import without_collecting

__all__ = ["narrow_reads"]

_SELECTIONS = (getitem, operator.getitem)

_Positions = int | range | np.ndarray[Any, Any]
_Box = tuple[range, ...]


@without_collecting
def narrow_reads(dsk: Any, wanted: Collection[Key] | None = None, among: Iterable[Key] | None = None) -> Any:
    """Let reads of stored blocks read what the selections behind them leave.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        What dask's optimizer has made of a graph, with linear chains fused.
    wanted : collection of Hashable, optional
        The keys that are wanted: what is read under one of them is read as it is. Where they are not known, reads that
        nothing needs any more stay in the graph, and schedulers leave them out.
    among : iterable of Hashable, optional
        Keys with all tasks that read, where somebody has looked for them.

    Returns
    -------
    HighLevelGraph or Mapping
        The same but for selections from a read that nothing else needs. Those within one task with the read become a
        part of it. Of those in other tasks, each reads its own part of a block with inner chunks, or one task reads the
        box around them, whichever takes fewer inner chunks. Keys that stay have the values that they had.

    Notes
    -----
    Selections are whole numbers, slices, new axes, and one list or array of whole numbers at a time, for which all
    between its least and its greatest is read. Costs a look at each task and what it needs, no request.

    Examples
    --------
    >>> narrow_reads({"x": DataNode("x", 1)})
    {'x': DataNode(1)}
    """
    if not isinstance(dsk, dict):
        return dsk  # the user has switched dask's fusing off
    changed: dict[Key, GraphNode] = {}
    reads: list[Key] = []
    for key in find_calls(dsk, GETTERS, among):
        read = dsk[key]
        if read.func is execute_subgraph:
            narrowed = _narrow(read, dsk)
            if narrowed is None:
                continue
            read = changed[key] = narrowed
        block = _literal(read.args[0]) if read.func in GETTERS else None
        if isinstance(block, StoredBlock) and block.spec.inner_shape is not None:
            reads.append(key)
    graph = {**dsk, **changed} if changed else dsk
    return _divide(graph, reads, wanted) if reads else graph


@dataclass(frozen=True, slots=True)
class _Part:
    """What selections leave of a block."""

    along: tuple[_Positions, ...]
    """Which positions along each of the block's dimensions."""
    axes: tuple[int | None, ...]
    """Which of these dimensions each of the result's is; None for a new one."""

    @classmethod
    def of(cls, sides: Sequence[range]) -> Self:
        """Give all of a box."""
        return cls(tuple(sides), tuple(range(len(sides))))

    @property
    def box(self) -> _Box:
        """All between the first and the last position along each dimension; no position of what is empty."""
        return tuple(map(_extent, self.along))

    def select(self, index: Any) -> Self | None:
        """Select from this; None where an index cannot become a part of a read."""
        given = index if isinstance(index, tuple) else (index,)
        parts = _expand(given, len(self.axes))
        if parts is None:
            return None
        along, axes, left = list(self.along), list[int | None](), iter(self.axes)
        for part in parts:
            axis = None if part is None else next(left)
            positions = range(1) if axis is None else along[axis]
            chosen = positions if part is None else _choose(positions, part)
            if chosen is None or (axis is None and not _is_only(chosen)):
                return None
            if axis is not None:
                along[axis] = chosen
            if not isinstance(chosen, int):
                axes.append(axis)
        # An ellipsis makes an array of what is a scalar without it.
        is_array = axes or not any(part is Ellipsis for part in given)
        return type(self)(tuple(along), tuple(axes)) if is_array else None

    def task(self, key: Key, source: DataNode | TaskRef, box: _Box | None = None) -> Task:
        """Make the task that takes it of a block, or of a box of the block that another task reads."""
        starts = [0] * len(self.along) if box is None else [side.start for side in box]
        first = tuple(map(_place, self.along, starts))
        steps: list[tuple[Any, ...]] = []
        for number, axis in enumerate(axis for axis in self.axes if axis is not None):
            positions = self.along[axis]
            if isinstance(positions, np.ndarray):
                steps.append((*(slice(None),) * number, positions - _extent(positions).start))
        if None in self.axes:
            steps.append(tuple(None if axis is None else slice(None) for axis in self.axes))
        names = [None] * len(steps) + [key]
        if isinstance(source, DataNode):
            # As loads are: no array is made of a scalar.
            task = Task(names[0], getter, source, DataNode(None, first), False, None, _data_producer=True)
        else:
            task = Task(names[0], getitem, source, DataNode(None, first))
        for name, step in zip(names[1:], steps, strict=True):
            task = Task(name, getitem, task, DataNode(None, step), _data_producer=task.data_producer)
        return task


def _expand(parts: tuple[Any, ...], ndim: int) -> tuple[Any, ...] | None:
    """Give an index one part for each dimension, besides new ones; None where it does more than select along each."""
    old = [part for part in parts if part is not None]
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    missing = ndim - len(old) + len(dots)
    if missing < 0 or len(dots) > 1:
        return None
    at = dots[0] if dots else len(parts)
    expanded = (*parts[:at], *(slice(None),) * missing, *parts[at + 1 :])
    others = [part for part in expanded if not isinstance(part, slice)]
    # numpy moves the dimension of a list that stands beside whole numbers, and takes two lists as pairs.
    is_along_each = len(others) == 1 or all(part is None or is_basic(part) for part in others)
    return expanded if is_along_each else None


def _choose(positions: _Positions, part: Any) -> _Positions | None:
    assert not isinstance(positions, int)
    try:
        if isinstance(part, slice):
            return positions[part]
        if is_basic(part):
            return int(positions[operator.index(part)])
        picks = np.asarray(part)
        if isinstance(part, list | np.ndarray) and picks.ndim == 1 and picks.dtype.kind in "iu":
            return np.asarray(positions)[picks]
    except (IndexError, TypeError, ValueError):
        pass  # the task itself will say what is wrong
    return None


def _is_only(chosen: _Positions) -> bool:
    """Tell whether the only position along a new axis was chosen, by no list."""
    return chosen == 0 if isinstance(chosen, int) else isinstance(chosen, range) and len(chosen) == 1


def _extent(positions: _Positions) -> range:
    if isinstance(positions, int):
        return range(positions, positions + 1)
    if len(positions) == 0:
        return range(0)
    if isinstance(positions, range):
        return range(min(positions[0], positions[-1]), max(positions[0], positions[-1]) + 1)
    return range(int(positions.min()), int(positions.max()) + 1)


def _place(positions: _Positions, start: int) -> int | slice:
    """Give the basic index of positions, or of what is around them, in what begins at `start`."""
    if isinstance(positions, int):
        return positions - start
    chosen = positions if isinstance(positions, range) else _extent(positions)
    if not chosen:
        return slice(0, 0)
    step = chosen.step if len(chosen) > 1 else 1
    stop = chosen[-1] - start + (1 if step > 0 else -1)
    return slice(chosen[0] - start, stop if stop >= 0 else None, None if step == 1 else step)


def _read(node: Any) -> tuple[StoredBlock, _Part] | None:
    """Give the block that a task reads by basic indices, and the part that they leave of it."""
    if not isinstance(node, Task) or node.func not in GETTERS:
        return None
    block, index = (_literal(arg) for arg in node.args[:2])
    if not isinstance(block, StoredBlock) or not isinstance(index, tuple) or not is_basic(index):
        return None
    part = _Part.of(tuple(map(range, block.shape))).select(index)
    return None if part is None else (block, part)


def _may_select(node: Any) -> bool:
    if isinstance(node, Task) and node.func is execute_subgraph:
        return isinstance(node.args[0], Mapping) and any(map(_may_select, node.args[0].values()))
    return isinstance(node, Alias) or (
        isinstance(node, Task) and (node.func in _SELECTIONS or node.func is take)
    )


def _select(node: Any, source: Key, part: _Part, graph: Any) -> _Part | None:
    """Give what a task leaves of a value; None where it does something else with it."""
    if isinstance(node, Alias):
        return part
    if not isinstance(node, Task) or len(node.args) != 2 or node.kwargs:
        return None
    is_take = node.func is take
    array, index = node.args
    if not (is_take or node.func in _SELECTIONS) or not isinstance(array, TaskRef) or array.key != source:
        return None
    if isinstance(index, TaskRef):
        index = graph.get(index.key)
    index = _literal(index)
    # By which dask takes lists: the index is the second of a pair.
    return part.select(index[1] if is_take and isinstance(index, tuple) else index)


def _literal(arg: Any) -> Any:
    return arg.value if isinstance(arg, DataNode) else arg


def _needs(arg: Any) -> Collection[Key]:
    return (arg.key,) if isinstance(arg, TaskRef) else getattr(arg, "dependencies", ())


class _Fused:
    """A task that was fused of several, to be looked into."""

    def __init__(self, node: Task, dsk: Mapping[Key, Any]) -> None:
        self.parts: Mapping[Key, Any] = node.args[0]
        self.last: Key = node.args[1]
        self.inputs: dict[Key, Any] = dict(zip(node.args[2], node.args[3:], strict=True))
        self._dsk = dsk
        self._users: dict[Key, list[Key]] = {}
        for key, part in self.parts.items():
            for dep in _needs(part):
                self._users.setdefault(dep, []).append(key)

    def get(self, key: Key) -> Any:
        """Give the task of a key that one of the parts needs."""
        found = self.parts[key] if key in self.parts else self.inputs.get(key)
        return self._dsk.get(found.key) if isinstance(found, TaskRef) else found

    def follow(self, start: Key, part: _Part) -> tuple[Key, _Part, list[Key]]:
        """Follow selections from a value that nothing else needs: the last, what it leaves, and all before it."""
        at, passed = start, list[Key]()
        while at != self.last and len(users := self._users.get(at, [])) == 1:
            selected = _select(self.parts[users[0]], at, part, self)
            if selected is None:
                break
            passed.append(at)
            at, part = users[0], selected
        return at, part, passed


def _narrow(node: Task, dsk: Mapping[Key, Any]) -> Task | None:
    """Narrow the reads within one task; None where there is nothing to narrow."""
    parts = dict(node.args[0])
    for key in node.args[0]:
        found = _read(parts.get(key))
        if found is None:
            continue
        fused = _Fused(node, dsk)
        at, part, passed = fused.follow(key, found[1])
        if at == fused.last:
            return part.task(node.key, DataNode(None, found[0]))
        if at != key:
            parts = {name: other for name, other in parts.items() if name not in passed}
            parts[at] = part.task(at, DataNode(None, found[0]))
    return _refuse(node, parts) if len(parts) < len(node.args[0]) else None


def _refuse(node: Task, parts: Mapping[Key, Any], *inputs: TaskRef) -> Task:
    """Give a fused task other parts, and let go of what none of them needs."""
    used = {dep for part in parts.values() for dep in _needs(part)}
    kept = [item for item in zip(node.args[2], node.args[3:], strict=True) if item[0] in used]
    kept += [(ref.key, ref) for ref in inputs]
    producer = node.data_producer or any(part.data_producer for part in parts.values())
    args = (parts, node.args[1], tuple(name for name, _ in kept), *(arg for _, arg in kept))
    return Task(node.key, node.func, *args, _data_producer=producer, **node.kwargs)


@dataclass(frozen=True, slots=True)
class _Use:
    """A read, or a task that selects from what was read."""

    key: Key
    """The task."""
    part: _Part
    """What it needs of the block."""
    at: Key | None = None
    """The selection within a fused task that goes on from there; None where what it needs is the task's value."""
    passed: Sequence[Key] = ()
    """What is not needed within it when that is read."""


_Uses = dict[Key, list[_Use]]
"""By the key of a read or selection that nothing else needs, the tasks that select from it."""


def _divide(dsk: dict[Key, Any], reads: Sequence[Key], wanted: Collection[Key] | None) -> dict[Key, Any]:
    """Let tasks that select from what another task reads read it."""
    dependents: dict[Key, list[Key]] = {}
    for key, node in dsk.items():
        if not isinstance(node, GraphNode):
            return dsk  # of another optimizer, and nobody knows what it needs
        for dep in node.dependencies:
            dependents.setdefault(dep, []).append(key)
    result = dict(dsk)
    left: set[Key] = set()
    for key in reads:
        users = dependents.get(key, ())
        # Of most reads something else is made, which is seen at once.
        found = _read(dsk[key]) if users and all(_may_select(dsk[user]) for user in users) else None
        if found is None:
            continue
        block, part = found
        root = _Use(key, part)
        uses = _find_uses(dsk, dependents, root, wanted or ())
        for use, box in _decide(uses, root, block):
            if box is None and use is not root:
                left |= dsk[use.key].dependencies
                _replace(result, use, block)
            elif box is not None:
                name = name_layer("part", str(use.key), str(box))
                result[name] = _Part.of(box).task(name, DataNode(None, block))
                left.update(*(dsk[child.key].dependencies for child in uses[use.key]))
                for child in uses[use.key]:
                    _replace(result, child, block, name, box)
    if wanted is not None and left:
        _let_go(result, left.difference(wanted), wanted)
    return result


def _find_uses(
    dsk: Mapping[Key, Any], dependents: Mapping[Key, Sequence[Key]], root: _Use, wanted: Collection[Key]
) -> _Uses:
    """Find what selects from a read, and from that in turn."""
    found: _Uses = {}
    pending = [root]
    for use in pending:
        if use.at is not None or use.key in wanted:
            continue
        uses = [_use(dsk, key, use) for key in dependents.get(use.key, ())]
        complete = [other for other in uses if other is not None]
        if uses and len(complete) == len(uses):
            found[use.key] = complete
            pending += complete
    return found


def _use(dsk: Mapping[Key, Any], key: Key, source: _Use) -> _Use | None:
    """Say what of a block a task needs that needs a part of it; None where that is the whole of that part."""
    node = dsk[key]
    if not isinstance(node, Task) or node.func is not execute_subgraph:
        part = _select(node, source.key, source.part, dsk)
        return None if part is None else _Use(key, part)
    if not isinstance(node.args[0], Mapping):
        return None
    fused = _Fused(node, dsk)
    names = [name for name, arg in fused.inputs.items() if source.key in _needs(arg)]
    if len(names) != 1 or not isinstance(fused.inputs[names[0]], TaskRef):
        return None
    at, part, passed = fused.follow(names[0], source.part)
    if at == names[0]:
        return None
    return _Use(key, part, None if at == fused.last else at, passed)


def _decide(uses: _Uses, root: _Use, block: StoredBlock) -> list[tuple[_Use, _Box | None]]:
    """Decide which tasks read, and which a box for those that select from them, so that few inner chunks are read."""
    order = [root]
    for use in order:
        order += uses.get(use.key, ())
    costs: dict[Key, int] = {}
    reads: dict[Key, _Box | None] = {}
    for use in reversed(order):
        own = costs[use.key] = _count(use.part.box, block)
        followers = uses.get(use.key)
        if not followers:
            reads[use.key] = None
            continue
        apart = sum(costs[other.key] for other in followers)
        box = _around([other.part.box for other in followers])
        together = _count(box, block)
        costs[use.key] = min(apart, together)
        if len(followers) > 1 and 0 < together <= apart:
            reads[use.key] = box if together < own else None
    found = []
    pending = [root]
    for use in pending:
        if use.key in reads:
            found.append((use, reads[use.key]))
        else:
            pending += uses[use.key]
    return found


def _count(box: _Box, block: StoredBlock) -> int:
    """Count the inner chunks that a box touches."""
    assert block.spec.inner_shape is not None
    sides = zip(box, block.spec.inner_shape, strict=True)
    return prod(side[-1] // length - side[0] // length + 1 if side else 0 for side, length in sides)


def _around(boxes: Sequence[_Box]) -> _Box:
    """Give the box around those that are not empty."""
    sides = zip(*([box for box in boxes if all(box)] or boxes), strict=True)
    return tuple(range(min(s.start for s in side), max(s.stop for s in side)) for side in sides)


def _replace(
    result: dict[Key, Any], use: _Use, block: StoredBlock, name: Key = None, box: _Box | None = None
) -> None:
    """Let a task read what it needs of a block, or select it from a box that a task of that name reads."""
    node = result[use.key]
    # The box is around what is not empty alone.
    is_read = box is None or not all(use.part.box)
    source = DataNode(None, block) if is_read else TaskRef(name)
    at = use.key if use.at is None else use.at
    task = use.part.task(at, source, None if is_read else box)
    if use.at is None:
        result[use.key] = task
        return
    parts = {key: part for key, part in node.args[0].items() if key not in use.passed}
    result[use.key] = _refuse(node, {**parts, at: task}, *((source,) if isinstance(source, TaskRef) else ()))


def _let_go(dsk: dict[Key, Any], left: Collection[Key], wanted: Collection[Key]) -> None:
    """Drop tasks that nothing needs any more."""
    uses: dict[Key, int] = {}
    for node in dsk.values():
        for dep in node.dependencies:
            uses[dep] = uses.get(dep, 0) + 1
    pending = list(left)
    while pending:
        key = pending.pop()
        if uses.get(key) or key not in dsk:
            continue
        for dep in dsk.pop(key).dependencies:
            uses[dep] -= 1
            if dep not in wanted:
                pending.append(dep)

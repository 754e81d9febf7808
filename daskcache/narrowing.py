"""Reads of what is asked: selections that follow a read become a part of it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dask.array.chunk import getitem
from dask.array.optimization import fuse_slice

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
)
from daskcache.pool import StoredBlock

__all__ = ["narrow_reads"]

_SELECTIONS = (getitem, operator.getitem)


def narrow_reads(dsk: Any) -> Any:
    """Let reads of stored blocks read what the selections behind them leave.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        What dask's optimizer has made of a graph, with linear chains fused.

    Returns
    -------
    HighLevelGraph or Mapping
        The same but for tasks in which basic selections follow a read. dask itself makes the first of several a part of
        it, and none behind a selection of all of a block.
    """
    if not isinstance(dsk, dict):
        return dsk  # the user has switched dask's fusing off
    changed: dict[Key, GraphNode] = {}
    for key, node in dsk.items():
        if isinstance(node, Task) and node.func is execute_subgraph and isinstance(node.args[0], Mapping):
            inner = _narrow(node.args[0], node.args[1])
            if inner is not None:
                changed[key] = Task(node.key, node.func, inner, *node.args[1:], **node.kwargs)
    return {**dsk, **changed} if changed else dsk


def _narrow(inner: Mapping[Key, Any], last: Key) -> dict[Key, Any] | None:
    if not any(_is_read(node) for node in inner.values()):
        return None
    uses = Counter(dep for node in inner.values() for dep in getattr(node, "dependencies", ()))
    uses[last] += 1
    graph = dict(inner)
    changed = False
    pending = list(graph)
    while pending:
        key = pending.pop(0)
        read = _follow(graph, key, uses)
        if read is None:
            continue
        target, passed = read
        block, first = (_literal(arg) for arg in graph[target].args[:2])
        try:
            index = fuse_slice(first, _literal(graph[key].args[1]))
        except NotImplementedError:
            continue
        for name in passed:
            del graph[name]
        graph[key] = Task(key, getter, DataNode(None, block), DataNode(None, index), False, None)
        changed = True
        # What selects from this may now be a part of it as well.
        pending = list(graph)
    return graph if changed else None


def _follow(graph: Mapping[Key, Any], key: Key, uses: Mapping[Key, int]) -> tuple[Key, list[Key]] | None:
    """Give the read that a selection selects from, and all that nothing else needs on the way to it."""
    node = graph.get(key)
    if not isinstance(node, Task) or node.func not in _SELECTIONS or len(node.args) != 2 or node.kwargs:
        return None
    source, index = node.args
    if not isinstance(source, TaskRef) or not is_basic(_literal(index)):
        return None
    target, passed = source.key, [source.key]
    while isinstance(graph.get(target), Alias):
        target = graph[target].target
        passed.append(target)
    is_read = _is_read(graph.get(target))
    return (target, passed) if is_read and all(uses[name] == 1 for name in passed) else None


def _is_read(node: Any) -> bool:
    """Tell whether a task reads a part of a stored block that basic indices name."""
    return (
        isinstance(node, Task)
        and node.func in GETTERS
        and isinstance(_literal(node.args[0]), StoredBlock)
        and isinstance(_literal(node.args[1]), tuple)
        and is_basic(_literal(node.args[1]))
    )


def _literal(arg: Any) -> Any:
    return arg.value if isinstance(arg, DataNode) else arg

"""In which order blocks are looked at, so that the inputs of most of them are known by then.

Without it each block is met before its inputs, and looked at again after them. Nothing but the time depends on the order.
"""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import GraphNode, Key, Task
from daskcache.tokens.blockwise import BlockwiseLayer

__all__ = ["list_inputs"]


def list_inputs(
    dsk: HighLevelGraph,
    layers: Mapping[str, BlockwiseLayer],
    nodes: Mapping[Key, Any],
    known: Collection[Key],
    is_value: Callable[[Key], bool],
    keys: Iterable[Key],
) -> list[tuple[str, list[Key]]]:
    """List tasks that some keys need, with these, by layer: those first that need no others.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph.
    layers : mapping
        Its blockwise layers.
    nodes : mapping
        The tasks and values of all its other layers.
    known : collection
        Keys that nothing need be done for.
    is_value : callable
        Tells whether a key of the graph stands for a value.
    keys : iterable of Hashable
        What is needed.

    Returns
    -------
    list of tuple
        Names of layers, and keys of theirs. No task that is not needed, and no value; but not all that are: where layers refer
        to each other in a circle, or tasks are written in an unusual way, some are left out.
    """
    try:
        order = [*graphlib.TopologicalSorter(dsk.dependencies).static_order()]
    except graphlib.CycleError:
        return []
    # By layer; of blockwise layers only those are here that are not needed as a whole.
    needed: dict[str, dict[Key, None]] = {name: {} for name in dsk.layers}
    whole: set[str] = set()
    _add(needed, keys)
    found: list[tuple[str, list[Key]]] = []
    for name in reversed(order):
        layer = layers.get(name)
        blocks: Iterable[Key] = needed.get(name, ())
        if layer is not None and name in whole:
            blocks = itertools.product([name], *map(range, layer.shape))
        elif layer is not None:
            # A tuple that is an argument may only look like a key.
            blocks = [key for key in blocks if layer.has_block(key[1:])]
        fresh = [key for key in blocks if key not in known] if known else [*blocks]
        if layer is None:
            fresh = _list_tasks(fresh, nodes, is_value, needed)
        elif fresh and len(fresh) == math.prod(layer.shape):
            for source, numblocks in layer.arrays:
                if source in layers and layers[source].shape == numblocks:
                    whole.add(source)
                else:
                    _add(needed, itertools.product([source], *map(range, numblocks)))
        else:
            for key in fresh:
                _add(needed, layer.dependencies(key[1:]))
        if fresh:
            found.append((name, fresh))
    return found[::-1]


def _add(needed: Mapping[str, dict[Key, None]], keys: Iterable[Key]) -> None:
    """Need some keys, but for those whose first part names no layer."""
    for key in keys:
        layer = needed.get(key[0]) if type(key) is tuple and key else None
        if layer is not None:
            layer[key] = None


def _list_tasks(
    wanted: Iterable[Key],
    nodes: Mapping[Key, Any],
    is_value: Callable[[Key], bool],
    needed: Mapping[str, dict[Key, None]],
) -> list[Key]:
    """List the tasks among keys of a layer, after those that they need and a layer names otherwise than itself."""
    # Nearly all are tasks, which is seen without asking what a value is; and a call for each edge would take half of the time.
    found: dict[Key, None] = {}
    for key in wanted:
        if type(nodes.get(key)) is Task or (key in nodes and not is_value(key)):
            found[key] = None
    queue = [*found]
    for key in queue:
        node = nodes[key]
        for dep in node.dependencies if isinstance(node, GraphNode) else _references(node):
            layer = needed.get(dep[0]) if type(dep) is tuple and dep else None
            if layer is not None:
                layer[dep] = None
            elif dep not in found and dep in nodes and not is_value(dep):
                # A layer may name some of its tasks otherwise.
                found[dep] = None
                queue.append(dep)
    return queue[::-1]


def _references(node: Any) -> Iterator[Key]:
    """Find what may be keys in a task of the older form, a list of such, or another name of one."""
    if type(node) is tuple and node and callable(node[0]):
        parts: Iterable[Any] = node[1:]
    elif type(node) is list:
        parts = node
    else:
        parts = [node]
    for part in parts:
        if type(part) is list or (type(part) is tuple and part and callable(part[0])):
            yield from _references(part)
        elif type(part) is tuple and part and type(part[0]) is str:
            try:
                hash(part)
            except TypeError:
                continue
            yield part

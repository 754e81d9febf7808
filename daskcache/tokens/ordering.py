"""In which order blocks are looked at, so that the inputs of most of them are known by then.

Without it each block is met before its inputs, and looked at again after them. Nothing but the time depends on the order.
"""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import Alias, Key, Task
from daskcache.tokens.blockwise import BlockwiseLayer

__all__ = ["list_inputs"]

# Of one thing; what has more is left out.
_MOST_NAMES = 10


def list_inputs(
    dsk: HighLevelGraph | Mapping[Key, Any],
    layers: Mapping[str, BlockwiseLayer],
    nodes: Mapping[Key, Any],
    known: Collection[Key],
    keys: Iterable[Key],
) -> list[tuple[str, list[Key]]]:
    """List tasks that some keys need, with these, by layer: those first that need no others.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        The graph.
    layers : mapping
        Its blockwise layers.
    nodes : mapping
        The tasks and values of all its other layers.
    known : collection
        Keys that nothing need be done for.
    keys : iterable of Hashable
        What is needed.

    Returns
    -------
    list of tuple
        Names of layers, and keys of theirs. No task that is not needed, and no value; but not all that are: where a graph has no layers, layers refer to each other
        in a circle, or tasks are written in an unusual way, some are left out.
    """
    if not isinstance(dsk, HighLevelGraph):
        return []
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
            fresh = _list_tasks(fresh, nodes, layers, needed)
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


def _add(needed: Mapping[str, dict[Key, None]], keys: Iterable[Key]) -> list[Key]:
    """Need some keys; give those back whose first part names no layer."""
    others = []
    for key in keys:
        layer = needed.get(key[0]) if type(key) is tuple and key else None
        if layer is None:
            others.append(key)
        else:
            layer[key] = None
    return others


def _list_tasks(
    wanted: Iterable[Key],
    nodes: Mapping[Key, Any],
    layers: Mapping[str, BlockwiseLayer],
    needed: Mapping[str, dict[Key, None]],
) -> list[Key]:
    """List the tasks among keys of a layer, after those that they need and a layer names otherwise than itself."""
    found = {key: None for key in wanted if _is_task(key, nodes, layers)}
    queue = [*found]
    for key in queue:
        node = nodes[key]
        for dep in _add(needed, _references(node) if type(node) is tuple else node.dependencies):
            if dep not in found and _is_task(dep, nodes, layers):
                found[dep] = None
                queue.append(dep)
    return queue[::-1]


def _is_task(key: Key, nodes: Mapping[Key, Any], layers: Mapping[str, BlockwiseLayer]) -> bool:
    """Tell whether a key stands for something that is computed, maybe by another name of it."""
    node = nodes.get(key)
    for _ in range(_MOST_NAMES):
        kind = type(node)
        if kind is Task or (kind is tuple and node and callable(node[0])):
            return True
        target = node.target if isinstance(node, Alias) else node
        if kind is tuple and not _is_key(node, nodes, layers):
            return False
        if kind is not tuple and kind is not Alias:
            return False
        if target not in nodes:
            return True
        node = nodes[target]
    return False


def _is_key(value: Any, nodes: Mapping[Key, Any], layers: Mapping[str, BlockwiseLayer]) -> bool:
    try:
        return value in nodes or (
            bool(value) and value[0] in layers and layers[value[0]].has_block(value[1:])
        )
    except TypeError:
        # Not hashable.
        return False


def _references(node: Any) -> Iterator[Key]:
    """Find what may be keys in a task of the older form."""
    if type(node) is tuple and not callable(node[0]):
        # Another name.
        yield node
        return
    for arg in node[1:] if type(node) is tuple else node:
        if type(arg) is list or (type(arg) is tuple and arg and callable(arg[0])):
            yield from _references(arg)
        elif type(arg) is tuple and arg and type(arg[0]) is str:
            try:
                hash(arg)
            except TypeError:
                continue
            yield arg

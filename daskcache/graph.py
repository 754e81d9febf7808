"""Marks, loads and writes in a graph: what the pass puts in, and how it rewrites a graph by a plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence, Set
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import (
    Blockwise,
    BlockwiseDep,
    DataNode,
    GraphNode,
    Key,
    Task,
    TaskRef,
    as_collection,
    blockwise_token,
    convert_legacy_graph,
    execute_subgraph,
    getter,
)
from daskcache.doubles import find_blockwise
from daskcache.fingerprint import Digester
from daskcache.plan import Plan, Target
from daskcache.pool import StoredBlock

__all__ = [
    "ONLY_ELEMENT",
    "BlockLookup",
    "StoredBlocks",
    "find_calls",
    "keys_of",
    "load_array",
    "load_layer",
    "load_task",
    "name_layer",
    "read_only_element",
    "substitute",
]


ONLY_ELEMENT = (1,)
"""The shape in which an array without dimensions is stored."""


class StoredBlocks(BlockwiseDep):
    """The stored blocks of a layer, or what is known of blocks to be stored, each made when dask makes its task.

    Parameters
    ----------
    numblocks : tuple of int
        How many blocks the layer has along each dimension.
    block : callable
        Gives it for a tuple of block numbers; picklable.
    token : str
        What stands for all of it in dask's names.
    """

    produces_tasks = False

    def __init__(
        self,
        numblocks: tuple[int, ...],
        block: Callable[[tuple[int, ...]], Any],
        token: str,
    ) -> None:
        self.numblocks = numblocks
        self._block = block
        self._token = token

    def __getitem__(self, idx: tuple[int, ...]) -> Any:
        return self._block(idx)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return type(self).__name__, self._token


def load_layer(
    name: str,
    blocks: StoredBlocks,
    annotations: Mapping[str, Any] | None = None,
) -> Blockwise:
    """Make the layer that loads stored blocks, without making its tasks.

    Parameters
    ----------
    name : str
        The layer's name.
    blocks : StoredBlocks
        What is loaded.
    annotations : mapping, optional
        dask's annotations for the layer.

    Returns
    -------
    Blockwise
        Each task is dask's ``getter`` on a stored block, so that a selection behind it reads only what it needs.
    """
    ndim = len(blocks.numblocks)
    literal: Any = _whole(ndim)
    indices = tuple(f".{i}" for i in range(ndim))
    task = Task(
        name,
        getter,
        TaskRef(blockwise_token(0)),
        TaskRef(blockwise_token(1)),
        *_FLAGS,
        _data_producer=True,
    )
    return Blockwise(
        name,
        indices,
        task,
        [(blocks, indices), (literal, None)],
        numblocks={},
        annotations=annotations,
    )


def load_task(key: Key, block: StoredBlock) -> Task:
    """Make the task that loads one stored block.

    Parameters
    ----------
    key : Hashable
        The task's key.
    block : StoredBlock
        What is loaded.

    Returns
    -------
    Task
        A ``getter`` of dask's on the stored block.
    """
    if type(key) is tuple and len(key) == 1 and block.shape == ONLY_ELEMENT:
        return Task(key, read_only_element, DataNode(None, block))
    return Task(
        key,
        getter,
        DataNode(None, block),
        _whole_literal(len(block.shape)),
        *_FLAGS,
        _data_producer=True,
    )


def read_only_element(block: StoredBlock) -> Any:
    """Read an array without dimensions, which is stored with one, because what is stored without is a scalar.

    Parameters
    ----------
    block : StoredBlock
        Of shape `ONLY_ELEMENT`.

    Returns
    -------
    numpy.ndarray
        Without dimensions.
    """
    return np.asarray(block).reshape(())


read_only_element.__daskcache_transparent__ = True  # type: ignore[attr-defined]


def load_array(
    name: str,
    blocks: StoredBlocks,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
) -> da.Array:
    """Make the dask array that loads stored blocks.

    Parameters
    ----------
    name : str
        The array's name in dask.
    blocks : StoredBlocks
        What is loaded.
    chunks : tuple of tuple of int
        Lengths of the blocks along each dimension.
    dtype : numpy.dtype
        The blocks' dtype in memory.

    Returns
    -------
    dask.array.Array
        Lazy, one load per block.
    """
    graph = HighLevelGraph({name: load_layer(name, blocks)}, {name: set()})
    array: da.Array = as_collection(
        da.core.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))
    )
    return array


def substitute(
    dsk: HighLevelGraph,
    plan: Plan,
    write: Callable[[Key, Any, Target], Any] | None = None,
    write_all: Callable[[Blockwise, Mapping[tuple[int, ...], Target]], Blockwise] | None = None,
) -> HighLevelGraph:
    """Rewrite a graph by a plan, keeping it high level.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph; it is not changed.
    plan : Plan
        What to load and write.
    write : callable, optional
        Makes, of a key, its task and where its block goes, the task that also writes the block. Without it nothing is
        written.
    write_all : callable, optional
        Makes, of a blockwise layer and where the block of each index goes, the layer that also writes them all.

    Returns
    -------
    HighLevelGraph
        Layers that nothing needs are gone. A layer of which all needed blocks are stored is one ``Blockwise`` of
        loads; one of which some are, one materialised layer of the same name. The others are as they were.
    """
    wanted = _by_layer(dsk, plan)
    owner = _Owner(dsk, wanted)
    touched = _name_layers(plan.loads) | _name_layers(plan.writes)
    layers: dict[str, Any] = {}
    dependencies: dict[str, set[str]] = {}
    for name, keys in wanted.items():
        layer = dsk.layers[name]
        is_whole = isinstance(layer, Blockwise) and layer.output not in touched
        loads = {} if is_whole else _pick(keys, plan.loads)
        writes = {} if is_whole or not write else _pick(keys, plan.writes)
        if not loads and not writes:
            layers[name] = layer
            dependencies[name] = {dep for dep in dsk.dependencies[name] if dep in wanted}
            continue
        numblocks = _numblocks(layer)
        # Of a layer without dimensions the only block may be an array or a scalar.
        if len(loads) == len(keys) and numblocks:
            layers[name] = load_layer(name, _loads(name, loads, numblocks), layer.annotations)
            dependencies[name] = set()
            continue
        if len(writes) == len(keys) and isinstance(layer, Blockwise) and write_all:
            layers[name] = write_all(layer, {key[1:]: block for key, block in writes.items()})
            dependencies[name] = {dep for dep in dsk.dependencies[name] if dep in wanted}
            continue
        tasks: dict[Key, Any] = {}
        rest = convert_legacy_graph({key: layer[key] for key in keys if key not in loads}, all_keys=owner)
        for key in keys:
            if key in loads:
                tasks[key] = load_task(key, loads[key])
            elif key in writes:
                assert write is not None
                tasks[key] = write(key, rest[key], writes[key])
            else:
                tasks[key] = rest[key]
        layers[name] = MaterializedLayer(tasks, annotations=layer.annotations)
        dependencies[name] = {
            found
            for task in tasks.values()
            if isinstance(task, GraphNode)
            for dep in task.dependencies
            if dep not in tasks and (found := owner.get(dep)) is not None
        }
    _add_undeclared(dsk, owner, layers, dependencies)
    return HighLevelGraph(layers, dependencies)


def _pick(keys: Sequence[Key], chosen: Mapping[Key, Any]) -> dict[Key, Any]:
    """Take what a plan says of some keys."""
    # Often nothing is chosen at all, of many keys.
    return {key: chosen[key] for key in keys if key in chosen} if chosen else {}


def _add_undeclared(
    dsk: HighLevelGraph,
    owner: _Owner,
    layers: Mapping[str, Any],
    dependencies: dict[str, set[str]],
) -> None:
    """Name what tasks need of other layers, where the layer between them that named it needs nothing any more.

    The step that gathers results names the layers of these alone, though it also takes the blocks of their coordinates.
    """
    shorter = {
        name for name, deps in dependencies.items() if not deps >= dsk.dependencies[name] & layers.keys()
    }
    for name, layer in layers.items():
        if layer is dsk.layers[name] and not isinstance(layer, Blockwise) and shorter & dependencies[name]:
            held = {key: task for key, task in layer.items() if key in owner}
            for task in convert_legacy_graph(held, all_keys=owner).values():
                found = map(owner.get, task.dependencies)
                dependencies[name].update(other for other in found if other is not None)
            dependencies[name].discard(name)


def _by_layer(dsk: HighLevelGraph, plan: Plan) -> dict[str, Sequence[Key]]:
    """Sort the keys of a plan by the layer that holds them."""
    needed: dict[Any, Sequence[Key]] = dict(plan.needed)
    found: dict[str, Sequence[Key]] = {}
    for name, layer in dsk.layers.items():
        if isinstance(layer, Blockwise) and layer.output in needed:
            found[name] = needed.pop(layer.output)
    others: set[Key] = set(needed.pop(None, ()))
    for name, keys in needed.items():
        own = dsk.layers.get(name)
        # A look at each key takes a third of the time of what sets of them take.
        if isinstance(own, MaterializedLayer) and all(map(own.mapping.__contains__, keys)):
            found[name] = keys
        else:
            others.update(keys)
    for name, layer in dsk.layers.items():
        if isinstance(layer, MaterializedLayer) and not layer:
            found[name] = []  # it gave up its keys, but blockwise layers still name it
        elif others and not isinstance(layer, Blockwise) and (held := others.intersection(layer.keys())):
            found[name] = [*found.get(name, ()), *held]
            others -= held
    return found


class _Owner(Container[Key]):
    """Which layer holds a key that a plan needs."""

    def __init__(self, dsk: HighLevelGraph, wanted: Mapping[str, Sequence[Key]]) -> None:
        layers = {name: dsk.layers[name] for name in wanted}
        self._blockwise = {
            layer.output: (name, layer) for name, layer in layers.items() if isinstance(layer, Blockwise)
        }
        self._wanted = {name: wanted[name] for name in layers if not isinstance(layers[name], Blockwise)}

    def get(self, key: Key) -> str | None:
        """Give the name of the layer; None for what is no such key."""
        return find_blockwise(self._blockwise, key) or self._others.get(key)

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    @functools.cached_property
    def _others(self) -> dict[Key, str]:
        return {key: name for name, keys in self._wanted.items() for key in keys}


def _name_layers(keys: Iterable[Key]) -> set[str]:
    """Tell by which layers some keys are called."""
    return {key[0] for key in keys if type(key) is tuple and key}


def _numblocks(layer: Any) -> tuple[int, ...] | None:
    if not isinstance(layer, Blockwise):
        return None
    return tuple(layer.dims[i] for i in layer.output_indices)


def _loads(name: str, loads: Mapping[Key, StoredBlock], numblocks: tuple[int, ...]) -> StoredBlocks:
    by_index = {key[1:]: block for key, block in loads.items()}
    return StoredBlocks(numblocks, BlockLookup(by_index), name)


class BlockLookup:
    """A picklable function from block numbers to stored blocks, or to what else there is for each."""

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Mapping[tuple[int, ...], Any]) -> None:
        self._blocks = blocks

    def __call__(self, index: tuple[int, ...]) -> Any:
        """Give what there is for an index."""
        return self._blocks[index]


def _whole(ndim: int) -> tuple[slice, ...]:
    return (slice(None),) * ndim


@functools.cache
def _whole_literal(ndim: int) -> DataNode:
    return DataNode(None, _whole(ndim))


# No asarray, no lock: dask would make an array of a scalar, which is what reductions and single elements are.
_FLAGS = (False, None)


def find_calls(
    dsk: Mapping[Key, Any],
    functions: Collection[Callable[..., Any]],
    among: Iterable[Key] | None = None,
) -> list[Key]:
    """List the tasks that call one of some functions, also where dask has fused that with other tasks.

    Parameters
    ----------
    dsk : mapping of Hashable to GraphNode
        A graph.
    functions : collection of callable
        The functions.
    among : iterable of Hashable, optional
        Keys that are looked at, of which some may not be in the graph; all by default.

    Returns
    -------
    list of Hashable
        Keys of the graph.

    Examples
    --------
    >>> import math
    >>> find_calls({"a": Task("a", math.sin, 1.0), "b": Task("b", math.cos, 1.0)}, [math.cos])
    ['b']
    """
    # By identity: not all that is called has a hash.
    wanted = frozenset(map(id, functions))
    found: list[Key] = []
    for key, node in dsk.items() if among is None else [(key, dsk[key]) for key in among if key in dsk]:
        if type(node) is not Task and not isinstance(node, Task):
            continue
        called = id(node.func)
        if called in wanted or (called == _FUSED and _calls(node, wanted)):
            found.append(key)
    return found


def _calls(fused: Task, functions: Set[int]) -> bool:
    parts = fused.args[0]
    if type(parts) is not dict and not isinstance(parts, Mapping):
        return False
    for part in parts.values():
        if isinstance(part, Task):
            called = id(part.func)
            if called in functions or (called == _FUSED and _calls(part, functions)):
                return True
    return False


_FUSED = id(execute_subgraph)


def name_layer(prefix: str, *parts: str) -> str:
    """Name a layer by what it does.

    Parameters
    ----------
    prefix : str
        What people see of it on a dashboard.
    *parts : str
        What tells it from others.

    Returns
    -------
    str
        The same for the same parts. Names in a graph are no tokens: nothing is found by them.
    """
    return f"{prefix}-{Digester().digest(b'layer', *(part.encode() for part in parts)).hex()}"


def keys_of(arrays: Iterable[da.Array]) -> list[Key]:
    """List the keys of arrays' blocks, array by array, in C order.

    Parameters
    ----------
    arrays : iterable of dask.array.Array
        The arrays.

    Returns
    -------
    list of Hashable
        Block keys.
    """
    return [(array.name, *index) for array in arrays for index in np.ndindex(*array.numblocks)]

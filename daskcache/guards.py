"""Guards around what a graph reads: a source that changes under a run must not be stored under its old token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import (
    ArraySliceDep,
    Blockwise,
    BlockwiseDep,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    blockwise_token,
    execute_subgraph,
)
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.guard import GuardedReader, GuardedSource, Watched
from daskcache.fingerprint.places import Stamp
from daskcache.fingerprint.readers import files_in
from daskcache.fingerprint.sources import Source
from daskcache.fingerprint.watch import WholeSource, digest_whole
from daskcache.tokens import GraphTokens
from daskcache.tokens.rules import READERS, is_basic, is_one_of

__all__ = ["guard_sources"]


def guard_sources(dsk: HighLevelGraph, tokens: GraphTokens) -> HighLevelGraph:
    """Put a guard around each source that a graph's tokens were made of.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph that is about to run and to store blocks; it is not changed.
    tokens : GraphTokens
        Its tokens, and the regions of sources that were looked at for them.

    Returns
    -------
    HighLevelGraph
        In which a read fails, before anything of it can be stored, if the region is not as it was when its token was
        made. Layers stay what they are.

    Notes
    -----
    The pass's own look at a source is used again. Each read costs two more looks at the objects that it touches.
    """
    guards: dict[int, _Guard] = {}
    for identity, (source, regions) in tokens.source_reads().items():
        guard = _Guard(source, regions)
        if len(guard.whole):
            guards[identity] = guard
    files = {file: state for file, state in tokens.file_states().items() if state}
    if not guards and not files:
        return dsk
    layers = {name: _guard_layer(layer, guards, files, tokens) for name, layer in dsk.layers.items()}
    return HighLevelGraph(layers, dsk.dependencies)


class _Guard:
    """What may take the place of one source in a graph."""

    def __init__(self, source: Source, regions: Sequence[Any]) -> None:
        self._source = source
        stamps: dict[str, Stamp | None] = {}
        self._regions: set[tuple[Any, ...]] = set()
        for region in regions:
            stamps |= source.stamps(region)
            self._regions.add(_name(region))
        self.array = source.array
        self.whole = GuardedSource(source.array, stamps)

    @property
    def state(self) -> bytes:
        """What all of it looked like."""
        return digest_whole(self._source)

    def part(self, index: Any) -> GuardedSource:
        """Give one that carries the stamps of a region alone, for a task that holds the source itself."""
        looked = self._source.stamps(index) if _name(index) in self._regions else {}
        return GuardedSource(self._source.array, looked)


class _GuardedBlocks(BlockwiseDep):
    """A source as each task of a layer is given it: with the stamps of its own region."""

    produces_tasks = False

    def __init__(self, blocks: Mapping[tuple[int, ...], GuardedSource], numblocks: tuple[int, ...]) -> None:
        self._blocks = blocks
        self.numblocks = numblocks

    def __getitem__(self, idx: tuple[int, ...]) -> GuardedSource:
        return self._blocks[idx]

    @classmethod
    def of(cls, guard: _Guard, slices: BlockwiseDep) -> Self:
        numblocks = tuple(slices.numblocks)
        return cls({at: guard.part(slices[at]) for at in np.ndindex(*numblocks)}, numblocks)


def _guard_layer(
    layer: Any, guards: Mapping[int, _Guard], files: Mapping[FileSource, bytes], tokens: GraphTokens
) -> Any:
    swap = _Swap(guards, files, tokens)
    if isinstance(layer, Blockwise):
        # What the layer passes to its function stands beside the task.
        task = swap.node(layer.task, [given for given, index in layer.indices if index is None])
        is_reader = is_one_of(layer.task.func, READERS)
        indices: list[Any] = [
            (swap.node(given) if index is None and is_reader else given, index)
            for given, index in layer.indices
        ]
        if not swap.count:
            return layer
        found = _find_slices(layer)
        if found is not None and id(layer.indices[found[0]][0]) in guards:
            # Each task would carry the stamps of all.
            at, name, axes = found
            guard = guards[id(layer.indices[at][0])]
            indices[at] = _GuardedBlocks.of(guard, layer.io_deps[name]), axes
        return Blockwise(
            layer.output,
            layer.output_indices,
            task,
            indices,
            layer.numblocks,
            concatenate=layer.concatenate,
            new_axes=layer.new_axes,
            output_blocks=layer.output_blocks,
            annotations=layer.annotations,
            io_deps=layer.io_deps,
        )
    held = {key: swap.node(tokens.converted(key, node) if files else node) for key, node in layer.items()}
    return MaterializedLayer(held, annotations=layer.annotations) if swap.count else layer


def _find_slices(layer: Blockwise) -> tuple[int, str, Any] | None:
    """Find, in a layer that reads an array that it holds itself, the array's place and the slices that are read."""
    if not is_one_of(layer.task.func, READERS) or len(layer.task.args) < 2:
        return None
    slots = {blockwise_token(number): number for number in range(len(layer.indices))}
    places = [slots.get(arg.key) if isinstance(arg, TaskRef) else None for arg in layer.task.args[:2]]
    if places[0] is None or places[1] is None or layer.indices[places[0]][1] is not None:
        return None
    name, axes = layer.indices[places[1]]
    if not isinstance(name, str) or not isinstance(layer.io_deps.get(name), ArraySliceDep):
        return None
    return places[0], name, axes


class _Swap:
    """Replaces sources in nodes, copying only what holds one."""

    def __init__(
        self, guards: Mapping[int, _Guard], files: Mapping[FileSource, bytes], tokens: GraphTokens
    ) -> None:
        self._guards = guards
        self._files = files
        self._tokens = tokens
        self.count = 0

    def node(self, node: Any, beside: Sequence[Any] = ()) -> Any:
        guard = self._guards.get(id(node))
        if guard is not None:
            self.count += 1
            return guard.whole
        if isinstance(node, DataNode):
            value = self.node(node.value)
            return node if value is node.value else DataNode(node.key, value)
        if isinstance(node, Task):
            return self._task(node, beside)
        if type(node) is tuple and node and callable(node[0]):
            # A task as dask once wrote them.
            parts = (node[0], *self._arguments(node[0], node[1:]))
            return node if all(map(_is, parts, node)) else parts
        return node

    def _arguments(self, func: Any, args: Sequence[Any]) -> Iterator[Any]:
        """Guard what a task is given: of what it reads itself a region."""
        for number, arg in enumerate(args):
            guard = self._guards.get(id(arg.value if isinstance(arg, DataNode) else arg))
            if guard is None:
                yield self._inner(arg) if func is execute_subgraph and number == 0 else self.node(arg)
            elif number == 0 and self._reads_region(func, args):
                self.count += 1
                part = guard.part(self._value(args[1]))
                yield DataNode(arg.key, part) if isinstance(arg, DataNode) else part
            else:
                # Another function may want more of it than its elements.
                yield arg

    def _reads_region(self, func: Any, args: Sequence[Any]) -> bool:
        return len(args) > 1 and is_one_of(func, READERS) and is_basic(self._value(args[1]))

    def _task(self, task: Task, beside: Sequence[Any]) -> Task:
        expected = self._expected(task, beside)
        args = tuple(self._arguments(task.func, task.args))
        kwargs = {
            name: value if id(value) in self._guards else self.node(value)
            for name, value in task.kwargs.items()
        }
        is_same = all(map(_is, args, task.args)) and all(kwargs[name] is task.kwargs[name] for name in kwargs)
        if is_same and not expected:
            return task
        if isinstance(task, NestedContainer):
            return type(task)(*args)
        func: Any = task.func
        if expected:
            self.count += 1
            func = GuardedReader(func, expected)
        return Task(task.key, func, *args, _data_producer=task.data_producer, **kwargs)

    def _expected(self, task: Task, beside: Sequence[Any]) -> Sequence[tuple[Watched, bytes]]:
        """List the files that a task is given to read, and sources as they are, with what they looked like."""
        if task.func is execute_subgraph or isinstance(task, NestedContainer):
            return ()
        if not self._files:
            return self._handed(task, (*task.args, *task.kwargs.values(), *beside))
        arguments = [self._value(arg) for arg in (*task.args, *beside)]
        arguments += [value for arg in task.args for value in self._values_within(arg)]
        keywords = {name: self._value(value) for name, value in task.kwargs.items()}
        found = dict.fromkeys(files_in(task.func, arguments, keywords))
        known = [(file, self._files[file]) for file in found if file in self._files]
        return [*known, *self._handed(task, (*task.args, *task.kwargs.values(), *beside))]

    def _handed(self, task: Task, given: Sequence[Any]) -> list[tuple[Watched, bytes]]:
        if not self._guards or is_one_of(task.func, READERS):
            return []
        values = [value.value if isinstance(value, DataNode) else value for value in given]
        found = [self._guards[id(value)] for value in values if id(value) in self._guards]
        return [(WholeSource(guard.array), guard.state) for guard in dict.fromkeys(found)]

    def _values_within(self, node: Any) -> Iterator[Any]:
        for arg in node.args if isinstance(node, NestedContainer) else ():
            yield self._value(arg)
            yield from self._values_within(arg)

    def _value(self, arg: Any) -> Any:
        if isinstance(arg, DataNode):
            return arg.value
        return self._tokens.literal(arg.key) if isinstance(arg, TaskRef) else arg

    def _inner(self, graph: Mapping[Any, GraphNode]) -> Mapping[Any, GraphNode]:
        guarded = {key: self.node(node) for key, node in graph.items()}
        return graph if all(guarded[key] is graph[key] for key in graph) else guarded


def _name(region: Any) -> tuple[Any, ...]:
    # Slices have no hash before Python 3.12.
    entries = region if isinstance(region, tuple) else (region,)
    return tuple((one.start, one.stop, one.step) if isinstance(one, slice) else one for one in entries)


def _is(one: Any, other: Any) -> bool:
    return one is other

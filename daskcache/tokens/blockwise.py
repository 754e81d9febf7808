"""Blockwise layers, seen block by block without their tasks being made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import dask.array.chunk

from daskcache.dask_internals import (
    Blockwise,
    GraphNode,
    Key,
    List,
    Task,
    TaskRef,
    blockwise_token,
    coordinate_maps,
    parse_input,
)
from daskcache.tokens.scope import Literal, Scope

__all__ = ["BlockwiseLayer"]


class BlockwiseLayer:
    """A blockwise layer, seen block by block."""

    __slots__ = ("_inputs", "_shape", "digests", "dummies", "task")

    def __init__(self, layer: Blockwise) -> None:
        self.task = layer.task
        maps, axes, self.dummies = coordinate_maps(layer)
        concatenate: Any = layer.concatenate
        if concatenate is True:
            concatenate = dask.array.core.concatenate_axes
        self._shape = tuple(layer.dims[i] for i in layer.output_indices)
        self._inputs: list[tuple[str, Callable[[tuple[Any, ...]], Any]]] = []
        self.digests: dict[int, bytes] = {}
        for number, (given, _) in enumerate(layer.indices):
            # A name, unless the input is a literal.
            name: Any = given
            slot = blockwise_token(number)
            if slot not in self.task.dependencies:
                continue
            positions, contracted = maps[number], axes[number]
            if positions is None:
                node = name if isinstance(name, GraphNode | TaskRef) else Literal(name)
                self._inputs.append((slot, functools.partial(_constant, node)))
            elif name in layer.io_deps:
                self._inputs.append((slot, functools.partial(_from_io, layer.io_deps[name], positions)))
            elif contracted:
                self._inputs.append(
                    (slot, functools.partial(_contract, name, positions, contracted, concatenate))
                )
            else:
                self._inputs.append((slot, functools.partial(_one_block, name, positions)))

    def has_block(self, coords: tuple[Any, ...]) -> bool:
        """Tell whether the layer has a block of these numbers."""
        return len(coords) == len(self._shape) and all(
            isinstance(i, int) and 0 <= i < n for i, n in zip(coords, self._shape, strict=True)
        )

    def inputs(self, coords: tuple[Any, ...]) -> dict[Key, Any]:
        """Give what each placeholder of the layer's task stands for in one block."""
        full = coords + self.dummies
        return {slot: make(full) for slot, make in self._inputs}

    def dependencies(self, coords: tuple[Any, ...]) -> Iterator[Key]:
        """List the keys that a block's task refers to."""
        for node in self.inputs(coords).values():
            if isinstance(node, TaskRef):
                yield node.key
            elif isinstance(node, GraphNode):
                yield from node.dependencies
        for key in self.task.dependencies:
            if not (isinstance(key, str) and key.startswith("__dask_blockwise__")):
                yield key

    def scope(self, coords: tuple[Any, ...], outer: Scope) -> Scope:
        """Give the scope in which the layer's task is that of one block."""
        return Scope(
            outer.tokens,
            given=self.inputs(coords),
            given_scope=outer,
            digests=self.digests,
        )


def _constant(node: Any, coords: tuple[Any, ...]) -> Any:
    return node


def _one_block(name: str, positions: list[int], coords: tuple[Any, ...]) -> TaskRef:
    return TaskRef((name, *[coords[p] for p in positions]))


def _from_io(io_dep: Any, positions: list[int], coords: tuple[Any, ...]) -> Any:
    index = tuple([coords[p] for p in positions])
    value = parse_input(io_dep.get(index, index))
    return value if isinstance(value, GraphNode | TaskRef) else Literal(value)


def _contract(
    name: str, positions: list[int], axes: list[int], concatenate: Any, coords: tuple[Any, ...]
) -> GraphNode | TaskRef:
    nested = _nest((name,), [coords[p] for p in positions])
    return Task(None, concatenate, nested, axes) if concatenate else nested


def _nest(head: tuple[Any, ...], rest: list[Any]) -> Any:
    if not rest:
        return TaskRef(head)
    if isinstance(rest[0], list):
        return List(*(_nest((*head, i), rest[1:]) for i in rest[0]))
    return _nest((*head, rest[0]), rest[1:])

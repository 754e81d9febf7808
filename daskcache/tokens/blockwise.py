"""Blockwise layers, seen block by block without their tasks being made."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Self

import dask.array.chunk

from daskcache.dask_internals import (
    Blockwise,
    BlockwiseDepDict,
    GraphNode,
    Key,
    List,
    Task,
    TaskRef,
    blockwise_token,
    coordinate_maps,
    parse_input,
)
from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import DIGEST_FRAME, frame
from daskcache.tokens.columns import ARE_DIGESTS
from daskcache.tokens.scope import FromDependencyError, Literal, Scope

__all__ = ["BlockwiseLayer"]

_PLAIN = frozenset([int, slice])


class BlockwiseLayer:
    """A blockwise layer, seen block by block."""

    __slots__ = (
        "_blocks",
        "_inputs",
        "_is_tried",
        "_others",
        "_outer",
        "_template",
        "arrays",
        "digests",
        "dummies",
        "refers_elsewhere",
        "shape",
        "task",
    )

    def __init__(self, layer: Blockwise) -> None:
        self.task = layer.task
        maps, axes, self.dummies = coordinate_maps(layer)
        concatenate: Any = layer.concatenate
        if concatenate is True:
            concatenate = dask.array.core.concatenate_axes
        self.shape = tuple(layer.dims[i] for i in layer.output_indices)
        self._inputs: list[tuple[str, functools.partial[Any]]] = []
        # Of the inputs those that are one block each, and those that may refer to others.
        self._blocks: dict[str, tuple[str, list[int]]] = {}
        self._others: list[Callable[[tuple[Any, ...]], Any]] = []
        # All their blocks are needed where all of the layer's own are.
        self.arrays: list[tuple[str, tuple[int, ...]]] = []
        self._template: _Template | None = None
        self._is_tried = False
        self.refers_elsewhere = False
        """Whether blocks refer to more than to those of `arrays`."""
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
                make = functools.partial(_constant, node)
                if not isinstance(node, Literal):
                    self._others.append(make)
                    self.refers_elsewhere = True
            elif name in layer.io_deps:
                make = functools.partial(_from_io, layer.io_deps[name], positions)
                if layer.io_deps[name].produces_tasks or isinstance(layer.io_deps[name], BlockwiseDepDict):
                    self._others.append(make)
                    self.refers_elsewhere = True
            elif contracted:
                make = functools.partial(_contract, name, positions, contracted, concatenate)
                self._others.append(make)
                self.arrays.append((name, tuple(layer.numblocks[name])))
            else:
                self.arrays.append((name, tuple(layer.numblocks[name])))
                make = functools.partial(_one_block, name, positions)
                self._blocks[slot] = name, positions
            self._inputs.append((slot, make))
        self._outer = [
            key
            for key in self.task.dependencies
            if not (isinstance(key, str) and key.startswith("__dask_blockwise__"))
        ]
        self.refers_elsewhere = self.refers_elsewhere or bool(self._outer)

    def has_block(self, coords: tuple[Any, ...]) -> bool:
        """Tell whether the layer has a block of these numbers."""
        if len(coords) != len(self.shape):
            return False
        for i, n in zip(coords, self.shape, strict=True):
            # As a number in a set: libraries write keys with numpy's integers.
            if not (0 <= i < n if type(i) is int else i in range(n)):
                return False
        return True

    def inputs(self, coords: tuple[Any, ...]) -> dict[Key, Any]:
        """Give what each placeholder of the layer's task stands for in one block."""
        full = coords + self.dummies
        return {slot: make(full) for slot, make in self._inputs}

    def dependencies(self, coords: tuple[Any, ...]) -> Iterator[Key]:
        """List the keys that a block's task refers to."""
        full = coords + self.dummies
        for name, positions in self._blocks.values():
            yield (name, *[full[p] for p in positions])
        for make in self._others:
            node = make(full)
            if isinstance(node, TaskRef):
                yield node.key
            elif isinstance(node, GraphNode):
                yield from node.dependencies
        yield from self._outer

    def dependencies_of(self, keys: Sequence[Key]) -> list[Key]:
        """List the keys that the tasks of many blocks refer to, some of them more than once.

        Parameters
        ----------
        keys : sequence of tuple
            The layer's name, and blocks' numbers.

        Returns
        -------
        list of Hashable
            As from `dependencies` of each.
        """
        if self._others or not keys:
            return [dep for key in keys for dep in self.dependencies(key[1:])]
        numbers = _list_numbers(keys, self.dummies)
        found: list[Key] = [*self._outer]
        for name, positions in self._blocks.values():
            found += _zip(name, len(keys), [numbers[position] for position in positions])
        return found

    def token(self, coords: tuple[Any, ...], outer: Scope) -> bytes:
        """Give the token of a block.

        Parameters
        ----------
        coords : tuple of int
            The block's numbers.
        outer : Scope
            Where the layer's inputs are looked up.

        Returns
        -------
        bytes
            20 bytes.
        """
        scope = self.scope(coords, outer)
        token = scope.token(self.task)
        if not self._is_tried:
            # Now it is known whether the function is one that a template will do for.
            self._is_tried = True
            varying = {slot for slot, make in self._inputs if make.func is not _constant}
            parts = scope.template(self.task, varying)
            self._template = _Template.of(parts, dict(self._inputs))
        return token

    def direct(
        self, key: Key, outer: Scope, tokens: MutableMapping[Key, Any], waiting: list[Key]
    ) -> bytes | None:
        """Give the token of a block of which all inputs are known, once a template has been made.

        Parameters
        ----------
        key : tuple
            The layer's name, and the block's numbers.
        outer : Scope
            Where the layer's inputs are looked up.
        tokens : mapping
            What is known by now; the block's is added.
        waiting : list
            Keys are added to it that have to be known first.

        Returns
        -------
        bytes or None
            20 bytes. None, with nothing in `waiting`, where `token` has to say.
        """
        if self._template is None:
            return None
        unknown = [dep for dep in self.dependencies(key[1:]) if dep not in tokens]
        waiting.extend([dep for dep in unknown if not outer.tokens.is_value(dep)])
        if waiting:
            return None
        try:
            for dep in unknown:
                outer.tokens.look(dep)
        except FromDependencyError:
            # The rules say where in the task it is.
            return None
        self._template.fill([key], self.dummies, outer, tokens)
        return tokens.get(key)

    def fill(self, keys: Sequence[Key], outer: Scope, tokens: MutableMapping[Key, Any]) -> Sequence[Key]:
        """Give tokens to blocks of which all inputs are known, once a template has been made.

        Parameters
        ----------
        keys : sequence of tuple
            The layer's name, and blocks' numbers.
        outer : Scope
            Where the layer's inputs are looked up.
        tokens : mapping
            What is known by now; the blocks' are added.

        Returns
        -------
        sequence of tuple
            The keys that have none yet, for `direct` or `token`.
        """
        # Others may refer to what is not known, and would be worked out one within the other.
        if self._template is None or self._others:
            return keys
        return self._template.fill(keys, self.dummies, outer, tokens)

    def scope(self, coords: tuple[Any, ...], outer: Scope) -> Scope:
        """Give the scope in which the layer's task is that of one block."""
        return Scope(
            outer.tokens,
            given=self.inputs(coords),
            given_scope=outer,
            digests=self.digests,
        )


class _Template:
    """What the tokens of a layer's blocks are hashes of, most of which is the same for each."""

    __slots__ = ("_pieces", "_slots")

    def __init__(self, pieces: list[bytes], slots: list[functools.partial[Any]]) -> None:
        self._pieces = pieces
        self._slots = slots

    @classmethod
    def of(cls, parts: list[Any] | None, inputs: dict[str, functools.partial[Any]]) -> Self | None:
        if parts is None or any(isinstance(part, str) and part not in inputs for part in parts):
            return None
        if not all(isinstance(part, bytes | str) for part in parts):
            return None
        # Framed bytes and, in between, places for digests.
        pieces, slots = [frame(b"task")], []
        for part in parts:
            if isinstance(part, str):
                pieces[-1] += DIGEST_FRAME
                slots.append(inputs[part])
                pieces += [b"", b""]
            else:
                pieces[-1] += frame(part)
        return cls(pieces, slots)

    def fill(
        self, keys: Sequence[Key], dummies: tuple[Any, ...], outer: Scope, tokens: MutableMapping[Key, Any]
    ) -> list[Key]:
        # By far most of the tasks of most graphs pass here: input by input, and each without a step of Python's for each
        # block where that can be, which takes a third of the time of block by block.
        if not keys:
            return []
        numbers = _list_numbers(keys, dummies)
        columns = [_digest_input(make, numbers, len(keys), outer, tokens) for make in self._slots]
        left: list[Key] = []
        if not all(ARE_DIGESTS(map(type, column)) for column in columns):
            is_known = [ARE_DIGESTS(map(type, row)) for row in zip(*columns, strict=True)]
            left = [*itertools.compress(keys, map(operator.not_, is_known))]
            keys = [*itertools.compress(keys, is_known)]
            columns = [[*itertools.compress(column, is_known)] for column in columns]
        framed = self._frame(columns, len(keys))
        tokens.update(zip(keys, outer.tokens.fingerprinter.digester.digest_all(framed), strict=True))
        return left

    def _frame(self, columns: list[list[bytes]], count: int) -> list[bytes]:
        """Put digests into their places, which are every second piece."""
        if not columns:
            return [b"".join(self._pieces)] * count
        if len(columns) == 1:
            before, _, after = self._pieces
            return [before + digest + after for digest in columns[0]]
        pieces, framed = [*self._pieces], []
        for row in zip(*columns, strict=True):
            pieces[1::2] = row
            framed.append(b"".join(pieces))
        return framed


def _digest_input(
    make: functools.partial[Any],
    numbers: Sequence[Iterable[Any]],
    count: int,
    outer: Scope,
    tokens: MutableMapping[Key, Any],
) -> list[Any]:
    """Give the token of one input for each of many blocks, or something else where it is not known."""
    if make.func is _constant:
        return [_token_of(make(()), outer)] * count
    source, positions, *_ = make.args
    picked = [numbers[position] for position in positions]
    if make.func is _one_block:
        column = [*map(tokens.get, _zip(source, count, picked))]
        if ARE_DIGESTS(map(type, column)):
            return column
        # Values of the graph, of which each is given to many blocks.
        unknown = {dep for dep in _zip(source, count, picked) if dep not in tokens}
        for dep in filter(outer.tokens.is_value, unknown):
            with contextlib.suppress(FromDependencyError):
                outer.tokens.look(dep)
        return [*map(tokens.get, _zip(source, count, picked))]
    if make.func is _from_io:
        values = [source.get(index[1:], index[1:]) for index in _zip(source, count, picked)]
        leaf = outer.tokens.fingerprinter.leaves[tuple]
        return [
            (leaf(value) if _is_plain(value) else None) or _token_of(_parse_io(value), outer)
            for value in values
        ]
    return [_token_of(make(full[1:]), outer) for full in _zip(None, count, numbers)]


def _list_numbers(keys: Sequence[Any], dummies: tuple[Any, ...]) -> list[Iterable[Any]]:
    """Give the numbers of blocks axis by axis, also of axes that are summed over."""
    numbers: list[Iterable[Any]] = [
        [*map(operator.itemgetter(axis), keys)] for axis in range(1, len(keys[0]))
    ]
    numbers += map(itertools.repeat, dummies)
    return numbers


def _zip(name: Any, count: int, numbers: Sequence[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """Put a name before the numbers of each of so many blocks."""
    # Those of axes that are summed over have no end.
    return zip(itertools.repeat(name, count), *numbers, strict=False)


def _token_of(node: Any, outer: Scope) -> bytes | None:
    try:
        return outer.token(node)
    except (UncacheableError, FromDependencyError):
        return None


def _constant(node: Any, coords: tuple[Any, ...]) -> Any:
    return node


def _one_block(name: str, positions: list[int], coords: tuple[Any, ...]) -> TaskRef:
    return TaskRef((name, *[coords[p] for p in positions]))


def _from_io(io_dep: Any, positions: list[int], coords: tuple[Any, ...]) -> Any:
    index = tuple([coords[p] for p in positions])
    return _parse_io(io_dep.get(index, index))


def _parse_io(value: Any) -> Any:
    if _is_plain(value):
        return Literal(value)
    value = parse_input(value)
    return value if isinstance(value, GraphNode | TaskRef) else Literal(value)


def _is_plain(value: Any) -> bool:
    """Tell whether there is nothing in a value to go through, such as in the shape of a block, or where it lies."""
    return type(value) is tuple and _PLAIN.issuperset(map(type, value))


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

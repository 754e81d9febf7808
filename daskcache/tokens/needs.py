"""What a graph needs for some keys, listed by layers where that can be."""

from __future__ import annotations

import graphlib
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import Key, Task
from daskcache.tokens.blockwise import BlockwiseLayer

__all__ = ["Needs"]


Batches = list[tuple[str | None, list[Key]]]
"""What a layer is called, and keys of it; None, and keys that are called otherwise. Most come before what they need."""

Refers = dict[str | None, set[str | None]]
"""The layers that tasks of a layer refer to; None for keys that are called otherwise."""

GoOn = Callable[[str | None, list[Key]], list[Key]]


class Needs:
    """Lists what keys of a graph need.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        The graph.
    layers : mapping
        Its blockwise layers.
    nodes : mapping
        The tasks and values of all its other layers.
    inputs : callable
        Gives what any key refers to.

    Notes
    -----
    Layers are taken in the order in which they say that they need each other, so that of a blockwise layer all blocks of
    which are needed the inputs are not listed block by block. Where they say it wrongly, a layer is taken twice.
    """

    def __init__(
        self,
        dsk: HighLevelGraph | Mapping[Key, Any],
        layers: Mapping[str, BlockwiseLayer],
        nodes: Mapping[Key, Any],
        inputs: Callable[[Key], Iterable[Key]],
    ) -> None:
        self._dsk = dsk
        self._layers = layers
        self._nodes = nodes
        self._inputs = inputs
        # Of which tokens are made, and then a plan.
        self._last: tuple[list[Key], Batches, Refers] | None = None

    def batches(self, keys: list[Key], known: Collection[Key]) -> Batches:
        """List all that some keys need, with these, but for what is known.

        Parameters
        ----------
        keys : list of Hashable
            What is needed.
        known : collection of Hashable
            Keys that nothing need be done for.

        Returns
        -------
        list of tuple
            What a layer is called, and keys of it; None, and keys that are called otherwise. Most come before what they need.
        """
        if not known:
            found, refers = self._walk(keys, _all)
            self._last = [*keys], found, refers
            return found

        def go_on(name: str | None, asked: list[Key]) -> list[Key]:
            return [key for key in asked if key not in known]

        return [(name, left) for name, part in self._walk(keys, go_on)[0] if (left := go_on(name, part))]

    def by_layer(
        self, keys: list[Key], go_on: Callable[[str | None, list[Key]], list[Key]] | None = None
    ) -> dict[str | None, list[Key]]:
        """List all that some keys need, with these, as far as one wants to go on.

        Parameters
        ----------
        keys : list of Hashable
            What is needed.
        go_on : callable, optional
            Gives, for what a layer is called and keys of it that are needed, those whose inputs are needed as well. For
            keys that are called otherwise than any layer, None. It is asked once for each key, for many at a time. Without
            it, those of all are.

        Returns
        -------
        dict
            Keys by the layer that they are called by; by None the others.
        """
        # Once is enough, and it is large.
        last, self._last = self._last, None
        if last is None or last[0] != keys:
            return _join(self._walk(keys, go_on or _all)[0])
        listed = _join(last[1])
        return listed if go_on is None else self._cut(keys, listed, last[2], go_on)

    def _cut(
        self, keys: list[Key], listed: dict[str | None, list[Key]], refers: Refers, go_on: GoOn
    ) -> dict[str | None, list[Key]]:
        """As `by_layer`, of what is listed already: only layers below those that one does not go on from are walked again."""
        order = _sort(refers)
        if order is None or {*order} != listed.keys():
            return _join(self._walk(keys, go_on)[0])
        # What refers to itself may be cut by itself.
        below = _list_below([name for name in order if name in refers[name]], refers)
        found: dict[str | None, list[Key]] = {}
        going: dict[str | None, list[Key]] = {}
        for name in order:
            if name not in below:
                found[name] = listed[name]
                going[name] = go_on(name, listed[name])
                if len(going[name]) < len(listed[name]):
                    below |= _list_below(refers[name], refers)
        if not below:
            return found
        front = _Front(self._layers, self._nodes, self._inputs, [name for name in order if name in below])
        front.need(keys)
        for name in going:
            if not below.isdisjoint(refers[name]):
                front.refer(name, going[name])
        # The others are of layers that are listed above.
        named_otherwise = {*listed[None]} if None in below else ()
        front.strays = [key for key in front.strays if key in named_otherwise]
        for name, part in self._follow(front, go_on)[0]:
            found.setdefault(name, []).extend(part)
        return found

    def _walk(self, keys: list[Key], go_on: GoOn) -> tuple[Batches, Refers]:
        dependencies = self._dsk.dependencies if isinstance(self._dsk, HighLevelGraph) else {}
        order = _sort(dependencies)
        front = _Front(self._layers, self._nodes, self._inputs, order or [*dependencies])
        front.need(keys)
        return self._follow(front, go_on)

    def _follow(self, front: _Front, go_on: GoOn) -> tuple[Batches, Refers]:
        met: dict[Any, dict[Key, None]] = {}
        found: Batches = []
        refers: Refers = {}
        while front.is_left:
            # First those that are called otherwise; after each layer again, so that those below are met with all that is needed.
            for name in (None, *front.needed):
                while front.strays or front.has(name):
                    taken = None if front.strays else name
                    fresh = _keep_fresh(met, taken, front.take(taken))
                    if fresh:
                        found.append((taken, fresh))
                        front.owners = refers.setdefault(taken, set())
                        front.refer(taken, go_on(taken, fresh))
        # What is called by a layer and no block of it hides who refers to it.
        return found, {} if front.is_odd else refers


def _join(batches: Batches) -> dict[str | None, list[Key]]:
    found: dict[str | None, list[Key]] = {}
    for name, part in batches:
        found.setdefault(name, []).extend(part)
    return found


def _sort(refers: Mapping[Any, Collection[Any]]) -> list[Any] | None:
    """List layers, each before those that it refers to; None where that cannot be."""
    others = {name: [other for other in below if other != name] for name, below in refers.items()}
    try:
        return [*graphlib.TopologicalSorter(others).static_order()][::-1]
    except graphlib.CycleError:
        return None


def _list_below(names: Iterable[str | None], refers: Refers) -> set[str | None]:
    """List layers, and all that they refer to, and so on."""
    found = {*names}
    queue = [*found]
    for name in queue:
        fresh = refers[name] - found
        found |= fresh
        queue += fresh
    return found


def _all(name: str | None, keys: list[Key]) -> list[Key]:
    return keys


class _Front:
    """What is needed and has not been looked at."""

    def __init__(
        self,
        layers: Mapping[str, BlockwiseLayer],
        nodes: Mapping[Key, Any],
        inputs: Callable[[Key], Iterable[Key]],
        order: Iterable[Any],
    ) -> None:
        self._layers = layers
        self._nodes = nodes
        self._inputs = inputs
        self.needed: dict[Any, dict[Key, None]] = {name: {} for name in order if name is not None}
        """By layers, the upper ones first."""
        self.whole: set[str] = set()
        """Layers all blocks of which are needed."""
        self.strays: list[Key] = []
        """What is called otherwise."""
        self.owners: set[str | None] = set()
        """Takes the layers that are referred to."""
        self.is_odd = False
        """Whether something is called by a layer and is no block of it."""

    @property
    def is_left(self) -> bool:
        return bool(self.strays or self.whole or any(self.needed.values()))

    def has(self, name: str | None) -> bool:
        return name is not None and (name in self.whole or bool(self.needed[name]))

    def need(self, keys: Iterable[Key]) -> None:
        """Need keys, by the layers that they are called by."""
        # Most often they are those of one layer, or of a few.
        listed: list[Any] = [*keys]
        names: list[Any] = []
        if {*map(type, listed)} == {tuple} and all(listed):
            names = [*map(_read_head, listed)]
        owners = {*names} or {None}
        if len(owners) == 1 and names:
            self._need_of(names[0], listed)
        elif names and len(owners) <= _FEW:
            for owner in owners:
                self._need_of(owner, [*itertools.compress(listed, [name == owner for name in names])])
        else:
            for key in listed:
                self._need_of(key[0] if type(key) is tuple and key else key, (key,))

    def _need_of(self, name: Any, keys: Sequence[Key]) -> None:
        layer = self.needed.get(name)
        if layer is None:
            self.strays += keys
            self.owners.add(None)
        else:
            layer.update(dict.fromkeys(keys))
            self.owners.add(name)

    def take(self, name: str | None) -> Iterable[Key]:
        """Give what is needed of a layer, of which nothing is needed then."""
        if name is None:
            strays, self.strays = self.strays, []
            return strays
        keys, self.needed[name] = self.needed[name], {}
        layer = self._layers.get(name)
        if layer is None:
            return keys
        # A tuple that is an argument may only look like a key.
        unlike = _list_unlike(layer, keys)
        if unlike:
            self.strays += unlike
            self.is_odd = True
            keys = dict.fromkeys(key for key in keys if key not in unlike)
        if name in self.whole:
            self.whole.discard(name)
            return itertools.product([name], *map(range, layer.shape))
        return keys

    def refer(self, name: str | None, keys: list[Key]) -> None:
        """Need what keys of a layer refer to."""
        layer = None if name is None else self._layers.get(name)
        if layer is None:
            self._refer_tasks(keys)
        elif len(keys) == math.prod(layer.shape) and not layer.refers_elsewhere:
            self._refer_whole(layer)
        else:
            self.need(layer.dependencies_of(keys))

    def _refer_whole(self, layer: BlockwiseLayer) -> None:
        """Need all that all blocks of a layer refer to."""
        for source, numblocks in layer.arrays:
            inner = self._layers.get(source)
            if inner is not None and source in self.needed and inner.shape == numblocks:
                self.whole.add(source)
                self.owners.add(source)
            else:
                self.need(itertools.product([source], *map(range, numblocks)))

    def _refer_tasks(self, keys: Sequence[Key]) -> None:
        """Need all that tasks and values refer to."""
        tasks = [*map(self._nodes.get, keys)]
        kinds = {*map(type, tasks)}
        # Nearly all are tasks, or were written as dask once did.
        references: list[Key] = []
        if Task in kinds:
            made = tasks if len(kinds) == 1 else [node for node in tasks if type(node) is Task]
            references += itertools.chain.from_iterable(map(_read_dependencies, made))
        one_by_one = kinds - {Task, tuple}
        if tuple in kinds:
            written = tasks if len(kinds) == 1 else [node for node in tasks if type(node) is tuple]
            together = _references_in(written, self._nodes, self._layers)
            if together is None:
                one_by_one.add(tuple)
            else:
                references += together
        if one_by_one:
            for key, node in zip(keys, tasks, strict=True):
                if type(node) in one_by_one:
                    found = (
                        _references_in((node,), self._nodes, self._layers) if type(node) is tuple else None
                    )
                    references += self._inputs(key) if found is None else found
        self.need(references)


def _list_unlike(layer: BlockwiseLayer, keys: Collection[Key]) -> list[Key]:
    """List the keys of which a layer has no block."""
    listed: list[Any] = [*keys]
    if {*map(type, listed)} <= {tuple} and _are_blocks(layer, listed):
        return []
    return [key for key in keys if type(key) is not tuple or not layer.has_block(key[1:])]


def _keep_fresh(met: dict[Any, dict[Key, None]], name: str | None, keys: Iterable[Key]) -> list[Key]:
    """Give those of a layer's keys that are met for the first time."""
    fresh = keys if type(keys) is dict else dict.fromkeys(keys)
    before = met.get(name)
    if before is None:
        met[name] = fresh
        return [*fresh]
    found = [key for key in fresh if key not in before]
    before.update(fresh)
    return found


_read_dependencies = operator.attrgetter("dependencies")
_read_head = operator.itemgetter(0)


def _references_in(
    parts: Sequence[Any], nodes: Mapping[Key, Any], layers: Mapping[str, BlockwiseLayer]
) -> list[Key] | None:
    """List the keys in tasks of the older form, as dask would find them; None where they hold what is not plain."""
    found: list[Key] = []
    while parts:
        inner: list[Any] = []
        kinds = {*map(type, parts)}
        if not kinds <= _PLAIN:
            return None
        for kind in kinds - _NEVER_KEYS:
            some: Sequence[Any] = parts if len(kinds) == 1 else [part for part in parts if type(part) is kind]
            if kind is list:
                inner += itertools.chain.from_iterable(some)
            elif kind is not tuple:
                found += filter(nodes.__contains__, some)
            elif not _are_keys(some, nodes, layers):
                _look_into(some, nodes, layers, found, inner)
            else:
                found += some
        parts = inner
    return found


def _look_into(
    tuples: Sequence[tuple[Any, ...]],
    nodes: Mapping[Key, Any],
    layers: Mapping[str, BlockwiseLayer],
    found: list[Key],
    inner: list[Any],
) -> None:
    """Tell tuples that are keys from tasks and others, in which there may be some."""
    for part in tuples:
        if part and callable(part[0]):
            inner += part[1:]
            continue
        try:
            layer = layers.get(part[0]) if part and type(part[0]) is str else None
            is_key = part in nodes or (layer is not None and layer.has_block(part[1:]))
        except TypeError:
            is_key = False  # not hashable
        if is_key:
            found.append(part)
        else:
            inner += part


def _are_keys(
    tuples: Sequence[tuple[Any, ...]], nodes: Mapping[Key, Any], layers: Mapping[str, BlockwiseLayer]
) -> bool:
    """Tell, in a fraction of the time that looking at each takes, whether all are keys; not always where they are."""
    names = (
        {*map(_read_head, tuples)}
        if all(tuples) and {*map(type, map(_read_head, tuples))} == {str}
        else set()
    )
    if len(names) != 1:
        return False
    layer = layers.get(*names)
    try:
        return all(map(nodes.__contains__, tuples)) if layer is None else _are_blocks(layer, tuples)
    except TypeError:
        return False  # not hashable


def _are_blocks(layer: BlockwiseLayer, keys: Sequence[tuple[Any, ...]]) -> bool:
    """As `_are_keys`, of keys that are called by a layer."""
    if {*map(len, keys)} != {1 + len(layer.shape)}:
        return False
    for axis, count in enumerate(layer.shape, 1):
        numbers = [*map(operator.itemgetter(axis), keys)]
        if {*map(type, numbers)} != {int} or min(numbers) < 0 or max(numbers) >= count:
            return False
    return True


_FEW = 4
_NEVER_KEYS = frozenset(
    [type(None), slice, np.ndarray, bytes, type, partial, FunctionType, BuiltinFunctionType, np.ufunc]
)
_PLAIN = _NEVER_KEYS | {list, tuple, str, int, float, bool}

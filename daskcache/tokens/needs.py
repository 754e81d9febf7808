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
        self._last: tuple[list[Key], Batches] | None = None

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
            self._last = [*keys], self._walk(keys, _all)
            return self._last[1]

        def go_on(name: str | None, asked: list[Key]) -> list[Key]:
            return [key for key in asked if key not in known]

        return [(name, left) for name, part in self._walk(keys, go_on) if (left := go_on(name, part))]

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
        is_known = go_on is None and last is not None and last[0] == keys
        batches = last[1] if last is not None and is_known else self._walk(keys, go_on or _all)
        found: dict[str | None, list[Key]] = {}
        for name, part in batches:
            found.setdefault(name, []).extend(part)
        return found

    def _walk(self, keys: list[Key], go_on: Callable[[str | None, list[Key]], list[Key]]) -> Batches:
        dependencies = self._dsk.dependencies if isinstance(self._dsk, HighLevelGraph) else {}
        try:
            order = [*graphlib.TopologicalSorter(dependencies).static_order()][::-1]
        except graphlib.CycleError:
            order = [*dependencies]
        needed: dict[Any, dict[Key, None]] = {name: {} for name in order}
        met: dict[Any, dict[Key, None]] = {}
        found: Batches = []
        whole: set[str] = set()
        strays = _sort_in(needed, keys)
        while True:
            # First those that are called otherwise; after each layer again, so that those below are met with all that is needed.
            for name in (None, *order):
                while strays or (name is not None and (name in whole or needed[name])):
                    if strays:
                        fresh = _keep_fresh(met, None, strays)
                        strays = []
                        if fresh:
                            found.append((None, fresh))
                            going = go_on(None, fresh)
                            strays += _need_tasks(going, self._nodes, self._layers, self._inputs, needed)
                        continue
                    assert name is not None
                    layer = self._layers.get(name)
                    fresh = _keep_fresh(met, name, _take(name, layer, needed, whole, strays))
                    if not fresh:
                        continue
                    found.append((name, fresh))
                    going = go_on(name, fresh)
                    if layer is None:
                        strays += _need_tasks(going, self._nodes, self._layers, self._inputs, needed)
                    elif len(going) == math.prod(layer.shape) and not layer.refers_elsewhere:
                        _need_whole(layer, self._layers, whole, needed, strays)
                    else:
                        strays += _sort_in(needed, layer.dependencies_of(going))
            if not whole and not any(needed.values()):
                return found


def _all(name: str | None, keys: list[Key]) -> list[Key]:
    return keys


def _take(
    name: str,
    layer: BlockwiseLayer | None,
    needed: dict[Any, dict[Key, None]],
    whole: set[str],
    strays: list[Key],
) -> Iterable[Key]:
    """Give what is needed of a layer, of which nothing is needed then."""
    keys, needed[name] = needed[name], {}
    if layer is None:
        return keys
    # A tuple that is an argument may only look like a key.
    unlike = _list_unlike(layer, keys)
    strays += unlike
    if name in whole:
        whole.discard(name)
        return itertools.product([name], *map(range, layer.shape))
    return [key for key in keys if key not in unlike] if unlike else keys


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


def _need_whole(
    layer: BlockwiseLayer,
    layers: Mapping[str, BlockwiseLayer],
    whole: set[str],
    needed: Mapping[Any, dict[Key, None]],
    strays: list[Key],
) -> None:
    """Need all that all blocks of a layer refer to."""
    for source, numblocks in layer.arrays:
        if source in layers and source in needed and layers[source].shape == numblocks:
            whole.add(source)
        else:
            strays += _sort_in(needed, itertools.product([source], *map(range, numblocks)))


def _need_tasks(
    keys: Sequence[Key],
    nodes: Mapping[Key, Any],
    layers: Mapping[str, BlockwiseLayer],
    inputs: Callable[[Key], Iterable[Key]],
    needed: Mapping[Any, dict[Key, None]],
) -> list[Key]:
    """Need all that tasks and values refer to, and give what is called otherwise than any layer."""
    tasks = [*map(nodes.get, keys)]
    kinds = {*map(type, tasks)}
    # Nearly all are tasks, or were written as dask once did.
    references: list[Key] = []
    if Task in kinds:
        made = tasks if len(kinds) == 1 else [node for node in tasks if type(node) is Task]
        references += itertools.chain.from_iterable(map(_read_dependencies, made))
    one_by_one = kinds - {Task, tuple}
    if tuple in kinds:
        written = tasks if len(kinds) == 1 else [node for node in tasks if type(node) is tuple]
        together = _references_in(written, nodes, layers)
        if together is None:
            one_by_one.add(tuple)
        else:
            references += together
    if one_by_one:
        for key, node in zip(keys, tasks, strict=True):
            if type(node) in one_by_one:
                found = _references_in((node,), nodes, layers) if type(node) is tuple else None
                references += inputs(key) if found is None else found
    return _sort_in(needed, references)


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


def _sort_in(needed: Mapping[Any, dict[Key, None]], keys: Iterable[Key]) -> list[Key]:
    """Need keys of layers that they are called by, and give the others."""
    # Most often they are those of one layer, or of a few.
    listed: list[Any] = [*keys]
    names: list[Any] = []
    if {*map(type, listed)} == {tuple} and all(listed):
        names = [*map(_read_head, listed)]
    owners = {*names} or {None}
    if len(owners) == 1 and names:
        return [*_need_of(needed, names[0], listed)]
    strays: list[Key] = []
    if names and len(owners) <= _FEW:
        for owner in owners:
            strays += _need_of(
                needed, owner, [*itertools.compress(listed, [name == owner for name in names])]
            )
        return strays
    for key in listed:
        strays += _need_of(needed, key[0] if type(key) is tuple and key else key, (key,))
    return strays


def _need_of(needed: Mapping[Any, dict[Key, None]], name: Any, keys: Sequence[Key]) -> Sequence[Key]:
    layer = needed.get(name)
    if layer is None:
        return keys
    layer.update(dict.fromkeys(keys))
    return ()

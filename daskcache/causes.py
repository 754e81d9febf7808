"""Why tokens differ from those of an earlier version: which change each block of a graph depends on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import Blockwise, Key
from daskcache.fingerprint.condense import condense, hash_key, name_directory
from daskcache.fingerprint.facts import RUNTIME
from daskcache.fingerprint.sources_base import survey_of
from daskcache.recipe import Function, Layer, Recipe, read_steps
from daskcache.tokens import GraphTokens, Step

__all__ = ["Change", "Kind", "Tracer", "compare_functions", "describe_gone"]

Kind = Literal[
    "function",
    "value",
    "argument",
    "data",
    "library",
    "source",
    "step",
    "settings",
    "grown",
    "chunks",
    "gone",
    "never",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is other than it was."""

    kind: Kind
    """What it concerns."""
    text: str
    """What changed, in words."""
    is_local: bool = False
    """Whether it may be another for each block, and so says nothing of blocks that did not exist before."""


class Tracer:
    """Finds the changes that blocks depend on, by following the graph.

    Parameters
    ----------
    tokens : GraphTokens
        The graph, tokened.
    graph : HighLevelGraph
        The same graph.
    new : Recipe
        How it is computed.
    old : Recipe
        How it was.
    """

    def __init__(self, tokens: GraphTokens, graph: HighLevelGraph, new: Recipe, old: Recipe) -> None:
        self._tokens = tokens
        self._old = old
        self._owners: dict[Key, str] = {}
        self._layers: dict[str, Any] = {}
        for name, layer in graph.layers.items():
            if isinstance(layer, Blockwise):
                self._layers[layer.output] = layer
                self._owners[layer.output] = name
            else:
                self._owners.update(dict.fromkeys(layer, name))
        self._pairs, self.gone = _align(new, old)
        self._new = dict(zip(new.names, new.layers, strict=True))
        self._bits: dict[Change, int] = {}
        self._masks: dict[Key, int] = {}
        self._constant: dict[str, int] = {}
        self._directories: dict[str, Mapping[bytes, bytes]] = {}

    def changes(self, key: Key) -> list[Change]:
        """List the changes that a block depends on, its own first or last in no order.

        Parameters
        ----------
        key : Hashable
            A key of the graph.

        Returns
        -------
        list of Change
            Empty where nothing that a recipe records is other than it was.
        """
        mask = self._mask(key)
        return [change for change, bit in self._bits.items() if mask >> bit & 1]

    def _mask(self, root: Key) -> int:
        masks = self._masks
        stack = [root]
        while stack:
            key = stack[-1]
            if key in masks:
                stack.pop()
                continue
            inputs = [other for other in self._tokens.inputs(key) if other != key]
            waiting = [other for other in inputs if other not in masks]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            mask = self._own(key)
            for other in inputs:
                mask |= masks[other]
            masks[key] = mask
        return masks[root]

    def _own(self, key: Key) -> int:
        name = key[0] if type(key) is tuple and key and key[0] in self._layers else None
        owner = self._owners.get(key if name is None else name)
        if owner is None or owner not in self._new:
            return 0
        layer = self._new[owner]
        is_alike = name is not None and not layer.reads and not self._layers[name].io_deps
        if is_alike and owner in self._constant:
            return self._constant[owner]
        mask = self._compare(key, owner, layer, is_alike)
        if is_alike:
            self._constant[owner] = mask
        return mask

    def _compare(self, key: Key, owner: str, layer: Layer, is_alike: bool) -> int:
        old = self._pairs.get(owner)
        if (
            old is not None
            and not layer.reads
            and (layer.functions, [*layer.arguments.items()]) == (old.functions, [*old.arguments.items()])
        ):
            return 0
        functions, arguments, reads = read_steps(self._tokens, key)
        found: list[Change] = []
        for read in reads:
            found += self._compare_read(read)
        if old is None:
            if functions or arguments:
                shown = ", ".join(dict.fromkeys(f"`{function.name}`" for function in functions)) or "an array"
                found.append(Change("step", f"{shown} was not there"))
            return self._number(found)
        for function in functions:
            same = [other for other in old.functions if other.name == function.name]
            if not any(other.digest == function.digest for other in same):
                found += compare_functions(function, same, self._old.runtime)
        given = dict(arguments)
        if is_alike:
            # Given now and not before, or the other way round.
            others = given.keys() ^ old.arguments.keys()
            found += [_name_argument(name, False) for name in sorted(others) if name != "data"]
        for name, digest in arguments:
            before = old.arguments.get(name)
            # Equal samples are taken for equal throughout: not all values of a layer were recorded.
            if before is None or before == layer.arguments.get(name) or _is_in(digest, before):
                continue
            found.append(_name_argument(name, not is_alike))
        return self._number(found or _compare_order(layer, old))

    def _compare_read(self, step: Step) -> list[Change]:
        source = self._tokens.fingerprinter.find_source(step.arguments[0][1])
        if source is None:
            return []
        path = source.describe()
        before = self._old.objects.get(path)
        if before is None:
            return [Change("source", f"source {path} was not read")]
        grain = self._old.grains.get(path, 0)
        if grain:
            return self._compare_directories(path, source.objects(step.index), before, grain)
        found = []
        for key, digest in source.objects(step.index).items():
            known = before.get(hash_key(key))
            if known is None:
                found.append(Change("source", f"source {path}{_name_object(key, path)} is new", True))
            elif known != digest[: len(known)]:
                found.append(Change("source", f"source {path}{_name_object(key, path)} changed"))
        return found

    def _compare_directories(
        self, path: str, keys: Iterable[str], before: Mapping[bytes, bytes], grain: int
    ) -> list[Change]:
        now = self._directories.get(path)
        if now is None:
            seen = survey_of(self._tokens.fingerprinter).objects.get(path, {})
            now = self._directories[path] = condense(seen, grain)
        found = []
        for directory in sorted({name_directory(key, grain) for key in keys}):
            hashed = hash_key(directory)
            if hashed in before and before[hashed] != now.get(hashed):
                found.append(Change("source", f"source {path} changed, in {directory}"))
        return found

    def _number(self, changes: Iterable[Change]) -> int:
        mask = 0
        for change in changes:
            mask |= 1 << self._bits.setdefault(change, len(self._bits))
        return mask


def compare_functions(new: Function, same: Iterable[Function], runtime: str) -> list[Change]:
    """Say what of a function is other than it was.

    Parameters
    ----------
    new : Function
        As it is.
    same : iterable of Function
        Those of its name as they were.
    runtime : str
        What compiled them.

    Returns
    -------
    list of Change
        At least one.

    Examples
    --------
    >>> compare_functions(Function("f", "b"), [Function("f", "a")], "cpython 3.12 -O0")[0].text
    'function `f` changed'
    """
    old = next(iter(same), None)
    if old is None:
        return [Change("step", f"`{new.name}` was not there")]
    found = [
        Change("library", f"{name} {old.facts.versions[name]} → {version}")
        for name, version in new.facts.versions.items()
        if old.facts.versions.get(name, version) != version
    ]
    if new.facts.units and runtime != RUNTIME:
        return [*found, Change("library", f"{runtime} → {RUNTIME}")]
    for name, unit in new.facts.units.items():
        before = old.facts.units.get(name)
        if before is None:
            continue
        if before.own != unit.own:
            found.append(Change("function", f"function `{name}` changed"))
        for part, digest in unit.parts.items():
            if before.parts.get(part, digest) != digest:
                kind, _, called = part.partition(" ")
                if kind == "file":
                    found.append(Change("source", f"file {called}, which `{name}` reads, changed"))
                else:
                    found.append(Change("value", f"{kind} `{called}` of `{name}` changed"))
    return found or [Change("function", f"function `{new.name}` changed")]


def _compare_order(new: Layer, old: Layer) -> list[Change]:
    """Say which functions are given the same arguments in another order, which a function with ``**`` can see."""
    changes = []
    for function in dict.fromkeys(one.name for one in new.functions):
        orders = [
            [name for name in layer.arguments if name.rpartition(".")[0] == function] for layer in (new, old)
        ]
        if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
            changes.append(Change("argument", f"order of the arguments of `{function}` changed"))
    return changes


def _align(new: Recipe, old: Recipe) -> tuple[dict[str, Layer], list[Layer]]:
    """Pair the layers of a graph with those of an earlier one, in order; and list those that have no successor."""
    one = [layer.signature for layer in old.layers]
    two = [layer.signature for layer in new.layers]
    pairs: dict[str, Layer] = {}
    gone: list[Layer] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind == "equal":
            pairs.update(zip(new.names[c:d], old.layers[a:b], strict=True))
        else:
            gone += old.layers[a:b]
    return pairs, gone


def _is_in(digest: str, joined: str) -> bool:
    return not joined.startswith("*") and any(
        joined[at : at + len(digest)] == digest for at in range(0, len(joined), len(digest))
    )


def _name_argument(name: str, is_local: bool) -> Change:
    if name == "data":
        return Change("data", "an array in memory, or in the store, changed", is_local)
    function, _, parameter = name.rpartition(".")
    return Change("argument", f"argument `{parameter}` of `{function}` changed", is_local)


def _name_object(key: str, path: str) -> str:
    """Call an object of an array by its place in the grid of chunks; a file of its own by nothing."""
    numbers = re.search(r"(?:^|/)(?:c/)?(\d+(?:[./]\d+)*)$", key)
    if not key or numbers is None:
        return ""
    return f" chunk ({', '.join(re.split(r'[./]', numbers[1]))})"


def describe_gone(layers: Iterable[Layer]) -> str:
    """Name the functions of layers that are there no more."""
    names: Mapping[str, None] = dict.fromkeys(
        function.name for layer in layers for function in layer.functions
    )
    return ", ".join(f"`{name}`" for name in names)

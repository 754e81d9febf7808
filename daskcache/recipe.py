"""How an object is computed, in names and digests: what a manifest keeps, so that a later change can be told.

A recipe lists the layers of a graph, inputs first, each with its functions and the digests of the literals that they
are given; then of each function what its digest is made of, and of each source the objects that were looked at. It
holds no code, no values, and of sources their paths without credentials.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np
from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import Blockwise, Key
from daskcache.errors import UncacheableError
from daskcache.fingerprint.condense import choose_grain, condense, pack, unpack
from daskcache.fingerprint.facts import (
    RUNTIME,
    FunctionFacts,
    UnitFacts,
    describe_function,
    shorten_digest,
)
from daskcache.fingerprint.sources_base import survey_of
from daskcache.tokens import GraphTokens, Step, name_function, steps_of

__all__ = ["Function", "Layer", "Recipe", "digest_value", "find_function", "read_recipe", "read_steps"]

FORMAT = 1

_MOST_LAYERS = 1000
_MOST_TASKS = 8
_MOST_POSITIONS = 4
_MOST_VALUES = 16


@dataclass(frozen=True, slots=True)
class Function:
    """One callable of a recipe."""

    name: str
    """With its module."""
    digest: str
    """All of it, shortened."""
    facts: FunctionFacts = field(default_factory=FunctionFacts)
    """What the digest is made of."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a recipe."""

    functions: tuple[Function, ...] = ()
    """What its tasks call."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Digests of literals, by ``function.parameter``, or ``data`` for arrays in the graph, in the order of the call.
    Up to 16 different ones of 8 characters each, sorted; else a ``*`` and one digest for all.
    """
    reads: bool = False
    """Whether it reads sources."""

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a layer has in common with its earlier self."""
        return tuple(function.name for function in self.functions), "data" in self.arguments, self.reads


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the variables of an object are computed."""

    layers: tuple[Layer, ...]
    """Inputs first, in an order that all processes agree on; at most a thousand."""
    names: tuple[str, ...] = ()
    """The names of these layers in the graph; empty where the recipe comes from a manifest."""
    objects: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    """For each source the digests of its objects, by the hash of their keys."""
    grains: Mapping[str, int] = field(default_factory=dict)
    """Of sources with very many objects, how many parts of their keys were hashed: one digest for a directory."""
    settings: str = ""
    """The settings that all tokens depend on."""
    runtime: str = RUNTIME
    """What compiles the user's code."""

    def to_json(self) -> dict[str, Any]:
        """Give the form that a manifest keeps.

        Returns
        -------
        dict
            JSON, a few hundred bytes for each layer.
        """
        functions = list(
            dict.fromkeys(function.digest for layer in self.layers for function in layer.functions)
        )
        by_digest = {function.digest: function for layer in self.layers for function in layer.functions}
        numbers = {digest: number for number, digest in enumerate(functions)}
        versions = {
            name: version for found in by_digest.values() for name, version in found.facts.versions.items()
        }
        return {
            "format": FORMAT,
            "functions": [_function_to_json(by_digest[digest]) for digest in functions],
            "layers": [
                [
                    [numbers[function.digest] for function in layer.functions],
                    dict(layer.arguments),
                    int(layer.reads),
                ]
                for layer in self.layers
            ],
            "objects": {
                path: [self.grains.get(path, 0), pack(found)] for path, found in sorted(self.objects.items())
            },
            "versions": dict(sorted(versions.items())),
            "settings": self.settings,
            "runtime": self.runtime,
        }

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """Read what a manifest keeps.

        Parameters
        ----------
        document : object
            What `to_json` gave.

        Returns
        -------
        Recipe or None
            None for a form of another version.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            return None
        versions = document["versions"]
        functions = [_function_from_json(given, versions) for given in document["functions"]]
        layers = tuple(
            Layer(tuple(functions[number] for number in numbers), arguments, bool(reads))
            for numbers, arguments, reads in document["layers"]
        )
        objects = {path: unpack(packed) for path, (_, packed) in document["objects"].items()}
        grains = {path: grain for path, (grain, _) in document["objects"].items() if grain}
        return cls(layers, (), objects, grains, document["settings"], document["runtime"])

    @property
    def functions(self) -> dict[str, Function]:
        """The functions by name; of several with one name the first."""
        found: dict[str, Function] = {}
        for layer in self.layers:
            for function in layer.functions:
                found.setdefault(function.name, function)
        return found


def read_recipe(tokens: GraphTokens, graph: HighLevelGraph, outputs: Iterable[str]) -> Recipe:
    """Describe how some layers of a graph are computed.

    Parameters
    ----------
    tokens : GraphTokens
        The graph, tokened.
    graph : HighLevelGraph
        The same graph.
    outputs : iterable of str
        Names of layers.

    Returns
    -------
    Recipe
        Of these layers and all that they need.

    Notes
    -----
    Looks at one block of each blockwise layer, and at the first 8 tasks of any other: some 20 µs for each.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = (da.ones(4, chunks=2) + 1).clip(0, 3)
    >>> recipe = read_recipe(GraphTokens(x.dask, Fingerprinter()), x.dask, [x.name])
    >>> [[function.name for function in layer.functions] for layer in recipe.layers]
    [['dask.array.wrap._broadcast_trick_inner'], ['_operator.add'], ['numpy.clip']]
    """
    reader = _Reader(tokens)
    names = _sort(graph, list(outputs), reader)[-_MOST_LAYERS:]
    layers = [reader.layers[name] for name in names]
    kept = [at for at, layer in enumerate(layers) if layer.functions or layer.arguments or layer.reads]
    fingerprinter = tokens.fingerprinter
    objects: dict[str, dict[bytes, bytes]] = {}
    grains: dict[str, int] = {}
    for path, seen in survey_of(fingerprinter).objects.items():
        grains[path] = choose_grain(seen)
        objects[path] = condense(seen, grains[path])
    settings = repr((fingerprinter.code_versions, fingerprinter.source_check)).encode()
    return Recipe(
        tuple(layers[at] for at in kept),
        tuple(names[at] for at in kept),
        objects,
        {path: grain for path, grain in grains.items() if grain},
        shorten_digest(fingerprinter.combine(b"settings", [settings])),
    )


def digest_value(tokens: GraphTokens, key: Key, step: Step, value: Any) -> str | None:
    """Give the short digest of a literal, or None where it has no identity."""
    fingerprinter = tokens.fingerprinter
    try:
        if step.kind == "data":
            # What was hashed already. Of a source only regions are looked at, never all of it.
            token = tokens.known(key)
            return None if token is None else shorten_digest(token)
        return shorten_digest(fingerprinter.fingerprint(value))
    except UncacheableError:
        return None


def find_function(tokens: GraphTokens, function: Any) -> Function | None:
    """Describe a callable, or give None where it has no identity."""
    try:
        digest = tokens.fingerprinter.function(function)
    except UncacheableError:
        # It lies beside the variable's own blocks, which all have tokens.
        return None
    facts = describe_function(function, digest, tokens.fingerprinter)
    return Function(name_function(function), shorten_digest(digest), facts)


def read_steps(tokens: GraphTokens, key: Key) -> tuple[list[Function], list[tuple[str, str]], list[Step]]:
    """Describe one task: its functions, its literals by name, and what it reads.

    Parameters
    ----------
    tokens : GraphTokens
        The graph, tokened.
    key : Hashable
        A key of the graph.

    Returns
    -------
    functions : list of Function
        What it calls, and functions that it is given.
    arguments : list of tuple
        Name and short digest of each literal.
    reads : list of Step
        Regions of sources.
    """
    functions: list[Function] = []
    arguments: list[tuple[str, str]] = []
    reads: list[Step] = []
    for step in steps_of(tokens, key):
        if step.kind == "read":
            reads.append(step)
            continue
        called = find_function(tokens, step.function) if step.kind == "call" else None
        if called is not None:
            functions.append(called)
        for name, value in step.arguments:
            given = find_function(tokens, value) if callable(value) and step.kind == "call" else None
            if given is not None:
                functions.append(given)
                continue
            digest = digest_value(tokens, key, step, value)
            if digest is not None:
                arguments.append((f"{called.name}.{name}" if called else "data", digest))
    return functions, arguments, reads


class _Reader:
    """Describes layers, each once."""

    def __init__(self, tokens: GraphTokens) -> None:
        self._tokens = tokens
        self.layers: dict[str, Layer] = {}

    def read(self, name: str, layer: Any) -> Layer:
        functions: dict[tuple[str, str], Function] = {}
        values: dict[str, set[str]] = {}
        reads = False
        for key in _sample(layer):
            called, arguments, read = read_steps(self._tokens, key)
            for function in called:
                functions.setdefault((function.name, function.digest), function)
            for argument, digest in arguments:
                values.setdefault(argument, set()).add(digest)
            reads = reads or bool(read)
        found = Layer(
            tuple(functions[pair] for pair in sorted(functions)),
            {argument: _join(digests) for argument, digests in values.items()},
            reads,
        )
        self.layers[name] = found
        return found


def _sample(layer: Any) -> Iterable[Key]:
    if not isinstance(layer, Blockwise):
        return list(islice(layer, _MOST_TASKS))
    shape = tuple(layer.dims[i] for i in layer.output_indices)
    if 0 in shape:
        return []
    count = _MOST_POSITIONS if layer.io_deps else 1
    return [(layer.output, *index) for index in islice(np.ndindex(*shape), count)]


def _join(digests: set[str]) -> str:
    joined = "".join(sorted(digests))
    if len(digests) <= _MOST_VALUES:
        return joined
    return f"*{shorten_digest(hashlib.blake2b(joined.encode(), digest_size=20).digest())}"


def _sort(graph: HighLevelGraph, outputs: Sequence[str], reader: _Reader) -> list[str]:
    """List the layers that the outputs need, inputs first, in an order that does not depend on their names."""
    order: list[str] = []
    shapes: dict[str, tuple[bytes, bytes]] = {}
    for output in outputs:
        stack = [(output, False)]
        while stack:
            name, is_ready = stack.pop()
            if name in shapes or name not in graph.layers:
                continue
            inputs = [other for other in graph.dependencies.get(name, ()) if other in graph.layers]
            if not is_ready:
                stack.append((name, True))
                stack += [(other, False) for other in inputs]
                continue
            layer = reader.read(name, graph.layers[name])
            below = sorted(shapes[other] for other in inputs if other in shapes)
            shape = _hash(repr(layer.signature).encode(), *(one for one, _ in below))
            exact = _hash(
                repr([f.digest for f in layer.functions]).encode(),
                repr(list(layer.arguments.items())).encode(),
                *(two for _, two in below),
            )
            shapes[name] = shape, exact
    # A second walk, now that inputs can be told apart.
    seen: set[str] = set()
    for output in outputs:
        stack = [(output, False)]
        while stack:
            name, is_ready = stack.pop()
            if is_ready:
                order.append(name)
                continue
            if name in seen or name not in shapes:
                continue
            seen.add(name)
            stack.append((name, True))
            inputs = [
                other for other in graph.dependencies.get(name, ()) if other in shapes and other not in seen
            ]
            stack += [(other, False) for other in sorted(inputs, key=shapes.__getitem__, reverse=True)]
    return order


def _hash(*parts: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def _function_to_json(function: Function) -> list[Any]:
    units = {name: [unit.own, dict(unit.parts)] for name, unit in function.facts.units.items()}
    return [function.name, function.digest, units, list(function.facts.versions)]


def _function_from_json(given: Any, versions: Mapping[str, str]) -> Function:
    name, digest, units, distributions = given
    facts = FunctionFacts(
        {unit: UnitFacts(own, parts) for unit, (own, parts) in units.items()},
        {distribution: versions.get(distribution, "") for distribution in distributions},
    )
    return Function(name, digest, facts)

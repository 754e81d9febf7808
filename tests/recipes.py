"""Recipes, and two ways of writing each of them down as a graph that share no key and little of its form."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask._task_spec import Alias, convert_legacy_graph, fuse_linear_task_spec

from daskcache.dask_internals import DataNode, Dict, Key, List, Set, Task, TaskRef, Tuple


def join(*parts: Any, **named: Any) -> tuple[Any, ...]:
    """Give what it was given: whoever calls it otherwise gets another value."""
    return ("join", parts, tuple(named.items()))


def swap(first: Any, second: Any) -> tuple[Any, ...]:
    return ("swap", second, first)


FUNCTIONS: list[Callable[..., Any]] = [
    join, swap, functools.partial(join, 1), functools.partial(join, 1.0), functools.partial(join, k=1),
    lambda *parts: ("one", parts), lambda *parts: ("two", parts),
]  # fmt: skip
VALUES: list[Any] = [
    0, 1, -1, 1.0, True, False, None, "", "a", b"a", 0.0, -0.0, 1j, (), (1,), np.float32(1), np.float64(1), np.int64(1),
    np.array([1, 2]), np.array([2, 1]), np.array([[1, 2]]), np.array([1.0, 2.0]), np.array(1), np.array(["a"]), slice(1),
    slice(1, None), range(2), operator.add, operator.sub,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """A computation, as a tree."""

    kind: str
    """``value``, ``call``, ``list``, ``tuple``, ``set`` or ``dict``."""
    which: int
    """Which value, or which function."""
    parts: tuple[Recipe, ...] = ()
    """What it is made of."""
    names: tuple[str, ...] = ()
    """Names of the last of the parts: as arguments of a call, or as keys of a dict."""


def compute(recipe: Recipe) -> Any:
    """Work out a recipe's value without a graph."""
    parts = [compute(part) for part in recipe.parts]
    if recipe.kind == "value":
        return VALUES[recipe.which]
    if recipe.kind == "list":
        return parts
    if recipe.kind == "tuple":
        return tuple(parts)
    if recipe.kind == "set":
        return set(map(describe, parts))
    if recipe.kind == "dict":
        return dict(zip(recipe.names, parts, strict=True))
    count = len(parts) - len(recipe.names)
    return FUNCTIONS[recipe.which](*parts[:count], **dict(zip(recipe.names, parts[count:], strict=True)))


def describe(value: Any) -> Any:
    """Give something hashable that is equal for equal values of equal types only, bit by bit."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(describe, value))
    if isinstance(value, set):
        return ("set", frozenset(map(describe, value)))
    if isinstance(value, dict):
        return ("dict", *((key, describe(item)) for key, item in value.items()))
    if isinstance(value, np.ndarray | np.generic):
        return (type(value).__name__, value.dtype.str, value.shape, value.tobytes())
    return (type(value).__name__, repr(value))


class Rendering:
    """Writes recipes down as a graph, in a form that it draws by lot.

    Parameters
    ----------
    seed : int
        Of the lots: keys, what gets a key of its own, aliases, older or newer form, the order of the graph.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.graph: dict[Key, Any] = {}
        self.count = 0

    def key(self) -> Key:
        self.count += 1
        name = f"key-{self.random.getrandbits(64):x}-{self.count}"
        return self.random.choice([name, (name, 0), (name, 1, 2)])

    def put(self, node: Any, key: Key) -> Any:
        """Give a node a key, perhaps by way of aliases, and refer to it."""
        self.graph[key] = node
        while self.random.random() < 0.3:
            alias = self.key()
            self.graph[alias] = Alias(alias, key)
            key = alias
        return TaskRef(key)

    def render(self, recipe: Recipe, is_whole: bool = False) -> Any:
        """Give what stands for a recipe in a task's arguments."""
        key = self.key()
        if recipe.kind == "value":
            value = VALUES[recipe.which]
            if is_whole or self.random.random() < 0.5:
                return self.put(DataNode(key, value), key)
            # A container takes one tuple for its elements.
            return (
                value
                if self.random.random() < 0.5 and not isinstance(value, tuple)
                else DataNode(None, value)
            )
        parts = [self.render(part) for part in recipe.parts]
        if recipe.kind == "dict":
            return Dict(dict(zip(recipe.names, parts, strict=True)))
        if recipe.kind != "call":
            return {"list": List, "tuple": Tuple, "set": Set}[recipe.kind](*parts)
        count = len(parts) - len(recipe.names)
        named = dict(zip(recipe.names, parts[count:], strict=True))
        function = FUNCTIONS[recipe.which]
        if not named and all(isinstance(part, TaskRef) for part in parts) and self.random.random() < 0.3:
            return self.put((function, *(part.key for part in parts)), key)
        if not is_whole and self.random.random() < 0.3:
            # Within the task that it is an argument of.
            return Task(None, function, *parts[:count], **named)
        return self.put(Task(key, function, *parts[:count], **named), key)

    def whole(self, recipe: Recipe) -> Key:
        """Write a recipe down and give its key; the graph is shuffled, and fused now and then."""
        reference = self.render(Recipe("call", 0, (recipe,)), is_whole=True)
        key: Key = reference.key
        if self.random.random() < 0.4:
            self.graph = fuse_linear_task_spec(convert_legacy_graph(self.graph), {key})
        items = list(self.graph.items())
        self.random.shuffle(items)
        self.graph = dict(items)
        return key


def canonical(recipe: Recipe) -> Any:
    """Give what is equal for recipes of one computation only: what stands in place or in the graph is the same."""
    if recipe.kind == "value":
        return of_value(VALUES[recipe.which])
    parts = tuple(canonical(part) for part in recipe.parts)
    if recipe.kind == "set":
        return ("set", frozenset(parts))
    return (recipe.kind, recipe.which if recipe.kind == "call" else 0, parts, recipe.names)


def of_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return ("tuple", 0, tuple(map(of_value, value)), ())
    return ("value", describe(value))

"""What a block is made of, step by step, for people: functions, the literals they are given, what is read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from daskcache.dask_internals import (
    Alias,
    DataNode,
    GraphNode,
    Key,
    NestedContainer,
    Task,
    TaskRef,
)
from daskcache.errors import UncacheableError
from daskcache.tokens.graph import GraphTokens
from daskcache.tokens.rules import READERS, is_composed, is_one_of, is_subgraph, is_transparent
from daskcache.tokens.scope import MISSING, Scope

__all__ = ["Step", "name_function", "steps_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One thing that is done for a block."""

    kind: Literal["call", "data", "read"]
    """A function is called, an array lies in the graph, or a region of a source is read."""
    function: Any = None
    """What is called, without what wraps it."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Names and values of the literals that it is given; of data the value."""
    index: Any = None
    """Which region of the first argument is read."""


def steps_of(tokens: GraphTokens, key: Key) -> list[Step]:
    """List what is done for one block, besides what is done for its inputs.

    Parameters
    ----------
    tokens : GraphTokens
        The graph, tokened.
    key : Hashable
        A key of the graph.

    Returns
    -------
    list of Step
        In the order of the graph. Some 20 µs each.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones(4, chunks=2).clip(0, 3)
    >>> [step] = steps_of(GraphTokens(x.dask, Fingerprinter()), (x.name, 0))
    >>> name_function(step.function), step.arguments
    ('numpy.clip', (('a_min', 0), ('a_max', 3)))
    """
    scope, node = tokens.task(key)
    return list(_walk(scope, node, key))


def name_function(function: Any) -> str:
    """Name a callable for people: with its module, but for those of a script.

    Parameters
    ----------
    function : callable
        Anything that can be called.

    Returns
    -------
    str
        Such as ``anomaly.detrend``; of an instance its class's name.

    Examples
    --------
    >>> name_function(np.mean)
    'numpy.mean'
    """
    if not isinstance(getattr(function, "__qualname__", None), str):
        function = function if isinstance(function, np.ufunc) else type(function)
    module = getattr(function, "__module__", None)
    if isinstance(function, np.ufunc):
        return f"numpy.{function.__name__}"
    name = str(function.__qualname__)
    return name if module in (None, "__main__", "builtins") else f"{module}.{name}"


def _walk(scope: Scope, node: Any, key: Key) -> Iterator[Step]:
    if isinstance(node, TaskRef | Alias):
        return
    if isinstance(node, DataNode) or not isinstance(node, GraphNode):
        yield Step("data", arguments=(("", node.value if isinstance(node, DataNode) else node),))
    elif isinstance(node, NestedContainer):
        for arg in node.args:
            if isinstance(arg, Task):
                yield from _walk(scope, arg, key)
    elif isinstance(node, Task):
        yield from _walk_task(scope, node, key)


def _walk_task(scope: Scope, task: Task, key: Key) -> Iterator[Step]:
    if is_subgraph(task.func):
        inner, _, inkeys, *values = task.args
        within = Scope(scope.tokens, dict(zip(inkeys, values, strict=True)), scope, inner)
        for node in inner.values():
            yield from _walk(within, node, key)
        return
    if is_transparent(task.func):
        yield from _walk(scope, task.args[0], key)
        return
    read = _read(scope, task)
    if read is not None:
        yield read
        return
    first, *others = _unwrap(task.func)
    function, positional, named = first
    literals = [*enumerate(positional)]
    skipped = len(positional)
    literals += [
        (skipped + at, value)
        for at, arg in enumerate(task.args)
        if (value := _literal(scope, arg)) is not MISSING
    ]
    names = _parameters(function)
    arguments = [(names[at] if at < len(names) else f"{at + 1}", value) for at, value in literals]
    arguments += named.items()
    arguments += [
        (name, found)
        for name, value in task.kwargs.items()
        if (found := _literal(scope, value)) is not MISSING
    ]
    yield Step("call", function, tuple(arguments))
    for function, positional, named in others:
        names = _parameters(function)
        given = [
            (names[at] if at < len(names) else f"{at + 1}", value) for at, value in enumerate(positional)
        ]
        yield Step("call", function, (*given, *named.items()))
    for arg in (*task.args, *task.kwargs.values()):
        if isinstance(arg, Task):
            yield from _walk(scope, arg, key)


def _read(scope: Scope, task: Task) -> Step | None:
    if not is_one_of(task.func, READERS) or len(task.args) < 2:
        return None
    array, index = scope.literal(task.args[0]), scope.literal(task.args[1])
    if array is MISSING or index is MISSING:
        return None
    if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        return Step("data", arguments=(("", array[index]),))
    if hasattr(type(array), "__daskcache_region__"):
        return Step("data", arguments=(("", array),), index=index)
    try:
        source = scope.tokens.fingerprinter.find_source(array)
    except UncacheableError:
        return None
    return None if source is None else Step("read", arguments=(("", array),), index=index)


def _literal(scope: Scope, node: Any) -> Any:
    """Give the value of an argument that nothing has to be computed for; of a nest of arguments those in it."""
    if isinstance(node, NestedContainer):
        found = [value for arg in node.args if (value := _literal(scope, arg)) is not MISSING]
        return tuple(found) if found else MISSING
    value = scope.literal(node)
    return MISSING if isinstance(value, GraphNode | TaskRef) else value


def _unwrap(function: Any) -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """Take off partials, and take compositions apart: functions with what they are given already."""
    if is_composed(function):
        return [part for step in (function.first, *function.funcs) for part in _unwrap(step)]
    if isinstance(function, functools.partial):
        (inner, positional, named), *others = _unwrap(function.func)
        return [(inner, (*positional, *function.args), {**named, **function.keywords}), *others]
    return [(function, (), {})]


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return _read_parameters(function)
    except TypeError:  # not hashable
        return ()


@functools.lru_cache(maxsize=2048)
def _read_parameters(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )

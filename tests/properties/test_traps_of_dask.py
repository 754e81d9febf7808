"""What dask's own tokens and names do not tell apart, or tell apart in every process, and ours must not follow."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from dask._task_spec import fuse_linear_task_spec, parse_input
from dask.base import tokenize

from daskcache.dask_internals import Dict, List, Set, Task, TaskRef, Tuple
from daskcache.fingerprint import Fingerprinter, fingerprint
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens
from tests.workspace import Workspace


def token(graph: Any, key: Any) -> bytes:
    tokens = GraphTokens(graph, Fingerprinter())
    found = tokens.token(key)
    assert found is not None, tokens.reason(key)
    return found


def array_tokens(array: da.Array) -> list[bytes]:
    return [token(array.dask, key) for key in keys_of([array])]


def hold(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Fields:
    x: Any
    y: Any


def unpack(order: str) -> Any:
    """Give the node that dask makes of a dataclass of what is delayed."""
    x, y = (delayed(0, name=name) for name in order)
    return dict(delayed(hold)(Fields(x, y), dask_key_name="z").dask)["z"].args[0]


A, B = TaskRef("a"), TaskRef("b")
REORDERED: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "list": (lambda: List(A, B), lambda: List(B, A)),
    "tuple": (lambda: Tuple(A, B), lambda: Tuple(B, A)),
    "values of a dict": (lambda: Dict({"x": A, "y": B}), lambda: Dict({"x": B, "y": A})),
    "items of a dict": (lambda: Dict({"x": A, "y": B}), lambda: Dict({"y": B, "x": A})),
    "list in a list": (lambda: List(List(A), B), lambda: List(B, List(A))),
    "list in a tuple": (lambda: Tuple(List(A, B)), lambda: Tuple(List(B, A))),
    "fields of a named tuple": (lambda: parse_input(Point(A, B)), lambda: parse_input(Point(B, A))),
    "fields of a dataclass": (lambda: unpack("ab"), lambda: unpack("ba")),
    "nesting": (lambda: List(List(A), B), lambda: List(A, List(B))),
}


@pytest.mark.parametrize("name", REORDERED)
def test_reordered_containers_are_other_arguments(name: str) -> None:
    one, other = REORDERED[name]
    graphs = [{"a": 1, "b": 2, "z": Task("z", hold, make())} for make in (one, other)]
    assert dask.get(graphs[0], "z") != dask.get(graphs[1], "z") or name == "items of a dict"
    assert token(graphs[0], "z") != token(graphs[1], "z")


def test_dask_itself_does_not_tell_them_apart() -> None:
    """Once it does, half of these tests have no cause any more."""
    one, other = Task("z", hold, List(A, B)), Task("z", hold, List(B, A))
    assert tokenize(one) == tokenize(other)


def test_the_order_of_a_set_is_none() -> None:
    graphs = [{"a": 1, "b": 2, "z": Task("z", hold, Set(*parts))} for parts in ((A, B), (B, A))]
    assert token(graphs[0], "z") == token(graphs[1], "z")


def test_names_and_keys_do_not_count() -> None:
    """dask's name of an array depends on the names of what it is made of."""
    arrays = [(da.ones((4, 4), chunks=2, name=name) + 1).sum(axis=0) for name in ("one", "other")]
    assert arrays[0].name != arrays[1].name
    assert array_tokens(arrays[0]) == array_tokens(arrays[1])


def test_arrays_of_one_name_and_other_values_are_others() -> None:
    """As of one that is rewritten in place."""
    values = np.arange(6.0)
    one = da.from_array(values, chunks=3, name="given") + 1
    before = array_tokens(one)
    values[0] = 7
    other = da.from_array(values, chunks=3, name="given") + 1
    assert one.name == other.name
    assert [a == b for a, b in zip(before, array_tokens(other), strict=True)] == [False, True]


def test_an_edited_function_that_can_be_imported_is_another(workspace: Workspace) -> None:
    def load(source: str) -> Any:
        workspace.write({"mine.py": source})
        return workspace.find("mine:f")

    one = load("def f(x): return x + 1\n")
    names, tokens = [tokenize(one)], [fingerprint(one)]
    arrays = [array_tokens(da.ones(4, chunks=2).map_blocks(one))]
    other = load("def f(x): return x + 2\n")
    names.append(tokenize(other))
    tokens.append(fingerprint(other))
    arrays.append(array_tokens(da.ones(4, chunks=2).map_blocks(other)))
    assert names[0] == names[1]
    assert tokens[0] != tokens[1]
    assert arrays[0] != arrays[1]


@pytest.mark.parametrize("first", [True, False])
def test_tokens_that_dask_has_made_before_do_not_count(first: bool) -> None:
    """A lenient token is random, and dask remembers it for a strict one."""

    class Unpicklable:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no")

    def make() -> dict[str, Any]:
        return {
            "a": 1,
            "y": Task("y", operator.add, TaskRef("a"), 2),
            "z": Task("z", hold, TaskRef("y"), Unpicklable()),
        }

    def ours(graph: dict[str, Any]) -> tuple[bytes | None, str]:
        tokens = GraphTokens(graph, Fingerprinter())
        assert tokens.token("z") is None
        return tokens.token("y"), str(tokens.reason("z"))

    expected = ours(make())
    graph = make()
    for is_strict in (first, not first):
        with dask.config.set({"tokenize.ensure-deterministic": is_strict}):
            for node in graph.values():
                try:
                    tokenize(node)
                except (RuntimeError, TypeError):
                    assert is_strict
            assert ours(graph) == expected
    assert ours(graph) == expected


def chain(seed: int) -> dict[str, Any]:
    keys = [f"k{(number * 7 + seed) % 101}" for number in range(20)]
    graph: dict[str, Any] = {keys[0]: Task(keys[0], hold, seed * 0)}
    for before, key in pairwise(keys):
        graph[key] = Task(key, hold, TaskRef(before), number=1)
    return graph


def test_fused_tasks_are_what_they_were_fused_of() -> None:
    tokens = set()
    for seed in range(5):
        graph = chain(seed)
        last = list(graph)[-1]
        fused = fuse_linear_task_spec(graph, {last})
        assert len(fused) < len(graph)
        tokens |= {token(graph, last), token(fused, last)}
        twice = fuse_linear_task_spec({**fused, "end": Task("end", hold, TaskRef(last))}, {"end"})
        assert token(twice, "end") == token({**graph, "end": Task("end", hold, TaskRef(last))}, "end")
    assert len(tokens) == 1


def test_fused_tasks_keep_the_order_of_what_they_are_given() -> None:
    graphs = [
        {
            "a": Task("a", hold, 1),
            "b": Task("b", hold, List(TaskRef("a"), *rest)),
            "c": Task("c", hold, TaskRef("b")),
        }
        for rest in ((2, 3), (3, 2))
    ]
    fused = [fuse_linear_task_spec(graph, {"c"}) for graph in graphs]
    assert token(fused[0], "c") != token(fused[1], "c")
    assert [token(graph, "c") for graph in graphs] == [token(graph, "c") for graph in fused]

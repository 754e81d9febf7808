"""Laws 1 and 2 over random graphs, and the tokens of layers seen by structure."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from dask._task_spec import Alias, fuse_linear_task_spec
from dask.blockwise import Blockwise, optimize_blockwise
from hypothesis import given
from hypothesis import strategies as st

from daskcache.dask_internals import DataNode, Key, List, Task, TaskRef, Tuple
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens

FUNCTIONS: list[Callable[..., Any]] = [
    np.add, np.arctan2, np.multiply, np.maximum, lambda a, b: a + 2 * b, lambda a, b: a + 3 * b,
]  # fmt: skip
REDUCTIONS: list[Callable[..., Any]] = [
    sum, lambda parts: np.arctan2(parts[0], parts[-1]), functools.partial(sum, start=1), functools.partial(sum, start=2),
]  # fmt: skip
VALUES = [1, 2, 1.0, np.float32(1), np.array([1, 2]), np.array([1.0, 2.0]), np.array([2, 1]), True, -0.0, 0.0]


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw a recipe: steps, each of what is before it."""
    steps: list[tuple[Any, ...]] = [("value", draw(st.integers(0, len(VALUES) - 1)))]
    for number in range(1, draw(st.integers(2, 7))):
        before = st.integers(0, number - 1)
        kind = draw(st.sampled_from(["value", "call", "named", "list", "tuple", "alias"]))
        if kind == "value":
            steps.append((kind, draw(st.integers(0, len(VALUES) - 1))))
        elif kind == "alias":
            steps.append((kind, draw(before)))
        elif kind in ("list", "tuple"):
            inputs = draw(st.lists(before, min_size=1, max_size=3))
            steps.append((kind, draw(st.integers(0, len(REDUCTIONS) - 1)), *inputs))
        else:
            steps.append((kind, draw(st.integers(0, len(FUNCTIONS) - 1)), draw(before), draw(before)))
    return tuple(steps)


def named(function: Callable[..., Any], *, left: Any, right: Any) -> Any:
    return function(left, right)


def build(recipe: tuple[Any, ...], name: Callable[[int], Key], is_older: bool = False) -> dict[Key, Any]:
    """Make the graph of a recipe, in dask's newer form or in its older one."""
    graph: dict[Key, Any] = {}
    for number, (kind, which, *inputs) in enumerate(recipe):
        key = name(number)
        keys = [name(i) for i in inputs]
        references: Any = keys if is_older else [TaskRef(i) for i in keys]
        make = (lambda key, *parts: parts) if is_older else Task
        if kind == "value":
            graph[key] = VALUES[which] if is_older else DataNode(key, VALUES[which])
        elif kind == "alias":
            graph[key] = name(which) if is_older else Alias(key, name(which))
        elif kind == "call":
            graph[key] = make(key, FUNCTIONS[which], *references)
        elif kind == "named":
            function = functools.partial(named, FUNCTIONS[which])
            graph[key] = Task(key, function, left=TaskRef(keys[0]), right=TaskRef(keys[1]))
        else:
            node = List if kind == "list" else Tuple
            parts = (references if kind == "list" else tuple(references)) if is_older else node(*references)
            graph[key] = make(key, REDUCTIONS[which], parts)
    return graph


def compute(recipe: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Work out each step's value without dask, as something to compare: with its type and bytes."""
    values: list[Any] = []
    for kind, which, *inputs in recipe:
        given = [values[i] for i in inputs]
        if kind == "value":
            values.append(VALUES[which])
        elif kind == "alias":
            values.append(values[which])
        elif kind in ("call", "named"):
            values.append(FUNCTIONS[which](*given))
        else:
            values.append(REDUCTIONS[which](given if kind == "list" else tuple(given)))
    return [
        (type(value).__name__, array.dtype.str, array.shape, array.tobytes())
        for value in values
        for array in [np.asarray(value)]
    ]


def tokens_of(graph: dict[Key, Any], keys: Iterable[Key]) -> list[bytes]:
    tokens = GraphTokens(graph, Fingerprinter())
    found = [tokens.token(key) for key in keys]
    assert None not in found, [str(tokens.reason(key)) for key in keys]
    return [token for token in found if token is not None]


@given(recipes(), st.permutations(list(range(7))))
def test_equal_recipes_have_equal_tokens(recipe: tuple[Any, ...], order: list[int]) -> None:
    count = len(recipe)
    plain = tokens_of(build(recipe, str), [str(i) for i in range(count)])

    def other(number: int) -> Key:
        return ("another", order[number])

    graph = build(recipe, other)
    shuffled = {other(i): graph[other(i)] for i in order if i < count}
    asked = [i for i in order if i < count]
    found = dict(zip(asked, tokens_of(shuffled, [other(i) for i in asked]), strict=True))
    assert [found[i] for i in range(count)] == plain


@given(recipes())
def test_older_graphs_have_the_same_tokens(recipe: tuple[Any, ...]) -> None:
    keys = [f"key-{i}" for i in range(len(recipe))]
    newer = build(recipe, lambda i: f"key-{i}")
    older = build(recipe, lambda i: f"key-{i}", is_older=True)
    assert tokens_of(newer, keys) == tokens_of(older, keys)


@given(recipes(), recipes())
def test_equal_tokens_mean_equal_values(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    seen: dict[bytes, tuple[Any, ...]] = {}
    for recipe in (one, other):
        graph = build(recipe, str)
        tokens = tokens_of(graph, [str(i) for i in range(len(recipe))])
        for token, value in zip(tokens, compute(recipe), strict=True):
            assert seen.setdefault(token, value) == value


@given(recipes())
def test_fused_tasks_have_the_tokens_of_what_was_fused(recipe: tuple[Any, ...]) -> None:
    graph = build(recipe, str)
    last = str(len(recipe) - 1)
    fused = fuse_linear_task_spec(dict(graph), {last})
    assert tokens_of(fused, [last]) == tokens_of(graph, [last])


def add(*blocks: Any) -> Any:
    return sum(blocks)


def with_info(block: Any, block_info: Any = None) -> Any:
    return block + block_info[0]["num-chunks"][0]


def with_id(block: Any, block_id: Any = None) -> Any:
    return block + block_id[0]


X, Y, V = da.ones((6, 4), chunks=(2, 2)), da.arange(24, chunks=4).reshape(6, 4), da.arange(4, chunks=2)
SOURCE = da.from_array(np.arange(24.0).reshape(6, 4), chunks=(4, 3))
LAYERS: dict[str, Callable[[], da.Array]] = {
    "elementwise": lambda: np.sqrt(X * 2 + 1),
    "broadcast": lambda: X + V,
    "broadcast a scalar": lambda: X + da.asarray(3.0),
    "broadcast one block": lambda: X + da.ones((6, 1), chunks=(2, 1)),
    "transpose": lambda: X.T + 1,
    "contraction": lambda: da.blockwise(add, "i", X, "ij", dtype="f8", concatenate=True),
    "contraction of lists": lambda: da.blockwise(lambda parts: sum(parts), "i", X, "ij", dtype="f8"),
    "contraction of all": lambda: da.blockwise(lambda parts: 1, "", X, "ij", dtype="f8"),
    "tensordot": lambda: da.tensordot(X, X, axes=((0,), (0,))),
    "einsum": lambda: da.einsum("ij,ij->i", X, X),
    "new axes": lambda: da.blockwise(lambda b: b[:, :, None], "ijk", X, "ij", new_axes={"k": 1}, dtype="f8"),
    "new axes in blocks": lambda: da.blockwise(
        lambda b: b[:, :, None], "ijk", X, "ij", new_axes={"k": (1, 1)}, dtype="f8"
    ),
    "literals": lambda: da.blockwise(
        lambda b, number, names: b, "ij", X, "ij", 3.5, None, ["a", (1, 2)], None, dtype="f8"
    ),
    "keywords": lambda: X.map_blocks(lambda b, k: b * k, k=np.arange(2)),
    "keyword that is an array": lambda: da.blockwise(
        lambda b, k: b * k, "ij", X, "ij", k=delayed(operator.add)(1, 2), dtype="f8"
    ),
    "block_info": lambda: X.map_blocks(with_info, dtype="f8"),
    "block_id": lambda: X.map_blocks(with_id, dtype="f8"),
    "overlap": lambda: X.map_overlap(np.negative, depth=1, boundary="reflect"),
    "sources": lambda: SOURCE + 1,
    "creation": lambda: da.full((6, 4), 2.0, chunks=3) + da.zeros((6, 4), chunks=3),
    "from a function": lambda: da.fromfunction(lambda i, j: i + j, shape=(6, 4), chunks=2, dtype="f8"),
    "random": lambda: da.random.default_rng(1).normal(size=(6, 4), chunks=2) * 2,
    "several outputs": lambda: da.apply_gufunc(lambda b: (b, b * 2), "()->(),()", X, output_dtypes=("f8", "f8"))[1],
    "same input twice": lambda: da.blockwise(operator.add, "ij", X, "ij", X, "ij", dtype="f8"),
    "rechunked": lambda: (X.rechunk((3, 4)) + 1).sum(axis=0),
}  # fmt: skip


def block_tokens(graph: Any, array: da.Array) -> list[bytes]:
    return tokens_of(graph, keys_of([array]))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_tokens_of_its_tasks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = LAYERS[name]()
    assert any(isinstance(layer, Blockwise) for layer in array.dask.layers.values())
    with monkeypatch.context() as patch:
        patch.setattr(Blockwise, "_dict", property(lambda layer: pytest.fail("made the tasks")))
        by_structure = block_tokens(array.dask, array)
    assert by_structure == block_tokens(dict(array.dask), array)


@pytest.mark.parametrize("name", LAYERS)
def test_fusing_changes_no_token(name: str) -> None:
    array = LAYERS[name]()
    fused = optimize_blockwise(array.dask, keys=keys_of([array]))
    assert block_tokens(fused, array) == block_tokens(array.dask, array)
    if name != "sources":
        # dask fuses reads of a source with what is selected of them: another region, read by another task.
        (optimised,) = dask.optimize(array)
        assert block_tokens(optimised.dask, optimised) == block_tokens(array.dask, array)


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_that_differ_have_other_tokens(name: str) -> None:
    array = LAYERS[name]()
    seen: dict[bytes, bytes] = {}
    blocks = dask.get(dict(array.dask), keys_of([array]))
    for token, block in zip(block_tokens(array.dask, array), blocks, strict=True):
        value = repr((np.asarray(block).dtype, np.shape(block))).encode() + np.asarray(block).tobytes()
        assert seen.setdefault(token, value) == value

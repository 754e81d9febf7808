"""What keys need, listed by layers: the same as when it is followed key by key, also where somebody stops in between."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import Blockwise, Key, List, Task, TaskRef, blockwise_token
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from daskcache.tokens.blockwise import BlockwiseLayer
from daskcache.tokens.needs import _Front
from tests.pipelines import PIPELINES, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    return root


def follow(tokens: GraphTokens, keys: list[Key], cut: set[Key]) -> set[Key]:
    """Key by key, as `GraphTokens.inputs` says."""
    found, queue = set(keys), list(keys)
    for key in queue:
        fresh = set() if key in cut else set(tokens.inputs(key)) - found
        found |= fresh
        queue += fresh
    return found


def listed(tokens: GraphTokens, keys: list[Key], cut: set[Key] = frozenset()) -> list[Key]:  # type: ignore[assignment]
    def go_on(name: str | None, asked: list[Key]) -> list[Key]:
        assert name is None or all(name in (key, key[0]) for key in asked)
        seen.extend(asked)
        return [key for key in asked if key not in cut]

    seen: list[Key] = []
    found = [key for blocks in tokens.needs.by_layer(keys, go_on).values() for key in blocks]
    assert sorted(map(str, found)) == sorted(map(str, seen)), "each is asked for, once"
    return found


def owner(key: Key) -> Any:
    return key[0] if isinstance(key, tuple) else key


def check(graph: Any, keys: list[Key], rng: random.Random) -> None:
    everything = follow(GraphTokens(graph, Fingerprinter()), keys, set())
    for share in (0.0, 0.02, 0.3, 0.9):
        cut = {key for key in everything if rng.random() < share}
        tokens = GraphTokens(graph, Fingerprinter())
        found = listed(tokens, keys, cut)
        assert len(found) == len(set(found))
        assert set(found) == follow(tokens, keys, cut)
        # The same where all has been listed for tokens before.
        tokens.needs.batches(keys, ())
        again = listed(tokens, keys, cut)
        assert len(again) == len(found)
        assert set(again) == set(found)
        one = rng.choice(sorted(everything, key=str))
        assert set(listed(tokens, [one], cut)) == follow(tokens, [one], cut)
    # Nearly always some blocks of few layers are stored, or all.
    names = sorted({str(owner(key)) for key in everything})
    for name, share in itertools.product(rng.sample(names, min(2, len(names))), (0.5, 1)):
        cut = {key for key in everything if str(owner(key)) == name and rng.random() < share}
        tokens.needs.batches(keys, ())
        assert set(listed(tokens, keys, cut)) == follow(tokens, keys, cut)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(sources: Path, name: str) -> None:
    made = PIPELINES[name](sources)
    for part in [node.to_dataset() for node in made.subtree] if isinstance(made, xr.DataTree) else [made]:
        graph = part.__dask_graph__()
        keys = list(flatten(part.__dask_keys__()))
        check(graph, keys, random.Random(name))
        if isinstance(graph, HighLevelGraph):
            layers = {layer: MaterializedLayer(dict(graph.layers[layer])) for layer in graph.layers}
            check(HighLevelGraph(layers, graph.dependencies), keys, random.Random(name))
            check(dict(graph), keys, random.Random(name))


def add(*values: Any) -> Any:
    return sum(map(np.sum, values))


def test_layers_that_say_wrongly_what_they_need() -> None:
    x = da.ones((6, 6), chunks=2) + 1
    y = x * 3
    tasks = {
        ("sum", i): Task(("sum", i), add, TaskRef((y.name, i, 0)), TaskRef((x.name, 0, i))) for i in range(3)
    }
    layers = {**y.dask.layers, "sum": MaterializedLayer(tasks)}
    for sums in (set(), {x.name}, {"sum"}, {y.name, x.name}):
        for ones in (set(), {"sum"}):
            dependencies = {**y.dask.dependencies, "sum": sums, next(iter(x.dask.layers)): ones}
            check(HighLevelGraph(layers, dependencies), [("sum", i) for i in range(3)], random.Random(1))


def test_a_layer_of_which_each_task_needs_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2_000
    # Every third is called otherwise than the layer, and one by a text.
    keys: list[Any] = [("chain", i) if i % 3 else ("other", i) for i in range(count)]
    keys[7] = "seventh"
    tasks: dict[Key, Any] = {keys[0]: Task(keys[0], add, 1)}
    tasks |= {key: Task(key, add, TaskRef(before)) for before, key in itertools.pairwise(keys)}
    chain = HighLevelGraph({"chain": MaterializedLayer(tasks)}, {"chain": set()})
    check(chain, keys[-1:], random.Random(2))


def test_older_tasks_hold_keys_as_dask_finds_them() -> None:
    x = da.ones((4, 4), chunks=2) + 1
    block, number = (x.name, 0, np.int64(1)), ("odd", 5)
    held: dict[Key, Any] = {
        number: 5,
        "text": 6,
        7: (add, 1),
        "plain": (add, block, 2.5, None, slice(3), "no key", (x.name, 9, 9), (x.name, [0]), int),
        "within": (add, [block, [number, (add, "text", [7])]], (add, (add, (x.name, 1, 1)))),
        "named": block,
        "listed": [block, "text"],
        "tuple": ("text", 7, "no key"),
        "odd": (add, {"a": block}, {number}, List(TaskRef((x.name, 1, 0)))),
        "true": (add, True, 7.0),
        "bool": Task("bool", add, TaskRef("text")),
        "holds": (add, Task(None, add, TaskRef("plain"))),
    }
    graph = HighLevelGraph(
        {**x.dask.layers, "held": MaterializedLayer(held)}, {**x.dask.dependencies, "held": {x.name}}
    )
    for key in held:
        check(graph, [key], random.Random(3))
    check(graph, list(held), random.Random(3))


def test_a_layer_that_takes_a_part_of_another() -> None:
    x = da.ones(8, chunks=2) + 1
    half = Blockwise(
        "half", ("i",), Task("half", add, TaskRef(blockwise_token(0))), [(x.name, ("i",))], {x.name: (2,)}
    )
    graph = HighLevelGraph({**x.dask.layers, "half": half}, {**x.dask.dependencies, "half": {x.name}})
    check(graph, [("half", 0), ("half", 1)], random.Random(4))


def test_blocks_that_are_called_by_a_layer_and_are_none_of_it() -> None:
    x = da.ones(4, chunks=2) + 1
    held: dict[Key, Any] = {
        (x.name, 7): Task((x.name, 7), add, TaskRef((x.name, 1))),
        "last": Task(
            "last", add, TaskRef((x.name, 7)), TaskRef((x.name, "gone")), TaskRef((x.name,)), TaskRef(x.name)
        ),
    }
    graph = HighLevelGraph(
        {**x.dask.layers, "held": MaterializedLayer(held)}, {**x.dask.dependencies, "held": {x.name}}
    )
    check(graph, ["last"], random.Random(5))


def test_blocks_of_a_layer_that_is_needed_as_a_whole_are_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followed: list[Any] = []
    dependencies_of = BlockwiseLayer.dependencies_of
    monkeypatch.setattr(
        BlockwiseLayer,
        "dependencies_of",
        lambda self, keys: followed.extend(keys) or dependencies_of(self, keys),
    )
    x = da.ones((20, 20), chunks=2)
    y = ((x + 1) * 2 - x.T).sum(axis=0)
    tokens = GraphTokens(y.dask, Fingerprinter())
    assert len(listed(tokens, list(flatten(y.__dask_keys__())))) > 500
    assert not followed
    part = y[:3]
    assert len(listed(GraphTokens(part.dask, Fingerprinter()), list(flatten(part.__dask_keys__())))) > 50
    assert followed


def test_layers_above_those_that_are_cut_are_not_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x = da.ones((20, 20), chunks=2) + 1
    y = (x.rechunk(5) * 2).sum(axis=0)
    keys = list(flatten(y.__dask_keys__()))
    tokens = GraphTokens(y.dask, Fingerprinter())
    tokens.needs.batches(keys, ())
    walked: list[Any] = []
    refer = _Front.refer
    monkeypatch.setattr(
        _Front, "refer", lambda self, name, asked: walked.append(name) or refer(self, name, asked)
    )
    cut: set[Key] = {(x.name, i, 0) for i in range(5)}
    found = listed(tokens, keys, cut)
    assert 0 < len(walked) <= 3
    assert set(found) == follow(tokens, keys, cut)

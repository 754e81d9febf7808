"""The order in which blocks are looked at: what is needed and no more, most of it after what it needs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.array.core import slices_from_chunks
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import Key, Task
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from daskcache.tokens.direct import Direct


def grid() -> da.Array:
    return da.ones((12, 12), chunks=(3, 4)) + 1


def add_regions(x: np.ndarray, slices: Any) -> np.ndarray:
    return x + len(slices)


GRAPHS: dict[str, Callable[[], da.Array]] = {
    "elementwise": lambda: (grid() + grid().T[:, :1]) * 2,
    "broadcast": lambda: grid() * da.arange(12, chunks=4) - da.ones((1, 12), chunks=4),
    "contracted": lambda: grid() @ grid().rechunk((4, 3)),
    "reduction": lambda: (grid() - grid().mean(axis=0)).std(),
    "rechunked": lambda: grid().rechunk((5, 2)) * 3,
    "part": lambda: (grid() * 2)[:3, 4:9] + 1,
    "positions": lambda: grid()[[0, 11, 3]].sum(),
    "overlapping": lambda: da.map_overlap(np.sin, grid(), depth=1, boundary="reflect"),
    "accumulated": lambda: grid().cumsum(axis=0)[-1],
    "source": lambda: da.from_array(np.ones((6, 6)), chunks=2)[1] + 1,
    "block by block": lambda: grid().map_blocks(add_regions, slices_from_chunks(grid().chunks), dtype=float),
}


def needed(graph: HighLevelGraph, keys: list[Key]) -> set[Key]:
    tokens, found, queue = GraphTokens(graph, Fingerprinter()), set(keys), list(keys)
    for key in queue:
        fresh = set(tokens.inputs(key)) - found
        found |= fresh
        queue += fresh
    return found


def listed(tokens: GraphTokens, keys: list[Key]) -> list[Key]:
    found = [
        key for _, layer in reversed(tokens.needs.batches(keys, tokens._tokens)) for key in reversed(layer)
    ]
    return [key for key in found if not tokens.is_value(key)]


@pytest.mark.parametrize("is_materialised", [False, True], ids=["layers", "materialised"])
@pytest.mark.parametrize("name", GRAPHS)
def test_no_more_than_is_needed_and_inputs_before(name: str, is_materialised: bool) -> None:
    array = GRAPHS[name]()
    graph, keys = array.dask, list(flatten(array.__dask_keys__()))
    graph = materialised(graph) if is_materialised else graph
    tokens = GraphTokens(graph, Fingerprinter())
    found = listed(tokens, keys)
    assert len(set(found)) == len(found)
    tasks = {key for key in needed(graph, keys) if not tokens.is_value(key)}
    assert set(found) == tasks
    places = {key: place for place, key in enumerate(found)}
    early = [key for key in found if any(places.get(dep, 0) > places[key] for dep in tokens.inputs(key))]
    assert not early
    assert tokens.evaluate(keys).keys() >= tasks
    assert tokens.evaluate(keys) == {
        key: GraphTokens(graph, Fingerprinter()).token(key) for key in tokens.evaluate(keys)
    }


def materialised(graph: HighLevelGraph) -> HighLevelGraph:
    layers = {name: MaterializedLayer(dict(layer)) for name, layer in graph.layers.items()}
    return HighLevelGraph(layers, graph.dependencies)


@pytest.mark.parametrize("is_materialised", [False, True], ids=["layers", "materialised"])
def test_each_task_is_looked_at_once(is_materialised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    array = GRAPHS["reduction"]() + GRAPHS["rechunked"]().sum()
    graph = materialised(array.dask) if is_materialised else array.dask
    visits: Counter[Key] = Counter()
    token, compute = Direct.token, GraphTokens._compute
    monkeypatch.setattr(
        Direct, "token", lambda self, key, waiting: visits.update([key]) or token(self, key, waiting)
    )
    ruled: list[Key] = []
    monkeypatch.setattr(GraphTokens, "_compute", lambda self, key: ruled.append(key) or compute(self, key))
    found = GraphTokens(graph, Fingerprinter()).evaluate(flatten(array.__dask_keys__()))
    assert len(found) > 150
    # Of a layer, or of a function, the first goes by the rules. It is asked for once more then.
    assert {key for key, count in visits.items() if count > 1} <= set(ruled)
    assert max(visits.values()) <= 2
    assert len(ruled) <= 2 * len(graph.layers)


def test_what_is_known_is_not_listed_again() -> None:
    array = GRAPHS["reduction"]()
    tokens = GraphTokens(array.dask, Fingerprinter())
    tokens.evaluate(flatten(array.__dask_keys__()))
    assert listed(tokens, list(flatten(array.__dask_keys__()))) == []
    halves = GraphTokens(array.dask, Fingerprinter())
    below = next(name for name in array.dask.layers if name.startswith("mean_agg"))
    before = halves.evaluate([key for key in array.dask.layers[below] if key[0] == below])
    again = listed(halves, list(flatten(array.__dask_keys__())))
    assert again
    assert not set(again) & before.keys()


def test_arguments_that_look_like_keys_are_none() -> None:
    x = grid()
    odds = ((x.name, 0, 99), (x.name, 0, 3), (x.name, -1, 0), (x.name, 0.5, 0), (x.name, [0], 0), (x.name,))
    for odd, others in itertools.product(odds, ([("odd", 7)], [])):
        graph = HighLevelGraph.from_collections(
            "odd", {("odd", 0): (add_regions, [(x.name, 0, 0)], [[odd, *others]])}, dependencies=[x]
        )
        tokens = GraphTokens(graph, Fingerprinter())
        found = listed(tokens, [("odd", 0)])
        assert ("odd", 0) in found
        assert (x.name, 0, 0) in found
        assert set(found) <= {("odd", 0), *x.dask}
        assert set(tokens.evaluate([("odd", 0)])) <= {("odd", 0), *x.dask}
        assert tokens.token(("odd", 0)) is not None


def test_graphs_without_an_order() -> None:
    tasks = {"a": Task("a", add_regions, 1, ()), ("b", 0): Task(("b", 0), add_regions, 2, ())}
    circle = HighLevelGraph({"a": tasks, "b": tasks}, {"a": {"b"}, "b": {"a"}})
    assert listed(GraphTokens(circle, Fingerprinter()), ["a"]) == ["a"]
    assert GraphTokens(circle, Fingerprinter()).evaluate(["a"]).keys() == {"a"}
    assert GraphTokens(tasks, Fingerprinter()).evaluate(["a"]).keys() == {"a"}

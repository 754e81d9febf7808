"""Tasks that are alike, and are given their tokens together: the same tokens as the rules give to each."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.blockwise import BlockwiseDep, blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import DataNode, Key, List, Task, TaskRef, getter
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens, columns
from daskcache.tokens.direct import Direct
from tests.pipelines import PIPELINES, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    return root


def by_rules(graph: Any, keys: Iterable[Key]) -> dict[Key, bytes]:
    """Give the tokens of all that keys need, each by the rules alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Direct, "evaluate", lambda *args: ())
        patch.setattr(Direct, "token", lambda *args: None)
        return GraphTokens(graph, Fingerprinter()).evaluate(keys)


def check(graph: Any, keys: list[Key]) -> dict[Key, bytes]:
    found = GraphTokens(graph, Fingerprinter()).evaluate(keys)
    expected = by_rules(graph, keys)
    assert found == found | expected
    # Other names of tasks have theirs as well; of values there are no more, since tasks may want a region only.
    tokens = GraphTokens(graph, Fingerprinter())
    assert not [key for key in found.keys() - expected.keys() if tokens.is_value(key)]
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(sources: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_FEW", 1)
    made = PIPELINES[name](sources)
    for part in [node.to_dataset() for node in made.subtree] if isinstance(made, xr.DataTree) else [made]:
        graph = part.__dask_graph__()
        keys = list(flatten(part.__dask_keys__()))
        check(graph, keys)
        if isinstance(graph, HighLevelGraph):
            layers = {layer: MaterializedLayer(dict(graph.layers[layer])) for layer in graph.layers}
            check(HighLevelGraph(layers, graph.dependencies), keys)


X = da.arange(40, chunks=1) + 1
BLOCKS = [(X.name, i) for i in range(40)]
VALUE = "value"


def add(*parts: Any) -> Any:
    return sum(np.sum(part) for part in parts)


TASKS: dict[str, Callable[[Key, int], Any]] = {
    "one argument": lambda key, i: Task(key, np.negative, TaskRef(BLOCKS[i])),
    "regions": lambda key, i: Task(key, operator.getitem, TaskRef(BLOCKS[i]), (slice(0, i), slice(i, None))),
    "regions of a value": lambda key, i: Task(key, operator.getitem, TaskRef(VALUE), (slice(0, i % 3),)),
    "regions of either": lambda key, i: Task(
        key, operator.getitem, TaskRef(VALUE if i % 3 else BLOCKS[i]), slice(i)
    ),
    "by dask's getter": lambda key, i: Task(key, getter, TaskRef(BLOCKS[i]), (slice(i),)),
    "nested": lambda key, i: Task(
        key, add, List(*[List(*map(TaskRef, BLOCKS[j : j + i % 4])) for j in range(i % 3)])
    ),
    "nested, with values": lambda key, i: Task(key, add, List(TaskRef(BLOCKS[i]), TaskRef(VALUE), i, None)),
    "by name": lambda key, i: Task(key, np.sum, TaskRef(BLOCKS[i]), axis=i % 2),
    "numbers of several types": lambda key, i: Task(
        key, add, (i, True, 1.0, np.int64(1), 1, -0.0)[i % 6], TaskRef(BLOCKS[i])
    ),
    "regions by numbers of several types": lambda key, i: Task(
        key, add, TaskRef(BLOCKS[i]), (slice((1, True, 1.0, np.int64(1))[i % 4], 7),)
    ),
    "one object": lambda key, i: Task(key, add, TaskRef(BLOCKS[0]), SHARED, BLOCKS),
    "arrays": lambda key, i: Task(key, add, TaskRef(BLOCKS[i]), np.arange(i)),
    "several functions": lambda key, i: Task(key, (np.negative, np.sin, add)[i % 3], TaskRef(BLOCKS[i])),
    "several counts": lambda key, i: Task(key, add, *map(TaskRef, BLOCKS[: 1 + i % 3])),
    "one of the other": lambda key, i: Task(key, add, TaskRef(BLOCKS[i]), TaskRef(("alike", i - 1) if i else VALUE)),
    "what has no token": lambda key, i: Task(key, add, TaskRef(BLOCKS[i]), TaskRef("odd") if i % 5 == 3 else i),
    "older": lambda key, i: (np.negative, BLOCKS[i]),
    "older, nested": lambda key, i: (add, [[BLOCKS[i], i], [*BLOCKS[: i % 4]], (BLOCKS[i], "text")]),
    "older, regions": lambda key, i: (operator.getitem, BLOCKS[i], (slice(i),)),
    "older, regions of a value": lambda key, i: (operator.getitem, VALUE, (slice(i),)),
    "older, regions of either": lambda key, i: (operator.getitem, VALUE if i % 3 else BLOCKS[i], (slice(i),)),
    "older, keys in values": lambda key, i: (add, [VALUE, "text", VALUE][i % 3], [BLOCKS[i], VALUE]),
    "older, tasks within": lambda key, i: (add, (np.negative, BLOCKS[i]), [(add, VALUE, i)]),
    "older, what looks like a key": lambda key, i: (add, [(X.name, i), (X.name, i + 1), (X.name, [i])]),
    "older, blocks that there are not": lambda key, i: (add, [(X.name, i - 1), (X.name, i), (X.name, i + 1)]),
    "older, blocks by other numbers": lambda key, i: (add, [(X.name, i + 0.5), (X.name, i + 0.0)]),
    "older, numbers": lambda key, i: (add, (i, 1), i, None, slice(i), 0.5),
    "older, names": lambda key, i: ("alias", 0) if i % 2 else BLOCKS[i],
    "older, a task that is a key as well": lambda key, i: (
        (add, (add, 5), BLOCKS[i]) if i % 2 else Task(key, add, TaskRef((add, 5)), TaskRef(BLOCKS[i]))
    ),
    "either form": lambda key, i: (add, BLOCKS[i], i) if i % 2 else Task(key, add, TaskRef(BLOCKS[i]), i),
    "nothing": lambda key, i: (add,) if i % 2 else Task(key, add),
}  # fmt: skip
SHARED = np.arange(3)


@pytest.mark.parametrize("is_materialised", [False, True], ids=["layers", "materialised"])
@pytest.mark.parametrize("name", TASKS)
def test_tasks(name: str, is_materialised: bool) -> None:
    tasks = {("alike", i): TASKS[name](("alike", i), i) for i in range(len(BLOCKS))}
    others = {
        VALUE: np.arange(9),
        "odd": Task("odd", add, DataNode(None, object())),
        ("alias", 0): BLOCKS[7],
        (add, 5): (np.negative, 1),
    }
    layers: dict[str, Any] = {
        **X.dask.layers,
        "others": MaterializedLayer(others),
        "alike": MaterializedLayer(tasks),
    }
    if is_materialised:
        layers = {name: MaterializedLayer(dict(layer)) for name, layer in layers.items()}
    graph = HighLevelGraph(layers, {**X.dask.dependencies, "others": {X.name}, "alike": {"others", X.name}})
    found = check(graph, [*tasks])
    assert found.keys() >= {key for key in tasks if name != "what has no token" or key[1] % 5 != 3}
    given = {token for key, token in found.items() if key in tasks}
    assert len(given) > 2 or name in ("one object", "nothing")


class Given(BlockwiseDep):
    """What a layer is given for each of its blocks, as libraries define it themselves."""

    numblocks = (40,)
    produces_tasks = False

    def __init__(self, values: Callable[[int], Any]) -> None:
        self.values = values

    def __getitem__(self, index: tuple[int, ...]) -> Any:
        return self.values(*index)


@pytest.mark.parametrize(
    "values",
    [
        lambda i: (i, 2), lambda i: [i, 2], lambda i: ([i], 2)[: 1 + i % 2], lambda i: "text" * i, lambda i: None,
        lambda i: (slice((1, True, 1.0)[i % 3], 7),), lambda i: (True, 1, 1.0)[i % 3 :], lambda i: np.arange(i),
        lambda i: (np.sin, 1), lambda i: {"a": i}, lambda i: (i,) if i % 2 else [i],
    ],
)  # fmt: skip
def test_what_layers_are_given_for_each_block(values: Callable[[int], Any]) -> None:
    layer = blockwise(add, "given", "i", X.name, "i", Given(values), "i", numblocks={X.name: (40,)})
    graph = HighLevelGraph({**X.dask.layers, "given": layer}, {**X.dask.dependencies, "given": {X.name}})
    keys = [("given", i) for i in range(40)]
    assert check(graph, keys).keys() >= {*keys}

"""Tasks that look before they compute: whatever the graph, its keys and what it nests, the results are the same."""

import dask
import dask.array.optimization
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from hypothesis import given, reject
from hypothesis import strategies as st

from daskcache.chunks import ChunkSpec, group_of
from daskcache.dask_internals import Alias, DataNode, Dict, List, Task, TaskRef, Tuple
from daskcache.pool import StoredBlock
from daskcache.sharing import look_first, run_looking
from daskcache.writing import Writer, keep_block


def add_up(parts, *more):
    """Add up whatever arrays lie in lists, tuples and dicts."""
    if isinstance(parts, dict):
        parts = list(parts.values())
    if isinstance(parts, list | tuple):
        parts = sum((add_up(part) for part in parts), np.zeros(2))
    return sum(more, 2 * parts + 1)


KEYS = {
    "numbers": lambda number: number,
    "names": lambda number: f"name-{number}",
    "blocks": lambda number: ("x", number),
    "blocks of two arrays": lambda number: ("xy"[number % 2], number // 2, 0),
    "floats": lambda number: number + 0.5,
}

NESTS = [
    lambda refs: refs,
    lambda refs: [List(*refs)],
    lambda refs: [List(*refs[:1], List(*refs))],
    lambda refs: [Tuple(*refs), *refs],
    lambda refs: [Dict({f"k{number}": List(ref) for number, ref in enumerate(refs)})],
]


def target_of(root, number):
    spec = ChunkSpec.for_block("f8", (2,))
    return StoredBlock(root, group_of(bytes(20), spec), number.to_bytes(20), spec, (2,), np.dtype("f8"))


@st.composite
def graphs(draw):
    """Draw tasks, each of some of those before it, of which some are aliases and some are stored."""
    name = KEYS[draw(st.sampled_from(sorted(KEYS)))]
    kinds = draw(
        st.lists(st.sampled_from(["task", "task", "stored", "alias", "value"]), min_size=2, max_size=14)
    )
    nodes = []
    for number, kind in enumerate(kinds):
        # Mostly chains, which dask makes one task of.
        inputs = draw(st.lists(st.integers(max(0, number - 3), number - 1), max_size=2)) if number else []
        inputs = inputs or ([number - 1] if number and draw(st.booleans()) else [])
        nodes.append((number, kind, inputs, draw(st.integers(0, len(NESTS) - 1))))
    wanted = draw(st.sets(st.integers(0, len(kinds) - 1), min_size=1))
    return name, nodes, sorted(wanted)


def build(name, nodes, root, run):
    graph = {}
    for number, kind, inputs, nest in nodes:
        key, refs = name(number), [TaskRef(name(given)) for given in inputs]
        if kind == "value" or not refs:
            graph[key] = DataNode(key, np.full(2, float(number)))
        elif kind == "alias":
            graph[key] = Alias(key, refs[0].key)
        elif kind == "stored":
            target = DataNode(None, target_of(root, number))
            graph[key] = Task(key, keep_block, refs[0], target, DataNode(None, Writer(run=run, looks=True)))
        else:
            graph[key] = Task(key, add_up, *NESTS[nest](refs))
    return graph


@given(graphs())
def test_any_graph(tmp_path_factory, drawn):
    name, nodes, wanted = drawn
    root = str(tmp_path_factory.mktemp("store"))
    keys = [name(number) for number in wanted]

    def optimized(root):
        layered = HighLevelGraph.from_collections("all", build(name, nodes, root, "run"), dependencies=())
        return dask.array.optimization.optimize(layered, keys)

    try:
        expected = dask.get(optimized(root + "-plain"), keys)
    except (KeyError, ValueError):
        reject()  # dask's own optimizer has lost a task
    for _ in range(2):
        looking = look_first(optimized(root), set(keys))
        assert all(dep in looking for node in looking.values() for dep in node.dependencies)
        np.testing.assert_array_equal(dask.get(looking, keys), expected)


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_numbers_as_keys_are_not_taken_for_parts(store_root, first):
    """A fused chain behind an input whose key is a number that names of parts could have."""
    writer = DataNode(None, Writer(run="run", looks=True))

    def graph(root):
        return {
            first: DataNode(first, np.ones(2)),
            "other": Task("other", add_up, TaskRef(first)),
            "a": Task("a", add_up, TaskRef(first), DataNode(None, np.ones(2))),
            "b": Task("b", add_up, List(TaskRef("a"))),
            "c": Task("c", keep_block, TaskRef("b"), DataNode(None, target_of(root, 1)), writer),
        }

    keys = ["c", "other"]
    expected = dask.get(graph(f"{store_root}-plain"), keys)
    layered = HighLevelGraph.from_collections("all", graph(str(store_root)), dependencies=())
    looking = look_first(dask.array.optimization.optimize(layered, keys), set(keys))
    assert any(getattr(node, "func", None) is run_looking for node in looking.values())
    np.testing.assert_array_equal(dask.get(looking, keys), expected)

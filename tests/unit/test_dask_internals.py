"""What daskcache relies on of dask beyond its documented interface; each test says what breaks when it moves."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask import _task_spec
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph

from daskcache import dask_internals
from daskcache.dask_internals import (
    GETTERS,
    Alias,
    ArraySliceDep,
    Blockwise,
    DataNode,
    Dict,
    GraphNode,
    List,
    NestedContainer,
    Set,
    Task,
    TaskRef,
    Tuple,
    as_collection,
    blockwise_token,
    convert_legacy_task,
    coordinate_maps,
    execute_subgraph,
    identity_cast,
    lower,
    meta_of,
    parse_input,
    pass_extra_kwargs,
    pass_on,
    take,
    trim_overlap,
)
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from daskcache.tokens.rules import READERS


def tasks_of(array: da.Array) -> list[Task]:
    return [task for task in dict(array.dask).values() if isinstance(task, Task)]


def functions_of(array: da.Array) -> set[Any]:
    return {task.func for task in tasks_of(array)}


def test_every_name_is_there() -> None:
    for name in dask_internals.__all__:
        assert hasattr(dask_internals, name), name


def test_every_kind_of_node_is_known() -> None:
    # Otherwise what holds one of another kind has no token, and says so.
    kinds = {
        kind
        for kind in vars(_task_spec).values()
        if isinstance(kind, type) and issubclass(kind, GraphNode | TaskRef) and kind is not GraphNode
    }
    assert kinds == {Alias, DataNode, Dict, List, NestedContainer, Set, Task, TaskRef, Tuple}


@pytest.mark.parametrize("base", [GraphNode, NestedContainer])
def test_nodes_of_another_kind_are_refused(base: type) -> None:
    kind = type("Another", (base,), {"__slots__": (), "__dask_tokenize__": lambda self: "another"})
    node = object.__new__(kind)
    node.key, node._dependencies = "z", frozenset()
    if base is NestedContainer:
        node.args, node.kwargs = (1,), {}
    tokens = GraphTokens({"z": node}, Fingerprinter())
    assert tokens.token("z") is None
    assert "Another is a kind of" in str(tokens.reason("z"))


def test_a_task_has_a_function_arguments_and_names() -> None:
    # Without them no task has a token.
    task = Task("key", operator.add, 1, TaskRef("x"), some=2)
    assert (task.func, task.kwargs, set(task.dependencies)) == (operator.add, {"some": 2}, {"x"})
    assert task.args[0] == 1
    assert task.args[1].key == "x"


@pytest.mark.parametrize("kind", [List, Tuple, Set])
def test_a_container_is_a_task_of_its_items(kind: type) -> None:
    # They are told by type: another class would be refused as an unknown kind.
    node = kind(1, TaskRef("x"))
    assert isinstance(node, NestedContainer)
    assert isinstance(node, Task)
    assert [getattr(arg, "key", arg) for arg in node.args] == [1, "x"]


def test_a_mapping_lists_keys_and_values_in_turn() -> None:
    # In another layout {a: b} would have the token of {b: a}.
    assert Dict({"a": 1, "b": 2}).args == ("a", 1, "b", 2)


def test_an_alias_and_a_value_are_told_apart() -> None:
    assert Alias("a", "b").target == "b"
    assert DataNode("a", 3).value == 3
    assert isinstance(Alias("a", "b"), GraphNode)


def test_older_tasks_are_converted() -> None:
    # Graphs of delayed, and of other libraries, hold tuples.
    task = convert_legacy_task("key", (operator.add, "x", [1, ("y", 0)]), {"x", ("y", 0)})
    assert isinstance(task, Task)
    assert set(task.dependencies) == {"x", ("y", 0)}
    assert task.args[1].func is identity_cast
    assert task.args[1].kwargs == {"typ": list}


def test_reads_are_getters() -> None:
    # Otherwise a growing source changes the tokens of all its blocks.
    values = np.arange(8)
    for options in ({}, {"inline_array": True}, {"fancy": False}, {"asarray": False}, {"lock": True}):
        array = da.from_array(values[:, None][:, 0].view(Wrapped), chunks=4, **options)
        assert functions_of(array) <= set(GETTERS), options


class Wrapped(np.ndarray):
    """Not a plain array, which dask would cut up at once."""


def test_selections_are_getitems() -> None:
    # Of a value in the graph they are looked through; of anything else they are tasks as all others.
    assert functions_of(da.ones(8, chunks=4)[2:]) & set(READERS)


def test_lists_are_taken_by_the_second_of_a_pair() -> None:
    # Otherwise lists of positions are taken from whole blocks.
    array = da.arange(8, chunks=4)[[5, 1, 4]]
    graph = dict(array.dask)
    taking = [task for task in tasks_of(array) if task.func is take]
    assert taking
    for task in taking:
        _, index = task.args
        pair = graph[index.key] if isinstance(index, TaskRef) else index
        assert len(pair.value) == 2


def test_a_blockwise_layer_shows_its_structure() -> None:
    # Otherwise every block's task has to be made to be given a token.
    array = da.ones((4, 4), chunks=2) + 1
    layer = array.dask.layers[array.name]
    assert isinstance(layer, Blockwise)
    assert isinstance(layer.task, Task)
    assert blockwise_token(0) == "__dask_blockwise__0"
    assert blockwise_token(0) in layer.task.dependencies
    maps, axes, dummies = coordinate_maps(layer)
    assert maps[0] == [0, 1]
    assert not axes[0]
    assert dummies[-1] == 0
    assert {index: layer.dims[index] for index in layer.output_indices} == dict.fromkeys(
        layer.output_indices, 2
    )


def test_io_dependencies_are_read_by_index() -> None:
    dep = ArraySliceDep(((2, 2),))
    assert parse_input(dep[(1,)]) == (slice(2, 4, None),)


def test_fused_tasks_are_subgraphs() -> None:
    # Their tokens are those of what they hold; another function would be fingerprinted, keys and all.
    array = dask.optimize(((da.ones(4, chunks=2) + 1) * 2).sum())[0]
    fused = [task for task in tasks_of(array) if task.func is execute_subgraph]
    assert fused
    inner, outkey, inkeys, *values = fused[0].args
    assert outkey in inner
    assert all(isinstance(node, GraphNode) for node in inner.values())
    assert len(inkeys) == len(values)


def test_an_overlap_is_trimmed_by_place_and_count() -> None:
    # Otherwise growth loses every block of map_overlap.
    array = da.ones(8, chunks=4).map_overlap(np.negative, depth=1, boundary="none")
    trims = [task for task in tasks_of(array) if task.func is pass_extra_kwargs]
    assert trims
    func, names, info, _ = trims[0].args
    func, names = (getattr(arg, "value", arg) for arg in (func, names))
    assert isinstance(func, functools.partial)
    assert func.func is trim_overlap
    assert set(func.keywords) == {"axes", "boundary"}
    assert tuple(names) == ("_overlap_trim_info",)
    assert len(getattr(info, "value", info)) == 2


def test_stores_are_effects() -> None:
    # Otherwise a store that was made once would be taken for made.
    target = np.zeros(4)
    stored = da.store(da.ones(4, chunks=2), target, compute=False, return_stored=True)
    found = {task.func for task in dict(stored.dask).values() if isinstance(task, Task)}
    assert found & set(dask_internals.EFFECTS)


def test_einsum_says_its_subscripts() -> None:
    # Otherwise the letters that dask draws from a set make another token in every process.
    array = da.einsum("...a,ab->...b", da.ones((2, 3), chunks=2), da.ones((3, 2), chunks=3))
    found = [task for task in tasks_of(array) if task.func is dask_internals.chunk_einsum]
    subscripts = found[0].kwargs["subscripts"]
    assert "->" in getattr(subscripts, "value", subscripts)


def test_a_graph_is_made_of_layers() -> None:
    array = da.ones(4, chunks=2) + 1
    assert isinstance(array.dask, HighLevelGraph)
    assert set(array.dask.layers) == set(array.dask.dependencies)


def test_dask_passes_its_own_optimizer_a_graph_and_keys() -> None:
    seen = []

    def optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        seen.append((type(dsk), keys))
        return dsk

    with dask.config.set(array_optimize=optimize):
        assert int((da.ones(4, chunks=2) + 1).sum().compute()) == 8
    assert seen
    assert seen[0][0] is HighLevelGraph


def test_an_array_knows_the_type_of_its_blocks() -> None:
    # Else masked and other arrays would be stored, and come back as plain ones.
    plain = da.ones((4, 6), chunks=2, dtype="f4")
    assert (type(meta_of(plain)), meta_of(plain).dtype) == (np.ndarray, np.dtype("f4"))
    assert isinstance(meta_of(da.ma.masked_greater(plain, 0)), np.ma.MaskedArray)


def test_expressions_of_arrays_can_be_written_down_and_made():
    """What `lower` and `as_collection` use; tests/unit/test_query_planning.py has them at work."""
    expressions = pytest.importorskip("dask.array._array_expr._collection")
    assert list(inspect.signature(expressions.from_graph).parameters) == [
        "layer",
        "_meta",
        "chunks",
        "keys",
        "name_prefix",
    ]
    expr = expressions.FromGraph({("x", 0): 1}, np.empty(0), ((1,),), [("x", 0)], "x")
    lowered = expr.lower_completely()
    assert list(lowered.__dask_graph__()) == [(lowered._name, 0)]
    assert lowered.chunks == ((1,),)
    x = da.ones(4, chunks=2)
    assert lower(x) is as_collection(x) is x


def test_an_array_within_a_delayed_value_is_wrapped_by_what_gives_it_on() -> None:
    """Else the blocks of arrays that are arguments of delayed functions have other tokens than in the array's graph."""
    graph = delayed(len)(da.ones(4, chunks=2)).__dask_graph__()
    functions = [task.func for task in dict(graph).values() if isinstance(task, Task)]
    assert sum(func is pass_on for func in functions) >= 2
    assert pass_on(3) == 3

"""Plans and what they make of a graph: counted, never timed."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

import daskcache
from daskcache.dask_internals import Blockwise, List, Task, TaskRef, convert_legacy_graph
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import substitute
from daskcache.plan import make_plan
from daskcache.pool import StoredBlock
from daskcache.tokens import GraphTokens
from daskcache.tokens.needs import Needs
from tests import producers
from tests.producers import doubled


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def plan_for(x, stored):
    """Plan with some blocks of the producer's layer stored."""
    blocks = daskcache.identity.identify(stored, daskcache.activation.Settings.from_config()).targets
    (targets,) = blocks.values()
    tokens = GraphTokens(x.dask, Fingerprinter())
    asked = []

    def finder(which):
        known = {target.token: target for number, target in enumerate(targets) if number in which}

        def find(key, token):
            asked.append(key)
            return known.get(token)

        return find

    return tokens, finder, asked


@pytest.mark.parametrize(
    ("which", "loads", "computes"), [((), 0, 12), ((0,), 1, 10), ((0, 1, 2, 3), 4, 4), ((1, 3), 2, 8)]
)
def test_counts(store_root, which, loads, computes):
    stored = doubled()
    x = stored + 1
    tokens, finder, asked = plan_for(x, stored)
    plan = make_plan(tokens, [(x.name, i) for i in range(4)], find=finder(which))
    assert (len(plan.loads), len(plan.computes)) == (loads, computes)
    assert len(asked) == len(set(asked)), "each task is looked up once"
    assert repr(plan) == f"<Plan: {loads} loads, {computes} computes, 0 writes, 0 uncacheable>"
    assert plan.is_trivial is (not which)
    assert not store_root.exists(), "planning touches no store"


@pytest.mark.parametrize("is_stored", [False, True])
def test_what_a_graph_needs_is_listed_once_and_again_only_below_what_is_stored(monkeypatch, is_stored):
    """The tokens have listed all of it."""
    walks, layers = [], []
    walk, follow = Needs._walk, Needs._follow
    monkeypatch.setattr(Needs, "_walk", lambda self, *args: walks.append(args) or walk(self, *args))
    monkeypatch.setattr(
        Needs,
        "_follow",
        lambda self, front, go_on: layers.append({*front.needed}) or follow(self, front, go_on),
    )
    stored = doubled()
    x = stored + 1
    _, finder, _ = plan_for(x, stored)
    walks.clear()
    layers.clear()
    tokens, keys = GraphTokens(x.dask, Fingerprinter()), [(x.name, i) for i in range(4)]
    tokens.evaluate(keys)
    among = {(stored.name, 2), (x.name, 3)}
    place = (lambda key, token: token) if not is_stored else (lambda key, token: None)
    plan = make_plan(tokens, keys, find=finder((2,) if is_stored else ()), target=place, among=among)
    assert len(walks) == 1
    assert layers[1:] == ([{*x.dask.layers} - {x.name, stored.name}] if is_stored else [])
    assert set(plan.writes) == (set() if is_stored else among)
    assert len(plan.computes) == (10 if is_stored else 12)
    assert len(make_plan(tokens, keys[:1], find=finder(()), among=set()).computes) == 3


def test_only_what_is_needed(store_root):
    stored = doubled()
    x = stored + 1
    tokens, finder, _ = plan_for(x, stored)
    plan = make_plan(tokens, [(x.name, 2)], find=finder((0, 1, 2, 3)))
    assert set(plan.loads) == {(stored.name, 2)}
    assert plan.computes == {(x.name, 2)}


def rewritten(which, outputs=range(4)):
    stored = doubled()
    x = stored + 1
    tokens, finder, _ = plan_for(x, stored)
    plan = make_plan(tokens, [(x.name, i) for i in outputs], find=finder(which))
    return stored, x, substitute(x.dask, plan)


def test_a_stored_layer_is_one_blockwise_of_loads(store_root):
    stored, x, graph = rewritten((0, 1, 2, 3))
    assert isinstance(graph, HighLevelGraph)
    assert set(graph.layers) == {stored.name, x.name}
    layer = graph.layers[stored.name]
    assert isinstance(layer, Blockwise)
    assert not layer.is_materialized()
    assert graph.dependencies == {stored.name: set(), x.name: {stored.name}}
    assert graph.layers[x.name] is x.dask.layers[x.name], "what is computed stays as it is"


def test_a_partly_stored_layer_is_materialised_under_its_name(store_root):
    stored, x, graph = rewritten((1, 2))
    layer = graph.layers[stored.name]
    assert isinstance(layer, MaterializedLayer)
    assert set(layer) == {(stored.name, i) for i in range(4)}
    loads = [
        key for key, task in layer.items() if isinstance(getattr(task.args[0], "value", None), StoredBlock)
    ]
    assert set(loads) == {(stored.name, 1), (stored.name, 2)}
    assert isinstance(graph.layers[x.name], Blockwise)
    graph.validate()


def test_layers_that_nothing_needs_are_gone(store_root):
    stored, x, graph = rewritten((2,), outputs=[2])
    assert set(graph.layers) == {stored.name, x.name}


def loads_of(graph):
    """List array and index of each load of an optimised graph."""
    found = []

    def visit(node):
        args = getattr(node, "args", ())
        values = [getattr(arg, "value", arg) for arg in args]
        if values and isinstance(values[0], StoredBlock):
            found.append((values[0], values[1]))
        for arg in args:
            for inner in arg.values() if isinstance(arg, dict) else ():
                visit(inner)

    for task in convert_legacy_graph(dict(graph)).values():
        visit(task)
    return found


def test_selections_are_fused_into_loads(store_root):
    x = da.arange(400, chunks=(100,)).reshape((20, 20), merge_chunks=False).rechunk((10, 20)) * 2
    with daskcache.activate():
        daskcache.persist(x, "x")
        for opened in (daskcache.open("x"), daskcache.checkpoint(x, "x")):
            (planned,) = dask.optimize(opened[3, 5:7])
            ((block, index),) = loads_of(planned.dask)
            assert block.shape == (10, 20)
            assert index == (3, slice(5, 7, None))
            assert (planned.compute() == np.arange(400).reshape(20, 20)[3, 5:7] * 2).all()


def test_an_xarray_selection_reads_what_it_needs(store_root):
    import xarray as xr

    anom = xr.DataArray(da.ones((20, 20), chunks=10) + 1, dims=("y", "x"), name="anom")
    kept = daskcache.persist(anom, "anom")
    (planned,) = dask.optimize(kept.isel(y=4, x=slice(12, 15)).data)
    ((_, index),) = loads_of(planned.dask)
    assert index == (4, slice(2, 5, None))


@pytest.mark.parametrize("which", [(0, 1, 2, 3), (1, 3)])
def test_what_gathers_results_names_the_layers_that_it_needs(store_root, which):
    """As dask's last step does not: it names the result's own layer, which named the others until it was loaded."""
    side = da.arange(12, chunks=3)
    stored = doubled() + side
    keys = [(name, i) for name in (stored.name, side.name) for i in range(4)]
    last = {"last": Task("last", list, List(*map(TaskRef, keys)))}
    graph = HighLevelGraph(
        {**stored.dask.layers, "last": MaterializedLayer(last)},
        {**stored.dask.dependencies, "last": {stored.name}},
    )
    x = daskcache.identity.identify(stored, daskcache.activation.Settings.from_config())
    targets = {target.token: target for i, target in enumerate(*x.targets.values()) if i in which}
    plan = make_plan(
        GraphTokens(graph, Fingerprinter()), ["last"], find=lambda key, token: targets.get(token)
    )
    assert len(plan.loads) == len(which)
    found = substitute(graph, plan)
    if len(which) == 4:
        assert found.dependencies["last"] == {stored.name, side.name}
    assert {*keys} <= {*found.cull(["last"]).to_dict()}


@pytest.mark.parametrize("policy", ["checkpoints", "outputs"])
def test_a_result_with_its_mask_as_a_coordinate(store_root, policy):
    for number in range(12):
        # Other names each time, by which dask orders its layers.
        values = np.arange(24.0).reshape(4, 6) + number
        data = xr.Dataset({"a": (("y", "x"), values)}, {"mask": (("y", "x"), values > 5)}).chunk(y=2)
        masked = data.a.where(data.mask)
        wanted = masked.compute()
        masked.rename("kept").cache.persist("kept")
        with daskcache.activate(policy=policy):
            (found,) = dask.compute(masked)
        xr.testing.assert_identical(found, wanted)

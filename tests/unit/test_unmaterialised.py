"""Blockwise layers stay what they are: the pass looks at a layer once, and dask makes its tasks when they are run."""

import time
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.activation import active_settings
from daskcache.dask_internals import Blockwise
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.optimizer import rewrite
from daskcache.tokens import GraphTokens
from tests.producers import doubled
from tests.troubles import calls_fixture  # noqa: F401

POLICIES = ["checkpoints", "outputs", "auto"]


@pytest.fixture
def made(monkeypatch):
    """The layers of which somebody has made the tasks, even if he let them go again."""
    names = []
    make = Blockwise._dict.fget

    def note(layer):
        names.append(layer.output)
        return make(layer)

    monkeypatch.setattr(Blockwise, "_dict", property(note))
    return names


def kept_high(layers):
    """None of the blockwise layers holds tasks; tell how many there are."""
    found = [layer for layer in layers.values() if isinstance(layer, Blockwise)]
    assert not [layer.output for layer in found if layer.is_materialized()]
    return len(found)


def one_to_one(x):
    return (x + 1) * 2


USES = {
    "itself": lambda x: x,
    "chain": one_to_one,
    "two inputs": lambda x: x + one_to_one(x),
    "outer": lambda x: x[:, None] * x[None, :],
    "contraction": lambda x: da.blockwise(
        lambda a: a[0] if isinstance(a, list) else a, "", x, "i", dtype="i8", concatenate=True
    ),
    "literal": lambda x: x + np.arange(12)[:3].sum(),
    "from an array": lambda x: x + da.from_array(np.arange(12), chunks=3),
    "sum": lambda x: one_to_one(x).sum(),
    "rechunk": lambda x: one_to_one(x.rechunk(4)),
    "overlap": lambda x: x.map_overlap(lambda block: block * 1, depth=1, boundary="none"),
    "xarray": lambda x: (xr.DataArray(x, dims="x").rolling(x=2).mean() + 1).data,
    "random": lambda x: x + da.random.default_rng(0).random(12, chunks=3),
}


@pytest.mark.parametrize("use", USES)
def test_tokens_are_made_without_tasks(made, use):
    x = USES[use](doubled())
    made.clear()
    tokens = GraphTokens(x.dask, Fingerprinter())
    found = tokens.evaluate(keys_of([x]))
    assert found.keys() >= set(keys_of([x]))
    for key in found:
        assert tokens.token(key) == found[key]
        assert tokens.reason(key) is None
        assert tokens.function(key)
        list(tokens.dependencies(key))
    assert made == []
    assert kept_high(x.dask.layers) >= 1


def test_what_has_no_token_has_a_reason_without_tasks(made):
    x = doubled().map_blocks(lambda block: block + time.time(), dtype="f8", meta=np.empty(0))
    tokens = GraphTokens((x + 1).dask, Fingerprinter())
    assert tokens.token((x.name, 0)) is None
    assert tokens.reason((x.name, 0)) is not None
    assert made == []


class Seen(NamedTuple):
    """What the pass hands on."""

    layers: dict[str, Any]
    """The rewritten graph's."""
    made: set[str]
    """The layers of which tasks were made by then."""


def look_behind_the_pass(collection, how, policy, made):
    """Run a computation, and see what dask's own optimizer is given."""
    seen = []

    def look(dsk, keys, **kwargs):
        seen.append(Seen(dict(dsk.layers), set(made)))
        return da.optimization.optimize(dsk, keys, **kwargs)

    with dask.config.set(array_optimize=look), daskcache.activate(policy=policy):
        made.clear()
        how(collection, scheduler="sync")
    (found,) = seen
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("state", ["cold", "part", "warm"])
@pytest.mark.parametrize("how", [dask.compute, dask.persist])
@pytest.mark.parametrize("use", ["itself", "chain", "outer", "sum", "rechunk"])
def test_the_pass_makes_no_tasks(store_root, made, how, policy, state, use):
    """But of a layer of which only some blocks are stored, and of one of wanted blocks that wait for a publication."""

    with daskcache.activate(policy=policy):
        x = daskcache.checkpoint(doubled(), "x") if policy == "checkpoints" else doubled()
        if state != "cold":
            (x if state == "warm" else x[:6]).compute(scheduler="sync")
    # dask keeps the tasks that it has made of a layer.
    for layer in x.dask.layers.values():
        vars(layer).pop("_cached_dict", None)
    y = USES[use](x)
    before = dict(y.dask.layers)
    seen = look_behind_the_pass(y, how, policy, made)
    may_be_made = {x.name} if state == "part" else set()
    if how is dask.persist and policy == "checkpoints" and state != "warm":
        # Reductions hold tasks of dask's old form, of which the inputs are looked up.
        may_be_made |= {y.name} | (y.dask.dependencies[y.name] if use == "sum" else set())
    assert seen.made <= may_be_made
    after = {name: layer for name, layer in seen.layers.items() if name in before}
    assert all(
        type(layer) is Blockwise or not isinstance(before[name], Blockwise)
        for name, layer in after.items()
        if name not in may_be_made
    )
    # What is neither loaded nor stored stays the same object.
    stores = {x.name} if policy == "checkpoints" else {y.name}
    changed = {name for name, layer in after.items() if layer is not before[name]}
    assert changed <= stores | may_be_made | ({x.name} if state != "cold" else set())
    if state == "cold":
        assert after.keys() == before.keys()
        assert stores <= changed
    else:
        assert {x.name} <= changed
    if state == "warm":
        assert isinstance(after[x.name], Blockwise)
        assert not {name for name in after if name in doubled().dask.layers} - {x.name}
    untouched = after.keys() - changed
    assert len(untouched) >= (state == "cold")


def test_a_graph_of_which_nothing_is_known_is_left_as_it_is(store_root, made):
    with daskcache.activate(policy="checkpoints"):
        y = USES["chain"](doubled())
        assert rewrite(y.dask, y.__dask_keys__(), active_settings()) is y.dask
        daskcache.checkpoint(da.ones(6, chunks=3), "other").compute(scheduler="sync")
        made.clear()
        assert rewrite(y.dask, y.__dask_keys__(), active_settings()) is y.dask
        assert made == []
        kept_high(y.dask.layers)

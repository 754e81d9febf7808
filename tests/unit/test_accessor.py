"""The accessor does what the functions do, on each kind of object."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import pytest
import xarray as xr

import daskcache
from daskcache.accessor import CacheAccessor
from tests.labelled import array, assert_same, one, tree

THINGS = {"dataset": lambda: one(da.arange(4, chunks=2)), "dataarray": lambda: array("t"), "datatree": tree}


@pytest.mark.parametrize("kind", THINGS)
def test_does_what_the_functions_do(kind: str, tmp_path: Path) -> None:
    thing = THINGS[kind]()
    other = str(tmp_path / "other")
    assert isinstance(thing.cache, CacheAccessor)
    assert thing.cache.token == daskcache.token(thing)
    assert not thing.cache.status().is_complete
    assert_same(thing.cache.persist("entry", namespace="n", store=other), thing)
    assert_same(daskcache.open("entry", namespace="n", store=other), thing)
    assert thing.cache.status(store=other).is_complete
    assert not thing.cache.status().is_complete
    with daskcache.activate():
        assert_same(thing.cache.checkpoint("entry"), thing, encoding="all")
        thing.cache.checkpoint("entry", namespace="n").compute()
    assert_same(daskcache.open("entry", namespace="n"), thing)


@pytest.mark.parametrize("kind", THINGS)
def test_chunks_are_passed_on(kind: str) -> None:
    thing = THINGS[kind]()
    assert_same(thing.cache.persist(chunks={"x": 3}), thing.chunk(x=3))


def test_a_node_of_a_tree_has_its_own(tmp_path: Path) -> None:
    whole = tree()
    assert whole["zz/leaf"].cache.token != whole.cache.token
    assert [var.path for var in whole["zz/leaf"].cache.status().variables] == ["b"]


def test_the_accessor_follows_its_object() -> None:
    ds = one(da.arange(4, chunks=2))
    before = ds.cache.token
    ds["w"] = ("x", da.ones(4, chunks=2))
    assert ds.cache.token != before
    for other in (copy.copy(ds), copy.deepcopy(ds), pickle.loads(pickle.dumps(ds))):
        assert other.cache.token == ds.cache.token


def test_a_token_is_forty_hex_digits() -> None:
    token: Any = xr.Dataset().cache.token
    assert len(token) == 40
    assert set(token) <= set("0123456789abcdef")

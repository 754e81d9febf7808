"""What is declared otherwise than a task gives it is never served, whoever else has stored it as it is."""

from __future__ import annotations

import time
from typing import Any

import dask.array as da
import numpy as np
import pytest

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.chunks import ChunkSpec, group_of
from daskcache.config import Settings
from daskcache.errors import UncacheableError
from daskcache.forgetting.reuse import Reuse
from daskcache.identity import identify
from tests.producers import objects

N, CHUNK = 11, 4


def give(block: Any, dtype: str, drops: int) -> Any:
    return (block + 1).astype("i8").astype(dtype)[: len(block) - (drops if 10 in block else 0)]


def make(dtype: str, declared: str, chunks: Any = None, drops: int = 0) -> da.Array:
    numbers = da.arange(N + drops, chunks=CHUNK)
    return numbers.map_blocks(
        give, dtype, drops, dtype=declared, meta=np.empty(0, declared), chunks=chunks or numbers.chunks
    )


@pytest.mark.parametrize("namespace", ["default", "other"])
@pytest.mark.parametrize(
    ("dtype", "declared"),
    [("M8[s]", "M8[ns]"), ("M8[s]", "i8"), ("i8", "M8[s]"), ("m8[s]", "M8[s]"), ("U9", "U1"), ("U2", "U9")],
)
def test_another_dtype(store_root: Any, namespace: str, dtype: str, declared: str) -> None:
    right, wrong = make(dtype, dtype), make(dtype, declared)
    wanted = right.compute()
    daskcache.persist(right, "right")
    with pytest.raises(UncacheableError, match="was declared"):
        daskcache.persist(wrong, "wrong", namespace=namespace)
    for policy in ("checkpoints", "outputs", "auto"):
        with daskcache.activate(policy=policy, namespace=namespace):
            found = wrong.compute()
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("namespace", ["default", "other"])
def test_another_shape(store_root: Any, namespace: str) -> None:
    """A function that drops the last element, for which somebody has declared no chunks."""
    right, wrong = make("f8", "f8", ((4, 4, 3),), drops=1), make("f8", "f8", drops=1)
    daskcache.persist(right, "right")
    with pytest.raises(UncacheableError, match=r"\(3,\) where float64 \(4,\) was declared"):
        daskcache.persist(wrong, "wrong", namespace=namespace)
    with daskcache.activate(policy="outputs", namespace=namespace):
        np.testing.assert_array_equal(wrong.compute(), np.arange(1.0, N + 1))


@pytest.mark.parametrize("dtype", ["f8", "M8[s]", "U9"])
def test_what_lies_where_it_was_looked_for_before_is_encoded_anew(
    store_root: Any, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Once groups did not depend on shapes and dtypes; manifests say where blocks lie."""
    array = make(dtype, dtype)
    wanted = array.compute()
    with monkeypatch.context() as patched:
        patched.setattr("daskcache.checkpoints.group_of", without_form)
        daskcache.persist(array, "before")
    before = objects(store_root)
    np.testing.assert_array_equal(daskcache.persist(array, "after").compute(), wanted)
    assert daskcache.last_run().computed == 0
    assert len(objects(store_root)) == len(before) + (1 if dtype == "f8" else 3)
    np.testing.assert_array_equal(daskcache.open("before").compute(), wanted)
    np.testing.assert_array_equal(daskcache.open("after").compute(), wanted)
    assert daskcache.verify().is_sound
    daskcache.clear("before")
    np.testing.assert_array_equal(daskcache.open("after").compute(), wanted)


def test_a_checkpoint_of_what_lies_elsewhere_is_loaded_and_not_published_wrongly(
    store_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry's manifest says where its blocks lie; those that were found in another group are not there."""
    array = make("M8[s]", "M8[s]")
    wanted = array.compute()
    with monkeypatch.context() as patched:
        patched.setattr("daskcache.checkpoints.group_of", without_form)
        daskcache.persist(array, "before")
    with daskcache.activate(policy="checkpoints"):
        np.testing.assert_array_equal(daskcache.checkpoint(array, "after").compute(), wanted)
        assert daskcache.last_run().computed == 0
        np.testing.assert_array_equal(daskcache.checkpoint(array, "after").compute(), wanted)
    assert daskcache.verify().is_sound
    if "after" in Catalog(str(store_root)).entries():
        np.testing.assert_array_equal(daskcache.open("after").compute(), wanted)


def test_what_protects_an_object_does_not_protect_its_like(
    store_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry names an object of one group; one of another, with the same token, may be swept at any moment."""
    array = make("M8[s]", "M8[s]")
    with monkeypatch.context() as patched:
        patched.setattr("daskcache.checkpoints.group_of", without_form)
        (old, *_), *_ = identify(array, Settings.from_config()).targets.values()
        daskcache.persist(array, "before")
    (new, *_), *_ = identify(array, Settings.from_config()).targets.values()
    assert old.token == new.token
    assert old.key != new.key
    long_ago = time.time() - 1000 * 86400
    monkeypatch.setattr("daskcache.forgetting.reuse._kept", {})
    assert Reuse(Settings.from_config(), "r1").is_safe(old, long_ago)
    assert not Reuse(Settings.from_config(), "r1").is_safe(new, long_ago)


@pytest.mark.parametrize(("dtype", "declared"), [("M8[s]", "M8[ns]"), ("M8[s]", "i8"), ("i8", "M8[s]")])
def test_groups_that_are_equal_by_chance(
    store_root: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, declared: str
) -> None:
    """A group has sixteen bits; what the namespace lists otherwise is refused in spite of it."""
    monkeypatch.setattr("daskcache.checkpoints.group_of", without_form)
    daskcache.persist(make(dtype, dtype), "right")
    wrong = make(dtype, declared)
    with pytest.raises(
        UncacheableError,
        match=f"{np.dtype(dtype)} .* where {np.dtype(declared)} .* was declared".replace("[", r"\["),
    ):
        daskcache.persist(wrong, "wrong")
    with daskcache.activate(policy="checkpoints"):
        found = daskcache.checkpoint(wrong, "marked").compute()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, make(dtype, dtype).compute())
    assert Catalog(str(store_root)).entries() == ["right"]


def without_form(function: bytes, spec: ChunkSpec, *_: Any) -> str:
    return group_of(function, spec)


def test_the_group_tells_what_the_object_does_not(store_root: Any) -> None:
    spec = ChunkSpec.for_block("f8", (CHUNK,))
    full = group_of(bytes(20), spec, (CHUNK,), np.dtype("f8"))
    assert full == group_of(bytes(20), spec)
    assert full != group_of(bytes(20), spec, (3,), np.dtype("f8"))
    times = ChunkSpec.for_block("M8[s]", (CHUNK,))
    found = {
        group_of(bytes(20), times, (CHUNK,), np.dtype(name)) for name in ("i8", "M8[s]", "M8[ns]", "m8[s]")
    }
    assert len(found) == 4
    daskcache.persist(make("f8", "f8"), "x")
    assert len(stores.list_dirs(stores.open(str(store_root)), "chunks")) == 2

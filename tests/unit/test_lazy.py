"""Checkpoints: the same object, stored when it is computed, published when all of it is stored."""

from __future__ import annotations

from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import errors
from daskcache.errors import DaskcacheWarning, EntryNotFoundError, InvalidInputError
from tests.labelled import (
    OBJECTS,
    Calls,
    array,
    assert_same,
    assert_same_values,
    has_dask,
    one,
    subtree,
    tree,
)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_checkpoint_is_the_same_object(name: str) -> None:
    thing = OBJECTS[name]()
    with daskcache.activate():
        marked = daskcache.checkpoint(thing, "entry")
        assert daskcache.token(marked) == daskcache.token(thing)
        if not has_dask(thing):
            assert_same(marked, thing, encoding="all")
            return
        computed = marked.compute()
        opened = daskcache.open("entry")
    assert_same(marked, thing, encoding="all")
    assert_same(opened, thing)
    if isinstance(thing, da.Array):
        assert_same_values(computed, thing.compute())
    elif name != "subtree":
        xr.testing.assert_identical(computed, thing.compute())


def test_stored_once_then_loaded(store_root: Path) -> None:
    calls = Calls()
    ds = xr.Dataset(
        {"a": ("x", calls.array(np.empty(0, "i8")) + 1), "b": ("y", calls.array(np.empty(0, "i8"), 6, 3))}
    )
    with daskcache.activate():
        first = ds.cache.checkpoint("entry").compute()
        assert calls.made == 4
        stored = sorted(store_root.glob("chunks/*/*"))
        assert len(stored) == 4
        second = ds.cache.checkpoint("entry").compute()
        part = ds.cache.checkpoint("entry").a[:1].compute()
    assert calls.made == 4
    assert sorted(store_root.glob("chunks/*/*")) == stored
    xr.testing.assert_identical(first, second)
    xr.testing.assert_identical(part, first.a[:1])


def test_a_part_that_is_computed_is_stored_and_not_published(store_root: Path) -> None:
    ds = one(da.arange(6, chunks=2) * 2)
    with daskcache.activate():
        ds.cache.checkpoint("entry").v[:2].compute()
        assert len(list(store_root.glob("chunks/*/*"))) == 1
        with pytest.raises(EntryNotFoundError):
            daskcache.open("entry")
        assert ds.cache.status()["v"].stored == 1
        ds.cache.checkpoint("entry").compute()
    assert_same(daskcache.open("entry"), ds)


def test_checkpoints_within_a_pipeline() -> None:
    with daskcache.activate():
        base = one(da.arange(6, chunks=2)).cache.checkpoint("base")
        result = (base.mean() + base).cache.checkpoint("result")
        expected = one(np.arange(6) + 2.5)
        xr.testing.assert_identical(result.compute(), expected)
    assert_same(daskcache.open("base"), one(da.arange(6, chunks=2)))
    xr.testing.assert_identical(daskcache.open("result").compute(), expected)


def test_an_unnamed_checkpoint_is_named_by_its_version() -> None:
    ds = one(da.arange(6, chunks=2))
    with daskcache.activate():
        ds.cache.checkpoint().compute()
        kept = daskcache.persist(ds, "named")
    manifest = daskcache.catalog.Catalog(dask.config.get("daskcache.store")).open("named")
    assert_same(daskcache.open(manifest.version), kept)


def test_what_is_stored_already_is_published_under_another_name() -> None:
    ds = one(da.arange(6, chunks=2))
    with daskcache.activate():
        daskcache.persist(ds, "first")
        ds.cache.checkpoint("second", namespace="other").compute()
    assert_same(daskcache.open("second", namespace="other"), ds)


def test_variables_that_are_computed_one_by_one_are_published_with_the_whole() -> None:
    ds = xr.Dataset({"a": ("x", da.arange(6, chunks=2)), "b": ("x", da.ones(6, chunks=2))})
    with daskcache.activate():
        marked = ds.cache.checkpoint("entry")
        marked.a.compute()
        marked.b.compute()
        marked.compute()
    assert_same(daskcache.open("entry"), ds)


def test_what_is_marked_may_be_cut_and_combined_as_before() -> None:
    thing = OBJECTS["array_named_like_a_lazy_coordinate"]()
    with daskcache.activate():
        marked = daskcache.checkpoint(thing, "entry")
        xr.testing.assert_identical((marked + 1)[1:].compute(), (thing + 1)[1:].compute())
        xr.testing.assert_identical(marked.lon.compute(), thing.lon.compute())
    deep = tree()
    with daskcache.activate():
        leaf = daskcache.checkpoint(deep, "tree")["zz/leaf"]
        xr.testing.assert_identical(leaf.to_dataset().compute(), deep["zz/leaf"].to_dataset().compute())


def test_a_subtree_is_a_tree_of_its_own() -> None:
    with daskcache.activate():
        marked = daskcache.checkpoint(subtree(), "entry")
        assert marked.parent is None
        xr.testing.assert_identical(marked.compute(), subtree().copy().compute())
        xr.testing.assert_identical(daskcache.open("entry"), subtree().copy())


def test_other_settings_of_a_checkpoint(tmp_path: Path) -> None:
    ds = one(da.arange(6, chunks=2))
    elsewhere = str(tmp_path / "elsewhere")
    with daskcache.activate():
        ds.cache.checkpoint("entry", namespace="other", store=elsewhere).compute()
    assert_same(daskcache.open("entry", namespace="other", store=elsewhere), ds)
    with pytest.raises(EntryNotFoundError):
        daskcache.open("entry")


def test_without_the_pass_it_warns_and_computes(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", type(errors._warned)())
    ds = one(da.arange(6, chunks=2))
    with pytest.warns(DaskcacheWarning, match=r"pass is not on.*call daskcache.activate\(\)") as caught:
        marked = ds.cache.checkpoint("entry")
    assert len(caught) == 1
    assert_same(marked, ds)
    assert not store_root.exists()


def test_nothing_of_an_object_in_memory_is_marked(store_root: Path) -> None:
    ds = one(np.arange(3))
    with daskcache.activate():
        assert_same(ds.cache.checkpoint("entry"), ds)
    assert not store_root.exists()


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a\0", "con", "%2e", ""])
def test_names_are_checked_first(name: str, store_root: Path) -> None:
    for act in (daskcache.checkpoint, daskcache.persist):
        with pytest.raises(InvalidInputError):
            act(one(da.arange(3)), name)
    with pytest.raises(InvalidInputError):
        daskcache.open(name)
    with pytest.raises(InvalidInputError):
        daskcache.checkpoint(one(da.arange(3)), namespace="a/b")
    assert not store_root.exists()


def test_open_gives_what_was_asked_for() -> None:
    first, second = array("t"), array("t") + 1
    daskcache.persist(first, "deep/entry")
    version = daskcache.catalog.Catalog(dask.config.get("daskcache.store")).open("deep/entry").version
    daskcache.persist(second, "deep/entry")
    assert_same(daskcache.open("deep/entry"), second)
    assert_same(daskcache.open("deep/entry", version=version), first)
    with pytest.raises(EntryNotFoundError):
        daskcache.open("deep/entry", version="0" * 40)
    with pytest.raises(EntryNotFoundError):
        daskcache.open("deep/entry", namespace="other")

"""How much of an object is stored, told without computing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from tests.labelled import OBJECTS, Calls, one, tree


def test_counts_before_and_after(store_root: Path) -> None:
    calls = Calls()
    ds = xr.Dataset(
        {"a": ("x", calls.array(np.empty(0, "i8")) + 1), "b": ("y", da.ones(6, chunks=2)), "c": 1}
    )
    before = daskcache.status(ds)
    assert [(var.path, var.blocks, var.stored, var.stored_bytes) for var in before.variables] == [
        ("a", 2, 0, 0),
        ("b", 3, 0, 0),
    ]
    assert not before.is_complete
    daskcache.persist(ds[["b"]])
    half = daskcache.status(ds)
    assert half["b"].is_complete
    assert not half["a"].is_complete
    assert not half.is_complete
    assert calls.made == 0
    sizes = [file.stat().st_size for file in store_root.glob("chunks/*/*")]
    # Blocks of equal values and one shape are one object.
    assert half["b"].stored_bytes == 3 * sizes[0]
    daskcache.persist(ds)
    assert daskcache.status(ds).is_complete
    assert calls.made == 2
    with pytest.raises(KeyError):
        before["c"]


@pytest.mark.parametrize("name", OBJECTS)
def test_complete_after_a_persist(name: str) -> None:
    thing = OBJECTS[name]()
    daskcache.persist(thing)
    assert daskcache.status(thing).is_complete


def test_what_cannot_be_keyed_says_why() -> None:
    def impure(block: Any) -> Any:
        return block + np.random.rand()  # noqa: NPY002

    ds = xr.Dataset(
        {"good": ("x", da.ones(4, chunks=2)), "bad": ("x", da.ones(4, chunks=2).map_blocks(impure))}
    )
    daskcache.persist(ds[["good"]])
    found = daskcache.status(ds)
    assert found["good"].is_complete
    assert not found.is_complete
    assert found["bad"].stored == 0
    assert "impure" in (found["bad"].reason or "")
    assert "bad: cannot be stored: " in str(found)


def test_reads_well(store_root: Path) -> None:
    ds = one(da.arange(4, chunks=2))
    assert str(daskcache.status(ds)) == f"in {store_root}\n  v: 0 of 2 blocks, 0 B"
    daskcache.persist(ds)
    total = sum(file.stat().st_size for file in store_root.glob("chunks/*/*"))
    assert repr(daskcache.status(ds)) == f"in {store_root}\n  v: 2 of 2 blocks, {total} B"
    assert str(daskcache.status(one(1, ()))) == f"in {store_root}\n  nothing that dask computes"
    assert daskcache.status(one(1, ())).is_complete


def test_nodes_and_another_store(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    assert [var.path for var in daskcache.status(tree(), store=elsewhere).variables] == [
        "a",
        "lon",
        "zz/leaf/b",
    ]
    daskcache.persist(tree(), store=elsewhere)
    assert daskcache.status(tree(), store=elsewhere).is_complete
    assert not daskcache.status(tree()).is_complete


def test_objects_that_are_gone_are_not_stored(store_root: Path) -> None:
    ds = one(da.arange(4, chunks=2))
    daskcache.persist(ds)
    next(iter(store_root.glob("chunks/*/*"))).unlink()
    assert daskcache.status(ds)["v"].stored == 1

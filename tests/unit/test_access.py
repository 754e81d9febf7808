"""Modes and pools of single namespaces: who reads and writes what, and where it lies."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.cli import cache
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, ReadOnlyError
from daskcache.stores import local
from tests import producers
from tests.producers import count, doubled, objects

EXPECTED = np.arange(12) * 2
WRITES = ("create", "put", "delete", "move")


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.fixture
def private() -> Iterator[None]:
    with dask.config.set({"daskcache.namespaces": {"ours": {"pool": "private"}}}):
        yield


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each attempt to change something."""
    found: list[str] = []
    for name in WRITES:
        real = getattr(local, name)

        def noted(path: str, *args: Any, name: str = name, real: Any = real) -> Any:
            found.append(f"{name} {path}")
            return real(path, *args)

        monkeypatch.setattr(local, name, noted)
    return found


def test_settings_of_a_namespace() -> None:
    with dask.config.set(
        {"daskcache.mode": "read", "daskcache.namespaces": {"ours": {"mode": "readwrite", "pool": "private"}}}
    ):
        assert Settings.from_config().mode == "read"
        ours = Settings.from_config(namespace="ours")
        assert (ours.mode, ours.pool) == ("readwrite", "private")
        assert Settings.from_config(namespace="ours", mode="off").mode == "off"
        assert ours.pool_root == f"{ours.store}/namespaces/ours/@"
        assert Settings("s3://b/c?x=1", "ours", pool="private").pool_root == "s3://b/c/namespaces/ours/@?x=1"


@pytest.mark.parametrize(
    "namespaces",
    [
        ["ours"],
        {"ours": "read"},
        {"ours": {"salt": "x"}},
        {"default": {"mode": "rw"}},
        {"default": {"pool": 1}},
    ],
)
def test_settings_that_are_none(namespaces: Any) -> None:
    with (
        dask.config.set({"daskcache.namespaces": namespaces}),
        pytest.raises(InvalidInputError, match=r"daskcache\."),
    ):
        Settings.from_config()


def test_reading_attempts_no_write(store_root: Path, attempts: list[str]) -> None:
    daskcache.persist(doubled(), "x")
    os.utime(store_root)
    attempts.clear()
    count()
    with dask.config.set({"daskcache.mode": "read"}), daskcache.activate(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (daskcache.open("x").compute() == EXPECTED).all()
        assert (doubled().compute() == EXPECTED).all()
        assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
        assert count() == 0
        assert (daskcache.checkpoint(doubled() + 1, "y").compute() == EXPECTED + 1).all()
        assert daskcache.status(doubled()).is_complete
        daskcache.verify()
        daskcache.gc(dry_run=True, wait=0)
        daskcache.expire(older_than=0, dry_run=True)
        with pytest.raises(ReadOnlyError, match="is 'read'"):
            daskcache.persist(doubled(), "x")
    assert attempts == []


def test_off_looks_at_nothing(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daskcache.persist(doubled(), "x")
    count()
    for name in ("get", "list_objects", "list_dirs", *WRITES):
        monkeypatch.setattr(local, name, lambda *args, **kwargs: pytest.fail("the store was asked"))
    with dask.config.set({"daskcache.mode": "off"}), daskcache.activate():
        assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
        assert count() == 4


def test_write_alone_loads_nothing(store_root: Path) -> None:
    with dask.config.set({"daskcache.mode": "write"}), daskcache.activate():
        for _ in range(2):
            assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
            assert count() == 4
    assert len(objects(store_root)) == 4


@pytest.mark.usefixtures("private")
def test_a_private_namespace_has_its_own_blocks(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    count()
    kept = daskcache.persist(doubled(), "x", namespace="ours")
    assert count() == 4, "it does not see those of others"
    assert (kept.compute() == EXPECTED).all()
    own = store_root / "namespaces/ours/@"
    assert len(list((own / "chunks").rglob("*/*"))) == len(objects(store_root)) == 4
    assert len(list((own / "runs").iterdir())) == 1
    assert len(list((store_root / "runs").iterdir())) == 1
    daskcache.persist(doubled(), "again", namespace="ours")
    assert count() == 0
    daskcache.persist(doubled() + 1, "y", namespace="ours")
    daskcache.persist(doubled() + 1, "y")
    assert len(objects(store_root)) == 8, "nor do others see its own"
    assert Catalog(str(store_root), "ours").entries() == ["again", "x", "y"]
    with daskcache.activate(namespace="ours"):
        assert ((doubled() + 0).compute() == EXPECTED).all()
        count()
        assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
        assert count() == 0
        daskcache.checkpoint(doubled() + 2, "z").compute()
    assert (daskcache.open("z", namespace="ours").compute() == EXPECTED + 2).all()
    assert len(objects(store_root)) == 8
    assert daskcache.verify(everywhere=True).is_sound


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("outer", ["default", "ours"])
def test_a_checkpoint_of_a_private_namespace_stores_what_lies_in_another_pool(
    store_root: Path, outer: str
) -> None:
    other = "ours" if outer == "default" else "default"
    with daskcache.activate(namespace=outer):
        assert (daskcache.checkpoint(doubled(), "x").compute() == EXPECTED).all()
        assert count() == 4
        # What the pass looks into has it: it is loaded, and stored where the mark says.
        assert (daskcache.checkpoint(doubled(), "x", namespace=other).compute() == EXPECTED).all()
        assert count() == 0
        assert daskcache.last_run().stored == 4
    assert (daskcache.open("x", namespace=other).compute() == EXPECTED).all()
    assert len(objects(store_root)) == 4
    assert len(objects(store_root / "namespaces/ours/@")) == 4


@pytest.mark.usefixtures("private")
def test_what_was_private_opens_when_the_namespace_no_longer_is(store_root: Path) -> None:
    ds = xr.Dataset({"v": ("x", doubled()), "big": ("z", np.random.default_rng(0).random(20000))})
    daskcache.persist(ds, "x", namespace="ours")
    expected = ds.compute()
    with dask.config.set({"daskcache.namespaces": {}}):
        xr.testing.assert_identical(daskcache.open("x", namespace="ours").compute(), expected)
        assert daskcache.verify(namespace="ours").is_sound
    (reference,) = (store_root / "namespaces/ours/x/@").glob("*.json")
    arguments = {"consolidated": False, "storage_options": {"fo": str(reference)}}
    with xr.open_dataset("reference://", engine="zarr", backend_kwargs=arguments) as plain:
        xr.testing.assert_equal(plain.load(), expected)


@pytest.mark.usefixtures("private")
def test_each_pool_is_swept_by_what_needs_it(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.persist(doubled(), "x", namespace="ours")
    daskcache.persist(doubled() + 1, "y", namespace="ours")
    daskcache.clear("x", namespace="ours")
    for path in (store_root / "namespaces/ours/@/runs").iterdir():
        path.unlink()
    for path in store_root.rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    swept = daskcache.gc(wait=0)
    assert (swept.chunks, swept.kept) == (4, 8)
    assert len(objects(store_root)) == 4
    assert (daskcache.open("x").compute() == EXPECTED).all()
    assert (daskcache.open("y", namespace="ours").compute() == EXPECTED + 1).all()


@pytest.mark.usefixtures("private")
def test_a_private_pool_in_memory_and_the_commands(tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}"
    daskcache.persist(doubled(), "x", namespace="ours", store=root)
    assert (daskcache.open("x", namespace="ours", store=root).compute() == EXPECTED).all()
    assert stores.list_dirs(stores.open(root), "chunks") == []
    shown = CliRunner().invoke(cache, ["--store", root, "--namespace", "ours", "show", "x"])
    assert "4 blocks" in shown.output
    daskcache.clear(namespace="ours", store=root)
    assert daskcache.gc(store=root, grace=0, wait=0).chunks == 4

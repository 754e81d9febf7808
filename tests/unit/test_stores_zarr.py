"""Zarr's own suite of tests, over levels, limits and the stores that are opened by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.store import StoreTests

from daskcache.stores import Level, Levels, Limit
from daskcache.stores.opened import DiskStore


def write(root: Path, key: str, value: Buffer) -> None:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value.to_bytes())


def read(root: Path, key: str) -> Buffer:
    return cpu.Buffer.from_bytes((root / key).read_bytes())


class OverADirectory[S: Any](StoreTests[S, cpu.Buffer]):
    """What the suite asks for, for stores whose home is a directory."""

    buffer_cls = cpu.Buffer

    def root(self, store: Any) -> Path:
        raise NotImplementedError

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        write(self.root(store), key, value)

    async def get(self, store: Any, key: str) -> Buffer:
        return read(self.root(store), key)

    def test_store_repr(self, store: Any) -> None:
        assert str(self.root(store)) in repr(store)

    def test_store_supports_writes(self, store: Any) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing


class TestDisk(OverADirectory[DiskStore]):
    store_cls = DiskStore

    def root(self, store: Any) -> Path:
        return store.root

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"root": str(tmp_path)}


class _TwoLevels(Levels):
    """Levels as the suite makes stores: by keyword."""

    def __init__(self, *, fast: Any, slow: Any, read_only: bool = False) -> None:
        super().__init__(fast, slow, read_only=read_only)

    def with_read_only(self, read_only: bool = False) -> _TwoLevels:
        fast, slow = self.levels
        return _TwoLevels(fast=fast, slow=slow, read_only=read_only)


class _OverDirectories(OverADirectory[_TwoLevels]):
    store_cls = _TwoLevels

    def root(self, store: Any) -> Path:
        return store.home.root


class TestLevelsOverDirectories(_OverDirectories):
    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"fast": LocalStore(tmp_path / "fast"), "slow": DiskStore(tmp_path / "slow")}


class TestLevelsWithABoundedTierThatOnlyTakesCopies(_OverDirectories):
    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        tier = Limit(DiskStore(tmp_path / "fast"), max_size=20, max_object=8)
        return {"fast": Level(tier, write=False), "slow": DiskStore(tmp_path / "slow")}


class TestLevelsWithAMirror(_OverDirectories):
    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        mirror = LocalStore(tmp_path / "mirror", read_only=True)
        return {"fast": DiskStore(tmp_path / "home"), "slow": mirror}


class TestLimitOnObjects(OverADirectory[Limit]):
    store_cls = Limit

    def root(self, store: Any) -> Path:
        return store.store.root

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store": LocalStore(tmp_path), "max_object": "1 MB"}


class TestLimitOnSize(TestLimitOnObjects):
    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store": DiskStore(tmp_path), "max_size": "1 MB"}


class TestLimitInMemory(StoreTests[Limit, cpu.Buffer]):
    store_cls = Limit
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return {"store": MemoryStore(), "max_size": "1 MB"}

    async def set(self, store: Limit, key: str, value: Buffer) -> None:
        store.store._store_dict[key] = value  # type: ignore[attr-defined]

    async def get(self, store: Limit, key: str) -> Buffer:
        return store.store._store_dict[key]  # type: ignore[attr-defined,no-any-return]

    def test_store_repr(self, store: Limit) -> None:
        assert "memory://" in repr(store)

    def test_store_supports_writes(self, store: Limit) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Limit) -> None:
        assert store.supports_listing

"""Zarr's own suite of tests, over levels, limits and the stores that are opened by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.store import StoreTests

from daskcache.stores import Fanout, Level, Levels, Limit
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


class _TwoParts(Fanout):
    """Fan-outs as the suite makes stores: by keyword."""

    def __init__(self, *, first: Any, second: Any, fixed: str | None = None, read_only: bool = False) -> None:
        super().__init__(first, second, fixed=fixed, read_only=read_only)

    def with_read_only(self, read_only: bool = False) -> _TwoParts:
        first, second = self.parts
        return _TwoParts(first=first, second=second, fixed=self.fixed, read_only=read_only)


class TestFanout(StoreTests[_TwoParts, cpu.Buffer]):
    store_cls = _TwoParts
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"first": DiskStore(tmp_path / "a"), "second": DiskStore(tmp_path / "b")}

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        write(Path(store.parts[store._shares.order(key)[-1]].root), key, value)

    async def get(self, store: Any, key: str) -> Buffer:
        return read(next(part.root for part in store.parts if (part.root / key).exists()), key)

    def test_store_repr(self, store: Any) -> None:
        assert all(str(part.root) in repr(store) for part in store.parts)

    def test_store_supports_writes(self, store: Any) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing


class TestFanoutOfLevelsAndMemory(TestFanout):
    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        self.disk = DiskStore(tmp_path / "b")
        return {"first": Levels(MemoryStore(), DiskStore(tmp_path / "a")), "second": Fanout(self.disk)}

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        write(Path(self.disk.root), key, value)

    async def get(self, store: Any, key: str) -> Buffer:
        roots = store.parts[0].home.root, self.disk.root
        return read(next(root for root in roots if (root / key).exists()), key)

    def test_store_repr(self, store: Any) -> None:
        assert str(self.disk.root) in repr(store)


class TestFanoutWithDocuments(TestFanout):
    """Some keys are taken for those of blocks, the others lie in one store."""

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        first = DiskStore(tmp_path / "a")
        write(tmp_path / "a", ".daskcache-fanout", cpu.Buffer.from_bytes(b'{"home": "x", "state": "home"}'))
        return {"first": first, "second": DiskStore(tmp_path / "b"), "fixed": "(^|/)c/"}

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        write(Path(store.parts[0].root), key, value)


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

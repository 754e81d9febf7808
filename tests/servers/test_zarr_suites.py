"""Zarr's own suite of tests and its state machines, over stores on real servers."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from daskcache import stores
from daskcache.errors import ReadOnlyError
from daskcache.stores import Levels
from daskcache.stores.http import HttpStore
from daskcache.stores.redis import RedisStore
from daskcache.stores.sftp import SftpStore
from tests.servers.conftest import start
from tests.servers.services import RedisPlace, Service, SftpPlace

pytestmark = pytest.mark.slow


def given(root: dict[str, Any]) -> dict[str, Any]:
    return {"url": root["url"], "options": root["storage_options"]}


class _Suite[S: Any](StoreTests[S, cpu.Buffer]):
    buffer_cls = cpu.Buffer

    def test_store_repr(self, store: Any) -> None:
        assert repr(store) == f"<{self.store_cls.__name__} {store}>"
        assert "127.0.0.1" in str(store)

    def test_store_supports_writes(self, store: Any) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing


@pytest.mark.server("redis-server")
class TestRedis(_Suite[RedisStore]):
    store_cls = RedisStore

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return given(RedisPlace(start("redis"), "redis", None, {}, uuid.uuid4().hex).root())

    async def set(self, store: RedisStore, key: str, value: Buffer) -> None:
        head = b"dkc\x01" + bytes(16)
        self._client(store).set(store._name(key), head + value.to_bytes())

    async def get(self, store: RedisStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes(self._client(store).get(store._name(key))[20:])

    def _client(self, store: RedisStore) -> Any:
        import redis

        return redis.Redis(port=start("redis").port)


class _OverFiles[S: Any](_Suite[S]):
    def path(self, store: Any, key: str) -> Path:
        raise NotImplementedError

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        path = self.path(store, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())

    async def get(self, store: Any, key: str) -> Buffer:
        return cpu.Buffer.from_bytes(self.path(store, key).read_bytes())


@pytest.mark.server("sshd")
class TestSftp(_OverFiles[SftpStore]):
    store_cls = SftpStore

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return given(SftpPlace(start("sshd"), "sftp", None, {}, uuid.uuid4().hex).root())

    def path(self, store: SftpStore, key: str) -> Path:
        return Path(store._path(key))


@pytest.mark.server("nginx")
class TestHttp(_OverFiles[HttpStore]):
    """What of the suite reads; what writes is refused."""

    store_cls = HttpStore

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        server = start("nginx")
        assert isinstance(server, Service)
        name = uuid.uuid4().hex
        (server.directory / "files" / name).mkdir()
        return {"url": f"{server.endpoint}/{name}"}

    def path(self, store: HttpStore, key: str) -> Path:
        server = start("nginx")
        assert isinstance(server, Service)
        return server.directory / "files" / str(store).rpartition("/")[2] / key

    def test_store_supports_writes(self, store: HttpStore) -> None:
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_read_only(self, store: HttpStore) -> None:
        assert store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False  # type: ignore[misc]

    async def test_store_open_read_only(self, open_kwargs: dict[str, Any]) -> None:  # type: ignore[override]
        for read_only in (True, False):
            assert (await HttpStore.open(**open_kwargs, read_only=read_only)).read_only

    async def test_writes_are_refused(self, store: HttpStore) -> None:
        data = cpu.Buffer.from_bytes(b"1")
        with pytest.raises(ValueError, match="read-only mode"):
            await store.set("a", data)
        with pytest.raises(ValueError, match="read-only mode"):
            await store.set_if_not_exists("a", data)
        with pytest.raises(ValueError, match="read-only mode"):
            await store.delete_dir("a")
        for write in (stores.put, stores.create):
            with pytest.raises(ReadOnlyError, match="can only be read"):
                write(store, "a", b"1")
        for delete in (lambda: stores.delete(store, "a"), lambda: store.delete_object("a")):
            with pytest.raises(ReadOnlyError, match="can only be read"):
                delete()

    # These put what they look for through the store; here it is put as files.

    async def put_all(self, store: HttpStore, keys: Any, value: bytes = b"bar") -> None:
        for key in keys:
            await self.set(store, key, cpu.Buffer.from_bytes(value))

    async def test_serializable_store(self, store: HttpStore) -> None:
        import pickle

        assert pickle.loads(pickle.dumps(store)) == store

    async def test_getsize_prefix(self, store: HttpStore) -> None:
        await self.put_all(store, ["c/0/0", "c/1/0", "cc/0"], b"1234")
        assert await store.getsize_prefix("c") == 8

    async def test_exists(self, store: HttpStore) -> None:
        await self.put_all(store, ["foo/zarr.json"])
        assert not await store.exists("foo")
        assert not await store.exists("bar")
        assert await store.exists("foo/zarr.json")

    async def test_clear(self, store: HttpStore) -> None:
        with pytest.raises(ValueError, match="read-only mode"):
            await store.clear()

    async def test_get_partial_values(self, store: HttpStore) -> None:  # type: ignore[override]
        key_ranges = [
            ("c/0", RangeByteRequest(0, 2)), ("c/1", SuffixByteRequest(2)), ("c/2", OffsetByteRequest(2)), ("d", None)
        ]  # fmt: skip
        await self.put_all(store, [key for key, _ in key_ranges])
        found = await store.get_partial_values(cpu.buffer_prototype, key_ranges)
        parts = {
            RangeByteRequest: b"ba",
            SuffixByteRequest: b"ar",
            OffsetByteRequest: b"r",
            type(None): b"bar",
        }
        assert [one.to_bytes() for one in found] == [parts[type(part)] for _, part in key_ranges]

    async def test_list(self, store: HttpStore) -> None:
        keys = ["foo/zarr.json", *(f"foo/c/{number}" for number in range(10))]
        await self.put_all(store, keys)
        assert sorted([key async for key in store.list()]) == sorted(keys)

    async def test_list_prefix(self, store: HttpStore) -> None:
        keys = ["zarr.json", "a/zarr.json", "a/b/zarr.json", "a/b/c/zarr.json"]
        await self.put_all(store, keys)
        for prefix in ("", "a/", "a/b/", "a/b/c/", "a/b/c/z"):
            found = sorted([key async for key in store.list_prefix(prefix)])
            assert found == sorted(key for key in keys if key.startswith(prefix))

    async def test_list_empty_path(self, store: HttpStore) -> None:
        await self.put_all(store, ["foo/bar/c/1", "foo/baz/c/0"])
        assert [key async for key in store.list_prefix("foo/bar/")] == ["foo/bar/c/1"]

    async def test_list_dir(self, store: HttpStore) -> None:
        await self.put_all(store, ["foo/zarr.json", "foo/c/1"])
        for prefix in ("foo", "foo/"):
            assert sorted([name async for name in store.list_dir(prefix)]) == ["c", "zarr.json"]
        assert [name async for name in store.list_dir("bar")] == []

    @pytest.mark.parametrize("byte_range", [None, RangeByteRequest(1, 4), RangeByteRequest(10, 20)])
    async def test_get_sync_byte_range_parity(self, store: HttpStore, byte_range: Any) -> None:  # type: ignore[override]
        await self.put_all(store, ["a"], b"1234")
        now = store.get_sync("a", byte_range=byte_range)
        then = await store.get("a", cpu.buffer_prototype, byte_range)
        assert now is not None
        assert then is not None
        assert now.to_bytes() == then.to_bytes()


def _unwritten(*names: str) -> None:
    """Drop tests that only write: that writes are refused is tested once."""
    for name in names:
        setattr(TestHttp, name, None)


_unwritten(
    "test_set", "test_set_not_open", "test_set_many", "test_set_if_not_exists", "test_set_sync",
    "test_delete_sync", "test_delete_sync_missing", "test_sync_async_set_get_parity",
    "test_delete_sync_visible_to_async_get",
)  # fmt: skip

FEW = settings(
    max_examples=4,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.server("redis-server")
@pytest.mark.parametrize("kind", ["alone", "in front of memory"])
def test_redis_behaves_like_a_dict(kind: str) -> None:
    store = RedisPlace(start("redis"), "redis", None, {}, uuid.uuid4().hex).open()
    if kind != "alone":
        store = Levels(store, MemoryStore())
    run_state_machine_as_test(lambda: ZarrStoreStateMachine(store), settings=FEW)


# On disks an object cannot lie where a directory lies, and the other machine tries that.
@pytest.mark.server("sshd")
@pytest.mark.filterwarnings("ignore::zarr.core.dtype.common.UnstableSpecificationWarning")
def test_hierarchies_over_sftp_behave_like_those_in_memory() -> None:
    place = SftpPlace(start("sshd"), "sftp", None, {}, uuid.uuid4().hex)
    store = place.open()
    run_state_machine_as_test(
        lambda: ZarrHierarchyStateMachine(store),
        settings=settings(FEW, max_examples=2, stateful_step_count=8),
    )

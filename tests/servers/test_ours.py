"""Stores of ours on servers: with plain Zarr, in chains, activated by URL, after a fork, and as sources."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache import stores
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError, UncacheableError
from daskcache.locations import to_root
from daskcache.stores import Level, Levels, Limit
from tests.servers.conftest import OURS, start
from tests.servers.harness import Bucket, Cutter, free_port
from tests.servers.services import RedisPlace, Service, SftpPlace
from tests.sources import digests_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

VALUES = np.arange(24_000.0).reshape(6, 4000)


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Bucket:
    return place_of(request.param)


def place_of(kind: str) -> Bucket:
    if kind == "redis":
        return RedisPlace(start("redis"), "redis", None, {}, uuid.uuid4().hex)
    return SftpPlace(start("sshd"), "sftp", None, {}, uuid.uuid4().hex)


def dataset() -> xr.Dataset:
    return xr.Dataset({"v": (("t", "x"), VALUES)}, coords={"t": np.arange(6)})


def pipeline(offset: float = 0.0) -> xr.Dataset:
    return xr.Dataset({"v": ("x", da.arange(12, chunks=3, dtype="f8") * 2 + offset)})


EXPECTED = np.arange(12) * 2.0


def test_plain_zarr_and_xarray_write_and_read_there(ours: Bucket) -> None:
    store = ours.open()
    dataset().chunk({"t": 1}).to_zarr(store, consolidated=False)
    assert dataset().identical(xr.open_zarr(store, consolidated=False).load())
    array = zarr.create_array(
        store, name="sharded", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="i4", overwrite=True
    )
    array[:] = np.arange(64 * 64).reshape(64, 64)
    assert zarr.open_array(store, path="sharded", mode="r")[9:11, 33].tolist() == [9 * 64 + 33, 10 * 64 + 33]
    assert sorted(zarr.open_group(store, mode="r").array_keys()) == ["sharded", "t", "v"]
    array[:] = 0  # chunks of fill values are removed
    assert not list(stores.drive.walk(store, "sharded/c"))
    zarr.create_group(store, overwrite=True)
    assert [*stores.drive.walk(store, "")] == ["zarr.json"]


def test_many_threads_at_once(ours: Bucket) -> None:
    """What hangs where sessions are shared between threads, or an event loop waits for itself."""
    store = ours.open()
    array = zarr.create_array(store, shape=(64, 1000), chunks=(1, 1000), dtype="f8")

    def write(row: int) -> None:
        array[row] = row
        assert (zarr.open_array(store, mode="r")[row] == row).all()

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(write, range(64)))
    with dask.config.set(scheduler="threads", num_workers=8), zarr.config.set({"async.concurrency": 32}):
        assert da.from_zarr(array).sum().compute() == 1000 * sum(range(64))


CHILD = """
import pickle, sys
store = pickle.loads(sys.stdin.buffer.read())
from daskcache import stores
print(stores.get(store, "a").decode(), stores.create(store, "a", b"2"), stores.create(store, "b", b"2"))
"""


def test_what_is_pickled_opens_elsewhere(ours: Bucket) -> None:
    store = ours.open()
    stores.put(store, "a", b"1")
    assert pickle.loads(pickle.dumps(store)) is store
    assert store.with_read_only(True) != store
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=pickle.dumps(store), capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"1 False True\n", done.stderr


def _in_child(store: Any, results: Any) -> None:
    same = zarr.open_array(store, mode="r")[3, :2].tolist() == VALUES[3, :2].tolist()
    stores.put(store, "child", b"1")
    results.put((same, stores.get(store, "child")))


def test_parent_and_child_go_on_after_a_fork(ours: Bucket) -> None:
    store = ours.open()
    array = zarr.create_array(store, shape=VALUES.shape, chunks=(1, 4000), dtype="f8")
    array[:] = VALUES
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_in_child, args=(store, results)) for _ in range(3)]
    for child in children:
        child.start()
    for number in range(20):
        stores.put(store, f"parent/{number}", bytes([number]) * 100_000)
    assert [results.get(timeout=60) for _ in children] == [(True, b"1")] * 3
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    for number in range(20):
        assert stores.get(store, f"parent/{number}") == bytes([number]) * 100_000


def test_a_store_of_ours_is_a_level_and_takes_limits(ours: Bucket, tmp_path: Path) -> None:
    root = ours.root()
    chain = [{"url": str(tmp_path / "fast"), "max_size": "1 MB", "write": False}, root]
    stored = daskcache.persist(pipeline(), "entry", store=chain)
    assert (stored.v.values == EXPECTED).all()
    assert (daskcache.open("entry", store=root).v.values == EXPECTED).all()
    assert pickle.loads(pickle.dumps(stores.open(chain))).daskcache_root == to_root(chain)
    # In front of a directory it holds copies of what is small.
    small = Limit(stores.open(ours.root("/small")), max_object=100)
    home = stores.open(tmp_path / "home")
    levels = Levels(Level(small), home)
    for key, size in [("chunks/00ff/aa", 50), ("chunks/00ff/bb", 500)]:
        stores.put(home, key, bytes(size))
        assert stores.get(levels, key) == bytes(size)
    assert stores.list_sizes(small, "chunks/00ff") == {"aa": 50}
    with pytest.raises(InvalidInputError, match="cannot be bounded"):
        Limit(stores.open(root), max_size="1 MB")


def test_it_is_activated_by_its_url(ours: Bucket) -> None:
    root = ours.root()
    with dask.config.set(
        {"daskcache.store": root["url"], "daskcache.storage-options": root["storage_options"]}
    ):
        with daskcache.activate():
            lazy = pipeline().cache.checkpoint("marked")
            assert (lazy.compute().v.values == EXPECTED).all()
            assert daskcache.status(pipeline().cache.checkpoint("marked")).is_complete
        assert (daskcache.open("marked").v.values == EXPECTED).all()


def test_an_entry_is_copied_and_published_there(ours: Bucket, tmp_path: Path) -> None:
    daskcache.persist(pipeline(), "entry", store=tmp_path)
    there = ours.root("/copy")
    assert daskcache.copy(there, "entry", store=tmp_path).blocks == 4
    assert daskcache.copy(there, "entry", store=tmp_path).blocks == 0
    assert (daskcache.open("entry", store=there).v.values == EXPECTED).all()
    target = stores.open(ours.root("/plain"))
    assert daskcache.publish("entry", target, store=there).chunks == 4
    assert daskcache.publish("entry", target, store=there).chunks == 0
    assert (xr.open_zarr(target).v.values == EXPECTED).all()


def test_a_private_pool_lies_below_it(ours: Bucket) -> None:
    settings = {"daskcache.namespaces": {"own": {"pool": "private"}}}
    with dask.config.set(settings):
        daskcache.persist(pipeline(), "entry", namespace="own", store=ours.root())
    keys = [*stores.drive.walk(ours.open(), "")]
    assert sum(key.startswith("namespaces/own/@/chunks/") for key in keys) == 4
    assert not any(key.startswith("chunks/") for key in keys)


def test_ten_thousand_objects_are_listed(ours: Bucket) -> None:
    store = ours.open()
    names = {f"{number:040x}" for number in range(10_000)}
    stores.put(store, f"chunks/00ff/{0:040x}", b"12345")
    if ours.scheme == "redis":
        value = store._client.get(store._name(f"chunks/00ff/{0:040x}"))  # type: ignore[attr-defined]
        store._client.mset({store._name(f"chunks/00ff/{name}"): value for name in names})  # type: ignore[attr-defined]
    else:
        directory = Path(store._path("chunks/00ff"))  # type: ignore[attr-defined]
        for name in names:
            (directory / name).write_bytes(b"12345")
    found = stores.list_objects(store, "chunks/00ff")
    assert found.keys() == names
    assert {size for size, _ in found.values()} == {5}
    assert all(abs((written or 0.0) - time.time()) < 300 for _, written in found.values())
    assert stores.list_dirs(store, "chunks") == ["00ff"]
    assert sum(1 for _ in stores.drive.walk(store, "chunks/")) == 10_000


def _write_on_and_on(root: str) -> None:
    store = stores.open(root)
    data = bytes(100_000)
    for number in range(10**6):
        stores.create(store, f"chunks/00ff/{os.getpid():08x}{number:032x}", data)


def test_a_writer_that_is_killed_leaves_nothing_half_written(ours: Bucket) -> None:
    root = ours.root()
    store = stores.open(root)
    for after_s in (0.3, 0.37, 0.44, 0.51):
        child = multiprocessing.get_context("fork").Process(target=_write_on_and_on, args=(to_root(root),))
        child.start()
        assert child.pid is not None
        while not any(
            name.startswith(f"{child.pid:08x}") for name in stores.list_sizes(store, "chunks/00ff")
        ):
            time.sleep(0.05)
        time.sleep(after_s)
        child.kill()
        child.join()
        time.sleep(0.2)  # the server may be at the last of what it got
        found = stores.list_objects(store, "chunks/00ff")
        assert {size for name, (size, _) in found.items() if not name.endswith(".partial")} == {100_000}


def test_what_a_writer_left_half_written_is_cleaned(ours: Bucket) -> None:
    root = ours.root()
    store = stores.open(root)
    daskcache.persist(pipeline(), "entry", store=root)
    (group,) = stores.list_dirs(store, "chunks")
    if ours.scheme == "sftp":
        left = Path(store._path(f"chunks/{group}/{'0' * 40}.{uuid.uuid4().hex}.partial"))  # type: ignore[attr-defined]
        left.write_bytes(b"half")
        os.utime(left, (1e9, 1e9))
        assert left.name not in stores.list_sizes(store, f"chunks/{group}")
        assert daskcache.gc(store=root, grace="1h", wait=0).leftovers == 1
        assert not left.exists()
    assert daskcache.gc(store=root, grace="1h", wait=0).leftovers == 0
    assert (daskcache.open("entry", store=root).v.values == EXPECTED).all()


def test_a_slow_server_is_waited_for(ours: Bucket) -> None:
    proxy = Cutter(ours.server, delay_s=0.01)
    try:
        root = ours.root(endpoint=proxy.endpoint)
        daskcache.persist(pipeline(), "entry", store=root)
        assert (daskcache.open("entry", store=root).v.values == EXPECTED).all()
    finally:
        proxy.close()


def test_an_array_there_is_a_source(ours: Bucket) -> None:
    store: Any = ours.open()
    dataset().to_zarr(store, consolidated=False, encoding={"v": {"chunks": (1, 4000)}})
    settle(store)

    def digests() -> list[bytes]:
        return digests_of(xr.open_zarr(ours.open(), consolidated=False).v.data)

    before = digests()
    assert before == digests()
    assert len(set(before)) == 6
    zarr.open_array(store, path="v")[2] = 7.0
    settle(store, back_s=5000.0, only="v/c/2/")
    after = digests()
    assert [number for number in range(6) if before[number] != after[number]] == [2]
    cached = ours.root("-cache")
    result = xr.open_zarr(store, consolidated=False).v.mean("x")
    stored = daskcache.persist(result, "means", store=cached)
    assert stored.values[2] == 7.0
    assert daskcache.open("means", store=cached).values[2] == 7.0


def settle(store: Any, back_s: float = 10_000.0, only: str = "") -> None:
    """Let files have been written a while ago."""
    if isinstance(store, stores.drive.Driven) and hasattr(store, "_path"):
        for key in stores.drive.walk(store, only):
            os.utime(store._path(key), (time.time() - back_s,) * 2)


@pytest.mark.server("sshd")
def test_files_that_were_written_just_now_are_no_source() -> None:
    store: Any = place_of("sftp").open()
    dataset().to_zarr(store, consolidated=False)
    with pytest.raises(UncacheableError, match="whole seconds"):
        digests_of(xr.open_zarr(store, consolidated=False).v.data)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{}/0/a", "sftp://127.0.0.1:{}/a", "http://127.0.0.1:{}/a"]
)
def test_nobody_there(url: str) -> None:
    store = stores.open(url.format(free_port()))
    with pytest.raises(StoreError, match=r"127.0.0.1:\d+/.* failed: cannot read x"):
        stores.get(store, "x")


@pytest.mark.server("nginx")
def test_a_cache_that_a_web_server_serves_is_read() -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    name = uuid.uuid4().hex
    daskcache.persist(pipeline(), "entry", store=server.directory / "files" / name)
    for path in (name, f"html/{name}", f"rounded/{name}", f"whole/{name}"):
        url = f"{server.endpoint}/{path}"
        assert (daskcache.open("entry", store=url).v.values == EXPECTED).all()
        reading = dask.config.set({"daskcache.mode": "read"})
        with reading, daskcache.activate(url), warnings.catch_warnings(action="error"):
            assert daskcache.status(pipeline().cache.checkpoint("entry")).is_complete
            assert (pipeline().cache.checkpoint("entry").compute().v.values == EXPECTED).all()
        assert daskcache.verify(store=url).is_sound
    with daskcache.activate(f"{server.endpoint}/{name}"), warnings.catch_warnings(action="ignore"):
        assert (pipeline(5).cache.checkpoint("other").compute().v.values == EXPECTED + 5).all()
    with pytest.raises(ReadOnlyError, match="can only be read"):
        daskcache.persist(pipeline(9), "nine", store=f"{server.endpoint}/{name}")


@pytest.mark.server("nginx")
def test_a_web_server_is_a_mirror_behind_a_directory(tmp_path: Path) -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    name = uuid.uuid4().hex
    daskcache.persist(pipeline(), "entry", store=server.directory / "files" / name)
    chain = [str(tmp_path / "home"), f"{server.endpoint}/{name}"]
    assert stores.describe(to_root(chain)) == stores.describe(stores.open(chain)) == str(tmp_path / "home")
    assert (daskcache.open("entry", store=chain).v.values == EXPECTED).all()
    daskcache.persist(pipeline(1), "own", store=chain)
    assert (daskcache.open("own", store=tmp_path / "home").v.values == EXPECTED + 1).all()

"""Objects of stores: create-only puts, listings, errors; the same for each kind of store."""

import asyncio
import errno
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore as ObstoreMemory
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore, MemoryStore, ObjectStore

from daskcache import stores
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError, StoreFullError
from daskcache.stores import local


@pytest.fixture(params=["local", "memory", "fsspec", "obstore"])
def store(request, tmp_path):
    if request.param == "local":
        return stores.open(tmp_path / "root")
    if request.param == "memory":
        return MemoryStore()
    if request.param == "fsspec":
        return FsspecStore.from_url(f"memory://{tmp_path.name}")
    return ObjectStore(ObstoreMemory())


@pytest.mark.parametrize("write", [stores.put, stores.create])
def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch, write):
    def interrupt(descriptor, data):
        os.write(descriptor, bytes(data)[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "write_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(stores.open(tmp_path), "chunks/00ff/ab", b"0123456789")
    assert list((tmp_path / "chunks/00ff").iterdir()) == []


def test_what_was_put_is_got(store):
    assert stores.get(store, "chunks/00ff/ab") is None
    assert not stores.exists(store, "chunks/00ff/ab")
    stores.put(store, "chunks/00ff/ab", memoryview(b"0123456789"))
    assert stores.get(store, "chunks/00ff/ab") == b"0123456789"
    assert stores.exists(store, "chunks/00ff/ab")
    assert not stores.exists(store, "chunks/00ff")
    stores.put(store, "chunks/00ff/ab", b"")
    assert stores.get(store, "chunks/00ff/ab") == b""
    stores.delete(store, "chunks/00ff/ab")
    stores.delete(store, "chunks/00ff/ab")
    assert stores.get(store, "chunks/00ff/ab") is None


@pytest.mark.parametrize(
    ("byte_range", "expected"),
    [
        (RangeByteRequest(2, 5), b"234"),
        (RangeByteRequest(8, 20), b"89"),
        (OffsetByteRequest(7), b"789"),
        (SuffixByteRequest(3), b"789"),
    ],
)
def test_parts_are_got(store, byte_range, expected):
    stores.put(store, "a", b"0123456789")
    assert stores.get(store, "a", byte_range) == expected
    assert stores.get(store, "b", byte_range) is None


def test_the_first_writer_wins(store):
    assert stores.create(store, "runs/a", b"first")
    assert not stores.create(store, "runs/a", b"second")
    assert stores.get(store, "runs/a") == b"first"


def test_listings(store):
    assert stores.list_sizes(store, "chunks/00ff") == {}
    assert stores.list_dirs(store, "chunks") == []
    stores.put(store, "chunks/00ff/ab", b"123")
    stores.put(store, "chunks/00ff/cd", b"")
    stores.put(store, "chunks/00ff/cd.1234.partial", b"half")
    stores.put(store, "chunks/00fe/ef", b"1")
    stores.put(store, "chunks/00ff/deeper/xy", b"1")
    stores.put(store, "chunks/index", b"1")
    assert stores.list_sizes(store, "chunks/00ff") == {"ab": 3, "cd": 0}
    assert stores.list_dirs(store, "chunks") == ["00fe", "00ff"]
    stores.delete(store, "chunks/00ff/ab")
    assert stores.list_sizes(store, "chunks/00ff") == {"cd": 0}


def test_bad_objects_are_moved_aside(store):
    assert stores.rename_aside(store, "chunks/00ff/ab") is None
    for n, data in enumerate((b"bad", b"worse", b"worst")):
        stores.put(store, "chunks/00ff/ab", data)
        assert stores.rename_aside(store, "chunks/00ff/ab") == f"quarantine/chunks/00ff/ab.{n}"
        assert not stores.exists(store, "chunks/00ff/ab")
        assert stores.get(store, f"quarantine/chunks/00ff/ab.{n}") == data
    assert stores.list_sizes(store, "chunks/00ff") == {}


@pytest.mark.parametrize(
    "key",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "a//b",
        "",
        ".",
        "a/.",
        "a\0b",
        "a\\b",
        "a b",
        "%2e%2e/a",
        "a/",
        "a\n",
    ],
)
def test_keys_that_lead_elsewhere_are_refused(store, key):
    calls = [
        lambda: stores.put(store, key, b""),
        lambda: stores.create(store, key, b""),
        lambda: stores.get(store, key),
        lambda: stores.exists(store, key),
        lambda: stores.delete(store, key),
        lambda: stores.list_sizes(store, key),
        lambda: stores.rename_aside(store, key),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="store key"):
            call()


def test_read_only_stores_refuse_writes(tmp_path):
    stores.put(stores.open(tmp_path), "a", b"1")
    for store in (stores.open(tmp_path, read_only=True), MemoryStore(read_only=True)):
        for write in (
            lambda s: stores.put(s, "a", b""),
            lambda s: stores.create(s, "b", b""),
            lambda s: stores.delete(s, "a"),
            lambda s: stores.rename_aside(s, "a"),
        ):
            with pytest.raises(ReadOnlyError, match="reading only"):
                write(store)
    assert stores.get(stores.open(tmp_path, read_only=True), "a") == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_one_of_many_writers_wins(store):
    if isinstance(store, FsspecStore):
        pytest.skip("fsspec's memory does not have a create-only put")
    barrier = threading.Barrier(8)

    def write(n):
        barrier.wait()
        return stores.create(store, "a", bytes([n]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(write, range(8)))
    assert sum(created) == 1
    assert stores.get(store, "a") == bytes([created.index(True)]) * 100_000
    assert stores.list_sizes(store, "chunks") == {}


def test_inside_a_running_event_loop(store):
    async def work():
        stores.put(store, "a", b"1")
        return stores.get(store, "a"), stores.create(store, "a", b"2"), stores.list_sizes(store, "x")

    assert asyncio.run(work()) == (b"1", False, {})


def _in_child(store, queue):
    stores.put(store, "child", b"2")
    queue.put((stores.get(store, "parent"), stores.create(store, "parent", b"x")))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(store):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    if isinstance(store, ObjectStore):
        pytest.skip("obstore's own threads do not survive a fork")
    stores.put(store, "parent", b"1")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(store, queue))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert queue.get() == (b"1", False)


# Local files


def test_nothing_but_the_object_is_left(tmp_path):
    store = stores.open(tmp_path)
    stores.create(store, "a/b", b"1")
    stores.create(store, "a/b", b"2")
    stores.put(store, "a/b", b"3")
    assert os.listdir(tmp_path / "a") == ["b"]


ERRORS = [
    (errno.ENOSPC, StoreFullError, "is full.*No space left.*free space"),
    (errno.EDQUOT, StoreFullError, "is full.*quota.*free space"),
    (errno.EACCES, ReadOnlyError, "takes no writes.*Permission denied.*permissions"),
    (errno.EROFS, ReadOnlyError, "takes no writes.*Read-only file system.*permissions"),
    (errno.EPERM, ReadOnlyError, "takes no writes.*not permitted.*permissions"),
    (errno.EIO, StoreError, "failed.*Input/output error.*can be reached"),
]


@pytest.mark.parametrize("function", ["open", "write", "close"])
@pytest.mark.parametrize(("code", "kind", "message"), ERRORS)
def test_errors_name_the_root_and_the_remedy(tmp_path, monkeypatch, function, code, kind, message):
    store = stores.open(tmp_path)
    real = getattr(os, function)

    def fail(*args):
        if function == "close":
            real(*args)
        raise OSError(code, os.strerror(code), "/secret/path.partial")

    monkeypatch.setattr(local.os, function, fail)
    for write in (stores.create, stores.put):
        with pytest.raises(kind, match=message) as caught:
            write(store, "a", b"12")
        assert type(caught.value) is kind
        assert str(tmp_path) in str(caught.value)
        assert "secret" not in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_failing_link_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(local.os, "link", fail)
    monkeypatch.setattr(local.os, "replace", fail)
    for write in (stores.create, stores.put):
        with pytest.raises(StoreError):
            write(stores.open(tmp_path), "a", b"1")
    assert os.listdir(tmp_path) == []


def test_without_hard_links(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(local.os, "link", fail)
    store = stores.open(tmp_path)
    assert stores.create(store, "a", b"1")
    assert not stores.create(store, "a", b"2")
    assert stores.get(store, "a") == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_short_writes_and_reads_are_completed(tmp_path, monkeypatch):
    write, read = os.write, os.read
    monkeypatch.setattr(local.os, "write", lambda fd, data: write(fd, data[:7]))
    monkeypatch.setattr(local.os, "read", lambda fd, length: read(fd, min(length, 7)))
    store = stores.open(tmp_path)
    data = bytes(range(100))
    stores.put(store, "a", data)
    assert stores.get(store, "a") == data
    assert stores.get(store, "a", RangeByteRequest(3, 90)) == data[3:90]


def test_an_unreadable_file_is_an_error_of_the_store(tmp_path, monkeypatch):
    store = stores.open(tmp_path)
    stores.put(store, "a", b"1")

    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(StoreError, match="cannot read a") as caught:
        stores.get(store, "a")
    assert not isinstance(caught.value, ReadOnlyError)


def test_a_root_that_is_a_file_is_an_error_of_the_store(tmp_path):
    (tmp_path / "root").write_text("")
    store = stores.open(tmp_path / "root")
    assert stores.get(store, "a/b") is None
    assert stores.list_sizes(store, "a") == {}
    stores.delete(store, "a")
    with pytest.raises(StoreError, match="Not a directory"):
        stores.put(store, "a", b"")


def test_free_space(tmp_path):
    assert stores.free_bytes(stores.open(tmp_path / "not" / "yet")) > 0
    assert stores.free_bytes(MemoryStore()) is None


def test_a_process_limited_in_file_size_leaves_nothing(tmp_path):
    code = """
import resource, sys
from daskcache import stores
from daskcache.errors import StoreFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = stores.open(sys.argv[1])
stores.create(store, "small", bytes(99_000))
for write in (stores.create, stores.put):
    try:
        write(store, "large", bytes(200_000))
    except StoreFullError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("is full: cannot write large (File too large)") == 2
    assert os.listdir(tmp_path) == ["small"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this process may mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    yield point
    subprocess.run(["umount", str(point)], check=True, capture_output=True)


def test_a_full_disk(small_disk):
    store = stores.open(small_disk)
    assert stores.free_bytes(store) <= 1 << 20
    stores.create(store, "a", bytes(600_000))
    for write in (stores.create, stores.put):
        with pytest.raises(
            StoreFullError, match=f"store {small_disk} is full: cannot write b .No space left on device"
        ):
            write(store, "b", bytes(600_000))
    assert os.listdir(small_disk) == ["a"]
    assert stores.create(store, "c", bytes(100_000))


def test_a_read_only_disk(small_disk):
    store = stores.open(small_disk)
    stores.create(store, "a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for write in (
        lambda: stores.create(store, "b", b""),
        lambda: stores.put(store, "x/b", b""),
        lambda: stores.delete(store, "a"),
        lambda: stores.rename_aside(store, "a"),
    ):
        with pytest.raises(ReadOnlyError, match=r"takes no writes.*Read-only file system"):
            write()
    assert stores.get(store, "a") == b"1"

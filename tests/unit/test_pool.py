"""Blocks in the pool: written once, read back whole or in part, damaged, missing, lost races."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize
from zarr.storage import MemoryStore

from daskcache import pool, stores
from daskcache.chunks import ChunkSpec, checksum_of, chunk_id, decode, encode
from daskcache.errors import (
    CorruptChunkError,
    InvalidInputError,
    NotStoredError,
    ReadOnlyError,
    StoreError,
    StoreFullError,
    UncacheableError,
)
from daskcache.fingerprint.digest import Digester
from daskcache.pool import Receipt, StoredBlock, write_block
from tests.unit.chunk_blocks import make, same

TOKEN = bytes(range(20))
GROUP = "00ff"


def store_block(root, block, inner=None, chunk_shape=None, token=TOKEN):
    spec = ChunkSpec.for_block(block.dtype, chunk_shape or block.shape, inner_shape=inner)
    receipt = write_block(str(root), GROUP, token, spec, block)
    return StoredBlock(str(root), GROUP, token, spec, block.shape, block.dtype, receipt.size_bytes)


def path_of(stored):
    return Path(stored.root, stored.key)


@pytest.mark.parametrize("inner", [None, (2, 3)])
@pytest.mark.parametrize("root", ["memory", "local"])
def test_blocks_come_back(tmp_path, root, inner):
    root = tmp_path / "root" if root == "local" else f"memory://{tmp_path}"
    block = make(">f4", (5, 6))
    stored = store_block(root, block, inner, (6, 6))
    assert same(stored[...], block)
    assert same(np.asarray(stored), block)
    assert np.asarray(stored, "V4").dtype == "V4"
    for index in (
        0,
        (slice(1, 3), -1),
        (slice(None, None, -2),),
        [0, 2],
        (None, 1),
        np.array([True, False] * 2 + [True]),
    ):
        assert same(np.asarray(stored[index]), np.asarray(block[index]))
    assert (stored.shape, stored.dtype, stored.ndim, stored.size, stored.nbytes) == (
        (5, 6),
        block.dtype,
        2,
        30,
        120,
    )
    assert len(stored) == 5
    with pytest.raises(ValueError, match="copy=False"):
        np.array(stored, copy=False)


def test_dask_reads_it(tmp_path):
    block = np.arange(12.0).reshape(3, 4)
    array = da.from_array(store_block(tmp_path, block), chunks=-1)
    assert (array[1:, ::2].compute(scheduler="sync") == block[1:, ::2]).all()


def test_receipts(tmp_path):
    block = make("f4", (4, 6))
    spec = ChunkSpec.for_block("f4", (4, 6), inner_shape=(2, 6))
    receipt = write_block(str(tmp_path), GROUP, TOKEN, spec, block)
    data = (tmp_path / "chunks" / GROUP / receipt.id).read_bytes()
    assert receipt == Receipt(
        GROUP,
        chunk_id(TOKEN, spec),
        len(data),
        checksum_of(data, spec),
        receipt.inner,
        created=True,
        conflict=False,
    )
    assert len(receipt.inner) == 2
    assert sum(size for _, size in receipt.inner) == len(data) - 2 * 16 - 4
    again = write_block(str(tmp_path), GROUP, TOKEN, spec, block)
    assert (again.created, again.conflict) == (False, False)
    assert (again.checksum, again.inner, again.size_bytes) == (
        receipt.checksum,
        receipt.inner,
        receipt.size_bytes,
    )


def test_blocks_of_no_size_have_no_object(tmp_path):
    block = np.empty((0, 3), ">M8[s]")
    stored = store_block(tmp_path / "root", block)
    assert same(stored[...], block)
    assert same(stored[:, 1], block[:, 1])
    assert same(stored[:, [1]], block[:, [1]])
    assert stored.size_bytes == 0
    assert not (tmp_path / "root").exists()


def test_scalars_of_numpy_are_0d_blocks(tmp_path):
    spec = ChunkSpec.for_block("f4", ())
    write_block(str(tmp_path), GROUP, TOKEN, spec, np.float32(3))
    assert same(StoredBlock(str(tmp_path), GROUP, TOKEN, spec, (), np.dtype("f4"))[()], np.array(3, "f4"))


def test_the_loser_with_other_values_learns_of_it(tmp_path):
    first, second = np.arange(10.0), np.arange(10.0) + 1e-9
    stored = store_block(tmp_path, first)
    receipt = write_block(str(tmp_path), GROUP, TOKEN, stored.spec, second)
    assert (receipt.created, receipt.conflict) == (False, True)
    assert receipt.checksum == checksum_of(path_of(stored).read_bytes(), stored.spec)
    assert same(stored[...], first)


def test_nan_payloads_and_signs_of_zero_are_values(tmp_path):
    stored = store_block(tmp_path, np.array([0.0, np.nan]))
    assert write_block(str(tmp_path), GROUP, TOKEN, stored.spec, np.array([-0.0, np.nan])).conflict
    assert not write_block(str(tmp_path), GROUP, TOKEN, stored.spec, np.array([0.0, np.nan])).conflict


def test_other_bytes_of_equal_values_are_no_conflict(tmp_path):
    block = np.zeros(1000)
    stored = store_block(tmp_path, block)
    # As another release of the compressor may write it: a valid frame of another effort.
    other = encode(block, ChunkSpec.for_block("f8", (1000,), type(stored.spec.codecs)(level=0)))
    assert other != encode(block, stored.spec)
    stores.put(stores.open(tmp_path), stored.key, other)
    receipt = write_block(str(tmp_path), GROUP, TOKEN, stored.spec, block)
    assert (receipt.created, receipt.conflict, receipt.size_bytes) == (False, False, len(other))


def test_strings_are_compared_as_values(tmp_path):
    stored = store_block(tmp_path, np.array(["a", "b"]))
    assert not write_block(str(tmp_path), GROUP, TOKEN, stored.spec, np.array(["a", "b"], "T")).conflict
    assert write_block(str(tmp_path), GROUP, TOKEN, stored.spec, np.array(["a", "c"], "T")).conflict


@pytest.mark.parametrize("harm", [lambda d: d[:-1], lambda d: b"", lambda d: d[:9] + b"\xff" + d[10:]])
def test_a_writer_replaces_a_damaged_object(tmp_path, harm):
    block = np.arange(100.0)
    stored = store_block(tmp_path, block)
    good = path_of(stored).read_bytes()
    path_of(stored).write_bytes(harm(good))
    receipt = write_block(str(tmp_path), GROUP, TOKEN, stored.spec, block)
    assert (receipt.created, receipt.conflict) == (True, False)
    assert path_of(stored).read_bytes() == good
    assert os.listdir(tmp_path / "quarantine" / "chunks" / GROUP) == [f"{stored.id}.0"]


@pytest.mark.parametrize("index", [..., (slice(0, 1),), 3], ids=["whole", "part", "row"])
@pytest.mark.parametrize("inner", [None, (2, 6)])
@pytest.mark.parametrize("harm", [lambda d: d[:-1], lambda d: b"", lambda d: bytes(len(d)), lambda d: d[1:]])
def test_a_damaged_object_is_moved_aside(tmp_path, harm, inner, index):
    stored = store_block(tmp_path, make("f4", (4, 6)), inner)
    good = path_of(stored).read_bytes()
    path_of(stored).write_bytes(harm(good))
    with pytest.raises(
        CorruptChunkError, match=f"chunks/{GROUP}/.* damaged .*moved to quarantine/chunks.*again"
    ):
        stored[index]
    moved = tmp_path / "quarantine" / "chunks" / GROUP / f"{stored.id}.0"
    assert moved.read_bytes() == harm(good)
    with pytest.raises(NotStoredError, match="running again"):
        stored[index]


def test_one_damaged_inner_chunk_hurts_who_reads_it(tmp_path):
    block = make("f4", (4, 6))
    stored = store_block(tmp_path, block, (2, 6))
    data = bytearray(path_of(stored).read_bytes())
    data[3] ^= 1
    path_of(stored).write_bytes(data)
    assert same(stored[2:], block[2:])
    with pytest.raises(CorruptChunkError):
        stored[0]


def test_a_torn_read_is_no_damage(tmp_path, monkeypatch):
    block = make("f4", (4, 6))
    stored = store_block(tmp_path, block)
    real, calls = stores.get, []

    def torn(*args):
        calls.append(args)
        data = real(*args)
        return data[:-7] if len(calls) == 1 else data

    monkeypatch.setattr(pool.stores, "get", torn)
    assert same(stored[1:3], block[1:3])
    assert path_of(stored).exists()


def test_a_damaged_object_on_a_read_only_store_is_said(tmp_path, monkeypatch):
    stored = store_block(tmp_path, make("f4", (4, 6)))
    path_of(stored).write_bytes(b"")

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(stores.local.os, "rename", refuse)
    with pytest.raises(CorruptChunkError, match=r"could not be moved aside.*takes no writes"):
        stored[...]


def test_a_missing_object_is_said(tmp_path):
    stored = store_block(tmp_path, make("f4", (4, 6)), (2, 6))
    path_of(stored).unlink()
    for index in (..., 1, slice(0, 1)):
        with pytest.raises(NotStoredError, match=f"chunks/{GROUP}/{stored.id} is not in store {tmp_path}"):
            stored[index]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StoreFullError), (errno.EACCES, ReadOnlyError), (errno.EIO, StoreError)]
)
def test_a_store_that_fails_is_said(tmp_path, monkeypatch, code, kind):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(stores.local.os, "write", fail)
    with pytest.raises(kind, match=str(tmp_path)):
        store_block(tmp_path, np.arange(3))
    assert os.listdir(tmp_path / "chunks" / GROUP) == []


def test_wrong_blocks_are_refused_before_anything_is_touched(tmp_path):
    spec = ChunkSpec.for_block("f4", (3,))
    for block, kind in (
        (np.arange(3), InvalidInputError),
        (np.ma.arange(3), UncacheableError),
        ("abc", UncacheableError),
    ):
        with pytest.raises(kind):
            write_block(str(tmp_path / "root"), GROUP, TOKEN, spec, block)
    assert not (tmp_path / "root").exists()


class Counting(MemoryStore):
    """Counts what each request gets."""

    def __init__(self):
        super().__init__()
        self.log = []

    def get_sync(self, key, **kwargs):
        self.log.append(("get", key))
        return super().get_sync(key, **kwargs)

    async def get(self, key, prototype=None, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        self.log.append(("get", None if found is None else len(found)))
        return found

    def set_sync(self, key, value):
        self.log.append(("set", key))
        super().set_sync(key, value)


def test_writing_costs_one_put_and_reading_one_get(monkeypatch):
    store = Counting()
    monkeypatch.setattr(pool.stores, "open", lambda root: store)
    block = make("f4", (64, 64, 16))
    stored = store_block("any", block, (64, 8, 8))
    assert store.log == [("get", stored.key), ("set", stored.key)]  # the first finds nothing
    store.log.clear()
    assert same(stored[...], block)
    assert [kind for kind, _ in store.log] == ["get"]
    store.log.clear()
    assert same(stored[:, 1, 1], block[:, 1, 1])
    assert [kind for kind, _ in store.log] == ["get", "get"]
    assert sum(size for _, size in store.log) < 1.2 * block[:, :8, :8].nbytes


def test_local_parts_read_their_inner_chunks_alone(tmp_path):
    block = make("f4", (64, 64, 64))
    stored = store_block(tmp_path, block, (64, 16, 16))
    stored[:, 1, 1]
    counts = Path("/proc/self/io")
    if not counts.exists():
        pytest.skip("the system does not count bytes that are read")
    before = int(counts.read_text().split()[1])
    assert same(stored[:, 20, 1], block[:, 20, 1])
    read = int(counts.read_text().split()[1]) - before
    assert read < 1.2 * block[:, :16, :16].nbytes


def test_blocks_are_small_and_equal_when_pickled(tmp_path):
    stored = store_block(tmp_path, make("f4", (4, 6)))
    stored[...]
    data = pickle.dumps(stored)
    assert len(data) < 500
    again = pickle.loads(data)
    assert (again, hash(again), tokenize(again)) == (stored, hash(stored), tokenize(stored))
    assert again.dtype.str == stored.dtype.str
    others = [
        StoredBlock(stored.root, GROUP, os.urandom(20), stored.spec, (4, 6), stored.dtype) for _ in range(100)
    ]
    assert len(pickle.dumps(others)) < 100 * 80
    assert len({tokenize(other) for other in others}) == 100
    assert stored != others[0]
    assert "secret" not in repr(
        StoredBlock("s3://k:secret@b", GROUP, TOKEN, stored.spec, (4, 6), stored.dtype)
    )


def test_regions_have_tokens_of_their_own(tmp_path):
    class Fingerprints:
        digester = Digester()

    stored = StoredBlock(
        "memory://a", GROUP, TOKEN, ChunkSpec.for_block("f4", (4, 6)), (4, 6), np.dtype("f4")
    )

    def region(index):
        return stored.__daskcache_region__(index, Fingerprints())

    for whole in ((), ..., slice(None), (slice(0, 4), slice(None, 99)), (slice(None, None, 1), ...)):
        assert region(whole) == TOKEN
    assert region((slice(1, 3),)) == region((slice(1, 3, 1), slice(0, 6))) == region(slice(-3, -1))
    indices = [
        (1,),
        (slice(1, 2),),
        (slice(1, 3),),
        (slice(0, 4, 2),),
        (slice(None, None, -1),),
        (..., 1),
        (1, 1),
        (slice(0, 0),),
    ]
    assert len({region(index) for index in [(), *indices]}) == len(indices) + 1


def _load(stored, queue):
    queue.put(stored[1:3].tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("inner", [None, (1, 6)])
def test_other_processes_open_the_store_for_themselves(tmp_path, method, inner):
    block = make("f4", (4, 6))
    stored = store_block(tmp_path, block, inner)
    assert same(stored[...], block)
    assert same(stored[0], block[0])
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=_load, args=(stored, queue))
    child.start()
    child.join(100)
    assert child.exitcode == 0
    assert queue.get() == block[1:3].tobytes()


def test_many_threads_write_and_read(tmp_path):
    blocks = [make("f4", (50, 40), seed) for seed in range(20)]

    def work(n):
        stored = store_block(tmp_path, blocks[n % 20], (25, 10), token=bytes([n % 20]) * 20)
        return same(stored[...], blocks[n % 20]) and same(stored[3:30, 5], blocks[n % 20][3:30, 5])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(200)))
    assert len(os.listdir(tmp_path / "chunks" / GROUP)) == 20


WRITER = """
import sys
import numpy as np
from daskcache.chunks import ChunkSpec
from daskcache.pool import write_block
spec = ChunkSpec.for_block("f8", (1500, 1000), inner_shape=(500, 1000))
block = np.random.default_rng(0).random((1500, 1000))
for n in range(int(sys.argv[2]), 10**6):
    write_block(sys.argv[1], "00ff", n.to_bytes(20, "big"), spec, block)
    print(n, flush=True)
"""


def test_killed_writers_leave_whole_objects_alone(tmp_path):
    spec = ChunkSpec.for_block("f8", (1500, 1000), inner_shape=(500, 1000))
    done = set()
    for round_ in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(round_ * 1000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            done.add(int(child.stdout.readline()))
            time.sleep(0.05 + 0.013 * round_)
            child.send_signal(signal.SIGKILL)
            done.update(int(line) for line in child.stdout.read().splitlines())
    block = np.random.default_rng(0).random((1500, 1000))
    listed = stores.list_sizes(stores.open(tmp_path), f"chunks/{GROUP}")
    assert {chunk_id(n.to_bytes(20, "big"), spec) for n in done} <= set(listed)
    for name in listed:
        data = (tmp_path / "chunks" / GROUP / name).read_bytes()
        assert same(decode(data, spec, block.shape, block.dtype), block)

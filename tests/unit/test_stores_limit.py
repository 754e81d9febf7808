"""Limits: what is refused, what is removed, and eight processes that share a directory and are killed."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zarr.abc.store import Store
from zarr.storage import FsspecStore, MemoryStore

from daskcache import stores
from daskcache.errors import InvalidInputError, StoreFullError
from daskcache.stores import Limit, drive
from daskcache.stores.local import PARTIAL
from daskcache.stores.opened import DiskStore
from daskcache.stores.tiers import LEDGER, MemoryTier


@pytest.fixture(params=["disk", "memory"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return DiskStore(tmp_path / "tier") if request.param == "disk" else MemoryStore()


def names(store: Store) -> list[str]:
    return sorted(drive.walk(store, ""))


def test_what_was_not_used_for_longest_goes_first(inner: Store) -> None:
    limit = Limit(inner, max_size=100)
    for name in "abc":
        stores.put(limit, name, bytes(30))
        time.sleep(0.01)
    assert stores.get(limit, "a") == bytes(30)
    stores.put(limit, "d", bytes(30))
    assert names(limit) == ["a", "c", "d"]
    assert stores.create(limit, "e", bytes(60))
    assert names(limit) == ["d", "e"]
    assert not stores.create(limit, "e", bytes(1))
    stores.put(limit, "e", bytes(70))
    stores.put(limit, "f", bytes(20))
    assert stores.size(limit, "f") == 20
    assert sum(stores.size(limit, name) or 0 for name in names(limit)) <= 100


@pytest.mark.parametrize("where", ["os.ftruncate", "local.write_all"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_put_that_fails_gives_back_the_room_that_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    limit = Limit(DiskStore(tmp_path), max_size=100)
    stores.put(limit, "a", bytes(40))

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"daskcache.stores.tiers.{where}", fail)
        with pytest.raises(StoreFullError if isinstance(error, OSError) else KeyboardInterrupt):
            stores.put(limit, "b", bytes(50))
    assert int((tmp_path / LEDGER).read_text()) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "a"]
    stores.put(limit, "b", bytes(60))
    assert names(limit) == ["a", "b"]


def test_deleting_makes_room(inner: Store) -> None:
    limit = Limit(inner, max_size=100)
    stores.put(limit, "x/a", bytes(50))
    stores.put(limit, "x/b", bytes(50))
    stores.delete(limit, "x/a")
    stores.put(limit, "x/c", bytes(50))
    assert names(limit) == ["x/b", "x/c"]
    assert stores.list_sizes(limit, "x") == {"b": 50, "c": 50}


def test_objects_that_are_too_large_are_refused(inner: Store) -> None:
    for limit in (Limit(inner, max_object=10), Limit(inner, max_size="10 B")):
        assert limit.takes(10)
        assert not limit.takes(11)
        for write in (stores.put, stores.create):
            with pytest.raises(StoreFullError, match="up to 10 bytes, and a has 11"):
                write(limit, "a", bytes(11))
        assert not stores.exists(limit, "a")


def test_an_account_is_kept_from_one_process_to_the_next_and_found_where_it_was_lost(tmp_path: Path) -> None:
    limit = Limit(DiskStore(tmp_path), max_size=100)
    stores.put(limit, "a", bytes(60))
    time.sleep(0.01)
    again = pickle.loads(pickle.dumps(limit))
    stores.put(again, "b", bytes(40))
    assert names(again) == ["a", "b"]
    (tmp_path / LEDGER).unlink()
    stores.put(Limit(DiskStore(tmp_path), max_size=100), "c", bytes(50))
    assert names(limit) == ["b", "c"]


def test_the_account_is_no_object(tmp_path: Path) -> None:
    limit = Limit(DiskStore(tmp_path), max_size=100)
    stores.put(limit, "a", b"1")
    assert (tmp_path / LEDGER).exists()
    assert names(limit) == ["a"]
    assert LEDGER not in stores.list_sizes(Limit(DiskStore(tmp_path.parent), max_size=1), tmp_path.name)
    assert limit.get_sync(LEDGER) is None
    assert limit.has_object(LEDGER) is False
    with pytest.raises(InvalidInputError):
        limit.put_object(LEDGER, b"")


def test_a_part_of_a_bounded_directory_counts_for_all_of_it(tmp_path: Path) -> None:
    whole = Limit(DiskStore(tmp_path), max_size=100)
    part = Limit(DiskStore(tmp_path / "part"), max_size=100, within=str(tmp_path))
    stores.put(whole, "a", bytes(60))
    time.sleep(0.01)
    stores.put(part, "b", bytes(60))
    assert names(whole) == ["part/b"]


def test_what_a_killed_writer_left_is_removed_when_room_is_needed(tmp_path: Path) -> None:
    limit = Limit(DiskStore(tmp_path), max_size=100)
    stores.put(limit, "a", bytes(10))
    (tmp_path / f"b.0123{PARTIAL}").write_bytes(bytes(50))
    (tmp_path / LEDGER).unlink()
    stores.put(limit, "c", bytes(90))
    assert sorted(os.listdir(tmp_path)) == [LEDGER, "a", "c"]
    stores.put(limit, "d", bytes(10))


def test_a_failing_write_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(DiskStore(tmp_path), max_size=100)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("daskcache.stores.local.write_all", fail)
        for _ in range(3):
            with pytest.raises(StoreFullError):
                stores.put(limit, "a", bytes(90))
    stores.put(limit, "b", bytes(10))
    stores.put(limit, "c", bytes(90))
    assert names(limit) == ["b", "c"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "max_object, max_size or both"),
        ({"max_size": "much"}, "max_size"),
        ({"max_object": -1}, "not negative"),
    ],
)
def test_limits_that_are_none(limits: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Limit(MemoryStore(), **limits)  # type: ignore[arg-type]


def test_only_disks_and_memory_can_be_bounded(tmp_path: Path) -> None:
    store = FsspecStore.from_url(f"memory://{tmp_path.name}")
    with pytest.raises(InvalidInputError, match="cannot be bounded"):
        Limit(store, max_size=1)
    stores.put(Limit(store, max_object=1), "a", b"1")


def test_zarrs_memory_keeps_its_content_where_it_is_looked_for() -> None:
    store = MemoryStore()
    stores.put(store, "a", b"1")
    assert MemoryTier(store, 1)._content is store._store_dict
    assert list(store._store_dict) == ["a"]


WORK = """
import os, random, sys
from daskcache import stores
from daskcache.stores import Limit
root, seed, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
limit = Limit(stores.open(root), max_size=400_000)
random.seed(seed)
wrong = reads = writes = 0
while not os.path.exists(stop):
    name = random.randrange(60)
    size = 1000 + name * 900
    if random.random() < 0.5:
        found = stores.get(limit, f"chunks/{name}")
        reads += found is not None
        wrong += found is not None and found != bytes([name]) * size
    elif random.random() < 0.2:
        stores.put(limit, f"chunks/{name}", bytes([name]) * size)
        writes += 1
    else:
        writes += stores.create(limit, f"chunks/{name}", bytes([name]) * size)
print(wrong, reads, writes)
"""


def used(root: Path) -> int:
    """Give what the files took at some moment: those that are there before and after it."""
    before, after = walk(root), walk(root)
    return sum(min(size, after[file]) for file, size in before.items() if file in after)


def walk(root: Path) -> dict[tuple[int, int], int]:
    """Give the size of each file, once: one that is published has two names for a moment."""
    found = {}
    for directory, _, files in os.walk(root):
        for name in files:
            if name != LEDGER:
                try:
                    status = os.stat(os.path.join(directory, name))
                except FileNotFoundError:
                    continue
                found[status.st_ino, status.st_mtime_ns] = status.st_size
    return found


@pytest.mark.slow
def test_eight_processes_never_exceed_the_limit_nor_read_a_part_and_killing_some_changes_nothing(
    tmp_path: Path,
) -> None:
    root = tmp_path / "tier"
    stop = tmp_path / "stop"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(root), str(seed), str(stop)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(8)
    ]
    most, killed, began, give_up = 0, [], None, time.time() + 90
    while len(killed) < 4 or time.time() < began + 4:
        most = max(most, used(root))
        if most > 300_000 and began is None:
            began = time.time()
        if began and time.time() > began + 1 + 0.5 * len(killed) and len(killed) < 4:
            killed.append(workers[len(killed)])
            killed[-1].send_signal(signal.SIGKILL)
        assert time.time() < give_up
        time.sleep(0.003)
    stop.touch()
    results = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert 300_000 < most <= 400_000
    assert [worker.returncode for worker in killed] == [-signal.SIGKILL] * 4
    finished = [list(map(int, result)) for result in results[4:]]
    assert not any(wrong for wrong, _, _ in finished)
    assert sum(reads for _, reads, _ in finished) > 100 < sum(writes for _, _, writes in finished)

    limit = Limit(stores.open(root), max_size=400_000)
    for n in range(8):
        stores.put(limit, f"after-{n}", bytes(50_000))
    assert names(limit) == [f"after-{n}" for n in range(8)], "nothing is lost of the room"
    assert not list(root.rglob(f"*{PARTIAL}"))
    assert used(root) == 400_000


def test_a_process_killed_in_the_middle_of_a_write_leaves_no_object(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from daskcache import stores
from daskcache.stores import Limit, local
def die(descriptor, data):
    os.write(descriptor, bytes(data)[:10])
    os.kill(os.getpid(), signal.SIGKILL)
local.write_all = die
stores.put(Limit(stores.open(sys.argv[1]), max_size=100), "a", bytes(80))
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert done.returncode == -signal.SIGKILL
    limit = Limit(stores.open(tmp_path), max_size=100)
    assert stores.get(limit, "a") is None
    assert names(limit) == []
    stores.put(limit, "b", bytes(80))
    assert sorted(os.listdir(tmp_path)) == [LEDGER, "b"]

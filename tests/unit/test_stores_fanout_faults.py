"""Fan-outs over real disks that fill up, take no writes or go; writers that are killed, and eight processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache import errors, stores
from daskcache.errors import DaskcacheWarning, StoreFullError
from daskcache.locations import to_root
from daskcache.stores import Fanout, shares
from daskcache.stores.local import PARTIAL
from daskcache.stores.opened import DiskStore


@pytest.fixture(autouse=True)
def warn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount file systems of 1 MiB, where this process may."""
    mounted: list[Path] = []

    def mount(name: str) -> Path:
        point = tmp_path / name
        point.mkdir()
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("may not mount a file system here")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", str(point)], check=False, capture_output=True)


def test_disks_fill_up_one_after_the_other(
    small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_REST_S", 0.0)
    disks = [small_disk(name) for name in "abc"]
    fanout = Fanout(*map(DiskStore, disks))
    written: list[str] = []

    def write_on() -> None:
        for number in range(100):
            stores.put(fanout, f"a{number}", os.urandom(50_000))
            written.append(f"a{number}")

    with (
        warnings.catch_warnings(record=True, action="always") as caught,
        pytest.raises(StoreFullError, match="is full"),
    ):
        write_on()
    assert 55 <= len(written) <= 63, "all three are full"
    assert len(caught) == 3, "one warning for each"
    assert all("No space left on device" in str(one.message) for one in caught)
    assert all(len(stores.get(fanout, key) or b"") == 50_000 for key in written)
    assert not [path for disk in disks for path in disk.rglob("*") if path.name.endswith(PARTIAL)]
    stores.delete(fanout, written[0])
    assert stores.create(fanout, "one-more", b"1" * 50_000)


@pytest.mark.parametrize("free", [0, 60_000])
def test_a_persist_goes_to_the_next_disk_when_the_first_is_full(
    small_disk: Callable[[str], Path], tmp_path: Path, free: int
) -> None:
    first = small_disk("a")
    (first / "others").write_bytes(bytes(2**20 - free))
    root = to_root({"fanout": [str(first), str(tmp_path / "b")]})
    data = xr.DataArray(da.random.default_rng(0).random((40, 1000), chunks=(4, 1000)), dims=("x", "y"))
    with warnings.catch_warnings(record=True, action="always") as caught:
        value = daskcache.persist(data, "a", store=root)
    assert np.array_equal(value.values, data.values)
    # With little room left it takes documents, and no blocks are offered.
    assert [("is full" in str(one.message)) for one in caught] == [True] * (not free)
    assert (first / "namespaces").exists() == bool(free)
    (first / "others").unlink()
    daskcache.persist(data + 1, "b", store=root)
    assert np.array_equal(daskcache.open("a", store=root).values, data.values)
    assert np.array_equal(daskcache.open("b", store=root).values, data.values + 1)


def test_a_disk_that_becomes_write_protected_is_still_read(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = small_disk("a")
    root = to_root({"fanout": [str(tmp_path / "b"), str(disk)]})
    data = xr.DataArray(da.arange(60, chunks=2), dims="x")
    daskcache.persist(data, "a", store=root)
    lie = [path for path in (disk / "chunks").rglob("*") if path.is_file()]
    assert lie
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    daskcache.persist(data, "again", store=root)
    assert daskcache.last_run().computed == 0
    with pytest.warns(DaskcacheWarning, match="takes no writes"):
        daskcache.persist(data + 1, "b", store=root)
    assert (daskcache.open("b", store=root).values == np.arange(1, 61)).all()
    assert [path for path in (disk / "chunks").rglob("*") if path.is_file()] == lie


def test_a_disk_that_is_unmounted_is_no_empty_one(small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    disk = small_disk("a")
    root = to_root({"fanout": [str(tmp_path / "b"), str(disk)]})
    data = xr.DataArray(da.arange(60, chunks=2), dims="x")
    daskcache.persist(data, "a", store=root)
    subprocess.run(["umount", str(disk)], check=True)
    with pytest.warns(DaskcacheWarning, match="is not the directory that it was"):
        daskcache.persist(data, "a", store=root)
    assert 0 < daskcache.last_run().computed < 30
    assert not list(disk.iterdir()), "nothing is written to the mount point"
    assert (daskcache.open("a", store=root).values == np.arange(60)).all()


WRITERS = """
import os, sys
from daskcache import stores
root, many, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start, go = os.pipe()
pids = []
for me in range(many):  # to import once for all
    pids.append(os.fork())
    if not pids[-1]:
        os.close(go)
        os.read(start, 1)  # ends when the parent closes it
        store, won = stores.open(root), 0
        for number in range(count):
            won += stores.create(store, f"chunks/00ff/{number:06x}", bytes([me + 1]) * 20_000)
            stores.put(store, f"runs/{me}.json", b"%d" % number)
        os.write(1, b"%d\\n" % won)  # in one piece
        os._exit(0)
print(*pids, flush=True)
os.close(go)
for pid in pids:
    os.waitpid(pid, 0)
"""


def start(root: str, many: int, count: int) -> tuple[subprocess.Popen[str], list[int]]:
    """Start writers that all put the same keys; give their parent, and the ids of their processes."""
    command = [sys.executable, "-W", "ignore", "-c", WRITERS, root, str(many), str(count)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, list(map(int, parent.stdout.readline().split()))


def objects(disks: list[Path]) -> list[Path]:
    return [path for disk in disks for path in (disk / "chunks" / "00ff").glob("*")]


@pytest.mark.slow
def test_eight_processes_leave_one_object_of_each_key(tmp_path: Path) -> None:
    disks = [tmp_path / name for name in "abc"]
    root = to_root({"fanout": [str(disk) for disk in disks]})
    parent, _ = start(root, 8, 60)
    with parent:
        won = list(map(int, parent.stdout.read().split()))  # type: ignore[union-attr]
    assert len(won) == 8
    assert sum(won) == 60
    found = objects(disks)
    assert sorted(path.name for path in found) == [f"{number:06x}" for number in range(60)]
    assert all(len(set(path.read_bytes())) == 1 and path.stat().st_size == 20_000 for path in found)
    assert [len(list((disk / "runs").glob("*"))) if (disk / "runs").exists() else 0 for disk in disks].count(
        8
    ) == 1
    store = stores.open(root)
    assert all(stores.get(store, f"runs/{number}.json") == b"59" for number in range(8))


@pytest.mark.slow
def test_killed_writers_leave_whole_objects(tmp_path: Path) -> None:
    disks = [tmp_path / name for name in "ab"]
    root = to_root({"fanout": [str(disk) for disk in disks]})
    parent, writers = start(root, 3, 100_000)
    give_up = time.monotonic() + 60
    while len(objects(disks)) < 220 and time.monotonic() < give_up:
        time.sleep(0.01)
    for pid in writers:
        os.kill(pid, signal.SIGKILL)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == ""
    store = stores.open(root)
    names = stores.list_sizes(store, "chunks/00ff")
    assert len(names) >= 200
    assert set(names.values()) == {20_000}
    assert all(len(set(stores.get(store, f"chunks/00ff/{name}") or b"")) == 1 for name in names)
    stores.put(store, "runs/0.json", b"after")
    assert stores.get(store, "runs/0.json") == b"after"
    assert stores.create(store, "chunks/00ff/ffffff", b"after")


def test_arrays_of_zarr_over_disks(tmp_path: Path) -> None:
    fanout = Fanout(*(DiskStore(tmp_path / name) for name in "abcd"), fixed="(^|/)c/")
    group = zarr.open_group(fanout, mode="w")
    array = group.create_array("x", shape=(100, 100), chunks=(10, 10), dtype="i4")
    array[:] = np.arange(10_000).reshape(100, 100)
    array.resize((110, 100))
    array[100:] = 1
    again = zarr.open_array(fanout, path="x", mode="r")
    assert np.array_equal(again[:100], np.arange(10_000).reshape(100, 100))
    assert (again[100:] == 1).all()
    counts = [len([path for path in (tmp_path / name).rglob("*") if path.is_file()]) for name in "abcd"]
    assert min(counts) > 3
    homes = [name for name in "abcd" if (tmp_path / name / "x" / "zarr.json").exists()]
    assert len(homes) == 1

"""The home of a fan-out, which holds what may change; and what passes, runs and sweeps do while a store is gone."""

from __future__ import annotations

import contextlib
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import daskcache
from daskcache import errors, stores
from daskcache.errors import DaskcacheWarning, StoreError, StoreFullError
from daskcache.locations import to_root
from daskcache.stores import Fanout, drive, homes, shares, urls
from daskcache.stores.homes import MARK
from daskcache.stores.opened import DiskStore
from daskcache.stores.urls import _BLOCK_KEYS
from tests.flaky import Flaky, cut, fill, protect, repair

BLOCK = "chunks/00ff/0a1b"
DATA = xr.DataArray(da.arange(60, chunks=1), dims="x") * 2


@pytest.fixture(autouse=True)
def warn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())


@pytest.fixture
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DaskcacheWarning)
        yield


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_REST_S", 0.0)


def spread(*parts: Any) -> Fanout:
    """Make a fan-out as the configuration does, as another process would each time."""
    return Fanout(*parts, fixed=_BLOCK_KEYS)


def having(fanout: Fanout, key: str) -> list[int]:
    return [number for number, part in enumerate(fanout.parts) if drive.exists(part, key)]


def test_what_may_change_lies_in_one_store_and_blocks_in_all() -> None:
    fanout = spread(*(MemoryStore() for _ in range(3)))
    for number in range(30):
        stores.put(fanout, f"runs/{number}.json", b"{}")
        assert stores.create(fanout, f"chunks/00ff/{number:04x}", b"1")
    assert {tuple(having(fanout, f"runs/{number}.json")) for number in range(30)} == {(0,)}
    assert {tuple(having(fanout, f"chunks/00ff/{number:04x}")) for number in range(30)} == {(0,), (1,), (2,)}
    states = [json.loads(drive.get(part, MARK) or b"{}")["state"] for part in fanout.parts]
    assert states == ["home", "part", "part"]
    assert stores.list_sizes(fanout, "runs").keys() == {f"{number}.json" for number in range(30)}
    assert MARK not in [*drive.walk(fanout, "")]
    assert stores.get(fanout, MARK) is None


def test_the_home_stays_whatever_the_order_and_whoever_joins() -> None:
    first, second, third = (MemoryStore() for _ in range(3))
    stores.put(spread(first, second), "latest", b"1")
    again = spread(third, second, first)
    assert stores.get(again, "latest") == b"1"
    stores.put(again, "latest", b"2")
    assert having(again, "latest") == [2]
    assert not stores.create(again, "latest", b"3")
    stores.delete(again, "latest")
    assert stores.get(spread(first, second), "latest") is None


@pytest.mark.parametrize("trouble", [fill, protect])
@pytest.mark.usefixtures("quietly")
def test_the_first_store_that_takes_it_becomes_the_home(trouble: Any) -> None:
    bad = Flaky()
    fanout = spread(bad, MemoryStore())
    trouble(bad)
    stores.put(fanout, "latest", b"1")
    repair(bad)
    stores.put(spread(*fanout.parts), "latest", b"2")
    assert having(fanout, "latest") == [1]
    assert stores.get(spread(*fanout.parts), "latest") == b"2"


@pytest.mark.usefixtures("quietly", "at_once")
def test_no_older_document_is_read_or_written_past_a_home_that_is_gone() -> None:
    bad = Flaky()
    parts = bad, MemoryStore()
    stores.put(spread(*parts), "latest", b"1")
    for number in range(30):
        stores.create(spread(*parts), f"chunks/00ff/{number:04x}", b"1")
    assert having(spread(*parts), MARK) == [0, 1]
    cut(bad)
    for fanout in (spread(*parts), spread(*reversed(parts))):
        for call in (
            lambda fanout=fanout: stores.put(fanout, "latest", b"2"),
            lambda fanout=fanout: stores.create(fanout, "new", b"2"),
            lambda fanout=fanout: stores.get(fanout, "latest"),
            lambda fanout=fanout: stores.exists(fanout, "new"),
            lambda fanout=fanout: stores.delete(fanout, "latest"),
            lambda fanout=fanout: stores.list_dirs(fanout, "namespaces"),
        ):
            with pytest.raises(StoreError, match="no route to host"):
                call()
        assert not stores.create(fanout, BLOCK, b"1") or fanout.parts[0] is bad, "blocks go to the others"
    repair(bad)
    assert stores.get(spread(*parts), "latest") == b"1"


@pytest.mark.usefixtures("quietly")
def test_one_that_may_be_the_home_is_waited_for() -> None:
    bad = Flaky()
    cut(bad)
    with pytest.raises(StoreError, match="no route to host"):
        stores.put(spread(bad, MemoryStore()), "latest", b"1")


@pytest.mark.usefixtures("quietly")
def test_other_stores_are_not_needed_for_documents() -> None:
    bad = Flaky()
    parts = MemoryStore(), bad
    stores.put(spread(*parts), "namespaces/default/a/@/latest", b"1")
    cut(bad)
    fanout = spread(*parts)
    assert stores.get(fanout, "namespaces/default/a/@/latest") == b"1"
    assert stores.get(fanout, "gc/lease.json") is None
    assert stores.create(fanout, "gc/lease.json", b"{}")
    assert stores.list_dirs(fanout, "namespaces") == ["default"]
    assert stores.list_sizes(fanout, "gc") == {"lease.json": 2}
    stores.delete(fanout, "gc/lease.json")


def test_an_unmounted_home_is_missed_and_not_replaced(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    fanout = spread(*map(DiskStore, paths))
    stores.put(fanout, "latest", b"1")
    for number in range(20):
        stores.create(fanout, f"chunks/00ff/{number:04x}", b"1")
    paths[0].rename(tmp_path / "elsewhere")
    paths[0].mkdir()  # as an empty mount point
    with pytest.raises(StoreError, match="is not the directory that it was"):
        stores.get(fanout, "latest")
    for call in (stores.get, lambda *args: stores.put(*args, b"2")):
        with pytest.raises(StoreError, match=r"not among them: is its disk mounted\?"):
            call(spread(*map(DiskStore, paths)), "latest")
    paths[0].rmdir()
    (tmp_path / "elsewhere").rename(paths[0])
    assert stores.get(fanout, "latest") == stores.get(spread(*map(DiskStore, paths)), "latest") == b"1"


def test_stores_of_two_fan_outs_are_refused() -> None:
    first, second = MemoryStore(), MemoryStore()
    for store in (first, second):
        stores.put(spread(store), "latest", b"1")
    with pytest.raises(StoreError, match="some of another"):
        stores.get(spread(first, second), "latest")


def test_a_mark_that_is_not_understood_is_told_of() -> None:
    store = MemoryStore()
    stores.put(store, MARK, b"{")
    with warnings.catch_warnings(action="ignore"), pytest.raises(StoreError, match="is not understood"):
        stores.get(spread(store), "latest")


def choose_at_once(content: list[dict[str, Any]]) -> set[int | None]:
    """Give what eight fan-outs over the same two stores take for their home, of which half see the first one full."""
    fans = []
    for number in range(8):
        first = Flaky(content[0])
        if number % 2:
            fill(first)
        fans.append(spread(first, MemoryStore(content[1])))
    barrier = threading.Barrier(8)

    def choose(fanout: Fanout) -> int | None:
        barrier.wait()
        with contextlib.suppress(StoreFullError):  # its home is the one that it sees full
            stores.put(fanout, "latest", b"1")
        return fanout._home.number

    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(choose, fans))


@pytest.mark.usefixtures("quietly")
def test_of_many_that_choose_at_once_all_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "_PAUSE_S", 0.02)
    for _ in range(10):
        content: list[dict[str, Any]] = [{}, {}]
        found = choose_at_once(content)
        assert len(found) == 1, found
        states = [json.loads(one[MARK].to_bytes())["state"] for one in content if MARK in one]
        assert states == ["home"]


class Overtaken(MemoryStore):
    """A store in which another process does something just after it was read, or written."""

    after_read: Callable[[], None] | None = None
    after_write: Callable[[], None] | None = None

    def get_sync(self, *args: Any, **kwargs: Any) -> Any:
        found = super().get_sync(*args, **kwargs)
        meanwhile, self.after_read = self.after_read, None
        if meanwhile is not None:
            meanwhile()
        return found

    def set_sync(self, *args: Any, **kwargs: Any) -> None:
        super().set_sync(*args, **kwargs)
        meanwhile, self.after_write = self.after_write, None
        if meanwhile is not None:
            meanwhile()


def mark(home: str, state: str) -> bytes:
    return json.dumps({"home": home, "state": state}).encode()


def test_a_home_that_is_chosen_while_one_looks_is_found() -> None:
    """The first store is read before the other process marks it, the second after it was signed."""
    first, second = Overtaken(), MemoryStore()

    def choose() -> None:
        drive.put(first, MARK, mark("x", "home"))
        drive.put(second, MARK, mark("x", "part"))

    first.after_read = choose
    assert spread(first, second)._home.number == 0
    assert first.after_read is None


@pytest.mark.usefixtures("quietly")
def test_a_process_that_was_given_up_takes_the_home_of_others() -> None:
    """It had marked the second store, as the first one is full for it, when others chose the first one."""
    content: dict[str, Any] = {}
    first, second = Flaky(content), Overtaken()
    fill(first)

    def adopt() -> None:
        drive.put(MemoryStore(content), MARK, mark("x", "home"))
        del second._store_dict[MARK]  # by a process of its own: the lock is held

    fanout = spread(first, second)
    assert fanout._home.number is None
    second.after_write = adopt
    fanout._home._choose()
    assert second.after_write is None
    assert fanout._home.number == 0
    assert not drive.exists(second, MARK)


def test_what_a_process_chose_that_died_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "_PAUSE_S", 0.001)
    first, second = MemoryStore(), MemoryStore()
    for store, name in ((second, "x"), (first, "y")):
        stores.put(store, MARK, json.dumps({"home": name, "state": "candidate"}).encode())
    stores.put(spread(first, second), "latest", b"1")
    assert having(spread(first, second), "latest") == [0]
    assert having(spread(first, second), MARK) == [0]


def test_of_several_processes_that_find_an_older_store_one_marks_it() -> None:
    parts = MemoryStore(), MemoryStore()
    stores.put(parts[1], "daskcache.json", b"{}")
    first, second = spread(*parts), spread(*parts)
    assert first._home.number == second._home.number == 1
    for fanout, name in ((first, "a"), (second, "b")):
        stores.put(fanout, "latest", b"1")
        for number in range(20):
            stores.create(fanout, f"chunks/00ff/{name}{number:04x}", b"1")
    marks = [json.loads(drive.get(part, MARK) or b"{}") for part in parts]
    assert marks[0]["home"] == marks[1]["home"]
    assert [mark["state"] for mark in marks] == ["part", "home"]
    stores.put(spread(*parts), "latest", b"2")


def test_an_older_store_becomes_the_home_and_a_disk_that_is_nearly_full_takes_only_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    data = xr.DataArray(da.arange(40, chunks=4), dims="x")
    daskcache.persist(data, "a", store=old)
    root = to_root({"fanout": [new, old]})
    assert (daskcache.open("a", store=root).values == np.arange(40)).all()
    monkeypatch.setattr("daskcache.stores.fanout.is_nearly_full", lambda store: str(store.root) == old)
    before = len(list((tmp_path / "old" / "chunks").rglob("*")))
    daskcache.persist(data + 1, "b", store=root)
    assert len(list((tmp_path / "old" / "chunks").rglob("*"))) == before
    assert (tmp_path / "old" / "namespaces" / "default" / "b").is_dir()
    assert not (tmp_path / "new" / "namespaces").exists()


# Passes, runs and sweeps


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("hdd1", "hdd2", "hdd3")]


def unmount(disk: Path) -> None:
    """Let a disk fail: what is there cannot be looked at."""
    disk.rename(disk.with_suffix(".gone"))
    disk.symlink_to(disk.name)  # a loop, which even the administrator cannot enter


def mount(disk: Path) -> None:
    disk.unlink()
    disk.with_suffix(".gone").rename(disk)


def persist(root: str) -> int:
    """Persist what the tests look for, as a process does that starts now, and tell how much was computed."""
    urls._opened.clear()
    value = daskcache.persist(DATA, "a", store=root)
    assert (value.values == DATA.values).all()
    return daskcache.last_run().computed


def compute(root: str) -> None:
    urls._opened.clear()
    daskcache.activate(root)
    try:
        value = DATA.cache.checkpoint("a").compute()
    finally:
        daskcache.deactivate()
    assert (value.values == DATA.values).all()


def sweep(root: str) -> int:
    urls._opened.clear()
    return daskcache.gc(store=root, grace=0, wait=0).chunks


def blocks(*disks: Path) -> int:
    return len([path for disk in disks for path in (disk / "chunks").rglob("*") if path.is_file()])


def test_with_a_disk_gone_what_lay_there_is_computed_again_and_stored_elsewhere(disks: list[Path]) -> None:
    root = to_root({"fanout": [str(disk) for disk in disks]})
    assert persist(root) == 60
    assert persist(root) == 0
    assert 0 < blocks(disks[2]) < 60
    lost = blocks(disks[2])
    unmount(disks[2])
    with pytest.warns(DaskcacheWarning, match="hdd3.*without it"):
        compute(root)
    with warnings.catch_warnings(action="ignore"):
        assert persist(root) == 0, "the pass has stored them elsewhere"
        assert blocks(*disks[:2]) == 60
    mount(disks[2])
    assert persist(root) == 0
    assert blocks(*disks) == 60 + lost


def test_a_persist_goes_on_with_a_disk_gone(disks: list[Path]) -> None:
    root = to_root({"fanout": [str(disk) for disk in disks]})
    persist(root)
    lost = blocks(disks[1])
    unmount(disks[1])
    with pytest.warns(DaskcacheWarning, match="hdd2.*without it"):
        assert persist(root) == lost
    with warnings.catch_warnings(action="ignore"):
        assert persist(root) == 0


def test_with_the_home_gone_results_are_right_and_a_persist_says_what_is_wrong(disks: list[Path]) -> None:
    root = to_root({"fanout": [str(disk) for disk in disks]})
    persist(root)
    unmount(disks[0])
    with pytest.warns(DaskcacheWarning, match="hdd1"):
        compute(root)
    with warnings.catch_warnings(action="ignore"), pytest.raises(StoreError, match="hdd1"):
        persist(root)
    mount(disks[0])
    assert persist(root) == 0


@pytest.mark.usefixtures("quietly")
def test_nothing_is_swept_that_is_needed_while_a_disk_is_gone(disks: list[Path]) -> None:
    root = to_root({"fanout": [str(disk) for disk in disks]})
    persist(root)
    daskcache.persist(DATA + 1, "b", store=root)
    assert blocks(*disks) == 120
    daskcache.clear("b", store=root)
    for disk in disks:
        unmount(disk)
        with pytest.raises(StoreError, match=disk.name):
            sweep(root)
        mount(disk)
    assert persist(root) == 0
    sweep(root)
    assert blocks(*disks) == 60

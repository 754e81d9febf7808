"""Fan-outs: where objects go, what is found, what takes no writes or cannot be reached, and how they travel."""

from __future__ import annotations

import os
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import LocalStore, MemoryStore

from daskcache import errors, stores
from daskcache.config import Settings
from daskcache.errors import (
    DaskcacheWarning,
    InvalidInputError,
    NotSureError,
    ReadOnlyError,
    StoreError,
    StoreFullError,
)
from daskcache.locations import to_root
from daskcache.stores import Fanout, Levels, Limit, Share, drive, shares
from daskcache.stores.opened import DiskStore
from tests.flaky import Flaky, cut, fill, protect, repair

TROUBLES: list[Callable[[Flaky], None]] = [cut, fill, protect]


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


def winner(fanout: Fanout, key: str) -> Any:
    return fanout.parts[fanout._shares.order(key)[0]]


def key_for(fanout: Fanout, store: Store, form: str = "key{}") -> str:
    """Find a key that goes to a store."""
    return next(key for key in map(form.format, range(1000)) if winner(fanout, key) is store)


def holders(fanout: Fanout, key: str) -> list[int]:
    # As they lie there, whatever is the matter with them.
    return [number for number, store in enumerate(fanout.parts) if key in store._store_dict]  # type: ignore[attr-defined]


# Where objects go

KEYS = [f"chunks/{number:04x}/{number * 7919:040x}" for number in range(4000)]


def placed(*paths: str, weights: tuple[float, ...] = ()) -> dict[str, str]:
    parts = [DiskStore(path) for path in paths]
    fanout = Fanout(*(map(Share, parts, weights) if weights else parts))
    return {key: str(winner(fanout, key).root) for key in KEYS}


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_one_more_store_takes_its_part_and_nothing_else_moves(count: int) -> None:
    paths = [f"/disk/{number}" for number in range(count)]
    before, after = placed(*paths), placed(*paths, "/disk/new")
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"/disk/new"}
    assert len(moved) / len(KEYS) == pytest.approx(1 / (count + 1), rel=0.15)


def test_places_in_the_sequence_do_not_count() -> None:
    assert placed("/disk/a", "/disk/b", "/disk/c") == placed("/disk/c", "/disk/a", "/disk/b")


def test_each_takes_its_part_by_weight() -> None:
    parts = Counter(placed("/disk/a", "/disk/b", "/disk/c", weights=(1, 2, 5)).values())
    assert [parts[f"/disk/{name}"] / len(KEYS) for name in "abc"] == pytest.approx(
        [1 / 8, 2 / 8, 5 / 8], abs=0.025
    )


def test_more_weight_only_draws_to_itself() -> None:
    before = placed("/disk/a", "/disk/b", "/disk/c", weights=(1, 1, 1))
    after = placed("/disk/a", "/disk/b", "/disk/c", weights=(1, 1, 2))
    assert {after[key] for key in KEYS if before[key] != after[key]} == {"/disk/c"}


@pytest.mark.parametrize("weights", [(1, None), (0, 1), (-1, 1), (float("inf"), 1)])
def test_weights_that_cannot_be(weights: Any) -> None:
    with pytest.raises(InvalidInputError, match="weight"):
        Fanout(*(Share(MemoryStore(), weight) for weight in weights))


# What is found


def test_each_object_lies_in_one_store_and_is_found_wherever_it_is() -> None:
    fanout = Fanout(*(MemoryStore() for _ in range(3)))
    for number in range(60):
        stores.put(fanout, f"x/{number}", str(number).encode())
    assert all(len(holders(fanout, f"x/{number}")) == 1 for number in range(60))
    assert all(len(store._store_dict) > 5 for store in fanout.parts)  # type: ignore[attr-defined]
    wider = Fanout(*fanout.parts, MemoryStore())
    for number in range(60):
        assert stores.get(wider, f"x/{number}") == str(number).encode()
        assert stores.size(wider, f"x/{number}") == len(str(number))
        assert not stores.create(wider, f"x/{number}", b"other")
    assert stores.get(wider, "x/10", RangeByteRequest(1, 2)) == b"0"
    assert len(stores.list_sizes(wider, "x")) == len([*drive.walk(wider, "")]) == 60


def test_of_two_objects_of_one_key_one_is_listed_and_both_are_deleted() -> None:
    fanout = Fanout(MemoryStore(), MemoryStore())
    for store in fanout.parts:
        stores.put(store, "x/a", b"1")
    assert stores.list_sizes(fanout, "x") == {"a": 1}
    assert [*drive.walk(fanout, "")] == ["x/a"]
    stores.delete(fanout, "x/a")
    assert holders(fanout, "x/a") == []
    assert not stores.exists(fanout, "x/a")


def test_of_two_objects_of_one_key_the_time_of_the_younger_one_is_told(tmp_path: Path) -> None:

    fanout = Fanout(DiskStore(tmp_path / "a"), DiskStore(tmp_path / "b"))
    for store, stamp in zip(fanout.parts, (1000, 2000), strict=True):
        stores.put(store, "x/a", b"1")
        os.utime(store.root / "x" / "a", (stamp, stamp))  # type: ignore[attr-defined]
    assert stores.list_objects(fanout, "x") == {"a": (1, 2000.0)}


def test_a_damaged_object_of_two_is_dropped_and_one_alone_is_moved_aside() -> None:
    fanout = Fanout(MemoryStore(), MemoryStore())
    for store in fanout.parts:
        stores.put(store, "x/a", b"1")
    assert stores.rename_aside(fanout, "x/a") is None
    assert len(holders(fanout, "x/a")) == 1
    assert stores.rename_aside(fanout, "x/a") == "quarantine/x/a.0"
    assert stores.get(fanout, "x/a") is None
    assert stores.get(fanout, "quarantine/x/a.0") == b"1"


# What takes no writes, or cannot be reached


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("write", [stores.put, stores.create])
def test_a_store_in_trouble_is_passed_over_with_one_warning_and_used_again(
    trouble: Callable[[Flaky], None], write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Flaky()
    fanout = Fanout(bad, MemoryStore(), MemoryStore())
    keys = [key for key in (f"key{number}" for number in range(300)) if winner(fanout, key) is bad]
    trouble(bad)
    with warnings.catch_warnings(record=True, action="always") as caught:
        for key in keys[:-1]:
            write(fanout, key, b"1")
    reasons = {str(one.message).partition(" The other stores")[0] for one in caught}
    assert 1 <= len(caught) <= 2, [str(one.message) for one in caught]  # that it is not read, or not written
    assert all(str(bad.trouble.args[-1]) in reason for reason in reasons)  # type: ignore[union-attr]
    assert {tuple(holders(fanout, key)) for key in keys[:-1]} == {(1,), (2,)}
    repair(bad)
    write(fanout, keys[-1], b"1")
    assert holders(fanout, keys[-1]) in ([1], [2]), "left alone for a while"
    now = shares.time.monotonic()
    monkeypatch.setattr(shares.time, "monotonic", lambda: now + 60)
    write(fanout, "again", b"1")
    fresh = next(key for key in (f"new{number}" for number in range(99)) if winner(fanout, key) is bad)
    write(fanout, fresh, b"1")
    assert holders(fanout, fresh) == [0]
    assert all(stores.get(fanout, key) == b"1" for key in [*keys, fresh])


@pytest.mark.usefixtures("quietly", "at_once")
def test_where_none_takes_it_the_error_says_what_can_be_done() -> None:
    first, second = Flaky(), Flaky()
    fanout = Fanout(first, second)
    cut(first)
    fill(second)
    for write in (stores.put, stores.create):
        with pytest.raises(StoreFullError, match="No space left"):
            write(fanout, "a", b"1")
    protect(second)
    with pytest.raises(ReadOnlyError, match="takes no writes"):
        stores.put(fanout, "a", b"1")
    cut(second)
    with pytest.raises(StoreError, match="no route"):
        stores.put(fanout, "a", b"1")
    repair(second)
    stores.put(fanout, "a", b"1")
    assert holders(fanout, "a") == [1]


@pytest.mark.usefixtures("quietly")
def test_all_are_tried_before_nothing_is_stored() -> None:
    only = Flaky()
    fanout = Fanout(only)
    fill(only)
    with pytest.raises(StoreFullError):
        stores.put(fanout, "a", b"1")
    repair(only)
    stores.put(fanout, "a", b"1")


def test_objects_that_are_too_large_for_one_go_to_the_next_without_a_warning() -> None:
    small, large = Limit(MemoryStore(), max_object=10), MemoryStore()
    fanout = Fanout(small, large)
    for number in range(20):
        stores.put(fanout, f"a{number}", bytes(11))
    assert len(large._store_dict) == 20
    assert fanout.takes(11)
    assert not Fanout(small).takes(11)
    with pytest.raises(StoreFullError, match="raise a limit"):
        stores.put(Fanout(small), "a", bytes(11))


@pytest.mark.usefixtures("quietly")
def test_what_is_missing_is_not_known_to_be_while_one_store_cannot_be_asked() -> None:
    bad, good = Flaky(), MemoryStore()
    fanout = Fanout(bad, good)
    stores.put(good, "x/there", b"1")
    cut(bad)
    assert stores.get(fanout, "x/there") == b"1"
    assert stores.exists(fanout, "x/there")
    for call in (stores.get, stores.exists, stores.size):
        with pytest.raises(NotSureError, match="no route to host"):
            call(fanout, "x/missing")
    with pytest.raises(StoreError, match="no route to host"):
        stores.list_sizes(fanout, "x")
    with pytest.raises(StoreError, match="no route to host"):
        stores.delete(fanout, "x/there")
    array = zarr.create_array(MemoryStore(), shape=(2,), dtype="i4")
    stores.put(good, "zarr.json", drive.get(array.store, "zarr.json") or b"")
    with pytest.raises(StoreError):  # Zarr takes a missing chunk for one of fill values
        zarr.open_array(fanout, mode="r", zarr_format=3)[:]


@pytest.mark.usefixtures("quietly")
def test_a_level_of_which_a_part_is_gone_is_still_a_level() -> None:
    bad, good, home = Flaky(), MemoryStore(), MemoryStore()
    stores.put(good, "copied", b"1")
    stores.put(home, "a", b"2")
    levels = Levels(Fanout(bad, good), home)
    cut(bad)
    assert stores.get(levels, "a") == b"2"
    assert stores.get(levels, "copied") == b"1", "from the part that is there"
    assert stores.get(good, "a") == b"2", "copied to it"


# Objects that are overwritten


@pytest.mark.parametrize("trouble", [fill, protect])
@pytest.mark.usefixtures("quietly")
def test_no_older_object_is_left_where_the_newer_one_found_no_room(trouble: Callable[[Flaky], None]) -> None:
    bad = Flaky()
    fanout = Fanout(bad, MemoryStore())
    key = key_for(fanout, bad)
    stores.put(fanout, key, b"old")
    trouble(bad)
    stores.put(fanout, key, b"new")
    assert stores.get(fanout, key) == b"new"
    repair(bad)
    assert stores.get(fanout, key) == b"new"
    assert holders(fanout, key) == [1]


@pytest.mark.usefixtures("quietly", "at_once")
def test_an_older_object_does_not_come_back_with_its_store() -> None:
    bad = Flaky()
    fanout = Fanout(bad, MemoryStore())
    key = key_for(fanout, bad)
    stores.put(fanout, key, b"old")
    cut(bad)
    stores.put(fanout, key, b"new")
    assert stores.get(fanout, key) == b"new"
    repair(bad)
    assert stores.get(fanout, key) == b"new"
    assert holders(fanout, key) == [1]
    stores.put(fanout, key, b"newer")
    assert stores.get(fanout, key) == b"newer"


def test_an_object_that_lies_where_it_went_first_is_overwritten_there_too() -> None:
    fanout = Fanout(MemoryStore(), MemoryStore())
    key = key_for(fanout, fanout.parts[0])
    stores.put(fanout.parts[1], key, b"old")
    stores.put(fanout, key, b"new")
    assert [stores.get(store, key) for store in fanout.parts] == [b"new", b"new"]


# Two writers


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.usefixtures("quietly")
def test_two_writers_that_see_different_stores_full_leave_one_object(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Flaky(), MemoryStore()
    ours, theirs = Fanout(first, second), Fanout(first, second)
    key = key_for(ours, first)
    create, won = drive.create, []

    def meet(store: Any, at: str, data: bytes) -> bool:
        """Let the other write just before or after this puts its object."""
        monkeypatch.setattr(drive, "create", create)
        made = create(store, at, data) if point == "after" else None
        repair(first)
        won.append(theirs.create_object(at, b"theirs"))
        return create(store, at, data) if made is None else made

    fill(first)
    monkeypatch.setattr(
        drive, "create", lambda store, *args: (meet if store is second else create)(store, *args)
    )
    won.append(ours.create_object(key, b"ours"))
    assert won.count(True) <= 1
    assert len(holders(ours, key)) <= 1
    if True in won:
        assert stores.get(ours, key) == (b"theirs" if won[0] else b"ours")
    assert stores.create(ours, key, b"again") != bool(holders(theirs, key) and True in won)


@pytest.mark.parametrize("kind", ["mirrored", "linked"])
def test_one_place_that_is_in_two_parts_is_no_other_writer(tmp_path: Path, kind: str) -> None:
    disk = DiskStore(tmp_path / "hdd")
    (tmp_path / "hdd").mkdir()
    (tmp_path / "link").symlink_to("hdd")
    other = Levels(disk, DiskStore(tmp_path / "old")) if kind == "mirrored" else DiskStore(tmp_path / "link")
    fanout = Fanout(disk, other)
    for number in range(20):
        assert stores.create(fanout, f"a{number}", b"1")
        stores.put(fanout, f"a{number}", b"22")
        assert stores.get(fanout, f"a{number}") == b"22"
    assert sorted(drive.walk(fanout, "")) == sorted(f"a{number}" for number in range(20))


def test_buckets_of_one_name_on_two_servers_are_two_places() -> None:
    parts = [
        stores.open("s3://bucket", endpoint_url=f"http://host{number}", anon=True) for number in range(2)
    ]
    fanout = Fanout(*parts)
    assert not fanout._shares.is_same(0, 1)
    drawn = Counter(fanout._shares.order(key)[0] for key in KEYS)
    assert drawn[0] / len(KEYS) == pytest.approx(0.5, abs=0.05)
    again = Fanout(*reversed(parts))
    assert Counter(again._shares.order(key)[0] for key in KEYS) == {0: drawn[1], 1: drawn[0]}


def test_what_another_store_has_is_not_put_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fanout = Fanout(MemoryStore(), MemoryStore())
    key = key_for(fanout, fanout.parts[0])
    stores.put(fanout.parts[1], key, b"theirs")
    monkeypatch.setattr(fanout.parts[0], "set_sync", pytest.fail)
    assert not stores.create(fanout, key, b"ours")
    assert stores.get(fanout, key) == b"theirs"


# Parts of each other, and how they travel


def test_fan_outs_levels_and_limits_are_parts_of_each_other(tmp_path: Path) -> None:
    root = to_root(
        {
            "levels": [
                {"url": str(tmp_path / "memory"), "max-size": "1 MiB", "write": False},
                {
                    "fanout": [
                        {"url": str(tmp_path / "hdd1"), "weight": "4 TB"},
                        {"levels": [str(tmp_path / "hdd2"), str(tmp_path / "old")], "weight": "2 TB"},
                        {"fanout": [str(tmp_path / "hdd3"), str(tmp_path / "hdd4")], "weight": "2 TB"},
                    ],
                    "max-object": "1 GB",
                    "write": True,
                },
                str(tmp_path / "nfs"),
            ]
        }
    )
    store = stores.open(root)
    assert isinstance(store, Levels)
    _, limited, _ = store.parts
    assert isinstance(limited, Limit)
    assert isinstance(limited.store, Fanout)
    assert [share.weight for share in limited.store.shares] == [4e12, 2e12, 2e12]
    assert store.daskcache_root == root == to_root(store) == to_root(root)
    assert stores.open(root) is store
    assert pickle.loads(pickle.dumps(store)) == store
    settings = Settings.from_config(store=store)
    assert settings == pickle.loads(pickle.dumps(settings))
    assert stores.describe(root) == stores.describe(store) == str(tmp_path / "nfs")
    for number in range(200):
        stores.put(store, f"chunks/00ff/{number:04x}", bytes(100))
    used = {
        path.relative_to(tmp_path).parts[0]
        for path in tmp_path.rglob("*")
        if len(path.name) == 4 and path.is_file()
    }
    assert used == {"hdd1", "hdd2", "old", "hdd3", "hdd4", "nfs"}


def test_a_fan_out_made_in_code_is_one_for_settings(tmp_path: Path) -> None:
    made = Fanout(Share(stores.open(tmp_path / "a"), 2.0), Share(stores.open("memory://fanout-in-code"), 1.0))
    opened = stores.open(Settings.from_config(store=made).store)
    assert isinstance(opened, Fanout)
    assert opened.shares == made.shares
    assert repr(made) == f"<Fanout {tmp_path / 'a'}, memory://fanout-in-code>"
    with pytest.raises(InvalidInputError, match="no URL stands for"):
        Settings.from_config(store=Fanout(MemoryStore()))


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"fanout": []}, "empty"),
        ({"fanout": "/a"}, "expected stores"),
        ({"fanout": ["/a"], "weight": 1}, "beside fanout"),
        ({"fanout": ["/a"], "below": "x"}, "beside fanout"),
        ({"fanout": [{"url": "/a", "weight": 0}]}, "positive number"),
        ({"fanout": [{"url": "/a", "weight": "much"}]}, "weight"),
        ({"fanout": [{"levels": ["/a"], "max-size": "1 GB"}]}, "beside levels"),
    ],
)
def test_fan_outs_that_the_configuration_cannot_name(store: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Settings.from_config(store=store)


def test_fan_outs_that_cannot_be() -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        Fanout()
    only_read = Fanout(MemoryStore(read_only=True))
    assert only_read.read_only
    with pytest.raises(ReadOnlyError):
        stores.put(only_read, "a", b"")


def test_what_is_only_read_is_found_and_stays(tmp_path: Path) -> None:
    old, new = LocalStore(tmp_path / "old"), DiskStore(tmp_path / "new")
    stores.put(old, "a", b"1")
    fanout = Fanout(old.with_read_only(read_only=True), new)
    assert stores.get(fanout, "a") == b"1"
    assert not stores.create(fanout, "a", b"2")
    with pytest.raises(ReadOnlyError, match="only read"):
        stores.delete(fanout, "a")
    stores.put(fanout, "a", b"2")
    assert stores.get(fanout, "a") == b"2"
    assert stores.get(old, "a") == b"1"


def test_a_directory_that_another_thread_makes_during_a_look_is_the_one_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look finds none, and by its end the other has noted which there is."""
    store = Fanout(stores.open(tmp_path / "a"), stores.open(tmp_path / "b"))
    look, missing = os.stat, {str(tmp_path / "a"): 0, str(tmp_path / "b"): 1}

    def look_slowly(path: Any, *args: Any, **kwargs: Any) -> Any:
        number = missing.pop(str(path), None)
        if number is None:
            return look(path, *args, **kwargs)
        os.mkdir(path)
        store._shares._check_there(number)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_slowly)
        for number in range(8):
            stores.put(store, f"{number}", b"1")
    assert not missing

"""Levels: reading through, copies, mirrors that fail, what writes do, and how they travel."""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import LocalStore, MemoryStore

import daskcache
from daskcache import errors, stores
from daskcache.config import Settings
from daskcache.errors import DaskcacheWarning, InvalidInputError, ReadOnlyError, StoreError
from daskcache.stores import Level, Levels, Limit, drive
from daskcache.stores.opened import DiskStore


class Unreachable(MemoryStore):
    """A store whose server is down."""

    calls = 0

    def fail(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        raise ConnectionError("no route to host")

    get_sync = set_sync = delete_sync = fail

    async def _fail(self, *args: Any, **kwargs: Any) -> Any:
        self.fail()

    get = exists = set = delete = getsize = _fail  # type: ignore[assignment]

    async def list_dir(self, prefix: str) -> Any:
        self.fail()
        yield prefix

    async def list_prefix(self, prefix: str) -> Any:
        self.fail()
        yield prefix


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> type[Unreachable]:
    monkeypatch.setattr(Unreachable, "calls", 0)
    monkeypatch.setattr(errors, "_warned", set())
    return Unreachable


def test_what_is_read_is_copied_into_the_faster_levels() -> None:
    first, second, home = MemoryStore(), MemoryStore(), MemoryStore()
    stores.put(home, "a/b", b"value")
    levels = Levels(first, Level(second, copy=False), home)
    assert stores.get(levels, "a/b") == b"value"
    assert stores.get(first, "a/b") == b"value"
    assert stores.get(second, "a/b") is None
    stores.delete(home, "a/b")
    assert stores.get(levels, "a/b") == b"value"
    assert not stores.exists(levels, "a/b"), "the home's word counts"


def test_parts_are_read_where_the_object_is_and_not_copied() -> None:
    fast, home = MemoryStore(), MemoryStore()
    stores.put(home, "a", b"0123456789")
    levels = Levels(fast, home)
    assert stores.get(levels, "a", RangeByteRequest(2, 4)) == b"23"
    assert not stores.exists(fast, "a")
    stores.get(levels, "a")
    stores.put(home, "a", b"----------")
    assert stores.get(levels, "a", RangeByteRequest(2, 4)) == b"23"


def test_writes_go_where_the_levels_are_marked() -> None:
    first, second, home, mirror = (MemoryStore() for _ in range(4))
    levels = Levels(Level(first, write=False), second, home, Level(mirror, write=False, copy=False))
    stores.put(levels, "a", b"1")
    assert stores.create(levels, "b", b"2")
    assert not stores.create(levels, "b", b"3")
    for key, value in (("a", b"1"), ("b", b"2")):
        assert [stores.get(store, key) for store in (first, second, home, mirror)] == [
            None,
            value,
            value,
            None,
        ]


def test_the_home_decides_who_is_first() -> None:
    fast, home = MemoryStore(), MemoryStore()
    stores.put(home, "a", b"theirs")
    assert not stores.create(Levels(fast, home), "a", b"ours")
    assert stores.get(fast, "a") is None
    assert stores.get(Levels(fast, home), "a") == b"theirs"


def test_an_overwritten_object_is_not_left_in_a_level_that_only_takes_copies() -> None:
    fast, home = MemoryStore(), MemoryStore()
    levels = Levels(Level(fast, write=False), home)
    stores.put(levels, "a", b"old")
    assert stores.get(levels, "a") == b"old"
    assert stores.get(fast, "a") == b"old"
    stores.put(levels, "a", b"new")
    assert stores.get(levels, "a") == b"new"
    stores.delete(levels, "a")
    assert stores.get(levels, "a") is None


def test_objects_that_may_change_are_kept_in_the_home_alone() -> None:
    fast, home = MemoryStore(), MemoryStore()
    levels = Levels(fast, home, fixed="^chunks/")
    for key in ("latest", "chunks/a"):
        stores.put(levels, key, b"1")
        stores.get(levels, key)
        stores.put(home, key, b"2")  # by another machine
    assert stores.get(levels, "latest") == b"2"
    assert stores.get(levels, "chunks/a") == b"1"
    assert not stores.exists(fast, "latest")


def test_listings_are_the_homes_and_its_mirrors() -> None:
    cache, home, mirror = MemoryStore(), MemoryStore(), MemoryStore()
    stores.put(cache, "x/only-cached", b"1")
    stores.put(home, "x/a", b"1")
    stores.put(mirror, "x/b", b"22")
    stores.put(mirror, "y/z", b"")
    levels = Levels(cache, home, Level(mirror, write=False, copy=False))
    assert stores.list_sizes(levels, "x") == {"a": 1, "b": 2}
    assert stores.exists(levels, "x/b")
    assert stores.size(levels, "x/b") == 2
    root = zarr.open_group(levels, mode="a")
    assert sorted(drive.walk(levels, "")) == ["x/a", "x/b", "y/z", "zarr.json"]
    assert root.store is levels


def test_mirrors_are_tried_in_order_and_fail_softly_with_one_warning(unreachable: type[Unreachable]) -> None:
    good = MemoryStore()
    stores.put(good, "a", b"1")
    stores.put(good, "b", b"2")
    home = MemoryStore()
    levels = Levels(home, unreachable(read_only=True), good.with_read_only(read_only=True))
    with warnings.catch_warnings(record=True, action="always") as caught:
        assert stores.get(levels, "a") == b"1"
        assert stores.get(levels, "b") == b"2"
        assert stores.list_sizes(levels, "x") == {}
    assert len(caught) == 1
    assert re.search("no route to host.*without it", str(caught[0].message))
    assert unreachable.calls == 1, "it is left alone for a while"
    assert stores.get(home, "a") == b"1"


def test_a_level_that_failed_is_asked_again_after_a_while(
    unreachable: type[Unreachable], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = MemoryStore()
    levels = Levels(home, unreachable(read_only=True))
    monkeypatch.setattr("daskcache.stores.levels._REST_S", 0.0)
    for _ in range(3):
        with warnings.catch_warnings(action="ignore"), pytest.raises(StoreError, match="no route"):
            stores.get(levels, "a")
    assert unreachable.calls == 3


def test_unknown_is_not_missing(unreachable: type[Unreachable]) -> None:
    # Zarr takes a missing chunk for one of fill values.
    home = MemoryStore()
    array = zarr.create_array(home, shape=(2,), dtype="i4", fill_value=7)
    levels = Levels(home, unreachable(read_only=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DaskcacheWarning)
        opened = zarr.open_array(levels, mode="r", zarr_format=3)
        with pytest.raises(StoreError):
            opened[:]
    assert array[:].tolist() == [7, 7]


def test_a_fast_level_that_fails_is_done_without(unreachable: type[Unreachable]) -> None:
    home = MemoryStore()
    levels = Levels(unreachable(), home, fixed=".")
    with pytest.warns(DaskcacheWarning, match="without it"):
        stores.put(levels, "a", b"1")
    with warnings.catch_warnings(action="ignore"):
        assert stores.create(levels, "b", b"2")
        assert stores.get(levels, "a") == b"1"
    assert stores.get(home, "b") == b"2"


def test_a_home_that_fails_is_an_error_for_writers_and_no_hindrance_for_copies(
    unreachable: type[Unreachable],
) -> None:
    fast = MemoryStore()
    stores.put(fast, "a", b"1")
    levels = Levels(fast, unreachable())
    assert stores.get(levels, "a") == b"1"
    for call in (
        lambda: stores.put(levels, "b", b"1"),
        lambda: stores.create(levels, "b", b"1"),
        lambda: stores.get(levels, "b"),
        lambda: stores.list_sizes(levels, "x"),
        lambda: stores.exists(levels, "b"),
    ):
        with pytest.raises(StoreError, match="no route to host"):
            call()
    assert not stores.exists(fast, "b")


def test_a_full_tier_takes_no_copies_and_does_not_harm(tmp_path: Path) -> None:
    tier = Limit(DiskStore(tmp_path / "tier"), max_size=100, max_object=60)
    home = MemoryStore()
    levels = Levels(Level(tier, write=False), home)
    stores.put(levels, "large", bytes(61))
    stores.put(levels, "small", bytes(60))
    for key in ("large", "small"):
        assert stores.get(levels, key) == stores.get(home, key)
    assert [stores.exists(tier, key) for key in ("large", "small")] == [False, True]


def test_a_damaged_copy_is_dropped_and_the_good_object_behind_it_is_read(tmp_path: Path) -> None:
    root = [{"url": str(tmp_path / "fast"), "write": False}, str(tmp_path / "home")]
    data = xr.DataArray(da.arange(12, chunks=4), dims="x")
    daskcache.persist(data, "a", store=root)
    expected = np.arange(12)
    assert (daskcache.open("a", store=root).values == expected).all()
    copies = [path for path in (tmp_path / "fast").rglob("*") if path.is_file() and "chunks" in path.parts]
    assert len(copies) == 3
    copies[0].write_bytes(b"rotten" * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DaskcacheWarning)
        with contextlib.suppress(StoreError):  # which drops the copy; the next read finds what lies behind it
            daskcache.open("a", store=root).load()
    assert (daskcache.open("a", store=root).values == expected).all()
    assert (
        len([path for path in (tmp_path / "home").rglob("*") if "chunks" in path.parts and path.is_file()])
        == 3
    )


@pytest.mark.parametrize("wrong", [(), (Level(MemoryStore(read_only=True), write=True),)])
def test_levels_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        Levels(*wrong)


def test_levels_without_one_to_write_are_read_only() -> None:
    levels = Levels(Level(MemoryStore(), write=False), MemoryStore(read_only=True))
    assert levels.read_only
    with pytest.raises(ReadOnlyError):
        stores.put(levels, "a", b"")


def test_keys_that_lead_out_are_refused(tmp_path: Path) -> None:
    value = zarr.buffer.default_buffer_prototype().buffer.from_bytes(b"evil")  # type: ignore[attr-defined]
    for store in (
        stores.open(tmp_path / "a"),
        Levels(stores.open(tmp_path / "a"), LocalStore(tmp_path / "b")),
    ):
        for key in ("../evil", "a/../../evil", "/etc/evil", "a\\b"):
            for call in (store.set_sync, store.get_sync, store.delete_sync):
                with pytest.raises(InvalidInputError, match="leads out"):
                    call(key, value) if call == store.set_sync else call(key)
    assert not list(tmp_path.rglob("*evil*"))


# From the configuration

ROOT = """
import sys, daskcache
print((daskcache.open("a", store=sys.argv[1]).values == range(12)).all())
"""


def test_levels_in_the_configuration(tmp_path: Path) -> None:
    levels = [
        {"url": str(tmp_path / "ssd"), "max-size": "1 GiB", "write": False},
        {"url": str(tmp_path / "home")},
        {"url": str(tmp_path / "mirror"), "read-only": True},
    ]
    with dask.config.set({"daskcache.store": levels}):
        settings = Settings.from_config()
        assert settings == Settings.from_config() == pickle.loads(pickle.dumps(settings))
        assert hash(settings) == hash(Settings.from_config())
        store = stores.open(settings.store)
        assert isinstance(store, Levels)
        assert [type(level.store) for level in store.levels] == [Limit, DiskStore, DiskStore]
        assert stores.describe(settings.store) == stores.describe(store) == str(tmp_path / "home")
        assert store.daskcache_root == settings.store
        daskcache.persist(xr.DataArray(da.arange(12, chunks=4), dims="x"), "a")
        assert (daskcache.open("a").values == np.arange(12)).all()
    done = subprocess.run(
        [sys.executable, "-c", ROOT, settings.store], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr
    copied = [path for path in (tmp_path / "ssd").rglob("*") if path.is_file()]
    assert any("chunks" in path.parts for path in copied)
    assert not any(path.name == "latest" for path in copied), "what changes is kept in the home alone"


def test_a_store_made_in_code_is_one_for_settings(tmp_path: Path) -> None:
    made = Levels(
        Limit(stores.open(tmp_path / "ssd"), max_size="1 GB"), stores.open("memory://levels-in-code")
    )
    settings = Settings.from_config(store=made)
    assert stores.open(settings.store).levels == made.levels


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"url": "s3://b", "storage_options": {"secret": "x"}}, "hold secrets"),
        (
            {"url": "s3://b", "storage_options": {"client_kwargs": {"aws_secret_access_key": "x"}}},
            "hold secrets",
        ),
        ("sftp://me:pass@host/a", "holds a secret"),
        ({"url": "/a", "speed": 1}, "unknown keys"),
        ({"levels": ["/a"], "write": True}, "beside levels"),
        ([], "empty"),
        ({"url": "/a", "max_size": "much"}, "max_size"),
        ({"url": "/a", "write": "yes"}, "write is 'yes'"),
        ({"url": "s3://b", "secret": "credentials"}, "module:name"),
        (3, "expected a path"),
    ],
)
def test_stores_that_the_configuration_cannot_name(store: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        Settings.from_config(store=store)
    assert "pass@" not in str(caught.value)


def test_storage_options_are_for_remote_stores_without_their_own() -> None:
    with dask.config.set({"daskcache.storage-options": {"endpoint_url": "http://host"}}):
        assert "http://host" in Settings.from_config(store="s3://bucket").store
        assert "http://host" not in Settings.from_config(store="/data").store
        own = {"url": "s3://bucket", "storage_options": {"anon": True}}
        assert "http://host" not in Settings.from_config(store=own).store


def test_pickles_hold_no_state(tmp_path: Path) -> None:
    store: Store = stores.open([str(tmp_path / "a"), str(tmp_path / "b")])
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read_only is False

"""Fan-outs as stores of namespaces: pools of their own, how much room there is, what is exported."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array as da
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import daskcache
from daskcache import stores
from daskcache.config import pool_root
from daskcache.errors import InvalidInputError
from daskcache.locations import to_root
from daskcache.stores import Fanout, Level, Levels, drive
from daskcache.stores.opened import DiskStore

DATA = xr.Dataset({"t": ("x", da.arange(60, chunks=4))})


def test_a_private_pool_lies_in_the_same_stores(tmp_path: Path) -> None:
    root = to_root({"fanout": [str(tmp_path / "a"), str(tmp_path / "b")]})
    store, private = stores.open(root), stores.open(pool_root(root, "ours", "private"))
    for number in range(20):
        key = f"chunks/00ff/{number:02x}"
        assert stores.create(private, key, b"1")
        assert stores.get(store, f"namespaces/ours/@/{key}") == b"1"
    assert len(stores.list_sizes(private, "chunks/00ff")) == 20
    assert stores.list_dirs(private, "chunks") == ["00ff"]
    assert len([*drive.walk(private, "chunks/")]) == 20
    assert private.daskcache_root == pool_root(root, "ours", "private")  # type: ignore[attr-defined]
    stores.put(private, "gc/lease.json", b"{}")
    assert stores.get(store, "namespaces/ours/@/gc/lease.json") == b"{}"
    assert all((tmp_path / part / "namespaces").is_dir() for part in "ab")


def test_the_room_in_a_fan_out_is_that_of_its_disks(tmp_path: Path) -> None:
    parts = [DiskStore(tmp_path / "a"), DiskStore(tmp_path / "b")]
    one, both = stores.free_bytes(parts[0]), stores.free_bytes(Fanout(*parts))
    assert one is not None
    assert both == pytest.approx(one, rel=0.05), "one disk counts once"
    assert stores.free_bytes(Fanout(parts[0], MemoryStore())) is None
    assert stores.free_bytes(Levels(Level(MemoryStore()), Fanout(*parts))) == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize("pool", ["shared", "private"])
@pytest.mark.parametrize("kind", ["fan-out", "levels"])
def test_references_name_the_pool_below_the_root(tmp_path: Path, kind: str, pool: str) -> None:
    parts = [str(tmp_path / "a"), str(tmp_path / "b")]
    root = to_root({"fanout": parts} if kind == "fan-out" else parts)
    with daskcache.activate(root, pool=pool):
        daskcache.persist(DATA, "e")
    home = tmp_path / ("a" if kind == "fan-out" else "b")
    (document,) = (home / "namespaces/default/e/@").glob("*.json")
    references = json.loads(document.read_text())
    assert references["templates"] == {"root": str(home)}
    below = "namespaces/default/@/chunks/" if pool == "private" else "chunks/"
    named = [one[0] for name, one in references["refs"].items() if name.startswith("t/c/")]
    assert len(named) == 15
    for name in named:
        assert name.startswith(f"{{{{root}}}}/{below}")
        assert stores.exists(stores.open(root), name.removeprefix("{{root}}/"))


def test_an_entry_is_exported_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    spread = {"fanout": [str(tmp_path / "a"), str(tmp_path / "b")]}
    root = to_root(spread)
    daskcache.persist(DATA, "e", store=root)
    for behind in (root, to_root([str(tmp_path / "fast"), spread])):
        with pytest.raises(InvalidInputError, match="spread over several"):
            daskcache.export("e", tmp_path / "e.icechunk", store=behind)
    daskcache.export("e", tmp_path / "e.zarr", store=root)
    assert xr.open_zarr(tmp_path / "e.zarr").identical(DATA.compute())
    plain = str(tmp_path / "one")
    daskcache.copy(plain, "e", store=root)
    assert daskcache.open("e", store=plain).identical(DATA.compute())
    daskcache.export("e", tmp_path / "e.icechunk", store=plain)

"""Entries of one store in another: only what is missing goes, checked on its way, and nothing is swept meanwhile."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.cli import cache
from daskcache.errors import (
    CorruptChunkError,
    EntryNotFoundError,
    InvalidInputError,
    NotStoredError,
    ReadOnlyError,
    StoreError,
)
from daskcache.transfer import copies
from tests.labelled import OBJECTS, assert_same
from tests.producers import objects


def field(length: int = 6, add: int = 0) -> xr.Dataset:
    return xr.Dataset({"t": ("x", da.arange(length, chunks=2) + add)}, {"x": range(length)})


def versions(root: Any, entry: str, namespace: str = "default") -> list[str]:
    return [info.version for info in Catalog(str(root), namespace).versions(entry)]


def content(root: Path) -> dict[str, bytes]:
    """Give what a copy shall have in common with its source: blocks, and documents but for the root in them."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes().replace(str(root).encode(), b"{root}")
        for name, path in files.items()
        if not name.startswith(("runs", "gc")) and name != "daskcache.json" and ".partial" not in name
    }


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("name", OBJECTS)
def test_whatever_an_entry_holds(name: str, store_root: Path, tmp_path: Path) -> None:
    thing = OBJECTS[name]()
    daskcache.persist(thing, "thing")
    daskcache.copy(tmp_path / "other", "thing")
    assert content(tmp_path / "other") == content(store_root)
    shutil.rmtree(store_root)
    assert_same(daskcache.open("thing", store=str(tmp_path / "other")), thing)
    assert daskcache.verify(store=str(tmp_path / "other")).is_sound


def test_only_what_is_missing(store_root: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    daskcache.persist(field(), "entry")
    foretold = daskcache.copy(other, dry_run=True)
    assert not (tmp_path / "other").exists()
    first = daskcache.copy(other)
    assert (first.entries, first.versions, first.blocks, first.kept) == (1, 1, 3, 0)
    assert dataclasses.replace(foretold, dry_run=False) == first
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "other").rglob("*") if path.is_file()}
    again = daskcache.copy(other)
    assert (again.versions, again.blocks, again.kept) == (0, 0, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    daskcache.persist(field(10), "entry")
    assert str(daskcache.copy(other, dry_run=True)).startswith(
        "would copy 1 versions of 1 entries with 2 blocks ("
    )
    grown = daskcache.copy(other)
    assert (grown.versions, grown.blocks, grown.kept) == (1, 2, 3)
    assert versions(other, "entry") == versions(store_root, "entry")
    assert content(tmp_path / "other") == content(store_root)
    # Whatever was deleted there comes back.
    objects(tmp_path / "other")[0].unlink()
    assert daskcache.copy(other, "entry").blocks == 1
    assert daskcache.verify(store=other).is_sound


def test_names_versions_and_what_a_name_opens(store_root: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    daskcache.persist(field(6), "entry")
    daskcache.persist(field(8), "entry")
    newest, oldest = versions(store_root, "entry")
    daskcache.copy(other, "entry", version=oldest[:10])
    assert versions(other, "entry") == [oldest]
    assert daskcache.open("entry", store=other).sizes["x"] == 6
    daskcache.copy(other, "entry")
    assert versions(other, "entry") == [newest, oldest]
    assert daskcache.open("entry", store=other).sizes["x"] == 8
    # What was published there since stays what the name opens, but for a mirror.
    daskcache.persist(field(4), "entry", store=other)
    daskcache.copy(other, "entry")
    assert daskcache.open("entry", store=other).sizes["x"] == 4
    assert daskcache.mirror(other, "entry").dropped == 1
    assert daskcache.open("entry", store=other).sizes["x"] == 8
    assert versions(other, "entry") == [newest, oldest]


def test_a_mirror_forgets_what_is_gone(store_root: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    for name, namespace in [("a", "one"), ("b/c", "one"), ("a", "two")]:
        daskcache.persist(field(), name, namespace=namespace)
    daskcache.persist(field(add=1), "theirs", namespace="three", store=other)
    daskcache.mirror(other, everywhere=True)
    assert Catalog(other, "one").entries() == ["a", "b/c"]
    daskcache.clear("b/c", namespace="one")
    foretold = daskcache.mirror(other, everywhere=True, dry_run=True)
    assert foretold.dropped == 1
    assert Catalog(other, "one").entries() == ["a", "b/c"]
    assert daskcache.mirror(other, everywhere=True).dropped == 1
    assert Catalog(other, "one").entries() == ["a"]
    assert Catalog(other, "two").entries() == ["a"]
    assert Catalog(other, "three").entries() == ["theirs"]
    # Dropped as by clear: the blocks are protected until the grace period is over.
    assert list((tmp_path / "other").rglob("*.dropped"))
    daskcache.clear("a", namespace="one")
    with pytest.raises(InvalidInputError, match=r"has no entries, and those of .* would all be forgotten"):
        daskcache.mirror(other, namespace="one")
    assert Catalog(other, "one").entries() == ["a"]
    assert daskcache.mirror(other, "a", namespace="one").dropped == 1
    with pytest.raises(EntryNotFoundError):
        daskcache.mirror(other, "a", namespace="one")


def test_what_was_stored_without_a_name(tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    x = da.arange(6, chunks=2) * 7
    with daskcache.activate(policy="outputs"):
        x.compute()
    assert daskcache.copy(other, everywhere=True).blocks == 3
    with daskcache.activate(other, policy="outputs"):
        assert x.compute().tolist() == [0, 7, 14, 21, 28, 35]
        run = daskcache.last_run()
    assert run is not None
    assert (run.loaded, run.wanted) == (3, 0)
    assert daskcache.verify(store=other).is_sound


RECALLED = """
import dask, daskcache, pandas as pd, sys

@daskcache.cache
def table():
    print("computed")
    return pd.DataFrame({"a": [1, 2]})

@daskcache.cache
def number():
    print("computed")
    return {"a": [1, 2.5]}

with dask.config.set({"daskcache.store": sys.argv[1]}):
    print(table().a.sum(), number())
"""


def test_what_functions_returned(store_root: Path, tmp_path: Path) -> None:
    def run(root: Any) -> str:
        script = tmp_path / "script.py"
        script.write_text(RECALLED)
        command = [sys.executable, str(script), str(root)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run(store_root) == "computed\ncomputed\n3 {'a': [1, 2.5]}\n"
    assert daskcache.copy(tmp_path / "other").versions == 2
    assert run(tmp_path / "other") == "3 {'a': [1, 2.5]}\n"


def test_a_pool_of_its_own(tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    with dask.config.set({"daskcache.pool": "private"}):
        daskcache.persist(field(), "entry")
        daskcache.copy(other)
        assert daskcache.open("entry", store=other).t.values.tolist() == list(range(6))
    assert not (tmp_path / "other" / "chunks").exists()
    assert len(list((tmp_path / "other" / "namespaces" / "default" / "@" / "chunks").rglob("*"))) == 4


def test_damaged_blocks_do_not_travel(store_root: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    daskcache.persist(field(), "entry")
    first, second, third = objects(store_root)
    whole = second.read_bytes()
    second.write_bytes(whole[:-6] + b"\x00\x01" + whole[-4:])
    with pytest.raises(CorruptChunkError, match="is damaged, and was not copied"):
        daskcache.copy(other)
    second.write_bytes(third.read_bytes())
    with pytest.raises(CorruptChunkError, match="is not the object that was stored, and was not copied"):
        daskcache.copy(other)
    second.unlink()
    with pytest.raises(NotStoredError, match="persist the entry again"):
        daskcache.copy(other)
    with pytest.raises(EntryNotFoundError):
        daskcache.open("entry", store=other)
    second.write_bytes(whole)
    assert daskcache.copy(other).blocks <= 2
    assert daskcache.verify(store=other).is_sound
    # What is damaged there is moved aside.
    objects(Path(other))[0].write_bytes(b"no")
    assert daskcache.copy(other).blocks == 1
    assert daskcache.verify(store=other).is_sound
    assert first.exists()


def test_other_bytes_of_the_same_values(tmp_path: Path) -> None:
    """Where the other store has the block from another compressor, its version says what lies there."""
    other = str(tmp_path / "other")
    x = da.from_array(np.random.default_rng(1).integers(0, 5, 60_000), chunks=20_000)
    daskcache.persist(x, "entry")
    daskcache.persist(x, "theirs", store=other)
    path = objects(Path(other))[0]
    from numcodecs import Blosc

    from daskcache.chunks import decode
    from daskcache.packed import PackedBlocks

    manifest = Catalog(other).open("theirs")
    block = next(block for block in PackedBlocks(other, manifest.variables[0]) if path.name == block.id)
    values = decode(path.read_bytes(), block.spec, block.shape, block.dtype)
    import google_crc32c

    packed = Blosc("lz4", 9, Blosc.SHUFFLE).encode(values)
    path.write_bytes(packed + google_crc32c.value(packed).to_bytes(4, "little"))
    assert daskcache.verify("theirs", store=other).findings
    daskcache.clear("theirs", store=other)
    assert daskcache.copy(other).blocks == 0
    assert daskcache.verify("entry", store=other).is_sound
    assert (daskcache.open("entry", store=other).compute() == x.compute()).all()


def test_a_sweep_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that nothing needs lie at the target, and are swept between the look and the documents."""
    other = str(tmp_path / "other")
    daskcache.persist(field(), "entry")
    daskcache.persist(field(), "garbage", store=other)
    daskcache.clear("garbage", store=other)
    put = copies.Runs.put

    def sweep_before(self: Any, record: Any) -> None:
        assert daskcache.gc(store=other, grace=0, wait=0).chunks == 3
        put(self, record)

    monkeypatch.setattr(copies.Runs, "put", sweep_before)
    daskcache.copy(other)
    monkeypatch.undo()
    assert daskcache.verify(store=other).is_sound

    def sweep_after(self: Any, record: Any) -> None:
        put(self, record)
        assert daskcache.gc(store=other, grace=0, wait=0).chunks == 0

    daskcache.clear("entry", store=other)
    monkeypatch.setattr(copies.Runs, "put", sweep_after)
    daskcache.copy(other)
    assert daskcache.verify(store=other).is_sound
    assert daskcache.open("entry", store=other).t.values.tolist() == list(range(6))


def test_a_version_that_is_dropped_meanwhile(
    store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tmp_path / "other")
    daskcache.persist(field(6), "entry")
    daskcache.persist(field(8, add=1), "entry")
    newest, oldest = versions(store_root, "entry")
    move = copies.move_block

    lock = threading.Lock()

    def drop_first(*args: Any) -> Any:
        with lock:
            if Catalog(str(store_root)).drop("entry", [oldest]):
                for path in store_root.rglob("*.dropped"):
                    path.unlink()
                daskcache.gc(grace=0, wait=0)
        return move(*args)

    monkeypatch.setattr(copies, "move_block", drop_first)
    daskcache.copy(other)
    assert versions(other, "entry") == [newest]
    assert daskcache.verify(store=other).is_sound


KILLED = """
import os, sys, daskcache
from daskcache.transfer import copies
move, left = copies.move_block, int(sys.argv[3])

def die(*args):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return move(*args)

copies.move_block = die
daskcache.copy(sys.argv[2], store=sys.argv[1])
"""


def test_a_copy_that_is_killed_goes_on(store_root: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    daskcache.persist(field(40), "entry")
    command = [sys.executable, "-c", KILLED, str(store_root), other, "11"]
    assert subprocess.run(command, check=False).returncode == -9
    with pytest.raises(EntryNotFoundError, match="is under way or was broken off"):
        daskcache.open("entry", store=other)
    # The record of what was killed keeps what it has copied.
    copied = len(objects(Path(other)))
    assert 0 < copied <= 11
    assert daskcache.gc(store=other, grace=0, wait=0).chunks == 0
    assert daskcache.copy(other).blocks == 20 - copied
    assert content(tmp_path / "other") == content(store_root)


def test_what_is_refused(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(field(), "entry")
    other = str(tmp_path / "other")
    with pytest.raises(InvalidInputError, match="source and target are one store"):
        daskcache.copy(store_root)
    with pytest.raises(InvalidInputError, match="without the entry"):
        daskcache.copy(other, version="00")
    with pytest.raises(InvalidInputError, match="give one of both"):
        daskcache.mirror(other, "entry", everywhere=True)
    with pytest.raises(EntryNotFoundError):
        daskcache.copy(other, "nothing")
    with pytest.raises(EntryNotFoundError):
        daskcache.copy(other, "entry", version="zz")
    with dask.config.set({"daskcache.mode": "read"}), pytest.raises(ReadOnlyError, match="is 'read'"):
        daskcache.copy(other)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "daskcache.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match="has format 1"):
        daskcache.copy(tmp_path / "newer")
    with pytest.raises(InvalidInputError, match="hold"):
        daskcache.copy("s3://key:secret@bucket/cache")


def test_the_commands(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(field(), "entry")
    (version,) = versions(store_root, "entry")
    other = str(tmp_path / "other")
    run = CliRunner().invoke
    begin = ["--store", str(store_root)]
    result = run(cache, [*begin, "copy", other, "entry", "--dry-run"])
    assert result.output.startswith("would copy 1 versions of 1 entries with 3 blocks (")
    result = run(cache, [*begin, "copy", other, f"entry@{version[:10]}", "--json"])
    assert json.loads(result.output)["blocks"] == 3
    daskcache.clear("entry")
    result = run(cache, [*begin, "mirror", other, "entry"])
    assert "forgot 1 versions" in result.output
    result = run(cache, [*begin, "mirror", other, "--all"])
    assert result.exit_code == 0
    assert stores.list_dirs(stores.open(other), "namespaces") == ["default"]

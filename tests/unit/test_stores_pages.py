"""Listings of many objects in ranges of their names: the same as one page after another gives."""

import errno
import hashlib
import os
import shutil
import sys

import obstore
import pytest
from obstore.store import MemoryStore
from zarr.storage import ObjectStore

from daskcache.errors import StoreError
from daskcache.stores import pages, remote


def digits(count):
    return [hashlib.sha1(f"{number}".encode()).hexdigest() for number in range(count)]


@pytest.fixture(params=[True, False], ids=["columns", "dictionaries"])
def small_pages(monkeypatch, request):
    monkeypatch.setattr(pages, "_PAGE", 10)
    monkeypatch.setattr(pages, "_KEYS_OF_RANGE", 20)
    if request.param:
        pytest.importorskip("arro3.core")
    else:
        # As where it is not installed.
        monkeypatch.setitem(sys.modules, "arro3.core", None)


@pytest.mark.parametrize(
    "names",
    [
        [],
        digits(9),
        digits(10),
        digits(11),
        digits(500),
        [f"{name}.{other[:32]}.partial" for name, other in zip(digits(50), digits(100)[50:], strict=True)],
        [f"0000{name}" for name in digits(50)],
        [f"ffffffff{name}" for name in digits(50)],
        ["00000000", *digits(50), "ffffffff", "ffffffffff"],
        [f"r{name}.json" for name in digits(50)],
    ],
    ids=["none", "9", "10", "11", "500", "partial", "low", "high", "edges", "no digits"],
)
def test_nothing_is_left_out_or_told_twice(small_pages, names):
    memory = MemoryStore()
    for number, name in enumerate(names):
        obstore.put(memory, f"chunks/00ff/{name}", bytes(number))
    obstore.put(memory, "chunks/00fe/00", b"another group")
    obstore.put(memory, "chunks/00fff/00", b"another group")
    store = ObjectStore(memory)
    listed = pages.list_many(store, "chunks/00ff")
    assert dict(listed) == remote.list_objects(store, "chunks/00ff")
    assert len(listed) == len(names)
    assert sorted(listed) == sorted(names)


def test_ranges_are_asked_for_beside_each_other(small_pages, monkeypatch):
    memory = MemoryStore()
    for name in digits(500):
        obstore.put(memory, f"chunks/00ff/{name}", b"1")
    asked = []
    listing = obstore.list

    def list_noting(store, prefix, *, offset=None, **options):
        asked.append(offset)
        return listing(store, prefix, offset=offset, **options)

    monkeypatch.setattr(obstore, "list", list_noting)
    pages.list_many(ObjectStore(memory), "chunks/00ff")
    assert len(asked) == 1 + pages._RANGES
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_of_what_is_wanted_nothing_is_left_out_and_nothing_else_is_told(small_pages, monkeypatch, count):
    memory = MemoryStore()
    names = {group: digits(500)[shift:] for shift, group in enumerate(("chunks/00ff", "chunks/00fe"))}
    for group, found in names.items():
        for number, name in enumerate(found):
            obstore.put(memory, f"{group}/{name}", bytes(number))
    store = ObjectStore(memory)
    listed, heads = [], []
    listing, head = obstore.list, obstore.head
    monkeypatch.setattr(obstore, "list", lambda *args, **kw: listed.append(args) or listing(*args, **kw))
    monkeypatch.setattr(obstore, "head", lambda *args, **kw: heads.append(args) or head(*args, **kw))
    missing = ["ffff" + digits(1)[0][4:], "0000" + digits(1)[0][4:]]
    wanted = {group: [*found[:count], *missing] for group, found in names.items()}
    looked_up = pages.find_many(store, wanted)
    assert looked_up.keys() == wanted.keys()
    for group, objects in looked_up.items():
        expected = remote.list_objects(store, group)
        assert dict(objects) == {name: expected[name] for name in wanted[group] if name in expected}
        assert len(objects) == count
    if count < 10:
        # Less is asked for than there are pages.
        assert len(listed) == 2
        assert len(heads) <= 2 * (count + 2)
    else:
        assert heads == []
        assert len(listed) == 2 + 2 * pages._RANGES


def test_files_are_looked_at_one_by_one_until_many_are_missing(tmp_path, monkeypatch):
    names = digits(200)
    for name in names[:100]:
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / names[150]).mkdir()
    listed = []
    list_names = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or list_names(path))
    files = pages.Files(str(tmp_path))
    assert {files[name][0] for name in names[:100]} == {3}
    assert not listed
    assert [name in dict.fromkeys(names[:100]) for name in names] == [
        files.get(name) is not None for name in names
    ]
    assert listed == [str(tmp_path)]
    assert len(files) == 101
    # What goes meanwhile is gone, and so is all with the directory.
    (tmp_path / names[0]).unlink()
    assert files.get(names[0]) is None
    shutil.rmtree(tmp_path)
    tmp_path.write_bytes(b"")
    assert files.get(names[1]) is None
    assert pages.Files(str(tmp_path)).get(names[1]) is None
    assert not pages.Files(str(tmp_path / "nowhere"))


def test_a_file_that_cannot_be_looked_at_is_an_error_of_ours(tmp_path, monkeypatch):
    files = pages.Files(str(tmp_path))

    def fail(path):
        raise OSError(errno.EIO, "Input/output error", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(StoreError, match="look for ab"):
            files.get("ab")
    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(StoreError, match="list files"):
        len(files)

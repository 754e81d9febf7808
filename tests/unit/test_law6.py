"""Reading a store unpickles nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import pytest
import xarray as xr

import daskcache
from daskcache.errors import CorruptChunkError
from daskcache.manifest import from_idx
from tests.labelled import one

READ = """
import pickle, sys

events = []
watching = False
sys.addaudithook(lambda event, args: events.append(args) if watching and event == "pickle.find_class" else None)

import daskcache
from dask._task_spec import DataNode, Task
from daskcache.pool import StoredBlock

def blocks_in(value):
    if isinstance(value, StoredBlock):
        yield value
    elif isinstance(value, DataNode):
        yield from blocks_in(value.value)
    elif isinstance(value, Task):
        for below in (*value.args, *value.kwargs.values()):
            yield from blocks_in(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from blocks_in(below)

daskcache.open("entry", store=sys.argv[1])  # what is imported on the way is not what is read
watching = True
opened = daskcache.open("entry", store=sys.argv[1])
watching = False
found = list(blocks_in(list(dict(opened.v.data.dask).values())))
watching = True
values = [block[...] for block in found]
watching = False
print([value.tolist() for value in values], events)

# The hook sees what it is to see.
watching = True
pickle.loads(pickle.dumps(StoredBlock))
print(len(events))
"""


class Trap:
    """A pickle of this makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_opening_and_reading_unpickles_nothing(tmp_path: Path) -> None:
    thing = one(da.arange(4, chunks=2) * 2).assign_attrs(units="K").assign_coords(x=list("abcd"))
    daskcache.persist(thing, "entry", store=str(tmp_path / "store"))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[[0, 2], [4, 6]] []", "1"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_index_that_is_a_pickle_is_refused(protocol: int, store_root: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"), protocol)
    with pytest.raises(CorruptChunkError):
        from_idx(trap)
    daskcache.persist(xr.Dataset({"v": ("x", da.arange(4, chunks=2) * 2)}), "entry")
    (index,) = (store_root / "namespaces" / "default" / "entry" / "@").glob("*.idx")
    index.write_bytes(trap)
    with pytest.raises(CorruptChunkError):
        daskcache.open("entry")
    assert not (tmp_path / "sprung").exists()


def poison(index: Path, change: Any) -> None:
    """Change the header of an index so that it is whole again, as whoever can write to a store may."""
    data = index.read_bytes()
    magic, number, zero, _, length = struct.unpack_from("<8sIIQQ", data)
    header = json.loads(data[32 : 32 + length])
    change(header)
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    body = data[32 + length : -16]
    total = 32 + len(text) + len(body) + 16
    whole = struct.pack("<8sIIQQ", magic, number, zero, total, len(text)) + text + body
    index.write_bytes(whole + hashlib.blake2b(whole, digest_size=16).digest())


POISONS: dict[str, Any] = {
    "a codec that unpickles": lambda header: header["variables"][0]["codecs"].update(name="pickle"),
    "a compressor nobody knows": lambda header: header["variables"][0]["codecs"].update(cname="../lz4"),
    "a further codec": lambda header: header["variables"][0]["codecs"].update(filters=["pickle"]),
    "a dtype that holds objects": lambda header: header["variables"][0].update(dtype="O", objects="O"),
    "a structured dtype of objects": lambda header: header["variables"][0].update(dtype="O,O"),
    "objects in another form": lambda header: header["variables"][0].update(dtype="O", objects="pickle"),
    "a path that climbs out": lambda header: header["variables"][0].update(path="../../../v"),
    "an absolute path": lambda header: header["variables"][0].update(path="/etc/v"),
    "a document's path": lambda header: header["variables"][0].update(path="zarr.json"),
    "a node that climbs out": lambda header: header["nodes"].append(["..", {}, {}]),
    "a version that climbs out": lambda header: header.update(version="../../latest"),
    "a pool elsewhere": lambda header: header.update(pool="../.."),
    "another kind": lambda header: header.update(kind="pickle"),
    "a section outside": lambda header: header["variables"][0]["sections"].update(tokens=[-8, 40]),
    "fewer tokens than blocks": lambda header: header["variables"][0].update(chunks=[[2, [2, 2**30]]]),
}


@pytest.mark.parametrize("poisoned", POISONS)
def test_a_poisoned_index_is_refused(poisoned: str, store_root: Path) -> None:
    daskcache.persist(xr.Dataset({"v": ("x", da.arange(4, chunks=2) * 2)}), "entry")
    (index,) = (store_root / "namespaces" / "default" / "entry" / "@").glob("*.idx")
    poison(index, lambda header: None)
    assert daskcache.open("entry").v.values.tolist() == [0, 2, 4, 6]
    poison(index, POISONS[poisoned])
    with pytest.raises(CorruptChunkError, match="its header is not understood"):
        daskcache.open("entry")
    assert daskcache.verify("entry").findings[0].problem == "unreadable"
    with (
        pytest.warns(daskcache.DaskcacheWarning, match="'entry' are not found for now"),
        daskcache.activate(),
    ):
        assert (da.arange(4, chunks=2) * 2).compute().tolist() == [0, 2, 4, 6]


def test_the_readable_form_is_read_by_nobody_here(store_root: Path) -> None:
    daskcache.persist(xr.Dataset({"v": ("x", da.arange(4, chunks=2) * 2)}), "entry")
    (readable,) = (store_root / "namespaces" / "default" / "entry" / "@").glob("*.json")
    readable.write_text('{"version": 1, "refs": {"v/c/0": ["/etc/passwd"]}}')
    assert daskcache.open("entry").v.values.tolist() == [0, 2, 4, 6]
    with daskcache.activate():
        assert (da.arange(4, chunks=2) * 2).compute().tolist() == [0, 2, 4, 6]


def test_a_chunk_that_is_a_pickle_is_computed_again(store_root: Path, tmp_path: Path) -> None:
    daskcache.persist(da.arange(4, chunks=2) * 2, "entry")
    for path in (store_root / "chunks").glob("*/*"):
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CorruptChunkError, match="is damaged"):
        daskcache.open("entry").compute()
    assert daskcache.persist(da.arange(4, chunks=2) * 2, "entry").compute().tolist() == [0, 2, 4, 6]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change", [{"group": "../../namespaces"}, {"spec": {"codecs": {"name": "pickle"}}}, {"tokens": "gASV"}]
)
def test_a_poisoned_record_of_a_run_sweeps_nothing(change: dict[str, Any], store_root: Path) -> None:
    daskcache.persist(da.arange(4, chunks=2) * 2, "entry")
    (record,) = (store_root / "runs").iterdir()
    document = json.loads(record.read_text())
    document["wants"][0].update(change)
    record.write_text(json.dumps(document))
    daskcache.clear()
    with pytest.raises(CorruptChunkError, match="a run's record is damaged"):
        daskcache.gc(grace=0, wait=0)
    assert len(list((store_root / "chunks").glob("*/*"))) == 2

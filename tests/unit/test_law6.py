"""Reading a store unpickles nothing."""

from __future__ import annotations

import os
import pickle
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

"""Copies of entries to and from buckets of real servers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.errors import DaskcacheError, ReadOnlyError
from daskcache.locations import to_root
from tests.servers.conftest import start
from tests.servers.harness import Bucket, Faulty
from tests.servers.services import Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]


def state(length: int) -> xr.Dataset:
    t = da.from_array(np.arange(length * 10.0).reshape(length, 10), chunks=(5, 10))
    return xr.Dataset({"t": (("x", "y"), t)}, {"x": np.arange(length)})


def test_there_and_back(place: Bucket) -> None:
    root = place.root("/cache")
    daskcache.persist(state(40), "entry")
    first = daskcache.copy(root)
    assert (first.versions, first.blocks) == (1, 8)
    daskcache.persist(state(50), "entry")
    second = daskcache.mirror(root)
    assert (second.versions, second.blocks, second.kept) == (1, 2, 8)
    xr.testing.assert_identical(daskcache.open("entry", store=root).load(), state(50).compute())
    assert daskcache.verify(store=root).is_sound
    # Within the server, and home again.
    other = place.root("/other")
    assert stores.migrate(root, other).copied.blocks == 10
    daskcache.clear("entry")
    assert daskcache.copy("memory://" + place.path, store=other).blocks == 10
    again = daskcache.copy("memory://" + place.path, store=other)
    assert (again.versions, again.blocks, again.kept) == (0, 0, 10)
    assert daskcache.verify(store="memory://" + place.path).is_sound


KILLED = """
import sys, daskcache
print("begins", flush=True)
daskcache.copy(sys.argv[2], store=sys.argv[1])
"""


def test_copies_that_are_killed(bucket: Bucket, store_root: os.PathLike[str]) -> None:
    root = to_root(bucket.root("/cache"))
    daskcache.persist(state(600), "entry")
    chance = random.Random(3)
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, str(store_root), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
            time.sleep(chance.uniform(0.1, 0.7))
            process.send_signal(signal.SIGKILL)
        found = daskcache.catalog.Catalog(root).latest("entry")
        assert found is None or daskcache.verify("entry", store=root).is_sound
    daskcache.copy(root)
    assert daskcache.verify("entry", store=root).is_sound
    xr.testing.assert_identical(daskcache.open("entry", store=root).load(), state(600).compute())


def test_a_server_that_fails_now_and_then(bucket: Bucket) -> None:
    faulty = Faulty(bucket.server, share=0.1, seed=4, stall_s=0.0)
    try:
        daskcache.persist(state(60), "entry")
        for _ in range(10):
            try:
                daskcache.copy(bucket.root("/cache", faulty.endpoint))
                break
            except DaskcacheError:
                continue
    finally:
        faulty.close()
    assert sum(faulty.faults.values())
    sound = bucket.root("/cache")
    assert daskcache.verify("entry", store=sound).is_sound
    xr.testing.assert_identical(daskcache.open("entry", store=sound).load(), state(60).compute())


@pytest.mark.server("nginx")
def test_from_a_server_that_only_reads(tmp_path: Path) -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    path = uuid.uuid4().hex
    daskcache.persist(state(40), "entry", store=str(server.directory / "files" / path))
    store = f"{server.endpoint}/{path}"
    assert daskcache.copy(tmp_path / "copy", store=store).blocks == 8
    assert daskcache.verify(store=str(tmp_path / "copy")).is_sound
    assert daskcache.publish("entry", tmp_path / "out.zarr", store=store).streamed == 9
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "out.zarr").load(), state(40).compute())
    with pytest.raises(ReadOnlyError):
        daskcache.copy(f"{store}-other", store=str(tmp_path / "copy"))

"""Arrays that are larger than a worker's memory: blocks are written as they are made, and let go."""

import os

import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

import daskcache
from daskcache import stores
from tests.clusters import processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MB = 2**20


@daskcache.version("1")
def fill(block_id):
    """Make 8 MiB that compress well, so that the test measures memory and not the disk."""
    return np.full((1, MB), float(block_id[0]))


def peak_mb():
    """The most memory that this process has had, beyond what the operating system can take back."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def persist_larger_than_memory(directory, root, limit_mb, times):
    blocks = times * limit_mb // 8
    x = da.map_blocks(fill, chunks=((1,) * blocks, (MB,)), dtype="f8", meta=np.empty((0, 0)))
    with processes(directory, 0) as cluster:
        cluster.start_worker("--nanny", "--memory-limit", f"{limit_mb}MiB")
        with cluster.client(1) as client:
            persist_and_read(x, client, root, limit_mb)
    run = daskcache.last_run()
    assert (run.computed, run.stored) == (blocks, blocks)
    assert x.nbytes >= times * limit_mb * MB


def persist_and_read(x, client, root, limit_mb):
    before = client.run(os.getpid)
    kept = daskcache.persist(x, "x")
    assert client.run(os.getpid) == before, "nobody was restarted"
    (peak,) = client.run(peak_mb).values()
    assert peak < limit_mb
    opened = client.run(lambda root: stores.open(root) is stores.open(root), str(root))
    assert all(opened.values()), "one handle for each store"
    assert kept.max(axis=1).compute()[-1] == x.npartitions - 1
    (peak,) = client.run(peak_mb).values()
    assert peak < limit_mb


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.nightly)])
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
def test_larger_than_a_workers_memory(tmp_path, store_root, times):
    persist_larger_than_memory(tmp_path, store_root, 400, times)

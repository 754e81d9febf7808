"""Arrays that are larger than a worker's memory: blocks are written as they are made, and let go."""

import os
import time

import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import wait

import daskcache
from daskcache import stores
from tests.clusters import processes
from tests.producers import objects, produced

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


def spilled(dask_worker):
    """Tell how many blocks a worker holds on its disk."""
    return len(dask_worker.data.disk)


def test_spilled_blocks_are_stored(tmp_path, store_root):
    """Blocks that a worker has put on its own disk, on their way into the store."""
    blocks = 10
    x = da.map_blocks(fill, chunks=((1,) * blocks, (MB,)), dtype="f8", meta=np.empty((0, 0)))
    with processes(tmp_path, 0, DASK_DISTRIBUTED__WORKER__MEMORY__TARGET="0.04") as cluster:
        # Two and a half of the blocks.
        cluster.start_worker("--no-nanny", "--memory-limit", "500MiB")
        with cluster.client(1) as client:
            held = client.persist(x)
            wait(held)
            assert sum(client.run(spilled).values()) >= blocks - 3
            kept = daskcache.persist(held + 0, "held")
            assert daskcache.last_run().stored == blocks
            with daskcache.activate():
                marked = client.persist(daskcache.checkpoint(x + 1, "marked"))
                wait(marked)
                assert sum(client.run(spilled).values()) >= 2 * (blocks - 3)
                assert (marked.max(axis=1).compute() == np.arange(blocks) + 1).all()
            del held, marked
            assert (kept.max(axis=1).compute() == np.arange(blocks)).all()
            assert (daskcache.open("marked")[:, 0].compute() == np.arange(blocks) + 1).all()


@daskcache.version("1")
def grow(block, flag):
    """Use more memory than there is, the first time."""
    if 5 in block and not os.path.exists(flag):
        open(flag, "x").close()
        held = []
        while True:
            if len(held) < 64:  # 1 GiB, twice what there is
                held.append(np.ones(2 * MB))
            time.sleep(0.01)
    return block * 2


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured on Linux")
def test_a_nanny_that_restarts_its_worker_for_its_memory(tmp_path, store_root):
    settings = {
        # No pause and no spilling before.
        f"DASK_DISTRIBUTED__WORKER__MEMORY__{name}": value
        for name, value in {"PAUSE": "False", "SPILL": "False", "TARGET": "False", "TERMINATE": "0.9"}.items()
    }
    flag = tmp_path / "grown"
    x = produced(grow, str(flag), n=24)
    with processes(tmp_path, 0, **settings) as cluster:
        cluster.start_worker("--nanny", "--memory-limit", "500MiB")
        with cluster.client(1) as client:
            before = set(client.run(os.getpid).values())
            kept = daskcache.persist(x, "x")
            assert set(client.run(os.getpid).values()).isdisjoint(before), "it was restarted"
    assert flag.exists()
    assert (kept.compute() == np.arange(24) * 2).all()
    assert len(objects(store_root)) == 8
    assert daskcache.persist(x, "x") is not None
    assert daskcache.last_run().reused == 8

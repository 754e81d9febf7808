"""Ten times a worker's memory, in blocks that cost little: what is stored is let go."""

import os

import dask
import dask.array as da
import numpy as np
import pytest

pytest.importorskip("distributed")

import daskcache
from tests.clusters import processes
from tests.producers import objects

pytestmark = pytest.mark.slow

# Some 240 are taken by what a worker imports.
LIMIT_MB = 400
BLOCK_MB = 8
BLOCKS = 10 * LIMIT_MB // BLOCK_MB


@daskcache.version("1")
def fill(block_id):
    """Make a block that is all there, and compresses to nothing: memory is measured, not the disk."""
    return np.full((1, BLOCK_MB * 2**17), float(block_id[0]))


def peak_mb():
    """The most memory that this process has had, beyond what the operating system can take back."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
def test_ten_times_a_workers_memory(tmp_path, store_root):
    x = da.map_blocks(fill, chunks=((1,) * BLOCKS, (BLOCK_MB * 2**17,)), dtype="f8", meta=np.empty((0, 0)))
    assert x.nbytes >= 10 * LIMIT_MB * 2**20
    with processes(tmp_path, 0) as cluster:
        cluster.start_worker("--nanny", "--memory-limit", f"{LIMIT_MB}MiB")
        with cluster.client(1) as client:
            before = client.run(os.getpid)
            # Encoding is most of the work.
            with dask.config.set({"daskcache.codecs.shuffle": "noshuffle", "daskcache.codecs.level": 1}):
                kept = daskcache.persist(x, "x")
            assert client.run(os.getpid) == before, "nobody was restarted"
            (peak,) = client.run(peak_mb).values()
            assert peak < LIMIT_MB
            assert (kept[:: BLOCKS // 8, 0].compute() == np.arange(BLOCKS)[:: BLOCKS // 8]).all()
            assert client.run(os.getpid) == before
    run = daskcache.last_run()
    assert (run.computed, run.stored, len(objects(store_root))) == (BLOCKS, BLOCKS, BLOCKS)

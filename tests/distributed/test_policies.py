"""A warm run under every scheduler and policy: no producer runs, and no task of what is stored is in the graph."""

import os
import subprocess
import sys
import time

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, wait

import daskcache
from daskcache.catalog import Catalog
from daskcache.catalog.packs import list_packs
from daskcache.dask_internals import convert_legacy_graph
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens
from daskcache.weighed import Weighed
from tests import producers
from tests.producers import count, doubled, objects

EXPECTED = np.arange(12) * 2


pytestmark = [pytest.mark.usefixtures("calls"), pytest.mark.timeout(300)]


def script():
    x = doubled()
    if daskcache.activation.active_settings().policy == "checkpoints":
        x = daskcache.checkpoint(x, "x")
    ds = xr.Dataset({"t": ("x", x), "u": ("x", x + 5)})
    return x.compute(), (x + 1).sum().compute(), ds.compute(), dask.compute(x * 2, x.mean())


def check(results):
    whole, total, ds, (twice, mean) = results
    assert (whole == EXPECTED).all()
    assert total == (EXPECTED + 1).sum()
    assert type(total) is np.int64
    assert (ds.u == EXPECTED + 5).all()
    assert (twice == EXPECTED * 2).all()
    assert (mean, type(mean)) == (11, np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_a_warm_run_calls_no_producer(run, store_root, policy):
    with daskcache.activate(policy=policy):
        check(run(script))
        assert count() == 4
        written = objects(store_root)
        check(run(script))
        assert count() == 0
        # Of what auto weighed anew in a warm run nothing is costly.
        assert objects(store_root) == written
        if policy != "checkpoints":
            assert 0 < len(list_packs(str(store_root), "default")) <= 33


def eventually(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def functions(graph):
    """Name all functions of a graph, those in fused tasks too."""
    found = set()

    def visit(node):
        if hasattr(node, "func"):
            found.add(getattr(node.func, "__name__", str(node.func)))
        for arg in getattr(node, "args", ()):
            visit(arg)
            for inner in arg.values() if isinstance(arg, dict) else ():
                visit(inner)

    for node in convert_legacy_graph(dict(graph)).values():
        visit(node)
    return found


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_the_graph_of_a_warm_run_has_no_task_of_what_is_stored(store_root, policy):
    with daskcache.activate(policy=policy), dask.config.set(scheduler="synchronous"):
        script()
        x = doubled()
        if policy == "checkpoints":
            x = daskcache.checkpoint(x, "x")
        for wanted in (x, x + 1, (x * 3).sum(), x[4:9]):
            (planned,) = dask.optimize(wanted)
            assert not functions(planned.dask) & {"double", "arange"}
            layers = daskcache.optimizer.rewrite(
                wanted.dask, wanted.__dask_keys__(), daskcache.activation.active_settings()
            ).layers
            assert not [name for name in layers if name.startswith("arange")]


@pytest.mark.slow
def test_a_client_computes_and_persists(cluster, store_root):
    """Keys of blocks are wanted themselves: as futures, and of a collection that stays on the cluster."""
    with daskcache.activate(policy="outputs"):
        for expected in (4, 0):
            with Client(cluster) as client:
                kept = client.persist(doubled())
                assert (kept.compute() == EXPECTED).all()
                assert client.compute((doubled() + 1).sum()).result() == (EXPECTED + 1).sum()
                assert (client.gather(client.compute([doubled() * 2]))[0] == EXPECTED * 2).all()
            assert count() == expected


def transitioned(dask_scheduler):
    return {entry[0] for entry in dask_scheduler.transition_log}


def list_after(seconds):
    daskcache.journal._FLUSH_S = seconds


@pytest.mark.slow
def test_a_persist_costs_no_task_and_is_found_by_the_next_graph(cluster, store_root):
    with Client(cluster) as client:
        wait(client.persist(doubled()))
        plain = len(client.run_on_scheduler(transitioned))
        count()
        client.run(list_after, 600.0)
        with daskcache.activate(policy="outputs"):
            for expected in (4, 0):
                before = client.run_on_scheduler(transitioned)
                kept = client.persist(doubled() + 1 - 1)
                wait(kept)
                assert len(client.run_on_scheduler(transitioned) - before) <= plain
                assert (doubled() + 1 - 1).sum().compute() == EXPECTED.sum()
                assert count() == expected
                del kept
        client.run(list_after, 2.0)


@pytest.mark.slow
def test_what_took_long_is_told_to_the_client(cluster, store_root):
    with daskcache.activate(policy="auto"), Client(cluster):
        x = producers.produced(producers.slowly, 1.0)
        assert dask.compute(x.sum(), x.max()) == (132, 22)
        run = daskcache.last_run()
        eventually(lambda: run.weighed.get("slowly", Weighed()).stored == 4)
        # The workers list what they stored some seconds later.
        tokens = GraphTokens(x.dask, Fingerprinter())
        blocks = {tokens.token(key) for key in keys_of([x])}
        eventually(lambda: (Catalog(str(store_root)).token_index().find_many(blocks) >= 0).all())
        count()
        x = producers.produced(producers.slowly, 1.0)
        assert (x + 1).min().compute() == 1
        assert count() == 0


IN_ONE_PROCESS = """
import dask.array as da, daskcache, sys
from daskcache import cluster
from distributed import Client, wait

answers, tell = [], cluster.tell_workers
cluster._PATIENCE_S = 3.0
cluster.tell_workers = lambda function: answers.append(tell(function)) or answers[-1]
with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"):
    with daskcache.activate(sys.argv[1], policy="outputs"):
        wait((da.arange(12, chunks=3) + 1).persist())
        assert (da.arange(12, chunks=3) + 2).compute()[0] == 2
print(answers)
"""


def test_a_worker_in_the_process_of_the_scheduler_does_not_wait_for_itself(store_root):
    """In a process of its own, which has no other scheduler."""
    command = [sys.executable, "-c", IN_ONE_PROCESS, str(store_root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[True]", done.stderr


WRITER = """
import sys
import dask, dask.array as da, numpy as np, xarray as xr

class Target:
    def __setitem__(self, index, value):
        with open("stored.txt", "a") as file:
            file.write(f"{value.sum()} ")

def write(block):
    np.save("block.npy", block)
    return block.sum()

x = da.arange(12, chunks=3) * 2
x.to_zarr("array.zarr", overwrite=True)
xr.Dataset({"t": ("x", x + 1)}).to_zarr("set.zarr", mode="w", consolidated=False)
xr.Dataset({"t": ("x", x + 2)}).to_netcdf("set.nc", engine="h5netcdf")
da.store(x + 3, Target())
print(dask.delayed(write)(x + 4).compute())
"""


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_an_unmodified_script_writes_each_time(store_root, tmp_path, policy):
    """To the same places, from which what the first run wrote is gone, in processes of their own."""
    (tmp_path / "script.py").write_text(WRITER)
    environment = {
        **os.environ,
        "DASK_DASKCACHE__ENABLED": "true",
        "DASK_DASKCACHE__STORE": str(store_root),
        "DASK_DASKCACHE__POLICY": policy,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        # The same names in the same directory, each time.
        here = tmp_path / "here"
        here.mkdir()
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            cwd=here,
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{(EXPECTED + 4).sum()}\n"
        assert (zarr.open_array(here / "array.zarr")[:] == EXPECTED).all()
        assert (xr.open_zarr(here / "set.zarr", consolidated=False).t == EXPECTED + 1).all()
        with xr.open_dataset(here / "set.nc", engine="h5netcdf") as read:
            assert (read.t == EXPECTED + 2).all()
        sums = sorted(map(int, (here / "stored.txt").read_text().split()))
        assert sums == sorted((EXPECTED + 3).reshape(4, 3).sum(axis=1).tolist())
        assert (np.load(here / "block.npy") == EXPECTED + 4).all()
        here.rename(tmp_path / seed / "written")

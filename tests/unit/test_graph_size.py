"""What reaches the scheduler: how many tasks, and how many bytes are read from the store; counted, never timed."""

from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.dask_internals import Blockwise
from tests import producers
from tests.producers import doubled

NBLOCKS = 20


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def array():
    return doubled(n=60, chunks=3)


def scheduled(*collections):
    """Count the tasks that a computation hands to its scheduler, and run them."""
    counts = []

    def get(expr, keys, **kwargs):
        graph = dict(expr.__dask_graph__())
        counts.append(len(graph))
        return dask.get(graph, keys)

    dask.compute(*collections, scheduler=get)
    return sum(counts)


USES = {
    "itself": lambda x: [x],
    "elementwise": lambda x: [x + 1],
    "sum": lambda x: [x.sum()],
    "two": lambda x: [x.sum(), x.max()],
    "three": lambda x: [x, x + 1, (x * 2).mean()],
    "slice": lambda x: [x[5:50]],
    "rechunk": lambda x: [x.rechunk(7)],
    "overlap": lambda x: [x.map_overlap(lambda block: block * 1, depth=1, boundary="none")],
    "dataset": lambda x: [xr.Dataset({"t": ("x", x - 1), "u": ("x", x + 5)}).chunk()],
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("marked", [True, False])
def test_tasks(store_root, use, marked):
    plain = scheduled(*USES[use](array()))
    with daskcache.activate(policy="checkpoints" if marked else "outputs"):
        x = daskcache.checkpoint(array(), "x") if marked else array()
        counts = [scheduled(*USES[use](x)) for _ in range(2)]
        cold, warm = counts
        # What may come: a note for each marked block, for who publishes them.
        assert cold <= plain + (NBLOCKS if marked else 0)
        assert warm <= plain
        if not marked:
            # A block that is stored for the first time may be one task already, as a load is.
            assert warm <= cold
            assert warm < plain


def test_it_shrinks_with_the_hits(store_root):
    """Of a chain that is not fused, each block that is stored takes its own tasks out of the graph."""
    with daskcache.activate():
        sizes = []
        for part in (0, 15, 30, 45, 60):
            x = daskcache.checkpoint(array().rechunk(6).rechunk(3), "x")
            if part:
                x[:part].compute()
            with dask.config.set({"optimization.fuse.active": False}):
                (planned,) = dask.optimize(x + 1)
            sizes.append(len(dict(planned.dask)))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= NBLOCKS * 2 < sizes[0]


def test_a_layer_that_is_stored_stays_high_level(store_root):
    with daskcache.activate(policy="outputs") as active:
        array().compute()
        x = array()
        y = (x + 1).sum()
        graph = daskcache.optimizer.rewrite(y.dask, y.__dask_keys__(), active.settings)
        assert isinstance(graph.layers[x.name], Blockwise)
        assert not graph.layers[x.name].is_materialized()


def test_a_layer_that_is_stored_for_the_first_time_stays_high_level(store_root):
    seen = {}

    def look(dsk, keys, **kwargs):
        seen.update(dsk.layers)
        return da.optimization.optimize(dsk, keys, **kwargs)

    x = array()
    with dask.config.set(array_optimize=look), daskcache.activate(policy="outputs"):
        x.compute()
    assert isinstance(seen[x.name], Blockwise)
    assert len(producers.objects(store_root)) == NBLOCKS


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
@pytest.mark.parametrize("state", ["cold", "part", "warm"])
def test_annotations_reach_the_scheduler(store_root, policy, state):
    annotations = {"priority": 7, "retries": 2, "resources": {"memory": 1}, "workers": ["a"]}
    with daskcache.activate(policy=policy):

        def make():
            with dask.annotate(**annotations):
                x = array()
                return daskcache.checkpoint(x, "x") if policy == "checkpoints" else x

        if state != "cold":
            (make() if state == "warm" else make()[:30]).compute(scheduler="sync")
        x = make()
        graph = daskcache.optimizer.rewrite(x.dask, x.__dask_keys__(), daskcache.activation.active_settings())
        assert graph.layers[x.name].annotations == annotations


def bytes_read():
    """Tell how much this process has read of files so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux tells how much was read")
def test_a_selection_is_read_and_not_the_block(store_root):
    """An irregular grid has inner chunks: a point of a stored block costs some of them."""
    values = np.random.default_rng(0).random((61, 128, 128))
    anom = xr.DataArray(
        da.from_array(values, chunks=((30, 31), (128,), (128,))) + 1, dims=("time", "lat", "lon"), name="anom"
    )
    with daskcache.activate():
        daskcache.persist(anom, "anom")
        size = sum(path.stat().st_size for path in producers.objects(store_root))
        marked = daskcache.checkpoint(anom, "anom")
        for stored in (daskcache.open("anom"), marked, anom):
            point = stored.isel(time=3, lat=3, lon=5)
            point.compute()
            before = bytes_read()
            assert point.compute() == values[3, 3, 5] + 1
            assert bytes_read() - before < size / 10
            before = bytes_read()
            assert (stored.isel(time=3) + 1).compute()[0, 0] == values[3, 0, 0] + 2
            assert bytes_read() - before < size / 10


PRODUCTS = {
    "creation": lambda: da.ones(6, chunks=2) + 0,
    "array": lambda: da.from_array(np.arange(6), chunks=2) + 0,
    "selection": lambda: da.from_array(np.arange(6), chunks=2)[[1, 3, 5, 4]] * 2,
    "lone": lambda: da.random.default_rng(0).random(6, chunks=2),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_dask_knows_what_brings_data_into_a_graph(store_root, name, policy):
    """It puts such tasks off until somebody needs them."""

    def count_producers(x):
        (planned,) = dask.optimize(x)
        return sum(task.data_producer for task in dict(planned.dask).values())

    expected = count_producers(PRODUCTS[name]())
    with daskcache.activate(policy=policy):
        x = PRODUCTS[name]()
        assert count_producers(daskcache.checkpoint(x, "x") if policy == "checkpoints" else x) == expected

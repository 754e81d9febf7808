"""The pass: the same results as without it, whatever dask makes of the rewritten graph."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache.errors import DaskcacheWarning, SourceChangedError
from daskcache.optimizer import Optimizer
from tests import producers
from tests.operations import OPERATIONS, grid, identical
from tests.producers import count, doubled, objects

EXPECTED = np.arange(12) * 2


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.mark.filterwarnings("ignore::daskcache.errors.DaskcacheWarning")
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_with_the_pass_as_without(store_root, name):
    operation = OPERATIONS[name]
    plain = operation(grid()).compute()
    with daskcache.activate():
        below = operation(daskcache.checkpoint(grid(), "below"))
        above = daskcache.checkpoint(operation(grid()), "above") if name != "unknown chunks" else below
        both = daskcache.checkpoint(below, "both") if name != "unknown chunks" else below
        for x in (below, above, both, operation(grid())):
            for _ in ("cold", "warm"):
                identical(x.compute(), plain)
            (planned,) = dask.optimize(x)
            identical(planned.compute(), plain)
            (kept,) = dask.persist(x)
            identical(kept.compute(), plain)
            assert kept.dtype == x.dtype
            assert kept.chunks == x.chunks or name == "unknown chunks"


def test_several_collections_at_once(store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        ds = xr.Dataset({"t": ("x", x), "u": ("x", x + 1)})
        for _ in ("cold", "warm"):
            one, two, three, four = dask.compute(x, x.sum(), ds, 7)
            assert (one == EXPECTED).all()
            assert (two, four) == (EXPECTED.sum(), 7)
            assert (three.u == EXPECTED + 1).all()
        assert count() == 4
        loaded = ds.load()
        assert (loaded.t.values == EXPECTED).all()
        assert count() == 0


def test_several_collections_of_equal_settings_are_one_call(store_root):
    """Arrays, Datasets and checkpoints of one compute share a pass, though each activation made an optimizer of its own."""
    calls = []

    def chained(dsk, keys, **kwargs):
        calls.append(keys)
        return dask.array.optimization.optimize(dsk, keys, **kwargs)

    with dask.config.set(array_optimize=chained), daskcache.activate():
        one = dask.config.get("array_optimize")
        x = daskcache.checkpoint(doubled(), "x")
    with dask.config.set(array_optimize=chained), daskcache.activate():
        two = dask.config.get("array_optimize")
        assert one is not two
        assert (one, hash(one)) == (two, hash(two))
        ds = xr.Dataset({"t": ("x", x), "u": ("x", x + 1)})
        dask.compute(x, x.sum(), ds, ds.u.mean(), doubled() - 1, 7)
    assert len(calls) == 1
    with dask.config.set(array_optimize=chained), daskcache.activate(namespace="other"):
        assert dask.config.get("array_optimize") != one
    with daskcache.activate():
        assert dask.config.get("array_optimize") != one, "another optimizer follows"


def test_two_objects_completed_by_one_compute(store_root):
    """Each gets its manifest, and an output that waits for both."""
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        y = daskcache.checkpoint(x + 1, "y")
        z = daskcache.checkpoint(y.sum(), "z")
        assert z.compute() == (EXPECTED + 1).sum()
    assert (daskcache.open("x").compute() == EXPECTED).all()
    assert (daskcache.open("y").compute() == EXPECTED + 1).all()
    assert daskcache.open("z").compute() == (EXPECTED + 1).sum()


def test_effects_happen_each_time(store_root, tmp_path):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        for number in range(2):
            target = np.zeros(12, "i8")
            da.store(x, target)
            assert (target == EXPECTED).all()
            x.to_zarr(str(tmp_path / f"plain{number}.zarr"))
            assert (zarr.open_array(str(tmp_path / f"plain{number}.zarr"))[:] == EXPECTED).all()
            xr.Dataset({"t": ("x", x)}).to_zarr(tmp_path / f"set{number}.zarr", consolidated=False)
            assert (xr.open_zarr(tmp_path / f"set{number}.zarr", consolidated=False).t == EXPECTED).all()
        assert count() == 4
    assert len(objects(store_root)) == 4


def test_keys_that_nobody_knows(store_root):
    """Asked for a key of no layer, dask raises as it does without the pass."""
    optimizer = Optimizer(daskcache.activation.Settings.from_config())
    x = doubled()
    planned = optimizer(x.dask, [(x.name, 0)])
    assert (x.name, 0) in dict(planned)


def test_annotations_survive(store_root):
    with daskcache.activate():
        with dask.annotate(priority=7):
            x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        rewritten = daskcache.optimizer.rewrite(
            x.dask, x.__dask_keys__(), daskcache.activation.active_settings()
        )
    assert rewritten.layers[x.name].annotations == {"priority": 7}


@pytest.mark.parametrize("inline", [False, True])
def test_a_source_that_changes_under_the_run(store_root, tmp_path, inline):
    path = str(tmp_path / "source.zarr")
    source = zarr.create_array(path, shape=(12,), chunks=(3,), dtype="i8")
    source[:] = np.arange(12)
    x = da.from_array(zarr.open_array(path, mode="r"), chunks=3, inline_array=inline) + 1
    with daskcache.activate():
        marked = daskcache.checkpoint(x, "x")
        (planned,) = dask.optimize(marked)
        source[:] = -1
        with pytest.raises(SourceChangedError, match="is not as it was when this run was planned"):
            planned.compute(optimize_graph=False)
        assert not objects(store_root)
        assert (marked.compute() == 0).all()
    assert (daskcache.open("x").compute() == 0).all()


def test_a_memory_map_is_copied_when_the_graph_is_made(store_root, tmp_path):
    """So the file may change under the run: what is stored under the old token are the old values."""
    path = tmp_path / "source.npy"
    np.save(path, np.arange(12))

    def pipeline():
        return da.from_array(np.load(path, mmap_mode="r"), chunks=3) + 1

    with daskcache.activate():
        before = daskcache.checkpoint(pipeline(), "x")
        (planned,) = dask.optimize(before)
        np.save(path, np.arange(12) * 5)
        assert (planned.compute(optimize_graph=False) == np.arange(12) + 1).all()
        assert (before.compute() == np.arange(12) + 1).all()
        assert (daskcache.checkpoint(pipeline(), "x").compute() == np.arange(12) * 5 + 1).all()


def test_what_cannot_be_keyed_is_said_once_and_computed(store_root):
    import time

    x = da.arange(6, chunks=3).map_blocks(
        lambda block: block + (time.time() > 0), dtype="i8", meta=np.empty(0, "i8")
    )
    with (
        daskcache.activate(),
        pytest.warns(DaskcacheWarning, match="2 blocks cannot be keyed and are not stored") as caught,
    ):
        assert (daskcache.checkpoint(x, "x").compute() == np.arange(6) + 1).all()
    assert len(caught) == 1
    assert not objects(store_root)

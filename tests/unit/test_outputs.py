"""The policy ``outputs``: what is computed for the user is stored, small or large, and a second run calls no producer."""

import os
import time

import dask
import dask.array as da
import dask.bag
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache.catalog.packs import list_packs
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from tests import producers
from tests.operations import OPERATIONS, grid, identical
from tests.producers import count, doubled, objects, produced

EXPECTED = np.arange(12) * 2


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def counted(dtype="f8"):
    """Make the pipeline that operations are tried on, with a producer at its root."""
    return grid().map_blocks(producers.double, dtype=dtype, meta=np.empty((0, 0), dtype))


@pytest.mark.parametrize("policy", ["outputs", "auto"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_with_the_policy_as_without(store_root, name, policy):
    operation = OPERATIONS[name]
    plain = operation(counted()).compute()
    count()
    with daskcache.activate(policy=policy):
        x = operation(counted())
        identical(x.compute(), plain)
        assert count()
        identical(operation(counted()).compute(), plain)
        assert count() == 0
        (kept,) = dask.persist(x)
        identical(kept.compute(), plain)
        (planned,) = dask.optimize(x)
        identical(planned.compute(), plain)
        assert count() == 0


RESULTS = {
    "array": lambda: doubled(),
    "scalar": lambda: (doubled() + 1).sum(),
    "several": lambda: [doubled(), doubled().mean(), {"a": doubled() * 3}, 7],
    "dataset": lambda: xr.Dataset({"t": ("x", doubled() - 1), "u": ("x", doubled() + 5), "v": 3}),
    "dataarray": lambda: xr.DataArray(doubled(), dims="x").mean(),
    "irregular": lambda: doubled(14, 4),
    "unknown chunks": lambda: (lambda x: x[x > 3])(doubled()),
    "no blocks": lambda: xr.Dataset({"v": 3}),
}


def run_all(policy):
    with daskcache.activate(policy=policy):
        return {name: dask.compute(make())[0] for name, make in RESULTS.items()}


def test_a_script_run_twice(store_root):
    plain = run_all("checkpoints")
    assert not objects(store_root)
    count()
    cold = run_all("outputs")
    assert count() == 8, "the second and all later results are made of the first"
    written = len(objects(store_root))
    warm = run_all("outputs")
    assert count() == 0
    assert len(objects(store_root)) == written
    for name, value in plain.items():
        for other in (cold[name], warm[name]):
            assert type(other) is type(value), name
            if isinstance(value, xr.Dataset | xr.DataArray):
                xr.testing.assert_identical(other, value)
            else:
                assert repr(other) == repr(value), name


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_outputs_that_need_each_other(store_root, policy):
    """The first waits until all are listed, but those that are made of it do not wait for the first."""
    blocks = {("x", 0): np.array([1, 2]), ("x", 1): (np.negative, ("x", 0)), ("x", 2): ("x", 1)}
    x = da.Array(blocks, "x", chunks=(2,), shape=(6,), dtype="i8")
    with daskcache.activate(policy=policy):
        for _ in ("cold", "warm"):
            for get in (dask.persist, dask.compute):
                (result,) = get(x)
                assert np.asarray(result).tolist() == [1, 2, -1, -2, -1, -2]


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_layers_that_hold_the_same_tasks(store_root, policy):
    """Of an LU decomposition each of three layers holds all tasks, and what is made of them names all three."""
    values = np.random.default_rng(0).random((6, 6)) + np.eye(6)
    p, lower, upper = dask.compute(*da.linalg.lu(da.from_array(values, chunks=3)))
    plain = (lower + 1) @ (p + upper * 2)
    with daskcache.activate(policy=policy), dask.config.set(scheduler="sync"):
        for _ in ("cold", "warm"):
            x = da.from_array(values, chunks=3)
            p, lower, upper = dask.persist(*da.linalg.lu(x))
            assert np.allclose(p @ lower @ upper, values)
            p, lower, upper = da.linalg.lu(x)
            found, _ = dask.compute((lower + 1) @ (p + upper * 2), lower)
            assert np.allclose(found, plain)
            assert np.allclose(da.linalg.inv(x).persist(), np.linalg.inv(values))
            assert np.allclose(da.linalg.solve(x, x[0]).compute(), np.linalg.solve(values, values[0]))


def test_explicit_loads_by_xarray(store_root):
    """``Dataset.compute`` and ``load`` give several arrays to one call."""
    with daskcache.activate(policy="outputs"):
        for expected in (4, 0):
            ds = xr.Dataset({"t": ("x", doubled()), "u": ("x", doubled() + 5)})
            assert (ds.compute().u == EXPECTED + 5).all()
            assert (ds.load().t == EXPECTED).all()
            assert count() == expected


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_effects_happen_each_time(store_root, tmp_path, policy):
    with daskcache.activate(policy=policy):
        for number in range(2):
            expected = 0 if number and policy != "checkpoints" else 4
            x = doubled()
            target = np.zeros(12, "i8")
            da.store(x, target)
            assert (target == EXPECTED).all()
            assert count() == expected
            path = str(tmp_path / f"array{number}.zarr")
            x.to_zarr(path)
            assert (zarr.open_array(path)[:] == EXPECTED).all()
            xr.Dataset({"t": ("x", x + 1)}).to_zarr(tmp_path / f"set{number}.zarr", consolidated=False)
            assert (xr.open_zarr(tmp_path / f"set{number}.zarr", consolidated=False).t == EXPECTED + 1).all()
            xr.Dataset({"t": ("x", x + 2)}).to_netcdf(tmp_path / f"set{number}.nc", engine="h5netcdf")
            with xr.open_dataset(tmp_path / f"set{number}.nc", engine="h5netcdf") as read:
                assert (read.t == EXPECTED + 2).all()
            later = xr.Dataset({"t": ("x", x + 3)}).to_zarr(
                tmp_path / f"later{number}.zarr", compute=False, consolidated=False
            )
            later.compute()
            assert (
                xr.open_zarr(tmp_path / f"later{number}.zarr", consolidated=False).t == EXPECTED + 3
            ).all()
            assert count() == (0 if policy != "checkpoints" else 16)


def test_writers_in_delayed(store_root, tmp_path):
    written = []

    def write(block):
        written.append(int(block.sum()))
        return len(written)

    with daskcache.activate(policy="outputs"):
        for number in (1, 2):
            assert dask.delayed(write)(doubled()).compute(scheduler="sync") == number
        assert written == [EXPECTED.sum()] * 2
        assert count() == 4


def write_one(block, path):
    np.save(f"{path}/{int(block[0])}.npy", block)
    return block


WRITERS = {
    "result": lambda x, path: x.map_blocks(write_one, path, dtype="i8", meta=np.empty(0, "i8")),
    "on the way": lambda x, path: x.map_blocks(write_one, path, dtype="i8", meta=np.empty(0, "i8")).sum(),
    "by xarray": lambda x, path: (
        xr.apply_ufunc(
            write_one, xr.DataArray(x, dims="x"), path, dask="parallelized", output_dtypes=["i8"]
        ).data
    ),
    "in delayed": lambda x, path: da.from_delayed(dask.delayed(write_one)(x, path), (12,), "i8"),
}


@pytest.mark.parametrize("policy", ["outputs", "auto"])
@pytest.mark.parametrize("name", WRITERS)
def test_functions_that_are_seen_to_write(store_root, tmp_path, name, policy):
    """They run each time, and what made their blocks does not."""
    expected = doubled().compute()
    count()
    with daskcache.activate(policy=policy, on_uncacheable="ignore"):
        for number, calls in enumerate((4, 0)):
            path = tmp_path / str(number)
            path.mkdir()
            result = WRITERS[name](doubled(), str(path)).compute(scheduler="sync")
            assert (result == (expected.sum() if name == "on the way" else expected)).all()
            assert len(list(path.iterdir())) == (1 if name == "in delayed" else 4)
            assert count() == calls
    with (
        daskcache.activate(policy=policy, on_uncacheable="raise"),
        pytest.raises(daskcache.errors.UncacheableError, match="writes a file"),
    ):
        WRITERS[name](doubled(), str(path)).compute()


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_what_a_script_collects_beside_its_results(store_root, policy):
    """A second run would print nothing."""

    def script():
        total, seen = np.zeros(4), []

        def collect(block, block_id=None):
            total[block_id[0]] = block.sum()
            return block

        def note(block):
            seen.append(block.sum())
            return block

        for function in (collect, note):
            doubled().map_blocks(function, dtype="i8", meta=np.empty(0, "i8")).compute(scheduler="sync")
        return total.sum(), sum(seen)

    with daskcache.activate(policy=policy, on_uncacheable="ignore"):
        for _ in range(2):
            assert script() == (EXPECTED.sum(), EXPECTED.sum())


def test_a_function_that_is_declared_to_have_an_effect(store_root):
    sent = []

    @daskcache.effect
    def send(block):
        sent.append(block.sum())
        return block

    def script():
        x = doubled().map_blocks(send, dtype="i8", meta=np.empty(0, "i8"))
        return (x.compute(scheduler="sync"), (x + 1).sum().compute(scheduler="sync"))

    with daskcache.activate(policy="outputs"):
        script()
        assert (len(sent), count()) == (8, 4)
        one, two = script()
    assert (len(sent), count()) == (16, 0)
    assert (one == EXPECTED).all()
    assert two == (EXPECTED + 1).sum()


def test_what_is_only_read_is_not_stored(store_root, tmp_path):
    path = str(tmp_path / "source.zarr")
    zarr.create_array(path, shape=(12,), chunks=(3,), dtype="i8")[:] = np.arange(12)
    with daskcache.activate(policy="outputs"):
        da.from_zarr(path).compute()
        xr.DataArray(np.arange(12), dims="x").chunk(x=3).compute()
        assert not objects(store_root)


SELECTIONS = {
    "of a source": lambda source, x: source[1:9],
    "of a selection of a source": lambda source, x: source[1:9][2:5],
    "of positions of a source": lambda source, x: source[1:9, None][::2, 0][3],
    "of an array": lambda source, x: x[1:9],
    "of a selection of an array": lambda source, x: x[1:9][2:5],
    "by xarray": lambda source, x: xr.DataArray(source, dims="x").isel(x=slice(1, 9)).isel(x=2).data,
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_what_is_selected_of_what_is_only_read_is_read_as_without(store_root, tmp_path, name, policy):
    """A write behind a selection keeps dask from reading no more than that."""
    path = str(tmp_path / "source.zarr")
    zarr.create_array(path, shape=(12,), chunks=(3,), dtype="i8")[:] = np.arange(12)
    x = SELECTIONS[name](da.from_zarr(path, chunks=6), da.from_array(np.arange(12), chunks=6))
    (plain,) = dask.optimize(x)
    expected = plain.compute()
    with daskcache.activate(policy=policy):
        (planned,) = dask.optimize(x)
        assert (x.compute() == expected).all()
        # What weighs comes when dask has put selections into reads.
        assert policy == "auto" or dict(planned.dask) == dict(plain.dask)
        assert not objects(store_root)
        # Of what was computed a selection is a result like any other.
        (doubled()[1:9][2:5] + 0).compute()
        assert objects(store_root)


@pytest.mark.parametrize("policy", ["checkpoints", "outputs", "auto"])
def test_groups_over_two_dimensions(store_root, policy):
    """Of each block by itself flox makes keys with numpy's integers."""

    def grouped():
        x = xr.Dataset({"x": (("a", "b", "c"), np.arange(24.0).reshape(2, 2, 6))}).chunk(a=1)
        by = xr.DataArray(np.array([[0.0, 0.0], [1.0, 1.0]]), dims=("a", "b"), name="by")
        return (x + 1).groupby(by).mean(method="blockwise")

    expected = grouped().compute()
    with daskcache.activate(policy="outputs"):
        (grouped() + 1).compute()
    with daskcache.activate(policy=policy):
        for _ in range(2):
            xr.testing.assert_identical(grouped().compute(), expected)


def as_array(block):
    producers._note()
    return np.asarray(block.sum())


def as_float(block):
    producers._note()
    return float(block.sum())


def scalar(function):
    return doubled(3).map_blocks(
        daskcache.version("1")(function), drop_axis=0, dtype="f8", meta=np.empty((), "f8")
    )


def test_arrays_without_dimensions_are_no_scalars(store_root):
    plain = scalar(as_array).compute()
    assert type(plain) is np.ndarray
    count()
    with daskcache.activate(policy="outputs"):
        for expected in (2, 0):
            identical(scalar(as_array).compute(), plain)
            assert count() == expected
        x = scalar(as_array)
        for selection in ((), ..., None):
            assert np.array_equal(x[selection].compute(), plain[selection])
        assert (x + 1).compute() == plain + 1
        settings = daskcache.activation.active_settings()
        loaded = daskcache.optimizer.rewrite(x.dask, x.__dask_keys__(), settings)
        key = (x.name,)
        assert GraphTokens(loaded, Fingerprinter()).token(key) == GraphTokens(x.dask, Fingerprinter()).token(
            key
        )
        count()
        for path in objects(store_root):
            path.unlink()
        with pytest.warns(daskcache.errors.DaskcacheWarning, match="computed again"):
            identical(scalar(as_array).compute(scheduler="sync"), plain)
        assert count() == 2


def as_short_array(block):
    return block[:1] * 1.0


@pytest.mark.parametrize("function", [as_float, as_short_array])
def test_what_would_come_back_as_another_type_is_computed_each_time(store_root, function):
    plain = scalar(function).compute()
    count()
    with daskcache.activate(policy="outputs"):
        for _ in range(2):
            result = scalar(function).compute()
            assert type(result) is type(plain)
            assert np.array_equal(result, plain)
            assert np.shape(result) == np.shape(plain)
            assert count() > 0
    assert not objects(store_root)


def test_objects_and_masked_arrays_are_computed_each_time(store_root):
    x = da.ma.masked_greater(da.arange(6, chunks=3), 3)
    texts = da.from_array(np.array(["a", "b"], "O"), chunks=1).map_blocks(
        lambda block: block + "c", dtype="O"
    )
    with daskcache.activate(policy="outputs"):
        for _ in range(2):
            assert x.compute().mask.tolist() == [False] * 4 + [True] * 2
            assert texts.compute().tolist() == ["ac", "bc"]


def test_texts_that_are_no_texts_are_computed_each_time(store_root):
    texts = da.from_array(np.array(["a", "\ud800"]), chunks=1).map_blocks(np.char.upper, dtype="U1")
    with daskcache.activate(policy="outputs"):
        for _ in range(2):
            assert texts.compute(scheduler="sync").tolist() == ["A", "\ud800"]
    assert len(objects(store_root)) == 1


def test_other_collections(store_root):
    """Of partitions that are no arrays nothing is stored, and bags of iterators stay what they are."""
    with daskcache.activate(policy="outputs"):
        for expected in (4, 0):
            assert dask.bag.from_sequence(range(6), npartitions=2).map(str).compute(scheduler="sync") == list(
                "012345"
            )
            blocks = doubled().to_delayed()
            assert (dask.compute(*blocks, scheduler="sync")[1] == EXPECTED[3:6]).all()
            assert count() == expected


@pytest.mark.parametrize("mode", ["read", "off"])
def test_nothing_is_stored_where_nothing_may_be(store_root, mode):
    with daskcache.activate(policy="outputs", mode=mode):
        assert (doubled().compute() == EXPECTED).all()
    assert not store_root.exists()


@daskcache.version("1")
def fail_at_the_third(block):
    if len(os.listdir(os.environ[producers.CALLS])) == 2:
        raise RuntimeError("this one")
    return producers.double(block)


def test_a_run_that_fails_keeps_what_it_listed(store_root, monkeypatch):
    """As one that is killed: what was stored some time ago is listed already."""
    monkeypatch.setattr("daskcache.journal._FLUSH_S", 0.3)
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        with pytest.raises(RuntimeError, match="this one"):
            produced(fail_at_the_third).compute()
        count()
        deadline = time.monotonic() + 10
        while not list_packs(str(store_root), "default") and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(3):
            producers._note()
        assert (produced(fail_at_the_third).compute() == EXPECTED).all()
        assert count() == 3 + 2


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_the_run_counts_what_it_stores_and_what_it_cannot(store_root, policy):
    def figures():
        run = daskcache.last_run()
        assert run.done
        return run.wanted, run.computed, run.stored, run.loaded, run.unstored

    with daskcache.activate(policy=policy):
        doubled(12).compute()
        assert figures() == (4, 4, 4, 0, 0)
        assert daskcache.last_run().stored_bytes == sum(path.stat().st_size for path in objects(store_root))
        doubled(24).compute()
        assert figures() == (4, 4, 4, 4, 0)
        doubled(24).compute()
        assert figures() == (0, 0, 0, 8, 0)
        da.from_delayed(dask.delayed(make_objects)(), (2,), object).compute()
        assert figures() == (1, 1, 0, 0, 1)


@daskcache.version("1")
def make_objects():
    return np.array([{1}, {2}], object)


def test_blocks_have_the_same_keys_each_time(store_root):
    """By them a cluster knows what it computes already. Where nothing goes into a task, a process has an order of its own."""
    with daskcache.activate(policy="outputs"):
        x = doubled()
        one, two = (dask.delayed(np.sum)(x) for _ in range(2))
        assert len(set(one.dask) & set(two.dask)) == x.npartitions

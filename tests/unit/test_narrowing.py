"""Selections behind reads: what is read is what they leave, and the values are as without the pass."""

from __future__ import annotations

import operator

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.array.chunk import getitem
from dask.array.optimization import optimize
from dask.core import flatten
from dask.local import get_sync
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import daskcache
from daskcache import Hints
from daskcache.dask_internals import Alias, DataNode, Task, TaskRef, getter
from daskcache.narrowing import narrow_reads
from daskcache.optimizer import rewrite
from daskcache.pool import StoredBlock
from tests import producers

VALUES = np.arange(24 * 20 * 10.0).reshape(24, 20, 10)
DIMS = ("time", "lat", "lon")
HINTS = Hints("time", chunks={"time": -1, "lat": 2, "lon": 5})

SELECTIONS = {
    "one after another": lambda x: x[3:20][:, 4][:, 2:5],
    "all of a block": lambda x: x[6:18][:, 3, 5],
    "back to front": lambda x: x[::-1][2:9][:, ::2][:, :, 7],
    "steps": lambda x: x[1::5][:, 2::3][1:, 1:][0],
    "nothing left": lambda x: x[5:5][:, 2],
    "an array": lambda x: x[4:20][:, [1, 5, 3]][:, 1],
    "a new axis": lambda x: x[4:20][:, None][:, 0, 3],
    "calculation between": lambda x: (x[4:20][:, 2:9] * 2)[:, 1:3],
}


@pytest.fixture
def sizes(monkeypatch):
    """Notes how many elements each read of a block gives."""
    found: list[int] = []
    get = StoredBlock.__getitem__

    def noted(self, index):
        values = get(self, index)
        found.append(np.size(values))
        return values

    monkeypatch.setattr(StoredBlock, "__getitem__", noted)
    return found


@pytest.mark.parametrize("selection", SELECTIONS)
def test_values_are_those_without_the_pass(selection, tmp_path) -> None:
    select = SELECTIONS[selection]
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 10, 10)) + 1, "x", hints=None)
        np.testing.assert_array_equal(select(stored).compute(), select(VALUES + 1))


def test_no_more_is_read_than_the_selections_leave(sizes, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 20, 10)) + 1, "x")
        for selection in ("one after another", "all of a block", "steps", "back to front"):
            sizes.clear()
            selected = SELECTIONS[selection](stored).compute(scheduler="sync")
            assert sum(sizes) == selected.size, selection


def test_what_several_need_is_read_once(sizes, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=-1) + 1, "x")
        part = stored[2:10]
        first, second = dask.compute(part[:, 3], part[:, 4] + part[:, 5])
    np.testing.assert_array_equal(first, VALUES[2:10, 3] + 1)
    np.testing.assert_array_equal(second, VALUES[2:10, 4] + VALUES[2:10, 5] + 2)


def test_a_graph_that_dask_has_not_fused_is_left_alone(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)), dask.config.set({"optimization.fuse.active": False}):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 20, 10)) + 1, "x")
        np.testing.assert_array_equal(stored[3:20][:, 4].compute(), VALUES[3:20, 4] + 1)


# Selections in several tasks. Blocks are 12 long in time, the last is shorter, and hold 10 x 2 inner chunks.


@pytest.fixture
def inner_chunks(monkeypatch):
    """Notes, for each read of a block, how many inner chunks hold what it reads; they are (12, 2, 5) long."""
    found: list[int] = []
    read = StoredBlock._read

    def noted(self, selection):
        starts = [
            (part.start // n, part.stop, n)
            for part, n in zip(selection.region, self.spec.inner_shape, strict=True)
        ]
        found.append(int(np.prod([len(range(start, -(-stop // n))) for start, stop, n in starts])))
        return read(self, selection)

    monkeypatch.setattr(StoredBlock, "_read", noted)
    return found


def fields(dtype="f8") -> xr.DataArray:
    return xr.DataArray((VALUES[:20] % 7).astype(dtype), dims=DIMS)


def persisted(name="anomaly", dtype="f8") -> xr.DataArray:
    return (fields(dtype).chunk(time=12) + np.ones((), dtype)).cache.persist(name, hints=HINTS)


def minus_mean(x):
    series = x.isel(lat=3, lon=5)
    return series - series.mean()


# What is done, and how many inner chunks are read of each of the two blocks, which have 20.
SEVERAL = {
    "p - p.mean()": (minus_mean, [1]),
    "diff": (lambda x: x.isel(lat=3, lon=5).diff("time"), [1]),
    "two points": (lambda x: (x.isel(lat=3, lon=5), x.isel(lat=12, lon=2)), [1, 1]),
    "two points of an inner chunk": (lambda x: (x.isel(lat=2, lon=5), x.isel(lat=3, lon=9)), [1]),
    "points with one used twice": (lambda x: (minus_mean(x), x.isel(lat=18, lon=0)), [1, 1]),
    "a list": (lambda x: x.isel(lat=[1, 5]), [6]),
    "a list back to front": (lambda x: x.isel(lat=[5, 1, 1, 3]), [6]),
    "two lists": (lambda x: x.isel(lat=[1, 5], lon=[4, 2]), [3]),
    "a list of a part": (lambda x: x.isel(lon=3).isel(lat=[4, 0]) + x.isel(lat=0, lon=3), [3, 1]),
    "steps": (lambda x: x[::5, 1:9:3, 7] + x[::5, 1:9:3, 8], [4]),
    "back to front": (lambda x: x[:, 9:4:-2, 3] - x[:, 9:4:-2, 3].mean(), [3]),
    "numbers and slices": (lambda x: x[:, 4:6, 2] - x[:, 4:6, 2].mean(), [1]),
    "an ellipsis": (lambda x: x[..., 2] - x[..., 2].mean(), [10]),
    "a new axis": (lambda x: x[:, 4].expand_dims("a", 1) - x[:, 4].mean(), [2]),
    "overlapping": (lambda x: x[:, 2:8].data + x[:, 4:10].data, [8]),
    "most of it": (lambda x: x[:, :18, :9].data + x[:, 2:, 1:].data, [20]),
}


def values_of(result):
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("name", SEVERAL)
def test_tasks_read_their_own_part(name, scheduler, inner_chunks, tmp_path) -> None:
    select, expected = SEVERAL[name]
    with daskcache.activate(str(tmp_path)), dask.config.set(scheduler=scheduler):
        stored = persisted()
        inner_chunks.clear()
        (found,) = dask.compute(select(stored))
    assert sorted(inner_chunks) == sorted(expected * 2)
    for value, wanted in zip(values_of(found), values_of(select(fields() + 1)), strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


def test_what_is_no_selection_reads_all_once(inner_chunks, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = persisted()
        for other in (lambda x: x.sum(), lambda x: x.astype("f4"), lambda x: x.isel(lat=3).where(x > 3)):
            inner_chunks.clear()
            found, _, point = dask.compute(other(stored), stored.isel(lat=1), stored.isel(lat=3, lon=5))
            assert sorted(inner_chunks) == [20, 20]
            np.testing.assert_array_equal(found, other(fields() + 1))
            np.testing.assert_array_equal(point, fields()[:, 3, 5] + 1)


def test_calculations_before_a_selection_read_all(inner_chunks, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = persisted()
        inner_chunks.clear()
        np.testing.assert_array_equal((stored * 2).isel(lat=3, lon=5), fields()[:, 3, 5] * 2 + 2)
    assert sorted(inner_chunks) == [20, 20]


def test_pairs_of_points_read_all(inner_chunks, tmp_path) -> None:
    pairs = {"lat": xr.DataArray([1, 5], dims="point"), "lon": xr.DataArray([2, 4], dims="point")}
    with daskcache.activate(str(tmp_path)):
        stored = persisted()
        inner_chunks.clear()
        np.testing.assert_array_equal(stored.isel(pairs), fields().isel(pairs) + 1)
    assert sorted(inner_chunks) == [20, 20]


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "c16", "?"])
def test_dtypes_are_kept(dtype, inner_chunks, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        data = fields(dtype)
        stored = data.chunk(time=12).cache.persist("x", hints=HINTS)
        inner_chunks.clear()
        first, second, one = dask.compute(stored[:, 3, 5], stored[:, [8, 9], 2], stored[15, 3, 5])
    assert len(inner_chunks) == 5
    assert sum(inner_chunks) == 5
    for found, wanted in [(first, data[:, 3, 5]), (second, data[:, [8, 9], 2]), (one, data[15, 3, 5])]:
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "values", [np.array(["a", "bc", "d"] * 8), np.datetime64("2000-01-01") + np.arange(24)]
)
def test_what_has_no_inner_chunks_is_read_once(values, sizes, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(values, chunks=12), "x")
        sizes.clear()
        found = dask.compute(stored[3:5], stored[[1, 7]], stored[2])
    assert sizes == [12]
    for got, wanted in zip(found, (values[3:5], values[[1, 7]], values[2]), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_array_without_dimensions_is_left_alone(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(np.array(3.0), chunks=()) + 1, "x")
        np.testing.assert_array_equal(stored[None] + stored[...], [8])


def test_selections_of_what_is_selected_read_once(inner_chunks, tmp_path) -> None:
    """The second step reads no more than the first, where both are wanted."""
    with daskcache.activate(str(tmp_path)):
        stored = persisted()
        series = stored.isel(lat=3, lon=slice(2, 8))
        inner_chunks.clear()
        found = dask.compute(series.sum(), series.isel(lon=1), series.isel(lon=4))
    assert inner_chunks == [2, 2]
    wanted = (fields() + 1).isel(lat=3, lon=slice(2, 8))
    for value, expected in zip(found, (wanted.sum(), wanted[:, 1], wanted[:, 4]), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b"no block" * 400), lambda path: path.unlink()]
)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_bad_blocks_are_computed_once(damage, scheduler, tmp_path, monkeypatch) -> None:
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv(producers.CALLS, str(tmp_path / "calls"))
    with daskcache.activate(str(tmp_path)), dask.config.set(scheduler=scheduler):
        blocks = da.from_array(VALUES[:20], chunks=(12, 20, 10)).map_blocks(
            producers.double, meta=np.empty((0, 0, 0))
        )
        marked = xr.DataArray(blocks, dims=DIMS).cache.checkpoint("x", hints=HINTS)
        marked.compute()
        assert producers.count() == 2
        points = [marked[:, 3, 5], marked[:, 12, 2], minus_mean(marked), marked[:, [3, 4], 5]]
        planned = dask.optimize(*points)
        for path in producers.objects(tmp_path):
            damage(path)
        with pytest.warns(daskcache.DaskcacheWarning, match="computed again, the result is right"):
            found = dask.compute(*planned)
    assert producers.count() == 2
    values = xr.DataArray(VALUES[:20] * 2, dims=DIMS)
    wanted = [values[:, 3, 5], values[:, 12, 2], minus_mean(values), values[:, [3, 4], 5]]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("ignore:Port .* is already in use", "ignore::ResourceWarning")
def test_tasks_read_their_own_part_on_a_cluster(inner_chunks, tmp_path) -> None:
    with (
        daskcache.activate(str(tmp_path)),
        Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None),
    ):
        stored = persisted()
        for name in ("p - p.mean()", "two points", "two points of an inner chunk", "two lists"):
            select, expected = SEVERAL[name]
            inner_chunks.clear()
            (found,) = dask.compute(select(stored))
            assert sorted(inner_chunks) == sorted(expected * 2), name
            for value, wanted in zip(values_of(found), values_of(select(fields() + 1)), strict=True):
                np.testing.assert_array_equal(value, wanted)


# The pass's own part, on graphs that dask has optimised.


def optimised(arrays, keys=None):
    """Give what dask makes of arrays' graph with loads in it, and the keys that are wanted."""
    merged = {key: task for array in arrays for key, task in dict(array.__dask_graph__()).items()}
    wanted = set(flatten([array.__dask_keys__() for array in arrays]))
    settings = daskcache.config.Settings.from_config()
    return dict(optimize(rewrite(merged, list(wanted), settings), list(wanted))), wanted


def test_the_graph_does_not_grow_and_keys_stay(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = persisted().data
        for name, (select, _) in SEVERAL.items():
            result = select(xr.DataArray(stored, dims=DIMS))
            results = result if isinstance(result, tuple) else (result,)
            parts = [part if isinstance(part, da.Array) else part.data for part in results]
            before, wanted = optimised(parts)
            after = narrow_reads(before, wanted)
            assert len(after) <= len(before), name
            assert wanted <= after.keys(), name
            assert {dep for node in after.values() for dep in node.dependencies} <= after.keys(), name
            made = {key for key in after.keys() - before.keys() if type(key) is not str}
            assert not made, name  # no key with numbers of blocks that the graph before did not know
            values = get_sync(before, sorted(wanted, key=str))
            for one, other in zip(values, get_sync(after, sorted(wanted, key=str)), strict=True):
                np.testing.assert_array_equal(one, other)


def test_what_is_wanted_itself_is_read_once(inner_chunks, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = persisted().data
        arrays = [stored, stored[:, 3, 5], stored[:, [1, 5]]]
        graph, wanted = optimised(arrays)
        narrowed = narrow_reads(graph, wanted)
        assert narrowed.keys() == graph.keys()
        inner_chunks.clear()
        values = get_sync(narrowed, [array.__dask_keys__() for array in arrays])
    assert inner_chunks == [20, 20]
    np.testing.assert_array_equal(np.concatenate(values[1]), VALUES[:20, 3, 5] % 7 + 1)


def test_where_the_wanted_are_not_known_all_reads_stay(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = persisted().data
        graph, wanted = optimised([stored[:, 3, 5] - stored[:, 12, 2], stored[:, 4]])
        loads = {key for key, node in graph.items() if isinstance(node, Task) and node.func is getter}
        assert loads <= narrow_reads(graph).keys()
        assert not loads & narrow_reads(graph, wanted).keys()


def load_of(stored: xr.DataArray) -> Task:
    key = next(iter(flatten(stored.data.__dask_keys__())))
    return dict(stored.data.__dask_graph__())[key]


def test_tasks_of_others_are_left_alone(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        read = load_of(persisted())
        alien = {"x": read, "a": Task("a", getitem, TaskRef("x"), DataNode(None, (0, 3))), "b": (len, "x")}
        assert narrow_reads(alien, {"a", "b"}) == alien


def nodes(name, *indices):
    """Make tasks that select from a read, each from the one before or from the read."""
    before = [name, *(f"{name}{number}" for number in range(len(indices)))]
    return {
        f"{name}{number}": Task(
            f"{name}{number}", operator.getitem, TaskRef(before[start]), DataNode(None, index)
        )
        for number, (start, index) in enumerate(indices)
    }


def test_long_chains_of_selections_do_not_recurse(inner_chunks, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        read = load_of(persisted())
        steps = nodes("x", *((number, (slice(None, 99),)) for number in range(3000)), (3000, (0, 3)))
        graph = {"x": read, **steps, "y": Alias("y", "x3000")}
        after = narrow_reads(graph, {"y"})
        assert after.keys() == {"y"}
        inner_chunks.clear()
        np.testing.assert_array_equal(get_sync(after, "y"), VALUES[0, 3] % 7 + 1)
    assert inner_chunks == [2]


numbers = st.integers(-3, 2)
pieces = st.one_of(
    numbers,
    st.slices(5),
    st.none(),
    st.just(Ellipsis),
    st.lists(st.integers(-2, 1), min_size=1, max_size=3),
)
indices = st.lists(pieces, max_size=4).map(tuple)
ROOT = "memory://test-narrowing"


@given(
    chains=st.lists(st.tuples(st.integers(0, 2), indices), min_size=1, max_size=5),
    wanted=st.sets(st.integers(0, 4)),
)
def test_any_selections_give_what_numpy_gives(chains, wanted) -> None:
    """Whatever selects from whatever, each value is the one that it was, or the same error."""
    with daskcache.activate(ROOT):
        stored = persisted("any")
    read = load_of(stored)
    tasks = nodes("x", *((min(start, number), index) for number, (start, index) in enumerate(chains)))
    block = np.asarray(read.args[0].value)
    expected = {"x": block}
    for key, task in tasks.items():
        source = expected.get(task.args[0].key)
        try:
            expected[key] = None if source is None else source[task.args[1].value]
        except (IndexError, TypeError, ValueError):
            expected[key] = None  # and what needs it
    tasks = {key: task for key, task in tasks.items() if expected[key] is not None}
    needed = {dep for task in tasks.values() for dep in task.dependencies}
    asked = {f"x{number}" for number in wanted} & tasks.keys() | tasks.keys() - needed or {"x"}
    after = narrow_reads({"x": read, **tasks}, asked)
    for key in asked:
        found = get_sync(after, key)
        assert type(found) is type(expected[key])
        assert found.dtype == expected[key].dtype
        np.testing.assert_array_equal(found, expected[key])
        assert found.shape == expected[key].shape

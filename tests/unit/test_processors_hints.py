"""Hints: the inner chunks that follow from them, and what is read of a store that has them."""

from __future__ import annotations

import itertools
import math

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache import Access, Hints, stores, timeseries
from daskcache.chunks import inner_ranges
from daskcache.chunks.hints import MIN_TARGET_BYTES, PARTS, TARGET_BYTES, plan_inner
from daskcache.errors import InvalidInputError
from daskcache.stores import local, opened
from tests.producers import CALLS, count, double

DIMS = ("time", "lat", "lon")


def test_forms_that_are_equal() -> None:
    assert (
        Hints.of("time") == Hints.of(Access("time")) == Hints.of({"time": 1}) == Hints.of([Access(["time"])])
    )
    assert Hints.of(("lat", "lon")) == Hints.of({("lon", "lat"): 1.0})
    assert Hints.of(None) is None
    assert Hints.of(Hints()) is None
    assert Hints(target="1 MiB") == Hints(target=2**20)
    assert hash(Hints.of({"time": 2})) == hash(Hints.of({"time": 2}))


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        {"time": 0},
        {"time": -1},
        {"time": math.nan},
        [Access("time"), "lat"],
        {3: 1},
    ],
)
def test_what_is_no_hint_is_refused(wrong) -> None:
    with pytest.raises(InvalidInputError):
        Hints.of(wrong)


@pytest.mark.parametrize(
    "wrong", [{"target": 0}, {"target": "much"}, {"chunks": {"time": 0}}, {"chunks": {"time": True}}]
)
def test_what_is_no_length_is_refused(wrong) -> None:
    with pytest.raises(InvalidInputError):
        Hints("time", **wrong)


@pytest.mark.parametrize("along", [{"time": 1.5}, {"time": 0}, 7, {"time": True}])
def test_what_is_no_access_is_refused(along) -> None:
    with pytest.raises(InvalidInputError):
        Access(along)


def test_persist_refuses_hints_before_anything_is_computed(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="expected a dimension"):
        daskcache.persist(da.ones(4, chunks=2), "x", hints=3, store=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_tables_choose_by_argument() -> None:
    table = {"grid": {"fine": {"lat": 4, "lon": 4}, "coarse": {"lat": -1}}}
    hints = Hints("time", chunks={"time": 10}, chunk_by_arg=table)
    assert hints.resolve({"grid": "fine"}) == Hints("time", chunks={"time": 10, "lat": 4, "lon": 4})
    assert hints.resolve({"grid": "coarse"}).chunks == (("lat", -1), ("time", 10))
    assert hints.resolve({"grid": "other"}) == hints.resolve({}) == Hints("time", chunks={"time": 10})
    assert Hints(chunk_by_arg={"n": {1: {"lat": 2}}}).resolve({"n": True}).chunks == ()


def test_merging_adds_accesses() -> None:
    merged = Hints("time", target=1).merge(Hints({("lat", "lon"): 2}, chunks={"lat": 3}))
    assert merged == Hints([Access("time"), Access(("lat", "lon"), 2)], 1, {"lat": 3})


def touched(access: Access, block: tuple[int, ...], inner: tuple[int, ...]) -> float:
    return math.prod(
        min(b, access.length(dim, b) + c - 1) / c for dim, b, c in zip(DIMS, block, inner, strict=True)
    )


@pytest.mark.parametrize("block", [(24, 18, 36), (30, 45, 12), (73, 10, 20)])
@pytest.mark.parametrize(
    "hints",
    [
        Hints.of("time"),
        Hints.of(("lat", "lon")),
        Hints.of({"time": 4, ("lat", "lon"): 1}),
        Hints([Access({"time": None, "lat": 3, "lon": 0.25})]),
    ],
)
def test_no_shape_that_fits_is_touched_less(block, hints) -> None:
    # Every shape there is, one by one.
    target = 4000
    hints = Hints(hints.access, target)
    inner = plan_inner(hints, DIMS, block, (False, False, False), 4)
    assert inner is not None

    def cost(shape):
        return sum(access.weight * touched(access, block, shape) for access in hints.access)

    divisors = [[c for c in range(1, b + 1) if b % c == 0] for b in block]
    fitting = [shape for shape in itertools.product(*divisors) if math.prod(shape) * 4 <= target]
    assert inner in fitting
    assert cost(inner) == pytest.approx(min(map(cost, fitting)))


def test_the_default_target_follows_the_block() -> None:
    for block in [(73, 181, 360), (365, 721, 1440), (30, 60, 90), (1000, 100, 100)]:
        inner = plan_inner(Hints.of("time"), DIMS, block, (False, True, True), 4)
        assert inner is not None
        nbytes = math.prod(inner) * 4
        assert nbytes <= min(TARGET_BYTES, max(math.prod(block) * 4 // PARTS, MIN_TARGET_BYTES))
        assert inner[0] == block[0]


def test_only_what_is_held_in_one_block_is_padded() -> None:
    block = (73, 181, 359)
    inner = plan_inner(Hints.of("time"), DIMS, block, (False, False, True), 4)
    assert inner is not None
    assert inner[1] in (1, 181)
    assert 359 % inner[2]


def test_small_blocks_and_other_dimensions_are_left_in_one_piece() -> None:
    assert plan_inner(Hints.of("time"), DIMS, (10, 10, 10), (False,) * 3, 4) is None
    assert plan_inner(Hints.of("level"), DIMS, (365, 180, 360), (False,) * 3, 4) is None
    assert plan_inner(Hints.of("time"), (), (), (), 4) is None


def test_lengths_that_are_given_are_taken() -> None:
    hints = Hints("time", chunks={"lat": 10, "lon": 7})
    inner = plan_inner(hints, DIMS, (365, 180, 360), (False,) * 3, 4)
    assert inner is not None
    assert inner[1:] == (10, 6)
    # Even where they are larger than the target.
    large = Hints(chunks={"time": -1, "lat": -1, "lon": 180}, target=1000)
    assert plan_inner(large, DIMS, (365, 180, 360), (False,) * 3, 4) == (365, 180, 180)


class Read:
    """Counts the bytes of blocks that come out of local stores."""

    def __init__(self) -> None:
        self.nbytes = 0

    def during(self, call):
        self.nbytes = 0
        result = call()
        return result, self.nbytes


@pytest.fixture
def read(monkeypatch):
    counter = Read()
    get, get_part = local.get, opened.DiskStore.get

    def counted(path, *args):
        found = get(path, *args)
        if found is not None and "/chunks/" in str(path):
            counter.nbytes += len(found)
        return found

    async def counted_part(self, key, *args, **kwargs):
        found = await get_part(self, key, *args, **kwargs)
        if found is not None and key.startswith("chunks/"):
            counter.nbytes += len(found)
        return found

    monkeypatch.setattr(local, "get", counted)
    monkeypatch.setattr(opened.DiskStore, "get", counted_part)
    return counter


def fields(days: int, lats: int, lons: int, block: int) -> xr.Dataset:
    """Waves with noise, which compress as weather does."""

    def field(template, block_info=None):
        (start, stop), *_ = block_info[None]["array-location"]
        day = np.arange(start, stop)[:, None, None]
        noise = np.random.default_rng(start).standard_normal((stop - start, lats, lons))
        wave = np.sin(day / 58) * 10 + np.linspace(0, 40, lats)[:, None] + np.linspace(0, 3, lons)
        return (np.round(wave + noise, 2)).astype("f4")

    template = da.zeros((days, lats, lons), chunks=(block, lats, lons), dtype="f4")
    values = template.map_blocks(field, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    return xr.Dataset({"t": (DIMS, values)})


def compare(ds: xr.Dataset, read: Read, url: str, point: tuple[int, int], day: int) -> dict[str, float]:
    """Read a series and a map from a hinted store and from one without, and give the ratios of bytes."""
    plain = ds.cache.persist("plain", store=f"{url}-plain")
    hinted = ds.cache.persist("hinted", store=f"{url}-hinted", hints="time")
    lat, lon = point
    found = {}
    for name, stored in [("plain", plain), ("hinted", hinted)]:
        found[name, "series"] = read.during(lambda stored=stored: stored.t[:, lat, lon].compute())
        found[name, "map"] = read.during(lambda stored=stored: stored.t[day].compute())
    for what in ("series", "map"):
        xr.testing.assert_identical(found["plain", what][0], found["hinted", what][0])
    needed = 0
    store = stores.open(f"{url}-hinted")
    for index in np.ndindex(*hinted.t.data.numblocks):
        block = block_of(hinted.t.data, index)
        assert block.spec.inner_shape is not None
        grid = [c // i for c, i in zip(block.spec.chunk_shape, block.spec.inner_shape, strict=True)]
        ranges = inner_ranges(stores.get(store, block.key), block.spec)
        _, inner_lat, inner_lon = block.spec.inner_shape
        for time in range(grid[0]):
            needed += ranges[np.ravel_multi_index((time, lat // inner_lat, lon // inner_lon), grid)][1]
    return {
        "of what it needs": found["hinted", "series"][1] / needed,
        "fewer": found["plain", "series"][1] / found["hinted", "series"][1],
        "map": found["hinted", "map"][1] / found["plain", "map"][1],
    }


def block_of(array: da.Array, index: tuple[int, ...]):
    task = array.dask[(array.name, *index)]
    return next(arg for arg in (getattr(a, "value", a) for a in task.args) if hasattr(arg, "token"))


def check(ratios: dict[str, float]) -> None:
    assert ratios["of what it needs"] <= 2, ratios
    assert ratios["fewer"] >= 20, ratios
    assert ratios["map"] <= 1.5, ratios


def test_a_series_reads_its_inner_chunks_and_a_map_no_more_than_before(read, tmp_path) -> None:
    check(compare(fields(365, 90, 120, 73), read, str(tmp_path / "store"), (40, 77), 100))


@pytest.mark.nightly
def test_the_same_of_a_gigabyte(read, tmp_path) -> None:
    ratios = compare(fields(3650, 181, 360, 73), read, str(tmp_path / "store"), (91, 200), 1000)
    check(ratios)


def test_selections_behind_a_checkpoint_read_inner_chunks(read, tmp_path) -> None:
    url = str(tmp_path / "store")
    ds = fields(146, 90, 120, 73)
    with daskcache.activate(url):
        marked = ds.cache.checkpoint("marked", hints="time")
        whole = marked.t.compute()
        series, nbytes = read.during(lambda: marked.t.isel(lat=3, lon=5).compute())
    xr.testing.assert_identical(series, whole.isel(lat=3, lon=5))
    assert 0 < nbytes * 20 < whole.nbytes


@pytest.fixture
def calls(tmp_path, monkeypatch):
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def doubles() -> xr.Dataset:
    ones = da.arange(146 * 40 * 60, chunks=73 * 40 * 60, dtype="f4").reshape(146, 40, 60)
    return xr.Dataset({"t": (DIMS, ones.map_blocks(double, dtype="f4", meta=np.empty((0, 0, 0), "f4")))})


def inner_of(stored: xr.Dataset) -> tuple[int, ...] | None:
    return block_of(stored.t.data, (0, 0, 0)).spec.inner_shape


def test_another_hint_is_another_form_of_what_is_stored(tmp_path, calls) -> None:
    with daskcache.activate(str(tmp_path / "store")):
        plain = doubles().cache.persist("plain")
        assert count() == 2
        series = doubles().cache.persist("series", hints="time")
        maps = doubles().cache.checkpoint("maps", hints=("lat", "lon"))
        xr.testing.assert_identical(maps.compute(), plain.compute())
        opened_maps = daskcache.open("maps")
        assert count() == 0
        forms = [inner_of(stored) for stored in (plain, series, opened_maps)]
    assert forms[0] is None
    assert forms[1][0] == 73
    assert forms[2][0] < 73
    assert forms[2][1:] == (40, 60)


def test_hints_are_no_part_of_what_is_computed(tmp_path, calls) -> None:
    with daskcache.activate(str(tmp_path)):
        hinted = doubles().cache.persist("hinted", hints="time")
        assert hinted.cache.token == doubles().cache.token
        assert (hinted + 1).cache.token == (doubles() + 1).cache.token


def test_what_was_stored_with_hints_keeps_its_form(tmp_path, calls) -> None:
    with daskcache.activate(str(tmp_path / "store")):
        marked = doubles().cache.checkpoint("marked", hints="time")
        marked.compute()
        assert marked.cache.status().is_complete
        count()
        again = marked.cache.persist("again")
        assert inner_of(again) == inner_of(daskcache.open("marked"))
        before = set((tmp_path / "store" / "chunks").rglob("*"))
        daskcache.open("marked").cache.persist("copy")
        assert set((tmp_path / "store" / "chunks").rglob("*")) == before
        assert count() == 0


def test_plain_readers_open_what_was_stored_with_hints(tmp_path, calls) -> None:
    ds = doubles()
    ds.cache.persist("hinted", store=str(tmp_path / "store"), hints="time")
    (manifest,) = (tmp_path / "store" / "namespaces").rglob("@/*.json")
    root = f"file://{tmp_path / 'store'}/"
    with xr.open_dataset(
        "reference://",
        engine="zarr",
        backend_kwargs={
            "consolidated": False,
            "storage_options": {
                "fo": str(manifest),
                "template_overrides": {"root": root},
                "remote_protocol": "file",
            },
        },
    ) as opened_plainly:
        np.testing.assert_array_equal(opened_plainly.t, ds.t)


def test_irregular_blocks_keep_their_own_inner_chunks(tmp_path) -> None:
    values = da.ones((61, 90, 120), chunks=((31, 30), 90, 120), dtype="f8")
    irregular = da.concatenate([values, values], axis=0)
    stored = xr.Dataset({"t": (DIMS, irregular)}).cache.persist("x", hints="time", store=str(tmp_path))
    assert inner_of(stored) == (1, 90, 120)


@timeseries("time")
@daskcache.cache
def weather(start_time=None, end_time=None):
    labels = pd.date_range("2001-01-01", periods=292)
    return fields(292, 90, 120, 73).assign_coords(time=labels)


@pytest.mark.filterwarnings("ignore:.*block_info")
def test_a_request_inside_what_is_stored_reads_the_inner_chunks_that_it_touches(read, tmp_path) -> None:
    with daskcache.activate(str(tmp_path / "store")):
        whole = weather("2001-01-01", "2001-10-19").compute()
        found = weather("2001-03-20", "2001-06-10")
        assert inner_of(weather(None, "2001-10-19")) is not None
        series, nbytes = read.during(lambda: found.t.isel(lat=40, lon=77).compute())
    xr.testing.assert_identical(
        series, whole.t.sel(time=slice("2001-03-20", "2001-06-10")).isel(lat=40, lon=77)
    )
    # It lies in two blocks, in one inner chunk of each; and their indexes are read.
    store = stores.open(str(tmp_path / "store"))
    sizes = []
    for index in [(1, 0, 0), (2, 0, 0)]:
        block = block_of(weather(None, None).t.data, index)
        ranges = inner_ranges(stores.get(store, block.key), block.spec)
        sizes.append(max(size for _, size in ranges) + 16 * len(ranges) + 4)
    assert 0 < nbytes <= sum(sizes)

"""A plain store that is kept up to date: what changed is written, and nothing else; nobody who reads it is disturbed."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import dask.array as da
import flox.xarray
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from zarr.storage import MemoryStore, WrapperStore

import daskcache
from daskcache import stores
from daskcache.cli import cache
from daskcache.errors import EntryNotFoundError, InvalidInputError, NotStoredError, StoreError
from daskcache.transfer import claims
from tests.labelled import OBJECTS
from tests.pipelines import PIPELINES, write_sources
from tests.producers import objects


class Counting(WrapperStore):
    """Any store of Zarr's, and how often each key was put."""

    def __init__(self, store: Any = None) -> None:
        super().__init__(store or MemoryStore())
        self.puts: Counter[str] = Counter()

    async def set(self, key: str, value: Any) -> None:
        self.puts[key] += 1
        await super().set(key, value)

    def take(self) -> tuple[set[str], set[str]]:
        """Give the chunks and the documents that were put, and begin anew."""
        puts, self.puts = self.puts, Counter()
        ours = {key for key in puts if key.endswith(claims.CLAIMS)}
        documents = {key for key in puts if key.endswith("zarr.json")}
        chunks = set(puts) - ours - documents
        assert all(puts[key] == 1 for key in chunks | documents)
        return chunks, documents


def source(path: Path, days: int) -> None:
    """Write the source of a pipeline, or let it grow."""
    values = np.random.default_rng(1).random((400, 4, 6)).astype("f4")[:days]
    if not path.exists():
        zarr.create_array(path / "t", shape=(days, 4, 6), chunks=(10, 4, 3), dtype="f4", fill_value=0)
        zarr.open_array(path / "t")[:] = values
    array = zarr.open_array(path / "t")
    before = array.shape[0]
    array.resize(values.shape)
    array[before:] = values[before:]


def pipeline(path: Path) -> xr.Dataset:
    t = da.from_zarr(path / "t")
    time = pd.date_range("2001-01-01", periods=len(t))
    coords = {"time": time, "lat": np.linspace(-50, 50, 4), "month": ("time", time.month), "crs": 3}
    ds = xr.Dataset({"t": (("time", "lat", "lon"), t, {"units": "K"})}, coords, {"title": "grows"})
    return ds.assign(anomaly=ds.t - 280, name=("lat", list("abcd")), days=("time", time.strftime("%j")))


def read(target: Any, **options: Any) -> xr.Dataset:
    return xr.open_zarr(target, **options)


@pytest.mark.parametrize("kind", ["local", "memory", "any", "levels"])
def test_a_store_that_grows(kind: str, tmp_path: Path) -> None:
    target: Any = {
        "local": str(tmp_path / "out.zarr"),
        "memory": f"memory://{tmp_path.name}.zarr",
        "any": Counting(),
        "levels": [{"url": str(tmp_path / "fast"), "write": False}, str(tmp_path / "slow")],
    }[kind]
    opened = target if kind == "any" else stores.open(target)
    for days in (25, 25, 31, 40, 75):
        source(tmp_path / "source", days)
        kept = daskcache.persist(pipeline(tmp_path / "source"), "grows")
        foretold = daskcache.publish("grows", target, dry_run=True)
        done = daskcache.publish("grows", target)
        assert (foretold.arrays, foretold.documents) == (done.arrays, done.documents)
        expected = kept.compute()
        xr.testing.assert_identical(read(opened).load(), expected)
        with warnings.catch_warnings():
            # Our documents are none of those that Zarr takes for a part of the store that is broken.
            warnings.simplefilter("error")
            xr.testing.assert_identical(read(opened, consolidated=False).load(), expected)
        again = daskcache.publish("grows", target)
        assert (again.chunks, again.documents, again.linked + again.streamed) == (0, 0, 0)


def test_one_changed_chunk_writes_what_depends_on_it(tmp_path: Path) -> None:
    source(tmp_path / "source", 45)
    target = Counting()
    daskcache.persist(pipeline(tmp_path / "source"), "entry")
    daskcache.publish("entry", target)
    chunks, _ = target.take()
    assert len(chunks) == 2 * 5 * 2 + 6
    zarr.open_array(tmp_path / "source" / "t")[23, 1, 4] = 7
    kept = daskcache.persist(pipeline(tmp_path / "source"), "entry")
    foretold = daskcache.publish("entry", target, dry_run=True)
    assert target.take() == (set(), set())
    done = daskcache.publish("entry", target)
    assert target.take() == ({"t/c/2/0/1", "anomaly/c/2/0/1"}, set())
    assert done.chunks == foretold.chunks == 2
    assert done.size_bytes == foretold.size_bytes > 0
    assert f"  t: 1 blocks ({done.arrays[0].size_bytes} B), 9 are there" in str(done)
    xr.testing.assert_identical(read(target).load(), kept.compute())


def test_growth_writes_the_edge_and_what_is_new(tmp_path: Path) -> None:
    target = Counting()
    source(tmp_path / "source", 25)
    daskcache.persist(pipeline(tmp_path / "source"), "entry")
    daskcache.publish("entry", target)
    target.take()
    source(tmp_path / "source", 31)
    daskcache.persist(pipeline(tmp_path / "source"), "entry")
    daskcache.publish("entry", target)
    chunks, documents = target.take()
    blocks = {f"{name}/c/{i}/0/{j}" for name in ("t", "anomaly") for i in (2, 3) for j in (0, 1)}
    assert chunks == blocks | {"time/c/0", "month/c/0", "days/c/0"}
    assert documents == {f"{name}/zarr.json" for name in ("t", "anomaly", "time", "month", "days")} | {
        "zarr.json"
    }


def test_who_has_opened_it_before_reads_on(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    for days in (1100, 1300, 2500):
        time = pd.date_range("2001-01-01", periods=days)
        data = da.arange(days, chunks=500)
        ds = xr.Dataset({"t": ("time", data)}, {"time": time, "text": ("time", time.strftime("%Y%j"))})
        if target.exists():
            before = read(target, chunks=None)
        daskcache.persist(ds, "entry")
        daskcache.publish("entry", target)
        if days > 1100:
            xr.testing.assert_identical(before.load(), ds.isel(time=slice(before.sizes["time"])).compute())
    # What was shorter than the chunk of a coordinate at first has several of them now.
    assert len(list((target / "time" / "c").iterdir())) == 3


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("name", OBJECTS)
def test_whatever_an_entry_holds(name: str, tmp_path: Path) -> None:
    thing = OBJECTS[name]()
    daskcache.persist(thing, "thing")
    exported = daskcache.export("thing", tmp_path / "export.zarr")
    done = daskcache.publish("thing", tmp_path / "publish.zarr")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        is_tree = isinstance(thing, xr.DataTree)
        opener = xr.open_datatree if is_tree else xr.open_dataset
        for _, array in zarr.open_group(tmp_path / "publish.zarr").members(max_depth=None):
            assert isinstance(array, zarr.Group) or array.nchunks_initialized == array.nchunks
        # As they are stored, because xarray warns of dates that it cannot decode well.
        with (
            opener(exported, engine="zarr", decode_cf=False) as expected,
            opener(tmp_path / "publish.zarr", engine="zarr", decode_cf=False) as found,
        ):
            xr.testing.assert_identical(found.load(), expected.load())
    again = daskcache.publish("thing", tmp_path / "publish.zarr")
    assert (again.chunks, again.documents) == (0, 0)
    assert done.documents > 0


PIPED = [
    "elementwise", "resample_month", "groupby_dayofyear", "flox_cohorts", "rolling", "coarsen_construct", "concat_time", "cftime",
    "rechunk", "stack", "zarr_plain", "mfdataset", "datatree", "reduce_tree", "weighted", "isel_fancy",
]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("sources")
    write_sources(root)
    return root


@pytest.mark.filterwarnings("ignore:Consolidated metadata:zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("name", PIPED)
def test_pipelines(name: str, sources: Path, tmp_path: Path) -> None:
    thing = PIPELINES[name](sources)
    daskcache.persist(thing, "thing")
    daskcache.publish("thing", tmp_path / "out.zarr")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        if isinstance(thing, xr.DataTree):
            xr.testing.assert_equal(
                xr.open_datatree(tmp_path / "out.zarr", engine="zarr").load(), thing.compute()
            )
        elif isinstance(thing, xr.Dataset):
            xr.testing.assert_equal(read(tmp_path / "out.zarr").load(), thing.compute())
        else:
            (array,) = read(tmp_path / "out.zarr").data_vars.values()
            np.testing.assert_array_equal(array.values, np.asarray(thing))
    assert daskcache.publish("thing", tmp_path / "out.zarr").chunks == 0


def test_blocks_of_several_lengths(tmp_path: Path) -> None:
    """Months, as flox leaves them: large ones in inner chunks of one length, small ones in a grid of their own."""
    target, small = tmp_path / "out.zarr", tmp_path / "small.zarr"
    for lengths in ((31, 28, 31), (31, 28, 31, 30)):
        time = pd.date_range("2001-01-01", periods=sum(lengths))
        data = da.from_array(
            np.arange(len(time) * 9000.0).reshape(-1, 9000), chunks=(lengths, 9000), name=False
        )
        ds = xr.Dataset({"t": (("time", "x"), data)}, {"time": time})
        first = ds.t.isel(x=slice(6)).rename(x="y")
        mean = flox.xarray.xarray_reduce(first, ds.time, func="mean", method="blockwise")
        ds["mean"] = mean.transpose("time", "y")
        assert ds["mean"].chunks[0] == lengths
        kept = daskcache.persist(ds[["t"]], "inner")
        done = daskcache.publish("inner", target)
        assert [array.chunks for array in done.arrays if array.path == "t"] == [3 if len(lengths) == 3 else 1]
        kept_small = daskcache.persist(ds[["mean"]], "small")
        daskcache.publish("small", small)
        with zarr.config.set({"array.rectilinear_chunks": True}):
            xr.testing.assert_identical(read(target).load(), kept.compute())
            xr.testing.assert_identical(read(small).load(), kept_small.compute())
    daskcache.persist(ds[["mean"]].chunk(time=(11, 20, *lengths[1:])), "small")
    with pytest.raises(InvalidInputError, match="lengths of its chunks"):
        daskcache.publish("small", small)


def test_hinted_blocks_are_shards(tmp_path: Path) -> None:
    data = da.from_array(np.random.default_rng(2).random((64, 32, 32)), chunks=(32, 32, 32))
    ds = xr.Dataset({"t": (("time", "y", "x"), data)})
    kept = daskcache.persist(ds, "hinted", hints="time")
    done = daskcache.publish("hinted", tmp_path / "out.zarr")
    assert (done.linked, done.streamed) == (2, 0)
    found = read(tmp_path / "out.zarr")
    assert zarr.open_array(tmp_path / "out.zarr" / "t").shards == (32, 32, 32)
    xr.testing.assert_identical(found.load(), kept.compute())


def test_links_are_never_written_through(store_root: Path, tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2))})
    daskcache.persist(ds, "entry")
    target = tmp_path / "out.zarr"
    assert daskcache.publish("entry", target).linked == 3
    before = {path: path.read_bytes() for path in objects(store_root)}
    chunk = target / "t" / "c" / "0"
    assert any(chunk.samefile(path) for path in before)
    assert not chunk.stat().st_mode & 0o222
    daskcache.persist(ds + 1, "entry")
    assert daskcache.publish("entry", target).linked == 3
    array = zarr.open_array(target / "t", mode="r+")
    array[:] = 9
    assert {path: path.read_bytes() for path in before} == before
    daskcache.persist(ds, "again")
    daskcache.publish("again", target)
    assert read(target).t.values.tolist() == list(range(6))


def test_links_that_cannot_be_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    daskcache.persist(xr.Dataset({"t": ("x", da.arange(6, chunks=2))}), "entry", store="memory://no-links")
    monkeypatch.undo()
    daskcache.persist(xr.Dataset({"t": ("x", da.arange(6, chunks=2))}), "entry")
    monkeypatch.setattr(os, "link", refuse)
    done = daskcache.publish("entry", tmp_path / "out.zarr")
    assert (done.linked, done.streamed) == (0, 3)
    assert read(tmp_path / "out.zarr").t.values.tolist() == list(range(6))
    assert not [*tmp_path.rglob("*.partial")]


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.isel(x=slice(5)),
        lambda ds: ds.chunk(x=3),
        lambda ds: ds.astype("f4"),
        lambda ds: ds.rename(x="z"),
        lambda ds: ds[["u"]],
        lambda ds: ds.expand_dims("y"),
        lambda ds: ds.assign(x=ds.x.astype("f4")),
    ],
    ids=[
        "shorter",
        "other chunks",
        "other dtype",
        "other dimension",
        "gone",
        "one more dimension",
        "coordinate",
    ],
)
def test_what_would_disturb_readers_is_refused(change: Any, tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2)), "u": ("x", da.ones(6, chunks=2))}, {"x": range(6)})
    target = tmp_path / "out.zarr"
    daskcache.persist(ds, "entry")
    daskcache.publish("entry", target)
    kept = daskcache.persist(change(ds), "entry")
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match="publish to another target, or with overwrite=True"):
            daskcache.publish("entry", target, dry_run=dry_run)
    xr.testing.assert_identical(read(target).load(), ds.compute())
    daskcache.publish("entry", target, overwrite=True, dry_run=True)
    xr.testing.assert_identical(read(target).load(), ds.compute())
    daskcache.publish("entry", target, overwrite=True)
    xr.testing.assert_identical(read(target, consolidated=False).load(), kept.compute())
    assert daskcache.publish("entry", target).chunks == 0


@pytest.mark.filterwarnings("ignore:Consolidated metadata:zarr.errors.ZarrUserWarning")
def test_what_somebody_else_wrote_is_refused(tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2))})
    daskcache.persist(ds, "entry")
    for version in (2, 3):
        target = tmp_path / f"{version}.zarr"
        (ds + 1).to_zarr(target, zarr_format=version)
        with pytest.raises(InvalidInputError, match="was not published there"):
            daskcache.publish("entry", target)
        assert read(target).t.values.tolist() == [1, 2, 3, 4, 5, 6]
        daskcache.publish("entry", target, overwrite=True)
        assert read(target).t.values.tolist() == [0, 1, 2, 3, 4, 5]
    xr.Dataset({"more": 1}).to_zarr(target, mode="a", consolidated=False)
    zarr.consolidate_metadata(target)
    with pytest.raises(InvalidInputError, match="was not published there"):
        daskcache.publish("entry", target)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InvalidInputError, match="was not published there"):
            daskcache.publish("entry", tmp_path / "home", overwrite=overwrite)
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"


def test_what_cannot_be_published(store_root: Path, tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError):
        daskcache.publish("nothing", tmp_path / "out.zarr")

    @daskcache.cache
    def table() -> pd.DataFrame:
        return pd.DataFrame({"a": [1, 2]})

    table()
    (entry,) = daskcache.catalog.Catalog(str(store_root)).entries()
    with pytest.raises(InvalidInputError, match="holds a table, which is no array"):
        daskcache.publish(entry, tmp_path / "out.zarr")
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2))})
    daskcache.persist(ds, "entry")
    path = objects(store_root)[1]
    path.unlink()
    with pytest.raises(NotStoredError, match="persist the entry again"):
        daskcache.publish("entry", tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr" / "zarr.json").exists()
    daskcache.persist(ds, "entry")
    daskcache.publish("entry", tmp_path / "out.zarr")
    assert read(tmp_path / "out.zarr").t.values.tolist() == list(range(6))


def test_a_document_of_ours_that_is_damaged_claims_nothing(tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2))})
    daskcache.persist(ds, "entry")
    daskcache.publish("entry", tmp_path / "out.zarr")
    path = tmp_path / "out.zarr" / "t" / claims.CLAIMS
    for text in ("{", "[]", '{"format": 0, "publisher": "p", "chunks": 3}'):
        path.write_text(text)
        assert daskcache.publish("entry", tmp_path / "out.zarr").chunks == 3
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(StoreError, match="format 1, and this daskcache reads and writes up to 0"):
        daskcache.publish("entry", tmp_path / "out.zarr")


def test_two_at_once_claim_nothing_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Counting()
    daskcache.persist(xr.Dataset({"t": ("x", da.arange(6, chunks=2))}), "entry")
    commit = claims.commit

    def come_between(store: Any, path: str, publisher: str, chunks: Any) -> None:
        claims.withdraw(store, path, "another", {"0": "00"})
        commit(store, path, publisher, chunks)

    monkeypatch.setattr(claims, "commit", come_between)
    with pytest.raises(StoreError, match="another process publishes 't' to the same place"):
        daskcache.publish("entry", target)
    found = claims.read_claims(target, "t")
    assert found == claims.Claims("another", {})
    monkeypatch.undo()
    assert daskcache.publish("entry", target).chunks == 3


def test_the_accessor_and_the_command(store_root: Path, tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", da.arange(6, chunks=2))}, {"x": range(6)})
    kept = daskcache.persist(ds, "entry")
    assert kept.cache.publish(tmp_path / "a.zarr").entry == "entry"
    assert daskcache.open("entry").cache.publish(tmp_path / "a.zarr").chunks == 0
    with pytest.raises(EntryNotFoundError, match=r"no entry of namespace 'default' .* holds this object"):
        (ds + 1).cache.publish(tmp_path / "b.zarr")
    command = ["--store", str(store_root), "publish", "entry", str(tmp_path / "b.zarr")]
    result = CliRunner().invoke(cache, [*command, "--dry-run"])
    assert result.output.startswith("would write 4 blocks (")
    assert not (tmp_path / "b.zarr").exists()
    result = CliRunner().invoke(cache, [*command, "--json"])
    assert json.loads(result.output)["linked"] == 3
    result = CliRunner().invoke(cache, [*command, "--overwrite"])
    assert result.output.startswith("wrote 4 blocks (")
    xr.testing.assert_identical(read(tmp_path / "b.zarr").load(), ds.compute())


def test_composed_sources(tmp_path: Path) -> None:
    """Objects are linked from whichever part has them; where the parts are elsewhere, they are read."""
    levels = [{"url": str(tmp_path / "fast"), "write": False}, str(tmp_path / "slow")]
    fanout = {"fanout": [str(tmp_path / "one"), f"memory://{tmp_path.name}-two"]}
    ds = xr.Dataset({"t": ("x", da.arange(60, chunks=2))})
    for number, store in enumerate((levels, fanout)):
        daskcache.persist(ds, "entry", store=store)
        done = daskcache.publish("entry", tmp_path / f"out{number}.zarr", store=store)
        assert read(tmp_path / f"out{number}.zarr").t.values.tolist() == list(range(60))
        linked = len(objects(tmp_path / ("slow", "one")[number]))
        assert (done.linked, done.streamed) == (linked, 30 - linked)
        assert linked > 0

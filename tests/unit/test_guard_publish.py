"""A source that moves after it was read and before the result is published; what each mode of checking costs."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.callbacks import Callback

import daskcache
from daskcache.errors import DaskcacheWarning, EntryNotFoundError, SourceChangedError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.places_remote import FsspecPlace
from daskcache.fingerprint.watch import Stamps, Watch
from daskcache.graph import keys_of
from daskcache.guards import guard_sources
from daskcache.publishing import Publication
from daskcache.tokens import GraphTokens
from tests.producers import objects
from tests.sources import rewrite

VALUES = np.arange(12.0)


@pytest.fixture(autouse=True)
def one_after_the_other() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    xr.Dataset({"t": ("x", VALUES)}).chunk(x=3).to_zarr(path, consolidated=False)
    return path


def build(source: Path) -> xr.DataArray:
    return xr.open_zarr(source, consolidated=False).t * 2


class _BeforePublishing:
    """Does something when all has been read and stored, just before a manifest is written."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.done = 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> _BeforePublishing:
        publish = Publication.publish

        def act_and_publish(publication: Publication, receipts: Any) -> Any:
            self.done += 1
            self.act()
            return publish(publication, receipts)

        self._patch.setattr(Publication, "publish", act_and_publish)
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()


class _AtStart(Callback):  # type: ignore[misc]
    """Does something between the pass and the first task."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def _start_state(self, dsk: Any, state: Any) -> None:
        self.act()


def move(source: Path) -> _BeforePublishing:
    return _BeforePublishing(lambda: rewrite(source / "t/c/1"))


def chunks(root: Path) -> int:
    return len(objects(root))


def test_a_persist_raises_and_publishes_nothing(source: Path, store_root: Path) -> None:
    moved = source / "t/c/1"
    with (
        move(source) as callback,
        pytest.raises(
            SourceChangedError, match=rf"{moved} is not as it was .*: default/kept is not published"
        ),
    ):
        daskcache.persist(build(source), "kept")
    assert callback.done == 1
    with pytest.raises(EntryNotFoundError):
        daskcache.open("kept")
    # Each was read from what its token says, and is found again but for the one that moved.
    assert chunks(store_root) == 4
    kept = daskcache.persist(build(source), "kept")
    assert daskcache.last_run().computed == 1
    assert (kept.values == xr.open_zarr(source, consolidated=False).t.values * 2).all()


def test_the_version_before_stays(source: Path) -> None:
    daskcache.persist(build(source), "kept")
    # Of one block, dask would read it and publish in one task.
    for number in (0, 2):
        rewrite(source / f"t/c/{number}")
    with move(source), pytest.raises(SourceChangedError, match="stays what it was"):
        daskcache.persist(build(source), "kept")
    assert (daskcache.open("kept").values == VALUES * 2).all()


def test_a_persist_with_nothing_to_compute_looks_as_well(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daskcache.persist(build(source), "kept")
    announce = daskcache.persist.__globals__["announce_run"]

    def announce_and_move(*args: Any) -> None:
        announce(*args)
        rewrite(source / "t/c/3")

    monkeypatch.setitem(daskcache.persist.__globals__, "announce_run", announce_and_move)
    with pytest.raises(
        SourceChangedError, match=r"t/c/3 is not as it was .*: default/other is not published"
    ):
        daskcache.persist(build(source), "other")


def test_a_compute_is_right_and_publishes_nothing(source: Path, store_root: Path) -> None:
    with daskcache.activate():
        x = daskcache.checkpoint(build(source), "kept")
        with (
            move(source) as callback,
            pytest.warns(DaskcacheWarning, match="the result is right, but was not"),
        ):
            assert (x.values == VALUES * 2).all()
        assert callback.done == 1
        with pytest.raises(EntryNotFoundError):
            daskcache.open("kept")
        assert chunks(store_root) == 4
        again = daskcache.checkpoint(build(source), "kept")
        expected = xr.open_zarr(source, consolidated=False).t.values * 2
        assert (again.values == expected).all()
        assert (daskcache.open("kept").values == expected).all()
    assert chunks(store_root) == 5


def test_a_compute_whose_read_may_be_torn_raises(source: Path) -> None:
    with daskcache.activate():
        x = daskcache.checkpoint(build(source), "kept")
        with (
            _AtStart(lambda: rewrite(source / "t/c/1")),
            pytest.raises(SourceChangedError, match="t/c/1, read through"),
        ):
            x.compute()


@pytest.mark.parametrize(("check", "seen"), [("chunks", 1), ("content", 1), ("metadata", 0), ("none", 0)])
def test_modes(check: str, seen: int, source: Path) -> None:
    with dask.config.set({"daskcache.sources.check": check}), move(source) as callback:
        if seen:
            with pytest.raises(SourceChangedError, match=r"t/c/1 is not as it was"):
                daskcache.persist(build(source), "kept")
        else:
            assert (daskcache.persist(build(source), "kept").values == VALUES * 2).all()
    assert callback.done == 1


@pytest.mark.parametrize(("check", "seen"), [("chunks", 1), ("content", 1), ("metadata", 0), ("none", 0)])
def test_modes_between_the_pass_and_the_read(check: str, seen: int, source: Path, store_root: Path) -> None:
    def edit() -> None:
        zarr.open_array(source, path="t")[3:6] = 100.0

    with dask.config.set({"daskcache.sources.check": check}), daskcache.activate(), _AtStart(edit):
        x = daskcache.checkpoint(build(source), "kept")
        if seen:
            with pytest.raises(SourceChangedError, match="t/c/1, read through"):
                x.compute()
        else:
            assert x.values[3] == 200.0
        # Under a mode that looks at nothing, the user has said that nothing changes.
        assert chunks(store_root) < 4 if seen else chunks(store_root) == 4


def test_a_file_that_a_task_opens(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a\n" + "1\n" * 100)
    dd = pytest.importorskip("dask.dataframe")
    array = dd.read_csv(str(path), blocksize=100).a.to_dask_array(lengths=True)
    with (
        _BeforePublishing(lambda: rewrite(path)),
        pytest.raises(SourceChangedError, match=rf"{path} is not as it was .*kept is not published"),
    ):
        daskcache.persist(array, "kept")


def test_a_file_that_has_gone(source: Path) -> None:
    pytest.importorskip("h5netcdf")
    path = source.with_name("a.nc")
    xr.Dataset({"t": ("x", VALUES)}).to_netcdf(path, engine="h5netcdf")
    with (
        xr.open_dataset(path, engine="h5netcdf", chunks={"x": 3}) as ds,
        _BeforePublishing(path.unlink),
        pytest.raises(SourceChangedError, match="kept is not published"),
    ):
        daskcache.persist(ds.t * 2, "kept")


# Sources that a function is handed as they are


def add_from(block: Any, table: Any) -> Any:
    return block + table[:].sum()


@pytest.fixture
def table(tmp_path: Path) -> Any:
    array = zarr.create_array(tmp_path / "table.zarr", shape=(4,), chunks=(2,), dtype="f8")
    array[:] = 1
    return array


def test_a_source_in_the_hands_of_a_function(table: Any, tmp_path: Path, store_root: Path) -> None:
    def make() -> da.Array:
        return da.ones(4, chunks=2).map_blocks(add_from, table, dtype="f8")

    moved = tmp_path / "table.zarr/c/1"
    with (
        _AtStart(lambda: rewrite(moved)),
        pytest.raises(SourceChangedError, match=r"table\.zarr is not"),
    ):
        daskcache.persist(make(), "kept")
    assert chunks(store_root) == 0
    with daskcache.activate():
        x = daskcache.checkpoint(make(), "kept")
        with (
            _AtStart(lambda: rewrite(moved)),
            pytest.warns(DaskcacheWarning, match=r"table\.zarr is not"),
        ):
            assert (x.compute() == 1 + table[:].sum()).all()
        assert chunks(store_root) == 0
        assert (daskcache.checkpoint(make(), "kept").compute() == 1 + table[:].sum()).all()
        assert chunks(store_root) == 1


def test_a_source_that_is_read_by_dask_and_by_a_function(
    table: Any, tmp_path: Path, store_root: Path
) -> None:
    """The function gets the array itself, not what guards dask's reads of it."""

    def count_attributes(block: Any, table: Any) -> Any:
        return block + table[:].sum() + len(table.attrs)

    def make() -> da.Array:
        return da.from_array(table, chunks=2).map_blocks(count_attributes, table, dtype="f8")

    with daskcache.activate():
        x = daskcache.checkpoint(make(), "kept")
        assert (x.compute() == 5).all()
        before = chunks(store_root)
        table[0] = 2
        # The block that dask reads is as it was; the function reads the other one, too.
        x = daskcache.checkpoint(make()[2:], "rest")
        with (
            _AtStart(lambda: rewrite(tmp_path / "table.zarr/c/0")),
            pytest.raises(SourceChangedError, match=r"table\.zarr is not as it was"),
        ):
            x.compute()
        assert chunks(store_root) == before


# What travels, and what it costs


def test_stamps_pickle_small_and_tell_what_changed() -> None:
    looks = {f"/a/c/{number}": (number, (number, number, number)) for number in range(1000)}
    looks["/a/c/7"] = None  # type: ignore[assignment]
    stamps = pickle.loads(pickle.dumps(Stamps.of(looks)))
    assert stamps == Stamps.of(dict(reversed(looks.items())))
    assert len(stamps) == 1000
    assert len(pickle.dumps(stamps)) < 1000 * 16 + 200
    assert stamps.find_changed(looks) is None
    for name in ("/a/c/7", "/a/c/999"):
        for other in (looks, {}):
            assert stamps.find_changed({**other, name: (1, "new")}) == name
    assert stamps.was_missing("/a/c/7")
    assert not stamps.was_missing("/a/c/8")
    assert not stamps.was_missing("/elsewhere")
    assert stamps.find_changed({"/elsewhere": (1, "new")}) is None
    assert Stamps().find_changed(looks) is None


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("materialised", [False, True])
def test_a_task_carries_the_stamps_of_its_region(inline: bool, materialised: bool, tmp_path: Path) -> None:
    """Tasks that hold the array itself would each carry the stamps of all."""

    def sizes(length: int) -> tuple[int, int]:
        array = zarr.create_array(tmp_path / f"{length}", shape=(length,), chunks=(1,), dtype="i1")
        array[:] = 1
        x = da.from_array(array, chunks=1, inline_array=inline)
        graph = x.dask
        if materialised:
            graph = type(graph)(
                {name: dict(layer) for name, layer in graph.layers.items()}, graph.dependencies
            )
        tokens = GraphTokens(graph, Fingerprinter())
        assert all(tokens.token(key) for key in keys_of([x]))
        guarded = guard_sources(graph, tokens)
        tasks = dict(guarded.layers[x.name])
        assert (np.concatenate(dask.get(dict(guarded), keys_of([x]))) == 1).all()
        (tmp_path / f"{length}/c/0").unlink()
        with pytest.raises(SourceChangedError, match="/c/0, read through"):
            dask.get(dict(guarded), keys_of([x])[0])
        dask.get(dict(guarded), keys_of([x])[1])
        return len(pickle.dumps(tasks[x.name, 1])), len(pickle.dumps(guarded))

    (small_task, _), (task, graph) = sizes(4), sizes(400)
    assert task - small_task < 100
    assert graph < 400 * (1200 if materialised else 250)


def test_the_last_look_at_a_bucket_is_a_listing() -> None:
    import fsspec
    from zarr.storage import FsspecStore

    calls: Counter[str] = Counter()
    memory = fsspec.filesystem("memory")
    counting = _Bucket(memory, calls)
    store = FsspecStore.from_url("memory://bucket-of-watch")
    array = zarr.create_array(store, shape=(2000,), chunks=(1,), dtype="i1")
    try:
        array[:] = 1
        x = da.from_array(array, chunks=1)
        fingerprinter = Fingerprinter()
        tokens = GraphTokens(x.dask, fingerprinter)
        place = FsspecPlace(counting, "bucket-of-watch")  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("daskcache.fingerprint.sources_zarr.place_of_store", lambda store: place)
                assert all(tokens.token(key) for key in keys_of([x]))
                assert calls == {"find": 1, "info": calls["info"]}
                assert calls["info"] <= 8
                watch = Watch.of(fingerprinter)
                calls.clear()
                place.forget()
                assert watch.find_changed() is None
                assert calls == {"find": 1}
                place.forget()
                memory.pipe("/bucket-of-watch/c/1234", b"12")
                assert "bucket-of-watch/c/1234 is not as it was" in str(watch.find_changed())
    finally:
        memory.rm("/bucket-of-watch", recursive=True)


class _Bucket:
    """A bucket that counts what is asked of it."""

    protocol = "counting"

    def __init__(self, memory: Any, calls: Counter[str]) -> None:
        self._memory, self._calls = memory, calls

    def _strip_protocol(self, path: str) -> str:
        return path.removeprefix("counting://").strip("/")

    def invalidate_cache(self, path: str | None = None) -> None:
        pass

    def _describe(self, path: str) -> dict[str, Any]:
        data = self._memory.cat_file(path)
        return {"size": len(data), "type": "file", "ETag": f"{hash(data)}"}

    def info(self, path: str) -> dict[str, Any]:
        self._calls["info"] += 1
        return self._describe(path)

    def find(self, path: str, detail: bool = False) -> dict[str, Any]:
        self._calls["find"] += 1
        return {name.strip("/"): self._describe(name) for name in self._memory.find(path)}

"""Recalled results: by reference, with the tokens of what made them, as long as their sources are as they were."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.errors import DaskcacheWarning, NotStoredError
from daskcache.functions import recall
from daskcache.pool import StoredBlock
from tests import producers
from tests.producers import count
from tests.producers import doubled as produced


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """List the keys of the blocks that are read."""
    found: list[str] = []
    whole = StoredBlock._read

    def read(self, selection):
        found.append(self.key)
        return whole(self, selection)

    monkeypatch.setattr(StoredBlock, "_read", read)
    return found


def write(path: Path, steps: int = 8, factor: float = 1.0) -> None:
    values = factor * np.arange(steps * 3, dtype="f4").reshape(steps, 3)
    ds = xr.Dataset({"t": (("time", "x"), values)}, {"time": np.arange(steps)})
    ds.to_zarr(path, mode="w", zarr_format=2, encoding={"t": {"chunks": (2, 3)}, "time": {"chunks": (2,)}})


def change_chunk(path: Path) -> None:
    (array,) = [xr.open_zarr(path, chunks=None).t.values]
    array[0] += 100
    xr.Dataset({"t": (("time", "x"), array[:2])}).to_zarr(path, region={"time": slice(0, 2)})


def test_what_is_recalled_is_lazy_and_has_the_tokens_of_what_made_it(reads) -> None:
    log: list[str] = []

    def make():
        return xr.Dataset({"t": (("x"), produced()), "u": ("x", np.arange(12))}, attrs={"title": "a"})

    @daskcache.cache(ignore=["log"])
    def inner(log):
        log.append("inner")
        return make()

    @daskcache.cache(ignore=["log"])
    def outer(ds, log):
        log.append("outer")
        return (ds.t + 1).rename("v")

    first, again = inner(log), inner(log)
    assert daskcache.token(first) == daskcache.token(again) == daskcache.token(make())
    assert (again.chunks, again.attrs, type(again.u.data)) == (make().chunks, {"title": "a"}, np.ndarray)
    assert count() == 4
    result = outer(first, log)
    before = len(reads)
    # Tokens of a recalled result, of what is built on it, and of a call that is given it: no block is read.
    assert daskcache.token(outer(again, log)) == daskcache.token(result)
    assert daskcache.token(again.t * 2) == daskcache.token(make().t * 2)
    assert outer(make(), log).chunks == result.chunks
    assert len(reads) == before
    assert log == ["inner", "outer"]
    assert result.name == "v"
    assert count() == 0
    np.testing.assert_array_equal(result, 2 * np.arange(12) + 1)


def test_a_source_that_changes_costs_its_dependents_only(tmp_path) -> None:
    path, log = tmp_path / "a.zarr", []
    write(path)

    @daskcache.cache(ignore=["log"])
    def doubled(path, log):
        log.append("doubled")
        return double(xr.open_zarr(path))

    expected = xr.open_zarr(path).t.values * 2
    np.testing.assert_array_equal(doubled(str(path), log).t, expected)
    assert (count(), log) == (4, ["doubled"])
    doubled(str(path), log)
    assert (count(), log) == (0, ["doubled"])
    change_chunk(path)
    again = doubled(str(path), log)
    assert log == ["doubled", "doubled"]
    np.testing.assert_array_equal(again.t, xr.open_zarr(path).t.values * 2)
    assert count() == 1, "one chunk changed"
    doubled(str(path), log)
    assert log == ["doubled", "doubled"]
    # Growth shows in the metadata alone.
    more = xr.Dataset({"t": (("time", "x"), np.ones((2, 3), "f4"))}, {"time": [8, 9]})
    more.to_zarr(path, append_dim="time")
    assert doubled(str(path), log).sizes["time"] == 10
    assert count() == 1


def double(ds):
    return xr.apply_ufunc(producers.double, ds, dask="parallelized", output_dtypes=["f4"])


def test_verify_graph_calls_the_function_and_never_looks_at_nothing(tmp_path) -> None:
    path, log = tmp_path / "a.zarr", []
    write(path)

    @daskcache.cache(ignore=["log"])
    def mean(path, log):
        log.append(1)
        return double(xr.open_zarr(path))

    mean(str(path), log)
    assert count() == 4
    mean(str(path), log, verify="graph")
    assert (len(log), count()) == (2, 0), "the function was called, and no block computed"
    change_chunk(path)
    stale = mean(str(path), log, verify="never")
    assert (len(log), stale.t.values[0, 0]) == (2, 0)
    with daskcache.options(verify="graph"):
        assert mean(str(path), log).t.values[0, 0] == 200
    assert count() == 1


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_netcdf_file_that_changes_is_read_again(tmp_path, chunks) -> None:
    path, log = tmp_path / "a.nc", []
    xr.Dataset({"t": ("x", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")

    @daskcache.cache(ignore=["log"])
    def read(path, log):
        log.append(1)
        return xr.open_dataset(path, chunks=chunks, engine="h5netcdf")

    assert [float(read(str(path), log).t.sum()) for _ in range(2)] == [3, 3]
    assert len(log) == 1
    path.unlink()
    xr.Dataset({"t": ("x", [1.0, 20.0])}).to_netcdf(path, engine="h5netcdf")
    assert float(read(str(path), log).t.sum()) == 21
    assert len(log) == 2


def test_what_an_inner_function_reads_counts_for_the_outer(tmp_path) -> None:
    path, log = tmp_path / "a.zarr", []
    write(path)

    @daskcache.cache(ignore=["log"])
    def load(path, log):
        log.append("load")
        return xr.open_zarr(path)

    @daskcache.cache(ignore=["log"])
    def total(path, log):
        log.append("total")
        return float(load(path, log).t.sum())

    first = total(str(path), log)
    assert total(str(path), log) == first
    assert log == ["total", "load"]
    change_chunk(path)
    assert total(str(path), log) == first + 300
    assert log == ["total", "load"] * 2


def test_eager_reading_has_to_be_declared(tmp_path) -> None:
    path, log = tmp_path / "a.csv", []
    path.write_text("a\n1\n")

    @daskcache.cache(ignore=["log"])
    def undeclared(path, log):
        log.append(1)
        return int(pd.read_csv(path).a.sum())

    with pytest.warns(DaskcacheWarning, match="reads a file"):
        assert undeclared(str(path), log) == 1
    undeclared(str(path), log)
    assert len(log) == 2

    @daskcache.cache(ignore=["log"], source=[path])
    def declared(log):
        log.append(2)
        return int(pd.read_csv(path).a.sum())

    assert [declared(log), declared(log)] == [1, 1]
    path.write_text("a\n10\n")
    assert [declared(log), declared(log)] == [10, 10]
    assert log == [1, 1, 2, 2]


def test_paths_in_the_code_itself(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.zarr")
    (tmp_path / "b.csv").write_text("b\n3\n")
    log: list[str] = []

    @daskcache.cache(ignore=["log"])
    def lazy(log):
        log.append("lazy")
        return xr.open_zarr("a.zarr")

    @daskcache.cache(ignore=["log"], source="b.csv")
    def eager(log):
        log.append("eager")
        return int(pd.read_csv("b.csv").b.sum())

    @daskcache.cache(ignore=["log"])
    def both(log):
        log.append("both")
        return xr.open_zarr("a.zarr") * int(pd.read_csv("b.csv").b.sum())

    @daskcache.cache(ignore=["log"])
    def outer(log):
        log.append("outer")
        return lazy(log) * eager(log)

    for function in (lazy, eager, outer):
        function(log)
        function(log)
    assert log == ["lazy", "eager", "outer"]
    with pytest.warns(DaskcacheWarning, match=r"reads a file \(pandas.read_csv\)"):
        both(log)
    both(log)
    assert log[3:] == ["both", "both"]
    (tmp_path / "b.csv").write_text("b\n30\n")
    assert outer(log).t.values[0, 1] == 30
    assert log[5:] == ["outer", "eager"]


def test_what_is_opened_and_does_not_show_is_not_stored(tmp_path) -> None:
    path, log = tmp_path / "a.zarr", []
    write(path)

    @daskcache.cache(ignore=["log"])
    def total(path, log):
        log.append(1)
        return float(xr.open_zarr(path).t.sum())

    with pytest.warns(DaskcacheWarning, match="does not show which"):
        assert total(str(path), log) == 276
    total(str(path), log)
    assert len(log) == 2


def test_a_block_that_is_lost_is_computed_again(store_root) -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    def make(log):
        log.append(1)
        return produced()

    expected = make(log).compute()
    assert count() == 4
    victim = min(path for path in store_root.glob("chunks/*/*") if path.is_file())
    victim.unlink()
    np.testing.assert_array_equal(make(log), expected)
    assert (len(log), count()) == (2, 1)


def test_100_mb_are_opened_without_reading_them(reads) -> None:
    @daskcache.cache
    def large():
        return xr.Dataset({"t": (("time", "x"), da.zeros((100, 131072), chunks=(10, 131072)))})

    first = large()
    del reads[:]
    assert large().nbytes == first.nbytes == 104857600
    assert reads == []


def test_modes(tmp_path) -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    def f(x, log):
        log.append(x)
        return [x]

    with dask.config.set({"daskcache.functions.local": str(tmp_path / "local")}):
        assert f(1, log, mode="off") == f(1, log, mode="read_only") == [1]
        with pytest.raises(NotStoredError, match="shall not be computed"):
            f(1, log, mode="read_only_strict")
        with pytest.raises(NotStoredError):
            f(1, log, fail_if_missing=True)
        assert len(log) == 2
        f(1, log)
        assert (
            f(1, log, mode="read_only_strict")
            == f(1, log, fail_if_missing=True)
            == f(1, log, mode="local")
            == [1]
        )
        assert len(log) == 3
        f(1, log, mode="overwrite")
        assert len(log) == 4
        f(1, log, mode="local_strict")
        f(1, log, mode="local_strict")
        assert len(log) == 5
        f(2, log, mode="local_sync")
        f(2, log, mode="local_strict")
        f(2, log, mode="read_only_strict")
        assert len(log) == 6
        f(3, log)
        f(3, log, mode="local_sync")
        f(3, log, mode="local_strict")
        assert len(log) == 7
        f(3, log, mode="local_overwrite")
        assert len(log) == 8
    with dask.config.set({"daskcache.mode": "read"}):
        f(9, log)
        f(9, log)
        assert f(1, log) == [1]
    assert log[8:] == [9, 9]
    with dask.config.set({"daskcache.mode": "off"}):
        f(1, log)
    assert log[10:] == [1]


def test_recompute_of_one_of_several_and_of_all() -> None:
    log: list[str] = []

    @daskcache.cache(ignore=["log"])
    def inner(log):
        log.append("inner")
        return produced()

    @daskcache.cache(ignore=["log"])
    def outer(log):
        log.append("outer")
        return inner(log) + 1

    def run(**options: Any) -> list[str]:
        del log[:]
        outer(log, **options)
        return [*log]

    assert run() == ["outer", "inner"]
    assert run() == []
    assert run(recompute=True) == ["outer"]
    assert run(recompute=True, force_overwrite=True) == ["outer"]
    assert run(recompute="outer") == ["outer"]
    assert run(recompute="inner") == []
    assert run(recompute=["outer", "inner"], force_overwrite=True) == ["outer", "inner"]
    assert run(recompute="all") == ["outer", "inner"]
    assert run(recompute=["other"]) == []
    with daskcache.options(recompute=True):
        assert run() == ["outer", "inner"]
    assert count() == 4, "equal tokens are equal blocks"


def test_when_and_unless() -> None:
    log: list[Any] = []

    def define(**options: Any) -> Any:
        def f(x, y=0, *, log):
            log.append(x)
            return x

        return daskcache.cache(ignore=["log"], **options)(f)

    def runs(f: Any, *args: Any) -> int:
        del log[:]
        f(*args, log=log)
        f(*args, log=log)
        return len(log)

    assert [runs(define(when=lambda arguments: arguments["x"] > 1), x) for x in (1, 2)] == [2, 1]
    table = define(unless=[{"x": 5, "y": [1, 2]}, {"x": 6}])
    assert [runs(table, 5, 0), runs(table, 5, 2), runs(table, 6)] == [1, 2, 2]
    assert [runs(define(when={"x": [7, 8]}), x) for x in (7, 9)] == [1, 2]
    assert runs(define(when=False), 11) == 2


def test_results_expire(monkeypatch) -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"], expires="1h")
    def f(log):
        log.append(1)
        return 1

    f(log)
    f(log)
    assert len(log) == 1

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(hours=2)

    monkeypatch.setattr(recall, "datetime", Later)
    f(log)
    assert len(log) == 2


def test_a_stored_none_is_recalled_or_tried_again() -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    def maybe(log):
        log.append(1)
        return None if len(log) < 3 else 5

    assert [maybe(log), maybe(log)] == [None, None]
    assert len(log) == 1
    assert [maybe(log, retry_null=True), maybe(log), maybe(log, retry_null=True)] == [None, None, 5]
    assert [maybe(log), maybe(log, retry_null=True), len(log)] == [5, 5, 3]


def test_the_path_is_that_of_a_document_that_others_read() -> None:
    @daskcache.cache
    def make():
        return xr.Dataset({"t": ("x", da.arange(4, chunks=2))})

    path = make(path_only=True)
    assert os.path.isfile(path)
    opened = xr.open_dataset(
        "reference://", engine="zarr", backend_kwargs={"consolidated": False, "storage_options": {"fo": path}}
    )
    assert opened.t.values.tolist() == [0, 1, 2, 3]
    assert make(path_only=True) == path
    with daskcache.options(path_only=True):
        assert make() == path


def test_a_store_that_fails_is_warned_of_and_the_result_is_right(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    function = daskcache.cache(store=str(blocked))(lambda: produced())
    with pytest.warns(DaskcacheWarning):
        assert function().sum().compute() == produced().sum().compute()


def test_a_damaged_document_is_computed_again(store_root) -> None:
    function = daskcache.cache(name="damaged")(lambda: [1, 2])
    function()
    (index,) = store_root.glob("namespaces/default/damaged/*/@/*.idx")
    index.write_bytes(index.read_bytes()[:-3])
    with pytest.warns(DaskcacheWarning, match="cannot be read, and is computed"):
        assert function() == [1, 2]
    assert function(fail_if_missing=True) == [1, 2]


def test_entries_are_in_the_catalog_and_not_in_the_index_of_tokens(store_root) -> None:
    function = daskcache.cache(name="mine")(lambda x: da.ones(4, chunks=2) * x)
    function(2)
    catalog = Catalog(str(store_root))
    (entry,) = catalog.entries()
    assert entry.startswith("mine/call-")
    assert len(catalog.versions(entry)) == 1
    assert daskcache.open(entry).compute().tolist() == [2, 2, 2, 2]
    assert len(catalog.token_index()) == 0
    assert daskcache.verify(entry).is_sound
    info = catalog.open(entry).info
    assert set(info["call"]) == {"key", "function", "arguments", "sources"}
    assert stores.exists(stores.open(str(store_root)), "daskcache.json")

"""What must not be recalled: each of these was, or might be, a result that is no more right."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from pyarrow import csv

import daskcache
from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.errors import DaskcacheWarning
from daskcache.processors import timeseries


def write(path: Path, value: float) -> None:
    path.unlink(missing_ok=True)
    xr.Dataset({"t": ("x", [value])}).to_netcdf(path, engine="h5netcdf")


@pytest.mark.filterwarnings("ignore:.*join.*:FutureWarning")
def test_a_file_that_is_new_to_a_pattern(tmp_path) -> None:
    runs: list[int] = []

    @daskcache.cache(ignore=["runs"])
    def load(pattern, runs):
        runs.append(1)
        return xr.open_mfdataset(pattern, engine="h5netcdf", combine="nested", concat_dim="x")

    @daskcache.cache(ignore=["runs"])
    def total(pattern, runs):
        return float(load(pattern, runs).t.sum())

    pattern = str(tmp_path / "*.nc")
    write(tmp_path / "a.nc", 1.0)
    assert load(pattern, runs).t.values.tolist() == [1.0]
    assert total(pattern, runs) == 1.0
    write(tmp_path / "b.nc", 2.0)
    assert load(pattern, runs).t.values.tolist() == [1.0, 2.0]
    assert total(pattern, runs) == 3.0
    (tmp_path / "a.nc").unlink()
    assert load(pattern, runs).t.values.tolist() == [2.0]

    @daskcache.cache(ignore=["runs"], source=[pattern])
    def declared(pattern, runs):
        runs.append(1)
        return xr.open_mfdataset(pattern, engine="h5netcdf", combine="nested", concat_dim="x")

    runs.clear()
    assert [declared(pattern, runs).t.values.tolist() for _ in range(2)] == [[2.0], [2.0]]
    assert len(runs) == 1
    write(tmp_path / "c.nc", 3.0)
    assert declared(pattern, runs).t.values.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_variable_that_is_new_to_a_group_without_consolidated_metadata(tmp_path, zarr_format) -> None:
    path = str(tmp_path / "a.zarr")
    runs: list[int] = []

    @daskcache.cache(ignore=["runs"])
    def load(path, runs):
        runs.append(1)
        return xr.open_zarr(path, consolidated=False)

    kept = {"consolidated": False, "zarr_format": zarr_format}
    xr.Dataset({"t": ("x", [1.0])}).to_zarr(path, **kept)
    assert [list(load(path, runs)) for _ in range(2)] == [["t"], ["t"]]
    xr.Dataset({"u": ("x", [1.0])}).to_zarr(path, mode="a", **kept)
    assert sorted(load(path, runs)) == ["t", "u"]


def test_an_entry_that_is_opened_by_its_name() -> None:
    def publish(value: int) -> None:
        daskcache.persist(xr.Dataset({"t": ("x", da.arange(4, chunks=2) + value)}), "entry")

    publish(0)
    lazily = daskcache.cache(lambda: daskcache.open("entry") * 2)
    at_once = daskcache.cache(lambda: int(daskcache.open("entry").t.sum()))
    with pytest.warns(DaskcacheWarning, match="opens what is published under a name"):
        assert lazily().t.values.tolist() == [0, 2, 4, 6]
    assert at_once() == 6
    publish(10)
    assert lazily().t.values.tolist() == [20, 22, 24, 26]
    assert at_once() == 46

    given = daskcache.cache(lambda ds: int(ds.t.sum()))
    assert given(daskcache.open("entry")) == 46
    publish(20)
    assert given(daskcache.open("entry")) == 86


def through_path(path):
    return Path(path).read_text()


def through_a_given_path(path):
    return path.read_text()


def through_gzip(path):
    return gzip.open(path).read()


def through_polars(path):
    return pl.read_csv(path).height


def through_polars_lazily(path):
    return pl.scan_csv(path).collect().height


def through_arrow(path):
    return csv.read_csv(path).num_rows


def looking(path):
    return Path(path).is_file()


def through_an_import(path):
    import pathlib

    with pathlib.Path(path).open() as file:
        return len(file.read())


@pytest.mark.parametrize(
    "read",
    [
        through_path,
        through_a_given_path,
        through_gzip,
        through_polars,
        through_polars_lazily,
        through_arrow,
        looking,
        through_an_import,
    ],
    ids=lambda function: function.__name__,
)
def test_files_that_are_read_at_once_have_to_be_declared(read, tmp_path) -> None:
    path = tmp_path / "a.csv"
    text = "a\n1\n2\n"
    path.write_bytes(gzip.compress(text.encode()) if read is through_gzip else text.encode())
    with pytest.warns(DaskcacheWarning, match=r"reads a file|looks at the file system"):
        daskcache.cache(name="undeclared")(read)(path)
    declared = daskcache.cache(name="declared", source=[path])(read)
    assert declared(path) == declared(path, fail_if_missing=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_is_new_to_a_table_of_dask(tmp_path, kind) -> None:
    def add(name: str, rows: int) -> None:
        frame = pd.DataFrame({"a": range(rows)})
        frame.to_csv(tmp_path / f"{name}.csv") if kind == "csv" else frame.to_parquet(
            tmp_path / f"{name}.parquet"
        )

    @daskcache.cache
    def load(where):
        return dd.read_csv(where) if where.endswith("csv") else dd.read_parquet(where)

    where = str(tmp_path / "*.csv") if kind == "csv" else str(tmp_path)
    add("one", 1)
    assert [len(load(where)) for _ in range(2)] == [1, 1]
    add("two", 2)
    assert len(load(where)) == 3


class Model:
    factor = 2

    def scale(self, x: int) -> int:
        return self.factor * x

    @daskcache.cache(ignore=["self"])
    def ignoring(self, x: int) -> int:
        return self.scale(x)

    @daskcache.cache(cache_args=["x"])
    def choosing(self, x: int) -> int:
        return self.scale(x)

    @classmethod
    @daskcache.cache(ignore=["cls"])
    def of_class(cls, x: int) -> int:
        return cls.factor * x


@pytest.mark.parametrize("name", ["ignoring", "choosing", "of_class"])
def test_the_class_of_an_object_that_does_not_count(name: str, monkeypatch) -> None:
    model = Model()
    method = getattr(model, name)
    model.unread = object()
    assert method(3) == 6
    assert method(3, fail_if_missing=True) == 6
    monkeypatch.setattr(Model, "factor", 5)
    assert method(3) == 15
    if name != "of_class":
        monkeypatch.setattr(Model, "scale", lambda self, x: -x)
        assert method(3) == -3


def test_what_is_read_at_once_beside_a_cached_function(tmp_path) -> None:
    """The sources of the one that is called say nothing of what the other opens."""
    one, other = tmp_path / "one.nc", tmp_path / "other.nc"
    write(one, 1.0)
    write(other, 2.0)

    @daskcache.cache
    def load(path):
        return xr.open_dataset(path, engine="h5netcdf", chunks={})

    @daskcache.cache
    def product(path, beside):
        return float(load(path).t.sum()) * float(xr.open_dataset(beside, engine="h5netcdf").t.sum())

    with pytest.warns(DaskcacheWarning, match="its code opens files"):
        assert product(str(one), str(other)) == 2.0
    xr.backends.file_manager.FILE_CACHE.clear()
    write(other, 5.0)
    assert product(str(one), str(other)) == 5.0


def test_a_declared_file_that_changes_between_key_and_call(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    values = []

    @daskcache.cache(source=[path], ignore=["values"])
    def read(values):
        values.append(path.read_text())
        return values[-1]

    from daskcache.functions import cached

    recall = cached.recall

    def change(*args, **kwargs):
        path.write_text("two, longer")
        return recall(*args, **kwargs)

    monkeypatch.setattr(cached, "recall", change)
    with pytest.warns(DaskcacheWarning, match="has changed while it ran"):
        assert read(values) == "two, longer"
    monkeypatch.undo()
    path.unlink()
    path.write_text("one")
    assert read(values) == "one"


@timeseries("time")
@daskcache.cache(ignore=["factor"])
def series(factor, start_time=None, end_time=None):
    times = pd.date_range(start_time, end_time)
    return pd.DataFrame({"time": times, "v": factor * times.day_of_year.to_numpy()})


def test_what_is_older_than_a_recomputed_result() -> None:
    """A narrower range that was computed anew: the wider one from before is distrusted as well."""
    assert series(1, "2000-01-01", "2000-01-10").v.sum() == 55
    assert series(2, "2000-01-03", "2000-01-04", recompute=True).v.sum() == 14
    assert series(2, "2000-01-03", "2000-01-04").v.sum() == 14
    assert series(2, "2000-01-01", "2000-01-10").v.sum() == 110
    with daskcache.options(mode="overwrite"):
        assert series(3, "2000-01-03", "2000-01-04").v.sum() == 21
    assert series(3, "2000-01-01", "2000-01-10").v.sum() == 165


def test_force_overwrite_drops_what_was_there() -> None:
    catalog = Catalog.of(Settings.from_config())
    series(1, "2000-01-01", "2000-01-02")
    series(1, "2000-01-05", "2000-01-06")
    (entry,) = catalog.entries()
    assert len(catalog.versions(entry)) == 2
    series(2, "2000-01-03", "2000-01-04", recompute=True)
    assert len(catalog.versions(entry)) == 3
    assert series(3, "2000-01-03", "2000-01-04", recompute=True, force_overwrite=True).v.tolist() == [9, 12]
    assert len(catalog.versions(entry)) == 1
    # Of what is only recalled nothing is dropped.
    series(3, "2000-01-05", "2000-01-06")
    series(3, "2000-01-05", "2000-01-06", force_overwrite=True)
    assert len(catalog.versions(entry)) == 2
    with daskcache.options(recompute=["series"], force_overwrite=True):
        series(4, "2000-01-05", "2000-01-06")
    assert len(catalog.versions(entry)) == 1


MODULE = """
import numpy as np
import pandas as pd
LIMITS = {"low": 1, "high": 3}
NAMES = {"b", "a", "c"}
class Base:
    power = 2
    def apply(self, x):
        return x ** self.power
class Model(Base):
    def __init__(self, offset):
        self.offset = offset
    def __call__(self, x):
        return self.apply(x) + self.offset + LIMITS["low"]
def helper(x):
    return x + 1
"""

PROGRAM = """
import sys
import daskcache
import parts
@daskcache.cache
def through_module(x):
    return parts.helper(x)
@daskcache.cache
def with_model(model, x):
    return model(x)
@daskcache.cache
def of_names(x):
    return len(parts.NAMES) + x
@daskcache.cache
def inner(x):
    return parts.helper(x) * 10
@daskcache.cache
def outer(x):
    return inner(x) + 1
@daskcache.cache
def late(x):
    from parts import helper
    return helper(x)
@daskcache.cache
def by_closure(function, x):
    return [function(one) for one in x]
import dask
dask.config.set({"daskcache.store": sys.argv[1]})
print(through_module(1), with_model(parts.Model(5), 3), of_names(0), outer(1), late(1), by_closure(lambda x: parts.helper(x), [1, 2]))
"""

EDITS = {
    "nothing": ("", "", [2, 15, 3, 21, 2, "[2,", "3]"]),
    "a helper": ("return x + 1", "return x + 2", [3, 15, 3, 31, 3, "[3,", "4]"]),
    "a base class": ("x ** self.power", "x ** self.power * 2", [2, 24, 3, 21, 2, "[2,", "3]"]),
    "a class attribute": ("power = 2", "power = 3", [2, 33, 3, 21, 2, "[2,", "3]"]),
    "a global": ('"low": 1', '"low": 7', [2, 21, 3, 21, 2, "[2,", "3]"]),
    "a set": ('"b", ', "", [2, 15, 2, 21, 2, "[2,", "3]"]),
}


def test_edits_between_processes_with_other_hash_seeds(tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def run(seed: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-B", str(script), str(tmp_path / "store")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    for seed, name in enumerate(EDITS):
        old, new, expected = EDITS[name]
        (tmp_path / "parts.py").write_text(MODULE.replace(old, new) if old else MODULE)
        assert run(str(seed)) == [str(one) for one in expected], name
    (tmp_path / "parts.py").write_text(MODULE)
    stored = sorted((tmp_path / "store").rglob("latest"))
    assert run("77") == [str(one) for one in EDITS["nothing"][2]]
    assert sorted((tmp_path / "store").rglob("latest")) == stored


def test_values_that_python_takes_for_equal() -> None:
    give = daskcache.cache(lambda value: repr(value))
    values = [
        1,
        1.0,
        True,
        np.int64(1),
        np.float32(1),
        "1",
        b"1",
        (1,),
        [1],
        {1},
        frozenset({1}),
        {1: 1},
        {1: True},
    ]
    values += [
        0.0,
        -0.0,
        float("nan"),
        None,
        "",
        np.array(1),
        np.array([1]),
        np.array([[1]]),
        np.ones(1, ">i8"),
    ]
    values += [pd.Timestamp("2000"), np.datetime64("2000"), pd.Timestamp("2000", tz="UTC"), {"a": 1, "b": 2}]
    values += [{"b": 2, "a": 1}, range(1), slice(1), Ellipsis, complex(1), pd.Series([1]), pd.Index([1])]
    for _ in range(2):
        assert [give(value) for value in values] == [repr(value) for value in values]


def numbered() -> xr.DataArray:
    return xr.DataArray(
        da.arange(10, chunks=2), dims="x", coords={"x": np.arange(10), "y": ("x", np.arange(10)[::-1])}
    )


def test_what_was_stored_under_another_processor(monkeypatch) -> None:
    class First(daskcache.Processor):
        length = 4

        def trim(self, result, state):
            return result.isel(x=slice(0, self.length))

    make = daskcache.cache(name="trimmed")(numbered)
    assert First()(make)().sizes["x"] == 4
    assert First()(make)(fail_if_missing=True).sizes["x"] == 4
    monkeypatch.setattr(First, "length", 6)
    assert First()(make)().sizes["x"] == 6
    monkeypatch.setattr(First, "trim", lambda self, result, state: result)
    assert First()(make)().sizes["x"] == 10
    assert make().sizes["x"] == 10

    along_x = daskcache.select(x="x")(make)
    along_y = daskcache.select(x="y")(make)
    assert along_x(x=[0, 1]).values.tolist() == [0, 1]
    assert along_y(x=[0, 1]).values.tolist() == [9, 8]
    assert along_x(x=[0, 1]).values.tolist() == [0, 1]


def test_hints_do_not_count() -> None:
    make = daskcache.cache(name="hinted")(lambda: numbered())
    daskcache.select("x", hints="x")(make)(x=3)
    assert int(daskcache.select("x")(make)(x=3, fail_if_missing=True)) == 3

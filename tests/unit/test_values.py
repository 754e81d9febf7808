"""Delayed values: stored in the format of their type under the token of their graph, and loaded by a task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask.delayed import Delayed, delayed

import daskcache
from daskcache.errors import (
    InvalidInputError,
    NotStoredError,
    ReadOnlyError,
    SourceChangedError,
    StoreError,
    UncacheableError,
)
from tests import producers
from tests.clusters import processes
from tests.producers import count, double

VALUES = {
    "number": 1.5,
    "null": None,
    "json": {"a": [1, (2, "x")], "when": pd.Timestamp("2000-01-01").to_pydatetime()},
    "numpy": np.arange(20_000).reshape(100, 200),
    "scalar": np.float32(2),
    "table": pd.DataFrame({"a": [1, 2]}, index=pd.Index([3, 4], name="i")),
    "column": pd.Series([1.5, np.nan], name="s"),
    "dataset": xr.Dataset({"t": ("x", np.arange(3.0))}, {"x": ["a", "b", "c"]}, {"units": "K"}),
    "dataarray": xr.DataArray(np.arange(20_000.0), dims="x", name="q"),
    "container": [np.arange(20_000), {"table": pd.DataFrame({"a": [1]})}, "text"],
}


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@daskcache.version("1")
def give(name: str) -> Any:
    producers._note()
    return VALUES[name]


def total(value: Any) -> float:
    return float(np.sum(value))


def check_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, xr.Dataset | xr.DataArray):
        xr.testing.assert_identical(one, other)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, list | dict):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            check_same(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("name", VALUES)
def test_each_type_has_its_format_and_is_computed_once(name: str) -> None:
    value = delayed(give)(name)
    before = daskcache.token(value)
    assert not daskcache.status(value).is_complete
    kept = daskcache.persist(value)
    assert isinstance(kept, Delayed)
    check_same(kept.compute(), VALUES[name])
    assert count() == 1
    # Another graph of the same recipe, under another key.
    again = daskcache.persist(delayed(give, pure=False)(name))
    check_same(again.compute(), VALUES[name])
    assert count() == 0
    status = daskcache.status(delayed(give)(name))
    assert status.is_complete
    assert status["value"].stored_bytes > 0
    assert daskcache.token(kept) == daskcache.token(again) == before


def test_what_is_computed_of_a_loaded_value_has_the_same_identity() -> None:
    value = delayed(give)("numpy")
    kept = daskcache.persist(value)
    assert daskcache.token(delayed(total)(kept)) == daskcache.token(delayed(total)(value))
    daskcache.persist(delayed(total)(value))
    count()
    assert daskcache.persist(delayed(total)(kept)).compute() == VALUES["numpy"].sum()
    assert daskcache.persist(delayed(total)(delayed(give)("numpy"))).compute() == VALUES["numpy"].sum()
    assert count() == 0
    array = da.from_delayed(kept, (100, 200), dtype="i8")
    assert int(array.sum()) == VALUES["numpy"].sum()
    one, two = delayed(give, nout=2)("container"), daskcache.persist(delayed(give, nout=2)("container"))
    assert [len(part.compute()) for part in list(one)[:1]] == [len(part.compute()) for part in list(two)[:1]]


def test_names() -> None:
    value = delayed(give)("json")
    daskcache.persist(value, "mine")
    daskcache.persist(delayed(give)("json"), "other")
    assert count() == 1
    assert daskcache.open("mine") == daskcache.open("other") == VALUES["json"]
    daskcache.persist(delayed(give)("number"), "mine")
    assert daskcache.open("mine") == 1.5
    daskcache.persist(value, "mine")
    assert daskcache.open("mine") == VALUES["json"]
    assert count() == 1


def test_stored_blocks_of_arrays_are_loaded() -> None:
    array = da.arange(8, chunks=4).map_blocks(double, dtype="i8", meta=np.empty(0, "i8"))
    daskcache.persist(array, "array")
    assert count() == 2
    assert daskcache.persist(delayed(total)(array)).compute() == 56
    assert count() == 0


def test_effects_and_what_has_no_identity_are_refused() -> None:
    runs: list[int] = []

    @daskcache.effect
    def write(value):
        runs.append(value)
        return value

    for value in (delayed(write)(1), delayed(total)(delayed(write)(1)), delayed(total)(object())):
        with pytest.raises(UncacheableError):
            daskcache.persist(value)
        with pytest.raises(UncacheableError):
            daskcache.token(value)
        assert "cannot be stored" in str(daskcache.status(value))
    assert not runs


@pytest.mark.parametrize(
    "value", [object(), {"a": object()}, xr.Dataset({"t": ("x", da.ones(3))}), [da.ones(3)]]
)
def test_what_has_no_form_is_refused_and_nothing_is_published(value: Any, store_root: Path) -> None:
    with pytest.raises(UncacheableError):
        daskcache.persist(delayed(lambda: value)())
    assert not [*store_root.glob("namespaces/**/latest")]


def test_errors_of_the_task_pass() -> None:
    def fail():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        daskcache.persist(delayed(fail)())


def test_options_that_a_value_has_not() -> None:
    for options in ({"chunks": 3}, {"hints": "time"}, {"wait": False}):
        with pytest.raises(InvalidInputError, match="neither chunks nor hints"):
            daskcache.persist(delayed(give)("number"), **options)
    with dask.config.set({"daskcache.mode": "read"}), pytest.raises(ReadOnlyError):
        daskcache.persist(delayed(give)("number"))
    assert count() == 0


def test_a_lost_object_is_computed_again(store_root: Path) -> None:
    kept = daskcache.persist(delayed(give)("numpy"))
    for path in producers.objects(store_root):
        path.unlink()
    with pytest.raises(NotStoredError):
        kept.compute()
    check_same(daskcache.persist(delayed(give)("numpy")).compute(), VALUES["numpy"])
    assert count() == 2


def test_a_value_expires(monkeypatch) -> None:
    daskcache.persist(delayed(give)("number"), expires=1e-3)
    time.sleep(0.02)
    assert not daskcache.status(delayed(give)("number")).is_complete
    daskcache.persist(delayed(give)("number"))
    assert count() == 2


def test_a_source_that_changes_is_another_value_and_one_that_changes_meanwhile_is_not_stored(
    tmp_path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")

    @daskcache.version("1")
    def add_more() -> None:
        path.write_text(path.read_text() + " more")

    @daskcache.source(path)
    def read(change: bool) -> str:
        found = path.read_text()
        if change:
            add_more()
        return found

    assert daskcache.persist(delayed(read)(False)).compute() == "one"
    path.write_text("three")
    assert daskcache.persist(delayed(read)(False)).compute() == "three"
    with pytest.raises(SourceChangedError):
        daskcache.persist(delayed(read)(True))
    assert daskcache.persist(delayed(read)(False)).compute() == "three more"


def test_a_store_that_cannot_be_written_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError):
        daskcache.persist(delayed(give)("number"), store=str(tmp_path / "file"))


PROGRAM = """
import sys
import numpy as np
import daskcache
from dask import delayed
def compute(numbers):
    print("runs")
    return {"sum": sum(numbers), "array": np.arange(3)}
value = delayed(compute)({3, 1, 2, 500, 70000})
print(daskcache.token(value), daskcache.persist(value, store=sys.argv[1]).compute()["sum"])
"""


def test_another_process_finds_it_and_other_code_does_not(tmp_path) -> None:
    def run(program: str, seed: str) -> list[str]:
        script = tmp_path / "program.py"
        script.write_text(program)
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path / "values")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    runs, token, value = run(PROGRAM, "1")
    assert (runs, value) == ("runs", "70506")
    assert run(PROGRAM, "2") == [token, "70506"]
    edited = run(PROGRAM.replace("sum(numbers)", "sum(numbers) + 1"), "3")
    assert edited[0] == "runs"
    assert edited[2] == "70507"


@pytest.mark.slow
def test_a_worker_stores_and_loads(tmp_path) -> None:
    with processes(tmp_path, workers=1) as cluster, cluster.client(workers=1):
        kept = daskcache.persist(delayed(np.arange)(40_000), "numbers")
        assert kept.sum().compute() == sum(range(40_000))
        assert daskcache.last_run().computed == 1
    np.testing.assert_array_equal(daskcache.open("numbers"), np.arange(40_000))

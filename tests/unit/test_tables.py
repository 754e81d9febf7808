"""Tables that are kept in parts: exact, filled by several calls, never half, and swept with their entries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskcache
from daskcache.catalog import Catalog
from daskcache.cli import cache as command
from daskcache.errors import DaskcacheWarning, InvalidInputError, StoreError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from tests.tables import HELD

FORMATS = ["parquet", "sql", "delta"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[Path]:
    database = f"sqlite:///{tmp_path}/results.db"
    with dask.config.set(
        {"daskcache.store": str(tmp_path / "store"), "daskcache.functions.database": database}
    ):
        yield tmp_path / "store"


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Filled:
    """A function that fills a table, and what it was called with."""

    def __init__(self, form: str, **options: Any) -> None:
        self.calls: list[Any] = []
        options = {"upsert_keys": ["k"], "cache_args": ["site"], "ignore": ["log"], **options}

        @daskcache.cache(format=form, name="filled", **options)
        def fill(site: str, rows: dict[str, Any], log: list[Any]) -> pd.DataFrame:
            log.append(rows)
            return pd.DataFrame(rows)

        self.function = fill

    def __call__(self, rows: dict[str, Any], site: str = "a", **options: Any) -> pd.DataFrame:
        found: pd.DataFrame = self.function(site, rows, self.calls, **options)
        return found


def entry_of(store: Path) -> str:
    (entry,) = Catalog(str(store)).entries()
    return entry


@pytest.mark.parametrize("name", [name for name in HELD if name not in ("nothing", "no columns")])
def test_delta_gives_back_what_it_was_given(name: str) -> None:
    value = HELD[name]
    give = daskcache.cache(format="delta", cache_args=[])(lambda value: value)
    give(value)
    found = give(None)
    same = Fingerprinter().fingerprint
    assert type(found) is type(value)
    if name.startswith(("polars", "a column of polars", "geo")):
        assert found.equals(value)
    else:
        assert same(found) == same(value)


def test_rows_are_added_and_updated_by_keys(form: str) -> None:
    fill = Filled(form)
    first = {"k": [1, 2], "v": [1.0, 2.0]}
    assert fill(first, upsert=True)["v"].tolist() == [1, 2]
    second = {"k": [2, 3], "v": [20.0, 30.0]}
    found = fill(second, upsert=True)
    pd.testing.assert_frame_equal(found, pd.DataFrame({"k": [1, 2, 3], "v": [1.0, 20.0, 30.0]}))
    # Once each, whatever is called again, and all of it without a call.
    for again in (first, second, first):
        pd.testing.assert_frame_equal(fill(again, upsert=True), found)
    pd.testing.assert_frame_equal(fill({"k": [9], "v": [9.0]}), found)
    assert len(fill.calls) == 2
    # Another table.
    assert fill({"k": [5], "v": [5.0]}, site="b")["k"].tolist() == [5]
    # What the call gave before is replaced by what it gives now.
    assert fill(first, upsert=True, recompute=True)["v"].tolist() == [30.0, 1.0, 2.0]
    # Begun anew.
    assert fill(second, recompute=True)["v"].tolist() == [20.0, 30.0]
    assert fill(first, upsert=True)["v"].tolist() == [30.0, 1.0, 2.0]


def test_rows_are_added_without_keys(form: str) -> None:
    fill = Filled(form, upsert_keys=[], upsert=True)
    for rows in ({"k": [1, 1]}, {"k": [1]}, {"k": [1, 1]}):
        found = fill(rows)
    assert found["k"].tolist() == [1, 1, 1]
    assert len(fill.calls) == 2


def test_what_an_earlier_call_gave_and_gives_no_more_goes(form: str) -> None:
    calls: list[int] = []

    @daskcache.cache(format=form, upsert_keys=["k"], cache_args=[], ignore=["log", "rows"], upsert=True)
    def fill(day: int, rows: list[int], log: list[int]) -> pd.DataFrame:
        log.append(day)
        return pd.DataFrame({"k": rows, "by": day})

    fill(1, [1, 2, 3], calls)
    fill(2, [3, 4], calls)
    found = fill(2, [4], calls, recompute=True)
    # Day 2 had taken the place of a row of day 1, which is whole again when it is called.
    assert found.to_dict("list") == {"k": [4], "by": [2]}
    assert fill(1, [1, 2, 3], calls).to_dict("list") == {"k": [4, 1, 2, 3], "by": [2, 1, 1, 1]}


def test_rows_whose_source_has_changed_are_left_out(form: str, tmp_path: Path) -> None:
    import xarray as xr

    def write(day: int, value: float) -> str:
        path = str(tmp_path / f"{day}.zarr")
        xr.Dataset({"v": ("k", [value])}, {"k": [day]}).to_zarr(path, mode="w", zarr_format=2)
        return path

    @daskcache.cache
    def opened(path: str) -> xr.Dataset:
        return xr.open_zarr(path)

    @daskcache.cache(format=form, name=f"sourced-{form}", upsert_keys=["k"], cache_args=[], upsert=True)
    def fill(path: str) -> pd.DataFrame:
        return opened(path).to_dataframe()

    paths = [write(day, float(day)) for day in (1, 2)]
    for path in paths:
        found = fill(path)
    assert found["v"].to_dict() == {1: 1.0, 2: 2.0}
    write(1, 10.0)
    with pytest.warns(DaskcacheWarning, match="1 of the 2 calls that filled the table"):
        assert fill(paths[1])["v"].to_dict() == {2: 2.0}
    assert fill(paths[0])["v"].to_dict() == {2: 2.0, 1: 10.0}


def test_what_does_not_fit_is_an_error_and_changes_nothing(form: str) -> None:
    fill = Filled(form, upsert=True)
    fill({"k": [1], "v": [1.0]})
    for rows, message in (
        ({"k": [2, 2], "v": [1.0, 1.0]}, "two rows have the same"),
        ({"k": [2.0, np.nan], "v": [1.0, 1.0]}, "no value of"),
        ({"k": [2], "v": ["x"]}, "other columns, types or categories"),
        ({"v": [1.0]}, "upsert_keys names"),
    ):
        with pytest.raises(UncacheableError, match=message):
            fill(rows)
    assert fill({"k": [1], "v": [1.0]}).to_dict("list") == {"k": [1], "v": [1.0]}


def test_other_columns_where_nothing_of_other_calls_stays(form: str) -> None:
    fill = Filled(form, upsert=True)
    fill({"k": [1], "v": [1.0]})
    assert fill({"k": [1], "w": ["x"]}, recompute=True, upsert=False).to_dict("list") == {
        "k": [1],
        "w": ["x"],
    }

    kinds: list[type] = [float]

    @daskcache.cache(format=form, upsert_keys=["k"], cache_args=[], ignore=["kinds"], upsert=True)
    def own(kinds: list[type]) -> pd.DataFrame:
        return pd.DataFrame({"k": [1], "v": pd.Series([2]).astype(kinds[0])})

    own(kinds)
    assert own([str], recompute=True)["v"].tolist() == ["2"]


def test_indexes_and_categories_of_filled_tables(form: str) -> None:
    kind = pd.CategoricalDtype(["x", "y", "z"])

    @daskcache.cache(format=form, upsert_keys=["time", "site"], cache_args=[], upsert=True)
    def fill(day: int) -> pd.DataFrame:
        time = pd.date_range("2000", periods=2, tz="Europe/Rome") + pd.Timedelta(days=day)
        index = pd.MultiIndex.from_product([time, ["u"]], names=["time", "site"])
        return pd.DataFrame({"c": pd.Series(["x", "y"], index=index, dtype=kind), "v": float(day)})

    fill(0)
    found = fill(1)
    expected = pd.concat([fill.__wrapped__(0).iloc[:1], fill.__wrapped__(1)])
    pd.testing.assert_frame_equal(found, expected, check_freq=False)


def test_tables_of_dask_by_partition(form: str) -> None:
    pdf = pd.DataFrame(
        {"a": range(10), "c": pd.Categorical(list("ab" * 5), list("bac"))},
        index=pd.Index(range(0, 20, 2), name="i"),
    )
    give = daskcache.cache(format=form, name="whole")(lambda: dd.from_pandas(pdf, npartitions=3))
    give()
    found = give()
    assert found.divisions == (0, 8, 14, 18)
    pd.testing.assert_frame_equal(found.compute(), pdf)
    pd.testing.assert_frame_equal(found.partitions[1].compute(), pdf.iloc[4:7])

    @daskcache.cache(format=form, upsert_keys=["i"], cache_args=[], upsert=True)
    def fill(start: int) -> dd.DataFrame:
        return dd.from_pandas(pdf.iloc[start : start + 5].assign(a=start), npartitions=2)

    fill(0)
    found = fill(3)
    assert found.npartitions == 4
    assert found.compute()["a"].to_dict() == dict.fromkeys([0, 2, 4], 0) | dict.fromkeys(
        [6, 8, 10, 12, 14], 3
    )
    calls = []
    count = daskcache.cache(ignore=["log"])(lambda frame, log: log.append(1) or len(frame))
    assert (count(fill(3), calls), count(fill(0), calls), len(calls)) == (8, 8, 1)


PROGRAM = """
import sys, time, pandas as pd, numpy as np, daskcache
from daskcache.catalog import Catalog
form, word, *numbers = sys.argv[1:]
@daskcache.cache(format=form, name="filled", upsert_keys=["k"], cache_args=["s"], upsert=True)
def rows(s, number):
    return pd.DataFrame({"k": np.arange(number * 10, number * 10 + 15), "by": number})
if word == "killed":
    def publish(self, *args, **kwargs):
        print("publishing", flush=True)
        time.sleep(60)
    Catalog.publish = publish
for number in map(int, numbers):
    rows("s", number)
"""


def start(form: str, *words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DASK_DASKCACHE__STORE": dask.config.get("daskcache.store"),
        "DASK_DASKCACHE__FUNCTIONS__DATABASE": dask.config.get("daskcache.functions.database"),
    }
    command_line = [sys.executable, "-c", PROGRAM, form, *words]
    return subprocess.Popen(
        command_line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_fill_at_once_lose_nothing(form: str, store: Path) -> None:
    runs = [start(form, "fill", *map(str, range(number, 6, 2))) for number in range(2)]
    for one in runs:
        assert one.communicate(timeout=100)[1] == ""
    found = daskcache.open(entry_of(store))
    assert sorted(found["k"]) == list(range(65))
    assert set(found["by"]) == set(range(6))


def test_a_writer_that_is_killed_changes_nothing_and_stops_nobody(form: str, store: Path) -> None:
    assert start(form, "fill", "0").communicate(timeout=100)[1] == ""
    before = daskcache.open(entry_of(store))
    other = start(form, "killed", "1")
    assert other.stdout is not None
    assert other.stdout.readline() == "publishing\n"
    other.send_signal(signal.SIGKILL)
    other.communicate()
    pd.testing.assert_frame_equal(daskcache.open(entry_of(store)), before)
    assert start(form, "fill", "1").communicate(timeout=50)[1] == ""
    assert sorted(daskcache.open(entry_of(store))["k"]) == list(range(25))


def test_what_is_cleared_begins_anew_and_is_swept(form: str, store: Path) -> None:
    fill = Filled(form, upsert=True)
    fill({"k": [1], "v": [1.0]})
    fill({"k": [2], "v": [2.0]})
    assert daskcache.gc(grace=0, wait=0).tables == 0
    assert fill({"k": [2], "v": [2.0]})["k"].tolist() == [1, 2]
    done = CliRunner().invoke(command, ["clear", entry_of(store)], catch_exceptions=False)
    assert "dropped" in done.output
    assert fill({"k": [3], "v": [3.0]})["k"].tolist() == [3]
    daskcache.clear(entry_of(store))
    kept = daskcache.gc(wait=0)
    assert (kept.tables, kept.chunks) == (0, 0)
    assert daskcache.gc(grace=0, wait=0, dry_run=True).tables == (form != "parquet")
    swept = daskcache.gc(grace=0, wait=0)
    assert swept.tables == (form != "parquet")
    assert ("1 tables" in str(swept)) == (form != "parquet")
    assert daskcache.gc(grace=0, wait=0).tables == 0
    assert fill({"k": [4], "v": [4.0]})["k"].tolist() == [4]


def test_sweeping_leaves_other_stores_tables_and_needed_versions(store: Path, tmp_path: Path) -> None:
    fill = Filled("sql", upsert=True)
    fill({"k": [1], "v": [1.0]})
    with dask.config.set({"daskcache.store": str(tmp_path / "other")}):
        assert daskcache.gc(grace=0, wait=0).tables == 0
        assert fill({"k": [2], "v": [2.0]})["k"].tolist() == [2]
    assert fill({"k": [1], "v": [1.0]})["k"].tolist() == [1]
    give = daskcache.cache(format="delta", cache_args=[], name="versions")(lambda n: pd.DataFrame({"n": [n]}))
    for number in range(5):
        give(number, recompute=True)
    (entry,) = (one for one in Catalog(str(store)).entries() if one.startswith("versions"))
    assert daskcache.gc(grace=0, wait=0).leftovers >= 2
    versions = Catalog(str(store)).versions(entry)
    assert [daskcache.open(entry, version=one.version)["n"].item() for one in versions] == [4, 3, 2]


def test_a_database_that_cannot_be_reached(tmp_path: Path) -> None:
    with dask.config.set({"daskcache.functions.database": f"sqlite:///{tmp_path}/no/such/directory/x.db"}):
        give = daskcache.cache(format="sql")(lambda: pd.DataFrame({"a": [1]}))
        with pytest.warns(DaskcacheWarning, match="was not stored: database sqlite:.*unable to open"):
            assert len(give()) == 1
        with pytest.raises(StoreError, match="unable to open"):
            Filled("sql", upsert=True)({"k": [1]})
        with pytest.warns(DaskcacheWarning, match="were not swept"):
            daskcache.gc(wait=0)


def test_options_that_do_not_go_together() -> None:
    frame = pd.DataFrame({"a": [1]})
    with pytest.raises(InvalidInputError, match="has no upsert_keys"):
        daskcache.cache(lambda: frame)(upsert=True)
    with pytest.raises(InvalidInputError, match="format='json'"):
        daskcache.cache(format="json", upsert_keys=["a"])
    with pytest.raises(InvalidInputError, match="without format='sql'"):
        daskcache.cache(database="sqlite:////x.db")
    with pytest.raises(InvalidInputError, match="expected a list of names"):
        daskcache.cache(upsert_keys="a")
    with pytest.raises(InvalidInputError, match="mode 'local' has no meaning"):
        daskcache.cache(upsert_keys=["a"])(lambda: frame)(mode="local")
    with (
        dask.config.set({"daskcache.functions.database": None}),
        pytest.raises(InvalidInputError, match="none is named"),
    ):
        daskcache.cache(format="sql")(lambda: frame)()
    with pytest.raises(InvalidInputError, match="on a local disk"):
        daskcache.cache(format="delta", store="memory://tables")(lambda: frame)()
    with pytest.warns(DaskcacheWarning, match="is no table"):
        daskcache.cache(format="sql")(lambda: 3)()


def test_memoized_tables_are_those_of_now(form: str) -> None:
    fill = Filled(form, upsert=True)
    fill({"k": [1], "v": [1.0]})
    assert fill({"k": [1], "v": [1.0]}, memoize=True)["k"].tolist() == [1]
    changed = fill({"k": [1], "v": [1.0]}, memoize=True)
    changed.loc[0, "k"] = 99
    assert fill({"k": [1], "v": [1.0]}, memoize=True)["k"].tolist() == [1]
    fill({"k": [2], "v": [2.0]})
    assert fill({"k": [1], "v": [1.0]}, memoize=True)["k"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("form", "library", "extra"), [("sql", "sqlalchemy", "sql"), ("delta", "deltalake", "delta")]
)
def test_a_missing_extra_is_named(form: str, library: str, extra: str) -> None:
    program = f"""
import sys
sys.modules[{library!r}] = None
import pandas as pd, daskcache
try:
    daskcache.cache(format={form!r})(lambda: pd.DataFrame({{"a": [1]}}))()
except daskcache.MissingExtraError as error:
    print(error)
"""
    environment = {
        **os.environ,
        "DASK_DASKCACHE__STORE": dask.config.get("daskcache.store"),
        "DASK_DASKCACHE__FUNCTIONS__DATABASE": dask.config.get("daskcache.functions.database"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"daskcache[{extra}]" in done.stdout, done.stderr

"""Tables in SQLite and in a real PostgreSQL: exact, whole or not there, and without a password anywhere."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

import daskcache
from daskcache.catalog import Catalog
from daskcache.errors import DaskcacheWarning, InvalidInputError, NotStoredError, StoreError
from daskcache.formats.database import Database
from tests.servers.databases import PASSWORD, USER, Postgres
from tests.tables import HELD, REFUSED

KINDS = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgresql", id="postgresql", marks=pytest.mark.server("postgresql")),
]


NUMBERS = itertools.count()


def credentials() -> dict[str, str]:
    return {"password": os.environ["CANARY"]}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    running: list[Postgres] = []

    def start() -> Postgres:
        if not running:
            running.append(Postgres())
            running[0].start()
        return running[0]

    yield start
    for one in running:
        one.close()


@pytest.fixture(params=KINDS)
def url(
    request: pytest.FixtureRequest, tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Give a database, without its password; who reads it finds that in a function."""
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path}/results.db"
    else:
        found = server().url()
        monkeypatch.setattr("daskcache.secrets._functions", {"database": f"{__name__}:credentials"})
        monkeypatch.setenv("CANARY", PASSWORD)
    with dask.config.set({"daskcache.store": str(tmp_path / "store"), "daskcache.functions.database": found}):
        yield found


def kept(value: Any, **options: Any) -> Any:
    """Give what a second call of a cached function gives, out of the database."""

    @daskcache.cache(cache_args=[], name=f"kept-{next(NUMBERS)}", format="sql", **options)
    def give(value: Any) -> Any:
        return value

    first = give(value)
    second = give(None)
    assert same(first, value)
    return second


def same(one: Any, other: Any) -> bool:
    if isinstance(one, pl.DataFrame | pl.Series):
        return type(one) is type(other) and pl_types(one) == pl_types(other) and one.equals(other)
    if type(one).__module__.startswith("geopandas"):
        return type(one) is type(other) and one.equals(other) and one.crs == other.crs
    mine = daskcache.fingerprint.Fingerprinter().fingerprint
    return type(one) is type(other) and mine(one) == mine(other)


def pl_types(value: Any) -> Any:
    return value.schema if isinstance(value, pl.DataFrame) else (value.name, value.dtype)


def query(url: str, text: str) -> list[Any]:
    with Database.of(url).begin(write=False) as connection:
        return list(connection.execute(sa.text(text)))


@pytest.mark.parametrize("name", HELD)
def test_what_comes_back_is_what_went_in(url: str, name: str) -> None:
    assert same(kept(HELD[name]), HELD[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_database_cannot_hold_is_refused(url: str, name: str) -> None:
    value, message = REFUSED[name]
    with pytest.warns(DaskcacheWarning, match=message):
        daskcache.cache(cache_args=[], name=f"refused {name}".replace(" ", "-"), format="sql")(lambda v: v)(
            value
        )
    entries = Catalog(dask.config.get("daskcache.store")).entries()
    assert entries == []


def test_what_only_one_database_can_hold(url: str) -> None:
    signed = pd.DataFrame({"a": [-0.0, 0.0]})
    decimals = pl.DataFrame({"a": pl.Series(["1.10", None]).cast(pl.Decimal(10, 2))})
    if url.startswith("postgresql"):
        assert same(kept(signed), signed)
        assert same(kept(decimals), decimals)
        with pytest.warns(DaskcacheWarning, match="cannot hold a value of table"):
            assert kept_once(pd.DataFrame({"a": ["a\0b"]})) is not None
        return
    text = pd.DataFrame({"a": ["a\0b"]})
    assert same(kept(text), text)
    with pytest.warns(DaskcacheWarning, match="0 for -0"):
        kept_once(signed)
    with pytest.warns(DaskcacheWarning, match="SQLite cannot hold"):
        kept_once(decimals)


def kept_once(value: Any) -> Any:
    return daskcache.cache(cache_args=[], name="once", format="sql", version=next(NUMBERS))(lambda v: v)(
        value
    )


def test_the_table_can_be_queried(url: str) -> None:
    @daskcache.cache(format="sql", name="stations.daily-mean")
    def means(year: int) -> pd.DataFrame:
        index = pd.Index(["Oslo", "Rome"], name="station")
        return pd.DataFrame({"t2m": [4.5, 16.0], "day": pd.Timestamp(year, 7, 1)}, index=index)

    means(2001)
    means(2002)
    listed = query(
        url, "SELECT table_name, entry, namespace, rows FROM daskcache_tables WHERE entry LIKE 'stations%'"
    )
    assert len(listed) == 2
    for table, entry, namespace, rows in listed:
        assert table.startswith("stations_daily_mean_")
        assert table.isidentifier()
        assert (entry in Catalog(dask.config.get("daskcache.store")).entries(), namespace, rows) == (
            True,
            "default",
            2,
        )
    found = query(url, f"SELECT station, t2m FROM {listed[0][0]} WHERE day >= '2001-01-01' ORDER BY t2m")
    assert [tuple(row) for row in found] == [("Oslo", 4.5), ("Rome", 16.0)]


def test_another_process_recalls_and_nothing_holds_the_password(url: str, tmp_path: Path) -> None:
    module = tmp_path / "module_of_a_user.py"
    module.write_text(
        "import os, pandas as pd, daskcache\n"
        "@daskcache.secret('database')\n"
        "def credentials(): return {'password': os.environ.get('CANARY', 'unused')}\n"
        "@daskcache.cache(format='sql')\n"
        "def table(n):\n"
        "    print('computing')\n"
        "    return pd.DataFrame({'a': range(n)})\n"
        "if __name__ == '__main__':\n"
        "    import module_of_a_user as m\n"
        "    print(m.table(3).a.sum(), m.table)\n"
    )
    environment = {
        **os.environ,
        "DASK_DASKCACHE__STORE": str(tmp_path / "store"),
        "DASK_DASKCACHE__FUNCTIONS__DATABASE": url,
        "PYTHONPATH": f"{tmp_path}:{os.getcwd()}",
    }
    runs = [
        subprocess.run(
            [sys.executable, str(module)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        for _ in range(2)
    ]
    assert runs[0].stdout.startswith("computing\n3 ")
    assert runs[1].stdout.startswith("3 ")
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    database = Database.of()
    assert PASSWORD.encode() not in pickle.dumps(database)
    assert PASSWORD not in repr(database)


@pytest.mark.server("postgresql")
def test_a_wrong_password_is_told_without_it(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "wrong-canary-9"
    monkeypatch.setattr("daskcache.secrets._functions", {"database": f"{__name__}:credentials"})
    monkeypatch.setenv("CANARY", wrong)
    with pytest.raises(StoreError) as caught, Database.of(server().url()).begin(write=False):
        pass
    text = "".join(map(str, (caught.value, caught.value.__cause__)))
    assert f'password authentication failed for user "{USER}"' in text
    assert wrong not in text
    assert caught.value.__suppress_context__
    calls = []
    made = daskcache.cache(format="sql", ignore=["log"])(
        lambda log: log.append(1) or pd.DataFrame({"a": [1]})
    )
    where = {"daskcache.store": str(tmp_path), "daskcache.functions.database": server().url()}
    with dask.config.set(where), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        made(calls)
    assert any("was not stored: database postgresql://127.0.0.1" in str(one.message) for one in warned)
    assert len(calls) == 1
    assert not any(wrong in str(one.message) for one in warned)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    for url in (f"postgresql://me:{PASSWORD}@host/db", f"postgresql://host/db?password={PASSWORD}"):
        with pytest.raises(InvalidInputError, match="named with its password") as caught:
            Database.of(url)
        assert PASSWORD not in str(caught.value)
    with pytest.raises(InvalidInputError, match="no URL") as caught:
        Database.of(f"{PASSWORD}@nowhere")
    assert PASSWORD not in str(caught.value)
    with pytest.raises(InvalidInputError, match="expected one of"):
        Database.of("mysql://host/db")
    with pytest.raises(InvalidInputError, match="is no file"):
        Database.of("sqlite://")


def test_a_table_that_is_not_ours_is_left_alone(url: str) -> None:
    from daskcache.formats.sql import SqlKeeper

    @daskcache.cache(format="sql", name="theirs")
    def table() -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    table()
    (entry,) = (
        one for one in Catalog(dask.config.get("daskcache.store")).entries() if one.startswith("theirs")
    )
    name = SqlKeeper(Database.of(), dask.config.get("daskcache.store"), "default", entry).table
    with Database.of().begin(write=True) as connection:
        connection.execute(sa.text("DELETE FROM daskcache_tables"))
    with pytest.warns(DaskcacheWarning, match="that daskcache did not make"):
        table()
    assert query(url, f"SELECT a FROM {name}") == [(1,)]
    with pytest.raises(NotStoredError, match="is not in database"):
        daskcache.open(entry)
    with Database.of().begin(write=True) as connection:
        connection.execute(sa.text(f"DROP TABLE {name}"))


def test_only_rows_that_are_asked_for_are_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from daskcache.formats import sql_rows

    read: list[int] = []
    real = sql_rows.from_rows
    monkeypatch.setattr(
        sql_rows, "from_rows", lambda rows, schema: read.append(len(rows)) or real(rows, schema)
    )
    days = pd.date_range("2000", periods=366, freq="D", name="time")

    def compute() -> pd.DataFrame:
        return pd.DataFrame(
            {"v": np.arange(366.0), "station": pd.Categorical(["a", "b", "c"] * 122)}, index=days
        )

    def compute_by_number() -> pd.DataFrame:
        return compute().reset_index()

    for number, function in enumerate((compute, compute_by_number)):
        whole = daskcache.timeseries("time")(daskcache.select("station")(function))
        stored = daskcache.timeseries("time")(
            daskcache.select("station")(daskcache.cache(format="sql", name=f"series{number}")(function))
        )
        stored()
        for asked, most in (
            ({"start_time": "2000-02", "end_time": "2000-02"}, 31),
            ({"station": ["a", "b"]}, 244),
            ({"start_time": "2000-12-30", "station": "c"}, 1),
            ({}, 366),
        ):
            read.clear()
            found, expected = stored(**asked), whole(**asked)
            pd.testing.assert_frame_equal(found, expected, check_index_type="equiv", check_freq=False)
            assert sum(read) <= most, asked


@pytest.mark.timeout(300)
def test_a_writer_that_is_killed_leaves_the_table_as_it_was(url: str, tmp_path: Path) -> None:
    program = """
import sys, time, pandas as pd, numpy as np, daskcache
from daskcache.formats import sql
def table(n):
    return pd.DataFrame({"a": np.arange(n), "b": "x"})
cached = daskcache.cache(format="sql", name="killed", cache_args=[])(table)
if sys.argv[1] == "killed":
    real = sql.insert_part
    def slow(*args):
        real(*args)
        print("inserted", flush=True)
        time.sleep(600)
    sql.insert_part = slow
    cached(20_000, recompute=True)
print(len(cached(3)))
"""
    environment = {
        **os.environ,
        "DASK_DASKCACHE__STORE": str(tmp_path / "store"),
        "DASK_DASKCACHE__FUNCTIONS__DATABASE": url,
        "PGPASSWORD": PASSWORD,
    }

    def run(word: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, word], env=environment, stdout=subprocess.PIPE, text=True
        )

    started = time.monotonic()
    assert run("first").communicate(timeout=90)[0] == "3\n"
    needed_s = time.monotonic() - started
    other = run("killed")
    assert other.stdout is not None
    assert other.stdout.readline() == "inserted\n"
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    started = time.monotonic()
    assert run("again").communicate(timeout=90)[0] == "3\n"
    assert time.monotonic() - started < 50 + needed_s


@pytest.mark.timeout(300)
def test_processes_that_write_at_once_leave_one_whole_table(url: str, tmp_path: Path) -> None:
    program = """
import sys, pandas as pd, numpy as np, daskcache
@daskcache.cache(format="sql", name="filled", upsert_keys=["k"], cache_args=["s"])
def rows(s, number):
    return pd.DataFrame({"k": np.arange(number * 10, number * 10 + 15), "by": number})
for number in range(int(sys.argv[1]), 8, 4):
    rows("s", number, upsert=True)
"""
    environment = {
        **os.environ,
        "DASK_DASKCACHE__STORE": str(tmp_path / "store"),
        "DASK_DASKCACHE__FUNCTIONS__DATABASE": url,
        "PGPASSWORD": PASSWORD,
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    for one in runs:
        assert one.communicate(timeout=200)[1] == ""
    (entry,) = (one for one in Catalog(str(tmp_path / "store")).entries() if one.startswith("filled"))
    found = daskcache.open(entry)
    assert sorted(found["k"]) == list(range(85))
    assert set(found["by"]) == set(range(8))


def test_real_data_come_back_and_are_selected_in_the_database(url: str) -> None:
    xr = pytest.importorskip("xarray")
    samples = pytest.importorskip("daskcache.demo.data")
    decoder = xr.coders.CFDatetimeCoder(use_cftime=True)
    with xr.open_dataset(
        samples.find_samples().scenarios["a1b"], engine="h5netcdf", decode_times=decoder
    ) as ds:
        table = ds["air_temperature"].isel(time=slice(3)).to_dataframe().reset_index()
    table["year"] = [time.year for time in table.pop("time")]
    table = table.drop(columns=["forecast_reference_time"])
    warmest = daskcache.select("latitude", "year")(
        daskcache.cache(format="sql", name="a1b", ignore=["given"])(lambda given: given)
    )
    warmest(table)
    assert same(warmest(None), table)
    lat, year = table["latitude"].iloc[900], int(table["year"].iloc[-1])
    chosen = warmest(None, latitude=[lat], year=year)
    pd.testing.assert_frame_equal(chosen, table[(table["latitude"] == lat) & (table["year"] == year)])
    mean = query(url, "SELECT table_name FROM daskcache_tables WHERE entry LIKE 'a1b%' ORDER BY stored DESC")[
        0
    ][0]
    ((count, found),) = query(url, f"SELECT COUNT(*), AVG(air_temperature) FROM {mean}")
    assert count == len(table)
    assert found == pytest.approx(float(table["air_temperature"].mean()), rel=1e-5)


def test_that_there_is_nothing_is_kept(url: str) -> None:
    calls: list[int] = []
    give = daskcache.cache(format="sql", name="nothing", ignore=["log"])(lambda log: log.append(1))
    assert (give(calls), give(calls), len(calls)) == (None, None, 1)


def test_tables_of_dask_in_a_database(url: str) -> None:
    dd = pytest.importorskip("dask.dataframe")
    pdf = pd.DataFrame(
        {"a": range(10), "c": pd.Categorical(list("ab" * 5))}, index=pd.Index(range(0, 20, 2), name="i")
    )
    give = daskcache.cache(format="sql", name="partitions")(lambda: dd.from_pandas(pdf, npartitions=3))
    give()
    found = give()
    assert found.divisions == (0, 8, 14, 18)
    pd.testing.assert_frame_equal(found.compute(scheduler="threads"), pdf)
    waiting = give()
    give(recompute=True)
    pd.testing.assert_frame_equal(waiting.compute(), pdf)


def test_what_is_cleared_is_swept(url: str) -> None:
    give = daskcache.cache(format="sql", name="swept")(lambda: pd.DataFrame({"a": [1]}))
    give()
    (entry,) = (
        one for one in Catalog(dask.config.get("daskcache.store")).entries() if one.startswith("swept")
    )
    listed = "SELECT table_name FROM daskcache_tables WHERE entry LIKE 'swept%'"
    before = query(url, listed)
    daskcache.clear(entry)
    assert daskcache.gc(wait=0).tables == 0
    assert daskcache.gc(wait=0, grace=0).tables == 1
    assert len(query(url, listed)) == len(before) - 1
    assert len(give()) == 1

"""Tables, text and bytes of dask's: an edited file is another token for its partitions alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag
import dask.bytes
import numpy as np
import pytest
from dask.core import flatten

import daskcache
from daskcache.errors import SourceChangedError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.readers import Reads, files_in, reads_of
from daskcache.tokens import GraphTokens
from tests.sources import rewrite

pd = pytest.importorskip("pandas")
dd = pytest.importorskip("dask.dataframe")
pytest.importorskip("pyarrow")

Make = Callable[[Path], Any]


def write(directory: Path) -> None:
    for number in range(2):
        frame = pd.DataFrame(
            {"a": np.arange(10) + number, "b": np.arange(10) / 2, "name": list("abcdefghij")}
        )
        frame.to_csv(directory / f"{number}.csv", index=False)
        frame.to_parquet(directory / f"{number}.parquet", row_group_size=5)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    directory = tmp_path / "tables"
    directory.mkdir()
    write(directory)
    return directory


def tokens_of(collection: Any, **settings: Any) -> list[bytes | None]:
    tokens = GraphTokens(collection.__dask_graph__(), Fingerprinter(**settings))
    return [tokens.token(key) for key in flatten(collection.__dask_keys__())]


def total(frame: Any) -> Any:
    return frame.a.sum()


CSV: dict[str, Make] = {
    "csv": lambda path: dd.read_csv(str(path / "*.csv")).to_dask_array(),
    "csv column": lambda path: dd.read_csv(str(path / "*.csv")).b.to_dask_array(),
    "csv values": lambda path: (dd.read_csv(str(path / "*.csv"))[["a"]] + 1).values,
    "csv with its path": lambda path: dd.read_csv(
        str(path / "*.csv"), include_path_column=True
    ).path.cat.codes.to_dask_array(),
    "from_map": lambda path: dd.from_map(
        pd.read_csv, [path / "0.csv", path / "1.csv"], usecols=["a", "b"]
    ).to_dask_array(),
    "text": lambda path: dask.bag.read_text(str(path / "*.csv")).map(len),
    "text blocks": lambda path: dask.bag.read_text(str(path / "*.csv"), blocksize=2**20),
    "text with its path": lambda path: dask.bag.read_text(str(path / "*.csv"), include_path=True),
    "bytes": lambda path: da.concatenate(
        [
            da.from_delayed(dask.delayed(np.frombuffer)(block, "u1"), (9,), "u1")
            for blocks in dask.bytes.read_bytes(str(path / "*.csv"))[1]
            for block in blocks
        ]
    ),
    "delayed": lambda path: da.stack(
        [
            da.from_delayed(
                dask.delayed(total)(dask.delayed(pd.read_csv)(str(path / f"{number}.csv"))), (), "i8"
            )
            for number in range(2)
        ]
    ),
}
PARQUET: dict[str, Make] = {
    "parquet": lambda path: dd.read_parquet(str(path / "*.parquet")).a.to_dask_array(),
    "filtered": lambda path: dd.read_parquet(
        str(path / "*.parquet"), filters=[("a", ">", 3)], columns=["b"]
    ).to_dask_array(),
    "arrow's own": lambda path: dd.read_parquet(str(path), filesystem="arrow", columns=["b"]).to_dask_array(),
    "row groups": lambda path: dd.read_parquet(
        str(path / "*.parquet"), split_row_groups=True, columns=["b"]
    ).to_dask_array(),
}


@pytest.mark.parametrize("name", [*CSV, *PARQUET])
def test_an_edit_is_another_token_for_its_partitions(name: str, tables: Path) -> None:
    make, suffix = (CSV[name], "csv") if name in CSV else (PARQUET[name], "parquet")
    for other in tables.glob("*.parquet" if suffix == "csv" else "*.csv"):
        other.unlink()
    before = tokens_of(make(tables))
    assert None not in before
    assert len(set(before)) == len(before)
    assert tokens_of(make(tables)) == before
    rewrite(tables / f"1.{suffix}")
    after = tokens_of(make(tables))
    # dask reads small Parquet files together where few columns of them are wanted.
    half = len(before) // 2
    assert half or name in PARQUET
    assert after[:half] == before[:half]
    assert None not in after
    assert not set(after[half:]) & set(before)


def test_settings_of_a_read_count(tables: Path) -> None:
    path = str(tables / "0.parquet")
    found = [
        tokens_of(dd.read_parquet(path, **options).b.to_dask_array())[0]
        for options in ({}, {"filters": [("a", ">", 3)]}, {"filters": [("a", ">", 4)]})
    ]
    found += [
        tokens_of(dd.read_csv(str(tables / "0.csv"), **options).b.to_dask_array())[0]
        for options in ({}, {"skiprows": [2]}, {"blocksize": 60})
    ]
    assert len(set(found)) == 6


def test_columns_that_are_not_read_count_with_the_file_alone(tables: Path) -> None:
    frame = dd.read_parquet(str(tables / "*.parquet"))
    assert tokens_of(frame.a.to_dask_array()) != tokens_of(frame.b.to_dask_array())


def test_frames_in_memory(tables: Path) -> None:
    frame = pd.read_csv(tables / "0.csv")
    other = frame.assign(a=frame.a + (frame.index == 9))

    def make(frame: Any) -> Any:
        return dd.from_pandas(frame, npartitions=2).a.to_dask_array()

    first, second = tokens_of(make(frame)), tokens_of(make(other))
    assert first == tokens_of(make(frame.copy()))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert None not in first


def test_aliases_and_content(tables: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for path in tables.iterdir():
        copied = mirror / path.name
        copied.write_bytes(path.read_bytes())
        status = path.stat()
        os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns))
    aliases = {"source_aliases": ((str(mirror), str(tables)),)}
    for make in (CSV["csv"], CSV["text"], CSV["delayed"], PARQUET["parquet"]):
        assert tokens_of(make(mirror), **aliases) == tokens_of(make(tables), **aliases)
        assert tokens_of(make(mirror), source_check="content") == tokens_of(
            make(tables), source_check="content"
        )
        assert tokens_of(make(mirror)) != tokens_of(make(tables))
    # Here the path is among the values.
    assert tokens_of(CSV["csv with its path"](mirror), **aliases) != tokens_of(
        CSV["csv with its path"](tables), **aliases
    )


def test_a_function_of_ones_own_has_to_declare(tables: Path) -> None:
    def read(path: str) -> Any:
        return pd.read_csv(path)[["a", "b"]]

    paths = [str(tables / "0.csv"), str(tables / "1.csv")]
    hidden = dd.from_map(read, paths).to_dask_array()
    tokens = GraphTokens(hidden.__dask_graph__(), Fingerprinter())
    assert "daskcache.source(path)" in str(tokens.reason(next(flatten(hidden.__dask_keys__()))))
    before = tokens_of(dd.from_map(read, list(map(daskcache.source, paths))).to_dask_array())
    rewrite(tables / "1.csv")
    after = tokens_of(dd.from_map(read, list(map(daskcache.source, paths))).to_dask_array())
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
    assert None not in before


@pytest.mark.parametrize("function", [eval, np.random.rand, os.getenv, dask.utils.apply])
def test_impure_functions_called_directly(function: Any) -> None:
    array = da.from_delayed(dask.delayed(function)("1"), (), float)
    assert (tokens_of(array) == [None]) == (function is not dask.utils.apply)


def test_what_reads() -> None:
    assert reads_of(np.add) == Reads(False, None)
    assert reads_of(np.load).takes_files
    assert files_in(np.load, ("/a/b.npy",), {}) == [FileSource("/a/b.npy")]
    assert files_in(pd.read_csv, (), {"filepath_or_buffer": "/a.csv"}) == [FileSource("/a.csv")]
    assert files_in(np.load, (b"abc",), {}) == []
    assert files_in(np.add, ("/a/b.npy",), {}) == []


def test_npy_stack(tmp_path: Path) -> None:
    path = tmp_path / "stack"
    da.to_npy_stack(str(path), da.arange(6, chunks=3))
    before = tokens_of(da.from_npy_stack(str(path)))
    np.save(path / "1.npy", np.arange(3))
    rewrite(path / "1.npy")
    after = tokens_of(da.from_npy_stack(str(path)))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_persist_finds_the_partitions_of_the_other_files(tables: Path, tmp_path: Path) -> None:
    def build() -> Any:
        frame = dd.read_csv(str(tables / "*.csv"))[["a", "b"]]
        return frame.to_dask_array(lengths=[10, 10])

    store = str(tmp_path / "store")
    daskcache.persist(build(), "t", store=store)
    assert daskcache.last_run().computed == 2
    (tables / "1.csv").write_text("a,b,name\n" + "7,8,x\n" * 10)
    kept = daskcache.persist(build(), "t", store=store)
    assert daskcache.last_run().computed == 1
    assert kept[10].compute().tolist() == [7, 8]


def test_a_table_that_changes_under_a_run_is_not_stored(tables: Path, tmp_path: Path) -> None:
    @daskcache.version("1")
    def read(path: Any) -> Any:
        frame = pd.read_csv(path)[["a"]]
        (tables / "1.csv").write_text("a,b,name\n" + "7,8,x\n" * 10)
        return frame

    joined = dd.from_map(read, [daskcache.source(tables / "1.csv")], meta={"a": "i8"}).to_dask_array(
        lengths=[10]
    )
    store = tmp_path / "store"
    with pytest.raises(SourceChangedError, match=r"1\.csv is not as it was"):
        daskcache.persist(joined, "x", store=str(store))
    assert not list(store.glob("chunks/*/*"))


@pytest.mark.slow
def test_tokens_are_the_same_in_every_process(tables: Path) -> None:
    program = (
        "import sys, pathlib; from tests.unit.test_readers import *\n"
        "for name, make in {**CSV, **PARQUET}.items():\n"
        # There dask orders the categories by a set.
        "    if name not in ('csv with its path', 'arrow\\'s own'):\n"
        "        print([token.hex() for token in tokens_of(make(pathlib.Path(sys.argv[1])))])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, str(tables)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]

"""Declared sources: files that functions open by themselves."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import InvalidInputError, SourceChangedError, UncacheableError
from daskcache.fingerprint import Fingerprinter, check_code_units, fingerprint, source
from daskcache.fingerprint.files import FileSource
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens
from tests.sources import rewrite


def read(path: Any) -> Any:
    return np.loadtxt(path)


def read_all(paths: Any, factor: int = 1) -> Any:
    return sum(read(path) for path in paths) * factor


def scale(block: Any, table: Any = None) -> Any:
    return block * np.loadtxt(table).sum()


def tokens_of(array: Any, **settings: Any) -> list[bytes | None]:
    tokens = GraphTokens(array.dask, Fingerprinter(**settings))
    return [tokens.token(key) for key in keys_of([array])]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("3\n4\n")
    return path


def test_is_a_string_that_any_function_opens(table: Path) -> None:
    declared = source(table)
    assert declared == str(table)
    assert os.fspath(declared) == str(table)
    with open(declared) as file:
        assert file.read() == "1\n2\n"
    assert xr.backends.api._normalize_path(declared) == str(table)
    for other in (pickle.loads(pickle.dumps(declared)), copy.deepcopy(declared)):
        assert type(other) is type(declared)
        assert fingerprint(other) == fingerprint(declared)


def test_relative_paths_are_made_absolute(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    assert source("a.txt") == str(table)
    assert source(f"file://{table}") == str(table)
    assert source("s3://bucket/a.txt") == "s3://bucket/a.txt"


@pytest.mark.parametrize("path", ["", "  ", None, 3, b"a"])
def test_refuses_what_is_no_path(path: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a path or URL"):
        source(path)


def test_shows_no_credentials() -> None:
    declared = source("https://me:secret@host/a.nc?token=x", storage_options={"key": "hidden"})
    assert "secret" not in repr(declared)
    assert "token" not in repr(declared)
    assert declared.file.name == "https://host/a.nc"


PIPELINES = {
    "delayed": lambda path: da.from_delayed(dask.delayed(read)(path), (2,), float),
    "keyword": lambda path: da.ones(4, chunks=2).map_blocks(scale, table=path, dtype=float),
    "list": lambda path: da.from_delayed(dask.delayed(read_all)([path]), (2,), float),
    "tuple": lambda path: da.from_delayed(dask.delayed(read_all)((path, path)), (2,), float),
    "beside_a_task": lambda path: da.from_delayed(
        dask.delayed(read_all)([path], dask.delayed(int)(3)), (2,), float
    ),
    "within_a_task": lambda path: da.from_delayed(
        dask.delayed(read_all)([path, dask.delayed(str)(path)]), (2,), float
    ),
    "partial": lambda path: da.ones(4, chunks=2).map_blocks(partial(scale, table=path), dtype=float),
    "apply_ufunc": lambda path: (
        xr.apply_ufunc(
            scale,
            xr.DataArray(da.ones(4, chunks=2), dims="x"),
            kwargs={"table": path},
            dask="parallelized",
            output_dtypes=[float],
        ).data
    ),
    "map_blocks": lambda path: (
        xr.map_blocks(
            scale,
            xr.DataArray(da.ones(4, chunks=2), dims="x"),
            kwargs={"table": path},
            template=xr.DataArray(da.ones(4, chunks=2), dims="x"),
        ).data
    ),
    "closure": lambda path: da.ones(4, chunks=2).map_blocks(
        lambda block: block * np.loadtxt(path).sum(), dtype=float
    ),
    "installed": lambda path: da.from_delayed(dask.delayed(np.loadtxt)(path), (2,), float),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_an_edit_of_the_file_is_another_token(name: str, table: Path) -> None:
    make = PIPELINES[name]
    before = tokens_of(make(source(table)))
    assert None not in before
    assert tokens_of(make(source(table))) == before
    rewrite(table.with_name("b.txt"))
    assert tokens_of(make(source(table))) == before
    table.write_text("1\n20\n")
    after = tokens_of(make(source(table)))
    assert None not in after
    assert not set(before) & set(after)


@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"installed"}))
def test_without_the_declaration_there_is_no_token(name: str, table: Path) -> None:
    array = PIPELINES[name](str(table))
    tokens = GraphTokens(array.dask, Fingerprinter())
    reason = tokens.reason(keys_of([array])[0])
    assert "daskcache.source(path)" in str(reason)


def test_plain_paths_of_known_readers_count_as_declared(table: Path) -> None:
    make = PIPELINES["installed"]
    assert tokens_of(make(str(table))) == tokens_of(make(source(table)))


def test_one_declared_argument_does_not_excuse_another_task(table: Path) -> None:
    declared = PIPELINES["delayed"](source(table))
    hidden = PIPELINES["delayed"](str(table))
    assert tokens_of(declared + hidden) == [None]
    tokens = GraphTokens((declared + hidden).dask, Fingerprinter())
    assert "loadtxt" in str(tokens.reason(keys_of([declared + hidden])[0]))


def test_a_constant_path_is_no_argument(table: Path) -> None:
    def both(path: Any) -> Any:
        return np.loadtxt(path) + np.loadtxt("/data/other.txt")

    array = da.from_delayed(dask.delayed(both)(source(table)), (2,), float)
    assert tokens_of(array) == [None]


def test_decorator(table: Path) -> None:
    def make(path: Path) -> Any:
        @source(path)
        def weight(block: Any) -> Any:
            return block * np.loadtxt(table).sum()

        return weight

    weight = make(table)
    assert weight(1) == 3
    before = fingerprint(weight)
    assert fingerprint(make(table)) == before
    assert fingerprint(make(table.with_name("b.txt"))) != before
    table.write_text("1\n20\n")
    assert fingerprint(weight) != before
    table.unlink()
    with pytest.raises(UncacheableError, match="no such file") as caught:
        fingerprint(weight)
    assert "weight" in str(caught.value)


def test_decorator_covers_what_it_names(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)

    @source("a.txt")
    def named() -> Any:
        return np.loadtxt("a.txt")

    @source("*.txt")
    def matched() -> Any:
        return np.loadtxt("b.txt")

    @source(".")
    def below() -> Any:
        return np.loadtxt("b.txt")

    @source("a.txt")
    @source("b.txt")
    def two() -> Any:
        return np.loadtxt("b.txt") + np.loadtxt("a.txt")

    @source("a.txt")
    def other() -> Any:
        return np.loadtxt("b.txt")

    for function in (named, matched, below, two):
        fingerprint(function)
    with pytest.raises(UncacheableError, match="loadtxt"):
        fingerprint(other)


def test_decorator_does_not_excuse_the_clock(table: Path) -> None:
    import time

    @source(table)
    def stamped() -> Any:
        return np.loadtxt(table) + time.time()

    with pytest.raises(UncacheableError, match="clock"):
        fingerprint(stamped)


def test_decorator_with_a_version(table: Path) -> None:
    @source(table)
    @daskcache.version("1")
    def weight() -> Any:
        return np.loadtxt(table)

    before = fingerprint(weight)
    table.write_text("5\n60\n")
    assert fingerprint(weight) != before


def test_decorates_functions_only(table: Path) -> None:
    with pytest.raises(InvalidInputError, match="decorates functions"):
        source(table)(np.sin)


def test_a_wrapper_declares_nothing(table: Path) -> None:
    from functools import wraps

    @source(table)
    def inner() -> Any:
        return np.loadtxt(table)

    @wraps(inner)
    def outer() -> Any:
        return inner() + np.loadtxt(table)

    with pytest.raises(UncacheableError):
        fingerprint(outer)


def test_helpers_are_the_same_from_every_entry(table: Path) -> None:
    @source(table)
    def even(n: int) -> Any:
        return np.loadtxt(table) if n == 0 else odd(n - 1)

    def odd(n: int) -> Any:
        return None if n == 0 else even(n - 1)

    first, second = Fingerprinter(), Fingerprinter()
    one = first.fingerprint(even), first.fingerprint(odd)
    other = second.fingerprint(odd), second.fingerprint(even)
    assert one == other[::-1]


def test_missing_file(table: Path) -> None:
    with pytest.raises(UncacheableError, match=r"nowhere\.txt, and there is no such file"):
        fingerprint(source(table.with_name("nowhere.txt")))
    with pytest.raises(UncacheableError, match="no such file"):
        fingerprint(source(table.with_name("*.csv")))


def test_directories_and_patterns_count_with_all_their_files(table: Path) -> None:
    directory, pattern = source(table.parent), source(table.with_name("*.txt"))
    before = fingerprint(directory), fingerprint(pattern)
    (table.parent / "deep").mkdir()
    assert (fingerprint(directory), fingerprint(pattern)) == before
    (table.parent / "deep" / "c.txt").write_text("1")
    assert fingerprint(directory) != before[0]
    assert fingerprint(pattern) == before[1]
    table.with_name("c.txt").write_text("1")
    assert fingerprint(pattern) != before[1]


def test_modes(table: Path) -> None:
    declared = source(table)
    before = {
        check: Fingerprinter(source_check=check).fingerprint(declared)
        for check in ("chunks", "metadata", "content", "none")
    }
    assert len(set(before.values())) == 4
    status = table.stat()
    with table.open("r+") as file:
        file.write("9")
    os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))
    # The clock of a file system may stand still for milliseconds.
    while table.stat().st_ctime_ns == status.st_ctime_ns:
        os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = {check: Fingerprinter(source_check=check).fingerprint(declared) for check in before}
    # Size, time and inode are as they were: the content tells, and the time of the inode, which nobody puts back.
    assert {check for check in before if before[check] != after[check]} == {"chunks", "content"}
    rewrite(table)
    os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Fingerprinter().fingerprint(declared) != after["chunks"]
    assert Fingerprinter(source_check="content").fingerprint(declared) == after["content"]


def test_content_is_the_same_elsewhere(table: Path) -> None:
    copied = table.with_name("elsewhere") / "x.txt"
    copied.parent.mkdir()
    copied.write_bytes(table.read_bytes())
    fingerprinter = Fingerprinter(source_check="content")
    assert fingerprinter.fingerprint(source(copied)) == fingerprinter.fingerprint(source(table))
    assert fingerprint(source(copied)) != fingerprint(source(table))


def test_content_of_many_files_in_one_pass(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    fingerprinter = Fingerprinter(source_check="content")
    assert len({fingerprinter.fingerprint(source(path)) for path in paths}) == len(paths)


def test_aliases(table: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / "a.txt"
    mirror.parent.mkdir()
    mirror.write_bytes(table.read_bytes())
    status = table.stat()
    os.utime(mirror, ns=(status.st_atime_ns, status.st_mtime_ns))
    aliases = ((str(mirror.parent), str(table.parent)),)
    fingerprinter = Fingerprinter(source_aliases=aliases)
    assert fingerprinter.fingerprint(source(mirror)) == fingerprinter.fingerprint(source(table))


def test_remote_files(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/declared/a.txt", b"1")
    memory.pipe("/declared/deep/b.txt", b"2")
    try:
        one, directory = source("memory://declared/a.txt"), source("memory://declared")
        pattern = source("memory://declared/*.txt")
        before = fingerprint(one), fingerprint(directory), fingerprint(pattern)
        memory.pipe("/declared/deep/b.txt", b"3")
        assert [fingerprint(one) == before[0], fingerprint(directory) == before[1]] == [True, False]
        assert fingerprint(pattern) == before[2]
        memory.pipe("/declared/a.txt", b"4")
        assert fingerprint(one) != before[0]
        assert fingerprint(pattern) != before[2]
        with pytest.raises(UncacheableError, match="no such file"):
            fingerprint(source("memory://declared/nothing"))
    finally:
        memory.rm("/declared", recursive=True)


def test_the_record_names_the_file(table: Path) -> None:
    fingerprinter = Fingerprinter()
    fingerprinter.fingerprint(source(table))
    assert list(fingerprinter.sources) == [str(table)]


def test_code_is_the_same_whatever_the_file_is(table: Path, tmp_path: Path) -> None:
    """A worker compares code alone: it knows neither modes nor aliases of sources."""
    from tests.workspace import Workspace

    root = tmp_path / "modules"
    root.mkdir()
    sys.path.insert(0, str(root))
    try:
        workspace = Workspace(root)
        workspace.write(
            {
                "weights.py": f"""
                import daskcache, numpy

                @daskcache.source({str(table)!r})
                def weight():
                    return numpy.loadtxt({str(table)!r})

                def double():
                    return weight() * 2
                """
            }
        )
        fingerprinter = Fingerprinter(source_check="content")
        before = fingerprinter.fingerprint(workspace.find("weights:double"))
        assert {name for _, name in fingerprinter.code_units} == {"weight", "double"}
        table.write_text("7\n")
        assert check_code_units(fingerprinter.code_units) == []
        assert Fingerprinter(source_check="content").fingerprint(workspace.find("weights:double")) != before
    finally:
        workspace.forget()
        sys.path.remove(str(root))


def test_persist_finds_what_the_edit_left_alone(table: Path, tmp_path: Path) -> None:
    def build() -> Any:
        parts = [source(table), source(table.with_name("b.txt"))]
        return da.concatenate([da.from_delayed(dask.delayed(read)(part), (2,), float) for part in parts])

    store = str(tmp_path / "store")
    assert daskcache.persist(build(), "tables", store=store).compute().tolist() == [1, 2, 3, 4]
    assert daskcache.last_run().computed == 2
    daskcache.persist(build(), "tables", store=store)
    assert daskcache.last_run().computed == 0
    table.write_text("5\n6\n")
    assert daskcache.persist(build(), "tables", store=store).compute().tolist() == [5, 6, 3, 4]
    assert daskcache.last_run().computed == 1


@pytest.mark.parametrize("how", ["argument", "keyword", "decorator"])
def test_a_file_that_changes_under_a_run_is_not_stored(how: str, table: Path, tmp_path: Path) -> None:
    @daskcache.version("1")
    def edit() -> None:
        table.write_text("8\n9\n10\n")

    def disturb(block: Any, path: Any = None) -> Any:
        value = np.loadtxt(path)
        edit()
        return block + value.sum()

    declared = source(table)
    if how == "argument":
        array = da.from_delayed(dask.delayed(disturb)(np.ones(2), declared), (2,), float)
    elif how == "keyword":
        array = da.ones(2).map_blocks(disturb, path=declared, dtype=float, meta=np.ones(0))
    else:
        whole = source(table)(lambda block: disturb(block, str(table)))
        array = da.ones(2).map_blocks(whole, dtype=float, meta=np.ones(0))
    store = tmp_path / "store"
    with pytest.raises(SourceChangedError, match=r"a\.txt is not as it was"):
        daskcache.persist(array, "x", store=str(store))
    assert not list(store.glob("chunks/*/*"))


def test_tokens_are_the_same_in_every_process(table: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import sys, dask, numpy as np, dask.array as da, daskcache
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens

path = sys.argv[1]
def read(path): return np.loadtxt(path)
@daskcache.source(path)
@daskcache.source(path[:-5] + "b.txt")
def add(block): return block + np.loadtxt(path)
array = da.from_delayed(dask.delayed(read)(daskcache.source(path)), (2,), float).map_blocks(add, dtype=float)
print(GraphTokens(array.dask, Fingerprinter()).token(keys_of([array])[0]).hex())
"""
    )
    found = [
        subprocess.run(
            [sys.executable, str(program), str(table)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]


def test_pickled_by_value(table: Path) -> None:
    @source(table)
    def weight() -> Any:
        return np.loadtxt(table)

    assert fingerprint(cloudpickle.loads(cloudpickle.dumps(weight))) == fingerprint(weight)


def test_looks_again(table: Path) -> None:
    file = FileSource(str(table))
    before = file.look()
    assert file.look() == before
    table.unlink()
    assert file.look() != before

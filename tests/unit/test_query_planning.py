"""Arrays as expressions: dask calls no optimizer of ours for them, but explicit calls work or say why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import sys, warnings
import dask.array as da
import numpy as np
import xarray as xr
import daskcache

def double(block):
    print("computed\\n", end="", flush=True)  # in one piece: threads print at once
    return block * 2

def array(n=8):
    x = da.from_array(np.arange(n * 4.0).reshape(n, 4), chunks=(2, 4))
    return x.map_blocks(double, dtype=float, meta=np.empty((0, 0))) + 1

def expected(n=8):
    return np.arange(n * 4.0).reshape(n, 4) * 2 + 1

assert da.Array is not da.core.Array
"""

PERSIST = """
kept = daskcache.persist(array(), "a")
assert type(kept) is da.Array
np.testing.assert_array_equal(kept.compute(), expected())
np.testing.assert_array_equal((kept[3:5] + 1).sum(axis=0).compute(), (expected()[3:5] + 1).sum(axis=0))
np.testing.assert_array_equal(daskcache.open("a").compute(), expected())

total = daskcache.persist(array().sum(), "total")
assert (type(total), total.shape, total.compute()) == (da.Array, (), expected().sum())

ds = xr.Dataset({"a": (("x", "y"), array())}, {"x": np.arange(8)})
stored = ds.cache.persist("ds")
assert stored.compute().identical(xr.Dataset({"a": (("x", "y"), expected())}, {"x": np.arange(8)}))
assert stored.chunks == ds.chunks
assert ds.cache.status().is_complete
assert "0 of" in str(ds.cache.explain())
print(daskcache.token(array()))
"""

GROWN = """
longer = daskcache.persist(array(10), "a")
np.testing.assert_array_equal(longer.compute(), expected(10))
print(daskcache.token(array()))
"""

SOURCE = """
import zarr
zarr.save_array(sys.argv[1], np.arange(12.0).reshape(6, 2))
def read():
    return da.from_array(zarr.open_array(sys.argv[1]), chunks=(2, 2)).map_blocks(double, dtype=float, meta=np.empty((0, 0)))
np.testing.assert_array_equal(daskcache.persist(read(), "z").compute(), np.arange(12.0).reshape(6, 2) * 2)
print("again")
daskcache.persist(read(), "z")
print("changed")
zarr.open_array(sys.argv[1])[:] = np.arange(12.0).reshape(6, 2) + 1
np.testing.assert_array_equal(daskcache.persist(read(), "z").compute(), (np.arange(12.0).reshape(6, 2) + 1) * 2)
"""

CHECKPOINT = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    daskcache.activate()
    daskcache.activate()
for thing in (array(), xr.DataArray(array())):
    try:
        daskcache.checkpoint(thing, "c")
    except daskcache.InvalidInputError as error:
        print(error)
print([str(warning.message).split(",")[0] for warning in caught])
"""

CACHED = """
@daskcache.cache
def lazy(n):
    print("called")
    return array(n)

@daskcache.cache
def at_once(n):
    print("called")
    return np.arange(n)

for n in (6, 8):
    np.testing.assert_array_equal(lazy(n).compute(), expected(n))
    np.testing.assert_array_equal(at_once(n), np.arange(n))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DASK_ARRAY__QUERY_PLANNING": "true",
        "DASK_DASKCACHE__STORE": str(tmp_path / "store"),
    }


def run(program: str, environment: dict[str, str], path: Path) -> list[str]:
    (path / "program.py").write_text(HEAD + program)
    command = [sys.executable, "program.py", str(path / "source.zarr")]
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_persist_open_status_and_explain_work(environment: dict[str, str], tmp_path: Path) -> None:
    # The dataset's array is the one that was stored before.
    *computed, token = run(PERSIST, environment, tmp_path)
    assert computed == ["computed"] * 4
    assert run(PERSIST, environment, tmp_path) == [token]
    assert run(GROWN, environment, tmp_path) == ["computed", token], "only the new block"


def test_a_source_that_changes_is_seen(environment: dict[str, str], tmp_path: Path) -> None:
    assert run(SOURCE, environment, tmp_path) == [*["computed"] * 3, "again", "changed", *["computed"] * 3]


def test_cached_functions_work(environment: dict[str, str], tmp_path: Path) -> None:
    # The blocks of the shorter array are the first of the longer one.
    assert run(CACHED, environment, tmp_path) == [
        *("called", "computed", "computed", "computed", "called"),
        *("called", "computed", "called"),
    ]
    assert run(CACHED, environment, tmp_path) == []


def test_a_checkpoint_is_refused_and_the_pass_says_once_that_it_is_idle(
    environment: dict[str, str], tmp_path: Path
) -> None:
    *refusals, warned = run(CHECKPOINT, environment, tmp_path)
    assert len(refusals) == 2
    for refusal in refusals:
        assert "array.query-planning" in refusal
        assert "persist" in refusal
    assert warned == "['with array.query-planning dask calls no optimizer of arrays']"


def test_an_unmodified_script_is_told_once(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import dask.array as da\nprint(da.ones(3, chunks=1).sum().compute())")
    done = subprocess.run(
        [sys.executable, "plain.py"],
        cwd=tmp_path,
        env={**environment, "DASK_DASKCACHE__ENABLED": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3.0\n"
    assert done.stderr.count("dask calls no optimizer") == 1
    assert "idle" in done.stderr

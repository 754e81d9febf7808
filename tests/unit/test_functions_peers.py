"""What other caches are known to get wrong."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import DaskcacheWarning
from tests import producers
from tests.producers import count, doubled


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def test_datasets_with_the_same_names_are_not_alike() -> None:
    @daskcache.cache
    def total(ds):
        return float(ds.t.sum())

    made = [xr.Dataset({"t": ("x", da.full(3, number, chunks=3))}) for number in (1, 2)]
    assert [total(ds) for ds in made] == [3, 6]
    assert [total(ds.compute()) for ds in made] == [3, 6]


def test_ones_are_not_zeros() -> None:
    total = daskcache.cache(lambda x: int(x.sum()))
    assert [total(da.ones(3)), total(da.zeros(3))] == [3, 0]


KILLED = """
import os, sys
import dask.array as da, numpy as np
import daskcache
from tests import producers

@daskcache.cache(name="slow", cache_args=[], version="1")
@daskcache.version("1")
def slow(seconds):
    return da.arange(40, chunks=1).map_blocks(producers.slowly, daskcache.fingerprint_as("no matter")(Seconds(seconds)),
                                              dtype="i8", meta=np.empty(0, "i8"))

class Seconds(float):
    def __daskcache_fingerprint__(self):
        return "no matter"

import dask
with dask.config.set({"daskcache.store": sys.argv[1], "scheduler": "synchronous"}):
    print(slow(float(sys.argv[2]), recompute=sys.argv[3] == "again").sum().compute())
"""


def test_an_overwrite_that_is_killed_half_way_leaves_what_was_there(store_root, tmp_path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        KILLED.replace('daskcache.fingerprint_as("no matter")(Seconds(seconds))', "Seconds(seconds)")
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), str(store_root), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    calls = Path(os.environ[producers.CALLS])
    process = start("0.2", "first")
    deadline = time.monotonic() + 60
    while len(list(calls.iterdir())) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    done = count()
    assert 10 <= done < 40
    with pytest.raises(daskcache.EntryNotFoundError):
        daskcache.open("slow/call-" + "0" * 40)
    assert not list(store_root.glob("namespaces/default/slow/*/@/latest")), "nothing half stored is confirmed"
    output, errors = start("0", "first").communicate(timeout=100)
    assert output.strip() == str(2 * sum(range(40))), errors
    assert count() <= 40 - done + 1, "what was stored is not computed again"
    output, _ = start("0", "again").communicate(timeout=100)
    assert output.strip() == str(2 * sum(range(40)))
    assert count() == 0


def test_nothing_asks_the_user(monkeypatch) -> None:
    def refuse(*args: Any) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", refuse)
    function = daskcache.cache(lambda: 1)
    for options in (
        {},
        {"recompute": True},
        {"mode": "overwrite"},
        {"recompute": "all", "force_overwrite": True},
    ):
        assert function(**options) == 1


def test_a_result_is_written_block_by_block_and_keeps_its_chunks() -> None:
    @daskcache.cache
    def make():
        return xr.DataArray(doubled(511, 73), dims="time", name="t")

    found = make()
    assert found.chunks == ((73,) * 7,)
    assert type(found) is xr.DataArray
    assert found.name == "t"
    assert count() == 7


def test_irregular_blocks_such_as_flox_makes_over_leap_years_are_stored() -> None:
    @daskcache.cache
    def make():
        return xr.DataArray(da.arange(144, chunks=(36, 36, 1, 35, 36)) * 1.5, dims="time")

    assert make().chunks == ((36, 36, 1, 35, 36),)
    assert make().values.tolist() == [1.5 * number for number in range(144)]


def test_what_cannot_be_stored_publishes_nothing_truncated(store_root) -> None:
    function = daskcache.cache(name="torn")(lambda: [1, lambda: 2])
    with pytest.warns(DaskcacheWarning, match="computed each time"):
        assert function()[0] == 1
    assert not list(store_root.glob("namespaces/*/torn/*"))
    assert function()[0] == 1


def test_an_edit_in_a_helper_that_nobody_marked_counts() -> None:
    space: dict[str, Any] = {"__name__": "tests.helped", "daskcache": daskcache}
    exec("def helper(x):\n    return x + 1\ndef middle(x):\n    return helper(x)\n"
         "@daskcache.cache\ndef f(x):\n    return middle(x)\n", space)  # fmt: skip
    assert space["f"](1) == 2
    exec("def helper(x):\n    return x + 10\n", space)
    assert space["f"](1) == 11
    exec("def helper(x):\n    return x + 1\n", space)
    assert space["f"](1, fail_if_missing=True) == 2


def test_a_cached_function_that_another_calls_counts_with_its_code() -> None:
    space: dict[str, Any] = {"__name__": "tests.nested", "daskcache": daskcache}
    exec(
        "@daskcache.cache\ndef inner(x):\n    return x + 1\n@daskcache.cache\ndef outer(x):\n    return inner(x)\n",
        space,
    )
    assert space["outer"](1) == 2
    exec("@daskcache.cache\ndef inner(x):\n    return x + 5\n", space)
    assert space["outer"](1) == 6


def test_a_function_that_calls_itself_is_cached() -> None:
    space: dict[str, Any] = {"__name__": "tests.recursive", "daskcache": daskcache}
    exec("@daskcache.cache\ndef factorial(n):\n    return n * factorial(n - 1) if n else 1\n", space)
    assert space["factorial"](6) == 720
    assert space["factorial"](5, fail_if_missing=True) == 120


def test_inputs_are_not_computed_to_be_hashed() -> None:
    """Joblib computes what it is given to know it."""

    @daskcache.cache
    def shift(x):
        return x + 1

    shift(doubled())
    assert count() == 4
    shift(doubled())
    assert count() == 0
    grown = shift(doubled(15))
    assert count() == 1, "of a grown source only the new blocks"
    np.testing.assert_array_equal(grown, 2 * np.arange(15) + 1)

"""What counts as the same call."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.errors import DaskcacheWarning, InvalidInputError, NotStoredError, UncacheableError
from tests.functions import add, counted, scale


def test_arguments_are_the_same_however_they_are_passed() -> None:
    log: list[Any] = []

    @daskcache.cache(ignore=["log"])
    def power(x, y=2, *rest, log, **more):
        log.append(x)
        return x**y + sum(rest) + sum(more.values())

    calls = [power(3, log=log), power(3, 2, log=log), power(x=3, log=log), power(y=2, x=3, log=log)]
    assert calls == [9, 9, 9, 9]
    assert log == [3]
    assert [power(3, 2, 1, log=log), power(3, 2, a=1, log=log), power(3, 2, b=1, log=log)] == [10, 10, 10]
    assert log == [3, 3, 3, 3]


# Each pair was once taken for one call by a tool that made texts of arguments.
DIFFERENT = [
    ((1,), (2,)), (("a_b", "c"), ("a", "b_c")), (([1, 2],), ([2, 1],)), ((7,), ("7",)), ((1,), (True,)), ((1,), (1.0,)),
    ((0.0,), (-0.0,)), ((None,), ("None",)), ((dt.date(2000, 1, 1),), ("2000-01-01",)), (((1, 2),), ([1, 2],)),
    ((np.float32(1),), (np.float64(1),)), ((np.zeros(3),), (np.ones(3),)), (({"a": 1},), ({"a": 2},)), (({1},), ([1],)),
    ((pd.Timestamp("2000"),), (pd.Timestamp("2001"),)), ((pd.DataFrame({"a": [1]}),), (pd.DataFrame({"a": [1.0]}),)),
    ((xr.Dataset({"a": ("x", [1, 2])}),), (xr.Dataset({"a": ("x", [1, 3])}),)),
    ((da.ones(3, chunks=3),), (da.zeros(3, chunks=3),)), ((da.ones(4, chunks=4),), (da.ones(4, chunks=2),)),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_arguments_are_another_call(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    log: list[Any] = []

    @daskcache.cache(ignore=["log"])
    def note(*given, log):
        log.append(1)
        return len(log)

    assert [note(*one, log=log), note(*other, log=log), note(*one, log=log), note(*other, log=log)] == [
        1,
        2,
        1,
        2,
    ]


def test_functions_of_one_name_in_two_modules_and_on_one_line_are_two() -> None:
    one, other = daskcache.cache(lambda x: x + 1), daskcache.cache(lambda x: x + 2)
    assert (one(1), other(1), one(1)) == (2, 3, 2)
    spaces: list[dict[str, Any]] = [{"__name__": "tests.one"}, {"__name__": "tests.two"}]
    for number, space in enumerate(spaces):
        exec(f"def same(x):\n    return x + {number}", space)
    first, second = (daskcache.cache(name="same")(space["same"]) for space in spaces)
    assert (first(1), second(1), first(1)) == (1, 2, 1)


def test_an_edit_is_another_call_and_its_revert_finds_what_was_stored() -> None:
    log: list[str] = []

    def define(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "tests.edited"}
        exec(
            f"def helper(x):\n    return x + {text}\ndef f(x, log):\n    log.append('{text}')\n    return helper(x)",
            space,
        )
        return daskcache.cache(ignore=["log"])(space["f"])

    assert [define("1")(1, log), define("2")(1, log), define("1")(1, log), define("2")(1, log)] == [
        2,
        3,
        2,
        3,
    ]
    assert log == ["1", "2"]


def test_cache_args_choose_and_ignore_leaves_out() -> None:
    log: list[Any] = []

    @daskcache.cache(cache_args=["days"])
    def clip(start, days, log):
        log.append(start)
        return start

    assert [clip(1, 7, log), clip(2, 7, log), clip(2, 8, log)] == [1, 1, 2]
    with pytest.raises(InvalidInputError, match="has no parameters"):
        daskcache.cache(cache_args=["dayz"])(lambda days: days)
    with pytest.raises(InvalidInputError, match="expected a list"):
        daskcache.cache(ignore="days")(lambda days: days)


def test_version_enters_the_key_beside_the_code() -> None:
    log: list[Any] = []

    def make(version: str, step: int) -> Any:
        def f(log):
            log.append(version)
            return step

        return daskcache.cache(version=version, ignore=["log"])(f)

    assert [make("1", 1)(log), make("2", 1)(log), make("1", 1)(log), make("1", 2)(log)] == [1, 1, 1, 2]
    assert log == ["1", "2", "1"]


def test_methods_count_their_object_and_the_class_keeps_a_function() -> None:
    add.log.clear()
    assert [add.Adder(1).plus(2), add.Adder(1).plus(2), add.Adder(2).plus(2), add.Adder(1).shifted(3)] == [
        3,
        3,
        4,
        3,
    ]
    assert [add.Adder(1).shifted(3), add.Adder.constant(5), add.Adder.constant(5)] == [3, 5, 5]
    assert add.log == ["plus", "plus", "shifted", "constant"]


def test_async_functions_are_awaited_and_recalled() -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    async def double(x, log):
        await asyncio.sleep(0)
        log.append(x)
        return 2 * x

    async def twice() -> list[int]:
        first = await double(2, log)
        return [first, *await asyncio.gather(double(2, log), double(3, log))]

    assert asyncio.run(twice()) == [4, 4, 6]
    assert sorted(log) == [2, 3]


def test_generators_are_refused_clearly() -> None:
    def generate():
        yield 1

    async def generate_too():
        yield 1

    for function in (generate, generate_too):
        with pytest.raises(InvalidInputError, match="is a generator"):
            daskcache.cache(function)
    with pytest.raises(InvalidInputError, match="cached already"):
        daskcache.cache(daskcache.cache(lambda: 1))
    for other in (3, dict):
        with pytest.raises(InvalidInputError, match="decorates functions"):
            daskcache.cache(other)


def test_a_generator_that_is_returned_is_given_and_not_stored() -> None:
    with pytest.warns(DaskcacheWarning, match="has no format"):
        assert list(daskcache.cache(lambda: iter([1, 2]))()) == [1, 2]


def test_what_cannot_be_keyed_is_computed_each_time_with_one_warning() -> None:
    log: list[int] = []

    @daskcache.cache(cache_args=["x"])
    def f(x, log):
        log.append(1)
        return 1

    with (
        open(sys.executable, "rb") as file,
        pytest.warns(DaskcacheWarning, match="computed each time: argument 'x'"),
    ):
        assert f(file, log) == 1
    with dask.config.set({"daskcache.on-uncacheable": "raise"}), pytest.raises(UncacheableError):
        f(iter([1]), log)
    with pytest.raises(UncacheableError):
        f(iter([1]), log, fail_if_missing=True)
    assert log == [1]


def test_impure_functions_are_computed_each_time() -> None:
    import time

    with pytest.warns(DaskcacheWarning, match="reads the clock"):
        daskcache.cache(lambda: time.time_ns())()


def test_exceptions_of_the_function_pass_and_nothing_is_stored() -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"])
    def fail(log):
        log.append(1)
        raise KeyError("mine")

    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            fail(log)
    assert len(log) == 2
    with pytest.raises(TypeError, match="missing a required argument"):
        fail()
    with pytest.raises(NotStoredError):
        fail(log, fail_if_missing=True)


def test_keys_are_the_same_in_every_process(store_root) -> None:
    program = (
        "import dask, daskcache, sys\n"
        "from tests.functions import counted, add\n"
        "dask.config.set({'daskcache.store': sys.argv[1]})\n"
        "print(counted({'a': (1, 2.5, {'x'})}), add.Adder(3).plus(4), len(add.log))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(store_root)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert outputs == [["1", "7", "2"], ["1", "7", "0"]]
    assert counted({"a": (1, 2.5, {"x"})}) == 1


def test_reserved_words_belong_to_the_function_that_has_them() -> None:
    @daskcache.cache
    def f(mode, recompute=False):
        return mode, recompute

    assert f("a", recompute=True) == ("a", True)
    assert f(mode="off") == ("off", False)
    with pytest.raises(InvalidInputError, match="expected one of"):
        scale(1, mode="sideways")
    with pytest.raises(InvalidInputError, match="unknown options"):
        daskcache.cache(memoise=True)
    with pytest.raises(InvalidInputError, match="unknown options"), daskcache.options(memoise=True):
        pass

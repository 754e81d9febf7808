"""Tokens of tasks: what they depend on, what they look through, what they refuse."""

from __future__ import annotations

import collections
import functools
import operator
import os
import random
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from dask import delayed
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from distributed import Client

from daskcache.checkpoints import mark_block
from daskcache.dask_internals import DataNode, Dict, Key, List, Set, Task, TaskRef, Tuple, getter
from daskcache.fingerprint import Fingerprinter, register
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens

VALUES = np.arange(12.0)


def identity(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def first_keyword(block: np.ndarray, **factors: float) -> np.ndarray:
    return block * next(iter(factors.values()))


def tokens_of(obj: Any) -> tuple[GraphTokens, list[Key]]:
    """Give the tokens of a collection's, or a graph's, and its keys; of a graph the last one."""
    if isinstance(obj, dict):
        return GraphTokens(obj, Fingerprinter()), [list(obj)[-1]]
    return GraphTokens(obj.__dask_graph__(), Fingerprinter()), list(flatten(obj.__dask_keys__()))


def token_of(obj: Any) -> bytes:
    tokens, keys = tokens_of(obj)
    token = tokens.token(keys[0])
    assert token is not None, tokens.reason(keys[0])
    return token


def reason_of(obj: Any) -> str:
    tokens, keys = tokens_of(obj)
    assert tokens.token(keys[0]) is None
    return str(tokens.reason(keys[0]))


def mapped(function: Any, **kwargs: Any) -> da.Array:
    return da.arange(6, chunks=3).map_blocks(function, dtype="f8", **kwargs)


class Scaled:
    """Its instances look alike, claim to be equal, and have every attribute that they are asked for."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, block: Any) -> Any:
        return block * self.factor

    def method(self, block: Any) -> Any:
        return block * self.factor

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "Scaled()"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__daskcache_transparent__":
            raise AttributeError(name)
        return True


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Tagged(list[int]):
    """A list with an attribute."""

    def __init__(self, tag: int) -> None:
        super().__init__([1])
        self.tag = tag


def wrapped(function: Callable[..., Any], plus: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args) + plus

    return inner


def disguised(plus: int) -> Callable[[Any], Any]:
    def sort(block: Any) -> Any:
        return block + plus

    sort.__module__, sort.__qualname__ = "numpy", "sort"
    return sort


def made(plus: int) -> Any:
    body = {"__call__": lambda self, block: block + plus}
    return types.new_class("Made", (), {}, lambda namespace: namespace.update(body))()


def with_globals(value: int) -> Callable[[Any], Any]:
    function = eval("lambda block: block + VALUE")
    return types.FunctionType(function.__code__, {"VALUE": value, "__name__": "somewhere"})


ONE, TWO = delayed(identity)(1), delayed(identity)(2)
MASKED = np.ma.masked_array
OTHERS: dict[str, tuple[Any, Any]] = {
    # Arguments: their order, their nesting, how they are passed.
    "order": (delayed(identity)(ONE, TWO), delayed(identity)(TWO, ONE)),
    "order in a list": (delayed(identity)([ONE, TWO]), delayed(identity)([TWO, ONE])),
    "list and tuple": (delayed(identity)([ONE, TWO]), delayed(identity)((ONE, TWO))),
    "list and arguments": (delayed(identity)([ONE, TWO]), delayed(identity)(ONE, TWO)),
    "nesting": (delayed(identity)([ONE, [TWO]]), delayed(identity)([[ONE], TWO])),
    "one list and two": (delayed(identity)([[1], [2]]), delayed(identity)([[1, 2]])),
    "keys of a dict": (delayed(identity)({"a": ONE, "b": TWO}), delayed(identity)({"a": TWO, "b": ONE})),
    "names": (delayed(identity)(a=ONE, b=TWO), delayed(identity)(a=TWO, b=ONE)),
    "name and position": (delayed(identity)(1), delayed(identity)(a=1)),
    "nodes": (
        {"z": Task("z", identity, List(1, 2))},
        {"z": Task("z", identity, List(2, 1))},
    ),
    "kinds of nodes": ({"z": Task("z", identity, List(1, 2))}, {"z": Task("z", identity, Tuple(1, 2))}),
    "set and list": ({"z": Task("z", identity, Set(1, 2))}, {"z": Task("z", identity, List(1, 2))}),
    "mappings": ({"z": Task("z", identity, Dict({1: 2}))}, {"z": Task("z", identity, Dict({2: 1}))}),
    "older tasks": ({"x": 1, "y": 2, "z": (identity, "x", "y")}, {"x": 1, "y": 2, "z": (identity, "y", "x")}),
    "key or string": ({"x": 1, "z": (identity, "x")}, {"w": 1, "z": (identity, "x")}),
    "older nesting": (
        {"x": 1, "z": (identity, (identity, "x"), "x")},
        {"x": 1, "z": (identity, "x", (identity, "x"))},
    ),
    # Values that look alike.
    "int and bool": (delayed(identity)(1), delayed(identity)(True)),
    "int and float": (delayed(identity)(1), delayed(identity)(1.0)),
    "zeros": (delayed(identity)(0.0), delayed(identity)(-0.0)),
    "scalar and number": (delayed(identity)(np.float64(1)), delayed(identity)(1.0)),
    "scalar and array": (delayed(identity)(np.float64(1)), delayed(identity)(np.array(1.0))),
    "precision": (delayed(identity)(np.float32(1)), delayed(identity)(np.float64(1))),
    "units of time": (
        delayed(identity)(np.datetime64("2000-01-01", "s")),
        delayed(identity)(np.datetime64("2000-01-01", "ms")),
    ),
    "strides": (delayed(identity)(VALUES[::2]), delayed(identity)(VALUES[:6])),
    "reversed": (delayed(identity)(VALUES[::-1]), delayed(identity)(VALUES)),
    "transposed": (delayed(identity)(VALUES.reshape(3, 4)), delayed(identity)(VALUES.reshape(4, 3).T)),
    "byte order": (delayed(identity)(np.array([1], ">i4")), delayed(identity)(np.array([1 << 24], "<i4"))),
    "byte order of a value": (delayed(identity)(np.array([1], ">i4")), delayed(identity)(np.array([1], "<i4"))),
    "objects": (
        delayed(identity)(np.array([1, "a"], object)),
        delayed(identity)(np.array(["1", "a"], object)),
    ),
    "masks": (delayed(identity)(MASKED([1, 2], [0, 1])), delayed(identity)(MASKED([1, 2], [1, 0]))),
    "fill values": (
        delayed(identity)(MASKED([1, 2], [0, 1], fill_value=9)),
        delayed(identity)(MASKED([1, 2], [0, 1], fill_value=8)),
    ),
    "masked and not": (delayed(identity)(MASKED([1, 2])), delayed(identity)(np.array([1, 2]))),
    "width of strings": (delayed(identity)(np.array(["a"], "U1")), delayed(identity)(np.array(["a"], "U2"))),
    "columns": (
        delayed(identity)(pd.DataFrame({"a": [1], "b": [2]})),
        delayed(identity)(pd.DataFrame({"b": [2], "a": [1]})),
    ),
    "categories": (
        delayed(identity)(pd.Categorical(["a"], ["a", "b"])),
        delayed(identity)(pd.Categorical(["a"], ["b", "a"])),
    ),
    "order of a dict's items": (delayed(identity)({"a": 1, "b": 2}), delayed(identity)({"b": 2, "a": 1})),
    "order of a dict of references": (
        {"x": 1, "z": Task("z", identity, Dict({"a": TaskRef("x"), "b": 2}))},
        {"x": 1, "z": Task("z", identity, Dict({"b": 2, "a": TaskRef("x")}))},
    ),
    "order of keywords": (
        {"z": Task("z", dict, a=1, b=2)},
        {"z": Task("z", dict, b=2, a=1)},
    ),
    "order of a block's keywords": (
        da.ones(4, chunks=2).map_blocks(first_keyword, a=2, b=3),
        da.ones(4, chunks=2).map_blocks(first_keyword, b=3, a=2),
    ),
    "order of variables": (
        delayed(identity)(xr.Dataset({"a": 1, "b": 2})),
        delayed(identity)(xr.Dataset({"b": 2, "a": 1})),
    ),
    "items in order": (
        delayed(identity)(collections.OrderedDict(a=1, b=2)),
        delayed(identity)(collections.OrderedDict(b=2, a=1)),
    ),
    "equal objects": (delayed(identity)(Scaled(2)), delayed(identity)(Scaled(3))),
    "equal objects of a set": (delayed(identity)({Scaled(2)}), delayed(identity)({Scaled(3)})),
    "slots": (delayed(identity)(Slotted(1)), delayed(identity)(Slotted(2))),
    "attributes of a list": (delayed(identity)(Tagged(1)), delayed(identity)(Tagged(2))),
    # Functions that look alike.
    "callable objects": (mapped(Scaled(2)), mapped(Scaled(3))),
    "bound methods": (mapped(Scaled(2).method), mapped(Scaled(3).method)),
    "lambdas of a line": (mapped(lambda b: b + 1), mapped(lambda b: b + 2)),
    "partial": (mapped(functools.partial(np.add, 1)), mapped(functools.partial(np.add, 2))),
    "wrapped": (mapped(wrapped(np.sort, 1)), mapped(np.sort)),
    "wrapped mark": (mapped(wrapped(mark_block, 1)), da.arange(6, chunks=3)),
    "closures": (mapped(wrapped(np.sort, 1)), mapped(wrapped(np.sort, 2))),
    "disguise": (mapped(disguised(1)), mapped(np.sort)),
    "disguises": (mapped(disguised(1)), mapped(disguised(2))),
    "classes made at run time": (mapped(made(1)), mapped(made(2))),
    "globals": (mapped(with_globals(1)), mapped(with_globals(2))),
    "dask's own": (da.sin(da.ones(3)), da.cos(da.ones(3))),
    "zeros and ones": (da.zeros(3), da.ones(3)),
    "operators": (operator.attrgetter("real")(delayed(1)), operator.attrgetter("imag")(delayed(1))),
    "getters": (
        {"z": Task("z", getter, VALUES, (1,))},
        {"z": Task("z", operator.getitem, VALUES, (1,))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_values_have_other_tokens(name: str) -> None:
    one, other = OTHERS[name]
    assert token_of(one) != token_of(other)


def test_state_counts_when_it_counts() -> None:
    def count(block: Any, seen: list[int] = []) -> Any:  # noqa: B006
        return block + len(seen)

    before = token_of(mapped(count))
    count.__defaults__[0].append(1)  # type: ignore[index]
    assert token_of(mapped(count)) != before


SAME: dict[str, tuple[Any, Any]] = {
    "names": (da.ones((4, 4), chunks=2) + 1, da.ones((4, 4), chunks=2, name="other") + 1),
    "aliases": ({"x": 1, "y": "x", "z": (identity, "y")}, {"x": 1, "z": (identity, "x")}),
    "value in the graph": ({"x": VALUES, "z": (identity, "x")}, {"z": Task("z", identity, VALUES)}),
    "value in a node": ({"z": Task("z", identity, DataNode(None, 3))}, {"z": Task("z", identity, 3)}),
    "list of nodes": ({"x": 1, "z": (identity, ["x", 2])}, {"z": (identity, [1, 2])}),
    "older and newer": (
        {"x": 1, "z": (identity, "x", [2, "x"])},
        {"x": DataNode("x", 1), "z": Task("z", identity, TaskRef("x"), List(2, TaskRef("x")))},
    ),
    "view and copy": (delayed(identity)(VALUES[::2]), delayed(identity)(VALUES[::2].copy())),
    "region and array": ({"x": VALUES, "z": (getter, "x", (slice(2, 4),))}, {"z": DataNode("z", VALUES[2:4])}),
    "einsum's letters": (
        da.einsum("...a,ab->...b", da.ones((2, 3), chunks=2), da.ones((3, 2), chunks=3)),
        da.einsum("za,ab->zb", da.ones((2, 3), chunks=2), da.ones((3, 2), chunks=3)),
    ),
    "mark": (mapped(np.sort).map_blocks(mark_block, dtype="f8"), mapped(np.sort)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_equal_recipes_have_equal_tokens(name: str) -> None:
    one, other = SAME[name]
    assert token_of(one) == token_of(other)


class Proxy:
    """As a library's array that reads a file when it is indexed."""

    shape, dtype, ndim = (6,), np.dtype("f8"), 1

    def __init__(self, path: str) -> None:
        self.path = path

    def __getitem__(self, index: Any) -> Any:
        return np.zeros(6)[index]


Proxy.__module__ = "zarr.somewhere"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "reader": (lambda: delayed(np.fromfile)(delayed(identity)("x")), "reads a file"),
    "reader of nothing": (lambda: delayed(np.fromfile)("/no/such/file"), "no such file"),
    "reader within": (lambda: delayed(functools.partial(open, mode="rb"))("x"), "reads a file"),
    "reader given": (lambda: delayed(identity)(xr.open_dataset, "x"), "reads a file"),
    "clock": (lambda: delayed(time.time)(), "reads the clock"),
    "global generator": (lambda: delayed(np.random.rand)(3), "random state"),
    "python's generator": (lambda: delayed(random.random)(), "random state"),
    "unseeded generator": (lambda: delayed(np.random.default_rng)(), "unseeded"),
    "directory": (lambda: delayed(os.getcwd)(), "file system"),
    "code by name": (lambda: delayed(eval)("1"), "by name"),
    "store": (lambda: da.store(mapped(np.sort), np.zeros(6), compute=False), "effect"),
    "bare object": (lambda: delayed(identity)(object()), "bare object"),
    "unknown array": (lambda: da.from_array(Proxy("x"), chunks=3), "not known"),
    "circle": (
        lambda: {"y": Task("y", identity, TaskRef("z")), "z": Task("z", identity, TaskRef("y"))},
        "circle",
    ),
    "itself": (lambda: {"z": Task("z", identity, TaskRef("z"))}, "does not hold"),
    "missing key": (lambda: {"z": Task("z", identity, TaskRef("gone"))}, "does not hold"),
    "nesting": (
        lambda: {"z": functools.reduce(lambda inner, _: Task(None, identity, inner), range(2000), Task(None, identity))},
        "too deep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_has_no_token(name: str) -> None:
    make, why = REFUSED[name]
    assert why in reason_of(make())


def test_what_depends_on_it_has_none_either_and_the_rest_has() -> None:
    bad = delayed(identity)(object(), dask_key_name="bad")
    graph = {**dict(bad.dask), "good": (identity, 1), "both": (identity, "good", "bad")}
    tokens = GraphTokens(graph, Fingerprinter())
    assert tokens.token("both") is None
    assert tokens.reason("both") == tokens.reason("bad")
    assert tokens.token("good") is not None


def test_effects_behind_what_to_zarr_writes(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("x", da.ones(4, chunks=2))})
    job = ds.to_zarr(tmp_path / "out.zarr", compute=False, zarr_format=2)
    assert reason_of(job)


def test_a_rule_for_an_unknown_array_makes_it_known() -> None:
    class Registered(Proxy):
        pass

    Registered.__module__ = "zarr.somewhere"
    register(Registered, lambda array: array.path)
    one, same, other = (token_of(da.from_array(Registered(path), chunks=3)) for path in "aab")
    assert one == same != other


@pytest.mark.filterwarnings("ignore:Port .* is already in use", "ignore::ResourceWarning")
def test_futures_have_no_token() -> None:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        future = client.submit(operator.add, 1, 2)
        assert "does not hold" in reason_of(delayed(identity)(future))
        kept = da.ones(4, chunks=2).persist()
        assert "does not hold" in reason_of(kept + 1)


def test_long_chains_need_no_recursion() -> None:
    array = da.ones(4, chunks=4)
    for _ in range(2000):
        array = array + 1
    (fused,) = dask.optimize(array)
    assert token_of(array) == token_of(fused)


def test_a_chunk_rewritten_in_place_with_its_old_time_is_another(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4,), chunks=(2,), dtype="i8", compressors=None)
    array[:] = [1, 2, 3, 4]
    before = [token.hex() for token in all_tokens(tmp_path / "a.zarr")]
    chunk = tmp_path / "a.zarr" / "c" / "0"
    status = chunk.stat()
    with open(chunk, "r+b") as file:
        file.write(np.array([5, 6]).tobytes())
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
    while chunk.stat().st_ctime_ns == status.st_ctime_ns:
        os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (chunk.stat().st_size, chunk.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = [token.hex() for token in all_tokens(tmp_path / "a.zarr")]
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


def all_tokens(path: Path) -> list[bytes]:
    array = da.from_zarr(str(path))
    tokens = GraphTokens(array.dask, Fingerprinter())
    return [token for key in keys_of([array]) if (token := tokens.token(key)) is not None]


def test_files_of_hdf5_are_read_by_region(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"] = np.arange(6)
    with h5py.File(tmp_path / "a.h5") as file:
        array = da.from_array(file["v"], chunks=3)
        tokens = GraphTokens(array.dask, Fingerprinter())
        found = {tokens.token(key) for key in keys_of([array])}
    assert len(found) == 2
    assert None not in found


@pytest.mark.parametrize("inline", [True, False])
def test_a_lock_changes_no_read(tmp_path: Path, inline: bool) -> None:
    def found(asarray: bool | None, **options: Any) -> set[tuple[bytes | None, bytes]]:
        array = da.from_array(source, chunks=3, asarray=asarray, inline_array=inline, **options)
        tokens = GraphTokens(array.dask, Fingerprinter())
        return {(tokens.token(key), tokens.function(key)) for key in keys_of([array])}

    for source in (VALUES, zarr.array(VALUES, store=tmp_path / "a.zarr", chunks=3)):
        plain = found(True)
        assert len(plain) == 4
        assert found(True, lock=True) == plain
        # A numpy array is one, whether asked for or not.
        assert (found(False) == found(False, lock=True) == plain) == (source is VALUES)


def renamed_blocks(number: Callable[[int], Any], start: int) -> da.Array:
    """Make an array whose blocks are named anew, as flox does it: by keys with numbers of some type."""
    x = da.arange(start, start + 12, chunks=3) + 1
    layer = {("renamed", i): (x.name, number(i)) for i in range(4)}
    graph = HighLevelGraph.from_collections("renamed", layer, dependencies=[x])
    return da.Array(graph, "renamed", x.chunks, dtype=x.dtype) * 2


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, float])
def test_a_block_is_known_by_a_number_of_any_type(number: Callable[[int], Any]) -> None:
    expected = token_of(renamed_blocks(int, 0))
    assert token_of(renamed_blocks(number, 0)) == expected
    assert token_of(renamed_blocks(number, 1)) != expected


@pytest.mark.parametrize("key", [(0, 1), (), (None, 1), (1.5,), (("a",), 1), 3, 2.5, "a", ("a", 0)], ids=repr)
@pytest.mark.parametrize("is_high", [True, False])
@pytest.mark.parametrize("wrap", [lambda key: key, lambda key: [key], lambda key: [1, [key]]])
def test_any_key_of_a_graph_is_a_reference(key: Any, is_high: bool, wrap: Callable[[Any], Any]) -> None:
    def tokens_of(value: int) -> list[bytes | None]:
        # The second call of a function is looked at with what is known of the first.
        tasks = {key: (operator.neg, value), "first": (np.sum, wrap(key)), "second": (np.sum, wrap(key), 0)}
        graph = HighLevelGraph({"all": tasks}, {"all": set()}) if is_high else tasks
        tokens = GraphTokens(graph, Fingerprinter())
        tokens.evaluate(["first", "second"])
        return [tokens.token("first"), tokens.token("second")]

    ones, twos = tokens_of(1), tokens_of(2)
    assert None not in ones
    assert not {*ones} & {*twos}

"""Whatever fails beside the function itself: the result is right, and the user is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest

import daskcache
from daskcache import formats
from daskcache.errors import CorruptChunkError, DaskcacheWarning, NotStoredError
from daskcache.functions.options import current_options


class Reader:
    """A serializer of the user's that fails when it is told to."""

    def __init__(self) -> None:
        self.fails = False

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        if self.fails:
            raise ZeroDivisionError("mine")
        return json.loads(data)


class Own:
    def __init__(self, value: int) -> None:
        self.value = value


@pytest.fixture
def runs() -> list[int]:
    return []


def test_a_serializer_that_cannot_read_what_it_wrote(runs, store_root) -> None:
    reader = Reader()

    @daskcache.cache(serializer=(reader.dumps, reader.loads), ignore=["runs"])
    def compute(runs):
        runs.append(1)
        return {"a": 1}

    assert [compute(runs), compute(runs)] == [{"a": 1}] * 2
    assert len(runs) == 1
    reader.fails = True
    with pytest.warns(DaskcacheWarning, match="ZeroDivisionError: mine"):
        assert compute(runs) == {"a": 1}
    assert len(runs) == 2


def test_a_registered_format_that_fails(runs) -> None:
    fails: list[str] = []

    def encode(value: Own) -> bytes:
        if "encode" in fails:
            raise ZeroDivisionError("mine")
        return str(value.value).encode()

    def decode(data: bytes) -> Own:
        if "decode" in fails:
            raise ZeroDivisionError("mine")
        return Own(int(data))

    formats.register(Own, encode=encode, decode=decode)

    @daskcache.cache(ignore=["runs"])
    def compute(number, runs):
        runs.append(1)
        return Own(number)

    assert [compute(3, runs).value, compute(3, runs).value, len(runs)] == [3, 3, 1]
    fails.append("decode")
    with pytest.warns(DaskcacheWarning, match="ZeroDivisionError: mine"):
        assert compute(3, runs).value == 3
    fails.append("encode")
    with pytest.warns(DaskcacheWarning, match="cannot be encoded"):
        assert compute(4, runs).value == 4
    assert len(runs) == 3


RESULTS = {
    "table": lambda: pd.DataFrame({"a": np.random.default_rng(0).random(20_000)}),
    "array": lambda: np.random.default_rng(0).random(20_000),
    "container": lambda: [np.random.default_rng(0).random(20_000), "text"],
    "lazy": lambda: da.random.default_rng(0).random(20_000, chunks=10_000),
}


@pytest.mark.parametrize("name", RESULTS)
def test_damaged_objects(name: str, runs, store_root: Path) -> None:
    @daskcache.cache(ignore=["runs"], cache_args=["name"])
    def compute(name, runs):
        runs.append(1)
        return RESULTS[name]()

    def value() -> np.ndarray:
        found = compute(name, runs)
        found = found[0] if isinstance(found, list) else found
        return np.asarray(found).reshape(-1)

    expected = value()
    for path in store_root.glob("chunks/*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    if name == "lazy":
        # Read where it is computed, which says what to do; then it is a miss.
        with pytest.raises((CorruptChunkError, NotStoredError)):
            value()
    else:
        with pytest.warns(DaskcacheWarning, match="is damaged"):
            np.testing.assert_array_equal(value(), expected)
    np.testing.assert_array_equal(value(), expected)
    assert len(runs) == 2


def test_a_malformed_document_of_another_release(runs, monkeypatch) -> None:
    @daskcache.cache(ignore=["runs"])
    def compute(runs):
        runs.append(1)
        return {"a": {1, 2}}

    compute(runs)
    monkeypatch.delitem(formats.plain._DECODERS, "set")
    with pytest.warns(DaskcacheWarning, match="malformed"):
        assert compute(runs) == {"a": {1, 2}}
    assert len(runs) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, ValueError])
def test_whatever_the_function_raises_comes_out_as_it_is(error: Any, store_root: Path) -> None:
    @daskcache.cache
    def fail():
        raise error("mine")

    before = current_options({}, {})
    expected = RuntimeError if error is StopIteration else error
    with pytest.raises((error, expected)), daskcache.options(recompute=["other"]):
        fail()
    assert current_options({}, {}) == before
    assert not [*store_root.glob("namespaces/**/latest")]


def test_a_store_that_becomes_unreadable_between_look_up_and_read(runs, monkeypatch) -> None:
    @daskcache.cache(ignore=["runs"])
    def compute(runs):
        runs.append(1)
        return 1

    compute(runs)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise daskcache.StoreError("the disk is gone")

    monkeypatch.setattr("daskcache.functions.recall.open_stored", fail)
    with pytest.warns(DaskcacheWarning, match="the disk is gone"):
        assert compute(runs) == 1
    with dask.config.set({"daskcache.mode": "off"}):
        assert compute(runs) == 1
    assert len(runs) == 3

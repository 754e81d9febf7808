"""Large arrays: hashed leaf by leaf, each byte once, whatever the number of threads and the layout in memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from daskcache.dask_internals import Task, TaskRef
from daskcache.fingerprint import Fingerprinter, arrays
from daskcache.fingerprint.arrays import LARGE_BYTES, LEAF_BYTES
from daskcache.fingerprint.digest import Digester
from daskcache.tokens import GraphTokens


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the bytes of arrays that are hashed."""
    counts: list[int] = []
    hash_leaf, digest_pieces = arrays.hash_leaf, Digester.digest_pieces

    def count_leaf(leaf: Any) -> bytes:
        counts.append(len(leaf))
        return hash_leaf(leaf)

    def count_pieces(self: Digester, tag: bytes, parts: Any, size_bytes: int, pieces: Any) -> bytes:
        counts.append(size_bytes)
        return digest_pieces(self, tag, parts, size_bytes, pieces)

    monkeypatch.setattr(arrays, "hash_leaf", count_leaf)
    monkeypatch.setattr(Digester, "digest_pieces", count_pieces)
    return counts


def large() -> np.ndarray[Any, Any]:
    # Not a multiple of a leaf.
    return np.random.default_rng(0).random((5, 7, LARGE_BYTES // 8 // 20))


def test_the_number_of_threads_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    values, seen = large(), set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(arrays, "_THREADS", threads)
        seen.add(Fingerprinter().fingerprint(values))
    assert len(seen) == 1


def test_the_layout_in_memory_does_not_count() -> None:
    values = large()
    wide = np.zeros((*values.shape, 2))
    wide[..., 1] = values
    forms = (np.asfortranarray(values), wide[..., 1], values[::-1].copy()[::-1], values.copy())
    assert {Fingerprinter().fingerprint(form) for form in forms} == {Fingerprinter().fingerprint(values)}


@pytest.mark.parametrize("at", [0, LEAF_BYTES // 8 - 1, LEAF_BYTES // 8, -1])
def test_every_byte_counts(at: int) -> None:
    values = large()
    before = Fingerprinter().fingerprint(values)
    values.reshape(-1)[at] += 1
    assert Fingerprinter().fingerprint(values) != before


def test_shape_dtype_and_order_of_leaves_count() -> None:
    values = large()
    leaves = values.reshape(-1)[: LEAF_BYTES // 8 * 6].reshape(6, -1)
    forms = (values, values.reshape(7, 5, -1), values.view("i8"), leaves, leaves[::-1], leaves[:5])
    assert len({Fingerprinter().fingerprint(form) for form in forms}) == len(forms)


def test_a_large_array_in_a_graph_is_hashed_once(hashed: list[int]) -> None:
    values = large()
    # Two arrays of dask's would be two copies.
    x = da.from_array(values, chunks=(2, 7, -1))
    arrays_of_it = ((x + 1) * x, x - 2)
    tokens = GraphTokens(HighLevelGraph.merge(*(array.dask for array in arrays_of_it)), Fingerprinter())
    for array in arrays_of_it:
        for key in flatten(array.__dask_keys__()):
            assert tokens.token(key) is not None
    assert sum(hashed) == values.nbytes


def test_a_region_of_an_array_that_is_read_twice_is_hashed_once(hashed: list[int]) -> None:
    values = large()
    regions = [(slice(start, start + 2), slice(None)) for start in (0, 2, 4)]
    graph: dict[Any, Any] = {("data", 0): values}
    for number, region in enumerate(regions):
        for name in ("first", "second"):
            graph[name, number] = Task((name, number), operator.getitem, TaskRef(("data", 0)), region)
    tokens = GraphTokens(graph, Fingerprinter())
    found = {key: tokens.token(key) for key in graph if key != ("data", 0)}
    assert all(found["first", number] == found["second", number] for number in range(3))
    assert len(set(found.values())) == 3
    assert sum(hashed) == values.nbytes


def test_an_array_that_tasks_are_given_whole_is_hashed_once(hashed: list[int]) -> None:
    values = large()

    def plus(block: Any, all_values: Any) -> Any:
        return block + all_values.mean()

    x = da.ones(6, chunks=2).map_blocks(plus, values, dtype="f8")
    y = (x + 1).map_blocks(plus, values, dtype="f8")
    tokens = GraphTokens(y.dask, Fingerprinter())
    assert all(tokens.token(key) for key in flatten(y.__dask_keys__()))
    assert sum(hashed) == values.nbytes


def test_positions_that_equal_each_other_and_select_otherwise() -> None:
    values, fingerprinter = np.arange(6.0), Fingerprinter()
    by_position, by_mask = (fingerprinter.source_region(values, (index,)) for index in (1, True))
    assert by_position != by_mask

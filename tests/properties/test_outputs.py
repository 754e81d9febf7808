"""What a policy stores and finds again: no computation of any array comes out otherwise, first, again, or beside another."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import daskcache

KINDS = {
    "numbers": lambda block: block * 0.5,
    "integers": lambda block: block // 2,
    "texts, of the length that each block needs": lambda block: np.char.add("t", block.astype("U")),
    "times, of a unit that each block chooses": lambda block: block.astype(
        f"M8[{'s' if block.size % 2 else 'ns'}]"
    ),
    "spans": lambda block: block.astype("m8[s]"),
    "flags": lambda block: block % 2 == 0,
    "numbers, or integers": lambda block: block.astype("i8" if block.size % 2 else "f8"),
    "times, or integers": lambda block: block.astype("M8[s]" if block.size % 2 else "i8"),
}
CHUNKS = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


def results(array: da.Array, kind: str) -> list[Any]:
    made = array.map_blocks(KINDS[kind], dtype=object)
    # dask itself fails to choose elements of blocks that have none.
    has_all = array.ndim == 1 and 0 not in array.chunks[0]
    chosen = made[(array > 3) if has_all else slice(1, None)]
    (stored,) = dask.optimize(made)
    return [
        *(part.compute() for part in (made, chosen, made.rechunk(3), stored, made)),
        *(block.compute() for block in made.blocks),
    ]


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert (type(left), left.dtype, left.shape) == (type(right), right.dtype, right.shape)
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("policy", ["outputs", "auto"])
@given(chunks=st.lists(CHUNKS, min_size=1, max_size=2).map(tuple), kind=st.sampled_from(sorted(KINDS)))
def test_any_array(policy: str, tmp_path_factory: pytest.TempPathFactory, chunks: Any, kind: str) -> None:
    shape = tuple(map(sum, chunks))
    array = da.from_array(np.arange(np.prod(shape, dtype=int)).reshape(shape), chunks=chunks)
    root = str(tmp_path_factory.mktemp("store"))
    with dask.config.set(scheduler="sync"):
        wanted = results(array, kind)
        with daskcache.activate(root, policy=policy):
            assert_same(results(array, kind), wanted)
            assert_same(results(array, kind), wanted)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple),
    chunk=st.integers(2, 4),
    more=CHUNKS,
)
def test_any_array_that_lies_in_the_pool(
    tmp_path_factory: pytest.TempPathFactory, lengths: tuple[int, ...], chunk: int, more: tuple[int, ...]
) -> None:
    """A checkpoint's blocks at an edge are padded, and another namespace does not know which these are."""
    root = str(tmp_path_factory.mktemp("store"))
    half = da.from_array(np.arange(np.prod(lengths), dtype=float).reshape(lengths), chunks=chunk).map_blocks(
        KINDS["numbers"], dtype="f8"
    )
    ones = da.ones((sum(more), *lengths[1:]), chunks=(more, *half.chunks[1:])).map_blocks(KINDS["numbers"])
    both = da.concatenate([half, ones, half])
    daskcache.persist(half, "half", store=root, namespace="other")
    arrays = [half, both, both + 1]
    with dask.config.set(scheduler="sync"):
        wanted = [array.compute() for array in arrays]
        with daskcache.activate(root, policy="outputs"):
            assert_same([array.compute() for array in arrays], wanted)
            assert_same([array.compute() for array in arrays], wanted)


def test_blocks_without_elements_are_none_of_their_siblings(store_root: Any) -> None:
    x = da.ones((7, 24), chunks=((7,), (10, 0, 0, 9, 0, 5))) + 1
    with daskcache.activate(policy="outputs"):
        for _ in range(2):
            np.testing.assert_array_equal(x.compute(), np.full((7, 24), 2.0))
            np.testing.assert_array_equal(x.compute(scheduler="sync"), np.full((7, 24), 2.0))

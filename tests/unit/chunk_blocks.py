"""Blocks for the tests of chunks and of the pool."""

import itertools

import numpy as np


def make(dtype, shape, seed=0):
    """An array of any bits whatever: signalling NaNs, NaT, negative zeros."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int))
    bits = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype="u1")
    if dtype.kind == "b":
        bits &= 1
    return bits.view(dtype).reshape(shape)


def blocks_of(array, chunks):
    grid = [range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True)]
    for index in itertools.product(*grid):
        slices = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        yield "/".join(("c", *map(str, index))), array[slices or ...]


def same(a, b):
    return (
        a.dtype == b.dtype
        and a.dtype.str == b.dtype.str
        and a.shape == b.shape
        and a.tobytes() == b.tobytes()
    )

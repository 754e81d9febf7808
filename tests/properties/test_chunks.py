"""Law 5's first half: whatever block is stored comes back, bit for bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from daskcache.chunks import ChunkSpec, Selection, chunk_id, decode, encode, inner_ranges, plan_grid
from daskcache.config import Codecs
from daskcache.errors import CorruptChunkError
from daskcache.pool import StoredBlock, write_block

codecs = st.builds(
    Codecs,
    name=st.sampled_from(["blosc", "zstd", "none"]),
    cname=st.sampled_from(["lz4", "zstd", "blosclz"]),
    level=st.integers(1, 9),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
)
numbers = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    npst.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(min_len=1, max_len=9),
)
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def bits(draw, dtypes=numbers, array_shapes=shapes):
    """An array of any dtype, shape and bits, in any memory order."""
    dtype, shape = draw(dtypes), draw(array_shapes)
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), "u1").copy()
    if dtype.kind == "b":
        raw &= 1
    array = raw.view(dtype).reshape(shape) if nbytes else np.empty(shape, dtype)
    return array.transpose(draw(st.permutations(range(array.ndim))))


@st.composite
def blocks_and_specs(draw, arrays=None):
    """A block, and a specification that it fits."""
    block = draw(arrays if arrays is not None else bits())
    chunk_shape = tuple(draw(st.integers(max(length, 1), length + 3)) for length in block.shape)
    inner = tuple(draw(st.integers(1, length)) for length in chunk_shape)
    inner = draw(st.sampled_from([None, inner]))
    return block, ChunkSpec.for_block(block.dtype, chunk_shape, draw(codecs), inner)


# Lone surrogates have no UTF-8; numpy drops NULs at the end.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(lambda text: text.rstrip("\0"))
strings = npst.arrays(
    st.sampled_from(["<U6", ">U6"]), npst.array_shapes(min_dims=0, max_dims=3, max_side=3), elements=texts
)


def assert_same(a, b):
    assert a.dtype.str == b.dtype.str
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@settings(deadline=None)
@given(blocks_and_specs())
def test_blocks_round_trip(case):
    block, spec = case
    data = encode(block, spec)
    assert_same(decode(data, spec, block.shape, block.dtype), block)
    # Contiguous or not, and a second time: the same bytes.
    assert encode(np.array(block, order="C"), spec) == data


@settings(deadline=None)
@given(blocks_and_specs(strings))
def test_strings_round_trip(case):
    block, spec = case
    assert_same(decode(encode(block, spec), spec, block.shape, block.dtype), block)


@settings(deadline=None)
@given(blocks_and_specs(), st.data())
def test_parts_round_trip(case, data):
    block, spec = case
    index = data.draw(npst.basic_indices(block.shape, allow_newaxis=False))
    part = decode(encode(block, spec), spec, block.shape, block.dtype, index)
    assert_same(part, np.asarray(block[index], block.dtype))


@settings(deadline=None)
@given(blocks_and_specs(), st.data())
def test_any_damage_is_noticed(case, data):
    block, spec = case
    good = bytes(encode(block, spec))
    if not good:
        return
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        place = data.draw(st.integers(0, len(good) - 1))
        flip = data.draw(st.integers(1, 255))
        bad = good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :]
    with pytest.raises(CorruptChunkError):
        decode(bad, spec, block.shape, block.dtype)


@settings(deadline=None)
@given(blocks_and_specs(bits(array_shapes=npst.array_shapes(max_dims=3, max_side=4))))
def test_inner_chunks_stand_alone(case):
    block, spec = case
    if spec.inner_shape is None:
        return
    data = encode(block, spec)
    inner = ChunkSpec.for_block(block.dtype, spec.inner_shape, spec.codecs)
    padded = np.zeros(spec.chunk_shape, block.dtype)
    padded[tuple(slice(0, length) for length in block.shape)] = block
    counts = [n // part for n, part in zip(spec.chunk_shape, spec.inner_shape, strict=True)]
    for place, (offset, size) in zip(np.ndindex(*counts), inner_ranges(data, spec), strict=True):
        box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, spec.inner_shape, strict=True))
        if offset == 2**64 - 1:
            # Zarr leaves out inner chunks that lie past the array's end.
            assert any(part.start >= length for part, length in zip(box, block.shape, strict=True))
        else:
            assert_same(
                decode(data[offset : offset + size], inner, spec.inner_shape, block.dtype), padded[box]
            )


@settings(deadline=None)
@given(blocks_and_specs(), st.binary(min_size=20, max_size=20), st.data())
def test_the_pool_gives_what_it_was_given(case, token, data):
    block, spec = case
    root = "memory://properties"
    receipt = write_block(root, "00ff", token, spec, block)
    assert receipt.id == chunk_id(token, spec)
    if receipt.conflict:
        return  # another example had this token
    stored = StoredBlock(root, "00ff", token, spec, block.shape, block.dtype)
    assert_same(stored[...], block)
    index = data.draw(npst.basic_indices(block.shape, allow_newaxis=True))
    assert_same(np.asarray(stored[index], block.dtype), np.asarray(block[index], block.dtype))


@given(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), st.data())
def test_selections_are_numpys(shape, data):
    array = np.arange(math.prod(shape)).reshape(shape)
    index = data.draw(npst.basic_indices(shape, allow_newaxis=False))
    selection = Selection.of(shape, index)
    part = array[selection.region]
    assert part.shape == selection.shape
    assert selection.is_whole == (part.shape == shape)
    assert_same(selection.apply(array), np.asarray(array[index]))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple), max_size=3).map(tuple))
def test_grids_hold_their_blocks(chunks):
    grid = plan_grid(chunks, "f8")
    specs = {index: grid.spec(index, "f8") for index in grid.indices()}
    assert grid.shape == tuple(map(sum, chunks))
    for index, spec in specs.items():
        block = grid.block_shape(index)
        assert all(length <= limit for length, limit in zip(block, spec.chunk_shape, strict=True))
        assert all(limit >= 1 for limit in spec.chunk_shape)
    if grid.kind == "regular":
        assert len(set(specs.values())) <= 1
    # Blocks of one shape have one form, wherever they lie.
    assert len({(grid.block_shape(index), spec) for index, spec in specs.items()}) == len(
        {grid.block_shape(index) for index in specs}
    )

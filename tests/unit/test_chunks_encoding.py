"""Encoding of blocks, against plain Zarr and against damage."""

import hashlib
import itertools
import json
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from daskcache import stores
from daskcache.chunks import ChunkSpec, decode, encode, inner_ranges, read_part
from daskcache.config import Codecs
from daskcache.errors import CorruptChunkError, InvalidInputError, NotStoredError, UncacheableError
from tests.unit.chunk_blocks import blocks_of, make, same

CODECS = [Codecs(), Codecs("zstd", level=3), Codecs("none"), Codecs(cname="zstd", shuffle="bitshuffle")]
DTYPES = [
    "?", "i1", "u1", "<i2", ">u2", "<i4", ">i8", "<f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16", "S5", "S300",
    "<M8[us]", ">M8[ns]", "<m8[s]",
]  # fmt: skip


def plain_objects(array, chunks, spec):
    """What Zarr writes for a whole array with the codecs of a specification, by chunk key."""
    store = MemoryStore()
    # In the machine's order with the codec's, as whoever knows nothing of us would write it.
    document = spec.zarr_metadata(array.shape)
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}
    document = {**document, "chunk_grid": grid}
    stores.put(store, "zarr.json", json.dumps(document).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        out = zarr.open_array(store, mode="r+", config={"write_empty_chunks": True})
        out[...] = array
    return {key: stores.get(store, key) for key in zarr_keys(out) if stores.get(store, key) is not None}


def zarr_keys(array):
    grid = itertools.product(
        *(range(-(-n // c)) for n, c in zip(array.shape, array.shards or array.chunks, strict=True))
    )
    return ["/".join(("c", *map(str, index))) for index in grid]


@pytest.mark.parametrize("codecs", CODECS, ids=lambda c: f"{c.name}-{c.cname}")
@pytest.mark.parametrize(
    ("shape", "chunks", "inner"),
    [
        ((), (), None),
        ((7,), (7,), None),
        ((7,), (3,), None),
        ((7, 5), (4, 5), None),
        ((7, 5, 2), (4, 2, 2), (2, 1, 2)),
        ((8, 6), (4, 6), (2, 3)),
        ((5, 6), (8, 6), (2, 3)),
    ],
)
@pytest.mark.parametrize("dtype", ["?", "i1", "<i4", "<f4", ">f8", "<c16", "S5"])
def test_bytes_are_those_that_plain_zarr_writes(dtype, shape, chunks, inner, codecs):
    array = make(dtype, shape)
    spec = ChunkSpec.for_block(dtype, chunks, codecs, inner)
    expected = plain_objects(_canonical_nans(array), chunks, spec)
    actual = {key: bytes(encode(_canonical_nans(block), spec)) for key, block in blocks_of(array, chunks)}
    assert actual == expected


def _canonical_nans(array):
    # Plain Zarr need not keep a NaN's payload or a big-endian one's bits; we do, see the round trips.
    if array.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            return np.asarray(np.nan_to_num(array.astype(array.dtype.newbyteorder("="))), array.dtype)
    return array


@pytest.mark.parametrize(("chunks", "inner"), [((7, 3), None), ((4, 2), None), ((4, 2), (2, 1))])
def test_bytes_of_strings_are_those_that_plain_zarr_writes(chunks, inner):
    array = np.array([f"é{'x' * i}" for i in range(21)]).reshape(7, 3)
    spec = ChunkSpec.for_block(array.dtype, chunks, inner_shape=inner)
    expected = plain_objects(array.astype("T"), chunks, spec)
    actual = {key: bytes(encode(block, spec)) for key, block in blocks_of(array, chunks)}
    assert actual == expected


@pytest.mark.parametrize("inner", [None, (2, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (1, 1)])
def test_bits_dtype_and_byte_order_come_back(dtype, shape, inner):
    block = make(dtype, shape)
    spec = ChunkSpec.for_block(dtype, (4, 3), inner_shape=inner)
    back = decode(encode(block, spec), spec, block.shape, block.dtype)
    assert same(back, block)
    back[...] = back[0, 0]  # writable, and nobody else's
    assert same(decode(encode(block, spec), spec, block.shape, block.dtype), block)


@pytest.mark.parametrize("dtype", [*DTYPES, "<U3", ">U3"])
def test_0d_blocks_come_back(dtype):
    block = make(dtype, ()) if "U" not in dtype else np.array("é\0x", dtype)
    spec = ChunkSpec.for_block(dtype, ())
    assert same(decode(encode(block, spec), spec, (), dtype), block)
    assert same(decode(encode(block, spec), spec, (), dtype, ...), block)


def test_special_values_come_back():
    bits = np.array([0x7FF0000000000001, 0xFFF8000000000123, 1 << 63, 0x7FF0000000000000], "u8")
    for dtype in ("<f8", ">f8", "<M8[ns]"):
        block = bits.view(dtype)
        spec = ChunkSpec.for_block(dtype, (6,))
        assert same(decode(encode(block, spec), spec, (4,), dtype), block)


@pytest.mark.parametrize("dtype", ["<U4", ">U4", "T", "O"])
def test_strings_come_back(dtype):
    block = np.array([["", "a\0b"], ["𝄞", "ß"], ["xyz", " "]], dtype)
    spec = ChunkSpec.for_block("T", (4, 2))
    back = decode(encode(block, spec), spec, block.shape, block.dtype)
    assert back.dtype == block.dtype
    assert (back == block).all()
    if block.dtype.kind == "U":
        assert same(back, block)


@pytest.mark.parametrize("values", [["\ud800"], [1], [None], [float("nan")], [b"a"]])
def test_what_is_no_string_is_refused(values):
    block = np.array(values, dtype=object)
    with pytest.raises(UncacheableError, match="no valid strings"):
        encode(block, ChunkSpec.for_block("T", (1,)))


@pytest.mark.parametrize(
    "block",
    [
        np.arange(24.0).reshape(4, 6).T,
        np.asfortranarray(np.arange(24.0).reshape(6, 4)),
        np.arange(48.0).reshape(6, 8)[:, ::2],
        np.arange(24.0).reshape(6, 4)[::-1],
        np.broadcast_to(np.float64(3), (6, 4)),
    ],
    ids=["transposed", "fortran", "strided", "reversed", "broadcast"],
)
def test_memory_order_does_not_matter(block):
    spec = ChunkSpec.for_block("f8", (6, 4), inner_shape=(3, 2))
    assert bytes(encode(block, spec)) == bytes(encode(np.ascontiguousarray(block), spec))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0)])
def test_blocks_of_no_size_need_no_bytes(shape):
    spec = ChunkSpec.for_block(">f4", shape)
    block = np.empty(shape, ">f4")
    assert bytes(encode(block, spec)) == b""
    assert same(decode(b"", spec, shape, ">f4"), block)
    assert decode(b"", spec, shape, ">f4", 0 if shape[0] else slice(None)).dtype == ">f4"


INDICES = [
    (), ..., 0, -1, slice(1, 3), (slice(None), 2), (..., 1), (1, 2, 3), (slice(None, None, -1),), (slice(4, 0, -2), slice(1, 4, 2)),
    (slice(2, 2),), (slice(1, 100), slice(-2, None), -1), np.int64(2), (slice(0, 5, 10),),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("inner", [None, (2, 3, 1)])
@pytest.mark.parametrize("dtype", ["<f4", ">c16", "S3", "<U3", "M8[s]"])
def test_parts_are_what_numpy_gives(dtype, inner, index):
    block = make(dtype, (5, 6, 4)) if dtype != "<U3" else make("u1", (5, 6, 4)).astype("<U3")
    spec = ChunkSpec.for_block(dtype, (6, 6, 4), inner_shape=inner)
    part = decode(encode(block, spec), spec, block.shape, block.dtype, index)
    assert same(part, np.asarray(block[index], block.dtype))


@pytest.mark.parametrize("index", [7, (0, 0, 0), [1, 2], None, True, (..., ...), "a", 1.0])
def test_indices_that_are_not_basic_are_refused(index):
    spec = ChunkSpec.for_block("i8", (3, 2))
    data = encode(np.arange(6).reshape(3, 2), spec)
    if index is None:
        index = (None,)
    with pytest.raises((InvalidInputError, IndexError)):
        decode(data, spec, (3, 2), "i8", index)


def damage():
    yield "truncated by one byte", lambda d: d[:-1]
    yield "truncated by half", lambda d: d[: len(d) // 2]
    yield "a few bytes", lambda d: d[:3]
    yield "empty", lambda d: b""
    yield "longer by a byte", lambda d: d + b"\0"
    yield "zeros", lambda d: bytes(len(d))
    for place in (0, 1, 5, 17, -1, -5, -20):
        yield f"bit flip at {place}", lambda d, i=place: flipped(d, i)
    yield "text", lambda d: b"<html>503 Slow Down</html>" * 10


def flipped(data, place):
    data = bytearray(data)
    data[place] ^= 0x10
    return bytes(data)


@pytest.mark.parametrize("codecs", CODECS, ids=lambda c: f"{c.name}-{c.cname}")
@pytest.mark.parametrize("inner", [None, (5, 4)])
@pytest.mark.parametrize(("name", "harm"), list(damage()), ids=lambda x: x if isinstance(x, str) else "")
def test_damage_is_noticed(codecs, inner, name, harm):
    block = make("f4", (10, 8))
    spec = ChunkSpec.for_block("f4", (10, 8), codecs, inner)
    data = harm(bytes(encode(block, spec)))
    with pytest.raises(CorruptChunkError, match="computed again"):
        decode(data, spec, block.shape, block.dtype)


def test_every_flipped_bit_of_a_shard_is_noticed():
    block = make("i2", (4, 4))
    spec = ChunkSpec.for_block("i2", (4, 4), inner_shape=(2, 4))
    good = bytes(encode(block, spec))
    for place in range(len(good)):
        with pytest.raises(CorruptChunkError):
            decode(flipped(good, place), spec, (4, 4), "i2")


@pytest.mark.parametrize("other", [((10, 4), "f4", None), ((10, 8), "f8", None), ((10, 8), "f4", (5, 4))])
def test_the_object_of_another_kind_of_block_is_noticed(other):
    shape, dtype, inner = other
    wrong = ChunkSpec.for_block(dtype, shape, inner_shape=inner)
    spec = ChunkSpec.for_block("f4", (10, 8))
    data = encode(make(dtype, shape), wrong)
    with pytest.raises(CorruptChunkError):
        decode(data, spec, (10, 8), "f4")
    data = encode(make("f4", (10, 8)), spec)
    with pytest.raises(CorruptChunkError):
        decode(data, wrong, shape, dtype)


def test_a_damaged_string_block_is_noticed():
    spec = ChunkSpec.for_block("T", (3,), Codecs("none"))
    data = bytes(encode(np.array(["a", "bc", "d"]), spec))
    for place in range(len(data)):
        with pytest.raises(CorruptChunkError):
            decode(flipped(data, place), spec, (3,), "T")


def test_encoding_is_deterministic_also_in_threads():
    block = make("f4", (300, 300))
    spec = ChunkSpec.for_block("f4", (300, 300), inner_shape=(100, 300))
    expected = bytes(encode(block, spec))
    results = []

    def work():
        for _ in range(10):
            results.append(bytes(encode(block, spec)) == expected)
            results.append(same(decode(expected, spec, block.shape, block.dtype), block))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 160


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_number_of_blosc_threads_changes_no_bytes(count):
    block = np.arange(2_000_000, dtype="f4").reshape(1000, 2000)
    spec = ChunkSpec.for_block("f4", (1000, 2000))
    expected = bytes(encode(block, spec))
    before = numcodecs.blosc.set_nthreads(count)
    try:
        assert {bytes(encode(block, spec)) for _ in range(5)} == {expected}
    finally:
        numcodecs.blosc.set_nthreads(before)


def test_full_size_blocks_are_not_copied():
    block = np.ones((1024, 1024))
    spec = ChunkSpec.for_block("f8", (1024, 1024))
    encode(block, spec)
    tracemalloc.start()
    encode(block, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Blosc's own buffer is as long as the block at most, and the checksum is appended to what is left.
    assert peak < 1.2 * block.nbytes


def test_inner_ranges_are_where_zarr_put_them():
    block = make("f4", (4, 6))
    spec = ChunkSpec.for_block("f4", (4, 6), inner_shape=(2, 2))
    inner = ChunkSpec.for_block("f4", (2, 2))
    data = encode(block, spec)
    ranges = inner_ranges(data, spec)
    for (offset, size), (_, part) in zip(ranges, blocks_of(block, (2, 2)), strict=True):
        assert same(decode(data[offset : offset + size], inner, (2, 2), "f4"), part)


def test_wrong_blocks_are_refused():
    spec = ChunkSpec.for_block("f4", (4, 4))
    with pytest.raises(InvalidInputError, match="dtype float64"):
        encode(np.zeros((4, 4)), spec)
    with pytest.raises(InvalidInputError, match="shape"):
        encode(np.zeros((4, 5), "f4"), spec)
    with pytest.raises(InvalidInputError, match="shape"):
        encode(np.zeros(4, "f4"), spec)
    with pytest.raises(UncacheableError, match="MaskedArray"):
        encode(np.ma.masked_array(np.zeros((4, 4), "f4")), spec)


class CountingStore(MemoryStore):
    """Counts the bytes and requests that readers cause."""

    def __init__(self):
        super().__init__()
        self.requests = []

    async def get(self, key, prototype=None, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        self.requests.append(len(found) if found is not None else None)
        return found


def test_parts_of_a_shard_fetch_their_inner_chunks_alone():
    block = make("f4", (64, 64, 64))
    spec = ChunkSpec.for_block("f4", block.shape, inner_shape=(64, 16, 16))
    store = CountingStore()
    data = encode(block, spec)
    stores.put(store, "a", data)
    part = read_part(store, "a", spec, block.shape, "f4", (slice(None), 3, 5))
    assert same(part, block[:, 3, 5])
    assert len(store.requests) == 2
    assert sum(store.requests) < len(data) / 16 + 16 * 16 + 200
    store.requests.clear()
    assert same(
        read_part(store, "a", spec, block.shape, "f4", (slice(None), slice(0, 17), 5)), block[:, :17, 5]
    )
    assert sum(store.requests) < len(data) / 8 + 16 * 16 + 400


def test_parts_of_a_local_shard(tmp_path):
    block = make("f4", (64, 64))
    spec = ChunkSpec.for_block("f4", block.shape, inner_shape=(16, 64))
    store = stores.open(tmp_path)
    data = encode(block, spec)
    stores.put(store, "a", data)
    assert same(read_part(store, "a", spec, block.shape, "f4", 40), block[40])
    with pytest.raises(NotStoredError):
        read_part(store, "b", spec, block.shape, "f4", 40)
    for bad in (data[:-1], b"", data[: len(data) // 2]):
        stores.put(store, "a", bad)
        with pytest.raises(CorruptChunkError):
            read_part(store, "a", spec, block.shape, "f4", 40)


@pytest.mark.parametrize("path", ["BatchedCodecPipeline", "FusedCodecPipeline"])
def test_both_codec_pipelines_do_the_same(path):
    # In a process of its own: handles keep the pipeline with which they were opened.
    code = f"""
import zarr
zarr.config.set({{"codec_pipeline.path": "zarr.core.codec_pipeline.{path}"}})
import numpy as np, hashlib
from daskcache import stores
from daskcache.chunks import *
out = hashlib.sha256()
block = np.arange(5 * 8 * 6, dtype=">f4").reshape(5, 8, 6)
for inner in (None, (2, 4, 3)):
    spec = ChunkSpec.for_block(block.dtype, (6, 8, 6), inner_shape=inner)
    data = encode(block, spec)
    out.update(data)
    assert (decode(data, spec, block.shape, block.dtype) == block).all()
    store = stores.open("memory://a")
    stores.put(store, "a", data)
    assert (read_part(store, "a", spec, block.shape, block.dtype, (4, slice(1, 3))) == block[4, 1:3]).all()
    for bad in (data[:-1], b"", bytes(data[:20]) + b"x" + bytes(data[21:])):
        try:
            decode(bad, spec, block.shape, block.dtype)
        except Exception as error:
            assert type(error).__name__ == "CorruptChunkError", repr(error)
        else:
            raise AssertionError("not noticed")
print(out.hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    block = np.arange(5 * 8 * 6, dtype=">f4").reshape(5, 8, 6)
    expected = hashlib.sha256()
    for inner in (None, (2, 4, 3)):
        expected.update(encode(block, ChunkSpec.for_block(block.dtype, (6, 8, 6), inner_shape=inner)))
    assert done.stdout.strip() == expected.hexdigest()


def test_zarr_reads_the_document_and_the_objects():
    array = make("<i4", (7, 5))
    spec = ChunkSpec.for_block("<i4", (4, 5))
    store = MemoryStore()
    stores.put(store, "zarr.json", json.dumps(spec.zarr_metadata(array.shape)).encode())
    for key, block in blocks_of(array, (4, 5)):
        stores.put(store, key, encode(block, spec))
    assert same(zarr.open_array(store, mode="r")[...], array)

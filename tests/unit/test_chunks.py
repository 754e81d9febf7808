"""Specifications, ids and grids."""

import json
import pickle

import numpy as np
import pytest

from daskcache.chunks import (
    ChunkSpec,
    block_key,
    check_storable,
    chunk_id,
    group_of,
    plan_grid,
    storage_dtype,
)
from daskcache.config import Codecs
from daskcache.errors import InvalidInputError, UncacheableError


def test_checksums_come_last():
    assert [c["name"] for c in ChunkSpec.for_block("f4", (4,)).zarr_codecs()] == ["bytes", "blosc", "crc32c"]
    assert [c["name"] for c in ChunkSpec.for_block("T", (4,), Codecs("zstd")).zarr_codecs()] == [
        "vlen-utf8",
        "zstd",
        "crc32c",
    ]
    (shard,) = ChunkSpec.for_block("f4", (4,), inner_shape=(2,)).zarr_codecs()
    assert shard["configuration"]["codecs"][-1] == {"name": "crc32c"}
    assert shard["configuration"]["index_codecs"][-1] == {"name": "crc32c"}


@pytest.mark.parametrize(
    ("dtype", "size"), [("f4", 4), ("?", 1), (">c16", 16), ("M8[s]", 8), ("S7", 7), ("S300", 1), ("U9", 1)]
)
def test_blosc_knows_the_element(dtype, size):
    blosc = ChunkSpec.for_block(dtype, (4,)).zarr_codecs()[1]
    assert blosc["configuration"]["typesize"] == size


def test_ids_are_stable():
    spec = ChunkSpec.for_block(">f4", (30, 180, 360))
    assert spec.canonical == (
        b'["float32",[30,180,360],[{"configuration":{"endian":"big"},"name":"bytes"},'
        b'{"configuration":{"blocksize":0,"clevel":5,"cname":"lz4","shuffle":"shuffle","typesize":4},"name":"blosc"},'
        b'{"name":"crc32c"}],0.0]'
    )
    assert chunk_id(bytes(range(20)), spec) == "495578230939df57b81a63600610d39ec2ec6e8a"
    assert group_of(bytes(range(20)), spec) == "88dc"
    assert group_of(bytes(range(20)), spec, (30, 180, 360), np.dtype(">f4")) == "88dc"
    assert group_of(bytes(range(20)), spec, (30, 180, 359), np.dtype(">f4")) == "1c84"
    assert block_key("00ff", "ab") == "chunks/00ff/ab"


def test_ids_tell_specifications_apart():
    specs = [
        ChunkSpec.for_block("<f4", (4, 6)),
        ChunkSpec.for_block(">f4", (4, 6)),
        ChunkSpec.for_block("<i4", (4, 6)),
        ChunkSpec.for_block("<f4", (6, 4)),
        ChunkSpec.for_block("<f4", (4, 6), inner_shape=(2, 6)),
        ChunkSpec.for_block("<f4", (4, 6), Codecs("zstd")),
        ChunkSpec.for_block("<f4", (4, 6), Codecs("none")),
        ChunkSpec.for_block("<f4", (4, 6), Codecs(level=6)),
        ChunkSpec.for_block("T", (4, 6)),
        ChunkSpec.for_block("S4", (4, 6)),
    ]
    assert len({chunk_id(bytes(20), spec) for spec in specs}) == len(specs)
    assert len({spec.id for spec in specs}) == len(specs)
    # What a codec ignores makes no other object.
    assert chunk_id(bytes(20), ChunkSpec.for_block("f4", (2,), Codecs("none", level=1))) == chunk_id(
        bytes(20), ChunkSpec.for_block("f4", (2,), Codecs("none", cname="zstd"))
    )


def test_specifications_survive_json_and_pickle():
    for spec in (ChunkSpec.for_block(">f4", (4, 6), Codecs("zstd"), (2, 3)), ChunkSpec.for_block("T", ())):
        assert ChunkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert pickle.loads(pickle.dumps(spec)) == spec


def test_inner_chunks_pad_the_chunk():
    assert ChunkSpec.for_block("f4", (5, 6), inner_shape=(2, 3)).chunk_shape == (6, 6)
    with pytest.raises(InvalidInputError, match="inner chunks"):
        ChunkSpec.for_block("f4", (5, 6), inner_shape=(2,))
    with pytest.raises(InvalidInputError, match="inner chunks"):
        ChunkSpec.for_block("f4", (5, 6), inner_shape=(0, 1))
    with pytest.raises(InvalidInputError, match="below 0"):
        ChunkSpec.for_block("f4", (-1,))


def test_blocks_past_the_compressors_limit_are_refused():
    with pytest.raises(UncacheableError, match=r"2\.0 GiB.*rechunk"):
        ChunkSpec.for_block("f8", (2**28,))
    ChunkSpec.for_block("f8", (2**28,), inner_shape=(2**20,))
    ChunkSpec.for_block("f8", (2**28,), Codecs("none"))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("O", "astype"),
        ("V4", "boolean, numeric"),
        ([("a", "i4")], "one array per field"),
        ("g", "float64"),
        ("G", "complex128"),
        ("S0", "boolean, numeric"),
        (np.dtypes.StringDType(na_object=np.nan), "missing"),
        ("category", "convert it first"),
    ],
    ids=str,
)
def test_dtypes_without_storage_form_are_refused(dtype, remedy):
    for refuse in (
        storage_dtype,
        check_storable,
        lambda d: ChunkSpec.for_block(d, (1,)),
        lambda d: plan_grid(((1,),), d),
    ):
        with pytest.raises(UncacheableError, match=remedy):
            refuse(dtype)


def test_metas_that_are_not_numpys_are_refused():
    class Units(np.ndarray):
        pass

    class Sparse:
        dtype, shape, ndim = np.dtype("f4"), (0,), 1

    check_storable("f4")
    check_storable("f4", np.empty(0, "f4"))
    check_storable("f4", np.float32(1))
    for meta in (np.ma.empty(0, "f4"), np.empty(0, "f4").view(Units), Sparse()):
        with pytest.raises(UncacheableError, match="map_blocks"):
            check_storable("f4", meta)


@pytest.mark.parametrize(
    ("chunks", "kind", "regular", "inner"),
    [
        (((30, 30, 12), (100,)), "regular", (30, 100), None),
        (((30,),), "regular", (30,), None),
        (((3, 3, 0),), "regular", (3,), None),
        (((0,), (4,)), "regular", (1, 4), None),
        ((), "regular", (), None),
        (((12, 30), (100,)), "rectilinear", (None, 100), None),
        (((30, 30, 31),), "rectilinear", (None,), None),
        (((0, 3),), "rectilinear", (None,), None),
        (((36, 36, 1, 35), (128, 64), (128,)), "inner", (None, 128, 128), (1, 128, 128)),
        (((36, 36, 1, 35), (128, 64), (127,)), "rectilinear", (None, 128, 127), None),
    ],
)
def test_grids(chunks, kind, regular, inner):
    grid = plan_grid(chunks, "f4")
    assert (grid.kind, grid.regular, grid.inner_shape) == (kind, regular, inner)
    assert grid.shape == tuple(map(sum, chunks))
    assert len(list(grid.indices())) == np.prod(grid.numblocks)
    for index in grid.indices():
        spec = grid.spec(index, "f4")
        block = grid.block_shape(index)
        assert spec.inner_shape == inner
        assert all(length <= limit for length, limit in zip(block, spec.chunk_shape, strict=True))
        if kind == "rectilinear":
            assert spec.chunk_shape == tuple(max(length, 1) for length in block)


def test_a_blocks_specification_does_not_depend_on_irregular_neighbours():
    def spec(chunks, index):
        return plan_grid(chunks, "f4").spec(index, "f4")

    short = ((36, 35, 36), (128,), (128,))
    assert spec(short, (1, 0, 0)) == spec(((36, 35, 36, 1, 99), (128,), (128,)), (1, 0, 0))
    assert spec(((30, 30, 12),), (0,)) == spec(((30, 30, 30, 30),), (1,)) == spec(((30, 30, 12),), (2,))


def test_unknown_lengths_have_no_grid():
    with pytest.raises(UncacheableError, match="compute_chunk_sizes"):
        plan_grid(((float("nan"), float("nan")),), "f4")


def test_hinted_inner_chunks_enter_regular_grids():
    grid = plan_grid(((4, 4, 2), (6,)), "f4")
    assert grid.spec((2, 0), "f4", inner_shape=(4, 2)).inner_shape == (4, 2)

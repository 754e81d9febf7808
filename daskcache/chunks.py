"""What a chunk is: its specification, its identity, and the grid that its block belongs to.

A *block* is a dask chunk, one task's array; a *chunk* is the one encoded object that a block becomes. The
specification says how, and depends on the block, its settings and the regular length of its grid, on nothing
else of the other blocks. Encoding itself is in `daskcache.encoding`, objects in `daskcache.pool`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal, Self

import numpy as np

from daskcache.config import Codecs
from daskcache.errors import InvalidInputError, UncacheableError

__all__ = [
    "ChunkSpec",
    "Grid",
    "block_key",
    "check_storable",
    "chunk_id",
    "group_of",
    "plan_grid",
    "storage_dtype",
]

DEFAULT_CODECS = Codecs()

STRING = "string"
"""The storage form of every dtype of strings: variable-length UTF-8."""

MIN_INNER_BYTES = 64 * 1024
"""Irregular blocks whose inner chunks would be smaller are plain chunks of a rectilinear grid."""

# Blosc's own limit on one buffer, less its header: larger blocks need inner chunks.
_MAX_BUFFER_BYTES = 2**31 - 1 - 16


class Digester:
    def digest(self, tag: bytes, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(digest_size=20, person=b"daskcache/0")
        for part in (tag, *parts):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.digest()


_UNSALTED = Digester()

_ZARR_NAMES = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """How a block becomes the bytes of one object; equal specifications compare and hash equal.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("datetime64[us]", (30, 4))
    >>> spec.dtype, spec.chunk_shape
    ('<i8', (30, 4))
    >>> [codec["name"] for codec in spec.zarr_codecs()]
    ['bytes', 'blosc', 'crc32c']
    """

    dtype: str
    """The storage form, as numpy's string with its byte order, or ``"string"``."""
    chunk_shape: tuple[int, ...]
    """Lengths that the block is padded to, each at least 1."""
    codecs: Codecs = DEFAULT_CODECS
    """The compressor."""
    inner_shape: tuple[int, ...] | None = None
    """Lengths of the inner chunks of a sharded block, dividing `chunk_shape`; None where there are none."""

    @classmethod
    def for_block(
        cls,
        dtype: Any,
        chunk_shape: tuple[int, ...],
        codecs: Codecs = DEFAULT_CODECS,
        inner_shape: tuple[int, ...] | None = None,
    ) -> Self:
        """Make the specification of blocks of a dtype.

        Parameters
        ----------
        dtype : dtype-like
            What the blocks hold, in memory.
        chunk_shape : tuple of int
            The regular lengths of the grid; zeros count as 1, for Zarr has no empty chunks.
        codecs : Codecs, optional
            The compressor.
        inner_shape : tuple of int, optional
            Lengths of inner chunks. A chunk length that they do not divide is padded up.

        Returns
        -------
        ChunkSpec
            The specification.

        Raises
        ------
        UncacheableError
            The dtype has no storage form, or the block is too large for one buffer.
        InvalidInputError
            A length is negative, or the inner chunks do not fit the block.
        """
        stored = storage_dtype(dtype)
        if any(length < 0 for length in chunk_shape):
            raise InvalidInputError(f"chunk lengths are {chunk_shape}; expected none below 0")
        chunk_shape = tuple(max(int(length), 1) for length in chunk_shape)
        if inner_shape is not None:
            inner_shape = tuple(int(length) for length in inner_shape)
            if len(inner_shape) != len(chunk_shape) or any(length < 1 for length in inner_shape):
                raise InvalidInputError(
                    f"inner chunks are {inner_shape}; expected {len(chunk_shape)} lengths of 1 or more, "
                    f"as for blocks of {chunk_shape}"
                )
            chunk_shape = tuple(
                -(-length // inner) * inner for length, inner in zip(chunk_shape, inner_shape, strict=True)
            )
            inner_shape = inner_shape or None  # a 0-d block cannot be split
        spec = cls(stored, chunk_shape, codecs, inner_shape)
        _check_size(spec)
        return spec

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 1 for strings, whose bytes have no common size."""
        return 1 if self.dtype == STRING else np.dtype(self.dtype).itemsize

    @property
    def fill(self) -> Any:
        """The fill value as Zarr's metadata writes it, which pads edge blocks; given by the dtype alone."""
        kind = np.dtype(self.dtype).kind if self.dtype != STRING else STRING
        fills: dict[str, Any] = {"b": False, "f": 0.0, "c": [0.0, 0.0], "S": "", STRING: ""}
        return fills.get(kind, 0)

    @property
    def zarr_dtype(self) -> str | dict[str, Any]:
        """The data type as Zarr's metadata writes it, without byte order."""
        if self.dtype == STRING:
            return STRING
        dtype = np.dtype(self.dtype)
        if dtype.kind == "S":
            return {"name": "null_terminated_bytes", "configuration": {"length_bytes": dtype.itemsize}}
        bits = "" if dtype.kind == "b" else str(8 * dtype.itemsize)
        return _ZARR_NAMES[dtype.kind] + bits

    @property
    def canonical(self) -> bytes:
        """The bytes that enter a chunk's id: all that its encoding depends on."""
        return _canonical(self)

    @property
    def id(self) -> str:
        """Sixteen hex digits that name this specification in messages and documents."""
        return _UNSALTED.digest(b"chunk spec", _canonical(self)).hex()[:16]

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """Give the codecs as Zarr's metadata writes them.

        Returns
        -------
        list of dict
            Names and configurations, in the order of encoding. The checksum is the last that sees an
            inner chunk, and nothing follows a shard, which would have to be fetched whole to be checked.
        """
        codecs = [_serializer(self.dtype), *_compressors(self), {"name": "crc32c"}]
        if self.inner_shape is None:
            return codecs
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        configuration = {
            "chunk_shape": list(self.inner_shape),
            "codecs": codecs,
            "index_codecs": index,
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    def zarr_metadata(self, shape: tuple[int, ...], **members: Any) -> dict[str, Any]:
        """Give the Zarr document of an array whose chunks have this specification.

        Parameters
        ----------
        shape : tuple of int
            The array's shape.
        **members
            Further members, such as ``attributes`` and ``dimension_names``, or others in place of these.

        Returns
        -------
        dict
            The content of a ``zarr.json``.
        """
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": self.zarr_dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill,
            "codecs": self.zarr_codecs(),
            "attributes": {},
            **members,
        }

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON can hold them.

        Returns
        -------
        dict
            What `from_json` reads.
        """
        return {
            "dtype": self.dtype,
            "chunk_shape": list(self.chunk_shape),
            "codecs": asdict(self.codecs),
            "inner_shape": None if self.inner_shape is None else list(self.inner_shape),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Parameters
        ----------
        document : mapping
            The fields.

        Returns
        -------
        ChunkSpec
            The specification.
        """
        inner = document["inner_shape"]
        return cls(
            document["dtype"],
            tuple(document["chunk_shape"]),
            Codecs(**document["codecs"]),
            None if inner is None else tuple(inner),
        )


@dataclass(frozen=True, slots=True)
class Grid:
    """The blocks of an array and how their chunks are cut.

    Examples
    --------
    >>> grid = plan_grid(((31, 28, 31), (100, 50)), "float64")
    >>> grid.kind, grid.chunk_shape((1, 1))
    ('rectilinear', (28, 50))
    """

    kind: Literal["regular", "inner", "rectilinear"]
    """``regular``: one chunk shape for all; ``inner``: each block a shard of inner chunks that divide every
    block; ``rectilinear``: each block a plain chunk of its own shape."""
    chunks: tuple[tuple[int, ...], ...]
    """The blocks' lengths along each dimension, as dask has them."""
    regular: tuple[int | None, ...]
    """The regular length of each dimension, at least 1; None where lengths are irregular."""
    inner_shape: tuple[int, ...] | None = None
    """Lengths of the inner chunks where `kind` is ``inner``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return tuple(sum(lengths) for lengths in self.chunks)

    @property
    def numblocks(self) -> tuple[int, ...]:
        """The number of blocks along each dimension."""
        return tuple(len(lengths) for lengths in self.chunks)

    def block_shape(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of one block.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.

        Returns
        -------
        tuple of int
            Its lengths.
        """
        return tuple(lengths[i] for lengths, i in zip(self.chunks, index, strict=True))

    def chunk_shape(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape that one block is padded to.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.

        Returns
        -------
        tuple of int
            Lengths, each at least 1.
        """
        block = self.block_shape(index)
        if self.kind == "rectilinear":
            return tuple(max(length, 1) for length in block)
        return tuple(
            regular or max(length, 1) for regular, length in zip(self.regular, block, strict=True)
        )

    def spec(
        self,
        index: tuple[int, ...],
        dtype: Any,
        codecs: Codecs = DEFAULT_CODECS,
        inner_shape: tuple[int, ...] | None = None,
    ) -> ChunkSpec:
        """Make the specification of one block's chunk.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.
        dtype : dtype-like
            What the blocks hold, in memory.
        codecs : Codecs, optional
            The compressor.
        inner_shape : tuple of int, optional
            Inner chunks that a hint asks for; only a regular grid takes them.

        Returns
        -------
        ChunkSpec
            Equal for blocks that are cut alike.
        """
        inner = inner_shape if self.kind == "regular" else self.inner_shape
        return _spec_for(np.dtype(dtype), self.chunk_shape(index), codecs, inner)

    def indices(self) -> product[tuple[int, ...]]:
        """Give the blocks' places in C order.

        Returns
        -------
        iterator of tuple of int
            Indices into `chunks`.
        """
        return product(*(range(len(lengths)) for lengths in self.chunks))


@lru_cache(maxsize=1024)
def _spec_for(
    dtype: np.dtype[Any],
    chunk_shape: tuple[int, ...],
    codecs: Codecs,
    inner_shape: tuple[int, ...] | None,
) -> ChunkSpec:
    return ChunkSpec.for_block(dtype, chunk_shape, codecs, inner_shape)


def plan_grid(chunks: tuple[tuple[int, ...], ...], dtype: Any) -> Grid:
    """Decide how the blocks of an array are cut into chunks.

    Parameters
    ----------
    chunks : tuple of tuple of int
        The blocks' lengths along each dimension, as dask has them.
    dtype : dtype-like
        What the blocks hold, in memory.

    Returns
    -------
    Grid
        ``regular`` where along each dimension all blocks but the last are equal and the last is no longer.
        Else the inner chunks have length 1 along irregular dimensions, so that they divide every block
        whatever blocks come later, and the regular length along the others; where that makes them smaller
        than 64 KiB the grid is ``rectilinear``.

    Raises
    ------
    UncacheableError
        Lengths are unknown, or the dtype has no storage form.

    Examples
    --------
    >>> plan_grid(((30, 30, 12), (100,)), "float32").kind
    'regular'
    >>> plan_grid(((366, 365, 365), (180, 360)), "float32").inner_shape is None
    True
    >>> plan_grid(((366, 365, 365), (180,), (360,)), "float32").inner_shape
    (1, 180, 360)
    """
    storage_dtype(dtype)
    if any(math.isnan(length) for lengths in chunks for length in lengths):
        raise UncacheableError(
            "the blocks' lengths are unknown (nan), so their chunks have no grid; "
            "call compute_chunk_sizes() or rechunk with known lengths first"
        )
    chunks = tuple(tuple(int(length) for length in lengths) for lengths in chunks)
    regular = tuple(_regular_length(lengths) for lengths in chunks)
    if None not in regular:
        return Grid("regular", chunks, regular)
    inner = tuple(length or 1 for length in regular)
    if math.prod(inner) * np.dtype(dtype).itemsize >= MIN_INNER_BYTES:
        return Grid("inner", chunks, regular, inner)
    return Grid("rectilinear", chunks, regular)


def _regular_length(lengths: tuple[int, ...]) -> int | None:
    first = lengths[0] if lengths else 0
    is_regular = all(length == first for length in lengths[1:-1]) and lengths[-1:] <= (first,)
    return max(first, 1) if is_regular else None


def chunk_id(token: bytes, spec: ChunkSpec) -> str:
    """Name the object that holds a value in one form.

    Parameters
    ----------
    token : bytes
        The block's 20 bytes.
    spec : ChunkSpec
        How it is encoded.

    Returns
    -------
    str
        40 hex digits.

    Examples
    --------
    >>> len(chunk_id(bytes(20), ChunkSpec.for_block("f4", (10,))))
    40
    """
    return _UNSALTED.digest(b"chunk", token, _canonical(spec)).hex()


def group_of(function: bytes, spec: ChunkSpec) -> str:
    """Name the group of the pool where blocks of one function and form lie, so that one LIST finds them.

    Parameters
    ----------
    function : bytes
        The digest of the task's function.
    spec : ChunkSpec
        How its blocks are encoded.

    Returns
    -------
    str
        4 hex digits.

    Examples
    --------
    >>> len(group_of(bytes(20), ChunkSpec.for_block("f4", (10,))))
    4
    """
    return _UNSALTED.digest(b"group", function, _canonical(spec)).hex()[:4]


def block_key(group: str, identity: str) -> str:
    """Give the store key of a pool object.

    Parameters
    ----------
    group : str
        What `group_of` gave.
    identity : str
        What `chunk_id` gave.

    Returns
    -------
    str
        A key relative to the store's root.

    Examples
    --------
    >>> block_key("00ff", "ab12")
    'chunks/00ff/ab12'
    """
    return f"chunks/{group}/{identity}"


def storage_dtype(dtype: Any) -> str:
    """Give the form in which values of a dtype are stored, a function of the dtype alone.

    Parameters
    ----------
    dtype : dtype-like
        What is held in memory.

    Returns
    -------
    str
        A numpy string with byte order, or ``"string"``.

    Raises
    ------
    UncacheableError
        Zarr has no data type for it.

    Examples
    --------
    >>> storage_dtype(">M8[ns]"), storage_dtype("<U5"), storage_dtype(">f4")
    ('>i8', 'string', '>f4')
    """
    try:
        dtype = np.dtype(dtype)
    except TypeError as error:
        raise UncacheableError(
            f"dtype {dtype!r} is none of numpy's, so its blocks have no storage form; convert it first"
        ) from error
    if dtype.kind in "UT":
        return STRING
    if dtype.kind in "Mm":
        return str(dtype.str[0] + "i8")
    is_known = dtype.kind in _ZARR_NAMES and (
        dtype.itemsize <= 8 or (dtype.kind == "c" and dtype.itemsize == 16)
    )
    if is_known or (dtype.kind == "S" and dtype.itemsize):
        return str(dtype.str)
    raise UncacheableError(f"dtype {dtype} has no storage form; {_remedy(dtype)}")


def _remedy(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "O":
        return "convert to a string, datetime64 or numeric dtype with astype() first"
    if dtype.names:
        return "split the structured dtype into one array per field first"
    if dtype.kind in "fc":
        return "Zarr has no extended precision: convert to float64 or complex128 first"
    return "convert to a boolean, numeric, datetime64, timedelta64, bytes or string dtype first"


def check_storable(dtype: Any, meta: Any = None) -> None:
    """Refuse what has no storage form, without computing anything.

    Parameters
    ----------
    dtype : dtype-like
        What the blocks are declared to hold.
    meta : array-like, optional
        dask's ``_meta``: an empty array of the blocks' type.

    Raises
    ------
    UncacheableError
        The dtype has no storage form, or the blocks are no plain numpy arrays.

    Examples
    --------
    >>> check_storable("float32", np.empty(0, "float32"))
    """
    storage_dtype(dtype)
    if meta is None or isinstance(meta, np.generic):
        return
    # The exact type: a subclass (masked, matrix, a unit's) carries what an array of the same values loses.
    if type(meta) is not np.ndarray:
        name = f"{type(meta).__module__}.{type(meta).__qualname__}"
        raise UncacheableError(
            f"blocks are {name}, which would come back as plain numpy arrays; "
            "convert with map_blocks to numpy.ndarray first"
        )


def _check_size(spec: ChunkSpec) -> None:
    nbytes = math.prod(spec.inner_shape or spec.chunk_shape) * spec.itemsize
    if spec.codecs.name == "blosc" and nbytes > _MAX_BUFFER_BYTES:
        raise UncacheableError(
            f"a block of {spec.chunk_shape} {spec.dtype} has {nbytes / 2**30:.1f} GiB in one buffer, and the "
            "compressor takes less than 2 GiB; rechunk into smaller blocks"
        )


def _serializer(dtype: str) -> dict[str, Any]:
    if dtype == STRING:
        return {"name": "vlen-utf8"}
    order = np.dtype(dtype).str[0]
    if order == "|":
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "big" if order == ">" else "little"}}


def _compressors(spec: ChunkSpec) -> list[dict[str, Any]]:
    codecs = spec.codecs
    if codecs.name == "none":
        return []
    if codecs.name == "zstd":
        return [{"name": "zstd", "configuration": {"level": codecs.level, "checksum": False}}]
    if codecs.name != "blosc":
        raise InvalidInputError(f"codec is {codecs.name!r}; expected blosc, zstd or none")
    configuration = {
        # Blosc keeps the element's size in one byte and shuffles nothing that does not fit.
        "typesize": spec.itemsize if spec.itemsize <= 255 else 1,
        "cname": codecs.cname,
        "clevel": codecs.level,
        "shuffle": codecs.shuffle,
        "blocksize": 0,
    }
    return [{"name": "blosc", "configuration": configuration}]


@lru_cache(maxsize=1024)
def _canonical(spec: ChunkSpec) -> bytes:
    # The codecs as Zarr's document has them, so that settings that a codec ignores make no other chunk.
    document = [spec.zarr_dtype, list(spec.chunk_shape), spec.zarr_codecs(), spec.fill]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()



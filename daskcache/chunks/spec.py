"""Specifications of chunks, and the ids that follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from daskcache.config import Codecs, check_codecs
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint.digest import Digester

__all__ = [
    "ChunkSpec",
    "block_key",
    "check_storable",
    "chunk_id",
    "group_of",
    "storage_dtype",
]

DEFAULT_CODECS = Codecs()

STRING = "string"
"""The storage form of every dtype of strings: variable-length UTF-8."""

# Blosc's own limit on one buffer, less its header: larger blocks need inner chunks.
_MAX_BUFFER_BYTES = 2**31 - 1 - 16

# Of the store's format, and not of the token rules: what was stored under earlier rules can still be opened by name.
_UNSALTED = Digester(version=b"daskcache/0")

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
            check_codecs(document["codecs"]),
            None if inner is None else tuple(inner),
        )


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


def group_of(
    function: bytes, spec: ChunkSpec, shape: tuple[int, ...] = (), dtype: np.dtype[Any] | None = None
) -> str:
    """Name the group of the pool where blocks of one function and form lie, so that one LIST finds them.

    Parameters
    ----------
    function : bytes
        The digest of the task's function.
    spec : ChunkSpec
        How its blocks are encoded.
    shape, dtype : tuple of int, dtype, optional
        What its blocks are in memory. An object at an edge is padded, and times and texts are stored in forms that do not tell their
        units and lengths: who expects something else of the function than it gives does not look where that lies.

    Returns
    -------
    str
        4 hex digits.

    Examples
    --------
    >>> len(group_of(bytes(20), ChunkSpec.for_block("f4", (10,))))
    4
    """
    parts = [b"group", function, _canonical(spec)]
    if dtype is not None and (shape != spec.chunk_shape or dtype.str != spec.dtype):
        parts.append(repr((shape, dtype.str)).encode())
    return _UNSALTED.digest(*parts).hex()[:4]


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
    if hasattr(dtype, "na_object"):
        raise UncacheableError(
            f"dtype {dtype} has missing values, which UTF-8 cannot hold; replace them and convert to a plain string"
        )
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
        An empty array of the blocks' type, as dask has one.

    Raises
    ------
    UncacheableError
        The dtype has no storage form, or the blocks are no plain numpy arrays.

    Examples
    --------
    >>> check_storable("float32", np.empty(0, "float32"))
    """
    # The exact type: a subclass (masked, matrix, a unit's) carries what an array of the same values loses.
    if not (meta is None or type(meta) is np.ndarray or isinstance(meta, np.generic)):
        name = f"{type(meta).__module__}.{type(meta).__qualname__}"
        raise UncacheableError(
            f"blocks are {name}, not plain numpy arrays, which is what would come back; "
            "convert with map_blocks to numpy.ndarray first"
        )
    storage_dtype(dtype)


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

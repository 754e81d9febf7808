"""Manifests as values: variables, where their blocks lie, and the version that all of it adds up to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from daskcache.attributes import canonical_json, encode_attribute
from daskcache.chunks import ChunkSpec, Grid, plan_grid, storage_dtype
from daskcache.config import Codecs, Pool
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.manifest.forms import JSON, Calendar, dtype_text

__all__ = [
    "INLINE_LIMIT",
    "UNNAMED",
    "Kind",
    "Manifest",
    "Node",
    "StoredVariable",
    "check_paths",
    "is_array_name",
    "version_of",
]

DEFAULT_CODECS = Codecs()

INLINE_LIMIT = 64 * 1024
"""Encoded in-memory variables up to this many bytes lie in the documents themselves."""

UNNAMED = "__xarray_dataarray_variable__"
"""The path of a DataArray's values where its name is None or a coordinate's, as xarray writes it."""

Kind = Literal["dataset", "dataarray", "array", "datatree", "numpy", "table", "value"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Words = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True, slots=True, eq=False)
class StoredVariable:
    """One variable: what it is, and where its blocks lie.

    Blocks are counted in C order of the grid. Compared by identity, because it holds arrays.
    """

    path: str
    """``t2m``, or of a DataTree's node ``node/t2m``."""
    dims: tuple[str, ...]
    """Names of the dimensions."""
    dtype: np.dtype[Any]
    """In memory, byte order included; object for texts and cftime dates that were objects."""
    chunks: tuple[tuple[int, ...], ...]
    """The blocks' lengths along each dimension, as dask has them."""
    attrs: Mapping[Any, Any] = field(default_factory=dict)
    """Attributes, of the types that `daskcache.attributes` keeps."""
    encoding: Mapping[str, Any] = field(default_factory=dict)
    """What `kept_encoding` left of xarray's."""
    is_coord: bool = False
    """Whether it is a coordinate."""
    in_memory: bool = False
    """Whether it comes back as a numpy array, not as a dask array."""
    codecs: Codecs = DEFAULT_CODECS
    """How its blocks are compressed."""
    inner_shape: tuple[int, ...] | None = None
    """Inner chunks that a hint asked for; those of irregular grids follow from `chunks`."""
    index: str | None = None
    """None: as xarray makes one by itself, of a dimension's coordinate. An empty text: it has none. ``default``:
    it has one though it is no dimension's coordinate. Else the dtype of pandas that its index has."""
    calendar: Calendar | None = None
    """That of cftime dates."""
    objects: str | None = None
    """What objects other than texts and dates are stored as: a numpy dtype, or `JSON`."""
    tokens: Bytes = field(default_factory=lambda: np.empty((0, 20), "u1"))
    """Shape (blocks, 20); empty where `inline` holds the values."""
    groups: np.ndarray[Any, np.dtype[np.uint16]] = field(default_factory=lambda: np.empty(0, "<u2"))
    """The pool's group of each block, as a number."""
    sizes: Words = field(default_factory=lambda: np.empty(0, "<u8"))
    """Bytes of each block's object; 0 where it has none, or the size is not known."""
    checksums: np.ndarray[Any, np.dtype[np.uint32]] | None = None
    """What `daskcache.chunks.checksum_of` gives of each block's object; 0 where it is not known."""
    digests: Bytes | None = None
    """Shape (blocks, 16): of the objects' bytes; zeros where none is known."""
    inner: Words | None = None
    """Shape (inner chunks, 2): offset and size in bytes of each inner chunk in its block's object, block by
    block; only of irregular grids with inner chunks."""
    inline: bytes | None = None
    """The encoded only block of a small in-memory variable; none of its bytes where it has no size."""

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.chunks):
            raise InvalidInputError(
                f"variable {self.path!r} has dimensions {self.dims} and blocks along {len(self.chunks)}"
            )
        count = 0 if self.inline is not None else self.nblocks
        shapes = {
            "tokens": (self.tokens.shape, (count, 20)),
            "groups": (self.groups.shape, (count,)),
            "sizes": (self.sizes.shape, (count,)),
        }
        if self.checksums is not None:
            shapes["checksums"] = (self.checksums.shape, (count,))
        if self.digests is not None:
            shapes["digests"] = (self.digests.shape, (count, 16))
        if self.inline is not None and self.nblocks != 1:
            shapes["inline blocks"] = ((self.nblocks,), (1,))
        for what, (found, expected) in shapes.items():
            if found != expected:
                raise InvalidInputError(
                    f"variable {self.path!r} has {what} of shape {found}; expected {expected}"
                )

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def node(self) -> str:
        """The node's path; empty for the root."""
        return self.path.rpartition("/")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(sum(lengths) for lengths in self.chunks)

    @property
    def numblocks(self) -> tuple[int, ...]:
        """The number of blocks along each dimension."""
        return tuple(len(lengths) for lengths in self.chunks)

    @property
    def nblocks(self) -> int:
        """The number of blocks."""
        return math.prod(self.numblocks)

    @property
    def encoded_dtype(self) -> np.dtype[Any]:
        """What blocks are encoded from: `dtype`, but for objects that of what stands for them."""
        if self.calendar is not None:
            return np.dtype("<i8")
        if self.dtype.kind == "O":
            return np.dtype("T" if self.objects in (None, JSON) else self.objects)
        return self.dtype

    @property
    def grid(self) -> Grid:
        """How the blocks are cut into chunks; worked out anew each time."""
        return plan_grid(self.chunks, self.encoded_dtype)

    def specs(self) -> Iterator[tuple[tuple[int, ...], ChunkSpec]]:
        """Give each block's place in the grid and how it is encoded.

        Yields
        ------
        index : tuple of int
            In C order.
        spec : ChunkSpec
            One object for blocks that are cut alike, mostly.

        Examples
        --------
        >>> variable = StoredVariable("t", ("x",), np.dtype("f4"), ((3,),), inline=b"encoded")
        >>> [(index, spec.chunk_shape) for index, spec in variable.specs()]
        [((0,), (3,))]
        """
        grid, dtype = self.grid, self.encoded_dtype
        if grid.kind == "regular":
            spec = grid.spec(tuple(0 for _ in self.chunks), dtype, self.codecs, self.inner_shape)
            for index in grid.indices():
                yield index, spec
            return
        for index in grid.indices():
            yield index, grid.spec(index, dtype, self.codecs)


@dataclass(frozen=True, slots=True)
class Node:
    """What a Dataset or a node of a DataTree has besides variables."""

    attrs: Mapping[Any, Any] = field(default_factory=dict)
    """Attributes."""
    encoding: Mapping[str, Any] = field(default_factory=dict)
    """What `kept_encoding` left of xarray's."""


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """One stored version of an object."""

    kind: Kind
    """What it comes back as."""
    name: Any
    """A DataArray's or an array's name, the format of a table or value; None for others."""
    variables: tuple[StoredVariable, ...]
    """In the object's order."""
    nodes: Mapping[str, Node]
    """By path; the root's is empty and always there."""
    version: str
    """40 hex digits."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """JSON for people and tools: recipe, sources, environment, times; no secrets."""
    pool: Pool = "shared"
    """Where its blocks lie: in the store's pool, or in the own one of the namespace where it is published."""

    @classmethod
    def build(
        cls,
        kind: Kind,
        variables: tuple[StoredVariable, ...],
        *,
        name: Any = None,
        nodes: Mapping[str, Node] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Make a manifest with its version.

        Parameters
        ----------
        kind : {"dataset", "dataarray", "array", "datatree", "numpy", "table", "value"}
            What it comes back as.
        variables : tuple of StoredVariable
            In the object's order.
        name : object, optional
            A DataArray's or an array's.
        nodes : mapping of str to Node, optional
            By path.
        info : mapping, optional
            JSON for people and tools.

        Returns
        -------
        Manifest
            Complete.

        Raises
        ------
        InvalidInputError
            Paths are doubled, or cannot be those of Zarr arrays.
        UncacheableError
            An attribute has no JSON form.

        Examples
        --------
        >>> scalar = StoredVariable("t", (), np.dtype("f4"), (), inline=b"encoded")
        >>> len(Manifest.build("dataset", (scalar,)).version)
        40
        """
        nodes = {"": Node(), **(nodes or {})}
        check_paths([variable.path for variable in variables], nodes)
        for variable in variables:
            storage_dtype(variable.encoded_dtype)
        version = version_of(kind, name, variables, nodes)
        return cls(kind, name, variables, nodes, version, info or {})

    @property
    def size_bytes(self) -> int:
        """Bytes of all its objects and inline values, as far as known; an object it names twice counts twice."""
        return sum(int(var.sizes.sum()) + len(var.inline or b"") for var in self.variables)

    @property
    def nblocks(self) -> int:
        """Blocks that lie in the pool."""
        return sum(len(var.tokens) for var in self.variables)


def version_of(
    kind: Kind, name: Any, variables: tuple[StoredVariable, ...], nodes: Mapping[str, Node]
) -> str:
    """Name a version by all that it is: tokens, chunks, inline values, attributes, kind.

    Parameters
    ----------
    kind : {"dataset", "dataarray", "array", "datatree", "numpy", "table", "value"}
        What it comes back as.
    name : object
        A DataArray's or an array's.
    variables : tuple of StoredVariable
        In any order.
    nodes : mapping of str to Node
        By path, in any order.

    Returns
    -------
    str
        40 hex digits. Where blocks lie, their sizes and digests, and the order of variables and attributes
        do not count.

    Raises
    ------
    UncacheableError
        An attribute has no JSON form.

    Examples
    --------
    >>> version_of("dataset", None, (), {"": Node()}) != version_of("datatree", None, (), {"": Node()})
    True
    """
    digest = hashlib.blake2b(digest_size=20, person=b"daskcache/0")

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    described = {
        path: [encode_attribute(dict(node.attrs)), dict(node.encoding)] for path, node in nodes.items()
    }
    add(canonical_json([kind, encode_attribute(name), described]))
    for variable in sorted(variables, key=lambda variable: variable.path):
        add(canonical_json(_identity(variable)))
        add(np.ascontiguousarray(variable.tokens).reshape(-1).data)
        add(variable.inline or b"")
    return digest.hexdigest()


def _identity(variable: StoredVariable) -> list[Any]:
    grid = variable.grid
    first = tuple(0 for _ in variable.chunks)
    spec = grid.spec(first, variable.encoded_dtype, variable.codecs, variable.inner_shape)
    calendar = variable.calendar
    further = {"index": variable.index, "objects": variable.objects}
    return [
        variable.path,
        list(variable.dims),
        dtype_text(variable.dtype),
        None if calendar is None else [calendar.name, calendar.has_year_zero],
        [list(lengths) for lengths in variable.chunks],
        grid.kind,
        # With the blocks' lengths and the kind of grid it gives the specification of every block.
        spec.canonical.decode("ascii"),
        _encode(variable, "attributes", variable.attrs),
        dict(variable.encoding),
        variable.is_coord,
        variable.in_memory,
        variable.inline is not None,
        *({name: value} for name, value in further.items() if value is not None),
    ]


def _encode(variable: StoredVariable, what: str, values: Mapping[Any, Any]) -> Any:
    try:
        return encode_attribute(dict(values))
    except UncacheableError as error:
        raise error.within(f"{what} of variable {variable.path!r}") from None


def is_array_name(name: str) -> bool:
    """Tell whether a name can be that of a Zarr array.

    Parameters
    ----------
    name : str
        Of a variable, or one part of a path.

    Returns
    -------
    bool
        True where it is one part of a path, and no document's.

    Examples
    --------
    >>> is_array_name("t2m"), is_array_name("m/s")
    (True, False)
    """
    return name not in ("", ".", "..", "zarr.json") and "/" not in name and "\0" not in name


def check_paths(variables: Sequence[str], nodes: Mapping[str, Any]) -> None:
    """Refuse paths that cannot be those of Zarr arrays and groups.

    Parameters
    ----------
    variables : sequence of str
        The variables' paths.
    nodes : mapping
        By path.

    Raises
    ------
    InvalidInputError
        Two are equal, or one lies in no node or has a part that Zarr does not take.

    Examples
    --------
    >>> check_paths(["t2m", "ocean/sst"], {"": None, "ocean": None})
    """
    paths = [*variables, *(path for path in nodes if path)]
    for path in paths:
        if not all(map(is_array_name, path.split("/"))):
            raise InvalidInputError(f"the variable or node {path!r} cannot name a Zarr array; rename it")
    if len(set(paths)) < len(paths):
        raise InvalidInputError("two variables or nodes have one path")
    for path in variables:
        if path.rpartition("/")[0] not in nodes:
            raise InvalidInputError(
                f"the variable {path!r} lies in no node; rename it so that it holds no '/'"
            )

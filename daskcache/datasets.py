"""What an xarray object or dask array consists of, and how it is put together again from a store.

`outline` takes an object apart without computing anything; `assemble` makes a lazy one of a manifest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from daskcache.attributes import encode_attribute
from daskcache.chunks import ChunkSpec, Hints, check_storable, plan_grid
from daskcache.config import Codecs
from daskcache.dask_internals import lower, meta_of
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.graph import StoredBlocks, load_array, name_layer
from daskcache.manifest import (
    Calendar,
    Kind,
    Manifest,
    Node,
    StoredVariable,
    check_paths,
    from_stored,
    kept_encoding,
    stored_objects,
    to_storable,
)
from daskcache.packed import PackedBlocks, read_encoded
from daskcache.parts import Collection, Parts, join, path_of, rebuild, split
from daskcache.pool import StoredBlock

__all__ = [
    "Collection",
    "Outline",
    "OutlineVariable",
    "PackedBlocks",
    "assemble",
    "in_memory_blocks",
    "outline",
]


BlocksOf = Callable[[str, StoredVariable], Callable[[tuple[int, ...]], StoredBlock]]


@dataclass(frozen=True, slots=True, eq=False)
class OutlineVariable:
    """A variable before its blocks are known."""

    path: str
    """``t2m``, or of a DataTree's node ``node/t2m``."""
    dims: tuple[str, ...]
    """Names of the dimensions."""
    dtype: np.dtype[Any]
    """In memory."""
    chunks: tuple[tuple[int, ...], ...]
    """The blocks' lengths along each dimension."""
    attrs: Mapping[Any, Any] = field(default_factory=dict)
    """Attributes."""
    encoding: Mapping[str, Any] = field(default_factory=dict)
    """What survives of xarray's."""
    is_coord: bool = False
    """Whether it is a coordinate."""
    index: str | None = None
    """Its index, as `StoredVariable` has it."""
    calendar: Calendar | None = None
    """That of cftime dates."""
    objects: str | None = None
    """How objects are stored, as `StoredVariable` has it."""
    inner_shape: tuple[int, ...] | None = None
    """Inner chunks that hints ask for."""
    values: np.ndarray[Any, Any] | None = None
    """What is encoded of an in-memory variable; None for a dask array."""

    def stored(self, codecs: Codecs, blocks: Iterable[StoredBlock], **members: Any) -> StoredVariable:
        """Make the stored variable, now that its blocks are known.

        Parameters
        ----------
        codecs : Codecs
            How its blocks are compressed.
        blocks : iterable of StoredBlock
            In C order; none for a small in-memory variable, whose only block lies in the manifest.
        **members
            Further fields of the stored variable.

        Returns
        -------
        StoredVariable
            Complete.
        """
        blocks = list(blocks)
        tokens = np.frombuffer(b"".join(block.token for block in blocks), "u1").reshape(-1, 20)
        return StoredVariable(
            path=self.path,
            dims=self.dims,
            dtype=self.dtype,
            chunks=self.chunks,
            attrs=self.attrs,
            encoding=self.encoding,
            is_coord=self.is_coord,
            in_memory=self.values is not None,
            codecs=codecs,
            inner_shape=self.inner_shape,
            index=self.index,
            calendar=self.calendar,
            objects=self.objects,
            tokens=tokens,
            groups=np.array([int(block.group, 16) for block in blocks], "<u2"),
            sizes=np.array([block.size_bytes or 0 for block in blocks], "<u8"),
            **members,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An object taken apart: what it is, its variables, and the arrays that compute them."""

    kind: Kind
    """What it comes back as."""
    name: Any
    """A DataArray's or an array's name."""
    variables: tuple[OutlineVariable, ...]
    """In the object's order."""
    nodes: Mapping[str, Node]
    """By path."""

    def variable(self, path: str) -> OutlineVariable:
        """Give a variable by its path.

        Parameters
        ----------
        path : str
            A path in `variables`.

        Returns
        -------
        OutlineVariable
            That variable.
        """
        return next(variable for variable in self.variables if variable.path == path)


def outline(obj: Collection | Parts, hints: Hints | None = None) -> tuple[Outline, dict[str, da.Array]]:
    """Take an object apart without computing anything.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or Parts
        What is to be stored.
    hints : Hints, optional
        How the blocks of dask arrays will be read.

    Returns
    -------
    outline : Outline
        All but the blocks.
    arrays : dict of str to dask.array.Array
        What dask computes, by the path of its variable.

    Raises
    ------
    UncacheableError
        Something has no storage form; the message names the variable.
    InvalidInputError
        The object is of no kind that can be stored, or a name is not one that Zarr takes.

    Notes
    -----
    Variables that are neither numpy nor dask arrays, as `xarray.open_dataset` gives them without ``chunks``, are
    read, after all others were found to be storable.

    Examples
    --------
    >>> described, arrays = outline(xr.Dataset({"t": ("x", da.ones(4, chunks=2)), "u": 1.5}))
    >>> [variable.path for variable in described.variables], list(arrays)
    (['t', 'u'], ['t'])
    """
    if isinstance(obj, da.Array):
        # Now, because xarray makes plain arrays of masked ones.
        check_storable(obj.dtype, meta_of(obj))
    parts = split(obj)
    arrays: dict[str, da.Array] = {}
    nodes: dict[str, Node] = {}
    variables: list[OutlineVariable] = []
    found: list[tuple[str, Any, xr.Variable, xr.Dataset]] = [
        (path_of(node, name), name, variable, dataset)
        for node, dataset in parts.datasets.items()
        for name, variable in dataset.variables.items()
    ]
    for path, name, variable, dataset in found:
        with _within(f"variable {path!r}"):
            _check_variable(name, variable, dataset)
    check_paths([path for path, *_ in found], parts.datasets)
    for path, name, variable, dataset in found:
        with _within(f"variable {path!r}"):
            taken, array = _take(path, name, variable, dataset, hints)
        variables.append(taken)
        if array is not None:
            arrays[path] = array
    for node, dataset in parts.datasets.items():
        with _within(f"attributes of node {node!r}" if node else "attributes"):
            encode_attribute(dict(dataset.attrs))
        nodes[node] = Node(dict(dataset.attrs), kept_encoding(dataset.encoding))
    with _within("name"):
        encode_attribute(parts.name)
    return Outline(parts.kind, parts.name, tuple(variables), nodes), arrays


@contextlib.contextmanager
def _within(step: str) -> Iterator[None]:
    try:
        yield
    except UncacheableError as error:
        raise error.within(step) from None


def _check_variable(name: Any, variable: xr.Variable, dataset: xr.Dataset) -> None:
    """Refuse what can be seen to have no storage form without reading anything."""
    for what, given in [("variable", name), *(("dimension", dim) for dim in variable.dims)]:
        if not isinstance(given, str):
            raise InvalidInputError(
                f"the {what} {given!r} is named by a {type(given).__name__}; rename it to a str"
            )
    with _within("attributes"):
        encode_attribute(dict(variable.attrs))
    index = dataset.xindexes.get(name)
    if index is not None and type(index) is not xr.indexes.PandasIndex:
        raise UncacheableError(
            f"its index of type {type(index).__name__} has no storage form; call reset_index or drop_indexes first"
        )
    array = _dask_array(variable)
    if array is not None:
        check_storable(array.dtype, meta_of(array))
        plan_grid(array.chunks, array.dtype)
    elif not isinstance(variable.dtype, np.dtype):
        raise UncacheableError(
            f"dtype {variable.dtype} is one of pandas' own and has no storage form; "
            "convert it first, such as with astype(object), astype(str) or astype(float)"
        )


def _take(
    path: str, name: str, variable: xr.Variable, dataset: xr.Dataset, hints: Hints | None
) -> tuple[OutlineVariable, da.Array | None]:
    members: dict[str, Any] = {
        "path": path,
        "dims": variable.dims,
        "attrs": dict(variable.attrs),
        "encoding": kept_encoding(variable.encoding),
        "is_coord": name in dataset.coords,
        "index": _index_of(name, variable, dataset),
    }
    if (array := _dask_array(variable)) is not None:
        grid = plan_grid(array.chunks, array.dtype)
        members["inner_shape"] = grid.inner(hints, members["dims"], array.dtype)
        return OutlineVariable(dtype=array.dtype, chunks=array.chunks, **members), array
    values = variable.values if isinstance(variable, xr.IndexVariable) else variable.data
    if type(values) is not np.ndarray:
        # Sparse, masked, with units: what makes them more than their values would be lost.
        raise UncacheableError(
            f"its values are {type(values).__module__}.{type(values).__qualname__}, not a plain numpy array, which is "
            "what would come back; convert them first"
        )
    storable, calendar = to_storable(values)
    if storable.dtype.kind != "O":
        check_storable(storable.dtype)
    return OutlineVariable(
        dtype=values.dtype,
        chunks=_split(storable),
        calendar=calendar,
        objects=stored_objects(values.dtype, storable, calendar),
        values=storable,
        **members,
    ), None


def _dask_array(variable: xr.Variable) -> da.Array | None:
    # Looking at the data of what is not chunked would read it.
    data = variable.data if variable.chunks is not None else None
    return lower(data) if isinstance(data, da.Array) else None


def _index_of(name: str, variable: xr.Variable, dataset: xr.Dataset) -> str | None:
    """Say which index a variable has; None for the one that xarray gives it by itself."""
    index = dataset.xindexes.get(name)
    if not isinstance(index, xr.indexes.PandasIndex):
        return "" if variable.dims == (name,) and name in dataset.coords else None
    kept = str(index.index.dtype) if isinstance(index.index.dtype, pd.StringDtype) else "default"
    return None if kept == "default" and variable.dims == (name,) else kept


_BLOCK_BYTES = 128 * 2**20


def _split(values: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], ...]:
    """Cut an in-memory variable, whose blocks nobody sees, so that no block is too large for a compressor."""
    if values.nbytes <= _BLOCK_BYTES:
        return tuple((length,) for length in values.shape)
    # Of objects dask would want to know the size; the pointers' is as good as any.
    normalized: tuple[tuple[int, ...], ...] = da.core.normalize_chunks(
        "auto", values.shape, limit=_BLOCK_BYTES, dtype=np.dtype(f"V{values.dtype.itemsize}")
    )
    return normalized


def in_memory_blocks(
    variable: OutlineVariable, codecs: Codecs
) -> Iterator[tuple[np.ndarray[Any, Any], tuple[int, ...], ChunkSpec]]:
    """Cut an in-memory variable into the blocks that are stored.

    Parameters
    ----------
    variable : OutlineVariable
        With values.
    codecs : Codecs
        How blocks are compressed.

    Yields
    ------
    block : numpy.ndarray
        A view of the values.
    index : tuple of int
        Its place in the grid.
    spec : ChunkSpec
        How it is encoded.
    """
    values = variable.values
    assert values is not None
    dtype = values.dtype if values.dtype.kind != "O" else np.dtype("T")
    grid = plan_grid(variable.chunks, dtype)
    starts = [np.cumsum([0, *lengths]) for lengths in variable.chunks]
    for index in grid.indices():
        region = tuple(
            slice(int(start[i]), int(start[i + 1])) for start, i in zip(starts, index, strict=True)
        )
        # With an ellipsis, because a 0-d array of objects would give its object.
        whole: tuple[Any, ...] = (*region, ...)
        yield values[whole], index, grid.spec(index, dtype, codecs)


def assemble(manifest: Manifest, root: str, blocks: BlocksOf | None = None) -> Collection:
    """Make a lazy object of a manifest.

    Parameters
    ----------
    manifest : Manifest
        What is stored.
    root : str
        The store that holds its blocks.
    blocks : callable, optional
        Makes, of the root and a variable, what gives its blocks; by default `PackedBlocks`.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        Of the kind that was stored: dask arrays chunked like their blocks, each a load; what was in memory is read.

    Raises
    ------
    NotStoredError
        The object of an in-memory variable is gone.
    CorruptChunkError
        The object of an in-memory variable fails its checksum.
    """
    blocks = blocks or PackedBlocks
    datasets = {}
    for path, node in manifest.nodes.items():
        variables = [var for var in manifest.variables if var.node == path]
        datasets[path] = _assemble_dataset(manifest, variables, node, root, blocks)
    return join(Parts(manifest.kind, manifest.name, datasets))


def _assemble_dataset(
    manifest: Manifest, variables: list[StoredVariable], node: Node, root: str, blocks: BlocksOf
) -> xr.Dataset:
    made = {}
    indexes = {}
    for stored in variables:
        data = _values(stored, root) if stored.in_memory else _load(manifest, stored, root, blocks)
        variable = xr.Variable(stored.dims, data, dict(stored.attrs), dict(stored.encoding))
        index = _make_index(stored, variable)
        if index is not None:
            indexes[stored.name] = index
            variable = index.create_variables({stored.name: variable})[stored.name]
        made[stored.name] = variable
    return rebuild(node, made, {stored.name for stored in variables if stored.is_coord}, indexes)


def _make_index(stored: StoredVariable, variable: xr.Variable) -> xr.indexes.PandasIndex | None:
    if not stored.is_coord or stored.index == "" or (stored.index is None and stored.dims != (stored.name,)):
        return None
    if stored.index in (None, "default"):
        return xr.indexes.PandasIndex.from_variables({stored.name: variable}, options={})
    values = pd.Index(variable.values, dtype=stored.index, name=stored.name)
    return xr.indexes.PandasIndex(values, stored.dims[0], coord_dtype=variable.dtype)


def _values(variable: StoredVariable, root: str) -> np.ndarray[Any, Any]:
    values = read_encoded(variable, root)
    return from_stored(values, variable.dtype, variable.calendar, variable.objects)


def _load(manifest: Manifest, variable: StoredVariable, root: str, blocks: BlocksOf) -> da.Array:
    name = name_layer(variable.name, root, manifest.version, variable.path)
    stored = StoredBlocks(variable.numblocks, blocks(root, variable), name)
    return load_array(name, stored, variable.chunks, variable.dtype)

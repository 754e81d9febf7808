"""What an xarray object or dask array consists of, and how it is put together again from a store.

`outline` takes an object apart without computing anything; `assemble` makes a lazy one of a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from daskcache.chunks import ChunkSpec, check_storable, decode, plan_grid
from daskcache.config import Codecs
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.graph import StoredBlocks, load_array, name_layer
from daskcache.manifest import (
    UNNAMED,
    Calendar,
    Kind,
    Manifest,
    Node,
    StoredVariable,
    from_stored,
    kept_encoding,
    to_storable,
)
from daskcache.pool import StoredBlock

__all__ = ["Outline", "OutlineVariable", "assemble", "outline"]

Collection = xr.Dataset | xr.DataArray | xr.DataTree | da.Array


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
    calendar: Calendar | None = None
    """That of cftime dates."""
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
            calendar=self.calendar,
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


def outline(obj: Collection) -> tuple[Outline, dict[str, da.Array]]:
    """Take an object apart without computing anything.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        What is to be stored.

    Returns
    -------
    outline : Outline
        All but the blocks.
    arrays : dict of str to dask.array.Array
        The arrays that dask computes, by the path of their variable.

    Raises
    ------
    UncacheableError
        Something has no storage form; the message names the variable.
    InvalidInputError
        The object is of no kind that can be stored.

    Examples
    --------
    >>> described, arrays = outline(xr.Dataset({"t": ("x", da.ones(4, chunks=2)), "u": 1.5}))
    >>> [variable.path for variable in described.variables], list(arrays)
    (['t', 'u'], ['t'])
    """
    if isinstance(obj, da.Array):
        dims = tuple(f"dim_{i}" for i in range(obj.ndim))
        variable, array = _take(xr.Variable(dims, obj), UNNAMED, is_coord=False)
        assert array is not None
        return Outline("array", None, (variable,), {"": Node()}), {UNNAMED: array}
    if isinstance(obj, xr.DataArray):
        name = UNNAMED if obj.name is None or obj.name in obj.coords else str(obj.name)
        dataset = obj.to_dataset(name=name) if obj.name != name else obj.to_dataset()
        dataset.attrs = {}
        parts, arrays = _take_dataset(dataset, "")
        return Outline("dataarray", obj.name, parts, {"": Node()}), arrays
    if isinstance(obj, xr.Dataset):
        parts, arrays = _take_dataset(obj, "")
        node = Node(dict(obj.attrs), kept_encoding(obj.encoding))
        return Outline("dataset", None, parts, {"": node}), arrays
    if isinstance(obj, xr.DataTree):
        return _take_tree(obj)
    raise InvalidInputError(
        f"{type(obj).__module__}.{type(obj).__qualname__} cannot be persisted; "
        "expected a Dataset, DataArray, DataTree or dask array"
    )


def _take_tree(tree: xr.DataTree) -> tuple[Outline, dict[str, da.Array]]:
    variables: list[OutlineVariable] = []
    arrays: dict[str, da.Array] = {}
    nodes = {}
    root = tree.path
    for node in tree.subtree:
        path = node.path.removeprefix(root).strip("/")
        dataset = node.to_dataset(inherit=False)
        parts, found = _take_dataset(dataset, f"{path}/" if path else "")
        variables += parts
        arrays |= found
        nodes[path] = Node(dict(dataset.attrs), kept_encoding(dataset.encoding))
    return Outline("datatree", tree.name, tuple(variables), nodes), arrays


def _take_dataset(
    dataset: xr.Dataset, prefix: str
) -> tuple[tuple[OutlineVariable, ...], dict[str, da.Array]]:
    for name, index in dataset.xindexes.items():
        if not isinstance(index, xr.indexes.PandasIndex) or isinstance(index, xr.indexes.PandasMultiIndex):
            raise UncacheableError(
                f"coordinate {name!r} has an index of type {type(index).__name__}, which has no storage form; "
                "call reset_index or drop_indexes first"
            )
    variables = []
    arrays = {}
    for name, variable in dataset.variables.items():
        if not isinstance(name, str):
            raise InvalidInputError(
                f"the variable {name!r} is named by a {type(name).__name__}; expected a str"
            )
        taken, array = _take(variable, prefix + name, is_coord=name in dataset.coords)
        variables.append(taken)
        if array is not None:
            arrays[taken.path] = array
    return tuple(variables), arrays


def _take(variable: xr.Variable, path: str, is_coord: bool) -> tuple[OutlineVariable, da.Array | None]:
    members: dict[str, Any] = {
        "path": path,
        "dims": tuple(str(dim) for dim in variable.dims),
        "attrs": dict(variable.attrs),
        "encoding": kept_encoding(variable.encoding),
        "is_coord": is_coord,
    }
    try:
        if variable.chunks is not None:
            data = variable.data
            check_storable(data.dtype, data._meta)
            plan_grid(data.chunks, data.dtype)
            return OutlineVariable(dtype=data.dtype, chunks=data.chunks, **members), data
        values = variable.values if isinstance(variable, xr.IndexVariable) else variable.data
        if type(values) is not np.ndarray:
            # Sparse, masked, with units, of pandas: what makes them more than their values would be lost.
            check_storable(getattr(values, "dtype", object), values)
        storable, calendar = to_storable(values)
        if storable.dtype.kind != "O":
            check_storable(storable.dtype)
        return OutlineVariable(
            dtype=values.dtype, chunks=_split(storable), calendar=calendar, values=storable, **members
        ), None
    except UncacheableError as error:
        raise error.within(f"variable {path!r}") from None


_BLOCK_BYTES = 128 * 2**20


def _split(values: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], ...]:
    """Cut an in-memory variable, whose blocks nobody sees, so that no block is too large for a compressor."""
    if values.nbytes <= _BLOCK_BYTES:
        return tuple((length,) for length in values.shape)
    normalized: tuple[tuple[int, ...], ...] = da.core.normalize_chunks(
        "auto", values.shape, limit=_BLOCK_BYTES, dtype=values.dtype
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
    grid = plan_grid(variable.chunks, values.dtype if values.dtype.kind != "O" else np.dtype("T"))
    starts = [np.cumsum([0, *lengths]) for lengths in variable.chunks]
    for index in grid.indices():
        region = tuple(
            slice(int(start[i]), int(start[i + 1])) for start, i in zip(starts, index, strict=True)
        )
        dtype = np.dtype("T") if values.dtype.kind == "O" else values.dtype
        yield values[region], index, grid.spec(index, dtype, codecs)


def assemble(manifest: Manifest, root: str) -> Collection:
    """Make a lazy object of a manifest.

    Parameters
    ----------
    manifest : Manifest
        What is stored.
    root : str
        The store that holds its blocks.

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
    if manifest.kind == "array":
        return _load(manifest, manifest.variables[0], root)
    datasets = {
        path: _assemble_dataset(manifest, [var for var in manifest.variables if var.node == path], node, root)
        for path, node in manifest.nodes.items()
    }
    if manifest.kind == "datatree":
        tree = xr.DataTree.from_dict({f"/{path}": dataset for path, dataset in datasets.items()})
        tree.name = manifest.name
        return tree
    if manifest.kind == "dataset":
        return datasets[""]
    array = next(iter(datasets[""].data_vars.values()))
    array.name = manifest.name
    return array


def _assemble_dataset(
    manifest: Manifest, variables: list[StoredVariable], node: Node, root: str
) -> xr.Dataset:
    made = {}
    for stored in variables:
        data = _read(stored, root) if stored.in_memory else _load(manifest, stored, root)
        made[stored.name] = xr.Variable(stored.dims, data, dict(stored.attrs), dict(stored.encoding))
    coords = {stored.name for stored in variables if stored.is_coord}
    dataset = xr.Dataset(
        {name: variable for name, variable in made.items() if name not in coords},
        {name: variable for name, variable in made.items() if name in coords},
        dict(node.attrs),
    )
    # The constructor puts data variables first; the order of all variables is the user's.
    dataset = dataset[[name for name in made if name not in coords]]
    dataset.encoding = dict(node.encoding)
    return dataset


def _read(variable: StoredVariable, root: str) -> np.ndarray[Any, Any]:
    dtype = variable.encoded_dtype
    if variable.inline is not None:
        (_, spec), *_ = variable.specs()
        values = decode(variable.inline, spec, variable.shape, dtype)
    else:
        values = np.empty(variable.shape, dtype)
        blocks = PackedBlocks(root, variable)
        starts = [np.cumsum([0, *lengths]) for lengths in variable.chunks]
        for index in variable.grid.indices():
            region = tuple(
                slice(int(start[i]), int(start[i + 1])) for start, i in zip(starts, index, strict=True)
            )
            values[region] = np.asarray(blocks(index))
    return from_stored(values, variable.dtype, variable.calendar)


def _load(manifest: Manifest, variable: StoredVariable, root: str) -> da.Array:
    name = name_layer(variable.name, root, manifest.version, variable.path)
    blocks = StoredBlocks(variable.numblocks, PackedBlocks(root, variable), name)
    return load_array(name, blocks, variable.chunks, variable.dtype)


class PackedBlocks:
    """Gives the stored block for a tuple of block numbers, from the packed arrays of a manifest.

    Parameters
    ----------
    root : str
        The store's root.
    variable : StoredVariable
        A variable with tokens.
    """

    __slots__ = ("_grid", "_root", "_variable")

    def __init__(self, root: str, variable: StoredVariable) -> None:
        self._root = root
        self._variable = variable
        self._grid = variable.grid

    def __call__(self, index: tuple[int, ...]) -> StoredBlock:
        variable = self._variable
        number = int(np.ravel_multi_index(index, variable.numblocks)) if index else 0
        return StoredBlock(
            root=self._root,
            group=f"{variable.groups[number]:04x}",
            token=variable.tokens[number].tobytes(),
            spec=self._grid.spec(index, variable.encoded_dtype, variable.codecs, variable.inner_shape),
            shape=self._grid.block_shape(index),
            dtype=variable.dtype,
            size_bytes=int(variable.sizes[number]),
        )

    def __iter__(self) -> Iterator[StoredBlock]:
        return map(self, self._grid.indices())

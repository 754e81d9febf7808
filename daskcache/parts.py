"""xarray objects of every kind as datasets, and datasets as objects again; nothing is read."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.manifest import UNNAMED, Kind, Node, is_array_name

__all__ = ["Collection", "Parts", "join", "path_of", "rebuild", "rechunk", "split"]

Collection = xr.Dataset | xr.DataArray | xr.DataTree | da.Array | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """An object as the datasets that it consists of."""

    kind: Kind
    """What `join` makes of them."""
    name: Any
    """A DataArray's or a DataTree's name."""
    datasets: Mapping[str, xr.Dataset]
    """By the path of their node, parents first; the root's path is empty."""


def split(obj: Collection | Parts) -> Parts:
    """Give the datasets that an object consists of.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or Parts
        The object, or what it was taken apart to already. Of a DataTree's node, all that is below it, and the coordinates that it inherits.

    Returns
    -------
    Parts
        What `join` makes an object of again.

    Raises
    ------
    InvalidInputError
        The object is of another kind.

    Examples
    --------
    >>> split(xr.DataArray([1, 2], dims="x", name="a")).datasets[""].sizes["x"]
    2
    """
    if isinstance(obj, Parts):
        return obj
    if isinstance(obj, da.Array):
        dims = tuple(f"dim_{i}" for i in range(obj.ndim))
        return Parts("array", None, {"": xr.Dataset({UNNAMED: (dims, obj)})})
    if type(obj) is np.ndarray:
        dims = tuple(f"dim_{i}" for i in range(obj.ndim))
        dataset = xr.Dataset({UNNAMED: (dims, obj)})
        if dataset[UNNAMED].dtype != obj.dtype:
            raise UncacheableError(
                f"an array of {obj.dtype} would come back as one of {dataset[UNNAMED].dtype}; convert it first"
            )
        return Parts("numpy", None, {"": dataset})
    if isinstance(obj, xr.DataArray):
        # The name is kept beside: a coordinate or dimension may have it too, and it need not be one that Zarr takes.
        name = obj.name
        is_plain = isinstance(name, str) and name not in (*obj.coords, *obj.dims) and is_array_name(name)
        return Parts("dataarray", name, {"": obj.to_dataset(name=name if is_plain else UNNAMED)})
    if isinstance(obj, xr.Dataset):
        return Parts("dataset", None, {"": obj})
    if isinstance(obj, xr.DataTree):
        nodes = {
            node.path.removeprefix(obj.path).strip("/"): node.to_dataset(inherit=node is obj)
            for node in obj.subtree
        }
        return Parts("datatree", obj.name, nodes)
    raise InvalidInputError(
        f"{type(obj).__module__}.{type(obj).__qualname__} cannot be persisted; "
        "expected a Dataset, DataArray, DataTree or dask array"
    )


def path_of(node: str, name: Any) -> str:
    """Give the path of a variable.

    Parameters
    ----------
    node : str
        The path of its node; empty for the root.
    name : str
        The variable's own.

    Returns
    -------
    str
        The name, after the node and a slash where there is a node.

    Examples
    --------
    >>> path_of("", "t2m"), path_of("ocean/deep", "t2m")
    ('t2m', 'ocean/deep/t2m')
    """
    return f"{node}/{name}" if node else str(name)


def join(parts: Parts) -> Collection:
    """Make an object of the datasets that `split` gave, or of others like them.

    Parameters
    ----------
    parts : Parts
        The datasets.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        Of the kind that was split.

    Examples
    --------
    >>> join(split(xr.DataArray([1, 2], dims="x", name="x"))).name
    'x'
    """
    root = parts.datasets[""]
    if parts.kind == "dataset":
        return root
    if parts.kind in ("table", "value"):
        raise InvalidInputError(f"a {parts.kind} is no array; read it with daskcache.open")
    if parts.kind == "datatree":
        tree = xr.DataTree.from_dict({f"/{path}": dataset for path, dataset in parts.datasets.items()})
        tree.name = parts.name
        return tree
    (array,) = root.data_vars.values()
    if parts.kind in ("array", "numpy"):
        values: da.Array = array.data
        return values
    return array.rename(parts.name)


def rechunk(obj: Collection, chunks: Any) -> Collection:
    """Rechunk an object as its own ``chunk`` or ``rechunk`` does, but leave in-memory objects in memory.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The object.
    chunks : int, "auto", tuple or mapping
        Lengths of chunks.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The same values; of variables that hold texts or dates as objects, which as dask arrays could not be stored,
        those that are in memory are as they were.

    Raises
    ------
    ValueError
        `chunks` names a dimension that is not there.

    Examples
    --------
    >>> x = xr.DataArray(range(4), {"label": ("x", np.array(["a", "b", "c", "d"], "O"))}, "x")
    >>> rechunk(x, {"x": 3}).chunks, rechunk(x, {"x": 3}).label.chunks
    (((3, 1),), None)
    """
    if isinstance(obj, da.Array):
        rechunked: da.Array = obj.rechunk(chunks)
        return rechunked
    if isinstance(obj, xr.DataArray) and isinstance(chunks, tuple | list):
        chunks = dict(zip(obj.dims, chunks, strict=True))
    parts = split(obj)
    if isinstance(chunks, Mapping):
        known = {dim for dataset in parts.datasets.values() for dim in dataset.dims}
        if set(chunks) - known:
            unknown = sorted(map(repr, set(chunks) - known))
            raise InvalidInputError(
                f"chunks name {', '.join(unknown)}; expected some of {sorted(map(str, known))}"
            )
    return join(replace(parts, datasets={path: _rechunk(ds, chunks) for path, ds in parts.datasets.items()}))


def _rechunk(dataset: xr.Dataset, chunks: Any) -> xr.Dataset:
    held = {
        name: variable
        for name, variable in dataset.variables.items()
        if variable.dtype == object and variable.chunks is None and name not in dataset.xindexes
    }
    # Something of the same shape in their places, so that all of the dimensions are there.
    stand_ins = {
        name: variable.copy(deep=False, data=np.zeros(variable.shape, "?")) for name, variable in held.items()
    }
    if isinstance(chunks, Mapping):
        chunks = {dim: lengths for dim, lengths in chunks.items() if dim in dataset.dims}
    chunked = dataset.assign(stand_ins).chunk(chunks)
    variables = {name: held.get(name, chunked.variables[name]) for name in dataset.variables}
    return rebuild(dataset, variables, set(dataset.coords), dict(dataset.xindexes))


def rebuild(
    like: xr.Dataset | Node,
    variables: Mapping[Any, xr.Variable],
    coords: Set[Any],
    indexes: Mapping[Any, Any],
) -> xr.Dataset:
    """Make a dataset of variables, in their order, without reading any.

    Parameters
    ----------
    like : xarray.Dataset or Node
        Gives attributes and encoding.
    variables : mapping of str to xarray.Variable
        All of them.
    coords : set of str
        Which are coordinates.
    indexes : mapping of str to xarray.Index
        The coordinates that have an index; no others get one.

    Returns
    -------
    xarray.Dataset
        The dataset.

    Examples
    --------
    >>> rebuild(Node(), {"x": xr.Variable("x", [1, 2]), "a": xr.Variable("x", [3, 4])}, {"x"}, {}).xindexes
    Indexes:
        *empty*
    """
    coordinates = xr.Coordinates({name: var for name, var in variables.items() if name in coords}, indexes)
    data = {name: variable for name, variable in variables.items() if name not in coords}
    # The constructor puts data variables first; the order of all variables is the user's.
    dataset = xr.Dataset(data, coordinates, dict(like.attrs))[list(variables)]
    dataset.encoding = dict(like.encoding)
    return dataset

"""Selecting along labels in results of any kind."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskcache.errors import InvalidInputError

__all__ = ["align", "column_of", "kind_of", "map_datasets", "refuse", "take_rows", "to_slice"]


def kind_of(result: Any) -> str:
    """Tell what a result is, without importing what makes it.

    Parameters
    ----------
    result : object
        Any result.

    Returns
    -------
    str
        ``xarray``, ``pandas``, ``dask``, ``polars``, ``arrow``, ``none`` or ``other``.

    Examples
    --------
    >>> kind_of(xr.Dataset()), kind_of(pd.Series([1.0])), kind_of(3)
    ('xarray', 'pandas', 'other')
    """
    if result is None:
        return "none"
    if isinstance(result, xr.Dataset | xr.DataArray | xr.DataTree):
        return "xarray"
    if isinstance(result, pd.DataFrame | pd.Series):
        return "pandas"
    packages = {kind.__module__.partition(".")[0] for kind in type(result).__mro__}
    if "polars" in packages and hasattr(result, "filter"):
        return "polars"
    if "pyarrow" in packages and hasattr(result, "to_pandas"):
        return "arrow"
    if packages & {"dask", "dask_expr"} and hasattr(result, "divisions"):
        return "dask"
    return "other"


def map_datasets(obj: Any, function: Callable[[xr.Dataset], xr.Dataset]) -> Any:
    """Apply a function to each dataset that an xarray object consists of.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray or xarray.DataTree
        The object.
    function : callable
        From a dataset to a dataset with the same variables.

    Returns
    -------
    xarray.Dataset, xarray.DataArray or xarray.DataTree
        Of the same kind and name.

    Examples
    --------
    >>> map_datasets(xr.DataArray([1, 2, 3], dims="x"), lambda ds: ds.isel(x=slice(2))).values
    array([1, 2])
    """
    if isinstance(obj, xr.Dataset):
        return function(obj)
    if isinstance(obj, xr.DataArray):
        # A name of its own, because a coordinate may have the array's.
        changed = function(obj.to_dataset(name=_UNNAMED))
        return changed[_UNNAMED].rename(obj.name)
    # Nodes below have the coordinates of those above, and are cut with them.
    nodes = {
        "/" + node.path.removeprefix(obj.path).strip("/"): function(node.to_dataset(inherit=True))
        for node in obj.subtree
    }
    return xr.DataTree.from_dict(nodes, name=obj.name)


_UNNAMED = "__daskcache_unnamed__"


def align(dataset: xr.Dataset, indexers: Mapping[str, Any]) -> dict[str, slice]:
    """Widen positions to the blocks that hold them, so that no block is cut.

    Parameters
    ----------
    dataset : xarray.Dataset
        Gives the blocks.
    indexers : mapping of str to slice, int or numpy.ndarray
        Positions by dimension.

    Returns
    -------
    dict of str to slice
        Along dimensions that are chunked, at least these positions, from the edge of a block in all variables to
        another one. What is not chunked is cheap, and is kept whole.

    Examples
    --------
    >>> ds = xr.Dataset({"a": ("x", np.arange(10))}).chunk(x=4)
    >>> align(ds, {"x": slice(5, 6)})
    {'x': slice(4, 8, None)}
    """
    found: dict[str, slice] = {}
    for dim, indexer in indexers.items():
        lengths = {
            variable.chunksizes[dim]
            for variable in dataset.variables.values()
            if dim in variable.dims and variable.chunks is not None
        }
        if not lengths:
            continue
        low, high = _hull(indexer, dataset.sizes[dim])
        edges = [list(accumulate(chunks, initial=0)) for chunks in lengths]
        while True:
            wider = (
                min(at[bisect.bisect_right(at, low) - 1] for at in edges),
                max(at[bisect.bisect_left(at, high)] for at in edges),
            )
            if wider == (low, high):
                break
            low, high = wider
        found[dim] = slice(low, high)
    return found


def _hull(indexer: Any, size: int) -> tuple[int, int]:
    if isinstance(indexer, slice):
        chosen = range(size)[indexer]
        return (min(chosen), max(chosen) + 1) if chosen else (0, 0)
    numbers = np.atleast_1d(indexer) % max(size, 1)
    return (int(numbers.min()), int(numbers.max()) + 1) if numbers.size else (0, 0)


def column_of(frame: Any, name: str) -> pd.Index[Any] | None:
    """Give the labels of a table by the name of a column or of a level of its index.

    Parameters
    ----------
    frame : pandas.DataFrame, pandas.Series or pyarrow.Table
        The table.
    name : str
        The column.

    Returns
    -------
    pandas.Index or None
        None where there are none of that name.

    Examples
    --------
    >>> column_of(pd.DataFrame({"x": [1, 2]}), "x")
    Index([1, 2], dtype='int64', name='x')
    """
    labels: pd.Index[Any] | None = None
    if kind_of(frame) == "arrow":
        if name in frame.column_names:
            labels = pd.Index(frame[name].to_pandas())
    elif isinstance(frame, pd.DataFrame) and name in frame.columns:
        labels = pd.Index(frame[name])
    elif name in frame.index.names:
        labels = frame.index if frame.index.nlevels == 1 else frame.index.get_level_values(name)
    return labels


def take_rows(frame: Any, rows: Any) -> Any:
    """Select rows of a table that is in memory.

    Parameters
    ----------
    frame : pandas.DataFrame, pandas.Series or pyarrow.Table
        The table.
    rows : slice or numpy.ndarray
        Their numbers.

    Returns
    -------
    pandas.DataFrame, pandas.Series or pyarrow.Table
        Of the same kind.
    """
    if kind_of(frame) != "arrow":
        return frame.iloc[rows]
    if isinstance(rows, slice):
        return frame.slice(rows.start, rows.stop - rows.start)
    return frame.take(rows)


def refuse(result: Any, what: str) -> InvalidInputError:
    """Say that a result has no labels to select by.

    Parameters
    ----------
    result : object
        The result.
    what : str
        What was looked for.

    Returns
    -------
    InvalidInputError
        To be raised.
    """
    return InvalidInputError(
        f"a result of type {type(result).__module__}.{type(result).__qualname__} has no {what} to select by; return an "
        "xarray object or a table with it"
    )


def to_slice(found: np.ndarray[Any, Any]) -> slice | np.ndarray[Any, Any]:
    """Give positions as a slice where they are neighbours.

    Parameters
    ----------
    found : numpy.ndarray
        Positions, shape (n,).

    Returns
    -------
    slice or numpy.ndarray
        The same positions, in the same order.
    """
    if not len(found):
        return slice(0, 0)
    if (np.diff(found) == 1).all():
        return slice(int(found[0]), int(found[-1]) + 1)
    return found

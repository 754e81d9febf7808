"""Everything that daskcache uses of dask beyond its documented interface.

dask documents how graphs are made and run, not how its nodes look inside; a token needs the latter. Nothing else
in the package imports a private name of dask, and ``tests/unit/test_dask_internals.py`` says of each name here what
breaks when it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    NestedContainer,
    Set,
    Task,
    TaskRef,
    Tuple,
    _execute_subgraph,
    _identity_cast,
    convert_legacy_graph,
    convert_legacy_task,
    parse_input,
)
from dask.array.core import (
    Array,
    _pass_extra_kwargs,
    getter,
    getter_inline,
    getter_nofancy,
    load_chunk,
    load_store_chunk,
)
from dask.array.einsumfuncs import chunk_einsum
from dask.array.overlap import _trim
from dask.blockwise import (
    Blockwise,
    BlockwiseDep,
    BlockwiseDepDict,
    _get_coord_mapping,
    blockwise_token,
)
from dask.layers import ArraySliceDep

__all__ = [
    "EFFECTS",
    "GETTERS",
    "Alias",
    "ArraySliceDep",
    "Blockwise",
    "BlockwiseDep",
    "BlockwiseDepDict",
    "DataNode",
    "Dict",
    "GraphNode",
    "Key",
    "List",
    "NestedContainer",
    "Set",
    "Task",
    "TaskRef",
    "Tuple",
    "blockwise_token",
    "chunk_einsum",
    "convert_legacy_graph",
    "convert_legacy_task",
    "coordinate_maps",
    "execute_subgraph",
    "getter",
    "identity_cast",
    "meta_of",
    "parse_input",
    "pass_extra_kwargs",
    "trim_overlap",
]

Key = Any
"""A key of a graph: a str, or a tuple of a str and block numbers."""

execute_subgraph = _execute_subgraph
identity_cast = _identity_cast
pass_extra_kwargs = _pass_extra_kwargs
trim_overlap = _trim

GETTERS = (getter, getter_nofancy, getter_inline)
"""Functions that take a region of an array-like and make an array of it."""

EFFECTS = (load_store_chunk, load_chunk)
"""Functions that are run for what they do, not for what they return."""


def coordinate_maps(
    layer: Blockwise,
) -> tuple[list[list[int] | None], list[list[int] | None], tuple[Any, ...]]:
    """Tell how the block indices of a blockwise layer's inputs follow from those of its output.

    Parameters
    ----------
    layer : Blockwise
        A layer, which is not materialised by this.

    Returns
    -------
    maps : list of (list of int or None)
        Per input, for each of its dimensions, the position in ``out_coords + dummies``; None for a literal.
    axes : list of (list of int or None)
        Per input, the dimensions over which blocks are contracted.
    dummies : tuple
        What follows the output's coordinates: lists of block numbers for contracted dimensions, and a zero.
    """
    concatenate: Any = layer.concatenate
    if concatenate is True:
        from dask.array.core import concatenate_axes

        concatenate = concatenate_axes
    dims: Mapping[str, int] = layer.dims
    maps, axes, dummies = _get_coord_mapping(
        dims, layer.output_indices, layer.numblocks, layer.indices, concatenate
    )
    return maps, axes, dummies


def meta_of(array: Array) -> Any:
    """Give the empty array that stands for an array's blocks: their type and dtype.

    Parameters
    ----------
    array : dask.array.Array
        Nothing of it is computed.

    Returns
    -------
    array-like
        With as many dimensions as the array, of no size.

    Examples
    --------
    >>> import dask.array as da
    >>> meta_of(da.ones((4, 6), chunks=2))
    array([], shape=(0, 0), dtype=float64)
    """
    return array._meta

"""Everything that daskcache uses of dask beyond its documented interface.

dask documents how graphs are made and run, not how its nodes look inside; a token needs the latter. Nothing else
in the package imports a private name of dask, and ``tests/unit/test_dask_internals.py`` says of each name here what
breaks when it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array
from dask._expr import ProhibitReuse
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
    execute_graph,
    parse_input,
)
from dask.array._shuffle import _getitem
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
from dask.highlevelgraph import HighLevelGraph
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
    "as_collection",
    "blockwise_token",
    "chunk_einsum",
    "convert_legacy_graph",
    "convert_legacy_task",
    "coordinate_maps",
    "execute_graph",
    "execute_subgraph",
    "getter",
    "has_query_planning",
    "identity_cast",
    "lower",
    "meta_of",
    "parse_input",
    "pass_extra_kwargs",
    "pass_on",
    "take",
    "trim_overlap",
]

Key = Any
"""A key of a graph: a str, or a tuple of a str and block numbers."""

execute_subgraph = _execute_subgraph
identity_cast = _identity_cast
pass_on = ProhibitReuse._identity  # gives what it is given, under a key that no other graph has
pass_extra_kwargs = _pass_extra_kwargs
take = _getitem  # selects by the second of a pair
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


def has_query_planning() -> bool:
    """Tell whether dask makes expressions of arrays (``array.query-planning``), for which it calls no optimizer of ours.

    Returns
    -------
    bool
        As it was when `dask.array` was imported.

    Examples
    --------
    >>> has_query_planning()
    False
    """
    return dask.array.Array is not Array


def lower(array: Any) -> Array:
    """Give an array whose graph is written down.

    Parameters
    ----------
    array : dask.array.Array
        With query planning, an expression.

    Returns
    -------
    dask.array.core.Array
        The array itself where it has a graph; else one with the graph of the expression, which dask has not optimised.

    Examples
    --------
    >>> x = dask.array.ones(4, chunks=2)
    >>> lower(x) is x
    True
    """
    if isinstance(array, Array):
        return array
    expr = array.expr.lower_completely()
    graph = HighLevelGraph.from_collections(expr._name, dict(expr.__dask_graph__()), dependencies=())
    return Array(graph, expr._name, expr.chunks, meta=expr._meta)


def as_collection(array: Array) -> Any:
    """Give an array in the form that `dask.array` works with.

    Parameters
    ----------
    array : dask.array.core.Array
        With a graph.

    Returns
    -------
    dask.array.Array
        The array itself; with query planning, an expression of its graph.

    Examples
    --------
    >>> x = dask.array.ones(4, chunks=2)
    >>> as_collection(x) is x
    True
    """
    if not has_query_planning():
        return array
    from dask.array._array_expr._collection import from_graph
    from dask.core import flatten

    keys = list(flatten(array.__dask_keys__()))
    return from_graph(dict(array.dask), array._meta, array.chunks, keys, array.name)

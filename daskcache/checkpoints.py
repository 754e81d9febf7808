"""Marks in a graph: the blocks here are worth storing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

from daskcache.chunks import Grid, group_of, plan_grid
from daskcache.config import Settings
from daskcache.dask_internals import Blockwise, DataNode, Task, TaskRef, blockwise_token, meta_of
from daskcache.datasets import Outline, OutlineVariable
from daskcache.graph import BlockLookup, StoredBlocks, name_layer
from daskcache.pool import StoredBlock
from daskcache.writing import Writer, keep_block

__all__ = [
    "Checkpoint",
    "CheckpointLayer",
    "Targets",
    "find_checkpoints",
    "mark",
    "mark_block",
    "write_layer",
]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a mark says of the blocks that pass it."""

    outline: Outline
    """The object that the array belongs to."""
    path: str
    """The array's variable in it."""
    entry: str | None
    """The name under which the object is published when all of it is stored; None: its version."""
    settings: Settings
    """The store, namespace and codecs."""
    expires_s: float | None = None
    """Seconds after its publication when `daskcache.expire` drops it; None for never."""


class CheckpointLayer(Blockwise):
    """A layer of marks. It holds the checkpoint itself, so that no task carries it.

    Parameters
    ----------
    name : str
        The layer's name.
    array : dask.array.Array
        Whose blocks pass.
    checkpoint : Checkpoint
        What the marks say.
    """

    def __init__(self, name: str, array: da.Array, checkpoint: Checkpoint) -> None:
        indices = tuple(f".{i}" for i in range(array.ndim))
        super().__init__(
            name,
            indices,
            Task(name, mark_block, TaskRef(blockwise_token(0))),
            [(array.name, indices)],
            numblocks={array.name: array.numblocks},
        )
        self.checkpoint = checkpoint


def mark_block(block: Any) -> Any:
    """Pass a block on: the mark itself computes nothing, and the pass puts a write or a load in its place.

    Parameters
    ----------
    block : array-like
        The computed block.

    Returns
    -------
    array-like
        The same block.
    """
    return block


mark_block.__daskcache_transparent__ = True  # type: ignore[attr-defined]


def mark(array: da.Array, checkpoint: Checkpoint) -> da.Array:
    """Put a mark behind an array.

    Parameters
    ----------
    array : dask.array.Array
        Whose blocks are worth storing.
    checkpoint : Checkpoint
        Where they go.

    Returns
    -------
    dask.array.Array
        The same values, chunks and dtype.
    """
    settings = checkpoint.settings
    inner = checkpoint.outline.variable(checkpoint.path).inner_shape
    where = (settings.store, settings.namespace, checkpoint.entry, checkpoint.path, inner)
    name = name_layer("checkpoint", array.name, *map(str, where), repr(settings.codecs))
    layer = CheckpointLayer(name, array, checkpoint)
    graph = HighLevelGraph(
        {**array.dask.layers, name: layer}, {**array.dask.dependencies, name: {array.name}}
    )
    return da.Array(graph, name, array.chunks, meta=meta_of(array))


def find_checkpoints(dsk: HighLevelGraph) -> dict[str, Checkpoint]:
    """Find the marks of a graph.

    Parameters
    ----------
    dsk : HighLevelGraph
        Any graph. Marks that dask has fused or culled already are not seen: they store nothing.

    Returns
    -------
    dict of str to Checkpoint
        By the name of the layer.
    """
    return {
        layer.output: layer.checkpoint for layer in dsk.layers.values() if isinstance(layer, CheckpointLayer)
    }


@dataclass(frozen=True, slots=True)
class Targets:
    """Says where the blocks of one variable belong."""

    grid: Grid
    """The variable's blocks."""
    dtype: np.dtype[Any]
    """Their dtype in memory."""
    settings: Settings
    """The store and codecs."""
    inner_shape: tuple[int, ...] | None = None
    """Inner chunks that a hint asked for."""

    @classmethod
    def of(cls, variable: OutlineVariable, settings: Settings) -> Self:
        """Make the targets of a variable.

        Parameters
        ----------
        variable : OutlineVariable
            Gives chunks and dtype.
        settings : Settings
            The store and codecs.

        Returns
        -------
        Targets
            One for all blocks of the variable.
        """
        return cls(plan_grid(variable.chunks, variable.dtype), variable.dtype, settings, variable.inner_shape)

    def block(self, index: tuple[int, ...], token: bytes, function: bytes) -> StoredBlock:
        """Say where a block belongs.

        Parameters
        ----------
        index : tuple of int
            The block's place in the grid.
        token : bytes
            The block's token.
        function : bytes
            The digest of the function whose result it is.

        Returns
        -------
        StoredBlock
            Without a size: whether it lies there is another question.
        """
        spec = self.grid.spec(index, self.dtype, self.settings.codecs, self.inner_shape)
        shape = self.grid.block_shape(index)
        return StoredBlock(
            root=self.settings.pool_root,
            group=group_of(function, spec, shape, self.dtype),
            token=token,
            spec=spec,
            shape=shape,
            dtype=self.dtype,
        )


def write_layer(
    layer: Blockwise, targets: Mapping[tuple[int, ...], StoredBlock], writer: Writer
) -> Blockwise:
    """Turn a layer of marks into one that stores each block on its way, without making its tasks.

    Parameters
    ----------
    layer : Blockwise
        The marks.
    targets : mapping of tuple of int to StoredBlock
        Where the block of each index goes.
    writer : Writer
        The run's checks.

    Returns
    -------
    Blockwise
        Of the same name.
    """
    task = Task(
        layer.output,
        keep_block,
        TaskRef(blockwise_token(0)),
        TaskRef(blockwise_token(1)),
        DataNode(None, writer),
    )
    source: Any
    source, indices = layer.indices[0]
    blocks = StoredBlocks(
        tuple(layer.dims[i] for i in layer.output_indices), BlockLookup(targets), layer.output
    )
    return Blockwise(
        layer.output,
        layer.output_indices,
        task,
        [(source, indices), (blocks, layer.output_indices)],
        numblocks={source: layer.numblocks[source]},
        annotations=layer.annotations,
    )

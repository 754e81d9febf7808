"""Blocks that are stored because somebody computed them: their form is known only when they are there.

A graph does not say of which dtype and shape the blocks of a layer are. So a worker that has computed one stores it in
a form of its own, and what was stored is listed in a pack, by token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.highlevelgraph import HighLevelGraph

from daskcache import journal
from daskcache.catalog import Listed
from daskcache.chunks import ChunkSpec, group_of
from daskcache.config import Codecs
from daskcache.dask_internals import Alias, Blockwise, DataNode, Key, Task, TaskRef, blockwise_token
from daskcache.errors import EffectError, UncacheableError
from daskcache.fingerprint.watch import Watch
from daskcache.graph import ONLY_ELEMENT, BlockLookup, StoredBlocks
from daskcache.pool import StoredBlock
from daskcache.reports import note
from daskcache.tokens import GraphTokens, has_effect
from daskcache.writing import Writer, try_to_keep

__all__ = [
    "Form",
    "OutputPlace",
    "Pack",
    "find_outputs",
    "form_of",
    "keep_layer",
    "keep_output",
    "keep_task",
]

logger = logging.getLogger("daskcache")

Form = tuple[tuple[int, ...] | None, np.dtype[Any]]
"""A block's shape and dtype; no shape for an array without dimensions, which is no scalar."""

_FINALIZE = "finalize-"


def find_outputs(dsk: HighLevelGraph, tokens: GraphTokens, wanted: Iterable[Key]) -> set[Key]:
    """Find the blocks that a graph is computed for.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph.
    tokens : GraphTokens
        The same graph.
    wanted : iterable of Hashable
        The keys that dask asks for.

    Returns
    -------
    set of Hashable
        Keys of blocks: those that dask's finalize puts together, or those wanted. Of tasks that are run for what they
        do, and of those that only read, none: of the former what goes into them.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones(4, chunks=2) + 1
    >>> tokens = GraphTokens(x.dask, Fingerprinter())
    >>> find_outputs(x.dask, tokens, [(x.name, 0)]) == {(x.name, 0)}
    True
    """
    layers = {layer.output: layer for layer in dsk.layers.values() if isinstance(layer, Blockwise)}
    effects: dict[str, bool] = {}
    found: set[Key] = set()
    seen: set[Key] = set()
    stack = list(wanted)
    while stack:
        key = stack.pop()
        if key in seen:
            continue
        seen.add(key)
        if isinstance(key, str):
            # What dask calls the task that makes a result of blocks. Other names are those of single values.
            stack += tokens.inputs(key) if key.startswith(_FINALIZE) else ()
            continue
        if type(key) is not tuple or not key:
            continue
        name = key[0] if key[0] in layers else None
        if name is None or name not in effects:
            task = layers[name].task if name is not None else _task_of(tokens, key)
            if task is None or (isinstance(task, Alias) and task.target == key):
                continue  # a future, which stands for itself: what a cluster holds is not computed again
            is_effect = has_effect(task)
            if name is not None:
                effects[name] = is_effect
        else:
            is_effect = effects[name]
        if not is_effect:
            found.add(key)
        if is_effect or isinstance(tokens.reason(key), EffectError):
            stack += tokens.inputs(key)
    return found


def _task_of(tokens: GraphTokens, key: Key) -> Any:
    """Give what a graph holds under a key, or None."""
    try:
        return tokens.node(key)
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class OutputPlace:
    """Where the blocks of one layer go, whatever they turn out to be."""

    root: str
    """The store."""
    namespace: str
    """Where they are listed."""
    function: bytes
    """The digest of the function whose results they are."""
    codecs: Codecs
    """How they are compressed."""
    ndim: int
    """How many dimensions they have, as their keys tell."""

    def block(self, token: bytes, form: Form) -> StoredBlock:
        """Say where a block belongs, now that it is there.

        Parameters
        ----------
        token : bytes
            The block's token.
        form : tuple
            Its shape and dtype.

        Returns
        -------
        StoredBlock
            Without a size.

        Raises
        ------
        UncacheableError
            The dtype has no storage form, or the block has other dimensions than its key.
        """
        shape, dtype = form
        if len(shape or ()) != self.ndim:
            raise UncacheableError(
                f"a block of shape {shape} came where {self.ndim} dimensions were declared"
            )
        if shape is None:
            shape = ONLY_ELEMENT
        spec = ChunkSpec.for_block(dtype, tuple(max(length, 1) for length in shape), self.codecs)
        return StoredBlock(self.root, group_of(self.function, spec, shape, dtype), token, spec, shape, dtype)


def form_of(block: Any) -> Form | None:
    """Tell what a block is, if that is what would come back of it.

    Parameters
    ----------
    block : object
        What a task returned.

    Returns
    -------
    tuple or None
        Shape and dtype. None for what is no plain numpy array or scalar.

    Examples
    --------
    >>> form_of(np.float32(1)), form_of(np.array(1.0)), form_of([1])
    (((), dtype('float32')), (None, dtype('float64')), None)
    """
    if isinstance(block, np.generic) and np.asarray(block).dtype == block.dtype:
        return (), block.dtype
    if type(block) is np.ndarray:
        return block.shape if block.ndim else None, block.dtype
    return None


def keep_output(block: Any, place: OutputPlace, token: bytes, writer: Writer) -> Any:
    """Store a block on its way through a graph, in the form that it has.

    Parameters
    ----------
    block : object
        What a task returned.
    place : OutputPlace
        Where it goes.
    token : bytes
        Its token.
    writer : Writer
        The run's checks.

    Returns
    -------
    object
        The block; where another writer stored other bytes under its token before, those.
    """
    kept = _keep(block, place, token, writer)
    journal.note_done(writer.run, token)
    return kept


def _keep(block: Any, place: OutputPlace, token: bytes, writer: Writer) -> Any:
    form = form_of(block)
    if form is None:
        logger.info("a block of type %s is not stored", type(block))
        note(writer.run, computed=1, unstored=1)
        return block
    try:
        target = place.block(token, form)
        is_only = form[0] is None
        kept, receipt = try_to_keep(block.reshape(ONLY_ELEMENT) if is_only else block, target, writer)
    except UncacheableError as error:
        # Nobody asked for it.
        logger.info("a block is not stored: %s", error)
        note(writer.run, computed=1, unstored=1)
        return block
    if receipt is not None:
        journal.note_stored(writer.run, target, place.namespace, receipt.checksum or 0)
    return kept.reshape(()) if is_only else kept


keep_output.__daskcache_transparent__ = True  # type: ignore[attr-defined]


def keep_task(key: Key, task: Any, place: OutputPlace, token: bytes, writer: Writer) -> Task:
    """Make the task that also stores what a task returns.

    Parameters
    ----------
    key : Hashable
        The task's key.
    task : GraphNode or object
        The task.
    place : OutputPlace
        Where its block goes.
    token : bytes
        Its token.
    writer : Writer
        The run's checks.

    Returns
    -------
    Task
        Of the same key. The task is within it, so that there is not one more.
    """
    if isinstance(task, Alias):
        task = TaskRef(task.target)
    return Task(
        key,
        keep_output,
        task,
        DataNode(None, place),
        DataNode(None, token),
        DataNode(None, writer),
        _data_producer=getattr(task, "data_producer", False),
    )


def keep_layer(
    layer: Blockwise, place: OutputPlace, tokens: Mapping[tuple[int, ...], bytes], writer: Writer
) -> Blockwise:
    """Turn a layer into one that also stores its blocks, without making its tasks.

    Parameters
    ----------
    layer : Blockwise
        What computes the blocks.
    place : OutputPlace
        Where they go.
    tokens : mapping of tuple of int to bytes
        The token of each block.
    writer : Writer
        The run's checks.

    Returns
    -------
    Blockwise
        Of the same name.
    """
    task = Task(
        layer.output,
        keep_output,
        layer.task,
        DataNode(None, place),
        TaskRef(blockwise_token(len(layer.indices))),
        DataNode(None, writer),
        _data_producer=layer.task.data_producer,
    )
    numblocks = tuple(layer.dims[i] for i in layer.output_indices)
    return Blockwise(
        layer.output,
        layer.output_indices,
        task,
        [
            *layer.indices,
            (StoredBlocks(numblocks, BlockLookup(tokens), f"{layer.output}-tokens"), layer.output_indices),
        ],
        layer.numblocks,
        concatenate=layer.concatenate,
        new_axes=layer.new_axes,
        output_blocks=layer.output_blocks,
        annotations=layer.annotations,
        io_deps=layer.io_deps,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """What has to be listed when some blocks are there."""

    run: str
    """The run's id."""
    places: tuple[OutputPlace, ...]
    """Where each block goes."""
    tokens: bytes
    """Their tokens, 20 bytes each."""
    watch: Watch = field(default_factory=Watch)
    """What was seen of the sources."""

    def put(self, forms: Sequence[Form | None]) -> None:
        """List the blocks that were stored. A store that fails costs the list, not the result.

        Parameters
        ----------
        forms : sequence of tuple or None
            What each block turned out to be.
        """
        found: dict[journal.Spot, list[Listed]] = {}
        for number, (place, form) in enumerate(zip(self.places, forms, strict=True)):
            token = self.tokens[20 * number : 20 * number + 20]
            try:
                target = place.block(token, form) if form is not None else None
            except UncacheableError as error:
                logger.info("a block is not stored: %s", error)
                continue
            if target is not None:
                found.setdefault((place.root, place.namespace), []).append(Listed(target))
        journal.list_with(self.run, found, self.watch)

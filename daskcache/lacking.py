"""Graphs for a cluster of which some workers have no daskcache: they run as dask would run them."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from typing import Any

import tlz
from dask.highlevelgraph import HighLevelGraph

from daskcache import cluster
from daskcache.checkpoints import CheckpointLayer
from daskcache.dask_internals import Blockwise, Key, Task
from daskcache.errors import DaskcacheError, warn_once

__all__ = ["run_plainly"]


def run_plainly(
    optimize: Callable[..., Any], dsk: Any, keys: Any, lacking: Sequence[str], origin: str, **kwargs: Any
) -> Any:
    """Hand a graph to an optimizer without anything in it that needs daskcache.

    Parameters
    ----------
    optimize : callable
        The optimizer that follows the pass.
    dsk : HighLevelGraph or Mapping
        The graph that is about to run.
    keys : list or key
        The keys that are wanted.
    lacking : sequence of str
        Addresses of workers without daskcache.
    origin : str
        Names the client's process, which is warned once.
    **kwargs
        Passed on.

    Returns
    -------
    HighLevelGraph or Mapping
        Nothing in it is loaded or stored.

    Raises
    ------
    DaskcacheError
        It reads what daskcache has stored, or holds marks of which dask has made other tasks already.
    """
    names = f"{', '.join(lacking[:3])}{f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''}"
    if isinstance(dsk, HighLevelGraph):
        layers = {name: _without_marks(layer) for name, layer in dsk.layers.items()}
        dsk = HighLevelGraph(layers, dsk.dependencies)
    optimized = optimize(dsk, keys, **kwargs)
    found = next((key for key, node in dict(optimized).items() if _needs_package(node)), None)
    if found is not None:
        raise DaskcacheError(
            f"{names}: workers without daskcache, which the task {_show(found)} needs; install it there, as it is here"
        )
    warn_once(
        f"{names}: workers without daskcache, so all is computed, and nothing is loaded or stored; install it there, as "
        "it is here",
        about=f"lacking {origin} {names}",
    )
    return optimized


def _without_marks(layer: Any) -> Any:
    if not isinstance(layer, CheckpointLayer):
        return layer
    return Blockwise(
        layer.output,
        layer.output_indices,
        # Of a package that dask itself needs.
        Task(layer.output, tlz.identity, *layer.task.args),
        layer.indices,
        numblocks=layer.numblocks,
        annotations=layer.annotations,
        output_blocks=layer.output_blocks,
    )


def _needs_package(node: Any) -> bool:
    """Tell whether a process could read a task only with daskcache."""
    for opcode, argument, _ in pickletools.genops(cluster.dumps(node)):
        if "UNICODE" in opcode.name and isinstance(argument, str) and argument.split(".")[0] == __package__:
            return True
        if opcode.name == "GLOBAL" and str(argument).split(".")[0] == __package__:
            return True
    return False


def _show(key: Key) -> str:
    return str(key[0] if type(key) is tuple and key else key)

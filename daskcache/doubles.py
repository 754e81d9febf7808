"""Keys that lie in two layers of a graph, of which one must go before anything is put in its place."""

from __future__ import annotations

from collections.abc import Mapping, Set
from graphlib import TopologicalSorter
from typing import Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import Blockwise, Key

__all__ = ["find_blockwise", "without_doubles"]


def without_doubles(dsk: HighLevelGraph) -> HighLevelGraph:
    """Give a graph of which each key lies in one layer.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph; it is not changed.

    Returns
    -------
    HighLevelGraph
        `dsk` itself where no key is in two layers. Else layers that hold keys of others, as ``Array.to_delayed`` makes
        of a whole graph, give them up.

    Notes
    -----
    To dask it is all the same which of two tasks of one key is run. But what one needs is not what the other needs, and
    a load in the place of one leaves the other.
    """
    blockwise = {
        layer.output: (name, layer) for name, layer in dsk.layers.items() if isinstance(layer, Blockwise)
    }
    made: dict[Any, str] = {}
    doubtful: set[str] = set()
    gathered: set[str] = set()
    for name, layer in dsk.layers.items():
        if isinstance(layer, Blockwise):
            continue
        for root in {key[0] if type(key) is tuple and key else key for key in layer}:
            other = made.setdefault(root, name)
            if other != name or root in blockwise:
                doubtful |= {name, other}
            if root != name and (root in blockwise or root in dsk.layers):
                gathered.add(name)
    if not doubtful:
        return dsk
    place = {name: number for number, name in enumerate(_sort_layers(dsk, gathered))}
    owner: dict[Key, str] = {}
    layers: dict[str, Any] = dict(dsk.layers)
    instead: dict[str, set[str]] = {}
    for name in sorted(doubtful, key=place.__getitem__):
        kept: dict[Key, Any] = {}
        for key, task in dsk.layers[name].items():
            of_blocks = find_blockwise(blockwise, key)
            is_made_before = of_blocks is not None and place[of_blocks] < place[name]
            found = of_blocks if is_made_before else owner.setdefault(key, name)
            if found == name:
                kept[key] = task
            else:
                assert found is not None
                instead.setdefault(name, set()).add(found)
        if name in instead:
            layers[name] = MaterializedLayer(kept, annotations=dsk.layers[name].annotations)
    # All of them to a layer that comes before, so that no two layers need each other.
    dependencies = {
        name: {*deps, *instead.get(name, ()), *(other for dep in deps for other in instead.get(dep, ()))}
        for name, deps in dsk.dependencies.items()
    }
    return HighLevelGraph(layers, dependencies) if instead else dsk


def _sort_layers(dsk: HighLevelGraph, late: Set[str]) -> list[str]:
    """Sort layers so that each comes after those that it needs, and some as late as can be."""
    sorter = TopologicalSorter(dsk.dependencies)
    sorter.prepare()
    order: list[str] = []
    waiting: list[str] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        waiting += [name for name in ready if name in late]
        now = [name for name in ready if name not in late]
        if not now and waiting:
            now.append(waiting.pop())
        order += now
        sorter.done(*now)
    return order


def find_blockwise(blockwise: Mapping[str, tuple[str, Blockwise]], key: Key) -> str | None:
    """Name the blockwise layer that makes a key.

    Parameters
    ----------
    blockwise : mapping of str to tuple
        Names and layers, by the layers' outputs.
    key : Hashable
        Any key.

    Returns
    -------
    str or None
        None where none of them has such a block.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones(4, chunks=2) + 1
    >>> layers = {x.name: (x.name, x.dask.layers[x.name])}
    >>> find_blockwise(layers, (x.name, 1)) == x.name, find_blockwise(layers, (x.name, 2))
    (True, None)
    """
    if type(key) is not tuple or not key or key[0] not in blockwise:
        return None
    name, layer = blockwise[key[0]]
    numblocks = tuple(layer.dims[i] for i in layer.output_indices)
    if layer.output_blocks is not None:
        return name if key[1:] in layer.output_blocks else None
    is_there = len(key) == len(numblocks) + 1 and all(map(lambda i, n: i in range(n), key[1:], numblocks))
    return name if is_there else None

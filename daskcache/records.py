"""What a manifest says of where its data came from: names, digests and versions; no code, values or secrets."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dask.array as da
from dask.utils import funcname

from daskcache.dask_internals import Blockwise, GraphNode, NestedContainer, Task, execute_subgraph
from daskcache.errors import UncacheableError
from daskcache.tokens import GraphTokens

__all__ = ["describe_recipe"]

_DISTRIBUTIONS = ("daskcache", "dask", "distributed", "xarray", "zarr", "numpy", "numcodecs", "flox")


def describe_recipe(tokens: GraphTokens, arrays: Mapping[str, da.Array]) -> dict[str, Any]:
    """Describe how variables are computed.

    Parameters
    ----------
    tokens : GraphTokens
        The graph of all arrays, tokened.
    arrays : mapping of str to dask.array.Array
        The arrays by the path of their variable.

    Returns
    -------
    dict
        JSON: the functions of each variable with their digests, the sources that were looked at, the environment.

    Examples
    --------
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones(4, chunks=2) + 1
    >>> list(describe_recipe(GraphTokens(x.dask, Fingerprinter()), {"x": x})["recipe"]["x"])
    ['add', 'ones_like']
    """
    digests = _Digests(tokens)
    return {
        "recipe": {path: digests.of(array) for path, array in arrays.items()},
        "sources": {path: digest.hex() for path, digest in sorted(tokens.fingerprinter.sources.items())},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: found for name in _DISTRIBUTIONS if (found := _version(name))},
        },
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


class _Digests:
    """Names and digests of the functions in the layers of some graphs; each layer is looked at once."""

    def __init__(self, tokens: GraphTokens) -> None:
        self._fingerprinter = tokens.fingerprinter
        self._layers: dict[str, set[tuple[str, str]]] = {}
        # With the function itself, lest another gets its id.
        self._known: dict[int, tuple[Any, tuple[str, str] | None]] = {}

    def of(self, array: da.Array) -> dict[str, str]:
        """Give the digests of the functions that an array is computed with, by their names."""
        found: dict[str, str] = {}
        for name, digest in sorted(set().union(*map(self._layer, array.dask.layers.items()))):
            number = 1
            unique = name
            while unique in found:
                # Lambdas share a name.
                number += 1
                unique = f"{name} ({number})"
            found[unique] = digest
        return found

    def _layer(self, item: tuple[str, Any]) -> set[tuple[str, str]]:
        name, layer = item
        if name not in self._layers:
            nodes: Iterable[Any] = [layer.task] if isinstance(layer, Blockwise) else layer.values()
            pairs = map(self._function, _callables(nodes))
            self._layers[name] = {pair for pair in pairs if pair is not None}
        return self._layers[name]

    def _function(self, func: Any) -> tuple[str, str] | None:
        if id(func) not in self._known:
            try:
                pair = funcname(func), self._fingerprinter.function(func).hex()
            except UncacheableError:
                # It lies beside the variable's own blocks, which all have tokens.
                pair = None
            self._known[id(func)] = func, pair
        return self._known[id(func)][1]


def _callables(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        if type(node) is tuple and node and callable(node[0]):
            yield node[0]
        elif isinstance(node, Task):
            if node.func is execute_subgraph:
                yield from _callables(node.args[0].values())
                continue
            if not isinstance(node, NestedContainer):
                yield node.func
            inputs = (*node.args, *node.kwargs.values())
            yield from _callables(arg for arg in inputs if isinstance(arg, GraphNode))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

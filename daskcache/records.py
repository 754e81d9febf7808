"""What a manifest says of where its data came from: names, digests and versions; no code, values or secrets."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dask.array as da
from dask.utils import funcname

from daskcache.dask_internals import Blockwise, GraphNode, Task, execute_subgraph
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
    """
    return {
        "recipe": {path: _functions(tokens, array) for path, array in arrays.items()},
        "sources": {path: digest.hex() for path, digest in sorted(tokens.fingerprinter.sources.items())},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: found for name in _DISTRIBUTIONS if (found := _version(name))},
        },
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _functions(tokens: GraphTokens, array: da.Array) -> dict[str, str]:
    found: dict[str, str] = {}
    seen: set[int] = set()
    for layer in array.dask.layers.values():
        nodes: Iterable[Any] = [layer.task] if isinstance(layer, Blockwise) else layer.values()
        for func in _callables(nodes):
            if id(func) in seen:
                continue
            seen.add(id(func))
            try:
                found[funcname(func)] = tokens.fingerprinter.function(func).hex()
            except UncacheableError:
                # It lies beside the variable's own blocks, which all have tokens.
                continue
    return dict(sorted(found.items()))


def _callables(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        if type(node) is tuple and node and callable(node[0]):
            yield node[0]
        elif isinstance(node, Task) and node.func is execute_subgraph:
            yield from _callables(node.args[0].values())
        elif isinstance(node, Task):
            yield node.func
            yield from _callables(arg for arg in node.args if isinstance(arg, GraphNode))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

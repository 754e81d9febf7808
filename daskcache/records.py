"""What a manifest says of where its data came from: names, digests and versions; no code, values or secrets."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from daskcache.recipe import read_recipe
from daskcache.tokens import GraphTokens

__all__ = ["describe_recipe"]

_DISTRIBUTIONS = ("daskcache", "dask", "distributed", "xarray", "zarr", "numpy", "numcodecs", "flox")


def describe_recipe(tokens: GraphTokens, graph: HighLevelGraph, outputs: Iterable[str]) -> dict[str, Any]:
    """Describe how variables are computed.

    Parameters
    ----------
    tokens : GraphTokens
        The graph of all variables, tokened.
    graph : HighLevelGraph
        The same graph.
    outputs : iterable of str
        The layers of the variables.

    Returns
    -------
    dict
        JSON: the recipe, the sources that were looked at, the environment.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones(4, chunks=2) + 1
    >>> info = describe_recipe(GraphTokens(x.dask, Fingerprinter()), x.dask, [x.name])
    >>> [function[0] for function in info["recipe"]["functions"]]
    ['dask.array.wrap._broadcast_trick_inner', '_operator.add']
    """
    return {
        "recipe": read_recipe(tokens, graph, outputs).to_json(),
        "sources": {path: digest.hex() for path, digest in sorted(tokens.fingerprinter.sources.items())},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: found for name in _DISTRIBUTIONS if (found := _version(name))},
        },
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

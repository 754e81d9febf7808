"""Containers and dataclasses that hold arrays or tables: each of these in its own format, the rest as JSON.

All of it is one manifest: the JSON text lies in the root node, the arrays and files of what it holds each below a node
``item0``, ``item1`` and so on. So it is stored by one computation, published and dropped as one, and what is lazy stays so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from daskcache.attributes import decode_attribute, encode_attribute
from daskcache.chunks import check_storable
from daskcache.dask_internals import meta_of
from daskcache.datasets import BlocksOf, assemble
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.formats.base import Encoded, Format, add_format, find_format
from daskcache.formats.entries import PART, read_part, read_value
from daskcache.formats.frames import is_dask_frame
from daskcache.formats.plain import decode_value, encode_value
from daskcache.manifest import INLINE_LIMIT, Manifest
from daskcache.parts import Parts, rechunk, split

__all__ = ["CONTAINER", "is_container", "open_container", "split_container"]

CONTAINER = "container"
"""What manifests call the format."""

_ARRAYS = (xr.Dataset, xr.DataArray, xr.DataTree, da.Array)
_KINDS = frozenset({"dataset", "dataarray", "array", "datatree", "numpy", "table", "value"})


def is_container(manifest: Manifest) -> bool:
    """Whether a manifest is of a container that holds arrays or tables."""
    return manifest.kind == "value" and manifest.name == CONTAINER


def split_container(value: Any, chunks: Any = None) -> Parts | None:
    """Take apart a container that holds what is no JSON.

    Parameters
    ----------
    value : object
        A list, tuple, set or dict, an instance of a dataclass or a named tuple, and such within them.
    chunks : optional
        How the xarray objects in it are rechunked first; of a mapping, each by the dimensions that it has.

    Returns
    -------
    Parts or None
        Its datasets, of which `daskcache.datasets.outline` makes an outline; None where JSON alone does.

    Raises
    ------
    UncacheableError
        Something in it has no form of storage; the message leads to it.

    Examples
    --------
    >>> parts = split_container({"mean": xr.DataArray([1.0, 2.0], dims="x"), "count": 2})
    >>> list(parts.datasets)
    ['', 'item0']
    >>> split_container({"count": 2}) is None
    True
    """
    items: list[Parts] = []

    def hold(held: Any) -> Any:
        found = _split_item(held, chunks)
        if found is None:
            return None
        items.append(found)
        return len(items) - 1

    try:
        document = encode_value(value, hold)
    except RecursionError as error:
        raise UncacheableError("a value that holds itself has no JSON form") from error
    if not items:
        return None
    kinds = [[item.kind, encode_attribute(item.name)] for item in items]
    text = json.dumps({"items": kinds, "value": document}, separators=(",", ":"), allow_nan=False)
    datasets = {"": _files(Encoded((text.encode("ascii"),)))}
    for number, item in enumerate(items):
        for path, dataset in item.datasets.items():
            datasets[f"{_node(number)}/{path}".rstrip("/")] = dataset
    return Parts("value", CONTAINER, datasets)


def open_container(manifest: Manifest, root: str, blocks: BlocksOf | None = None) -> Any:
    """Give the container that a manifest is of; see `split_container`.

    Parameters
    ----------
    manifest : Manifest
        Of one.
    root : str
        The store that holds its blocks.
    blocks : callable, optional
        As of `daskcache.datasets.assemble`.

    Returns
    -------
    object
        Equal to what was stored, and lazy where that was.

    Raises
    ------
    NotStoredError
        An object is gone, or a class or format is not known to this process.
    InvalidInputError
        The manifest is malformed.

    Examples
    --------
    >>> import daskcache, dask
    >>> from daskcache.catalog import Catalog
    >>> with dask.config.set({"daskcache.store": "memory://doc-container"}):
    ...     len(daskcache.cache(lambda: [da.ones(2), "a"])())
    2
    >>> catalog = Catalog("memory://doc-container")
    >>> open_container(catalog.open(catalog.entries()[0]), "memory://doc-container")[1]
    'a'
    """
    (text,) = [variable for variable in manifest.variables if variable.path == f"{PART}0"]
    document = json.loads(read_part(text, root))
    items = []
    for number, (kind, name) in enumerate(document["items"]):
        if kind not in _KINDS:
            raise InvalidInputError(f"an item is of the kind {kind!r:.80}; expected one of {sorted(_KINDS)}")
        item = _manifest_of(manifest, number, kind, decode_attribute(name))
        is_file = kind in ("table", "value")
        items.append(read_value(item, root) if is_file else assemble(item, root, blocks))
    return decode_value(document["value"], items)


def _split_item(value: Any, chunks: Any) -> Parts | None:
    """Take apart what a container holds; None where it is for JSON."""
    if isinstance(value, _ARRAYS) and type(value) in _ARRAYS:
        if isinstance(value, da.Array):
            # Now, because xarray makes plain arrays of masked ones.
            check_storable(value.dtype, meta_of(value))
        return split(value if chunks is None else rechunk(value, _fitting(chunks, value)))
    if type(value) is np.ndarray:
        is_plain = value.dtype.kind not in "OT" and value.nbytes <= INLINE_LIMIT
        return None if is_plain else split(value)
    if is_dask_frame(value):
        raise UncacheableError(
            "a table of dask within a container has no form of storage; return it by itself, from a function of its own"
        )
    try:
        form = find_format(value)
    except UncacheableError:
        # JSON says better what is wrong with it, and where it is.
        return None
    if form.name == "json":
        return None
    encoded = form.encode(value)
    return Parts(form.kind, form.name, {"": _files(encoded)})


def _fitting(chunks: Any, value: Any) -> Any:
    if not isinstance(chunks, Mapping):
        return chunks
    known = range(value.ndim) if isinstance(value, da.Array) else _dims_of(value)
    return {dim: lengths for dim, lengths in chunks.items() if dim in known}


def _dims_of(value: Any) -> set[Any]:
    return {dim for dataset in split(value).datasets.values() for dim in dataset.dims}


def _files(encoded: Encoded) -> xr.Dataset:
    arrays = {
        f"{PART}{at}": (f"{PART}{at}_bytes", np.frombuffer(part, "u1"))
        for at, part in enumerate(encoded.parts)
    }
    return xr.Dataset(arrays, attrs=dict(encoded.attrs))


def _node(number: int) -> str:
    return f"item{number}"


def _manifest_of(manifest: Manifest, number: int, kind: Any, name: Any) -> Manifest:
    """Make the manifest of one item, as if it had been stored by itself."""
    prefix = f"{_node(number)}/"
    variables = [
        replace(variable, path=variable.path.removeprefix(prefix))
        for variable in manifest.variables
        if variable.path.startswith(prefix)
    ]
    nodes = {
        path.removeprefix(prefix) if path != prefix[:-1] else "": node
        for path, node in manifest.nodes.items()
        if f"{path}/".startswith(prefix)
    }
    if "" not in nodes:
        raise InvalidInputError(f"the manifest says nothing of item {number}")
    # Layers are called by version and path, and items may hold variables of one name.
    version = f"{manifest.version}/{number}"
    return Manifest(kind, name, tuple(variables), nodes, version, manifest.info, manifest.pool)


def _refuse(*_: Any) -> Any:
    raise InvalidInputError("containers are taken apart, and have no bytes of their own")


add_format(Format(CONTAINER, "value", lambda value: False, _refuse, _refuse, is_asked_for=True))

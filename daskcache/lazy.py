"""What stays lazy: checkpoints, and opening what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask.array as da

from daskcache.activation import active_settings
from daskcache.catalog import Catalog, check_name, time_of
from daskcache.checkpoints import Checkpoint, mark
from daskcache.chunks import Hints
from daskcache.config import Settings, parse_seconds
from daskcache.dask_internals import has_query_planning
from daskcache.datasets import outline
from daskcache.errors import InvalidInputError, warn_once
from daskcache.formats.keeping import is_kept, open_kept
from daskcache.formats.opening import open_stored
from daskcache.parts import Collection, join, path_of, rebuild, split

__all__ = ["checkpoint", "open_entry"]


def checkpoint(
    obj: Collection,
    name: str | None = None,
    *,
    namespace: str | None = None,
    store: str | None = None,
    hints: Any = None,
    expires: str | float | None = None,
) -> Any:
    """Mark an object's blocks as worth storing: they are when they are first computed.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The object.
    name : str, optional
        The name under which the object is published as soon as one run has needed all of it; by default its version.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    hints : Hints, str, tuple, mapping or list, optional
        How it will be read, such as ``"time"`` for long in time at a point: inner chunks follow from it; see
        `daskcache.Hints`.
    expires : str or float, optional
        Such as ``"30d"``, or seconds: so long after it is published `daskcache.expire` drops it; by default never.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The same values, chunks and labels, lazy.

    Raises
    ------
    UncacheableError
        Something has no storage form.
    InvalidInputError
        The name is not one, or the hints are none.

    Warns
    -----
    DaskcacheWarning
        The pass is not on: see `daskcache.activate`.

    Notes
    -----
    Costs nothing by itself: the pass puts a load or a write in the place of each mark when the graph runs. Without
    the pass a mark does nothing.

    Examples
    --------
    >>> import daskcache
    >>> x = da.arange(4, chunks=2) * 2
    >>> with daskcache.activate("memory://doc-checkpoint"):
    ...     total = checkpoint(x, "doubled").sum().compute()
    ...     daskcache.open("doubled").compute()
    array([0, 2, 4, 6])
    """
    if has_query_planning():
        raise InvalidInputError(
            "a checkpoint is stored by the pass, which dask does not call with array.query-planning; use persist, or set "
            "array.query-planning to false before dask.array is imported"
        )
    settings = Settings.from_config(store=store, namespace=namespace)
    Catalog.of(settings)
    if name is not None:
        check_name(name)
    expires_s = None if expires is None else parse_seconds(expires, "expires")
    described, arrays = outline(obj, Hints.of(hints))
    if active_settings() is None:
        warn_once(
            "a checkpoint was made, but the pass is not on, so nothing of it will be stored; call daskcache.activate() "
            "before computing",
        )
    marked = {
        path: mark(array, Checkpoint(described, path, name, settings, expires_s))
        for path, array in arrays.items()
    }
    return _replaced(obj, marked)


def _replaced(obj: Collection, arrays: Mapping[str, da.Array]) -> Collection:
    """Put other arrays in the place of an object's own, by the path of their variable."""
    parts = split(obj)
    datasets = {}
    for node, dataset in parts.datasets.items():
        variables = dict(dataset.variables)
        for name, variable in variables.items():
            data: Any = arrays.get(path_of(node, name))
            if data is not None:
                variables[name] = variable.copy(deep=False, data=data)
        datasets[node] = rebuild(dataset, variables, set(dataset.coords), dict(dataset.xindexes))
    return join(replace(parts, datasets=datasets))


def open_entry(
    name: str,
    *,
    namespace: str | None = None,
    version: str | None = None,
    store: str | None = None,
) -> Any:
    """Open what is stored under a name.

    Parameters
    ----------
    name : str
        The entry.
    namespace : str, optional
        Instead of the configured one.
    version : str, optional
        One of its versions; by default the newest published one.
    store : str, optional
        URL or path, instead of the configured one.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or object
        Of the kind that was stored, lazy, chunked like its blocks. What a cached function returned as no array is
        read: a numpy array, a table, a value.

    Raises
    ------
    EntryNotFoundError
        Nothing is published under this name.
    InvalidInputError
        The name is not one.
    NotStoredError
        This process does not know the format of what is stored.
    StoreError
        The store cannot be read.

    Notes
    -----
    Costs two requests.

    Examples
    --------
    >>> import daskcache
    >>> x = daskcache.persist(da.arange(4, chunks=2), "numbers", store="memory://doc-open")
    >>> open_entry("numbers", store="memory://doc-open").chunks
    ((2, 2),)
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    catalog = Catalog.of(settings)
    manifest = catalog.open(name, version)
    if settings.mode == "readwrite":
        catalog.note_use(name, manifest.version, time_of(manifest))
    if is_kept(manifest):
        opened = open_kept(manifest, settings, name)
        return opened.value(opened.holding.ledger)
    return open_stored(manifest, catalog.root_of(manifest))

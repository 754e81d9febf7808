"""Which sources a result was read from, small enough for a manifest, and whether they are as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.sources_base import ArrayOrigin, MemoryOrigin, Origin, survey_of
from daskcache.fingerprint.sources_zarr import ZarrOrigin
from daskcache.parts import Parts

__all__ = ["Noted", "Sources", "collecting", "find_changed", "note", "read_sources", "trace_lazy"]

Sources = dict[str, str | None]
"""By path or URL, what `FileSource.look` gave, in hex. None: it cannot be looked at by its path. Empty: the settings
say that it is not looked at."""


class Noted(NamedTuple):
    """What a cached function tells the one that calls it."""

    sources: Sources
    """What its result was read from."""
    opened: frozenset[str]
    """Where its code opens files, which need not show in the other's result any more."""


_DOCUMENTS = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs")

_COLLECTED: ContextVar[list[Noted] | None] = ContextVar("daskcache_sources", default=None)


@contextmanager
def collecting() -> Iterator[list[Noted]]:
    """Gather the sources of all that is recalled or stored within; see `note`."""
    found: list[Noted] = []
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)


def note(sources: Mapping[str, str | None], opened: frozenset[str] = frozenset()) -> None:
    """Tell the function that calls this one what this one's result was read from, and where."""
    outer = _COLLECTED.get()
    if outer is not None:
        outer.append(Noted(dict(sources), opened))


def read_sources(fingerprinter: Fingerprinter) -> Sources:
    """Describe the sources that a pass has looked at.

    Parameters
    ----------
    fingerprinter : Fingerprinter
        Of the pass.

    Returns
    -------
    dict
        Of a Zarr array its own directory, and the metadata of the groups above it.

    Notes
    -----
    One look at each file, one listing for each array of Zarr.
    """
    survey = survey_of(fingerprinter)
    found: Sources = {}
    for _, traced in survey.traced.values():
        if traced is not None and not isinstance(traced.trace.origin, MemoryOrigin):
            for path in _paths_of(traced.trace.origin, found):
                if path not in found:
                    found[path] = "" if survey.is_blind else _look(path, must_be_there=not _is_document(path))
    for file, (_, seen) in survey.files.items():
        if file.filesystem is None and not file.options:
            found[file.path] = seen.state.hex()
        else:
            found[file.name] = None
    return found


def trace_lazy(value: Any, fingerprinter: Fingerprinter) -> None:
    """Look for sources among the variables that no dask array holds, as `xarray.open_dataset` gives them.

    Parameters
    ----------
    value : object
        What a function returned.
    fingerprinter : Fingerprinter
        Remembers what it has looked at.
    """
    for variable in _variables(value):
        data: Any = xr.NamedArray.data.fget(variable)  # type: ignore[attr-defined]
        if not isinstance(data, np.ndarray | da.Array):
            fingerprinter.find_source(data)


def find_changed(sources: Mapping[str, str | None]) -> str | None:
    """Look at sources again.

    Parameters
    ----------
    sources : mapping
        What `read_sources` gave.

    Returns
    -------
    str or None
        What is not as it was, or cannot be looked at; None where all is as it was.

    Examples
    --------
    >>> find_changed({"/nowhere/at/all": FileSource("/nowhere/at/all").look().hex()})
    >>> find_changed({"/nowhere/at/all": "00"})
    '/nowhere/at/all is not as it was'
    """
    for path, state in sources.items():
        if state is None:
            return f"{path} cannot be looked at by its path alone"
        if state and _look(path) != state:
            return f"{path} is not as it was"
    return None


def _is_document(path: str) -> bool:
    return path.rpartition("/")[2] in _DOCUMENTS


def _look(path: str, *, must_be_there: bool = False) -> str | None:
    try:
        # What lies within something else, such as an archive, has no path that could be looked at.
        if must_be_there and FileSource(path).locate() is None:
            return None
        return FileSource(path).look().hex()
    except UncacheableError:
        return None


def _paths_of(origin: Origin, found: Sources) -> Iterator[str]:
    place = getattr(origin, "place", None)
    if isinstance(origin, ArrayOrigin):
        name = origin.place.name(origin.key)
    elif isinstance(origin, ZarrOrigin):
        name = origin.describe()
    else:
        found[origin.describe()] = None
        return
    if place is None or not (name.startswith("/") or "://" in name) or place.root == "memory:":
        found[name] = None
        return
    yield name
    if isinstance(origin, ZarrOrigin):
        parts = origin.array.path.split("/")
        for depth in range(len(parts)):
            above = "/".join(parts[:depth])
            for document in _DOCUMENTS:
                yield origin.place.name(f"{above}/{document}" if above else document)


def _variables(value: Any) -> Iterator[xr.Variable]:
    if isinstance(value, xr.DataArray):
        yield value.variable
        yield from (coord.variable for coord in value.coords.values())
    elif isinstance(value, xr.Dataset):
        yield from value.variables.values()
    elif isinstance(value, Parts):
        for dataset in value.datasets.values():
            yield from dataset.variables.values()
    elif isinstance(value, xr.DataTree):
        for node in value.subtree:
            yield from node.to_dataset(inherit=False).variables.values()

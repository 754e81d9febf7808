"""Results that were computed: each is stored in the form that is made for it, and published as the result of its call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.core import flatten

from daskcache.chunks import Hints
from daskcache.config import Settings
from daskcache.errors import SourceChangedError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats import Format, draft_value, find_format
from daskcache.formats.containers import split_container
from daskcache.formats.frames import draft_frame, is_dask_frame
from daskcache.functions.keys import Call
from daskcache.functions.options import Definition
from daskcache.functions.sources import Noted, Sources, read_sources, trace_lazy
from daskcache.functions.tables import is_in_parts, save_table
from daskcache.parts import Parts, rechunk, split
from daskcache.persist import store_object
from daskcache.tokens import GraphTokens
from daskcache.values import publish_values

__all__ = ["Details", "Saved", "save"]

_ARRAYS = (xr.Dataset, xr.DataArray, xr.DataTree, da.Array, np.ndarray)


@dataclass(frozen=True, slots=True, eq=False)
class Details:
    """What is known of a result besides itself."""

    inner: tuple[Noted, ...] = ()
    """What the cached functions that the function called were read from."""
    hints: Hints | None = None
    """How it will be read."""
    coverage: Sequence[Any] | None = None
    """What processors say that it holds."""
    form: Format | None = None
    """The format of the function's own serializer."""
    part: str = ""
    """Tells the call from others that put rows into the same table."""
    is_anew: bool = False
    """Whether nothing that was stored before counts any more: it was asked for anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A result that is stored now."""

    is_lazy: bool
    """Whether it is backed by the store, and not in memory."""
    sources: Sources
    """What it was read from."""


def save(result: Any, call: Call, settings: Settings, definition: Definition, details: Details) -> Saved:
    """Store the result of a call.

    Parameters
    ----------
    result : object
        What the function returned.
    call : Call
        The call.
    settings : Settings
        The store and namespace, which take writes.
    definition : Definition
        Of which the form of storage counts.
    details : Details
        What else is known.

    Returns
    -------
    Saved
        It is published.

    Raises
    ------
    UncacheableError
        It has no storage form, or it is not known what it was read from. Nothing is stored.
    SourceChangedError
        A source is not as it was. Nothing is published.
    StoreError
        The store cannot be written.
    """
    sources: Sources = {}
    lazily = Fingerprinter.from_settings(settings)
    trace_lazy(result, lazily)

    def describe(fingerprinter: Fingerprinter | None) -> dict[str, Any]:
        own = {**read_sources(lazily), **({} if fingerprinter is None else read_sources(fingerprinter))}
        for noted in details.inner:
            sources.update(noted.sources)
        sources.update(own)
        # What the functions that it called have opened is known of their results.
        if call.opens.difference(*(noted.opened for noted in details.inner)) and not own:
            raise UncacheableError(
                "its code opens files, and what it returns does not show which; return what it opened lazily, or name them "
                "with source=[…]"
            )
        if call.opens_many:
            # There may be one more of them another time. Declared, they are looked at.
            sources["files that a pattern names"] = None
        if not call.is_unchanged():
            raise SourceChangedError(f"{call.entry}: what it declares to read has changed while it ran")
        expiry = {} if definition.expires_s is None else {"expires_s": definition.expires_s}
        covered = {} if details.coverage is None else {"coverage": list(details.coverage)}
        anew = {"is_anew": True} if details.is_anew else {}
        return {"call": {**call.to_json(), "sources": sources, **covered, **anew}, **expiry}

    # That there is nothing is a value, whatever tables are kept as.
    is_nothing = result is None and definition.upsert_keys is None
    if is_in_parts(definition) and not is_nothing:
        found_in = _read_graph(result, settings) if is_dask_frame(result) else None
        is_lazy = save_table(
            result,
            call,
            settings,
            definition,
            details.part,
            lambda: (describe(found_in), sources),
            lambda draft: publish_values(lambda: draft, [call.entry], settings),
            is_anew=details.is_anew,
        )
        return Saved(is_lazy, sources)
    form = details.form or (None if is_nothing else _named_format(result, definition.format))
    if form is None and type(result) in _ARRAYS:
        if definition.chunks is not None and not isinstance(result, np.ndarray):
            result = rechunk(result, definition.chunks)
        store_object(result, call.entry, settings, describe, details.hints)
        return Saved(_is_lazy(split(result)), sources)
    if form is None and is_dask_frame(result):
        fingerprinter = _read_graph(result, settings)
        publish_values(lambda: draft_frame(result, settings, describe(fingerprinter)), [call.entry], settings)
        return Saved(True, sources)
    found = form or find_format(result)
    parts = split_container(result, definition.chunks) if form is None and found.name == "json" else None
    if parts is not None:
        trace_lazy(parts, lazily)
        store_object(parts, call.entry, settings, describe, details.hints)
        return Saved(_is_lazy(parts), sources)
    publish_values(lambda: draft_value(result, found, settings, describe(None)), [call.entry], settings)
    return Saved(False, sources)


def _named_format(result: Any, name: str | None) -> Format | None:
    """Give the format that is asked for by its name; None for the one of the result's type."""
    if name == "zarr":
        if type(result) not in _ARRAYS:
            raise UncacheableError(
                f"a value of type {type(result)} is no array, and format='zarr' is asked for"
            )
        return None
    if name == "parquet":
        if not is_dask_frame(result) and (type(result) in _ARRAYS or find_format(result).kind != "table"):
            raise UncacheableError(
                f"a value of type {type(result)} is no table, and format='parquet' is asked for"
            )
        return None
    return None if name is None else find_format(result, name)


def _read_graph(value: Any, settings: Settings) -> Fingerprinter:
    """Look at the sources of a table of dask, and refuse one that has no identity."""
    fingerprinter = Fingerprinter.from_settings(settings)
    tokens = GraphTokens(value.__dask_graph__(), fingerprinter)
    for key in flatten(value.__dask_keys__()):
        if tokens.token(key) is None:
            raise tokens.reason(key) or UncacheableError(f"{key} has no identity")
    return fingerprinter


def _is_lazy(parts: Parts) -> bool:
    """Whether something of it is not in memory. Of xarray's own lazy arrays nothing is read to find out."""
    return any(
        not isinstance(xr.NamedArray.data.fget(variable), np.ndarray)  # type: ignore[attr-defined]
        for dataset in parts.datasets.values()
        for variable in dataset.variables.values()
    )

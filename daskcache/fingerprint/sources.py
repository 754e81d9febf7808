"""Sources: arrays that lie outside of a graph, and the identity of what a task reads of them.

>>> import numpy as np, zarr
>>> from daskcache.fingerprint.objects import Fingerprinter
>>> array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="i8")
>>> before = find_source(array, Fingerprinter())
>>> first, last = before.region((slice(0, 2),)), before.region((slice(2, 4),))
>>> array[3] = 1
>>> after = find_source(array, Fingerprinter())
>>> after.region((slice(0, 2),)) == first, after.region((slice(2, 4),)) == last
(True, False)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import Stamp
from daskcache.fingerprint.registry import find_rule
from daskcache.fingerprint.sources_base import Origin, Source, Survey, Trace, Traced, survey_of, trace_whole
from daskcache.fingerprint.sources_files import trace_h5py, trace_memmap, trace_netcdf4
from daskcache.fingerprint.sources_xarray import class_name, is_wrapper, unwrap
from daskcache.fingerprint.sources_zarr import ZarrOrigin

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["Source", "Stamp", "find_source", "open_source", "read_stamps"]

_SKIPPED = (str, bytes, int, float, complex, bool, type(None), list, tuple, dict, set, frozenset, slice, type)
# What they call `array` lies in memory, and has rules of its own.
_ARRAY_LIBRARIES = ("numpy", "pandas", "pyarrow", "dask", "distributed", "xarray")
_FILE_RULES: dict[str, Callable[[Any, Survey], Origin]] = {
    "h5py._hl.dataset:Dataset": trace_h5py,
    "netCDF4._netCDF4:Variable": trace_netcdf4,
    "netCDF4:Variable": trace_netcdf4,
}


def find_source(obj: Any, fingerprinter: Fingerprinter) -> Source | None:
    """Find the source behind an object.

    Parameters
    ----------
    obj : object
        What stands in a graph as a literal: one of xarray's lazy arrays, a Zarr, h5py or netCDF4 array, a memory
        map, or anything else.
    fingerprinter : Fingerprinter
        Of this pass. The source, and what it sees of directories and objects, is remembered as long as this lives.

    Returns
    -------
    Source or None
        None where the object is no source; plain arrays in memory are none.

    Raises
    ------
    UncacheableError
        It is a lazy array of a kind that is not known, or one whose data cannot be told apart from changed ones.
    """
    if isinstance(obj, _SKIPPED):
        return None
    survey = survey_of(fingerprinter)
    entry = survey.traced.get(id(obj))
    if entry is None:
        trace = _trace(obj, survey)
        entry = survey.traced[id(obj)] = obj, None if trace is None else Traced(trace)
    traced = entry[1]
    return None if traced is None else Source(obj, traced, survey, fingerprinter)


def open_source(obj: Any) -> Source | None:
    """Find the source behind an object to look at its stamps, now and without remembering anything.

    Parameters
    ----------
    obj : object
        As for `find_source`.

    Returns
    -------
    Source or None
        A source whose `stamps` are fresh and whose `region` has no value.
    """
    survey = Survey()
    trace = _trace(obj, survey)
    return None if trace is None else Source(obj, Traced(trace), survey)


def read_stamps(source: Any, index: Any = ()) -> dict[str, Stamp | None]:
    """Look afresh at the objects that a region touches.

    Parameters
    ----------
    source : object
        A source's array, or a `Source`, whose own memory is not used.
    index : tuple
        Integers, slices, lists of integers, an ellipsis.

    Returns
    -------
    dict of str to tuple or None
        As `Source.stamps` gives them.

    Raises
    ------
    UncacheableError
        The objects cannot be looked at.

    Notes
    -----
    One look for each object; one listing instead where the objects are many and listing takes fewer requests.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="i8")
    >>> array[:2] = 7
    >>> {name: stamp is not None for name, stamp in read_stamps(array).items()}
    {'memory:/c/0': True, 'memory:/c/1': False}
    """
    fresh = open_source(source)
    if fresh is None:
        raise UncacheableError(f"{type(source).__qualname__} is no source")
    return fresh.stamps(index)


def _trace(obj: Any, survey: Survey) -> Trace | None:
    kind = type(obj)
    inner = getattr(kind, "__daskcache_source__", None)
    if inner is not None:
        return _trace(inner(obj), survey)
    if isinstance(obj, Source):
        return _trace(obj.array, survey)
    if isinstance(obj, zarr.Array):
        return trace_whole(ZarrOrigin(obj, survey))
    if isinstance(obj, np.ndarray):
        origin = trace_memmap(obj, survey) if isinstance(obj, np.memmap) else None
        return None if origin is None else trace_whole(origin)
    if is_wrapper(kind):
        return unwrap(obj, survey, lambda inner: _trace_inner(inner, kind, survey))
    rule = _FILE_RULES.get(class_name(kind))
    if rule is not None:
        return trace_whole(rule(obj, survey))
    if _looks_wrapped(obj, kind):
        raise UncacheableError(
            f"reads through {kind.__module__}.{kind.__qualname__}, which wraps an array and is not known; "
            "load it first, or give it a __daskcache_fingerprint__"
        )
    return None


def _trace_inner(obj: Any, wrapper: type, survey: Survey) -> Trace:
    trace = _trace(obj, survey)
    if trace is None:
        raise UncacheableError(
            f"reads through {wrapper.__qualname__} from {type(obj).__module__}.{type(obj).__qualname__}, "
            "which is not known; load it first"
        )
    return trace


def _looks_wrapped(obj: Any, kind: type) -> bool:
    """Say whether an object shows another array in a way of its own."""
    if kind.__module__.partition(".")[0] in _ARRAY_LIBRARIES or find_rule(kind) is not None:
        return False
    if hasattr(kind, "__daskcache_fingerprint__") or hasattr(kind, "__daskcache_region__"):
        return False
    return all(hasattr(obj, name) for name in ("__getitem__", "array", "shape", "dtype"))

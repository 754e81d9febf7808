"""What xarray wraps around its sources, unwrapped: the one module that reads xarray's private attributes.

Wrappers are known by their exact class; one that is not known is an error, because it could do anything to the
values. `RELIED_ON` lists what is read of each, and a test holds it against the installed xarray.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, override

import numpy as np

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import Place, clean_url
from daskcache.fingerprint.sources_base import ArrayOrigin, MemoryOrigin, Step, Survey, Trace, trace_whole
from daskcache.fingerprint.sources_files import find_file, find_file_object, refuse_writable

__all__ = ["RELIED_ON", "is_wrapper", "unwrap"]

RELIED_ON: dict[str, tuple[tuple[str, ...], str]] = {
    "xarray.core.indexing:ImplicitToExplicitIndexingAdapter": (
        ("array", "indexer_cls"),
        "all lazily opened arrays",
    ),
    "xarray.core.indexing:CopyOnWriteArray": (("array",), "all lazily opened arrays"),
    "xarray.core.indexing:MemoryCachedArray": (("array",), "arrays opened with cache=True"),
    "xarray.core.indexing:LazilyIndexedArray": (("array", "key"), "arrays sliced before they were chunked"),
    "xarray.core.indexing:LazilyVectorizedIndexedArray": (
        ("array", "key"),
        "arrays transposed before chunking",
    ),
    "xarray.core.indexing:NumpyIndexingAdapter": (("array",), "arrays that were loaded before chunking"),
    "xarray.core.indexing:PandasIndexingAdapter": (("array",), "coordinates with an index"),
    "xarray.core.indexing:ExplicitIndexer": (("tuple",), "what was sliced before it was chunked"),
    "xarray.coding.common:_ElementwiseFunctionArray": (
        ("array", "func", "_dtype"),
        "packed, masked, time variables",
    ),
    "xarray.coding.variables:NativeEndiannessArray": (("array",), "big-endian variables"),
    "xarray.coding.variables:BoolTypeArray": (("array",), "boolean variables in NetCDF files"),
    "xarray.coding.strings:StackedBytesArray": (("array",), "character variables"),
    "xarray.backends.zarr:ZarrArrayWrapper": (("_array", "dtype"), "Zarr sources"),
    "xarray.backends.netCDF4_:NetCDF4ArrayWrapper": (("datastore", "variable_name"), "NetCDF files, netCDF4"),
    "xarray.backends.netCDF4_:NetCDF4DataStore": (
        ("_filename", "_group", "_manager", "is_remote", "lock"),
        "NetCDF files, netCDF4",
    ),
    "xarray.backends.h5netcdf_:H5NetCDFArrayWrapper": (
        ("datastore", "variable_name"),
        "NetCDF files, h5netcdf",
    ),
    "xarray.backends.h5netcdf_:H5NetCDFStore": (
        ("_filename", "_group", "_manager", "is_remote", "lock"),
        "NetCDF files, h5netcdf",
    ),
    "xarray.backends.scipy_:ScipyArrayWrapper": (("datastore", "variable_name"), "NetCDF 3 files, scipy"),
    "xarray.backends.scipy_:ScipyDataStore": (("_manager", "lock"), "NetCDF 3 files, scipy"),
    "xarray.backends.file_manager:CachingFileManager": (
        ("_args", "_kwargs", "_cache", "_key", "_mode", "close"),
        "files opened by their path",
    ),
    "xarray.backends.file_manager:PickleableFileManager": (("_args", "_kwargs"), "files opened as objects"),
    "xarray.backends.file_manager:DummyFileManager": (("acquire",), "files that were open already"),
    "cfgrib.xarray_plugin:CfGribArrayWrapper": (("array",), "GRIB files"),
    "cfgrib.dataset:OnDiskArray": (("index", "field_id_index", "missing_value", "geo_ndim"), "GRIB files"),
    "rioxarray._io:RasterioArrayWrapper": (
        ("manager", "lock", "vrt_params", "masked", "mask_and_scale", "_unsigned_dtype", "_fill_value"),
        "GeoTIFF files",
    ),
}
"""Class to the attributes that are read of it, and what can no longer be cached when one of them moves."""

_LAZY_BASES = {
    "xarray.core.indexing:ExplicitlyIndexed",
    "xarray.core.utils:NDArrayMixin",
    "xarray.backends.common:BackendArray",
}
# Under which stamp this process last let go of a handle; a handle opened later shows that state or a newer one.
_RENEWED: dict[Any, Any] = {}
_MAX_RENEWED = 10_000

Find = Callable[[Any], Trace]


def is_wrapper(kind: type) -> bool:
    """Say whether objects of a class are lazy arrays of xarray's, known or not."""
    if "xarray" not in sys.modules:
        return False
    return class_name(kind) in _RULES or any(class_name(base) in _LAZY_BASES for base in kind.__mro__)


def class_name(kind: type) -> str:
    """Name a class by its module and qualified name."""
    return f"{kind.__module__}:{kind.__qualname__}"


def unwrap(array: Any, survey: Survey, find: Find) -> Trace:
    """Look through a wrapper, down to what is read.

    Parameters
    ----------
    array : object
        For which `is_wrapper` holds.
    survey : Survey
        What the pass has seen.
    find : callable
        Gives the trace of what lies under the wrapper.

    Returns
    -------
    Trace
        What is read, and what is done to it.

    Raises
    ------
    UncacheableError
        The wrapper, or something under it, is not known.
    """
    rule = _RULES.get(class_name(type(array)))
    if rule is None:
        raise UncacheableError(
            f"reads through {type(array).__module__}.{type(array).__qualname__}, a lazy array that is not known; "
            "load it first"
        )
    try:
        return rule(array, survey, find)
    except AttributeError as error:
        raise UncacheableError(
            f"reads through {type(array).__qualname__}, which this version of xarray has changed ({error})"
        ) from error


def _through(array: Any, survey: Survey, find: Find) -> Trace:
    return find(array.array)


def _adapter(array: Any, survey: Survey, find: Find) -> Trace:
    if array.indexer_cls.__name__ not in ("BasicIndexer", "OuterIndexer"):
        raise UncacheableError(f"reads a source with {array.indexer_cls.__name__}")
    return find(array.array)


def _lazily_indexed(array: Any, survey: Survey, find: Find) -> Trace:
    trace = find(array.array)
    return _with(trace, region=trace.region.take(array.key.tuple, trace.hidden))


def _lazily_vectorized(array: Any, survey: Survey, find: Find) -> Trace:
    trace = find(array.array)
    return _with(trace, region=trace.region.points(array.key.tuple, trace.hidden))


def _elementwise(array: Any, survey: Survey, find: Find) -> Trace:
    trace = find(array.array)
    step = Step("function", str(np.dtype(array._dtype)), array.func)
    return _with(trace, steps=(*trace.steps, step))


def _converted(array: Any, survey: Survey, find: Find) -> Trace:
    trace = find(array.array)
    return _with(trace, steps=(*trace.steps, Step(type(array).__name__, str(array.dtype))))


def _stacked(array: Any, survey: Survey, find: Find) -> Trace:
    trace = _converted(array, survey, find)
    return _with(trace, hidden=trace.hidden + 1)


def _in_memory(array: Any, survey: Survey, find: Find) -> Trace:
    return trace_whole(MemoryOrigin(np.asarray(array.array)))


def _zarr(array: Any, survey: Survey, find: Find) -> Trace:
    trace = find(array._array)
    return _with(trace, steps=(*trace.steps, Step("zarr", str(array.dtype))))


class _ManagedOrigin(ArrayOrigin):
    """An array in a file that one of xarray's file managers keeps open."""

    def __init__(
        self,
        array: Any,
        place: Place,
        kind: str,
        variable: str,
        manager: Any,
        lock: Any,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(place, "", kind, variable, array, options)
        self._manager, self._lock = manager, lock

    @override
    def refresh(self) -> None:
        """Close the cached handle unless it was opened on the file as it is now.

        A handle that stays open while its file is replaced or rewritten reads the old data.
        """
        kind = class_name(type(self._manager))
        if kind == "rioxarray._io:URIManager":
            # One handle for each thread, of which only this thread's can be closed.
            self._manager.close()
        if kind != "xarray.backends.file_manager:CachingFileManager":
            return
        stamp = self.place.look([self.key], self.key, 1)[0].stamp
        # The reads hold the same lock from taking the handle to having the data.
        with self._lock:
            if _RENEWED.get(self._manager._key) == stamp:
                return
            with warnings.catch_warnings():
                # scipy's maps cannot be closed while an array of theirs lives; the handle is let go all the same.
                warnings.simplefilter("ignore", RuntimeWarning)
                self._manager.close(needs_lock=False)
            if len(_RENEWED) >= _MAX_RENEWED:
                _RENEWED.clear()
            _RENEWED[self._manager._key] = stamp


def _trace_stored(array: Any, survey: Survey, place: Place, kind: str, options: Sequence[str] = ()) -> Trace:
    store = array.datastore
    _refuse_writable(store._manager, place, survey, type(array).__name__)
    group = (getattr(store, "_group", None) or "").strip("/")
    variable = f"{group}/{array.variable_name}".lstrip("/")
    return trace_whole(_ManagedOrigin(array, place, kind, variable, store._manager, store.lock, options))


def _refuse_writable(manager: Any, place: Place, survey: Survey, reader: str) -> None:
    """Refuse a file that was opened for writing before it was given to xarray, which itself opens them for reading."""
    if class_name(type(manager)) == "xarray.backends.file_manager:DummyFileManager":
        file = manager.acquire()
        # Of netCDF4's, which do not say, it would be an attribute in the file.
        is_netcdf4 = type(file).__module__.partition(".")[0] == "netCDF4"
        refuse_writable(place, survey, reader, None if is_netcdf4 else getattr(file, "mode", None))
    elif isinstance(mode := getattr(manager, "_mode", None), str):
        refuse_writable(place, survey, reader, mode)


def _netcdf4(array: Any, survey: Survey, find: Find) -> Trace:
    store = array.datastore
    _refuse_remote(store, "NetCDF4ArrayWrapper")
    options = getattr(store._manager, "_kwargs", {})
    if options.get("memory") is not None or options.get("diskless"):
        raise UncacheableError("NetCDF4ArrayWrapper reads a dataset in memory; open it from its file")
    place = find_file(store._filename, survey, "NetCDF4ArrayWrapper")
    return _trace_stored(array, survey, place, "xarray netcdf4")


def _h5netcdf(array: Any, survey: Survey, find: Find) -> Trace:
    store = array.datastore
    manager = store._manager
    if class_name(type(manager)).endswith(":PickleableFileManager"):
        file = manager._args[0]
        place = (
            find_file(file, survey, "H5NetCDFArrayWrapper")
            if isinstance(file, str)
            else find_file_object(file, survey, "H5NetCDFArrayWrapper")
        )
    else:
        _refuse_remote(store, "H5NetCDFArrayWrapper")
        place = find_file(store._filename, survey, "H5NetCDFArrayWrapper")
    decodes = getattr(manager, "_kwargs", {}).get("decode_vlen_strings")
    return _trace_stored(array, survey, place, "xarray h5netcdf", (f"decode_vlen_strings={decodes}",))


def _scipy(array: Any, survey: Survey, find: Find) -> Trace:
    manager = array.datastore._manager
    if class_name(type(manager)).endswith(":CachingFileManager"):
        place = find_file(manager._args[0], survey, "ScipyArrayWrapper")
    else:
        place = find_file_object(manager.acquire().fp, survey, "ScipyArrayWrapper")
    return _trace_stored(array, survey, place, "xarray scipy")


def _cfgrib(array: Any, survey: Survey, find: Find) -> Trace:
    fields = array.array
    if isinstance(fields, np.ndarray):
        return trace_whole(MemoryOrigin(fields))
    place = find_file(fields.index.fieldset.path, survey, "CfGribArrayWrapper")
    # Which messages of the file lie where in the array.
    layout = sorted((repr(position), repr(messages)) for position, messages in fields.field_id_index.items())
    options = (f"missing={fields.missing_value!r}", f"geo_ndim={fields.geo_ndim}", repr(layout))
    return trace_whole(ArrayOrigin(place, "", "cfgrib", "", array, options))


def _rasterio(array: Any, survey: Survey, find: Find) -> Trace:
    if array.vrt_params is not None:
        raise UncacheableError("RasterioArrayWrapper warps its file as it reads; open the file itself")
    opened = array.manager.acquire()
    files = [find_file(name, survey, "RasterioArrayWrapper") for name in opened.files]
    if len(files) != 1 or opened.driver == "VRT":
        raise UncacheableError(
            f"RasterioArrayWrapper reads {opened.name!r} from {len(files)} files; known is one"
        )
    names = ("masked", "mask_and_scale", "_unsigned_dtype", "_fill_value")
    options = [f"{name}={getattr(array, name)!r}" for name in names]
    options += [
        f"scales={opened.scales}",
        f"offsets={opened.offsets}",
        f"band={getattr(opened, '_bidx', None)}",
    ]
    options.append(f"overview_level={array.manager._kwargs.get('overview_level')}")
    # What is left of the name tells one image of several in a file.
    image = str(opened.name).replace(files[0].root, "")
    return trace_whole(_ManagedOrigin(array, files[0], "rasterio", image, array.manager, array.lock, options))


def _opendap(array: Any, survey: Survey, find: Find) -> Trace:
    raise UncacheableError(
        "PydapArrayWrapper reads from an OPeNDAP server, which does not say when data change"
    )


def _refuse_remote(store: Any, reader: str) -> None:
    if store.is_remote:
        raise UncacheableError(
            f"{reader} reads {clean_url(store._filename)} over the network, where changes of it would not be seen"
        )


def _with(trace: Trace, **changes: Any) -> Trace:
    fields = {name: getattr(trace, name) for name in trace.__dataclass_fields__}
    return Trace(**{**fields, **changes})


_RULES: dict[str, Callable[[Any, Survey, Find], Trace]] = {
    "xarray.core.indexing:ImplicitToExplicitIndexingAdapter": _adapter,
    "xarray.core.indexing:CopyOnWriteArray": _through,
    "xarray.core.indexing:MemoryCachedArray": _through,
    "xarray.core.indexing:LazilyIndexedArray": _lazily_indexed,
    "xarray.core.indexing:LazilyVectorizedIndexedArray": _lazily_vectorized,
    "xarray.core.indexing:NumpyIndexingAdapter": _in_memory,
    "xarray.core.indexing:PandasIndexingAdapter": _in_memory,
    "xarray.coding.common:_ElementwiseFunctionArray": _elementwise,
    "xarray.coding.variables:NativeEndiannessArray": _converted,
    "xarray.coding.variables:BoolTypeArray": _converted,
    "xarray.coding.strings:StackedBytesArray": _stacked,
    "xarray.backends.zarr:ZarrArrayWrapper": _zarr,
    "xarray.backends.netCDF4_:NetCDF4ArrayWrapper": _netcdf4,
    "xarray.backends.h5netcdf_:H5NetCDFArrayWrapper": _h5netcdf,
    "xarray.backends.scipy_:ScipyArrayWrapper": _scipy,
    "xarray.backends.pydap_:PydapArrayWrapper": _opendap,
    "cfgrib.xarray_plugin:CfGribArrayWrapper": _cfgrib,
    "rioxarray._io:RasterioArrayWrapper": _rasterio,
}

"""Arrays within files, opened without xarray: h5py, netCDF4, memory maps."""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import LocalPlace, Place, clean_url
from daskcache.fingerprint.places_remote import place_of_filesystem
from daskcache.fingerprint.sources_base import ArrayOrigin, Origin, Survey

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "find_file",
    "find_file_object",
    "refuse_writable",
    "trace_h5py",
    "trace_memmap",
    "trace_netcdf4",
]

_WRITTEN: WeakKeyDictionary[Survey, frozenset[tuple[int, int]] | None] = WeakKeyDictionary()


def find_file(path: Any, survey: Survey, reader: str) -> Place:
    """Give the place of one local file that a library has open by its path.

    Parameters
    ----------
    path : str, bytes or path-like
        What the library calls it.
    survey : Survey
        Remembers the place.
    reader : str
        Which class reads it, for the error.

    Returns
    -------
    Place
        Where it lies.

    Raises
    ------
    UncacheableError
        There is no such file: the data are in memory, remote or within something else.
    """
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else repr(path)
    if not os.path.isfile(name):
        raise UncacheableError(f"{reader} reads {clean_url(name)!r}, which is no file on this machine")
    full = os.path.abspath(name)
    return survey.place(None, ("file", full), lambda: LocalPlace(full))


def find_file_object(file: Any, survey: Survey, reader: str) -> Place:
    """Give the place of the file behind an open file object: a local file's, or one of fsspec's.

    Returns
    -------
    Place
        Where it lies.

    Raises
    ------
    UncacheableError
        The object does not say what it reads, or reads a file that has been replaced.
    """
    fs = getattr(file, "fs", None)
    if fs is not None and isinstance(getattr(file, "path", None), str):
        path: str = file.path
        return survey.place(file, ("fsspec", id(fs), path), lambda: place_of_filesystem(fs, path))
    name = getattr(file, "name", None)
    if not isinstance(name, str | bytes) or not hasattr(file, "fileno"):
        raise UncacheableError(
            f"{reader} reads a {type(file).__qualname__} without a path; open it by its path"
        )
    place = find_file(name, survey, reader)
    if not os.path.samestat(os.fstat(file.fileno()), os.stat(place.root)):
        raise UncacheableError(f"{reader} reads {place.root} as it was before it was replaced; open it anew")
    return place


def refuse_writable(place: Place, survey: Survey, reader: str, mode: object = None) -> None:
    """Raise for an array of a file that is open for writing: what was written may not be in the file yet.

    Parameters
    ----------
    place : Place
        Of the file.
    survey : Survey
        Remembers which files this process has open for writing.
    reader : str
        Which class reads it, for the error.
    mode : object, optional
        A string where the handle says how it was opened. netCDF4's do not, so that the process is asked.

    Raises
    ------
    UncacheableError
        It can be written through this handle or, where that does not say, in this process.
    """
    if isinstance(mode, str):
        is_written = mode != "r"
    else:
        if survey not in _WRITTEN:
            _WRITTEN[survey] = _find_written()
        written = _WRITTEN[survey]
        if written is None:
            raise UncacheableError(
                f"{reader} reads {place.root}, of which this system does not tell whether it is open for writing; open it "
                "with xarray"
            )
        status = os.stat(place.root)
        is_written = (status.st_dev, status.st_ino) in written
    if is_written:
        raise UncacheableError(
            f"{reader} reads {place.root}, which is open for writing, so that what was written may not be in the file "
            "yet; close it, and open it with mode='r'"
        )


def _find_written() -> frozenset[tuple[int, int]] | None:
    """Find the files that this process has open for writing, by device and inode; None where that cannot be told."""
    if fcntl is None:
        return None
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return None
    found: set[tuple[int, int]] = set()
    for name in names:
        # Another thread may have closed it since.
        with suppress(OSError):
            status = os.fstat(int(name))
            is_read = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            if stat.S_ISREG(status.st_mode) and not is_read:
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def trace_h5py(dataset: Any, survey: Survey) -> Origin:
    """Read an ``h5py.Dataset`` as an origin."""
    if dataset.is_virtual or dataset.external:
        raise UncacheableError(
            f"h5py.Dataset {dataset.name} lies in other files than the one that was opened"
        )
    place = find_file(dataset.file.filename, survey, "h5py.Dataset")
    refuse_writable(place, survey, "h5py.Dataset", dataset.file.mode)
    return ArrayOrigin(place, "", "h5py", str(dataset.name).lstrip("/"), dataset)


def trace_netcdf4(variable: Any, survey: Survey) -> Origin:
    """Read a ``netCDF4.Variable`` as an origin; what it does to the values by itself is part of it."""
    group = variable.group()
    place = find_file(group.filepath(), survey, "netCDF4.Variable")
    refuse_writable(place, survey, "netCDF4.Variable")
    switches = ("mask", "scale", "always_mask", "chartostring")
    options = [f"{name}={getattr(variable, name, None)}" for name in switches]
    return ArrayOrigin(place, "", "netCDF4", f"{group.path}/{variable.name}".lstrip("/"), variable, options)


def trace_memmap(array: np.memmap[Any, Any], survey: Survey) -> Origin | None:
    """Read a memory map as an origin, None where it is not the file's bytes that count."""
    root = _mapped_root(array)
    if root is None or root.mode != "r" or root.filename is None or array.dtype.hasobject:
        # Written pages may differ from the file; what is in memory is hashed as any array.
        return None
    # A view keeps the offset of the array that it is a view of.
    start = int(root.offset) + array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    place = find_file(root.filename, survey, "numpy.memmap")
    return ArrayOrigin(
        place, "", "memmap", "", array, (f"{start}", f"{array.strides}", repr(array.dtype.descr))
    )


def _mapped_root(array: npt.NDArray[Any]) -> np.memmap[Any, Any] | None:
    root: Any = array
    while isinstance(root, np.ndarray):
        if isinstance(root.base, mmap.mmap):
            return root if isinstance(root, np.memmap) else None
        root = root.base
    return None

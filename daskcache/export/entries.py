"""One entry as a file or store of its own."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, get_args

import dask
import dask.array as da
import xarray as xr
from dask.system import CPU_COUNT

from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.datasets import assemble
from daskcache.errors import InvalidInputError, MissingExtraError
from daskcache.export.copy import copy_chunks
from daskcache.manifest import UNNAMED, Manifest, to_kerchunk
from daskcache.stores.remote import PROBE

__all__ = ["FORMATS", "export"]

Format = Literal["zarr", "zarr2", "netcdf", "kerchunk", "icechunk"]

FORMATS: tuple[str, ...] = get_args(Format)
"""What `export` writes."""

_ENDINGS: dict[str, Format] = {
    ".zarr": "zarr",
    ".nc": "netcdf",
    ".nc4": "netcdf",
    ".json": "kerchunk",
    ".icechunk": "icechunk",
}


def export(
    entry: str,
    target: str | os.PathLike[str],
    *,
    format: Format | None = None,  # noqa: A002 (what xarray calls it)
    version: str | None = None,
    namespace: str | None = None,
    store: str | None = None,
) -> str:
    """Write an entry as a file or store of its own, for readers that know nothing of daskcache.

    Parameters
    ----------
    entry : str
        The name.
    target : str or path
        Where nothing is yet. Also a URL for ``zarr`` and ``zarr2``, which the configured storage options open.
    format : {"zarr", "zarr2", "netcdf", "kerchunk", "icechunk"}, optional
        A Zarr store of version 3 or 2, a NetCDF-4 file, a kerchunk reference set or an Icechunk repository; these two
        refer to the objects of the pool and copy none. By default as the target's name ends: ``.zarr``, ``.nc``,
        ``.json``, ``.icechunk``.
    version : str, optional
        One of its versions, or as many of its first digits as tell it from others; by default the newest.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.

    Returns
    -------
    str
        The target.

    Raises
    ------
    InvalidInputError
        Something is at the target already, the format is not known, or cannot hold the entry.
    EntryNotFoundError
        There is no such entry or version.
    NotStoredError, CorruptChunkError
        A block is missing or damaged; nothing is left at the target's name.
    MissingExtraError
        The format needs a package that is not installed.
    StoreError
        The store cannot be read, or the target not written.

    Notes
    -----
    Blocks are streamed, some at a time. A local target appears whole or not at all; in a bucket the metadata of a Zarr
    3 store come last. Zarr 3 is a copy of the pool's objects as they are, without decoding any: a block's chunks stay
    its chunks. For Zarr 2 and NetCDF they are decoded and written by xarray. Beyond 200,000 blocks Icechunk is the form
    that plain readers open quickly.

    Examples
    --------
    >>> import dask.array as da, daskcache, tempfile
    >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
    >>> kept = daskcache.persist(ds, "numbers", store="memory://doc-export")
    >>> path = daskcache.export("numbers", tempfile.mkdtemp() + "/numbers.zarr", store="memory://doc-export")
    >>> xr.open_zarr(path).t.values
    array([0, 1, 2, 3])
    """
    target = os.fspath(target)
    chosen = format or _ENDINGS.get(os.path.splitext(target.rstrip("/"))[1])
    if chosen not in FORMATS:
        raise InvalidInputError(
            f"the format of {target!r} is {format!r}; expected one of {', '.join(FORMATS)}, or a target that ends "
            f"with one of {', '.join(_ENDINGS)}"
        )
    settings = Settings.from_config(store=store, namespace=namespace)
    catalog = Catalog.of(settings)
    manifest = catalog.open(entry, version)
    root = catalog.root_of(manifest)
    if "://" in target and not target.startswith("file://"):
        if chosen not in ("zarr", "zarr2"):
            raise InvalidInputError(
                f"{chosen} is written to local paths only, and the target is {stores.describe(target)}; write it to a "
                "path and copy it, or choose zarr or zarr2"
            )
        remote = stores.open(Settings.from_config(store=target, namespace=namespace).store)
        if stores.list_dirs(remote, "c") or _is_there(remote):
            raise _in_the_way(target)
        (copy_chunks if chosen == "zarr" else _write_zarr2)(manifest, root, remote)
        # Readers of Zarr take it for a part of the store that is broken.
        stores.delete(remote, PROBE)
        return target
    path = os.path.abspath(os.path.expanduser(target))
    if os.path.lexists(path):
        raise _in_the_way(path)
    writers: dict[str, Callable[[str], None]] = {
        "zarr": lambda temporary: copy_chunks(manifest, root, stores.open(temporary)),
        "zarr2": lambda temporary: _write_zarr2(manifest, root, temporary),
        "netcdf": lambda temporary: _write_netcdf(manifest, root, temporary),
        "kerchunk": lambda temporary: _write_file(temporary, to_kerchunk(manifest, root)),
        "icechunk": lambda temporary: _write_icechunk(manifest, root, temporary),
    }
    with _appearing(path) as temporary:
        writers[chosen](temporary)
    return path


def _is_there(store: Any) -> bool:
    return any(stores.exists(store, name) for name in ("zarr.json", ".zgroup", ".zarray"))


def _in_the_way(target: str) -> InvalidInputError:
    return InvalidInputError(
        f"something is at {stores.describe(target)} already; remove it, or name another target"
    )


@contextmanager
def _appearing(path: str) -> Iterator[str]:
    """Give a name beside a path, from which what was written there is moved to it once it is whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        yield temporary
        if os.path.lexists(path):
            raise _in_the_way(path)
        os.rename(temporary, path)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary)
        elif os.path.lexists(temporary):
            os.unlink(temporary)


def _write_file(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


@contextmanager
def _computing_here() -> Iterator[None]:
    """Compute in threads that have ended afterwards: dask leaves some at work where another fails, and clusters do."""
    with ThreadPoolExecutor(CPU_COUNT) as pool, dask.config.set(scheduler="threads", pool=pool):
        yield


def _write_zarr2(manifest: Manifest, root: str, target: Any) -> None:
    with _computing_here():
        _regular(_as_xarray(manifest, root)).to_zarr(target, zarr_format=2, consolidated=True)


def _write_netcdf(manifest: Manifest, root: str, path: str) -> None:
    try:
        import h5netcdf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "NetCDF needs a package that is not installed; install daskcache[netcdf]"
        ) from error
    with _computing_here():
        _as_xarray(manifest, root).to_netcdf(path, engine="h5netcdf")


def _write_icechunk(manifest: Manifest, root: str, path: str) -> None:
    from daskcache.export.virtual import commit_references

    commit_references(manifest, root, path)


def _as_xarray(manifest: Manifest, root: str) -> Any:
    """Give an entry as something that xarray writes."""
    opened = assemble(manifest, root)
    if isinstance(opened, da.Array):
        dims = tuple(f"dim_{i}" for i in range(opened.ndim))
        return xr.Dataset({UNNAMED: (dims, opened)})
    if isinstance(opened, xr.DataArray):
        name = opened.name
        return opened.to_dataset(
            name=name if isinstance(name, str) and name not in opened.coords else UNNAMED
        )
    return opened


def _regular(obj: Any) -> Any:
    """Give blocks of one length along each dimension, which Zarr 2 needs; the last may be shorter."""
    if isinstance(obj, xr.DataTree):
        return obj.map_over_datasets(_regular)
    return obj.assign(
        {
            name: variable.chunk(
                dict(zip(variable.dims, map(max, variable.chunks), strict=True))
            ).drop_encoding()
            for name, variable in obj.variables.items()
            if variable.chunks is not None and variable.size
        }
    )

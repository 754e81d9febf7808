"""Sources of every kind, each in parts: a part is a chunk of a store, or a file of several."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from dask.core import flatten

from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens

LENGTH = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to store values and to open them again."""

    write: Callable[[Path, int, float], None]
    """Write a part of a number, with an offset to its values; parts come one after the other, or again."""
    open: Callable[[Path, int], Any]
    """Open so many parts, as a collection of dask's."""
    libraries: tuple[str, ...] = ()
    """What has to be installed."""
    file: str = "{}.nc"
    """The file of a part, to be rewritten in place; empty where a part is no file of its own."""


KINDS: dict[str, Kind] = {}

_opened: list[Any] = []


def _keep(opened: Any) -> Any:
    """Remember to close it: two libraries of HDF5 in one process want that before it ends."""
    _opened.append(opened)
    return opened


def values(part: int, offset: float) -> np.ndarray:
    return np.arange(LENGTH, dtype="f8") + 10 * part + offset


def dataset(part: int, offset: float) -> xr.Dataset:
    start = part * LENGTH
    return xr.Dataset({"v": ("x", values(part, offset))}, coords={"x": np.arange(start, start + LENGTH)})


def _zarr(group: str = "", **options: Any) -> Callable[[Path, int, float], None]:
    def write(root: Path, part: int, offset: float) -> None:
        path = root / "source.zarr"
        has_part = path.exists() and zarr.open_group(path, mode="r")[f"{group}/v"].shape[0] > part * LENGTH
        if has_part:
            zarr.open_group(path, mode="r+")[f"{group}/v"][part * LENGTH : (part + 1) * LENGTH] = values(
                part, offset
            )
            return
        how: dict[str, Any] = {"append_dim": "x"} if part else dict(options)
        if part:
            how |= {key: value for key, value in options.items() if key in ("zarr_format", "consolidated")}
        elif "encoding" not in how:
            how["encoding"] = {"v": {"compressors": None}}
        dataset(part, offset).chunk(x=LENGTH).to_zarr(path, group=group or None, **how)

    return write


def _open_zarr(consolidated: bool, group: str = "") -> Callable[[Path, int], Any]:
    return lambda root, count: (
        xr.open_zarr(
            root / "source.zarr", group=group or None, chunks={"x": LENGTH}, consolidated=consolidated
        ).v.data
    )


SHARDS = {"v": {"chunks": (2,), "shards": (LENGTH,), "compressors": None}}
KINDS |= {
    "zarr 2": Kind(_zarr(zarr_format=2, consolidated=True), _open_zarr(True), file="source.zarr/v/{}"),
    "zarr 2, not consolidated": Kind(
        _zarr(zarr_format=2, consolidated=False), _open_zarr(False), file="source.zarr/v/{}"
    ),
    "zarr 3": Kind(_zarr(zarr_format=3, consolidated=False), _open_zarr(False), file="source.zarr/v/c/{}"),
    "zarr 3, sharded": Kind(
        _zarr(zarr_format=3, consolidated=False, encoding=SHARDS), _open_zarr(False), file="source.zarr/v/c/{}"
    ),
    "zarr in a group": Kind(
        _zarr("deep/er", zarr_format=3, consolidated=False), _open_zarr(False, "deep/er"), file="source.zarr/deep/er/v/c/{}"
    ),
    "zarr as a tree": Kind(
        _zarr("deep", zarr_format=3, consolidated=False),
        lambda root, count: xr.open_datatree(
            root / "source.zarr", engine="zarr", chunks={"x": LENGTH}, consolidated=False
        )["deep"].v.data,
        file="source.zarr/deep/v/c/{}",
    ),
    "zarr through dask": Kind(
        _zarr(zarr_format=3, consolidated=False),
        lambda root, count: da.from_zarr(str(root / "source.zarr"), component="v"),
        file="source.zarr/v/c/{}",
    ),
}  # fmt: skip


def _files(extension: str, **options: Any) -> Callable[[Path, int, float], None]:
    def write(root: Path, part: int, offset: float) -> None:
        new = root / f"new.{extension}"
        dataset(part, offset).to_netcdf(new, **options)
        new.replace(root / f"{part}.{extension}")

    return write


def halve(ds: xr.Dataset) -> xr.Dataset:
    """Serve as ``preprocess``."""
    return ds.assign(v=ds.v / 2)


def _mfdataset(engine: str, **options: Any) -> Callable[[Path, int], Any]:
    return lambda root, count: (
        xr.open_mfdataset(
            [root / f"{part}.nc" for part in range(count)], engine=engine, data_vars="all", **options
        ).v.data
    )


KINDS |= {
    "netcdf 3": Kind(_files("nc", engine="scipy"), _mfdataset("scipy"), ("scipy",)),
    "netcdf 4": Kind(_files("nc", engine="h5netcdf"), _mfdataset("netcdf4"), ("h5netcdf", "netCDF4")),
    "netcdf 4 through h5netcdf": Kind(_files("nc", engine="h5netcdf"), _mfdataset("h5netcdf"), ("h5netcdf",)),
    "netcdf with preprocess": Kind(
        _files("nc", engine="h5netcdf"), _mfdataset("h5netcdf", preprocess=halve), ("h5netcdf",)
    ),
}


def _write_hdf5(root: Path, part: int, offset: float) -> None:
    import h5py

    with h5py.File(root / "new.h5", "w") as file:
        file["v"] = values(part, offset)
    (root / "new.h5").replace(root / f"{part}.h5")


def _open_hdf5(root: Path, count: int) -> Any:
    import h5py

    return da.concatenate(
        [da.from_array(_keep(h5py.File(root / f"{part}.h5"))["v"], chunks=LENGTH) for part in range(count)]
    )


def _write_grib(root: Path, part: int, offset: float) -> None:
    import eccodes

    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    eccodes.codes_set(message, "dataDate", 20010101 + part)
    eccodes.codes_set_values(
        message, np.full(eccodes.codes_get_size(message, "values"), 250.0 + part + offset)
    )
    with (root / f"{part}.grib").open("wb") as file:
        eccodes.codes_write(message, file)


def _open_grib(root: Path, count: int) -> Any:
    parts = [
        _keep(
            xr.open_dataset(
                root / f"{part}.grib", engine="cfgrib", chunks={}, backend_kwargs={"indexpath": ""}
            )
        )
        for part in range(count)
    ]
    return da.stack([next(iter(part.data_vars.values())).data for part in parts])


def _write_geotiff(root: Path, part: int, offset: float) -> None:
    import rasterio

    transform = rasterio.transform.from_origin(10, 50, 0.5, 0.5)
    profile = {
        "driver": "GTiff",
        "height": 1,
        "width": LENGTH,
        "count": 1,
        "dtype": "float64",
        "transform": transform,
    }
    with rasterio.open(root / "new.tif", "w", **profile) as file:
        file.write(values(part, offset).reshape(1, 1, LENGTH))
    (root / "new.tif").replace(root / f"{part}.tif")


def _open_geotiff(root: Path, count: int) -> Any:
    import rioxarray

    return da.stack(
        [_keep(rioxarray.open_rasterio(root / f"{part}.tif", chunks={})).data for part in range(count)]
    )


def _open_references(root: Path, count: int) -> Any:
    import fsspec
    from kerchunk.hdf import SingleHdf5ToZarr

    parts = []
    for part in range(count):
        with (root / f"{part}.nc").open("rb") as file:
            # It waits for Zarr's thread while it holds h5py's lock, which that thread needs where it is the one that
            # frees a file that h5py has left in a cycle.
            gc.disable()
            try:
                references = SingleHdf5ToZarr(file, str(root / f"{part}.nc"), inline_threshold=0).translate()
            finally:
                gc.enable()
        mapper = fsspec.filesystem("reference", fo=references, skip_instance_cache=True).get_mapper("")
        opened = xr.open_dataset(mapper, engine="zarr", chunks={}, backend_kwargs={"consolidated": False})
        parts.append(opened.v.data)
    return da.concatenate(parts)


def _write_icechunk(root: Path, part: int, offset: float) -> None:
    import icechunk

    storage = icechunk.local_filesystem_storage(str(root / "ice"))
    repository = icechunk.Repository.open_or_create(storage)
    session = repository.writable_session("main")
    is_new = not part and not any(True for _ in (root / "marks").glob("*"))
    (root / "marks").mkdir(exist_ok=True)
    if (root / "marks" / str(part)).exists():
        zarr.open_group(session.store, mode="r+")["v"][part * LENGTH : (part + 1) * LENGTH] = values(
            part, offset
        )
    else:
        how: dict[str, Any] = {"zarr_format": 3} if is_new else {"append_dim": "x"}
        dataset(part, offset).chunk(x=LENGTH).to_zarr(session.store, consolidated=False, **how)
    (root / "marks" / str(part)).touch()
    session.commit("part")


def _open_icechunk(root: Path, count: int) -> Any:
    import icechunk

    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(root / "ice")))
    return xr.open_zarr(repository.readonly_session("main").store, consolidated=False).v.data


def _write_table(extension: str) -> Callable[[Path, int, float], None]:
    def write(root: Path, part: int, offset: float) -> None:
        frame = pd.DataFrame({"v": values(part, offset)})
        new = root / f"new.{extension}"
        frame.to_csv(new, index=False) if extension == "csv" else frame.to_parquet(new)
        new.replace(root / f"{part}.{extension}")

    return write


def _open_csv(root: Path, count: int) -> Any:
    import dask.dataframe as dd

    return dd.read_csv([str(root / f"{part}.csv") for part in range(count)], blocksize=None)


def _open_parquet(root: Path, count: int) -> Any:
    import dask.dataframe as dd

    return dd.read_parquet([str(root / f"{part}.parquet") for part in range(count)])


KINDS |= {
    "hdf5 through h5py": Kind(_write_hdf5, _open_hdf5, ("h5py",), "{}.h5"),
    "grib": Kind(_write_grib, _open_grib, ("eccodes", "cfgrib"), "{}.grib"),
    "geotiff": Kind(_write_geotiff, _open_geotiff, ("rasterio", "rioxarray"), "{}.tif"),
    "kerchunk references": Kind(_files("nc", engine="h5netcdf"), _open_references, ("kerchunk", "h5netcdf")),
    "icechunk": Kind(_write_icechunk, _open_icechunk, ("icechunk",), ""),
    "csv": Kind(_write_table("csv"), _open_csv, ("dask.dataframe",), "{}.csv"),
    "parquet": Kind(_write_table("parquet"), _open_parquet, ("dask.dataframe", "pyarrow"), "{}.parquet"),
}


def tokens_of(collection: Any, **settings: Any) -> list[str]:
    """Give the token of each block, or why it has none; what was opened is closed."""
    tokens = GraphTokens(collection.__dask_graph__(), Fingerprinter(**settings))
    found = []
    for key in flatten(collection.__dask_keys__()):
        token = tokens.token(key)
        found.append(str(tokens.reason(key)) if token is None else token.hex())
    while _opened:
        _opened.pop().close()
    return found


def edit(name: str, root: Path, count: int = 3) -> dict[str, list[str]]:
    """Give the tokens of a source's blocks as it is written, opened again, edited in its second part, and grown."""
    kind = KINDS[name]
    for part in range(count):
        kind.write(root, part, 0.0)
    found = {"written": tokens_of(kind.open(root, count)), "again": tokens_of(kind.open(root, count))}
    kind.write(root, 1, 0.5)
    found["edited"] = tokens_of(kind.open(root, count))
    kind.write(root, count, 0.0)
    return {**found, "grown": tokens_of(kind.open(root, count + 1))}


if __name__ == "__main__":
    # ``edit``, a kind and an empty directory; or a directory of directories by name, and names of kinds.
    if sys.argv[1] == "edit":
        result: dict[str, Any] = edit(sys.argv[2], Path(sys.argv[3]))
    else:
        root = Path(sys.argv[1])
        result = {name: tokens_of(KINDS[name].open(root / name, 3)) for name in sys.argv[2:]}
    print(json.dumps(result), flush=True)
    # Libraries of C++ may fall out with each other when Python ends in order: eccodes does.
    os._exit(0)

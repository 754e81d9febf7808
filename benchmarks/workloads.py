"""Graphs to persist: costly and cheap maps over blocks of a given size, with and without a Zarr source."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec, Crc32cCodec

__all__ = ["LATITUDES", "LONGITUDES", "dataset", "from_zarr", "to_zarr"]

LATITUDES, LONGITUDES = 181, 360


@lru_cache(maxsize=4)
def _weather(days: int) -> np.ndarray[Any, Any]:
    """Make smooth fields with noise, which compress as measurements do."""
    rng = np.random.default_rng(0)
    lat = np.cos(np.linspace(-1.5, 1.5, LATITUDES, dtype="f4"))[None, :, None]
    lon = np.sin(np.linspace(0, 6.3, LONGITUDES, dtype="f4"))[None, None, :]
    noise = rng.standard_normal((days, LATITUDES, LONGITUDES), dtype="f4")
    return np.round(280 + 20 * lat + 3 * lon + noise, 1).astype("f4")


def make_block(number: np.ndarray[Any, Any], days: int) -> np.ndarray[Any, Any]:
    """Make a block in the time that adding a number to an array takes."""
    block: np.ndarray[Any, Any] = _weather(days) + np.float32(number.item())
    return block


def costly(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Compute for about as long as scientists do."""
    result = block
    for _ in range(6):
        result = np.sin(result) * np.float32(0.5) + np.sqrt(np.abs(block))
    return np.asarray(np.round(result, 3), "f4")


def cheap(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Compute next to nothing."""
    return np.asarray(block + np.float32(1))


def dataset(days: int, blocks: int, *, is_costly: bool, seed: float = 0.0) -> xr.Dataset:
    """Make a lazy dataset whose blocks are made by its tasks."""
    numbers = da.arange(blocks, chunks=1, dtype="f4")[:, None, None] + np.float32(seed)
    made = da.map_blocks(
        make_block,
        numbers,
        days,
        chunks=((days,) * blocks, (LATITUDES,), (LONGITUDES,)),
        dtype="f4",
        meta=np.empty((0, 0, 0), "f4"),
    )
    mapped = made.map_blocks(costly if is_costly else cheap, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    return xr.Dataset({"t2m": (("time", "lat", "lon"), mapped)})


def from_zarr(path: Path, days: int, blocks: int) -> xr.Dataset:
    """Make a lazy dataset that adds one to what lies in a Zarr store, which is written here if it is missing."""
    if not path.exists():
        to_zarr(dataset(days, blocks, is_costly=False), path)
    opened = xr.open_zarr(path, consolidated=False)
    return opened + np.float32(1)


def to_zarr(data: xr.Dataset, path: Path) -> Path:
    """Write a dataset as xarray does, with the codecs that daskcache uses."""
    codecs = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec())
    encoding = {name: {"compressors": codecs, "_FillValue": None} for name in data.data_vars}
    # Chunks of fill values are written, as daskcache does, so that both do the same work.
    data.drop_encoding().to_zarr(
        path, encoding=encoding, consolidated=False, write_empty_chunks=True, mode="w"
    )
    return path


def remove(path: Path) -> None:
    """Remove a store, so that disks do not fill up."""
    shutil.rmtree(path, ignore_errors=True)

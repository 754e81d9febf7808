"""Zarr arrays as sources: a region is the chunk objects that hold it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, override

import numpy as np
import zarr

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import Place
from daskcache.fingerprint.places_remote import place_of_store
from daskcache.fingerprint.regions import AxisGrid, Region
from daskcache.fingerprint.sources_base import Origin, Survey

__all__ = ["ZarrOrigin"]

# What growing or describing an array changes, and decoding a chunk does not need.
_IGNORED = ("shape", "attributes", "dimension_names", "consolidated_metadata")


class ZarrOrigin(Origin):
    """An array of format 2 or 3, in any store whose objects can be told apart."""

    def __init__(self, array: zarr.Array[Any], survey: Survey) -> None:
        self.array = array
        self.shape = tuple(array.shape)
        store = array.store
        self.place: Place = survey.place(store, id(store), lambda: place_of_store(store))
        self._document: dict[str, Any] = dict(array.metadata.to_dict())
        self._grid, sizes = _read_grid(array, self._document)
        self._total = int(np.prod(sizes)) if sizes else 1
        self._prefix = f"{array.path}/" if array.path else ""
        grid = self._document.get("chunk_grid")
        self._is_regular = not (isinstance(grid, dict) and grid.get("name") == "rectilinear")
        self._metadata: bytes | None = None

    @override
    def describe(self) -> str:
        return self.place.name(self.array.path)

    @override
    def objects(self, region: Region) -> tuple[Place, list[str], str, int]:
        encode, prefix = self.array.metadata.encode_chunk_key, self._prefix
        keys = [prefix + encode(position) for position in region.touch(self._grid)]
        return self.place, keys, self.array.path, self._total

    @override
    def metadata(self) -> Iterator[bytes]:
        # Made when asked for: a guard, which comes with each read, looks at stamps alone.
        if self._metadata is None:
            document = {name: value for name, value in self._document.items() if name not in _IGNORED}
            if not self._is_regular:
                # It lists all chunks, so it grows with the array; the touched ones are told with the region.
                document["chunk_grid"] = "rectilinear"
            self._metadata = json.dumps(document, sort_keys=True, default=_encode_value).encode()
        yield self._metadata

    @override
    def encode(self, region: Region) -> Iterator[bytes]:
        bounds = region.bounds(self._grid)
        if not bounds:
            yield from region.encode((0,) * len(self.shape))
            return
        starts = [
            low * chunks if isinstance(chunks, int) else int(chunks[low])
            for (low, _), chunks in zip(bounds, self._grid, strict=True)
        ]
        yield from region.encode(starts)
        if not self._is_regular:
            for (low, high), lengths in zip(bounds, self.array.write_chunk_sizes, strict=True):
                yield repr(tuple(lengths[low : high + 1])).encode()


def _read_grid(
    array: zarr.Array[Any], document: dict[str, Any]
) -> tuple[tuple[AxisGrid, ...], tuple[int, ...]]:
    """Give the grid of the array's objects, which are shards where it has them, and how many lie along each axis."""
    grid = document.get("chunk_grid")
    name = "regular" if grid is None else grid["name"]
    if name == "regular":
        lengths = document["chunks"] if grid is None else grid["configuration"]["chunk_shape"]
        regular = tuple(int(length) for length in lengths)
        counts = tuple(-(-size // max(length, 1)) for size, length in zip(array.shape, regular, strict=True))
        return regular, counts
    if name == "rectilinear":
        sizes = array.write_chunk_sizes
        bounds = tuple(np.cumsum((0, *lengths[:-1]), dtype=np.int64) for lengths in sizes)
        return bounds, tuple(len(lengths) for lengths in sizes)
    raise UncacheableError(f"reads a Zarr array with the unknown chunk grid {name!r}")


def _encode_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.generic):
        return [value.dtype.str, value.tobytes().hex()]
    if isinstance(value, tuple):
        return list(value)
    raise UncacheableError(f"reads a Zarr array whose metadata hold a {type(value).__qualname__}")

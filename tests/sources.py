"""Real sources in a directory, and what a pass makes of the arrays in their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.sources import Source, find_source


def make_dataset(start: int = 0, stop: int = 6, strings: bool = True) -> xr.Dataset:
    """Give a small dataset with a time axis and one variable of each kind that is decoded in its own way."""
    days = np.arange(start, stop)
    values = np.arange(stop * 4, dtype="f4").reshape(stop, 4)[start:]
    dataset = xr.Dataset(
        {
            "t": (("time", "x"), values, {"units": "K"}),
            "packed": (("time", "x"), values / 8),
            "flag": (("time",), days % 2 == 0),
            "when": (("time",), pd.Timestamp("2001-01-01") + pd.to_timedelta(days, "D")),
        },
        coords={"time": days, "x": np.arange(4)},
    )
    # Zarr's format 3 has no specification of strings yet, and says so with a warning.
    return (
        dataset.assign(name=("time", np.array([f"day {day}" for day in days], dtype="U8")))
        if strings
        else dataset
    )


ENCODING: dict[str, Any] = {
    "packed": {"dtype": "i2", "scale_factor": 0.125, "add_offset": 1.0, "_FillValue": -9999},
    "when": {"units": "days since 2001-01-01", "dtype": "i4"},
}


def source_of(array: Any, fingerprinter: Fingerprinter | None = None) -> Source:
    """Give the source behind the one literal of a dask array's graph, or behind an array itself."""
    source = find_source(literal_of(array), fingerprinter or Fingerprinter())
    assert source is not None
    return source


def literal_of(array: Any) -> Any:
    """Give the array that a dask array was made from."""
    array = getattr(array, "data", array) if isinstance(array, xr.DataArray | xr.Variable) else array
    if not isinstance(array, da.Array):
        return array
    originals = [
        value for key, value in dict(array.__dask_graph__()).items() if str(key).startswith("original-")
    ]
    assert len(originals) == 1, "the graph reads not exactly one source"
    return getattr(originals[0], "value", originals[0])


def digests_of(array: Any, fingerprinter: Fingerprinter | None = None) -> list[bytes]:
    """Give the digest of each block's region, in C order."""
    data = getattr(array, "data", array)
    source = source_of(array, fingerprinter)
    return [source.region(index) for index in da.core.slices_from_chunks(data.chunks)]


def rewrite(path: Path) -> None:
    """Replace a file by itself, as a writer would that writes the same again."""
    data = path.read_bytes()
    other = path.with_name(path.name + ".new")
    other.write_bytes(data)
    other.replace(path)

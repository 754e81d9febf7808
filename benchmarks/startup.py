"""What a process pays once: for the import, and for its first persist."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from measure import header

__all__ = ["run"]

_CODE = """
import sys, time
import xarray, dask.array, zarr, numpy
base = time.perf_counter()
import daskcache
imported = time.perf_counter()
x = xarray.Dataset({"a": ("x", dask.array.arange(10, chunks=5) + 1)})
started = time.perf_counter()
if sys.argv[2] == "ours":
    daskcache.persist(x, "a", store=sys.argv[1])
else:
    x.to_zarr(sys.argv[1], consolidated=False)
done = time.perf_counter()
y = x + 1
again = time.perf_counter()
if sys.argv[2] == "ours":
    daskcache.persist(y, "a", store=sys.argv[1])
else:
    y.to_zarr(sys.argv[1] + "2", consolidated=False)
print(imported - base, done - started, time.perf_counter() - again)
"""


def run(directory: Path, repeats: int) -> None:
    """Measure the import beside xarray, dask.array and zarr, and the first and second persist of a tiny dataset."""
    header("startup: seconds in new processes")
    for kind in ("ours", "theirs"):
        rows = [_measure(directory / f"{kind}-{number}", kind) for number in range(repeats)]
        imported, first, second = (statistics.median(column) for column in zip(*rows, strict=True))
        what = "persist" if kind == "ours" else "to_zarr"
        if kind == "ours":
            print(f"  import daskcache after xarray, dask.array, zarr   {1000 * imported:8.1f} ms")
        print(f"  first {what} of a process {1000 * first:27.1f} ms")
        print(f"  second {what} {1000 * second:38.1f} ms", flush=True)


def _measure(path: Path, kind: str) -> tuple[float, ...]:
    command = [sys.executable, "-W", "ignore", "-c", _CODE, str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))

"""Recall of entries of 100,000 and 1,000,000 blocks: from the binary index; by plain xarray from the JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from measure import header

from daskcache import open as open_entry
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.manifest import Manifest, StoredVariable, from_idx, to_idx

__all__ = ["run"]

BLOCKS = 100_000


def run(directory: Path, repeats: int) -> None:
    """Measure publishing, opening, looking up, and dask's own work on the lazy object."""
    header(f"index: an entry of {BLOCKS} blocks")
    root = str(directory / "store")
    tokens = np.random.default_rng(0).integers(0, 256, (BLOCKS, 20), "u1")
    variable = StoredVariable(
        "t2m",
        ("time", "lat", "lon"),
        np.dtype("f4"),
        ((1,) * (BLOCKS // 100), (18,) * 10, (36,) * 10),
        tokens=tokens,
        groups=np.full(BLOCKS, 7, "<u2"),
        sizes=np.full(BLOCKS, 999, "<u8"),
        checksums=np.arange(1, BLOCKS + 1, dtype="<u4"),
    )
    catalog = Catalog(root)
    manifest = Manifest.build("dataset", (variable,))
    _best("publish (limit 1000 ms)", lambda: catalog.publish("entry", manifest), 1)
    store = stores.open(root)
    where = "namespaces/default/entry/@"
    plain = {"consolidated": False, "storage_options": {"fo": f"{root}/{where}/{manifest.version}.json"}}

    def open_plainly() -> object:
        return xr.open_dataset("reference://", engine="zarr", backend_kwargs=plain)

    _best("open with plain xarray (limit 2000 ms)", open_plainly, repeats)
    for name, size_bytes in stores.list_sizes(store, where).items():
        if name.endswith(".json"):
            stores.delete(store, f"{where}/{name}")
        print(f"    {name[-12:]}: {size_bytes / 1e6:.1f} MB")
    data = _best("open (limit 50 ms)", lambda: open_entry("entry", store=root), repeats)
    _best("token index of the namespace, first time", catalog.token_index, 1)
    index = _best("token index, kept", catalog.token_index, repeats)
    wanted = [token.tobytes() for token in tokens]
    _best("look 100,000 tokens up at once", lambda: index.find_many(wanted), repeats)  # type: ignore[attr-defined]
    _best("make the graph's tasks", lambda: dict(data.t2m.data.dask), 1)  # type: ignore[attr-defined]
    many = np.random.default_rng(1).integers(0, 256, (10 * BLOCKS, 20), "u1")
    variable = replace(
        variable,
        chunks=((1,) * (BLOCKS // 10), *variable.chunks[1:]),
        tokens=many,
        groups=np.full(10 * BLOCKS, 7, "<u2"),
        sizes=np.full(10 * BLOCKS, 999, "<u8"),
        checksums=np.arange(1, 10 * BLOCKS + 1, dtype="<u4"),
    )
    # The index alone: its readable form would be 80 MB, and readers take Icechunk.
    packed = to_idx(Manifest.build("dataset", (variable,)))
    print(f"    .idx of {10 * BLOCKS} blocks: {len(packed) / 1e6:.1f} MB (limit 100 MB)")
    _best("read an index of 1,000,000 blocks (limit 500 ms)", lambda: from_idx(packed), repeats)


def _best(label: str, call: Callable[[], object], repeats: int) -> object:
    best, result = float("inf"), None
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - started)
    print(f"  {label:<44} {1000 * best:8.1f} ms", flush=True)
    return result

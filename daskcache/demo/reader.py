"""Open a stored result with xarray and fsspec alone, and compare it with what plain xarray computes.

Run as ``python reader.py job.json manifest.json``, as a file: not one line of daskcache is to be had here.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import xarray as xr


def main(job_path: str, manifest_path: str) -> None:
    """Compare, and say so; raise where they differ.

    Parameters
    ----------
    job_path : str
        What the acts were told.
    manifest_path : str
        Path or URL of the manifest of the first namespace's ``warming``.
    """
    # From here on it cannot be imported, as where it is not installed: no plugin of ours can help.
    sys.modules["daskcache"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("daskcache")
    except ImportError:
        print("import daskcache: fails, as it should")
    else:
        raise SystemExit("daskcache can be imported here; the comparison would prove nothing")
    options: dict[str, Any] = {"fo": manifest_path}
    if "://" in manifest_path:
        options["remote_options"] = {"asynchronous": True}
    stored = xr.open_dataset(
        "reference://", engine="zarr", backend_kwargs={"consolidated": False, "storage_options": options}
    ).load()
    computed = _compute(job_path)
    xr.testing.assert_identical(stored, computed)
    for name, variable in computed.variables.items():
        # Text and calendars are objects, whose bytes are addresses.
        if variable.dtype.kind in "biufcmM" and _exact(stored[name]) != _exact(computed[name]):
            raise AssertionError(
                f"{name} has other bytes in the store, or another dtype, {stored[name].dtype}"
            )
    print(f"xarray and fsspec alone read {manifest_path}")
    print(f"identical to what plain xarray computes: {dict(computed.sizes)}, {list(computed.data_vars)}")


def _exact(variable: xr.DataArray) -> tuple[str, bytes]:
    return variable.dtype.str, variable.values.tobytes()


def _compute(job_path: str) -> xr.Dataset:
    with open(job_path, encoding="utf-8") as file:
        job = json.load(file)
    sys.path.insert(0, job["workdir"])
    pipeline = importlib.import_module("pipeline")

    source = next(iter(job["scenarios"].values()))
    if job["has_ocean"]:
        temperature = pipeline.open_scenario(source)
    else:
        temperature = xr.open_zarr(source, consolidated=False)["temperature"]
    results: dict[str, Any] = {}

    def keep(name: str, result: Any) -> Any:
        results[name] = result
        return result

    pipeline.run(temperature, keep, **job["options"])
    warming: xr.Dataset = results["warming"].compute()
    return warming


if __name__ == "__main__":
    main(*sys.argv[1:])

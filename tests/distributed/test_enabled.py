"""The environment alone switches the pass on in a cluster's processes, once and not twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)

SCRIPT = """
import dask
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster

def double(block):
    print("computed", flush=True)
    return block * 2

def nested():
    import dask.array as da
    hook = dask.config.get("array_optimize")
    # A computation inside of a task has the pass too.
    return type(hook).__name__, hook.settings.namespace, float(da.ones(4, chunks=2).sum().compute(scheduler="sync"))

if __name__ == "__main__":
    data = xr.DataArray(np.arange(6.0), dims="x", name="a").chunk(x=2)
    doubled = xr.apply_ufunc(double, data, dask="parallelized", output_dtypes=[float])
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        print("sum", doubled.sum().compute().item())
        print("nested", *client.submit(nested).result())
    print("sent", dask.config.deserialize(dask.config.serialize(dask.config.config))["array_optimize"])
"""


def test_the_environment_switches_the_pass_on_in_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        "DASK_DASKCACHE__ENABLED": "true",
        "DASK_DASKCACHE__STORE": str(tmp_path / "store"),
        "DASK_DASKCACHE__POLICY": "outputs",
        "DASK_DASKCACHE__NAMESPACE": "ours",
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path),
    }
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    told = ["sum 30.0", "nested Optimizer ours 4.0", "sent []"]
    assert outputs == [["computed"] * 3 + told, told]

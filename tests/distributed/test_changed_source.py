"""A source that is rewritten between the pass and the reads, by a client that is killed right after.

Nothing that it stored is found by the next run: a block is checked before it is put, not when the run ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.producers import objects as stored_objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BLOCKS = 4

SCRIPT = """
    import json, os, signal, sys, threading, time
    from pathlib import Path

    import dask
    import dask.array as da
    import numpy as np
    import xarray as xr
    import zarr

    import daskcache

    source, store, kind, scheduler, mode = sys.argv[1:]

    def write(offset, blocks=range(4)):
        values = np.arange(8.0) + offset
        if kind == "zarr":
            if not offset:
                array = zarr.create_array(source, shape=(8,), chunks=(2,), dtype="f8", compressors=None, zarr_format=2)
            else:
                array = zarr.open_array(source, mode="r+")
            for block in blocks:
                array[2 * block : 2 * block + 2] = values[2 * block : 2 * block + 2]
        else:
            new = Path(source + ".new")
            xr.Dataset({"v": ("x", values)}).to_netcdf(new, engine="h5netcdf")
            new.replace(source)

    def double(block):
        marks = Path(store + ".calls")
        with marks.open("a") as file:
            file.write("x")
        # After the reads, and before what was computed of them is put.
        if mode == "during" and marks.stat().st_size == 2:
            write(100)
            kill_soon()
        if mode != "after":
            time.sleep(0.2)
        return block * 2

    def build():
        x = da.from_zarr(source) if kind == "zarr" else xr.open_dataset(source, engine="h5netcdf", chunks={"x": 2}).v.data
        return daskcache.checkpoint(x.map_blocks(daskcache.version("1")(double), dtype="f8", meta=np.empty(0)), "x")

    def kill_soon():
        # In the middle of the run, which goes on for long enough.
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()

    if __name__ == "__main__":
        if not os.path.exists(source):
            write(0)
        with daskcache.activate(store):
            x = build()
            if mode == "before":
                # What the pass has seen is of the old source; what tasks read is of the new one.
                from daskcache.optimizer import Optimizer

                original = Optimizer.__call__

                def then_write(self, *args, **options):
                    found = original(self, *args, **options)
                    write(100, blocks=(1, 2))
                    kill_soon()
                    return found

                Optimizer.__call__ = then_write
            result = x.compute(scheduler=scheduler, num_workers=1)
        print(json.dumps(result.tolist()))
"""


def run(tmp_path: Path, kind: str, mode: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    source = str(tmp_path / ("source.zarr" if kind == "zarr" else "source.nc"))
    return subprocess.run(
        [sys.executable, str(script), source, str(tmp_path / "store"), kind, "threads", mode],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def objects(tmp_path: Path) -> list[Path]:
    return stored_objects(tmp_path / "store")


@pytest.mark.parametrize("mode", ["before", "during"])
@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
def test_nothing_wrong_is_found_by_the_next_run(kind: str, mode: str, tmp_path: Path) -> None:
    killed = run(tmp_path, kind, mode)
    # A read that finds another source than the pass has seen ends the run by itself.
    assert (
        killed.returncode == -signal.SIGKILL or "is not as it was when this run was planned" in killed.stderr
    )
    assert killed.stdout == ""
    stored = len(objects(tmp_path))
    again = run(tmp_path, kind, "after")
    assert again.returncode == 0, again.stderr
    changed = range(2, 6) if (kind, mode) == ("zarr", "before") else range(8)
    expected = [2.0 * (x + 100 * (x in changed)) for x in range(8)]
    assert json.loads(again.stdout) == expected
    # What was stored of blocks that are as they were is found; of the others nothing was stored, or is found.
    reused = stored if len(changed) < 8 else 0
    assert len(objects(tmp_path)) == stored + BLOCKS - reused
    once_more: Any = json.loads(run(tmp_path, kind, "after").stdout)
    assert once_more == expected

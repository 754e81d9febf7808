"""What a process pays for once."""

import subprocess
import sys

import dask
import dask.array as da

import daskcache

_CODE = """
import sys
import dask.array as da
import daskcache
assert "distributed" not in sys.modules, "importing imports distributed"
for name in ("click", "matplotlib", "flox", "netCDF4", "h5netcdf", "icechunk"):
    assert name not in sys.modules, name
kept = daskcache.persist(da.arange(4, chunks=2) + 1, "a", store=sys.argv[1])
assert "distributed" not in sys.modules, "a persist imports distributed"
"""


def test_neither_import_nor_persist_imports_what_it_does_not_need(tmp_path):
    subprocess.run([sys.executable, "-c", _CODE, str(tmp_path)], check=True)


def test_the_configured_scheduler_runs_a_persist(tmp_path):
    calls = []

    def get(dsk, keys, **kwargs):
        calls.append(keys)
        return dask.get(dsk, keys, **kwargs)

    with dask.config.set(scheduler=get):
        daskcache.persist(da.arange(4, chunks=2) + 1, "a", store=str(tmp_path))
    assert len(calls) == 1

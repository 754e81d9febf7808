"""What a process pays for once, and what switches the pass on in processes that name us nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import pytest

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

LIGHT = """
import sys
import dask
print(*[name for name in ("daskcache_hook", "daskcache", "dask.array", "xarray", "zarr") if name in sys.modules])
print(type(dask.config.config.get("array_optimize")).__name__)
"""

COST = """
import importlib.metadata, time

taken = 0
load = importlib.metadata.EntryPoint.load

def timed(entry):
    def register(sizeof):
        global taken
        started = time.process_time()
        load(entry)(sizeof)
        taken += time.process_time() - started
    return register if entry.value.startswith("daskcache") else load(entry)

importlib.metadata.EntryPoint.load = timed
import dask
print(taken)
"""

UNMODIFIED = """
import numpy as np
import xarray as xr

def double(block):
    print("computed", flush=True)
    return block * 2

data = xr.DataArray(np.arange(6.0), dims="x", name="a").chunk(x=2)
doubled = xr.apply_ufunc(double, data, dask="parallelized", output_dtypes=[float])
print(doubled.sum().compute(scheduler="sync").item())
"""

PERSISTING = (
    UNMODIFIED
    + """
import dask
import daskcache
with dask.config.set(scheduler="sync"):  # lines of several threads would mix
    doubled.cache.persist("doubled")
"""
)

SPAWNING = """
import multiprocessing, subprocess, sys

def state():
    import dask
    return type(dask.config.config.get("array_optimize")).__name__, "daskcache" in sys.modules

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(state))
    print(state())
    code = "import dask; print(type(dask.config.config.get('array_optimize')).__name__)"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
"""


def run(code: str, path: Path, *options: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script in an environment of nothing but `env`."""
    (path / "script.py").write_text(code)
    command = [sys.executable, *options, "script.py"]
    return subprocess.run(command, cwd=path, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def enabled(tmp_path: Path) -> dict[str, str]:
    return {"DASK_DASKCACHE__ENABLED": "true", "DASK_DASKCACHE__STORE": str(tmp_path / "store")}


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


@pytest.mark.parametrize(
    ("variables", "state"),
    [({}, "NoneType"), ({"DASK_DASKCACHE__ENABLED": "false"}, "NoneType"), (None, "Hook")],
)
def test_the_import_of_dask_imports_one_small_module(tmp_path, enabled, variables, state):
    done = run(LIGHT, tmp_path, env=enabled if variables is None else variables)
    assert done.stdout.splitlines() == ["daskcache_hook", state], done.stderr
    assert done.stderr == ""


def test_the_import_of_dask_takes_less_than_5_ms_more(tmp_path, enabled):
    for variables in ({}, enabled):
        # The first writes the compiled module.
        seconds = [float(run(COST, tmp_path, env=variables).stdout) for _ in range(4)]
        assert 0 < min(seconds) < 0.005, seconds


def test_two_variables_switch_it_on(tmp_path, enabled):
    first = run(PERSISTING, tmp_path, env=enabled)
    assert first.stdout.split() == ["computed"] * 3 + ["30.0"] + ["computed"] * 3, first.stderr
    # As the same file, because a function of another file is another function.
    second = run(UNMODIFIED, tmp_path, env=enabled)
    assert second.stdout.split() == ["30.0"], second.stderr
    assert second.stderr == ""
    off = run(UNMODIFIED, tmp_path, env={**enabled, "DASK_DASKCACHE__ENABLED": "false"})
    assert off.stdout.split() == ["computed"] * 3 + ["30.0"]


@pytest.mark.parametrize("where", ["home", "dask"])
def test_a_file_switches_it_on(tmp_path, where):
    directory = {"home": "home/.config/dask", "dask": "conf"}[where]
    variables = {
        "home": {"HOME": str(tmp_path / "home")},
        "dask": {"DASK_CONFIG": str(tmp_path / "conf")},
    }[where]
    (tmp_path / directory).mkdir(parents=True)
    (tmp_path / directory / "daskcache.yaml").write_text(
        f"daskcache:\n  enabled: true\n  store: {tmp_path / 'store'}\n  policy: outputs\n"
    )
    outputs = [run(UNMODIFIED, tmp_path, env=variables) for _ in range(2)]
    assert [done.stdout.split() for done in outputs] == [["computed"] * 3 + ["30.0"], ["30.0"]], outputs
    assert (tmp_path / "store").is_dir()


def test_child_processes_are_switched_on_each_by_itself(tmp_path, enabled):
    done = run(SPAWNING, tmp_path, env=enabled)
    assert done.stdout.splitlines() == ["('Hook', False)", "('Hook', False)", "Hook"], done.stderr


def test_a_broken_configuration_breaks_no_import_and_is_told_of_once(tmp_path, enabled):
    broken = {**enabled, "DASK_DASKCACHE__MODE": "sometimes"}
    plain = UNMODIFIED + "\ndoubled.compute(scheduler='sync')\n"
    done = run(plain, tmp_path, env=broken)
    assert done.stdout.split() == ["computed"] * 3 + ["30.0"] + ["computed"] * 3, done.stderr
    assert done.stderr.count("mode is 'sometimes'") == 1
    assert done.stderr.count("Warning") == 1
    assert not (tmp_path / "store").exists()
    refused = run(PERSISTING, tmp_path, env=broken)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("daskcache.errors.InvalidInputError: daskcache.mode")


def test_a_package_that_cannot_be_imported_breaks_nothing(tmp_path, enabled):
    (tmp_path / "daskcache").mkdir()
    (tmp_path / "daskcache" / "__init__.py").write_text("import something_that_is_missing\n")
    done = run(UNMODIFIED, tmp_path, env=enabled)
    assert done.stdout.split() == ["computed"] * 3 + ["30.0"], done.stderr
    assert done.stderr.count("cannot be imported: No module named 'something_that_is_missing'") == 1


def test_warnings_as_errors_break_no_import(tmp_path, enabled):
    code = "import dask; print('imported')"
    done = run(code, tmp_path, "-W", "error", env={**enabled, "DASK_ARRAY__QUERY_PLANNING": "true"})
    assert done.stdout == "imported\n"
    assert "dask calls no optimizer of arrays" in done.stderr

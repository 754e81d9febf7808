"""daskcache run: a script sees what it sees under python, with the pass on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from daskcache.cli import cache

PRINTER = """
import dask, json, os, sys
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "main": sys.modules["__main__"].__dict__ is globals(),
    "spec": __spec__ and __spec__.name, "config": dask.config.get("daskcache", None), "modules": "daskcache" in sys.modules,
}))
"""

PIPELINE = """
import sys
import dask.array as da
import daskcache
import numpy as np

def double(block):
    print("computed")
    return helper(block)

def helper(block):
    return block * 2

x = daskcache.checkpoint(da.arange(4, chunks=2).map_blocks(double, dtype=int, meta=np.empty(0, int)), "x")
print(x.sum().compute(scheduler="sync"))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "printer.py").write_text(PRINTER)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "daskcache.cli", "run", *args)


def test_a_script_gets_its_arguments_and_the_settings(here: Path) -> None:
    options = ("--store", "there", "--namespace", "2024", "--policy", "outputs", "--mode", "read")
    arguments = ("--store", "mine", "-m", "--", "a b")
    done = run(*options, "printer.py", *arguments)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    plain = json.loads(python("printer.py", *arguments).stdout)
    config = seen.pop("config")
    plain.pop("config", None)
    assert seen == plain
    assert seen["argv"] == ["printer.py", *arguments]
    assert {name: config[name] for name in ("enabled", "store", "namespace", "policy", "mode")} == {
        "enabled": True,
        "store": str(here / "there"),
        "namespace": "2024",
        "policy": "outputs",
        "mode": "read",
    }


def test_a_module_too(here: Path) -> None:
    seen = json.loads(run("-m", "printer", "-x").stdout)
    plain = json.loads(python("-m", "printer", "-x").stdout)
    assert seen.pop("config")["enabled"] is True
    plain.pop("config", None)
    assert seen == plain
    assert seen["spec"] == "printer"


def test_blocks_of_the_scripts_own_functions_are_those_of_python(here: Path) -> None:
    enabled = {"DASK_DASKCACHE__ENABLED": "true", "DASK_DASKCACHE__STORE": str(here / "store")}
    assert python("pipeline.py", **enabled).stdout.split() == ["computed", "computed", "12"]
    assert run("--store", "store", "pipeline.py").stdout.split() == ["12"]
    assert run("--store", "other", "pipeline.py").stdout.split() == ["computed", "computed", "12"]
    other = {**enabled, "DASK_DASKCACHE__STORE": str(here / "other")}
    assert python("pipeline.py", **other).stdout.split() == ["12"]


@pytest.mark.parametrize(
    "program",
    ["import sys\nsys.exit(7)", "def fail():\n    raise ValueError('mine')\n\nfail()", "a b"],
)
def test_its_exit_code_and_traceback_are_its_own(here: Path, program: str) -> None:
    (here / "fails.py").write_text(program)
    ours, plain = run("fails.py"), python("fails.py")
    assert ours.returncode == plain.returncode != 0
    assert ours.stderr == plain.stderr


def test_as_a_command_of_dask(here: Path) -> None:
    done = python("-m", "dask", "cache", "--store", "there", "run", "printer.py", "-h")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["argv"] == ["printer.py", "-h"]
    assert seen["config"]["store"] == str(here / "there")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("run", "--mode", "sometimes", "x.py"), 1, "mode is 'sometimes'"),
        (("run", "--policy", "all", "x.py"), 1, "policy is 'all'"),
        (("run", "--store", "nosuch://x", "x.py"), 1, "unknown scheme 'nosuch'"),
        (("run", "--namespace", "a b", "x.py"), 1, "the namespace 'a b' holds ' '"),
        (("run",), 2, "Missing argument"),
        (("run", "--stroe", "a", "x.py"), 2, "No such option"),
    ],
)
def test_what_is_wrong_is_told_before_it_starts(args: tuple[str, ...], code: int, message: str) -> None:
    result = CliRunner().invoke(cache, list(args))
    assert result.exit_code == code
    assert message in result.stderr

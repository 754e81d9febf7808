"""What compares the suites of dask, xarray and flox finds a test that does something else under the pass."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"

SUITE = """
import dask
import dask.array as da


def test_values():
    assert (da.arange(4, chunks=2) + 1).compute().tolist() == [1, 2, 3, 4]


def test_tasks():
    (x,) = dask.optimize(da.arange(6, chunks=3) * 2)
    assert "daskcache" not in str(list(x.dask))
"""


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_test_that_looks_at_tasks_differs(tmp_path: Path) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    command = [sys.executable, str(CI / "suites.py"), "--work", str(tmp_path / "work")]
    command += ["--runs", "outputs cold,outputs warm", str(suite)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^DIFFERS +(.*?)  \S*::(.*)$", done.stdout, re.MULTILINE)
    assert found == [("outputs cold", "test_tasks"), ("outputs warm", "test_tasks")], (
        done.stdout + done.stderr
    )
    assert done.stdout.endswith("2 tests, 2 differences, 2 of them not explained\n")
    assert done.returncode == 1


def test_nothing_of_the_directories_around_counts(tmp_path: Path) -> None:
    """An environment lies in the checkout, as a rule, whose own tests are run otherwise."""
    (tmp_path / "conftest.py").write_text("raise RuntimeError('of the checkout')\n")
    (tmp_path / "test_suite.py").write_text("def test_fine():\n    pass\n")
    command = [sys.executable, str(CI / "suites.py"), "--work", str(tmp_path / "environment" / "work")]
    command += ["--runs", "off", str(tmp_path / "test_suite.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("1 tests, 0 differences, 0 of them not explained\n"), (
        done.stdout + done.stderr
    )
    assert done.returncode == 0


@pytest.mark.parametrize("workers", ["", "2"])
def test_a_file_that_cannot_be_imported_is_an_error(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_fine.py").write_text("def test_fine():\n    pass\n")
    (tmp_path / "test_lost.py").write_text("import nothing_there\n")
    command = [sys.executable, str(CI / "suites.py"), "--work", str(tmp_path / "work"), str(tmp_path)]
    command += ["--workers", workers] if workers else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "test_lost.py cannot be collected: E   ModuleNotFoundError: No module named" in done.stderr
    assert done.returncode == 1


def test_each_explanation_is_of_tests_by_name() -> None:
    entries = tomllib.loads((CI / "suites-explained.toml").read_text()).get("difference", [])
    for entry in entries:
        assert entry.keys() == {"tests", "runs", "reason"}
        assert len(entry["reason"]) > 50
        assert all(re.fullmatch(r"[a-z_/]+\.py::[\w:]+(\[.*\])?", test) for test in entry["tests"])
        policies = {"checkpoints", "outputs", "auto"}
        assert {tuple(run.split()) for run in entry["runs"]} <= {
            (p, w) for p in policies for w in ("cold", "warm")
        }

"""The user's code is keyed by Python's minor version and ``-O`` level: the same source is other bytecode elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_fingerprint_processes import MAIN

ROOT = Path(__file__).parents[2]
MINORS = range(12, 17)

# Installed code is known by its version, wherever it runs; the standard library's by Python's.
INSTALLED = {"ufunc"}


@cache
def other_pythons() -> list[str]:
    """Find interpreters of other minor versions that can import this package."""
    named = os.environ.get("DASKCACHE_TEST_PYTHONS", "").split(os.pathsep)
    here = sys.version_info.minor
    found = [shutil.which(f"python3.{minor}") for minor in MINORS if minor != here]
    able = []
    for python in dict.fromkeys(path for path in (*named, *found) if path):
        asked = subprocess.run(
            [python, "-W", "ignore", "-c", "import sys, cloudpickle, daskcache; print(sys.version_info.minor)"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if asked.returncode == 0 and int(asked.stdout) != here:
            able.append(python)
    return able


def digests(script: Path, python: str, seed: int, *options: str) -> dict[str, str]:
    done = subprocess.run(
        [python, "-W", "ignore", *options, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)[0]
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripts") / "script.py"
    path.write_text(MAIN)
    return path


def test_optimisation_levels_are_keyed_apart(script: Path) -> None:
    plain, optimised, stripped = (
        digests(script, sys.executable, 1, *options) for options in ((), ("-O",), ("-OO",))
    )
    assert len(plain) > 20
    for one, other in ((plain, optimised), (plain, stripped), (optimised, stripped)):
        assert {name for name in one if one[name] == other[name]} == INSTALLED
    assert digests(script, sys.executable, 2, "-O") == optimised


def test_minor_versions_are_keyed_apart(script: Path) -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip(
            "no Python of another minor version can import daskcache; name one in DASKCACHE_TEST_PYTHONS"
        )
    here = digests(script, sys.executable, 1)
    for python in pythons:
        there = digests(script, python, 1)
        assert {name for name in here if here[name] == there[name]} <= INSTALLED
        # Among themselves they agree.
        assert digests(script, python, 2) == there

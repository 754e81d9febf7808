"""Hypothesis profiles, and markers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.workspace import Workspace

_COMMON = {
    # A time limit per example measures the machine; pytest-timeout limits the test.
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
settings.register_profile("dev", max_examples=25, **_COMMON)
settings.register_profile("ci", max_examples=100, derandomize=True, database=None, **_COMMON)
settings.register_profile("nightly", max_examples=2000, **_COMMON)
settings.load_profile(os.environ.get("DASKCACHE_HYPOTHESIS_PROFILE", "dev"))

_PROGRAMS = {
    "radosgw": "radosgw",
    "redis-server": "redis-server",
    "sshd": "sshd",
    "nginx": "nginx",
    "postgresql": "pg_createcluster",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--nightly"):
        return
    held = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=held)
    items[:] = [item for item in items if item not in held]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("server"):
        program = _PROGRAMS[mark.args[0]]
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is not installed")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Give an empty directory of modules on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # Two variants of a file may have one size and time.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    space = Workspace(tmp_path)
    yield space
    space.forget()

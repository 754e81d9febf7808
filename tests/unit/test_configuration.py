"""Where settings come from, and which wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, dask
if "code" in sys.argv: dask.config.set({"daskcache.namespace": "of-code"})
import daskcache
from daskcache.cli import main
sys.argv = ["daskcache", "config", "--json"]
main()
"""

FILES = {
    "home": (".daskcache.toml", '{key} = "{value}"'),
    "dask": ("dask/daskcache.yaml", "daskcache:\n  {key}: {value}"),
    "pyproject": ("project/pyproject.toml", '[tool.daskcache]\n{key} = "{value}"'),
    "toml": ("project/daskcache.toml", '{key} = "{value}"'),
}


def configured(home: Path, *arguments: str, **environment: str) -> dict[str, tuple[object, str]]:
    """Give the settings of a process that starts deep in a project."""
    here = home / "project/deep/er"
    here.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
        cwd=here,
        env={**os.environ, "HOME": str(home), "DASK_CONFIG": str(home / "dask"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return {one["key"]: (one["value"], one["origin"]) for one in json.loads(done.stdout)}


def write(home: Path, name: str, key: str = "namespace") -> str:
    path, text = FILES[name]
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    (home / path).write_text(text.format(key=key, value=f"of-{name}"))
    return str(home / path)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DASK_DASKCACHE__NAMESPACE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def test_each_layer_wins_over_those_below(home: Path) -> None:
    assert configured(home)["daskcache.namespace"] == ("default", "default")
    for name in FILES:
        path = write(home, name)
        assert configured(home)["daskcache.namespace"] == (f"of-{name}", path)
    environment = {"DASK_DASKCACHE__NAMESPACE": "of-environment"}
    assert configured(home, **environment)["daskcache.namespace"] == ("of-environment", "environment")
    assert configured(home, "code")["daskcache.namespace"] == ("of-code", "code")


def test_sections_names_of_the_users_and_secrets(home: Path) -> None:
    (home / "project").mkdir()
    (home / "project/pyproject.toml").write_text(
        "[tool.daskcache]\nstore = 's3://bucket/cache'\n[tool.daskcache.functions]\nmemory = '3 MiB'\n"
        "[tool.daskcache.storage_options]\nendpoint_url = 'http://x'\nsecret = 'hidden-away'\n"
        "[tool.daskcache.namespaces.my_own]\nmode = 'read'\n"
    )
    found = configured(home)
    origin = str(home / "project/pyproject.toml")
    assert found["daskcache.functions.memory"] == ("3 MiB", origin)
    assert found["daskcache.store"] == ("s3://bucket/cache", origin)
    assert found["daskcache.storage-options"][0] == {"endpoint_url": "http://x", "secret": "***"}
    assert found["daskcache.namespaces"][0] == {"my_own": {"mode": "read"}}
    assert found["daskcache.functions.verify"] == ("sources", "default")


def test_a_file_that_is_no_toml_is_left_out_with_a_warning(home: Path) -> None:
    write(home, "home")
    (home / "project").mkdir()
    (home / "project/daskcache.toml").write_text("namespace = ")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        configured(home)
    assert "is no TOML" in caught.value.stderr
    assert "files that configure daskcache are left out" in caught.value.stderr

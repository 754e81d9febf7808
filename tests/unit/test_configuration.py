"""Where settings come from, and which wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import pytest

import daskcache
from daskcache.errors import InvalidInputError
from daskcache.locations import to_root

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


def test_what_is_no_setting_is_not_listed_as_one(home: Path) -> None:
    write(home, "dask", "polcy")
    write(home, "toml", "names_pace")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "daskcache.cli", "config"],
        cwd=home / "project",
        env={**os.environ, "HOME": str(home), "DASK_CONFIG": str(home / "dask")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "polcy" not in done.stdout
    assert done.stderr.splitlines() == [
        f"daskcache.{wrong} is no setting, and has no effect; did you mean daskcache.{right}? (from {home / path})"
        for wrong, right, path in [
            ("names-pace", "namespace", FILES["toml"][0]),
            ("polcy", "policy", FILES["dask"][0]),
        ]
    ]


def test_a_file_that_is_no_toml_is_left_out_with_a_warning(home: Path) -> None:
    write(home, "home")
    (home / "project").mkdir()
    (home / "project/daskcache.toml").write_text("namespace = ")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        configured(home)
    assert "is no TOML" in caught.value.stderr
    assert "files that configure daskcache are left out" in caught.value.stderr


def test_a_project_cannot_say_which_stores_may_run_code(home: Path) -> None:
    (home / "project").mkdir()
    path = home / "project/pyproject.toml"
    path.write_text(
        "[tool.daskcache]\nnamespace = 'ours'\n[tool.daskcache.functions]\npickle = ['/tmp/theirs']\n"
    )
    program = PROGRAM.replace(
        "import daskcache\n", "import warnings; warnings.simplefilter('ignore'); import daskcache\n", 1
    )
    shown = "import dask; print(dask.config.get('daskcache.functions.pickle'), dask.config.get('daskcache.namespace'))"
    done = subprocess.run(
        [sys.executable, "-c", program.partition("from daskcache.cli")[0] + shown],
        cwd=home / "project",
        env={**os.environ, "HOME": str(home), "DASK_CONFIG": str(home / "dask")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["[]", "default"]
    write(home, "home", "unused")
    (home / ".daskcache.toml").write_text("[functions]\npickle = ['/tmp/mine']\n")
    path.unlink()
    assert configured(home)["daskcache.functions.pickle"] == (["/tmp/mine"], str(home / ".daskcache.toml"))


NAMED = {
    "near": "memory://near",
    "far_away": {"url": "memory://far", "max-object": "1 MiB"},
    "both": [{"url": "near", "write": False}, "far-away"],
}


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("near", "memory://near"),
        ("far-away", {"url": "memory://far", "max_object": "1 MiB"}),
        ("far_away", {"url": "memory://far", "max_object": "1 MiB"}),
        (
            {"url": "far-away", "read-only": True, "max_object": 5},
            {"url": "memory://far", "max_object": 5, "read_only": True},
        ),
        ("both", [{"url": "memory://near", "write": False}, {"url": "memory://far", "max_object": "1 MiB"}]),
        (
            {"url": "both", "read_only": True},
            {
                "levels": [
                    {"url": "memory://near", "write": False},
                    {"url": "memory://far", "max_object": "1 MiB"},
                ],
                "read_only": True,
            },
        ),
        ({"fanout": ["near", "both"]}, {"fanout": ["memory://near", NAMED["both"]]}),
        ("./near", str(Path("near").absolute())),
    ],
)
def test_names_stand_for_stores(given: object, root: object) -> None:
    with dask.config.set({"daskcache.stores": NAMED}):
        found, expected = to_root(given), to_root(root)
    assert found == expected
    # Workers have no names.
    assert to_root(found) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "b", "b": {"url": "a"}}, "a is b is a"),
        ({"a b": "/x"}, r"has the names \['a b'\]"),
        (["a"], "expected a mapping of names"),
        ({"a": 3}, "expected a path or a URL"),
        ({"a": "s3://me:pass@bucket"}, "holds a secret"),
    ],
)
def test_names_that_stand_for_nothing(names: object, message: str) -> None:
    with (
        dask.config.set({"daskcache.stores": names}),
        pytest.raises(InvalidInputError, match=message) as caught,
    ):
        to_root("a")
    assert "pass" not in str(caught.value)


def test_what_is_stored_by_name_is_opened_by_place(tmp_path: Path) -> None:
    named = {"lab": str(tmp_path / "lab"), "copy": {"url": str(tmp_path / "copy")}}
    with dask.config.set({"daskcache.stores": named, "daskcache.store": ["copy", "lab"]}):
        daskcache.persist(da.arange(6, chunks=2), "numbers")
        assert daskcache.open("numbers", store="lab").compute().tolist() == [0, 1, 2, 3, 4, 5]
    assert daskcache.open("numbers", store=tmp_path / "lab").sum().compute() == 15

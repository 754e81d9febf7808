"""daskcache.cli: what the commands print, and how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from daskcache.catalog import Catalog
from daskcache.cli import cache
from daskcache.manifest import Manifest
from daskcache_command import COMMANDS


def run(*args: str) -> Result:
    return CliRunner().invoke(cache, list(args), catch_exceptions=False)


@pytest.fixture
def published(store_root: Path) -> list[str]:
    """Give the versions of two entries, in two namespaces."""
    one = Manifest.build("dataset", (), info={"recipe": {"mean": "abc"}})
    two = Manifest.build("array", (), name="x")
    Catalog(str(store_root)).publish("era5/mean", one)
    Catalog(str(store_root), "ssp585").publish("anomaly", two)
    return [one.version, two.version]


def test_ls_says_where_there_is_nothing(store_root: Path) -> None:
    result = run("ls")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == f"no entries in namespace 'default' of {store_root}\n"
    assert not store_root.exists(), "looking must not make a store"


def test_ls(published: list[str]) -> None:
    lines = run("ls").stdout.splitlines()
    assert lines[0].split() == ["namespace", "entry", "version", "published", "versions", "blocks", "size"]
    assert lines[1].split()[:3] == ["default", "era5/mean", published[0][:12]]
    assert len(lines) == 2


def test_ls_of_a_namespace_and_of_all(published: list[str]) -> None:
    def entries(*args: str) -> list[tuple[str, str, str]]:
        rows = json.loads(run(*args, "--json").stdout)["entries"]
        return [(row["namespace"], row["entry"], row["version"]) for row in rows]

    assert entries("--namespace", "ssp585", "ls") == [("ssp585", "anomaly", published[1])]
    assert entries("ls", "--all") == [
        ("default", "era5/mean", published[0]),
        ("ssp585", "anomaly", published[1]),
    ]


def test_ls_of_another_store(published: list[str], tmp_path: Path) -> None:
    assert json.loads(run("--store", str(tmp_path / "other"), "ls", "--json").stdout)["entries"] == []


@pytest.mark.parametrize("digits", [None, 6, 40])
def test_show(published: list[str], digits: int | None) -> None:
    name = "era5/mean" if digits is None else f"era5/mean@{published[0][:digits]}"
    result = run("show", name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"default/era5/mean@{published[0]}\ndataset in ")
    document = json.loads(run("show", name, "--json").stdout)
    assert (document["version"], document["kind"]) == (published[0], "dataset")
    assert document["info"]["recipe"] == {"mean": "abc"}
    assert [info["version"] for info in document["versions"]] == [published[0]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "era5/median"), "era5/median"),
        (("show", "era5/mean@ffffffffffff"), "ffffffffffff"),
        (("show", "era5/mean@"), "names no version"),
        (("show", "../up"), "../up"),
        (("--namespace", "a/b", "ls"), "a/b"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    published: list[str], args: tuple[str, ...], message: str
) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_is_a_command_of_its_own_and_of_dask() -> None:
    (script,) = entry_points(group="console_scripts", name="daskcache")
    assert script.value == "daskcache_command:main"
    (plugin,) = entry_points(group="dask_cli", name="cache")
    assert plugin.load() is cache
    assert isinstance(cache, click.Group)


def test_all_commands_are_listed_with_what_their_own_help_begins_with() -> None:
    context = click.Context(cache)
    commands = {name: cache.get_command(context, name) for name in cache.list_commands(context)}
    assert commands == cache.commands, "a command is missing in daskcache_command.COMMANDS"
    helps = {name: command and command.get_short_help_str(1000) for name, command in commands.items()}
    assert helps == COMMANDS
    for name in COMMANDS:
        assert f"\n  {name} " in run("--help").stdout


@pytest.mark.parametrize(
    "arguments", [["dask", "--help"], ["dask", "cache", "--help"], ["daskcache", "--help"]]
)
def test_commands_are_listed_without_the_package(arguments: list[str]) -> None:
    program = """
import atexit, sys
from importlib.metadata import entry_points
atexit.register(lambda: print("loaded:", {"daskcache", "xarray", "zarr"} & sys.modules.keys()))
(script,) = entry_points(group="console_scripts", name=sys.argv[0])
script.load()()
"""
    command = [sys.executable, "-c", f"import sys; sys.argv = {arguments}" + program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = result.stdout.splitlines()[-1]
    plain = [sys.executable, "-c", "import sys; sys.argv = ['dask', 'info', '--help']" + program]
    if arguments[0] == "dask":
        # Other packages may have commands of dask's as well, which import what they like.
        others = subprocess.run(plain, capture_output=True, text=True, timeout=60, check=True)
        assert loaded == others.stdout.splitlines()[-1]
        assert "'daskcache'" not in loaded
    else:
        assert loaded == "loaded: set()"
    assert "Look at what daskcache has stored" in result.stdout


def test_missing_click_names_the_extra() -> None:
    program = "import sys; sys.modules['click'] = None; import daskcache.cli"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "daskcache[cli]" in result.stderr.splitlines()[-1]

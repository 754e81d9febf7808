"""Law 2 for sources, at the grain of their chunks and files: what an edit, growth and a copy cost in blocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.source_kinds import KINDS, edit, tokens_of

ROOT = Path(__file__).parents[2]
PARTS = 3

# eccodes breaks a process that has loaded other libraries, when that ends.
ELSEWHERE = {"grib"}
HERE = [name for name in KINDS if name not in ELSEWHERE]

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def make(name: str, root: Path) -> Path:
    for library in KINDS[name].libraries:
        pytest.importorskip(library)
    directory = root / name
    directory.mkdir()
    for part in range(PARTS):
        KINDS[name].write(directory, part, 0.0)
    return directory


def tokens(name: str, directory: Path, count: int = PARTS, **settings: Any) -> list[str]:
    found = tokens_of(KINDS[name].open(directory, count), **settings)
    assert all(len(token) == 40 for token in found), found
    return found


def same(before: list[str], after: list[str]) -> list[bool]:
    return [one == other for one, other in zip(before, after, strict=False)]


def check_edits(found: dict[str, list[str]]) -> None:
    before, edited, grown = found["written"], found["edited"], found["grown"]
    assert all(len(token) == 40 for tokens in found.values() for token in tokens), found
    assert len(set(before)) == len(before) == PARTS
    assert found["again"] == before
    assert same(before, edited) == [True, False, True]
    assert len(grown) == PARTS + 1
    assert same(edited, grown) == [True] * PARTS


@pytest.mark.parametrize("name", HERE)
def test_an_edit_costs_the_blocks_of_its_part_and_growth_none(name: str, tmp_path: Path) -> None:
    for library in KINDS[name].libraries:
        pytest.importorskip(library)
    check_edits(edit(name, tmp_path))


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_an_edit_costs_the_same_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    for library in KINDS[name].libraries:
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    check_edits(run("1", "edit", name, str(tmp_path)))


@pytest.mark.parametrize("check", ["chunks", "content"])
@pytest.mark.parametrize("name", [name for name in HERE if KINDS[name].file])
def test_a_part_rewritten_in_place_with_its_time_restored_is_seen(
    name: str, check: str, tmp_path: Path
) -> None:
    directory = make(name, tmp_path)
    before = tokens(name, directory, source_check=check)
    other = tmp_path / "other"
    other.mkdir()
    for part, offset in enumerate((0.0, 0.25)):
        KINDS[name].write(other, part, offset)
    path = directory / KINDS[name].file.format(1)
    status = path.stat()
    with path.open("r+b") as file:
        file.write((other / KINDS[name].file.format(1)).read_bytes())
        file.truncate()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert same(before, tokens(name, directory, source_check=check)) == [True, False, True]


@pytest.mark.parametrize("name", HERE)
def test_a_mirror_has_the_tokens_of_what_it_mirrors(name: str, tmp_path: Path) -> None:
    """Where an alias says so, and where bytes alone count; a copy that is edited differs in the edited part."""
    home = make(name, tmp_path)
    mirror = tmp_path / "mirror" / name
    shutil.copytree(home, mirror)
    aliases = ((str(mirror), str(home)),)
    expected = tokens(name, home, source_aliases=aliases)
    assert tokens(name, mirror, source_aliases=aliases) == expected
    content = tokens(name, home, source_check="content")
    assert tokens(name, mirror, source_check="content") == content
    # Icechunk names its chunks so that no two are called alike, wherever they lie.
    is_named = name == "icechunk"
    assert same(tokens(name, home), tokens(name, mirror)) == [is_named] * PARTS
    KINDS[name].write(mirror, 1, 0.25)
    assert same(expected, tokens(name, mirror, source_aliases=aliases)) == [True, False, True]
    assert same(content, tokens(name, mirror, source_check="content")) == [True, False, True]


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root, able = tmp_path_factory.mktemp("kinds"), []
    for name in HERE:
        try:
            make(name, root)
        except pytest.skip.Exception:
            continue
        able.append(name)
    return root, able


def run(seed: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.source_kinds", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_two_processes_agree(all_kinds: tuple[Path, list[str]]) -> None:
    root, able = all_kinds
    assert len(able) >= 7
    found = [run("1", str(root), *able), run("2", str(root), *reversed(able))]
    assert found[0] == found[1]
    assert {name: tokens(name, root / name) for name in able} == found[0]


def test_no_kind_meets_another(all_kinds: tuple[Path, list[str]]) -> None:
    root, able = all_kinds
    found = [token for name in able for token in tokens(name, root / name)]
    assert len(set(found)) == len(found)

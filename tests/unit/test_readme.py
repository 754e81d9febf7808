"""The examples of the README and the docs run and print what the pages say."""

from __future__ import annotations

import copy
import doctest
import re
import shlex
from pathlib import Path

import dask.config
import pytest
from click.testing import CliRunner

from daskcache.cli import cache

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block of Python, and the output that the page shows right below it.
EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n(?:\s*^```(?:text|console|output)\n(.*?)^```)?", re.DOTALL | re.MULTILINE
)


def examples() -> list[object]:
    found = []
    for page in PAGES:
        for number, match in enumerate(EXAMPLE.finditer(page.read_text(encoding="utf-8"))):
            label = f"{page.relative_to(ROOT)}-{number}"
            found.append(pytest.param(match[1], match[2] or "", id=label))
    return found


def run_command(line: str) -> str:
    """Give what a terminal shows."""
    _, program, *arguments = shlex.split(line)
    assert program == "daskcache"
    return f"{line}\n{CliRunner().invoke(cache, arguments).output}"


@pytest.mark.parametrize(("program", "expected"), examples())
def test_example_runs_and_prints_what_is_shown(
    program: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with dask.config.set({}):
        before = copy.deepcopy(dask.config.config)
        try:
            exec(compile(program, "<example>", "exec"), {"__name__": "__main__"})
            # In a console below it, commands use what the program stored.
            commands = "".join(run_command(line) for line in expected.splitlines() if line.startswith("$ "))
        finally:
            # An example may activate the pass for good.
            dask.config.config.clear()
            dask.config.config.update(before)
    printed = capsys.readouterr().out + commands
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, printed, flags), (
        f"the page shows\n{expected}\nbut it prints\n{printed}"
    )

"""The scripts find a Python that runs, whatever lies on PATH."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"
LIB = CI / "lib.sh"
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{BASH}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def find_python(
    home: Path, *path: Path, script: str = "find_python", **environment: str
) -> tuple[int, str, str]:
    """Call the function with this PATH, below an empty home directory."""
    done = subprocess.run(
        [
            str(BASH),
            "-c",
            'PATH=/usr/bin:/bin . "$1"; PATH=$2; eval "$3"',
            "-",
            str(LIB),
            ":".join(map(str, path)),
            script,
        ],
        env={"HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


# What a version manager leaves where a version is not installed, and a Python that is too old or bare.
SHIM = "echo 'pyenv: python3: command not found' >&2; exit 127"
WORKS = f'exec {sys.executable} "$@"'


def test_a_shim_that_fails_is_skipped(tmp_path: Path) -> None:
    for name in ("python3.12", "python3", "python"):
        program(tmp_path / "shims" / name, SHIM)
    works = program(tmp_path / "bin" / "python3.12", WORKS)
    found = find_python(tmp_path, tmp_path / "shims", tmp_path / "bin")
    assert found == (0, str(works), "")


def test_the_account_s_own_home_is_looked_at(tmp_path: Path) -> None:
    works = program(tmp_path / "account" / ".pyenv" / "versions" / "3.12.9" / "bin" / "python3.12", WORKS)
    # Nothing runs elsewhere, in whatever place of this machine it lies.
    runs = f"python_runs() {{ case $1 in {tmp_path}/*) return 0 ;; esac; return 1; }}"
    script = f"{runs}; find_home() {{ echo {tmp_path}/account; }}; find_python"
    assert find_python(tmp_path / "home", script=script) == (0, str(works), "")


def test_the_account_s_own_home_is_not_that_of_the_job(tmp_path: Path) -> None:
    found = find_python(tmp_path, script="find_home")
    assert found == (0, pwd.getpwuid(os.getuid()).pw_dir, "")


def test_none_that_runs_is_said(tmp_path: Path) -> None:
    program(tmp_path / "shims" / "python3", SHIM)
    # Nothing runs, in whatever place of this machine it lies.
    script = "python_runs() { return 1; }; find_python; echo not reached"
    status, found, errors = find_python(tmp_path, tmp_path / "shims", script=script)
    assert (status, found) == (1, "")
    assert errors.startswith("error: found no Python 3.12 or newer that runs and has ensurepip")
    assert "DASKCACHE_PYTHON=/path/to/python3.12" in errors


@pytest.mark.parametrize(
    ("tests", "suites", "arguments", "given"),
    [
        (0, 0, (), ["--nightly", ""]),
        (1, 0, ("--most", "1", "a b"), ["--nightly", "--most|1|a b"]),
        (0, 3, ("dask", "--", "-k", "a b", "--", "c"), ["--nightly|--|-k|a b|--|c", "dask"]),
        (2, 1, ("--", "-x"), ["--nightly|--|-x", ""]),
    ],
)
def test_a_night_runs_both_jobs_and_fails_with_either(
    tmp_path: Path, tests: int, suites: int, arguments: tuple[str, ...], given: list[str]
) -> None:
    """Whatever came of the first, the second is run, each with its own arguments."""
    nightly = tmp_path / "ci" / "nightly"
    for name, status in {"test": tests, "suites": suites}.items():
        program(
            nightly.with_name(name), f'(IFS="|"; echo "{name}: $*" >>{tmp_path}/given); cat; exit {status}'
        )
    shutil.copy(CI / "nightly", nightly)
    done = subprocess.run(
        [str(nightly), *arguments],
        input="typed", capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert "typed" not in done.stdout, "nobody sits there at night"
    expected = [f"{name}: {ours}" for name, ours in zip(("test", "suites"), given, strict=True)]
    assert (tmp_path / "given").read_text().splitlines() == expected
    assert done.returncode == (1 if tests or suites else 0)
    *_, first, second, _, last = done.stdout.splitlines()
    for line, label, status in ((first, "ci/test --nightly", tests), (second, "ci/suites", suites)):
        assert line.split()[0] == ("FAILED" if status else "ok")
        assert line.endswith(f"{label} (exit code {status})" if status else f"  {label}")
    failed = bool(tests) + bool(suites)
    assert last == f"jobs: {2 - failed} passed, {failed} failed"


def test_what_a_night_is_is_told_and_not_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(CI / "nightly"), "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("What takes hours")
    assert "exit 0" not in done.stdout
    for name in ("test", "suites"):
        assert os.access(CI / name, os.X_OK), f"ci/nightly calls ci/{name}"

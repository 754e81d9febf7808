"""Functions of notebooks: a cell's code counts, its number and what else was run do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("IPython")
pytestmark = pytest.mark.timeout(400)

HELPER = "STEP = 2\ndef helper(x):\n    return x + STEP"
MAIN = "import numpy as np\ndef main(block):\n    return np.sin(helper(block))"

NOTEBOOK = """
import json, sys
import cloudpickle
from IPython.core.interactiveshell import InteractiveShell
from daskcache.fingerprint import Fingerprinter

shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    shell.run_cell(cell, store_history=True).raise_error()
main = shell.user_ns["main"]
fingerprinter = Fingerprinter()
digest = fingerprinter.fingerprint(main).hex()
shell.user_ns["fingerprint"] = lambda obj: Fingerprinter().fingerprint(obj).hex()
shell.run_cell("inside = fingerprint(main)").raise_error()
assert shell.user_ns["inside"] == digest
pickled = cloudpickle.loads(cloudpickle.dumps(main))
assert Fingerprinter().fingerprint(pickled).hex() == digest
assert not fingerprinter.code_units, fingerprinter.code_units
print("digest", digest)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "notebook.py"
    path.write_text(NOTEBOOK)
    return path


def run(program: Path, *cells: str, seed: str = "0") -> str:
    result = subprocess.run(
        [sys.executable, str(program), json.dumps(cells)],
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "IPYTHONDIR": str(program.parent / "ipython"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return result.stdout.rpartition("digest ")[2].strip()


@pytest.mark.slow
def test_cells(program: Path) -> None:
    digest = run(program, HELPER, MAIN)
    assert len(digest) == 40
    # Other numbers, another order, other things run besides, magics, another seed.
    assert (
        run(program, "1 + 1", MAIN, "%pwd", "x = [helper, 3] if 'helper' in dir() else 0", HELPER, seed="7")
        == digest
    )
    # Run again, and a helper that was another before.
    assert run(program, HELPER.replace("+", "*"), MAIN, MAIN, HELPER) == digest
    edited = run(program, HELPER, MAIN, HELPER.replace("x +", "x -"))
    assert edited != digest
    assert run(program, HELPER, MAIN, "STEP = 3") not in {digest, edited}


@pytest.mark.slow
def test_scripts_that_a_notebook_runs(program: Path) -> None:
    script = program.with_name("script.py")
    script.write_text(f"{HELPER}\n\n\n{MAIN}\n")
    digest = run(program, HELPER, MAIN)
    assert run(program, "%run script.py") == digest
    script.write_text(f'"""Documented."""\n{HELPER}\n\n\n{MAIN}  # a comment\n')
    assert run(program, "%run script.py") == digest
    script.write_text(f"{HELPER.replace('2', '4')}\n\n\n{MAIN}\n")
    assert run(program, "%run script.py") != digest

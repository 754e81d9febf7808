"""A bar is drawn where somebody sees it, of what takes more than a second, and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.terminals import BAR, PRELUDE, ROOT, watch

pytestmark = pytest.mark.slow

WAYS = """
daskcache.persist(gated("persist"), "a")
daskcache.persist(gated("wait"), "b", wait=False)
daskcache.last_run().wait()
daskcache.persist(gated("result"), "c", wait=False)
daskcache.last_run().result()
daskcache.persist(dask.delayed(lambda x: x.tolist())(gated("value")), "d")
tell("end")
"""


def is_complete(text: str) -> bool:
    """Tell whether there is one bar, drawn to its end, and nothing on its line after that."""
    return text.count("\n") == 2 and re.search(r"\r\[#{40}\] \| 100% Completed \| .*s\n$", text) is not None


@pytest.mark.parametrize("kernel", [False, True], ids=["terminal", "notebook"])
def test_whoever_waits_on_a_terminal_or_in_a_notebook_sees_a_bar(
    tmp_path: Path, store_root: Path, kernel: bool
) -> None:
    """It is there while the work is under way, which ends when it is seen."""
    seen = watch(WAYS, store_root, tmp_path / "gates", terminal=not kernel, kernel=kernel)
    assert list(seen) == ["", "persist", "wait", "result", "value", "end"]
    assert BAR not in seen[""]
    for name in ("persist", "wait", "result"):
        assert is_complete(seen[name]), seen[name]
    assert "100% Completed" in seen["value"]


def test_nobody_sees_a_bar_in_a_file_that_does_not_ask_for_it(tmp_path: Path, store_root: Path) -> None:
    program = """
    begun = time.perf_counter()
    daskcache.persist(made(last, 1.1), "a")
    assert time.perf_counter() - begun > 1
    daskcache.persist(made(last, 1.3), "b", wait=False)
    _ = daskcache.last_run().wait()
    tell("asked")
    with dask.config.set({"daskcache.progress": True}):
        daskcache.persist(made(last, 1.2), "c")
    """
    told = tmp_path / "told"
    with told.open("w") as file:
        subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
            stderr=file, cwd=ROOT, check=True, env={**os.environ, "DASK_DASKCACHE__STORE": str(store_root)},
        )  # fmt: skip
    silent, asked = told.read_bytes().decode().split("== asked\n")
    assert silent == ""
    assert is_complete(asked)


def test_what_takes_less_than_a_second_has_none(tmp_path: Path, store_root: Path) -> None:
    """On a busy machine anything may take a second, so it is done until it does not."""
    program = """
    for number in range(30):
        tell(number)
        begun = time.perf_counter()
        daskcache.persist(made(last, number / 1000), str(number))
        daskcache.persist(made(last, number / 1000) + 1, f"{number}-wait", wait=False)
        daskcache.last_run().wait()
        elapsed = time.perf_counter() - begun
        tell("elapsed")
        if elapsed < 1:
            break
    tell("end" if elapsed < 1 else "slow")
    """
    seen = watch(program, store_root, tmp_path, terminal=True)
    *_, text = (text for name, text in seen.items() if name.isdigit())
    assert "end" in seen
    assert text.count("daskcache: storing 2 of 2 blocks") == 2
    assert BAR not in text


def test_what_the_pass_does_has_the_bar_of_dask_and_what_is_set_counts(
    tmp_path: Path, store_root: Path
) -> None:
    """None, unless the user asks dask for one, which then is drawn once. A persist has none if it is not wanted."""
    program = """
    from dask.diagnostics import ProgressBar

    daskcache.activate(policy="outputs")
    tell("plain")
    made(last, 1.2).compute()
    with dask.config.set({"daskcache.progress": False}):
        daskcache.persist(made(last, 1.1), "x")
    tell("asked")
    with ProgressBar(out=sys.stderr):
        made(last, 1.3).compute()
    tell("loaded")
    with ProgressBar(out=sys.stderr):
        made(last, 1.3).compute()
    assert daskcache.last_run().loaded == 2
    """
    seen = watch(program, store_root, tmp_path, terminal=True)
    assert seen["plain"] == ""
    for name in ("asked", "loaded"):
        assert seen[name].count("100% Completed") == seen[name].count("\n") == 1


def test_a_task_that_computes_something_itself_has_no_bar_of_its_own(
    tmp_path: Path, store_root: Path
) -> None:
    """As in dask, also where the bar is the user's own."""
    program = """
    from dask.diagnostics import ProgressBar

    @daskcache.version("1")
    def nested(block, seconds):
        da.ones(4, chunks=2).sum().compute(scheduler="sync")
        return last(block, seconds)

    with dask.config.set({"num_workers": 1, "daskcache.progress": True}):
        tell("ours")
        daskcache.persist(made(nested, 0.7), "x")
    with dask.config.set({"num_workers": 1, "daskcache.progress": False}), ProgressBar(out=sys.stderr):
        tell("own")
        daskcache.persist(made(nested, 0.6), "y")
    """
    seen = watch(program, store_root, tmp_path, terminal=True)
    assert is_complete(seen["ours"]), seen["ours"]
    assert seen["own"].count("100% Completed") == seen["own"].count("\n") == 1


def test_a_run_that_fails_or_takes_longer_than_one_waits_is_not_drawn_as_complete(
    tmp_path: Path, store_root: Path
) -> None:
    program = """
    @daskcache.version("1")
    def fail(block, gate):
        if 3 in wait_for(block, gate):
            raise ArithmeticError
        return block

    gate = os.path.join(os.environ["TEST_GATES"], "fails")
    open(gate, "x").close()
    daskcache.persist(made(fail, gate), "x", wait=False)
    tell("late")
    try:
        daskcache.last_run().wait(1.2)
    except TimeoutError:
        tell("fails")
    try:
        daskcache.last_run().wait()
    except ArithmeticError:
        tell("end")
    """
    seen = watch(program, store_root, tmp_path / "gates", terminal=True)
    assert list(seen) == ["", "late", "fails", "end"]
    for name in ("late", "fails"):
        *_, line = seen[name].split("\r[")
        assert BAR in line
        assert "100%" not in line
        assert line.endswith("\n")


def test_whatever_stands_for_standard_error() -> None:
    """A bar is drawn or not, and nothing fails for it. A shell of IPython is no notebook where it has no kernel."""
    program = """
    import io
    import types
    from IPython.core.interactiveshell import InteractiveShell
    from daskcache import progress

    closed = io.StringIO()
    closed.close()
    progress.PATIENCE_S = 0
    shell = InteractiveShell.instance()
    for kernel in ({}, {"kernel": None}, {"kernel": object()}):
        vars(shell).update(kernel)
        for stream in (None, closed, types.SimpleNamespace(write=print), io.StringIO()):
            sys.stderr = stream
            shown = progress.shows_progress("auto")
            with progress.drawing_bar(lambda: 0.5, True) as draw:
                draw()
            sys.stderr = sys.__stderr__
            assert shown == bool(kernel.get("kernel")), (shown, stream, kernel)
    assert "100%" in stream.getvalue()
    """
    subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )

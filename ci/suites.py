"""Runs the test suites of dask, xarray and flox without the pass and under it, and compares what each test does.

Called by ``ci/suites``, which makes the environment. The runs that it starts write down, test by test, what came out: see
``suites_plugin.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
EXPLAINED = HERE / "suites-explained.toml"

SUITES = {
    "dask": ["dask.array.tests", "dask.tests", "dask.bag.tests"],
    "xarray": ["xarray.tests"],
    # Not in the wheel.
    "flox": ["flox/tests"],
}
"""What is run, by the project that it is of: packages, or directories of an unpacked source distribution."""

UNPACKED = "unpacked"
"""Where the latter lie. No directory of imports: what is tested is what is installed."""

HOME = "home"
"""Where tests are run, away from everybody's settings."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suites."""

    name: str
    """What people call it."""
    policy: str | None = None
    """The policy of the pass; None without it."""
    store: str | None = None
    """Runs of one store's name share a store, one after the other."""


RUNS = (
    Run("off"),
    Run("checkpoints cold", "checkpoints", "checkpoints"),
    Run("outputs cold", "outputs", "outputs"),
    Run("outputs warm", "outputs", "outputs"),
    # Nothing is marked there, so it has something to load only where another policy stored it.
    Run("checkpoints warm", "checkpoints", "outputs"),
    Run("auto cold", "auto", "auto"),
    Run("auto warm", "auto", "auto"),
)
"""In this order; the first is what the others are compared with."""


@dataclass(slots=True)
class Outcome:
    """What came of one test."""

    result: str
    """Such as ``passed``; with the kind of error where it failed."""
    message: str = ""
    """The first line of what it failed with."""
    loads: int = 0
    """Blocks that the pass loaded."""
    writes: int = 0
    """Blocks that the pass had stored."""
    warned: list[str] = field(default_factory=list)
    """What the pass warned of."""


def run_suites(
    targets: Sequence[str], runs: Sequence[Run], work: Path, arguments: Sequence[str]
) -> dict[str, Any]:
    """Run the targets once for each of the runs.

    Parameters
    ----------
    targets : sequence of str
        What pytest is given.
    runs : sequence of Run
        What to run.
    work : Path
        Where stores and outcomes go.
    arguments : sequence of str
        More for pytest.

    Returns
    -------
    dict of str to dict of str to Outcome
        By run and test.
    """
    outcomes = {}
    for run in runs:
        out = work / f"{run.name.replace(' ', '-')}.jsonl"
        start_pytests(targets, run, work, out, arguments)
        outcomes[run.name] = read_outcomes(out)
    return outcomes


def start_pytests(targets: Sequence[str], run: Run, work: Path, out: Path, arguments: Sequence[str]) -> None:
    """Run pytest once for what is installed and once for what is unpacked, so that each test has its path for an id.

    Parameters
    ----------
    targets : sequence of str
        What they run.
    run : Run
        How.
    work : Path
        Where stores go, and what is unpacked lies.
    out : Path
        Where they write outcomes.
    arguments : sequence of str
        More for them.
    """
    print(f"── {run.name}", flush=True)
    out.unlink(missing_ok=True)
    unpacked = [str(work / UNPACKED / target) for target in targets if "/" in target]
    installed = [target for target in targets if "/" not in target]
    for root, some in ((Path(pytest.__file__).parents[1], installed), (work / UNPACKED, unpacked)):
        if some:
            # Nothing of a checkout around them either, such as its conftest.py, which would switch the pass off.
            start_pytest(some, run, work, out, [f"--rootdir={root}", f"--confcutdir={root}", *arguments])


def start_pytest(targets: Sequence[str], run: Run, work: Path, out: Path, arguments: Sequence[str]) -> None:
    """Run pytest in a new process, with the pass as the run says.

    Parameters
    ----------
    targets : sequence of str
        What it runs.
    run : Run
        How.
    work : Path
        Where stores go, and what is unpacked lies.
    out : Path
        Where it writes outcomes.
    arguments : sequence of str
        More for it.
    """
    home = work / HOME
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DASK_", "PYTEST_"))
    }
    environment |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "DASK_CONFIG": str(home / "dask"),
        "MPLBACKEND": "Agg",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        # The same sets in the same order, so that a warm run finds what the cold one stored.
        "PYTHONHASHSEED": "0",
        "DASKCACHE_SUITES_OUT": str(out),
    }
    if run.policy is not None:
        environment |= {
            "DASK_DASKCACHE__ENABLED": "true",
            "DASK_DASKCACHE__STORE": str(work / f"store-{run.store}"),
            "DASK_DASKCACHE__POLICY": run.policy,
            # A warning that is ours by intent is no difference.
            "DASK_DASKCACHE__ON_UNCACHEABLE": "ignore",
        }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "suites_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        "--no-header",
        "--tb=line",
    ]
    # Nobody's settings but pytest's own.
    command += ["-c", os.devnull, "--timeout=600", f"--basetemp={work / 'temporary'}"]
    command += ["-W", "error:the pass failed:RuntimeWarning", *arguments, "--pyargs", *targets]
    finished = _count_finished(out)
    with out.with_suffix(".log").open("a") as log:
        done = subprocess.run(
            command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    last = out.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
    print(*last, flush=True)
    # How the process ends says less: extensions of some libraries crash when it does.
    if _count_finished(out) == finished:
        raise SystemExit(f"pytest could not run ({done.returncode}); see {out.with_suffix('.log')}")
    lost = {(record["lost"], record["why"]) for record in _read_records(out) if "lost" in record}
    if lost:
        raise SystemExit("\n".join(f"{file} cannot be collected: {why}" for file, why in sorted(lost)))


def _count_finished(out: Path) -> int:
    return sum("finished" in record for record in _read_records(out))


def _read_records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def read_outcomes(out: Path) -> dict[str, Outcome]:
    """Read what a run wrote down.

    Parameters
    ----------
    out : Path
        The file.

    Returns
    -------
    dict of str to Outcome
        By test.
    """
    found = {}
    for record in _read_records(out):
        if test := record.pop("test", None):
            found[test] = Outcome(**record)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One test that does something else under the pass."""

    test: str
    """Its id."""
    run: str
    """Under which."""
    without: str
    """What it does without."""
    under: str
    """What it does under it."""
    message: str
    """The first line of what it fails with."""


def find_differences(outcomes: dict[str, dict[str, Outcome]]) -> list[Difference]:
    """List the tests that come out otherwise than in the first run.

    Parameters
    ----------
    outcomes : dict of str to dict of str to Outcome
        By run and test; the first run is the one without the pass.

    Returns
    -------
    list of Difference
        By run, then in the order of the tests.
    """
    (_, without), *others = outcomes.items()
    missing = Outcome("not run")
    found = []
    for name, under in others:
        for test in [*without, *(test for test in under if test not in without)]:
            old, new = without.get(test, missing), under.get(test, missing)
            if old.result != new.result:
                found.append(Difference(test, name, old.result, new.result, new.message or old.message))
    return found


def find_unsteady(
    differences: Sequence[Difference],
    outcomes: dict[str, Outcome],
    targets: Sequence[str],
    work: Path,
    arguments: Sequence[str],
) -> set[str]:
    """Find which tests differ from run to run without the pass as well.

    Parameters
    ----------
    differences : sequence of Difference
        Only their tests are run again, twice.
    outcomes : dict of str to Outcome
        What came out the first time.
    targets : sequence of str
        Where the tests are.
    work : Path
        Where outcomes go.
    arguments : sequence of str
        More for pytest.

    Returns
    -------
    set of str
        Their ids.
    """
    wanted = {difference.test for difference in differences}
    (work / "wanted.json").write_text(json.dumps(sorted(wanted)))
    unsteady: set[str] = set()
    for number in range(2):
        out = work / f"again-{number}.jsonl"
        start_pytests(targets, Run("off, again"), work, out, [*arguments, f"--only={work / 'wanted.json'}"])
        again = read_outcomes(out)
        unsteady |= {
            test
            for test in wanted
            if test in outcomes and test in again and again[test].result != outcomes[test].result
        }
    return unsteady


def read_explained(path: Path = EXPLAINED) -> dict[tuple[str, str], str]:
    """Read why tests differ that may.

    Parameters
    ----------
    path : Path, optional
        The list.

    Returns
    -------
    dict of tuple of str to str
        The reason, by test (without its parameters, or with) and run.
    """
    found = {}
    for entry in tomllib.loads(path.read_text()).get("difference", ()):
        for test in entry["tests"]:
            for run in entry["runs"]:
                found[test, run] = entry["reason"]
    return found


def print_report(
    outcomes: dict[str, dict[str, Outcome]], differences: Sequence[Difference], unsteady: set[str]
) -> int:
    """Print a table, and every difference.

    Parameters
    ----------
    outcomes : dict of str to dict of str to Outcome
        By run and test.
    differences : sequence of Difference
        Between them.
    unsteady : set of str
        Tests that differ without the pass too.

    Returns
    -------
    int
        How many differences nobody has explained.
    """
    explained = read_explained()
    open_ones = 0
    print("\n── differences")
    for one in differences:
        if one.test in unsteady:
            why = "differs from run to run without the pass too"
        else:
            why = (
                explained.get((one.test, one.run))
                or explained.get((one.test.partition("[")[0], one.run))
                or ""
            )
        open_ones += not why
        print(f"{'explained' if why else 'DIFFERS'}  {one.run}  {one.test}\n    {one.without} → {one.under}")
        print(f"    {why or one.message}")
    warned = Counter(
        (name, message)
        for name, found in outcomes.items()
        for one in found.values()
        for message in set(one.warned)
    )
    print("\n── warnings of the pass, and in how many tests")
    for (name, message), count in sorted(warned.items()):
        print(f"{count:6d}  {name}  {message}")
    names = list(outcomes)
    print("\n── by file: tests, then for each run: tests that differ (blocks loaded/stored)")
    print("\t".join(["file", "tests", *names[1:]]))
    tests: dict[str, list[str]] = defaultdict(list)
    for test in outcomes[names[0]]:
        tests[test.partition("::")[0]].append(test)
    differ = Counter((one.test.partition("::")[0], one.run) for one in differences)
    for file, here in sorted(tests.items()):
        cells = []
        for name in names[1:]:
            found = [outcomes[name][test] for test in here if test in outcomes[name]]
            loads, writes = sum(one.loads for one in found), sum(one.writes for one in found)
            cells.append(f"{differ[file, name]} ({loads}/{writes})")
        print("\t".join([file, str(len(here)), *cells]))
    total = sum(map(len, tests.values()))
    print(f"\n{total} tests, {len(differences)} differences, {open_ones} of them not explained")
    return open_ones


def unpack_flox(archive: Path, work: Path) -> None:
    """Put flox's tests where pytest finds them.

    Parameters
    ----------
    archive : Path
        The source distribution.
    work : Path
        The directory of the runs.
    """
    with tarfile.open(archive) as source:
        source.extractall(work / "source", filter="data")
        (root,) = {name.partition("/")[0] for name in source.getnames()}
    (work / UNPACKED / "flox").mkdir(parents=True, exist_ok=True)
    # Its package stays behind; tests take graphs from its benchmarks, which they import from where they are run.
    shutil.move(work / "source" / root / "tests", work / UNPACKED / "flox" / "tests")
    shutil.move(work / "source" / root / "asv_bench", work / HOME / "asv_bench")
    # Runs those benchmarks, by a library for them.
    (work / UNPACKED / "flox" / "tests" / "test_asv.py").unlink()


def main() -> int:
    """Run what the command line asks for.

    Returns
    -------
    int
        0 where nothing differs but what is explained.
    """
    parser = argparse.ArgumentParser(prog="ci/suites", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "targets", nargs="*", help="dask, xarray, flox, or packages and files of theirs; all by default"
    )
    parser.add_argument("--runs", help="only these, separated by commas, besides 'off'")
    parser.add_argument(
        "--most", type=int, help="of a test with many parameters run this many, spread over all"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="where stores, outcomes and logs go; emptied first"
    )
    parser.add_argument("--flox", type=Path, help="flox's source distribution")
    parser.add_argument("--workers", help="processes, as pytest-xdist's -n")
    options, arguments = parser.parse_known_args()
    # A shell has what it starts in the background ignore it, and tests of dask wait for one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = options.runs.split(",") if options.runs else [run.name for run in RUNS]
    runs = [run for run in RUNS if run.name in {"off", *wanted}]
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    (work / UNPACKED).mkdir(parents=True)
    (work / HOME).mkdir()
    targets = [package for target in options.targets or SUITES for package in SUITES.get(target, [target])]
    if any(target.startswith("flox/") for target in targets):
        unpack_flox(options.flox, work)
    if options.most:
        arguments.append(f"--most={options.most}")
    if options.workers:
        arguments += ["-n", options.workers]
    outcomes = run_suites(targets, runs, work, arguments)
    differences = find_differences(outcomes)
    unsteady = find_unsteady(differences, outcomes["off"], targets, work, arguments) if differences else set()
    open_ones = print_report(outcomes, differences, unsteady)
    if any(
        "warm" in name and not any(one.loads for one in found.values()) for name, found in outcomes.items()
    ):
        print("a warm run loaded nothing: nothing was tested")
        return 1
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())

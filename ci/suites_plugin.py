"""The pytest plugin of ``suites.py``: it writes down what each test does, and gives each the same random numbers."""

from __future__ import annotations

import json
import logging
import os
import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from suites import Outcome


class _Plans(logging.Handler):
    """Counts what the pass plans, which it says in its log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.loads = self.writes = 0

    def emit(self, record: logging.LogRecord) -> None:
        plan = record.args[0] if isinstance(record.args, tuple) and len(record.args) == 1 else None
        self.loads += len(getattr(plan, "loads", ()))
        self.writes += len(getattr(plan, "writes", ()))


class Recorder:
    """Writes down what comes of each test, as soon as it is known.

    Parameters
    ----------
    out : Path
        Where.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.plans = _Plans()
        self.current = Outcome("")
        logger = logging.getLogger("daskcache")
        logger.addHandler(self.plans)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def pytest_collectreport(self, report: Any) -> None:
        """Note what cannot even be imported: pytest then runs nothing."""
        if report.failed:
            last = str(report.longrepr).strip().splitlines()[-1:]
            self._write({"lost": report.nodeid, "why": last[0][:300] if last else ""})

    def pytest_runtest_logstart(self) -> None:
        """Begin a test."""
        self.plans.loads = self.plans.writes = 0
        self.current = Outcome("")

    def pytest_runtest_setup(self, item: Any) -> None:
        """Give each test the same random numbers in each run."""
        import numpy as np

        seed = zlib.crc32(item.nodeid.encode())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (what the tests use)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what came of setting a test up, running it, or taking it down."""
        if hasattr(report, "wasxfail"):
            result = "xfailed" if report.skipped else "xpassed"
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = (crash.message if crash else str(report.longrepr)).splitlines()[:1]
            self.current.message = message[0][:300] if message else ""
            kind = self.current.message.partition(":")[0] if crash else "error"
            result = f"failed in {report.when} ({kind if kind.replace('.', '').isidentifier() else 'assert'})"
        else:
            result = report.outcome
        # What is done after a test that passed may fail.
        if report.when == "call" or result != "passed":
            self.current.result = result

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        """Note what the pass warned of."""
        if type(warning_message.message).__name__ == "DaskcacheWarning":
            self.current.warned.append(str(warning_message.message)[:200])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write a test down."""
        self.current.loads, self.current.writes = self.plans.loads, self.plans.writes
        record = {"test": nodeid} | {name: getattr(self.current, name) for name in Outcome.__slots__}
        self._write(record)

    def pytest_sessionfinish(self) -> None:
        """Say that all have been run."""
        self._write({"finished": True})

    def _write(self, record: Mapping[str, Any]) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


def pytest_addoption(parser: Any) -> None:
    """Add what `main` gives."""
    parser.addoption("--most", type=int)
    parser.addoption("--only", type=Path)


def pytest_configure(config: Any) -> None:
    """Put the recorder in place."""
    # With several processes, not in the one that only collects what they report.
    starts_others = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if (out := os.environ.get("DASKCACHE_SUITES_OUT")) and not starts_others:
        random.seed(0)
        import numpy as np

        np.random.seed(0)  # noqa: NPY002
        config.pluginmanager.register(Recorder(Path(out)), "daskcache-recorder")


def pytest_collectstart(collector: Any) -> None:
    """Let each run try the same examples, in any time: projects load profiles of theirs before their tests are imported."""
    try:
        from hypothesis import settings
    except ImportError:
        return
    most = min(100, 2 * (collector.config.getoption("--most") or 50))
    settings.register_profile("suites", deadline=None, derandomize=True, database=None, max_examples=most)
    settings.load_profile("suites")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what is not asked for."""
    kept = items
    if only := config.getoption("--only"):
        wanted = set(json.loads(only.read_text()))
        kept = [item for item in kept if item.nodeid in wanted]
    elif most := config.getoption("--most"):
        kept = list(_spread(kept, most))
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _spread(items: Sequence[Any], most: int) -> Iterator[Any]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[item.nodeid.partition("[")[0]].append(item)
    for group in groups.values():
        step = max(len(group) / most, 1.0)
        yield from (group[int(number * step)] for number in range(min(most, len(group))))

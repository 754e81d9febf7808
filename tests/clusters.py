"""A cluster of processes as a user starts them: ``dask scheduler``, ``dask worker``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Client

ROOT = Path(__file__).parents[1]

# Fast to notice that one has gone.
SETTINGS = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20",
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "1000",
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn",
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s",
}
# What stands for a machine on which the package is not installed. Its own entry point, which dask loads, is left.
WITHOUT_PACKAGE = """
import sys
from importlib.util import find_spec

class Lacking:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "daskcache" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Lacking, sys.meta_path)
assert find_spec("daskcache") is None
"""


class Processes:
    """A scheduler and workers, each of its own process and process group.

    Parameters
    ----------
    directory : Path
        For files of theirs.
    environment : dict of str to str, optional
        Added to this process's.
    """

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.environment = {**os.environ, **SETTINGS, **(environment or {}), "PYTHONPATH": str(ROOT)}
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.named: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count()
        self.address = ""

    def _start(self, program: str, *arguments: str, package: bool = True) -> subprocess.Popen[bytes]:
        code = f"from distributed.cli.dask_{program} import main; main()"
        with open(self.directory / f"{program}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code if package else WITHOUT_PACKAGE + code, *arguments],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_scheduler(self, *, package: bool = True, dashboard: bool = False) -> None:
        """Start a scheduler, and wait until it listens."""
        shown = ("--dashboard-address", "127.0.0.1:0") if dashboard else ("--no-dashboard",)
        file = self.directory / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", *shown, "--no-show",
            "--scheduler-file", str(file), package=package,
        )  # fmt: skip
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError, ValueError):
                self.address = json.loads(file.read_text())["address"]
                return
            time.sleep(0.02)
        raise AssertionError((self.directory / "scheduler.log").read_text())

    def start_worker(self, *options: str, package: bool = True) -> subprocess.Popen[bytes]:
        """Start a worker of one thread."""
        name = f"worker-{next(self._numbers)}"
        made = self.named[name] = self._start(
            "worker", self.address, "--name", name, "--nthreads", "1", "--no-dashboard", "--death-timeout", "30",
            "--local-directory", str(self.directory), *(options or ("--no-nanny",)), package=package,
        )  # fmt: skip
        self.workers.append(made)
        return made

    def kill_workers(self) -> None:
        """Kill all workers, with the nannies."""
        for worker in self.workers:
            kill(worker)
        self.workers.clear()

    def stop(self) -> None:
        """Kill everything."""
        self.kill_workers()
        if self.scheduler is not None:
            kill(self.scheduler)
            self.scheduler = None

    @contextlib.contextmanager
    def client(self, workers: int = 0) -> Iterator[Client]:
        """Give a client, once so many workers are there, and none of those that were killed."""
        with Client(self.address, set_as_default=True, timeout=30) as client:
            self.wait_for_the_dead(client)
            if workers:
                client.wait_for_workers(workers, timeout=60)
            yield client

    def wait_for_the_dead(self, client: Client) -> None:
        """Wait until the scheduler knows that the workers that were killed have gone."""
        end = time.monotonic() + 60
        while True:
            known = {str(worker["name"]) for worker in client.scheduler_info()["workers"].values()}
            if all(self.named[name].poll() is None for name in known):
                return
            assert time.monotonic() < end, known
            time.sleep(0.02)


def wait_until_idle(client: Client) -> None:
    """Wait until no worker runs anything, whether somebody wants it or not."""
    end = time.monotonic() + 60
    while any(client.processing().values()) or any(client.run(_is_busy).values()):
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_busy(dask_worker: Any) -> bool:
    return bool(dask_worker.state.executing)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@contextlib.contextmanager
def processes(
    directory: Path, workers: int = 2, *, dashboard: bool = False, **environment: str
) -> Iterator[Processes]:
    """Give a running cluster."""
    made = Processes(directory, environment)
    try:
        made.start_scheduler(dashboard=dashboard)
        for _ in range(workers):
            made.start_worker()
        yield made
    finally:
        made.stop()

"""Every scheduler of dask's, for the modules that ask for them."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from tests import producers
from tests.clusters import Processes, processes
from tests.producers import count
from tests.watching import arrivals


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give where producers note their calls, the same for all tests of a module: its processes live as long."""
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def cluster(directory: Path) -> Iterator[LocalCluster]:
    """Separate processes, which inherit where to count calls."""
    before = os.environ.get(producers.CALLS)
    os.environ[producers.CALLS] = str(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a busy machine
        with dask.config.set({"distributed.scheduler.allowed-failures": 5}):
            started = LocalCluster(
                n_workers=2,
                threads_per_worker=2,
                processes=True,
                dashboard_address=None,
                host="127.0.0.1",
                silence_logs=50,
            )
        with started as made:
            yield made
    if before is None:
        os.environ.pop(producers.CALLS, None)
    else:
        os.environ[producers.CALLS] = before


@pytest.fixture(scope="session")
def watched_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes that are looked into; none of them is killed."""
    directory = tmp_path_factory.mktemp("watched")
    (directory / "calls").mkdir()
    with processes(directory, 0, **{producers.CALLS: str(directory / "calls")}) as made:
        for nthreads in ("2", "1"):
            made.start_worker("--no-nanny", "--nthreads", nthreads, "--resources", "seat=4")
        yield made


@pytest.fixture(scope="module")
def watching_client(watched_cluster: Processes) -> Iterator[Client]:
    """Give a client of theirs, the same for all tests of a module."""
    with watched_cluster.client(2) as client:
        yield client


@pytest.fixture
def watched(watched_cluster: Processes, watching_client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Give a client of theirs; calls are counted from zero, and so are tasks that come to the scheduler."""
    monkeypatch.setenv(producers.CALLS, str(watched_cluster.directory / "calls"))
    count()
    arrivals(watching_client)
    return watching_client


@pytest.fixture
def calls(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count calls from zero."""
    monkeypatch.setenv(producers.CALLS, str(directory))
    count()


@pytest.fixture(scope="module")
def pool(directory: Path) -> Iterator[ProcessPoolExecutor]:
    """One for all tests: dask would start one for each computation."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


@pytest.fixture(params=["synchronous", "threads", "processes", "distributed"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Run a function of no arguments as each new client would."""
    if request.param == "distributed":
        cluster = request.getfixturevalue("cluster")

        def in_client(function: Callable[[], Any]) -> Any:
            with Client(cluster, set_as_default=True):
                return function()

        return in_client

    settings = {"scheduler": request.param, "num_workers": 2}
    if request.param == "processes":
        settings["pool"] = request.getfixturevalue("pool")

    def in_scheduler(function: Callable[[], Any]) -> Any:
        with dask.config.set(settings):
            return function()

    return in_scheduler

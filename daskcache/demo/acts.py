"""One act of the demo: a process that runs the pipeline once, and writes down what that took."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import xarray as xr
from dask.callbacks import Callback

from daskcache.activation import activate
from daskcache.demo.counting import count_calls, read_counts
from daskcache.demo.table import Row, format_head, format_row
from daskcache.errors import DaskcacheError
from daskcache.runs import last_run

if sys.platform != "win32":
    import resource

__all__ = ["Job", "Outcome", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """What an act is told."""

    number: int
    """Of the act; the first is 1."""
    store: str
    """The store's root."""
    workdir: str
    """Where the pipeline and its inputs lie."""
    scenarios: dict[str, str]
    """The source of temperatures of each namespace."""
    options: dict[str, Any]
    """Keyword arguments of the pipeline."""
    has_ocean: bool
    """Whether the ocean and the daily steps are run; otherwise the source is a Zarr store."""

    @property
    def outcome(self) -> Path:
        """Give the file that the act writes.

        Returns
        -------
        Path
            Below the work directory.
        """
        return Path(self.workdir) / f"act-{self.number}.json"

    def write(self) -> Path:
        """Write this down for the process that will run it.

        Returns
        -------
        Path
            A JSON file.
        """
        path = Path(self.workdir) / "job.json"
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str) -> Self:
        """Read what `write` wrote.

        Parameters
        ----------
        path : str
            The JSON file.

        Returns
        -------
        Job
            An equal job.
        """
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an act did."""

    rows: tuple[Row, ...]
    """A row for each step of each namespace, in the order in which they ran."""
    calls: dict[str, int]
    """How often each of the pipeline's functions of blocks was called."""
    tasks: int
    """Tasks that dask ran to persist, loads included."""
    peak_bytes: int
    """The most memory that the process held; 0 where the system does not tell."""
    seconds: float
    """From the first line of the process to its last."""

    def cold_seconds(self) -> dict[tuple[str, str], float]:
        """Give the seconds of each step that had something to compute.

        Returns
        -------
        dict
            By namespace and step.
        """
        return {(row.namespace, row.step): row.seconds for row in self.rows if row.computed}

    def write(self, path: Path) -> None:
        """Write this down for the process that started the act.

        Parameters
        ----------
        path : Path
            The JSON file.
        """
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Parameters
        ----------
        path : Path
            The JSON file.

        Returns
        -------
        Outcome
            An equal outcome.
        """
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**document, "rows": tuple(Row(**row) for row in document["rows"])})


def main(path: str) -> None:
    """Run one act.

    Parameters
    ----------
    path : str
        What `Job.write` gave.
    """
    start = time.perf_counter()
    job = Job.read(path)
    pipeline = _import_pipeline(Path(job.workdir))
    calls = Path(job.workdir) / f"calls-{job.number}"
    count_calls(pipeline.PRODUCERS, calls)
    first = job.outcome.with_name("act-1.json")
    cold = Outcome.read(first).cold_seconds() if job.number > 1 else {}
    rows: list[Row] = []
    tasks: list[object] = []
    print(format_head("step"), flush=True)
    for namespace in job.scenarios:
        _run(job, pipeline, namespace, cold, rows, tasks)
    seconds = time.perf_counter() - start
    Outcome(tuple(rows), dict(read_counts(calls)), len(tasks), _peak_bytes(), seconds).write(job.outcome)


def _run(
    job: Job,
    pipeline: types.ModuleType,
    namespace: str,
    cold: Mapping[tuple[str, str], float],
    rows: list[Row],
    tasks: list[object],
) -> None:
    def keep(name: str, result: Any) -> Any:
        with Callback(posttask=lambda key, *rest: tasks.append(key)):
            stored = result.cache.persist(name)
        run = last_run()
        if run is None:
            raise DaskcacheError(f"persisting {name} left no record of its run")
        row = Row.of(run, name)
        rows.append(row)
        before = row.seconds if job.number == 1 else cold.get((namespace, name))
        print(format_row(f"{namespace} {name}", [row], before), flush=True)
        return stored

    source, workdir = job.scenarios[namespace], Path(job.workdir)
    # A bar between the lines of a table is worth it only where a line takes long.
    with activate(job.store, namespace=namespace, progress=False if job.has_ocean else "auto"):
        if not job.has_ocean:
            temperature = xr.open_zarr(source, consolidated=False)["temperature"]
            pipeline.run(temperature, keep, **job.options)
            return
        pipeline.run(pipeline.open_scenario(source), keep, **job.options)
        pipeline.run_ocean(pipeline.open_ocean(_files(workdir / "ocean")), keep)
        pipeline.run_daily(pipeline.open_daily(_files(workdir / "daily")), keep)


def _files(directory: Path) -> list[str]:
    return sorted(map(str, directory.glob("*.nc")))


def _import_pipeline(workdir: Path) -> types.ModuleType:
    sys.path.insert(0, str(workdir))
    # Byte code is found stale by the second and the size; an edit may change neither.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module("pipeline")
    finally:
        sys.dont_write_bytecode = before


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

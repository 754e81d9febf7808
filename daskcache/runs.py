"""What runs do: counts, bytes, seconds; how far the one under way is, and how to stop it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import dask.config

from daskcache.errors import DaskcacheError
from daskcache.progress import drawing_bar, shows_progress
from daskcache.weighed import Weighed, merge

__all__ = ["COUNTS", "Figures", "Job", "Run", "begin", "find_run", "last_run"]

_KEPT = 64
_LATE_S = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has done so far."""

    id: str
    """Names the run's record in the store."""
    kind: str = "persist"
    """``persist``, or ``compute`` for a graph that went through the pass."""
    store: str = ""
    """The store's root, without credentials."""
    namespace: str = ""
    """Where the entry lies."""
    entry: str = ""
    """The name that was given, or the version where none was; empty for a ``compute``."""
    version: str = ""
    """40 hex digits; the version that is published. Empty for a ``compute``."""
    blocks: int = 0
    """Blocks of the result; of a ``compute``, those that are loaded or wanted in the store."""
    wanted: int = 0
    """Blocks that were not in the store when the run began, and belong there."""
    computed: int = 0
    """Blocks that were wanted, or that the policy ``auto`` found worth storing, and that were computed."""
    loaded: int = 0
    """Stored blocks, of other results too, that stand in for a part of the graph."""
    reused: int = 0
    """Blocks of the result that lay in the store already."""
    shared: int = 0
    """Blocks that another run stored meanwhile, so that they were not computed here."""
    stored: int = 0
    """Objects that this run created."""
    stored_bytes: int = 0
    """Their size."""
    total_bytes: int = 0
    """Size of all the result's objects, once it is published."""
    seconds: float = 0.0
    """From the call to the published manifest; of a ``compute``, to the newest event that is known."""
    conflicts: int = 0
    """Blocks whose task gave other bytes than those stored before: it is not deterministic."""
    unstored: int = 0
    """Blocks that were computed, but could not or may not be stored."""
    lost: int = 0
    """Stored blocks that could not be read, and were computed again."""
    weighed: Mapping[str, Weighed] = field(default_factory=dict)
    """Under the policy ``auto``: by layer, what its blocks cost to compute and to store, and what became of them."""


class Job(Protocol):
    """The work of a run, as `daskcache.jobs` does it."""

    error: BaseException | None

    @property
    def is_on_cluster(self) -> bool:
        """Whether its tasks run on a cluster."""

    def is_done(self) -> bool:
        """Tell whether it has ended."""

    def wait(self, timeout: float | None, draw: Callable[[], None]) -> Any:
        """Give its result when it has ended; meanwhile draw how far it is."""

    def cancel(self) -> None:
        """Stop it."""


class Run:
    """A run of this process: its figures, as they are at the moment that they are asked for.

    Parameters
    ----------
    figures : Figures
        What is known at its start; every field of `Figures` is an attribute of the run.
    job : Job, optional
        The work, where there is something to wait for.

    Examples
    --------
    >>> Run(Figures("r1", wanted=4, computed=1, stored=1))
    <Run r1: persist, 1 of 4 blocks computed, 1 stored, 0 loaded, 0 shared>
    """

    __slots__ = ("_begun", "_figures", "_is_final", "_job", "_lock")

    def __init__(self, figures: Figures, job: Job | None = None) -> None:
        self._figures = figures
        self._job = job
        self._is_final = False
        self._begun = time.perf_counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name in _FIELDS:
            return getattr(self._figures, name)
        raise AttributeError(f"a run has no attribute {name!r}; it has {', '.join(sorted(_FIELDS))}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_FIELDS})

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way.

        Returns
        -------
        bool
            Of a ``compute`` on a cluster, whether all that it wants stored has been heard of.

        Examples
        --------
        >>> Run(Figures("r1")).done
        True
        """
        if self._job is not None:
            return self._job.is_done()
        return self.kind != "compute" or _heard_of(self._figures) >= self._figures.wanted

    @property
    def progress(self) -> float:
        """How much of what is wanted in the store is there, from 0 to 1.

        Returns
        -------
        float
            1.0 where nothing was missing.

        Examples
        --------
        >>> Run(Figures("r1", wanted=4, computed=1, stored=1)).progress
        0.25
        """
        figures = self._figures
        return min(1.0, _heard_of(figures) / figures.wanted) if figures.wanted else 1.0

    @property
    def is_on_cluster(self) -> bool:
        """Whether its tasks run on a cluster, as far as that is known.

        Returns
        -------
        bool
            False for a ``compute``.

        Examples
        --------
        >>> Run(Figures("r1")).is_on_cluster
        False
        """
        return self._job is not None and self._job.is_on_cluster

    @property
    def outcome(self) -> str:
        """How it ended, in words.

        Returns
        -------
        str
            ``under way``, ``done``, or the error.

        Examples
        --------
        >>> Run(Figures("r1")).outcome
        'done'
        """
        if not self.done:
            return "under way"
        error = None if self._job is None else self._job.error
        return "done" if error is None else f"{type(error).__name__}: {error}"

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended, with a progress bar as `persist` draws it. Ctrl-C meanwhile cancels it.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Run
            Itself.

        Raises
        ------
        TimeoutError
            It is still under way.
        concurrent.futures.CancelledError
            It was cancelled.
        Exception
            What it failed with.

        Examples
        --------
        >>> Run(Figures("r1")).wait().done
        True
        """
        if self._job is not None:
            self._await(self._job, timeout)
            return self
        # Events of a cluster come a moment after the result.
        end = time.monotonic() + (_LATE_S if timeout is None else min(timeout, _LATE_S))
        while not self.done and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def result(self, timeout: float | None = None) -> Any:
        """Wait for a persist as `wait` does, and give what it stored.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
            Lazy, read from the store.

        Raises
        ------
        TimeoutError
            It is still under way.
        DaskcacheError
            It is no persist.
        Exception
            As `wait`.

        Examples
        --------
        >>> import dask.array as da, daskcache
        >>> _ = daskcache.persist(da.arange(4, chunks=2), "x", store="memory://doc-result", wait=False)
        >>> daskcache.last_run().result().compute()
        array([0, 1, 2, 3])
        """
        if self._job is None:
            raise DaskcacheError("this run has no result of its own; the computation returned it")
        return self._await(self._job, timeout)

    def _await(self, job: Job, timeout: float | None) -> Any:
        # Who waits says what he wants to see, when he does.
        shows_bar = shows_progress(dask.config.get("daskcache.progress", "auto"))
        with drawing_bar(lambda: self.progress, shows_bar) as draw:
            return job.wait(timeout, draw)

    def cancel(self) -> None:
        """Stop the run. Blocks that are stored stay; those being computed are finished or thrown away.

        Examples
        --------
        >>> Run(Figures("r1")).cancel()
        """
        if self._job is not None:
            self._job.cancel()

    def __repr__(self) -> str:
        of = self._figures
        return (
            f"<Run {of.id}: {of.kind}, {of.computed} of {of.wanted} blocks computed, {of.stored} stored, "
            f"{of.loaded} loaded, {of.shared} shared>"
        )

    def add(self, counts: Mapping[str, Any]) -> None:
        """Count up what tasks did.

        Parameters
        ----------
        counts : mapping of str to int
            Of `COUNTS`; others are left out.

        Examples
        --------
        >>> run = Run(Figures("r1"))
        >>> run.add({"stored": 2})
        >>> run.stored
        2
        """
        with self._lock:
            if self._is_final:
                return  # an event that comes late
            figures = self._figures
            changes: dict[str, Any] = {
                name: getattr(figures, name) + count for name, count in counts.items() if name in COUNTS
            }
            changes["weighed"] = merge(figures.weighed, counts)
            changes["seconds"] = time.perf_counter() - self._begun
            self._figures = replace(figures, **changes)

    def settle(self, *, final: bool = False, **values: Any) -> None:
        """Set what is known for certain.

        Parameters
        ----------
        final : bool, optional
            Whether nothing is added to it any more.
        **values
            Fields of `Figures`.

        Examples
        --------
        >>> run = Run(Figures("r1"))
        >>> run.settle(final=True, stored=3)
        >>> run.stored
        3
        """
        with self._lock:
            self._figures = replace(self._figures, **values)
            self._is_final = self._is_final or final


_FIELDS = frozenset(field.name for field in fields(Figures))
COUNTS = ("computed", "shared", "stored", "stored_bytes", "conflicts", "unstored", "lost")
"""Fields of `Figures` that tasks count up."""

_runs: OrderedDict[str, Run] = OrderedDict()
_runs_lock = threading.Lock()


def _heard_of(figures: Figures) -> int:
    return figures.computed + figures.shared


def last_run() -> Run | None:
    """Give the newest run of this process: a persist, or a computation that went through the pass.

    Returns
    -------
    Run or None
        With its `Figures` as attributes, and with `Run.done`, `Run.progress`, `Run.wait`, `Run.result` and
        `Run.cancel`. None where there was none yet.

    Notes
    -----
    What a persist counts is exact once it is done. Of a computation on a cluster, the numbers come with events, a
    fraction of a second after its result (`Run.wait` waits for them), and those of a worker that is killed are lost;
    with the scheduler ``processes``, only what was planned is known.

    Examples
    --------
    >>> last_run() is None or last_run().seconds >= 0
    True
    """
    with _runs_lock:
        return next(reversed(_runs.values()), None)


def find_run(run: str) -> Run | None:
    """Give a run of this process by its id.

    Parameters
    ----------
    run : str
        The id.

    Returns
    -------
    Run or None
        None where it is of another process, or long ago.
    """
    with _runs_lock:
        return _runs.get(run)


def begin(figures: Figures, job: Job | None = None) -> Run:
    """Keep a run for `last_run`.

    Parameters
    ----------
    figures : Figures
        What is known at its start.
    job : Job, optional
        The work.

    Returns
    -------
    Run
        The run.
    """
    made = Run(figures, job)
    with _runs_lock:
        _runs[figures.id] = made
        _runs.move_to_end(figures.id)
        while len(_runs) > _KEPT:
            _runs.popitem(last=False)
    return made

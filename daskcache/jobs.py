"""Running a graph for a persist: here or on a cluster, waited for or not, with a bar, and so that it can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import multiprocessing.pool
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import dask.array.optimization
import dask.base
import dask.config
import dask.local
import dask.multiprocessing
import dask.threaded
from dask.callbacks import local_callbacks
from dask.core import flatten
from dask.diagnostics.progress import ProgressBar
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT

from daskcache import cluster, reports, runs
from daskcache.errors import DaskcacheError, StoreError
from daskcache.pool import Receipt
from daskcache.progress import PATIENCE_S, drawing_bar
from daskcache.sharing import look_first
from daskcache.stores.sync import wait_for

__all__ = ["Engine", "Job", "Work"]

logger = logging.getLogger("daskcache")

_PATIENCE_S = PATIENCE_S
_TICK_S = 0.2


class Engine:
    """What runs a graph: the scheduler that dask would use at the time this is made.

    Parameters
    ----------
    collection : object
        The dask collection that is to be computed.
    run : str
        The run's id.
    """

    def __init__(self, collection: Any, run: str) -> None:
        self._collection = collection
        self._run = run
        self._stop = threading.Event()
        self._get = _find_scheduler(collection)
        owner = getattr(self._get, "__self__", None)
        distributed = sys.modules.get("distributed")
        is_cluster = distributed is not None and isinstance(owner, distributed.Client)
        self.client: Any = owner if is_cluster else None
        self._future: Any = None
        self._threads = _count_threads()
        self.is_set_up = threading.Event()

    def cancel(self) -> None:
        """Stop at the next task. What is being computed is finished here, and thrown away on a cluster."""
        self._stop.set()
        future = self._future
        if future is not None:
            # By force, because it may have been told to go on without this client.
            self.client.cancel([future], force=True)

    def compute(self, *, shows_bar: bool, background: bool) -> Any:
        """Compute the collection.

        Parameters
        ----------
        shows_bar : bool
            Whether a bar is drawn on standard error, from one second on.
        background : bool
            Whether it goes on where nobody waits for it.

        Returns
        -------
        object
            The result.

        Raises
        ------
        concurrent.futures.CancelledError
            It was cancelled.
        Exception
            What a task raised.
        """
        try:
            if self.client is not None:
                return self._compute_on_cluster(shows_bar, background)
            return self._compute_here(shows_bar, background)
        except CancelledError as error:
            if self._stop.is_set():
                raise CancelledError(f"run {self._run} was cancelled; what it stored stays") from error
            raise

    def _compute_here(self, shows_bar: bool, background: bool) -> Any:
        callbacks: list[Any] = [(None, None, self._check, self._count, None)]
        options: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            if shows_bar:
                stack.enter_context(ProgressBar(minimum=_PATIENCE_S, out=sys.stderr))
            if not background and self._get in _LOCAL:
                # As dask does: tasks that compute something themselves are not drawn, nor told to the user's own.
                callbacks += stack.enter_context(local_callbacks())
            elif background and self._get is dask.threaded.get:
                # A pool of its own: who waits for a block holds a thread of the other. And one that goes on while the
                # interpreter waits for the run at its end, which executors do not.
                pool = multiprocessing.pool.ThreadPool(self._threads)
                # Its threads would end with the interpreter, in the middle of a block.
                stack.callback(pool.join)
                stack.callback(pool.close)
                options["pool"] = pool
                wait_for(asyncio.sleep(0))  # has Zarr start its thread, for which a task would wait in vain
            if self._get in _LOCAL:
                options["callbacks"] = callbacks
            self.is_set_up.set()
            (result,) = dask.base.compute(self._collection, scheduler=self._get, **options)
        return result

    def _check(self, key: Any, dsk: Any, state: Any) -> None:
        if self._stop.is_set():
            raise CancelledError

    def _count(self, key: Any, value: Any, dsk: Any, state: Any, worker: Any) -> None:
        # Tasks in other processes count there, where nobody looks.
        if self._get is dask.multiprocessing.get and isinstance(value, Receipt):
            reports.note(
                self._run,
                computed=int(not value.found),
                shared=int(value.found),
                stored=int(value.created),
                stored_bytes=value.size_bytes if value.created else 0,
                conflicts=int(value.conflict),
            )

    def _compute_on_cluster(self, shows_bar: bool, background: bool) -> Any:
        distributed = sys.modules["distributed"]
        cluster.listen(reports.receive, self.client)
        lacking = cluster.find_lacking(self.client)
        if lacking:
            raise DaskcacheError(
                f"{', '.join(lacking[:3])}: workers without daskcache; nothing was stored; install it there, as it is here"
            )
        try:
            future = self._future = self.client.compute(self._collection)
            if background:
                distributed.fire_and_forget(future)
            if self._stop.is_set():  # before there was a future to cancel
                self.cancel()
            self.is_set_up.set()
            ended = threading.Event()
            if not background:  # at the interpreter's end there is no thread to call back in
                future.add_done_callback(lambda _: ended.set())
            with drawing_bar(self._progress, shows_bar) as draw:
                while not (ended.wait(_TICK_S) or future.done()):
                    draw()
                return future.result()
        except KeyboardInterrupt:
            self.cancel()
            raise
        except (ImportError, RuntimeError) as error:
            if _lacks_package(error):
                raise DaskcacheError(
                    f"the scheduler at {self.client.scheduler.address} has no daskcache: nothing was stored; install it "
                    f"there, as it is here, and start the scheduler again ({error})"
                ) from error
            raise
        finally:
            self._future = None
            if background:
                cluster.tell_over(self._run, self.client)

    def _progress(self) -> float:
        found = runs.find_run(self._run)
        return 0.0 if found is None else found.progress


def _optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    return look_first(dask.array.optimization.optimize(dsk, keys, **kwargs), set(flatten([keys])))


@dataclass(frozen=True, eq=False)
class Job:
    """A graph with one result, as a dask collection.

    What is stored of it was looked up already, so dask's own optimizer is named and not the pass.
    """

    graph: HighLevelGraph
    """The graph."""
    key: str
    """The key of the result."""

    def __dask_graph__(self) -> HighLevelGraph:
        return self.graph

    def __dask_keys__(self) -> list[str]:
        return [self.key]

    def __dask_layers__(self) -> tuple[str, ...]:
        return (self.key,)

    def __dask_postcompute__(self) -> tuple[Any, tuple[()]]:
        return _first, ()

    def __dask_postpersist__(self) -> tuple[Any, tuple[()]]:
        raise StoreError("a job of daskcache is computed, not persisted by dask")

    __dask_optimize__ = staticmethod(_optimize)
    __dask_scheduler__ = staticmethod(dask.threaded.get)


def _first(results: Sequence[Any]) -> Any:
    return results[0]


class Work:
    """What a run does, and how it ended.

    Parameters
    ----------
    do : callable
        All of it; its result is that of the run.
    engine : Engine
        What is stopped by `cancel`.
    """

    def __init__(self, do: Callable[[], Any], engine: Engine) -> None:
        # Both hold the graph, with the arrays in it, and are let go at the end: runs are kept.
        self._do: Callable[[], Any] | None = do
        self._engine: Engine | None = engine
        self._is_set_up = engine.is_set_up
        self._is_on_cluster = engine.client is not None
        self._ended = threading.Event()
        self._outcome: list[Any] = []
        self.error: BaseException | None = None

    @property
    def is_on_cluster(self) -> bool:
        """Whether its tasks run on a cluster."""
        return self._is_on_cluster

    def run(self) -> Any:
        """Do it in this thread.

        Returns
        -------
        object
            The result.

        Raises
        ------
        Exception
            What it failed with, which is kept for `wait`.
        """
        try:
            assert self._do is not None
            self._outcome.append(self._do())
        except BaseException as error:  # an interrupt, too: others may be waiting
            self.error = _keep(error)
            raise
        finally:
            self._do = self._engine = None
            self._ended.set()
            self._is_set_up.set()
        return self._outcome[0]

    def start(self) -> None:
        """Do it in a thread of its own. The interpreter waits for it at its end, unless a cluster goes on without.

        Returns once all threads are there, because at its end it lets none be started.
        """
        # In a copy of this context, in which dask keeps what the user annotates.
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run_aside,), name="daskcache-persist", daemon=self.is_on_cluster
        )
        thread.start()
        self._await(self._is_set_up, None)

    def _run_aside(self) -> None:
        try:
            self.run()
        except CancelledError:
            logger.info("a persist that was not waited for was cancelled")
        except Exception as error:  # whatever it is, nobody is there to take it but the log; `wait` raises it
            message = f"a persist that was not waited for failed: {type(error).__name__}: {error}"
            logger.error(message, exc_info=logger.isEnabledFor(logging.DEBUG))

    def is_done(self) -> bool:
        """Tell whether it has ended.

        Returns
        -------
        bool
            In whatever way.
        """
        return self._ended.is_set()

    def wait(self, timeout: float | None, draw: Callable[[], None] = lambda: None) -> Any:
        """Wait for the end. An interrupt cancels it.

        Parameters
        ----------
        timeout : float or None
            Seconds.
        draw : callable, optional
            Is called some times a second meanwhile.

        Returns
        -------
        object
            The result.

        Raises
        ------
        TimeoutError
            It is still under way.
        Exception
            What it failed with.
        """
        if not self._await(self._ended, timeout, draw):
            raise TimeoutError(f"the run is still under way after {timeout} s")
        if self.error is not None:
            raise _copy(self.error)
        return self._outcome[0]

    def _await(
        self, event: threading.Event, timeout: float | None, draw: Callable[[], None] = lambda: None
    ) -> bool:
        end = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while not event.wait(max(min(_TICK_S, end - time.monotonic()), 0)):
                if time.monotonic() >= end:
                    return event.is_set()
                draw()
            return True
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        engine = self._engine
        if engine is not None:
            engine.cancel()


def _keep(error: BaseException) -> BaseException:
    """Give an error like one that was raised, which says where that was. The frames there hold the graph."""
    kept = _copy(error)
    if kept is not error:
        text = "".join(traceback.format_exception(error))
        kept.__notes__ = [*getattr(error, "__notes__", ()), f"It was raised before:\n\n{text}"]
    return kept


def _copy(error: BaseException) -> BaseException:
    """Give an error of the same type and text without frames and causes; itself where its class lets none be made."""
    for make in (_make_anew, _make_without_init):
        with contextlib.suppress(Exception):
            copied = make(error)
            vars(copied).update(vars(error))
            if copied is not error and type(copied) is type(error) and str(copied) == str(error):
                return copied
    return error


def _make_anew(error: BaseException) -> BaseException:
    # Not by the module `copy`: tblib, which dask imports, has copies share what they hold.
    reduced: Any = error.__reduce__()
    make, arguments, *states = reduced
    made: BaseException = make(*arguments)
    for state in states:
        made.__setstate__(state)
    return made


def _make_without_init(error: BaseException) -> BaseException:
    """Copy an error whose class takes other arguments than those that it keeps."""
    made = type(error).__new__(type(error), *error.args)
    made.args = error.args
    return made


_LOCAL = (dask.threaded.get, dask.local.get_sync, dask.multiprocessing.get)


def _find_scheduler(collection: Any) -> Any:
    # dask imports all of distributed to look for a client, which takes a second. Nobody has one who has not imported it.
    configured = dask.config.get("scheduler", None) or dask.config.get("pool", None)
    if not configured and "distributed" not in sys.modules:
        return dask.threaded.get
    return dask.base.get_scheduler(collections=[collection]) or dask.threaded.get


def _count_threads() -> int:
    pool = dask.config.get("pool", None)
    of_pool = getattr(pool, "_max_workers", None) or getattr(pool, "_processes", None)
    return dask.config.get("num_workers", None) or of_pool or CPU_COUNT


def _lacks_package(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "daskcache":
            return True
        error = error.__cause__ or error.__context__
    return False

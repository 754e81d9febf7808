"""Everything that daskcache asks of distributed, which it never imports first: who has a cluster has imported it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

__all__ = [
    "TOPIC",
    "ask_workers",
    "client",
    "dumps",
    "find_lacking",
    "find_lacking_here",
    "forward_warning",
    "future_type",
    "is_over",
    "listen",
    "scheduler",
    "send",
    "tell_over",
    "tell_workers",
    "wait",
    "waiting",
    "worker",
]

logger = logging.getLogger("daskcache")

TOPIC = "daskcache"
"""The topic of the events that workers and schedulers send, as in ``client.get_events("daskcache")``."""

_SUBSCRIBED = "_daskcache_is_subscribed"
_ASKED = "_daskcache_asked"
_PATIENCE_S = 10.0


def _distributed() -> Any:
    # Not where it is still being imported.
    found = sys.modules.get("distributed")
    return found if getattr(found, "get_worker", None) is not None else None


def worker() -> Any:
    """Give the worker whose task this thread runs.

    Returns
    -------
    distributed.Worker or None
        None anywhere else.

    Examples
    --------
    >>> worker() is None
    True
    """
    distributed = _distributed()
    if distributed is None:
        return None
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def client() -> Any:
    """Give the client that dask would use, without making one.

    Returns
    -------
    distributed.Client or None
        None where there is none.

    Examples
    --------
    >>> client() is None or client().status
    True
    """
    distributed = _distributed()
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def future_type() -> Any:
    """Give the class of the futures that may lie in graphs.

    Returns
    -------
    type or None
        None where nobody can have one.

    Examples
    --------
    >>> found = future_type()
    >>> found is None or found.__name__ == "Future"
    True
    """
    return getattr(_distributed(), "Future", None)


def wait(futures: Sequence[Any]) -> None:
    """Wait until futures are finished, whatever becomes of them.

    Parameters
    ----------
    futures : sequence of distributed.Future
        Of one client.

    Raises
    ------
    concurrent.futures.CancelledError
        One of them was cancelled.
    """
    if futures:
        _distributed().wait(futures)


def scheduler() -> Any:
    """Give the scheduler that runs in this process.

    Returns
    -------
    distributed.Scheduler or None
        None where there is none, or where it runs beside a client.

    Examples
    --------
    >>> scheduler() is None
    True
    """
    distributed = _distributed()
    if distributed is None or client() is not None:
        return None
    running = [found for found in distributed.Scheduler._instances if found.status.name == "running"]
    return running[0] if len(running) == 1 else None


def send(message: Mapping[str, Any], sender: Any, topic: str = TOPIC) -> None:
    """Send an event to whoever has subscribed, and to the dashboard's log.

    Parameters
    ----------
    message : mapping
        Numbers and texts; no secrets.
    sender : distributed.Worker or distributed.Scheduler
        What `worker` or `scheduler` gave.
    topic : str, optional
        Where it is filed.
    """
    # In its event loop, because its connections belong to it.
    sender.loop.add_callback(sender.log_event, topic, dict(message))


def forward_warning(message: str, category: type[Warning]) -> None:
    """Warn the clients of the cluster that this process belongs to.

    Parameters
    ----------
    message : str
        The text.
    category : type
        The warning's class, which the client imports.
    """
    sender = worker() or scheduler()
    # A client in this process has been warned already.
    if sender is not None and client() is None:
        send({"message": pickle.dumps(message), "category": pickle.dumps(category)}, sender, "warn")


def listen(handler: Callable[[Mapping[str, Any]], None], whose: Any = None) -> None:
    """Have the events of a client's cluster handed on, once for each client.

    Parameters
    ----------
    handler : callable
        Is called with each message, in the client's event loop.
    whose : distributed.Client, optional
        By default the one that dask would use; without one nothing happens.
    """
    found = client() if whose is None else whose
    if found is None or getattr(found, _SUBSCRIBED, False) or found.status != "running":
        return

    def handle(event: tuple[float, Any]) -> None:
        if isinstance(event[1], Mapping):
            handler(event[1])

    setattr(found, _SUBSCRIBED, True)
    found.subscribe_topic(TOPIC, handle)


def find_lacking(whose: Any) -> list[str]:
    """Find workers that have no daskcache. One cannot even read a task of ours, and says so only in its log.

    Parameters
    ----------
    whose : distributed.Client
        Asked once for each set of workers.

    Returns
    -------
    list of str
        Their addresses.
    """
    workers = frozenset(whose.scheduler_info(n_workers=-1)["workers"])
    if not workers - getattr(whose, _ASKED, frozenset()):
        return []
    found = whose.run(find_spec, __package__, on_error="return")
    lacking = sorted(
        address for address, spec in found.items() if spec is None or isinstance(spec, ImportError)
    )
    if not lacking:
        setattr(whose, _ASKED, workers)
    return lacking


def find_lacking_here() -> list[str]:
    """Find, on the scheduler that runs in this process, workers of its own that have no daskcache.

    Returns
    -------
    list of str
        Their addresses. Each worker is asked until it has said that it has it; who does not answer is not counted.

    Examples
    --------
    >>> find_lacking_here()
    []
    """
    found = scheduler()
    if found is None or _is_in_event_loop():
        return []
    asked = _equipped.setdefault(found, set())
    workers = [address for address in found.workers if address not in asked]
    if not workers:
        return []
    question = {"op": "run", "function": pickle.dumps(find_spec), "args": pickle.dumps((__package__,))}
    asking = asyncio.run_coroutine_threadsafe(
        found.broadcast(msg=question, workers=workers, on_error="ignore"), found.loop.asyncio_loop
    )
    try:
        answers = asking.result(_PATIENCE_S)
    except TimeoutError:
        asking.cancel()
        return []
    lacking = [address for address, answer in answers.items() if _is_lacking(answer)]
    asked.update(answers.keys() - set(lacking))
    return sorted(lacking)


def tell_workers(function: Callable[[], Awaitable[None]]) -> bool:
    """Have all workers of the scheduler that runs in this process call a function, and wait until they have.

    Parameters
    ----------
    function : callable
        A coroutine function that can be imported: it is awaited in each worker's event loop.

    Returns
    -------
    bool
        Whether all have called it while none had anything to do, so that there is nothing to tell them again until
        another graph is submitted.

    Examples
    --------
    >>> import asyncio
    >>> tell_workers(asyncio.to_thread)
    False
    """
    distributed = _distributed()
    running = [] if distributed is None else list(distributed.Scheduler._instances)
    running = [found for found in running if found.status.name == "running"]
    if len(running) != 1 or _is_in_event_loop():
        return False
    (found,) = running
    workers = list(found.workers)
    is_idle = not any(state.processing for state in found.workers.values())
    question = {"op": "run", "function": pickle.dumps(function)}
    asking = asyncio.run_coroutine_threadsafe(
        found.broadcast(msg=question, workers=workers, on_error="ignore"), found.loop.asyncio_loop
    )
    try:
        answers = asking.result(_PATIENCE_S)
    except TimeoutError:
        asking.cancel()
        return False
    return is_idle and len(answers) == len(workers)


_equipped: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_lacking(answer: Mapping[str, Any]) -> bool:
    return answer["status"] != "OK" or _read_answer(answer) is None


def ask_workers(function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call a function on all workers of the cluster whose task this thread runs.

    Parameters
    ----------
    function : callable
        One that can be imported, and that returns at once: it is called in each worker's event loop.
    *args
        What it is called with.

    Returns
    -------
    list
        What those returned that answered; empty where this thread runs no task of a worker.

    Examples
    --------
    >>> ask_workers(len, "abc")
    []
    """
    sender = worker()
    if sender is None:
        return []
    question = {"op": "run", "function": pickle.dumps(function), "args": pickle.dumps(args)}
    asking = asyncio.run_coroutine_threadsafe(
        sender.scheduler.broadcast(msg=question, on_error="ignore"), sender.loop.asyncio_loop
    )
    try:
        answers = asking.result(_PATIENCE_S)
    except (OSError, TimeoutError) as error:
        asking.cancel()
        logger.info("workers were asked, and not all have answered: %s", error)
        return []
    return [_read_answer(answer) for answer in answers.values() if answer["status"] == "OK"]


def _read_answer(answer: Mapping[str, Any]) -> Any:
    # A scheduler leaves what its workers send as it came.
    protocol = _distributed().protocol
    result = answer["result"]
    if isinstance(result, protocol.Serialized):
        result = protocol.deserialize(result.header, result.frames)
    return getattr(result, "data", result)


def dumps(thing: Any) -> bytes:
    """Pickle something as it would be for a worker.

    Parameters
    ----------
    thing : object
        A task.

    Returns
    -------
    bytes
        The pickle, without what goes beside it.

    Examples
    --------
    >>> b"numpy" in dumps([1, 2])
    False
    """
    data: bytes = _distributed().protocol.pickle.dumps(thing)
    return data


@contextlib.contextmanager
def waiting() -> Iterator[Callable[[], bool]]:
    """Let a worker's other tasks use the place of this one, which only waits.

    Yields
    ------
    callable
        Tells whether nobody wants the task any more; always false outside of a worker.

    Examples
    --------
    >>> with waiting() as is_unwanted:
    ...     is_unwanted()
    False
    """
    sender = worker()
    if sender is None:
        yield lambda: False
        return
    distributed = _distributed()
    key = distributed.worker.thread_state.key
    distributed.secede()
    try:
        yield lambda: _is_unwanted(key, sender)
    finally:
        distributed.rejoin()


def _is_unwanted(key: Any, sender: Any) -> bool:
    task = sender.state.tasks.get(key)
    return (
        sender.status.name != "running"
        or task is None
        or task.state in ("cancelled", "forgotten", "released")
    )


def is_over(run: str) -> bool:
    """Ask a worker's scheduler whether a run that was not waited for has ended.

    Parameters
    ----------
    run : str
        The run's id.

    Returns
    -------
    bool
        True also where there is nobody to ask.

    Examples
    --------
    >>> is_over("r1")
    True
    """
    return worker() is None or bool(_distributed().Event(f"daskcache-{run}").is_set())


def tell_over(run: str, whose: Any) -> None:
    """Tell those who wait on workers that a run has ended.

    Parameters
    ----------
    run : str
        The run's id.
    whose : distributed.Client
        The run's client; where it is closed, its tasks wait no more.
    """
    if whose.status == "running":
        _distributed().Event(f"daskcache-{run}", client=whose).set()

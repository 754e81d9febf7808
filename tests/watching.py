"""What tests see from inside of a scheduler or a worker: the tasks that come, the files that are touched, and by whom."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import zarr
from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin
from zarr.storage import LocalStore

import daskcache


class Arrived(NamedTuple):
    """A task as a scheduler has it, when its graph has just come."""

    key: Any
    """Its key."""
    functions: tuple[str, ...]
    """The names of all functions that it calls, in fused tasks too, once for each call."""
    annotations: dict[str, Any]
    """What the scheduler was told of it."""
    workers: frozenset[str]
    """The addresses where alone it may run."""
    resources: dict[str, float]
    """What it takes of a worker."""
    loose: bool
    """Whether other workers may have it."""
    retries: int
    """How often it may fail."""
    priority: int
    """What the user gave; more is sooner."""

    @property
    def loads(self) -> int:
        """How many stored blocks it reads."""
        return sum(self.functions.count(name) for name in ("getter", "read_only_element"))


class Arrivals(SchedulerPlugin):
    """Notes each task of each graph that comes to a scheduler."""

    name = "arrivals"

    def __init__(self) -> None:
        self.seen: list[Arrived] = []

    def update_graph(self, scheduler: Any, *, tasks: list[Any], **kwargs: Any) -> None:
        """Note what the scheduler has made of a graph, before any of it runs."""
        self.seen += [_describe(scheduler.tasks[key]) for key in tasks]


def _describe(state: Any) -> Arrived:
    called = [node.func for node in _walk(state.run_spec) if hasattr(node, "func") and hasattr(node, "key")]
    return Arrived(
        key=state.key,
        functions=tuple(getattr(function, "__name__", str(function)) for function in called),
        annotations={name: value for name, value in (state.annotations or {}).items() if name != "span"},
        workers=frozenset(state.worker_restrictions or ()),
        resources=dict(state.resource_restrictions or {}),
        loose=bool(state.loose_restrictions),
        retries=state.retries or 0,
        priority=-state.priority[0],
    )


def _walk(node: Any) -> Iterator[Any]:
    """Give a task and all that is in it."""
    yield node
    if isinstance(node, dict):
        inside = list(node.values())
    elif isinstance(node, list | tuple):
        inside = list(node)
    else:
        inside = [*getattr(node, "args", ()), *(getattr(node, "kwargs", None) or {}).values()]
        inside += [node.value] if hasattr(node, "value") and hasattr(node, "key") else []
    for part in inside:
        yield from _walk(part)


def arrivals(client: Client) -> list[Arrived]:
    """Give what has come to a client's scheduler since this was asked last; watch it, if nobody does yet."""
    if not client.run_on_scheduler(_is_watched):
        client.register_plugin(Arrivals())
    return client.run_on_scheduler(_take_arrived)


def _is_watched(dask_scheduler: Any) -> bool:
    return Arrivals.name in dask_scheduler.plugins


def _take_arrived(dask_scheduler: Any) -> list[Arrived]:
    plugin = dask_scheduler.plugins[Arrivals.name]
    seen, plugin.seen = plugin.seen, []
    return seen


class Touched(NamedTuple):
    """A file or directory that a process has opened, made, moved or removed."""

    event: str
    """Python's audit event."""
    path: str
    """Which one."""
    writes: bool
    """Whether it was opened for writing."""
    thread: int
    """Who did it."""
    name: str
    """What that thread is called."""


_root = ""
_touched: list[Touched] = []
_tasks: set[str] = set()
_is_hooked = False
_EVENTS = frozenset(
    {"open", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}
)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS or not _root or not args:
        return
    path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
    if path.startswith(_root):
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        _touched.append(Touched(event, path, writes, threading.get_ident(), threading.current_thread().name))


def watch_files(root: str) -> None:
    """Note from now on what this process does below a directory, whatever part of it does so."""
    global _root, _is_hooked
    _root = root
    _touched.clear()
    _tasks.clear()
    if not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_hook)


def stop_watching() -> tuple[list[Touched], set[str]]:
    """Give what was noted, and the names of the threads that ran `seen_doubling`."""
    global _root
    _root = ""
    return list(_touched), set(_tasks)


def loop_thread() -> int:
    """Name the thread of this process's event loop; to be called in it."""
    asyncio.get_running_loop()
    return threading.get_ident()


@daskcache.version("1")
def seen_doubling(block: Any) -> Any:
    """A producer that notes in which thread tasks run."""
    _tasks.add(threading.current_thread().name)
    return block * 2


opened: Counter[str] = Counter()
"""How often this process has opened local stores, by root, and Zarr arrays of what shape."""
_stores: list[weakref.ref[LocalStore]] = []


def count_opened() -> None:
    """Count from now on what this process opens."""
    opened.clear()
    _stores.clear()
    if getattr(LocalStore.__init__, "is_counting", False):
        return
    make_store, open_array = LocalStore.__init__, zarr.open_array

    def make_and_count(self: LocalStore, root: Any, *args: Any, **kwargs: Any) -> None:
        opened[str(root)] += 1
        _stores.append(weakref.ref(self))
        make_store(self, root, *args, **kwargs)

    def open_and_count(*args: Any, **kwargs: Any) -> Any:
        array = open_array(*args, **kwargs)
        opened[f"array of {array.shape}"] += 1
        return array

    make_and_count.is_counting = True  # type: ignore[attr-defined]
    LocalStore.__init__ = make_and_count  # type: ignore[method-assign]
    zarr.open_array = open_and_count  # type: ignore[assignment]


def give_opened() -> tuple[dict[str, int], list[str]]:
    """Give what was counted, and the roots of the stores that are held still."""
    gc.collect()
    return dict(opened), [str(store.root) for each in _stores if (store := each()) is not None]

"""Writers that reuse blocks while others drop versions and sweep: real code, stopped before each request of any of them.

Each actor is a thread that stands for a process. Before each request to the store it waits until the machine lets it go
on, or kills it there. Times are those of a clock that the machine puts forward.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import dask.config
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog, newest, use
from daskcache.errors import EntryNotFoundError, StoreError
from daskcache.forgetting import Reuse, reuse, sweep, wait_for_sweep
from daskcache.forgetting.roots import Pool, chunk_ids

DAY = 86400.0
GRACE = 7 * DAY
KEEP = 90 * DAY
DATA = np.arange(12)
REQUESTS = ("create", "put", "get", "exists", "size", "list_objects", "list_sizes", "list_dirs", "delete")

machines: list[Machine] = []
"""The one that runs."""


class Killed(BaseException):
    """The process ends here."""


class Actor(threading.Thread):
    """A process that goes on when it is told to."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self.work = work
        self.may_go = threading.Semaphore(0)
        self.has_stopped = threading.Semaphore(0)
        self.is_killed = self.is_done = False
        self.error: BaseException | None = None
        self.result: Any = None

    def run(self) -> None:
        try:
            self.pause()
            self.result = self.work()
        except Killed:
            self.is_killed = True
        except BaseException as error:  # noqa: BLE001 (whatever it is, the machine tells of it)
            self.error = error
        self.is_done = True
        self.has_stopped.release()

    def pause(self) -> None:
        self.has_stopped.release()
        self.may_go.acquire()
        if self.is_killed:
            raise Killed

    def step(self, *, kill: bool = False) -> None:
        self.is_killed = kill
        self.may_go.release()
        assert self.has_stopped.acquire(timeout=60), f"{self.name} hangs"


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = f"memory://forgetting-{uuid.uuid4().hex}"
        self.clock = 1e9
        self.written: dict[str, float] = {}
        self.actors: list[Actor] = []
        self.pool = Pool(self.root)
        machines[:] = [self]

    def now(self) -> float:
        return self.clock

    @initialize()
    def leave_orphans(self) -> None:
        """Begin with blocks of long ago that nothing needs."""
        with ungated():
            daskcache.persist(negative(DATA), "old", store=self.root)
        content = stores.open(self.root)._store_dict
        for key in [key for key in content if not key.startswith("chunks/")]:
            del content[key]
        self.written = dict.fromkeys(content, self.clock - 30 * DAY)

    def start(self, name: str, work: Callable[[], Any]) -> None:
        for kept in (newest._kept, reuse._kept, use._looked):
            kept.clear()  # as in a process of its own
        actor = Actor(name, work)
        actor.start()
        assert actor.has_stopped.acquire(timeout=60)
        self.actors.append(actor)

    @precondition(lambda self: len(self.actors) < 4)
    @rule(entry=st.sampled_from("abc"), first=st.integers(0, 2), count=st.integers(1, 2))
    def write(self, entry: str, first: int, count: int) -> None:
        part = DATA[3 * first : 3 * (first + count)]

        def work() -> None:
            result = daskcache.persist(negative(part), entry, store=self.root)
            with ungated():
                assert (result.compute() == -part).all()

        self.start(f"writer of {entry}", work)

    @precondition(lambda self: len(self.actors) < 4)
    @rule(entry=st.sampled_from("abc"))
    def read(self, entry: str) -> None:
        opened = self.clock

        def work() -> None:
            data = daskcache.open(entry, store=self.root)
            threading.current_thread().pause()  # type: ignore[attr-defined]
            if self.clock - opened < GRACE / 2:
                with ungated():
                    data.compute()

        self.start(f"reader of {entry}", work)

    @precondition(lambda self: len(self.actors) < 4)
    @rule(batch=st.integers(1, 3))
    def gc(self, batch: int) -> None:
        def work() -> None:
            steps = sweep(self.pool, GRACE, KEEP, batch=batch, width=1, now=self.now)
            for _ in steps:
                pass

        self.start("gc", work)

    @precondition(lambda self: len(self.actors) < 4)
    @rule(entry=st.sampled_from("abc"))
    def drop(self, entry: str) -> None:
        def work() -> None:
            catalog = Catalog(self.root)
            catalog.drop(entry, [info.version for info in catalog.versions(entry)])

        self.start(f"drop {entry}", work)

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 3), requests=st.integers(1, 40))
    def go_on(self, which: int, requests: int) -> None:
        actor = self.actors[which % len(self.actors)]
        for _ in range(requests):
            actor.step()
            self.check()
            if actor.is_done:
                break
        self.collect()

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        self.actors[which % len(self.actors)].step(kill=True)
        self.collect()

    @rule(days=st.sampled_from([0.1, 3.0, 4.0, 8.0]))
    def wait(self, days: float) -> None:
        self.clock += days * DAY

    @precondition(lambda self: self.actors)
    @rule()
    def finish(self) -> None:
        while self.actors:
            for actor in self.actors:
                actor.step()
                self.check()
            self.collect()

    @invariant()
    def check(self) -> None:
        """All blocks of each version that can be opened are there."""
        with ungated():
            catalog = Catalog(self.root)
            for entry in catalog.entries():
                for info in catalog.versions(entry):
                    for variable in catalog.open(entry, info.version).variables:
                        for group, name in chunk_ids(variable):
                            assert stores.exists(stores.open(self.root), f"chunks/{group}/{name}"), (
                                entry,
                                info,
                            )

    def collect(self) -> None:
        done = [actor for actor in self.actors if actor.is_done]
        self.actors = [actor for actor in self.actors if not actor.is_done]
        for actor in done:
            if actor.error is not None and not is_expected(actor):
                raise actor.error

    def teardown(self) -> None:
        for actor in self.actors:
            actor.step(kill=True)


def is_expected(actor: Actor) -> bool:
    if actor.name == "gc":
        return isinstance(actor.error, StoreError) and "another process" in str(actor.error)
    return not actor.name.startswith("writer") and isinstance(actor.error, EntryNotFoundError)


def negative(values: Any) -> da.Array:
    return da.from_array(values, chunks=3).map_blocks(np.negative, dtype=values.dtype)


# Threads that look at the store without being stopped.
outside: set[threading.Thread] = set()


@contextlib.contextmanager
def ungated() -> Iterator[None]:
    outside.add(threading.current_thread())
    try:
        yield
    finally:
        outside.discard(threading.current_thread())


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop actors before each request, and note when objects are written."""

    def gate(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def gated(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
            thread = threading.current_thread()
            if isinstance(thread, Actor) and thread not in outside:
                thread.pause()
            result = call(store, key, *args, **kwargs)
            machine = machines[0]
            if name == "put" or (name == "create" and result):
                machine.written[key] = machine.clock
            if name == "list_objects":
                return {one: (size, machine.written.get(f"{key}/{one}")) for one, (size, _) in result.items()}
            return result

        return gated

    for name in REQUESTS:
        monkeypatch.setattr(stores, name, gate(name, getattr(stores, name)))

    def now() -> float:
        return machines[0].clock

    def sleep(seconds: float) -> None:
        thread = threading.current_thread()
        assert isinstance(thread, Actor)
        machines[0].clock += seconds
        thread.pause()

    monkeypatch.setattr(Reuse.__init__, "__defaults__", (now,))
    monkeypatch.setattr(wait_for_sweep, "__kwdefaults__", {"now": now, "sleep": sleep})
    with dask.config.set(scheduler="sync"):
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::daskcache.errors.DaskcacheWarning")
@pytest.mark.usefixtures("gated")
def test_nothing_that_is_published_is_swept() -> None:
    run_state_machine_as_test(Machine, settings=settings(stateful_step_count=40))


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize("requests", [4, 9, 14, 60])
def test_a_run_that_comes_between_any_two_requests_of_a_sweep(requests: int) -> None:
    """Until so many requests of the run; then the sweep goes to its end, and the run to its own."""
    before = 0
    while True:
        machine = Machine()
        machine.leave_orphans()
        machine.gc(batch=2)
        machine.write("a", 0, 2)
        sweeping, writing = machine.actors
        for _ in range(before):
            sweeping.step()
            if sweeping.is_done:
                break
        is_last = sweeping.is_done
        for actor, limit in ((writing, requests), (sweeping, 1000), (writing, 1000)):
            for _ in range(limit):
                if actor.is_done:
                    break
                actor.step()
                machine.check()
        assert sweeping.is_done
        assert writing.is_done
        machine.collect()
        assert Catalog(machine.root).entries() == ["a"]
        if is_last:
            break
        before += 1
    assert before > 15

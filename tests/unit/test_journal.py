"""What is stored because somebody computed it is listed without a task, and in time to be found."""

import threading
import time
from types import SimpleNamespace

import dask
import numpy as np
import pytest

import daskcache
from daskcache import journal
from daskcache.catalog import Catalog, Listed
from daskcache.errors import DaskcacheWarning
from tests import producers
from tests.producers import count, doubled, listed, produced

EXPECTED = np.arange(12) * 2


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.fixture(autouse=True)
def never_by_time(monkeypatch):
    monkeypatch.setattr("daskcache.journal._FLUSH_S", 600.0)


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_blocks_that_are_wanted_themselves_cost_no_task(store_root, policy):
    plain = len(dict(dask.optimize(doubled() + 1)[0].dask))
    with daskcache.activate(policy=policy):
        assert len(dict(dask.optimize(doubled() + 1)[0].dask)) == plain
        assert (doubled() + 1).persist(scheduler="sync").compute()[2] == 5
        assert len(dict(dask.optimize(doubled() + 1)[0].dask)) <= plain


@pytest.mark.parametrize("at", [0, 1, -1])
def test_one_block_of_what_was_optimized_is_computed_alone(store_root, at):
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        (planned,) = dask.optimize(doubled())
        assert (planned.blocks[at].compute() == EXPECTED.reshape(4, 3)[at]).all()
        assert count() == 1
        assert (doubled().to_delayed()[at].compute() == EXPECTED.reshape(4, 3)[at]).all()
        assert count() == 0
        assert (doubled().compute() == EXPECTED).all()
        assert count() == 3


@pytest.mark.parametrize("scheduler", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_what_is_persisted_is_listed_when_it_is_there(store_root, scheduler, policy):
    with daskcache.activate(policy=policy), dask.config.set(scheduler=scheduler):
        kept = doubled().persist()
        assert len(Catalog(str(store_root)).token_index()) == 4
        assert (kept.compute() == EXPECTED).all()
        count()
        assert (doubled().compute() == EXPECTED).all()
        assert count() == 0


def test_what_a_run_left_is_found_by_the_next(store_root):
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        (planned,) = dask.optimize(doubled())
        planned.blocks[:2].compute()
        count()
        assert (doubled().compute() == EXPECTED).all()
        assert count() == 2


class Moved:
    def find_changed(self):
        return "a source has moved"


def test_nothing_is_listed_of_sources_that_changed(store_root, monkeypatch):
    monkeypatch.setattr("daskcache.completion.Watch.of", lambda fingerprinter: Moved())
    with (
        daskcache.activate(policy="outputs"),
        pytest.warns(DaskcacheWarning, match="not listed, so that it is not found: a source has moved"),
    ):
        assert (doubled().persist(scheduler="sync").compute() == EXPECTED).all()
    assert len(Catalog(str(store_root)).token_index()) == 0


def test_journals_of_old_runs_are_dropped(store_root):
    for number in range(20):
        journal.expect(f"run{number}", [bytes(20)], Moved())
    assert len(journal._journals) <= 8


# When it is listed.

SPOT = ("memory://", "default")


class Pace:
    """A journal's clock, timers and store, of which nothing happens by itself."""

    def __init__(self):
        self.now = 1000.0
        self.takes = 0.0
        self.timers = []
        self.listed = []
        self.journal = journal._Journal("run")

    def store(self, number, journal=None):
        """Store a block; tell whether it was listed when that returned."""
        block = SimpleNamespace(token=bytes([number]) * 20)
        (journal or self.journal).note(Listed(block), SPOT)
        return number in self.listed

    def list_stored(self, targets, run, weighed, watch):
        self.now += self.takes
        self.listed += [row.block.token[0] for row in targets[SPOT]]

    def start(self, delay, function):
        return SimpleNamespace(start=lambda: self.timers.append((round(self.now + delay, 6), function)))

    def until(self, then):
        """Let time pass, and timers come."""
        while self.timers and min(self.timers)[0] <= then:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = max(self.now, then)


@pytest.fixture
def clock(monkeypatch):
    made = Pace()
    monkeypatch.setattr(journal, "_FLUSH_S", 2.0)
    monkeypatch.setattr(journal, "_took_s", [0.0])
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(journal, "threading", SimpleNamespace(**{**vars(threading), "Timer": made.start}))
    return made


@pytest.fixture
def pace(clock, monkeypatch):
    monkeypatch.setattr(journal, "_list_stored", clock.list_stored)
    return clock


def test_what_a_short_run_stores_waits_for_its_end(pace):
    assert not pace.store(1)
    pace.now += 0.04
    assert not pace.store(2)
    pace.journal.flush()
    assert pace.listed == [1, 2]
    pace.until(1010.0)
    assert pace.listed == [1, 2], "the timer found nothing to do"


def test_the_first_block_is_listed_when_nothing_comes_after_it(pace):
    pace.store(1)
    pace.until(1000.049)
    assert not pace.listed
    pace.until(1000.051)
    assert pace.listed == [1]
    assert not pace.timers


@pytest.mark.parametrize(
    ("takes", "by_task", "by_time"), [(0.0, 0.02, 0.02), (0.01, 0.1, 0.1), (0.15, 1.5, 1.5), (0.5, 5.0, 2.0)]
)
def test_the_next_listing_comes_ten_times_as_long_after_one_as_that_took(pace, takes, by_task, by_time):
    """A block is listed when its task is done, unless that would cost more than a tenth; then a timer sees to it."""
    pace.store(1)
    pace.takes = takes
    pace.now += 0.06
    assert pace.store(2)
    assert pace.listed == [1, 2]
    ended = pace.now
    pace.now = ended + by_time - 0.01
    assert not pace.store(3)
    assert not pace.store(4)
    pace.until(ended + by_time - 0.001)
    assert pace.listed == [1, 2]
    pace.until(ended + by_time + 0.001)
    assert pace.listed == [1, 2, 3, 4]
    ended = pace.now
    pace.now = ended + by_task - 0.01
    assert not pace.store(5)
    pace.now = ended + by_task + 0.001
    assert pace.store(6)
    assert pace.listed == [1, 2, 3, 4, 5, 6]


def test_a_run_that_lasts_lists_for_a_tenth_of_its_time(pace):
    pace.takes, stored, begun = 0.005, 0, pace.now
    oldest = 0.0
    while stored < 200:
        pace.until(pace.now + 0.01)
        before, pending = pace.now, sum(map(len, pace.journal.pending.values()))
        pace.store(stored)
        stored += 1
        oldest = max(oldest, pending * 0.01)
        assert pace.now - before in (0.0, pytest.approx(0.005))
    listings = (pace.now - begun - 200 * 0.01) / 0.005
    assert listings * 0.005 <= (pace.now - begun) / 10
    assert oldest <= 0.07
    assert len(pace.listed) >= 190


def test_a_run_begins_as_the_last_one_of_its_process_went_on(pace):
    pace.store(1)
    pace.takes = 0.03
    pace.journal.flush()
    another = journal._Journal("another")
    pace.store(2, another)
    pace.now += 0.29
    assert not pace.store(3, another)
    pace.now += 0.02
    assert pace.store(4, another)


NOW = []
"""The test's clock, and how many blocks were listed when each task began."""


@daskcache.version("1")
def take_a_second(block, root):
    clock, seen = NOW
    seen.append(len(listed(root)))
    clock.now += 1.0
    return block * 2


def test_a_block_whose_task_is_done_is_listed(store_root, clock):
    """In tasks that take longer than ten listings; the first waits a moment for those of a short run."""
    NOW[:] = clock, []
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        assert (produced(take_a_second, str(store_root)).compute() == EXPECTED).all()
    assert NOW[1] == [0, 0, 2, 3]


class Busy:
    """A listing that is under way until it is let go."""

    def __init__(self):
        self.begun, self.go, self.listed = threading.Event(), threading.Event(), []

    def list_stored(self, targets, run, weighed, watch):
        self.begun.set()
        assert self.go.wait(60)
        self.listed += [row.block.token[0] for row in targets[SPOT]]


@pytest.fixture
def busy(monkeypatch):
    """A journal of which one thread lists the block 1, for as long as the test wants."""
    made = Busy()
    for name in ("_FLUSH_S", "_COSTLIER"):
        monkeypatch.setattr(journal, name, 0)
    monkeypatch.setattr(journal, "_list_stored", made.list_stored)
    made.journal = journal._Journal("run")
    made.thread = threading.Thread(target=Pace.store, args=(made, 1))
    made.thread.start()
    assert made.begun.wait(60)
    yield made
    made.go.set()
    made.thread.join()


def test_who_stores_while_another_lists_does_not_wait(busy):
    for number in (2, 3):
        assert not Pace.store(busy, number)
    assert not busy.listed
    busy.go.set()
    busy.thread.join()
    deadline = time.monotonic() + 60
    while len(busy.listed) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert busy.listed == [1, 2, 3]


def test_who_wants_all_listed_waits_while_another_lists(busy):
    waiting = threading.Thread(target=busy.journal.flush)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    busy.go.set()
    waiting.join()
    assert busy.listed == [1]


def test_what_ctrl_c_keeps_from_being_listed_is_listed_later(store_root, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        with monkeypatch.context() as patch:
            patch.setattr(journal, "put_pack", interrupt)
            with pytest.raises(KeyboardInterrupt):
                doubled().compute()
        assert not listed(store_root)
        journal.list_pending()
        assert len(listed(store_root)) == 4


class Lost:
    def find_changed(self):
        raise IndexError("of the look")


def test_a_defect_of_the_last_look_at_the_sources_costs_the_list_alone(store_root, monkeypatch):
    monkeypatch.setattr("daskcache.completion.Watch.of", lambda fingerprinter: Lost())
    monkeypatch.setattr("daskcache.errors._warned", set())
    with (
        daskcache.activate(policy="outputs"),
        pytest.warns(DaskcacheWarning, match="what was stored is not listed; please report IndexError"),
    ):
        assert (doubled().compute(scheduler="sync") == EXPECTED).all()
    assert not listed(store_root)

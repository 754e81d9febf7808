"""What is stored because somebody computed it is listed without a task, and in time to be found."""

import dask
import numpy as np
import pytest

import daskcache
from daskcache import journal
from daskcache.catalog import Catalog
from daskcache.errors import DaskcacheWarning
from tests import producers
from tests.producers import count, doubled

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

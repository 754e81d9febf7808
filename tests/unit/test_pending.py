"""Persisting without waiting, here: what is given back, how far it is, how it fails and stops."""

import gc
import json
import pickle
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import DaskcacheError, NotStoredError, StoreError
from daskcache.jobs import Engine, Work
from daskcache.pool import StoredBlock
from tests import producers
from tests.producers import count, doubled, objects, produced, slowly


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def expected(x):
    return np.arange(x.size) * 2


def test_what_is_given_back_at_once_is_right_at_any_time(store_root):
    x = produced(slowly, 0.3, n=36)
    with dask.config.set(num_workers=2):
        kept = daskcache.persist(x, "x", wait=False)
    run = daskcache.last_run()
    assert not run.done
    assert run.outcome == "under way"
    assert kept.chunks == x.chunks
    with pytest.raises(TimeoutError):
        run.wait(0.01)
    assert (kept[4:7].compute() == expected(x)[4:7]).all()
    assert (kept + 1).sum().compute() == (expected(x) + 1).sum()
    assert run.wait() is run
    assert run.done
    assert (run.computed, run.stored, run.progress, run.outcome) == (12, 12, 1.0, "done")
    assert (run.result().compute() == kept.compute()).all()
    assert count() == 12, "what waits computes nothing"
    assert daskcache.token(kept) == daskcache.token(x)
    assert (daskcache.open("x").compute() == expected(x)).all()


def test_what_is_stored_already_is_there(store_root):
    daskcache.persist(doubled(), "x")
    kept = daskcache.persist(doubled(), "y", wait=False)
    assert daskcache.last_run().done
    assert (kept.compute() == np.arange(12) * 2).all()


def test_a_dataset_with_coordinates_in_memory(store_root):
    times = xr.date_range("2000-01-01", periods=20000, freq="h")
    x = produced(slowly, 0.05, n=20000, chunks=5000)
    ds = xr.Dataset({"t": ("time", x), "w": ("time", np.arange(20000.0))}, {"time": times}, {"title": "a"})
    kept = ds.cache.persist("ds", wait=False)
    xr.testing.assert_identical(kept.compute(), ds.compute())
    xr.testing.assert_identical(daskcache.last_run().result().compute(), ds.compute())


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_one_thread_and_a_shared_pool_do_not_wait_for_one_another(store_root, scheduler):
    x = produced(slowly, 0.02, n=24)
    with ThreadPoolExecutor(1) as pool, dask.config.set(scheduler=scheduler, pool=pool, num_workers=1):
        kept = daskcache.persist(x, "x", wait=False)
        assert (kept.compute() == expected(x)).all()
    daskcache.last_run().wait()


@pytest.mark.slow
def test_another_process_gets_plain_blocks(store_root):
    x = produced(slowly, 0.05, n=24)
    kept = daskcache.persist(x, "x", wait=False)
    with dask.config.set({"scheduler": "processes", "num_workers": 2, "multiprocessing.context": "spawn"}):
        assert (kept.compute() == expected(x)).all()
    daskcache.last_run().wait()
    count()
    graph = dict(pickle.loads(pickle.dumps(kept.dask)))
    blocks = [arg.value for task in graph.values() for arg in task.args if hasattr(arg, "value")]
    assert {type(block) for block in blocks if isinstance(block, StoredBlock)} == {StoredBlock}


def test_an_error_is_kept_and_raised_by_who_waits(store_root, caplog):
    kept = daskcache.persist(produced(producers.failing), "x", wait=False)
    run = daskcache.last_run()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="this block cannot be computed"):
            run.result()
    with pytest.raises(NotStoredError, match=r"has ended \(ArithmeticError: this block cannot be computed\)"):
        kept.compute()
    assert run.done
    wait_until(lambda: caplog.records)  # told last
    (record,) = caplog.records
    assert record.getMessage().startswith("a persist that was not waited for failed: ArithmeticError: this")
    assert not record.exc_info


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Told(Exception):
    """An error whose class takes something else than it keeps."""

    def __init__(self, step, *, code=None):
        super().__init__(f"step {step} fails")
        self.code = code


class Strange(Exception):
    """An error that cannot be made from what it keeps."""

    def __new__(cls, *, step):
        return super().__new__(cls, step)

    def __init__(self, *, step):
        super().__init__(step)


ERRORS = [
    KeyError("a"),
    FileNotFoundError(2, "No such file or directory", "a.nc"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ModuleNotFoundError("No module named 'a'", name="a"),
    json.JSONDecodeError("expected a value", "{", 1),
    np.exceptions.AxisError(3, 2),
    ExceptionGroup("several", [ValueError(1)]),
    KeyboardInterrupt(),
    SystemExit(3),
    Told(1, code=2),
    Strange(step=1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_who_waits_gets_an_error_like_the_one_that_was_raised(error):
    def fail():
        raise error from OSError("the cause of all")

    work = Work(fail, Engine(doubled(), "r1"))
    with pytest.raises(type(error)) as first:
        work.run()
    assert first.value is error
    for _ in range(2):
        with pytest.raises(type(error)) as later:
            work.wait(0)
        assert type(later.value) is type(error)
        assert str(later.value) == str(error)
        for name in ("args", "filename", "name", "code", "pos", "start", "axis", "exceptions"):
            assert getattr(later.value, name, None) == getattr(error, name, None)
        if later.value is not error:
            (note,) = later.value.__notes__
            assert "the cause of all" in note
            assert "in fail" in note
    assert not hasattr(error, "__notes__")
    assert (later.value is error) == isinstance(error, Strange)


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
@pytest.mark.parametrize("wait", [True, False])
def test_what_is_over_holds_no_graph(store_root, end, wait):
    """Runs are kept for `last_run`, and so are their errors."""

    def run():
        function, arguments = (producers.failing, ()) if end == "failed" else (slowly, (0.1,))
        values = np.arange(300_000).reshape(30, -1)
        x = da.from_array(values, chunks=(2, -1))
        kept = x.map_blocks(function, *arguments, dtype="i8", meta=np.empty((0, 0), "i8"))
        held = [weakref.ref(values), weakref.ref(x), weakref.ref(kept)]
        canceller = threading.Thread(target=lambda: wait_until(cancelled), daemon=True)
        if end == "cancelled":
            canceller.start()
        try:
            daskcache.persist(kept, "x", wait=wait)
            daskcache.last_run().wait()
        except (ArithmeticError, CancelledError):
            with pytest.raises((ArithmeticError, CancelledError)):
                daskcache.last_run().wait()
        return held

    def cancelled():
        if objects(store_root):
            daskcache.last_run().cancel()
            return True
        return False

    held = run()

    def is_free():
        gc.collect()
        return not any(ref() is not None for ref in held)

    wait_until(is_free)
    assert daskcache.last_run().outcome.startswith(
        {"done": "done", "failed": "Arith", "cancelled": "Cancelled"}[end]
    )


@pytest.mark.parametrize("wait", [True, False])
def test_cancelled(store_root, tmp_path, wait):
    x = produced(slowly, 0.05, n=180)
    caught = []

    def persist():
        try:
            with dask.config.set(num_workers=2):
                daskcache.persist(x, "x", wait=wait)
        except CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=persist)
    thread.start()
    while len(objects(store_root)) < 3 or not daskcache.last_run().progress:
        time.sleep(0.01)
    run = daskcache.last_run()
    assert 0 < run.progress < 1
    run.cancel()
    thread.join()
    with pytest.raises(CancelledError, match="what it stored stays"):
        run.wait(5)
    assert len(caught) == wait
    if wait:
        time.sleep(0.3)  # what is being computed is finished
        wait_until(lambda: len(list((tmp_path / "calls").iterdir())) == run.stored)
    stored = len(objects(store_root))
    assert 3 <= stored < 60
    assert run is daskcache.last_run()
    assert (run.computed, run.stored, run.shared, run.wanted, run.done) == (stored, stored, 0, 60, True)
    assert run.stored_bytes == sum(path.stat().st_size for path in objects(store_root))
    assert run.outcome == f"CancelledError: run {run.id} was cancelled; what it stored stays"
    count()
    assert (daskcache.persist(x, "x").compute() == expected(x)).all()
    assert count() == 60 - stored
    run.cancel()  # of what has ended, nothing


@pytest.mark.slow
def test_what_other_processes_have_done_is_counted(store_root):
    with dask.config.set({"scheduler": "processes", "num_workers": 2, "multiprocessing.context": "spawn"}):
        daskcache.persist(produced(slowly, 0.1, n=90), "x", wait=False)
    run = daskcache.last_run()
    wait_until(lambda: run.stored > 2)
    run.cancel()
    with pytest.raises(CancelledError):
        run.wait(60)
    assert 2 < run.computed == run.stored <= len(objects(store_root)) < 30
    assert run.stored_bytes > 0


def test_a_computation_has_no_result_to_wait_for(store_root):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
    run = daskcache.last_run()
    assert (run.kind, run.computed, run.stored, run.done) == ("compute", 4, 4, True)
    assert run.wait() is run
    with pytest.raises(DaskcacheError, match="no result of its own"):
        run.result()
    with pytest.raises(AttributeError, match="it has blocks"):
        run.nothing  # noqa: B018
    assert "stored_bytes" in dir(run)


def test_a_bar_is_drawn_of_what_takes_long(store_root, capsys, monkeypatch):
    with dask.config.set({"daskcache.progress": True, "num_workers": 1}):
        daskcache.persist(produced(slowly, 0.4, n=12), "x")
        assert "100% Completed" in capsys.readouterr().err
        monkeypatch.setattr("daskcache.jobs._PATIENCE_S", 60.0)
        daskcache.persist(doubled(), "y")
        assert "Completed" not in capsys.readouterr().err


def test_what_is_swept_meanwhile_is_told_and_computed_by_running_again(store_root, monkeypatch):
    """A sweep with too short a grace period, say, before a run publishes that nobody waits for."""
    daskcache.persist(doubled(), "x")
    gone = []

    def sweeps(root):
        if not gone:
            gone.append(objects(store_root)[0])
            gone[0].unlink()

    monkeypatch.setattr("daskcache.publishing.wait_for_sweep", sweeps)
    daskcache.persist(produced(producers.double, n=15), "y", wait=False)
    run = daskcache.last_run()
    with pytest.raises(StoreError, match=r"has gone from store .* since it was looked up; run again"):
        run.result()
    assert "has gone" in run.outcome
    assert "y" not in daskcache.catalog.Catalog(str(store_root)).entries()
    count()
    assert (daskcache.persist(produced(producers.double, n=15), "y").compute() == np.arange(15) * 2).all()
    assert count() == 1

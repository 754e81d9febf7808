"""Schedulers and workers that were not restarted after an edit: nothing stale is loaded, nothing wrong is stored.

With distributed the pass runs in the scheduler, with the functions that it imported when it was started. One cluster
here has an old scheduler and a new worker, another a new scheduler and an old worker; the client is new.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MINE = """
    import params

    def soften(x):
        return helper(x) + params.K

    def helper(x):
        return x * 2

    def plain(x):
        return x - 1
"""
EDITED = MINE.replace("x * 2", "x * 10")

STEADY = """
    K = 7

    def even(x, n=4):
        return odd(x, n - 1) if n else x + K

    def odd(x, n=3):
        return even(x, n - 1) if n else x - K

    class Shift:
        by = 2

        @staticmethod
        def still(x):
            return x + 1

        @classmethod
        def made(cls, x):
            return x + cls.by
"""

BUILD = """
    import json, sys
    import dask, dask.array as da, numpy as np
    import daskcache
    import mine, params, steady

    STORE = "store"

    def build(name, function, *parts, **options):
        x = da.arange(8, chunks=4) + 1
        for part in parts:
            x = x + part
        return daskcache.checkpoint(x.map_blocks(function, **options), name, store=STORE)
"""
# What the old code stored before the edit.
OLD = (
    BUILD
    + """
    with daskcache.activate(STORE), dask.config.set(scheduler="threads"):
        old = build("soft", mine.soften).compute()
        build("by-value", lambda x: mine.soften(x)).compute()
        build("K", lambda x: x * params.K).compute()
    print(json.dumps({"old": old.tolist()}))
"""
)
CLIENT = (
    BUILD
    + """
    import cloudpickle
    from distributed import Client
    from daskcache.config import Settings
    from daskcache.fingerprint import Fingerprinter
    from daskcache.tokens import GraphTokens

    LEVEL = 2.5

    def inner(x):
        return x.clip(0, LEVEL) * steady.K

    def by_value(x, scale=3, *, shift=0.5):
        total = x.sum(keepdims=True) + x.min() * 0
        return inner(x) * scale + shift + total * 0

    class Model:
        def __init__(self, slope):
            self.slope, self.min = slope, -slope
        def __call__(self, x):
            return x * self.slope + self.min + np.sqrt(LEVEL)

    def even(x, n=4):
        return odd(x, n - 1) if n else x * LEVEL

    def odd(x, n=3):
        return even(x, n - 1) if n else x - LEVEL

    def tokens_of(pickled, step=1):
        # By one walk, in one order or the other: functions that call each other are come to from either.
        walk, found = Fingerprinter(), {}
        arrays = list(enumerate(cloudpickle.loads(pickled)))
        for number, array in arrays[::step]:
            tokens = GraphTokens(array.dask, walk)
            for key in list(dask.core.flatten(array.__dask_keys__()))[::step]:
                found[f"{number} {key[1:]}"] = str(tokens.token(key) and tokens.token(key).hex())
        return dict(sorted(found.items()))

    def stored(entry):
        try:
            return daskcache.open(entry, store=STORE).compute(scheduler="threads").tolist()
        except daskcache.EntryNotFoundError:
            return None

    def count():
        from pathlib import Path
        return len([file for file in Path(STORE, "chunks").rglob("*") if file.is_file()])

    if __name__ == "__main__":
        found = {}
        # Names of a script's own that are also attributes which its functions read.
        for clip, sum, min, slope in [(1, 2, 3, 4)]:
            pass
        with daskcache.activate(STORE):
            with Client(scheduler_file="stale-scheduler.json") as client:
                client.wait_for_workers(1)
                before = count()
                found["soft"] = build("soft", mine.soften).compute().tolist()
                found["soft again"] = build("soft", mine.soften).compute().tolist()
                found["by value"] = build("by-value", lambda x: mine.soften(x)).compute().tolist()
                found["by value of K"] = build("K", lambda x: x * params.K).compute().tolist()
                found["stored of stale"] = count() - before
                found["beside it"] = build("plain", mine.plain).compute().tolist()
                found["stored beside it"] = stored("plain")
                found["persisted"] = daskcache.persist(build(None, mine.soften), "kept", store=STORE).compute().tolist()
                found["kept"] = stored("kept")
            with Client(scheduler_file="fresh-scheduler.json") as client:
                client.wait_for_workers(1)
                before = count()
                found["on old workers"] = build("on-old-workers", mine.soften, 100).compute().tolist()
                found["stored on old workers"] = stored("on-old-workers"), count() - before
                try:
                    daskcache.persist(build(None, mine.soften, 200), "refused", store=STORE)
                except daskcache.UncacheableError as error:
                    found["refused"] = str(error), count() - before
                found["loaded"] = build("kept", mine.soften).compute().tolist()
                # From here on: what agrees.
                x = da.arange(8, chunks=4).map_blocks(by_value, scale=4).map_blocks(Model(2.0))
                functions = [even, odd, steady.even, steady.odd, steady.Shift.still, steady.Shift.made]
                given = da.arange(8, chunks=4)
                arrays = [x, *(given.map_blocks(function, dtype="f8") for function in functions)]
                pickled = cloudpickle.dumps(arrays)
                found["tokens"] = [
                    tokens_of(pickled),
                    tokens_of(pickled, -1),
                    client.run_on_scheduler(tokens_of, pickled, step=-1),
                    *client.run(tokens_of, pickled).values(),
                    *client.run(tokens_of, pickled, step=-1).values(),
                ]
                found["main"] = daskcache.checkpoint(x, "main", store=STORE).compute().tolist()
                found["stored of main"] = stored("main")
        with dask.config.set(scheduler="threads"):
            found["expected main"] = x.compute().tolist()
        print(json.dumps(found))
"""
)


def write(root: Path, **files: str) -> None:
    for name, source in files.items():
        (root / f"{name}.py").write_text(textwrap.dedent(source))


def environment(root: Path) -> dict[str, str]:
    paths = [str(root), str(Path(__file__).parents[2])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def run(root: Path, source: str) -> Any:
    (root / "script.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=root, env=environment(root), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class Processes:
    """Schedulers and workers, stopped in the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[str]] = []

    def start(self, log: str, *command: str) -> None:
        with (self.root / log).open("w") as file:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command],
                    cwd=self.root, env=environment(self.root), stdout=file, stderr=subprocess.STDOUT, text=True,
                )
            )  # fmt: skip

    def start_scheduler(self, name: str, *options: str) -> None:
        file = f"--scheduler-file={name}-scheduler.json"
        self.start(
            f"{name}-scheduler.log",
            "scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            file,
            *options,
        )

    def start_worker(self, name: str, *options: str) -> None:
        file = f"--scheduler-file={name}-scheduler.json"
        where = "--host=127.0.0.1", f"--local-directory={self.root / name}"
        self.start(
            f"{name}-worker.log",
            "worker",
            file,
            *where,
            "--no-nanny",
            "--nthreads=1",
            "--no-dashboard",
            *options,
        )

    def wait_for(self, log: str, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in (self.root / log).read_text():
            assert time.monotonic() < deadline, (self.root / log).read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    root = tmp_path_factory.mktemp("stale")
    processes = Processes(root)
    try:
        write(root, mine=MINE, params="K = 1\n", steady=STEADY)
        processes.start_scheduler("stale", "--preload=mine")
        processes.start_scheduler("fresh")
        processes.start_worker("fresh", "--preload=mine")
        old = run(root, OLD)
        processes.wait_for("stale-scheduler.log", "Scheduler at")
        processes.wait_for("fresh-worker.log", "Registered to")
        write(root, mine=EDITED, params="K = 5\n")
        processes.start_worker("stale")
        results = {**old, **run(root, CLIENT)}
        results["log"] = (root / "stale-scheduler.log").read_text()
        results["fresh log"] = (root / "fresh-scheduler.log").read_text()
        yield results
    finally:
        processes.stop()


NUMBERS = range(1, 9)
NEW = [x * 10 + 5 for x in NUMBERS]


def test_the_old_code_had_stored_something(found: dict[str, Any]) -> None:
    assert found["old"] == [x * 2 + 1 for x in NUMBERS]


def test_nothing_that_old_code_stored_is_loaded(found: dict[str, Any]) -> None:
    assert found["soft"] == found["soft again"] == found["by value"] == NEW
    assert found["by value of K"] == [x * 5 for x in NUMBERS]


def test_nothing_is_stored_under_tokens_of_old_code(found: dict[str, Any]) -> None:
    assert found["stored of stale"] == 0


def test_what_uses_no_edited_code_is_stored_as_ever(found: dict[str, Any]) -> None:
    assert found["beside it"] == found["stored beside it"] == [x - 1 for x in NUMBERS]


def test_the_scheduler_names_the_functions_once(found: dict[str, Any]) -> None:
    assert found["log"].count("the scheduler has other code than the client") <= 3
    assert "mine.helper, mine.soften" in found["log"]
    assert "params.K" in found["log"]
    assert "other code" not in found["fresh log"]


def test_a_persist_is_keyed_in_the_client(found: dict[str, Any]) -> None:
    assert found["persisted"] == found["kept"] == NEW


def test_workers_that_are_old_store_nothing(found: dict[str, Any]) -> None:
    # dask computes with the code that the workers have.
    assert found["on old workers"] == [(x + 100) * 2 + 1 for x in NUMBERS]
    assert found["stored on old workers"] == [None, 0]
    reason, stored = found["refused"]
    assert "mine.helper, mine.soften" in reason
    assert stored == 0


def test_old_workers_load_what_new_code_stored(found: dict[str, Any]) -> None:
    assert found["loaded"] == NEW


def test_client_scheduler_and_worker_agree_on_every_token(found: dict[str, Any]) -> None:
    client, *others = found["tokens"]
    assert len(others) == 4
    assert all(other == client for other in others)
    assert "None" not in client.values()
    # 7 arrays of 2 blocks: by value and by name, recursive, static and bound to a class.
    assert len(set(client.values())) == len(client) == 14


def test_functions_by_value_are_stored(found: dict[str, Any]) -> None:
    assert found["main"] == found["stored of main"] == found["expected main"]

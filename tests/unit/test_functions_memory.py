"""The memory level."""

from __future__ import annotations

import random
import threading
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.functions import memory
from daskcache.functions.memory import MEMORY, Memory
from daskcache.pool import StoredBlock
from tests.clusters import processes


@pytest.fixture(autouse=True)
def forget():
    MEMORY.clear()
    yield
    MEMORY.clear()


def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    memory = Memory()
    for name in "abc":
        memory.put(name, name, 10, limit=30)
    assert memory.get("a") == "a"
    memory.put("d", "d", 10, limit=30)
    assert [memory.get(name) for name in "abcd"] == ["a", None, "c", "d"]
    memory.put("e", "e", 31, limit=30)
    assert (memory.get("e"), memory.size_bytes) == (None, 30)
    memory.put("a", "A", 20, limit=30)
    assert (memory.get("a"), memory.size_bytes) == ("A", 30)
    memory.drop("a")
    memory.drop("a")
    assert memory.size_bytes == 10


def test_many_threads_keep_the_count() -> None:
    memory = Memory()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        try:
            for number in generator.integers(0, 50, 2000).tolist():
                if number % 7 == 0:
                    memory.drop(number)
                memory.put(number, number, number, limit=500)
                assert memory.get(number) in (None, number)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert memory.size_bytes <= 500
    assert memory.size_bytes == sum(size for _, size in memory._values.values())


def test_memoized_values_are_kept_and_nobody_changes_them(monkeypatch) -> None:
    @daskcache.cache(memoize=True)
    def table():
        return pd.DataFrame({"a": [1, 2]})

    found = table()
    gets: list[str] = []
    get = stores.get
    monkeypatch.setattr(stores, "get", lambda store, key, *rest: gets.append(key) or get(store, key, *rest))
    found = table()
    found.loc[0, "a"] = 100
    assert table().a.tolist() == [1, 2]
    assert gets == [], "the store is not asked"
    assert table(memoize=False).a.tolist() == [1, 2]
    assert gets != []


def test_memoized_blocks_are_read_once_and_have_their_tokens(monkeypatch) -> None:
    @daskcache.cache
    def make():
        return xr.Dataset({"t": ("x", da.arange(8, chunks=4) * 2)})

    plain = make()
    reads: list[str] = []
    read = StoredBlock._read

    def note(self: Any, selection: Any) -> Any:
        reads.append(self.key)
        return read(self, selection)

    monkeypatch.setattr(StoredBlock, "_read", note)
    first = make(memoize=True)
    assert reads == []
    assert daskcache.token(first) == daskcache.token(plain)
    assert first.t.sum().compute() == 56
    assert len(reads) == 2
    block = first.t.data.blocks[0].compute()
    block[:] = -1
    assert make(memoize=True).t.sum().compute() == 56
    assert make(memoize=True).t[:2].values.tolist() == [0, 2]
    assert len(reads) == 2
    with dask.config.set({"daskcache.functions.memory": "10 B"}):
        MEMORY.clear()
        make(memoize=True).t.sum().compute()
        make(memoize=True).t.sum().compute()
        assert MEMORY.size_bytes == 0
    assert len(reads) == 6


def test_what_is_computed_anew_replaces_what_is_in_memory() -> None:
    log: list[int] = []

    @daskcache.cache(ignore=["log"], memoize=True)
    def f(log):
        log.append(1)
        return len(log)

    assert [f(log), f(log), f(log, recompute=True), f(log)] == [1, 1, 2, 2]


def test_workers_keep_what_they_read(store_root, tmp_path) -> None:
    @daskcache.cache
    def make():
        return da.arange(8, chunks=4) * 2

    make()
    with processes(tmp_path, workers=1) as cluster, cluster.client(workers=1):
        assert make(memoize=True).sum().compute() == 56
        for path in store_root.glob("chunks/*/*"):
            path.unlink()
        assert make(memoize=True, verify="never").sum().compute() == 56


def held_bytes() -> int:
    return MEMORY.size_bytes


def read_again() -> int:
    """How many blocks were read from the store since this was asked last."""
    return reads.pop("count", 0)


reads: dict[str, int] = {}


def count_reads() -> None:
    whole = StoredBlock._read

    def read(self: StoredBlock, selection: Any) -> Any:
        reads["count"] = reads.get("count", 0) + 1
        return whole(self, selection)

    StoredBlock._read = read  # type: ignore[method-assign]


def test_the_bound_holds_on_workers_and_nothing_depends_on_the_cluster(store_root, tmp_path) -> None:
    @daskcache.cache
    def make():
        return da.arange(80_000, chunks=10_000) * 2

    plain = make()
    expected = int(plain.sum().compute())
    environment = {"DASK_DASKCACHE__FUNCTIONS__MEMORY": "250 kB"}
    with processes(tmp_path, workers=2, **environment) as cluster, cluster.client(workers=2) as client:
        client.run(count_reads)
        kept = make(memoize=True)
        assert daskcache.token(kept) == daskcache.token(plain)
        for _ in range(4):
            assert int(kept.sum().compute()) == expected
        # Blocks of 80 kB, of which each worker keeps three.
        found = list(client.run(held_bytes).values())
        assert max(found) <= 250_000
        assert sum(found) >= 240_000
        client.run(read_again)
        some = make(memoize=True)[:10_000]
        assert [int(some.sum().compute()) for _ in range(6)] == [99_990_000] * 6
        # Once at most on each worker.
        assert sum(client.run(read_again).values()) <= 2
    # The cluster is gone: what was given is read from the store, by whoever computes it.
    assert int(kept.sum().compute()) == expected
    assert int(make(memoize=True).sum().compute()) == expected
    assert daskcache.token(make(memoize=True)) == daskcache.token(plain)


def test_calls_of_many_threads_give_values_of_their_own(monkeypatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda: 3000)

    @daskcache.cache(memoize=True)
    def make(number):
        return {"values": [number] * 50}

    failures: list[Any] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            number = rng.randrange(6)
            found = make(number)
            if found != {"values": [number] * 50}:
                failures.append(found)
            found["values"].clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert MEMORY.size_bytes <= 3000

"""Stores in buckets of real servers: what they keep when things go well, and what when they do not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import StoreError
from daskcache.locations import to_root
from daskcache.stores.remote import PROBE
from tests.servers.conftest import start
from tests.servers.harness import UNKNOWN, Bucket, Cutter, Faulty, gcs, moto

pytestmark = [
    pytest.mark.slow,
    # gcsfs hands aiohttp bytes.
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]

_calls: Counter[int] = Counter()


@daskcache.version("1")  # what it counts in changes as it runs
def slowly(block: np.ndarray) -> np.ndarray:
    _calls[int(block.flat[0])] += 1
    time.sleep(0.05)
    return block * 2.0


def pipeline(blocks: int = 12) -> xr.Dataset:
    source = da.arange(blocks * 1000, chunks=1000, dtype="f8")
    return xr.Dataset({"v": ("x", source.map_blocks(slowly, dtype="f8"))})


EXPECTED = np.arange(12_000.0) * 2

OPEN = """
import sys, numpy as np, daskcache
from daskcache.config import Settings
data = daskcache.open("entry", store=sys.argv[1])
assert (data.v.values == np.arange(12_000.0) * 2).all()
print(sorted(data.sizes.items()))
"""


def test_what_one_process_persists_another_opens(place: Bucket) -> None:
    root = place.root()
    _calls.clear()
    stored = daskcache.persist(pipeline(), "entry", store=root)
    assert (stored.v.values == EXPECTED).all()
    assert set(_calls.values()) == {1}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, to_root(root)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == "[('x', 12000)]\n", done.stderr
    assert daskcache.persist(pipeline(), "entry", store=root).v.values[-1] == EXPECTED[-1]
    assert set(_calls.values()) == {1}


def test_objects(place: Bucket) -> None:
    store = place.open()
    assert stores.get(store, "chunks/00ff/ab") is None
    assert stores.list_sizes(store, "chunks/00ff") == {}
    stores.put(store, "chunks/00ff/ab", b"0123456789")
    assert stores.get(store, "chunks/00ff/ab") == b"0123456789"
    assert stores.get(store, "chunks/00ff/ab", stores_range(2, 5)) == b"234"
    assert stores.size(store, "chunks/00ff/ab") == 10
    assert stores.size(store, "chunks/00ff/cd") is None
    assert stores.create(store, "chunks/00ff/cd", b"1")
    assert not stores.create(store, "chunks/00ff/cd", b"22")
    assert stores.list_sizes(store, "chunks/00ff") == {"ab": 10, "cd": 1}
    assert stores.list_dirs(store, "chunks") == ["00ff"]
    assert stores.rename_aside(store, "chunks/00ff/cd") == "quarantine/chunks/00ff/cd.0"
    stores.delete(store, "chunks/00ff/ab")
    assert stores.list_sizes(store, "chunks/00ff") == {}
    for data in (b"", b"\r", b"1\n", b"\r\n2\r\n", b"3\r"):
        stores.put(store, "a", data)
        assert stores.get(store, "a") == data


def test_what_other_processes_change_is_seen_after_a_listing(bucket: Bucket) -> None:
    # fsspec keeps one client for each set of options.
    one, other = bucket.open(), bucket.open("/", listings_expiry_time=1e6)
    stores.put(one, "gc/one", b"1")
    assert stores.list_sizes(one, "gc") == {"one": 1}
    stores.put(other, "gc/two", b"22")
    stores.delete(other, "gc/one")
    assert not stores.exists(one, "gc/one")
    assert stores.size(one, "gc/one") is None
    assert stores.exists(one, "gc/two")
    assert stores.size(one, "gc/two") == 2
    assert stores.list_sizes(one, "gc") == {"two": 2}
    stores.put(other, "gc/one", b"333")
    stores.delete(one, "gc/one")
    assert not stores.exists(other, "gc/one")


def test_a_create_only_put_that_is_not_answered_is_asked_for_again(bucket: Bucket) -> None:
    proxy = Faulty(bucket.server, share=0.3, seed=2, stall_s=2.0)
    try:
        store = bucket.open(endpoint=proxy.endpoint, **bucket.timeouts(1))
        for number in range(5 if bucket.scheme == "gs" else 20):  # gcsfs waits for seconds between attempts
            stores.create(store, f"chunks/00ff/{number}", b"123")
            assert not stores.create(store, f"chunks/00ff/{number}", b"4")
            assert stores.get(bucket.open(), f"chunks/00ff/{number}") == b"123"
        assert proxy.faults["stalled"], proxy.faults
    finally:
        proxy.close()


def stores_range(start_: int, end: int):
    from zarr.abc.store import RangeByteRequest

    return RangeByteRequest(start_, end)


def test_whether_a_server_keeps_the_condition_is_asked_once(bucket: Bucket) -> None:
    store = bucket.open()
    assert not stores.exists(store, PROBE)
    assert stores.create(store, "a", b"1")
    kept = store._daskcache_creates
    assert kept or bucket.scheme == "gs", "S3's servers keep it"
    assert stores.exists(store, PROBE)
    assert [*stores.drive.walk(store, "")] == ["a"]


@pytest.mark.parametrize("conditions", ["ignored", *UNKNOWN])
def test_a_server_that_does_not_keep_the_condition_is_found_out(bucket: Bucket, conditions: str) -> None:
    if bucket.scheme == "gs":
        pytest.skip("Google's condition is a parameter of the URL")
    if conditions == "ignored" and "radosgw" in bucket.server.command:
        pytest.skip("the condition is signed, and Ceph checks signatures")
    proxy = Faulty(bucket.server, conditions=conditions)
    try:
        store = bucket.open(endpoint=proxy.endpoint)
        assert stores.create(store, "a", b"1")
        asked = proxy.conditional
        assert asked > 0
        assert not stores.create(store, "a", b"2")
        assert stores.create(store, "b", b"3")
        assert proxy.conditional == asked, "it is asked once"
        assert [stores.get(store, key) for key in "ab"] == [b"1", b"3"]
    finally:
        proxy.close()


def test_one_of_many_writers_wins(place: Bucket) -> None:
    store = place.open()
    stores.create(store, "first", b"")
    keys = [f"chunks/00ff/{n:040x}" for n in range(8)]

    def write(writer: int) -> list[bool]:
        return [stores.create(store, key, bytes([writer]) * 200_000) for key in keys]

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(write, range(8)))
    for n, key in enumerate(keys):
        winners = [writer for writer in range(8) if created[writer][n]]
        # Where a server ignores the condition, the last one's object lies there, whole.
        assert len(winners) == 1 or (winners and not store._daskcache_creates)
        assert stores.get(store, key) in [bytes([writer]) * 200_000 for writer in winners]


def test_a_reader_sees_the_old_object_or_the_new_one(place: Bucket) -> None:
    store = place.open()
    size = 1_000_000
    stores.put(store, "a", b"0" * size)
    done = threading.Event()
    seen = Counter()

    def read() -> None:
        while not done.is_set():
            data = stores.get(store, "a") or b""
            seen[data[:1] if data == data[:1] * size else b"torn"] += 1

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for n in range(20):
                stores.put(store, "a", b"%d" % (n % 10) * size)
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert seen[b"torn"] == 0
    assert sum(seen.values()) >= 2


def test_a_connection_cut_in_the_middle_of_a_put_leaves_nothing_half_written(place: Bucket) -> None:
    proxy = Cutter(place.server)
    through = place.open(endpoint=proxy.endpoint)
    data = np.random.default_rng(0).bytes(3_000_000)
    stores.put(through, "before", data)
    try:
        for n, write in enumerate((stores.put, stores.create)):
            proxy.after, before = 1_000_000 + n, proxy.cuts
            restore = threading.Thread(target=restore_once_cut, args=(proxy, before))
            restore.start()
            with contextlib.suppress(StoreError):
                write(through, f"chunks/00ff/{n}", data)
            restore.join()
            assert proxy.cuts > before
            direct = stores.get(place.open(), f"chunks/00ff/{n}")
            assert direct in (None, data)
            write(through, f"chunks/00ff/{n}", data)
            assert stores.get(place.open(), f"chunks/00ff/{n}") == data
    finally:
        proxy.close()


def restore_once_cut(proxy: Cutter, before: int) -> None:
    """Let all pass again some time after the first cut."""
    give_up = time.monotonic() + 60
    while proxy.cuts == before and time.monotonic() < give_up:
        time.sleep(0.01)
    time.sleep(1.0)
    proxy.after = None


def test_one_in_twenty_requests_fails_and_the_result_is_right(place: Bucket) -> None:
    proxy = place.faulty(share=0.05, seed=3)
    root = place.root(endpoint=proxy.endpoint, **place.timeouts(2))
    errors = []
    try:
        for number in range(4):
            for _ in range(6):
                try:
                    with warnings.catch_warnings(action="ignore"):
                        stored = daskcache.persist(pipeline(), f"entry-{number}", store=root)
                        assert (stored.v.values == EXPECTED).all()
                        break
                except StoreError as error:
                    errors.append(error)
            else:
                pytest.fail(f"never done: {errors}")
            if sum(proxy.faults.values()) >= 4:
                break
            root = {**root, "url": f"{root['url']}-{number}"}
        assert sum(proxy.faults.values()) >= 2, proxy.faults
    finally:
        proxy.close()
    assert (daskcache.open("entry-0", store=place.root()).v.values == EXPECTED).all()


def test_a_server_that_is_killed_and_started_again_in_the_middle_of_a_run(place: Bucket) -> None:
    root = place.root(**place.timeouts(2))

    def interrupt() -> None:
        time.sleep(1.0)
        place.server.kill()
        time.sleep(1.0)
        place.server.start()

    breaker = threading.Thread(target=interrupt)
    breaker.start()
    outcome: object
    try:
        with warnings.catch_warnings(action="ignore"), dask.config.set(num_workers=1):
            stored = daskcache.persist(pipeline(30), "entry", store=root)
            outcome = stored.v.values[-1]
    except StoreError as error:
        outcome = str(error)
    finally:
        breaker.join()
    expected = (30_000 - 1) * 2.0
    assert outcome == expected or "store " in str(outcome)
    # A store in memory comes back empty: then all of it is computed again.
    assert daskcache.persist(pipeline(30), "entry", store=root).v.values[-1] == expected


def test_with_the_server_gone_a_pipeline_still_computes_and_a_persist_says_why_not(place: Bucket) -> None:
    port_of_nobody = "http://127.0.0.1:9"
    root = place.root(endpoint=port_of_nobody)
    if place.scheme == "gs":
        pytest.skip("gcsfs tries for a minute")
    with warnings.catch_warnings(action="ignore"), daskcache.activate(root):
        assert (pipeline().compute().v.values == EXPECTED).all()
    with pytest.raises(StoreError, match=rf"store {place.scheme}://.* failed"):
        daskcache.persist(pipeline(), "entry", store=root)


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_ten_thousand_objects_are_listed(client: str, ambient: None) -> None:
    server = moto(10_000)
    server.start()
    try:
        root = {
            "url": "s3://many/root",
            "client": client,
            "storage_options": {"endpoint_url": server.endpoint},
        }
        root["storage_options"]["client_kwargs"] = {"region_name": "us-east-1"}
        found = stores.list_sizes(stores.open(root), "chunks/00ff")
        assert len(found) == 10_000
        assert set(found.values()) == {5}
    finally:
        server.kill()


@pytest.mark.nightly
@pytest.mark.server("radosgw")
@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_ten_thousand_objects_of_cephs_are_listed(client: str, ambient: None) -> None:
    options = {"client_kwargs": {"region_name": "us-east-1"}}
    store = Bucket(start("ceph"), "s3", client, options, f"many-{client}").open()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: stores.put(store, f"chunks/00ff/{n:040x}", b"12345"), range(10_000)))
    found = stores.list_sizes(store, "chunks/00ff")
    assert len(found) == 10_000
    assert set(found.values()) == {5}


def test_ten_thousand_objects_of_googles_are_listed(ambient: None) -> None:
    server = gcs(10_000)
    server.start()
    try:
        options = {"token": "anon", "project": "p", "endpoint_url": server.endpoint}
        found = stores.list_sizes(stores.open("gs://bucket/many", **options), "chunks/00ff")
        assert len(found) == 10_000
        assert set(found.values()) == {5}
    finally:
        server.kill()


def test_the_better_client_is_taken_where_it_has_words_for_the_options(ambient: None) -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "client_kwargs": {"region_name": "us-east-1"}}
    assert type(stores.open("s3://b/c", **options)).__name__ == "BucketStore"
    other = stores.open("s3://b/c", **options, s3_additional_kwargs={"ServerSideEncryption": "aws:kms"})
    assert type(other).__name__ == "FileSystemStore"
    assert Settings.from_config(store="s3://b/c", storage_options=options).store == to_root(
        "s3://b/c", options
    )

"""Publishing to buckets of real servers: copies that the server makes, counted there, and publishers that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.errors import DaskcacheError
from daskcache.locations import to_root
from daskcache.stores.remote import PROBE
from daskcache.transfer.claims import CLAIMS
from tests.servers.harness import BUCKET, Bucket, Faulty

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]


def state(length: int, edits: tuple[int, ...] = ()) -> xr.Dataset:
    values = np.arange(float(length))
    values[list(edits)] += 1000
    parts = [da.from_array(values[i : i + 5], chunks=5) for i in range(0, length, 5)]
    return xr.Dataset({"t": ("x", da.concatenate(parts))}, {"x": np.arange(length)})


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Faulty]:
    proxy = Faulty(bucket.server)
    yield proxy
    proxy.close()


def test_what_changed_is_copied_by_the_server(bucket: Bucket, proxy: Faulty) -> None:
    store, target = (bucket.root(path, proxy.endpoint) for path in ("/cache", "/out.zarr"))
    below = f"/{BUCKET}/{bucket.path}/out.zarr"
    daskcache.persist(state(22), "entry", store=store)
    first = daskcache.publish("entry", target, store=store)
    assert (first.copied, first.streamed) == (5, 1)
    xr.testing.assert_identical(xr.open_zarr(stores.open(target)).load(), state(22).compute())
    # An edit in the first block, and growth.
    daskcache.persist(state(31, (1,)), "entry", store=store)
    proxy.puts.clear()
    second = daskcache.publish("entry", target, store=store)
    assert (second.copied, second.streamed) == (4, 1)
    if bucket.scheme == "s3":
        puts = {path.removeprefix(below): copied for path, copied in proxy.puts if path.startswith(below)}
        assert {path for path, copied in puts.items() if copied} == {f"/t/c/{i}" for i in (0, 4, 5, 6)}
        assert {path for path, copied in puts.items() if not copied} == {
            "/x/c/0",
            "/t/zarr.json",
            "/x/zarr.json",
            "/zarr.json",
            f"/t/{CLAIMS}",
            f"/x/{CLAIMS}",
        }
    opened = stores.open(target)
    xr.testing.assert_identical(xr.open_zarr(opened).load(), state(31, (1,)).compute())
    xr.testing.assert_identical(xr.open_zarr(opened, consolidated=False).load(), state(31, (1,)).compute())
    assert not stores.exists(opened, PROBE)
    assert daskcache.publish("entry", target, store=store).chunks == 0
    daskcache.persist(state(10), "short", store=store)
    with pytest.raises(DaskcacheError, match="overwrite=True"):
        daskcache.publish("short", target, store=store)
    daskcache.publish("short", target, store=store, overwrite=True)
    xr.testing.assert_identical(xr.open_zarr(stores.open(target)).load(), state(10).compute())


def test_from_elsewhere_it_is_streamed(place: Bucket) -> None:
    target = place.root("/out.zarr")
    for length, streamed in ((22, 6), (31, 4)):
        daskcache.persist(state(length), "entry")
        assert daskcache.publish("entry", target).streamed == streamed
        found = xr.open_zarr(stores.open(target))
        xr.testing.assert_identical(found.load(), state(length).compute())
    daskcache.persist(state(10), "short")
    with pytest.raises(DaskcacheError, match="overwrite=True"):
        daskcache.publish("short", target)
    daskcache.publish("short", target, overwrite=True)
    found = xr.open_zarr(stores.open(target), consolidated=False)
    xr.testing.assert_identical(found.load(), state(10).compute())


def test_no_secret_is_told(bucket: Bucket, capfd: pytest.CaptureFixture[str]) -> None:
    if bucket.scheme != "s3":
        pytest.skip("the emulator takes no credentials")
    daskcache.persist(state(22), "entry")
    secret = "a-secret-that-nobody-may-see"
    root = bucket.root("/out.zarr")
    options = {**root["storage_options"], "key": "AKIAIOSFODNN7EXAMPLE", "secret": secret}
    target = stores.open(root["url"], client=root["client"], **options)
    done = daskcache.publish("entry", target)
    told = [str(done), repr(done), *capfd.readouterr()]
    daskcache.persist(state(10), "short")
    with pytest.raises(DaskcacheError) as refused:
        daskcache.publish("short", target)
    told += [str(refused.value), repr(refused.value)]
    keys = ["zarr.json", "t/zarr.json"]
    told += [(stores.get(target, key) or b"").decode() for key in keys]
    assert not any(secret in text for text in told)


PUBLISH = """
import sys, daskcache
print("begins", flush=True)
daskcache.publish("after", sys.argv[2], store=sys.argv[1])
"""


def test_publishers_that_are_killed(place: Bucket) -> None:
    store, target = (to_root(place.root(path)) for path in ("/cache", "/out.zarr"))
    before, after = state(150), state(190, tuple(range(0, 150, 10)))
    daskcache.persist(before, "before", store=store)
    daskcache.persist(after, "after", store=store)
    daskcache.publish("before", target, store=store)
    chance = random.Random(7)
    expected = [ds.t.values for ds in (before, after)]
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISH, store, target], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
            time.sleep(chance.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
        found = xr.open_zarr(stores.open(target), chunks=None)
        assert found.sizes["x"] in (150, 190)
        values = found.t.values
        for start in range(0, len(values), 5):
            part = slice(start, start + 5)
            assert any(np.array_equal(values[part], other[part]) for other in expected)
    daskcache.publish("after", target, store=store)
    xr.testing.assert_identical(xr.open_zarr(stores.open(target)).load(), after.compute())


def test_a_server_that_fails_now_and_then(bucket: Bucket) -> None:
    faulty = Faulty(bucket.server, share=0.15, seed=3, stall_s=0.0)
    try:
        target = bucket.root("/out.zarr", faulty.endpoint)
        daskcache.persist(state(60), "entry")
        for _ in range(10):
            try:
                daskcache.publish("entry", target)
                break
            except DaskcacheError:
                continue
    finally:
        faulty.close()
    assert sum(faulty.faults.values())
    sound = replace(bucket).open("/out.zarr")
    xr.testing.assert_identical(xr.open_zarr(sound).load(), state(60).compute())

"""What a cluster computes or holds already, in graphs: known by its content, worked out where it lies."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import DaskcacheWarning, StoreError, UncacheableError

distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a busy machine
        with (
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                host="127.0.0.1",
                silence_logs=50,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


@pytest.fixture(autouse=True)
def of_the_client(client: Any) -> Iterator[None]:
    # Each test is given the configuration anew, without what the client wrote there.
    with dask.config.set(scheduler="dask.distributed"), client.as_current():
        yield


def numbers() -> da.Array:
    return da.from_array(np.arange(24.0).reshape(6, 4), chunks=(2, 2)) * 3


def token_beside_a_cluster(build: Any) -> str:
    """The token of the same pipeline on blocks that lie in this process."""
    with dask.config.set(scheduler="synchronous"):
        return daskcache.token(build(numbers().persist()))


def fail() -> Any:
    raise ValueError("broken on purpose")


PIPELINES = {
    "itself": lambda x: x,
    "elementwise": lambda x: x + 1,
    "mean": lambda x: x.mean(axis=0),
    "a slice of blocks": lambda x: x[1:5, ::2] * 2,
    "a row": lambda x: x[3],
    "one element": lambda x: x[3, 1] + x,
    "rechunked": lambda x: x.rechunk((3, 4)).cumsum(axis=0),
    "labelled": lambda x: xr.DataArray(x, dims=("a", "b"), name="v").isel(a=slice(1, 4)).to_dataset(),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_tokens_are_those_of_the_blocks_themselves(client: Any, name: str) -> None:
    build = PIPELINES[name]
    x = numbers().persist()
    assert isinstance(next(iter(dict(x.dask).values())), distributed.Future)
    assert daskcache.token(build(x)) == token_beside_a_cluster(build)
    assert daskcache.token(build((numbers() + 1).persist())) != token_beside_a_cluster(build)


def test_stored_and_found_again(client: Any, store_root: Path) -> None:
    def build(x: Any) -> xr.Dataset:
        return xr.Dataset({"v": (("a", "b"), x[1:] * 2)})

    ds = build(client.persist(numbers()))
    before = ds.cache.status()
    assert (before["v"].blocks, before["v"].stored, before["v"].reason) == (6, 0, None)
    kept = ds.cache.persist("kept")
    np.testing.assert_array_equal(kept.v.values, np.arange(24.0).reshape(6, 4)[1:] * 6)
    assert daskcache.last_run().computed == 6
    assert ds.cache.status().is_complete
    again = build(client.persist(numbers()))
    assert again.cache.token == ds.cache.token
    again.cache.persist("again")
    assert daskcache.last_run().computed == 0
    # Another process, without a cluster, has the blocks in its memory.
    with dask.config.set(scheduler="synchronous"):
        local = build(numbers().persist())
        assert local.cache.status().is_complete
    [cause] = build((numbers() + 1).persist()).cache.explain("kept")
    assert cause.blocks == 6


def test_labelled_objects_that_were_persisted(client: Any, store_root: Path) -> None:
    ds = xr.Dataset({"v": (("a", "b"), numbers()), "w": ("a", numbers()[:, 0])}).persist()
    (ds + 1).cache.persist("kept")
    np.testing.assert_array_equal(daskcache.open("kept").w.values, numbers()[:, 0].compute() + 1)


def test_values_of_other_kinds(client: Any) -> None:
    scattered = client.scatter(np.arange(3.0))
    submitted = client.submit(np.arange, 3.0)

    def add(block: Any, other: Any) -> Any:
        return block + other.sum()

    tokens = {
        daskcache.token(da.ones(4, chunks=2).map_blocks(add, other, dtype="f8"))
        for other in (scattered, submitted)
    }
    assert len(tokens) == 1
    other = client.submit(np.arange, 4.0)
    assert daskcache.token(da.ones(4, chunks=2).map_blocks(add, other, dtype="f8")) not in tokens
    delayed = [daskcache.token(da.from_delayed(one, (3,), dtype="f8")) for one in (scattered, submitted)]
    assert delayed[0] == delayed[1]
    kept = daskcache.persist(da.from_delayed(submitted, (3,), dtype="f8") + 1, "kept")
    np.testing.assert_array_equal(kept.compute(), np.arange(1.0, 4))


def test_what_failed_or_is_gone_says_so(client: Any) -> None:
    def of(future: Any) -> da.Array:
        return da.from_delayed(future, (3,), dtype="f8") + 1

    failed = of(client.submit(fail, pure=False))
    with pytest.raises(UncacheableError, match=r"the future 'fail-.* failed: ValueError: broken on purpose"):
        daskcache.persist(failed, "kept")
    status = daskcache.status(xr.Dataset({"v": ("x", failed)}))
    assert "failed: ValueError: broken on purpose; make it again" in str(status["v"].reason)
    future = client.submit(np.arange, 3.0, pure=False)
    cancelled = of(future)
    future.cancel()
    with pytest.raises(UncacheableError, match="was cancelled; make it again"):
        daskcache.token(cancelled)
    with pytest.raises(UncacheableError, match="was cancelled"):
        daskcache.persist(cancelled)


def test_a_value_without_identity(client: Any) -> None:
    future = client.submit(object, pure=False)
    x = da.ones(4, chunks=2).map_blocks(lambda block, other: block, future, dtype="f8")
    with pytest.raises(UncacheableError, match=r"a bare object\(\)"):
        daskcache.token(x)


def test_a_client_that_is_closed(client: Any) -> None:
    with distributed.Client(client.cluster, set_as_default=False) as other:
        x = other.persist(numbers())
        assert daskcache.token(x) == token_beside_a_cluster(lambda x: x)
    with pytest.raises(UncacheableError, match=r"of a client that cannot be asked|was cancelled|was lost"):
        daskcache.token(x)


def compute_and_catch(x: Any, expected: str) -> tuple[Any, str]:
    """Compute, and give the warning that comes from the scheduler to the client, some time later."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = x.compute()
        deadline = time.monotonic() + 20
        while True:
            ours = [str(one.message) for one in caught if one.category is DaskcacheWarning]
            if any(expected in message for message in ours):
                return result, next(message for message in ours if expected in message)
            assert time.monotonic() < deadline, [str(one.message) for one in caught]
            time.sleep(0.02)


def test_the_pass_names_the_remedy(client: Any, store_root: Path) -> None:
    with daskcache.activate():
        x = daskcache.checkpoint(numbers().persist() + 1, "kept")
        result, message = compute_and_catch(x, "6 blocks cannot be keyed")
    np.testing.assert_array_equal(result, numbers().compute() + 1)
    assert "cache.persist() asks the cluster" in message
    assert not list(store_root.glob("chunks/*/*"))


def test_the_reason_reaches_the_client_with_its_path(client: Any) -> None:
    def service(block: Any) -> Any:
        return block + np.random.rand() * 0  # noqa: NPY002

    x = numbers().map_blocks(service, dtype="f8")
    with daskcache.activate():
        result, message = compute_and_catch(daskcache.checkpoint(x, "kept"), "numpy.random.rand")
        np.testing.assert_array_equal(result, numbers().compute())
        assert "task 'service' → function" in message
        for choice in ("raise", "ignore"):
            with dask.config.set({"daskcache.on-uncacheable": choice}), daskcache.activate():
                marked = daskcache.checkpoint(x, "kept")
                if choice == "ignore":
                    np.testing.assert_array_equal(marked.compute(), numbers().compute())
                    continue
                with pytest.raises(UncacheableError, match="6 blocks cannot be keyed"):
                    marked.compute()


def test_a_stored_block_that_is_damaged_cannot_be_made_again_of_futures(
    client: Any, store_root: Path
) -> None:
    x = numbers().persist()
    daskcache.persist(x + 1, "kept")
    planned = (x + 1) * 3
    path = next(store_root.glob("chunks/*/*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        daskcache.persist(planned, "third")
    # What was damaged counts as missing where it is wanted itself.
    daskcache.persist(x + 1, "kept")
    assert daskcache.last_run().computed == 1
    kept = daskcache.persist(planned, "third")
    np.testing.assert_array_equal(kept.compute(), (numbers().compute() + 1) * 3)

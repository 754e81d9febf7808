"""The policy ``auto`` goes by the store at hand: what is worth storing on a fast one is left on a slow one."""

import time

import dask
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

import daskcache
from tests import producers
from tests.producers import count, produced

COMPUTE_S = 0.2
REQUEST_S = 0.4


class Fast(MemoryFileSystem):
    """A file system that takes no time, through all that lies between it and a store."""

    protocol = "fast"
    request_s = 0.0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix(f"{cls.protocol}://"))

    def pipe_file(self, path, value, mode="overwrite", **options):
        self._take(path)
        return super().pipe_file(path, value, mode, **options)

    def cat_file(self, path, *arguments, **options):
        self._take(path)
        return super().cat_file(path, *arguments, **options)

    def _take(self, path):
        if "/chunks/" in path:
            time.sleep(self.request_s)


class Slow(Fast):
    """One whose every request for a block takes long."""

    protocol = "slow"
    request_s = REQUEST_S


@pytest.fixture(autouse=True)
def calls_and_file_systems(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))
    for made in (Fast, Slow):
        monkeypatch.setitem(_registry, made.protocol, made)


def analyse(store, n, seconds=COMPUTE_S):
    """Compute two things of slow blocks, and give what was found of these."""
    x = produced(producers.slowly, seconds, n=n)
    with daskcache.activate(store, policy="auto"), dask.config.set(scheduler="sync"):
        dask.compute(x.sum(), x.max())
        return daskcache.last_run().weighed["slowly"]


def analyse_again(store, seconds):
    """Compute another thing of the same blocks, and tell how many were computed."""
    count()
    with daskcache.activate(store, policy="auto"), dask.config.set(scheduler="sync"):
        assert produced(producers.slowly, seconds, n=12).min().compute() == 0
    return count()


@pytest.mark.slow
def test_a_slower_store_changes_the_decision(tmp_path, monkeypatch):
    for attempt in range(5):
        monkeypatch.setattr("daskcache.costs._rates", {})
        fast, seconds = f"fast://{tmp_path.name}-{attempt}/store", COMPUTE_S + attempt / 1000
        first, found = analyse(fast, 3, seconds + 0.05), analyse(fast, 12, seconds)
        if found.left == 0:  # else the machine was so busy that nothing was fast
            break
    assert (first.stored, found.stored, found.left) == (1, 4, 0)
    assert analyse_again(fast, seconds) == 0

    slow = f"slow://{tmp_path.name}/store"
    # How slow it is shows with the first block.
    assert analyse(slow, 3, COMPUTE_S + 0.05).stored == 1
    found = analyse(slow, 12)
    assert (found.stored, found.left) == (0, 4)
    assert found.compute_s >= 4 * COMPUTE_S
    assert found.store_s >= 4 * 2 * REQUEST_S, "a put and a get"
    assert analyse_again(slow, COMPUTE_S) == 4

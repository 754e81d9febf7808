"""Blocks that several processes store on their way: their checksums reach the one that publishes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskcache
from tests.producers import objects

pytestmark = [pytest.mark.usefixtures("calls"), pytest.mark.timeout(300)]

LENGTH = 40_000


@daskcache.version("1")
def fill(block, directory):
    """Make a block, slowly enough that each process makes some, and note which did."""
    open(os.path.join(directory, str(os.getpid())), "a").close()
    time.sleep(0.1)
    return np.random.default_rng(int(block[0, 0])).random((1, LENGTH))


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    directory = tmp_path / "workers"
    directory.mkdir()
    return directory


def shards(workers: Path) -> xr.DataArray:
    """Make blocks whose checksums are not to be had from the ends of their objects."""
    start = da.arange(8, chunks=1)[:, None]
    made = start.map_blocks(
        fill, str(workers), dtype="f8", chunks=((1,) * 8, (LENGTH,)), meta=np.empty((0, 0))
    )
    return xr.DataArray(made, dims=("y", "x")).cache.checkpoint("x", hints={"x": 1})


@pytest.mark.parametrize("form", ["one task waits for all", "each block waits"])
def test_exchanged_shards_are_found(
    cluster: LocalCluster, store_root: Path, workers: Path, form: str
) -> None:
    with Client(cluster), daskcache.activate():
        made = shards(workers)
        (made.sum() if form == "one task waits for all" else made).compute()
    assert len(list(workers.iterdir())) == 2
    (variable,) = daskcache.catalog.Catalog(str(store_root), "default").open("x").variables
    assert variable.inner_shape is not None
    assert daskcache.verify("x").unproven == 0
    one, other = objects(store_root)[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert [finding.problem for finding in daskcache.verify("x").findings] == ["other", "other"]

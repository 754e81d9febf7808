"""What is computed for what it does is done each time, warm too, under each policy, here and on a cluster."""

from __future__ import annotations

import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.catalog import Catalog
from tests.producers import count, doubled

EXPECTED = np.arange(12) * 2

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("calls"), pytest.mark.timeout(300)]


@pytest.fixture(params=["checkpoints", "outputs", "auto"])
def policy(request, store_root):
    with daskcache.activate(policy=request.param):
        yield request.param


def make(policy):
    return daskcache.checkpoint(doubled(), "x") if policy == "checkpoints" else doubled()


here_and_there = pytest.mark.parametrize("run", ["threads", "distributed"], indirect=True)


def note(block, path, *more):
    """A writer of the user's, in whatever process."""
    with open(path, "a") as file:
        file.write(f"{int(np.sum(block))}\n")
    return int(np.sum(block))


WRITERS = {
    "delayed": lambda x, path: dask.delayed(note)(x + 1, path),
    "delayed of blocks": lambda x, path: dask.delayed(sum)(
        [dask.delayed(note)(block, path) for block in (x + 1).to_delayed()]
    ),
    "pure": lambda x, path: dask.delayed(note, pure=True)(x + 1, path),
}


@here_and_there
@pytest.mark.parametrize("writer", WRITERS)
def test_writers_in_delayed(run, policy, store_root, tmp_path, writer):
    """The same call twice: the second one writes as well, of blocks that are loaded."""
    path = tmp_path / "written"
    for times in (1, 2):
        assert run(lambda: WRITERS[writer](make(policy), str(path)).compute()) == (EXPECTED + 1).sum()
        written = [int(line) for line in path.read_text().splitlines()]
        expected = (EXPECTED + 1).reshape(4, 3).sum(axis=1) if "blocks" in writer else [(EXPECTED + 1).sum()]
        assert sorted(written) == sorted(list(expected) * times)
        assert count() == (4 if times == 1 else 0)
        if writer == "delayed of blocks":
            # Planned by the client, to which workers do not answer: they list what they have stored in their own time.
            wait_until_listed(store_root, policy)


def wait_until_listed(root, policy):
    end = time.monotonic() + 60
    while policy != "checkpoints" and len(Catalog(str(root)).token_index()) < 4:
        assert time.monotonic() < end
        time.sleep(0.02)


class Target:
    """Where an array is stored, in whatever process: a file for all calls."""

    def __init__(self, path):
        self.path = path

    def __setitem__(self, index, value):
        with open(self.path, "a") as file:
            file.write(f"{index[0].start} {int(value.sum())}\n")


def store(x, path):
    da.store(x + 3, Target(str(path)), lock=False)


def check_stored(path):
    lines = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    assert sorted(lines) == [(3 * i, int((EXPECTED + 3)[3 * i : 3 * i + 3].sum())) for i in range(4)]


def to_netcdf(x, path):
    xr.Dataset({"t": ("x", x + 3)}).to_netcdf(path, engine="h5netcdf")


def to_netcdf_later(x, path):
    xr.Dataset({"t": ("x", x + 3)}).to_netcdf(path, engine="h5netcdf", compute=False).compute()


def check_netcdf(path):
    with xr.open_dataset(path, engine="h5netcdf") as read:
        assert (read.t == EXPECTED + 3).all()


def set_to_zarr(x, path):
    xr.Dataset({"t": ("x", x + 3)}).to_zarr(path, consolidated=False)


def check_set(path):
    assert (xr.open_zarr(path, consolidated=False).t == EXPECTED + 3).all()


EFFECTS = {
    "store": (store, check_stored),
    "netcdf": (to_netcdf, check_netcdf),
    "netcdf later": (to_netcdf_later, check_netcdf),
    "zarr": (set_to_zarr, check_set),
}


# With or without the pass, processes of a cluster that write one HDF5 file now and then meet at its lock.
@pytest.mark.parametrize(
    ("effect", "run"),
    [
        (effect, run)
        for effect in EFFECTS
        for run in ("threads", "distributed")
        if run == "threads" or "netcdf" not in effect
    ],
    indirect=["run"],
)
def test_effects_happen_each_time(run, policy, tmp_path, effect):
    """To one place, from which what the first time wrote is gone."""
    write, check = EFFECTS[effect]
    path = tmp_path / "written"
    for times in (1, 2):
        run(lambda: write(make(policy), path))
        check(path)
        path.rename(tmp_path / f"written {times}")
        assert count() == (4 if times == 1 else 0)

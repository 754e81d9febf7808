"""Whatever an entry becomes, and wherever publishes are broken off: its plain store follows, and its readers read on."""

from __future__ import annotations

import uuid
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore, WrapperStore

import daskcache

CHUNK = 3


class Killed(BaseException):
    """Ends a publish as the end of its process would."""


class Mortal(WrapperStore):
    """A store whose process dies before some put."""

    left = float("inf")

    async def set(self, key: str, value: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        await super().set(key, value)


def state(days: int, sites: int, values: list[int], entry: str) -> xr.Dataset:
    """Give a field of which each block has a value of its own, as a source has that is edited."""
    numbers = np.resize(np.array(values, "f8"), -(-days // CHUNK))
    blocks = [
        da.from_array(np.full((min(CHUNK, days - i), sites), numbers[i // CHUNK]), chunks=(CHUNK, 2))
        for i in range(0, days, CHUNK)
    ]
    labels = {
        "time": pd.date_range("2001", periods=days),
        "site": [f"site {i}" for i in range(sites)],
        "number": ("time", da.arange(days, chunks=CHUNK)),
    }
    return xr.Dataset({"t": (("time", "site"), da.concatenate(blocks))}, labels, {"entry": entry})


STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),  # days more
        st.integers(0, 2),  # sites more
        st.lists(st.integers(0, 2), min_size=1, max_size=4),
        st.one_of(st.none(), st.integers(0, 25)),  # puts until it dies
    ),
    min_size=2,
    max_size=3,
)


@given(STEPS)
def test_its_plain_store_follows(steps: Any) -> None:
    content = MemoryStore()
    days, sites = 4, 3
    readers: list[tuple[xr.Dataset, tuple[int, int]]] = []
    for number, (more, wider, values, left) in enumerate(steps):
        days, sites = days + more, sites + wider
        ds = state(days, sites, values, f"{number}")
        name = uuid.uuid4().hex  # of its own, because one name that alternates between pipelines is warned of
        daskcache.persist(ds, name, store="memory://published-property")
        target = Mortal(content)
        target.left = float("inf") if left is None else left
        try:
            daskcache.publish(name, target, store="memory://published-property")
        except Killed:
            continue
        finally:
            for reader, extent in readers:
                # What is read may be newer, but it has the extent and the labels that it was opened with.
                assert reader.t.values.shape == extent
                assert reader.number.values.tolist() == list(range(extent[0]))
                assert reader.site.values.tolist() == [f"site {i}" for i in range(extent[1])]
        found = xr.open_zarr(content, chunks=None)
        xr.testing.assert_identical(found.load(), ds.compute())
        reader = xr.open_dataset(content, engine="zarr", chunks=None, cache=False)
        readers.append((reader, (days, sites)))

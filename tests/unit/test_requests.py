"""How often a store is asked: once for each block, and a number of times besides that does not grow with blocks."""

from collections import Counter

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.stores import local, pages, remote

OPERATIONS = ("create", "put", "get", "exists", "list_objects", "list_dirs", "delete")


@pytest.fixture(params=["memory", "local"])
def asked(request, tmp_path, monkeypatch):
    """Counts what reaches a store, under what its keys begin with."""
    module = remote if request.param == "memory" else local
    counts = Counter()

    def record(operation, call):
        def counted(*args, **kwargs):
            path = str(args[0] if module is local else args[1])
            where = "chunks" if "chunks" in path.split("/") else "documents"
            counts[operation, where] += 1
            return call(*args, **kwargs)

        return counted

    for operation in OPERATIONS:
        monkeypatch.setattr(module, operation, record(operation, getattr(module, operation)))
    # A listing whose files are looked at one by one.
    monkeypatch.setattr(pages, "Files", record("list_objects", pages.Files))
    counts.url = f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path / "store")
    return counts


def double(block):
    return block * 2


def pipeline(blocks, arrays=1, start=0):
    source = da.arange(start, start + blocks * 3, chunks=3)
    names = [f"v{number}" for number in range(arrays)]
    return xr.Dataset(
        {name: ("x", source.map_blocks(double, dtype=source.dtype) + n) for n, name in enumerate(names)}
    )


def asked_by(asked, call):
    asked.clear()
    call()
    return dict(asked)


def besides(counts):
    return {asked: count for asked, count in counts.items() if asked != ("create", "chunks")}


def test_a_cold_persist_puts_each_block_once_and_asks_a_constant_number_of_times_besides(asked):
    url = asked.url
    few = asked_by(asked, lambda: daskcache.persist(pipeline(2), "few", store=url))
    many = asked_by(asked, lambda: daskcache.persist(pipeline(40, start=500), "many", store=url))
    again = asked_by(asked, lambda: daskcache.persist(pipeline(80, start=900), "many", store=url))
    assert few["create", "chunks"] == 2
    assert many["create", "chunks"] == 40
    assert again["create", "chunks"] == 80
    assert sum(besides(few).values()) <= 25
    assert sum(besides(many).values()) <= sum(besides(few).values()) + 6, (few, many)
    assert sum(besides(again).values()) <= sum(besides(many).values()) + 6, (many, again)


def test_ten_times_the_blocks_are_ten_times_the_puts_and_nothing_else(asked):
    # Each into a store of its own: what an earlier entry costs is another question.
    one = asked_by(asked, lambda: daskcache.persist(pipeline(40), "entry", store=f"{asked.url}-one"))
    ten = asked_by(asked, lambda: daskcache.persist(pipeline(400), "entry", store=f"{asked.url}-ten"))
    assert (one["create", "chunks"], ten["create", "chunks"]) == (40, 400)
    assert besides(ten) == besides(one)


def test_a_warm_persist_puts_no_block_and_looks_at_none(asked):
    url = asked.url
    daskcache.persist(pipeline(40), "entry", store=url)
    counts = asked_by(asked, lambda: daskcache.persist(pipeline(40), "entry", store=url))
    assert ("create", "chunks") not in counts
    assert ("get", "chunks") not in counts
    assert ("exists", "chunks") not in counts
    # One group of siblings; when publishing, once more.
    assert counts["list_objects", "chunks"] <= 2
    assert sum(counts.values()) <= 25


def test_blocks_of_several_variables_cost_one_listing_for_each_group(asked):
    url = asked.url
    one = asked_by(asked, lambda: daskcache.persist(pipeline(10), "one", store=url))
    five = asked_by(asked, lambda: daskcache.persist(pipeline(10, 5, start=100), "five", store=url))
    assert five["create", "chunks"] == 50
    assert sum(besides(five).values()) <= sum(besides(one).values()) + 2 * 5


def test_recall_costs_three_requests_and_one_for_each_block(asked):
    url = asked.url
    daskcache.persist(pipeline(12), "entry", store=url)
    opening = asked_by(asked, lambda: daskcache.open("entry", store=url))
    assert opening == {("get", "documents"): 3}
    data = daskcache.open("entry", store=url)
    assert asked_by(asked, data.compute) == {("get", "chunks"): 12}
    assert asked_by(asked, data.isel(x=0).compute) == {("get", "chunks"): 1}


def test_a_recall_reads_the_binary_index_and_no_json(asked):
    url = asked.url
    expected = pipeline(12).compute()
    daskcache.persist(pipeline(12), "entry", store=url)
    store = stores.open(url)
    where = "namespaces/default/entry/@"
    manifests = [name for name in stores.list_sizes(store, where) if name.endswith(".json")]
    assert len(manifests) == 1
    stores.delete(store, f"{where}/{manifests[0]}")
    xr.testing.assert_identical(daskcache.open("entry", store=url).compute(), expected)
    with daskcache.activate(url):
        found = pipeline(12).v0.data
        counts = asked_by(asked, lambda: np.asarray(found))
    assert counts["get", "chunks"] == 12
    assert ("create", "chunks") not in counts

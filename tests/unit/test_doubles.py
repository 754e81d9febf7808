"""Keys that lie in two layers of a graph, as where blocks of an array were made delayed and the array is used as well."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

import daskcache
from daskcache.doubles import without_doubles
from tests import producers
from tests.producers import count, doubled

N, CHUNK = 12, 3


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def total(parts, factor):
    """Add up whatever arrays lie in lists, tuples and dicts."""
    if isinstance(parts, dict):
        parts = list(parts.values())
    if isinstance(parts, list | tuple):
        return sum(total(part, 1) for part in parts) * factor
    return parts * factor


NESTINGS = {
    "alone": lambda block: block,
    "list in a list": lambda block: [block, [block + 1]],
    "list of one in a list": lambda block: [[block]],
    "dict": lambda block: {"a": block, "b": [block, (block,)]},
}


def rejoined(x, nesting, factor=3):
    parts = [
        da.from_delayed(dask.delayed(total)(NESTINGS[nesting](block), factor), (CHUNK,), x.dtype)
        for block in x.to_delayed(optimize_graph=factor % 2 == 1)
    ]
    return da.concatenate(parts)


def read(tmp_path):
    root = tmp_path / "source.zarr"
    if not root.exists():
        xr.Dataset({"v": ("x", np.arange(N))}).chunk(x=CHUNK).to_zarr(root, zarr_format=2)
    return xr.open_zarr(root).v.data


SOURCES = {
    "source": read,
    "blockwise": lambda _: doubled(N, CHUNK),
    "chain": lambda _: (doubled(N, CHUNK) + 1) * 2,
    "rechunked": lambda _: doubled(N, 4).rechunk(CHUNK),
    "shuffled": lambda _: doubled(N, CHUNK)[::-1].rechunk(CHUNK),
    "overlap": lambda _: da.overlap.overlap(doubled(N, CHUNK), depth=1, boundary="reflect").map_blocks(
        lambda block: block[1:-1], dtype="i8", chunks=((CHUNK,) * (N // CHUNK),)
    ),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("factor", [2, 3])
def test_beside_the_array_itself(tmp_path, store_root, source, nesting, factor):
    """Persisted, lost in part, and under each policy: right, and nothing that is stored is computed."""
    x = SOURCES[source](tmp_path)
    parts = {"a": x, "b": rejoined(x, nesting, factor), "c": x + 5}
    ds = xr.Dataset({name: ("x", part) for name, part in parts.items()})
    expected = ds.compute()
    count()
    daskcache.persist(ds[["a", "c"]], "some")
    count()
    kept = daskcache.persist(ds, "all")
    assert count() == 0
    xr.testing.assert_identical(kept.compute(), expected)
    for policy in ("checkpoints", "outputs", "auto"):
        with daskcache.activate(str(store_root), policy=policy):
            xr.testing.assert_identical(ds.compute(), expected)
            xr.testing.assert_identical((ds + 1).compute(), expected + 1)
            assert count() == 0
    with daskcache.activate(str(store_root / "other"), policy="outputs"):
        xr.testing.assert_identical(ds[["b"]].compute(), expected[["b"]])
        xr.testing.assert_identical(ds[["a"]].compute(), expected[["a"]])
        count()
        xr.testing.assert_identical(ds.compute(), expected)
        xr.testing.assert_identical(ds[["a", "b"]].compute(), expected[["a", "b"]])
    count()


@pytest.mark.parametrize("source", SOURCES)
def test_behind_a_checkpoint(tmp_path, store_root, source):
    with daskcache.activate(str(store_root)):
        x = daskcache.checkpoint(SOURCES[source](tmp_path), "marked")
        ds = xr.Dataset({"a": ("x", x - 1), "b": ("x", rejoined(x, "dict"))})
    with dask.config.set(array_optimize=None):
        expected = ds.compute()
    count()
    for _ in range(2):
        with daskcache.activate(str(store_root)):
            xr.testing.assert_identical(ds.compute(), expected)
    made = count()
    with daskcache.activate(str(store_root)):
        xr.testing.assert_identical((ds * 2).compute(), expected * 2)
    assert count() == 0
    assert made <= 2 * (N // CHUNK)


@pytest.mark.parametrize("source", SOURCES)
def test_each_key_is_in_one_layer_and_nothing_is_missing(tmp_path, source):
    x = SOURCES[source](tmp_path)
    graph = HighLevelGraph.merge(
        x.dask, rejoined(x, "dict").dask, rejoined(x, "list in a list", 2).dask, (x + 1).dask
    )
    keys = [key for layer in graph.layers.values() for key in layer]
    assert len(keys) > len(set(keys)), "the test has no doubles"
    found = without_doubles(graph)
    held = {key: name for name, layer in found.layers.items() for key in layer}
    assert sum(map(len, found.layers.values())) == len(held) == len(set(keys))
    assert len(found._toposort_layers()) == len(found.layers), "no two layers need each other"
    for name, layer in found.layers.items():
        mapping = dict(layer)
        for key in mapping:
            for dep in layer.get_dependencies(key, held.keys()):
                assert held[dep] == name or held[dep] in found.dependencies[name]
    for key in dict.fromkeys(keys):
        assert key in found.cull({key}).to_dict()


def test_a_graph_without_doubles_is_left_alone():
    x = doubled(N, 4).rechunk(CHUNK)
    graph = HighLevelGraph.merge(x.dask, rejoined(doubled(N, CHUNK) + 7, "alone").dask)
    assert without_doubles(graph) is graph
    assert without_doubles(x.dask) is x.dask

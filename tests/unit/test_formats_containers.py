"""Containers that hold arrays and tables: each part in its own format, and lazy where it was."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.errors import DaskcacheWarning, InvalidInputError
from daskcache.formats.base import Encoded, Format
from daskcache.formats.containers import open_container, split_container
from daskcache.formats.entries import draft_encoded
from daskcache.pool import StoredBlock
from tests import producers
from tests.producers import count, doubled


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    fields: Any
    table: Any
    score: float = 0.5


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def lazy(blocks: int = 4, factor: int = 1) -> da.Array:
    array = doubled(4 * blocks, 4)
    return array if factor == 1 else factor * array


def table() -> pd.DataFrame:
    return pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": [1.5, 2.5]}, index=pd.Index([3, 4], name="i"))


def dataset() -> xr.Dataset:
    return xr.Dataset({"t": ("x", lazy())}, {"x": np.arange(16), "s": 1}, {"title": "…"})


def check_same(one: Any, other: Any) -> None:
    """Compare types, values and what is lazy."""
    assert type(one) is type(other)
    match one:
        case xr.Dataset() | xr.DataArray():
            xr.testing.assert_identical(one, other)
            assert one.chunksizes == other.chunksizes
        case xr.DataTree():
            xr.testing.assert_identical(one, other)
        case pd.DataFrame():
            pd.testing.assert_frame_equal(one, other)
        case pd.Series():
            pd.testing.assert_series_equal(one, other)
        case da.Array():
            assert one.chunks == other.chunks
            np.testing.assert_array_equal(one, other)
        case np.ndarray():
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        case list() | tuple():
            assert len(one) == len(other)
            for left, right in zip(one, other, strict=True):
                check_same(left, right)
        case dict():
            assert list(one) == list(other)
            for key, value in one.items():
                check_same(value, other[key])
        case Fit():
            check_same(fields_of(one), fields_of(other))
        case _:
            assert one == other


def fields_of(fit: Fit) -> tuple[Any, ...]:
    return fit.fields, fit.table, fit.score


CONTAINERS = {
    "tuple of datasets": lambda: (dataset(), dataset().mean(), None),
    "list of arrays": lambda: [
        lazy(),
        np.arange(20_000.0),
        np.arange(3),
        dataset().t,
        dataset().t.rename("x"),
    ],
    "dict": lambda: {"mean": dataset().t.mean(), 3: table(), ("a", 1): table().b, "n": 3.5, "none": None},
    "nested": lambda: {"one": [{"two": (dataset(), [table()])}], "three": Pair(lazy(), 2)},
    "dataclass": lambda: Fit({"ds": dataset()}, [table(), Fit(lazy(), None)]),
    "tree": lambda: [xr.DataTree.from_dict({"/": dataset(), "/deep/er": dataset()}), "text"],
    "objects": lambda: {"o": np.array(["a", "bcd"], "O"), "d": np.array(["2000-01-01"], "M8[s]")},
    "two of one name": lambda: (xr.Dataset({"t": ("x", lazy())}), xr.Dataset({"t": ("x", lazy(3, 2))})),
    "empty": lambda: [xr.Dataset(), [], {}, da.zeros((0,), dtype="f4")],
    "numpy of no dimension": lambda: (np.array(3), np.array("abc", "O"), np.float32(2)),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_comes_back_is_what_went_in(name: str) -> None:
    runs: list[int] = []

    @daskcache.cache(ignore=["runs", "make"], cache_args=["name"])
    def compute(name, make, runs):
        runs.append(1)
        return make()

    expected = CONTAINERS[name]()
    for _ in range(2):
        check_same(compute(name, CONTAINERS[name], runs), expected)
    assert len(runs) == 1
    (entry,) = Catalog.of(Settings.from_config()).entries()
    check_same(daskcache.open(entry), expected)


def test_blocks_are_computed_once_for_all_parts_and_read_when_they_are_asked_for(monkeypatch) -> None:
    @daskcache.cache
    def compute():
        array = lazy()
        return {"plain": array, "twice": array * 2, "sum": xr.DataArray(array, dims="x").sum()}

    compute()
    assert count() == 4
    reads: list[str] = []
    whole = StoredBlock._read
    monkeypatch.setattr(
        StoredBlock, "_read", lambda self, selection: reads.append(self.key) or whole(self, selection)
    )
    found = compute()
    assert not reads
    np.testing.assert_array_equal(found["twice"][:4], 4 * np.arange(4))
    assert len(reads) == 1
    assert count() == 0


def test_parts_have_the_tokens_of_what_made_them() -> None:
    @daskcache.cache
    def compute():
        return [dataset(), (lazy(),)]

    compute()
    found = compute()
    assert daskcache.token(found[0]) == daskcache.token(dataset())
    assert daskcache.token(found[1][0]) == daskcache.token(lazy())
    runs = []

    @daskcache.cache(ignore=["runs"])
    def outer(parts, runs):
        runs.append(1)
        return int(parts[1][0].sum())

    assert outer([dataset(), (lazy(),)], runs) == outer(found, runs) == 240
    assert len(runs) == 1


def test_sources_of_parts_are_looked_at(tmp_path) -> None:
    path = str(tmp_path / "source.nc")

    def write(value: float) -> None:
        Path(path).unlink(missing_ok=True)
        xr.Dataset({"t": ("x", np.full(4, value))}).to_netcdf(path, engine="h5netcdf")

    runs: list[int] = []

    @daskcache.cache(ignore=["runs"])
    def compute(path, chunks, runs):
        runs.append(1)
        return {"opened": [xr.open_dataset(path, engine="h5netcdf", chunks=chunks)], "n": 1}

    for chunks in (None, {}):
        write(1.0)
        first = [float(compute(path, chunks, runs)["opened"][0].t.sum()) for _ in range(2)]
        assert (first, len(runs)) == ([4.0, 4.0], 1)
        write(2.5)
        assert float(compute(path, chunks, runs)["opened"][0].t.sum()) == 10.0
        assert len(runs) == 2
        runs.clear()


def test_memoized_parts_are_copies_or_lazy() -> None:
    @daskcache.cache(memoize=True)
    def compute():
        return {"eager": np.arange(3), "table": table()}

    compute()["eager"][0] = 7
    frame = compute()["table"]
    frame.loc[3, "b"] = 7
    check_same(compute(), {"eager": np.arange(3), "table": table()})

    @daskcache.cache(memoize=True)
    def compute_lazy():
        return [dataset(), np.arange(3)]

    compute_lazy()[1][0] = 7
    check_same(compute_lazy(), [dataset(), np.arange(3)])


def test_chunks_apply_to_what_has_the_dimension() -> None:
    @daskcache.cache(chunks={"x": 8})
    def compute():
        return dataset(), xr.DataArray(lazy(), dims="y"), np.arange(3)

    first, second, third = compute()
    assert (first.t.chunks, second.chunks, type(third)) == (((8, 8),), ((4, 4, 4, 4),), np.ndarray)


def test_what_has_no_form_is_named_with_the_way_to_it() -> None:
    @daskcache.cache
    def compute():
        return {"a": [dataset(), {"b": object()}]}

    with pytest.warns(DaskcacheWarning, match=r"'a'.*\[1\].*'b'.*object has no JSON form"):
        compute()
    frame = dd.from_pandas(table().reset_index(), npartitions=1)
    with pytest.raises(daskcache.UncacheableError, match="table of dask within a container"):
        split_container([frame])
    itself: list[Any] = [lazy()]
    itself.append(itself)
    with pytest.raises(daskcache.UncacheableError, match="holds itself"):
        split_container(itself)
    assert split_container([1, {"a": (2, None)}]) is None


def test_another_process_reads_it_and_plain_readers_read_its_arrays(store_root: Path) -> None:
    @daskcache.cache(name="kept")
    def compute():
        return {"ds": dataset(), "list": [lazy(), "text"]}

    compute()
    (entry,) = Catalog.of(Settings.from_config()).entries()
    program = (
        "import daskcache, sys; found = daskcache.open(sys.argv[1], store=sys.argv[2]);"
        "print(int(found['ds'].t.sum()), int(found['list'][0].sum().compute()), found['list'][1])"
    )
    arguments = [sys.executable, "-W", "error", "-c", program, entry, str(store_root)]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split() == [
        "240",
        "240",
        "text",
    ]
    assert daskcache.verify(entry).is_sound
    path = compute(path_only=True)
    with xr.open_dataset(
        "reference://",
        group="item0",
        engine="zarr",
        backend_kwargs={"consolidated": False, "storage_options": {"fo": path}},
    ) as ds:
        np.testing.assert_array_equal(ds.t, 2 * np.arange(16))


def test_a_lost_block_of_a_part_is_computed_again(store_root: Path) -> None:
    runs: list[int] = []

    @daskcache.cache(ignore=["runs"])
    def compute(runs):
        runs.append(1)
        return [lazy(), 1]

    compute(runs)
    min(store_root.glob("chunks/*/*")).unlink()
    check_same(compute(runs), [lazy(), 1])
    assert len(runs) == 2


@pytest.mark.parametrize(
    "document",
    [
        {"items": [["nonsense", None]], "value": 1},
        {"items": [], "value": {"!": "item", "at": 3}},
        {"items": [["dataset", None]], "value": {"!": "item"}},
    ],
    ids=["kind", "number", "none"],
)
def test_malformed_documents_are_refused(document: Any) -> None:
    settings = Settings.from_config()
    form = Format("container", "value", lambda value: True, lambda value: value, lambda parts, _: parts)
    manifest = draft_encoded(form, Encoded((json.dumps(document).encode(),)), settings, {}).manifest
    with pytest.raises(InvalidInputError):
        open_container(manifest, settings.pool_root)


def test_nothing_is_stored_of_one_that_fails_half_way(store_root: Path) -> None:
    def fail(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if block[0] == 4:
            raise ValueError("mine")
        return block

    @daskcache.cache
    def compute():
        return [lazy(), da.arange(8, chunks=4).map_blocks(fail, meta=np.empty(0, "i8"))]

    with pytest.raises(ValueError, match="mine"), dask.config.set(scheduler="sync"):
        compute()
    assert not [*store_root.glob("namespaces/*/*/*/@/latest")]

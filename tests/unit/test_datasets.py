"""What is put into a store comes back the same, or is refused before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskcache
from daskcache import datasets
from daskcache.config import Codecs
from daskcache.datasets import in_memory_blocks, outline
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.parts import join, rechunk, split
from tests.labelled import (
    OBJECTS,
    Calls,
    array,
    assert_same,
    objects,
    one,
    subtree,
    tree,
)


@pytest.mark.parametrize("name", OBJECTS)
def test_everything_comes_back(name: str) -> None:
    thing = OBJECTS[name]()
    kept = daskcache.persist(thing, "entry")
    assert_same(kept, thing)
    assert_same(daskcache.open("entry"), thing)
    assert daskcache.token(kept) == daskcache.token(thing)


def test_everything_comes_back_in_another_process(store_root: Path) -> None:
    chosen = {name for name in OBJECTS if not name.startswith(("values_m8", "values_M8", "attribute_"))}
    for name in chosen:
        daskcache.persist(OBJECTS[name](), name)
    script = (
        "import sys, daskcache\n"
        "from tests.labelled import OBJECTS, assert_same\n"
        "for name in sys.argv[2].split():\n"
        "    opened = daskcache.open(name, store=sys.argv[1])\n"
        "    assert_same(opened, OBJECTS[name]())\n"
        "    print(name, daskcache.token(opened))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(store_root), " ".join(chosen)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "17"},
    )
    assert done.returncode == 0, done.stderr
    theirs = dict(line.split() for line in done.stdout.splitlines())
    assert theirs == {name: daskcache.token(OBJECTS[name]()) for name in chosen}


def test_split_and_join_give_the_same_object() -> None:
    for make in OBJECTS.values():
        thing = make()
        assert_same(join(split(thing)), thing, encoding="all")


# Plain Zarr would store these: dask does not know what its objects are, nor Zarr's UTF-8 what is missing.
REFUSED = {
    "lazy_objects": lambda: one(da.from_array(objects("a", "b"), chunks=1)),
    "strings_with_missing": lambda: one(np.array(["a", "b"], np.dtypes.StringDType(na_object=np.nan))),
}


# Of these plain Zarr brings something else back, or cannot store them.
LOST = {
    "values_T", "values_M8_W", "values_m8_W", "cftime_standard", "cftime_proleptic_gregorian",
    "undecoded", "inherited_encoding", "floats_since", "without_index", "index_of_another_coordinate",
    "irregular_grids", "odd_names", "array_named_for_no_path", "array_named_by_nothing",
    "array_named_by_a_tuple", "tree", "subtree", "attributes", "dask_array", "dask_scalar",
    "dask_array_irregular", "dask_array_of_days", "attribute_bytes", "attribute_complex",
    "attribute_date", "attribute_datetime", "attribute_nested", "attribute_timedelta",
    "dask_dimension_coordinate", "objects_bytes_with_zeros", "objects_large", "objects_mixed",
    "objects_numpy",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(OBJECTS) - LOST))
def test_what_plain_zarr_brings_back_so_does_ours(name: str, tmp_path: Path) -> None:
    thing = OBJECTS[name]()
    try:
        if isinstance(thing, xr.DataTree):
            thing.to_zarr(tmp_path / "plain")
            plain = xr.open_datatree(tmp_path / "plain", engine="zarr", chunks={})
        elif isinstance(thing, xr.DataArray):
            thing.to_zarr(tmp_path / "plain")
            plain = xr.open_dataarray(tmp_path / "plain", engine="zarr", chunks={})
        else:
            thing.to_zarr(tmp_path / "plain", consolidated=False)
            plain = xr.open_zarr(tmp_path / "plain", consolidated=False)
        xr.testing.assert_identical(plain, thing)
    except Exception:  # noqa: BLE001  (whatever it is)
        pytest.skip("these versions of xarray and Zarr bring something else back")
    xr.testing.assert_identical(daskcache.persist(thing), thing)


@pytest.mark.parametrize("name", REFUSED)
def test_what_plain_zarr_brings_back_and_ours_refuses(name: str) -> None:
    with pytest.raises(UncacheableError, match=r"variable 'v' → dtype .*(convert|replace)"):
        daskcache.persist(REFUSED[name]())


class Masked(np.ma.MaskedArray):
    """Stands for any array type that is more than its values."""


class Quantity(np.ndarray):
    """Stands for pint's: values with a unit."""


class Sparse(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for sparse's: arrays that are no numpy arrays and do not become any."""

    def __init__(self, dtype: Any, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.ndim = dtype, shape, len(shape)

    def __getitem__(self, index: Any) -> Sparse:
        return self

    def astype(self, *args: Any, **kwargs: Any) -> Sparse:
        return self

    def __array_function__(self, *args: Any) -> Any:
        return NotImplemented

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        return NotImplemented


def multi_index() -> xr.Dataset:
    return xr.Dataset({"v": (("a", "b"), np.zeros((2, 2)))}, {"a": [1, 2], "b": [1, 2]}).stack(z=("a", "b"))


UNSTORABLE: dict[str, tuple[Callable[[Calls], Any], str]] = {
    "objects": (lambda c: one(c.array(np.empty(0, "O"))), "dtype object has no storage form; convert to"),
    "structured": (
        lambda c: one(c.array(np.empty(0, "i4,f8"))),
        "split the structured dtype into one array per",
    ),
    "long_double": (lambda c: one(c.array(np.empty(0, "g"))), "convert to float64"),
    "units": (lambda c: one(c.array(np.empty(0).view(Quantity))), "Quantity, not plain numpy arrays"),
    "sparse": (lambda c: one(c.array(Sparse(np.dtype("f8"), (0,)))), "Sparse, not plain numpy arrays"),
    "unknown_chunks": (
        lambda c: one(c.array(np.empty(0))[c.array(np.empty(0)) > 1]),
        "call compute_chunk_sizes",
    ),
    "structured_in_memory": (lambda c: one(np.zeros(4, "i4,f8")), "split the structured dtype"),
    "units_in_memory": (lambda c: one(np.zeros(4).view(Quantity)), "Quantity, not a plain numpy array"),
    "odd_objects": (lambda c: one(objects(object(), {1}, 2, 3)), "an object array holds int, object, set"),
    "intervals": (lambda c: one(np.arange(4), coords={"x": pd.interval_range(0, 4)}), "astype"),
    "categories": (lambda c: one(pd.Categorical(list("abcd"))), "one of pandas' own"),
    "nullable": (lambda c: one(pd.array([1, None, 2, 3])), "one of pandas' own"),
    "category_index": (
        lambda c: xr.Dataset(coords={"x": pd.CategoricalIndex(list("abcd"))}),
        "one of pandas' own",
    ),
    "time_zone": (
        lambda c: xr.Dataset(coords={"x": pd.date_range("2000", periods=4, tz="UTC")}),
        "one of pandas' own",
    ),
    "multi_index": (lambda c: multi_index(), "PandasMultiIndex has no storage form; call reset_index"),
    "range_index": (
        lambda c: one(np.arange(4)).assign_coords(
            xr.Coordinates.from_xindex(xr.indexes.RangeIndex.arange(0, 4, 1, dim="x"))
        ),
        "RangeIndex has no storage form",
    ),
    "calendars": (
        lambda c: one(objects(cftime.DatetimeNoLeap(1, 1, 1), cftime.Datetime360Day(1, 1, 1), 0, 0)[:2], "y"),
        r"several calendars \(360_day, noleap\)",
    ),
    "attribute": (
        lambda c: one(np.zeros(4)).assign(v=lambda ds: ds.v.assign_attrs(bad={1})),
        "'bad' → a value of",
    ),
}


@pytest.mark.parametrize("act", [daskcache.persist, daskcache.checkpoint, daskcache.token, daskcache.status])
@pytest.mark.parametrize("name", UNSTORABLE)
def test_what_cannot_be_stored_says_so_before_any_compute(name: str, act: Any, store_root: Path) -> None:
    make, message = UNSTORABLE[name]
    calls = Calls()
    thing = make(calls).assign(good=("q", calls.array(np.empty(0))))
    with pytest.raises(UncacheableError, match=rf"variable '[vxz]' → (attributes → )?.*{message}"):
        act(thing)
    assert calls.made == 0
    assert not store_root.exists()


@pytest.mark.parametrize("act", [daskcache.persist, daskcache.checkpoint, daskcache.token, daskcache.status])
def test_masked_arrays_are_refused_before_any_compute(act: Any) -> None:
    # Those of a Dataset are filled by xarray itself.
    calls = Calls()
    masked = calls.array(np.ma.MaskedArray(np.empty(0)))
    for thing in (masked, da.ma.masked_greater(calls.array(np.empty(0)), 2)):
        with pytest.raises(UncacheableError, match="MaskedArray, not plain numpy arrays"):
            act(thing)
    assert calls.made == 0


def test_names_that_are_refused() -> None:
    calls = Calls()
    lazy = calls.array(np.empty(0))
    for thing, message in [
        (xr.Dataset({1: ("x", lazy)}), "variable 1 is named by a int; rename it to a str"),
        (xr.DataArray(lazy, dims=[("x",)]), r"dimension \('x',\) is named by a tuple"),
        (xr.Dataset({"m/s": ("x", lazy)}), "lies in no node"),
        (xr.Dataset({"..": ("x", lazy)}), "cannot name a Zarr array"),
        (xr.Dataset({"zarr.json": ("x", lazy)}), "cannot name a Zarr array"),
        (xr.DataTree.from_dict({"/a/zarr.json": xr.Dataset({"v": ("x", lazy)})}), "cannot name a Zarr array"),
    ]:
        for act in (daskcache.persist, daskcache.checkpoint):
            with pytest.raises(InvalidInputError, match=message):
                act(thing)
    assert calls.made == 0


def test_kinds_that_are_refused() -> None:
    for thing in ([xr.Dataset()], xr.Variable("x", [1])):
        with pytest.raises(InvalidInputError, match="cannot be persisted; expected a Dataset"):
            daskcache.persist(thing)


@pytest.mark.parametrize("engine", ["zarr", "netcdf4", "h5netcdf", "scipy"])
def test_variables_that_are_not_read_yet(engine: str, tmp_path: Path) -> None:
    ds = xr.Dataset(
        {"packed": ("x", np.array([1.0, np.nan, 2.5])), "text": ("x", list("abc")), "n": ("x", [1, 2, 3])},
        {"x": pd.date_range("2000", periods=3, unit="ns")},
    )
    encoding = {"packed": {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}}
    path = tmp_path / "source"
    if engine == "zarr":
        ds.to_zarr(path, encoding=encoding, zarr_format=2)
    else:
        ds.to_netcdf(path, engine=engine, encoding=encoding)
    with xr.open_dataset(path, engine=engine) as opened:
        expected = opened.copy().load()
        assert_same(daskcache.persist(opened, "entry"), expected)
    assert_same(daskcache.open("entry"), expected)


def test_refusals_come_before_reading(tmp_path: Path) -> None:
    one(np.arange(4)).to_zarr(tmp_path / "source", zarr_format=2)
    opened = xr.open_dataset(tmp_path / "source", engine="zarr")
    thing = opened.assign(bad=("x", da.from_array(objects(1, 2, 3, 4), chunks=2)))
    with pytest.raises(UncacheableError, match="variable 'bad'"):
        outline(thing)
    assert not thing.v.variable._in_memory


def test_blocks_of_in_memory_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_BLOCK_BYTES", 100_000)
    ds = xr.Dataset(
        {
            "f8": (("a", "b"), np.arange(40_000.0).reshape(200, 200)),
            "texts": ("c", np.arange(20_000).astype("U").astype(object)),
            "U": ("c", np.arange(20_000).astype("U")),
            "T": ("c", np.arange(20_000).astype("U").astype("T")),
            "dates": ("d", xr.date_range("1850", periods=15_000, calendar="noleap", use_cftime=True).values),
        }
    )
    described, arrays = outline(ds)
    assert arrays == {}
    for variable in described.variables:
        blocks = [block for block, _, _ in in_memory_blocks(variable, Codecs())]
        assert len(blocks) > 1, variable.path
        assert all(block.nbytes <= 110_000 for block in blocks)
    assert_same(daskcache.persist(ds, "entry"), ds)
    assert_same(daskcache.open("entry"), ds)


def lying(block: Any) -> Any:
    return block.astype("f4")


def wrong_shape(block: Any) -> Any:
    return block[:1]


def no_array(block: Any) -> Any:
    return block.tolist()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lying, r"returned float32 \(2,\) where float64 \(2,\) was declared"),
        (wrong_shape, r"returned float64 \(1,\) where float64 \(2,\) was declared"),
        (no_array, "returned builtins.list, not a numpy array"),
    ],
)
def test_a_meta_that_lies(function: Any, message: str, store_root: Path) -> None:
    ds = one(da.zeros(4, chunks=2).map_blocks(function, meta=np.empty(0)))
    with pytest.raises(UncacheableError, match=message):
        daskcache.persist(ds, "entry")
    assert not list(store_root.glob("chunks/*/*"))
    assert not daskcache.status(ds).is_complete
    with pytest.raises(daskcache.EntryNotFoundError):
        daskcache.open("entry")


def test_scalars_of_alike_dtypes_share_what_is_stored() -> None:
    for first, second in [("<f4", ">f4"), ("<U2", ">U7"), ("S1", "S3"), ("<M8[s]", ">M8[s]"), ("U1", "T")]:
        for dtypes in [(first, second), (second, first)]:
            for dtype in dtypes:
                ds = one(
                    da.from_array(
                        np.array(["1", "2"] if dtype[-1] not in "4]" else [1, 2]).astype(dtype), chunks=1
                    )[0],
                    (),
                )
                assert_same(daskcache.persist(ds), ds)


@pytest.mark.parametrize("chunks", ["auto", 2, {"x": 3}, {"x": (1, 3)}, {}, {"x": -1}])
def test_chunks_as_the_object_itself_has_them(chunks: Any) -> None:
    ds = xr.Dataset(
        {"a": ("x", np.arange(4.0)), "b": (("x", "y"), da.ones((4, 3), chunks=1))},
        {"x": list("abcd"), "h": 1},
    )
    assert_same(daskcache.persist(ds, "entry", chunks=chunks), ds.chunk(chunks))
    assert_same(daskcache.open("entry"), ds.chunk(chunks))
    assert_same(daskcache.persist(ds.a, chunks=chunks), ds.a.chunk(chunks))
    whole = xr.DataTree.from_dict({"/": ds, "/n": xr.Dataset({"c": ("z", np.arange(4))})})
    if isinstance(chunks, dict):
        assert_same(daskcache.persist(whole, chunks=chunks), whole.chunk(chunks))
    dask_array = da.ones(4, chunks=1)
    given = {0: 3} if isinstance(chunks, dict) else chunks
    assert daskcache.persist(dask_array, chunks=given).chunks == dask_array.rechunk(given).chunks


def test_chunks_leave_objects_in_memory() -> None:
    ds = xr.Dataset(
        {
            "a": ("x", np.arange(4.0)),
            "dates": ("x", xr.date_range("2000", periods=4, calendar="noleap").values),
        },
        {"label": ("x", objects("a", None, "b", "c")), "text": ("q", objects("a"))},
    )
    for chunks in ({"x": 3, "q": 1}, "auto"):
        kept = daskcache.persist(ds, chunks=chunks)
        assert kept.a.chunks is not None
        assert kept.dates.chunks is kept.label.chunks is kept.text.chunks is None
        xr.testing.assert_identical(kept, ds)
    assert rechunk(xr.DataArray(objects("a", "b"), dims="x"), (1,)).chunks is None
    assert rechunk(array("t"), (2,)).chunks == ((2, 2),)
    with pytest.raises(InvalidInputError, match=r"chunks name 'nowhere'; expected some of \['q', 'x'\]"):
        daskcache.persist(ds, chunks={"nowhere": 1})


def test_a_subtree_comes_back_as_a_tree_of_its_own() -> None:
    node = subtree()
    kept = daskcache.persist(node)
    assert kept.parent is None
    assert kept.name == "zz"
    assert set(kept.coords) == {"x"}
    xr.testing.assert_identical(kept, node.copy())


def test_assembling_reads_no_dask_array(store_root: Path) -> None:
    thing = tree()
    daskcache.persist(thing, "entry")
    for file in store_root.glob("chunks/*/*"):
        file.unlink()
    opened = daskcache.open("entry")
    assert opened["zz/leaf"].b.chunks == ((2, 1), (2,))
    with pytest.raises(daskcache.NotStoredError):
        opened["zz/leaf"].b.compute()


def test_large_values_that_are_gone(store_root: Path) -> None:
    daskcache.persist(one(np.arange(10_000.0)), "entry")
    (file,) = store_root.glob("chunks/*/*")
    file.unlink()
    with pytest.raises(daskcache.NotStoredError):
        daskcache.open("entry")
    daskcache.persist(one(np.arange(10_000.0)), "entry")
    assert_same(daskcache.open("entry"), one(np.arange(10_000.0)))


def test_version_tells_indexes_and_objects_apart() -> None:
    x = np.arange(3)
    alike = [
        xr.Dataset(coords={"x": x}),
        xr.Dataset(coords={"x": x}).drop_indexes("x"),
        xr.Dataset(coords={"x": x.astype(object)}),
        xr.Dataset(coords={"x": list("012")}),
        xr.Dataset(coords={"x": pd.Index(list("012"))}),
        xr.Dataset(coords={"x": pd.Index(list("012"), dtype=object)}),
        xr.Dataset(coords={"x": np.array(list("012"), "T")}),
        xr.Dataset(coords={"y": ("x", x)}),
        xr.Dataset(coords={"y": ("x", x)}).set_xindex("y"),
    ]
    assert len({daskcache.token(thing) for thing in alike}) == len(alike)

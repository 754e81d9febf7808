"""xarray's wrappers: what is relied on is there, and regions of wrapped arrays are those that are read."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from xarray.core import indexing

from daskcache.errors import UncacheableError
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.regions import Outer, Points
from daskcache.fingerprint.sources import find_source
from daskcache.fingerprint.sources_xarray import _LAZY_BASES, _RULES, RELIED_ON
from tests.sources import ENCODING, digests_of, literal_of, make_dataset, source_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_dataset().to_zarr(tmp_path / "z", encoding=ENCODING, zarr_format=2, consolidated=True)
    return tmp_path / "z"


@pytest.fixture
def netcdf(tmp_path: Path) -> Path:
    make_dataset().to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding=ENCODING)
    return tmp_path / "a.nc"


class TestCanary:
    """A table of xarray's private attributes that are read. Where one fails, the table says what breaks."""

    @pytest.mark.parametrize("name", RELIED_ON)
    def test_the_class_and_its_attributes_are_there(self, name: str) -> None:
        attributes, breaks = RELIED_ON[name]
        module, _, qualname = name.partition(":")
        if not module.startswith("xarray"):
            pytest.importorskip(module.partition(".")[0])
        kind = getattr(importlib.import_module(module), qualname, None)
        assert kind is not None, f"{name} has moved; without it these are not cached: {breaks}"
        known: set[str] = set()
        for base in kind.__mro__:
            known |= set(vars(base)) | set(getattr(base, "__annotations__", ()))
            slots = getattr(base, "__slots__", ())
            known |= {slots} if isinstance(slots, str) else set(slots)
            if base is not object and "__init__" in vars(base):
                known |= set(base.__init__.__code__.co_names)
        missing = set(attributes) - known
        assert not missing, f"{name} has no {missing} any more; without them these are not cached: {breaks}"

    @pytest.mark.parametrize("name", sorted(_LAZY_BASES))
    def test_lazy_arrays_are_told_by_their_bases(self, name: str) -> None:
        module, _, qualname = name.partition(":")
        assert hasattr(importlib.import_module(module), qualname)

    def test_every_rule_is_in_the_table(self) -> None:
        assert set(_RULES) - set(RELIED_ON) == {"xarray.backends.pydap_:PydapArrayWrapper"}

    def test_every_lazy_array_of_xarray_is_known_or_refused_on_purpose(self) -> None:
        lazy: set[str] = set()
        for module in ("core.indexing", "coding.common", "coding.strings", "coding.variables", "backends.zarr",
                       "backends.netCDF4_", "backends.h5netcdf_", "backends.scipy_", "backends.pydap_"):  # fmt: skip
            for value in vars(importlib.import_module(f"xarray.{module}")).values():
                if isinstance(value, type) and any(
                    f"{b.__module__}:{b.__qualname__}" in _LAZY_BASES for b in value.__mro__
                ):
                    lazy.add(f"{value.__module__}:{value.__qualname__}")
        refused = {
            "xarray.backends.common:BackendArray",
            "xarray.backends.netCDF4_:BaseNetCDF4Array",
            "xarray.core.indexing:ArrayApiIndexingAdapter",
            "xarray.core.indexing:CoordinateTransformIndexingAdapter",
            "xarray.core.indexing:DaskIndexingAdapter",
            "xarray.core.indexing:ExplicitlyIndexed",
            "xarray.core.indexing:ExplicitlyIndexedNDArrayMixin",
            "xarray.core.indexing:IndexingAdapter",
            "xarray.core.indexing:NdArrayLikeIndexingAdapter",
            "xarray.core.indexing:PandasMultiIndexingAdapter",
            "xarray.core.utils:NDArrayMixin",
            "xarray.core.utils:NdimSizeLenMixin",
        }
        assert lazy - set(_RULES) <= refused, (
            "xarray has a lazy array that is new: give it a rule, or refuse it here"
        )


class TestSelectedBeforeChunking:
    """A region of a lazily indexed array is that region of what lies below."""

    SELECTIONS: tuple[tuple[Callable[[xr.DataArray], xr.DataArray], type], ...] = (
        (lambda a: a.isel(time=slice(1, 5)), Outer),
        (lambda a: a.isel(time=slice(None, None, -2), x=2), Outer),
        (lambda a: a.isel(time=[0, 2, 3]), Outer),
        (lambda a: a.isel(time=[5, 1], x=[3, 0]).isel(time=slice(1, None)), Outer),
        (lambda a: a.transpose("x", "time"), Points),
        (lambda a: a.isel(time=slice(1, 4)).transpose("x", "time").isel(x=slice(1, 3)), Points),
        (lambda a: a.isel(time=xr.DataArray([0, 3], dims="p"), x=xr.DataArray([1, 2], dims="p")), Points),
    )

    @pytest.mark.parametrize(("select", "kind"), SELECTIONS)
    @pytest.mark.parametrize("variable", ["t", "packed"])
    def test_the_region_selects_what_is_read(
        self, path: Path, variable: str, select: Callable[[xr.DataArray], xr.DataArray], kind: type
    ) -> None:
        with xr.open_zarr(path, chunks=None) as dataset:
            lazy = select(dataset[variable])
            trace = source_of(lazy.variable._data).trace
            assert isinstance(trace.region, kind)
            raw = xr.open_zarr(path, chunks=None, mask_and_scale=False)[variable].values
            picked = trace.region.select(raw)
            assert picked.shape == lazy.shape
            expected = lazy.values
            actual = picked * 0.125 + 1 if variable == "packed" else picked
            np.testing.assert_allclose(actual, expected)

    def test_a_selection_has_the_digests_of_the_same_region(self, path: Path) -> None:
        with xr.open_zarr(path, chunks=None) as dataset:
            whole, part = dataset.t, dataset.t.isel(time=slice(2, None))
            assert digests_of(part.chunk(time=2))[0] == source_of(whole.chunk(time=2)).region((slice(2, 4),))

    def test_ways_of_selecting_do_not_meet(self, path: Path) -> None:
        with xr.open_zarr(path, chunks=None) as dataset:
            digests = [
                source_of(select(dataset.t).variable._data).region(()) for select, _ in self.SELECTIONS
            ]
        assert len(set(digests)) == len(digests)

    def test_touched_chunks_are_those_of_the_selection(self, tmp_path: Path) -> None:
        make_dataset().to_zarr(
            tmp_path / "z", encoding={"t": {"chunks": (1, 2)}}, zarr_format=2, consolidated=True
        )
        with xr.open_zarr(tmp_path / "z", chunks=None) as dataset:
            lazy = dataset.t.transpose("x", "time").isel(time=[4, 1], x=slice(2, None)).variable._data
            names = source_of(lazy).stamps(())
            assert [Path(name).name for name in names] == ["1.1", "4.1"]


def _indices(length: int) -> st.SearchStrategy[Any]:
    bound = st.none() | st.integers(-length - 2, length + 2)
    slices = st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, -1, -3]))
    if not length:
        return slices
    position = st.integers(-length, length - 1)
    return slices | position | st.lists(position, max_size=4).map(lambda keys: np.array(keys, dtype=int))


@given(st.data())
def test_regions_compose_as_arrays_are_indexed(data: st.DataObject) -> None:
    base = np.arange(7 * 5 * 6).reshape(7, 5, 6)
    region: Outer | Points = Outer.whole(base.shape)
    picked = base
    for _ in range(3):
        index = tuple(data.draw(_indices(size)) for size in picked.shape)
        for axis in reversed(range(picked.ndim)):
            picked = picked[(slice(None),) * axis + (index[axis],)]
        region = region.take(index)
        if picked.size and data.draw(st.booleans()):
            order = data.draw(st.permutations(range(picked.ndim)))
            grids = np.ix_(*map(np.arange, picked.shape)) if picked.ndim else ()
            region = region.points([grid.transpose(order) for grid in grids])
            picked = picked.transpose(order)
    np.testing.assert_array_equal(region.select(base), picked)
    assert region.shape == picked.shape
    grid = (3, np.array([0, 1, 4]), 2)
    where = np.unravel_index(picked.ravel(), base.shape)
    chunks = zip(where[0] // 3, np.searchsorted(grid[1], where[1], "right") - 1, where[2] // 2, strict=True)
    assert list(region.touch(grid)) == sorted({tuple(map(int, chunk)) for chunk in chunks})


class TestWrappers:
    """What lies between a dask array and a file."""

    def test_what_was_loaded_is_told_by_its_values(self, netcdf: Path) -> None:
        with xr.open_dataset(netcdf, engine="netcdf4", cache=True) as dataset:
            loaded = dataset.t.load().variable._data
            trace = find_source(
                indexing.ImplicitToExplicitIndexingAdapter(indexing.MemoryCachedArray(loaded)),
                Fingerprinter(),
            )
            assert trace is not None
            assert trace.stamps(()) == {}
            assert trace.region((0,)) != trace.region((1,))

    def test_an_assignment_makes_a_copy_in_memory(self, netcdf: Path) -> None:
        with xr.open_dataset(netcdf, engine="netcdf4", cache=False) as dataset:
            lazy = dataset.t.variable._data
            before = source_of(lazy)
            assert before.stamps(())
            dataset.t[0, 0] = -1
            assert source_of(lazy).stamps(()) == {}
            assert source_of(lazy).region(()) != before.region(())

    def test_an_unknown_lazy_array_is_refused_by_name(self) -> None:
        class Reader(xr.backends.BackendArray):
            shape, dtype = (3,), np.dtype("f4")

            def __getitem__(self, key: Any) -> Any:
                raise NotImplementedError

        lazy = indexing.LazilyIndexedArray(Reader())
        for array in (Reader(), lazy, indexing.ImplicitToExplicitIndexingAdapter(lazy)):
            with pytest.raises(UncacheableError, match=r"Reader, a lazy array that is not known"):
                find_source(array, Fingerprinter())

    def test_an_unknown_wrapper_is_refused_by_name(self) -> None:
        class Wrapper:
            array, shape, dtype = np.arange(3), (3,), np.dtype("i8")

            def __getitem__(self, key: Any) -> Any:
                raise NotImplementedError

        with pytest.raises(UncacheableError, match="Wrapper, which wraps an array"):
            find_source(Wrapper(), Fingerprinter())

        class Known(Wrapper):
            def __daskcache_fingerprint__(self) -> str:
                return "known"

        assert find_source(Known(), Fingerprinter()) is None

    def test_a_dask_array_under_a_wrapper_is_refused(self) -> None:
        lazy = indexing.LazilyIndexedArray(indexing.DaskIndexingAdapter(da.ones(3)))
        with pytest.raises(UncacheableError, match="DaskIndexingAdapter"):
            find_source(lazy, Fingerprinter())

    def test_a_moved_attribute_is_an_error_that_says_so(self, path: Path) -> None:
        with xr.open_zarr(path, chunks={}) as dataset:
            literal = literal_of(dataset.t)
            del literal.array.array
            with pytest.raises(UncacheableError, match="this version of xarray has changed"):
                find_source(literal, Fingerprinter())


_PROGRAM = """
import sys, types
import h5py, xarray as xr, zarr
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.sources import find_source
root = sys.argv[1]
fingerprinter = Fingerprinter()
datasets = [xr.open_zarr(root + "/z2", chunks=None), xr.open_zarr(root + "/z3", chunks=None, consolidated=False)]
datasets += [xr.open_dataset(f"{root}/{e}.nc", engine=e) for e in ("netcdf4", "h5netcdf", "scipy")]
for dataset in datasets:
    for name in sorted(dataset.data_vars):
        data = dataset[name].isel(time=[0, 2, 3]).variable._data
        print(find_source(data, fingerprinter).region((slice(1, 3),)).hex())
print(find_source(h5py.File(root + "/h5netcdf.nc")["t"], fingerprinter).region(()).hex())
print(find_source(zarr.open_array(root + "/z3/t"), fingerprinter).region(()).hex())
print(sorted((name, digest.hex()) for name, digest in fingerprinter.sources.items()))
"""


def test_digests_do_not_depend_on_the_process(tmp_path: Path) -> None:
    make_dataset().to_zarr(tmp_path / "z2", encoding=ENCODING, zarr_format=2, consolidated=True)
    make_dataset(strings=False).to_zarr(tmp_path / "z3", encoding=ENCODING, zarr_format=3, consolidated=False)
    for engine in ("netcdf4", "h5netcdf", "scipy"):
        make_dataset().to_netcdf(tmp_path / f"{engine}.nc", engine=engine, encoding=ENCODING)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(tmp_path)],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert outputs[0] == outputs[1]
    digests = outputs[0][:-1]
    # The strings of both HDF5 engines were decoded when they were opened, and are told by their values.
    assert len(digests) == 26
    assert len(set(digests)) == 25

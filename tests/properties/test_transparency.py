"""Law 4: a pipeline on what was loaded or marked has the tokens, and the results, of one on what was computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens
from tests.pipelines import PIPELINES, field, write_sources

Step = Callable[[Any], Any]

# Of each of them the graph that made it is unlike the one that loads it.
FIRST = [
    "elementwise", "groupby_month_std", "groupby_anomaly", "resample_month", "rolling", "coarsen", "cumsum", "ffill",
    "concat", "merge", "rechunk", "transpose", "weighted", "mean_all", "apply_ufunc", "map_blocks", "dot", "cftime",
    "groupby_cumsum", "unify", "random", "tensordot",
]  # fmt: skip
THEN: dict[str, Step] = {
    "elementwise": lambda x: x * 2 + 1,
    "reduction": lambda x: x.mean(),
    "selection": lambda x: (
        x[..., :1] if isinstance(x, da.Array) else x.isel(time=slice(1), missing_dims="ignore")
    ),
    "own function": lambda x: x.map_blocks(np.negative) if isinstance(x, da.Array) else xr.ufuncs.negative(x),
}


def token(obj: Any) -> str:
    return obj.cache.token if hasattr(obj, "cache") else daskcache.token(obj)


def values_of(obj: Any) -> list[bytes]:
    computed = obj.compute()
    if isinstance(computed, xr.Dataset):
        return [np.asarray(computed[name].values).tobytes() for name in sorted(computed.data_vars)]
    return [np.asarray(getattr(computed, "values", computed)).tobytes()]


def assert_same_values(one: Any, other: Any, is_rounded: bool = False) -> None:
    if is_rounded:
        check = np.testing.assert_allclose if isinstance(one, da.Array) else xr.testing.assert_allclose
        check(one.compute(), other.compute(), rtol=1e-12)
    else:
        assert values_of(one) == values_of(other)


def objects_in(root: Path) -> set[str]:
    return {path.name for path in (root / "chunks").rglob("*") if path.is_file()}


@pytest.fixture
def first(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return PIPELINES[request.param](tmp_path)


@pytest.mark.parametrize(("first", "name"), [(name, name) for name in FIRST], indirect=["first"])
def test_what_is_loaded_has_the_tokens_of_what_was_computed(first: Any, name: str, store_root: Path) -> None:
    kept = daskcache.persist(first, "first")
    opened = daskcache.open("first")
    assert token(kept) == token(opened) == token(first)
    assert_same_values(opened, first)
    for step, then in THEN.items():
        if (name, step) == ("merge", "selection"):
            # A raw array in it is known by its bytes, a part of it by the part's, and a part of what is loaded is not.
            continue
        assert token(then(opened)) == token(then(first)), step
        # What dask computes lies in memory in whatever order its functions leave it in, what is loaded in C order; the
        # rounding of a sum depends on it.
        assert_same_values(then(opened), then(first), is_rounded=step == "reduction")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_computing_changes_no_token(tmp_path: Path) -> None:
    write_sources(tmp_path)
    for name, make in PIPELINES.items():
        obj = make(tmp_path)
        before = token_or_reason(obj)
        with dask.config.set(scheduler="synchronous"):
            dask.compute(obj)
        assert token_or_reason(obj) == before, name


def token_or_reason(obj: Any) -> str:
    try:
        return token(obj)
    except daskcache.UncacheableError as error:
        return str(error)


@pytest.mark.parametrize("first", FIRST[::3], indirect=True)
def test_a_second_persist_of_what_was_loaded_stores_no_block(first: Any, store_root: Path) -> None:
    kept = daskcache.persist(first, "first")
    before = objects_in(store_root)
    for obj, where in ((kept, {}), (daskcache.open("first"), {"namespace": "other"}), (first, {})):
        again = daskcache.persist(obj, "second", **where)
        run = daskcache.last_run()
        assert run is not None
        assert (run.computed, run.stored, run.stored_bytes) == (0, 0, 0)
        assert token(again) == token(first)
    assert objects_in(store_root) == before


@pytest.mark.parametrize("first", FIRST[1::3], indirect=True)
def test_a_mark_changes_neither_tokens_nor_results(first: Any, store_root: Path) -> None:
    expected = values_of(first), values_of(THEN["elementwise"](first))
    with daskcache.activate(str(store_root)):
        marked = daskcache.checkpoint(first, "first")
        assert token(marked) == token(first)
        for name, then in THEN.items():
            assert token(then(marked)) == token(then(first)), name
        cold = values_of(marked), values_of(THEN["elementwise"](marked))
        warm = values_of(marked), values_of(THEN["elementwise"](marked))
        assert token(daskcache.open("first")) == token(first)
    assert cold == warm == expected


def test_a_pipeline_over_what_was_loaded_is_found_under_the_pipeline_that_made_it(store_root: Path) -> None:
    ds = field()
    daskcache.persist(ds * 2, "doubled")
    daskcache.persist((daskcache.open("doubled") + 1).groupby("time.month").mean(), "means")
    daskcache.persist((ds * 2 + 1).groupby("time.month").mean(), "again")
    run = daskcache.last_run()
    assert run is not None
    assert (run.computed, run.stored) == (0, 0)


def test_block_tokens_survive_store_and_load_three_times(store_root: Path) -> None:
    array = da.arange(40, chunks=10)[::-1] ** 2
    loaded = array
    for name in ("one", "two", "three"):
        loaded = daskcache.persist(loaded, name)
    for one, other in zip(keys_of([array]), keys_of([loaded]), strict=True):
        tokens = GraphTokens(array.dask, Fingerprinter()), GraphTokens(loaded.dask, Fingerprinter())
        assert tokens[0].token(one) == tokens[1].token(other)


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "?", "c16", "M8[ns]", "U5"])
def test_what_is_loaded_is_of_the_same_type(dtype: str, store_root: Path) -> None:
    values = np.arange(8).astype("i8").astype(dtype)
    array = da.from_array(values, chunks=4)[::-1]
    kept = daskcache.persist(array, "typed")
    assert (kept.dtype, kept.chunks, type(kept._meta)) == (array.dtype, array.chunks, type(array._meta))
    assert kept.compute().tobytes() == values[::-1].tobytes()
    assert token(kept) == token(array)


def test_optimised_reads_of_what_was_loaded_give_the_same(store_root: Path) -> None:
    array = daskcache.persist(da.arange(40, chunks=10) * 2, "kept")
    part = array[3:27:4] + 1
    (optimised,) = dask.optimize(part)
    np.testing.assert_array_equal(optimised.compute(), np.arange(40)[3:27:4] * 2 + 1)

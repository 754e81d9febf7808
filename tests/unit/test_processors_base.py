"""Processors alone: binding, chaining, decorating; and selecting by label."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from dataclasses import dataclass

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from daskcache import Hints, Processor, region, select, timeseries
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import Fingerprinter
from daskcache.processors import Chain, Processed


@dataclass(frozen=True)
class Added(Processor):
    """Notes in which order it is called."""

    name: str

    @property
    def parameters(self):
        return (self.name,)

    def bind(self, signature, arguments):
        kept = {name: value for name, value in arguments.items() if name != self.name}
        return kept, kept, arguments[self.name]

    def process(self, result, state):
        return f"{result} {self.name}={state}"


@Added("outer")
@Added("inner")
def base(x, *more, y=2, **others):
    return f"{x} {more} {y} {others}"


def test_arguments_that_only_processors_take() -> None:
    assert base(1, 3, outer=5, inner=6, z=7) == "1 (3,) 2 {'z': 7} inner=6 outer=5"
    assert list(inspect.signature(base).parameters) == ["x", "more", "y", "outer", "inner", "others"]
    assert base.__name__ == "base"
    assert base.bind(1, outer=2).key_arguments == {"x": 1, "more": (), "y": 2, "others": {}}


def test_a_missing_argument_is_an_error_of_the_call() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        base()


def test_functions_are_told_what_they_have_parameters_for() -> None:
    @timeseries("time")
    @select("level")
    def told(start_time, level="all"):
        assert start_time == "2000"
        assert level == "all"
        return xr.DataArray([1], {"time": pd.date_range("2000", periods=1), "level": "all"}, "time")

    assert told("2000").item() == 1
    assert told.bind("2000").key_arguments == {}


def test_methods() -> None:
    class Model:
        factor = 3

        @select("x")
        def run(self, x=None):
            """Multiply."""
            return xr.DataArray(np.arange(4) * self.factor, {"x": [1, 2, 3, 4]}, "x")

    assert Model().run(3).item() == 6
    assert Model.run.__doc__ == "Multiply."
    assert isinstance(Model.run, Processed)


def test_coroutines() -> None:
    @select("x")
    async def later():
        await asyncio.sleep(0)
        return xr.DataArray([1, 2], {"x": [1, 2]}, "x")

    assert inspect.iscoroutinefunction(later)
    assert asyncio.run(later(x=2)).item() == 2


def test_generators_are_refused() -> None:
    def numbers():
        yield 1

    with pytest.raises(InvalidInputError, match="generator"):
        select("x")(numbers)


def test_a_processor_without_its_parentheses_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="parentheses"):
        select("x")(3)


def test_decorated_functions_pickle_by_name_and_have_an_identity() -> None:
    fingerprinter = Fingerprinter()
    assert fingerprinter.fingerprint(base) == Fingerprinter().fingerprint(base)
    other = Processed(base.function, Chain((Added("inner"),)))
    assert fingerprinter.fingerprint(base) != fingerprinter.fingerprint(other)
    for processor in (timeseries("time", hints="time"), region(), select("x", method="nearest")):
        assert fingerprinter.fingerprint(processor) == Fingerprinter().fingerprint(processor)
    assert fingerprinter.fingerprint(select("x")) != fingerprinter.fingerprint(select("y"))
    again = pickle.loads(pickle.dumps(decorated))
    assert again is decorated


@select("x")
def decorated():
    return None


def test_partial_functions() -> None:
    assert select("x")(functools.partial(_table, 3))(x=1).item() == 3


def _table(factor):
    return xr.DataArray(np.arange(3) * factor, {"x": [0, 1, 2]}, "x")


def test_hints_of_a_chain_are_put_together() -> None:
    chain = Chain((timeseries("time", hints={"time": 3}), select("level"), region(hints=("lat", "lon"))))
    assert chain.hints() == Hints({"time": 3}).merge(Hints(("lat", "lon")))
    assert Chain((select("x"),)).hints() is None
    assert timeseries("time").hints() == Hints("time")


def test_coverage_of_other_processors_covers_nothing() -> None:
    chain = Chain((select("x"), select("y")))
    states = chain.bind(inspect.signature(_table), {"factor": 1, "x": 1, "y": None}).states
    assert chain.coverage(None, states) == [{"x": 1}, None]
    assert chain.covers([{"x": 1}, None], states)
    assert not chain.covers([{"x": 1}], states)


def field() -> xr.DataArray:
    return xr.DataArray(
        np.arange(24).reshape(4, 3, 2),
        {"level": [1000, 850, 500, 200], "member": ["a", "b", "c"], "x": [0.0, 1.0]},
        ("level", "member", "x"),
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"level": 850},
        {"level": [500, 1000]},
        {"level": slice(850, 200)},
        {"level": (850, 500)},
        {"member": "b", "level": 200},
        {"member": ["c", "a"], "x": 1.0},
        {"level": None, "member": slice(None)},
        {},
    ],
)
def test_selecting_is_what_xarray_selects(lazy, asked) -> None:
    data = field().chunk(level=2) if lazy else field()
    found = select("level", "member", "x")(lambda: data)(**asked)
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asked.items() if v is not None}
    xr.testing.assert_identical(found.compute(), field().sel(plain))
    assert (found.chunks is not None) == lazy


def test_nearest_labels() -> None:
    near = select("level", method="nearest", tolerance=60)(field)
    assert near(level=820).level == 850
    with pytest.raises(InvalidInputError, match="not there"):
        near(level=700)


def test_labels_that_are_not_there() -> None:
    with pytest.raises(InvalidInputError, match="not there"):
        select("level")(field)(level=7)
    with pytest.raises(InvalidInputError, match="'height'"):
        select("height")(field)(height=7)
    with pytest.raises(InvalidInputError, match="'level'"):
        select("level")(lambda: 3)(level=7)


def test_trimming_keeps_the_blocks_that_are_touched() -> None:
    processor = select("level")
    data = field().chunk(level=1)
    trimmed = processor.trim(data, {"level": [850, 200]})
    assert trimmed.level.values.tolist() == [850, 500, 200]
    assert processor.trim(data, {"level": 7}).sizes == data.sizes


def test_tables() -> None:
    frame = pd.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]})
    for make in (lambda: frame, lambda: frame.set_index("k"), lambda: dd.from_pandas(frame, npartitions=2)):
        chosen = select("k")(make)(k="a")
        chosen = chosen.compute() if hasattr(chosen, "compute") else chosen
        assert chosen.v.tolist() == [1, 3]
    numbers = select(which="v")(lambda: frame)
    assert numbers(which=[2, 3]).k.tolist() == ["b", "a"]
    assert numbers(which=slice(2, None)).k.tolist() == ["b", "a"]
    with pytest.raises(InvalidInputError, match="no row"):
        numbers(which=9)


def test_what_is_covered() -> None:
    processor = select("level")
    for stored, asked, inside in [
        ({}, {"level": 1}, True),
        ({"level": 1}, {"level": 1}, True),
        ({"level": 1}, {"level": 2}, False),
        ({"level": [1, 2]}, {"level": 2}, True),
        ({"level": np.array([1, 2])}, {"level": [2, 1]}, True),
        ({"level": [1, 2]}, {"level": [2, 3]}, False),
        ({"level": slice(1, 2)}, {"level": slice(1, 2)}, True),
        ({"level": slice(1, 2)}, {"level": 1}, False),
        ({"level": 1}, {}, False),
    ]:
        assert processor.covers(processor.coverage(None, stored), asked) is inside, (stored, asked)


def test_no_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="names of arguments"):
        select()
    with pytest.raises(InvalidInputError, match="names of arguments"):
        select(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="coordinate or column"):
        timeseries([])
    with pytest.raises(InvalidInputError, match="names"):
        region(lat=())

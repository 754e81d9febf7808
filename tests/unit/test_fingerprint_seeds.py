"""Random numbers without a seed, because nobody gave one, and generators that go on from call to call."""

from __future__ import annotations

import functools
import random
import types
import warnings
from collections.abc import Callable
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask import delayed
from dask.core import flatten

import daskcache
from daskcache.errors import DaskcacheWarning, UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint, seeds
from daskcache.fingerprint.calls import calls_of
from daskcache.fingerprint.seeds import find_seeds
from daskcache.tokens import GraphTokens

SOURCE = """
import functools, random
import numpy as np
from numpy.random import default_rng as make

def noise(b, seed=None): return b + np.random.default_rng(seed).normal(size=b.shape)
def aliased(b, seed=None): return b + make(seed).normal(size=b.shape)
def named(b, *, seed=None): return b + np.random.default_rng(seed=seed).normal(size=b.shape)
def through_bits(b, seed=None): return b + np.random.Generator(np.random.PCG64(seed)).normal(size=b.shape)
def through_sequence(b, seed=None): return b + make(np.random.SeedSequence(seed)).normal(size=b.shape)
def old(b, seed=None): return b + np.random.RandomState(seed).normal(size=b.shape)
def plain(b, seed=None): return b + random.Random(seed).random()
def rebinds_later(b, seed=None):
    seed = make(seed)
    return b + seed.normal(size=b.shape)
def imports(b, seed=None):
    import numpy as n
    from numpy.random import RandomState as R
    return b + R(seed).normal(size=b.shape) + n.random.default_rng(seed).normal()
def hands_on(b, seed=None): return noise(b, seed=seed)
def hands_on_by_place(b, seed=None): return hands_on(b, seed)
def to_another(b, seed=None): return np.apply_along_axis(noise, 0, b, seed=seed)
memoised = functools.lru_cache(noise)
def wraps(function):
    @functools.wraps(function)
    def inner(*args, **kwargs): return function(*args, **kwargs)
    return inner
wrapped = wraps(noise)

def required(b, seed): return b + make(seed).normal(size=b.shape)
def falls_back(b, seed=None):
    if seed is None:
        seed = 3
    return b + make(seed).normal(size=b.shape)
def knows(b): return noise(b, 3) + hands_on(b, seed=4) + np.apply_along_axis(noise, 0, b, seed=2)
def by_block(b, block_info=None, seed=None): return b + make(seed).normal(size=b.shape)

def forgets(b): return noise(b)
def forgets_deeply(b): return hands_on_by_place(b)
def says_none(b): return noise(b, None)
def to_another_without(b): return np.apply_along_axis(noise, 0, b)
SEED = None
def of_a_global(b): return b + make(SEED).normal(size=b.shape)
def of_a_variable(b):
    seed = None
    return b + make(seed).normal(size=b.shape)

class Noise:
    def __init__(self, seed=None): self.seed = seed
    def __call__(self, b): return self.draw(b)
    def draw(self, b): return b + make(self.seed).normal(size=b.shape)
class Held:
    def __init__(self, seed): self.rng, self.scale = make(seed), 2
    def __call__(self, b): return b * self.scale + self.rng.normal(size=b.shape)

RNG, RS, PY, HELD, BITS, SEVERAL = make(1), np.random.RandomState(1), random.Random(1), Held(1), np.random.PCG64(1), [make(1)]
def global_generator(b): return b + RNG.normal(size=b.shape)
def global_state(b): return b + RS.normal(size=b.shape)
def global_random(b): return b + PY.random()
def global_object(b): return HELD(b)
def global_bits(b): return b + np.random.Generator(BITS).normal()
def global_list(b): return b + SEVERAL[0].normal()
draw = RNG.normal
def global_method(b): return b + draw(size=b.shape)
def default_generator(b, rng=make(1)): return b + rng.normal(size=b.shape)
def factory(rng): return lambda b: b + rng.normal(size=b.shape)
closure_generator = factory(make(1))
def only_the_scale(b): return b * HELD.scale
"""


@pytest.fixture(scope="module")
def users() -> Any:
    module = types.ModuleType("users_module")
    exec(compile(SOURCE, "users_module.py", "exec"), module.__dict__)
    return module


def array() -> da.Array:
    return da.ones(4, chunks=2)


def token_or_reason(obj: Any) -> tuple[bytes | None, str]:
    obj = obj.optimize() if isinstance(obj, dd.DataFrame) else obj
    tokens = GraphTokens(obj.__dask_graph__(), Fingerprinter())
    key = list(flatten(obj.__dask_keys__()))[-1]
    token = tokens.token(key)
    return token, "" if token is not None else str(tokens.reason(key))


def is_refused(obj: Any, reason: str) -> bool:
    token, why = token_or_reason(obj)
    assert token is not None or reason in why, why
    return token is None


def over_frame(function: Any, **kwargs: Any) -> Any:
    frame = dd.from_pandas(pd.DataFrame({"a": range(8)}), npartitions=2)
    return frame.map_partitions(function, meta=frame._meta, **kwargs)


def over_dataset(function: Any, **kwargs: Any) -> Any:
    dataset = xr.Dataset({"a": ("x", array())})
    return xr.map_blocks(function, dataset, kwargs=kwargs, template=dataset).a.data


def over_core(function: Any, **kwargs: Any) -> Any:
    given = xr.DataArray(array(), dims="x")
    made = xr.apply_ufunc(
        function, given, kwargs=kwargs, dask="parallelized", vectorize=True, output_dtypes=[float]
    )
    return made.data


def over_blocks(function: Any, **kwargs: Any) -> Any:
    return array().map_blocks(function, dtype=float, **kwargs)


def over_partial(function: Any, **kwargs: Any) -> Any:
    return array().map_blocks(functools.partial(function, **kwargs), dtype=float)


def over_delayed(function: Any, **kwargs: Any) -> Any:
    return delayed(function)(np.ones(3), **kwargs)


CALLERS: list[Callable[..., Any]] = [over_blocks, over_partial, over_delayed]
OTHER_CALLERS: list[Callable[..., Any]] = [over_frame, over_dataset, over_core]
TAKE_NONE = [
    *(
        [
            "noise",
            "aliased",
            "named",
            "through_bits",
            "through_sequence",
            "old",
            "plain",
            "rebinds_later",
            "imports",
        ]
    ),
    *(["hands_on", "hands_on_by_place", "to_another", "memoised", "wrapped"]),
]


@pytest.mark.parametrize("call", CALLERS)
@pytest.mark.parametrize("name", TAKE_NONE)
def test_a_seed_that_is_not_given(name: str, call: Any, users: Any) -> None:
    function = getattr(users, name)
    assert is_refused(call(function), "unseeded")
    assert is_refused(call(function, seed=None), "unseeded")
    one, other = (token_or_reason(call(function, seed=seed))[0] for seed in (1, 2))
    assert one is not None
    assert other is not None
    assert one != other


@pytest.mark.parametrize("call", OTHER_CALLERS)
def test_a_function_that_another_hands_its_seed(call: Any, users: Any) -> None:
    assert is_refused(call(users.noise), "unseeded")
    assert not is_refused(call(users.noise, seed=1), "")


def test_a_seed_that_is_not_given_to_a_function_of_the_blocks_place(users: Any) -> None:
    assert is_refused(over_blocks(users.by_block), "unseeded")
    assert not is_refused(over_blocks(users.by_block, seed=1), "")


def test_a_task_without_a_seed_beside_one_with_it(users: Any) -> None:
    """What is known of a function must not decide for all its tasks."""
    for call in (over_blocks, over_frame):
        made = [call(users.noise, seed=3), call(users.noise), call(users.noise, seed=4)]
        made = [one.optimize() if isinstance(one, dd.DataFrame) else one for one in made]
        tokens = GraphTokens(
            {key: task for one in made for key, task in dict(one.__dask_graph__()).items()}, Fingerprinter()
        )
        keys = [list(flatten(one.__dask_keys__()))[-1] for one in made]
        assert [tokens.token(key) is None for key in keys] == [False, True, False]


def test_a_seed_by_place(users: Any) -> None:
    assert not is_refused(array().map_blocks(users.noise, 3, dtype=float), "")
    assert is_refused(array().map_blocks(users.noise, None, dtype=float), "unseeded")
    assert not is_refused(delayed(users.noise)(np.ones(3), 3), "")


@pytest.mark.parametrize("call", CALLERS)
def test_a_seed_that_has_to_be_given(call: Any, users: Any) -> None:
    assert not is_refused(call(users.required, seed=1), "")
    assert is_refused(call(users.required, seed=None), "unseeded")


@pytest.mark.parametrize("name", ["falls_back", "knows"])
def test_a_function_that_has_a_seed_of_its_own(name: str, users: Any) -> None:
    assert not is_refused(over_blocks(getattr(users, name)), "")


FORGET = [
    "forgets",
    "forgets_deeply",
    "says_none",
    "to_another_without",
    "of_a_global",
    "of_a_variable",
]


@pytest.mark.parametrize("name", FORGET)
def test_a_function_that_gives_none(name: str, users: Any) -> None:
    assert is_refused(over_blocks(getattr(users, name)), "unseeded")
    with pytest.raises(UncacheableError, match="unseeded"):
        fingerprint(getattr(users, name))


def test_an_object_that_holds_a_seed_or_none(users: Any) -> None:
    assert is_refused(over_blocks(users.Noise()), "unseeded")
    assert is_refused(over_blocks(users.Noise().draw), "unseeded")
    assert not is_refused(over_blocks(users.Noise(1)), "")
    assert not is_refused(over_blocks(users.Noise(1).draw), "")


GOING_ON = [
    "global_generator",
    "global_state",
    "global_random",
    "global_object",
    "global_bits",
    "global_list",
    "default_generator",
    "closure_generator",
    "global_method",
]


@pytest.mark.parametrize("name", GOING_ON)
def test_a_generator_that_a_function_holds(name: str, users: Any) -> None:
    with pytest.raises(UncacheableError, match="goes on from call to call"):
        fingerprint(getattr(users, name))


def test_reading_something_else_of_an_object_with_a_generator(users: Any) -> None:
    assert len(fingerprint(users.only_the_scale)) == 40


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, random.Random])
def test_a_generator_that_a_task_is_given(make: Any, users: Any) -> None:
    assert is_refused(over_blocks(lambda b, rng: b + rng.random(), rng=make(1)), "goes on")
    assert is_refused(over_partial(lambda b, rng: b + rng.random(), rng=make(1)), "goes on")
    assert is_refused(delayed(lambda given: given["rng"].random())({"rng": make(1)}), "goes on")
    assert is_refused(delayed(make(1).random)(), "goes on")
    assert is_refused(over_blocks(users.Held(1)), "goes on")
    assert is_refused(over_blocks(users.Held(1).__call__), "goes on")
    for given in (make(1).random, functools.partial(users.factory, make(1)), users.Held(1).__call__):
        assert is_refused(delayed(lambda call: call())(given), "goes on")


def test_pipelines_of_dasks_own_generators_have_tokens() -> None:
    da.random.seed(3)
    made = [
        da.random.default_rng(1).normal(size=4, chunks=2),
        da.random.RandomState(1).normal(size=4, chunks=2),
        da.random.normal(size=4, chunks=2),
        da.random.default_rng(1).choice(10, size=4, chunks=2),
        da.random.RandomState(1).choice(10, size=4, chunks=2),
        da.random.default_rng(np.random.PCG64(3)).integers(0, 9, size=4, chunks=2),
        da.random.default_rng(1).permutation(da.arange(4, chunks=2)),
        dd.from_pandas(pd.DataFrame({"a": range(8)}), npartitions=2).sample(frac=0.5, random_state=2),
    ]
    assert [token_or_reason(one)[1] for one in made] == [""] * len(made)


def test_generators_that_tasks_make() -> None:
    assert is_refused(delayed(np.random.default_rng)(None), "unseeded")
    assert not is_refused(delayed(np.random.SeedSequence)(3), "")


def test_calls_of_cached_functions() -> None:
    @daskcache.cache
    def draw(n: int, seed: int | None = None) -> Any:
        return np.random.default_rng(seed).random(n)

    @daskcache.cache
    def take(rng: Any) -> Any:
        return rng.random(3)

    rng = np.random.default_rng(1)
    with pytest.warns(DaskcacheWarning, match="unseeded"):
        first = draw(3)
    with pytest.warns(DaskcacheWarning, match="goes on"):
        taken = take(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DaskcacheWarning)
        assert not np.array_equal(first, draw(3))
        assert not np.array_equal(taken, take(rng))
    assert np.array_equal(draw(3, seed=1), draw(3, 1))


def many(count: int, last: str) -> str:
    """Write functions each of which calls the next one twice, and hands it its seed."""
    steps = [
        f"def f{i}(b, seed=None): return f{i + 1}(b, seed) + f{i + 1}(b, seed=seed)" for i in range(count)
    ]
    return "\n".join(["import numpy as np", *steps, f"def f{count}(b, seed=None): return {last}"])


@pytest.mark.parametrize(
    "last", ["np.random.default_rng(seed).normal(size=b.shape)", "f0(b, seed) + f2(b, None)"]
)
def test_functions_that_call_each_other_over_and_over(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    users = types.ModuleType("__main__")
    draws = "np.random" in last
    exec(many(40, last), vars(users))
    exec("def of_one(b): return f0(b)\ndef with_seed(b): return f0(b, 3)", vars(users))
    looked: list[Any] = []
    monkeypatch.setattr(seeds, "calls_of", lambda code: looked.append(code) or calls_of(code))
    assert (find_seeds(users.of_one).refusal is not None) == draws
    assert find_seeds(users.with_seed).refusal is None
    assert find_seeds(users.f0).parameters == ({"seed"} if draws else set())
    # A function is looked at again where one that it calls has turned out to need something.
    assert len(looked) <= 3 * 2 * 44


def test_functions_that_call_each_other_in_a_circle() -> None:
    users = types.ModuleType("__main__")
    source = """
import numpy as np
def up(b, seed=None, n=3): return down(b, seed, n - 1) if n else b
def down(b, state, n): return up(b + np.random.default_rng(state).normal(), state, n)
def unseeded(b): return up(b)
def seeded(b): return up(b, 1)
def itself(b, seed=None, n=3): return itself(b + make(seed), None, n - 1) if n else b
def make(seed): return np.random.default_rng(seed).normal()
class Noise:
    def __init__(self, seed=None): self.seed = seed
    def left(self, b): return self.right(b)
    def right(self, b): return self.left(b) + self.draw(b)
    def draw(self, b): return b + np.random.default_rng(self.seed).normal()
"""
    exec(source, vars(users))
    assert find_seeds(users.up).parameters == {"seed"}
    assert find_seeds(users.down).parameters == {"state"}
    assert find_seeds(users.unseeded).refusal is not None
    assert find_seeds(users.seeded).refusal is None
    assert find_seeds(users.itself).refusal is not None
    for name in ("left", "right", "draw"):
        assert find_seeds(vars(users.Noise)[name], users.Noise).attributes == {"seed"}

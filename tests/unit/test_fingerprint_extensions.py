"""What other code puts on libraries' classes and into their modules counts for the functions that use it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from daskcache.config import Settings
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, LoadedCode, check_code_units, fingerprint, loaded
from daskcache.fingerprint.extensions import TakenExtension, find_extensions
from tests.workspace import Workspace

ACCESSOR = """
    import xarray as xr
    @xr.register_dataarray_accessor("bent")
    class Bent:
        def __init__(self, array): self.array = array
        def scale(self): return self.array * 2
"""


def uses(block: Any) -> Any:
    return block.bent.scale()


def uses_by_name(block: Any) -> Any:
    return getattr(block, "bent").scale()  # noqa: B009


def uses_nothing(block: Any) -> Any:
    return block.mean()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    places = (xr.DataArray, xr.Dataset, pd.Series, da.Array, np)
    before = [dict(vars(place)) for place in places]
    yield
    for place, names in zip(places, before, strict=True):
        for name in set(vars(place)) - set(names):
            delattr(place, name)
        for name, value in names.items():
            if vars(place)[name] is not value:
                setattr(place, name, value)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(loaded, "_last", {})
    space = Workspace(tmp_path)
    space.write({"accessors.py": ACCESSOR})
    yield space
    space.forget()


def load(workspace: Workspace, old: str = "", new: str = "") -> None:
    for kind in (xr.DataArray, xr.Dataset):
        if "bent" in vars(kind):
            del kind.bent
    workspace.write({"accessors.py": ACCESSOR.replace(old, new)})
    workspace.load("accessors")


@pytest.mark.parametrize("function", [uses, uses_by_name])
def test_an_accessor_counts_where_its_name_is_read(
    function: Callable[[Any], Any], workspace: Workspace
) -> None:
    without = fingerprint(function), fingerprint(uses_nothing)
    load(workspace)
    first = fingerprint(function)
    assert first == fingerprint(function) != without[0]
    load(workspace, "array * 2", "array * 3")
    assert fingerprint(function) not in {first, without[0]}
    load(workspace)
    assert fingerprint(function) == first
    load(workspace, "import", '"""An accessor."""\n    import')
    assert fingerprint(function) == first
    assert fingerprint(uses_nothing) == without[1]


def test_workers_check_the_accessor(workspace: Workspace) -> None:
    load(workspace)
    walk = Fingerprinter()
    walk.fingerprint(uses)
    unit = "xarray.core.dataarray", "DataArray.bent"
    assert {unit, ("accessors", "Bent.scale")} <= set(walk.code_units)
    assert check_code_units(walk.code_units) == []
    load(workspace, "array * 2", "array * 3")
    assert ".".join(unit) in check_code_units(walk.code_units)


def test_a_scheduler_that_has_not_loaded_it_gives_the_client_s_tokens(workspace: Workspace) -> None:
    load(workspace)
    client = LoadedCode.here()
    assert [one.name for one in client.extensions if one.name.endswith(".bent")] == ["DataArray.bent"]
    token = Fingerprinter().fingerprint(uses)
    load(workspace, "array * 2", "array * 3")
    edited, other = LoadedCode.here(), Fingerprinter().fingerprint(uses)
    assert other != token
    del xr.DataArray.bent
    for code, digest in ((client, token), (edited, other)):
        scheduler = Fingerprinter.from_settings(Settings(store="memory://"), taken=code.extensions)
        assert scheduler.fingerprint(uses) == digest
        assert code.differing(scheduler.code_units).isdisjoint({("xarray.core.dataarray", "DataArray.bent")})


def test_a_scheduler_with_another_one_is_told_apart(workspace: Workspace) -> None:
    load(workspace)
    client = LoadedCode.here()
    load(workspace, "array * 2", "array * 3")
    scheduler = Fingerprinter(taken=client.extensions)
    scheduler.fingerprint(uses)
    assert ("xarray.core.dataarray", "DataArray.bent") in client.differing(scheduler.code_units)


def test_what_the_client_has_not_does_not_count(workspace: Workspace) -> None:
    plain = fingerprint(uses)
    load(workspace)
    assert Fingerprinter(taken=()).fingerprint(uses).hex() == plain


def test_one_without_identity_makes_what_reads_it_uncacheable() -> None:
    taken = (TakenExtension("xarray", "DataArray.bent", b""),)
    with pytest.raises(UncacheableError, match=r"DataArray\.bent"):
        Fingerprinter(taken=taken).fingerprint(uses)


@pytest.mark.parametrize("kind", [xr.DataArray, xr.Dataset, pd.Series, da.Array])
@pytest.mark.parametrize("wrap", [lambda f: f, property, staticmethod, functools.cached_property])
def test_attributes_of_classes(kind: Any, wrap: Callable[[Any], Any]) -> None:
    kind.bent = wrap(lambda block: block * 2)
    one = fingerprint(uses)
    kind.bent = wrap(lambda block: block * 3)
    assert fingerprint(uses) != one


class AlwaysEqual:
    """A descriptor that claims to be whatever it is compared with."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.__func__ = function

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else self.__func__(instance)


def test_one_that_only_equals_what_was_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xr.DataArray, "bent", AlwaysEqual(lambda block: block * 2), raising=False)
    before = [one.value for one in find_extensions() if one.attribute == "bent"]
    other = AlwaysEqual(lambda block: block * 3)
    monkeypatch.setattr(xr.DataArray, "bent", other)
    (after,) = [one.value for one in find_extensions() if one.attribute == "bent"]
    assert len(before) == 1
    assert after is not before[0]


def test_the_same_function_under_another_name_is_another_extension() -> None:
    def half(self: Any) -> Any:
        return self / 2

    for name in ("half", "third"):
        setattr(xr.DataArray, name, half)
        assert [one.attribute for one in find_extensions() if one.value is half] == [name]
        delattr(xr.DataArray, name)
        setattr(xr.DataArray, f"{name}_again", half)  # in the same place among the class's names
        assert [one.attribute for one in find_extensions() if one.value is half] == [f"{name}_again"]
        delattr(xr.DataArray, f"{name}_again")


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_names_that_come_and_go_at_any_place(name: str) -> None:
    before = find_extensions()
    for kind in (xr.Variable, np.ma.MaskedArray):
        setattr(kind, name, lambda block: block)
        assert len(find_extensions()) == len(before) + 1
        delattr(kind, name)
        assert find_extensions() == before


def test_a_method_that_is_replaced_counts_and_the_library_s_own_does_not() -> None:
    assert not [one for one in find_extensions() if one.attribute == "mean"]
    plain = fingerprint(uses_nothing)
    xr.DataArray.mean = lambda self: self.sum()
    assert fingerprint(uses_nothing) != plain


def test_what_is_put_into_a_module() -> None:
    module: Any = np

    def calls(block: Any) -> Any:
        return module.sinc(block)

    seen = {fingerprint(calls)}
    for value in (
        lambda x: x * 2,
        lambda x: x * 3,
        functools.partial(lambda k, x: k * x, 2),
        functools.partial(lambda k, x: k * x, 3),
        np.vectorize(lambda x: x * 2),
        np.cos,
        np.exp,
        functools.reduce,
    ):
        module.sinc = value
        seen.add(fingerprint(calls))
    assert len(seen) == 9
    module.sinc = np.frompyfunc(lambda x: x * 2, 1, 1)
    with pytest.raises(UncacheableError):
        fingerprint(calls)


@pytest.mark.parametrize(
    "body",
    [
        "x.f.__doc__",
        "x.f.__annotations__",
        "x.f.__code__",
        "x.f.__qualname__",
        "x.__subclasses__()",
        "np.geterr()",
        "np.get_printoptions()",
        "xr.get_options()",
        "pd.get_option('mode.copy_on_write')",
        "pd.options.display.width",
        "dask.config.get('a.b')",
        "dask.config.config['a']",
        "decimal.getcontext().prec",
        "locale.localeconv()",
        "sys.modules['a']",
        "sys.modules.get('a')",
        "modules['a']",
        "inspect.signature(x)",
        "importlib.util.find_spec('a')",
        "importlib.metadata.version('a')",
    ],
)
def test_what_reads_the_process_or_what_does_not_count_is_refused(body: str) -> None:
    names = "import sys, dask, decimal, importlib.metadata, importlib.util, inspect, locale\nfrom sys import modules\n"
    space: dict[str, Any] = {"__name__": "__main__", "np": np, "xr": xr, "pd": pd}
    exec(f"{names}def f(x):\n    return {body}\n", space)
    with pytest.raises(UncacheableError, match=r"reads what says nothing|reads settings|code by name"):
        fingerprint(space["f"])


def test_what_sets_documentation_is_not_refused() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x):\n    def g(): pass\n    g.__doc__ = 'text'\n    return x\n", space)
    assert fingerprint(space["f"])


class Held(xr.Dataset):
    __slots__ = ("held",)


class HeldArray(xr.DataArray):
    __slots__ = ("held",)


@pytest.mark.parametrize("kind", [Held, HeldArray])
def test_attributes_of_a_subclass_of_xarray_s(kind: Any) -> None:
    seen = set()
    for value in (2, 3):
        obj = kind()
        obj.held = value
        seen.add(fingerprint(obj))
    assert len(seen | {fingerprint(kind())}) == 3


class Frame(pd.DataFrame):
    _metadata = ["unit"]  # noqa: RUF012


def test_attributes_of_tables() -> None:
    one, two = Frame({"a": [1.0]}), Frame({"a": [1.0]})
    one.unit, two.unit = "m", "km"
    assert fingerprint(one) != fingerprint(two)
    object.__setattr__(one, "_hidden", 1)
    plain = pd.DataFrame({"a": [1.0]})
    object.__setattr__(plain, "extra", 1)
    for table in (one, plain):
        with pytest.raises(UncacheableError, match="leaves it out"):
            fingerprint(table)

"""What users call has an example, where those who run the package's examples find it."""

from __future__ import annotations

import doctest
import sys

import pytest

import daskcache
from daskcache.accessor import CacheAccessor


def is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


EXPORTED = {
    name: value
    for name in daskcache.__all__
    if callable(value := getattr(daskcache, name)) and not is_exception(value)
}
METHODS = [name for name in vars(CacheAccessor) if not name.startswith("_")]


def executed(module: str, qualname: str) -> list[str]:
    """Give the statements that doctest runs for an object of a module."""
    found = doctest.DocTestFinder().find(sys.modules[module], module)
    return [
        example.source
        for test in found
        if test.name == f"{module}.{qualname}"
        for example in test.examples
        if not example.options.get(doctest.SKIP, False)
    ]


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_exported_has_an_example_that_calls_it(name: str) -> None:
    value = EXPORTED[name]
    program = "".join(executed(value.__module__, value.__qualname__))
    assert f"{value.__qualname__}(" in program, f"daskcache.{name} has no executed example"


@pytest.mark.parametrize("name", METHODS)
def test_what_the_accessor_has_has_an_example_that_uses_it(name: str) -> None:
    program = "".join(executed(CacheAccessor.__module__, f"CacheAccessor.{name}"))
    assert f".cache.{name}" in program, f"CacheAccessor.{name} has no executed example"


def test_both_are_looked_at() -> None:
    assert {"activate", "deactivate", "open", "persist"} <= EXPORTED.keys()
    assert {"checkpoint", "explain", "persist", "status", "token"} <= set(METHODS)

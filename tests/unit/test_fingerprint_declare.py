"""Declared identities stand for the code, for the function that declares them and no other."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint import fingerprint, fingerprint_as, version


def reads(declare: Callable[[Any], Any], body: int = 0) -> Any:
    if body:

        @declare
        def read(x: float) -> float:
            return float(open("offset").read()) + x + 1
    else:

        @declare
        def read(x: float) -> float:
            return float(open("offset").read()) + x

    return read


def test_a_version_stands_for_the_code() -> None:
    assert fingerprint(reads(version("1"))) == fingerprint(reads(version("1"), body=1))
    assert fingerprint(reads(version("1"))) != fingerprint(reads(version("2")))
    with pytest.raises(UncacheableError, match="declare the"):
        fingerprint(reads(lambda function: function))


def test_a_version_leaves_the_function_as_it_is() -> None:
    def double(x: int) -> int:
        return 2 * x

    assert version("1")(double) is double
    assert double(3) == 6


def test_other_functions_of_one_version_differ() -> None:
    @version("1")
    def one() -> None: ...

    @version("1")
    def two() -> None: ...

    assert fingerprint(one) != fingerprint(two)


def test_closures_and_defaults_still_count() -> None:
    def make(k: int, default: int = 0) -> Any:
        @version("1")
        def f(x: int, shift: int = default) -> int:
            return x * k + shift

        return f

    assert len({fingerprint(f) for f in (make(1), make(2), make(1, 1))}) == 3
    assert fingerprint(make(1)) == fingerprint(make(1))


def test_a_wrapper_does_not_inherit_the_version() -> None:
    def decorate(function: Any, add: int) -> Any:
        @functools.wraps(function)
        def wrapper(x: float) -> Any:
            return function(x) + add

        return wrapper

    read = reads(version("1"))
    assert len({fingerprint(f) for f in (read, decorate(read, 1), decorate(read, 2))}) == 3
    assert fingerprint(decorate(read, 1)) == fingerprint(decorate(reads(version("1"), body=1), 1))
    assert fingerprint(decorate(read, 1)) != fingerprint(decorate(reads(version("2")), 1))


def test_wrappers_that_differ_by_their_code_alone_differ() -> None:
    def first(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(x: float) -> Any:
            return function(x) + 1

        return wrapper

    def second(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(x: float) -> Any:
            return function(x) + 2

        return wrapper

    read = reads(version("1"))
    assert fingerprint(first(read)) != fingerprint(second(read))


def test_values_can_be_the_whole_identity() -> None:
    def make(k: int) -> Any:
        @fingerprint_as("regrid", [1, 2])
        def f(x: int) -> int:
            return x * k

        return f

    assert fingerprint(make(1)) == fingerprint(make(2))
    assert fingerprint(make(1)) != fingerprint(fingerprint_as("regrid", [1, 3])(lambda x: x))


def test_classes_can_be_declared_and_do_not_pass_it_on() -> None:
    def make(text: str) -> tuple[type, type]:
        @version("1")
        class Base:
            def read(self) -> str:
                return open(text).read()

        class Derived(Base):
            def value(self) -> str:
                return text

        return Base, Derived

    assert fingerprint(make("a")[0]) == fingerprint(make("b")[0])
    assert fingerprint(make("a")[0]()) == fingerprint(make("b")[0]())
    assert fingerprint(make("a")[1]) != fingerprint(make("b")[1])


def test_instances_can_be_declared() -> None:
    class Model:
        def __init__(self) -> None:
            self.handle = threading.local()

        def __call__(self, x: int) -> int:
            return x

    with pytest.raises(UncacheableError):
        fingerprint(Model())
    assert fingerprint(fingerprint_as("model", 1)(Model())) == fingerprint(
        fingerprint_as("model", 1)(Model())
    )


def test_a_declaration_travels() -> None:
    read = reads(version("1"))
    assert fingerprint(cloudpickle.loads(cloudpickle.dumps(read))) == fingerprint(read)


@pytest.mark.parametrize("declare", [lambda: version(2), lambda: fingerprint_as(), lambda: version("1")(len)])  # type: ignore[arg-type]
def test_wrong_use_is_refused(declare: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInputError):
        declare()

"""Instances of the user's classes that do not give pickle all that they hold, and values over cached properties."""

from __future__ import annotations

import copy
import functools
import pickle
import socket
import threading
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import pytest

import daskcache
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint


def digest(obj: object) -> bytes:
    return Fingerprinter().fingerprint(obj)


class Whole:
    """Gives pickle what Python does by itself."""

    def __init__(self, slope: float) -> None:
        self.slope = slope


class WithArguments:
    """Is made again by a call."""

    def __init__(self, slope: float) -> None:
        self.slope = slope
        self.table = [slope * number for number in range(3)]

    def __reduce__(self) -> Any:
        return WithArguments, (self.slope,)


class Dropping:
    """Keeps something to itself."""

    def __init__(self, slope: float) -> None:
        self.slope = slope
        self.cache: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"slope": self.slope}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state.pop("slope"))  # type: ignore[misc]

    def __call__(self, block: Any) -> Any:
        return block * self.slope + self.cache.get("offset", 0)


class Slotted:
    __slots__ = ("hidden", "slope")

    def __init__(self, slope: float, hidden: float = 1) -> None:
        self.slope, self.hidden = slope, hidden

    def __reduce__(self) -> Any:
        return Slotted, (self.slope,)


class Stateful:
    """Gives pickle something else than its attributes, from which they follow."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __getstate__(self) -> tuple[float, str]:
        return self.slope, "more"

    def __setstate__(self, state: tuple[float, str]) -> None:
        self.slope = state[0]


class Listing(list[Any]):
    def __init__(self, *items: Any) -> None:
        super().__init__(items)
        self.label = "a"

    def __reduce__(self) -> Any:
        return Listing, (), None, iter(self)


@pytest.mark.parametrize("kind", [Whole, WithArguments, Dropping, Slotted, Stateful, Listing])
def test_what_survives_pickle_has_an_identity_that_does_too(kind: Callable[[float], Any]) -> None:
    assert digest(kind(2.0)) == digest(kind(2.0)) == digest(copy.deepcopy(kind(2.0)))
    assert digest(pickle.loads(pickle.dumps(kind(2.0)))) == digest(kind(2.0))
    assert digest(kind(2.0)) != digest(kind(3.0))


def test_looking_changes_nothing() -> None:
    model, listing = Dropping(2.0), Listing(1, 2)
    digest(model)
    digest(listing)
    assert model.slope == 2.0
    assert list(listing) == [1, 2]
    assert listing.label == "a"


CHANGES: dict[str, Callable[[], Any]] = {
    "table": lambda: _set(WithArguments(2.0), "table", [9.0]),
    "cache": lambda: _set(Dropping(2.0), "cache", {"offset": 5}),
    "hidden": lambda: Slotted(2.0, hidden=7),
    "label": lambda: _set(Listing(1), "label", "b"),
    "more": lambda: _set(WithArguments(2.0), "more", 1),
}


def _set(obj: Any, name: str, value: Any) -> Any:
    setattr(obj, name, value)
    return obj


@pytest.mark.parametrize("name", CHANGES)
def test_what_pickle_would_lose_has_no_identity(name: str) -> None:
    with pytest.raises(
        UncacheableError, match=rf"^attribute {name} → .* leaves it out of what it gives to pickle"
    ):
        digest(CHANGES[name]())


def test_the_way_to_it() -> None:
    model = Dropping(2.0)
    with socket.socket() as session:
        model.session = session
        x = da.ones(4, chunks=2).map_blocks(lambda block, model: model(block), model, dtype="f8")
        with pytest.raises(
            UncacheableError, match=r"argument 2 → attribute session → <class 'socket.socket'>"
        ):
            daskcache.token(x)


def test_one_that_holds_itself() -> None:
    model = Dropping(2.0)
    model.cache["me"] = model
    with pytest.raises(UncacheableError, match=r"is part of an attribute that it leaves out|leaves it out"):
        digest(model)


def test_one_that_cannot_be_made_again() -> None:
    class Broken(Dropping):
        def __setstate__(self, state: dict[str, Any]) -> None:
            raise ValueError("broken on purpose")

    with pytest.raises(UncacheableError, match=r"cannot be made again .*broken on purpose"):
        digest(Broken(2.0))


def test_a_declared_identity_counts_alone() -> None:
    class Declared(Dropping):
        def __daskcache_fingerprint__(self) -> Any:
            return self.slope, self.cache

    model = Declared(2.0)
    before = digest(model)
    model.session = threading.local()
    assert digest(model) == before
    model.cache["offset"] = 5
    assert digest(model) != before


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_agree_on_what_is_stored(scheduler: str) -> None:
    """Threads compute with the object, processes with what pickle makes of it."""

    def build(model: Dropping) -> da.Array:
        return da.ones(4, chunks=2).map_blocks(model, dtype="f8")

    with dask.config.set({"scheduler": scheduler, "num_workers": 1, "multiprocessing.context": "fork"}):
        assert (daskcache.persist(build(Dropping(2.0)), "kept").compute() == 2).all()
        changed = Dropping(2.0)
        changed.cache["offset"] = 5
        with pytest.raises(UncacheableError, match="attribute cache"):
            daskcache.persist(build(changed), "changed")
        with dask.config.set({"daskcache.on-uncacheable": "ignore"}), daskcache.activate():
            result = daskcache.checkpoint(build(changed), "changed").compute()
        assert (result == (7 if scheduler == "threads" else 2)).all()


# Cached properties


class Computing:
    def __init__(self, size: int) -> None:
        self.size = size

    @functools.cached_property
    def table(self) -> list[int]:
        return list(range(self.size))


class Assigning(Computing):
    def use(self, table: list[int]) -> Assigning:
        self.table = table
        return self


def test_a_computed_value_does_not_count() -> None:
    used = Computing(3)
    assert used.table == [0, 1, 2]
    assert fingerprint(used) == fingerprint(Computing(3))


def test_a_value_that_the_class_assigns_counts() -> None:
    assert digest(Assigning(3).use([7])) != digest(Assigning(3).use([8]))
    assert digest(Assigning(3).use([7])) == digest(Assigning(3).use([7]))
    assert digest(Assigning(3)) == digest(Assigning(3))
    assert digest(Assigning(3)) != digest(Assigning(3).use([7]))

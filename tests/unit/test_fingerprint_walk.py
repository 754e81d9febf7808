"""What has no identity, what goes round in circles, what is looked at once, and what a user says of a type."""

from __future__ import annotations

import copy
import gc
import io
import pathlib
import socket
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daskcache.config import Settings
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint import Fingerprinter, arrays, fingerprint, register
from tests.unit.test_fingerprint_objects import DATASET, Options, double
from tests.workspace import Workspace


def generate() -> Iterator[int]:
    yield 1


class Broken:
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> Any:
        raise RuntimeError("out of order")


class Session:
    def __init__(self) -> None:
        self.settings = {"inner": [1, threading.local()]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (object, "bare object"),
        (generate, "once"),
        (lambda: iter([1]), "once"),
        (lambda: map(len, []), "once"),
        (lambda: np.nditer(np.arange(3)), "once"),
        (lambda: io.BytesIO(b"a"), "once"),
        (threading.local, "threading|_thread"),
        (Broken, "out of order"),
        (lambda: sys._getframe(), "frame"),
        (lambda: np.frompyfunc(double, 1, 1), "ufunc"),
    ],
)  # fmt: skip
def test_what_has_no_identity_says_so(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UncacheableError, match=message):
        fingerprint(make())


def test_open_things_are_uncacheable(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(UncacheableError, match="TextIOWrapper"):
        fingerprint(file)
    with socket.socket() as opened, pytest.raises(UncacheableError, match=r"socket\.socket"):
        fingerprint({"connection": opened})


def test_the_path_leads_to_the_part() -> None:
    with pytest.raises(UncacheableError) as caught:
        fingerprint([0, (Session(),)])
    assert caught.value.path == ("item 1", "item 0", "attribute settings", "value of key 'inner'", "item 1")
    assert "_thread._local" in str(caught.value)


def test_an_object_that_breaks_when_looked_at_is_uncacheable() -> None:
    class Hostile(pd.Series):
        @property
        def array(self) -> Any:
            raise ZeroDivisionError("no")

    with pytest.raises(UncacheableError, match="ZeroDivisionError"):
        fingerprint(Hostile([1]))


def test_cycles_in_data_end_and_count() -> None:
    def cycle(value: object) -> list[object]:
        outer: list[object] = [value]
        outer.append({"inner": (outer,)})
        return outer

    assert fingerprint(cycle(1)) == fingerprint(cycle(1))
    assert fingerprint(cycle(1)) != fingerprint(cycle(2))
    node = types.SimpleNamespace(name="a")
    node.parent = node
    assert fingerprint(node) == fingerprint(copy.deepcopy(node))


def test_deep_nesting_does_not_overflow() -> None:
    deep: list[object] = []
    shallow: list[object] = []
    for _ in range(50_000):
        deep, shallow = [deep], [shallow]
    assert fingerprint(deep) == fingerprint(shallow)
    assert fingerprint([deep]) != fingerprint(deep)
    while deep:
        deep = deep.pop()  # type: ignore[assignment]  # freed one by one: the interpreter's stack is not ours
    while shallow:
        shallow = shallow.pop()  # type: ignore[assignment]


def test_an_object_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def __daskcache_fingerprint__(self) -> object:
            return Endless()

    monkeypatch.setattr("daskcache.fingerprint.walk.MAX_DEPTH", 1000)
    with pytest.raises(UncacheableError, match="nests deeper"):
        fingerprint(Endless())


def test_parts_that_are_made_on_the_way_are_not_confused() -> None:
    """An id that is free again belongs to another object."""

    class Fresh:
        def __init__(self, value: int) -> None:
            self.value = value

        def __daskcache_fingerprint__(self) -> object:
            return [[self.value]], {"v": [self.value]}

    walk = Fingerprinter()
    digests = set()
    for value in range(500):
        digests.add(walk.fingerprint(Fresh(value)))
        gc.collect(0)
    assert len(digests) == 500


def test_memory_is_by_identity_for_one_pass_only() -> None:
    array = np.arange(5)
    walk = Fingerprinter()
    before = walk.fingerprint(array)
    array[0] = 7
    assert walk.fingerprint(array) == before
    assert Fingerprinter().fingerprint(array) != before


def test_a_large_array_is_hashed_once_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros(1 << 22)
    hashed: list[tuple[int, bool]] = []
    hashing = arrays.hash_leaf

    def noting(leaf: Any) -> bytes:
        piece = np.frombuffer(leaf, "u1")
        hashed.append((piece.nbytes, np.shares_memory(piece, array)))
        return hashing(leaf)

    monkeypatch.setattr(arrays, "hash_leaf", noting)
    walk = Fingerprinter()
    assert len({walk.fingerprint([array, array]), walk.fingerprint((array,)), walk.fingerprint(array)}) == 3
    assert sum(size_bytes for size_bytes, _ in hashed) == array.nbytes
    assert all(is_shared for _, is_shared in hashed)


def test_the_protocol_counts_with_the_type() -> None:
    class One:
        def __daskcache_fingerprint__(self) -> object:
            return "same"

    class Two:
        def __daskcache_fingerprint__(self) -> object:
            return "same"

    assert fingerprint(One()) == fingerprint(One())
    assert fingerprint(One()) != fingerprint(Two())


def test_registered_types(monkeypatch: pytest.MonkeyPatch) -> None:
    from daskcache.fingerprint import rules

    monkeypatch.setattr(rules, "_by_type", {})
    monkeypatch.setattr(rules, "_by_name", {})

    class Handle:
        def __init__(self, name: str) -> None:
            self.name, self.connection = name, threading.local()

    class Special(Handle):
        pass

    with pytest.raises(UncacheableError):
        fingerprint(Handle("a"))
    register(Handle, lambda handle: handle.name)
    assert fingerprint(Handle("a")) == fingerprint(Handle("a"))
    assert len({fingerprint(handle) for handle in (Handle("a"), Handle("b"), Special("a"))}) == 3
    register("threading.local", lambda _: None)
    register("_thread._local", lambda _: None)
    assert len(fingerprint(threading.local())) == 40
    for bad in ("local", 3):
        with pytest.raises(InvalidInputError):
            register(bad)  # type: ignore[arg-type]


def test_a_type_is_registered_by_name_before_it_is_imported(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a library that a process may never import, and for the subclasses that it has or the user makes."""
    from daskcache.fingerprint import rules

    monkeypatch.setattr(rules, "_by_name", {})
    source = """
        import threading

        class Probe:
            def __init__(self, depth):
                self.depth, self.session = depth, threading.local()

        class Deep(Probe):
            pass
    """
    register("probes_of_a_library.Probe", lambda probe: probe.depth)
    assert "probes_of_a_library" not in sys.modules
    workspace.write({"probes_of_a_library.py": source})
    module = workspace.load("probes_of_a_library")

    class Mine(module.Probe):  # type: ignore[misc, name-defined]
        pass

    def make() -> list[Any]:
        return [module.Probe(1), module.Probe(2), module.Deep(1), Mine(1)]

    found = [fingerprint(probe) for probe in make()]
    assert len(set(found)) == len(found)
    assert found == [fingerprint(probe) for probe in make()]


def test_containers_are_merkle_nodes() -> None:
    walk = Fingerprinter(salt="s")
    parts = [walk.fingerprint(value) for value in (1, "a", [2.5])]
    assert walk.fingerprint([1, "a", [2.5]]) == walk.combine(b"list", parts)
    assert walk.fingerprint((1, "a", [2.5])) == walk.combine(b"tuple", parts)
    assert walk.fingerprint({1, "a"}) == walk.combine(b"set", sorted(parts[:2]))
    pairs = [(walk.fingerprint(key), part) for key, part in ((3, parts[2]), ("k", parts[0]))]
    # In the dict's own order.
    for order in (pairs, pairs[::-1]):
        mapping = {3: [2.5], "k": 1} if order is pairs else {"k": 1, 3: [2.5]}
        assert walk.fingerprint(mapping) == walk.combine(b"dict", [part for pair in order for part in pair])


def test_what_is_plain_agrees_however_deep_it_lies() -> None:
    """Small containers take a short cut, which must lead to the same place."""
    plain = {"a": (1, [2.5, (None, "x")], slice(0, 3)), 4: [b"y", ...]}

    walk = Fingerprinter()
    short = walk.fingerprint(plain)
    walk.leaves = {kind: leaf for kind, leaf in walk.leaves.items() if kind not in {list, tuple, dict, slice}}
    assert walk.fingerprint(plain) == short


def test_salt_and_settings() -> None:
    settings = Settings.from_config(salt="mine", code_versions="minor")
    walk = Fingerprinter.from_settings(settings)
    assert walk.fingerprint(1) == Fingerprinter(salt="mine").fingerprint(1) != Fingerprinter().fingerprint(1)
    assert walk.code_versions == "minor"
    assert fingerprint(1, salt="mine") == walk.fingerprint(1).hex()


def test_dask_collections_go_to_the_hook() -> None:
    import dask.array as da

    held = Options(1, [da.zeros(3)])  # type: ignore[list-item]
    with pytest.raises(UncacheableError, match="dask collection"):
        fingerprint(held)
    walk = Fingerprinter()
    walk.dask_collection = lambda collection: b"c" * 20
    assert len(walk.fingerprint(held)) == 20
    chunked = DATASET.chunk()
    assert walk.fingerprint(chunked) != Fingerprinter().fingerprint(DATASET)


def test_regions_of_arrays() -> None:
    array = np.arange(12).reshape(3, 4)
    walk = Fingerprinter()
    index = (slice(1, 3), slice(None))
    assert walk.source_region(array, index) == walk.fingerprint(array[index])
    assert walk.source_region([1, 2], (slice(0, 1),)) is None

    class Stored:
        def __daskcache_region__(self, index: object, fingerprinter: Fingerprinter) -> bytes:
            return fingerprinter.combine(b"stored", [fingerprinter.fingerprint(index)])

    assert walk.source_region(Stored(), (1,)) == walk.combine(b"stored", [walk.fingerprint((1,))])
    assert walk.fingerprint(Stored()) == walk.combine(b"stored", [walk.fingerprint(())])

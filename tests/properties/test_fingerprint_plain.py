"""Equal values have equal fingerprints, and different ones different, over nested containers of plain values."""

from __future__ import annotations

import copy
import math
import pickle
import struct
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from daskcache.fingerprint import Fingerprinter, fingerprint

hashable_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()
)
# Few values, so that equal ones meet.
small_scalars = st.sampled_from(
    [0, 1, 0.0, -0.0, 1.0, True, False, "", "a", "1", b"", b"a", None, -1, math.nan, 1j, 0j]
)
scalars = st.one_of(small_scalars, hashable_scalars)


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(
        small_scalars, st.tuples(small_scalars, small_scalars), st.frozensets(small_scalars, max_size=3)
    )
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(keys, children, max_size=4),
        st.frozensets(keys, max_size=3),
        st.frozensets(keys, max_size=3).map(set),
        st.builds(slice, small_scalars, small_scalars, small_scalars),
    )


values = st.recursive(scalars, containers, max_leaves=12)


def canonical(value: Any) -> Any:
    """Say what a value is in a way that ``==`` compares exactly: types, signs and payloads included."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, struct.pack("<d", value)
    if isinstance(value, complex):
        return kind, struct.pack("<dd", value.real, value.imag)
    if isinstance(value, list | tuple):
        return kind, tuple(canonical(item) for item in value)
    if isinstance(value, slice):
        return kind, tuple(canonical(item) for item in (value.start, value.stop, value.step))
    if isinstance(value, set | frozenset):
        return kind, tuple(sorted((canonical(item) for item in value), key=repr))
    if isinstance(value, dict):
        return kind, tuple((canonical(k), canonical(v)) for k, v in value.items())
    return kind, value


@given(values, values)
def test_fingerprints_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (canonical(one) == canonical(other))


@given(st.lists(values, min_size=2, max_size=6))
def test_one_pass_agrees_with_many(items: list[Any]) -> None:
    walk = Fingerprinter()
    assert [walk.fingerprint(item).hex() for item in items] == [fingerprint(item) for item in items]
    assert walk.fingerprint(items) == Fingerprinter().combine(
        b"list", [walk.fingerprint(item) for item in items]
    )


@given(values)
def test_copies_are_the_same(value: Any) -> None:
    assert fingerprint(copy.deepcopy(value)) == fingerprint(value)
    assert fingerprint(pickle.loads(pickle.dumps(value))) == fingerprint(value)


@given(st.dictionaries(st.text(max_size=2), values, max_size=6), st.randoms())
def test_the_order_of_a_dict_counts(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert (fingerprint(dict(items)) == fingerprint(value)) == ([key for key, _ in items] == list(value))


@given(st.lists(values, min_size=2, max_size=5), st.randoms())
def test_the_order_of_a_list_counts(items: list[Any], random: Any) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    assume([canonical(item) for item in shuffled] != [canonical(item) for item in items])
    assert fingerprint(shuffled) != fingerprint(items)


@given(st.lists(values, max_size=4), st.integers(0, 4))
def test_nesting_counts(items: list[Any], at: int) -> None:
    assert fingerprint([items]) != fingerprint(items)
    assert fingerprint([*items[:at], [], *items[at:]]) != fingerprint(items)


dtypes = st.one_of(
    arrays.integer_dtypes(endianness="?"), arrays.floating_dtypes(endianness="?"), arrays.boolean_dtypes(),
    arrays.complex_number_dtypes(), arrays.datetime64_dtypes(endianness="="), arrays.unicode_string_dtypes(max_len=3),
    arrays.array_dtypes(),
)  # fmt: skip
some_arrays = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4))


@given(some_arrays, st.data())
def test_an_array_is_its_dtype_shape_and_bytes(array: np.ndarray, data: st.DataObject) -> None:
    digest = fingerprint(array)
    assert fingerprint(array.copy(order="F")) == digest
    assert fingerprint(np.array(array, order="C", copy=True)) == digest
    doubled = np.repeat(array, 2, axis=-1) if array.ndim else array
    assert fingerprint(doubled[..., ::2] if array.ndim else doubled) == digest
    if array.size and array.dtype.names is None:
        position = data.draw(st.integers(0, array.nbytes - 1))
        raw = np.frombuffer(array.tobytes(), "u1").copy()
        raw[position] ^= 1 << data.draw(st.integers(0, 7))
        changed = raw.view(array.dtype).reshape(array.shape)
        if array.dtype.char not in "gG":
            assert fingerprint(changed) != digest
    assert fingerprint(array.reshape(*array.shape, 1)) != digest


@given(arrays.arrays(st.sampled_from(["f8", "i4"]), (6, 5)), st.data())
def test_a_region_is_what_it_holds(array: np.ndarray, data: st.DataObject) -> None:
    index = data.draw(arrays.basic_indices(array.shape, allow_newaxis=False, allow_ellipsis=False))
    index = index if isinstance(index, tuple) else (index,)
    walk = Fingerprinter()
    assert walk.source_region(array, index) == walk.fingerprint(np.asarray(array)[index])
    apart = np.array(array[index])[()] if np.ndim(array[index]) == 0 else np.array(array[index])
    assert walk.source_region(array, index) == Fingerprinter().fingerprint(apart)


@given(
    st.recursive(st.integers(0, 3), lambda inner: st.lists(inner, max_size=3), max_leaves=8),
    st.integers(0, 5),
)
def test_cyclic_data_is_the_same_from_every_entry(items: Any, entry: int) -> None:
    ring: list[list[Any]] = [[at % 2, items] for at in range(5)]
    for at, node in enumerate(ring):
        node.append(ring[(at + 1) % len(ring)])
    alone = [fingerprint(node) for node in ring]
    walk = Fingerprinter()
    start = entry % len(ring)
    together = [walk.fingerprint(ring[(start + at) % len(ring)]).hex() for at in range(len(ring))]
    assert together == [alone[(start + at) % len(ring)] for at in range(len(ring))]
    assert len(set(alone)) == len(ring)

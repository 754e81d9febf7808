"""The law of attributes: what goes in comes out, of the same type and to the bit."""

import json
import struct
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from daskcache.attributes import canonical_json, decode_attribute, encode_attribute, simplify_attribute
from daskcache.errors import InvalidInputError, UncacheableError

arrays = npst.arrays(
    dtype=st.one_of(
        npst.boolean_dtypes(),
        npst.integer_dtypes(endianness="?"),
        npst.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        npst.complex_number_dtypes(endianness="?", sizes=(64, 128)),
        npst.datetime64_dtypes(endianness="?"),
        npst.timedelta64_dtypes(endianness="?"),
        npst.unicode_string_dtypes(endianness="?"),
        npst.byte_string_dtypes(),
    ),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.complex_numbers(),
    st.text(st.characters()),
    st.binary(),
    st.datetimes(),
    st.dates(),
    st.timedeltas(),
    st.text().map(np.str_),
    st.binary().map(np.bytes_),
    arrays.filter(lambda array: array.size and array.dtype.kind not in "US").map(lambda array: array.flat[0]),
)
values = st.recursive(
    st.one_of(scalars, arrays),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.just("!"), st.integers()), children, max_size=3),
    ),
    max_leaves=8,
)


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        assert_same(list(left.keys()), list(right.keys()))
        assert_same(list(left.values()), list(right.values()))
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    elif isinstance(left, np.ndarray) and left.dtype.kind in "OT":
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert_same(left.ravel().tolist(), right.ravel().tolist())
    elif isinstance(left, np.ndarray | np.generic) and not isinstance(left, np.str_ | np.bytes_):
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    elif isinstance(left, complex) and not isinstance(left, np.generic):
        assert_same([left.real, left.imag], [right.real, right.imag])
    elif type(left) is float:
        assert struct.pack(">d", left) == struct.pack(">d", right)
    else:
        assert left == right


def through_json(value: Any) -> Any:
    return decode_attribute(json.loads(canonical_json(encode_attribute(value))))


def in_order(value: Any) -> Any:
    return decode_attribute(json.loads(json.dumps(encode_attribute(value), allow_nan=False)))


@given(values)
def test_round_trip(value: Any) -> None:
    assert_same(in_order(value), value)


@given(values)
def test_simple_form_is_json(value: Any) -> None:
    json.loads(json.dumps(simplify_attribute(value)))


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", None, 1.5, b"x"], "O"),
        np.array(["a\0", ""], "T"),
        np.void(b"ab"),
        np.str_("a\0"),
        np.bytes_(b"a\0"),
        struct.unpack(">d", bytes.fromhex("7ff8000000000abc"))[0],
        -0.0,
        10**30,
        "\ud800 lone",
        datetime(2000, 1, 1, fold=1),
        date(1, 1, 1),
        timedelta(-1, 2, 3),
        {"!": "float"},
        {1: (2,), (3,): [4]},
    ],
    ids=repr,
)
def test_round_trip_of(value: Any) -> None:
    assert_same(in_order(value), value)
    assert_same(through_json(value), value)


def test_equal_values_of_other_types_have_other_json() -> None:
    alike = [
        1,
        1.0,
        True,
        np.int64(1),
        np.int32(1),
        np.float64(1),
        np.array(1),
        np.array([1]),
        [1],
        (1,),
        "1",
        b"1",
    ]
    assert len({canonical_json(encode_attribute(value)) for value in alike}) == len(alike)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        range(3),
        np.ma.masked_array([1]),
        np.dtype("f4"),
        json.dumps,
        np.longdouble(1),
        np.zeros(1, "i1,f8"),
    ],
)
def test_refuses_other_types(value: Any) -> None:
    with pytest.raises(UncacheableError, match="has no JSON form; convert it to") as caught:
        encode_attribute({"a": [0, value]})
    assert caught.value.path == ("'a'", "[1]")


@pytest.mark.parametrize(
    "document",
    [
        {"!": "os.system"},
        {"!": ["float"]},
        {"!": "float", "bits": "zz"},
        {"!": "float"},
        {"!": "tuple", "items": 3},
        {"!": "dict", "items": [[[], 1]]},
        {"!": "array", "dtype": "<f8", "shape": [2], "data": "AAAA"},
        {"!": "array", "dtype": "O", "shape": [2], "values": [1]},
        {"!": "array", "dtype": "|O", "shape": [1], "data": "AAAAAAAAAAA="},
        {
            "!": "array",
            "dtype": {"names": ["a"], "formats": ["O"], "offsets": [0], "itemsize": 8},
            "shape": [1],
            "data": "AAAAAAAAAAA=",
        },
        {"!": "array", "dtype": "nonsense", "shape": [], "data": ""},
        {"!": "str_", "value": 3},
        {"!": "datetime", "text": "yesterday", "fold": 0},
        {"!": "bytes", "data": "?"},
    ],
    ids=repr,
)
def test_refuses_nonsense(document: Any) -> None:
    with pytest.raises(InvalidInputError, match="tagged"):
        decode_attribute(document)


def test_simple_form() -> None:
    value = {
        "scalar": np.float32(0.5),
        "array": np.array([[1, 2]], "i1"),
        "bytes": b"K\xff",
        "tuple": (1, 2),
        "complex": 1 + 2j,
        "day": np.datetime64("2000-01-01"),
        "span": np.array([1, 2], "m8[s]"),
        "when": datetime(2000, 1, 1),
        "nested": {"a": np.str_("b"), 1: None},
    }
    assert simplify_attribute(value) == {
        "scalar": 0.5,
        "array": [[1, 2]],
        "bytes": "K\\xff",
        "tuple": [1, 2],
        "complex": [1.0, 2.0],
        "day": "2000-01-01",
        "span": [1, 2],
        "when": "2000-01-01T00:00:00",
        "nested": {"a": "b", "1": None},
    }

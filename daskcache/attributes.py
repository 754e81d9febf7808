"""Attributes as JSON: exactly, types included, for our own reader; simply, for every other.

Nothing here runs code out of a document: a tag names one of the few types below, never a class to import.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from daskcache.errors import InvalidInputError, UncacheableError

__all__ = ["canonical_json", "decode_attribute", "encode_attribute", "simplify_attribute"]

TAG = "!"
"""The member that tells a tagged value from an ordinary JSON object."""


def encode_attribute(value: Any) -> Any:
    """Turn a value into JSON from which `decode_attribute` gives an identical one, of the same type.

    Parameters
    ----------
    value : object
        A plain Python value, a list, tuple or dict of such, a numpy scalar or array, or a naive datetime,
        date or timedelta. Of a subclass of Python's numbers, texts and containers, such as an OrderedDict or an
        IntEnum, the plain value is kept, as JSON does.

    Returns
    -------
    object
        What `json.dumps` takes, ``allow_nan=False`` included.

    Raises
    ------
    UncacheableError
        A value of another type, with the way to it; convert it to one of those named.

    Examples
    --------
    >>> encode_attribute({"units": "K", "range": (0.0, float("inf"))})
    {'units': 'K', 'range': {'!': 'tuple', 'items': [0.0, {'!': 'float', 'bits': '7ff0000000000000'}]}}
    """
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "bits": _float_bits(value)}
    if kind is list:
        return [_encode_within(item, f"[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        return _encode_dict(value)
    if kind is tuple:
        return {TAG: "tuple", "items": [_encode_within(item, f"[{i}]") for i, item in enumerate(value)]}
    if kind is np.ndarray:
        return _encode_array(value)
    if kind is np.str_ or kind is np.bytes_:
        # Not as arrays, which drop trailing NULs.
        return {
            TAG: kind.__name__,
            "value": encode_attribute("".join(value) if kind is np.str_ else bytes(value)),
        }
    if isinstance(value, np.generic) and kind.__module__ == "numpy":
        return {**_encode_array(np.asarray(value)), TAG: "scalar"}
    plain = next((base for base in _PLAIN if isinstance(value, base) and kind is not base), None)
    if plain is not None:
        return encode_attribute(_PLAIN[plain](value))
    encode = _ENCODERS.get(kind)
    if encode is None or getattr(value, "tzinfo", None) is not None:
        raise UncacheableError(
            f"a value of type {kind.__module__}.{kind.__qualname__} has no JSON form; convert it to a string, "
            "a number, a numpy array, or a list or dict of those"
        )
    return encode(value)


def decode_attribute(document: Any) -> Any:
    """Give back the value that `encode_attribute` was given.

    Parameters
    ----------
    document : object
        Parsed JSON.

    Returns
    -------
    object
        The value; arrays are writable and in C order.

    Raises
    ------
    InvalidInputError
        A tag is unknown, or what it tags is not of its form.

    Examples
    --------
    >>> decode_attribute(encode_attribute(np.float32(0.1)))
    np.float32(0.1)
    """
    if isinstance(document, list):
        return [decode_attribute(item) for item in document]
    if not isinstance(document, dict):
        return document
    if TAG not in document:
        return {key: decode_attribute(item) for key, item in document.items()}
    tag = document[TAG]
    decode = _DECODERS.get(tag) if isinstance(tag, str) else None
    if decode is None:
        raise InvalidInputError(f"an attribute is tagged {tag!r}; expected one of {', '.join(_DECODERS)}")
    try:
        return decode(document)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        SyntaxError,
        OverflowError,
        struct.error,
    ) as error:
        raise InvalidInputError(f"an attribute tagged {tag!r} is malformed: {error}") from error


def simplify_attribute(value: Any) -> Any:
    """Turn a value into the JSON that other readers of Zarr expect; not always back again.

    Parameters
    ----------
    value : object
        What `encode_attribute` takes.

    Returns
    -------
    object
        Numbers, strings, lists and objects. As in xarray's own Zarr documents NaN and infinities stay
        numbers, which Python reads and strict JSON does not know.

    Examples
    --------
    >>> simplify_attribute({"flags": np.array([1, 2], "i1"), "day": np.datetime64("2000-01-01")})
    {'flags': [1, 2], 'day': '2000-01-01'}
    """
    if isinstance(value, np.generic | np.ndarray):
        if value.dtype.kind in "Mm":
            return value.astype("U" if value.dtype.kind == "M" else "i8").tolist()
        return simplify_attribute(value.tolist())
    if isinstance(value, list | tuple):
        return [simplify_attribute(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): simplify_attribute(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def canonical_json(document: Any) -> bytes:
    """Write JSON so that equal documents have equal bytes, whatever the order of their members.

    Parameters
    ----------
    document : object
        What `encode_attribute` gave, or alike.

    Returns
    -------
    bytes
        ASCII.

    Examples
    --------
    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _encode_within(value: Any, step: str) -> Any:
    try:
        return encode_attribute(value)
    except UncacheableError as error:
        raise error.within(step) from None


def _encode_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if TAG not in value and all(type(key) is str for key in value):
        return {key: _encode_within(item, repr(key)) for key, item in value.items()}
    items = [[_encode_within(key, "a key"), _encode_within(item, repr(key))] for key, item in value.items()]
    return {TAG: "dict", "items": items}


def _encode_array(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    dtype = value.dtype
    head = {TAG: "array", "shape": list(value.shape)}
    if dtype.kind == "O" or (dtype.kind == "T" and not hasattr(dtype, "na_object")):
        values = [_encode_within(item, f"[{i}]") for i, item in enumerate(value.ravel().tolist())]
        return {**head, "dtype": dtype.kind, "values": values}
    # Structured dtypes and extended precision have padding, whose bytes differ from run to run.
    if dtype.kind == "T" or dtype.names or dtype.char in "gG":
        raise UncacheableError(f"an array of dtype {dtype} has no JSON form; convert it to a simple dtype")
    return {**head, "dtype": dtype.str, "data": base64.b64encode(value.tobytes()).decode("ascii")}


def _decode_array(document: dict[str, Any]) -> np.ndarray[Any, Any]:
    shape = tuple(int(length) for length in document["shape"])
    if document["dtype"] in ("O", "T"):
        array = np.empty(math.prod(shape), "O")
        values = document["values"]
        if len(values) != len(array):
            raise ValueError(f"{len(values)} values for the shape {shape}")
        for i, item in enumerate(values):
            array[i] = decode_attribute(item)
        array = array.reshape(shape)
        return array if document["dtype"] == "O" else array.astype("T")
    dtype: np.dtype[Any] = np.dtype(_of_type(str, document["dtype"]))
    if dtype.hasobject or dtype.names:
        raise ValueError(f"the dtype is {dtype}")
    data = base64.b64decode(document["data"], validate=True)
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _decode_scalar(document: dict[str, Any]) -> Any:
    return _decode_array({**document, "shape": []})[()]


def _of_type(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _float_bits(value: float) -> str:
    # The bits, because a NaN's payload has no other text.
    return struct.pack(">d", value).hex()


def _floats(text: str) -> tuple[float, ...]:
    data = bytes.fromhex(text)
    return struct.unpack(f">{len(data) // 8}d", data)


# How a value of a subclass becomes one of the type itself, whatever the subclass makes of conversions.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: b"".join([memoryview(value)]),
    dict: lambda value: dict(value.items()),
    list: lambda value: list(value),
    tuple: lambda value: tuple(value),
}

_ENCODERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    bytes: lambda value: {TAG: "bytes", "data": base64.b64encode(value).decode("ascii")},
    complex: lambda value: {TAG: "complex", "bits": _float_bits(value.real) + _float_bits(value.imag)},
    datetime: lambda value: {TAG: "datetime", "text": value.isoformat(), "fold": value.fold},
    date: lambda value: {TAG: "date", "text": value.isoformat()},
    timedelta: lambda value: {TAG: "timedelta", "parts": [value.days, value.seconds, value.microseconds]},
}

_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "float": lambda document: _floats(document["bits"])[0],
    "complex": lambda document: complex(*_floats(document["bits"])),
    "tuple": lambda document: tuple(decode_attribute(item) for item in document["items"]),
    "dict": lambda document: {
        decode_attribute(key): decode_attribute(item) for key, item in document["items"]
    },
    "array": _decode_array,
    "scalar": _decode_scalar,
    "str_": lambda document: np.str_(_of_type(str, decode_attribute(document["value"]))),
    "bytes_": lambda document: np.bytes_(_of_type(bytes, decode_attribute(document["value"]))),
    "bytes": lambda document: base64.b64decode(document["data"], validate=True),
    "datetime": lambda document: datetime.fromisoformat(document["text"]).replace(fold=document["fold"]),
    "date": lambda document: date.fromisoformat(document["text"]),
    "timedelta": lambda document: timedelta(*document["parts"]),
}

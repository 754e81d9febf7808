"""Plain values as JSON, with their types: texts, numbers, dates, containers, enumerations and dataclasses.

Nothing here runs code out of a document: a class is looked up among the modules that this process has imported
already, its instances are made without calling it, and it has to be of the kind that the document says.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

import numpy as np

from daskcache.attributes import TAG, canonical_json, decode_attribute, encode_attribute
from daskcache.errors import InvalidInputError, NotStoredError, UncacheableError
from daskcache.formats.base import Encoded, Format, add_format

__all__ = ["decode_value", "encode_value"]

_LEAVES = (str, bool, int, float, complex, bytes, date, datetime, timedelta, np.ndarray, np.str_, np.bytes_)
_EXACT = frozenset([*_LEAVES, type(None)])
# Of what contains others, how each is written as a list and made again of one.
_SEQUENCES: dict[type, Callable[[list[Any]], Any]] = {
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    bytearray: bytearray,
}


Hold = Callable[[Any], int | None]
"""Takes what is no JSON, and gives the number under which it is kept; None for what it leaves to JSON."""


def _hold_nothing(value: Any) -> int | None:
    return None


def encode_value(value: Any, hold: Hold = _hold_nothing) -> Any:
    """Turn a value into JSON from which `decode_value` gives an identical one, of the same type.

    Parameters
    ----------
    value : object
        A plain value, an instance of a dataclass, an enumeration's member, a named tuple, or containers of them.
    hold : callable, optional
        Is shown each value in it first, but for keys.

    Returns
    -------
    object
        What `json.dumps` takes.

    Raises
    ------
    UncacheableError
        A value of another type, with the way to it.

    Examples
    --------
    >>> encode_value({"range": (0, 1)})
    {'range': {'!': 'tuple', 'items': [0, 1]}}
    """
    kind = type(value)
    held = hold(value)
    if held is not None:
        return {TAG: "item", "at": held}
    if kind is list:
        return [_within(item, f"[{at}]", hold) for at, item in enumerate(value)]
    if kind is dict:
        return _encode_dict(value, hold)
    if kind in _SEQUENCES:
        # Sets in one order, so that equal ones are equal bytes.
        items = [_within(item, f"[{at}]", hold) for at, item in enumerate(value)]
        ordered = sorted(items, key=canonical_json) if kind in (set, frozenset) else items
        return {TAG: kind.__name__, "items": ordered}
    if kind is datetime and value.tzinfo is not None:
        return _encode_aware(value)
    if kind is time and value.tzinfo is None:
        return {TAG: "time", "text": value.isoformat(), "fold": value.fold}
    if kind is decimal.Decimal:
        return {TAG: "decimal", "text": str(value)}
    if kind in (slice, range):
        return {
            TAG: kind.__name__,
            "items": [encode_value(item) for item in (value.start, value.stop, value.step)],
        }
    if kind is np.ndarray and value.dtype.kind == "O":
        raise UncacheableError("an array of objects has no JSON form; convert it to a list")
    if kind in _EXACT or (isinstance(value, np.generic) and kind.__module__ == "numpy"):
        return encode_attribute(value)
    return _encode_instance(value, hold)


def decode_value(document: Any, items: Sequence[Any] = ()) -> Any:
    """Give back the value that `encode_value` was given.

    Parameters
    ----------
    document : object
        Parsed JSON.
    items : sequence, optional
        What `hold` took, by its number.

    Returns
    -------
    object
        The value.

    Raises
    ------
    NotStoredError
        It is of a class that this process has not imported, or that is not the one it was.
    InvalidInputError
        It is not of the form that is expected.

    Examples
    --------
    >>> decode_value(encode_value({"range": (0, 1), "names": {"a"}}))
    {'range': (0, 1), 'names': {'a'}}
    """
    if isinstance(document, list):
        return [decode_value(item, items) for item in document]
    if not isinstance(document, dict):
        return document
    if TAG not in document:
        return {key: decode_value(item, items) for key, item in document.items()}
    try:
        decode = _DECODERS.get(document[TAG])
        return decode_attribute(document) if decode is None else decode(document, items)
    except (AttributeError, LookupError, TypeError, ValueError, decimal.InvalidOperation) as error:
        if isinstance(error, NotStoredError | InvalidInputError):
            raise
        raise InvalidInputError(f"a value tagged {document[TAG]!r:.80} is malformed: {error}") from error


def _within(value: Any, step: str, hold: Hold = _hold_nothing) -> Any:
    try:
        return encode_value(value, hold)
    except UncacheableError as error:
        raise error.within(step) from None


def _encode_dict(value: dict[Any, Any], hold: Hold) -> dict[str, Any]:
    if TAG not in value and all(type(key) is str for key in value):
        return {key: _within(item, repr(key), hold) for key, item in value.items()}
    items = [[_within(key, "a key"), _within(item, repr(key), hold)] for key, item in value.items()]
    return {TAG: "dict", "items": items}


def _encode_aware(value: datetime) -> dict[str, Any]:
    zone = value.tzinfo
    name = "UTC" if zone is UTC else getattr(zone, "key", None)
    if not isinstance(name, str) or type(zone).__module__ not in ("datetime", "zoneinfo"):
        raise UncacheableError(f"a time in the zone {zone!r} has no JSON form; use zoneinfo or datetime.UTC")
    is_utc = zone is UTC
    return {
        TAG: "aware",
        "text": value.replace(tzinfo=None).isoformat(),
        "fold": value.fold,
        "zone": None if is_utc else name,
    }


def _encode_instance(value: Any, hold: Hold) -> dict[str, Any]:
    kind = type(value)
    where = {"module": kind.__module__, "name": kind.__qualname__}
    if _find_class(where) is not kind:
        raise UncacheableError(
            f"a value of type {kind.__module__}.{kind.__qualname__} has no JSON form that could be read again; define "
            "its class in a module, or register a format with daskcache.formats.register"
        )
    if isinstance(value, enum.Enum):
        # A combination of flags has no name, or one that names none of them.
        if kind.__members__.get(str(value.name)) is not value:
            raise UncacheableError(f"{value!r} is no single member of its enumeration, and has no JSON form")
        return {TAG: "enum", **where, "member": value.name}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        items = [_within(item, f".{name}", hold) for name, item in zip(kind._fields, value, strict=True)]
        return {TAG: "named", **where, "items": items}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        besides = set(getattr(value, "__dict__", ())) - set(names)
        if besides or issubclass(kind, list | dict | set | tuple | str | int | float | bytes):
            raise UncacheableError(
                f"an instance of {kind.__qualname__} holds more than its fields ({sorted(besides)}), and would come back "
                "without it; register a format with daskcache.formats.register"
            )
        fields = {name: _within(getattr(value, name), f".{name}", hold) for name in names}
        return {TAG: "dataclass", **where, "fields": fields}
    raise UncacheableError(
        f"a value of type {kind.__module__}.{kind.__qualname__} has no JSON form; return plain values or a dataclass, "
        "register a format with daskcache.formats.register, or name a serializer"
    )


def _find_class(document: Mapping[str, Any]) -> type | None:
    """Find a class in what this process has imported. Imports nothing, calls nothing."""
    module, name = document["module"], document["name"]
    found: Any = sys.modules.get(module) if isinstance(module, str) and isinstance(name, str) else None
    for step in name.split(".") if found is not None else ():
        found = vars(found).get(step) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _class_of(document: Mapping[str, Any], is_right: Callable[[type], bool]) -> Any:
    found = _find_class(document)
    if found is None or not is_right(found):
        raise NotStoredError(
            f"it holds an instance of {document['module']}.{document['name']}, which this process has not imported, or "
            "which is something else by now; import it first"
        )
    return found


def _decode_items(make: Callable[[list[Any]], Any], document: Mapping[str, Any], items: Sequence[Any]) -> Any:
    return make([decode_value(item, items) for item in document["items"]])


def _decode_named(document: Mapping[str, Any], items: Sequence[Any]) -> Any:
    kind = _class_of(document, lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields"))
    values = [decode_value(item, items) for item in document["items"]]
    if len(values) != len(kind._fields):
        raise _changed(document)
    return tuple.__new__(kind, values)


def _decode_dataclass(document: Mapping[str, Any], items: Sequence[Any]) -> Any:
    kind = _class_of(document, dataclasses.is_dataclass)
    fields = document["fields"]
    if set(fields) != {field.name for field in dataclasses.fields(kind)}:
        raise _changed(document)
    made = object.__new__(kind)
    for name, item in fields.items():
        # As it was, whatever the class would make of it when it is called.
        object.__setattr__(made, name, decode_value(item, items))
    return made


def _changed(document: Mapping[str, Any]) -> NotStoredError:
    return NotStoredError(f"the fields of {document['module']}.{document['name']} are not what they were")


def _decode_aware(document: Mapping[str, Any], items: Sequence[Any]) -> datetime:
    from zoneinfo import ZoneInfo

    zone = UTC if document["zone"] is None else ZoneInfo(document["zone"])
    return datetime.fromisoformat(document["text"]).replace(tzinfo=zone, fold=document["fold"])


_DECODERS: dict[str, Callable[[dict[str, Any], Sequence[Any]], Any]] = {
    **{kind.__name__: partial(_decode_items, make) for kind, make in _SEQUENCES.items()},
    "item": lambda document, items: items[document["at"]],
    "dict": lambda document, items: {
        decode_value(key): decode_value(item, items) for key, item in document["items"]
    },
    "slice": lambda document, items: slice(*map(decode_value, document["items"])),
    "range": lambda document, items: range(*map(decode_value, document["items"])),
    "aware": _decode_aware,
    "time": lambda document, items: time.fromisoformat(document["text"]).replace(fold=document["fold"]),
    "decimal": lambda document, items: decimal.Decimal(document["text"]),
    "enum": lambda document, items: _class_of(document, lambda kind: issubclass(kind, enum.Enum)).__members__[
        document["member"]
    ],
    "named": _decode_named,
    "dataclass": _decode_dataclass,
}


def _accepts(value: Any) -> bool:
    kind = type(value)
    return (
        (kind in _EXACT and kind is not np.ndarray)
        or kind in (list, dict, slice, range, time, decimal.Decimal)
        or kind in _SEQUENCES
        or (isinstance(value, np.generic) and kind.__module__ == "numpy")
        or isinstance(value, enum.Enum)
        or (isinstance(value, tuple) and hasattr(kind, "_fields"))
        or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    )


def _encode(value: Any) -> Encoded:
    try:
        text = json.dumps(encode_value(value), separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise UncacheableError("a value that holds itself has no JSON form") from error
    return Encoded((text.encode("ascii"),))


def _decode(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> Any:
    return decode_value(json.loads(bytes(parts[0])))


add_format(Format("json", "value", _accepts, _encode, _decode))

"""Plain values and the containers of Python's own: what nearly every argument of a task is."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import math
import re
import types
import uuid
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.registry import Node, handles

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["combine_items", "make_leaves", "pairs_of", "state_node"]

Leaf = Callable[[Any], "bytes | None"]

_pack_double = Struct("<d").pack
_pack_doubles = Struct("<dd").pack
# Small values come back often in a graph, and a look-up costs a tenth of a hash; unbounded, a graph that counts
# its blocks would hold on to every number.
_REMEMBERED = 50_000
_SHALLOW = 3
# What a slice is made of that may be remembered by value: True equals 1.
_POSITIONS = frozenset([int, types.NoneType])
# Longer tuples seldom come back.
_SHORT = 10


def make_leaves(digester: Digester) -> dict[type, Leaf]:
    """Build the rules of values that need no walk, by their exact type.

    Parameters
    ----------
    digester : Digester
        What hashes them.

    Returns
    -------
    dict
        For each type a function that gives a value's digest; for containers, None where a part needs the walk.
    """
    digest, combine = digester.digest, digester.combine_digests
    true, false = digest(b"bool", b"1"), digest(b"bool", b"0")
    none, dots, refusal = (digest(b"constant", name) for name in (b"None", b"Ellipsis", b"NotImplemented"))
    ints: dict[int, bytes] = {}
    floats: dict[float, bytes] = {}
    strings: dict[str, bytes] = {}
    slices: dict[tuple[int | None, ...], bytes] = {}
    # Those of a layer are often the same objects, and a look-up by identity takes a fifth of the time of one by value.
    alike: dict[int, tuple[slice, bytes]] = {}
    tuples: dict[bytes, bytes] = {}

    def fingerprint_int(value: int) -> bytes:
        found = ints.get(value)
        if found is None:
            size = (value.bit_length() + 8) >> 3
            found = digest(b"int", value.to_bytes(size, "little", signed=True))
            if len(ints) < _REMEMBERED:
                ints[value] = found
        return found

    def fingerprint_float(value: float) -> bytes:
        # By bytes: -0.0 is not 0.0, though it equals it, and a NaN's payload counts.
        found = floats.get(value) if value else None
        if found is None:
            found = digest(b"float", _pack_double(value))
            if value and not math.isnan(value) and len(floats) < _REMEMBERED:
                floats[value] = found
        return found

    def fingerprint_str(value: str) -> bytes:
        found = strings.get(value)
        if found is None:
            found = digest(b"str", value.encode("utf-8", "surrogatepass"))
            if len(value) < 200 and len(strings) < _REMEMBERED:
                strings[value] = found
        return found

    def fingerprint_slice(value: slice) -> bytes | None:
        same = alike.get(id(value))
        if same is not None:
            return same[1]
        start, stop, step = key = value.start, value.stop, value.step
        if not (type(start) in _POSITIONS and type(stop) in _POSITIONS and type(step) in _POSITIONS):
            return fingerprint_sequence(b"slice", key)
        found = slices.get(key)
        if found is None:
            found = fingerprint_sequence(b"slice", key)
            if found is not None and len(slices) < _REMEMBERED:
                slices[key] = found
        if found is not None and len(alike) < _REMEMBERED:
            alike[id(value)] = value, found
        return found

    def shallow(values: Iterable[Any], depth: int) -> list[bytes] | None:
        parts = []
        for value in values:
            kind = type(value)
            leaf = parts_of_others.get(kind)
            if leaf is not None:
                found = leaf(value)
                if found is None:
                    return None
                parts.append(found)
                continue
            tag = sequences.get(kind)
            if tag is None or depth >= _SHALLOW:
                return None
            inner = shallow(value, depth + 1)
            if inner is None:
                return None
            parts.append(combine(tag, inner))
        return parts

    def fingerprint_tuple(value: tuple[Any, ...]) -> bytes | None:
        # Shapes, numbers of blocks and regions come back often.
        parts: list[bytes] = []
        for part in value:
            kind = type(part)
            if kind is slice:
                same = alike.get(id(part))
                found = fingerprint_slice(part) if same is None else same[1]
            elif kind is int:
                found = ints.get(part) or fingerprint_int(part)
            else:
                return fingerprint_sequence(b"tuple", value)
            if found is None:
                return None
            parts.append(found)
        if len(parts) >= _SHORT:
            return combine(b"tuple", parts)
        joined = b"".join(parts)
        found = tuples.get(joined)
        if found is None:
            found = combine(b"tuple", parts)
            if len(tuples) < _REMEMBERED:
                tuples[joined] = found
        return found

    def fingerprint_list(value: list[Any]) -> bytes | None:
        return fingerprint_sequence(b"list", value)

    def fingerprint_sequence(tag: bytes, value: Any) -> bytes | None:
        parts = shallow(value, 1)
        return None if parts is None else combine(tag, parts)

    def fingerprint_dict(value: dict[Any, Any]) -> bytes | None:
        keys = shallow(value, _SHALLOW)
        values = None if keys is None else shallow(value.values(), 1)
        if keys is None or values is None:
            return None
        return combine(b"dict", pairs_of(keys, values))

    scalars: dict[type, Callable[[Any], bytes]] = {
        types.NoneType: lambda value: none,
        types.EllipsisType: lambda value: dots,
        types.NotImplementedType: lambda value: refusal,
        bool: lambda value: true if value else false,
        int: fingerprint_int,
        float: fingerprint_float,
        complex: lambda value: digest(b"complex", _pack_doubles(value.real, value.imag)),
        str: fingerprint_str,
        bytes: lambda value: digest(b"bytes", value),
        bytearray: lambda value: digest(b"bytearray", bytes(value)),
        range: lambda value: digest(
            b"range", fingerprint_int(value.start), fingerprint_int(value.stop), fingerprint_int(value.step)
        ),
        dt.date: lambda value: digest(b"date", value.isoformat().encode()),
        dt.timedelta: lambda value: digest(
            b"timedelta", *(fingerprint_int(part) for part in (value.days, value.seconds, value.microseconds))
        ),
        decimal.Decimal: lambda value: digest(b"decimal", str(value).encode()),
        fractions.Fraction: lambda value: digest(
            b"fraction", fingerprint_int(value.numerator), fingerprint_int(value.denominator)
        ),
        uuid.UUID: lambda value: digest(b"uuid", value.bytes),
        re.Pattern: lambda value: digest(
            b"pattern",
            scalars[type(value.pattern)](value.pattern),
            fingerprint_int(value.flags),
        ),
    }
    parts_of_others: dict[type, Leaf] = {**scalars, slice: fingerprint_slice}
    sequences: dict[type, bytes] = {tuple: b"tuple", list: b"list"}
    return {
        **parts_of_others,
        tuple: fingerprint_tuple,
        list: fingerprint_list,
        dict: fingerprint_dict,
    }


def pairs_of(keys: Sequence[bytes], values: Sequence[bytes]) -> list[bytes]:
    """Lay out the digests of a mapping's items as ``key, value, key, value``, in its order, which a function can see."""
    return [part for pair in zip(keys, values, strict=True) for part in pair]


def combine_items(fp: Fingerprinter, tag: bytes, items: Sequence[Any]) -> Node:
    """Make the node of a sequence."""
    return Node(items, lambda parts: fp.combine(tag, parts))


def _mapping(fp: Fingerprinter, tag: bytes, obj: Any, what: str) -> Node:
    keys = list(obj)
    count = len(keys)

    def label(position: int) -> str:
        key = keys[position] if position < count else keys[position - count]
        shown = key if what == "attribute" and isinstance(key, str) else f"{key!r:.60}"
        return f"{'key' if position < count else what} {shown}"

    return Node(
        [*keys, *obj.values()],
        lambda parts: fp.combine(tag, pairs_of(parts[:count], parts[count:])),
        label,
    )


def state_node(fp: Fingerprinter, state: dict[Any, Any]) -> Node:
    """Make the node of an instance's attributes, in whatever order they were set."""
    return _mapping(fp, b"dict", {name: state[name] for name in sorted(state, key=repr)}, "attribute")


@handles("builtins:list")
def _list(fp: Fingerprinter, obj: list[Any]) -> Node:
    return combine_items(fp, b"list", tuple(obj))


@handles("builtins:tuple")
def _tuple(fp: Fingerprinter, obj: tuple[Any, ...]) -> Node:
    return combine_items(fp, b"tuple", obj)


@handles("builtins:dict")
def _dict(fp: Fingerprinter, obj: dict[Any, Any]) -> Node:
    return _mapping(fp, b"dict", obj, "value of key")


@handles("builtins:mappingproxy")
def _mappingproxy(fp: Fingerprinter, obj: types.MappingProxyType[Any, Any]) -> Node:
    return _mapping(fp, b"mappingproxy", obj, "value of key")


@handles("builtins:set")
def _set(fp: Fingerprinter, obj: set[Any]) -> Node:
    return Node(list(obj), lambda parts: fp.combine(b"set", sorted(parts)), lambda _: "an element of the set")


@handles("builtins:frozenset")
def _frozenset(fp: Fingerprinter, obj: frozenset[Any]) -> Node:
    return Node(
        list(obj), lambda parts: fp.combine(b"frozenset", sorted(parts)), lambda _: "an element of the set"
    )


@handles("_weakrefset:WeakSet")
def _weak_set(fp: Fingerprinter, obj: Any) -> Node:
    return Node(list(obj), lambda parts: fp.combine(b"WeakSet", sorted(parts)))


@handles("builtins:slice")
def _slice(fp: Fingerprinter, obj: slice) -> Node:
    return combine_items(fp, b"slice", (obj.start, obj.stop, obj.step))


@handles("builtins:dict_keys", "builtins:odict_keys")
def _dict_keys(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"dict_keys", list(obj))


@handles("builtins:dict_values", "builtins:odict_values")
def _dict_values(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"dict_values", list(obj))


@handles("builtins:dict_items", "builtins:odict_items")
def _dict_items(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"dict_items", list(obj))


@handles("builtins:memoryview")
def _memoryview(fp: Fingerprinter, obj: memoryview) -> bytes:
    return fp.digester.digest(b"memoryview", obj.format.encode(), fp.fingerprint(obj.shape), obj.tobytes())


@handles("collections:deque")
def _deque(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"deque", (obj.maxlen, *obj))


@handles("collections:OrderedDict")
def _ordered_dict(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"OrderedDict", [part for pair in obj.items() for part in pair])


@handles("datetime:datetime")
def _datetime(fp: Fingerprinter, obj: dt.datetime) -> Node:
    naive = obj.replace(tzinfo=None, fold=0).isoformat()
    return combine_items(fp, b"datetime", (naive, obj.fold, obj.tzinfo))


@handles("datetime:time")
def _time(fp: Fingerprinter, obj: dt.time) -> Node:
    naive = obj.replace(tzinfo=None, fold=0).isoformat()
    return combine_items(fp, b"time", (naive, obj.fold, obj.tzinfo))


@handles("datetime:timezone")
def _timezone(fp: Fingerprinter, obj: dt.timezone) -> Node:
    return combine_items(fp, b"timezone", (obj.utcoffset(None), obj.tzname(None)))


@handles("zoneinfo:ZoneInfo")
def _zone_info(fp: Fingerprinter, obj: Any) -> bytes:
    if obj.key is None:
        raise UncacheableError("a ZoneInfo read from a file has no key; make it with ZoneInfo(key)")
    return fp.digester.digest(b"ZoneInfo", str(obj.key).encode())


@handles("pathlib:PosixPath", "pathlib:WindowsPath", "pathlib:PurePosixPath", "pathlib:PureWindowsPath")
def _path(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(
        b"path", type(obj).__qualname__.encode(), str(obj).encode("utf-8", "surrogatepass")
    )


@handles(
    "_thread:lock",
    "_thread:RLock",
    "threading:Lock",
    "threading:RLock",
    "threading:_RLock",
    "threading:Condition",
    "threading:Semaphore",
    "threading:BoundedSemaphore",
    "multiprocessing:Lock",
    "multiprocessing:RLock",
    "multiprocessing:Semaphore",
    "multiprocessing:BoundedSemaphore",
    "dask:SerializableLock",
    "distributed:Lock",
    "distributed:MultiLock",
    "distributed:Semaphore",
    "xarray:CombinedLock",
    "xarray:DummyLock",
)
def _lock(fp: Fingerprinter, obj: Any) -> bytes:
    # A lock says who waits for whom, never what comes out.
    return fp.digester.digest(b"lock")


@handles("logging:Logger", "logging:RootLogger", "logging:LoggerAdapter", "distributed:_SafeLogger")
def _logger(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"logger")

"""Objects that have no rule of their own: by the parts that pickle would take them apart into."""

from __future__ import annotations

import copy
import copyreg
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.callables import named, resolves
from daskcache.fingerprint.classes import assigned_names, derived_names
from daskcache.fingerprint.code import declared_node
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.plain import combine_items, state_node
from daskcache.fingerprint.registry import Node
from daskcache.fingerprint.sources_base import survey_of

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["instance_node", "one_shot"]

_NEW_OBJECT = ("__newobj__", "__newobj_ex__")


def one_shot(fp: Fingerprinter, obj: Any) -> bytes:
    """Refuse an iterator, which cannot be looked at without being used up."""
    raise UncacheableError(
        f"{type(obj)} gives its values once, so that looking at it would use it up; pass a list"
    )


def instance_node(fp: Fingerprinter, obj: Any) -> bytes | Node:
    """Take an unknown object apart as pickle would, without its bytes."""
    kind = type(obj)
    declaration = declared(obj)
    if declaration is not None:
        return declared_node(fp, obj, declaration.value, declaration.is_whole)
    source = fp.find_source(obj)
    if source is not None:
        source.survey.whole[id(obj)] = obj
        return fp.digester.digest(b"source", source.region(()))
    if kind is object:
        raise UncacheableError("a bare object() is like any other; use an Enum member, or a class")
    if isinstance(obj, set | frozenset):
        # Their reduction lists the elements in the order of this process's hashes.
        return combine_items(fp, b"set object", (kind, frozenset(obj), getattr(obj, "__dict__", None)))
    return _reduced(fp, obj)


def _reduced(fp: Fingerprinter, obj: Any) -> bytes | Node:
    kind = type(obj)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced = obj.__reduce_ex__(4) if reducer is None else reducer(obj)
    except Exception as error:
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if callable(obj) and fp.home(module).kind != "user" and resolves(module, name, obj):
            return named(fp, obj, module, name)
        raise UncacheableError(f"{kind} has no deterministic identity: {error}") from error
    if isinstance(reduced, str):
        return combine_items(fp, b"global", (kind, reduced))
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise UncacheableError(f"{kind}.__reduce_ex__ gave {type(reduced)}; expected a tuple")
    make, arguments, state, items, pairs, _ = (*reduced, None, None, None, None)[:6]
    parts: list[Any] = []
    labels: list[str] = []
    if getattr(make, "__module__", None) == "copyreg" and make.__name__ in _NEW_OBJECT:
        parts += [arguments[0], arguments[1:]]
    else:
        parts += [make, arguments]
    labels += ["type" if parts[0] is kind else "maker", "argument of its maker"]
    state = _state(fp, kind, state)
    left_out = _left_out(fp, obj, state)
    for label, part in (("state", state), ("items", _listed(items)), ("mapping", pairs)):
        parts.append(dict(part) if label == "mapping" and part is not None else part)
        labels.append(label)
    if left_out:
        parts.append(left_out)
        labels.append("what it does not give to pickle")
    nodes = state_node(fp, parts[2]) if isinstance(parts[2], dict) else None
    if nodes is None:
        return Node(parts, lambda digests: fp.combine(b"object", digests), labels)
    # The attributes stand in the error's path at once, without a step for the state.
    head = (*parts[:2], *parts[3:])
    count = len(head)
    return Node(
        (*head, *nodes.children),
        lambda digests: fp.combine(b"object", [*digests[:count], nodes.combine(digests[count:])]),
        lambda at: (labels[:2] + labels[3:])[at] if at < count else nodes.label(at - count),
    )


class _Parts:
    """Stands for an object that `copy.copy` makes of what it was taken apart into."""

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self._reduced = reduced

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._reduced


def _left_out(fp: Fingerprinter, obj: Any, state: Any) -> dict[str, Any]:
    """Give the attributes of a user's object that are not in what it gives to pickle.

    Threads compute with the object itself, processes with what pickle makes of it, so they have to be the same there.
    """
    kind = type(obj)
    if fp.home(kind.__module__).kind != "user":
        return {}
    carried = state if type(state) is dict else {}
    derived = _derived(fp, kind)
    found = {
        name: value
        for name, value in _attributes(fp, obj)
        if name not in derived and not (name in carried and carried[name] is value)
    }
    if not found:
        return found
    busy = survey_of(fp).rebuilding
    if id(obj) in busy:
        raise UncacheableError(
            f"{kind} is part of an attribute that it leaves out of what it gives to pickle"
        )
    busy.add(id(obj))
    try:
        rebuilt = dict(_attributes(fp, _rebuild(obj)))
        for name, value in found.items():
            if name not in rebuilt or _look(fp, name, rebuilt[name]) != _look(fp, name, value):
                raise UncacheableError(
                    f"{kind} leaves it out of what it gives to pickle, so that a worker would compute with another "
                    "value; carry it in __getstate__ or __reduce__, or say what counts with __daskcache_fingerprint__",
                    (f"attribute {name}",),
                )
    finally:
        busy.discard(id(obj))
    return found


def _look(fp: Fingerprinter, name: str, value: Any) -> bytes:
    try:
        return fp.fingerprint(value)
    except UncacheableError as error:
        raise error.within(f"attribute {name}") from None


def _rebuild(obj: Any) -> Any:
    """Make what a worker gets of an object."""
    kind = type(obj)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        # Anew, because it may hold iterators.
        reduced = obj.__reduce_ex__(4) if reducer is None else reducer(obj)
        # A __setstate__ may use up what it is given.
        parts = [dict(part) if type(part) is dict else part for part in reduced]
        return copy.copy(_Parts(tuple(parts)))
    except Exception as error:
        raise UncacheableError(f"{kind} cannot be made again of what it gives to pickle: {error}") from error


def _attributes(fp: Fingerprinter, obj: Any) -> Iterator[tuple[str, Any]]:
    """List what an instance holds, in its dictionary and in slots."""
    yield from vars(obj).items() if hasattr(obj, "__dict__") else ()
    for base in type(obj).__mro__:
        if fp.home(base.__module__).kind == "user":
            for name, slot in vars(base).items():
                if isinstance(slot, types.MemberDescriptorType) and hasattr(obj, name):
                    yield name, getattr(obj, name)


def _derived(fp: Fingerprinter, kind: type) -> frozenset[str]:
    """Name the cached properties, but not those that the user's own classes assign: there may lie another value."""
    names = derived_names(kind)
    if not names:
        return names
    return names - assigned_names(base for base in kind.__mro__ if fp.home(base.__module__).kind == "user")


def _state(fp: Fingerprinter, kind: type, state: Any) -> Any:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        merged = {**(state[0] or {}), **state[1]} if isinstance(state[0], dict | None) else None
        state = state if merged is None else merged
    if type(state) is dict:
        derived = _derived(fp, kind)
        return {key: value for key, value in state.items() if key not in derived}
    return state


def _listed(items: Any) -> list[Any] | None:
    return None if items is None else list(items)

"""Objects that have no rule of their own: by the parts that pickle would take them apart into."""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.callables import named, resolves
from daskcache.fingerprint.classes import derived_names
from daskcache.fingerprint.code import declared_node
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.plain import combine_items, state_node
from daskcache.fingerprint.registry import Node

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
    for label, part in (("state", _state(kind, state)), ("items", _listed(items)), ("mapping", pairs)):
        parts.append(dict(part) if label == "mapping" and part is not None else part)
        labels.append(label)
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


def _state(kind: type, state: Any) -> Any:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        merged = {**(state[0] or {}), **state[1]} if isinstance(state[0], dict | None) else None
        state = state if merged is None else merged
    if type(state) is dict:
        derived = derived_names(kind)
        return {key: value for key, value in state.items() if key not in derived}
    return state


def _listed(items: Any) -> list[Any] | None:
    return None if items is None else list(items)

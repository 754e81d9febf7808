"""Which rule holds for a type's values: the user's own, a registered one, or how what is unknown is taken apart."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint.classes import class_node, enum_member
from daskcache.fingerprint.instances import instance_node, one_shot
from daskcache.fingerprint.registry import Handler, Node, find_rule

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["has_rule", "register", "rule_of"]

_by_type: dict[type, Callable[[Any], object]] = {}
_by_name: dict[str, Callable[[Any], object]] = {}


def register(
    kind: type | str, function: Callable[[Any], object] | None = None
) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    """Say what counts of a type's values.

    Parameters
    ----------
    kind : type or str
        The type, or ``"module.QualName"`` of a type that is not to be imported for this. Holds for subclasses.
    function : callable, optional
        Takes a value and gives another one (a tuple of its parts, say) whose identity, together with the type's,
        is its own. Left out, `register` is a decorator.

    Returns
    -------
    callable
        A decorator, or with `function` given one that has been applied.

    Raises
    ------
    InvalidInputError
        The type is neither a type nor a dotted name.

    Examples
    --------
    >>> from daskcache.fingerprint import fingerprint
    >>> class Grid:
    ...     def __init__(self, resolution):
    ...         self.resolution, self.handle = resolution, object()
    >>> @register(Grid)
    ... def _(grid):
    ...     return grid.resolution
    >>> fingerprint(Grid(2)) == fingerprint(Grid(2))
    True
    """

    def record(function: Callable[[Any], object]) -> Callable[[Any], object]:
        if isinstance(kind, type):
            _by_type[kind] = function
        else:
            _by_name[kind] = function
        return function

    if not isinstance(kind, type) and "." not in str(kind):
        raise InvalidInputError(f"register({kind!r}): expected a type or 'module.QualName'")
    if function is not None:
        record(function)
    return record


def rule_of(kind: type) -> Handler:
    """Find the rule for a type's values: the user's own come first, those for what is unknown last."""
    for base in kind.__mro__:
        function = _by_type.get(base) or _by_name.get(f"{base.__module__}.{base.__qualname__}")
        if function is not None:
            return _stand_in(function)
    if hasattr(kind, "__daskcache_fingerprint__"):
        return _stand_in(lambda obj: obj.__daskcache_fingerprint__())
    if hasattr(kind, "__daskcache_region__"):
        return lambda fp, obj: obj.__daskcache_region__((), fp)
    rule = find_rule(kind)
    if rule is not None:
        return rule
    if issubclass(kind, type):
        return class_node
    if issubclass(kind, enum.Enum):
        return enum_member
    if hasattr(kind, "__dask_graph__"):
        return _dask_collection
    if hasattr(kind, "__next__") or hasattr(kind, "__await__"):
        return one_shot
    return instance_node


def has_rule(kind: type) -> bool:
    """Whether a type's values have a rule, this package's or the user's, besides being taken apart."""
    return rule_of(kind) is not instance_node


def _stand_in(function: Callable[[Any], object]) -> Handler:
    def rule(fp: Fingerprinter, obj: Any) -> Node:
        return Node(
            (type(obj), function(obj)),
            lambda parts: fp.combine(b"registered", parts),
            ("type", "what counts"),
        )

    return rule


def _dask_collection(fp: Fingerprinter, obj: Any) -> bytes | Node:
    if obj.__dask_graph__() is None:
        return instance_node(fp, obj)
    if fp.dask_collection is None:
        raise UncacheableError(f"a dask collection ({type(obj)}) inside an object; pass it as an argument")
    return fp.dask_collection(obj)

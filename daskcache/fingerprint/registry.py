"""How a type finds the rule for its values: by the type itself, or by the name of a type that need not be installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["Handler", "Node", "find_rule", "handles", "handles_subclasses"]


class Node:
    """What an object is made of, before the digests of its parts are known.

    A class of plain slots, not a dataclass: one is made for every container of a pass.
    """

    __slots__ = ("children", "combine", "labels")

    def __init__(
        self,
        children: Sequence[Any],
        combine: Callable[[Sequence[bytes]], bytes],
        labels: Sequence[str] | Callable[[int], str] | None = None,
    ) -> None:
        self.children = children
        """The parts that are objects themselves."""
        self.combine = combine
        """Makes the object's digest of those of its children. Pure: around a cycle it is called repeatedly."""
        self.labels = labels
        """What a child is called in an error's path; by default its position."""

    def label(self, position: int) -> str:
        """Name one child for an error's path."""
        if self.labels is None:
            return f"item {position}"
        if callable(self.labels):
            return self.labels(position)
        return self.labels[position]


Handler = Callable[["Fingerprinter", Any], "bytes | Node"]
_H = TypeVar("_H", bound=Handler)

_EXACT: dict[str, Handler] = {}
_SUBCLASSES: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[_H], _H]:
    """Make a function the rule of types, given as ``"root:QualName"``, but not of their subclasses.

    The root is the first part of the module's name alone, because libraries move their classes about; ``*`` is any.

    Returns
    -------
    callable
        A decorator, which gives the function back.
    """
    return _recorder(_EXACT, names)


def handles_subclasses(*names: str) -> Callable[[_H], _H]:
    """Make a function the rule of types and their subclasses; it has to tell the subclasses apart itself."""
    return _recorder(_SUBCLASSES, names)


def _recorder(table: dict[str, Handler], names: tuple[str, ...]) -> Callable[[_H], _H]:
    def record(handler: _H) -> _H:
        table.update(dict.fromkeys(names, handler))
        return handler

    return record


def find_rule(kind: type) -> Handler | None:
    """Find the rule that this package has for values of a type."""
    found = _EXACT.get(rule_name(kind)) or _EXACT.get(f"*:{kind.__qualname__}")
    if found is not None:
        return found
    for base in kind.__mro__:
        found = _SUBCLASSES.get(rule_name(base)) or _SUBCLASSES.get(f"*:{base.__qualname__}")
        if found is not None:
            return found
    return None


def rule_name(kind: type) -> str:
    """Give the name under which a type's rule is registered."""
    # Some types of C have a property there.
    root = str(kind.__module__).partition(".")[0]
    return f"{root}:{kind.__qualname__}"

"""The calls in code, as far as it is plain to see what is called and what it is given."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, Literal, NamedTuple

from daskcache.fingerprint.operations import (
    ATTRIBUTE_LOADS,
    Operation,
    expression_start,
    one_by_one,
    operations_of,
)

__all__ = ["Call", "Named", "calls_of"]

_CALLS = frozenset({"CALL", "CALL_KW"})
_CONSTANTS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL"})
_LOCALS = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW"})
_STORES = frozenset({"STORE_FAST", "STORE_DEREF"})


class Named(NamedTuple):
    """What code calls, or hands to a call."""

    kind: Literal["constant", "given", "free", "global", "import", "other"]
    """``"given"`` is a parameter that still is what it was; ``"other"`` is what is not plain to see."""
    name: Any = None
    """The variable's name, the module's, or the constant itself."""
    attributes: tuple[str, ...] = ()
    """Attributes that are read of it, from attribute to attribute."""


class Call(NamedTuple):
    """One call."""

    function: Named
    """What is called."""
    arguments: tuple[Named, ...]
    """What it is given by position."""
    keywords: Mapping[str, Named]
    """What it is given by name."""


_calls: weakref.WeakKeyDictionary[CodeType, list[Call]] = weakref.WeakKeyDictionary()


def calls_of(code: CodeType) -> list[Call]:
    """List the calls in code, but not in functions that it makes, nor those with ``*`` or ``**``.

    Parameters
    ----------
    code : code
        Any code object. The result is remembered for as long as it lives.

    Returns
    -------
    list of Call
        In order.

    Examples
    --------
    >>> def f(x, seed):
    ...     return draw(x, seed=seed)
    >>> [call] = calls_of(f.__code__)
    >>> call.function.name, call.arguments[0].name, call.keywords["seed"].kind
    ('draw', 'x', 'given')
    """
    found = _calls.get(code)
    if found is None:
        found = _calls[code] = list(_Reader(code).calls())
    return found


class _Reader:
    def __init__(self, code: CodeType) -> None:
        self.operations = list(one_by_one(operations_of(code)))
        self.own = frozenset(code.co_cellvars)
        self.given = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        self.imported = _imported(self.operations)

    def calls(self) -> Iterator[Call]:
        operations = self.operations
        for place, operation in enumerate(operations):
            if operation.name not in _CALLS:
                continue
            end, names = place - 1, ()
            if operation.name == "CALL_KW" or operations[end].name == "KW_NAMES":
                names, end = operations[end].value, end - 1
            found: list[Named] = []
            for _ in range(operation.arg or 0):
                start = expression_start(operations, end)
                if start < 1:
                    break
                found.append(self._named(start, end))
                end = start - 1
            else:
                found.reverse()
                if operations[end].name == "PUSH_NULL":
                    end -= 1
                count = len(found) - len(names)
                keywords = dict(zip(names, found[count:], strict=True))
                yield Call(self._called(end), tuple(found[:count]), keywords)

    def _called(self, end: int) -> Named:
        """Name what is called, whose last operation is known."""
        start = end
        while start > 0 and self.operations[start].name in ATTRIBUTE_LOADS:
            start -= 1
        return self._named(start, end)

    def _named(self, start: int, end: int) -> Named:
        first, *rest = self.operations[start : end + 1]
        if any(operation.name not in ATTRIBUTE_LOADS for operation in rest):
            return Named("other")
        attributes = tuple(str(operation.value) for operation in rest)
        if first.name in _CONSTANTS:
            return Named("constant", first.value, attributes) if not attributes else Named("other")
        if first.name == "LOAD_GLOBAL":
            return Named("global", first.value, attributes)
        if first.name == "LOAD_DEREF" and first.value not in self.own:
            return Named("free", first.value, attributes)
        if first.name not in _LOCALS and first.name != "LOAD_DEREF":
            return Named("other")
        return self._of_variable(start, first.value, attributes)

    def _of_variable(self, place: int, name: str, attributes: tuple[str, ...]) -> Named:
        stores = [
            before
            for before, operation in enumerate(self.operations[:place])
            if operation.name in _STORES and operation.value == name
        ]
        if not stores:
            return Named("given", name, attributes) if name in self.given else Named("other")
        if len(stores) == 1 and stores[0] in self.imported:
            module, *steps = self.imported[stores[0]]
            return Named("import", module, (*steps, *attributes))
        sets = [self.operations[store - 1] for store in stores]
        is_none = all(operation.name in _CONSTANTS and operation.value is None for operation in sets)
        return Named("constant") if is_none and name not in self.given and not attributes else Named("other")


def _imported(operations: Sequence[Operation]) -> dict[int, tuple[str, ...]]:
    """Say of what stores a variable which module it stores, and what is read of it."""
    found: dict[int, tuple[str, ...]] = {}
    for place, operation in enumerate(operations):
        if operation.name != "IMPORT_NAME" or operations[place - 2].value != 0:
            continue
        names, after = operations[place - 1].value, place + 1
        if not names and operations[after].name in _STORES:
            found[after] = (str(operation.value).partition(".")[0],)
        while names and operations[after].name == "IMPORT_FROM" and operations[after + 1].name in _STORES:
            found[after + 1] = (str(operation.value), str(operations[after].value))
            after += 2
        if not names and operations[after].name == "IMPORT_FROM":
            while operations[after].name in ("IMPORT_FROM", "SWAP", "POP_TOP"):
                after += 1
            if operations[after].name in _STORES:
                found[after] = (str(operation.value),)
    return found

"""The instructions of code, one by one, and how they use variables that are not their own."""

from __future__ import annotations

import dis
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

from daskcache.fingerprint.impure_names import CHANGING

__all__ = ["ATTRIBUTE_LOADS", "Operation", "Uses", "expression_start", "find_uses", "operations_of"]

_IGNORED_OPERATIONS = frozenset({"NOP", "CACHE", "EXTENDED_ARG"})
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
# Their arguments are positions in a table of the code object; everything else's argument is what it says.
_BY_VALUE = frozenset({*dis.hasconst, *dis.hasname, *dis.hasfree, *dis.haslocal})
_OF_LOCALS = ("LOAD_FAST", "STORE_FAST")
ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
# How many values lie on what they change a part of, and how many there are in all.
_CHANGES_PART = {
    "STORE_SUBSCR": (1, 3),
    "DELETE_SUBSCR": (1, 2),
    "STORE_SLICE": (2, 4),
    "STORE_ATTR": (0, 2),
    "DELETE_ATTR": (0, 1),
}
_NULL_AFTER = sys.version_info >= (3, 13)


class Operation(NamedTuple):
    """One instruction."""

    name: str
    value: Any
    arg: int | None
    offset: int
    opcode: int
    is_jump: bool


def operations_of(code: CodeType) -> Iterator[Operation]:
    """Give the instructions of code that do something.

    Parameters
    ----------
    code : code
        Any code object; not those nested in it.

    Yields
    ------
    Operation
        In order.

    Examples
    --------
    >>> "STORE_SUBSCR" in [each.name for each in operations_of(compile("x[0] = 1", "", "exec"))]
    True
    """
    for found in dis.get_instructions(code):
        if found.opname in _IGNORED_OPERATIONS:
            continue
        is_jump = found.opcode in _JUMPS
        has_value = is_jump or found.opcode in _BY_VALUE or found.opname.startswith(_OF_LOCALS)
        value = found.argval if has_value else found.arg
        yield Operation(found.opname, value, found.arg, found.offset, found.opcode, is_jump)


def expression_start(operations: list[Operation], end: int, values: int = 1) -> int:
    """Find where the values begin to be built that the stack holds after an operation.

    Parameters
    ----------
    operations : list of Operation
        The instructions of one code object.
    end : int
        The position of the operation.
    values : int, optional
        How many values.

    Returns
    -------
    int
        A position; -1 where that is unclear.

    Examples
    --------
    >>> made = list(operations_of(compile("x + y", "", "eval")))
    >>> made[expression_start(made, len(made) - 2)].value
    'x'
    """
    depth = 0
    for place in range(end, -1, -1):
        operation = operations[place]
        depth += dis.stack_effect(operation.opcode, operation.arg, jump=False)
        if depth == values:
            return place
    return -1


class Uses(NamedTuple):
    """How code uses a variable that is not its own."""

    parts: int = 0
    """How often it assigns or deletes an item or an attribute of it."""
    methods: int = 0
    """How often it calls a method on it that fills a container."""
    others: int = 0
    """How often it loads it for anything else."""


_uses: weakref.WeakKeyDictionary[CodeType, dict[tuple[bool, str], Uses]] = weakref.WeakKeyDictionary()


def find_uses(code: CodeType) -> dict[tuple[bool, str], Uses]:
    """Count how code uses the variables that are not its own.

    Parameters
    ----------
    code : code
        The code of a function.

    Returns
    -------
    dict of (bool, str) to Uses
        By whether they are global, and their names; also where functions in it use them. Not those of which it fills none.

    Examples
    --------
    >>> def note(key, n):
    ...     seen[key].count += n
    ...     keys.append(key)
    >>> find_uses(note.__code__)
    {(True, 'seen'): Uses(parts=1, methods=0, others=0), (True, 'keys'): Uses(parts=0, methods=1, others=0)}
    """
    known = _uses.get(code)
    if known is not None:
        return known
    loads: Counter[tuple[bool, str]] = Counter()
    parts: Counter[tuple[bool, str]] = Counter()
    methods: Counter[tuple[bool, str]] = Counter()
    _count_uses(code, loads, parts, methods)
    found = _uses[code] = {
        key: Uses(parts[key], methods[key], loads[key] - parts[key] - methods[key])
        for key in loads
        if parts[key] or methods[key]
    }
    return found


def _count_uses(code: CodeType, *counts: Counter[tuple[bool, str]]) -> None:
    loads, parts, methods = counts
    operations = list(operations_of(code))
    own = set(code.co_cellvars)
    for place, operation in enumerate(operations):
        key = _key_of(operation, own)
        if key is not None:
            loads[key] += 1
            follows = operations[place + 1]
            methods[key] += follows.name in ATTRIBUTE_LOADS and follows.value in CHANGING
        above, taken = _CHANGES_PART.get(operation.name, (0, 0))
        root = _changed_at(operations, place, above, taken) if taken else None
        key = None if root is None else _key_of(root, own)
        if key is not None:
            parts[key] += 1
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner: tuple[Counter[tuple[bool, str]], ...] = (Counter(), Counter(), Counter())
            _count_uses(constant, *inner)
            for count, found in zip(counts, inner, strict=True):
                count.update({key: n for key, n in found.items() if key[0] or key[1] not in own})


def _key_of(operation: Operation, own: set[str]) -> tuple[bool, str] | None:
    """Name the variable that an operation loads, if it is not the code's own."""
    is_global = operation.name == "LOAD_GLOBAL"
    if not is_global and (operation.name != "LOAD_DEREF" or operation.value in own):
        return None
    return is_global, operation.value


def _changed_at(operations: list[Operation], place: int, above: int, taken: int) -> Operation | None:
    """Find what loads the variable of which an operation changes a part; None where that is had by a call."""
    if operations[place - 1].name == "SWAP":  # of ``x[k] += 1``, whose value comes last
        start = expression_start(operations, place - 1, taken)
    else:
        start = place
        for _ in range(above + 1):
            start = expression_start(operations, start - 1)
            if start < 0:
                return None
    if start < 0 or any(operation.is_jump for operation in operations[start:place]):
        return None
    root, after = operations[start], start + 1
    while operations[after].name in ATTRIBUTE_LOADS:
        after += 1
    # What is called brings an empty place along: with its name, with its last attribute, before it, or after.
    called = (root, operations[after - 1]) if after > start + 1 else (root,)
    pushes = [dis.stack_effect(each.opcode, each.arg) for each in called]
    if pushes[0] > 1 or sum(pushes) > 1 or (_NULL_AFTER and operations[after].name == "PUSH_NULL"):
        return None
    return root

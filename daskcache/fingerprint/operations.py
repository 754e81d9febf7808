"""The instructions of code, one by one."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["ATTRIBUTE_LOADS", "Operation", "expression_start", "one_by_one", "operations_of"]

_IGNORED_OPERATIONS = frozenset({"NOP", "CACHE", "EXTENDED_ARG"})
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
# Their arguments are positions in a table of the code object; everything else's argument is what it says.
_BY_VALUE = frozenset({*dis.hasconst, *dis.hasname, *dis.hasfree, *dis.haslocal})
_OF_LOCALS = ("LOAD_FAST", "STORE_FAST")
ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


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


def one_by_one(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Take apart what loads or stores two variables at once.

    Parameters
    ----------
    operations : iterable of Operation
        From `operations_of`.

    Yields
    ------
    Operation
        In order, each of one variable at most.

    Examples
    --------
    >>> def swap(a, b):
    ...     a, b = b, a
    >>> all(type(each.value) is not tuple for each in one_by_one(operations_of(swap.__code__)))
    True
    """
    for operation in operations:
        if type(operation.value) is not tuple or not operation.name.startswith(_OF_LOCALS):
            yield operation
            continue
        is_load = operation.name.startswith("LOAD"), operation.name.endswith(("LOAD_FAST", "BORROW"))
        for value, loads in zip(operation.value, is_load, strict=True):
            name = "LOAD_FAST" if loads else "STORE_FAST"
            yield operation._replace(name=name, value=value, arg=0, opcode=dis.opmap[name])


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

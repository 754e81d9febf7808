"""How code uses what is there after it has run: which variables it fills, and of which it reads what they hold."""

from __future__ import annotations

import dis
import weakref
from collections import Counter
from collections.abc import Iterable
from types import CodeType
from typing import Any, Literal, NamedTuple

from daskcache.fingerprint.impure_names import CHANGING, FILLING, GIVING_BACK, SETTING
from daskcache.fingerprint.operations import ATTRIBUTE_LOADS, Operation, one_by_one, operations_of

__all__ = ["Uses", "find_attribute_uses", "find_uses"]

Key = tuple[Literal["global", "free", "given", "attribute"], str]
Keys = frozenset[Key]


class Uses(NamedTuple):
    """How code uses a variable that is there after it has run."""

    is_filled: bool = False
    """Whether it assigns, deletes or fills a part of it."""
    is_collected: bool = False
    """Whether it calls a method on it that fills a container."""
    is_read: bool = False
    """Whether anything else depends on what it holds."""


class _Found(NamedTuple):
    """What is remembered of code, which is asked for once a task."""

    of_all: dict[Key, Uses]
    of_variables: dict[Key, Uses]
    """Those of which it fills something."""
    of_attributes: dict[str, Uses]


class _Value(NamedTuple):
    """What is known of a value on the stack."""

    keys: Keys = frozenset()
    """The variables that it is, is a part of, or was asked of."""
    made_of: Keys = frozenset()
    """The variables that it was computed from."""
    name: Any = ""
    """The attribute or global by which it was had; the tuple that it is."""
    is_part: bool = False
    """Whether who fills it fills these variables."""
    is_whole: bool = False
    """Whether it is the variable's value itself."""
    is_change: bool = False
    """Whether it is what a method gives that fills containers, as `append` does; `numpy.append` gives something new."""


_UNKNOWN = _Value()
# An empty place below or above what is called.
_NOTHING = _Value(name=None)
# What has been changed in place goes by no name.
_CHANGED = "+="
_STARTS = ("LOAD_FAST", "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_COMMON_CONSTANT")
_ENDS = frozenset(["RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"])
_ALWAYS_JUMPS = frozenset(["JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"])
_TAKES_TWO = frozenset(["BINARY_OP", "COMPARE_OP", "CONTAINS_OP", "BINARY_SUBSCR"])
_TAKES_ONE = ("UNARY_", "TO_BOOL", "FORMAT_", "CONVERT_", "CALL_INTRINSIC_1")
_BUILDS = frozenset(["BUILD_TUPLE", "BUILD_LIST", "BUILD_SET", "BUILD_STRING", "BUILD_SLICE"])
# How many values lie on what they fill, and whether one lies below that is put there.
_FILLS = {
    "STORE_SUBSCR": (1, 1),
    "DELETE_SUBSCR": (1, 0),
    "STORE_SLICE": (2, 1),
    "STORE_ATTR": (0, 1),
    "DELETE_ATTR": (0, 0),
}
# They say nothing of what an array holds.
_FORMS = frozenset(["shape", "dtype", "ndim", "size"])
_IDLE = frozenset(["RESUME", "MAKE_CELL", "COPY_FREE_VARS", "RETURN_GENERATOR", "NOT_TAKEN", "PUSH_EXC_INFO"])
# Of BINARY_OP's argument: from ``+=`` to ``^=``; and what Python 3.14 has for BINARY_SUBSCR.
_IN_PLACE, _SUBSCRIPT = range(13, 26), 26

_uses: weakref.WeakKeyDictionary[CodeType, _Found] = weakref.WeakKeyDictionary()


def find_uses(code: CodeType) -> dict[Key, Uses]:
    """Say how code uses its parameters, and the variables that are not its own.

    Parameters
    ----------
    code : code
        The code of a function.

    Returns
    -------
    dict of (str, str) to Uses
        By kind (``"global"``, ``"free"``, which is a variable of a function around it, or ``"given"``) and name, also
        where functions in it use them. Only those of which it fills something.

    Examples
    --------
    >>> def note(key, n):
    ...     seen[key].count += n
    ...     keys.append(key)
    >>> sorted(find_uses(note.__code__))
    [('global', 'keys'), ('global', 'seen')]
    """
    return _known_uses(code).of_variables


def find_attribute_uses(code: CodeType) -> dict[str, Uses]:
    """Say how a method uses the attributes of its object.

    Parameters
    ----------
    code : code
        The code of a method, whose object is its first parameter.

    Returns
    -------
    dict of str to Uses
        By name; under the empty one the object itself where it is used for anything else.

    Examples
    --------
    >>> def add(self, n):
    ...     self.n = self.n + n
    ...     self.sizes.append(n)
    ...     return self.factor
    >>> sorted((name, uses.is_read) for name, uses in find_attribute_uses(add.__code__).items())
    [('factor', True), ('n', False), ('sizes', False)]
    """
    return _known_uses(code).of_attributes


def _known_uses(code: CodeType) -> _Found:
    known = _uses.get(code)
    if known is None:
        found = _Reader(code)
        used = {
            key: Uses(key in found.filled, key in found.collected, key in found.read)
            for key in found.filled | found.collected | found.read
        }
        known = _uses[code] = _Found(
            used,
            {key: each for key, each in used.items() if key[0] != "attribute" and any(each[:2])},
            {key[1]: each for key, each in used.items() if key[0] == "attribute"},
        )
    return known


class _Reader:
    """Follows values over the stack, from the variable that they are a part of to where they go.

    Once through the instructions, in their order: what lies on the stack where branches meet is either branch's.
    """

    def __init__(self, code: CodeType) -> None:
        self.filled: set[Key] = set()
        self.collected: set[Key] = set()
        self.read: set[Key] = set()
        self._given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self._cells = frozenset(code.co_cellvars)
        self._stack: list[_Value] = []
        self._at: dict[int, list[_Value]] = {}
        self._keywords: tuple[str, ...] = ()
        operations = list(one_by_one(operations_of(code)))
        self._parts = dict.fromkeys(_bound_once(operations, self._given), _UNKNOWN)
        for operation in operations:
            for place in [place for place in self._at if place <= operation.offset]:
                self._stack = _meet(self._stack, self._at.pop(place))
            self._take(operation)
            if operation.is_jump and operation.value > operation.offset:
                self._at[operation.value] = _meet(self._at.get(operation.value, []), self._stack)
            if operation.name in _ENDS or operation.name in _ALWAYS_JUMPS:
                self._stack = []
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._take_inner(_known_uses(constant).of_all)

    def _take_inner(self, inner: dict[Key, Uses]) -> None:
        for (kind, name), uses in inner.items():
            if kind == "global" or (kind == "free" and name not in self._cells):
                key: Key = (kind, name)
            elif kind == "free" and name in self._given:
                key = ("given", name)
                # Which attributes of a method's object that reads is not followed.
                self.read |= {("attribute", "")} if name == self._given[0] else set()
            else:
                continue
            self.filled |= {key} if uses.is_filled or (uses.is_collected and key[0] == "given") else set()
            self.collected |= {key} if uses.is_collected else set()
            self.read |= {key} if uses.is_read else set()

    def _take(self, operation: Operation) -> None:
        name, value, arg = operation.name, operation.value, operation.arg or 0
        effect = dis.stack_effect(operation.opcode, operation.arg, jump=False)
        if name in ("LOAD_GLOBAL", "LOAD_DEREF"):
            self._push(self._variable(name, value), effect - 1, is_below=name == "LOAD_GLOBAL")
        elif name in ATTRIBUTE_LOADS:
            self._push(self._attribute(self._pop(), value), effect)
        elif name in ("PUSH_NULL", "KW_NAMES"):
            self._keywords = value if name == "KW_NAMES" else self._keywords
            self._stack += [_NOTHING] * effect
        elif name.startswith(_STARTS):
            self._stack.append(
                self._variable(name, value) if "FAST" in name else _UNKNOWN._replace(name=value)
            )
        elif name in ("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF"):
            self._bind(value, self._pop() if effect else _UNKNOWN)
        elif name == "COPY":
            self._stack.append(self._stack[-arg] if len(self._stack) >= arg else _UNKNOWN)
        elif name == "SWAP" and len(self._stack) >= arg:
            self._stack[-arg], self._stack[-1] = self._stack[-1], self._stack[-arg]
        elif name in _FILLS:
            above, below = _FILLS[name]
            index = [self._pop() for _ in range(above)]
            target = self._pop()
            if name.endswith("ATTR"):
                target = self._attribute(target, value)
            self._fill(target, [*index, *(self._pop() for _ in range(below))])
        elif name in ("CALL", "CALL_KW"):
            self._stack.append(self._call(arg, self._pop().name if name == "CALL_KW" else self._keywords))
            self._keywords = ()
        elif name == "POP_TOP":
            dropped = self._pop()
            self.read |= dropped.made_of
            if dropped.is_change:
                self.filled |= dropped.keys
        elif name == "IS_OP" or name.endswith(("JUMP_IF_NONE", "JUMP_IF_NOT_NONE")):
            # Whether it is there says nothing of what it holds.
            self.read |= {key for seen in self._pop_all(2 if name == "IS_OP" else 1) for key in seen.made_of}
            self._stack += [_UNKNOWN] * (name == "IS_OP")
        else:
            self._compute(operation, effect, arg)

    def _compute(self, operation: Operation, effect: int, arg: int) -> None:
        """Make one value of others; where it is not known of how many, all are taken to be read."""
        name = operation.name
        takes = {"BINARY_SLICE": 3, "BUILD_MAP": 2 * arg}.get(name)
        takes = 2 if name in _TAKES_TWO else arg if name in _BUILDS else takes
        takes = 1 - effect if name.startswith(_TAKES_ONE) else takes
        if takes is None:
            if name in _IDLE or name.startswith("JUMP_") or (name.startswith("LOAD_") and effect > 0):
                takes = 0
            elif name == "CALL_FUNCTION_EX":
                takes = 1 - effect
            else:
                takes = -effect if effect < 0 else 1
            self._see(self._pop_all(takes))
            self._stack += [_UNKNOWN] * (effect + takes)
            return
        values = self._pop_all(takes)
        made = _Value(made_of=_all_of(values))
        if name in ("BINARY_SUBSCR", "BINARY_SLICE") or (name == "BINARY_OP" and arg == _SUBSCRIPT):
            whole, *index = values
            made = whole._replace(made_of=whole.made_of | _all_of(index), name="", is_whole=False)
        elif name == "BINARY_OP" and arg in _IN_PLACE:
            left, right = values
            made = left._replace(made_of=left.made_of | (_all_of([right]) - left.keys), name=_CHANGED)
        self._stack.append(made)

    def _call(self, count: int, keywords: tuple[str, ...]) -> _Value:
        """Give what is known of what a call gives; the function lies below what it is given."""
        given = self._pop_all(count)
        function, other = self._pop_all(2)
        if function is _NOTHING:
            function, other = other, _NOTHING
        if other is not _NOTHING:
            return _Value(made_of=_all_of([function, other, *given]))
        name = function.name
        positional = given[: len(given) - len(keywords)]
        outs = [
            value
            for value, keyword in zip(reversed(given), reversed(keywords), strict=False)
            if keyword == "out"
        ]
        target = outs[0] if outs else positional[0] if positional and name in FILLING else None
        if target is not None and target.is_part:
            self._fill(target, [])
            made_of = _all_of(value for value in given if value is not target) - target.keys
            gives_back = bool(outs) or name in GIVING_BACK
            return _Value(
                target.keys if gives_back else frozenset(), made_of | function.made_of, "", is_part=gives_back
            )
        made_of = _all_of(given) | function.made_of
        if function.is_whole or not function.is_part:
            return _Value(made_of=made_of | function.keys)
        # Of a global it may be a class's, as in ``object.__setattr__(self, …)``.
        if name in SETTING and any(key[0] == "given" for key in function.keys):
            self._fill(function, given)
            return _UNKNOWN
        # A method of the object itself may use anything of it.
        self.read |= {key for key in function.keys if key == ("attribute", name)}
        return _Value(function.keys, made_of, is_part=name == "setdefault", is_change=name in CHANGING)

    def _fill(self, target: _Value, others: list[_Value]) -> None:
        """What is put somewhere is read, unless it comes from there: ``x.n = x.n + 1`` shows to nobody else."""
        self.read |= target.made_of | (_all_of(others) - target.keys)
        if target.is_part:
            self.filled |= target.keys
        else:
            self.read |= target.keys

    def _bind(self, name: str, value: _Value) -> None:
        if name in self._parts:
            self._parts[name] = value._replace(made_of=frozenset(), is_whole=False, is_change=False)
            self.read |= value.made_of
        elif name in self._given and value.name == _CHANGED and ("given", name) in value.keys:
            self._fill(value, [])
        else:
            self._see([value])
            if name in self._given:
                # It is another value from here on, of which nothing is known.
                self._see([self._variable("LOAD_DEREF" if name in self._cells else "LOAD_FAST", name)])

    def _variable(self, operation: str, name: str) -> _Value:
        if operation == "LOAD_GLOBAL":
            key: Key = ("global", name)
        elif operation == "LOAD_DEREF" and name not in self._cells:
            key = ("free", name)
        elif name in self._given and (operation == "LOAD_DEREF" or name not in self._cells):
            key = ("given", name)
        else:
            return self._parts.get(name, _UNKNOWN)
        keys = {key, ("attribute", "")} if self._given and key == ("given", self._given[0]) else {key}
        return _Value(frozenset(keys), name=name, is_part=True, is_whole=True)

    def _attribute(self, value: _Value, name: str) -> _Value:
        if ("attribute", "") in value.keys:
            named: Key = ("attribute", name)
            return value._replace(
                keys=(value.keys - {("attribute", "")}) | {named}, name=name, is_whole=False
            )
        is_given = any(key[0] == "given" for key in value.keys)
        if value.is_whole and name in CHANGING and not is_given:
            self.collected |= value.keys
            return _Value(made_of=value.made_of, name=name)
        if name in _FORMS and is_given:
            return _Value(made_of=value.made_of, name=name)
        return value._replace(name=name, is_whole=False)

    def _see(self, values: Iterable[_Value]) -> None:
        self.read |= _all_of(values)

    def _push(self, value: _Value, empty: int, *, is_below: bool = False) -> None:
        """Put a value on the stack, with the empty place that a call needs."""
        places = [_NOTHING] * empty
        self._stack += [*places, value] if is_below else [value, *places]

    def _pop(self) -> _Value:
        return self._stack.pop() if self._stack else _UNKNOWN

    def _pop_all(self, count: int) -> list[_Value]:
        return [self._pop() for _ in range(count)][::-1]


def _all_of(values: Iterable[_Value]) -> Keys:
    return frozenset(key for value in values for key in (*value.keys, *value.made_of))


def _meet(one: list[_Value], other: list[_Value]) -> list[_Value]:
    """Give the stack where two branches meet, as far as both have one."""
    if not one or not other:
        return list(one or other)
    length = min(len(one), len(other))
    return [
        mine
        if mine == yours
        else _Value(
            mine.keys | yours.keys,
            mine.made_of | yours.made_of,
            is_part=mine.is_part or yours.is_part,
            is_change=mine.is_change or yours.is_change,
        )
        for mine, yours in zip(one[-length:], other[-length:], strict=True)
    ]


def _bound_once(operations: list[Operation], given: Iterable[str]) -> set[str]:
    """Name the variables of a function that stand for one value: bound once, and not loaded before that."""
    binds: Counter[str] = Counter()
    early: set[str] = set(given)
    for operation in operations:
        if operation.name in ("STORE_FAST", "DELETE_FAST", "LOAD_FAST_AND_CLEAR"):
            binds[operation.value] += 1
        elif operation.name.startswith("LOAD_FAST") and operation.value not in binds:
            early.add(operation.value)
    return {name for name, count in binds.items() if count == 1 and name not in early}

"""A code object without what says nothing of its effect, and the names it reads from outside.

Instructions are taken one by one, constants by value, jumps by the instruction they lead to, so that a docstring
added (which shifts the constants) changes nothing. Left out besides docstrings: line numbers, file names, nested
functions' annotations, and what a class body says of its own name and place.
"""

from __future__ import annotations

import dis
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.operations import ATTRIBUTE_LOADS, Operation, expression_start, operations_of
from daskcache.fingerprint.plain import make_leaves

__all__ = ["Facts", "Import", "Read", "find_assigned", "read_code"]

# Not the flags of __future__ imports (they change annotations only), nor 3.13's for having a docstring.
_FLAGS = 0x3FF
_OF_THE_CLASS_ITSELF = frozenset(
    {"__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"}
)
# Of these the lowest bits of the argument say something besides the name.
_FLAGGED_NAMES = {"LOAD_SUPER_ATTR": 3}
_CONSTANT_LOADS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL"})
_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_VARIABLE_LOADS = frozenset(
    {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_DEREF", "LOAD_CLASSDEREF"}
    | {"LOAD_FROM_DICT_OR_DEREF", "LOAD_CLOSURE"}
)
_STORES = frozenset({"STORE_FAST", "STORE_DEREF", "STORE_NAME", "STORE_GLOBAL"})
_ASSIGNS_GLOBAL = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_ASSIGNS_VARIABLE = frozenset({"STORE_DEREF", "DELETE_DEREF"})
_ASSIGNING = frozenset(dis.opmap[name] for name in _ASSIGNS_GLOBAL | _ASSIGNS_VARIABLE)
_FILLERS = frozenset({"PUSH_NULL", "PRECALL", "KW_NAMES"})
_CALLS = frozenset({"CALL", "CALL_FUNCTION", "CALL_KW"})
_ANNOTATIONS = 0x04
_CLOSURE = 0x08
# 3.14 hands over a function that makes them.
_ATTRIBUTE_ANNOTATIONS = frozenset({_ANNOTATIONS, 0x10})

_digester = Digester()
_leaves = make_leaves(_digester)


class Read(NamedTuple):
    """A global name or closure variable that code reads, with the attributes that it goes on to."""

    name: str
    """The name."""
    attributes: tuple[str, ...]
    """Attributes read from it, from attribute to attribute."""
    call: str
    """How it is called where that is plain to see: ``"()"`` or one constant in parentheses; otherwise empty."""


class Import(NamedTuple):
    """A module that a function's body imports, and what it reads of it."""

    module: str
    """The name that is imported, without leading dots."""
    level: int
    """How many leading dots it has."""
    from_root: bool
    """Whether the name that is bound is the root package's, as of ``import a.b``."""
    attributes: tuple[str, ...]
    """What is read of it, from attribute to attribute."""
    call: str
    """As in `Read`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a code object is and what it reads, those nested in it included."""

    digest: bytes
    """Its identity, names read but not their values."""
    globals: tuple[Read, ...]
    """What it reads of its globals, sorted."""
    closure: tuple[Read, ...]
    """What it reads of variables that are not global, sorted."""
    imports: tuple[Import, ...]
    """What it imports, sorted."""
    attributes: frozenset[str]
    """The names of all attributes that it reads, of whatever."""
    words: frozenset[str]
    """Strings that may be names: code may read attributes by them."""


_facts: weakref.WeakKeyDictionary[CodeType, Facts] = weakref.WeakKeyDictionary()


def read_code(code: CodeType) -> Facts:
    """Read what a code object is and what it depends on.

    Parameters
    ----------
    code : code
        Any code object. The result is remembered for as long as it lives.

    Returns
    -------
    Facts
        Its digest, unsalted, and the names it reads.

    Examples
    --------
    >>> import math
    >>> facts = read_code((lambda x: math.floor(x) + K).__code__)
    >>> [(read.name, read.attributes) for read in facts.globals]
    [('K', ()), ('math', ('floor',))]
    """
    found = _facts.get(code)
    if found is None:
        found = _facts[code] = _Reader(code).facts()
    return found


def find_assigned(code: CodeType) -> list[str]:
    """List the variables that code assigns or deletes and that are there after it has run.

    Parameters
    ----------
    code : code
        The code of a function.

    Returns
    -------
    list of str
        Sorted names: of globals, and of variables of functions around it; also where functions in it do so. Not those
        that only import a module.

    Examples
    --------
    >>> def count():
    ...     global calls
    ...     calls += 1
    >>> find_assigned(count.__code__)
    ['calls']
    """
    names, free = _assigned(code)
    return sorted(names | free)


def _assigned(code: CodeType) -> tuple[set[str], set[str]]:
    """Name the globals and the free variables that code assigns."""
    names: set[str] = set()
    free: set[str] = set()
    if not _ASSIGNING.isdisjoint(code.co_code[::2]):
        operations = list(operations_of(code))
        imported = Counter(
            name
            for place, operation in enumerate(operations)
            if operation.name == "IMPORT_NAME"
            for name, _ in _bound_names(operations, place)
        )
        assigned = Counter(
            (operation.name in _ASSIGNS_GLOBAL, operation.value)
            for operation in operations
            if operation.name in _ASSIGNS_GLOBAL or operation.name in _ASSIGNS_VARIABLE
        )
        for (is_global, name), times in assigned.items():
            if times > imported[name]:
                (names if is_global else free).add(name)
        free &= set(code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner_names, inner_free = _assigned(constant)
            names |= inner_names
            free |= inner_free.difference(code.co_cellvars)
    return names, free


class _Reader:
    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.globals: set[Read] = set()
        self.closure: set[Read] = set()
        self.bound: set[tuple[str, Import]] = set()
        self.attributes: set[str] = set()
        self.words: set[str] = set()

    def facts(self) -> Facts:
        digest = self.digest(self.code)
        reads = (*self.closure, *self.globals)
        names = {read.name for read in reads}
        imports = {
            target._replace(attributes=(*target.attributes, *read.attributes), call=read.call)
            for name, target in self.bound
            for read in reads
            if read.name == name
        }
        # A nested class holds what its body imports as attributes, which have no names of their own.
        imports |= {target for name, target in self.bound if name not in names}
        free = {read for read in self.closure if read.name in self.code.co_freevars}
        return Facts(
            digest,
            tuple(sorted(self.globals)),
            tuple(sorted(free)),
            tuple(sorted(imports)),
            frozenset(self.attributes),
            frozenset(self.words),
        )

    def digest(self, code: CodeType) -> bytes:
        operations = _without_self_description(_without_annotations(list(operations_of(code))))
        self._collect(operations)
        places = {operation.offset: place for place, operation in enumerate(operations)}
        offsets = [operation.offset for operation in operations]

        def place_of(offset: int) -> int:
            found = places.get(offset)
            if found is None:
                found = next((at for at, start in enumerate(offsets) if start >= offset), len(offsets))
            return found

        parts: list[Any] = [code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
        parts += [code.co_flags & _FLAGS, code.co_varnames, code.co_cellvars, code.co_freevars]
        encoded = [self._constant(tuple(parts))]
        for operation in operations:
            value = place_of(operation.value) if operation.is_jump else operation.value
            encoded += [operation.name.encode(), self._constant(value)]
            flags = _FLAGGED_NAMES.get(operation.name)
            if flags is not None:
                encoded.append(self._constant((operation.arg or 0) & flags))
        handlers = tuple(
            tuple(place_of(offset) for offset in entry[:3]) + entry[3:] for entry in _exception_table(code)
        )
        encoded.append(self._constant(handlers))
        return _digester.combine(b"code", encoded)

    def _constant(self, value: Any) -> bytes:
        kind = type(value)
        if kind is tuple:
            return _digester.combine(b"tuple", [self._constant(item) for item in value])
        if kind is frozenset:
            return _digester.combine(b"frozenset", sorted(self._constant(item) for item in value))
        if kind is CodeType:
            return self.digest(value)
        leaf = _leaves.get(kind)
        found = None if leaf is None else leaf(value)
        if found is None:
            raise UncacheableError(f"code with a constant of {kind}")
        return found

    def _collect(self, operations: list[Operation]) -> None:
        for place, operation in enumerate(operations):
            if operation.name in _GLOBAL_LOADS:
                self.globals.add(_read(operations, place, operation.value))
            elif operation.name in _VARIABLE_LOADS:
                self.closure.add(_read(operations, place, operation.value))
            elif operation.name.startswith("LOAD_FAST_"):
                # Two variables in one instruction; what follows reads of the second.
                first, second = operation.value if isinstance(operation.value, tuple) else (None, None)
                if isinstance(first, str) and isinstance(second, str):
                    self.closure.add(Read(first, (), ""))
                    self.closure.add(_read(operations, place, second))
            elif operation.name == "STORE_FAST_LOAD_FAST":
                self.closure.add(_read(operations, place, operation.value[1]))
            elif operation.name in ATTRIBUTE_LOADS or operation.name in _FLAGGED_NAMES:
                self.attributes.add(str(operation.value))
            elif operation.name == "LOAD_CONST" and isinstance(operation.value, str):
                if operation.value.isidentifier():
                    self.words.add(operation.value)
            elif operation.name == "IMPORT_NAME":
                self.bound.update(_bound_names(operations, place))


def _read(operations: list[Operation], place: int, name: str) -> Read:
    """Follow a loaded name from attribute to attribute and see whether it is called at once."""
    attributes: list[str] = []
    after = place + 1
    while after < len(operations) and operations[after].name in ATTRIBUTE_LOADS:
        attributes.append(str(operations[after].value))
        after += 1
    loaded: list[str] = []
    for operation in operations[after : after + 5]:
        if operation.name in _CONSTANT_LOADS and not loaded:
            loaded.append(repr(operation.value))
        elif operation.name in _CALLS and operation.arg == len(loaded):
            return Read(name, tuple(attributes), f"({', '.join(loaded)})")
        elif operation.name == "LOAD_CONST" and isinstance(operation.value, tuple):
            continue
        elif operation.name not in _FILLERS:
            break
    return Read(name, tuple(attributes), "")


def _bound_names(operations: list[Operation], place: int) -> Iterator[tuple[str, Import]]:
    """List the names that an import binds, each with where its value comes from."""
    module = str(operations[place].value)
    level, names = operations[place - 2].value, operations[place - 1].value
    target = Import(module, level if isinstance(level, int) else 0, not names, (), "")
    steps: tuple[str, ...] = ()
    for after in range(place + 1, len(operations)):
        operation = operations[after]
        if operation.name == "IMPORT_FROM":
            if names:
                steps = (str(operation.value),)
            else:
                # ``import a.b as c`` goes down from the root, name by name.
                steps = (*steps, str(operation.value))
        elif operation.name in _STORES:
            yield str(operation.value), target._replace(attributes=steps)
            if not names:
                return
        elif operation.name in {"STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"}:
            yield str(operation.value[0]), target._replace(attributes=steps)
            return
        elif operation.name not in {"SWAP", "POP_TOP"} or (operation.name == "POP_TOP" and names):
            return


def _without_self_description(operations: list[Operation]) -> list[Operation]:
    kept: list[Operation] = []
    for operation in operations:
        if operation.name == "STORE_NAME" and operation.value in _OF_THE_CLASS_ITSELF and kept:
            kept.pop()
        else:
            kept.append(operation)
    return kept


def _without_annotations(operations: list[Operation]) -> list[Operation]:
    """Drop what builds the annotations of nested functions, which is evaluated but does nothing."""
    dropped: set[int] = set()
    cleared: dict[int, Operation] = {}
    for place, operation in enumerate(operations):
        if operation.name == "MAKE_FUNCTION" and operation.arg and operation.arg & _ANNOTATIONS:
            end = place - 2
            if operation.arg & _CLOSURE:
                end = expression_start(operations, end) - 1
            removable: Iterable[int] = ()
        elif operation.name == "SET_FUNCTION_ATTRIBUTE" and operation.arg in _ATTRIBUTE_ANNOTATIONS:
            made = place
            while made >= 0 and operations[made].name != "MAKE_FUNCTION":
                made -= 1
            between = [
                later for later in operations[made + 1 : place] if later.name != "SET_FUNCTION_ATTRIBUTE"
            ]
            if made < 0 or between:
                continue
            end = made - 2
            for _ in range(made + 1, place):
                end = expression_start(operations, end) - 1
            removable = (place,)
        else:
            continue
        start = expression_start(operations, end)
        if start < 0 or any(operations[at].is_jump for at in range(start, end + 1)):
            continue
        dropped.update(range(start, end + 1), removable)
        if operation.name == "MAKE_FUNCTION":
            flags = (operation.arg or 0) & ~_ANNOTATIONS
            cleared[place] = operation._replace(arg=flags, value=flags)
    return [
        cleared.get(place, operation) for place, operation in enumerate(operations) if place not in dropped
    ]


def _exception_table(code: CodeType) -> Iterator[tuple[int, ...]]:
    """Decode which instructions' exceptions are handled where: start, end, target, depth and flag."""
    data = iter(code.co_exceptiontable)

    def number(first: int) -> int:
        value = first & 0x3F
        while first & 0x40:
            first = next(data)
            value = value << 6 | first & 0x3F
        return value

    for first in data:
        start = number(first) * 2
        length = number(next(data)) * 2
        target = number(next(data)) * 2
        depth = number(next(data))
        yield start, start + length, target, depth

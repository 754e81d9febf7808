"""What functions of the user's fill besides what they return: arguments, variables of others, objects of methods."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from daskcache.fingerprint.bytecode import read_code
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.distributions import find_home
from daskcache.fingerprint.impure_names import CHANGING, CONTAINERS, FILLING, GIVING_BACK
from daskcache.fingerprint.operations import operations_of
from daskcache.fingerprint.uses import find_attribute_uses, find_uses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["find_filled_arguments", "find_filled_attributes", "find_filled_variables"]

_EMPTY = object()
_SETS = frozenset({"STORE_ATTR", "DELETE_ATTR"})
# Python calls them when a class is made, which is then what a registry of classes holds.
_AT_DEFINITION = frozenset({"__init_subclass__", "__set_name__"})
_ANY = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
# Where toolz and numpy keep what they call.
_HOLDERS = {"func": frozenset({"curry"}), "pyfunc": frozenset({"vectorize"})}


def find_filled_arguments(function: Any) -> list[str]:
    """Name what a function that a task calls fills of what it is given, and does not read.

    Not for functions that others call: those may be given an array to fill, which is the other's own.

    Parameters
    ----------
    function : callable
        What a task calls: a function, a method, or an object with a ``__call__``.

    Returns
    -------
    list of str
        Sorted names of parameters, and of attributes of the object. None for what is not the user's, and none of what
        it reads as well: a block that it changes and gives back, a memo.

    Examples
    --------
    >>> def write(block, target):
    ...     target[...] = block
    ...     block[0] = 0
    ...     return block
    >>> find_filled_arguments(write)
    ['target']
    """
    if isinstance(function, FunctionType):
        wrapped = getattr(function, "__wrapped__", None)
        inner = find_filled_arguments(wrapped) if isinstance(wrapped, FunctionType) else []
        return sorted({*_filled_parameters(function), *(name for name in inner if _takes(function, name))})
    for attribute, kinds in _HOLDERS.items():
        if type(function).__name__ in kinds and hasattr(function, attribute):
            return find_filled_arguments(getattr(function, attribute))
    if isinstance(function, BuiltinFunctionType):
        return [function.__name__] if _is_filling(function) else []
    owner, method = function, getattr(type(function), "__call__", None)  # noqa: B004 -- as a function, to look into
    if isinstance(function, MethodType):
        owner, method = function.__self__, function.__func__
    if not isinstance(method, FunctionType) or not _is_users(method):
        return []
    kind = owner if isinstance(owner, type) else type(owner)
    own = method.__code__.co_varnames[:1]
    names = [name for name in _filled_parameters(method) if name not in own]
    return sorted({*names, *find_filled_attributes(kind, [method.__name__])})


def find_filled_attributes(kind: type, names: Iterable[str]) -> list[str]:
    """Name the attributes that methods fill of their object and do not read, nor any that they lead to.

    Parameters
    ----------
    kind : type
        The object's class.
    names : iterable of str
        What is called or read of the object.

    Returns
    -------
    list of str
        Sorted. Empty where the object itself is handed on, so that nobody knows what is read of it.

    Examples
    --------
    >>> class Counter:
    ...     def add(self, n):
    ...         self.calls += 1
    ...         self.total = n + self.last()
    ...     def last(self):
    ...         return self.total
    >>> find_filled_attributes(Counter, ["add"])
    ['calls']
    """
    if declared(kind) is not None:
        return []
    filled: set[str] = set()
    read: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        method = _method(kind, name)
        if method is None:
            read.add(name)
            continue
        if declared(method) is not None:
            continue
        for attribute, uses in find_attribute_uses(method.__code__).items():
            if not attribute:
                return []
            if uses.is_read:
                waiting.append(attribute)
            elif _is_users(method):
                filled.add(attribute)
    return sorted(filled - read)


def find_filled_variables(fp: Fingerprinter, func: FunctionType) -> list[str]:
    """Name the variables of others that a function fills and does not read, so that it is run for that.

    Parameters
    ----------
    fp : Fingerprinter
        Knows the user's modules, and sources.
    func : function
        Of the user's, whoever calls it.

    Returns
    -------
    list of str
        Sorted names of globals, and of variables of functions around it.

    Examples
    --------
    >>> from daskcache.fingerprint import Fingerprinter
    >>> seen = []
    >>> find_filled_variables(Fingerprinter(), lambda block: [seen.append(1), block])
    ['seen']
    """
    if func.__name__ in _AT_DEFINITION:
        return []
    filled = set(_find_filled_objects(fp, func))
    for (kind, name), uses in find_uses(func.__code__).items():
        value = None if kind == "given" else _value_of(func, kind, name)
        # Code puts on sys.path what it imports. What lies in a file is there for others, whoever reads it here.
        if not (value is None or value is sys or _says_what_counts(func, name, value)) and (
            (not uses.is_read and (uses.is_filled or type(value) in CONTAINERS))
            or (uses.is_filled and fp.find_source(value) is not None)
        ):
            filled.add(name)
    return sorted(filled)


def _value_of(func: FunctionType, kind: str, name: str) -> object:
    if kind == "global":
        return func.__globals__.get(name)
    cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
    try:
        value: object = cells[name].cell_contents
    except ValueError:
        return _EMPTY
    return value


def _says_what_counts(func: FunctionType, name: str, value: object) -> bool:
    """Whether all that is read of a module says of itself what counts of it."""
    if not isinstance(value, ModuleType) or any(each.name in _SETS for each in operations_of(func.__code__)):
        return False
    reads = [read.attributes[:1] for read in read_code(func.__code__).globals if read.name == name]
    return all(
        read and hasattr(type(vars(value).get(read[0])), "__daskcache_fingerprint__") for read in reads
    )


def _find_filled_objects(fp: Fingerprinter, func: FunctionType) -> Iterator[str]:
    """Name the objects whose methods a function calls, and which these fill and do not read."""
    facts = read_code(func.__code__)
    for reads, kind in ((facts.globals, "global"), (facts.closure, "free")):
        for name in {read.name for read in reads}:
            owner = type(_value_of(func, kind, name))
            if owner.__module__ == "builtins" or fp.home(owner.__module__).kind != "user":
                continue
            read = {read.attributes[:1] for read in reads if read.name == name}
            if () not in read and find_filled_attributes(owner, [first for (first,) in read]):
                yield name


def _filled_parameters(function: FunctionType) -> list[str]:
    found = [
        name
        for (kind, name), uses in find_uses(function.__code__).items()
        if kind == "given" and not uses.is_read
    ]
    return sorted(found) if found and _is_users(function) and declared(function) is None else []


def _is_filling(function: BuiltinFunctionType) -> bool:
    """Whether it is a container's method such as ``seen.append``, or one of Python's or numpy's functions that fill."""
    name = function.__name__
    return (name in CHANGING and type(function.__self__) in CONTAINERS) or name in FILLING - GIVING_BACK


def _takes(wrapper: FunctionType, name: str) -> bool:
    """Whether a wrapper may be given a parameter of what it wraps; otherwise it makes what is filled itself."""
    code = wrapper.__code__
    return bool(code.co_flags & _ANY) or name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _is_users(function: FunctionType) -> bool:
    return find_home(function.__globals__.get("__name__")).kind == "user"


def _method(kind: type, name: str) -> FunctionType | None:
    """Find the function that runs when an attribute of an object is read or called."""
    found: Any = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, cached_property):
        found = found.func
    elif isinstance(found, classmethod):
        found = found.__func__
    return found if isinstance(found, FunctionType) else None

"""Functions whose result depends on more than their arguments, as far as code that calls them shows it."""

from __future__ import annotations

import ast
import fnmatch
import functools
import os
import random
import re
import sys
from collections.abc import Iterable, Sequence
from types import BuiltinMethodType, MethodType
from typing import Any, Literal

from daskcache.errors import UncacheableError, WritesError
from daskcache.fingerprint.filled import find_filled_arguments
from daskcache.fingerprint.impure_names import (
    NOW_TAKERS,
    OF_NAMED_PATHS,
    OF_PATHS,
    REASONS,
    WRITES,
    WRITING,
    WRITING_OF_PATHS,
)

__all__ = [
    "find_assignment_impurity",
    "find_attribute_impurity",
    "find_call_impurity",
    "find_impurity",
    "find_named_impurity",
    "find_path_reading",
    "find_writing",
    "is_declared",
    "is_seedable",
    "refusal",
    "takes_now",
]

_DECLARE = "declare the function with @daskcache.version('1') if that does not matter"
_DECLARE_FILE = "declare the file with daskcache.source(path), as the argument or as the function's decorator"

# What a function is, besides what it does; and what has been derived from a class anywhere.
_UNCOUNTED = frozenset(
    [
        "__doc__",
        "__annotations__",
        "__annotate__",
        "__code__",
        "__globals__",
        "__subclasses__",
        "__file__",
        "__firstlineno__",
        "__static_attributes__",
        "__orig_bases__",
        "__type_params__",
        "__parameters__",
        "__dataclass_params__",
        "co_filename",
        "co_firstlineno",
        "f_globals",
        "f_locals",
        "f_back",
    ]
)
# What Python writes for dataclasses reads these to show an object.
_PLACES = frozenset({"__module__", "__qualname__"})
_SHOWING = frozenset({"__repr__", "__str__"})
_READS = ("reads a file", "looks at the file system")
# What they open shows in what they return.
_OPENS_LAZILY = re.compile(
    r"reads a file \((xarray\.open_|zarr\.open|dask\.(\w+\.)?(read_|from_zarr|make_reader))"
)

MayRead = bool | Literal["lazily"]
_BY_NAME = {name: reason for reason, names in REASONS.items() for name in names.split()}
_BY_MODULE = {name[:-2]: reason for name, reason in _BY_NAME.items() if name.endswith(".*")}

# Harmless with a seed, and not without.
_SEEDABLE = frozenset(
    [
        "numpy.random.default_rng",
        "numpy.random.RandomState",
        "numpy.random.SeedSequence",
        "numpy.random.PCG64",
        "numpy.random.PCG64DXSM",
        "numpy.random.MT19937",
        "numpy.random.Philox",
        "numpy.random.SFC64",
        "random.Random",
        "_random.Random",
        "sklearn.check_random_state",
        "scipy.check_random_state",
        "cupy.random.default_rng",
        "cupy.random.RandomState",
    ]
)
# All that is spelt in small letters there draws from one generator, but for these.
_HIDDEN = re.compile(r"((numpy|cupy)\.)?random\.(?!(default_rng|mtrand|bit_generator)$)[a-z][a-z_0-9]*")
_UNSEEDED_CALLS = frozenset({"()", "(None)"})
_NOW = re.compile(r"\('(now|today)'[,)]", re.IGNORECASE)


def find_impurity(value: Any, attributes: tuple[str, ...], call: str) -> str | None:
    """Say why code that reads a value is not a function of its arguments.

    Parameters
    ----------
    value : object
        What is read.
    attributes : tuple of str
        Attributes that the code goes on to read of it.
    call : str
        How the code calls the last of them, as `bytecode.Read` gives it.

    Returns
    -------
    str or None
        What it does, with its name; None for what is not recognised.

    Examples
    --------
    >>> import time, datetime
    >>> find_impurity(time.time, (), "()")
    "reads the clock (time.time); declare the function with @daskcache.version('1') if that does not matter"
    >>> find_impurity(datetime.datetime, ("now",), "()").partition(";")[0]
    'reads the clock (datetime.datetime.now)'
    """
    for name in _names(value, attributes):
        why = find_named_impurity(name, call)
        if why is not None:
            return why
    if _is_hidden_generator(value):
        shown = getattr(value, "__name__", repr(value))
        module = "random" if isinstance(value.__self__, random.Random) else "numpy.random"
        return f"draws from the process's own random state ({module}.{shown}); {_DECLARE}, or pass a seeded generator"
    return None


def find_named_impurity(name: str, call: str) -> str | None:
    """Say the same of a dotted name, which need not be loaded.

    Parameters
    ----------
    name : str
        A dotted name, such as ``"requests.get"``.
    call : str
        As in `find_impurity`.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> find_named_impurity("requests.get", "").partition(";")[0]
    'talks to the network (requests.get)'
    """
    reason = _BY_NAME.get(name)
    prefix = name.rpartition(".")[0]
    while reason is None and prefix:
        # Whatever is read of what is recognised.
        reason, prefix = _BY_NAME.get(prefix), prefix.rpartition(".")[0]
    if reason is None and _HIDDEN.fullmatch(name):
        reason = "draws from the process's own random state"
    if reason is None:
        reason = next((why for module, why in _BY_MODULE.items() if name.startswith(f"{module}.")), None)
    if reason is None and name in _SEEDABLE and call in _UNSEEDED_CALLS:
        reason = "draws unseeded random numbers"
    if reason is None and name in NOW_TAKERS and _NOW.match(call):
        reason = "reads the clock"
    if reason in _READS:
        return f"{reason} ({name}); {_DECLARE_FILE}"
    return None if reason is None else f"{reason} ({name}); {_DECLARE}"


def find_attribute_impurity(names: Iterable[str], function: str = "") -> str | None:
    """Say the same of code by the attributes that it reads, of whatever.

    Parameters
    ----------
    names : iterable of str
        The attributes' names.
    function : str, optional
        The name of the function that reads them.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> find_attribute_impurity(["shape", "__doc__"]).partition(";")[0]
    'reads what says nothing of what code does (.__doc__)'
    """
    uncounted = _UNCOUNTED if function in _SHOWING else _UNCOUNTED | _PLACES
    found = sorted(uncounted.intersection(names))
    return f"reads what says nothing of what code does (.{found[0]}); {_DECLARE}" if found else None


def find_path_reading(attributes: frozenset[str], names: Iterable[str]) -> str | None:
    """Say whether code asks a path of `pathlib` for what is there, as far as attributes show it.

    Parameters
    ----------
    attributes : frozenset of str
        The attributes that it reads, of whatever.
    names : iterable of str
        What it reads and imports besides.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> find_path_reading(frozenset(["read_text"]), []).partition(";")[0]
    'reads a file (pathlib.Path.read_text)'
    >>> find_path_reading(frozenset(["open"]), ["webbrowser"])
    """
    found = _first(attributes, names, OF_PATHS, OF_NAMED_PATHS)
    return f"{_READS[0]} (pathlib.Path.{found}); {_DECLARE_FILE}" if found else None


def _first(
    attributes: frozenset[str], names: Iterable[str], any_: frozenset[str], of_paths: frozenset[str]
) -> str | None:
    """Find one of some attributes, or of others where code speaks of paths."""
    speaks = "Path" in attributes or "Path" in names
    return min(attributes & (any_ | of_paths if speaks else any_), default=None)


def find_writing(attributes: frozenset[str], names: Iterable[str]) -> str | None:
    """Say whether code calls methods that write files, as far as attributes show it.

    Parameters
    ----------
    attributes : frozenset of str
        The attributes that it reads, of whatever.
    names : iterable of str
        What it reads and imports besides.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> find_writing(frozenset(["shape", "to_netcdf"]), []).partition(";")[0]
    'writes a file (.to_netcdf)'
    >>> find_writing(frozenset(["touch"]), [])
    """
    found = _first(attributes, names, WRITING, WRITING_OF_PATHS)
    return f"{WRITES} (.{found}); {_DECLARE}" if found else None


def refusal(why: str, path: tuple[str, ...] = ()) -> UncacheableError:
    """Make the error for what code was found to do.

    Parameters
    ----------
    why : str
        What one of the functions here gave.
    path : tuple of str, optional
        The way to it.

    Returns
    -------
    UncacheableError
        A `WritesError` for code that writes.

    Examples
    --------
    >>> refusal(find_named_impurity("numpy.save", "")).message.partition(";")[0]
    'writes a file (numpy.save)'
    """
    return (WritesError if why.startswith(WRITES) else UncacheableError)(why, path)


def find_assignment_impurity(names: Sequence[str]) -> str | None:
    """Say the same of code by the variables that it leaves changed.

    Parameters
    ----------
    names : sequence of str
        What `bytecode.find_assigned` gave.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> find_assignment_impurity(["calls"]).partition(";")[0]
    'changes a variable that is not its own (calls)'
    """
    return f"changes a variable that is not its own ({names[0]}); {_DECLARE}" if names else None


def find_call_impurity(function: Any) -> str | None:
    """Say the same of a function that a task calls by itself, however it is wrapped.

    Parameters
    ----------
    function : callable
        What a task calls.

    Returns
    -------
    str or None
        As from `find_impurity`.

    Examples
    --------
    >>> import numpy
    >>> find_call_impurity(numpy.loadtxt).partition(";")[0]
    'reads a file (numpy.loadtxt)'
    """
    if isinstance(function, functools.partial):
        return find_call_impurity(function.func)
    if type(function).__name__ == "Compose":
        steps = (getattr(function, "first", None), *getattr(function, "funcs", ()))
        return next((why for step in steps if (why := find_call_impurity(step)) is not None), None)
    return find_impurity(function, (), "") or find_assignment_impurity(find_filled_arguments(function))


def is_seedable(value: Any) -> bool:
    """Whether something makes random numbers of a seed, and others each time without one.

    Parameters
    ----------
    value : object
        What is called.

    Returns
    -------
    bool
        True for what makes a generator.

    Examples
    --------
    >>> import random
    >>> is_seedable(random.Random), is_seedable(random.random)
    (True, False)
    """
    return not _SEEDABLE.isdisjoint(_names(value, ()))


def takes_now(value: Any) -> bool:
    """Whether something takes ``"now"`` for a time.

    Parameters
    ----------
    value : object
        What is called.

    Returns
    -------
    bool
        True for numpy's times and those of pandas.

    Examples
    --------
    >>> import numpy
    >>> takes_now(numpy.datetime64), takes_now(str)
    (True, False)
    """
    return not NOW_TAKERS.isdisjoint(_names(value, ()))


def is_declared(why: str | None, call: str, may_read: MayRead, paths: Iterable[str]) -> bool:
    """Whether code may do what it was found to do, because the files that it reads are declared.

    Parameters
    ----------
    why : str or None
        What `find_impurity` gave.
    call : str
        How the code calls it, as `bytecode.Read` gives it. A path that stands there has to be a declared one.
    may_read : bool or "lazily"
        Whether any file is declared; or whether files may be opened of which nothing but labels is read.
    paths : iterable of str
        The absolute paths and patterns that the function itself declares.

    Returns
    -------
    bool
        True also where nothing was found.

    Examples
    --------
    >>> is_declared(find_named_impurity("_io.open", "('/data/a')"), "('/data/a')", True, ["/data"])
    True
    """
    if why is None:
        return True
    if may_read == "lazily":
        return _OPENS_LAZILY.match(why) is not None
    if not may_read or not why.startswith(_READS):
        return False
    if not call.startswith(("('", '("')):
        return True
    path = ast.literal_eval(call)
    full = path if "://" in path else os.path.abspath(os.path.expanduser(path))
    return any(
        full == one or full.startswith(f"{one.rstrip('/')}/") or fnmatch.fnmatch(full, one) for one in paths
    )


def _names(value: Any, attributes: tuple[str, ...]) -> list[str]:
    """Give the names that a value goes by: where it is defined, and from which package it is had."""
    kind = type(value)
    if kind.__module__ == "os" and kind.__qualname__ == "_Environ":
        return ["os._Environ"]
    if value is sys.modules:
        return ["sys.modules"]
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(name, str):
        return []
    if not isinstance(module, str):
        owner = getattr(value, "__self__", None)
        module = owner.__module__ if isinstance(owner, type) else None
        if module is None:
            return []
    root = module.partition(".")[0]
    names = [f"{module}.{name}", f"{root}.{name}"]
    if module.startswith("numpy.random."):
        names.append(f"numpy.random.{name}")
    if isinstance(value, type) and attributes:
        names += [f"{full}.{attributes[0]}" for full in names]
    return names


def _is_hidden_generator(value: Any) -> bool:
    """Whether a function draws from the generator that `random` or `numpy.random` hold for everyone."""
    if not isinstance(value, BuiltinMethodType | MethodType):
        return False
    owner = value.__self__
    if owner is random.random.__self__:  # type: ignore[attr-defined]
        return True
    numpy_random = sys.modules.get("numpy.random")
    return numpy_random is not None and owner is getattr(numpy_random.rand, "__self__", None)

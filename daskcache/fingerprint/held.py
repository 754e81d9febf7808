"""What functions of the user's hold, or are given, that makes of one call another: generators, paths, the clock's words."""

from __future__ import annotations

import functools
import pathlib
import random
import sys
from collections.abc import Iterable, Iterator
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.bytecode import Facts, Read, read_code
from daskcache.fingerprint.calls import Named
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.declared_files import declared_sources
from daskcache.fingerprint.distributions import find_home
from daskcache.fingerprint.impure import find_impurity, find_path_reading, takes_now
from daskcache.fingerprint.impure_names import NOWS
from daskcache.fingerprint.seeds import find_seeds, resolve, vars_of

__all__ = [
    "find_held_impurities",
    "holds_generator",
    "is_trusted",
    "refuse_generator",
    "refuse_path",
    "takes_path",
]

_DECLARE = "declare the function with @daskcache.version('1') if that does not matter"
# Of objects that say of themselves what they are, these are part of how they work.
_OF_PROCESS = ((hash, "hashes strings anew in each process"), (id, "reads where an object lies"))
_OF_OBJECTS = frozenset(
    {"__hash__", "__eq__", "__repr__", "__str__", "__copy__", "__deepcopy__", "__reduce__"}
)
_DEPTH = 2


def find_held_impurities(function: FunctionType) -> Iterator[tuple[str, str]]:
    """Say why a function of the user's is not one of its arguments, by the values that it reads besides.

    Parameters
    ----------
    function : function
        Its own code is looked at, and what that reads; not what it calls.

    Yields
    ------
    why : str
        As from `daskcache.fingerprint.impure.find_impurity`.
    step : str
        Where.

    Examples
    --------
    >>> import random
    >>> def pick(values, chance=random.Random(1)):
    ...     return chance.choice(values)
    >>> [why.partition(":")[0] for why, _ in find_held_impurities(pick)]
    ['draws from a random generator that goes on from call to call']
    """
    facts = read_code(function.__code__)
    for kind, reads in (("global", facts.globals), ("closure", facts.closure)):
        for read in reads:
            found = _found(function, kind, read)
            step = f"{kind} {'.'.join((read.name, *read.attributes))}"
            if function.__name__ not in _OF_OBJECTS:
                for called, reason in _OF_PROCESS:
                    if found[0] is called:
                        yield f"{reason} ({read.name}); {_DECLARE}", step
            if _draws(*found):
                yield _drawing(read.name), step
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        if holds_generator(value):
            yield _drawing(type(value).__name__), "default"
    why = find_seeds(function).refusal
    if why is not None:
        yield why, "call"
    if _says_now(function, facts) and _reads_times(function, facts):
        yield f"reads the clock ('now' or 'today'); {_DECLARE}", "constant"
    if _speaks_of_paths(function):
        why = find_path_reading(facts.attributes - _read_of_modules(function, facts), ["Path"])
        if why is not None:
            yield why, "path"


def refuse_generator(value: Any) -> None:
    """Raise for a value that is, or holds, a random generator: its state is another after each draw.

    Parameters
    ----------
    value : object
        What a function is given.

    Raises
    ------
    UncacheableError
        It does.

    Examples
    --------
    >>> import random
    >>> refuse_generator([random.Random(1)])
    Traceback (most recent call last):
    ...
    daskcache.errors.UncacheableError: draws from a random generator that goes on from call to call: list; make it ...
    """
    if holds_generator(value):
        raise UncacheableError(_drawing(type(value).__name__))


def refuse_path(value: Any) -> None:
    """Raise for a value that is, or holds, a path of `pathlib`.

    Parameters
    ----------
    value : object
        What a task is given.

    Raises
    ------
    UncacheableError
        It does.

    Examples
    --------
    >>> import pathlib
    >>> refuse_path(pathlib.Path("a.txt"))
    Traceback (most recent call last):
    ...
    daskcache.errors.UncacheableError: is given a path (a.txt), of which it is not seen whether its file is read: ...
    """
    path = _path_in(value, _DEPTH)
    if path is not None:
        raise UncacheableError(
            f"is given a path ({path}), of which it is not seen whether its file is read: give daskcache.source(path), "
            "with which the file counts, or str(path) where it is not read"
        )


def takes_path(function: Any, values: Iterable[Any]) -> bool:
    """Whether a function is given a path of `pathlib` and declares what it reads, or its version.

    Parameters
    ----------
    function : callable
        What a task calls.
    values : iterable
        What it is given.

    Returns
    -------
    bool
        True where the path counts as it stands.

    Examples
    --------
    >>> import daskcache, pathlib
    >>> @daskcache.version("1")
    ... def name(path):
    ...     return path.name
    >>> takes_path(name, [pathlib.Path("a.txt")]), takes_path(len, [pathlib.Path("a.txt")])
    (True, False)
    """
    while isinstance(function, functools.partial):
        function = function.func
    return is_trusted(function) and _path_in(list(values), _DEPTH + 1) is not None


def is_trusted(function: Any) -> bool:
    """Whether a function declares what it reads, or its version.

    Parameters
    ----------
    function : object
        Anything.

    Returns
    -------
    bool
        False also for what only wraps such a function.

    Examples
    --------
    >>> is_trusted(len)
    False
    """
    return declared(function) is not None or bool(declared_sources(function))


def holds_generator(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a random generator, whose state is another after each draw, or an object that has one.

    Parameters
    ----------
    value : object
        Anything.
    depth : int, optional
        How many containers and objects of the user's deep to look.

    Returns
    -------
    bool
        False also for bit generators and seeds, of which dask makes a generator in each task.

    Examples
    --------
    >>> import random
    >>> holds_generator([random.Random(1)]), holds_generator(random.random)
    (True, False)
    """
    if _is_generator(value):
        return True
    if not depth:
        return False
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) < 100 and any(holds_generator(part, depth - 1) for part in value)
    if isinstance(value, dict):
        return len(value) < 100 and any(holds_generator(part, depth - 1) for part in value.values())
    if isinstance(value, functools.partial):
        return holds_generator([*value.args, *value.keywords.values()], depth)
    if isinstance(value, MethodType | BuiltinMethodType):
        # Those of the process's own generators have a reason of their own.
        return find_impurity(value, (), "") is None and holds_generator(value.__self__, depth)
    held = {} if isinstance(value, type | ModuleType | FunctionType) else vars_of(value)
    return any(_is_generator(part) for part in held.values()) and _is_users(type(value))


def _is_generator(value: Any) -> bool:
    if isinstance(value, random.Random):
        return not isinstance(value, random.SystemRandom)
    kind = type(value)
    if kind.__module__.partition(".")[0] not in ("numpy", "cupy"):
        return False
    return kind.__name__ in ("Generator", "RandomState")


def _drawing(name: str) -> str:
    return (
        f"draws from a random generator that goes on from call to call: {name}; make it where it is used, of a seed "
        "that the function is given"
    )


def _found(function: FunctionType, kind: str, read: Read) -> tuple[Any, tuple[str, ...]]:
    """Follow a read through modules, to what is no module, with the attributes that are read of that."""
    attributes = read.attributes
    found = resolve(function, Named("global" if kind == "global" else "free", read.name), None)
    while isinstance(found, ModuleType) and attributes:
        found, attributes = vars(found).get(attributes[0]), attributes[1:]
    return found, attributes


def _draws(value: Any, attributes: tuple[str, ...]) -> bool:
    """Whether code that reads some attributes of a value may draw from a generator."""
    if isinstance(value, type | ModuleType | FunctionType):
        return False
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None and isinstance(value, numpy_random.BitGenerator):
        return True
    if attributes and _is_users(type(value)) and attributes[0] in vars_of(value):
        return holds_generator(vars_of(value)[attributes[0]])
    return holds_generator(value)


def _is_users(kind: type) -> bool:
    return find_home(kind.__module__).kind == "user"


def _says_now(function: FunctionType, facts: Facts) -> bool:
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    words = {*facts.words, *(value for value in defaults if isinstance(value, str))}
    return any(word.lower() in NOWS for word in words)


def _reads_times(function: FunctionType, facts: Facts) -> bool:
    """Whether code reads something that takes words for times."""
    reads = [Named("global", read.name, read.attributes) for read in facts.globals]
    reads += [Named("free", read.name, read.attributes) for read in facts.closure]
    reads += [
        Named(
            "import",
            target.module.partition(".")[0] if target.from_root else target.module,
            target.attributes,
        )
        for target in facts.imports
        if not target.level
    ]
    return any(takes_now(resolve(function, read, None)) for read in reads)


def _speaks_of_paths(function: FunctionType) -> bool:
    """Whether the module knows `pathlib`, or the function holds a path."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    held += [resolve(function, Named("free", name), None) for name in function.__code__.co_freevars]
    held += function.__globals__.values()
    return any(value is pathlib or value is pathlib.Path or isinstance(value, pathlib.Path) for value in held)


def _read_of_modules(function: FunctionType, facts: Facts) -> frozenset[str]:
    """Name the attributes that are read of modules, such as ``open`` of ``webbrowser``: what these do is known."""
    reads = [Named("global", read.name, read.attributes) for read in facts.globals]
    reads += [Named("free", read.name, read.attributes) for read in facts.closure]
    found = {step for target in facts.imports for step in target.attributes}
    for read in reads:
        if isinstance(resolve(function, read._replace(attributes=()), None), ModuleType):
            found.update(read.attributes)
    return frozenset(found)


def _path_in(value: Any, depth: int) -> pathlib.Path | None:
    if isinstance(value, pathlib.Path):
        return value
    if not depth or not isinstance(value, list | tuple | set | frozenset | dict) or len(value) > 1000:
        return None
    parts = value.values() if isinstance(value, dict) else value
    return next((found for part in parts if (found := _path_in(part, depth - 1)) is not None), None)

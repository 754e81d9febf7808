"""Where code makes random generators without a seed, also because nobody gave it one."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from daskcache.fingerprint.calls import Call, Named, calls_of
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.distributions import find_home
from daskcache.fingerprint.impure import find_impurity, is_seedable, takes_now
from daskcache.fingerprint.impure_names import NOWS

__all__ = ["Seeds", "depends_on_seed", "find_seeds", "find_unseeded_call", "resolve", "takes_seed", "vars_of"]

_MISSING: Any = object()
_SEED_NAMES = ("seed", "entropy", "x")
_GIVE_ONE = "give it a number, such as 0"


class Seeds(NamedTuple):
    """What a function seeds its random generators with."""

    parameters: frozenset[str] = frozenset()
    """Its parameters that are handed on to a generator as they are, so that None is no seed."""
    attributes: frozenset[str] = frozenset()
    """The same, of attributes of the object whose method it is."""
    refusal: str | None = None
    """Why what it draws is another each time, whoever calls it."""


FindSeeds = Callable[[FunctionType, type | None], Seeds]


def find_seeds(function: FunctionType, kind: type | None = None) -> Seeds:
    """Say what a function seeds its random generators with, those of the user's functions that it calls among them.

    Parameters
    ----------
    function : function
        Of the user's; others draw as their documentation says.
    kind : type, optional
        The class of the object whose method it is.

    Returns
    -------
    Seeds
        For most functions: nothing.

    Examples
    --------
    >>> import numpy as np
    >>> def draw(n, seed=None):
    ...     return np.random.default_rng(seed).random(n)
    >>> def call(n):
    ...     return draw(n)
    >>> sorted(find_seeds(draw).parameters), find_seeds(call).refusal.partition(";")[0]
    (['seed'], 'draws unseeded random numbers (draw is given no seed)')
    """
    # What functions say of each other is worked out until nothing changes, each by itself: they may call each other in
    # circles, and where each calls two others, to follow the calls would take forever.
    known: dict[_Question, Seeds] = {}
    callers: dict[_Question, set[_Question]] = {}
    waiting: list[_Question] = [(function, kind)]
    while waiting:
        asking = waiting.pop()

        def ask(called: FunctionType, owner: type | None, asking: _Question = asking) -> Seeds:
            question = called, owner
            callers.setdefault(question, set()).add(asking)
            if question not in known:
                known[question] = Seeds()
                waiting.append(question)
            return known[question]

        found = _look_for_seeds(*asking, ask)
        if found != known.get(asking):
            known[asking] = found
            waiting.extend(callers.get(asking, ()))
    return known[function, kind]


_Question = tuple[FunctionType, type | None]


def _look_for_seeds(function: FunctionType, kind: type | None, ask: FindSeeds) -> Seeds:
    """As `find_seeds`, of one function, where others are asked what they are known to need by now."""
    if declared(function) is not None or find_home(function.__globals__.get("__name__")).kind != "user":
        return Seeds()
    parameters: set[str] = set()
    attributes: set[str] = set()
    refusals: list[str] = []
    first = function.__code__.co_varnames[0] if function.__code__.co_argcount else None

    def note(value: Named, what: str) -> None:
        if value.kind == "given":
            if not value.attributes:
                parameters.add(value.name)
            elif value.name == first and len(value.attributes) == 1:
                attributes.add(value.attributes[0])
        elif value.kind == "constant":
            if value.name is None:
                refusals.append(what)
        elif value.kind != "other" and resolve(function, value) is None:
            refusals.append(what)

    for call in calls_of(function.__code__):
        called = _MISSING if call.function.kind == "other" else resolve(function, call.function)
        name = ".".join((str(call.function.name), *call.function.attributes))
        if call.function.kind in ("global", "free", "import") and is_seedable(called):
            seed = _seed_of(call)
            if seed is not None:
                note(seed, f"{name} is given None")
            continue
        target, skipped = called, 0
        if call.function[:2] == ("given", first) and kind is not None and len(call.function.attributes) == 1:
            target, skipped = _method(kind, call.function.attributes[0]), 1
        elif isinstance(called, type):
            target, skipped = _method(called, "__init__"), 1
        if isinstance(target, FunctionType):
            inner = ask(target, kind if skipped and not isinstance(called, type) else None)
            for parameter in inner.parameters:
                note(_bound(target, parameter, call, skipped), f"{name} is given no seed")
            if skipped and target is not called and not isinstance(called, type):
                attributes |= inner.attributes
        for value in (*call.arguments, *call.keywords.values()):
            handed = resolve(function, value) if value.kind in ("global", "free") else None
            if isinstance(handed, FunctionType):
                inner = ask(handed, None)
                for parameter in inner.parameters:
                    if _default(handed, parameter) == (None,):
                        given = call.keywords.get(parameter, Named("constant"))
                        note(given, f"{handed.__name__} is given no seed")
    why = f"draws unseeded random numbers ({refusals[0]}); {_GIVE_ONE}" if refusals else None
    return Seeds(frozenset(parameters), frozenset(attributes), why)


def resolve(function: FunctionType, value: Named, default: Any = _MISSING) -> Any:
    """Give what a name in a function stands for, without loading anything or calling any code.

    Parameters
    ----------
    function : function
        In whose code it stands.
    value : Named
        A global, a variable of a function around it, or what the body imports.
    default : object, optional
        For what is not there, or is no module's.

    Returns
    -------
    object
        The value.

    Examples
    --------
    >>> import math
    >>> resolve(lambda: math.pi, Named("global", "math", ("pi",)))
    3.141592653589793
    """
    found: Any = default
    if value.kind == "global":
        namespace: Any = function
        found = function.__globals__.get(value.name, namespace.__builtins__.get(value.name, default))
    elif value.kind == "free":
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        try:
            found = cells[value.name].cell_contents
        except (KeyError, ValueError):
            return default
    elif value.kind == "import":
        found = sys.modules.get(value.name, default)
    for step in value.attributes:
        if not isinstance(found, ModuleType | type):
            return default
        found = vars(found).get(step, default)
        if isinstance(found, staticmethod):
            found = found.__func__
    return found


def _seed_of(call: Call) -> Named | None:
    if call.arguments:
        return call.arguments[0]
    return next((call.keywords[name] for name in _SEED_NAMES if name in call.keywords), None)


def _bound(function: FunctionType, parameter: str, call: Call, skipped: int) -> Named:
    """Give what a call binds to a parameter."""
    if parameter in call.keywords:
        return call.keywords[parameter]
    code = function.__code__
    place = code.co_varnames.index(parameter) - skipped
    if place < len(call.arguments) and place + skipped < code.co_argcount:
        return call.arguments[place]
    default = _default(function, parameter)
    return Named("constant", default[0]) if default else Named("other")


def _default(function: FunctionType, parameter: str) -> tuple[Any, ...]:
    """Give the default of a parameter in a tuple, which is empty where it has none."""
    code = function.__code__
    named = function.__kwdefaults__ or {}
    if parameter in named:
        return (named[parameter],)
    defaults = function.__defaults__ or ()
    place = code.co_varnames.index(parameter) - (code.co_argcount - len(defaults))
    return (defaults[place],) if 0 <= place < len(defaults) else ()


def _method(kind: type, name: str) -> Any:
    found: Any = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    return found.__func__ if isinstance(found, classmethod | staticmethod) else found


class _Callee(NamedTuple):
    """A function that comes to be called, with what is known to be given to it."""

    # A function in a class body would be taken for a method.
    function: Any
    owner: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def _callees(function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Iterator[_Callee]:
    """Look through what wraps functions: partial, vectorize, compose, lru_cache, numba's, methods, objects."""
    kind = type(function)
    if isinstance(function, functools.partial):
        yield from _callees(function.func, (*function.args, *arguments), {**function.keywords, **keywords})
    elif kind.__name__ == "Compose":
        yield from _callees(getattr(function, "first", None), arguments, keywords)
        for step in getattr(function, "funcs", ()):
            yield from _callees(step, (_MISSING,), {})
    elif isinstance(function, FunctionType):
        yield _Callee(function, None, tuple(arguments), keywords)
        wrapped = getattr(function, "__wrapped__", None)
        if isinstance(wrapped, FunctionType) and wrapped is not function:
            yield _Callee(wrapped, None, tuple(arguments), keywords)
    elif isinstance(function, MethodType):
        method: Any = function.__func__
        if isinstance(method, FunctionType):
            yield _Callee(method, function.__self__, (function.__self__, *arguments), keywords)
    elif isinstance(function, type):
        made = _method(function, "__init__")
        if isinstance(made, FunctionType):
            yield _Callee(made, None, (_MISSING, *arguments), keywords)
    elif callable(function):
        inner = next(
            (
                found
                for name in ("pyfunc", "py_func", "__wrapped__")
                if (found := vars_of(function).get(name))
            ),
            getattr(function, "__wrapped__", None) if kind.__module__ == "functools" else None,
        )
        called = _method(kind, "__call__")
        if isinstance(inner, FunctionType):
            yield from _callees(inner, arguments, keywords)
        elif isinstance(called, FunctionType):
            yield _Callee(called, function, (function, *arguments), keywords)


def vars_of(value: Any) -> dict[str, Any]:
    """Give the attributes that an object itself holds.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    dict of str to object
        Empty where it has no dictionary; what lies in slots is not in it.

    Examples
    --------
    >>> vars_of(3)
    {}
    """
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else {}


def takes_seed(function: Any, find: FindSeeds = find_seeds) -> bool:
    """Whether it depends on how a Python function is called, however wrapped, whether it draws unseeded random numbers.

    Parameters
    ----------
    function : object
        Anything.
    find : callable, optional
        As `find_seeds`, if it remembers what that has found.

    Returns
    -------
    bool
        False for what is not to be called.

    Examples
    --------
    >>> import numpy as np
    >>> takes_seed(lambda x, seed: np.random.default_rng(seed)), takes_seed(len), takes_seed(3)
    (True, False, False)
    """
    if not callable(function):
        return False
    for callee in _callees(function, (), {}):
        seeds = find(callee.function, None if callee.owner is None else type(callee.owner))
        if seeds.parameters or seeds.attributes:
            return True
    return False


def depends_on_seed(function: Any) -> bool:
    """Whether it depends on what a task gives a function whether that draws unseeded random numbers, or reads the clock.

    Parameters
    ----------
    function : object
        What a task calls.

    Returns
    -------
    bool
        True also for what makes generators, or times.

    Examples
    --------
    >>> import random
    >>> depends_on_seed(random.Random), depends_on_seed(len)
    (True, False)
    """
    return is_seedable(function) or takes_now(function) or takes_seed(function)


def find_unseeded_call(
    function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], find: FindSeeds = find_seeds
) -> str | None:
    """Say why a task draws unseeded random numbers, or reads the clock, because of what it is given.

    Parameters
    ----------
    function : callable
        What it calls.
    arguments : sequence
        What that is given by position; anything stands for what is not known.
    keywords : mapping
        The same, by name.
    find : callable, optional
        As `find_seeds`, if it remembers what that has found.

    Returns
    -------
    str or None
        As from `daskcache.fingerprint.impure.find_impurity`.

    Examples
    --------
    >>> import numpy as np
    >>> def draw(n, seed=None):
    ...     return np.random.default_rng(seed).random(n)
    >>> find_unseeded_call(draw, (3,), {"seed": 1}) is None
    True
    >>> find_unseeded_call(draw, (3,), {}).partition(";")[0]
    'draws unseeded random numbers (draw is given no seed)'
    """
    inner, given, named = function, tuple(arguments), dict(keywords)
    while isinstance(inner, functools.partial):
        given, named, inner = (*inner.args, *given), {**inner.keywords, **named}, inner.func
    value = next(iter((*given, *(named[name] for name in _SEED_NAMES if name in named))), _MISSING)
    if (value is None and is_seedable(inner)) or (
        isinstance(value, str) and value.lower() in NOWS and takes_now(inner)
    ):
        return find_impurity(inner, (), f"({value!r})")
    for callee in _callees(function, arguments, keywords):
        seeds = find(callee.function, None if callee.owner is None else type(callee.owner))
        code = callee.function.__code__
        for parameter in sorted(seeds.parameters):
            place = code.co_varnames.index(parameter)
            value = callee.keywords.get(parameter, _MISSING)
            if parameter not in callee.keywords:
                bound = callee.arguments[place : place + 1] if place < code.co_argcount else ()
                value = next(iter(bound or _default(callee.function, parameter)), _MISSING)
            if value is None:
                return f"draws unseeded random numbers ({code.co_name} is given no {parameter}); {_GIVE_ONE}"
        for attribute in sorted(seeds.attributes):
            if vars_of(callee.owner).get(attribute, _MISSING) is None:
                return f"draws unseeded random numbers (.{attribute} is None); {_GIVE_ONE}"
    return None

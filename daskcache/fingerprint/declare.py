"""What a user declares about a function's identity, in place of what the walk would find."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, TypeVar

from daskcache.errors import InvalidInputError

__all__ = ["Declaration", "declared", "effect", "fingerprint_as", "is_declared_effect", "version"]

_T = TypeVar("_T", bound=Callable[..., Any])
_ATTRIBUTE = "__daskcache_declared__"
_EFFECT = "__daskcache_effect__"


class Declaration:
    """An identity that stands for a function's or a class's code.

    Parameters
    ----------
    value : object
        The identity.
    is_whole : bool
        Whether it is all there is to it; otherwise module, qualified name, defaults and closure count as well.
    code : code or None
        The function's code. ``functools.wraps`` copies attributes on to wrappers, which are other functions.
    """

    __slots__ = ("code", "is_whole", "value")

    def __init__(self, value: object, is_whole: bool, code: CodeType | None) -> None:
        self.value = value
        self.is_whole = is_whole
        self.code = code

    def __reduce__(self) -> tuple[type[Declaration], tuple[object, bool, CodeType | None]]:
        return Declaration, (self.value, self.is_whole, self.code)


def version(number: str) -> Callable[[_T], _T]:
    """Declare a version to stand for a function's code.

    The function's body, and what it reads, no longer count: its identity is its module, its qualified name, this
    version, and its defaults and closure values. Use it where a body opens files, reads a clock or the
    environment in ways that do not matter, or where edits shall not invalidate what is stored; change the version
    where they shall.

    Parameters
    ----------
    number : str
        Any string.

    Returns
    -------
    callable
        A decorator of functions and classes, which gives them back.

    Raises
    ------
    InvalidInputError
        The version is no string, or what is decorated takes no attributes; wrap it in a ``def``.

    Examples
    --------
    >>> from daskcache.fingerprint import fingerprint
    >>> @version("1")
    ... def read_offset():
    ...     return float(open("offset.txt").read())
    >>> before = fingerprint(read_offset)
    >>> @version("2")
    ... def read_offset():
    ...     return float(open("offset.txt").read())
    >>> fingerprint(read_offset) == before
    False
    """
    if not isinstance(number, str):
        raise InvalidInputError(f"version({number!r}): expected a string, such as version('1')")
    return lambda target: _declare(target, number, is_whole=False)


def fingerprint_as(*values: object) -> Callable[[_T], _T]:
    """Declare values to be the whole identity of a function.

    Whatever is declared as the same values counts as the same function, wherever it stands.

    Parameters
    ----------
    *values
        Any values with an identity themselves, such as strings and numbers.

    Returns
    -------
    callable
        A decorator of functions and classes, which gives them back.

    Raises
    ------
    InvalidInputError
        No value is given, or what is decorated takes no attributes; wrap it in a ``def``.

    Examples
    --------
    >>> from daskcache.fingerprint import fingerprint
    >>> one = fingerprint_as("regrid", 3)(lambda x: x)
    >>> other = fingerprint_as("regrid", 3)(lambda x: x + 0)
    >>> fingerprint(one) == fingerprint(other)
    True
    """
    if not values:
        raise InvalidInputError("fingerprint_as() needs at least one value to be the function's identity")
    return lambda target: _declare(target, values, is_whole=True)


def effect[T: Callable[..., Any]](target: T) -> T:
    """Declare that a function is run for what it does, not for what it returns.

    Its tasks run every time: nothing of theirs is stored or looked up, nor of what depends on them. What they are
    given is stored as other results are. Tasks of dask's and xarray's own writers, such as ``to_zarr``, need no
    declaration; functions that are seen to write or open files are taken to need none.

    Parameters
    ----------
    target : callable
        A function that writes, sends or counts.

    Returns
    -------
    callable
        The same, so that this is a decorator.

    Raises
    ------
    InvalidInputError
        It takes no attributes; wrap it in a ``def``.

    Examples
    --------
    >>> import dask.array as da
    >>> sent = []
    >>> def send(block):
    ...     sent.append(int(block.sum()))
    ...     return block
    >>> x = da.ones(4, chunks=2).map_blocks(effect(send), meta=da.ones(0))
    >>> _ = x.compute(scheduler="sync"), x.compute(scheduler="sync")
    >>> sent
    [2, 2, 2, 2]
    """
    try:
        setattr(target, _EFFECT, True)
    except (AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"{target!r} takes no attributes; wrap it in a def and decorate that"
        ) from error
    return target


def is_declared_effect(target: Any) -> bool:
    """Whether a function is declared to have an effect, or wraps one that is."""
    try:
        return vars(target).get(_EFFECT) is True
    except TypeError:
        return False


def declared(target: Any) -> Declaration | None:
    """Find what is declared about a function, class or instance itself, not about what it wraps or derives from."""
    try:
        found = vars(target).get(_ATTRIBUTE)
    except TypeError:
        return None
    if isinstance(found, Declaration) and found.code == _code_of(target):
        return found
    return None


def _declare[T: Callable[..., Any]](target: T, value: object, *, is_whole: bool) -> T:
    try:
        setattr(target, _ATTRIBUTE, Declaration(value, is_whole, _code_of(target)))
    except (AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"{target!r} takes no attributes; wrap it in a def and decorate that"
        ) from error
    return target


def _code_of(target: object) -> CodeType | None:
    return target.__code__ if isinstance(target, FunctionType) else None

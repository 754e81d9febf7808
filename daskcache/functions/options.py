"""What a cached function may be told: at its definition, in a context, and call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import dask.config

from daskcache.config import parse_seconds
from daskcache.errors import InvalidInputError

__all__ = [
    "PER_CALL",
    "Definition",
    "FunctionMode",
    "Options",
    "Verify",
    "current_options",
    "options",
    "passing_on",
]

FunctionMode = Literal[
    "write",
    "overwrite",
    "local",
    "local_overwrite",
    "local_sync",
    "local_strict",
    "read_only",
    "read_only_strict",
    "off",
]
Verify = Literal["sources", "graph", "never"]
Recompute = bool | str | tuple[str, ...]

PER_CALL = frozenset(
    [
        "recompute",
        "force_overwrite",
        "memoize",
        "mode",
        "fail_if_missing",
        "retry_null",
        "path_only",
        "verify",
        "upsert",
    ]
)
"""What may be given with a call, as a keyword that the function never sees."""


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are kept and recalled, complete and checked."""

    recompute: Recompute = False
    """Whether what is stored is not recalled: of this function, of those named, or of ``"all"`` that run within."""
    force_overwrite: bool = False
    """Whether what is stored anew takes the place of the call's older versions, which otherwise stay until they expire."""
    memoize: bool = False
    """Whether results are kept in memory as well."""
    mode: FunctionMode = "write"
    """Where is looked and stored."""
    fail_if_missing: bool = False
    """Whether what is not stored is an error, and not computed."""
    retry_null: bool = False
    """Whether a stored None is computed again."""
    path_only: bool = False
    """Whether the path of what is stored is given, in place of the result."""
    verify: Verify = "sources"
    """What of a stored result is looked at again when it is recalled."""
    upsert: bool = False
    """Whether what the call gives is put into the table that earlier calls have filled."""

    def __post_init__(self) -> None:
        for name in ("force_overwrite", "memoize", "fail_if_missing", "retry_null", "path_only", "upsert"):
            if type(getattr(self, name)) is not bool:
                raise InvalidInputError(f"{name} is {getattr(self, name)!r}; expected true or false")
        for name, allowed in (("mode", get_args(FunctionMode)), ("verify", get_args(Verify))):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(map(repr, allowed))}"
                )

    def with_(self, changes: Mapping[str, Any]) -> Options:
        """Copy with some options changed and checked.

        Parameters
        ----------
        changes : mapping
            Options by name; what is None is as if not given.

        Returns
        -------
        Options
            The changed copy.

        Raises
        ------
        InvalidInputError
            An option is unknown, or not of its form.

        Examples
        --------
        >>> Options().with_({"recompute": ["a", "b"]}).recompute
        ('a', 'b')
        """
        given = {name: value for name, value in changes.items() if value is not None}
        unknown = given.keys() - {one.name for one in fields(self)}
        if unknown:
            raise InvalidInputError(f"unknown options {sorted(unknown)}; known are {sorted(PER_CALL)}")
        if "recompute" in given:
            given["recompute"] = _recompute(given["recompute"])
        return replace(self, **given)

    def recomputes(self, *names: str) -> bool:
        """Whether a function that was called within this one, or this one itself, is computed anew.

        Parameters
        ----------
        *names : str
            What the function is called.

        Returns
        -------
        bool
            True by name alone: ``recompute=True`` is of the function that it is given to.

        Examples
        --------
        >>> Options(recompute=("b",)).recomputes("module.b", "b"), Options(recompute=True).recomputes("b")
        (True, False)
        """
        if isinstance(self.recompute, bool):
            return False
        return "all" in self.recompute or any(name in self.recompute for name in names)


def _recompute(value: Any) -> Recompute:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence | set | frozenset) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise InvalidInputError(
        f"recompute is {value!r}; expected true or false, a function's name, a list of names, or 'all'"
    )


_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("daskcache_options", default=MappingProxyType({}))


@contextmanager
def options(**changes: Any) -> Iterator[None]:
    """Set how all cached functions that are called in a context are kept and recalled.

    Parameters
    ----------
    **changes
        ``recompute``: a function's name, a list of names, or ``"all"`` (or true), which are computed anew.
        ``memoize``: keep results in memory. ``mode``: ``write`` (the default), ``overwrite``, ``local``,
        ``local_overwrite``, ``local_sync``, ``local_strict``, ``read_only``, ``read_only_strict``, ``off``.
        ``fail_if_missing``: raise rather than compute. ``retry_null``: compute a stored None again. ``path_only``: give
        the path of what is stored. ``verify``: ``sources``, ``graph`` or ``never``. ``upsert``: put what a call gives
        into the table of its function. ``force_overwrite``: what is
        stored anew takes the place of older versions, which are dropped.

    Yields
    ------
    None
        The innermost context counts, and what is given with a call counts before it.

    Raises
    ------
    InvalidInputError
        An option is unknown, or not of its form.

    Examples
    --------
    >>> import dask, daskcache
    >>> calls = []
    >>> @daskcache.cache(ignore=["log"])
    ... def double(x, log):
    ...     log.append(x)
    ...     return 2 * x
    >>> with dask.config.set({"daskcache.store": "memory://doc-options"}):
    ...     double(1, calls), double(1, calls)
    ...     with daskcache.options(recompute="double"):
    ...         double(1, calls)
    (2, 2)
    2
    >>> calls
    [1, 1]
    """
    if changes.get("recompute") is True:
        # There is no one function that it could be of.
        changes["recompute"] = "all"
    Options().with_(changes)
    token = _CONTEXT.set({**_CONTEXT.get(), **changes})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def current_options(defined: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Give the options of one call.

    Parameters
    ----------
    defined : mapping
        What the function's definition says.
    given : mapping
        What came with the call.

    Returns
    -------
    Options
        The call's before the context's, those before the definition's, those before the configuration's.

    Examples
    --------
    >>> current_options({"memoize": True}, {"mode": "off"}).memoize
    True
    """
    configured = {"verify": dask.config.get("daskcache.functions.verify", None)}
    merged = {**configured}
    for layer in (defined, _CONTEXT.get(), given):
        merged |= {name: value for name, value in layer.items() if value is not None}
    return Options().with_(merged)


@contextmanager
def passing_on(chosen: Options) -> Iterator[None]:
    """Let the functions that are called within a call know which of them are computed anew."""
    # A function that calls another wants its result, and not a path.
    inner: dict[str, Any] = {"path_only": False}
    if chosen.recompute not in (True, False):
        inner |= {"recompute": chosen.recompute, "force_overwrite": chosen.force_overwrite}
    token = _CONTEXT.set({**_CONTEXT.get(), **inner})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """What a function's definition says of how it is cached."""

    name: str | None = None
    """What its entries are called, in place of its module and qualified name."""
    namespace: str | None = None
    """Where they lie, in place of the configured one."""
    store: str | None = None
    """The store, in place of the configured one."""
    version: str | None = None
    """Enters the key beside the code."""
    cache_args: tuple[str, ...] | None = None
    """The only arguments that count."""
    ignore: tuple[str, ...] = ()
    """Arguments that do not count."""
    when: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a call with these arguments is cached at all."""
    expires_s: float | None = None
    """How long a result stays."""
    chunks: Any = None
    """How arrays are rechunked first."""
    hints: Any = None
    """How arrays will be read."""
    encoding: Mapping[str, Any] | None = None
    """Codecs, in place of the configured ones."""
    format: str | None = None
    """The format, in place of the one of the result's type."""
    serializer: Any = None
    """What makes bytes of a result and a result of bytes."""
    database: str | None = None
    """The URL of the database of ``format="sql"``, in place of the configured one."""
    upsert_keys: tuple[str, ...] | None = None
    """Columns that tell rows from each other, where several calls fill one table; none of them: rows are added."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options of calls."""

    @classmethod
    def check(cls, when: Any = None, unless: Any = None, expires: Any = None, **members: Any) -> Definition:
        """Make one of what the decorator was given; see `daskcache.cache`."""
        for name in ("cache_args", "ignore", "upsert_keys"):
            names = members.get(name)
            if isinstance(names, str):
                raise InvalidInputError(f"{name} is {names!r}; expected a list of names, such as [{names!r}]")
            members[name] = None if names is None else tuple(names)
        members["ignore"] = members["ignore"] or ()
        form = members.get("format")
        if members["upsert_keys"] is not None and form not in (None, "parquet", "sql", "delta"):
            raise InvalidInputError(
                f"upsert_keys is given with format={form!r}; tables are filled as 'parquet', 'sql' or 'delta'"
            )
        if members.get("database") is not None and form != "sql":
            raise InvalidInputError("database is given without format='sql'")
        if members["version"] is not None:
            members["version"] = str(members["version"])
        return cls(
            when=_condition(when, unless),
            expires_s=None if expires is None else parse_seconds(expires, "expires"),
            **members,
        )


def _condition(when: Any, unless: Any) -> Callable[[Mapping[str, Any]], bool] | None:
    tests: list[tuple[Callable[[Mapping[str, Any]], bool], bool]] = []
    for what, given, wanted in (("when", when, True), ("unless", unless, False)):
        if given is not None:
            tests.append((given if callable(given) else _table(what, given), wanted))
    if not tests:
        return None
    return lambda arguments: all(bool(test(arguments)) is wanted for test, wanted in tests)


def _table(what: str, given: Any) -> Callable[[Mapping[str, Any]], bool]:
    if isinstance(given, bool):
        return lambda _: given
    rows = [given] if isinstance(given, Mapping) else list(given) if isinstance(given, Sequence) else None
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        raise InvalidInputError(
            f"{what} is {given!r}; expected a function of the arguments, true or false, a mapping of arguments to values, or a "
            "list of such mappings"
        )

    def matches(arguments: Mapping[str, Any]) -> bool:
        return any(all(_is_among(arguments.get(name), value) for name, value in row.items()) for row in rows)

    return matches


def _is_among(argument: Any, wanted: Any) -> bool:
    choices = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    # 1 equals True, and is another argument.
    return any(type(argument) is type(choice) and argument == choice for choice in choices)

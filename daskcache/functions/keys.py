"""What a call is: its function's code and its arguments, normalised, as 20 bytes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
from dask.base import is_dask_collection
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from daskcache.catalog.layout import CALL
from daskcache.config import Settings
from daskcache.dask_internals import lower
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.declared_files import DeclaredSource
from daskcache.fingerprint.files import FileSource, see_file
from daskcache.fingerprint.held import refuse_generator
from daskcache.fingerprint.registry import Node, handles
from daskcache.fingerprint.seeds import find_unseeded_call
from daskcache.futures import identify_futures
from daskcache.tokens import GraphTokens

__all__ = ["Call", "Function", "entry_name"]

_PLACEHOLDER = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a cached function."""

    entry: str
    """Where its result lies."""
    function: bytes
    """The identity of the function's code, 20 bytes."""
    arguments: bytes
    """That of its arguments."""
    key: bytes
    """That of the call."""
    opens: frozenset[str] = frozenset()
    """Where its code opens files lazily, which have to show in what it returns."""
    processors: tuple[str, ...] = ()
    """The identities of the function's processors."""
    files: tuple[tuple[FileSource, bytes], ...] = ()
    """What it declares to read, with what was seen of it when the key was made; nothing where nothing is looked at."""

    @property
    def opens_many(self) -> bool:
        """Whether it may open all files of a pattern, of which there may be more another time.

        Returns
        -------
        bool
            True as well for a list of files, which looks alike.
        """
        return any("mfdataset" in what.casefold() or "(dask." in what for what in self.opens)

    def say(self, coverage: Sequence[Any]) -> list[Any]:
        """Say of what processors hold of a result which processors these are; see `held_in`."""
        return [[by, held] for by, held in zip(self.processors, coverage, strict=True)]

    def held_in(self, coverage: Sequence[Any]) -> list[Any] | None:
        """Give what the function's processors said that a stored result holds.

        Parameters
        ----------
        coverage : sequence
            What `say` gave.

        Returns
        -------
        list or None
            None where it was stored under other processors.
        """
        found = []
        for by, said in zip(self.processors, coverage, strict=False):
            # Of a table that several calls fill nothing is said.
            if said is not None and (not isinstance(said, list) or said[0] != by):
                return None
            found.append(None if said is None else said[1])
        return found if len(coverage) == len(self.processors) else None

    def is_unchanged(self) -> bool:
        """Whether what it declares to read is as it was when its key was made.

        Returns
        -------
        bool
            True as well where the settings say that nothing is looked at.
        """
        return all(file.look() == state for file, state in self.files if state)

    def to_json(self) -> dict[str, Any]:
        """Give what a manifest says of it: digests alone."""
        return {
            "key": self.key.hex(),
            "function": self.function.hex(),
            "arguments": self.arguments.hex(),
        }


class Function:
    """A function as something that has an identity, with what its definition lets count.

    Parameters
    ----------
    func : function
        The user's.
    name : str or None
        What its entries are called.
    version : str or None
        Counts beside the code.
    cache_args : tuple of str or None
        The only arguments that count.
    ignore : tuple of str
        Arguments that do not.
    sources : tuple of DeclaredSource
        What it reads by itself.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        name: str | None,
        version: str | None,
        cache_args: tuple[str, ...] | None,
        ignore: tuple[str, ...],
        sources: tuple[DeclaredSource, ...],
    ) -> None:
        self.func = func
        self.name = entry_name(func) if name is None else name
        self.version = version
        self.sources = sources
        self.signature = inspect.signature(func)
        known = self.signature.parameters.keys()
        unknown = {*(cache_args or ()), *ignore} - known
        has_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in self.signature.parameters.values())
        if unknown and not has_any:
            raise InvalidInputError(
                f"{func.__qualname__} has no parameters {sorted(unknown)}, which cache_args or ignore name; it has "
                f"{sorted(known)}"
            )
        self._cache_args = cache_args
        self._ignore = frozenset(ignore)

    def flatten(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give further keywords of a call their own names.

        Parameters
        ----------
        arguments : mapping
            By the names of the parameters.

        Returns
        -------
        dict
            By their own names.
        """
        found: dict[str, Any] = {}
        for name, value in arguments.items():
            parameter = self.signature.parameters.get(name)
            if parameter is not None and parameter.kind is inspect.Parameter.VAR_KEYWORD:
                # A parameter of the same name can only be one that is given by position alone.
                found |= {f"**{word}" if word in found else word: held for word, held in value.items()}
            else:
                found[name] = value
        return found

    def counted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give those of a call's arguments that count.

        Parameters
        ----------
        arguments : mapping
            By name, defaults included.

        Returns
        -------
        dict
            By name.
        """
        arguments = self.flatten(arguments)
        names = arguments.keys() if self._cache_args is None else self._cache_args
        return {name: arguments[name] for name in names if name in arguments and name not in self._ignore}

    def identify(
        self, arguments: Mapping[str, Any], settings: Settings, processors: Sequence[Any] = ()
    ) -> Call:
        """Say what a call is.

        Parameters
        ----------
        arguments : mapping
            By name, defaults included.
        settings : Settings
            The token rules.
        processors : sequence, optional
            What counts of the processors around the function.

        Returns
        -------
        Call
            Its key.

        Raises
        ------
        UncacheableError
            The code or an argument has no deterministic identity; the message says why.
        """
        fingerprinter = Fingerprinter.from_settings(settings)
        code = self._identify_code(fingerprinter)
        files = tuple((one.file, see_file(fingerprinter, one.file)[1].state) for one in self.sources)
        fingerprinter.dask_collection = lambda held: _digest_collection(held, settings)
        parts = []
        if (why := find_unseeded_call(self.func, (), arguments)) is not None:
            raise UncacheableError(why)
        for name, value in self.counted(arguments).items():
            try:
                refuse_generator(value)
                parts += [fingerprinter.fingerprint(name), fingerprinter.fingerprint(value)]
            except UncacheableError as error:
                raise error.within(f"argument {name!r} of {self.name}") from None
        parts += self._identify_class(arguments, fingerprinter)
        given = fingerprinter.combine(b"arguments", parts)
        key = fingerprinter.combine(b"call", [fingerprinter.fingerprint(self.name), code, given])
        opens = frozenset(fingerprinter.lazily_opened)
        by = []
        for processor in processors:
            try:
                by.append(fingerprinter.fingerprint(processor).hex())
            except UncacheableError as error:
                raise error.within(f"processor {type(processor).__name__} of {self.name}") from None
        return Call(f"{self.name}/{CALL}{key.hex()}", code, given, key, opens, tuple(by), files)

    def _identify_class(self, arguments: Mapping[str, Any], fingerprinter: Fingerprinter) -> list[bytes]:
        """Count the class of a method's object also where the object does not count: the method calls its methods."""
        first = next(iter(self.signature.parameters), "")
        if first not in ("self", "cls") or first in self.counted(arguments) or first not in arguments:
            return []
        owner = arguments[first] if isinstance(arguments[first], type) else type(arguments[first])
        try:
            return [fingerprinter.fingerprint(owner)]
        except UncacheableError as error:
            raise error.within(f"class of {first!r} of {self.name}") from None

    def identify_part(self, arguments: Mapping[str, Any], call: Call, settings: Settings) -> str:
        """Tell a call from others whose results go into the same table: by all of its arguments.

        Parameters
        ----------
        arguments : mapping
            By name, defaults included, those that processors take as well.
        call : Call
            What `identify` gave.
        settings : Settings
            The token rules.

        Returns
        -------
        str
            In hex.

        Raises
        ------
        UncacheableError
            An argument has no deterministic identity.
        """
        fingerprinter = Fingerprinter.from_settings(settings)
        fingerprinter.dask_collection = lambda held: _digest_collection(held, settings)
        given = {name: value for name, value in self.flatten(arguments).items() if name not in self._ignore}
        return fingerprinter.combine(b"part", [call.key, fingerprinter.fingerprint(given)]).hex()

    def _identify_code(self, fingerprinter: Fingerprinter) -> bytes:
        if self.sources:
            code = fingerprinter.fingerprint_reading(self.func)
        else:
            try:
                code = fingerprinter.fingerprint(self.func)
            except UncacheableError:
                # What it opens has to show in its result; see `daskcache.functions.sources`.
                code = fingerprinter.fingerprint_opening(self.func)
        files = [see_file(fingerprinter, one.file)[0] for one in self.sources]
        parts = [code, fingerprinter.fingerprint(self.version), *files]
        return fingerprinter.combine(b"cached function", parts)


def entry_name(func: Callable[..., Any]) -> str:
    """Name the entries of a function: by its module and qualified name, without what no path may hold.

    Parameters
    ----------
    func : callable
        A function.

    Returns
    -------
    str
        One segment of a path.

    Examples
    --------
    >>> def regrid(): ...
    >>> entry_name(regrid).endswith(".regrid")
    True
    >>> entry_name(lambda: 0).endswith(".lambda")
    True
    """
    module = getattr(func, "__module__", None) or "__main__"
    qualname = getattr(func, "__qualname__", type(func).__qualname__)
    text = f"{module}.{qualname}".replace("<locals>.", "").replace("<lambda>", "lambda")
    return _PLACEHOLDER.sub("-", text).strip(".-")[-180:].strip(".-") or "function"


def _digest_collection(value: Any, settings: Settings) -> bytes:
    """Give the identity of a dask collection: the tokens of its blocks, their shape, and what it says that it holds."""
    if not is_dask_collection(value):
        raise UncacheableError(f"{type(value)} is no dask collection")
    # Another one than the walk's, which is in the middle of something.
    fingerprinter = Fingerprinter.from_settings(settings)
    if isinstance(value, da.Array):
        value = lower(value)
        described: tuple[Any, ...] = ("array", str(value.dtype), value.dtype.metadata, value.chunks)
    elif hasattr(value, "_meta") and hasattr(value, "divisions"):
        described = ("frame", type(value).__qualname__, value._meta, value.divisions)
    else:
        described = (type(value).__module__, type(value).__qualname__)
    graph = value.__dask_graph__()
    known = identify_futures(graph, settings) if isinstance(graph, HighLevelGraph) else {}
    tokens = GraphTokens(graph, fingerprinter, known)
    found = []
    for key in flatten(value.__dask_keys__()):
        token = tokens.token(key)
        if token is None:
            reason = tokens.reason(key)
            raise reason if reason is not None else UncacheableError(f"{key} has no identity")
        found.append(token)
    return fingerprinter.combine(b"collection", [fingerprinter.fingerprint(described), *found])


@handles("daskcache:CachedFunction")
def _cached_function(fp: Fingerprinter, obj: Any) -> Node:
    """A cached function is what it computes, for those that call it."""
    version, sources = obj.function.version, obj.function.sources
    if sources and fp.may_read is not True:
        code = fp.fingerprint_reading(obj.__wrapped__)
        return Node((version, *sources), lambda parts: fp.combine(b"cached", [code, *parts]))
    return Node((obj.__wrapped__, version, *sources), lambda parts: fp.combine(b"cached", parts))

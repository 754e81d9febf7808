"""Walking a task: the token of a node, of its arguments, of what it looks through."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from dask.utils import funcname

from daskcache.dask_internals import (
    GETTERS,
    Alias,
    DataNode,
    Dict,
    GraphNode,
    Key,
    List,
    NestedContainer,
    Set,
    Task,
    TaskRef,
    Tuple,
    chunk_einsum,
    identity_cast,
    pass_extra_kwargs,
    trim_overlap,
)
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.declared_files import is_any_declared
from daskcache.fingerprint.files import Seen, see_file
from daskcache.fingerprint.readers import digest_argument, files_in, name_files
from daskcache.tokens.functions import Functions, Known, in_function_of
from daskcache.tokens.rules import (
    READERS,
    RULED,
    count_arguments,
    encode_name,
    is_basic,
    is_one_of,
    is_subgraph,
    is_transparent,
    is_unknown_array,
    refuse_effects,
    refuse_impure,
    rename_subscripts,
)

__all__ = ["MISSING", "FromDependencyError", "Literal", "Scope", "TokenSource"]

MISSING = object()
_LOCKED = frozenset({"asarray", "lock"})
_CONTAINERS = {list: b"list", tuple: b"tuple", set: b"set", frozenset: b"frozenset"}


class TokenSource(Protocol):
    """The graph, as a scope sees it."""

    fingerprinter: Fingerprinter
    """Gives the identities of functions, literals and sources."""
    ordinary: dict[int, Known]
    """Functions that no rule of a scope's treats otherwise, by identity."""
    watched: dict[int, Known]
    """Functions of which it depends on what a task gives them whether it has a token."""
    readers: dict[int, Known]
    """Functions that a rule treats otherwise only where they take a region of a value or a source."""

    functions: Functions
    """What else is known of functions."""

    def look(self, key: Key) -> bytes:
        """Give the token of a key, or raise why it has none."""

    def literal(self, key: Key) -> Any:
        """Give the value that a key stands for without anything being computed, or MISSING."""

    def is_value(self, key: Key) -> bool:
        """Tell whether a key stands for a value, without anything being computed."""

    def function(self, key: Key) -> bytes:
        """Give the fingerprint of the function whose result a block is."""

    def note_read(self, array: Any, index: Any) -> None:
        """Remember that a region of a source was looked at."""

    def note_file(self, seen: Seen) -> None:
        """Remember that a file was looked at, which a task is given to read."""


class FromDependencyError(Exception):
    """Carries the reason of an input to the blocks that depend on it."""

    def __init__(self, reason: UncacheableError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Literal:
    """A value that a blockwise layer passes to its function, with its digest once that is known."""

    __slots__ = ("digest", "value")

    def __init__(self, value: object) -> None:
        self.value = value
        self.digest: bytes | None = None


class Scope:
    """Where references of a task are looked up: the graph, a blockwise layer's inputs, a fused subgraph.

    Parameters
    ----------
    tokens : TokenSource
        The graph.
    given : dict, optional
        What some names stand for, to be read in `given_scope`.
    given_scope : Scope, optional
        The scope outside.
    inner : Mapping, optional
        Tasks of a fused subgraph, to be read in this scope.
    digests : dict, optional
        Digests of the literals of a blockwise layer's task, by identity; the layer keeps them alive.
    """

    __slots__ = ("_digests", "_done", "_given", "_given_scope", "_inner", "tokens")

    def __init__(
        self,
        tokens: TokenSource,
        given: dict[Key, Any] | None = None,
        given_scope: Scope | None = None,
        inner: Mapping[Key, Any] | None = None,
        digests: dict[int, bytes] | None = None,
    ) -> None:
        self.tokens = tokens
        self._given = given or {}
        self._given_scope = given_scope
        self._inner = inner or {}
        self._done: dict[Key, bytes] = {}
        self._digests = digests

    def look(self, key: Key) -> bytes:
        """Give the token of what a reference in this scope refers to."""
        if key in self._given:
            assert self._given_scope is not None
            return self._given_scope.token(self._given[key])
        if key in self._inner:
            if key not in self._done:
                self._done[key] = self.token(self._inner[key])
            return self._done[key]
        return self.tokens.look(key)

    def literal(self, node: Any) -> Any:
        """Give the value that a node stands for without computing, or MISSING."""
        if isinstance(node, Literal | DataNode):
            return node.value
        if isinstance(node, TaskRef | Alias):
            key = node.target if isinstance(node, Alias) else node.key
            if key in self._given:
                assert self._given_scope is not None
                return self._given_scope.literal(self._given[key])
            if key in self._inner:
                return self.literal(self._inner[key])
            return self.tokens.literal(key)
        return MISSING if isinstance(node, GraphNode) else node

    def token(self, node: Any) -> bytes:
        """Give the token of a node or literal in this scope."""
        kind = type(node)
        if kind is Literal:
            if node.digest is None:
                node.digest = self.value(node.value)
            return bytes(node.digest)
        if kind is Task:
            return self._task(node)
        if isinstance(node, TaskRef):
            return self.look(node.key)
        if not isinstance(node, GraphNode):
            return self._fingerprint(node)
        if isinstance(node, NestedContainer):
            return self._container(type(node), node.args)
        if isinstance(node, Task):
            return self._task(node)
        if isinstance(node, Alias):
            return self.look(node.target)
        if isinstance(node, DataNode):
            return self.value(node.value)
        raise UncacheableError(
            f"{type(node).__name__} is a kind of graph node that daskcache does not know; update daskcache"
        )

    def _fingerprint(self, value: object) -> bytes:
        if self._digests is None:
            return self.value(value)
        digest = self._digests.get(id(value))
        if digest is None:
            digest = self._digests[id(value)] = self.value(value)
        return digest

    def value(self, value: object) -> bytes:
        """Give the fingerprint of a value that a task is given."""
        leaf = self.tokens.fingerprinter.leaves.get(type(value))
        if leaf is not None and (found := leaf(value)) is not None:
            return found
        # Whoever is given a reader, a clock or a generator is going to use it.
        self.tokens.functions.refuse(value)
        return self.tokens.fingerprinter.fingerprint(value)

    def _container(self, kind: type, args: Iterable[Any]) -> bytes:
        combine = self.tokens.fingerprinter.combine
        parts = [self.token(arg) for arg in args]
        if kind is Dict:
            return combine(b"dict", parts)
        if kind is Set:
            return combine(b"set", sorted(parts))
        if kind is List:
            return combine(b"list", parts)
        if kind is Tuple:
            return combine(b"tuple", parts)
        raise UncacheableError(
            f"{kind.__name__} is a kind of container node that daskcache does not know; update daskcache"
        )

    def template(self, task: Task, varying: Container[str]) -> list[bytes | Key] | None:
        """Give the parts of a task's token, with the keys of references among them, where it is made of no others.

        Parameters
        ----------
        task : Task
            A blockwise layer's, in the scope of one of its blocks; the parts are those of all its blocks.
        varying : container of str
            The names of what differs from block to block.

        Returns
        -------
        list of bytes or str, or None
            For `combine` under the tag ``task``. None where the rules are others, or references lie deeper.
        """
        functions = self.tokens.functions
        known = self.tokens.ordinary.get(id(task.func))
        if known is None or functions.hands_seeded(task, self.literal):
            known = known or self.tokens.watched.get(id(task.func))
            if known is None or not functions.is_same_for_all(task, self.literal, varying):
                return None
        parts: list[bytes | Key] = [count_arguments(task.args), known.digest]
        for name, arg in [*((None, arg) for arg in task.args), *task.kwargs.items()]:
            if name is not None:
                parts.append(encode_name(name))
            if isinstance(arg, TaskRef):
                parts.append(arg.key)
            elif isinstance(arg, GraphNode) and arg.dependencies:
                return None
            else:
                parts.append(self.token(arg))
        return parts

    def _task(self, task: Task) -> bytes:
        func, functions = task.func, self.tokens.functions
        if not task.args and not task.kwargs:
            refuse_impure(func, "()")
        known = self.tokens.ordinary.get(id(func))
        if known is None or functions.hands_seeded(task, self.literal):
            known = known or self.tokens.watched.get(id(func))
            if known is None or functions.is_given_path(task, self.literal):
                return self._unknown(task)
            with in_function_of(task):
                functions.refuse_unseeded(task, self.literal)
        return self._call(task, known.digest)

    def _unknown(self, task: Task) -> bytes:
        """Give the token of a task whose function was not seen before, or is treated otherwise."""
        func, functions = task.func, self.tokens.functions
        if is_subgraph(func):
            return self._subgraph(task)
        if is_transparent(func):
            return self.token(task.args[0])
        if is_one_of(func, READERS):
            if (region := self._region(task)) is not None:
                return region
        elif func is identity_cast and task.kwargs.get("typ") in _CONTAINERS:
            parts = [self.token(arg) for arg in task.args]
            kind = task.kwargs["typ"]
            if kind in (set, frozenset):
                parts.sort()
            return self.tokens.fingerprinter.combine(_CONTAINERS[kind], parts)
        elif func is pass_extra_kwargs and (trimmed := self._trim(task)) is not None:
            return trimmed
        reads = functions.reads_of(func)
        with in_function_of(task):
            refuse_effects(func)
            functions.refuse_unseeded(task, self.literal)
            functions.refuse_held(func)
            if reads.takes_files or reads.is_trusted or is_any_declared():
                given = self._read_files(task)
                if given is not None:
                    return given
            if reads.refusal is not None:
                raise UncacheableError(reads.refusal)
            function = self.tokens.fingerprinter.function(func)
        if not reads.takes_files:
            if reads.is_trusted or reads.depends_on_seed:
                self.tokens.watched[id(func)] = Known(func, function)
            elif not is_one_of(func, RULED):
                self.tokens.ordinary[id(func)] = Known(func, function)
            elif is_one_of(func, READERS):
                self.tokens.readers[id(func)] = Known(func, function)
        return self._call(task, function)

    def _call(self, task: Task, function: bytes) -> bytes:
        args, kwargs = task.args, task.kwargs
        parts = [count_arguments(args), function]
        name = ""
        try:
            for arg in args:
                parts.append(self.token(arg))  # noqa: PERF401 -- their number tells which one failed
            for name, value in kwargs.items():
                if name == "subscripts" and task.func is chunk_einsum:
                    value = rename_subscripts(value)
                parts += (encode_name(name), self.token(value))
        except UncacheableError as error:
            where = name or f"argument {len(parts) - 1}"
            raise error.within(where).within(f"task {funcname(task.func)!r}") from None
        return self.tokens.fingerprinter.combine(b"task", parts)

    def _read_files(self, task: Task) -> bytes | None:
        """Give the token of a task that is given files to read, by path or open; None for any other."""
        values = [self.literal(arg) for arg in task.args]
        named = {name: self.literal(value) for name, value in task.kwargs.items()}
        within = [value for arg in task.args for value in self._values_within(arg)]
        files = files_in(task.func, [*values, *within], named)
        if not files and not self.tokens.functions.is_given_path(task, self.literal):
            return None
        fingerprinter = self.tokens.fingerprinter
        for file in files:
            self.tokens.note_file(see_file(fingerprinter, file)[1])
        values, named = name_files(task.func, values, named)
        # What the function opens is known, and counts with the arguments.
        parts = [count_arguments(task.args), fingerprinter.fingerprint_reading(task.func)]
        for arg, value in zip(task.args, values, strict=True):
            parts.append(self.token(arg) if value is MISSING else digest_argument(fingerprinter, value))
        for name, value in named.items():
            given = (
                self.token(task.kwargs[name]) if value is MISSING else digest_argument(fingerprinter, value)
            )
            parts += (encode_name(name), given)
        return fingerprinter.combine(b"task", parts)

    def _values_within(self, node: Any) -> Iterator[Any]:
        """List the plain values in a container of a task's that holds references as well."""
        if isinstance(node, NestedContainer):
            for arg in node.args:
                value = self.literal(arg)
                if value is not MISSING:
                    yield value
                yield from self._values_within(arg)

    def _subgraph(self, task: Task) -> bytes:
        inner, outkey, inkeys, *values = task.args
        scope = Scope(self.tokens, dict(zip(inkeys, values, strict=True)), self, inner, self._digests)
        # By a stack: a fused chain may be longer than Python lets functions call each other.
        stack = [outkey]
        while stack:
            key = stack[-1]
            waiting = [] if key in scope._done else scope._waiting(key)
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if key in inner and (key == outkey or scope.literal(inner[key]) is MISSING):
                scope.look(key)
        return scope.look(outkey)

    def _waiting(self, key: Key) -> list[Key]:
        """List what has to be known of a fused subgraph before one of its tasks."""
        node = self._inner.get(key)
        if not isinstance(node, GraphNode):
            return []
        return [
            dep
            for dep in node.dependencies
            if dep in self._inner and dep not in self._done and self.literal(self._inner[dep]) is MISSING
        ]

    def _region(self, task: Task) -> bytes | None:
        """Look through a reference to a source or an array: the token is that of the region."""
        is_getter = is_one_of(task.func, GETTERS)
        # As dask gives them when it reads under a lock, which changes no value.
        if len(task.args) < 2 or (task.kwargs and not (is_getter and task.kwargs.keys() <= _LOCKED)):
            return None
        array, index = self.literal(task.args[0]), self.literal(task.args[1])
        if array is MISSING or not is_basic(index):
            return None
        fingerprinter = self.tokens.fingerprinter
        try:
            region = fingerprinter.source_region(array, index)
        except UncacheableError as error:
            raise error.within(f"read of {type(array).__name__}") from None
        # Whether an array comes out whatever indexing gives.
        is_asked = task.args[2] if len(task.args) > 2 else task.kwargs.get("asarray", True)
        is_plain = is_getter and self.literal(is_asked) is True
        if region is None:
            if is_getter and is_unknown_array(array, fingerprinter):
                raise UncacheableError(
                    f"reads from {type(array).__module__}.{type(array).__qualname__}, of which it is not known "
                    "whether it shows that its data change; load it first, or say what counts of it with "
                    "daskcache.fingerprint.register"
                )
            return None
        if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
            is_scalar = is_plain and not isinstance(array[index], np.ndarray)
            return fingerprinter.combine(b"0-d", [region]) if is_scalar else region
        if hasattr(array, "__daskcache_region__"):
            # A stored block is no wrapper: it gives the same values with asarray and without.
            return region
        self.tokens.note_read(array, index)
        return region if is_plain else fingerprinter.combine(b"raw", [region])

    def _trim(self, task: Task) -> bytes | None:
        """Count, of an overlap's trimming, only what it looks at: whether a block is first or last."""
        if len(task.args) != 4 or task.kwargs:
            return None
        func, names, info = (self.literal(arg) for arg in task.args[:3])
        if names != ("_overlap_trim_info",) or not isinstance(func, functools.partial):
            return None
        if func.func is not trim_overlap or func.args or set(func.keywords) != {"axes", "boundary"}:
            return None
        location, counts = info
        axes, boundary = func.keywords["axes"], func.keywords["boundary"]
        edges = [
            (place == 0, place == count - 1)
            if axes.get(axis, 0) and boundary.get(axis, "none") == "none"
            else None
            for axis, (place, count) in enumerate(zip(location, counts, strict=True))
        ]
        fingerprinter = self.tokens.fingerprinter
        return fingerprinter.combine(
            b"trim",
            [fingerprinter.function(func), fingerprinter.fingerprint(edges), self.token(task.args[3])],
        )

    def function(self, node: Any) -> bytes:
        """Give the fingerprint of the function behind a node, for the group of a chunk."""
        if isinstance(node, TaskRef | Alias):
            return self._function_of_key(node.target if isinstance(node, Alias) else node.key)
        if not isinstance(node, Task):
            return self._function_of_data()
        known = self.tokens.ordinary.get(id(node.func)) or self.tokens.watched.get(id(node.func))
        if known is not None:
            return known.digest
        if is_subgraph(node.func):
            inner, outkey, inkeys, *values = node.args
            scope = Scope(self.tokens, dict(zip(inkeys, values, strict=True)), self, inner)
            return scope.function(TaskRef(outkey))
        if is_transparent(node.func):
            return self.function(node.args[0])
        if is_one_of(node.func, READERS) and self._region(node) is not None:
            return self._function_of_data()
        # It has a token, so what it reads is known.
        return self.tokens.fingerprinter.fingerprint_reading(node.func)

    def _function_of_key(self, key: Key) -> bytes:
        if key in self._given:
            assert self._given_scope is not None
            return self._given_scope.function(self._given[key])
        if key in self._inner:
            return self.function(self._inner[key])
        return self.tokens.function(key)

    def _function_of_data(self) -> bytes:
        return self.tokens.fingerprinter.combine(b"data", [])

"""Tokens of the tasks that make up most of a graph, without a walk: the same as a scope gives, several times as fast.

A task whose function no rule treats otherwise, and whose arguments are references and plain values, has a token that
is one hash of a few known digests. What is anything else is left to `daskcache.tokens.scope`, which alone says what
a token is: `Direct` gives its token or none at all.
"""

from __future__ import annotations

import itertools
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import Any

from daskcache.dask_internals import Alias, DataNode, GraphNode, Key, Task, TaskRef
from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import DIGEST_FRAME, frame
from daskcache.tokens.blockwise import BlockwiseLayer
from daskcache.tokens.columns import ARE_DIGESTS, CONTAINERS, Columns, list_alike
from daskcache.tokens.functions import Known
from daskcache.tokens.rules import encode_name
from daskcache.tokens.scope import FromDependencyError, Scope, TokenSource

__all__ = ["Direct", "GraphKeys"]

# Of one task that are followed here.
_MOST_NAMES = 10
# Of the things in an older tuple, those that dask looks up among the keys, and those that it never does.
_MAYBE_KEYS = (int, float, str, bool)
_NEVER_KEYS = frozenset([slice, type(None), type(...), complex])
_CONVERTED = (tuple, list, set, frozenset, dict, int, float, str, GraphNode, TaskRef)


class Direct:
    """Gives the tokens of ordinary tasks.

    Parameters
    ----------
    graph : TokenSource
        Where rules and values are looked up.
    scope : Scope
        That of the whole graph.
    nodes : mapping
        The tasks of the graph's materialised layers.
    layers : mapping
        Its blockwise layers.
    keys : container
        All keys of the graph.
    tokens : mapping
        The tokens that are known by now, and reasons for those that there are not; more are added.
    """

    __slots__ = (
        "_columns",
        "_combine",
        "_graph",
        "_hash",
        "_keys",
        "_layers",
        "_leaves",
        "_never_keys",
        "_nodes",
        "_ordinary",
        "_readers",
        "_scope",
        "_tokens",
    )

    def __init__(
        self,
        graph: TokenSource,
        scope: Scope,
        nodes: Mapping[Key, Any],
        layers: Mapping[str, BlockwiseLayer],
        keys: Container[Key],
        tokens: MutableMapping[Key, bytes | UncacheableError],
    ) -> None:
        self._graph = graph
        self._scope = scope
        self._nodes = nodes
        self._layers = layers
        self._keys = keys
        self._tokens = tokens
        self._ordinary = graph.ordinary
        self._readers = graph.readers
        self._leaves = graph.fingerprinter.leaves
        digester = graph.fingerprinter.digester
        self._hash: Callable[[bytes], bytes] = digester.digest_framed
        self._combine: Callable[[bytes, Sequence[bytes]], bytes] = digester.combine_digests
        self._columns = Columns(tokens, self._leaves, digester, self._argument, self._older_argument)
        # No number equals a tuple or a text: where all keys are these, none is looked up among them.
        has_numbers = not {tuple, str}.issuperset(map(type, nodes))
        self._never_keys = _NEVER_KEYS if has_numbers else _NEVER_KEYS | {int, float, bool}

    def evaluate(self, listed: Sequence[tuple[str | None, list[Key]]]) -> Iterator[Key]:
        """Give tokens to tasks, each after most of what it needs itself.

        Parameters
        ----------
        listed : sequence of tuple
            What a layer is called, and keys of it; None, and keys that are called otherwise. Most come before what they need.

        Yields
        ------
        key : Hashable
            One that has to be given a token otherwise before the next one is looked at.
        """
        tokens, token, task, nodes = self._tokens, self.token, self._task, self._nodes
        waiting: list[Key] = []
        for name, keys in reversed(listed):
            layer = None if name is None else self._layers.get(name)
            left: Iterable[Key] = reversed(keys)
            if layer is not None:
                # The first one tells how the others are made up.
                yield keys[0]
                left = layer.fill(keys, self._scope, tokens)
            else:
                count = yield from self._fill(keys)
                left = [key for key in left if key not in tokens] if count < len(keys) else ()
            for key in left:
                node: Any = None if layer is not None else nodes.get(key)
                if type(node) is Task:
                    found = task(node, waiting)
                elif layer is None and (key not in nodes or self._is_value(key)):
                    # Of most values tasks want a region only.
                    continue
                else:
                    found = token(key, waiting)
                if found is not None:
                    tokens[key] = found
                else:
                    waiting.clear()
                    yield key

    def _fill(self, keys: Sequence[Key]) -> Generator[Key, None, int]:
        """Give tokens to those of many tasks that are alike and of which all inputs are known, and tell how many these are.

        As `_task` and `_older` would one by one, in half of the time.
        """
        count = 0
        tokens, combine_all = self._tokens, self._graph.fingerprinter.digester.digest_all
        for alike in list_alike(keys, self._nodes):
            known = self._known_of(alike.function)
            if known is None:
                # Another one may tell.
                yield alike.keys[-1]
                known = self._known_of(alike.function)
                if known is None:
                    continue
            if id(alike.function) not in self._ordinary:
                # Of most values tasks want a region only.
                alike = alike.where([self._reads_block(read, alike.is_older) for read in alike.columns[0]])
            columns = [self._columns.digest(column, alike.is_older) for column in alike.columns]
            filled: Sequence[Key] = alike.keys
            if not all(ARE_DIGESTS(map(type, column)) for column in columns):
                is_known = [ARE_DIGESTS(map(type, row)) for row in zip(*columns, strict=True)]
                filled = [*itertools.compress(filled, is_known)]
                columns = [[*itertools.compress(column, is_known)] for column in columns]
            head = known.heads.get(len(columns)) or known.head(len(columns))
            rows = zip(itertools.repeat(head, len(filled)), *columns, strict=True)
            tokens.update(zip(filled, combine_all(map(DIGEST_FRAME.join, rows)), strict=True))
            count += len(filled)
        return count

    def _known_of(self, function: object) -> Known | None:
        return self._ordinary.get(id(function)) or self._readers.get(id(function))

    def _reads_block(self, read: Any, is_older: bool) -> bool:
        """Tell whether what a reader is given is computed."""
        if not is_older:
            if type(read) is not TaskRef:
                return False
            read = read.key
        if type(read) is tuple and read and type(read[0]) is str and read[0] in self._layers:
            return not is_older or self._is_key(read)
        return (not is_older or self._is_key(read)) and not self._is_value(read)

    def token(self, key: Key, waiting: list[Key]) -> bytes | None:
        """Give the token of a key, if all that it depends on is known and no rule is needed.

        Parameters
        ----------
        key : Hashable
            A key of the graph.
        waiting : list
            Keys are added to it that have to be known first.

        Returns
        -------
        bytes or None
            20 bytes. None, with nothing in `waiting`, where a scope has to say.
        """
        if self._layers and type(key) is tuple and key:
            layer = self._layers.get(key[0])
            if layer is not None:
                return layer.direct(key, self._scope, self._tokens, waiting)
        node: Any = self._nodes.get(key)
        kind = type(node)
        if kind is Task:
            return self._task(node, waiting)
        if kind is tuple:
            return self._older(node, waiting)
        if kind is Alias:
            return self._reference(node.target, waiting)
        return None

    def _task(self, task: Task, waiting: list[Key]) -> bytes | None:
        args, kwargs = task.args, task.kwargs
        known = self._ordinary.get(id(task.func))
        if known is None:
            known = self._readers.get(id(task.func))
            if known is None or not args or type(args[0]) is not TaskRef:
                return None
            read: Any = args[0].key
            is_block = type(read) is tuple and read and read[0] in self._layers
            if not is_block and self._is_value(read):
                return None
        count = len(args)
        if not count and not kwargs:
            return None
        tokens, leaves = self._tokens, self._leaves
        # Of most tasks the last thing that is known: each is looked at before any is encoded.
        parts = [known.heads.get(count) or known.head(count)]
        for arg in args:
            is_reference = type(arg) is TaskRef
            if is_reference:
                found: Any = tokens.get(arg.key)
            else:
                leaf = leaves.get(type(arg))
                found = None if leaf is None else leaf(arg)
            if type(found) is not bytes:
                if found is None and is_reference and type(self._nodes.get(arg.key)) is Task:
                    self._add_others(task, waiting)
                    return None
                found = self._argument(arg, waiting)
                if found is None:
                    if waiting:
                        self._add_others(task, waiting)
                    return None
            parts.append(found)
        framed = DIGEST_FRAME.join(parts)
        if kwargs:
            tail = self._tail(known, kwargs, waiting)
            if tail is None:
                return None
            framed += tail
        return self._hash(framed)

    def _is_value(self, key: Key) -> bool:
        """Tell whether a key stands for a value; for tasks, and other names of theirs, without asking the graph."""
        named: Any = key
        for _ in range(_MOST_NAMES):
            if type(named) is tuple and named and named[0] in self._layers:
                return False
            node = self._nodes.get(named)
            if type(node) is Task:
                return False
            if type(node) is not tuple or not node:
                break
            if callable(node[0]):
                return False
            if not self._is_key(node):
                break
            named = node
        return self._graph.is_value(key)

    def _add_others(self, task: Task, waiting: list[Key]) -> None:
        """Add all that a task waits for, so that it is looked at but twice."""
        tokens, is_value = self._tokens, self._is_value
        waiting.extend([dep for dep in task.dependencies if dep not in tokens and not is_value(dep)])

    def _tail(self, known: Known, kwargs: Mapping[str, Any], waiting: list[Key]) -> bytes | None:
        # The tasks of a layer are given the same objects.
        values = tuple(kwargs.values())
        if len(values) == len(known.values) and tuple(kwargs) == known.names:
            for value, other in zip(values, known.values, strict=True):
                if value is not other:
                    break
            else:
                return known.tail
        parts: list[bytes] = []
        for name, value in kwargs.items():
            found = self._argument(value, waiting)
            if found is None:
                return None
            parts += (encode_name(name), found)
        tail = frame(*parts)
        if not any(isinstance(value, GraphNode | TaskRef) for value in values):
            known.names, known.values, known.tail = tuple(kwargs), values, tail
        return tail

    def _argument(self, arg: Any, waiting: list[Key]) -> bytes | None:
        kind = type(arg)
        if kind is TaskRef:
            return self._reference(arg.key, waiting)
        if kind is DataNode:
            return self._value(arg.value)
        if kind is Alias:
            return self._reference(arg.target, waiting)
        tag = CONTAINERS.get(kind)
        if tag is not None:
            parts, tokens = [], self._tokens
            for element in arg.args:
                kind = type(element)
                found: Any = None
                if kind is TaskRef:
                    found = tokens.get(element.key)
                elif kind is Alias:
                    found = tokens.get(element.target)
                if type(found) is not bytes:
                    found = self._argument(element, waiting)
                    if found is None:
                        return None
                parts.append(found)
            return self._combine(tag, parts)
        return None if isinstance(arg, GraphNode | TaskRef) else self._value(arg)

    def _value(self, value: object) -> bytes | None:
        leaf = self._leaves.get(type(value))
        found = None if leaf is None else leaf(value)
        if found is not None:
            return found
        if self._graph.functions.takes_seed(value):
            # The scope sees what it is given besides.
            return None
        try:
            return self._scope.value(value)
        except UncacheableError:
            # The scope says where it is.
            return None

    def _reference(self, key: Key, waiting: list[Key]) -> bytes | None:
        found = self._tokens.get(key)
        if found is not None:
            return found if type(found) is bytes else None
        if self._is_value(key):
            try:
                return self._graph.look(key)
            except FromDependencyError:
                return None
        waiting.append(key)
        return None

    def _older(self, node: tuple[Any, ...], waiting: list[Key]) -> bytes | None:
        """Give the token of a task of the older form: a tuple that begins with a function, or is another key."""
        if not node:
            return None
        func = node[0]
        if not callable(func):
            return self._reference(node, waiting) if self._is_key(node) else None
        count = len(node) - 1
        if not count:
            return None
        known = self._ordinary.get(id(func))
        if known is None:
            known = self._readers.get(id(func))
            if known is None or not self._is_key(node[1]) or self._is_value(node[1]):
                return None
        parts = [known.heads.get(count) or known.head(count)]
        for arg in node[1:]:
            found = self._older_argument(arg, waiting)
            if found is not None:
                parts.append(found)
            elif not waiting:
                return None
            # Else all others as well, so that the task is looked at but twice.
        return None if waiting else self._hash(DIGEST_FRAME.join(parts))

    def _older_argument(self, arg: Any, waiting: list[Key]) -> bytes | None:
        kind = type(arg)
        if kind is tuple:
            if self._never_keys.issuperset(map(type, arg)) and not self._is_key(arg):
                # Once something is missing, all is looked at again.
                return None if waiting else self._value(arg)
            if arg and callable(arg[0]):
                return None
            found: Any = None
            try:
                found = self._tokens.get(arg)
                is_key = found is not None or arg in self._keys
            except TypeError:
                # Not hashable.
                is_key = False
            if is_key:
                return found if type(found) is bytes else self._reference(arg, waiting)
            tag = b"tuple"
        elif kind is list:
            tag = b"list"
        elif kind in self._never_keys:
            return None if waiting else self._value(arg)
        elif kind in _MAYBE_KEYS:
            return self._reference(arg, waiting) if arg in self._keys else self._value(arg)
        elif not (isinstance(arg, _CONVERTED) or getattr(arg, "__dask_future__", False)):
            return self._value(arg)
        else:
            return None
        parts = []
        for element in arg:
            part = self._older_argument(element, waiting)
            if part is not None:
                parts.append(part)
            elif not waiting:
                return None
        return None if waiting else self._combine(tag, parts)

    def _is_key(self, value: Any) -> bool:
        try:
            return value in self._tokens or value in self._keys
        except TypeError:
            # Not hashable.
            return False


class GraphKeys(Container[Key]):
    """The keys of a graph, without those of its blockwise layers being listed."""

    def __init__(self, nodes: Mapping[Key, Any], layers: Mapping[str, BlockwiseLayer]) -> None:
        self._nodes = nodes
        self._layers = layers

    def __contains__(self, key: object) -> bool:
        if key in self._nodes:
            return True
        if type(key) is not tuple or not key or type(key[0]) is not str:
            return False
        layer = self._layers.get(key[0])
        return layer is not None and layer.has_block(key[1:])

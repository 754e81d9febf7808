"""Tasks that are alike, seen argument by argument instead of task by task."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from daskcache.dask_internals import Key, List, Task, TaskRef, Tuple
from daskcache.fingerprint.digest import DIGEST_FRAME, Digester, frame

__all__ = ["ARE_DIGESTS", "CONTAINERS", "Alike", "Columns", "list_alike"]

ARE_DIGESTS = frozenset([bytes]).issuperset
"""Tells of types whether all are those of digests."""
CONTAINERS = {List: b"list", Tuple: b"tuple"}
"""What their tokens are tagged with."""
# Fewer tasks are looked at one by one, and those of so many functions.
_FEW = 16
_MOST_SIGNS = 8

_read_function, _read_args, _read_kwargs, _read_key = map(
    operator.attrgetter, ("func", "args", "kwargs", "key")
)
_read_head, _read_rest = operator.itemgetter(0), operator.itemgetter(slice(1, None))


class Alike(NamedTuple):
    """Tasks that call one function with as many arguments, by position only."""

    keys: list[Key]
    """Their keys."""
    function: Any
    """What they call."""
    columns: list[list[Any]]
    """For each argument what each task gives, references as the tasks' form has them."""
    is_older: bool
    """Whether they have the form that dask's tasks once had."""

    def where(self, chosen: list[bool]) -> Alike:
        """Keep those that are chosen."""
        if all(chosen):
            return self
        columns = [[*itertools.compress(column, chosen)] for column in self.columns]
        return Alike([*itertools.compress(self.keys, chosen)], self.function, columns, self.is_older)


def list_alike(keys: Sequence[Key], nodes: Mapping[Key, Any]) -> Iterator[Alike]:
    """List tasks that are alike, where many are.

    Parameters
    ----------
    keys : sequence of Hashable
        Of those to look at.
    nodes : mapping
        The tasks and values of a graph.

    Yields
    ------
    Alike
        Some of them, in their order.
    """
    tasks = [*map(nodes.get, keys)]
    types = [*map(type, tasks)]
    kinds = {*types}
    for kind in kinds & {Task, tuple}:
        is_older = kind is tuple
        some = _Picked([*keys], tasks).where([one is kind for one in types] if len(kinds) > 1 else None)
        if len(some.keys) < _FEW or (is_older and not all(some.tasks)):
            continue
        functions = [*map(_read_head if is_older else _read_function, some.tasks)]
        args = [*map(_read_rest if is_older else _read_args, some.tasks)]
        # Tuples of them all take longer than everything else here, and most often they are the same.
        numbers, counts = [*map(id, functions)], [*map(len, args)]
        signs = []
        if len({*numbers}) > 1 or len({*counts}) > 1:
            signs = [*zip(numbers, counts, strict=True)]
        different = {*signs} or {(numbers[0], counts[0])}
        for sign in different if len(different) <= _MOST_SIGNS else ():
            alike = some.where([sign == one for one in signs] if len(different) > 1 else None)
            function = (_read_head if is_older else _read_function)(alike.tasks[0])
            has_names = not is_older and any(map(_read_kwargs, alike.tasks))
            if len(alike.keys) < _FEW or not sign[1] or has_names or not callable(function):
                continue
            args = [*map(_read_rest if is_older else _read_args, alike.tasks)]
            columns = [[*map(operator.itemgetter(place), args)] for place in range(sign[1])]
            yield Alike(alike.keys, function, columns, is_older)


class _Picked(NamedTuple):
    keys: list[Key]
    tasks: list[Any]

    def where(self, chosen: list[bool] | None) -> _Picked:
        """Keep those that are chosen; all without."""
        if chosen is None:
            return self
        return _Picked([*itertools.compress(self.keys, chosen)], [*itertools.compress(self.tasks, chosen)])


class Columns:
    """Gives the digests of what many tasks are given for one argument.

    Parameters
    ----------
    tokens : mapping
        What is known by now.
    leaves : mapping
        By type, what gives digests of values.
    digester : Digester
        What hashes.
    encode : callable
        Gives the digest of one argument, or None; adds to a list what has to be known first.
    encode_older : callable
        The same, for arguments of tasks of the older form.
    """

    __slots__ = ("_combine_all", "_encode", "_encode_older", "_leaves", "_tokens")

    def __init__(
        self,
        tokens: Mapping[Key, Any],
        leaves: Mapping[type, Callable[[Any], bytes | None]],
        digester: Digester,
        encode: Callable[[Any, list[Key]], bytes | None],
        encode_older: Callable[[Any, list[Key]], bytes | None],
    ) -> None:
        self._tokens = tokens
        self._leaves = leaves
        self._combine_all = digester.digest_all
        self._encode = encode
        self._encode_older = encode_older

    def digest(self, column: Sequence[Any], is_older: bool) -> list[Any]:
        """Give the digest of each argument.

        Parameters
        ----------
        column : sequence
            The arguments.
        is_older : bool
            Whether they are those of tasks of the older form.

        Returns
        -------
        list
            Bytes, or something else where a digest is not known.
        """
        kinds = {*map(type, column)}
        if len(kinds) != 1:
            return self._one_by_one(column, is_older)
        if len({*map(id, column)}) == 1:
            return self._one_by_one(column[:1], is_older) * len(column)
        (kind,) = kinds
        if is_older:
            if kind is list:
                return self._digest_nested(b"list", column, is_older)
            if kind is tuple and all(column) and {*map(type, map(_read_head, column))} == {str}:
                return self._digest_keys(column)
        elif kind is TaskRef:
            return [*map(self._tokens.get, map(_read_key, column))]
        elif kind in CONTAINERS:
            return self._digest_nested(CONTAINERS[kind], [*map(_read_args, column)], is_older)
        elif kind in self._leaves:
            return [*map(self._leaves[kind], column)]
        return self._one_by_one(column, is_older)

    def _one_by_one(self, column: Sequence[Any], is_older: bool) -> list[Any]:
        encode = self._encode_older if is_older else self._encode
        waiting: list[Key] = []
        found: list[Any] = []
        for arg in column:
            found.append(encode(arg, waiting))
            waiting.clear()
        return found

    def _digest_keys(self, column: Sequence[Any]) -> list[Any]:
        """Look up tuples that are keys, most likely."""
        try:
            found = [*map(self._tokens.get, column)]
        except TypeError:
            # Not hashable.
            return self._one_by_one(column, True)
        if ARE_DIGESTS(map(type, found)):
            return found
        unknown = [arg for arg, digest in zip(column, found, strict=True) if digest is None]
        others = iter(self._one_by_one(unknown, True))
        return [next(others) if digest is None else digest for digest in found]

    def _digest_nested(self, tag: bytes, column: Sequence[Sequence[Any]], is_older: bool) -> list[Any]:
        parts = self.digest([*itertools.chain.from_iterable(column)], is_older)
        each, head = iter(parts), frame(tag)
        rows = [[head, *itertools.islice(each, count)] for count in map(len, column)]
        if ARE_DIGESTS(map(type, parts)):
            return self._combine_all(map(DIGEST_FRAME.join, rows))
        return [
            self._combine_all([DIGEST_FRAME.join(row)])[0] if ARE_DIGESTS(map(type, row)) else None
            for row in rows
        ]

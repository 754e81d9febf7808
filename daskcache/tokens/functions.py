"""What has to be known of the functions of a graph before their tasks have tokens, found out once for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import batched
from types import FunctionType
from typing import Any, NamedTuple

from dask.utils import funcname

from daskcache.dask_internals import Dict, Task, TaskRef, pass_extra_kwargs
from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import frame
from daskcache.fingerprint.held import refuse_generator, refuse_path, takes_path
from daskcache.fingerprint.readers import Reads, reads_of
from daskcache.fingerprint.seeds import Seeds, find_seeds, find_unseeded_call, takes_seed
from daskcache.tokens.rules import count_arguments, refuse_impure

__all__ = ["Functions", "Known", "Settled", "in_function_of"]


class Settled(NamedTuple):
    """What has been worked out of a block elsewhere."""

    token: bytes
    """Its token."""
    function: bytes
    """The fingerprint of the function whose result it is, as `GraphTokens.function` gives it."""


@contextmanager
def in_function_of(task: Task) -> Iterator[None]:
    """Say of what is refused that it is a task's function."""
    try:
        yield
    except UncacheableError as error:
        raise error.within("function").within(f"task {funcname(task.func)!r}") from None


class Known:
    """A function whose fingerprint is known, and of the tokens of its tasks what they share."""

    __slots__ = ("digest", "func", "heads", "names", "tail", "values")

    def __init__(self, func: object, digest: bytes) -> None:
        # Kept alive, so that its identity stays its own.
        self.func = func
        self.digest = digest
        self.heads: dict[int, bytes] = {}
        self.names: tuple[str, ...] = ()
        self.values: tuple[Any, ...] = ()
        self.tail = b""

    def head(self, count: int) -> bytes:
        """Give what a token's framed parts begin with, for so many arguments by position."""
        head = self.heads[count] = frame(b"task", count_arguments(range(count)), self.digest)
        return head


class Functions:
    """What is known of functions, for one pass: later they may have others beside them."""

    __slots__ = ("_harmless", "_reads", "_seeds", "_takes_seed")

    def __init__(self) -> None:
        # By identity, with the functions themselves, so that it stays their own.
        self._reads: dict[int, tuple[object, Reads]] = {}
        self._takes_seed: dict[int, tuple[object, bool]] = {}
        self._harmless: dict[int, object] = {}
        self._seeds: dict[tuple[FunctionType, type | None], Seeds] = {}

    def reads_of(self, func: Any) -> Reads:
        """Say whether a function reads files, or does worse."""
        found = self._reads.get(id(func))
        if found is None:
            found = self._reads[id(func)] = (func, reads_of(func))
        return found[1]

    def takes_seed(self, value: Any) -> bool:
        """Whether it depends on how something is called whether it draws unseeded random numbers."""
        if not callable(value):
            return False
        found = self._takes_seed.get(id(value))
        if found is None:
            found = self._takes_seed[id(value)] = (value, takes_seed(value, self._find_seeds))
        return found[1]

    def _find_seeds(self, function: FunctionType, kind: type | None = None) -> Seeds:
        found = self._seeds.get((function, kind))
        if found is None:
            found = self._seeds[function, kind] = find_seeds(function, kind)
        return found

    def refuse(self, value: Any) -> None:
        """Raise for what gives another result at another time, or holds such a thing."""
        if id(value) not in self._harmless:
            refuse_impure(value)
            if callable(value):
                self._harmless[id(value)] = value

    def refuse_held(self, func: Any) -> None:
        """Raise for a function that has a random generator, or a path, bound to it."""
        refuse_generator(func)
        while isinstance(func, functools.partial):
            bound = [*func.args, *func.keywords.values()]
            if not takes_path(func, bound):
                refuse_path(bound)
            func = func.func

    def hands_seeded(self, task: Task, literal: Callable[[Any], Any]) -> bool:
        """Whether a task hands on a function of which it depends on what it is given whether what it draws is seeded.

        Returns
        -------
        bool
            False for most; ``literal`` gives the value of an argument where that is known.
        """
        return any(self.takes_seed(literal(arg)) for arg in (*task.args, *task.kwargs.values()))

    def refuse_unseeded(self, task: Task, literal: Callable[[Any], Any]) -> None:
        """Raise for a task that draws unseeded random numbers because of what it gives a function, or does not give it."""
        values = [literal(arg) for arg in task.args]
        named = {name: literal(value) for name, value in task.kwargs.items()}
        found = [find_unseeded_call(task.func, values, named, self._find_seeds)]
        handed = [value for value in (*values, *named.values()) if self.takes_seed(value)]
        if handed:
            given: list[Any] = []
            if task.func is pass_extra_kwargs and isinstance(values[1], list | tuple):
                given = values[2 + len(values[1]) :]
                named |= {str(name): True for name in values[1]}
            for arg, value in zip(task.args, values, strict=True):
                # As xarray's map_blocks and dask's apply hand on what is given by name.
                if isinstance(arg, Dict):
                    named |= {literal(name): literal(one) for name, one in batched(arg.args, 2)}
                elif isinstance(value, dict):
                    named |= value
            found += [find_unseeded_call(value, given, named, self._find_seeds) for value in handed]
        why = next((why for why in found if why is not None), None)
        if why is not None:
            raise UncacheableError(why)

    def is_given_path(self, task: Task, literal: Callable[[Any], Any]) -> bool:
        """Whether a task is given a path by one who says what its function reads."""
        if not self.reads_of(task.func).is_trusted:
            return False
        return takes_path(task.func, [literal(arg) for arg in (*task.args, *task.kwargs.values())])

    def is_same_for_all(self, task: Task, literal: Callable[[Any], Any], varying: Container[str]) -> bool:
        """Whether what differs from block to block has no part in whether a task has a token."""

        def known(arg: Any) -> Any:
            return None if isinstance(arg, TaskRef) and arg.key in varying else literal(arg)

        try:
            self.refuse_unseeded(task, known)
        except UncacheableError:
            return False
        return not self.is_given_path(task, known)

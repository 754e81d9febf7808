"""The processors of one function, and the function that they are around."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from daskcache.chunks import Hints
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import version
from daskcache.formats.contents import Wanted

if TYPE_CHECKING:
    from daskcache.processors.base import Processor

__all__ = ["Bound", "Chain", "Processed", "decorate"]

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A call's arguments, after all processors."""

    arguments: Arguments
    """Those that the function is called with, by name."""
    key_arguments: Arguments
    """Those that may be part of a key, by name."""
    states: tuple[Any, ...]
    """What each processor is handed again."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The processors of one function, the innermost first.

    Examples
    --------
    >>> from daskcache.processors import select
    >>> def f(level=None):
    ...     return level
    >>> Chain((select("level"),)).bind(inspect.signature(f), {"level": 850}).key_arguments
    {}
    """

    processors: tuple[Processor, ...] = ()
    """In the order in which they see the result."""

    def __bool__(self) -> bool:
        return bool(self.processors)

    def __add__(self, processor: Processor) -> Self:
        return type(self)((*self.processors, processor))

    def extend(self, signature: inspect.Signature) -> inspect.Signature:
        """Give a signature the parameters that processors take and the function does not have.

        Parameters
        ----------
        signature : inspect.Signature
            The function's own.

        Returns
        -------
        inspect.Signature
            That of the decorated function.
        """
        kept = list(signature.parameters.values())
        known = set(signature.parameters)
        added = []
        for processor in reversed(self.processors):
            for name in processor.parameters:
                if name not in known:
                    known.add(name)
                    added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
        at = len(kept) - sum(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in kept)
        return signature.replace(parameters=[*kept[:at], *added, *kept[at:]])

    def bind(self, signature: inspect.Signature, arguments: Arguments) -> Bound:
        """Let each processor, the outermost first, take what it needs.

        Parameters
        ----------
        signature : inspect.Signature
            The function's own.
        arguments : mapping
            The arguments by name, with defaults, as `extend` has them.

        Returns
        -------
        Bound
            What is left of them.
        """
        key = dict(arguments)
        states = []
        for processor in reversed(self.processors):
            passed, kept, state = processor.bind(signature, arguments)
            for name in set(arguments) - set(kept):
                key.pop(name, None)
            key.update({name: value for name, value in kept.items() if name in key or name not in arguments})
            states.append(state)
            arguments = passed
        known = signature.parameters
        fitting = {name: value for name, value in arguments.items() if name in known}
        return Bound(fitting, key, tuple(reversed(states)))

    def trim(self, result: Any, states: Sequence[Any]) -> Any:
        """Leave away what no processor needs, without cutting blocks.

        Parameters
        ----------
        result : object
            What the function returned.
        states : sequence
            Those of `Bound`.

        Returns
        -------
        object
            What is worth storing.

        Raises
        ------
        InvalidInputError
            What is asked is not in it, so that nothing is worth storing.
        """
        for processor, state in zip(self.processors, states, strict=True):
            problem = processor.validate(result, state)
            if problem is not None:
                raise InvalidInputError(problem)
            result = processor.trim(result, state)
        return result

    def coverage(self, result: Any, states: Sequence[Any]) -> list[Any]:
        """Say what a stored result holds.

        Parameters
        ----------
        result : object
            What `trim` gave.
        states : sequence
            Those of `Bound`.

        Returns
        -------
        list
            JSON, one item for each processor.
        """
        pairs = zip(self.processors, states, strict=True)
        return [processor.coverage(result, state) for processor, state in pairs]

    def covers(self, coverage: Sequence[Any], states: Sequence[Any]) -> bool:
        """Tell whether a stored result holds what is asked.

        Parameters
        ----------
        coverage : sequence
            What `coverage` gave.
        states : sequence
            Those of `Bound`.

        Returns
        -------
        bool
            False also where it was stored under other processors.
        """
        if len(coverage) != len(self.processors):
            return False
        triples = zip(self.processors, coverage, states, strict=True)
        return all(processor.covers(found, state) for processor, found, state in triples)

    def finish(self, result: Any, states: Sequence[Any]) -> tuple[Any, str | None]:
        """Make of a result what the caller gets, and say what is wrong with it.

        Parameters
        ----------
        result : object
            What was computed or recalled.
        states : sequence
            Those of `Bound`.

        Returns
        -------
        result : object
            The caller's.
        problem : str or None
            Why it is not what was asked; None if all is well.
        """
        for processor, state in zip(self.processors, states, strict=True):
            problem = processor.validate(result, state)
            if problem is not None:
                return result, problem
            result = processor.process(result, state)
        return result, None

    def process(self, result: Any, states: Sequence[Any]) -> Any:
        """Make of a result what the caller gets.

        Parameters
        ----------
        result : object
            What was computed.
        states : sequence
            Those of `Bound`.

        Returns
        -------
        object
            The caller's.

        Raises
        ------
        InvalidInputError
            What is asked is not in it.
        """
        processed, problem = self.finish(result, states)
        if problem is not None:
            raise InvalidInputError(problem)
        return processed

    def wanted(self, states: Sequence[Any]) -> tuple[Wanted, ...]:
        """Say which rows of a table are asked for.

        Parameters
        ----------
        states : sequence
            Those of `Bound`.

        Returns
        -------
        tuple of Wanted
            Of the innermost processors, up to the first that needs all rows.
        """
        found: list[Wanted] = []
        for processor, state in zip(self.processors, states, strict=True):
            wanted = processor.wanted(state)
            if wanted is None:
                break
            found.extend(wanted)
        return tuple(found)

    def hints(self, states: Sequence[Any] | None = None) -> Hints | None:
        """Put together what processors say of how the result will be read.

        Parameters
        ----------
        states : sequence, optional
            Those of `Bound`.

        Returns
        -------
        Hints or None
            None where none of them knows.
        """
        found: Hints | None = None
        for processor, state in zip(self.processors, states or (None,) * len(self.processors), strict=True):
            hints = processor.hints(state)
            found = hints if found is None else found.merge(hints)
        return found


# What a decorated function does is its function and its processors.
@version("1")
class Processed:
    """A function with processors.

    Parameters
    ----------
    function : callable
        The function.
    chain : Chain
        Its processors.

    Raises
    ------
    InvalidInputError
        It is a generator, whose results would be gone after they were looked at.
    """

    def __init__(self, function: Callable[..., Any], chain: Chain) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidInputError(
                f"{function.__qualname__} is a generator, which no processor can look into; return a list instead"
            )
        functools.update_wrapper(self, function)
        self.function = function
        self.chain = chain
        self._own = inspect.signature(function)
        self.__signature__ = chain.extend(self._own)
        if inspect.iscoroutinefunction(function):
            inspect.markcoroutinefunction(self)

    def with_processor(self, processor: Processor) -> Processed:
        """Put one more processor around it.

        Parameters
        ----------
        processor : Processor
            Sees the result last.

        Returns
        -------
        Processed
            Another function.
        """
        return Processed(self.function, self.chain + processor)

    def bind(self, *args: Any, **kwargs: Any) -> Bound:
        """Bind the arguments of a call.

        Parameters
        ----------
        *args, **kwargs
            The call's.

        Returns
        -------
        Bound
            What the function is called with, and what processors keep of it.
        """
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        return self.chain.bind(self._own, given.arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        bound = self.bind(*args, **kwargs)
        call = inspect.BoundArguments(self._own, dict(bound.arguments))
        result = self.function(*call.args, **call.kwargs)
        # Collections of dask can be awaited as well.
        if inspect.iscoroutine(result):
            return self._await(result, bound)
        return self.chain.process(result, bound.states)

    async def _await(self, result: Any, bound: Bound) -> Any:
        return self.chain.process(await result, bound.states)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        # By name, as functions are, where it has one: the function alone is not to be found under it.
        name, module = self.function.__qualname__, self.function.__module__
        if module != "__main__" and _find(module, name) is self:
            return name
        return Processed, (self.function, self.chain)

    def __daskcache_fingerprint__(self) -> Any:
        return self.function, self.chain.processors

    def __repr__(self) -> str:
        return f"<{self.function.__qualname__} with {', '.join(map(repr, self.chain.processors))}>"


def _find(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def decorate(function: Any, processor: Processor) -> Any:
    """Put a processor around a function.

    Parameters
    ----------
    function : callable
        A function, or one that is decorated already and has a method ``with_processor``.
    processor : Processor
        The processor.

    Returns
    -------
    callable
        The decorated function.

    Raises
    ------
    InvalidInputError
        It is no function.
    """
    if hasattr(function, "with_processor"):
        return function.with_processor(processor)
    if not callable(function):
        raise InvalidInputError(
            f"a processor decorates functions, and was given {function!r}; write it with its parentheses, such as "
            '@timeseries("time")'
        )
    return Processed(function, Chain((processor,)))

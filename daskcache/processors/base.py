"""What processors have in common: arguments in, result out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from daskcache.chunks import Hints
from daskcache.formats.contents import Wanted
from daskcache.processors.chain import Bound, Chain, Processed, decorate

__all__ = ["Arguments", "Bound", "Chain", "Processed", "Processor", "decorate"]

Arguments = Mapping[str, Any]


class Processor:
    """Something done to the arguments of a function before it is called, and to its result afterwards.

    A subclass is a frozen dataclass that overrides what it needs. It is a decorator: of any function, and above or below
    `daskcache.cache`, in any order with others.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Scaled(Processor):
    ...     factor: float
    ...     def process(self, result, state):
    ...         return result * self.factor
    >>> @Scaled(10)
    ... def three():
    ...     return 3
    >>> three()
    30

    One that overrides nothing changes nothing.

    >>> Processor()(len)([1, 2])
    2
    """

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Decorate a function."""
        return decorate(function, self)

    @property
    def counted(self) -> Any:
        """What of it decides what is stored: a result that was stored under another is computed again.

        Returns
        -------
        object
            Something that has an identity; by default all of it, and its code.
        """
        return self

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arguments that it takes; a function that does not have them gets them, and is not told.

        Returns
        -------
        tuple of str
            In their order.
        """
        return ()

    def bind(self, signature: inspect.Signature, arguments: Arguments) -> tuple[Arguments, Arguments, Any]:
        """Take what it needs from the arguments of a call.

        Parameters
        ----------
        signature : inspect.Signature
            The function's own.
        arguments : mapping
            The arguments by name, with defaults, also those that only `parameters` names.

        Returns
        -------
        arguments : mapping
            Those that the function is called with; what is not in its signature is left out.
        key_arguments : mapping
            Those that may be part of a key.
        state : object
            What the other methods are handed.
        """
        return arguments, arguments, None

    def trim(self, result: Any, state: Any) -> Any:
        """Leave away what nobody asked for before a result is stored, without cutting blocks.

        Parameters
        ----------
        result : object
            What the function returned.
        state : object
            What `bind` gave.

        Returns
        -------
        object
            Of the same kind.
        """
        return result

    def coverage(self, result: Any, state: Any) -> Any:
        """Say what a result that is stored holds of all that could be asked.

        Parameters
        ----------
        result : object
            What `trim` gave.
        state : object
            What `bind` gave.

        Returns
        -------
        object
            JSON that `covers` reads; None for all.
        """
        return None

    def covers(self, coverage: Any, state: Any) -> bool:
        """Tell whether a stored result holds what is asked.

        Parameters
        ----------
        coverage : object
            What `coverage` gave when it was stored.
        state : object
            What `bind` gave.

        Returns
        -------
        bool
            False makes the function run.
        """
        return coverage is None

    def validate(self, result: Any, state: Any) -> str | None:
        """Look whether what is asked is in a result.

        Parameters
        ----------
        result : object
            What was computed or recalled.
        state : object
            What `bind` gave.

        Returns
        -------
        str or None
            What is wrong: what was recalled is computed again, what was computed is refused. None if all is well.
        """
        return None

    def process(self, result: Any, state: Any) -> Any:
        """Make of a result what the caller gets.

        Parameters
        ----------
        result : object
            What was computed or recalled.
        state : object
            What `bind` gave.

        Returns
        -------
        object
            The caller's.
        """
        return result

    def wanted(self, state: Any) -> tuple[Wanted, ...] | None:
        """Say which rows of a table it selects, so that a database need not give the others.

        Parameters
        ----------
        state : object
            What `bind` gave.

        Returns
        -------
        tuple of Wanted or None
            Rows that are left out must not matter to it. None: it needs all of them.
        """
        return None

    def hints(self, state: Any = None) -> Hints | None:
        """Say how the result will be read.

        Parameters
        ----------
        state : object, optional
            What `bind` gave; None where nobody has called yet.

        Returns
        -------
        Hints or None
            None where nothing is known.
        """
        return None

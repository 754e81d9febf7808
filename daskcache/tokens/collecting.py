"""Working on graphs without the search for garbage, which would go through all of them again and again."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable

__all__ = ["without_collecting"]


def without_collecting[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Put off the search for garbage in circles while a function runs, which makes none.

    Parameters
    ----------
    function : callable
        What is called.

    Returns
    -------
    callable
        The same, of the same results.

    Examples
    --------
    >>> without_collecting(gc.isenabled)()
    False
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return call

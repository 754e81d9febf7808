"""Count calls of functions without touching them.

A counter inside a function would be part of its code, and what it writes to would be an effect that makes it
uncacheable. `sys.monitoring` sees the calls from outside: the function and its code object stay as they are.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from daskcache.errors import InvalidInputError

__all__ = ["count_calls", "read_counts"]

_NAME = "daskcache-demo"


def count_calls(functions: Iterable[Callable[..., Any]], path: str | os.PathLike[str]) -> None:
    """Append a line to a file whenever one of these functions is called in this process.

    Parameters
    ----------
    functions : iterable of callable
        Functions written in Python.
    path : path-like
        The file; processes may share it, because short appends do not mix.

    Raises
    ------
    InvalidInputError
        A function is not written in Python, or debuggers and profilers hold all of Python's monitoring slots.

    Examples
    --------
    >>> import tempfile
    >>> def double(x):
    ...     return 2 * x
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     count_calls([double], f"{directory}/calls")
    ...     double(4)
    ...     read_counts(f"{directory}/calls")["double"]
    8
    1
    """
    monitoring = sys.monitoring
    tool = _take_slot()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    monitoring.register_callback(tool, monitoring.events.PY_START, partial(_append, file))
    for function in functions:
        if not isinstance(function, FunctionType):
            raise InvalidInputError(
                f"{function!r} is not a function written in Python; its calls cannot be seen"
            )
        monitoring.set_local_events(tool, function.__code__, monitoring.events.PY_START)


def read_counts(path: str | os.PathLike[str]) -> Counter[str]:
    """Read how often each function was called.

    Parameters
    ----------
    path : path-like
        What `count_calls` was given.

    Returns
    -------
    Counter
        Names and numbers; empty where the file does not exist.
    """
    file = Path(path)
    return Counter(file.read_text(encoding="utf-8").split()) if file.exists() else Counter()


def _append(file: int, code: CodeType, offset: int) -> None:
    os.write(file, f"{code.co_name}\n".encode())


def _take_slot() -> int:
    monitoring = sys.monitoring
    slots = {slot: monitoring.get_tool(slot) for slot in range(6)}
    for slot, name in slots.items():
        if name == _NAME:
            return slot
    # From the top: the lower ones belong to debuggers, coverage and profilers.
    for slot in reversed(slots):
        if slots[slot] is None:
            monitoring.use_tool_id(slot, _NAME)
            return slot
    raise InvalidInputError(
        "all slots of sys.monitoring are taken; end the debuggers and profilers that use them"
    )

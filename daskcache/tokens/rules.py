"""What a task's function and index are: those that a token treats by a rule of their own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from types import FunctionType
from typing import Any

import dask.array.chunk
import numpy as np
from dask.utils import funcname

from daskcache.dask_internals import (
    EFFECTS,
    GETTERS,
    DataNode,
    Task,
    chunk_einsum,
    execute_subgraph,
    identity_cast,
    pass_extra_kwargs,
    pass_on,
)
from daskcache.errors import EffectError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.declare import is_declared_effect
from daskcache.fingerprint.held import refuse_generator, refuse_path
from daskcache.fingerprint.impure import find_call_impurity, find_impurity, refusal
from daskcache.fingerprint.instances import instance_node
from daskcache.fingerprint.rules import rule_of

__all__ = [
    "READERS",
    "RULED",
    "count_arguments",
    "encode_name",
    "has_effect",
    "is_basic",
    "is_composed",
    "is_effect",
    "is_one_of",
    "is_subgraph",
    "is_transparent",
    "is_unknown_array",
    "refuse_effects",
    "refuse_impure",
    "rename_subscripts",
]

READERS = (*GETTERS, operator.getitem, dask.array.chunk.getitem)
"""Functions that take a region of their first argument."""

RULED = (*READERS, identity_cast, pass_extra_kwargs, chunk_einsum)
"""Functions of which a token may count something else than all arguments."""

# Arrays of theirs lie in memory; what others call an array may be a file that is read when it is indexed.
_IN_MEMORY = frozenset(
    [
        "numpy",
        "pandas",
        "xarray",
        "dask",
        "sparse",
        "scipy",
        "cupy",
        "torch",
        "jax",
        "jaxlib",
        "pyarrow",
        "pint",
    ]
)


def count_arguments(args: Sequence[Any]) -> bytes:
    """Encode how many arguments are given by position."""
    return len(args).to_bytes(4, "big")


def encode_name(name: str) -> bytes:
    """Encode an argument's name."""
    return name.encode("utf-8", "surrogatepass")


def is_one_of(func: Any, functions: Iterable[Any]) -> bool:
    """Whether a function is one of some; by identity, because a callable may say of itself that it equals any."""
    return any(func is other for other in functions)


def is_transparent(func: Any) -> bool:
    """Whether a function of this package, or dask's own for such a purpose, passes a block on.

    Of the package's only plain functions: an object may have every attribute that it is asked for, and
    ``functools.wraps`` copies attributes on to functions that do more.

    Returns
    -------
    bool
        True for marks and writes.
    """
    return func is pass_on or (
        isinstance(func, FunctionType)
        and func.__dict__.get("__daskcache_transparent__") is True
        and str(func.__globals__.get("__name__")).startswith("daskcache.")
    )


def is_subgraph(func: Any) -> bool:
    """Whether a function runs tasks that were fused into one: dask's, or one of this package that is given the same.

    Returns
    -------
    bool
        True where the first arguments are the tasks, the key of the last one, and the names of their inputs.
    """
    return func is execute_subgraph or (
        isinstance(func, FunctionType)
        and func.__dict__.get("__daskcache_subgraph__") is True
        and str(func.__globals__.get("__name__")).startswith("daskcache.")
    )


def refuse_effects(func: Any) -> None:
    """Raise for what is run for what it does, however it is wrapped."""
    if is_effect(func):
        raise EffectError(f"{funcname(func)} is run for its effect, which a stored result would not have")


def is_effect(func: Any) -> bool:
    """Whether a function is one that is run for what it does, however it is wrapped.

    Returns
    -------
    bool
        True for those of dask's that write, and for those that are declared to have an effect.
    """
    if is_one_of(func, EFFECTS) or is_declared_effect(func):
        return True
    if isinstance(func, functools.partial):
        return is_effect(func.func)
    steps = (getattr(func, "first", None), *getattr(func, "funcs", ())) if is_composed(func) else ()
    return any(map(is_effect, steps))


def has_effect(task: Any) -> bool:
    """Whether a task is run for what it does.

    Parameters
    ----------
    task : object
        What a graph holds under a key.

    Returns
    -------
    bool
        False for values.
    """
    if not isinstance(task, Task):
        return False
    if is_subgraph(task.func):
        inner, outkey, *_ = task.args
        return has_effect(inner.get(outkey))
    if task.func is pass_extra_kwargs and task.args:
        func = task.args[0]
        return is_effect(func.value if isinstance(func, DataNode) else func)
    return is_effect(task.func)


def refuse_impure(func: Any, call: str = "") -> None:
    """Raise for what gives another result at another time, where ``call`` says how it is called."""
    refuse_generator(func)
    refuse_path(func)
    if not callable(func):
        return
    why = find_call_impurity(func) or (find_impurity(func, (), call) if call else None)
    if why is not None:
        raise refusal(why)


def is_composed(func: Any) -> bool:
    """Whether a function is toolz' composition of others."""
    return type(func).__name__ == "Compose" and type(func).__module__.partition(".")[0] in (
        "toolz",
        "cytoolz",
    )


def rename_subscripts(subscripts: Any) -> Any:
    """Name the indices of an einsum in the order in which they come: dask draws letters for ``...`` from a set."""
    if not isinstance(subscripts, str) or "->" not in subscripts:
        return subscripts
    letters = dict.fromkeys(letter for letter in subscripts if letter.isalpha())
    return subscripts.translate({ord(letter): 0x100 + number for number, letter in enumerate(letters)})


def is_unknown_array(value: object, fingerprinter: Fingerprinter) -> bool:
    """Whether something that is read region by region may be a file's, of which nobody says whether it has changed.

    The user's own classes are not: what their methods read is seen.

    Returns
    -------
    bool
        True where nobody says whether it has changed.
    """
    kind = type(value)
    if isinstance(value, np.ndarray) or kind.__module__.partition(".")[0] in _IN_MEMORY:
        return False
    if not all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    return fingerprinter.home(kind.__module__).kind != "user" and rule_of(kind) is instance_node


def is_basic(index: Any) -> bool:
    """Whether an index takes slices and positions only."""
    if not isinstance(index, tuple):
        index = (index,)
    return all(isinstance(i, slice | int | np.integer) or i is Ellipsis for i in index)

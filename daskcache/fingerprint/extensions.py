"""Accessors, methods and properties that other code has put on the classes of xarray, pandas and dask.

A function reaches them through its argument (``block.mine.detrend()``), where only the attribute's name shows. Such
a name counts where code that is loaded has registered it, as what it stands for; and the client tells the scheduler,
which need not have imported that code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

from daskcache.errors import UncacheableError
from daskcache.fingerprint.callables import member_of
from daskcache.fingerprint.distributions import find_home
from daskcache.fingerprint.registry import Node, handles

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["Extension", "TakenExtension", "choose_extensions", "find_extensions"]

# By the module that holds it, as far as it is loaded; their bases are looked at as well.
_CLASSES = (
    ("xarray", "DataArray Dataset DataTree Variable IndexVariable Coordinates"),
    ("xarray.core.groupby", "DataArrayGroupBy DatasetGroupBy"),
    ("xarray.core.resample", "DataArrayResample DatasetResample"),
    ("xarray.computation.rolling", "DataArrayRolling DatasetRolling DataArrayCoarsen DatasetCoarsen"),
    ("xarray.computation.weighted", "DataArrayWeighted DatasetWeighted"),
    ("pandas", "DataFrame Series Index DatetimeIndex MultiIndex Timestamp"),
    ("pandas.core.groupby", "DataFrameGroupBy SeriesGroupBy"),
    ("dask.array", "Array"),
    ("numpy.ma", "MaskedArray"),
)
_OF_PYTHON = frozenset({"builtins", "abc", "typing", "collections", "enum", "types"})
_ACCESSORS = ("xarray:_CachedAccessor", "pandas:Accessor", "pandas:CachedAccessor")
# Where a class's member keeps the function or class that it is made of.
_OF_INNER = ("__func__", "fget", "_accessor", "func")


class Extension(NamedTuple):
    """A name that other code has put on a library's class."""

    module: str
    """Where the class is defined."""
    name: str
    """The class's qualified name, and the attribute's."""
    value: Any
    """What is found there."""

    @property
    def attribute(self) -> str:
        """What code that uses it reads."""
        return self.name.rpartition(".")[2]


class TakenExtension(NamedTuple):
    """What a client has found on a class of a library's, for a process that may not have it."""

    module: str
    """Where the class is defined."""
    name: str
    """The class's qualified name, and the attribute's."""
    digest: bytes
    """20 bytes; none where it has no identity."""


class _Taken:
    """Stands for what is not there, by the digest that it has elsewhere."""

    __slots__ = ("taken",)

    def __init__(self, taken: TakenExtension) -> None:
        self.taken = taken


@handles("daskcache:_Taken")
def _taken(fp: Fingerprinter, obj: _Taken) -> bytes:
    if not obj.taken.digest:
        raise UncacheableError(f"{obj.taken.module}.{obj.taken.name} of the client has no identity here")
    return obj.taken.digest


@handles(*_ACCESSORS)
def _accessor(fp: Fingerprinter, obj: Any) -> Node:
    return Node((obj._accessor,), lambda parts: fp.combine(b"accessor", parts), ("class",))


# The values of a class's names beside those among them that are others'.
_known: dict[type, tuple[tuple[Any, ...], tuple[Extension, ...]]] = {}


def find_extensions() -> tuple[Extension, ...]:
    """Find what code that is loaded in this process has put on libraries' classes.

    Returns
    -------
    tuple of Extension
        In an order that does not depend on who came first.

    Notes
    -----
    A look at the classes' names, some 0.1 ms in all, once they have been looked through.

    Examples
    --------
    >>> import xarray as xr
    >>> @xr.register_dataarray_accessor("half")
    ... class Half:
    ...     __module__ = "analysis"  # whose code it is
    ...     def __init__(self, array):
    ...         self.array = array
    >>> [extension.name for extension in find_extensions() if extension.attribute == "half"]
    ['DataArray.half']
    >>> del xr.DataArray.half
    """
    found: list[Extension] = []
    for kind in _classes():
        names = vars(kind)
        values = tuple(names.values())
        known = _known.get(kind)
        if known is None or len(known[0]) != len(values) or not all(map(is_, known[0], values)):
            known = _known[kind] = values, tuple(sorted(_look_through(kind), key=lambda one: one.name))
        found += known[1]
    return tuple(found)


def choose_extensions(
    here: Iterable[Extension], taken: Iterable[TakenExtension] | None
) -> Mapping[str, list[tuple[str, str, object]]]:
    """Say what counts for code that reads an attribute, by the attribute's name.

    Parameters
    ----------
    here : iterable of Extension
        What is found in this process.
    taken : iterable of TakenExtension, optional
        What is found in the client, which then decides. Left out, this process is the client.

    Returns
    -------
    mapping
        Module, qualified name and value; for what is found in the client alone, a stand-in.

    Examples
    --------
    >>> choose_extensions([], [TakenExtension("xarray", "DataArray.half", bytes(20))]).keys()
    dict_keys(['half'])
    """
    values = {(one.module, one.name): one.value for one in here}
    if taken is not None:
        values = {(one.module, one.name): values.get((one.module, one.name), _Taken(one)) for one in taken}
    chosen: dict[str, list[tuple[str, str, object]]] = {}
    for (module, name), value in values.items():
        chosen.setdefault(name.rpartition(".")[2], []).append((module, name, value))
    return chosen


def _classes() -> Iterator[type]:
    seen: set[type] = set()
    for module, names in _CLASSES:
        loaded = sys.modules.get(module)
        for name in names.split() if loaded is not None else ():
            for kind in getattr(vars(loaded).get(name), "__mro__", ()):
                if kind not in seen and kind.__module__ not in _OF_PYTHON:
                    seen.add(kind)
                    yield kind


def _look_through(kind: type) -> Iterator[Extension]:
    own = find_home(kind.__module__).name
    for name in tuple(vars(kind)):
        module = _module_of(vars(kind)[name])
        if module is None or module.partition(".")[0] == "daskcache":
            continue
        home = find_home(module)
        if home.kind == "user" or (home.kind == "installed" and home.name != own):
            yield Extension(kind.__module__, f"{kind.__qualname__}.{name}", member_of(kind, name))


def _module_of(value: Any) -> str | None:
    """Name the module of the code that is behind a class's member."""
    for _ in range(4):
        inner = (getattr(value, name, None) for name in _OF_INNER)
        following = next((one for one in inner if one is not None), None)
        if following is None:
            break
        value = following
    module = getattr(value, "__module__", None)
    return module if isinstance(module, str) else None

"""Accessors, methods and properties that other code has put on the classes of xarray, pandas and dask.

A function reaches them through its argument (``block.mine.detrend()``), where only the attribute's name shows. Such
a name counts where code that is loaded has registered it, as what it stands for; and the client tells the scheduler,
which need not have imported that code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
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
_NAMED = tuple((module, tuple(names.split())) for module, names in _CLASSES)
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


# Ends what is compared, so that neither side can be longer than the other.
_END = object()
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


class _Seen(NamedTuple):
    """All classes, as they were when they were looked through."""

    sources: tuple[Any, ...]
    """Each class that is looked for, and those that it derives from; other ones than before make all of it void."""
    names: tuple[Mapping[str, Any], ...]
    """What the classes hold by now."""
    values: tuple[Any, ...]
    """What they held then."""
    found: tuple[Extension, ...]
    """Those among it that are others'."""

    def is_current(self, sources: tuple[Any, ...]) -> bool:
        """Whether the classes are the same and hold the same objects: one that only equals another is another."""
        if len(sources) != len(self.sources) or not all(map(is_, sources, self.sources)):
            return False
        try:
            values = chain.from_iterable(map(_values_of, self.names))
            return all(map(is_, chain(values, (_END,)), self.values))
        except RuntimeError:  # another thread gives a class one more name
            return False


_seen = _Seen((), (), (), ())


def find_extensions() -> tuple[Extension, ...]:
    """Find what code that is loaded in this process has put on libraries' classes.

    Returns
    -------
    tuple of Extension
        In an order that does not depend on who came first.

    Notes
    -----
    A look at what the classes hold, less than 0.1 ms in all, once they have been looked through.

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
    global _seen
    sources = tuple(_sources())
    seen = _seen
    if not seen.is_current(sources):
        kinds = tuple(_classes())
        names = [vars(kind) for kind in kinds]
        values = tuple(chain(*map(tuple, map(_values_of, names)), (_END,)))
        found: list[Extension] = []
        for kind in kinds:
            found += sorted(_look_through(kind), key=lambda one: one.name)
        # What another thread changes meanwhile is not among the values, and is found the next time.
        seen = _seen = _Seen(sources, tuple(names), values, tuple(found))
    return seen.found


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


def _values_of(names: Mapping[str, Any]) -> Iterable[Any]:
    # The names, too: the same function may get another.
    return chain(names, names.values())


def _sources() -> Iterator[Any]:
    for module, names in _NAMED:
        loaded = sys.modules.get(module)
        members = {} if loaded is None else vars(loaded)
        for name in names:
            # The same tuple for as long as the class derives from the same.
            yield getattr(members.get(name), "__mro__", ())


def _classes() -> Iterator[type]:
    seen: set[type] = set()
    for kind in chain.from_iterable(_sources()):
        if kind not in seen and kind.__module__ not in _OF_PYTHON and not kind.__flags__ & _IMMUTABLE:
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

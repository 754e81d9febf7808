"""Looking many objects up where more lie: in buckets several pages at once, where the names say how many there are."""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from daskcache.stores import drive
from daskcache.stores.faults import translating
from daskcache.stores.naming import describe

__all__ = ["Files", "Objects", "find_many", "find_objects", "list_many"]

# Keys that a server gives in one answer, how many are listed one after another, in how many ranges a prefix is listed
# at most, and how many requests are made at once.
_PAGE = 1000
_KEYS_OF_RANGE = 5 * _PAGE
_RANGES = 16
_WIDTH = 16
# So many files that are not there are looked for before all names of a directory are read.
_FEW = 64


class Objects(Mapping[str, tuple[int, float | None]]):
    """What was listed, in a quarter of the room that a tuple for each object takes.

    Parameters
    ----------
    names : list of str
        The objects' names.
    sizes : array
        Their sizes in bytes.
    times : array
        When they were written, in seconds since 1970.

    Examples
    --------
    >>> Objects(["ab"], array("Q", [3]), array("d", [0.0]))["ab"]
    (3, 0.0)
    """

    __slots__ = ("_numbers", "_sizes", "_times")

    def __init__(self, names: list[str], sizes: array[int], times: array[float]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._sizes = sizes
        self._times = times

    def __getitem__(self, name: str) -> tuple[int, float]:
        number = self._numbers[name]
        return self._sizes[number], self._times[number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class Files(Mapping[str, tuple[int, float | None]]):
    """The files of a directory, each looked at only when it is asked for: all names are read once many are not there.

    Parameters
    ----------
    path : str
        The directory; one that is missing has no files.

    Examples
    --------
    >>> len(Files("/nowhere/at/all"))
    0
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._missed = 0
        self._listed: frozenset[str] | None = None
        try:
            # One that cannot be read is an error from the beginning.
            os.scandir(path).close()
        except (FileNotFoundError, NotADirectoryError):
            self._listed = frozenset()

    @property
    def _names(self) -> frozenset[str]:
        if self._listed is None:
            try:
                self._listed = frozenset(os.listdir(self._path))
            except (FileNotFoundError, NotADirectoryError):
                self._listed = frozenset()
            except OSError:
                with translating(self._path, "list files"):
                    raise
        return self._listed

    def __getitem__(self, name: str) -> tuple[int, float | None]:
        # A look costs six times as much as a name does; but names are read of all, and most may be others'.
        if self._missed < _FEW or name in self._names:
            try:
                status = os.stat(f"{self._path}/{name}")
                if stat.S_ISREG(status.st_mode):
                    return status.st_size, status.st_mtime
            except (FileNotFoundError, NotADirectoryError):
                pass  # counted below
            except OSError:
                with translating(self._path, f"look for {name}"):
                    raise
        self._missed += 1
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def find_objects(
    store: Store, wanted: Mapping[str, Collection[str] | None]
) -> dict[str, Mapping[str, tuple[int, float | None]]]:
    """Look up which objects are there, under prefixes that may hold many more, and nothing below.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What `daskcache.stores.open` gave.
    wanted : mapping of str to collection of str or None
        By prefix, such as ``"chunks/00ff"``, the last segments of what is wanted, which begin with digits of hashes;
        None for all.

    Returns
    -------
    dict of str to mapping
        By prefix what `daskcache.stores.list_objects` gives, of what is wanted at least.

    Raises
    ------
    StoreError
        The store cannot be listed.

    Notes
    -----
    At most 16 requests at once. On a local disk a file is looked at when it is asked for.

    Examples
    --------
    >>> from daskcache import stores
    >>> store = stores.open("memory://doc-find-objects")
    >>> stores.put(store, "chunks/00ff/ab", b"123")
    >>> find_objects(store, {"chunks/00ff": ["ab"]})
    {'chunks/00ff': {'ab': (3, None)}}
    """
    with translating(describe(store), f"list {', '.join(sorted(wanted)[:3])}"):
        if isinstance(store, LocalStore):
            return {prefix: Files(drive.path_of(store, prefix)) for prefix in wanted}
        if isinstance(store, ObjectStore) and hasattr(store.store, "client_options"):
            return {**find_many(store, wanted)}
    if len(wanted) == 1:
        return {prefix: drive.list_objects(store, prefix) for prefix in wanted}
    with ThreadPoolExecutor(_WIDTH, "daskcache-list") as pool:
        listed = pool.map(lambda prefix: drive.list_objects(store, prefix), wanted)
        return dict(zip(wanted, listed, strict=True))


def list_many(store: ObjectStore[Any], prefix: str) -> Objects:
    """List the objects directly under a prefix that may hold many, and none below: several pages at once.

    Parameters
    ----------
    store : zarr.storage.ObjectStore
        A store of obstore's.
    prefix : str
        The prefix, without a slash at its end.

    Returns
    -------
    Objects
        By the last segment the size in bytes, and when it was written.

    Examples
    --------
    >>> from obstore.store import MemoryStore
    >>> len(list_many(ObjectStore(MemoryStore()), "chunks/00ff"))
    0
    """
    return find_many(store, {prefix: None})[prefix]


def find_many(store: ObjectStore[Any], wanted: Mapping[str, Collection[str] | None]) -> dict[str, Objects]:
    """Look objects up that lie directly under prefixes that may hold many more, and none below.

    Parameters
    ----------
    store : zarr.storage.ObjectStore
        A store of obstore's.
    wanted : mapping of str to collection of str or None
        By prefix, without a slash at its end, the last segments of what is wanted; None for all.

    Returns
    -------
    dict of str to Objects
        By prefix and last segment the size in bytes, and when it was written, of what is there.

    Notes
    -----
    A server gives one page after another, each after its latency. Of names that are digits of hashes, the first page
    tells how many there are, and from where to list others at the same time; or that less is wanted than there are
    pages, and each is asked for by itself. Of all prefixes together 16 requests are made at once.

    Examples
    --------
    >>> from obstore.store import MemoryStore
    >>> len(find_many(ObjectStore(MemoryStore()), {"chunks/00ff": ["ab"]})["chunks/00ff"])
    0
    """
    sought = {prefix: None if names is None else frozenset(names) for prefix, names in wanted.items()}
    with ThreadPoolExecutor(_WIDTH, "daskcache-list") as pool:
        firsts = pool.map(lambda prefix: _list_from(store, prefix, sought[prefix], limit=_PAGE), sought)
        parts = {prefix: [first] for prefix, first in zip(sought, firsts, strict=True)}
        rest = [
            (prefix, task)
            for prefix, (first,) in parts.items()
            for task in _continue(store, prefix, sought[prefix], first)
        ]
        for (prefix, _), part in zip(rest, pool.map(lambda step: step[1](), rest), strict=True):
            parts[prefix].append(part)
    return {prefix: _merge(found) for prefix, found in parts.items()}


class _Listed(NamedTuple):
    names: list[str]
    sizes: array[int]
    times: array[float]
    seen: int
    """How many there were, wanted or not."""
    last: str
    """The last of them."""
    is_sorted: bool
    """Whether they came in order."""


def _merge(parts: list[_Listed]) -> Objects:
    # What came in no order is listed once more from the start.
    names, sizes, times, *_ = parts[0] if parts[0].is_sorted else parts.pop()
    for part in parts[1:] if parts[0].is_sorted else ():
        names.extend(part.names)
        sizes.extend(part.sizes)
        times.extend(part.times)
    return Objects(names, sizes, times)


def _continue(
    store: ObjectStore[Any], prefix: str, names: frozenset[str] | None, first: _Listed
) -> list[Callable[[], _Listed]]:
    """Give what is to be asked after a first page, in any order."""
    if not first.is_sorted:
        return [partial(_list_from, store, prefix, names)]
    if first.seen < _PAGE:
        return []
    try:
        share = int(first.last[:8], 16) / 2**32
    except ValueError:
        share = 0.0
    if not share:
        return [partial(_list_from, store, prefix, names, first.last)]
    keys = first.seen / share
    left = None if names is None else [name for name in names if name > first.last]
    if left is not None and len(left) <= keys / _PAGE:
        return [partial(_head, store, prefix, name) for name in left]
    count = int(min(max(keys / _KEYS_OF_RANGE, 1), _RANGES))
    starts = [f"{int(2**32 * (share + (1 - share) * number / count)):08x}" for number in range(1, count)]
    starts.insert(0, first.last)
    return [
        partial(_list_from, store, prefix, names, *bounds)
        for bounds in zip(starts, [*starts[1:], ""], strict=True)
    ]


def _head(store: ObjectStore[Any], prefix: str, name: str) -> _Listed:
    """Ask for one object."""
    import obstore

    try:
        found = obstore.head(store.store, f"{prefix}/{name}")
    except FileNotFoundError:
        return _Listed([], array("Q"), array("d"), 0, "", True)
    time = found["last_modified"].timestamp()
    return _Listed([name], array("Q", [found["size"]]), array("d", [time]), 1, name, True)


def _list_from(
    store: ObjectStore[Any],
    prefix: str,
    wanted: frozenset[str] | None = None,
    after: str = "",
    end: str = "",
    limit: int | None = None,
) -> _Listed:
    """List the names that come after one, up to another."""
    import obstore

    names: list[str] = []
    sizes, times = array("Q"), array("d")
    seen, last, is_sorted = 0, "", True
    start = len(prefix) + 1
    offset = f"{prefix}/{after}" if after else None
    try:
        # Columns take two thirds of the time that a dictionary for each object takes.
        from arro3.core import DataType
    except ImportError:
        int64 = None
    else:
        int64 = DataType.int64()
    pages: Any = obstore.list(
        store.store, prefix, offset=offset, chunk_size=_PAGE, return_arrow=int64 is not None
    )
    for page in pages:
        listed = _names_of(page, start, is_arrow=int64 is not None)
        if not listed:
            continue
        is_sorted = is_sorted and listed[0] >= last and (limit is None or listed == sorted(listed))
        kept = bisect_right(listed, end) if end else len(listed)
        here = range(kept) if wanted is None else [n for n in range(kept) if listed[n] in wanted]
        if here:
            names.extend([listed[n] for n in here])
            if int64 is not None:
                page_sizes = page.column("size").to_pylist()
                microseconds = page.column("last_modified").cast(int64).to_pylist()
                sizes.extend([page_sizes[n] for n in here])
                times.extend([microseconds[n] / 1e6 for n in here])
            else:
                sizes.extend([page[n]["size"] for n in here])
                times.extend([page[n]["last_modified"].timestamp() for n in here])
        seen += kept
        last = listed[-1]
        if kept < len(listed) or (limit is not None and seen >= limit):
            break
    return _Listed(names, sizes, times, seen, last, is_sorted)


def _names_of(page: Any, start: int, *, is_arrow: bool) -> list[str]:
    paths = page.column("path").to_pylist() if is_arrow else [item["path"] for item in page]
    return [path[start:] for path in paths]

"""Listings of buckets that hold many objects: several pages at once, where the names say how many there are."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from zarr.storage import ObjectStore

__all__ = ["Objects", "list_many"]

# Keys that a server gives in one answer, how many are listed by one thread, and how many threads there are at most.
_PAGE = 1000
_KEYS_OF_RANGE = 5 * _PAGE
_RANGES = 16


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

    Notes
    -----
    A server gives one page after another, each after its latency. Of names that are digits of hashes, the first page
    tells how many there are, and from where to list others at the same time.

    Examples
    --------
    >>> from obstore.store import MemoryStore
    >>> len(list_many(ObjectStore(MemoryStore()), "chunks/00ff"))
    0
    """
    first = _list_from(store, prefix, limit=_PAGE)
    names = first.names
    try:
        share = int(names[-1][:8], 16) / 2**32 if len(names) >= _PAGE else 1.0
    except ValueError:
        share = 0.0
    if not share or names != sorted(names):
        return Objects(*_list_from(store, prefix))
    if len(names) < _PAGE:
        return Objects(*first)
    count = int(min(max(len(names) / share / _KEYS_OF_RANGE, 1), _RANGES))
    starts = [f"{int(2**32 * (share + (1 - share) * number / count)):08x}" for number in range(1, count)]
    starts.insert(0, names[-1])
    with ThreadPoolExecutor(count, "daskcache-list") as pool:
        for part in pool.map(lambda *bounds: _list_from(store, prefix, *bounds), starts, [*starts[1:], ""]):
            first.names.extend(part.names)
            first.sizes.extend(part.sizes)
            first.times.extend(part.times)
    return Objects(*first)


class _Listed(NamedTuple):
    names: list[str]
    sizes: array[int]
    times: array[float]


def _list_from(
    store: ObjectStore[Any], prefix: str, after: str = "", end: str = "", limit: int | None = None
) -> _Listed:
    """List the names that come after one, up to another."""
    import obstore

    listed = _Listed([], array("Q"), array("d"))
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
        if int64 is not None:
            paths = page.column("path").to_pylist()
            sizes = page.column("size").to_pylist()
            microseconds = page.column("last_modified").cast(int64).to_pylist()
            times = [time / 1e6 for time in microseconds]
        else:
            paths = [item["path"] for item in page]
            sizes = [item["size"] for item in page]
            times = [item["last_modified"].timestamp() for item in page]
        names = [path[start:] for path in paths]
        kept = bisect_right(names, end) if end else len(names)
        listed.names.extend(names[:kept])
        listed.sizes.extend(sizes[:kept])
        listed.times.extend(times[:kept])
        if kept < len(names) or (limit is not None and len(listed.names) >= limit):
            break
    return listed

"""The memory level: results and blocks that this process keeps, bounded in bytes, the least recently used go first."""

from __future__ import annotations

import copy
import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import dask.config
import numpy as np
from dask.sizeof import sizeof
from dask.utils import parse_bytes

from daskcache.chunks import Selection
from daskcache.datasets import PackedBlocks
from daskcache.manifest import StoredVariable
from daskcache.pool import StoredBlock

__all__ = ["MEMORY", "Memory", "RememberedBlock", "RememberedBlocks", "copy_value", "limit_bytes"]


def limit_bytes() -> int:
    """Give how many bytes a process keeps, as configured.

    Returns
    -------
    int
        Bytes; 0 keeps nothing.

    Examples
    --------
    >>> import dask
    >>> with dask.config.set({"daskcache.functions.memory": "1 KiB"}):
    ...     limit_bytes()
    1024
    """
    return int(parse_bytes(dask.config.get("daskcache.functions.memory", "1 GiB")))


class Memory:
    """A mapping of bounded size, for any number of threads.

    Examples
    --------
    >>> memory = Memory()
    >>> for number in range(3):
    ...     memory.put(number, str(number), 10, limit=25)
    >>> memory.get(0) is None, memory.get(2), memory.size_bytes
    (True, '2', 20)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """What is kept now."""
        return self._size

    def get(self, key: Hashable) -> Any:
        """Give what is kept under a key, which makes it the last to go; None where nothing is.

        Parameters
        ----------
        key : hashable
            The key.

        Returns
        -------
        object or None
            The very object that was put.
        """
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size_bytes: int, *, limit: int | None = None) -> None:
        """Keep a value, in the place of the one that was there; one that is larger than the limit is not kept.

        Parameters
        ----------
        key : hashable
            The key.
        value : object
            The value, which nobody changes.
        size_bytes : int
            What it counts.
        limit : int, optional
            In place of the configured one.
        """
        limit = limit_bytes() if limit is None else limit
        with self._lock:
            self._drop(key)
            if size_bytes > limit:
                return
            self._values[key] = value, size_bytes
            self._size += size_bytes
            while self._size > limit:
                self._drop(next(iter(self._values)))

    def drop(self, key: Hashable) -> None:
        """Let go of what is kept under a key.

        Parameters
        ----------
        key : hashable
            The key.
        """
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
            self._size = 0

    def _drop(self, key: Hashable) -> None:
        gone = self._values.pop(key, None)
        if gone is not None:
            self._size -= gone[1]


MEMORY = Memory()
"""That of this process; each worker of a cluster has its own."""


class RememberedBlock(StoredBlock):
    """A stored block that each process which reads it keeps in its memory: a worker reads it once.

    It has the identity of the stored block, so that what is computed of it has the same tokens.
    """

    __slots__ = ()

    def _read(self, selection: Selection) -> np.ndarray[Any, Any]:
        key = ("block", self.root, self.key)
        whole: np.ndarray[Any, Any] | None = MEMORY.get(key)
        if whole is None:
            whole = StoredBlock._read(self, Selection.of(self.shape))
            MEMORY.put(key, whole, whole.nbytes if whole.dtype.kind not in "OT" else sizeof(whole))
        # Whoever reads may change what is given to him.
        return np.array(selection.apply(whole), copy=True)


class RememberedBlocks(PackedBlocks):
    """Gives blocks that are kept in memory, as `PackedBlocks` gives others.

    Parameters
    ----------
    root : str
        The store's root.
    variable : StoredVariable
        A variable with tokens.
    """

    __slots__ = ()

    def __init__(self, root: str, variable: StoredVariable) -> None:
        super().__init__(root, variable)

    def __call__(self, index: tuple[int, ...]) -> StoredBlock:
        """Give the block of an index."""
        return RememberedBlock(*super().__call__(index).__reduce__()[1])


_UNCHANGING = (str, bytes, int, float, complex, bool, type(None))


def copy_value(value: Any) -> Any:
    """Copy a value so that changes of the copy leave it alone.

    Parameters
    ----------
    value : object
        What a function returned.

    Returns
    -------
    object
        The same object, where it cannot be changed.

    Examples
    --------
    >>> kept = [1, [2]]
    >>> copy_value(kept)[1] is kept[1]
    False
    """
    if type(value) in _UNCHANGING:
        return value
    module = type(value).__module__.partition(".")[0]
    if module in ("pyarrow", "polars"):
        return value.clone() if module == "polars" else value
    if module in ("pandas", "geopandas", "xarray"):
        return value.copy(deep=True)
    return copy.deepcopy(value)


def size_of(value: Any) -> int:
    """Estimate what a value takes in memory."""
    return max(int(sizeof(value)), sys.getsizeof(value))

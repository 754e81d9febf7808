"""The one place where an asynchronous store is waited for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

# Private, and the only way to share Zarr's event loop. Sessions of remote file systems belong to the loop
# that made them, and the arrays that read from the same stores run in Zarr's. It is started anew after a fork,
# and lives in a thread of its own, so that a caller's running loop does not matter.
from zarr.core.sync import sync as _run_in_zarr_loop

__all__ = ["wait_for"]


def wait_for[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in Zarr's event loop and give its result.

    Parameters
    ----------
    coroutine : coroutine
        A method of a store, called.

    Returns
    -------
    object
        What it returns.

    Notes
    -----
    Costs about 0.1 ms. Safe in threads, after a fork and while another event loop runs; not inside Zarr's own.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> wait_for(MemoryStore().exists("a"))
    False
    """
    return _run_in_zarr_loop(coroutine)

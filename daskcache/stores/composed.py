"""Stores of our own for Zarr: they do each thing here and now, and lend themselves threads to do it later."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer import default_buffer_prototype

from daskcache.stores.driven import Driven
from daskcache.stores.keys import check_inside

__all__ = ["Composed", "later"]

_MAX_THREADS = 32


@cache
def _threads() -> ThreadPoolExecutor:
    # Not the event loop's own: what waits there for the loop could take all of it.
    return ThreadPoolExecutor(_MAX_THREADS, "daskcache-store")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


async def later[T](call: Callable[..., T], *args: Any) -> T:
    """Make a call in a thread.

    Parameters
    ----------
    call : callable
        What is called.
    *args : object
        With these.

    Returns
    -------
    object
        What it returns.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads(), call, *args)


class Composed(Driven, Store):
    """A store made of others: Zarr's interface on top of `Driven`'s."""

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> ZarrBuffer | None:
        """Read an object or a part of it."""
        if not isinstance(byte_range, RangeByteRequest | OffsetByteRequest | SuffixByteRequest | None):
            raise TypeError(f"Unexpected byte_range, got {byte_range}.")
        data = self.get_object(check_inside(key), byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def set_sync(self, key: str, value: ZarrBuffer) -> None:
        """Put an object."""
        self._check_writable()
        self.put_object(check_inside(key), _bytes_of(value))

    def delete_sync(self, key: str) -> None:
        """Remove an object."""
        self._check_writable()
        self.delete_object(check_inside(key))

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> ZarrBuffer | None:
        """Read an object or a part of it."""
        return await later(lambda: self.get_sync(key, prototype=prototype, byte_range=byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[ZarrBuffer | None]:
        """Read parts of objects."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return await later(self.has_object, check_inside(key))

    async def set(self, key: str, value: ZarrBuffer) -> None:
        """Put an object."""
        await later(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: ZarrBuffer) -> None:
        """Put an object unless it is there."""
        self._check_writable()
        await later(self.create_object, check_inside(key), _bytes_of(value))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await later(self.delete_sync, key)

    async def getsize(self, key: str) -> int:
        """Give an object's size in bytes."""
        size = await later(self.size_object, check_inside(key))
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def list(self) -> AsyncIterator[str]:
        """List all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys that begin with a prefix."""
        for key in await later(lambda: [*self.walk(check_inside(prefix))]):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what lies directly under a prefix."""
        where = check_inside(prefix).rstrip("/")
        for name in await later(lambda: sorted({*self.list_here(where), *self.list_dirs(where)})):
            yield name


def _bytes_of(value: ZarrBuffer) -> memoryview:
    if not isinstance(value, ZarrBuffer):
        raise TypeError(f"`value` must be a Buffer instance. Got an instance of {type(value)} instead.")
    return memoryview(value.as_numpy_array()).cast("B")

"""A store that gets into trouble, and out of it, when a test says so."""

from __future__ import annotations

from typing import Any

from zarr.storage import MemoryStore


class Flaky(MemoryStore):
    """A store that is down, full or write-protected on demand."""

    trouble: Exception | None = None
    refuses_only_writes = False

    def check(self, *, writes: bool) -> None:
        if self.trouble is not None and (writes or not self.refuses_only_writes):
            raise self.trouble

    def get_sync(self, *args: Any, **kwargs: Any) -> Any:
        self.check(writes=False)
        return super().get_sync(*args, **kwargs)

    def set_sync(self, *args: Any, **kwargs: Any) -> None:
        self.check(writes=True)
        super().set_sync(*args, **kwargs)

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        self.check(writes=False)
        return await super().get(*args, **kwargs)

    async def set(self, *args: Any, **kwargs: Any) -> None:
        self.check(writes=True)
        await super().set(*args, **kwargs)

    async def exists(self, key: str) -> bool:
        self.check(writes=False)
        return await super().exists(key)

    async def delete(self, key: str) -> None:
        self.check(writes=False)
        await super().delete(key)

    async def list_dir(self, prefix: str) -> Any:
        self.check(writes=False)
        async for name in super().list_dir(prefix):
            yield name

    async def list_prefix(self, prefix: str) -> Any:
        self.check(writes=False)
        async for name in super().list_prefix(prefix):
            yield name


def cut(store: Flaky) -> None:
    store.trouble, store.refuses_only_writes = ConnectionError("no route to host"), False


def fill(store: Flaky) -> None:
    store.trouble, store.refuses_only_writes = OSError(28, "No space left on device"), True


def protect(store: Flaky) -> None:
    store.trouble, store.refuses_only_writes = OSError(30, "Read-only file system"), True


def repair(store: Flaky) -> None:
    store.trouble = None

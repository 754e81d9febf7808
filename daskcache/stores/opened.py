"""Zarr's own stores as `daskcache.stores.open` gives them: keys stay inside, and no secret is pickled or shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Self

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from daskcache.errors import InvalidInputError
from daskcache.stores import remote
from daskcache.stores.keys import check_inside
from daskcache.stores.local import PARTIAL

__all__ = ["BucketStore", "ByRoot", "DiskStore", "FileSystemStore", "NamedMemoryStore"]

# What comes next in the order of classes is Zarr's store, which the type checker cannot know here.
_Next: Any = object


class _Inside(_Next):  # type: ignore[misc]
    """A mixin: keys that lead out of the store are refused before anything is touched."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object, or a part of it."""
        found: Buffer | None = await super().get(check_inside(key), prototype, byte_range)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of objects."""
        checked = [(check_inside(key), part) for key, part in key_ranges]
        found: list[Buffer | None] = await super().get_partial_values(prototype, checked)
        return found

    async def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return bool(await super().exists(check_inside(key)))

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object."""
        await super().set(check_inside(key), value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object unless it is there."""
        await super().set_if_not_exists(check_inside(key), value)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await super().delete(check_inside(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove what lies under a prefix."""
        await super().delete_dir(check_inside(prefix))

    async def clear(self) -> None:
        """Remove everything."""
        self._check_writable()  # Zarr's for fsspec forgets to
        await super().clear()

    async def getsize(self, key: str) -> int:
        """Give an object's size in bytes."""
        return int(await super().getsize(check_inside(key)))

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str]:
        """List the keys under a prefix."""
        async for key in super().list_prefix(check_inside(prefix)):
            if not _is_ours(key):
                yield key

    async def list_dir(self, prefix: str) -> AsyncGenerator[str]:
        """List what lies directly under a prefix."""
        async for name in super().list_dir(check_inside(prefix)):
            if not _is_ours(name):
                yield name

    async def list(self) -> AsyncGenerator[str]:
        """List all keys."""
        async for key in super().list():
            if not _is_ours(key):
                yield key


def _is_ours(key: str) -> bool:
    """Tell what no reader of Zarr knows: objects that are being written, and what servers are asked with."""
    return key.endswith(PARTIAL) or key.rpartition("/")[2] == remote.PROBE


class DiskStore(_Inside, LocalStore):
    """A directory."""

    @property
    def daskcache_root(self) -> str:
        """What opens it again."""
        return str(self.root)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object, or a part of it."""
        return super().get_sync(check_inside(key), prototype=prototype, byte_range=byte_range)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Put an object."""
        super().set_sync(check_inside(key), value)

    def delete_sync(self, key: str) -> None:
        """Remove an object."""
        super().delete_sync(check_inside(key))


class NamedMemoryStore(MemoryStore):
    """Content of this process under a name, which is what it pickles as."""

    name = ""

    @property
    def daskcache_root(self) -> str:
        """What opens it again, in each process its own."""
        return f"memory://{self.name}"

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same content, writable or not."""
        store = type(self)(self._store_dict, read_only=read_only)
        store.name = self.name
        return store

    def __str__(self) -> str:
        return self.daskcache_root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedMemoryStore) and (self.name, self.read_only) == (
            other.name,
            other.read_only,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.daskcache_root, self.read_only)


class ByRoot:
    """A mixin: what is pickled is what opens the store again, never what it was opened with."""

    read_only: bool
    root_or_none: str | None = None

    @property
    def daskcache_root(self) -> str:
        """What opens it again, without secrets."""
        if self.root_or_none is None:
            raise InvalidInputError(
                f"{self!r} was opened with a secret given as a value, which would travel in clear; name a function "
                "that fetches it: @daskcache.secret('storage_options')"
            )
        return self.root_or_none

    def with_read_only(self, read_only: bool = False) -> Any:
        """Give the same store, writable or not."""
        store = super().with_read_only(read_only)  # type: ignore[misc]
        store.root_or_none = self.root_or_none
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.daskcache_root, self.read_only)


class FileSystemStore(ByRoot, _Inside, FsspecStore):  # type: ignore[misc]
    """A store through one of fsspec's file systems."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object unless it is there, by one conditional put where the server has them."""
        self._check_writable()
        await remote.create_with_fsspec(self, check_inside(key), value.to_bytes())


class BucketStore(ByRoot, _Inside, ObjectStore[Any]):
    """A bucket through obstore."""

    def __str__(self) -> str:
        config = self.store.config
        return f"{self.scheme}://{config.get('bucket', '')}/{self.store.prefix or ''}".rstrip("/")

    scheme = "s3"


def _open_again(root: str, read_only: bool) -> Store:
    from daskcache.stores.urls import open_store

    return open_store(root, read_only=read_only)

"""What our own stores on servers share: Zarr's interface, errors in our words, and pickles without secrets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Buffer, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from zarr.abc.store import ByteRequest, Store

from daskcache.errors import InvalidInputError
from daskcache.locations import to_root
from daskcache.secrets import hide
from daskcache.stores.composed import Composed, later
from daskcache.stores.driven import Listed
from daskcache.stores.faults import redact, translating
from daskcache.stores.keys import check_inside
from daskcache.stores.opened import ByRoot

__all__ = ["Given", "Served"]


@dataclass(frozen=True, slots=True)
class Given:
    """What a store was opened with; nothing of it is shown."""

    url: str = field(repr=False)
    """The URL, with all that stood in it."""
    options: Mapping[str, Any] = field(repr=False)
    """The storage options, secrets among them."""

    def take(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Give the options with defaults for those that are left out.

        Parameters
        ----------
        known : mapping
            Options by name with their defaults.

        Returns
        -------
        dict
            One value for each.

        Raises
        ------
        InvalidInputError
            There are others.
        """
        unknown = sorted(self.options.keys() - known.keys())
        if unknown:
            raise InvalidInputError(
                f"store {redact(self.url)} takes no storage options {unknown}; known are {sorted(known)}"
            )
        return {**known, **self.options}


class Served(ByRoot, Composed):
    """A store on a server, in threads of ours and without an event loop.

    Parameters
    ----------
    url : str
        Where.
    options : mapping, optional
        Storage options.
    read_only : bool, optional
        Whether writes are refused.
    """

    # Waiting for a server in Zarr's event loop would hold up all other reads.
    _supports_sync_io = False

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        options = dict(options or {})
        # It says that the credentials which others need are not meant for this one.
        known = {name: value for name, value in options.items() if name != "anon"}
        self._given = Given(url.rstrip("/"), known)
        self._shown = redact(self._given.url)
        password = urlsplit(url).password
        if password:
            hide({"password": password})
            hide({"password": unquote(password)})
        try:
            self.root_or_none = to_root(
                {"url": self._given.url, "storage_options": dict(self._given.options)}
            )
        except InvalidInputError:
            self.root_or_none = None

    @property
    def home(self) -> Store:
        """The store itself."""
        return self

    @property
    def has_query(self) -> bool:
        """Whether its name leaves out a query, which may decide what is read."""
        return bool(urlsplit(self._given.url).query)

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same store, writable or not."""
        store = object.__new__(type(self))  # a copy would be what opens by the root: this very store
        store.__dict__.update(self.__dict__)
        store._read_only = read_only
        store._is_open = False
        return store

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Served)
            and type(self) is type(other)
            and (self._given, self.read_only) == (other._given, other.read_only)
        )

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def takes(self, nbytes: int) -> bool:
        """Tell whether an object of so many bytes may be put."""
        return True

    def discard(self, key: str) -> bool:
        """Nothing lies behind this store."""
        return False

    def create_object(self, key: str, data: Buffer) -> bool:
        """Put an object unless it is there; tell whether this call did."""
        with self._telling(f"write {key}", writes=True):
            return self._create(key, data)

    def put_object(self, key: str, data: Buffer) -> None:
        """Put an object, in place of one that may be there."""
        with self._telling(f"write {key}", writes=True):
            self._put(key, data)

    def get_object(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read an object or a part of it; None where there is none."""
        with self._telling(f"read {key}"):
            return self._get(key, byte_range)

    def has_object(self, key: str) -> bool:
        """Tell whether an object is there."""
        return self.size_object(key) is not None

    def size_object(self, key: str) -> int | None:
        """Give an object's size in bytes; None where there is none."""
        with self._telling(f"look for {key}"):
            return self._size(key)

    def delete_object(self, key: str) -> None:
        """Remove an object; one that is missing is no error."""
        with self._telling(f"delete {key}", writes=True):
            self._delete([key])

    def list_here(self, prefix: str) -> Listed:
        """List the objects directly under a prefix."""
        with self._telling(f"list {prefix}"):
            return self._list_objects(prefix)

    def list_dirs(self, prefix: str) -> list[str]:
        """List the prefixes directly under a prefix, sorted."""
        with self._telling(f"list {prefix}"):
            return sorted(self._list_dirs(prefix))

    def walk(self, prefix: str) -> Iterator[str]:
        """List all keys that begin with a prefix, but for those that are being written."""
        with self._telling(f"list {prefix}"):
            yield from self._walk(prefix)

    async def delete_dir(self, prefix: str) -> None:
        """Remove what lies under a prefix."""
        self._check_writable()
        await later(self._delete_dir, check_inside(prefix).rstrip("/"))

    async def clear(self) -> None:
        """Remove everything."""
        await self.delete_dir("")

    def stamps(self, keys: Iterable[str]) -> list[tuple[Any, ...] | None]:
        """Tell what of objects changes whenever they do.

        Parameters
        ----------
        keys : iterable of str
            Their keys.

        Returns
        -------
        list of tuple or None
            Of each its size in bytes and what the server tells of its version; None where there is no such object.

        Raises
        ------
        UncacheableError
            The server tells too little of an object.
        StoreError
            The store cannot be read.
        """
        with self._telling("look for objects"):
            return self._stamps(list(keys))

    def _telling(self, action: str, *, writes: bool = False) -> AbstractContextManager[None]:
        return translating(self._shown, action, writes=writes)

    def _delete_dir(self, prefix: str) -> None:
        with self._telling(f"delete {prefix}", writes=True):
            self._delete(self._walk(f"{prefix}/" if prefix else ""))

    @abstractmethod
    def _create(self, key: str, data: Buffer) -> bool: ...

    @abstractmethod
    def _put(self, key: str, data: Buffer) -> None: ...

    @abstractmethod
    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None: ...

    @abstractmethod
    def _size(self, key: str) -> int | None: ...

    @abstractmethod
    def _delete(self, keys: Iterable[str]) -> None: ...

    @abstractmethod
    def _list_objects(self, prefix: str) -> Listed: ...

    @abstractmethod
    def _list_dirs(self, prefix: str) -> Iterable[str]: ...

    @abstractmethod
    def _walk(self, prefix: str) -> Iterator[str]: ...

    @abstractmethod
    def _stamps(self, keys: list[str]) -> list[tuple[Any, ...] | None]: ...

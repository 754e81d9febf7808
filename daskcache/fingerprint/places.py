"""Where the objects of sources lie, and what can be seen of them without reading them: size, ETag, times."""

from __future__ import annotations

import os
import posixpath
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeGuard, override
from urllib.parse import urlsplit, urlunsplit

from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, ZipStore

from daskcache.errors import UncacheableError

__all__ = ["Found", "LocalPlace", "MemoryPlace", "Place", "Stamp", "clean_url", "hash_bytes", "is_plainly"]

Stamp = tuple[Any, ...]
"""Size in bytes, and the ETag or the triple of mtime_ns, inode and ctime_ns."""

# From how many single looks into one directory on its names are listed: below, the looks are cheaper.
_LISTING_AFTER = 64
_READ_SIZE_BYTES = 1 << 20


class Found(NamedTuple):
    """What was seen of one object."""

    name: str
    """Absolute path or URL, without credentials and query."""
    stamp: Stamp | None
    """None where there is no such object."""
    part: tuple[int, int] | None = None
    """Offset and length in bytes, where only a part of the object is referred to."""


class Place(ABC):
    """A directory, bucket or the like; remembers what it saw for as long as it lives, which is one pass."""

    root: str
    """Absolute path or URL, without credentials and query; empty where the place has no name of its own."""
    has_bytes: bool = True
    """Whether objects can be hashed; else they are written once, and their names say what they hold."""

    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        """See objects, each once.

        Parameters
        ----------
        keys : sequence of str
            Paths below the root.
        directory : str
            What they all lie below; it is listed once when that is cheaper.
        total : int
            About how many objects lie there.

        Returns
        -------
        list of Found
            One for each key.

        Raises
        ------
        UncacheableError
            An object cannot be seen, or has neither ETag nor time.
        """
        return [self._see(key) for key in keys]

    def refer(self, keys: Sequence[str]) -> list[Found]:
        """Say which objects are meant without looking at them; stamps are empty."""
        return [Found(self.name(key), ()) for key in keys]

    def name(self, key: str) -> str:
        """Give an object's name, without credentials and query."""
        return f"{self.root.rstrip('/')}/{key}" if key else self.root

    @abstractmethod
    def forget(self) -> None:
        """Forget what was seen, so that the next look is a fresh one."""

    @abstractmethod
    def digest_bytes(self, key: str) -> bytes | None:
        """Read an object and hash it; None where there is none."""

    @abstractmethod
    def _see(self, key: str) -> Found: ...


class LocalPlace(Place):
    """A local directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._seen: dict[str, Found] = {}
        self._asked: dict[str, int] = {}
        self._listed: dict[str, dict[str, os.DirEntry[str]]] = {}

    @override
    def forget(self) -> None:
        self._seen.clear()
        self._asked.clear()
        self._listed.clear()

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        try:
            with open(self.name(key), "rb") as file:
                return hash_bytes(iter(lambda: file.read(_READ_SIZE_BYTES), b""))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise UncacheableError(f"cannot read {self.name(key)}: {error}") from error

    @override
    def _see(self, key: str) -> Found:
        found = self._seen.get(key)
        if found is None:
            name = self.name(key)
            try:
                found = Found(name, _local_stamp(self._stat(key, name)))
            except (FileNotFoundError, NotADirectoryError):
                found = Found(name, None)
            except OSError as error:
                raise UncacheableError(f"cannot look at {name}: {error}") from error
            self._seen[key] = found
        return found

    def _stat(self, key: str, name: str) -> os.stat_result:
        directory = posixpath.dirname(key)
        asked = self._asked[directory] = self._asked.get(directory, 0) + 1
        # On Windows a listing's entries know no inode, and may be stale.
        if asked <= _LISTING_AFTER or os.name == "nt":
            return os.stat(name)
        entries = self._listed.get(directory)
        if entries is None:
            with os.scandir(self.name(directory)) as listing:
                entries = self._listed[directory] = {entry.name: entry for entry in listing}
        entry = entries.get(posixpath.basename(key))
        if entry is None:
            raise FileNotFoundError(name)
        return entry.stat()


class MemoryPlace(Place):
    """Objects in this process' memory: they have no name elsewhere, so their bytes are what identifies them."""

    root = "memory:"

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self._seen: dict[str, Found] = {}

    @classmethod
    def of_store(cls, store: MemoryStore) -> MemoryPlace:
        """Look into one of Zarr's stores."""

        def read(key: str) -> bytes | None:
            buffer = store.get_sync(key)
            return None if buffer is None else buffer.to_bytes()

        return cls(read)

    @override
    def forget(self) -> None:
        self._seen.clear()

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        stamp = self._see(key).stamp
        return None if stamp is None else bytes.fromhex(stamp[1])

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        return [self._see(key) for key in keys]

    @override
    def _see(self, key: str) -> Found:
        found = self._seen.get(key)
        if found is None:
            data = self._read(key)
            stamp = None if data is None else (len(data), hash_bytes(iter((data,))).hex())
            found = self._seen[key] = Found(self.name(key), stamp)
        return found


class ZipPlace(LocalPlace):
    """An archive in one local file: all that it holds changes with it."""

    @override
    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        archive = self._see("")
        return [Found(self.name(key), archive.stamp) for key in keys]

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        return super().digest_bytes("")


def local_place_of(store: Store) -> Place | None:
    """Give the place of a Zarr store that lies on this machine, None for others."""
    if is_plainly(store, LocalStore):
        return LocalPlace(str(store.root))
    if isinstance(store, MemoryStore):
        return MemoryPlace.of_store(store)
    if type(store) is ZipStore:
        return ZipPlace(str(store.path))
    return None


def is_plainly[S: Store](store: Store, cls: type[S]) -> TypeGuard[S]:
    """Tell whether a store has its objects where one of Zarr's classes has them.

    Returns
    -------
    bool
        True for the class itself and what `daskcache.stores.open` makes of it; other subclasses may move keys
        about.

    Examples
    --------
    >>> is_plainly(LocalStore("/data"), LocalStore)
    True
    """
    return type(store) is cls or (isinstance(store, cls) and hasattr(type(store), "daskcache_root"))


def clean_url(url: str) -> str:
    """Drop credentials, query and fragment from a URL; an object store's keys stay as they are.

    Returns
    -------
    str
        The URL that may be shown and stored.

    Examples
    --------
    >>> clean_url("https://user:secret@host/a.nc?signature=1")
    'https://host/a.nc'
    >>> clean_url("s3://bucket/a?b")
    's3://bucket/a?b'
    """
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("s3", "s3a", "gs", "gcs"):
        return url.replace(parts.netloc, host, 1)
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def hash_bytes(pieces: Iterator[bytes]) -> bytes:
    """Hash an object's bytes: 20 bytes."""
    state = blake2b(digest_size=20)
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _local_stamp(status: os.stat_result) -> Stamp | None:
    if stat.S_ISDIR(status.st_mode):
        return None
    # What rewrites a file in place may put its time back, as some copying tools do, but never that of its inode.
    return status.st_size, (status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

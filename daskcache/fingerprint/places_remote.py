"""Objects of sources that lie elsewhere: fsspec's filesystems, obstore, references to parts of files, Icechunk."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, override
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.reference import ReferenceFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, ObjectStore

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import (
    Found,
    LocalPlace,
    MemoryPlace,
    Place,
    Stamp,
    clean_url,
    hash_bytes,
    is_plainly,
    local_place_of,
)
from daskcache.fingerprint.places_served import our_place_of

__all__ = ["place_of_filesystem", "place_of_store", "place_of_url"]

# A LIST answers with this many objects; looking at one costs a request as well.
_LIST_PAGE = 1000
_LISTING_AFTER = 8
_ETAGS = ("ETag", "etag", "e_tag", "Content-MD5", "content_md5", "md5Hash", "generation", "version_id")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modifyTime", "modified")
# Their local copies may be older than the object whose ETag they show.
_COPYING = ("fsspec.implementations.cached:", "fsspec.implementations.cache_mapper:")


class _ListedPlace(Place):
    """A place where looking costs a request, so that many looks become one listing."""

    can_list = True

    def __init__(self) -> None:
        self._seen: dict[str, Found] = {}
        self._asked: dict[str, int] = {}
        self._listed: set[str] = set()

    @override
    def forget(self) -> None:
        self._seen.clear()
        self._asked.clear()
        self._listed.clear()

    @override
    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        unseen = sum(key not in self._seen for key in keys)
        if unseen and self.can_list and directory not in self._listed:
            asked = self._asked[directory] = self._asked.get(directory, 0) + unseen
            if asked > max(_LISTING_AFTER, total // _LIST_PAGE):
                self._seen.update((found.name, found) for found in self._list(directory))
                self._listed.add(directory)
        listed = directory in self._listed
        return [self._recall(key, listed) for key in keys]

    def _recall(self, key: str, listed: bool) -> Found:
        name = self.name(key)
        found = self._seen.get(name)
        if found is None:
            found = self._seen[name] = Found(name, None) if listed else self._see(key)
        return found

    def _list(self, directory: str) -> Iterator[Found]:
        raise NotImplementedError


class FsspecPlace(_ListedPlace):
    """A directory of an fsspec filesystem."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        super().__init__()
        self._fs, self._path = fs, fs._strip_protocol(path).rstrip("/")
        self.root = _url_of(fs, self._path)
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        # An index page is no listing.
        self.can_list = not {"http", "https"} & set(protocols)

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        try:
            return hash_bytes(iter((self._fs.cat_file(self._full(key)),)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise UncacheableError(f"cannot read {self.name(key)}: {type(error).__name__}") from error

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        if urlsplit(self._path).query:
            raise UncacheableError(f"{self.root} is read with a query, which its path alone does not tell")
        return super().refer(keys)

    def _full(self, key: str) -> str:
        return f"{self._path}/{key}" if key else self._path

    @override
    def _see(self, key: str) -> Found:
        full, name = self._full(key), self.name(key)
        # Filesystems remember listings across passes.
        self._fs.invalidate_cache(full)
        try:
            info = self._fs.info(full)
        except FileNotFoundError:
            return Found(name, None)
        except Exception as error:
            # Clients raise errors of their own making, and their texts may show signed addresses.
            raise UncacheableError(f"cannot look at {name}: {type(error).__name__}") from error
        return Found(name, _remote_stamp(info, name))

    @override
    def _list(self, directory: str) -> Iterator[Found]:
        full = self._full(directory)
        self._fs.invalidate_cache(full)
        try:
            listing = self._fs.find(full, detail=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise UncacheableError(f"cannot list {self.name(directory)}: {type(error).__name__}") from error
        for path, info in listing.items():
            key = self._fs._strip_protocol(path).removeprefix(self._path).lstrip("/")
            yield Found(self.name(key), _remote_stamp(info, self.name(key)))


class ObstorePlace(_ListedPlace):
    """A prefix of a bucket that obstore opens."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        import obstore

        self._api, self._store = obstore, store
        kind = type(store).__name__
        prefix = str(store.prefix or "").strip("/") if hasattr(store, "prefix") else ""
        config: dict[str, Any] = dict(store.config) if hasattr(store, "config") else {}
        if kind == "HTTPStore":
            self.root, self.can_list = clean_url(store.url), False
        elif kind in ("S3Store", "GCSStore"):
            scheme = {"S3Store": "s3", "GCSStore": "gs"}[kind]
            self.root = f"{scheme}://{config.get('bucket', '')}/{prefix}".rstrip("/")
        elif kind == "AzureStore":
            account, container = config.get("account_name", ""), config.get("container_name", "")
            self.root = f"abfs://{container}@{account}/{prefix}".rstrip("/")
        else:
            raise UncacheableError(f"reads through an unknown store, obstore's {kind}")

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        try:
            return hash_bytes(iter((bytes(self._api.get(self._store, key).bytes()),)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise UncacheableError(f"cannot read {self.name(key)}: {type(error).__name__}") from error

    @override
    def _see(self, key: str) -> Found:
        name = self.name(key)
        try:
            info = self._api.head(self._store, key)
        except FileNotFoundError:
            return Found(name, None)
        except Exception as error:
            raise UncacheableError(f"cannot look at {name}: {type(error).__name__}") from error
        return Found(name, _remote_stamp(info, name))

    @override
    def _list(self, directory: str) -> Iterator[Found]:
        try:
            for batch in self._api.list(self._store, prefix=directory):
                for info in batch:
                    name = self.name(info["path"])
                    yield Found(name, _remote_stamp(info, name))
        except Exception as error:
            raise UncacheableError(f"cannot list {self.name(directory)}: {type(error).__name__}") from error


class ReferencesPlace(Place):
    """A set of references, kerchunk's: each key is a part of another object, or bytes of its own."""

    root = "reference:"

    def __init__(self, fs: ReferenceFileSystem) -> None:
        self._fs = fs
        self._targets: dict[str, Place] = {}
        self._seen: dict[str, Found] = {}

    @override
    def forget(self) -> None:
        self._seen.clear()
        for place in self._targets.values():
            place.forget()

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        return [self._resolve(key, see=False) for key in keys]

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        try:
            target = self._fs.references[key]
        except KeyError:
            return None
        if not isinstance(target, list | tuple):
            return hash_bytes(iter((_inline(target),)))
        url = target[0] or self._fs.target
        source = _sync_twin(self._filesystem(url))
        start, end = (None, None) if len(target) == 1 else (target[1], target[1] + target[2])
        try:
            return hash_bytes(iter((source.cat_file(url, start=start, end=end),)))
        except Exception as error:
            raise UncacheableError(f"cannot read {clean_url(url)}: {type(error).__name__}") from error

    @override
    def _see(self, key: str) -> Found:
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._resolve(key, see=True)
        return found

    def _resolve(self, key: str, see: bool) -> Found:
        try:
            target = self._fs.references[key]
        except KeyError:
            return Found(self.name(key), None)
        if not isinstance(target, list | tuple):
            data = _inline(target)
            return Found(self.name(key), (len(data), hash_bytes(iter((data,))).hex()))
        url = target[0] or self._fs.target
        part = None if len(target) == 1 else (int(target[1]), int(target[2]))
        place = self._targets.get(url)
        if place is None:
            place = self._targets[url] = place_of_filesystem(self._filesystem(url), url)
        found = (place.look([""], "", 1) if see else place.refer([""]))[0]
        return found._replace(part=part)

    def _filesystem(self, url: str) -> AbstractFileSystem:
        protocol = url.partition("://")[0] if "://" in url else None
        try:
            return self._fs.fss[protocol]
        except KeyError as error:
            raise UncacheableError(f"refers to {clean_url(url)}, which nothing opens") from error


class IcechunkPlace(Place):
    """A snapshot of an Icechunk repository: its chunks are written once, under names of their own."""

    root = "icechunk:"
    has_bytes = False

    def __init__(self, store: Any) -> None:
        session = store.session
        if session.has_uncommitted_changes:
            raise UncacheableError("reads an Icechunk session with uncommitted changes; commit them first")
        self._store = store
        self._snapshot: str = session.snapshot_id
        self._arrays: dict[str, dict[str, Found]] = {}
        self._targets: dict[str, Place] = {}

    @override
    def forget(self) -> None:
        # The snapshot stays what it is; files outside of the repository need not.
        self._arrays.clear()
        for place in self._targets.values():
            place.forget()

    @override
    def look(self, keys: Sequence[str], directory: str, total: int) -> list[Found]:
        if not hasattr(self._store, "array_chunk_iterator"):
            return [Found(self.name(key), (0, self._snapshot)) for key in keys]
        references = self._arrays.get(directory)
        if references is None:
            references = self._arrays[directory] = dict(self._references(directory))
        prefix = f"{directory}/c" if directory else "c"
        positions = (key.removeprefix(prefix).lstrip("/") for key in keys)
        return [
            references.get(position) or Found(self.name(key), None)
            for key, position in zip(keys, positions, strict=True)
        ]

    @override
    def refer(self, keys: Sequence[str]) -> list[Found]:
        return [Found(self.name(key), (0, self._snapshot)) for key in keys]

    @override
    def digest_bytes(self, key: str) -> bytes | None:
        raise NotImplementedError("chunks of Icechunk are known by their references")

    @override
    def _see(self, key: str) -> Found:
        raise NotImplementedError("chunks of Icechunk are looked up by array")

    def _references(self, directory: str) -> Iterator[tuple[str, Found]]:
        for batch in self._store.array_chunk_iterator(f"/{directory}"):
            coords, kinds, paths, offsets, lengths, inlined = batch
            columns: Iterable[tuple[Any, ...]] = zip(
                coords.tolist(), kinds.tolist(), paths, offsets.tolist(), lengths.tolist(), strict=True
            )
            for row, (position, kind, path, offset, length) in enumerate(columns):
                yield (
                    "/".join(map(str, position)),
                    self._found(kind, path, (offset, length), inlined.get(row), f"{directory}/{position}"),
                )

    def _found(self, kind: int, path: str, part: tuple[int, int], inline: bytes | None, where: str) -> Found:
        if inline is not None:
            # Each by a name of its own, or a guard would compare one with another.
            return Found(f"icechunk:inline/{where}", (len(inline), hash_bytes(iter((inline,))).hex()))
        if kind == 1:
            return Found(f"icechunk:{path}", (part[1], path), part)
        place = self._targets.get(path)
        if place is None:
            place = self._targets[path] = place_of_url(path)
        return place.look([""], "", 1)[0]._replace(part=part)


def place_of_store(store: Store) -> Place:
    """Give the place of a Zarr store.

    Returns
    -------
    Place
        Where its objects lie.

    Raises
    ------
    UncacheableError
        A store that is not known, or that nothing can be seen of.
    """
    local = local_place_of(store)
    if local is not None:
        return local
    ours = our_place_of(store, place_of_store)
    if ours is not None:
        return ours
    if is_plainly(store, FsspecStore):
        return place_of_filesystem(store.fs, store.path)
    kind = f"{type(store).__module__}.{type(store).__qualname__}"
    if is_plainly(store, ObjectStore):
        inner: Any = store.store
        if type(inner).__name__ == "LocalStore" and inner.prefix is not None:
            return LocalPlace(str(inner.prefix))
        if type(inner).__name__ == "MemoryStore":
            return MemoryPlace(lambda key: _read_obstore(inner, key))
        return ObstorePlace(inner)
    icechunk = sys.modules.get("icechunk")
    if icechunk is not None and type(store) is icechunk.IcechunkStore:
        return IcechunkPlace(store)
    raise UncacheableError(f"reads through a store of the unknown class {kind}")


def place_of_filesystem(fs: AbstractFileSystem, path: str) -> Place:
    """Give the place of a path of an fsspec filesystem.

    Returns
    -------
    Place
        Where the file lies.

    Raises
    ------
    UncacheableError
        The filesystem reads local copies that may be older than what it shows.
    """
    fs = _sync_twin(fs)
    if isinstance(fs, LocalFileSystem):
        return LocalPlace(fs._strip_protocol(path))
    if isinstance(fs, MemoryFileSystem):
        return MemoryPlace(lambda key: _read_memory(fs, f"{path.rstrip('/')}/{key}" if key else path))
    if isinstance(fs, ReferenceFileSystem):
        if path.strip("/"):
            raise UncacheableError("reads below the root of a set of references, which is not supported")
        return ReferencesPlace(fs)
    if isinstance(fs, DirFileSystem):
        return place_of_filesystem(fs.fs, f"{fs.path}/{path.strip('/')}".rstrip("/"))
    kind = f"{type(fs).__module__}:{type(fs).__qualname__}"
    if kind.startswith(_COPYING):
        raise UncacheableError(f"reads through fsspec's {type(fs).__name__}, whose copies may be out of date")
    return FsspecPlace(fs, path)


def place_of_url(url: str) -> Place:
    """Give the place of one file, by path or URL, opened with the surroundings' own credentials.

    Returns
    -------
    Place
        Where the file lies.

    Raises
    ------
    UncacheableError
        Nothing installed opens it.
    """
    if "://" not in url:
        return LocalPlace(url)
    try:
        fs, path = url_to_fs(url)
    except Exception as error:
        raise UncacheableError(f"cannot open {clean_url(url)}: {type(error).__name__}") from error
    return place_of_filesystem(fs, path)


def _sync_twin(fs: AbstractFileSystem) -> AbstractFileSystem:
    """Give a filesystem that can be called from any thread; the stores' own belong to Zarr's event loop."""
    inner = getattr(fs, "sync_fs", None)
    if inner is not None:
        return inner
    if isinstance(fs, ReferenceFileSystem | DirFileSystem):
        # Their tables are read as they are, and parsing them again is dear.
        return fs
    if fs.async_impl and fs.asynchronous:
        return type(fs)(*fs.storage_args, **{**fs.storage_options, "asynchronous": False})
    return fs


def _url_of(fs: AbstractFileSystem, path: str) -> str:
    if "://" in path:
        return clean_url(path)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    hosts = (getattr(fs, name, None) for name in ("host", "account_name"))
    host = next((f"{host}/" for host in hosts if isinstance(host, str) and host), "")
    return f"{protocol}://{host}{path.lstrip('/') if host else path}"


def _remote_stamp(info: Any, name: str) -> Stamp | None:
    if info.get("type") == "directory":
        return None
    size = info.get("size")
    for field in _ETAGS:
        if info.get(field):
            return size, str(info[field]).strip('"')
    if urlsplit(name).scheme not in ("http", "https"):
        for field in _TIMES:
            if info.get(field):
                return size, f"{field} {info[field]}"
    raise UncacheableError(f"{name} has no ETag, so that a change of it would not be seen")


def _inline(data: Any) -> bytes:
    if isinstance(data, str):
        data = data.encode()
    elif hasattr(data, "to_bytes"):
        data = data.to_bytes()
    return base64.b64decode(data[7:]) if data.startswith(b"base64:") else bytes(data)


def _read_memory(fs: AbstractFileSystem, path: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def _read_obstore(store: Any, key: str) -> bytes | None:
    try:
        return bytes(store.get(key).bytes())
    except FileNotFoundError:
        return None

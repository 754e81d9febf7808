"""Stores from URLs: the one way to open them, and how they are named in messages and documents."""

from __future__ import annotations

import importlib
import json
import os
import threading
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from zarr.abc.store import Store

from daskcache.errors import InvalidInputError, MissingExtraError, StoreError
from daskcache.locations import PREFIX, Compound, Location, has_secret, parse_root, to_root
from daskcache.secrets import fetch, hide, is_secret
from daskcache.stores.buckets import Untranslatable, open_with_obstore
from daskcache.stores.fanout import Fanout
from daskcache.stores.faults import redact, translating
from daskcache.stores.levels import Level, Levels
from daskcache.stores.limit import Limit
from daskcache.stores.naming import describe
from daskcache.stores.opened import BucketStore, DiskStore, FileSystemStore, NamedMemoryStore
from daskcache.stores.served import Served
from daskcache.stores.shares import Share

__all__ = ["POOL_KEYS", "describe", "open_store"]

POOL_KEYS = r"(?:^|/)(?:chunks/[0-9a-f]{4}/[0-9a-f]+|@/[0-9a-f]+\.(?:json|idx))\Z"
"""Keys of a store of ours whose objects never change once they are there."""

_BLOCK_KEYS = r"(?:^|/)chunks/[0-9a-f]{4}/[^/]+\Z"
"""Keys of blocks, of those that are being written and that were moved aside: what a fan-out spreads."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PLACES = {**dict.fromkeys(_EXTRAS, "bucket/path"), "unix": "/path/to/redis.sock"}

# Stores of our own by scheme. Their modules import what talks to the server when a store is made.
_OURS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("redis", "rediss", "unix"), ("daskcache.stores.redis", "RedisStore")),
    **dict.fromkeys(("sftp", "ssh"), ("daskcache.stores.sftp", "SftpStore")),
    **dict.fromkeys(("http", "https"), ("daskcache.stores.http", "HttpStore")),
}

# Both live as long as the process. Connections do not survive a fork, content in memory may.
_opened: dict[tuple[str, bool], Store] = {}
_opened_with_values: dict[Any, Store] = {}
_memories: dict[str, dict[str, Any]] = {}
_lock = threading.Lock()
_forked = False


def _forget_opened() -> None:
    global _lock, _forked
    _lock = threading.Lock()  # another thread may have held it
    _forked = True
    _opened.clear()
    _opened_with_values.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_opened)


def open_store(
    url: Any,
    *,
    read_only: bool = False,
    client: Literal["fsspec", "obstore"] | None = None,
    **storage_options: Any,
) -> Store:
    """Give the store at a URL, the same object each time in one process.

    Parameters
    ----------
    url : str or path
        A path, ``file://``, ``memory://<name>`` (of this process), ``s3://``, ``gs://``, ``redis://``, ``sftp://``,
        ``http://`` (to read) or any URL that fsspec knows; or what `daskcache.locations.to_root` takes: a mapping with options, a sequence of levels.
    read_only : bool, optional
        Whether writes are refused.
    client : {"fsspec", "obstore"}, optional
        What talks to a bucket. By default obstore to S3 where it is installed and has a word for each option,
        stores of our own to Redis and over SFTP and HTTP, else fsspec.
    **storage_options
        fsspec's, for remote stores, with either client; of stores of our own those in ``docs/stores.md``. Credentials are ambient unless they are given here or
        by a function declared with `daskcache.secret`.

    Returns
    -------
    zarr.abc.store.Store
        Zarr's own store with its keys checked, `Levels` or `Limit`. Nothing has been asked of it yet: a root
        that is missing or unreachable shows later. It pickles as its URL and options without secrets; where
        secrets were given as values, it refuses to.

    Raises
    ------
    MissingExtraError
        The URL's scheme or the client needs a package that is not installed.
    InvalidInputError
        No package knows the scheme, or the client has no word for an option.
    StoreError
        The file system cannot be set up, such as for want of credentials.

    Examples
    --------
    >>> open_store("memory://example") is open_store("memory://example")
    True
    """
    url = os.fspath(url) if isinstance(url, os.PathLike) else url
    if url == "":
        raise InvalidInputError("the store's root is empty; expected a path or a URL")
    if _holds_secrets(url, storage_options):
        hide(storage_options)
        return _open_with_values(url, read_only, client, storage_options)
    if client is not None:
        url = {"url": url, "client": client}
    root = to_root(url, storage_options)
    key = (root, read_only)
    found = _opened.get(key)
    if found is None:
        opened = _open_root(parse_root(root), read_only)
        with _lock:
            found = _opened.setdefault(key, opened)
    return found


def _holds_secrets(url: Any, options: dict[str, Any]) -> bool:
    if isinstance(url, str) and not url.startswith(PREFIX) and has_secret(url):
        return True
    if any(is_secret(name, value) for name, value in options.items()):
        return True
    try:
        json.dumps(options)
    except TypeError:
        return (
            True  # sessions and credential objects: what they hold is not known, and no text stands for them
        )
    return False


def _open_with_values(url: str, read_only: bool, client: str | None, options: dict[str, Any]) -> Store:
    """Open a store with secrets that no text may carry: one for each call that gives other ones."""
    key = (url, read_only, client, repr(sorted(options.items(), key=str)))
    found = _opened_with_values.get(key)
    if found is None:
        opened = _open_remote(url, read_only, client, options, None)
        with _lock:
            found = _opened_with_values.setdefault(key, opened)
    return found


def _open_root(found: Location | Compound, read_only: bool) -> Store:
    if isinstance(found, Location):
        return _open_location(found, read_only)
    store: Store
    read_only = read_only or found.read_only
    if found.kind == "fanout":
        # Which of them is only read tells where documents lie, also to who reads all of them.
        shares = [Share(_open_root(one, False), one.weight) for one in found.parts]
        store = Fanout(*shares, read_only=read_only, fixed=_BLOCK_KEYS, below=found.below)
    else:
        levels = [Level(_open_root(one, read_only), write=one.write, copy=one.copy) for one in found.parts]
        store = Levels(*levels, read_only=read_only, fixed=POOL_KEYS)
    return (
        store if found.max_object is None else Limit(store, max_object=found.max_object, read_only=read_only)
    )


def _open_location(found: Location, read_only: bool) -> Store:
    read_only = read_only or found.read_only
    path = _local_path(found.url)
    store: Store
    if path is not None:
        store = DiskStore(path, read_only=read_only)
    elif found.url.startswith("memory://"):
        store = _open_memory(found.url.partition("://")[2].strip("/"), read_only)
    else:
        options = found.options | (fetch(found.secret) if found.secret else {})
        root = to_root(
            {name: getattr(found, name) for name in ("url", "storage_options", "secret", "client")}
        )
        store = _open_remote(found.url, read_only, found.client, options, root)
    if found.max_object is None and found.max_size is None:
        return store
    within = None if found.within is None else _local_path(found.within)
    return Limit(
        store, max_object=found.max_object, max_size=found.max_size, within=within, read_only=read_only
    )


def _open_memory(name: str, read_only: bool) -> Store:
    with _lock:
        content = _memories.setdefault(name, {})
    store = NamedMemoryStore(content, read_only=read_only)
    store.name = name
    return store


def _local_path(url: str) -> str | None:
    if "://" not in url:
        return os.path.abspath(os.path.expanduser(url))
    parts = urlsplit(url)
    if parts.scheme not in ("file", "local"):
        return None
    if parts.netloc not in ("", "localhost"):
        raise InvalidInputError(
            f"store {redact(url)} names the host {parts.netloc!r}; expected file:///absolute/path"
        )
    return os.path.abspath(url2pathname(parts.path) if os.name == "nt" else unquote(parts.path))


def _open_remote(
    url: str, read_only: bool, client: str | None, options: dict[str, Any], root: str | None
) -> Store:
    _check_place(url)
    if client is None and (ours := _OURS.get(url.partition("://")[0])) is not None:
        made: Served = getattr(importlib.import_module(ours[0]), ours[1])(url, options, read_only=read_only)
        made.root_or_none = root
        return made
    scheme = url.partition("://")[0].rpartition("::")[2]
    store: FileSystemStore | BucketStore | None = None
    # obstore's threads do not survive a fork: a child would wait for ever.
    if client == "obstore" or (client is None and scheme in ("s3", "s3a") and not _forked):
        store = _open_obstore(url, scheme, read_only, options, must=client is not None)
    if store is None:
        store = _open_fsspec(url, scheme, read_only, options)
    store.root_or_none = root
    return store


def _check_place(url: str) -> None:
    """Refuse a URL that ends with its scheme, of which fsspec would make a local directory ``s3:``."""
    start, _, rest = url.rpartition("://")
    scheme = start.rpartition("::")[2]
    # Behind an empty place the path's first part would be taken for the bucket.
    if not rest.strip("/") or (scheme in _EXTRAS and rest.startswith("/")):
        place = _PLACES.get(scheme, "host/path")
        raise InvalidInputError(f"store {redact(url)} names no place; expected {start}://{place}")


def _open_obstore(
    url: str, scheme: str, read_only: bool, options: dict[str, Any], *, must: bool
) -> BucketStore | None:
    try:
        with translating(describe(url), "open it"):
            try:
                store = BucketStore(open_with_obstore(url, options), read_only=read_only)
            except ImportError as error:
                raise MissingExtraError(
                    f"store {describe(url)} needs obstore, which is not installed; install daskcache[obstore]"
                ) from error
            except Untranslatable as error:
                raise InvalidInputError(
                    f"obstore cannot open {describe(url)}: it has no word for {error}"
                ) from None
    except (MissingExtraError, InvalidInputError):
        if must:
            raise
        return None
    store.scheme = scheme
    return store


def _open_fsspec(url: str, scheme: str, read_only: bool, options: dict[str, Any]) -> FileSystemStore:
    if scheme != "gist":  # which never changes, and cannot do without
        # Listings that a file system remembers show, and hide, what other processes have changed since.
        own = options.get(scheme, {}) if "::" in url else options
        own = own | {"use_listings_cache": False}
        options = options | {scheme: own} if "::" in url else own
    try:
        with translating(describe(url), "open it"):
            try:
                return FileSystemStore.from_url(  # type: ignore[return-value]
                    url.rstrip("/"), storage_options=options or None, read_only=read_only
                )
            except ImportError as error:
                extra = _EXTRAS.get(scheme)
                install = f"daskcache[{extra}]" if extra else redact(str(error))
                raise MissingExtraError(
                    f"store {describe(url)} needs a package that is not installed; install {install}"
                ) from error
    except StoreError as error:
        if isinstance(error.__cause__, ValueError) and "Protocol not known" in str(error.__cause__):
            raise InvalidInputError(
                f"store {describe(url)} has the unknown scheme {scheme!r}; "
                "expected a path, file://, memory://, s3://, gs:// or another of fsspec's"
            ) from error
        raise

"""Stores from URLs: the one way to open them, and how they are named in messages and documents."""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from daskcache.errors import InvalidInputError, MissingExtraError, StoreError
from daskcache.stores.faults import redact, translating

__all__ = ["describe", "open_store"]

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "sftp": "sftp",
    "ssh": "sftp",
    "redis": "redis",
}

# Both live as long as the process. Connections do not survive a fork, content in memory may.
_opened: dict[Any, Store] = {}
_memories: dict[str, dict[str, Any]] = {}
_lock = threading.Lock()


def _forget_opened() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_opened)


def open_store(url: str | os.PathLike[str], *, read_only: bool = False, **storage_options: Any) -> Store:
    """Give the store at a URL, the same object each time in one process.

    Parameters
    ----------
    url : str or path
        A path, ``file://``, ``memory://<name>`` (of this process), or any URL that fsspec knows.
    read_only : bool, optional
        Whether writes are refused.
    **storage_options
        fsspec's, for remote stores.

    Returns
    -------
    zarr.abc.store.Store
        Zarr's own store. Nothing has been asked of it yet: a root that is missing or unreachable shows later.

    Raises
    ------
    MissingExtraError
        The URL's scheme needs a package that is not installed.
    InvalidInputError
        No package knows the scheme.
    StoreError
        The file system cannot be set up, such as for want of credentials.

    Examples
    --------
    >>> open_store("memory://example") is open_store("memory://example")
    True
    """
    url = os.fspath(url)
    try:
        key = (url, read_only, tuple(sorted(storage_options.items())))
        found = _opened.get(key)
    except TypeError:  # options that do not sort or hash
        return _open(url, read_only, storage_options)
    if found is not None:
        return found
    store = _open(url, read_only, storage_options)
    with _lock:
        return _opened.setdefault(key, store)


def _open(url: str, read_only: bool, storage_options: dict[str, Any]) -> Store:
    if not url:
        raise InvalidInputError("the store's root is empty; expected a path or a URL")
    path = _local_path(url)
    if path is not None:
        return LocalStore(path, read_only=read_only)
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        with _lock:
            content = _memories.setdefault(rest.strip("/"), {})
        return MemoryStore(content, read_only=read_only)
    return _open_fsspec(url, scheme.rpartition("::")[2], read_only, storage_options)


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


def _open_fsspec(url: str, scheme: str, read_only: bool, storage_options: dict[str, Any]) -> Store:
    try:
        with translating(describe(url), "open it"):
            try:
                return FsspecStore.from_url(
                    url.rstrip("/"), storage_options=storage_options or None, read_only=read_only
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


def describe(store: Store | str | os.PathLike[str]) -> str:
    """Name a store for people and documents, without credentials or query.

    Parameters
    ----------
    store : zarr.abc.store.Store, str or path
        A store or what opens it.

    Returns
    -------
    str
        A path or URL.

    Examples
    --------
    >>> describe("s3://key:secret@bucket/cache?token=1")
    's3://bucket/cache'
    """
    if isinstance(store, LocalStore):
        return str(store.root)
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        return f"{protocol if isinstance(protocol, str) else protocol[0]}://{store.path.lstrip('/')}"
    if isinstance(store, Store):
        return redact(str(store))
    text = os.fspath(store)
    if "://" not in text:
        return text
    return redact(text).partition("#")[0]

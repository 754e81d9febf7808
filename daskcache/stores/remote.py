"""Operations on stores other than local files, through Zarr's asynchronous interface where it has what is needed.

What a store's own library does better, it is asked to do: create-only puts, and listings with sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Buffer, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, MemoryStore, ObjectStore

from daskcache.stores.sync import wait_for

__all__ = [
    "PROBE",
    "create",
    "create_with_fsspec",
    "delete",
    "exists",
    "get",
    "list_dirs",
    "list_objects",
    "put",
    "size",
]

# File systems of fsspec whose puts can be told to create only.
_CREATES_ONLY = frozenset({"s3", "s3a", "gs", "gcs"})

PROBE = "daskcache.probe"
"""The object that is created to see whether a server refuses to create it again; it stays."""

# How often obstore is told to put an object that nothing must be in the place of.
_UNANSWERED = 3

# Whether the server keeps the condition, on the store that was asked.
_CREATES = "_daskcache_creates"

_memory_lock = threading.Lock()


def create(store: Store, key: str, data: Buffer) -> bool:
    """Put an object unless it is there.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.
    data : buffer
        The bytes.

    Returns
    -------
    bool
        Whether this call created it.

    Examples
    --------
    >>> store = MemoryStore()
    >>> create(store, "a", b"1"), create(store, "a", b"2")
    (True, False)
    """
    if isinstance(store, MemoryStore):
        with _memory_lock:
            if store.get_sync(key) is not None:
                return False
            store.set_sync(key, _buffer(data))
            return True
    if isinstance(store, ObjectStore):
        return _create_with_obstore(store, key, data)
    if isinstance(store, FsspecStore):
        return wait_for(create_with_fsspec(store, key, bytes(data)))
    if exists(store, key):
        return False
    wait_for(store.set_if_not_exists(key, _buffer(data)))
    return True


async def create_with_fsspec(store: FsspecStore, key: str, data: bytes) -> bool:
    """Put an object unless it is there, through fsspec.

    Parameters
    ----------
    store : zarr.storage.FsspecStore
        Where.
    key : str
        Its key.
    data : bytes
        The bytes.

    Returns
    -------
    bool
        Whether this call created it.
    """

    async def put_new(name: str, value: bytes) -> bool:
        try:
            await store.fs._pipe_file(_path(store, name), value, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs knows the refusal by its message, and Ceph sends none.
            answer = getattr(error.__cause__, "response", None) or {}
            if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    if _scheme(store) in _CREATES_ONLY:
        if not hasattr(store, _CREATES):
            setattr(store, _CREATES, await _refuses_twice(put_new))
        if getattr(store, _CREATES):
            return await put_new(key, data)
    if await store.fs._isfile(_path(store, key)):
        return False
    await store.fs._pipe_file(_path(store, key), data)
    return True


async def _refuses_twice(put_new: Callable[[str, bytes], Awaitable[bool]]) -> bool:
    """Ask a server whether a create-only put is one: some ignore the condition, some know of none."""
    try:
        # One request where an earlier probe left its object, two where there is none yet.
        return not (await put_new(PROBE, b"")) or not (await put_new(PROBE, b""))
    # Each client has errors of its own.
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        # Some servers send the status alone, and older versions of obstore show no more of any answer.
        if any(said in text for said in ("NotImplemented", "NotSupportedError", "Not Implemented")):
            return False
        raise


def put(store: Store, key: str, data: Buffer) -> None:
    """Put an object, in place of one that may be there.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.
    data : buffer
        The bytes.

    Examples
    --------
    >>> put(MemoryStore(), "a", b"1")
    """
    if isinstance(store, MemoryStore):
        store.set_sync(key, _buffer(data))
    else:
        wait_for(store.set(key, _buffer(data)))


def get(store: Store, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
    """Read an object, or a part of it.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.
    byte_range : zarr.abc.store.ByteRequest, optional
        The part.

    Returns
    -------
    bytes or None
        None where there is no such object.

    Examples
    --------
    >>> get(MemoryStore(), "a") is None
    True
    """
    if isinstance(store, MemoryStore):
        found = store.get_sync(key, byte_range=byte_range)
    else:
        found = wait_for(store.get(key, default_buffer_prototype(), byte_range))
    return None if found is None else found.to_bytes()


def exists(store: Store, key: str) -> bool:
    """Tell whether an object is there.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.

    Returns
    -------
    bool
        Whether it is.

    Examples
    --------
    >>> exists(MemoryStore(), "a")
    False
    """
    if isinstance(store, FsspecStore):
        # Its own answer is True for prefixes too.
        return bool(wait_for(store.fs._isfile(_path(store, key))))
    return wait_for(store.exists(key))


def size(store: Store, key: str) -> int | None:
    """Tell how large an object is.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.

    Returns
    -------
    int or None
        Bytes; None where there is no such object.

    Examples
    --------
    >>> size(MemoryStore(), "a") is None
    True
    """
    if isinstance(store, MemoryStore):
        found = store.get_sync(key)
        return None if found is None else len(found)
    try:
        return wait_for(store.getsize(key))
    except FileNotFoundError:
        return None


def delete(store: Store, key: str) -> None:
    """Remove an object; one that is missing is no error.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    key : str
        Its key.

    Examples
    --------
    >>> delete(MemoryStore(), "a")
    """
    if exists(store, key):
        wait_for(store.delete(key))


def list_objects(store: Store, prefix: str) -> dict[str, tuple[int, float | None]]:
    """List the objects directly under a prefix, those that are being written too.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    prefix : str
        The prefix, without a slash at its end.

    Returns
    -------
    dict of str to tuple
        By the last segment the size in bytes, and when it was written, in seconds since 1970; None where the
        store does not tell.

    Examples
    --------
    >>> list_objects(MemoryStore(), "chunks/00ff")
    {}
    """
    if isinstance(store, FsspecStore):
        items = [item for item in _list(store, prefix) if item["type"] == "file"]
        return {_last(item["name"]): (item["size"], _written(item)) for item in items}
    if isinstance(store, ObjectStore):
        objects = _list_with_obstore(store, prefix)["objects"]
        return {_last(item["path"]): (item["size"], item["last_modified"].timestamp()) for item in objects}
    return {_last(path): (size, None) for path, size in wait_for(_list_slowly(store, prefix))}


def _written(item: Mapping[str, Any]) -> float | None:
    """Tell when an object was written, as fsspec's file systems call it, each in its way."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "modify"):
        found = item.get(name)
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            found = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        if isinstance(found, int | float):
            return float(found)
    return None


def list_dirs(store: Store, prefix: str) -> list[str]:
    """List the prefixes directly under a prefix.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    prefix : str
        The prefix, without a slash at its end.

    Returns
    -------
    list of str
        Last segments, sorted.

    Examples
    --------
    >>> list_dirs(MemoryStore(), "namespaces")
    []
    """
    if isinstance(store, FsspecStore):
        return sorted(_last(item["name"]) for item in _list(store, prefix) if item["type"] == "directory")
    if isinstance(store, ObjectStore):
        return sorted(_last(path) for path in _list_with_obstore(store, prefix)["common_prefixes"])
    return wait_for(_list_dirs_slowly(store, prefix))


def _buffer(data: Buffer) -> Any:
    return default_buffer_prototype().buffer.from_bytes(data)  # type: ignore[arg-type]


def _scheme(store: FsspecStore) -> str:
    protocol = store.fs.protocol
    return protocol if isinstance(protocol, str) else str(protocol[0])


def _path(store: FsspecStore, key: str) -> str:
    return f"{store.path.rstrip('/')}/{key}"


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _list(store: FsspecStore, prefix: str) -> list[dict[str, Any]]:
    try:
        return list(wait_for(store.fs._ls(_path(store, prefix), detail=True)))
    except FileNotFoundError:
        return []


def _list_with_obstore(store: ObjectStore[Any], prefix: str) -> Any:
    # Zarr's own listing leaves the sizes out. The package is there, or there were no such store.
    import obstore

    return obstore.list_with_delimiter(store.store, prefix=prefix)


def _create_with_obstore(store: ObjectStore[Any], key: str, data: Buffer) -> bool:
    import obstore

    def put_new(name: str, value: Buffer) -> bool:
        for left in reversed(range(_UNANSWERED)):
            try:
                # Zarr's set_if_not_exists does the same and does not say which it was.
                obstore.put(store.store, name, value, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
            except obstore.exceptions.GenericError:
                # What was refused it has asked for again, but not what was not answered in time: it may have come to pass.
                if not left:
                    raise
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    async def put_new_later(name: str, value: bytes) -> bool:
        return put_new(name, value)

    if not hasattr(store, _CREATES):
        # Stores that are no servers keep the condition.
        remote = hasattr(store.store, "client_options")
        setattr(store, _CREATES, not remote or wait_for(_refuses_twice(put_new_later)))
    if getattr(store, _CREATES):
        return put_new(key, data)
    if exists(store, key):
        return False
    obstore.put(store.store, key, data)
    return True


async def _list_slowly(store: Store, prefix: str) -> list[tuple[str, int]]:
    below = f"{prefix}/" if prefix else ""
    keys = [f"{below}{name}" for name in {name async for name in store.list_dir(below)}]
    return [(key, await store.getsize(key)) for key in keys if await store.exists(key)]


async def _list_dirs_slowly(store: Store, prefix: str) -> list[str]:
    below = f"{prefix}/" if prefix else ""
    names = {name async for name in store.list_dir(below)}
    return sorted([name for name in names if not await store.exists(f"{below}{name}")])

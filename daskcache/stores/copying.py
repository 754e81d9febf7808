"""One object from one store to another: by the stores themselves where they can, else through this process."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from daskcache.stores import drive, local
from daskcache.stores.driven import Driven
from daskcache.stores.faults import translating
from daskcache.stores.naming import describe
from daskcache.stores.sync import wait_for

__all__ = ["Route", "Way"]

Way = Literal["linked", "copied", "streamed"]
"""A hard link, a copy that the server made, or bytes that went through this process."""

# File systems of fsspec whose copies are made by the server, one request each.
_COPYING = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

# What is answered where a file is missing, of somebody else's or elsewhere; or where there are no links.
_NOT_LINKED = local.NO_LINKS | {errno.EXDEV, errno.EACCES, errno.ENOENT, errno.ENOTDIR}

Direct = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Route:
    """How objects that are never written again get from one store to another.

    Examples
    --------
    >>> from daskcache import stores
    >>> source, target = stores.open("memory://doc-route"), stores.open("memory://doc-route-target")
    >>> stores.put(source, "a", b"1")
    >>> Route.between(source, target).copy("a", "b"), stores.get(target, "b")
    ('streamed', b'1')
    """

    source: Store
    """Where objects are."""
    target: Store
    """Where they go."""
    direct: tuple[tuple[Way, Direct], ...] = ()
    """What does it without this process and tells whether it could, for each part of the source where there is such."""

    @classmethod
    def between(cls, source: Store, target: Store) -> Self:
        """Find the shortest ways.

        Parameters
        ----------
        source : zarr.abc.store.Store
            Where objects are.
        target : zarr.abc.store.Store
            Where they go.

        Returns
        -------
        Route
            Nothing has been asked of either store yet.

        Examples
        --------
        >>> [way for way, _ in Route.between(LocalStore("/a"), LocalStore("/b")).direct]
        ['linked']
        """
        found = (_direct(part, target) for part in _parts(source))
        return cls(source, target, tuple(direct for direct in found if direct is not None))

    def copy(self, key: str, target_key: str) -> Way | None:
        """Copy an object, in place of one that may be there; it appears whole or not at all.

        Parameters
        ----------
        key : str
            Where it is.
        target_key : str
            Where it goes.

        Returns
        -------
        {"linked", "copied", "streamed"} or None
            How it got there; None where there is no such object.

        Raises
        ------
        StoreFullError, ReadOnlyError, StoreError
            A store failed, or the target has no room or takes no writes.

        Notes
        -----
        A hard link takes the right to write from the file, so that nobody writes through it into the source; where that
        cannot be, or it is another file system, the object is streamed.

        Examples
        --------
        >>> from daskcache import stores
        >>> source, target = stores.open("memory://doc-route"), stores.open("memory://doc-route-target")
        >>> Route.between(source, target).copy("nothing", "b") is None
        True
        """
        drive.check_writable(self.target)
        for way, direct in self.direct:
            if direct(key, target_key):
                return way
        data = drive.get(self.source, key)
        if data is None:
            return None
        drive.put(self.target, target_key, data)
        return "streamed"


def _parts(source: Store) -> Iterator[Store]:
    """Give the stores that a store is made of in the end. What never changes is the same in all that have it."""
    parts = source.parts if isinstance(source, Driven) else ()
    if not parts:
        yield source
    for part in parts:
        yield from _parts(part)


def _direct(source: Store, target: Store) -> tuple[Way, Direct] | None:
    if isinstance(source, LocalStore) and isinstance(target, LocalStore):
        return "linked", _linking(source, target)
    if isinstance(source, FsspecStore) and isinstance(target, FsspecStore) and source.fs == target.fs:
        protocol = source.fs.protocol
        if _COPYING.intersection({protocol} if isinstance(protocol, str) else protocol):
            return "copied", _copying_with_fsspec(source, target)
    if isinstance(source, ObjectStore) and isinstance(target, ObjectStore):
        direct = _copying_with_obstore(source, target)
        return None if direct is None else ("copied", direct)
    return None


def _linking(source: LocalStore, target: LocalStore) -> Direct:
    def link(key: str, target_key: str) -> bool:
        with translating(describe(target), f"write {target_key}", writes=True):
            return _link(drive.path_of(source, key), drive.path_of(target, target_key))

    return link


def _link(path: str, target: str) -> bool:
    if os.name == "nt":
        return False  # where a file that cannot be written cannot be removed either
    partial = f"{target}.{uuid.uuid4().hex}{local.PARTIAL}"
    try:
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.link(path, partial)
            # Programs that write in place would otherwise write through the new name into what the old one stands for.
            os.chmod(partial, stat.S_IMODE(os.stat(partial).st_mode) & ~0o222)
        except OSError as error:
            if error.errno in _NOT_LINKED:
                return False
            raise
        os.replace(partial, target)
        return True
    finally:
        # Also after it was renamed: that does nothing where both names are of one file already.
        local.delete(partial)


def _copying_with_fsspec(source: FsspecStore, target: FsspecStore) -> Direct:
    def copy(key: str, target_key: str) -> bool:
        paths = f"{source.path.rstrip('/')}/{key}", f"{target.path.rstrip('/')}/{target_key}"
        try:
            wait_for(target.fs._cp_file(*paths))
        except OSError:
            # Not there, or only one of the two may be reached by the server: streaming tells which.
            return False
        return True

    return copy


def _copying_with_obstore(source: ObjectStore[Any], target: ObjectStore[Any]) -> Direct | None:
    # The package is there, or there were no such stores.
    import obstore

    theirs, ours = source.store, target.store
    is_server = hasattr(ours, "client_options") and type(ours) is type(theirs)
    if not is_server or theirs.config != ours.config or theirs.client_options != ours.client_options:
        return None
    # Without a prefix, because both keys lie in one bucket.
    bucket = type(ours)(
        config=ours.config,
        client_options=ours.client_options,
        retry_config=ours.retry_config,
        credential_provider=ours.credential_provider,
    )
    prefixes = [f"{store.prefix}/" if store.prefix else "" for store in (theirs, ours)]

    def copy(key: str, target_key: str) -> bool:
        try:
            obstore.copy(bucket, f"{prefixes[0]}{key}", f"{prefixes[1]}{target_key}")
        except (obstore.exceptions.BaseError, FileNotFoundError, PermissionError):
            # As above.
            return False
        return True

    return copy

"""Stores over SFTP: files, written under another name first."""

from __future__ import annotations

import errno
import posixpath
import time
import uuid
from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from daskcache.errors import UncacheableError
from daskcache.stores.driven import Listed
from daskcache.stores.local import PARTIAL
from daskcache.stores.remote import PROBE
from daskcache.stores.served import Served
from daskcache.stores.sftp_links import Links
from daskcache.stores.sftp_wire import Attributes, Refused, Wire

__all__ = ["SftpStore"]

# Seconds after which a file's time tells one version of it from the next: it counts whole seconds, and clocks differ.
_SETTLED_S = 60.0


class SftpStore(Served):
    """A store on a server that speaks SFTP.

    Parameters
    ----------
    url : str
        ``sftp://user@host:port/absolute/path`` or ``ssh://…``; ``/~/path`` lies below the user's home.
    options : mapping, optional
        ``username``, ``port``, ``key_filename``, ``password``, ``passphrase``, ``known_hosts`` and others; see
        ``docs/stores.md``.
    read_only : bool, optional
        Whether writes are refused.

    Raises
    ------
    MissingExtraError
        paramiko is not installed.
    InvalidInputError
        An option is unknown, or the URL names no host.

    Notes
    -----
    A file is written under another name, which ends in ``.partial``, and renamed, or linked where it must not take
    another's place. What a writer that died has left goes with `daskcache.gc`.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, read_only: bool = False
    ) -> None:
        super().__init__(url, options, read_only=read_only)
        self._links = Links(self._given)
        path = unquote(urlsplit(self._given.url).path)
        self._root = (
            (path.removeprefix("/~").lstrip("/") or ".")
            if path.startswith("/~/") or path == "/~"
            else path or "/"
        )
        self._keeps_targets: bool | None = None

    def _create(self, key: str, data: Buffer) -> bool:
        begun: list[str] = []

        def create(wire: Wire) -> bool:
            is_again = bool(begun)
            wire.remove(begun)
            if not self._is_there(wire, key) and self._give_name(wire, key, data, begun):
                return True
            # Where an answer was lost, this may be what was put before: then it has the same bytes.
            return is_again and self._read(wire, key, None) == bytes(data)

        return self._links.run(create)

    def _give_name(self, wire: Wire, key: str, data: Buffer, begun: list[str]) -> bool:
        """Write a file and give it its name, unless that is taken; tell whether it was not."""
        partial, path = self._write_partial(wire, key, data, begun), self._path(key)
        if wire.links:
            return self._settle(wire, partial, lambda: wire.link(partial, path))
        # The protocol's own rename refuses to take another's place, on servers that keep to it.
        if not self._keeps(wire):
            wire.rename(partial, path, over=wire.renames_over)
            return True
        try:
            wire.rename(partial, path)
        except Refused:
            wire.remove([partial])
            if self._is_there(wire, key):
                return False
            raise
        return True

    def _put(self, key: str, data: Buffer) -> None:
        begun: list[str] = []

        def put(wire: Wire) -> None:
            wire.remove(begun)
            partial = self._write_partial(wire, key, data, begun)
            if not wire.renames_over:
                wire.remove([self._path(key)])
            self._settle(wire, partial, lambda: wire.rename(partial, self._path(key), over=wire.renames_over))

        self._links.run(put)

    def _settle[T](self, wire: Wire, partial: str, give_name: Callable[[], T]) -> T:
        try:
            return give_name()
        except (Refused, FileNotFoundError):
            wire.remove([partial])
            raise

    def _write_partial(self, wire: Wire, key: str, data: Buffer, begun: list[str]) -> str:
        partial = f"{self._path(key)}.{uuid.uuid4().hex}{PARTIAL}"
        begun.append(partial)
        try:
            handle = wire.open_new(partial)
        except FileNotFoundError:
            self._make_dirs(wire, posixpath.dirname(partial))
            handle = wire.open_new(partial)
        try:
            wire.write(handle, data)
        except Refused as error:
            wire.remove([partial])
            free = wire.free_bytes(posixpath.dirname(partial))
            if error.errno == errno.EIO and free is not None and free < memoryview(data).nbytes:
                # The protocol has no word for it.
                raise Refused(errno.ENOSPC, f"{error.strerror}, and {free} bytes are free") from error
            raise
        return partial

    def _make_dirs(self, wire: Wire, path: str) -> None:
        missing = []
        while path not in ("", "/", ".") and wire.look(path) is None:
            missing.append(path)
            path = posixpath.dirname(path)
        for one in reversed(missing):
            try:
                wire.make_dir(one)
            except Refused:
                if wire.look(one) is None:  # else another writer made it
                    raise

    def _keeps(self, wire: Wire) -> bool:
        """Whether the server's rename leaves alone what is there, which is asked once."""
        if self._keeps_targets is None:
            probe, other = self._path(PROBE), self._path(f"{PROBE}.{uuid.uuid4().hex}{PARTIAL}")
            self._make_dirs(wire, posixpath.dirname(probe))
            for path in (probe, other):
                if wire.look(path) is None:
                    wire.write(wire.open_new(path), b"")
            try:
                wire.rename(other, probe)
            except Refused:
                wire.remove([other])
                self._keeps_targets = True
            else:
                self._keeps_targets = False
        return self._keeps_targets

    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        return self._links.run(lambda wire: self._read(wire, key, byte_range))

    def _read(self, wire: Wire, key: str, byte_range: ByteRequest | None) -> bytes | None:
        path = self._path(key)
        match byte_range:
            case RangeByteRequest(start, end):
                return wire.read(path, start, max(end - start, 0))
            case OffsetByteRequest(offset):
                return wire.read(path, offset)
            case SuffixByteRequest(suffix):
                return wire.read(path, length=suffix, last=True)
        return wire.read(path)

    def _is_there(self, wire: Wire, key: str) -> bool:
        found = wire.look(self._path(key))
        return found is not None and found.is_file

    def _size(self, key: str) -> int | None:
        found = self._links.run(lambda wire: wire.look(self._path(key)))
        return None if found is None or not found.is_file else found.size

    def _delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]

        def remove(wire: Wire) -> None:
            try:
                wire.remove(paths)
            except Refused:
                # A directory has no object of its name.
                wire.remove(
                    [path for path in paths if (found := wire.look(path)) is not None and found.is_file]
                )

        self._links.run(remove)

    def _delete_dir(self, prefix: str) -> None:
        with self._telling(f"delete {prefix}", writes=True):
            self._links.run(lambda wire: self._empty(wire, self._path(prefix), keep=not prefix))

    def _empty(self, wire: Wire, path: str, *, keep: bool = False) -> None:
        listed = wire.list(path)
        wire.remove([f"{path}/{name}" for name, found in listed.items() if not found.is_dir])
        for name, found in listed.items():
            if found.is_dir:
                self._empty(wire, f"{path}/{name}")
        if not keep:
            try:
                wire.remove_dir(path)
            except FileNotFoundError:
                return
            except Refused:
                if not wire.list(path):  # else another writer put something there meanwhile
                    raise

    def _list_objects(self, prefix: str) -> Listed:
        listed = self._links.run(lambda wire: self._list(wire, prefix))
        return {name: (found.size or 0, found.written) for name, found in listed.items() if found.is_file}

    def _list_dirs(self, prefix: str) -> Iterable[str]:
        listed = self._links.run(lambda wire: self._list(wire, prefix))
        return [name for name, found in listed.items() if found.is_dir]

    def _list(self, wire: Wire, prefix: str) -> dict[str, Attributes]:
        path = self._path(prefix)
        listed = wire.list(path)
        links = [name for name, found in listed.items() if found.is_link]
        for name, found in zip(links, wire.look_all([f"{path}/{name}" for name in links]), strict=True):
            if found is None:
                del listed[name]  # it leads nowhere
            else:
                listed[name] = found
        return listed

    def _walk(self, prefix: str) -> Iterator[str]:
        where = prefix.rpartition("/")[0]
        left = [where]
        while left:
            here = left.pop()
            listed = self._links.run(lambda wire, here=here: self._list(wire, here))  # type: ignore[misc]
            for name, found in sorted(listed.items()):
                key = f"{here}/{name}" if here else name
                if found.is_dir:
                    if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                        left.append(key)
                elif (
                    found.is_file and key.startswith(prefix) and not name.endswith(PARTIAL) and name != PROBE
                ):
                    yield key

    def _stamps(self, keys: list[str]) -> list[tuple[Any, ...] | None]:
        paths = [self._path(key) for key in keys]
        found = self._links.run(lambda wire: [*wire.look_all(paths)])
        return [self._stamp(key, one) for key, one in zip(keys, found, strict=True)]

    def _stamp(self, key: str, found: Attributes | None) -> tuple[Any, ...] | None:
        if found is None or not found.is_file:
            return None
        if found.written is None or time.time() - found.written < _SETTLED_S:
            raise UncacheableError(
                f"{key} in {self._shown} was written less than {_SETTLED_S:.0f} s ago; SFTP tells whole seconds, so that "
                "another write just now would not be seen"
            )
        return found.size, f"mtime {found.written:.0f}"

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}" if key else self._root

"""Bounded tiers: what holds only so many bytes, and drops what was not used for longest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Buffer, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from zarr.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from daskcache.errors import InvalidInputError, StoreFullError
from daskcache.stores import local

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LEDGER", "DiskTier", "MemoryTier"]

LEDGER = ".daskcache-limit"
"""The file of a bounded directory that is locked, and holds an upper bound of its size."""

_DIGITS = 20
_PATIENCE_S = 30.0
_memory_lock = threading.Lock()


def _forget_lock() -> None:
    global _memory_lock
    _memory_lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


@dataclass(frozen=True, slots=True)
class _File:
    """A file that may be removed."""

    stamp_ns: int
    """When it was written or read last."""
    path: str
    """Where it lies."""


class DiskTier:
    """A directory whose files have at most so many bytes together, those that are being written included.

    Parameters
    ----------
    root : str
        The directory of the objects.
    within : str
        The directory that is bounded; `root`, or one above it.
    max_size : int
        Bytes.
    """

    def __init__(self, root: str, within: str, max_size: int) -> None:
        if fcntl is None:
            raise InvalidInputError(
                "max_size needs file locks, which this system does not have; give max_object"
            )
        self._root = root
        self._within = within
        self._max_size = max_size
        self._oldest: list[_File] = []  # the newest of them first

    def write(self, key: str, data: Buffer, *, create: bool) -> bool:
        """Put an object; with `create` only where there is none. Tell whether this call did.

        Parameters
        ----------
        key : str
            Its key.
        data : buffer
            The bytes.
        create : bool
            Whether an object that is there stays.

        Returns
        -------
        bool
            Whether it was put.

        Raises
        ------
        StoreFullError
            Others are writing so much at once that there is no room for long.
        """
        path = f"{self._root}/{key}"
        nbytes = memoryview(data).nbytes
        if create and os.path.lexists(path):
            return False
        partial, descriptor = self._reserve(path, nbytes)
        done = False
        try:
            try:
                local.write_all(descriptor, data)
                done = self._publish(partial, path, nbytes, create)
            finally:
                if not done:
                    self._give_back(partial, nbytes)
        finally:
            os.close(descriptor)  # and with it the lock that says that somebody is writing
        return done

    def reading(self) -> AbstractContextManager[None]:
        """Give what has to be held while an object is read: nothing."""
        return nullcontext()

    def touch(self, key: str) -> None:
        """Note that an object was used.

        Parameters
        ----------
        key : str
            Its key.
        """
        path = f"{self._root}/{key}"
        # It may have been removed since, or be another user's: then the system's own stamps have to do.
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))

    def delete(self, key: str) -> None:
        """Remove an object; one that is missing is no error.

        Parameters
        ----------
        key : str
            Its key.
        """
        with self._locked() as ledger:
            self._remove(ledger, f"{self._root}/{key}")

    def _reserve(self, path: str, nbytes: int) -> tuple[str, int]:
        """Make room, and a file that has its full size at once; it is locked while somebody is writing it."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            with self._locked() as ledger:
                if self._make_room(ledger, nbytes):
                    self._add(ledger, nbytes)
                    try:
                        return self._open_full(path, nbytes)
                    except BaseException:  # an interrupt, too, gives back the room that it has taken
                        self._add(ledger, -nbytes)
                        raise
            if time.monotonic() > give_up:
                raise StoreFullError(
                    f"store {self._within} is full: other processes are writing as much as it may hold; "
                    "raise max_size"
                )
            time.sleep(0.005)

    def _open_full(self, path: str, nbytes: int) -> tuple[str, int]:
        partial, descriptor = local.open_partial(path)
        try:
            os.ftruncate(descriptor, nbytes)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:  # an interrupt, too, leaves nothing that takes room
            os.close(descriptor)
            os.unlink(partial)
            raise
        return partial, descriptor

    def _publish(self, partial: str, path: str, nbytes: int, create: bool) -> bool:
        # Under the lock: who counts the files meanwhile may miss both names, and who removes the one gives back room that the
        # other still takes.
        with self._locked() as ledger:
            if not create:
                before = 0
                with suppress(FileNotFoundError):
                    before = os.stat(path).st_size
                os.replace(partial, path)
                # After it, so that a process killed in between leaves too large a number, not too small a one.
                self._add(ledger, -before)
                return True
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in local.NO_LINKS:
                    raise
                if os.path.lexists(path):
                    return False
                os.replace(partial, path)
                return True
            os.unlink(partial)
        return True

    def _give_back(self, partial: str, nbytes: int) -> None:
        with self._locked() as ledger, suppress(FileNotFoundError):
            os.unlink(partial)
            self._add(ledger, -nbytes)

    def _make_room(self, ledger: int, nbytes: int) -> bool:
        scanned = False
        while self._read(ledger) + nbytes > self._max_size:
            if not self._oldest:
                if scanned:
                    return False
                self._scan(ledger)
                scanned = True
                continue
            oldest = self._oldest.pop()
            with suppress(FileNotFoundError):
                # One that was used since it was listed is not among the oldest any more; the next scan finds it.
                if _stamp(os.stat(oldest.path)) <= oldest.stamp_ns:
                    self._remove(ledger, oldest.path)
        return True

    def _scan(self, ledger: int) -> None:
        """Count what there is, and remove what killed processes left half written."""
        total = 0
        found = []
        inodes = set()
        for entry in _walk(self._within):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if entry.name == LEDGER or (status.st_dev, status.st_ino) in inodes:
                    continue
                if entry.name.endswith(local.PARTIAL):
                    if _is_abandoned(entry.path):
                        os.unlink(entry.path)
                        continue
                else:
                    found.append(_File(_stamp(status), entry.path))
                # One that is being published has two names for a moment.
                inodes.add((status.st_dev, status.st_ino))
                total += status.st_size
        found.sort(key=lambda file: -file.stamp_ns)
        self._oldest = found
        self._set(ledger, total)

    def _remove(self, ledger: int, path: str) -> None:
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        # After it, so that a process killed in between leaves too large a number, not too small a one.
        self._add(ledger, -size)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Lock the ledger, opened anew each time, so that threads and forked children exclude each other too."""
        path = f"{self._within}/{LEDGER}"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                os.makedirs(self._within, exist_ok=True)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_still(descriptor, path):
                    if not os.fstat(descriptor).st_size:
                        self._scan(descriptor)
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _read(self, ledger: int) -> int:
        return int(os.pread(ledger, _DIGITS, 0))

    def _add(self, ledger: int, nbytes: int) -> None:
        self._set(ledger, max(self._read(ledger) + nbytes, 0))

    def _set(self, ledger: int, total: int) -> None:
        os.pwrite(ledger, b"%0*d" % (_DIGITS, total), 0)


def _stamp(status: os.stat_result) -> int:
    return max(status.st_atime_ns, status.st_mtime_ns)


def _is_still(descriptor: int, path: str) -> bool:
    """Tell whether the locked file is the one of that name: somebody may have removed the whole directory."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_abandoned(path: str) -> bool:
    """Tell whether nobody is writing a file: whoever does holds a lock on it, which ends with the process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _walk(path: str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry


class MemoryTier:
    """A store in memory that holds at most so many bytes; the order of its dictionary is that of use.

    Parameters
    ----------
    store : zarr.storage.MemoryStore
        The store.
    max_size : int
        Bytes.
    """

    def __init__(self, store: MemoryStore, max_size: int) -> None:
        # Zarr has no public name for it.
        self._content = store._store_dict
        self._max_size = max_size

    def write(self, key: str, data: Buffer, *, create: bool) -> bool:
        """Put an object; with `create` only where there is none. Tell whether this call did."""
        buffer = default_buffer_prototype().buffer.from_bytes(bytes(data))
        with _memory_lock:
            if create and key in self._content:
                return False
            self._content.pop(key, None)
            total = sum(map(len, self._content.values()))
            for oldest in list(self._content):
                if total + len(buffer) <= self._max_size:
                    break
                total -= len(self._content.pop(oldest))
            self._content[key] = buffer
        return True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold what `touch` takes out for a moment."""
        with _memory_lock:
            yield

    def touch(self, key: str) -> None:
        """Note that an object was used."""
        with _memory_lock:
            found = self._content.pop(key, None)
            if found is not None:
                self._content[key] = found

    def delete(self, key: str) -> None:
        """Remove an object; one that is missing is no error."""
        with _memory_lock:
            self._content.pop(key, None)

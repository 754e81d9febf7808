"""Operations on local files: direct and synchronous, because an event loop would cost more than they do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Buffer
from itertools import count

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

__all__ = [
    "NO_LINKS",
    "PARTIAL",
    "create",
    "delete",
    "exists",
    "free_by_device",
    "get",
    "is_temporary",
    "list_dirs",
    "list_objects",
    "move",
    "put",
    "size",
]

PARTIAL = ".partial"
"""How names of files end that are being written."""

NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
"""What a file system answers that has no hard links."""


def get(path: str, byte_range: ByteRequest | None = None) -> bytes | None:
    """Read a file, or a part of it.

    Parameters
    ----------
    path : str
        The file.
    byte_range : ByteRequest, optional
        The part; bytes past the end are left out.

    Returns
    -------
    bytes or None
        None where there is no such file.

    Examples
    --------
    >>> get("/nowhere/at/all") is None
    True
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_regular) as file:
            if byte_range is None:
                return file.readall()
            size = os.fstat(file.fileno()).st_size
            start, end = _bounds(byte_range, size)
            file.seek(start)
            return _read(file.fileno(), max(end - start, 0))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _open_regular(path: str, flags: int) -> int:
    """Open a file, but wait for nobody: a FIFO or a device in its place would block for ever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file")
    return descriptor


def _bounds(byte_range: ByteRequest, size: int) -> tuple[int, int]:
    match byte_range:
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case OffsetByteRequest(offset):
            return offset, size
        case SuffixByteRequest(suffix):
            return max(size - suffix, 0), size


def _read(descriptor: int, length: int) -> bytes:
    data = os.read(descriptor, length)
    if len(data) == length:
        return data
    # One read gives at most 2 GiB, and less when a signal comes in between.
    parts = [data]
    while parts[-1]:
        length -= len(parts[-1])
        parts.append(os.read(descriptor, length))
    return b"".join(parts)


def create(path: str, data: Buffer) -> bool:
    """Write a file unless it is there; the first writer wins.

    Parameters
    ----------
    path : str
        The file. Its directory is made where missing.
    data : buffer
        The bytes.

    Returns
    -------
    bool
        Whether this call created it.

    Notes
    -----
    The file appears whole or not at all, also when the process is killed: it is written under another name in
    the same directory and linked. A power cut may lose or tear it (nothing waits for the disk); its checksum
    tells.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "a")
    >>> create(path, b"first"), create(path, b"second"), get(path)
    (True, False, b'first')
    """
    if os.path.lexists(path):
        return False
    partial = _write_partial(path, data)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A file system without hard links: still whole or not at all, but of two writers the last may win.
        if os.path.lexists(path):
            return False
        os.replace(partial, path)
        return True
    finally:
        _remove(partial)
    return True


def put(path: str, data: Buffer) -> None:
    """Write a file, in place of one that may be there; it appears whole or not at all.

    Parameters
    ----------
    path : str
        The file. Its directory is made where missing.
    data : buffer
        The bytes.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "directory", "a")
    >>> put(path, b"first"); put(path, b"second"); get(path)
    b'second'
    """
    partial = _write_partial(path, data)
    try:
        os.replace(partial, path)
    except OSError:
        _remove(partial)
        raise


def _write_partial(path: str, data: Buffer) -> str:
    partial, descriptor = open_partial(path)
    try:
        try:
            write_all(descriptor, data)
        finally:
            # Network file systems report a full disk only here.
            os.close(descriptor)
    except BaseException:  # an interrupt, too, leaves nothing half written
        _remove(partial)
        raise
    return partial


def open_partial(path: str) -> tuple[str, int]:
    """Open a new file beside one that is to be written.

    Parameters
    ----------
    path : str
        The file that it shall become. Its directory is made where missing.

    Returns
    -------
    tuple of str and int
        The new file's path and descriptor.
    """
    partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
    return partial, _open_new(partial)


def _open_new(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def write_all(descriptor: int, data: Buffer) -> None:
    """Write all of some bytes.

    Parameters
    ----------
    descriptor : int
        An open file.
    data : buffer
        The bytes.
    """
    with memoryview(data) as view, view.cast("B") as rest:
        written = 0
        while written < len(rest):
            # A disk that fills up writes a part first and fails at the next call.
            written += os.write(descriptor, rest[written:])


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def exists(path: str) -> bool:
    """Tell whether a file is there.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    bool
        False also for directories.

    Examples
    --------
    >>> exists("/")
    False
    """
    return os.path.isfile(path)


def list_objects(path: str) -> dict[str, tuple[int, float | None]]:
    """List the files of a directory, those that are being written too.

    Parameters
    ----------
    path : str
        The directory; one that is missing has no files.

    Returns
    -------
    dict of str to tuple
        By name the size in bytes, and when it was written, in seconds since 1970.

    Examples
    --------
    >>> list_objects("/nowhere/at/all")
    {}
    """
    found: dict[str, tuple[int, float | None]] = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        status = entry.stat()
                        found[entry.name] = status.st_size, status.st_mtime
                except FileNotFoundError:
                    continue  # deleted since the directory was read
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def is_temporary(name: str) -> bool:
    """Tell whether a name is one that a writer uses until it is done.

    Parameters
    ----------
    name : str
        The last segment of a key.

    Returns
    -------
    bool
        True for our own, Zarr's and obstore's.

    Examples
    --------
    >>> is_temporary("ab.0123.partial"), is_temporary("ab#1"), is_temporary("ab")
    (True, True, False)
    """
    return name.endswith(PARTIAL) or "#" in name


def size(path: str) -> int | None:
    """Tell how large a file is.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    int or None
        Bytes; None where there is no such file.

    Examples
    --------
    >>> size("/nowhere/at/all") is None
    True
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def list_dirs(path: str) -> list[str]:
    """List the directories of a directory.

    Parameters
    ----------
    path : str
        The directory; one that is missing has none.

    Returns
    -------
    list of str
        Names, sorted.

    Examples
    --------
    >>> list_dirs("/nowhere/at/all")
    []
    """
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def delete(path: str) -> None:
    """Remove a file; one that is missing is no error.

    Parameters
    ----------
    path : str
        The file.

    Examples
    --------
    >>> delete("/nowhere/at/all")
    """
    try:
        _remove(path)
    except NotADirectoryError:
        return


def move(path: str, target: str) -> str | None:
    """Give a file another name, the first of ``target.0``, ``target.1``, … that is free.

    Parameters
    ----------
    path : str
        The file.
    target : str
        The new name, but for the number. Its directory is made where missing.

    Returns
    -------
    str or None
        The new name; None where the file is gone.

    Examples
    --------
    >>> move("/nowhere/at/all", "/nowhere/else") is None
    True
    """
    if not exists(path):
        return None
    os.makedirs(os.path.dirname(target), exist_ok=True)
    free = next(name for name in (f"{target}.{n}" for n in count()) if not os.path.lexists(name))
    try:
        os.rename(path, free)
    except FileNotFoundError:
        return None  # another process moved it first
    return free


def free_by_device(path: str) -> dict[int, int] | None:
    """Tell how much room is left.

    Parameters
    ----------
    path : str
        A directory, which need not exist yet.

    Returns
    -------
    dict of int to int or None
        By the device's number the bytes that an unprivileged user may still write; None where no parent can be asked.

    Examples
    --------
    >>> sum(free_by_device("/nowhere/at/all").values()) > 0
    True
    """
    path = os.path.abspath(path)
    while True:
        try:
            return {os.stat(path).st_dev: shutil.disk_usage(path).free}
        except (FileNotFoundError, NotADirectoryError):
            parent = os.path.dirname(path)
            if parent == path:
                return None
            path = parent

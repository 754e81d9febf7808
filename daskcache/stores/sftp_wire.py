"""SFTP over one channel: requests that are sent ahead, and their answers."""

from __future__ import annotations

import errno
import itertools
import stat
import struct
from collections import deque
from collections.abc import Buffer, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Attributes", "Refused", "Wire"]

# Version 3 of the protocol, which all servers speak: draft-ietf-secsh-filexfer-02.
_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _READ, _WRITE = 3, 4, 5, 6
_FSTAT, _OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _STAT, _RENAME = 8, 11, 12, 13, 14, 15, 17, 18
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105
_EXTENDED, _EXTENDED_REPLY = 200, 201

_TO_READ, _TO_WRITE_NEW = 0x01, 0x02 | 0x08 | 0x20
_OK, _EOF, _MISSING, _DENIED, _UNSUPPORTED = 0, 1, 2, 3, 8
_CODES = {_MISSING: errno.ENOENT, _DENIED: errno.EACCES, _UNSUPPORTED: errno.ENOTSUP}

_POSIX_RENAME = "posix-rename@openssh.com"
_HARD_LINK = "hardlink@openssh.com"
_LIMITS = "limits@openssh.com"
_SPACE = "statvfs@openssh.com"

# What each server takes at once, and how much is asked for ahead.
_PIECE = 32768
_LONGEST_PIECE = 255 * 1024
_LONGEST_PACKET = 1 << 24
_AHEAD = 64
_RECEIVED = 1 << 18


class Refused(OSError):  # noqa: N818  (an answer more than an error)
    """What a server answers that will not do something; the connection is as good as before."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a server tells of a file."""

    size: int | None
    """Bytes."""
    mode: int | None
    """Kind and permissions, as `os.stat` has them."""
    written: float | None
    """When it was written last, in whole seconds since 1970 by the server's clock."""

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.mode is None or stat.S_ISREG(self.mode)


class Wire:
    """One SFTP session. Of one thread at a time.

    Parameters
    ----------
    channel : paramiko.Channel
        An open channel to the subsystem ``sftp``.

    Raises
    ------
    EOFError
        The server hung up; so does each method, and a `Refused` is what the server answered.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._received = bytearray()
        self._numbers = itertools.count(1)
        self._answers: dict[int, tuple[int, memoryview]] = {}
        self._send_packet(_INIT, struct.pack(">I", 3))
        kind, body = self._receive()
        if kind != _VERSION:
            raise EOFError("the server speaks no SFTP")
        self._extensions = {bytes(one).decode("ascii", "replace") for one in _strings(body, 4)[::2]}
        self._piece = self._ask_piece() if _LIMITS in self._extensions else _PIECE

    @property
    def renames_over(self) -> bool:
        """Whether a file can be renamed onto another in one step."""
        return _POSIX_RENAME in self._extensions

    @property
    def links(self) -> bool:
        """Whether there are hard links."""
        return _HARD_LINK in self._extensions

    def read(
        self, path: str, start: int = 0, length: int | None = None, *, last: bool = False
    ) -> bytes | None:
        """Read a file, or a part of it.

        Parameters
        ----------
        path : str
            The file.
        start : int, optional
            Where.
        length : int, optional
            How many bytes at most; by default all.
        last : bool, optional
            Whether `length` counts from the end.

        Returns
        -------
        bytes or None
            None where there is no such file.
        """
        try:
            handle = self._handle(self._send(_OPEN, _text(path), struct.pack(">II", _TO_READ, 0)))
        except FileNotFoundError:
            return None
        told = self._send(_FSTAT, handle)
        try:
            found = self._attributes(told)
            if not found.is_file:
                return None
            size = found.size or 0
            if last:
                start = max(size - (length or 0), 0)
            end = size if length is None or last else min(start + length, size)
            return self._read(handle, start, max(end - start, 0))
        finally:
            self._status(self._send(_CLOSE, handle))

    def _read(self, handle: bytes, start: int, length: int) -> bytes:
        wanted = deque((at, min(self._piece, length - at)) for at in range(0, length, self._piece))
        asked: deque[tuple[int, int, int]] = deque()
        found = bytearray(length)
        end = length
        while wanted or asked:
            while wanted and len(asked) < _AHEAD:
                at, count = wanted.popleft()
                asked.append((self._send(_READ, handle, struct.pack(">QI", start + at, count)), at, count))
            number, at, count = asked.popleft()
            kind, body = self._answer(number)
            if kind == _DATA:
                (data,) = _strings(body, 0)
                found[at : at + len(data)] = data
                if 0 < len(data) < count:
                    wanted.appendleft((at + len(data), count - len(data)))
                    continue
                if data:
                    continue
            elif kind != _STATUS or _code(body) != _EOF:
                self._refuse(kind, body)
            end = min(end, at)  # somebody cut it off
        return bytes(found) if end == length else bytes(found[:end])

    def open_new(self, path: str) -> bytes:
        """Open a file to write that is not there yet, and give its handle."""
        return self._handle(self._send(_OPEN, _text(path), struct.pack(">II", _TO_WRITE_NEW, 0)))

    def write(self, handle: bytes, data: Buffer) -> None:
        """Write all of a file and close it."""
        asked: deque[int] = deque()
        with memoryview(data) as view, view.cast("B") as rest:
            try:
                for at in range(0, len(rest), self._piece):
                    if len(asked) >= _AHEAD:
                        self._status(asked.popleft())
                    piece = rest[at : at + self._piece]
                    asked.append(self._send(_WRITE, handle, struct.pack(">QI", at, len(piece)), piece))
                while asked:
                    self._status(asked.popleft())
            except Refused:
                for number in asked:
                    self._answer(number)
                self._answer(self._send(_CLOSE, handle))
                raise
        self._status(self._send(_CLOSE, handle))

    def link(self, path: str, target: str) -> bool:
        """Give a file another name, and take its own from it; tell whether that other name was free."""
        linked = self._send(_EXTENDED, _text(_HARD_LINK), _text(path), _text(target))
        removed = self._send(_REMOVE, _text(path))
        try:
            self._status(linked)
        except Refused as error:
            self._answer(removed)
            if error.errno == errno.EIO and self.look(target) is not None:
                return False
            raise
        self._status(removed)
        return True

    def rename(self, path: str, target: str, *, over: bool = False) -> None:
        """Rename a file, in one step onto one that may be there, or as the server takes it."""
        if over:
            self._status(self._send(_EXTENDED, _text(_POSIX_RENAME), _text(path), _text(target)))
        else:
            self._status(self._send(_RENAME, _text(path), _text(target)))

    def look(self, path: str) -> Attributes | None:
        """See what is there; None where there is nothing."""
        try:
            return self._attributes(self._send(_STAT, _text(path)))
        except FileNotFoundError:
            return None

    def look_all(self, paths: list[str]) -> Iterator[Attributes | None]:
        """See what is at many places."""
        for some in itertools.batched(paths, _AHEAD):
            for number in [self._send(_STAT, _text(path)) for path in some]:
                try:
                    yield self._attributes(number)
                except FileNotFoundError:
                    yield None

    def remove(self, paths: list[str]) -> None:
        """Remove files; those that are missing are no error."""
        for some in itertools.batched(paths, _AHEAD):
            for number in [self._send(_REMOVE, _text(path)) for path in some]:
                try:
                    self._status(number)
                except FileNotFoundError:
                    continue

    def make_dir(self, path: str) -> None:
        """Make a directory."""
        self._status(self._send(_MKDIR, _text(path), struct.pack(">I", 0)))

    def remove_dir(self, path: str) -> None:
        """Remove an empty directory."""
        self._status(self._send(_RMDIR, _text(path)))

    def list(self, path: str) -> dict[str, Attributes]:
        """List a directory; one that is missing has nothing in it."""
        try:
            handle = self._handle(self._send(_OPENDIR, _text(path)))
        except FileNotFoundError:
            return {}
        found: dict[str, Attributes] = {}
        asked: deque[int] = deque()
        is_done = False
        try:
            while asked or not is_done:
                while not is_done and len(asked) < 8:
                    asked.append(self._send(_READDIR, handle))
                kind, body = self._answer(asked.popleft())
                if kind == _NAME:
                    found.update(_names(body))
                elif kind == _STATUS and _code(body) == _EOF:
                    is_done = True
                else:
                    self._refuse(kind, body)
        finally:
            for number in asked:
                self._answer(number)
            self._status(self._send(_CLOSE, handle))
        return found

    def free_bytes(self, path: str) -> int | None:
        """Tell how much room is left for users; None where the server does not tell."""
        if _SPACE not in self._extensions:
            return None
        kind, body = self._answer(self._send(_EXTENDED, _text(_SPACE), _text(path)))
        if kind != _EXTENDED_REPLY:
            return None
        _, unit, _, _, available = struct.unpack_from(">5Q", body)
        return int(unit * available)

    def _ask_piece(self) -> int:
        kind, body = self._answer(self._send(_EXTENDED, _text(_LIMITS)))
        if kind != _EXTENDED_REPLY:
            return _PIECE
        _, read, written, _ = struct.unpack_from(">4Q", body)
        return int(min(read or _PIECE, written or _PIECE, _LONGEST_PIECE))

    # Packets

    def _send(self, kind: int, *parts: Buffer) -> int:
        number = next(self._numbers)
        # A handle is sent as a string, other parts as they are.
        self._send_packet(kind, struct.pack(">I", number), *parts)
        return number

    def _send_packet(self, kind: int, *parts: Buffer) -> None:
        body = b"".join(parts)
        packet = memoryview(b"".join((struct.pack(">IB", len(body) + 1, kind), body)))
        while packet:
            sent = self._channel.send(packet)
            if not sent:
                raise EOFError("the connection was closed")
            packet = packet[sent:]

    def _answer(self, number: int) -> tuple[int, memoryview]:
        while number not in self._answers:
            kind, body = self._receive()
            self._answers[struct.unpack_from(">I", body)[0]] = kind, body[4:]
        return self._answers.pop(number)

    def _receive(self) -> tuple[int, memoryview]:
        buffer = self._received
        self._fill(5)
        (length,) = struct.unpack_from(">I", buffer)
        if not 1 <= length <= _LONGEST_PACKET:
            raise EOFError("the server sent what is no SFTP")
        self._fill(4 + length)
        packet = bytes(memoryview(buffer)[4 : 4 + length])
        del buffer[: 4 + length]
        return packet[0], memoryview(packet)[1:]

    def _fill(self, count: int) -> None:
        while len(self._received) < count:
            data = self._channel.recv(_RECEIVED)
            if not data:
                raise EOFError("the connection was closed")
            self._received += data

    # Answers

    def _handle(self, number: int) -> bytes:
        kind, body = self._answer(number)
        if kind != _HANDLE:
            self._refuse(kind, body)
        return bytes(body)  # its length in front, as it is sent

    def _attributes(self, number: int) -> Attributes:
        kind, body = self._answer(number)
        if kind != _ATTRS:
            self._refuse(kind, body)
        return _read_attributes(body, 0)[0]

    def _status(self, number: int) -> None:
        kind, body = self._answer(number)
        if kind != _STATUS or _code(body) != _OK:
            self._refuse(kind, body)

    @staticmethod
    def _refuse(kind: int, body: memoryview) -> None:
        if kind != _STATUS:
            raise EOFError(f"the server sent an answer of the kind {kind} that was not asked for")
        code = _code(body)
        text = bytes(_strings(body, 4)[0]).decode("utf-8", "replace") if len(body) > 4 else f"code {code}"
        if code == _MISSING:
            raise FileNotFoundError(errno.ENOENT, text)
        raise Refused(_CODES.get(code, errno.EIO), text)


def _code(body: memoryview) -> int:
    return int(struct.unpack_from(">I", body)[0])


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack(">I", len(data)) + data


def _strings(body: memoryview, at: int) -> list[memoryview]:
    found = []
    while at < len(body):
        (length,) = struct.unpack_from(">I", body, at)
        found.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _names(body: memoryview) -> Iterator[tuple[str, Attributes]]:
    (count,) = struct.unpack_from(">I", body)
    at = 4
    for _ in range(count):
        (length,) = struct.unpack_from(">I", body, at)
        name = bytes(body[at + 4 : at + 4 + length]).decode("utf-8", "surrogateescape")
        at += 4 + length
        (length,) = struct.unpack_from(">I", body, at)  # the same for people to read
        attributes, at = _read_attributes(body, at + 4 + length)
        if name not in (".", ".."):
            yield name, attributes


def _read_attributes(body: memoryview, at: int) -> tuple[Attributes, int]:
    (flags,) = struct.unpack_from(">I", body, at)
    at += 4
    size = mode = written = None
    if flags & 1:
        (size,) = struct.unpack_from(">Q", body, at)
        at += 8
    if flags & 2:
        at += 8
    if flags & 4:
        (mode,) = struct.unpack_from(">I", body, at)
        at += 4
    if flags & 8:
        written = float(struct.unpack_from(">II", body, at)[1])
        at += 8
    if flags & 0x80000000:
        (count,) = struct.unpack_from(">I", body, at)
        at += 4
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">I", body, at)
            at += 4 + length
    return Attributes(size, mode, written), at

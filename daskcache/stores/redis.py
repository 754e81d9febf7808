"""Stores in Redis: an object is a string, behind the time at which it was written."""

from __future__ import annotations

import itertools
import os
import re
import struct
import time
from collections.abc import Buffer, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from daskcache.errors import InvalidInputError, MissingExtraError, StoreError, StoreFullError
from daskcache.stores.composed import later
from daskcache.stores.driven import Listed
from daskcache.stores.faults import redact
from daskcache.stores.keys import check_inside
from daskcache.stores.served import Served

__all__ = ["RedisStore"]

# In front of each object: whose it is, microseconds since 1970 by the server's clock, and a number of the put's own.
_HEAD = struct.Struct(">4sQ8s")
_MAGIC = b"dkc\x01"
_START = _HEAD.size

# The longest string that Redis takes unless it is configured otherwise, and the least that may be configured.
_LONGEST = 512 * 1024 * 1024
_LEAST = 1024 * 1024
_SCANNED = 2000
_PIPELINED = 500
# Seconds after which the server's clock is looked at again.
_TRUSTED_S = 60.0
_DEFAULTS: dict[str, Any] = {
    "socket_timeout": 60.0,
    "socket_connect_timeout": 10.0,
    "socket_keepalive": True,
    "max_connections": 1000,
}
_SOCKET = re.compile(r"(?P<path>/.*?\.(?:sock|socket))(?P<prefix>/.*)?\Z")
_SPECIAL = re.compile(rb"([\\*?\[\]^-])")


class RedisStore(Served):
    """A store in a Redis database.

    Parameters
    ----------
    url : str
        ``redis://host:port/database/prefix``, ``rediss://…`` over TLS, or ``unix:///path/to/redis.sock/prefix?db=0``.
    options : mapping, optional
        redis-py's, such as ``username``, ``password``, ``socket_timeout``, ``ssl_ca_certs``.
    read_only : bool, optional
        Whether writes are refused.

    Raises
    ------
    MissingExtraError
        redis-py is not installed.
    InvalidInputError
        The URL has no such form, or redis-py knows no such option.

    Notes
    -----
    Each string begins with 20 bytes that say when it was written by the server's clock; Redis itself keeps no such time.
    An object is put by one ``SET``, created by one ``SET … NX``, so it is there whole or not at all.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, read_only: bool = False
    ) -> None:
        super().__init__(url, options, read_only=read_only)
        server, prefix = _split(self._given.url)
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _connect(server, self._given.options)
        self._clock = _Clock(self._client)
        self._longest: int | None = None

    def takes(self, nbytes: int) -> bool:
        """Tell whether an object of so many bytes is within what the server takes."""
        if nbytes + _START <= _LEAST:
            return True
        if self._longest is None:
            self._longest = self._ask_longest()
        return nbytes + _START <= (self._longest or _LONGEST)

    def _ask_longest(self) -> int | None:
        from redis.exceptions import RedisError

        try:
            return int(self._client.config_get("proto-max-bulk-len")["proto-max-bulk-len"])
        except (RedisError, KeyError):
            return (
                None  # many servers do not tell, and what else is wrong with them shows when they are written
            )

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[ZarrBuffer | None]:
        """Read parts of objects, many with one request."""
        asked = [(check_inside(key), part) for key, part in key_ranges]
        found = await later(self._read_parts, asked)
        return [None if data is None else prototype.buffer.from_bytes(data) for data in found]

    def _read_parts(self, asked: list[tuple[str, ByteRequest | None]]) -> list[bytes | None]:
        found: list[bytes | None] = []
        with self._telling("read parts of objects"):
            for some in itertools.batched(asked, _PIPELINED):
                pipeline = self._client.pipeline(transaction=False)
                for key, part in some:
                    pipeline.getrange(self._name(key), *_bounds(part))
                answers: list[bytes] = pipeline.execute()
                for (key, part), data in zip(some, answers, strict=True):
                    found.append(self._cut(key, part, data))
        return found

    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if byte_range is None:
            data = self._client.get(self._name(key))
            return None if data is None else self._cut(key, None, data)
        return self._cut(key, byte_range, self._client.getrange(self._name(key), *_bounds(byte_range)))

    def _cut(self, key: str, byte_range: ByteRequest | None, data: bytes) -> bytes | None:
        """Give what of an answer is the object's."""
        if byte_range is None or isinstance(byte_range, SuffixByteRequest):
            # Both begin at the head or behind it: a suffix is asked for with as much more.
            if not data:
                return None
            if byte_range is None:
                self._check_head(key, data)
            return data[_START:]
        # Nothing is also what lies behind the end.
        return data if data or self._client.exists(self._name(key)) else None

    def _check_head(self, key: str, data: bytes) -> None:
        if len(data) < _START or not data.startswith(_MAGIC):
            raise StoreError(
                f"{key} in store {self._shown} was put there by another program; name a database or prefix of its own"
            )

    def _put(self, key: str, data: Buffer) -> None:
        self._client.set(self._name(key), self._framed(key, data))

    def _create(self, key: str, data: Buffer) -> bool:
        name, value = self._name(key), self._framed(key, data)
        if self._client.set(name, value, nx=True):
            return True
        # Where an answer was lost, the client asked again, and found what it had put itself.
        return bool(self._client.getrange(name, 0, _START - 1) == value[:_START])

    def _framed(self, key: str, data: Buffer) -> bytes:
        nbytes = memoryview(data).nbytes
        if not self.takes(nbytes):
            raise StoreFullError(
                f"store {self._shown} takes objects of up to {(self._longest or _LONGEST) - _START} bytes, and {key} has "
                f"{nbytes}; make smaller blocks, raise the server's proto-max-bulk-len, or put it into a level behind this one"
            )
        head = _HEAD.pack(_MAGIC, int(self._clock.now() * 1e6), os.urandom(8))
        return b"".join((head, data))

    def _size(self, key: str) -> int | None:
        length = int(self._client.strlen(self._name(key)))
        return max(length - _START, 0) if length else None

    def has_object(self, key: str) -> bool:
        """Tell whether an object is there."""
        with self._telling(f"look for {key}"):
            return bool(self._client.exists(self._name(key)))

    def _delete(self, keys: Iterable[str]) -> None:
        for some in itertools.batched(keys, _PIPELINED):
            self._client.unlink(*map(self._name, some))

    def _list_objects(self, prefix: str) -> Listed:
        where = f"{prefix}/" if prefix else ""
        names = [key.removeprefix(where) for key in self._walk(where)]
        listed: Listed = {}
        for some in itertools.batched((name for name in names if "/" not in name), _PIPELINED):
            pipeline = self._client.pipeline(transaction=False)
            for name in some:
                pipeline.strlen(self._name(where + name))
                pipeline.getrange(self._name(where + name), 0, _START - 1)
            answers = pipeline.execute()
            for name, length, head in zip(some, answers[::2], answers[1::2], strict=True):
                if length:
                    listed[name] = max(length - _START, 0), _written(head)
        return listed

    def _list_dirs(self, prefix: str) -> Iterable[str]:
        where = f"{prefix}/" if prefix else ""
        below = (key.removeprefix(where) for key in self._walk(where))
        return {key.partition("/")[0] for key in below if "/" in key}

    def _walk(self, prefix: str) -> Iterator[str]:
        pattern = _SPECIAL.sub(rb"\\\1", self._name(prefix)) + b"*"
        skipped = len(self._prefix)
        # A key is there once and may be told of twice, while the server moves its table.
        found = dict.fromkeys(self._client.scan_iter(match=pattern, count=_SCANNED))
        yield from (name.decode("utf-8", "surrogateescape")[skipped:] for name in found)

    def _stamps(self, keys: list[str]) -> list[tuple[Any, ...] | None]:
        stamps: list[tuple[Any, ...] | None] = []
        for some in itertools.batched(keys, _PIPELINED):
            pipeline = self._client.pipeline(transaction=False)
            for key in some:
                pipeline.getrange(self._name(key), 0, _START - 1)
                pipeline.strlen(self._name(key))
            answers = pipeline.execute()
            for key, head, length in zip(some, answers[::2], answers[1::2], strict=True):
                if head:
                    self._check_head(key, head)
                stamps.append((length - _START, head.hex()) if head else None)
        return stamps

    def _name(self, key: str) -> bytes:
        return (self._prefix + key).encode("utf-8", "surrogateescape")


class _Clock:
    """The server's clock, asked for once in a while."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: tuple[float, float, float] | None = None

    def now(self) -> float:
        """Tell the time in seconds since 1970."""
        seen, here, wall = self._seen, time.monotonic(), time.time()
        # A machine that slept, or whose clock was set, has a gap between the two.
        if seen is None or here - seen[1] > _TRUSTED_S or abs((wall - seen[2]) - (here - seen[1])) > 1.0:
            seconds, microseconds = self._client.time()
            seen = self._seen = seconds + microseconds / 1e6, time.monotonic(), time.time()
            return seen[0]
        return seen[0] + here - seen[1]


def _bounds(byte_range: ByteRequest | None) -> tuple[int, int]:
    """Give the first and last byte of what is asked for, as Redis counts them in the framed string."""
    match byte_range:
        case None:
            return 0, -1
        case RangeByteRequest(start, end) if end <= start:
            return 1, 0
        case RangeByteRequest(start, end):
            return _START + start, _START + end - 1
        case OffsetByteRequest(offset):
            return _START + offset, -1
        case SuffixByteRequest(suffix):
            return -(suffix + _START), -1


def _written(head: bytes) -> float | None:
    if len(head) < _START or not head.startswith(_MAGIC):
        return None
    return float(_HEAD.unpack(head)[1]) / 1e6


def _split(url: str) -> tuple[str, str]:
    """Give the URL that redis-py takes, and the prefix of the keys."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        found = _SOCKET.match(parts.path)
        if found is None:
            raise InvalidInputError(
                f"store {redact(url)} names no socket; expected unix:///path/to/redis.sock/prefix?db=0"
            )
        path, prefix = found["path"], found["prefix"] or ""
    else:
        first, _, rest = parts.path.strip("/").partition("/")
        is_database = first.isdecimal() and "db=" not in parts.query
        path, prefix = (f"/{first}", rest) if is_database else ("", parts.path)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{path}{query}", unquote(prefix.strip("/"))


def _connect(url: str, options: Mapping[str, Any]) -> Any:
    try:
        import redis
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise MissingExtraError(
            f"store {redact(url)} needs redis-py, which is not installed; install daskcache[redis]"
        ) from error
    defaults = (
        _DEFAULTS if urlsplit(url).scheme != "unix" else {"max_connections": _DEFAULTS["max_connections"]}
    )
    given = {**defaults, **options}
    try:
        retry = Retry(ExponentialBackoff(cap=2.0, base=0.05), 5)
        cut = [redis.ConnectionError, redis.TimeoutError]
        pool = redis.ConnectionPool.from_url(url, retry=retry, retry_on_error=cut, **given)
        if pool.connection_kwargs.get("decode_responses"):
            raise ValueError("objects are bytes: leave decode_responses out")
        pool.make_connection()
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(f"redis-py cannot open {redact(url)}: {redact(str(error))}") from None
    return redis.Redis(connection_pool=pool)

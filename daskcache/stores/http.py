"""Stores that web servers serve, to read."""

from __future__ import annotations

import os
import time
from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from daskcache.errors import InvalidInputError, MissingExtraError, StoreError, UncacheableError
from daskcache.stores.drive import check_writable
from daskcache.stores.driven import Listed
from daskcache.stores.faults import redact
from daskcache.stores.http_index import Entry, parse_index
from daskcache.stores.local import is_temporary
from daskcache.stores.served import Served

__all__ = ["HttpStore"]

_OPTIONS: dict[str, Any] = {
    "headers": None,
    "username": None,
    "password": None,
    "timeout": 60.0,
    "connect_timeout": 10.0,
    "retries": 4,
    "ca_certs": None,
}
_REDIRECTS = 5
_DEEPEST = 64
_BACKOFF_S = 0.1
_WIDTH = 16
_MISSING = frozenset({404, 410})
_MOVED = frozenset({301, 302, 303, 307, 308})
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpStore(Served):
    """A directory that a web server serves, to read.

    Parameters
    ----------
    url : str
        ``http://…`` or ``https://…``; a query is sent with each request.
    options : mapping, optional
        ``headers``, ``username`` and ``password``, ``timeout``, ``connect_timeout``, ``retries``, ``ca_certs``.
    read_only : bool, optional
        True is what it is in any case.

    Raises
    ------
    MissingExtraError
        urllib3 is not installed.
    InvalidInputError
        An option is unknown, or the URL names no host.

    Notes
    -----
    What is listed has to be listed by the server: nginx with ``autoindex on``, best with ``autoindex_format json``. A
    server that knows nothing of ranges sends whole objects, of which the part is taken here.
    """

    supports_writes: bool = False
    supports_deletes: bool = False

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, *, read_only: bool = True) -> None:
        super().__init__(url, options, read_only=True)
        given = self._given.take(_OPTIONS)
        parts = urlsplit(self._given.url)
        if not parts.hostname:
            raise InvalidInputError(f"store {self._shown} names no host; expected http://host/path")
        netloc = parts.netloc.rpartition("@")[2]
        self._base = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") + "/", "", ""))
        self._requests = _Requests(
            self._base, given, unquote(parts.username or "") or given["username"],
            unquote(parts.password or "") or given["password"], parts.query,
        )  # fmt: skip

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same store; there is none that takes writes."""
        if not read_only:
            raise NotImplementedError(f"with_read_only is not implemented for the {type(self)} store type.")
        return super().with_read_only(read_only=True)

    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        url = self._url(key)
        match byte_range:
            case None:
                answer = self._requests.get(url)
                return None if answer is None else answer.data
            case RangeByteRequest(start, end) if end > start:
                return self._get_part(url, f"{start}-{end - 1}", slice(start, end))
            case OffsetByteRequest(offset):
                return self._get_part(url, f"{offset}-", slice(offset, None))
            case SuffixByteRequest(suffix) if suffix > 0:
                return self._get_part(url, f"-{suffix}", slice(-suffix, None))
        return None if self._size(key) is None else b""

    def _get_part(self, url: str, asked: str, part: slice) -> bytes | None:
        answer = self._requests.get(url, {"Range": f"bytes={asked}"})
        if answer is None:
            return None
        if answer.status == 416:
            return b""  # it ends before
        if answer.status == 206:
            first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if part.start >= 0 and first != str(part.start):
                raise StoreError(
                    f"{redact(url)} was asked for bytes {asked}, and the server sent those from {first!r}"
                )
            return answer.data
        return answer.data[part]

    def _size(self, key: str) -> int | None:
        answer = self._requests.head(self._url(key))
        if answer is None:
            return None
        length = answer.headers.get("Content-Length")
        if length is None:
            whole = self._get(key, None)
            return None if whole is None else len(whole)
        return int(length)

    def _create(self, key: str, data: Buffer) -> bool:
        check_writable(self)
        return False

    def _put(self, key: str, data: Buffer) -> None:
        check_writable(self)

    def _delete(self, keys: Iterable[str]) -> None:
        check_writable(self)

    def _list_objects(self, prefix: str) -> Listed:
        listed: Listed = {}
        unknown = []
        for entry in self._list(prefix):
            if entry.is_dir:
                continue
            if entry.size is None:
                unknown.append(entry)
            else:
                listed[entry.name] = entry.size, entry.written
        where = f"{prefix}/" if prefix else ""
        sizes = _at_once(lambda entry: self._size(where + entry.name), unknown)
        listed |= {
            entry.name: (size, entry.written)
            for entry, size in zip(unknown, sizes, strict=True)
            if size is not None
        }
        return listed

    def _list_dirs(self, prefix: str) -> Iterable[str]:
        return [entry.name for entry in self._list(prefix) if entry.is_dir]

    def _walk(self, prefix: str) -> Iterator[str]:
        left = [prefix.rpartition("/")[0]]
        while left:
            here = left.pop()
            if here.count("/") > _DEEPEST:
                # A server that answers each path with one listing would be walked for ever.
                raise StoreError(
                    f"the directories that the server lists lie more than {_DEEPEST} deep in each other"
                )
            for entry in sorted(self._list(here)):
                key = f"{here}/{entry.name}" if here else entry.name
                if entry.is_dir:
                    if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                        left.append(key)
                elif key.startswith(prefix) and not is_temporary(entry.name):
                    yield key

    def _list(self, prefix: str) -> list[Entry]:
        url = self._url(prefix).rstrip("/") + "/"
        answer = self._requests.get(url)
        if answer is None:
            return []
        found = parse_index(answer.data, answer.headers.get("Content-Type", ""))
        if found is None:
            raise StoreError(
                f"the server answers {redact(url)} with a page that is no listing; let it list its directories, as nginx does "
                "with `autoindex on`"
            )
        return found

    def _stamps(self, keys: list[str]) -> list[tuple[Any, ...] | None]:
        return _at_once(self._stamp, keys)

    def _stamp(self, key: str) -> tuple[Any, ...] | None:
        answer = self._requests.head(self._url(key))
        if answer is None:
            return None
        tag, length = answer.headers.get("ETag"), answer.headers.get("Content-Length")
        if not tag or length is None:
            raise UncacheableError(
                f"{key} in {self._shown} has no ETag or no length, so that a change of it would not be seen"
            )
        return int(length), tag

    def _url(self, key: str) -> str:
        return self._base + quote(key, safe="/!$&'()*+,;=:@~", errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    """Of HTTP."""
    headers: Mapping[str, str]
    """Without regard to case."""
    data: bytes
    """The whole body."""


class _Requests:
    """Requests to one server, each tried again where that may help."""

    def __init__(
        self, base: str, given: Mapping[str, Any], username: str | None, password: str | None, query: str
    ) -> None:
        try:
            import urllib3
        except ImportError as error:
            raise MissingExtraError(
                f"store {redact(base)} needs urllib3, which is not installed; install daskcache[http]"
            ) from error
        self._urllib3 = urllib3
        self._base, self._query = base, query
        self._attempts = 1 + int(given["retries"])
        self._timeout = urllib3.Timeout(connect=float(given["connect_timeout"]), read=float(given["timeout"]))
        self._ca_certs = given["ca_certs"]
        self._headers = {"Accept-Encoding": "identity", **(given["headers"] or {})}
        if username:
            self._headers |= urllib3.make_headers(basic_auth=f"{username}:{password or ''}")
        self._connect()

    def _connect(self) -> None:
        self._pid = os.getpid()
        parts = urlsplit(self._base)
        options: dict[str, Any] = {"maxsize": 64, "retries": False, "timeout": self._timeout}
        if self._ca_certs is not None:
            options["ca_certs"] = self._ca_certs
        proxy = getproxies().get(parts.scheme)
        if proxy and not proxy_bypass(parts.netloc):
            self._pool: Any = self._urllib3.ProxyManager(proxy, **options)
        else:
            self._pool = self._urllib3.PoolManager(**options)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> _Answer | None:
        """Ask for an object; None where there is none."""
        return self._ask("GET", url, headers or {})

    def head(self, url: str) -> _Answer | None:
        """Ask what an object is like; None where there is none."""
        answer = self._ask("HEAD", url, {})
        if answer is not None and answer.status in (405, 501):
            return self._ask("GET", url, {})
        return answer

    def _ask(self, method: str, url: str, headers: Mapping[str, str]) -> _Answer | None:
        errors = self._urllib3.exceptions
        for attempt in range(self._attempts):
            is_last = attempt == self._attempts - 1
            try:
                answer = self._follow(method, url, headers)
            except (errors.HTTPError, OSError) as error:
                if is_last or isinstance(error, errors.SSLError | errors.LocationValueError):
                    raise ConnectionError(self._tell(error)) from None
            else:
                if answer is None or answer.status < 300 or answer.status == 416:
                    return answer
                if answer.status in (405, 501) and method == "HEAD":
                    return answer
                if answer.status in (401, 403, 407):
                    raise PermissionError(f"the server refuses {redact(url)} ({answer.status})")
                if answer.status not in _WORTH_A_RETRY or is_last:
                    raise ConnectionError(f"the server answers {answer.status} to {method} {redact(url)}")
            time.sleep(_BACKOFF_S * 3**attempt)
        raise AssertionError("each attempt returns or raises")

    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> _Answer | None:
        """Send a request, wherever the server sends it on to; None where there is no such object."""
        if self._pid != os.getpid():
            self._connect()  # the parent of a fork has those
        for _ in range(_REDIRECTS):
            is_home = urlsplit(url)[:2] == urlsplit(self._base)[:2]
            asked = f"{url}?{self._query}" if self._query and is_home else url
            # What lets us in here is no business of others.
            sent = {**self._headers, **headers} if is_home else {"Accept-Encoding": "identity", **headers}
            response = self._pool.request(method, asked, headers=sent, redirect=False, decode_content=False)
            if response.status in _MISSING:
                return None
            if response.status not in _MOVED:
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding != "identity":
                    raise StoreError(
                        f"the server sends {redact(url)} as {encoding}, which was not asked for, and parts of it are not "
                        "those of the object; let it send objects as they are"
                    )
                return _Answer(response.status, response.headers, response.data)
            target = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(target).path == urlsplit(url).path + "/":
                return None  # a directory
            url = target
        raise StoreError(f"the server sends {redact(url)} on and on")

    def _tell(self, error: Exception) -> str:
        # urllib3's texts hold addresses of objects in memory, and queries.
        inner = getattr(error, "reason", None) or error.__cause__ or error
        return f"{type(error).__name__}: {redact(str(inner)).rpartition('>: ')[2]}"


def _at_once[T, R](call: Callable[[T], R], items: list[T]) -> list[R]:
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_WIDTH, len(items)), "daskcache-http") as threads:
        return list(threads.map(call, items))

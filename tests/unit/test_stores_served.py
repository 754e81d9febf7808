"""Stores of ours on servers, as far as no server is needed: their URLs, options and names, and pages of listings."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from daskcache import stores
from daskcache.errors import InvalidInputError, ReadOnlyError
from daskcache.locations import join_root, to_root
from daskcache.stores.http import HttpStore
from daskcache.stores.http_index import Entry, parse_index
from daskcache.stores.redis import RedisStore, _split
from daskcache.stores.sftp import SftpStore


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://host/0/a", RedisStore),
        ("rediss://host/a", RedisStore),
        ("unix:///run/redis.sock/a?db=1", RedisStore),
        ("sftp://me@host:2222/a", SftpStore),
        ("ssh://host/a", SftpStore),
        ("http://host/a", HttpStore),
        ("https://host/a", HttpStore),
    ],
)
def test_they_are_opened_by_their_schemes(url: str, kind: type) -> None:
    store: Any = stores.open(url)
    assert type(store) is kind
    assert stores.open(url) is store
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.daskcache_root == to_root(store) == url
    assert stores.describe(store) == stores.describe(url)
    assert stores.free_bytes(store) is None
    below = stores.open(join_root(url, "namespaces/ours"))
    assert "namespaces/ours" in str(below)
    assert below != store
    assert store == kind(url, read_only=store.read_only)
    again = store.with_read_only(True)
    assert again.read_only
    assert again == stores.open(url, read_only=True)
    assert store.read_only == (kind is HttpStore)


@pytest.mark.parametrize(
    ("url", "server", "prefix"),
    [
        ("redis://host", "redis://host", ""),
        ("redis://host/3", "redis://host/3", ""),
        ("redis://host/3/a/b", "redis://host/3", "a/b"),
        ("redis://u:p@host:1/a%20b", "redis://u:p@host:1", "a b"),
        ("redis://host/7/a?db=2", "redis://host?db=2", "7/a"),
        ("unix:///run/r.sock?db=2", "unix:///run/r.sock?db=2", ""),
        ("unix:///run/r.sock/a/b?db=2", "unix:///run/r.sock?db=2", "a/b"),
    ],
)
def test_where_a_url_of_redis_ends_and_the_prefix_begins(url: str, server: str, prefix: str) -> None:
    assert _split(url) == (server, prefix)


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("redis", "redis://host", "redis"),
        ("paramiko", "sftp://host/a", "sftp"),
        ("urllib3", "http://host/a", "http"),
    ],
)
def test_a_missing_package_is_named(package: str, url: str, extra: str) -> None:
    # In a process of its own: what another test imported stays.
    script = (
        f"import sys; sys.modules[{package!r}] = None\nfrom daskcache import stores\nstores.open({url!r})"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    *_, message = found.stderr.strip().splitlines()
    assert message.startswith("daskcache.errors.MissingExtraError: store ")
    assert f"install daskcache[{extra}]" in message


def test_another_client_is_taken_on_demand() -> None:
    assert type(stores.open("http://127.0.0.1:1/a", client="fsspec")).__name__ == "FileSystemStore"
    with pytest.raises(InvalidInputError, match="obstore"):
        stores.open("http://127.0.0.1:1/a", client="obstore")


def test_what_only_reads_takes_no_writes() -> None:
    store: Any = stores.open("https://127.0.0.1:1/a")
    assert not store.supports_writes
    with pytest.raises(ReadOnlyError, match="can only be read, because its protocol has no writes"):
        stores.put(store, "a", b"1")
    with pytest.raises(NotImplementedError, match="with_read_only"):
        store.with_read_only(False)


@pytest.mark.parametrize(
    ("kind", "page", "expected"),
    [
        ("application/json", b"[]", []),
        ("application/json", b'[{"name": "d", "type": "directory", "mtime": "Thu, 01 Jan 1970 00:01:00 GMT"}]',
         [Entry("d", True, None, 60.0)]),
        ("application/json; charset=utf-8", b'{"name": "d"}', None),
        ("application/json", b"[", None),
        ("text/html", b"<title>Welcome</title><a href='a'>a</a>", None),
        ("text/html", b"", None),
        ("text/html",
         b'<title>Index of /</title><pre><a href="../">../</a>\n<a href="a%2Bb">a..&gt;</a>  01-Jan-1970 00:01    12\n'
         b'<a href="d/">d/</a>  01-Jan-1970 00:02   -\n<a href="big">big</a>  01-Jan-1970 00:01   5K</pre>',
         [Entry("a+b", False, 12, 60.0), Entry("d", True, None, 120.0), Entry("big", False, None, 60.0)]),
        ("text/html",
         b'<title>Index of /a</title><a href="?C=N;O=D">Name</a><a href="/">Parent</a><a href="x.html">x</a>'
         b'<a href="http://other/y">y</a><a href="./p:q">p:q</a><a href="sub/file">z</a>',
         [Entry("x.html", False), Entry("p:q", False)]),
    ],
)  # fmt: skip
def test_listings_of_servers(kind: str, page: bytes, expected: list[Entry] | None) -> None:
    assert parse_index(page, kind) == expected

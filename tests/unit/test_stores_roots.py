"""Roots: what one text says of a store, and what it refuses to hold; create-only puts that are probed."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from daskcache import secrets, stores
from daskcache.config import pool_root
from daskcache.errors import InvalidInputError, StoreError
from daskcache.locations import Location, has_secret, join_root, parse_root, to_root
from daskcache.stores import Levels, Limit
from daskcache.stores.buckets import Untranslatable, open_with_obstore


@pytest.fixture(autouse=True)
def no_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_functions", {})
    monkeypatch.setattr(secrets, "_values", set())


LEVELS = [{"url": "/ssd", "max_size": "1 GB", "write": False}, {"url": "s3://b/c", "client": "fsspec"}]


def test_equal_stores_have_equal_roots_and_a_roots_root_is_itself() -> None:
    a = to_root({"url": "s3://b", "storage_options": {"anon": True, "endpoint_url": "http://h"}})
    b = to_root(
        {"storage-options": {"endpoint_url": "http://h", "anon": True}, "url": "s3://b", "read_only": False}
    )
    assert a == b == to_root(a)
    assert to_root(LEVELS) == to_root({"levels": LEVELS}) == to_root(to_root(LEVELS))
    assert to_root("/data") == "/data"
    first, second = parse_root(to_root(LEVELS)).parts  # type: ignore[union-attr]
    assert first == Location("/ssd", max_size=10**9, write=False)
    assert second.client == "fsspec"


def test_what_was_settled_is_not_changed_by_what_is_declared_later() -> None:
    plain = to_root({"url": "s3://b", "storage_options": {"endpoint_url": "http://h"}})
    secrets.secret("storage_options")(json.loads)  # any function with a name
    assert to_root(plain) == plain
    assert json.loads(to_root("s3://b").partition(":")[2])["secret"] == "json:loads"
    assert to_root("/data") == "/data"


def test_what_lies_below_a_path_of_levels_has_their_limits() -> None:
    below = parse_root(pool_root(to_root(LEVELS), "ours", "private"))
    assert [one.url for one in below.parts] == ["/ssd/namespaces/ours/@", "s3://b/c/namespaces/ours/@"]  # type: ignore[union-attr]
    assert [one.within for one in below.parts] == ["/ssd", None]  # type: ignore[union-attr]
    assert join_root("s3://b/c?x=1", "d") == "s3://b/c/d?x=1"


def test_a_private_pool_counts_within_its_tier(tmp_path: Any) -> None:
    root = to_root({"url": str(tmp_path), "max_size": 100})
    private = stores.open(pool_root(root, "ours", "private"))
    assert isinstance(private, Limit)
    stores.put(stores.open(root), "a", bytes(60))
    stores.put(private, "b", bytes(60))
    assert not stores.exists(stores.open(root), "a")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("secret", "x", True),
        ("key", "x", True),
        ("account_key", "x", True),
        ("token", "ya29.x", True),
        ("token", "google_default", False),
        ("token", "/home/me/key.json", False),
        ("password", "x", True),
        ("client_kwargs", {"aws_session_token": "x"}, True),
        ("client_kwargs", {"region_name": "x"}, False),
        ("endpoint_url", "http://me:pass@host", True),
        ("anon", True, False),
        ("keyspace", "x", False),
    ],
)
def test_secrets_are_known_by_their_names(name: str, value: Any, expected: bool) -> None:
    assert secrets.is_secret(name, value) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://key:abc/def+g@bucket/a", True),
        ("sftp://me:pass@host/a", True),
        ("https://host/a?X-Amz-Signature=abc", True),
        ("sftp://me@host/a", False),
        ("sftp://host:22/cache/namespaces/ours/@", False),
        ("s3://bucket/a@b", False),
        ("/data/a:b@c", False),
    ],
)
def test_secrets_in_urls_are_known_and_not_shown(url: str, expected: bool) -> None:
    assert has_secret(url) is expected
    assert not any(part in stores.describe(url) for part in ("abc", "pass", "def"))


def test_a_function_that_fails_or_gives_no_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference in ("os:getcwd", "os:not_there", "not_there:at_all"):
        with pytest.raises(StoreError, match=reference):
            secrets.fetch(reference)


def test_an_error_that_quotes_a_secret_is_told_without_it_and_without_its_cause() -> None:
    secrets.hide({"secret": "open-sesame"})
    reading = stores.faults.translating("s3://b", "read a")
    with pytest.raises(StoreError, match=r"bad signature \*\*\*") as caught, reading:
        raise RuntimeError("bad signature open-sesame")
    assert caught.value.__cause__ is None
    with pytest.raises(StoreError) as caught, stores.faults.translating("s3://b", "read a"):
        raise RuntimeError("no route")
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s3_additional_kwargs": {"ACL": "private"}, "key": "a", "secret": "b"}, "s3_additional_kwargs"),
        ({"key": "only"}, "a part of the credentials"),
        ({"profile": "not-there", "key": "a", "secret": "b"}, "profile"),
        ({"client_kwargs": {"verify": False}, "key": "a", "secret": "b"}, "verify"),
    ],
)
def test_what_obstore_has_no_word_for_is_left_to_fsspec(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Untranslatable, match=message):
        open_with_obstore("s3://b/c", {"endpoint_url": "http://127.0.0.1:9", **options})


def test_a_bucket_whose_region_nothing_tells_is_left_to_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Untranslatable, match="region"):
        open_with_obstore("s3://b", {"key": "a", "secret": "b"})
    store = open_with_obstore(
        "s3://b/c/d", {"key": "a", "secret": "b", "client_kwargs": {"region_name": "eu"}}
    )
    assert (store.config["bucket"], store.prefix, store.config["region"]) == ("b", "c/d", "eu")
    with pytest.raises(InvalidInputError, match="no word for"):
        stores.open("s3://b", client="obstore", anon=True, s3_additional_kwargs={})
    assert stores.open("gs://b", client="obstore", token="anon").daskcache_root


def test_levels_pickle_with_their_marks() -> None:
    store = stores.open(["/tmp/not-there-a", {"url": "memory://roots", "copy": False}])
    assert isinstance(store, Levels)
    assert pickle.loads(pickle.dumps(store)).daskcache_root == store.daskcache_root

"""Stores from URLs."""

import os
import pickle
import re
import subprocess
import sys

import pytest
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from daskcache import stores
from daskcache.errors import InvalidInputError, StoreError
from daskcache.stores.faults import redact, translating


def test_paths_are_local_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in (
        str(tmp_path / "a b"),
        tmp_path / "a b",
        f"file://{tmp_path}/a%20b",
        "a b",
        "~/a b",
        f"local://{tmp_path}/a b",
    ):
        store = stores.open(url)
        assert isinstance(store, LocalStore)
        assert os.fspath(store.root) == str(tmp_path / "a b")
    assert not (tmp_path / "a b").exists()


def test_one_store_for_each_url_and_process(tmp_path):
    assert stores.open(tmp_path) is stores.open(tmp_path)
    assert stores.open(tmp_path) is not stores.open(tmp_path, read_only=True)
    assert stores.open(tmp_path, read_only=True).read_only


def test_memory_is_shared_by_name():
    a = stores.open("memory://one/two")
    assert isinstance(a, MemoryStore)
    stores.put(a, "x", b"1")
    assert stores.get(stores.open("memory://one/two", read_only=True), "x") == b"1"
    assert stores.get(stores.open("memory://other"), "x") is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_stores_are_opened_anew_after_a_fork(tmp_path):
    store = stores.open(tmp_path)
    child = os.fork()
    if child == 0:
        os._exit(0 if stores.open(tmp_path) is not store else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert stores.open(tmp_path) is store


def test_other_urls_go_through_fsspec():
    store = stores.open("s3://bucket/some/prefix/", client="fsspec", key="k", secret="hidden")
    assert isinstance(store, FsspecStore)
    assert store.path == "bucket/some/prefix"
    assert stores.describe(store) == "s3://bucket/some/prefix"
    assert store.fs.asynchronous
    assert stores.open("s3://bucket/x", config_kwargs={"a": []}) is not None


@pytest.mark.parametrize("url", ["", "nonsense://a", "file://host/path"])
def test_what_cannot_be_opened_is_said(url):
    with pytest.raises(InvalidInputError):
        stores.open(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://", "s3://bucket/path"),
        ("s3:///", "s3://bucket/path"),
        ("s3:///path", "s3://bucket/path"),
        ("gs://", "gs://bucket/path"),
        ("simplecache::s3://", "simplecache::s3://bucket/path"),
        ("ftp://", "ftp://host/path"),
        ("redis://", "redis://host/path"),
        ("unix://", "unix:///path/to/redis.sock"),
        ("sftp://", "sftp://host/path"),
        ("https://", "https://host/path"),
    ],
)
@pytest.mark.parametrize("client", [None, "fsspec"])
def test_a_scheme_alone_is_no_place(url, expected, client, tmp_path, monkeypatch):
    """Without its slashes it would be a local directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidInputError, match=f"store {re.escape(url)} names no place; expected {expected}$"
    ):
        stores.open(url, client=client)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named():
    # In a process of its own: fsspec remembers what another test has imported.
    script = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from daskcache import stores\n"
        "stores.open('gs://me:secret@bucket')"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    *_, message = found.stderr.strip().splitlines()
    assert re.search(r"MissingExtraError: .*gs://bucket needs.*install daskcache\[gcs\]", message)
    assert "secret" not in message


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://key:secret@bucket/a?versionId=3#frag", "s3://bucket/a"),
        ("https://user@host:80/a/b", "https://host:80/a/b"),
        ("simplecache::s3://k:s@bucket/a", "simplecache::s3://bucket/a"),
        ("/data/cache", "/data/cache"),
        ("/data/what?#is", "/data/what?#is"),
        ("memory://a", "memory://a"),
    ],
)
def test_names_hold_no_secrets(url, name):
    assert stores.describe(url) == name


def test_errors_hold_no_secrets():
    with pytest.raises(StoreError) as caught, translating("s3://bucket", "read a"):
        raise RuntimeError("GET https://me:pass@host/a?X-Amz-Signature=abc: 503")
    assert "host/a: 503" in redact(str(caught.value)).replace("?", "") or "https://host/a" in str(
        caught.value
    )
    assert "pass" not in str(caught.value)
    assert "abc" not in str(caught.value)
    assert type(pickle.loads(pickle.dumps(caught.value))) is StoreError


def test_importing_needs_no_client_library():
    code = "import sys; from daskcache import stores; print([m for m in ('s3fs', 'obstore', 'gcsfs', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

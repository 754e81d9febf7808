"""What is HTTP's own: ranges, listings of several servers, refusals, redirects, faults, and what changes with an object."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from daskcache import stores
from daskcache.errors import InvalidInputError, StoreError, UncacheableError
from tests.servers.conftest import start
from tests.servers.harness import Cutter, Faulty, Server, free_port
from tests.servers.services import Service
from tests.sources import digests_of

pytestmark = [pytest.mark.slow, pytest.mark.server("nginx")]

DATA = bytes(range(10)) * 3


@pytest.fixture
def server() -> Service:
    found = start("nginx")
    assert isinstance(found, Service)
    return found


@pytest.fixture
def files(server: Service) -> Path:
    directory = server.directory / "files" / uuid.uuid4().hex
    (directory / "a" / "below").mkdir(parents=True)
    (directory / "a" / "b").write_bytes(DATA)
    (directory / "a" / "empty").write_bytes(b"")
    (directory / "a" / "odd name: ä#?%").write_bytes(b"odd")
    (directory / "a" / ("n" * 80)).write_bytes(b"long")
    (directory / "a" / "below" / "c").write_bytes(b"c")
    return directory


@pytest.mark.parametrize("way", ["", "html/", "rounded/", "whole/", "elsewhere/", "untagged/"])
def test_objects_and_parts_of_them(server: Service, files: Path, way: str) -> None:
    """By nginx's listings of each kind, without ranges, and behind a redirect."""
    store = stores.open(f"{server.endpoint}/{way}{files.name}")
    assert stores.get(store, "a/b") == DATA
    for part, expected in [
        (RangeByteRequest(2, 5), DATA[2:5]),
        (RangeByteRequest(25, 500), DATA[25:]),
        (RangeByteRequest(100, 105), b""),
        (RangeByteRequest(5, 5), b""),
        (OffsetByteRequest(7), DATA[7:]),
        (OffsetByteRequest(70), b""),
        (SuffixByteRequest(4), DATA[-4:]),
        (SuffixByteRequest(400), DATA),
        (SuffixByteRequest(0), b""),
    ]:
        assert stores.get(store, "a/b", part) == expected, part
        assert stores.get(store, "a/none", part) is None, part
    for part in (None, RangeByteRequest(0, 3), SuffixByteRequest(3)):
        assert stores.get(store, "a/empty", part) == b""
    assert stores.drive.get(store, "a/odd name: ä#?%") == b"odd"
    for missing in ("a", "a/below", "none", "a/b/c"):
        assert stores.get(store, missing) is None
        assert not stores.exists(store, missing)
    assert (stores.size(store, "a/b"), stores.size(store, "a/empty"), stores.size(store, "x")) == (
        30,
        0,
        None,
    )


@pytest.mark.parametrize("way", ["", "html/", "rounded/"])
def test_listings(server: Service, files: Path, way: str) -> None:
    (files / "a" / "large").write_bytes(bytes(123_456))
    store = stores.open(f"{server.endpoint}/{way}{files.name}")
    listed = stores.drive.list_objects(store, "a")
    assert {name: size for name, (size, _) in listed.items()} == {
        "b": 30, "empty": 0, "large": 123_456, "odd name: ä#?%": 3, "n" * 80: 4
    }  # fmt: skip
    written = (files / "a" / "b").stat().st_mtime
    assert all(when is not None and abs(when - written) <= 60 for _, when in listed.values())
    assert stores.list_dirs(store, "a") == ["below"]
    assert stores.list_objects(store, "none") == {}
    assert list(stores.drive.walk(store, "a/be")) == ["a/below/c"]


def test_what_python_serves_is_read_as_well(files: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(files),
    ]
    other = Server(command, port)
    other.start()
    try:
        store = stores.open(other.endpoint)
        assert stores.drive.list_objects(store, "a").keys() == {"b", "empty", "odd name: ä#?%", "n" * 80}
        assert stores.get(store, "a/b", RangeByteRequest(2, 5)) == DATA[2:5]
        assert stores.drive.list_dirs(store, "a") == ["below"]
    finally:
        other.kill()


def test_missing_refused_and_broken_are_told_apart(server: Service, files: Path) -> None:
    def at(path: str, **options: Any) -> Any:
        return stores.open(f"{server.endpoint}/{path}", retries=1, **options)

    assert stores.get(at("nothing/here"), "a") is None
    with pytest.raises(StoreError, match=r"refuses http://.*/forbidden/a \(403\)"):
        stores.get(at("forbidden"), "a")
    with pytest.raises(StoreError, match=r"\(401\)"):
        stores.get(at(f"guarded/{files.name}"), "a/b")
    with pytest.raises(StoreError, match=r"\(401\)"):
        stores.get(at(f"guarded/{files.name}", username="someone", password="wrong"), "a/b")
    assert stores.get(at(f"guarded/{files.name}", username="someone", password="open-sesame"), "a/b") == DATA
    guarded = stores.open(f"http://someone:open-sesame@127.0.0.1:{server.port}/guarded/{files.name}")
    assert stores.get(guarded, "a/b") == DATA
    with pytest.raises(StoreError, match="answers 503 to GET"):
        stores.get(at("broken"), "a")
    with pytest.raises(StoreError, match=r"refuses .*/silent/.* \(403\)"):
        stores.list_objects(at(f"silent/{files.name}"), "a")
    assert stores.get(at(f"silent/{files.name}"), "a/b") == DATA
    (files / "index.html").write_text("<title>Welcome</title><a href='a/'>a</a>")
    with pytest.raises(StoreError, match="a page that is no listing"):
        stores.drive.list_dirs(at(files.name), "")


def test_a_proxy_that_answers_all_with_one_listing_is_not_walked_for_ever(
    server: Service, files: Path
) -> None:
    store = stores.open(f"{server.endpoint}/moved")
    with pytest.raises(StoreError, match=r"deep in each other"):
        list(stores.drive.walk(store, ""))


@pytest.fixture
def faulty(server: Service) -> Iterator[Faulty]:
    # No more than two faults in a row.
    proxy = Faulty(server, share=0.25, seed=6, stall_s=2.5)
    yield proxy
    proxy.close()


def test_what_fails_now_and_then_is_asked_for_again(faulty: Faulty, files: Path) -> None:
    store = stores.open(f"{faulty.endpoint}/{files.name}", timeout=1.0, retries=5)
    for _ in range(15):
        assert stores.get(store, "a/b") == DATA
        assert stores.get(store, "a/none") is None
        assert stores.list_sizes(store, "a")["b"] == 30
    assert all(faulty.faults.values()), faulty.faults


def test_an_answer_that_is_cut_is_never_taken_for_a_whole_one(server: Service, files: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    (files / "large").write_bytes(data)
    proxy = Cutter(server)
    try:
        store = stores.open(f"{proxy.endpoint}/{files.name}", retries=2)
        for answers in range(6):
            proxy.answers, before = answers, proxy.cuts
            assert stores.get(store, "large") == data
            assert proxy.cuts == before + 1
        hasty = stores.open(f"{proxy.endpoint}/{files.name}", retries=0)
        proxy.answers = 2
        with pytest.raises(StoreError, match="cannot read large"):
            stores.get(hasty, "large")
    finally:
        proxy.close()


def test_it_goes_on_when_the_server_comes_back(server: Service, files: Path) -> None:
    store = stores.open(f"{server.endpoint}/{files.name}", retries=1)
    assert stores.get(store, "a/b") == DATA
    server.kill()
    with pytest.raises(StoreError, match="Connection refused"):
        stores.get(store, "a/b")
    server.start()
    assert stores.get(store, "a/b") == DATA


def test_ten_thousand_objects_are_listed(server: Service, files: Path) -> None:
    (files / "chunks" / "00ff").mkdir(parents=True)
    names = {f"{number:040x}" for number in range(10_000)}
    for name in names:
        (files / "chunks" / "00ff" / name).write_bytes(b"12345")
    for way in ("", "html/"):
        found = stores.list_sizes(stores.open(f"{server.endpoint}/{way}{files.name}"), "chunks/00ff")
        assert found.keys() == names
        assert set(found.values()) == {5}


def test_an_array_there_is_a_source(server: Service, files: Path) -> None:
    values = np.arange(24.0).reshape(6, 4)
    xr.Dataset({"v": (("t", "x"), values)}).to_zarr(
        files / "d.zarr", consolidated=False, encoding={"v": {"chunks": (1, 4)}}
    )

    def digests(way: str = "") -> list[bytes]:
        opened = xr.open_zarr(stores.open(f"{server.endpoint}/{way}{files.name}/d.zarr"), consolidated=False)
        assert opened.v.shape == (6, 4)
        return digests_of(opened.v.data)

    before = digests()
    assert len(set(before)) == 6
    os.utime(files / "d.zarr/v/c/2/0", (1e9, 1e9))
    zarr.open_array(files / "d.zarr", path="v")[2] = 7.0
    after = digests()
    assert [number for number in range(6) if before[number] != after[number]] == [2]
    with pytest.raises(UncacheableError, match="no ETag"):
        digests("untagged/")


def test_a_query_goes_with_each_request(server: Service, files: Path) -> None:
    store: Any = stores.open(f"{server.endpoint}/{files.name}?version=3")
    assert stores.get(store, "a/b") == DATA
    assert stores.list_dirs(store, "a") == ["below"]
    asked = [f"/{files.name}/a/b?version=3", f"/{files.name}/a/?version=3"]
    give_up = time.monotonic() + 30
    # A line is written once the answer is sent.
    while not all(path in (log := (server.directory / "access.log").read_text()) for path in asked):
        assert time.monotonic() < give_up, log
        time.sleep(0.01)
    assert str(store) == f"{server.endpoint}/{files.name}"
    assert store.has_query


def test_headers_and_refused_options(server: Service, files: Path) -> None:
    import base64

    token = base64.b64encode(b"someone:open-sesame").decode()
    store = stores.open(
        f"{server.endpoint}/guarded/{files.name}", headers={"Authorization": f"Basic {token}"}
    )
    assert stores.get(store, "a/b") == DATA
    with pytest.raises(InvalidInputError, match=r"daskcache\.secret"):
        assert store.daskcache_root  # type: ignore[attr-defined]
    with pytest.raises(InvalidInputError, match="takes no storage options"):
        stores.open(f"{server.endpoint}/a", client_kwargs={})
    with pytest.raises(InvalidInputError, match="names no host"):
        stores.open("http:///a")


def test_a_proxy_of_the_environment_is_used(
    server: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    assert stores.get(stores.open(f"http://elsewhere.invalid/{files.name}"), "a/b") == DATA
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    with pytest.raises(StoreError, match="cannot read a/b"):
        stores.get(stores.open(f"http://elsewhere.invalid/{files.name}", retries=0), "a/b")

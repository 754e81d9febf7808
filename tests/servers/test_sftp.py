"""What is SFTP's own: whom it trusts and who is let in, servers that can do less, links, lost answers."""

from __future__ import annotations

import contextlib
import gc
import os
import pwd
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from daskcache import stores
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError, StoreFullError
from daskcache.stores.remote import PROBE
from tests.servers import services
from tests.servers.conftest import start
from tests.servers.harness import Cutter
from tests.servers.services import Service, SftpPlace

pytestmark = [pytest.mark.slow, pytest.mark.server("sshd")]


@pytest.fixture
def server() -> Service:
    found = start("sshd")
    assert isinstance(found, Service)
    return found


@pytest.fixture
def place(server: Service) -> SftpPlace:
    return SftpPlace(server, "sftp", None, {}, uuid.uuid4().hex)


@pytest.fixture
def directory(place: SftpPlace, server: Service) -> Path:
    return server.directory / "files" / place.path


def opened(place: SftpPlace, **changed: Any) -> Any:
    root = place.root()
    options = {**root["storage_options"], **changed}
    return stores.open(root["url"], **{name: value for name, value in options.items() if value is not None})


def test_a_host_that_is_not_known_is_not_trusted(place: SftpPlace, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody"
    nobody.write_text("")
    with pytest.raises(
        StoreError, match=r"known hosts have no key of \[127.0.0.1\]:\d+; add it once it is checked"
    ):
        stores.get(opened(place, known_hosts=str(nobody)), "a")
    changed = tmp_path / "changed"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    changed.write_text(f"[127.0.0.1]:{place.server.port} {kind} {key}\n")
    with pytest.raises(StoreError, match="host key is not the one that the known hosts have"):
        stores.get(opened(place, known_hosts=str(changed)), "a")
    with pytest.raises(StoreError, match="cannot be read"):
        stores.get(opened(place, known_hosts=str(tmp_path / "not-there")), "a")


def test_the_users_own_known_hosts_and_keys_are_used(
    place: SftpPlace, server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.root()
    (tmp_path / ".ssh").mkdir()
    shutil.copy(server.directory / "known_hosts", tmp_path / ".ssh" / "known_hosts")
    shutil.copy(server.directory / "user_key", tmp_path / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    store = stores.open(f"ssh://127.0.0.1:{server.port}{server.directory}/files/{place.path}-own")
    stores.put(store, "a", b"1")
    assert stores.get(store, "a") == b"1"
    shutil.move(tmp_path / ".ssh" / "id_ed25519", tmp_path / "elsewhere")
    named = stores.open(str(store), key_filename="~/elsewhere", known_hosts="~/.ssh/known_hosts")
    assert named is not store
    assert stores.get(named, "a") == b"1"


def test_whoever_has_no_key_is_told_so(
    place: SftpPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    with pytest.raises(StoreError, match=r"does not let .* in with any of the keys"):
        stores.get(opened(place, key_filename=str(tmp_path / "other")), "a")
    with pytest.raises(StoreError, match="storage option key_filename"):
        stores.get(opened(place, key_filename=None), "a")


def test_a_key_with_a_passphrase(
    place: SftpPlace, server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    locked = tmp_path / "locked"
    shutil.copy(server.directory / "user_key", locked)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open-sesame", "-f", str(locked)], check=True)
    with pytest.raises(StoreError, match=r"needs a passphrase|does not let"):
        stores.get(opened(place, key_filename=str(locked)), "a")
    store = opened(place, key_filename=str(locked), passphrase="open-sesame")
    assert stores.get(store, "a") is None
    with pytest.raises(InvalidInputError, match=r"daskcache\.secret"):
        assert store.daskcache_root


def test_an_agent_is_asked(
    place: SftpPlace, server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        give_up = time.monotonic() + 30
        add = ["ssh-add", "-q", str(server.directory / "user_key")]
        while subprocess.run(add, capture_output=True, check=False).returncode:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert stores.get(opened(place, key_filename=None), "a") is None
        # What is still open would be complained about.
        gc.collect()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(
    scope="module",
    params=[("hardlink",), ("hardlink", "posix-rename"), ("hardlink", "posix-rename", "statvfs", "limits")],
)
def lesser(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Servers that refuse what OpenSSH added to the protocol."""
    found = services.sshd("-P", ",".join(request.param))
    found.start()
    yield found
    found.close()


def test_servers_that_can_do_less(lesser: Service) -> None:
    store: Any = SftpPlace(lesser, "sftp", None, {}, uuid.uuid4().hex).open()
    assert not store._links.run(lambda wire: wire.links)
    assert stores.create(store, "chunks/00ff/aa", b"1")
    assert not stores.create(store, "chunks/00ff/aa", b"22")
    assert store._keeps_targets, "OpenSSH's plain rename refuses to take another's place"
    stores.put(store, "chunks/00ff/aa", b"333")
    stores.put(store, "chunks/00ff/bb", bytes(1_000_000))
    assert stores.get(store, "chunks/00ff/aa") == b"333"
    assert stores.list_sizes(store, "chunks/00ff") == {"aa": 3, "bb": 1_000_000}
    assert [*stores.drive.walk(store, "")] == ["chunks/00ff/aa", "chunks/00ff/bb"]
    assert stores.exists(store, PROBE)
    keys = [f"chunks/00ff/{number:02x}" for number in range(10)]

    def write(writer: int) -> list[bool]:
        return [stores.create(store, key, bytes([writer]) * 50_000) for key in keys]

    with ThreadPoolExecutor(6) as pool:
        created = list(pool.map(write, range(6)))
    for number, key in enumerate(keys):
        (winner,) = (writer for writer in range(6) if created[writer][number])
        assert stores.get(store, key) == bytes([winner]) * 50_000
    assert not any(name.endswith(".partial") for name in stores.list_objects(store, "chunks/00ff"))


def test_a_server_that_takes_no_writes() -> None:
    found = services.sshd("-R")
    found.start()
    try:
        place = SftpPlace(found, "sftp", None, {}, "a")
        (found.directory / "files" / "a").mkdir()
        (found.directory / "files" / "a" / "x").write_bytes(b"1")
        store = place.open()
        assert stores.get(store, "x") == b"1"
        for write in (stores.put, stores.create):
            with pytest.raises(ReadOnlyError, match="takes no writes: cannot write b"):
                write(store, "b", b"1")
        with pytest.raises(ReadOnlyError, match="takes no writes: cannot delete x"):
            stores.delete(store, "x")
    finally:
        found.close()


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    """A file that may not grow: the server says no more than that it failed."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        found: Any = start("sshd")
        options = SftpPlace(found, "sftp", None, {}, "").root()["storage_options"]
        store = stores.open(f"sftp://127.0.0.1:{found.port}{mounted}", **options)
        stores.put(store, "a", bytes(100_000))
        for write in (stores.put, stores.create):
            with pytest.raises(StoreFullError, match="is full: cannot write b"):
                write(store, "b", bytes(1_000_000))
        assert os.listdir(mounted) == ["a"]
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_what_is_no_file_is_no_object(place: SftpPlace, directory: Path) -> None:
    store: Any = place.open()
    stores.put(store, "a/b", b"12")
    os.symlink("b", directory / "a" / "link")
    os.symlink("nowhere", directory / "a" / "broken")
    os.symlink(".", directory / "dir")
    os.mkfifo(directory / "a" / "fifo")
    assert stores.list_sizes(store, "a") == {"b": 2, "link": 2}
    assert stores.drive.list_dirs(store, "") == ["a", "dir"]
    for key in ("a", "dir", "a/broken", "a/b/c"):
        assert stores.get(store, key) is None
        assert not stores.exists(store, key)
        stores.delete(store, key)
    assert stores.get(store, "a/link") == b"12"
    assert (directory / "a" / "b").read_bytes() == b"12"
    with pytest.raises(StoreError):
        stores.put(store, "a/b/c", b"1")


def test_names_of_all_kinds(place: SftpPlace, directory: Path) -> None:
    store = place.open()
    names = ["a b", "äö", "#1", "?x", "%20", "a;b"]
    for name in names:
        stores.drive.put(store, f"dir/{name}", name.encode())
    assert sorted(os.listdir(directory / "dir")) == sorted(names)
    for name in names:
        assert stores.drive.get(store, f"dir/{name}") == name.encode()
    assert sorted(stores.drive.walk(store, "dir/a")) == ["dir/a b", "dir/a;b"]


def test_what_lies_below_the_home(server: Service, place: SftpPlace) -> None:
    options = place.root()["storage_options"]
    name = f".{uuid.uuid4().hex}"
    store = stores.open(f"sftp://127.0.0.1:{server.port}/~/{name}", **options)
    home = Path(pwd.getpwuid(os.getuid()).pw_dir) / name
    try:
        stores.put(store, "a/b", b"1")
        assert (home / "a" / "b").read_bytes() == b"1"
        assert [*stores.drive.walk(store, "")] == ["a/b"]
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_connections_are_few_and_kept(place: SftpPlace, server: Service) -> None:
    store = opened(place, connections=2)
    stores.put(store, "a", bytes(300_000))

    def sessions() -> int:
        assert server.process is not None
        found = 0
        for one in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one of an earlier store's may end just now
                found += "internal-sftp" in " ".join(one.cmdline())
        return found

    before = sessions()
    assert before >= 1
    with ThreadPoolExecutor(16) as pool:
        assert all(len(data) == 300_000 for data in pool.map(lambda _: stores.get(store, "a"), range(60)))
    assert sessions() <= before + 1
    (link, *_) = store._links._free
    assert link._plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_where_an_answer_is_lost_the_first_writer_still_knows_that_it_won(place: SftpPlace) -> None:
    proxy = Cutter(place.server)
    try:
        store = place.open(endpoint=proxy.endpoint, **place.timeouts(5))
        for number in range(10):
            stores.put(store, "before", b"1")
            proxy.answers, before = number, proxy.cuts
            data = b"%d" % number
            assert stores.create(store, f"a/{number}", data)
            proxy.answers = None
            assert not stores.create(store, f"a/{number}", b"other")
            assert stores.get(place.open(), f"a/{number}") == data
            if number < 3:
                assert proxy.cuts == before + 1
        listed = stores.list_objects(place.open(), "a")
        assert listed.keys() == {f"{number}" for number in range(10)}, "what was begun and cut is cleaned"
    finally:
        proxy.close()


def test_it_goes_on_when_the_server_comes_back(server: Service, place: SftpPlace) -> None:
    store = place.open()
    stores.put(store, "a", b"1")
    server.kill()
    with pytest.raises(StoreError, match=r"sftp://.* failed: cannot read a \(Connection refused\)"):
        stores.get(store, "a")
    server.start()
    assert stores.get(store, "a") == b"1"


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("sftp:///path", {}, "names no host"),
        (
            "sftp://host/path",
            {"no_such_option": 1},
            r"takes no storage options \['no_such_option'\]; known are",
        ),
    ],
)
def test_what_cannot_be_opened(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        stores.open(url, **options)

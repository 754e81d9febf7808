"""One server of each kind for all tests, and a bucket's own path for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.servers import ceph, services
from tests.servers.harness import KEY, SECRET, Bucket, Server, gcs, moto

_started: dict[str, Server] = {}
_makers = {
    "moto": moto,
    "gcs": gcs,
    "ceph": ceph.gateway,
    "redis": services.redis,
    "sshd": services.sshd,
    "nginx": services.nginx,
}

KINDS = [
    pytest.param("moto-fsspec", id="moto-fsspec"),
    pytest.param("moto-obstore", id="moto-obstore"),
    pytest.param("gcs-fsspec", id="gcs-fsspec"),
    pytest.param("ceph-fsspec", id="ceph-fsspec", marks=[pytest.mark.nightly, pytest.mark.server("radosgw")]),
    pytest.param(
        "ceph-obstore", id="ceph-obstore", marks=[pytest.mark.nightly, pytest.mark.server("radosgw")]
    ),
]
OURS = [
    pytest.param("redis", id="redis", marks=pytest.mark.server("redis-server")),
    pytest.param("sftp", id="sftp", marks=pytest.mark.server("sshd")),
]


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    yield
    for server in _started.values():
        server.close()


@pytest.fixture
def ambient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the credentials where clients look for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # gcsfs would ask the server what kind of bucket it is, in a way that the emulator does not know.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def start(name: str) -> Server:
    """Give a server that runs, the same one each time."""
    if name not in _started:
        _started[name] = _makers[name]()
    server = _started[name]
    if server.process is None:
        server.start()
    return server


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, ambient: None) -> Bucket:
    return _bucket(request.param)


@pytest.fixture(params=[*KINDS, *OURS])
def place(request: pytest.FixtureRequest, ambient: None) -> Bucket:
    """A bucket, or a place on a server that a store of ours talks to."""
    if request.param == "redis":
        return services.RedisPlace(start("redis"), "redis", None, {}, uuid.uuid4().hex)
    if request.param == "sftp":
        return services.SftpPlace(start("sshd"), "sftp", None, {}, uuid.uuid4().hex)
    return _bucket(request.param)


def _bucket(kind: str) -> Bucket:
    name, client = kind.split("-")
    path = uuid.uuid4().hex
    if name == "gcs":
        return Bucket(start(name), "gs", client, {"token": "anon", "project": "p"}, path)
    return Bucket(start(name), "s3", client, {"client_kwargs": {"region_name": "us-east-1"}}, path)

"""No secret of stores of ours is seen anywhere: on servers that ask for a password, or keys that ask for one."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskcache
from daskcache import secrets, stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, StoreError
from tests.servers import credentials, services
from tests.servers.conftest import start
from tests.servers.harness import free_port
from tests.servers.services import Service, SftpPlace
from tests.servers.test_secrets import assert_unseen, fail, look_everywhere, pipeline, texts_of

pytestmark = pytest.mark.slow

CANARY = "Kx7-open/sesame@Qz9"
EXPECTED = np.arange(12) * 2.0
QUOTED = "Kx7-open%2Fsesame%40Qz9"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Service]:
    server = services.redis("--requirepass", CANARY)
    server.start()
    yield server
    server.close()


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let `credentials.fetch` give something."""
    monkeypatch.setattr(secrets, "_functions", {})
    monkeypatch.setattr(secrets, "_values", set())
    monkeypatch.setenv("TESTS_CREDENTIALS", str(tmp_path / "credentials.json"))

    def give(**options: Any) -> None:
        (tmp_path / "credentials.json").write_text(json.dumps(options))

    return give


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.server("redis-server")),
        pytest.param("sftp", marks=pytest.mark.server("sshd")),
    ]
)
def root(
    request: pytest.FixtureRequest, tmp_path: Path, fetched: Any, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    if request.param == "redis":
        server = request.getfixturevalue("guarded")
        fetched(password=CANARY)
        url, options = f"redis://127.0.0.1:{server.port}/0/{uuid.uuid4().hex}", {}
    else:
        place = SftpPlace(start("sshd"), "sftp", None, {}, uuid.uuid4().hex)
        locked = tmp_path / "locked"
        shutil.copy(place.server.directory / "user_key", locked)  # type: ignore[attr-defined]
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", CANARY, "-f", str(locked)], check=True)
        fetched(passphrase=CANARY)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        found = place.root()
        url, options = found["url"], found["storage_options"] | {"key_filename": str(locked)}
    return {"url": url, "storage_options": options, "secret": "tests.servers.credentials:fetch"}


def test_the_canary_is_seen_nowhere(
    root: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, fetched: Any
) -> None:
    seen = look_everywhere(root, tmp_path, caplog)
    name = "password" if root["url"].startswith("redis") else "passphrase"
    other = {**root, "url": root["url"] + "-other"}
    # They fail at once: what is wrong with a password is not mended by trying again.
    wrong = f"{CANARY}-and-more"
    plain = {"url": other["url"], **root["storage_options"]}
    seen["errors"] = texts_of(
        [
            lambda: stores.get(stores.open(**plain), "a"),
            lambda: stores.get(stores.open(**plain, **{name: wrong}), "a"),
            lambda: stores.open(**plain, **{name: CANARY, "no_such_option": 1}),
            lambda: pickle.dumps(stores.open(**plain, **{name: CANARY})),
            lambda: Settings.from_config(store=root["url"], storage_options={name: CANARY}),
            lambda: stores.open({**other, "secret": "tests.servers.credentials:fail"}),
            lambda: daskcache.persist(pipeline(fail), "broken", store=root),
        ]
    )
    with_value = stores.open(**plain, **{name: CANARY})
    assert stores.get(with_value, "a") is None
    seen["opened with a value"] = [
        repr(with_value),
        str(vars(with_value)),
        *map(repr, vars(with_value).values()),
    ]
    assert_unseen(CANARY, seen)
    assert_unseen(CANARY[:12], seen)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "sftp", "ssh", "http", "https"])
def test_a_password_in_a_url_is_seen_nowhere(
    scheme: str, caplog: pytest.LogCaptureFixture, fetched: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"{scheme}://someone:{QUOTED}@127.0.0.1:{free_port()}/0/a"
    options = {"retries": 0} if scheme.startswith("http") else {}
    store = stores.open(url, **options)
    seen: dict[str, Any] = {
        "store": [repr(store), str(store), str(vars(store)), stores.describe(store), stores.describe(url)]
    }
    seen["errors"] = texts_of(
        [
            lambda: stores.get(store, "a"),
            lambda: stores.put(store, "a", b"1"),
            lambda: pickle.dumps(store),
            lambda: Settings.from_config(store=url),
            lambda: Settings.from_config(store=store),
            lambda: stores.open(url, no_such_option=1),
        ]
    )
    seen["log"] = caplog.text
    for canary in (CANARY, QUOTED, CANARY[:12]):
        assert_unseen(canary, seen)


@pytest.mark.server("nginx")
def test_a_password_for_a_web_server_is_fetched(fetched: Any) -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    name = uuid.uuid4().hex
    daskcache.persist(pipeline(), "entry", store=server.directory / "files" / name)
    fetched(username="someone", password="open-sesame")
    root = {"url": f"{server.endpoint}/guarded/{name}", "secret": "tests.servers.credentials:fetch"}
    assert daskcache.open("entry", store=root).v.values[-1] == 22.0
    assert "sesame" not in repr(pickle.dumps(stores.open(root)))
    with pytest.raises(StoreError, match=r"\(401\)"):
        stores.get(stores.open(root["url"]), "a")
    with pytest.raises(InvalidInputError, match="hold secrets"):
        Settings.from_config(store=root["url"], storage_options={"password": "open-sesame"})


@pytest.mark.server("nginx")
@pytest.mark.server("redis-server")
def test_what_is_declared_for_one_store_is_kept_from_another(
    fetched: Any, guarded: Service, tmp_path: Path
) -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    name = uuid.uuid4().hex
    daskcache.persist(pipeline(), "entry", store=server.directory / "files" / name)
    fetched(password=CANARY, socket_timeout=20)
    daskcache.secret("storage_options")(credentials.fetch)
    home = f"redis://127.0.0.1:{guarded.port}/0/{uuid.uuid4().hex}"
    mirror = {"url": f"{server.endpoint}/{name}", "storage_options": {"anon": True}}
    assert (daskcache.open("entry", store=[home, mirror]).v.values == EXPECTED).all()
    daskcache.persist(pipeline(), "own", store=[home, mirror])
    assert (daskcache.open("own", store=home).v.values == EXPECTED).all()
    with pytest.raises(InvalidInputError, match="takes no storage options"):
        stores.open(mirror["url"])


@pytest.mark.server("nginx")
def test_what_lets_us_in_is_not_sent_on_to_others(fetched: Any, tmp_path: Path) -> None:
    server = start("nginx")
    assert isinstance(server, Service)
    other = services.nginx(elsewhere=server.endpoint)
    other.start()
    try:
        (server.directory / "files" / "sent-on").write_bytes(b"1")
        store = stores.open(f"{other.endpoint}/sent", username="someone", password="open-sesame")
        assert stores.get(store, "sent-on") == b"1"
        with pytest.raises(StoreError, match=r"\(401\)"):
            stores.get(store, "guarded/sent-on")
    finally:
        other.close()

"""No secret is seen anywhere: against a server that checks keys, with a canary that everything is searched for."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import secrets, stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, StoreError
from daskcache.stores import Levels
from tests.servers import credentials
from tests.servers.harness import BUCKET, KEY, Server, moto, request

pytestmark = pytest.mark.slow

AMBIENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Server, dict[str, str]]]:
    """A server that checks signatures, and the key of a user who may do everything."""
    import botocore.session

    server = moto()
    server.start()
    try:
        admin = botocore.session.Session().create_client(
            "iam", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id=KEY, aws_secret_access_key="nobody-checks-yet",
        )  # fmt: skip
        admin.create_user(UserName="someone")
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        }
        admin.put_user_policy(UserName="someone", PolicyName="all", PolicyDocument=json.dumps(policy))
        made = admin.create_access_key(UserName="someone")["AccessKey"]
        admin.close()
        request(server.endpoint, "POST", "/moto-api/reset-auth", b"0")
        yield server, {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
    finally:
        server.kill()


@pytest.fixture
def canary(guarded: tuple[Server, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret, which `credentials.fetch` fetches; there are no ambient ones."""
    for name in AMBIENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(guarded[1]))
    monkeypatch.setenv("TESTS_CREDENTIALS", str(file))
    monkeypatch.setattr(secrets, "_functions", {})
    return guarded[1]["secret"]


@pytest.fixture(params=["fsspec", "obstore"])
def root(
    request: pytest.FixtureRequest, guarded: tuple[Server, dict[str, str]], tmp_path: Path
) -> dict[str, Any]:
    return {
        "url": f"s3://{BUCKET}/{request.param}-{tmp_path.name}",
        "client": request.param,
        "storage_options": {
            "endpoint_url": guarded[0].endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        },
        "secret": "tests.servers.credentials:fetch",
    }


def double(block: np.ndarray) -> np.ndarray:
    return block * 2.0


def fail(block: np.ndarray) -> np.ndarray:
    raise RuntimeError("not this time")


def pipeline(function: Callable[[np.ndarray], np.ndarray] = double) -> xr.Dataset:
    return xr.Dataset({"v": ("x", da.arange(12, chunks=4, dtype="f8").map_blocks(function, dtype="f8"))})


def test_the_server_checks_keys(canary: str, root: dict[str, Any]) -> None:
    wrong = {**root["storage_options"], "key": "AKIAIOSFODNN7WRONGONE", "secret": "wrong" * 8}
    store = stores.open(root["url"], client=root["client"], **wrong)
    with pytest.raises(StoreError, match="s3://bucket"):
        stores.put(store, "a", b"1")
    stores.put(stores.open(root), "a", b"1")


def test_the_canary_is_seen_nowhere(
    canary: str, root: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = look_everywhere(root, tmp_path, caplog)
    seen["errors"] = errors_of(root, canary)
    assert_unseen(canary, seen)


def look_everywhere(root: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Give all that can be seen of a store, and of what is done with it."""
    seen: dict[str, Any] = {}
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True, action="always") as caught, daskcache.activate(root) as active:
        settings = active.settings
        seen["settings"] = [repr(settings), pickle.dumps(settings), str(hash(settings)), repr(active)]
        lazy = pipeline().cache.checkpoint("marked")
        seen["configuration"] = repr(dask.config.config)
        stored = daskcache.persist(pipeline(), "entry")
        assert (stored.v.values == np.arange(12) * 2.0).all()
        assert (lazy.compute().v.values == stored.v.values).all()
        (optimized,) = dask.optimize(pipeline().cache.checkpoint("marked"))
        graph = optimized.__dask_graph__()
        seen["graph"] = [cloudpickle.dumps(graph), cloudpickle.dumps(optimized), repr(dict(graph))]
        seen["shown"] = [repr(stored), stored._repr_html_(), repr(optimized), graph._repr_html_()]
        seen["status"] = [
            repr(stored.cache.status()),
            repr(daskcache.last_run()),
            str(daskcache.status(pipeline().cache.checkpoint("entry"))),
        ]
        seen["explain"] = repr(daskcache.explain(pipeline(), "entry"))
    store = stores.open(root)
    seen["store"] = [repr(store), str(store), pickle.dumps(store), cloudpickle.dumps(store), str(vars(store))]
    seen["levels"] = [repr(levels := Levels(stores.open(tmp_path), store)), pickle.dumps(levels)]
    seen["objects"] = [stores.get(store, key) for key in stores.drive.walk(store, "")]
    assert len(seen["objects"]) > 4
    assert any(b"kerchunk" in data or b"refs" in data for data in seen["objects"])
    seen["warnings"] = [str(one.message) for one in caught]
    seen["log"] = caplog.text
    return seen


def errors_of(root: dict[str, Any], canary: str) -> list[str]:
    """Give the texts of all that can go wrong, as they are shown with what caused them."""
    calls: list[Callable[[], Any]] = [
        lambda: stores.put(stores.open({**root, "url": "s3://not-there/a"}), "a", b"1"),
        lambda: stores.open({**root, "secret": "tests.servers.credentials:fail"}),
        lambda: stores.open({**root, "secret": "tests.servers.credentials:nothing"}),
        lambda: stores.open({**root, "secret": None, "storage_options": {"secret": canary}}),
        lambda: Settings.from_config(store="s3://b", storage_options={"key": "k", "secret": canary}),
        lambda: Settings.from_config(store=f"s3://k:{canary}@bucket/a"),
        lambda: pickle.dumps(stores.open(root["url"], key="AKIA", secret=canary, client=root["client"])),
        lambda: daskcache.persist(pipeline(fail), "broken", store=root),
    ]
    return texts_of(calls)


def texts_of(calls: list[Callable[[], Any]]) -> list[str]:
    """Give the texts of the errors that calls raise."""
    texts = []
    for number, call in enumerate(calls):
        try:
            call()
        except Exception as error:  # noqa: BLE001  (each has an error of its own)
            texts += ["".join(traceback.format_exception(error)), repr(error), str(pickle.dumps(error))]
        else:
            pytest.fail(f"call {number} did not fail")
    return texts


def assert_unseen(canary: str, seen: Any, where: str = "") -> None:
    if isinstance(seen, dict):
        for name, below in seen.items():
            assert_unseen(canary, below, f"{where}/{name}")
    elif isinstance(seen, list):
        for number, below in enumerate(seen):
            assert_unseen(canary, below, f"{where}/{number}")
    elif isinstance(seen, bytes):
        assert canary.encode() not in seen, where
    elif seen is not None:
        assert isinstance(seen, str), (where, type(seen))
        assert canary not in seen, where


def test_the_search_finds_what_is_there(canary: str, root: dict[str, Any]) -> None:
    import zarr.storage

    options = {"key": "k", "secret": canary, "endpoint_url": "http://127.0.0.1:9"}
    theirs = zarr.storage.FsspecStore.from_url("s3://bucket/a", storage_options=options)
    with pytest.raises(AssertionError):
        assert_unseen(canary, {"store": pickle.dumps(theirs)})


CHILD = """
import sys, daskcache
from daskcache import stores
print((daskcache.open("entry", store=sys.argv[1]).v.values == [2.0 * n for n in range(12)]).all())
"""


def test_a_process_that_is_told_the_root_fetches_the_credentials_for_itself(
    canary: str, root: dict[str, Any]
) -> None:
    settings = Settings.from_config(store=root)
    daskcache.persist(pipeline(), "entry", store=root)
    here = str(Path(__file__).parents[2])
    run = lambda **more: subprocess.run(  # noqa: E731
        [sys.executable, "-c", CHILD, settings.store],
        capture_output=True, text=True, check=False, timeout=100, env={**os.environ, "PYTHONPATH": here, **more},
    )  # fmt: skip
    done = run()
    assert done.stdout == "True\n", done.stderr
    done = run(TESTS_CREDENTIALS="/not/there")
    assert done.returncode != 0
    assert "tests.servers.credentials:fetch that fetches credentials failed" in done.stderr
    assert canary not in done.stderr + done.stdout


def test_a_function_that_is_declared_is_used_where_none_is_named(canary: str, root: dict[str, Any]) -> None:
    daskcache.secret("storage_options")(credentials.fetch)
    without = {name: value for name, value in root.items() if name != "secret"}
    settings = Settings.from_config(store=without)
    assert settings == Settings.from_config(store=root)
    stores.put(stores.open(settings.store), "declared", b"1")
    assert Settings.from_config(store="/data").store == "/data"
    anonymous = {"url": "s3://public", "storage_options": {"anon": True}}
    assert "credentials" not in Settings.from_config(store=anonymous).store


def test_a_store_opened_with_values_works_and_does_not_travel(canary: str, root: dict[str, Any]) -> None:
    options = {**root["storage_options"], "key": credentials.fetch()["key"], "secret": canary}
    store = stores.open(root["url"], client=root["client"], **options)
    assert stores.open(root["url"], client=root["client"], **options) is store
    stores.put(store, "a", b"1")
    assert stores.get(store, "a") == b"1"
    with pytest.raises(InvalidInputError, match=r"daskcache\.secret"):
        pickle.dumps(store)
    with pytest.raises(InvalidInputError, match=r"daskcache\.secret"):
        Settings.from_config(store=store)


def test_functions_without_a_name_to_import_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="top of a module"):
        daskcache.secret("storage_options")(lambda: {"key": "k"})

"""The compositions of the docs over real servers, and the configuration that says the same."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import yaml

import daskcache
from daskcache import errors, stores
from daskcache.errors import ReadOnlyError, StoreError
from daskcache.locations import to_root
from daskcache.stores import Fanout, drive
from tests.servers.conftest import start
from tests.servers.harness import BUCKET
from tests.servers.services import RedisPlace, SftpPlace

pytestmark = [pytest.mark.slow, *(pytest.mark.server(name) for name in ("redis-server", "sshd", "nginx"))]

PAGE = (Path(__file__).parents[2] / "docs" / "compositions.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def warn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())


def program(title: str) -> str:
    """Give the last block of Python under a title of the page."""
    _, _, section = PAGE.partition(f"\n## {title}\n")
    return re.findall(r"^```python\n(.*?)^```", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE)[-1]


def configuration() -> Any:
    return yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[-1])[
        "daskcache"
    ]["store"]


NUMBERS = da.arange(200, chunks=10)


@pytest.fixture
def run(ambient: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Give what runs a program of the page, whose names of hosts stand for the servers of the tests."""
    own = uuid.uuid4().hex
    nginx = start("nginx")
    redis = RedisPlace(start("redis"), "redis", None, {}, own)
    sftp = SftpPlace(start("sshd"), "sftp", None, {}, own)
    open_store = stores.open
    (nginx.directory / "files" / own).mkdir()  # type: ignore[attr-defined]
    stores.put(open_store(nginx.directory / "files" / own), "a", b"served")  # type: ignore[attr-defined]

    def open_real(url: str, **options: Any) -> Any:
        scheme, _, rest = url.partition("://")
        if scheme == "redis":
            return open_store(redis.root())
        if scheme == "sftp":
            return open_store(sftp.root())
        if scheme == "https":
            return open_store(f"{nginx.endpoint}/{own}")
        if scheme == "s3":
            options |= {"endpoint_url": start("moto").endpoint, "client_kwargs": {"region_name": "us-east-1"}}
            return open_store(f"s3://{BUCKET}/{own}/{rest}", **options)
        return open_store(url)

    def run_program(title: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        with monkeypatch.context() as patch:
            patch.setattr(stores, "open", open_real)
            exec(compile(program(title), "<example>", "exec"), names)
        return names

    monkeypatch.chdir(tmp_path)
    return run_program


def check_keeps(lake: Any) -> None:
    daskcache.persist(NUMBERS, "numbers", store=lake)
    again = daskcache.persist(NUMBERS, "numbers", store=lake)
    assert daskcache.last_run().computed == 0
    assert np.array_equal(again.compute(), np.arange(200))
    assert np.array_equal(daskcache.open("numbers", store=lake).compute(), np.arange(200))


def count(store: Any) -> int:
    return len([key for key in drive.walk(store, "") if key.startswith("chunks/")])


def test_other_locations(run: Callable[[str], dict[str, Any]]) -> None:
    names = run("Other locations")
    for store in (names["bucket"], names["redis"], names["sftp"]):
        check_keeps(store)
        assert count(store) == 20
    assert stores.get(names["nginx"], "a") == b"served"
    with pytest.raises(ReadOnlyError):
        stores.put(names["nginx"], "a", b"")


def test_several_servers(run: Callable[[str], dict[str, Any]]) -> None:
    names = run("Several disks")
    lake = Fanout(names["one"], names["two"])
    check_keeps(lake)
    assert count(names["one"]) + count(names["two"]) == 20
    assert min(count(names["one"]), count(names["two"])) > 0
    disk = stores.open("mount/hdd1/lake")
    # Here the bucket is the part of another fan-out already.
    with pytest.raises(StoreError, match="not among them"):
        daskcache.persist(NUMBERS, "numbers", store=Fanout(names["two"], disk))
    for key in [key for key in drive.walk(names["two"], "") if "daskcache-fanout" in key]:
        drive.delete(names["two"], key)
    lake = Fanout(names["two"], disk)
    daskcache.persist(NUMBERS + 1, "others", store=lake)
    assert np.array_equal(daskcache.open("others", store=lake).compute(), np.arange(1, 201))
    assert count(disk) > 0


def test_small_objects_in_redis(run: Callable[[str], dict[str, Any]]) -> None:
    lake = run("Small files in Redis")["lake"]
    check_keeps(lake)
    large = da.zeros((40_000,), chunks=20_000) + da.random.default_rng(0).random(40_000, chunks=20_000)
    daskcache.persist(large, "large", store=lake)
    redis, disk = lake.parts
    assert (count(redis), count(disk)) == (20, 22)


def test_all_of_it(run: Callable[[str], dict[str, Any]]) -> None:
    lake = run("All of it")["lake"]
    check_keeps(lake)
    redis, ssd, fanout, nfs, bucket, sftp = lake.parts
    assert [count(store) for store in (redis, ssd, fanout, nfs, bucket, sftp)] == [20, 20, 20, 20, 0, 0]
    daskcache.persist(NUMBERS + 1, "remote", store=sftp)
    daskcache.persist(NUMBERS + 2, "in-bucket", store=bucket)
    for name, first in (("remote", 1), ("in-bucket", 2)):
        assert np.array_equal(daskcache.open(name, store=lake).compute(), np.arange(first, first + 200))
    assert [count(store) for store in (redis, ssd, fanout, nfs)] == [60, 60, 60, 60]


def test_the_configuration_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program("All of it"), "<example>", "exec"), names)
    assert to_root(configuration()) == names["lake"].daskcache_root
    assert repr(stores.open(configuration())) == repr(names["lake"])

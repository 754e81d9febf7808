"""Forgetting, verifying, exporting and reading only, in buckets of real servers."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import icechunk
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError
from daskcache.forgetting.roots import chunk_ids
from daskcache.locations import to_root
from daskcache.stores.remote import PROBE
from tests.servers.harness import BUCKET, KEY, Bucket, Faulty, Server, moto, request

pytestmark = pytest.mark.slow

VALUES = np.arange(12.0) * 2


def pipeline() -> xr.Dataset:
    return xr.Dataset({"v": ("x", da.arange(12, chunks=3, dtype="f8") * 2)})


def chunks_in(root: Any) -> dict[str, tuple[int, float | None]]:
    store = stores.open(root)
    return {
        f"chunks/{group}/{name}": found
        for group in stores.list_dirs(store, "chunks")
        for name, found in stores.list_objects(store, f"chunks/{group}").items()
    }


def test_what_is_dropped_is_swept_by_the_servers_clock(place: Bucket) -> None:
    root = place.root()
    daskcache.persist(pipeline(), "kept", store=root)
    daskcache.persist(pipeline() + 1, "dropped", store=root)
    written = [when for _, when in chunks_in(root).values()]
    assert len(written) == 8
    assert all(when is not None and abs(when - time.time()) < 300 for when in written)
    assert daskcache.expire(max_size=0, store=root, dry_run=True).dropped == 2
    assert daskcache.clear("dropped", store=root).dropped == 1
    assert daskcache.gc(store=root, grace="1h", wait=0).chunks == 0
    time.sleep(2.1)  # servers tell whole seconds
    assert daskcache.gc(store=root, grace="1s", wait=0, dry_run=True).chunks == 4
    swept = daskcache.gc(store=root, grace="1s", wait=0)
    assert (swept.chunks, swept.kept) == (4, 4)
    assert len(chunks_in(root)) == 4
    assert (daskcache.open("kept", store=root).v.values == VALUES).all()
    assert daskcache.gc(store=root, grace=0, wait=0).documents == 0


def test_bad_objects_are_found_and_moved_aside(place: Bucket) -> None:
    root = place.root()
    daskcache.persist(pipeline(), "entry", store=root)
    assert daskcache.verify("entry", store=root).is_sound
    catalog = Catalog(to_root(root), "default")
    (variable,) = catalog.open("entry").variables
    store = stores.open(root)
    one, other, flipped, cut = (f"chunks/{group}/{name}" for group, name in chunk_ids(variable))
    first, second = stores.get(store, one), stores.get(store, other)
    damaged = bytearray(stores.get(store, flipped))
    damaged[5] ^= 1
    assert len(first) == len(second)
    for key, data in [(one, second), (other, first), (flipped, bytes(damaged)), (cut, first[:20])]:
        stores.put(store, key, data)
    found = daskcache.verify("entry", store=root, quarantine=True)
    assert [finding.problem for finding in found.findings] == ["other", "other", "damaged", "damaged"]
    assert len(found.quarantined) == 4
    assert {finding.problem for finding in daskcache.verify(store=root).findings} == {"missing"}
    assert (daskcache.persist(pipeline(), "entry", store=root).v.values == VALUES).all()
    assert daskcache.verify("entry", store=root, fill=True).filled == 4
    assert daskcache.verify("entry", store=root).is_sound


def test_an_entry_is_exported(place: Bucket, tmp_path: Path) -> None:
    root = place.root()
    daskcache.persist(pipeline(), "entry", store=root)
    for name, form in [("a.zarr", None), ("b.zarr", "zarr2"), ("c.nc", None)]:
        path = daskcache.export("entry", tmp_path / name, format=form, store=root)
        with xr.open_dataset(path, engine="h5netcdf" if name == "c.nc" else "zarr") as found:
            assert (found.v.values == VALUES).all()
    if place.scheme == "s3":
        check_references(place, root, tmp_path)
    with pytest.raises(InvalidInputError, match="choose zarr or zarr2"):
        daskcache.export("entry", place.root("/out.nc")["url"], store=root)
    target = place.root("/out")
    with dask.config.set({"daskcache.storage-options": target["storage_options"]}):
        for form in ("zarr", "zarr2"):
            url = f"{target['url']}/{form}.zarr"
            assert daskcache.export("entry", url, format=form, store=root) == url
            found = xr.open_zarr(stores.open({**target, "url": url}), chunks=None)
            assert (found.v.values == VALUES).all()


def check_references(bucket: Bucket, root: dict[str, Any], directory: Path) -> None:
    """What refers to the pool's objects is read by readers with credentials of their own."""
    references = daskcache.export("entry", directory / "d.json", store=root)
    remote = {"remote_protocol": "s3", "remote_options": {**root["storage_options"], "asynchronous": True}}
    options = {"consolidated": False, "storage_options": {"fo": references, **remote}}
    with xr.open_dataset("reference://", engine="zarr", backend_kwargs=options) as found:
        assert (found.v.values == VALUES).all()
    storage = icechunk.local_filesystem_storage(
        daskcache.export("entry", directory / "e.icechunk", store=root)
    )
    (prefix,) = icechunk.Repository.fetch_config(storage).virtual_chunk_containers
    access = icechunk.containers_credentials({prefix: icechunk.s3_credentials(from_env=True)})
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
    with xr.open_zarr(repository.readonly_session("main").store, consolidated=False) as found:
        assert (found.v.values == VALUES).all()


@pytest.fixture(scope="module")
def signed() -> Any:
    """A server that checks keys: one of a writer, and one of somebody who may only read."""
    import botocore.session

    server = moto()
    server.start()
    try:
        admin = botocore.session.Session().create_client(
            "iam", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id=KEY, aws_secret_access_key="nobody-checks-yet",
        )  # fmt: skip
        keys = {}
        for name, actions in [("writer", "s3:*"), ("reader", ["s3:Get*", "s3:List*", "s3:Head*"])]:
            admin.create_user(UserName=name)
            policy = {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
            }
            admin.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
            made = admin.create_access_key(UserName=name)["AccessKey"]
            keys[name] = (made["AccessKeyId"], made["SecretAccessKey"])
        admin.close()
        request(server.endpoint, "POST", "/moto-api/reset-auth", b"0")
        yield server, keys
    finally:
        server.kill()


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_a_credential_that_may_only_read_attempts_no_write(
    client: str,
    signed: tuple[Server, dict[str, tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server, keys = signed

    def become(name: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[name][0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[name][1])

    def root_at(endpoint: str) -> dict[str, Any]:
        options = {"endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}
        return {
            "url": f"s3://{BUCKET}/{tmp_path.name}-{client}",
            "client": client,
            "storage_options": options,
        }

    become("writer")
    daskcache.persist(pipeline(), "entry", store=root_at(server.endpoint))
    stores.delete(stores.open(root_at(server.endpoint)), PROBE)
    become("reader")
    proxy = Faulty(server)
    try:
        root = root_at(proxy.endpoint)
        with dask.config.set({"daskcache.mode": "read"}), daskcache.activate(root):
            with warnings.catch_warnings(action="error"):
                assert (daskcache.open("entry").v.values == VALUES).all()
                assert (pipeline().cache.checkpoint("entry").compute().v.values == VALUES).all()
                assert (pipeline().cache.checkpoint("new").compute().v.values == VALUES).all()
                assert ((pipeline() + 5).cache.checkpoint("other").compute().v.values == VALUES + 5).all()
                assert daskcache.verify().is_sound
                daskcache.gc(dry_run=True, wait=0)
                daskcache.export("entry", tmp_path / "out.zarr")
            for write in (lambda: daskcache.persist(pipeline(), "entry"), lambda: daskcache.clear("entry")):
                with pytest.raises(ReadOnlyError, match="is 'read'"):
                    write()
        assert proxy.methods["GET"] > 4
        assert set(proxy.methods) <= {"GET", "HEAD"}
        # The server would have refused: whoever may not write and is not told so gets a result, and an error of persist's.
        with daskcache.activate(root), warnings.catch_warnings(action="ignore"):
            assert ((pipeline() + 7).cache.checkpoint("other").compute().v.values == VALUES + 7).all()
        with pytest.raises((ReadOnlyError, StoreError)):
            daskcache.persist(pipeline() + 9, "nine", store=root)
        assert proxy.methods["PUT"] > 0
    finally:
        proxy.close()
    become("writer")
    assert not stores.exists(stores.open(root_at(server.endpoint)), PROBE)

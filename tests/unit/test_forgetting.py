"""Dropping versions, and sweeping blocks that nothing needs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import dask.config
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog, use
from daskcache.cli import cache
from daskcache.config import Settings
from daskcache.errors import (
    CorruptChunkError,
    EntryNotFoundError,
    InvalidInputError,
    ReadOnlyError,
    StoreError,
)
from daskcache.forgetting import Reuse, lease, reuse, wait_for_sweep
from daskcache.forgetting.lease import Lease
from daskcache.forgetting.roots import Pool
from tests import producers
from tests.producers import count, doubled, objects

DAY = 86400


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.fixture(autouse=True)
def _forgets_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_kept", {})
    monkeypatch.setattr(use, "_looked", {})


def age(root: Path, days: float) -> None:
    """Let everything in a store be older."""
    for path in [path for path in root.rglob("*") if path.is_file()]:
        written = path.stat().st_mtime - days * DAY
        os.utime(path, (written, written))


def gc(**arguments: Any) -> Any:
    return daskcache.gc(wait=0, **arguments)


def test_what_a_version_names_stays(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    age(store_root, 400)
    swept = gc()
    assert (swept.chunks, swept.kept) == (0, 4)
    assert (daskcache.open("x").compute() == np.arange(12) * 2).all()


def test_blocks_go_one_grace_period_after_their_last_version(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.persist(doubled() + 1, "y")
    size = sum(path.stat().st_size for path in objects(store_root))
    age(store_root, 30)
    assert daskcache.clear("x").dropped == 1
    with pytest.raises(EntryNotFoundError):
        daskcache.open("x")
    assert gc().chunks == 0, "its tombstone protects them"
    age(store_root, 8)
    before = gc(dry_run=True)
    assert (before.chunks, len(objects(store_root))) == (4, 8)
    swept = gc()
    assert (swept.chunks, swept.kept, swept.documents) == (4, 4, before.documents)
    assert swept.chunk_bytes + swept.kept_bytes == size
    assert (daskcache.open("y").compute() == np.arange(12) * 2 + 1).all()
    assert not list(store_root.rglob("*.dropped"))
    again = gc()
    assert (again.chunks, again.documents, again.leftovers) == (0, 0, 0)


def test_what_was_dropped_by_mistake_is_published_again_without_computing(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.clear("x")
    gc()
    count()
    daskcache.persist(doubled(), "x")
    assert count() == 0
    age(store_root, 8)
    assert gc().chunks == 0, "the old tombstone protects nothing, the new version does"
    assert (daskcache.open("x").compute() == np.arange(12) * 2).all()


def test_young_blocks_stay(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    for path in [*(store_root / "namespaces").rglob("*.*"), *(store_root / "runs").iterdir()]:
        path.unlink()
    assert gc().chunks == 0
    assert gc(grace="0s").chunks == 4


def test_what_an_unfinished_run_wants_stays_for_keep(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    break_off(store_root)
    age(store_root, 80)
    assert gc().chunks == 0
    count()
    daskcache.persist(doubled(), "x")
    assert (reused(), count()) == (4, 0), "the blocks of the broken run are found"
    break_off(store_root)
    for path in (store_root / "runs").iterdir():
        path.touch()
    age(store_root, 89)
    assert gc().chunks == 0
    age(store_root, 2)
    assert gc().chunks == 4
    assert not list((store_root / "runs").iterdir())


def break_off(root: Path) -> None:
    """Leave of a run what it leaves when it is killed before it publishes."""
    shutil.rmtree(root / "namespaces")
    for path in (root / "runs").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "finished": None}))


@pytest.mark.parametrize("what", ["idx", "run", "namespace"])
def test_it_refuses_where_it_cannot_tell_what_is_needed(
    store_root: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.persist(doubled() + 1, "y", namespace="other")
    daskcache.clear("x")
    age(store_root, 30)
    if what == "idx":
        (index,) = (store_root / "namespaces/other/y/@").glob("*.idx")
        index.write_bytes(index.read_bytes()[:-1])
        error, message = CorruptChunkError, "namespaces/other/y/@/.* cannot be read, so nobody knows"
    elif what == "run":
        next((store_root / "runs").iterdir()).write_bytes(b"{")
        error, message = CorruptChunkError, "runs/.*: a run's record is damaged"
    else:
        real = stores.local.list_dirs

        def list_dirs(path: str) -> list[str]:
            if path.endswith("namespaces/other"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(stores.local, "list_dirs", list_dirs)
        error, message = StoreError, "cannot list namespaces/other"
    for dry_run in (True, False):
        with pytest.raises(error, match=message):
            gc(dry_run=dry_run)
    assert len(objects(store_root)) == 8
    assert not list((store_root / "gc").iterdir()), "the lease was given back"


def test_leftovers_go(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    first = objects(store_root)[0]
    stores.rename_aside(stores.open(str(store_root)), str(first.relative_to(store_root)))
    partials = [first.parent, store_root / "runs", store_root / "namespaces/default/x/@"]
    for directory in partials:
        (directory / "a.0123.partial").write_bytes(b"half")
    assert gc().leftovers == 0
    age(store_root, 8)
    assert gc(dry_run=True).leftovers == 4
    assert gc().leftovers == 4
    assert not list(store_root.rglob("*.partial"))
    assert not [path for path in (store_root / "quarantine").rglob("*") if path.is_file()]


def test_one_process_sweeps_at_a_time(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    store = stores.open(str(store_root))
    held = Lease.take(store, time.time)
    with pytest.raises(StoreError, match=r"another process is sweeping .* and said so"):
        gc()
    assert gc(dry_run=True).kept == 4, "which only looks"
    old = Lease(held.id, time.time() - 3600)
    stores.put(store, "gc/lease.json", old._to_json())
    assert gc().kept == 4, "the other has died"
    with pytest.raises(StoreError, match="took over"):
        held.refresh(store, 1, time.time)


def test_publishing_waits_for_the_batch_in_flight(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    store = stores.open(str(store_root))
    held = Lease.take(store, time.time).refresh(store, 3, time.time)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            held.refresh(store, 4, time.time)

    wait_for_sweep(str(store_root), sleep=sleep)
    assert len(waited) == 3, "the next batch knows of the run"
    dead = Lease(held.id, time.time() - 3 * lease.BATCH_S, 5)
    stores.put(store, "gc/lease.json", dead._to_json())
    wait_for_sweep(str(store_root), sleep=sleep)
    assert len(waited) == 3
    held.release(store)


def test_what_is_swept_before_it_is_published_is_computed_again(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daskcache.persist(doubled(), "x", namespace="other")
    count()
    gone = []

    def sweeps(root: str) -> None:
        if not gone:
            gone.append(objects(store_root)[0])
            gone[0].unlink()

    monkeypatch.setattr("daskcache.publishing.wait_for_sweep", sweeps)
    result = daskcache.persist(doubled(), "x")
    assert gone
    assert count() == 1
    assert (result.compute() == np.arange(12) * 2).all()


def test_old_blocks_that_nothing_needs_count_as_missing(store_root: Path) -> None:
    daskcache.persist(doubled(), "x", namespace="other")
    count()
    age(store_root, 3.6)
    daskcache.persist(doubled(), "x")
    assert (reused(), count()) == (4, 0), "another namespace needs them"
    daskcache.clear("x")
    daskcache.clear("x", namespace="other")
    reuse._kept.clear()
    for path in (store_root / "runs").iterdir():
        path.unlink()
    blocks = objects(store_root)
    for path in blocks:
        os.utime(path)
    daskcache.persist(doubled(), "young")
    assert reused() == 4
    daskcache.clear("young")
    age(store_root, 3.6)
    reuse._kept.clear()
    for path in (store_root / "runs").iterdir():
        path.unlink()
    daskcache.persist(doubled(), "old")
    assert reused() == 0, "nothing protects them"
    assert objects(store_root) == blocks


def reused() -> int:
    run = daskcache.last_run()
    assert run is not None
    return run.reused


def test_reuse_reads_nothing_for_young_blocks(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "documents", lambda pool: pytest.fail("it was read"))
    safe = Reuse(Settings.from_config(), "r1").is_safe
    block: Any = None
    assert safe(block, time.time() - 3 * DAY)
    assert safe(block, None)


def test_expire_by_date_age_use_and_size(store_root: Path) -> None:
    for name in "abc":
        daskcache.persist(doubled() + ord(name), name, expires="1 hour" if name == "a" else None)
    assert daskcache.expire().dropped == 0
    catalog = Catalog(str(store_root))
    info = catalog.versions("a")[0]
    published = datetime.fromisoformat(info.time)
    assert info.expires == (published + timedelta(hours=1)).isoformat()
    backdate(catalog, "a", hours=2)
    assert [entry for entry, _ in daskcache.expire(dry_run=True).versions] == ["a"]
    assert daskcache.expire().dropped == 1
    backdate(catalog, "b", days=40)
    backdate(catalog, "c", days=20)
    assert daskcache.expire(older_than="60d", unused_for=50 * DAY, max_size="1 GiB").dropped == 0
    daskcache.open("b")
    assert daskcache.expire(unused_for="30d").dropped == 0, "it was opened"
    one = catalog.versions("b")[0].size_bytes
    assert [entry for entry, _ in daskcache.expire(max_size=one).versions] == ["c"], "which nobody opened"
    assert [entry for entry, _ in daskcache.expire(older_than="30d").versions] == ["b"]
    assert catalog.entries() == []


def backdate(catalog: Catalog, entry: str, **age: float) -> None:
    manifest = catalog.open(entry)
    then = (datetime.now(UTC) - timedelta(**age)).isoformat(timespec="microseconds")
    catalog.rewrite(entry, _published(manifest, then))


def _published(manifest: Any, then: str) -> Any:
    from dataclasses import replace

    return replace(
        manifest, info={**manifest.info, "published": {**manifest.info["published"], "time": then}}
    )


def test_shared_blocks_count_once(store_root: Path) -> None:
    for name in "abc":
        daskcache.persist(doubled(), name)
    one = Catalog(str(store_root)).versions("a")[0].size_bytes
    assert daskcache.expire(max_size=one).dropped == 0
    assert daskcache.expire(max_size=one - 1).dropped == 3


def test_the_least_recently_used_go_until_the_rest_fits(store_root: Path) -> None:
    catalog = Catalog(str(store_root))
    rng = np.random.default_rng(0)
    # From the newest to the oldest, by days: sizes in thousands of numbers, which do not compress.
    for days, (name, length) in enumerate({"a": 1, "b": 9, "c": 2, "d": 1, "e": 1}.items()):
        daskcache.persist(da.from_array(rng.random(length * 1000), chunks=1000), name)
        backdate(catalog, name, days=days)
    size = {name: catalog.versions(name)[0].size_bytes for name in "abcde"}

    def left_by(max_size: int) -> str:
        gone = {entry for entry, _ in daskcache.expire(max_size=max_size, dry_run=True).versions}
        return "".join(sorted(size.keys() - gone))

    assert left_by(sum(size.values())) == "abcde"
    assert left_by(sum(size.values()) - 1) == "abcd"
    assert left_by(size["a"] + size["b"]) == "ab"
    # What came before goes although it would fit: it is the least recently used.
    assert left_by(size["a"] + size["b"] - 1) == "a"
    # What cannot stay in any case drives nothing out.
    assert left_by(size["b"] - 1) == "acde"
    assert left_by(size["a"] + size["c"] + size["d"]) == "acd"
    assert left_by(size["a"] + size["c"] - 1) == "a"
    assert left_by(size["a"] - 1) == ""


def test_a_checkpoint_expires_and_its_use_is_noted(store_root: Path) -> None:
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x", expires=3600)
        x.compute()
        catalog = Catalog(str(store_root))
        info = catalog.versions("x")[0]
        assert info.expires is not None
        assert catalog.runs.read_all()[0].finished is not None
        records = set(catalog.runs.names())
        latest = json.loads((store_root / "namespaces/default/x/@/latest").read_bytes())
        (store_root / "namespaces/default/x/@/latest").write_text(
            json.dumps({**latest, "time": "2026-01-01T00:00:00+00:00"})
        )
        x.compute()
        assert set(catalog.runs.names()) == records, "a run that found all needs no record"
        assert list((store_root / "namespaces/default/x/@").glob("*.used"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"older_than": "soon"},
        {"older_than": "30"},
        {"older_than": "-1d"},
        {"unused_for": []},
        {"max_size": "much"},
        {"max_size": -1},
    ],
)
def test_what_is_no_span_or_size_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"; expected a (span|size)"):
        daskcache.expire(**arguments)
    with pytest.raises(InvalidInputError, match="expected a span"):
        daskcache.persist(doubled(), expires="soon")


def test_a_namespace_that_is_read_only_drops_nothing(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    with dask.config.set({"daskcache.namespaces": {"default": {"mode": "read"}}}):
        for forget in (daskcache.expire, daskcache.clear):
            with pytest.raises(ReadOnlyError, match="is 'read'"):
                forget()
        assert daskcache.clear(dry_run=True).dropped == 1
    assert daskcache.clear().dropped == 1


def test_commands(store_root: Path) -> None:
    daskcache.persist(doubled(), "x", expires="1d")
    daskcache.persist(doubled() + 1, "y")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cache, ["--store", str(store_root), *arguments])

    listed = run("versions", "x")
    assert "(latest)" in listed.output
    assert Catalog(str(store_root)).versions("x")[0].expires in listed.output
    assert json.loads(run("versions", "x", "--json").output)[0]["nblocks"] == 4
    assert run("expire", "--max-size", "1 GiB").output == "dropped 0 versions of namespace 'default'\n"
    assert "  y@" in run("expire", "--older-than", "0s", "--dry-run").output
    assert run("clear").exit_code == 1
    assert run("clear", "x", "--all").exit_code == 1
    assert run("clear", "x@").exit_code == 1
    assert "dropped 1 versions" in run("clear", "x").output
    assert "would drop 1 versions" in run("clear", "--all", "--dry-run").output
    swept = run("gc", "--grace", "0s", "--wait", "0s", "--dry-run")
    assert swept.output.startswith("would delete 4 blocks (")
    assert json.loads(run("gc", "--grace", "0", "--wait", "0s", "--json").output)["chunks"] == 4
    assert len(objects(store_root)) == 4


def test_a_record_is_refreshed_while_its_run_lasts(store_root: Path) -> None:
    catalog = Catalog(str(store_root))
    seen = threading.Event()

    @daskcache.version("1")
    def watch(block: Any) -> Any:
        (path,) = (store_root / "runs").glob("*.json")
        first = path.stat().st_mtime_ns
        for _ in range(200):
            time.sleep(0.02)
            if path.stat().st_mtime_ns > first:
                seen.set()
                break
        return block

    with dask.config.set({"daskcache.forgetting.keep": "0.4s", "scheduler": "sync"}):
        daskcache.persist(da.arange(2, chunks=2).map_blocks(watch, dtype="i8"), "x")
    assert seen.is_set()
    assert catalog.runs.read_all()[0].finished is not None


def test_in_memory_variables_are_protected_too(store_root: Path) -> None:
    big = xr.Dataset(
        {"a": ("x", np.random.default_rng(0).random(20000)), "b": ("x", da.arange(20000, chunks=20000))}
    )
    daskcache.persist(big, "x")
    record = Catalog(str(store_root)).runs.read_all()[0]
    assert {wanted.variable for wanted in record.wants} == {"a", "b"}

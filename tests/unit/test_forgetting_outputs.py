"""Forgetting what was stored without a name: blocks that packs list."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import dask.config
import numpy as np
import pytest
from click.testing import CliRunner

import daskcache
from daskcache.catalog import list_packs
from daskcache.cli import cache
from daskcache.errors import DaskcacheWarning
from tests import producers
from tests.producers import count, doubled, objects

EXPECTED = np.arange(12) * 2
DAY = 86400.0


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))
    with daskcache.activate(policy="outputs"):
        yield


def store_outputs() -> None:
    assert (doubled().compute() == EXPECTED).all()


def age(paths: list[Path], days: float) -> None:
    for path in paths:
        os.utime(path, (time.time() - days * DAY,) * 2)


def test_they_stay_as_long_as_they_are_listed(store_root: Path) -> None:
    store_outputs()
    age(objects(store_root), 400)
    assert daskcache.gc(wait=0).chunks == 0
    count()
    store_outputs()
    assert count() == 0


@pytest.mark.parametrize("argument", ["older_than", "unused_for"])
def test_old_ones_are_dropped_block_by_block(store_root: Path, argument: str) -> None:
    store_outputs()
    old = objects(store_root)[:3]
    age(old, 100)
    assert daskcache.expire(**{argument: "90d"}, dry_run=True).unnamed == 3
    found = daskcache.expire(**{argument: "90d"})
    assert (found.unnamed, found.dropped) == (3, 0)
    assert "3 blocks without a name" in str(found)
    assert daskcache.expire(**{argument: "90d"}).unnamed == 0
    # Runs that have found them may count on them for one grace period.
    assert daskcache.gc(wait=0).chunks == 0
    age(list(store_root.glob("namespaces/default/@/*.dropped")), 8)
    swept = daskcache.gc(wait=0)
    assert (swept.chunks, swept.kept, swept.documents) == (3, 1, 1)
    assert not any(path.exists() for path in old)
    count()
    store_outputs()
    assert count() == 3
    store_outputs()
    assert count() == 0


def test_what_is_dropped_and_stored_again_stays(store_root: Path) -> None:
    store_outputs()
    assert daskcache.clear().unnamed == 4
    assert list_packs(str(store_root), "default") == []
    count()
    store_outputs()
    assert list_packs(str(store_root), "default")
    age([*objects(store_root), *store_root.glob("namespaces/default/@/*.dropped")], 8)
    assert daskcache.gc(wait=0).chunks == 0
    count()
    store_outputs()
    assert count() == 0


def test_they_count_towards_a_size(store_root: Path) -> None:
    store_outputs()
    age(objects(store_root), 2)
    daskcache.persist(doubled() + 1, "named")
    nbytes = sum(path.stat().st_size for path in objects(store_root))
    assert daskcache.expire(max_size=nbytes).unnamed == 0
    oldest = objects(store_root)
    found = daskcache.expire(max_size=nbytes - 1, dry_run=True)
    assert (found.unnamed, found.dropped) == (1, 0)
    assert daskcache.expire(max_size=0).dropped == 1
    assert list_packs(str(store_root), "default") == []
    assert objects(store_root) == oldest


def test_the_command_clears_them(store_root: Path) -> None:
    store_outputs()
    shown = CliRunner().invoke(cache, ["--store", str(store_root), "clear", "--all"]).output
    assert shown == "dropped 0 versions and 4 blocks without a name of namespace 'default'\n"


def test_a_private_pool_has_its_own(store_root: Path) -> None:
    with (
        dask.config.set({"daskcache.namespaces": {"ours": {"pool": "private"}}}),
        daskcache.activate(policy="outputs", namespace="ours"),
    ):
        store_outputs()
        assert daskcache.expire(max_size=0, namespace="ours").unnamed == 4
        assert daskcache.gc(grace=0, wait=0).chunks == 4
        assert not list(store_root.rglob("*.dropped"))


def test_verify_reads_them(store_root: Path) -> None:
    store_outputs()
    found = daskcache.verify()
    assert (found.blocks, found.is_sound) == (4, True)
    assert daskcache.verify(fill=True).filled == 4
    assert daskcache.verify().unproven == 0
    path = objects(store_root)[1]
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    (finding,) = daskcache.verify(quarantine=True).findings
    assert finding.problem == "damaged"
    assert str(finding).startswith("damaged: default/@")
    count()
    with pytest.warns(DaskcacheWarning, match="computed again"):
        store_outputs()
    assert count() == 1
    assert daskcache.verify().is_sound

"""Forgetting and verifying through levels and limits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskcache
from daskcache import stores
from daskcache.errors import StoreError
from tests import producers
from tests.producers import doubled, objects

EXPECTED = np.arange(12) * 2

FORMS = {
    "levels": lambda path: [{"url": f"{path}/fast", "write": False}, {"url": f"{path}/home"}],
    "written": lambda path: [{"url": f"{path}/fast", "max_size": "1 MB"}, {"url": f"{path}/home"}],
    "limited": lambda path: {"url": f"{path}/home", "max_size": "1 MB"},
    "small": lambda path: {"url": f"{path}/home", "max_object": "1 MB"},
}


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


@pytest.fixture(params=FORMS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return FORMS[request.param](tmp_path)


def test_what_is_dropped_is_swept_from_every_level(store: Any, tmp_path: Path) -> None:
    kept = daskcache.persist(doubled(), "kept", store=store)
    dropped = daskcache.persist(doubled() + 1, "dropped", store=store)
    # Copies are made on the way.
    assert (kept.compute() == EXPECTED).all()
    assert (dropped.compute() == EXPECTED + 1).all()
    levels = [tmp_path / "home", *([tmp_path / "fast"] if isinstance(store, list) else [])]
    assert [len(objects(level)) for level in levels] == [8] * len(levels)
    assert daskcache.clear("dropped", store=store).dropped == 1
    assert daskcache.gc(store=store, wait=0).chunks == 0
    for path in (tmp_path / "home").rglob("*"):
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    swept = daskcache.gc(store=store, wait=0)
    # The tombstone, and the records of two runs.
    assert (swept.chunks, swept.kept, swept.documents) == (4, 4, 3)
    assert [len(objects(level)) for level in levels] == [4] * len(levels)
    assert (daskcache.open("kept", store=store).compute() == EXPECTED).all()
    assert daskcache.verify(store=store).is_sound
    assert daskcache.expire(max_size=0, store=store).dropped == 1


def test_a_mirror_is_left_alone(tmp_path: Path) -> None:
    mirror = {"url": f"{tmp_path}/mirror", "read_only": True}
    daskcache.persist(doubled(), "theirs", store=f"{tmp_path}/mirror")
    chain = [{"url": f"{tmp_path}/home"}, mirror]
    daskcache.persist(doubled() + 1, "ours", store=chain)
    before = {path: path.read_bytes() for path in (tmp_path / "mirror").rglob("*") if path.is_file()}
    assert daskcache.clear("ours", store=chain).dropped == 1
    assert daskcache.gc(store=chain, grace=0, wait=0).chunks == 4
    # What is left are copies of theirs, which ours was computed from.
    names = [{path.name for path in objects(tmp_path / level)} for level in ("home", "mirror")]
    assert names[0] == names[1]
    assert {path: path.read_bytes() for path in (tmp_path / "mirror").rglob("*") if path.is_file()} == before
    assert (daskcache.open("theirs", store=chain).compute() == EXPECTED).all()


def test_what_only_a_mirror_holds_does_not_count(tmp_path: Path) -> None:
    daskcache.persist(doubled(), "theirs", store=f"{tmp_path}/mirror")
    daskcache.clear("theirs", store=f"{tmp_path}/mirror")
    chain = [{"url": f"{tmp_path}/home"}, {"url": f"{tmp_path}/mirror", "read_only": True}]
    swept = daskcache.gc(store=chain, grace=0, wait=0)
    assert (swept.chunks, swept.kept, swept.leftovers) == (0, 0, 0)
    assert len(objects(tmp_path / "mirror")) == 4


def test_nothing_is_swept_where_the_home_does_not_answer(tmp_path: Path) -> None:
    chain = [{"url": f"{tmp_path}/fast", "write": False}, {"url": f"{tmp_path}/home"}]
    daskcache.persist(doubled(), "entry", store=chain).compute()
    copies = objects(tmp_path / "fast")
    os.rename(tmp_path / "home", tmp_path / "away")
    (tmp_path / "home").write_bytes(b"no directory")
    with pytest.raises(StoreError):
        daskcache.gc(store=chain, grace=0, wait=0)
    assert objects(tmp_path / "fast") == copies
    assert len(copies) == 4
    assert stores.list_sizes(stores.open(tmp_path / "away"), "gc") == {}

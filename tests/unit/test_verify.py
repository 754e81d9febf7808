"""What `verify` finds, and what a rerun does about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import dask.array as da
import dask.config
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import daskcache
from daskcache import publishing
from daskcache.cli import cache
from daskcache.errors import (
    DaskcacheWarning,
    EntryNotFoundError,
    InvalidInputError,
    ReadOnlyError,
    StoreError,
)
from tests import producers
from tests.producers import count, doubled, objects

EXPECTED = np.arange(12) * 2


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def problems(**arguments: Any) -> list[str]:
    return sorted(finding.problem for finding in daskcache.verify(**arguments).findings)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_a_sound_store(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.persist(doubled(), "same")
    found = daskcache.verify()
    assert found.is_sound
    assert (found.versions, found.blocks) == (2, 4)
    assert found.size_bytes == sum(path.stat().st_size for path in objects(store_root))
    assert "all is well" in str(found)


@pytest.mark.parametrize("position", [0, 5, 20, -1, -4])
def test_a_flipped_bit(store_root: Path, position: int) -> None:
    daskcache.persist(doubled(), "x")
    flip(objects(store_root)[1], position)
    assert problems() == ["damaged"]


@pytest.mark.parametrize("size", [0, 3, 20, -1])
def test_truncation(store_root: Path, size: int) -> None:
    daskcache.persist(doubled(), "x")
    path = objects(store_root)[2]
    path.write_bytes(path.read_bytes()[:size])
    assert problems() == ["damaged"]


def test_a_missing_block(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    objects(store_root)[0].unlink()
    (finding,) = daskcache.verify("x").findings
    assert finding.problem == "missing"
    assert str(finding).startswith("missing: default/x@")


@pytest.mark.parametrize("codec", ["blosc", "none"])
def test_exchanged_blocks_are_found_at_once(store_root: Path, codec: str) -> None:
    with dask.config.set({"daskcache.codecs": {"name": codec}}):
        daskcache.persist(doubled(), "x")
        assert daskcache.verify().unproven == 0
        one, other = objects(store_root)[:2]
        assert one.stat().st_size == other.stat().st_size
        swap(one, other)
        assert problems() == ["other", "other"]
        found = daskcache.verify(quarantine=True)
        assert len(found.quarantined) == 2
        assert problems() == ["missing", "missing"]
        count()
        assert (daskcache.persist(doubled(), "x").compute() == EXPECTED).all()
        assert count() == 2
        again = daskcache.verify()
        assert again.is_sound
        assert again.unproven == 0, "of the others the checksums were kept"


def test_exchanged_blocks_with_inner_chunks(store_root: Path) -> None:
    rng = np.random.default_rng(0)
    # Of the lengths 1, 2 and 1 come shards with inner chunks of 1.
    irregular = da.from_array(rng.random((6, 9000)), chunks=((1, 2, 2, 1), 9000))
    with dask.config.set({"daskcache.codecs": {"name": "none"}}):
        daskcache.persist(irregular, "x")
    assert len(daskcache.catalog.Catalog(str(store_root), "default").versions("x")) == 1
    assert daskcache.catalog.Catalog(str(store_root), "default").open("x").variables[0].grid.kind == "inner"
    assert daskcache.verify().is_sound
    paths = sorted(objects(store_root), key=lambda path: path.stat().st_size)
    for one, other in (paths[:2], paths[2:]):
        assert one.stat().st_size == other.stat().st_size
        swap(one, other)
        assert problems() == ["other", "other"]
        swap(one, other)
    assert daskcache.verify().is_sound


def store_by(way: str, array: da.Array) -> None:
    """Store an array as users can."""
    if way == "persist":
        daskcache.persist(array, "x")
    elif way == "persist again":
        # As a run that is killed leaves them: whole, and in no manifest.
        daskcache.persist(array, "x")
        daskcache.clear("x")
        daskcache.persist(array, "x")
    elif way == "outputs":
        with daskcache.activate(policy="outputs"):
            array.compute()
    else:
        with daskcache.activate():
            marked = daskcache.checkpoint(array, "x")
            (marked.sum() if way == "checkpoint below" else marked).compute()


@pytest.mark.parametrize("way", ["persist", "persist again", "checkpoint", "checkpoint below", "outputs"])
def test_exchanged_blocks_are_found_however_they_were_stored(store_root: Path, way: str) -> None:
    store_by(way, doubled())
    assert daskcache.verify().unproven == 0
    one, *_, other = objects(store_root)
    assert one.stat().st_size == other.stat().st_size
    swap(one, other)
    assert problems() == ["other", "other"]


@pytest.mark.parametrize("way", ["persist", "checkpoint", "outputs"])
@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_exchanged_blocks_are_found_whoever_stored_them(store_root: Path, way: str, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler, num_workers=2):
        store_by(way, doubled())
    deadline = time.monotonic() + 20
    while daskcache.verify().unproven and time.monotonic() < deadline:
        time.sleep(0.1)  # processes list what they stored as outputs some seconds later
    swap(*objects(store_root)[:2])
    assert problems() == ["other", "other"]


def test_checksums_are_those_of_the_home_and_not_of_a_damaged_copy(tmp_path: Path, calls: None) -> None:
    chain = [{"url": str(tmp_path / "fast"), "write": False}, {"url": str(tmp_path / "home")}]
    with dask.config.set({"daskcache.store": chain}):
        daskcache.persist(doubled(), "x").compute()
        daskcache.clear("x")
        for path in objects(tmp_path / "fast"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        daskcache.persist(doubled(), "x")
    assert daskcache.verify(store=str(tmp_path / "home")).is_sound


def test_a_store_that_gives_no_ends_of_objects_is_published_to_all_the_same(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.clear("x")

    def fail(*args: Any) -> None:
        raise StoreError("the store failed")

    monkeypatch.setattr(publishing, "read_checksum", fail)
    daskcache.persist(doubled(), "x")
    assert daskcache.verify().unproven == 4


def test_what_no_checksum_is_known_of(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of blocks with inner chunks that another run stored: they are proven once `fill` was asked for."""
    daskcache.persist(doubled(), "x")
    daskcache.clear("x")
    monkeypatch.setattr(publishing, "read_checksum", lambda *args: None)
    daskcache.persist(doubled(), "x")
    assert daskcache.verify("x").unproven == 4
    filled = daskcache.verify(fill=True)
    assert (filled.filled, filled.unproven) == (4, 0)
    assert daskcache.verify().unproven == 0
    assert daskcache.verify(fill=True).filled == 0
    swap(*objects(store_root)[:2])
    assert problems() == ["other", "other"]


def test_checksums_and_digests_are_copied_to_the_next_version(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.verify(fill=True)
    daskcache.persist(doubled(15), "x")
    catalog = daskcache.catalog.Catalog(str(store_root), "default")
    (variable,) = catalog.open("x").variables
    assert variable.checksums is not None
    assert variable.checksums.all()
    assert variable.digests is not None
    assert variable.digests.any(axis=1).tolist() == [True] * 4 + [False]
    assert daskcache.verify("x").unproven == 0
    assert daskcache.verify("x", fill=True).filled == 1


def test_what_is_quarantined_is_computed_and_created_anew(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    flip(objects(store_root)[3], 5)
    found = daskcache.verify(quarantine=True)
    assert len(found.quarantined) == 1
    assert (store_root / found.quarantined[0]).exists()
    count()
    daskcache.persist(doubled(), "x")
    assert count() == 1
    assert daskcache.verify().is_sound


def test_a_damaged_block_that_a_run_meets_is_created_anew(store_root: Path) -> None:
    x = daskcache.persist(doubled(), "x")
    flip(objects(store_root)[3], 5)
    count()
    with (
        daskcache.activate(),
        pytest.warns(DaskcacheWarning, match="could not be read and was computed again"),
    ):
        assert ((doubled() + 0).compute() == EXPECTED).all()
    assert count() == 1
    assert daskcache.verify().is_sound
    assert (x.compute() == EXPECTED).all()


def test_a_damaged_index(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    daskcache.persist(doubled() + 1, "y")
    (index,) = (store_root / "namespaces/default/x/@").glob("*.idx")
    flip(index, 60)
    found = daskcache.verify()
    assert [finding.problem for finding in found.findings] == ["unreadable"]
    assert found.blocks == 4


def test_all_kinds_of_variables(store_root: Path) -> None:
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {
            "a": (("x", "y"), da.from_array(rng.random((7, 5)), chunks=((3, 4), (5,)))),
            "texts": ("x", np.array(list("abcdefg"), "O")),
            "big": ("z", rng.random(20000)),
            "none": (("x", "w"), da.zeros((7, 0), chunks=(3, 1))),
        },
        coords={"t": ("x", np.arange(7).astype("M8[D]"))},
    )
    daskcache.persist(ds, "all")
    found = daskcache.verify("all", fill=True)
    assert found.is_sound
    assert found.filled == found.blocks == 3
    xr.testing.assert_identical(daskcache.open("all").compute(), ds.compute())


def test_everywhere_and_one_version(store_root: Path) -> None:
    daskcache.persist(doubled(), "x", namespace="one")
    daskcache.persist(doubled() + 1, "x", namespace="two")
    assert daskcache.verify().versions == 0
    assert daskcache.verify(everywhere=True).versions == 2
    daskcache.persist(doubled() + 2, "x", namespace="two")
    newest = daskcache.catalog.Catalog(str(store_root), "two").open("x").version
    assert daskcache.verify("x", version=newest[:8], namespace="two").versions == 1
    with pytest.raises(EntryNotFoundError, match="is no version of entry 'x'"):
        daskcache.verify("x", version="0000", namespace="two")
    with pytest.raises(InvalidInputError, match="without the entry"):
        daskcache.verify(version=newest)
    with pytest.raises(InvalidInputError, match="give one of both"):
        daskcache.verify("x", everywhere=True)


def test_nothing_is_written_where_it_may_not_be(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")
    with dask.config.set({"daskcache.mode": "read"}):
        assert daskcache.verify().is_sound
        for what in ("fill", "quarantine"):
            with pytest.raises(ReadOnlyError, match="is 'read'"):
                daskcache.verify(**{what: True})


def test_the_command(store_root: Path) -> None:
    daskcache.persist(doubled(), "x")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cache, ["--store", str(store_root), "verify", *arguments])

    assert run().exit_code == 0
    assert "noted the digests of 4 blocks" in run("x", "--fill").output
    flip(objects(store_root)[0], 5)
    found = run("--all", "--json")
    assert found.exit_code == 1
    assert json.loads(found.output)["findings"][0]["problem"] == "damaged"
    assert "moved 1 objects aside" in run("--quarantine").output
    assert "missing: default/x@" in run().output

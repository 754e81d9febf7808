"""A store of every format that ever shipped: it opens, is sound, and migrates.

Files below ``data`` are never rewritten. Where the format of stores must change, it gets a new number, a new store beside
this one, and `daskcache.stores.migrate` converts the old.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from fsspec.implementations.reference import ReferenceNotReachable

import daskcache
from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.catalog.layout import FORMAT
from daskcache.cli import cache
from daskcache.errors import InvalidInputError, StoreError

DATA = Path(__file__).parent / "data"
FORMATS = range(FORMAT + 1)


@pytest.fixture(params=FORMATS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / f"store-{request.param}", tmp_path / "store"))


def field(add: int) -> xr.Dataset:
    """What was stored, twice, the second time with one more."""
    irregular = np.arange(6 * 8192.0).reshape(6, 8192) // 4096
    return xr.Dataset(
        {
            "t": ("time", np.arange(6) * 2 + add, {"units": "K"}),
            "irregular": (("month", "cell"), irregular),
            "name": ("time", np.array(list("abcdef"))),
            "large": ("many", np.zeros(9000)),
        },
        {"time": pd.date_range("2001-01-01", periods=6)},
        {"title": "golden"},
    )


def check(root: Any) -> None:
    where = {"store": str(root), "namespace": "golden"}
    newest, oldest = Catalog(str(root), "golden").versions("field/monthly")
    xr.testing.assert_identical(daskcache.open("field/monthly", **where).load(), field(1))
    assert daskcache.open("field/monthly", **where).irregular.data.chunks == ((3, 1, 2), (8192,))
    xr.testing.assert_identical(
        daskcache.open("field/monthly", version=oldest.version, **where).load(), field(0)
    )
    assert newest.is_latest
    assert daskcache.open("array", **where).compute().tolist() == [[0, 6, 12], [18, 24, 30]]
    own = daskcache.open("own", store=str(root), namespace="golden-private")
    assert own.t.values.tolist() == [0, 22, 44, 66, 88, 110]
    assert Catalog(str(root), "golden").entries() == ["array", "field/monthly"]


def open_plain(root: Path) -> xr.Dataset:
    (latest,) = root.glob("namespaces/golden/field/monthly/@/latest")
    document = latest.with_name(f"{json.loads(latest.read_text())['version']}.json")
    arguments = {"consolidated": False, "storage_options": {"fo": str(document)}}
    return xr.open_dataset("reference://", engine="zarr", backend_kwargs=arguments)


def test_it_opens_and_is_sound(root: Path) -> None:
    check(root)
    found = daskcache.verify(store=str(root), everywhere=True)
    assert found.is_sound
    # Two versions, an array, a private one, and what was stored without a name; of what was dropped nothing.
    assert (found.versions, found.blocks) == (4, 20)
    assert daskcache.gc(store=str(root), grace=0, wait=0, dry_run=True).chunks == 3


def test_it_migrates_in_place(root: Path) -> None:
    """It lies elsewhere than where it was written: plain readers would look for its blocks there."""
    with pytest.raises(ReferenceNotReachable, match="/golden/store"):
        open_plain(root).t.load()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    foretold = stores.migrate(root, dry_run=True)
    assert (foretold.documents, foretold.is_needed) == (4, True)
    assert str(foretold) == f"would write 4 documents of {root} anew, which name another root"
    assert {path: path.read_bytes() for path in before} == before
    assert stores.migrate(root).documents == 4
    changed = {path.suffix for path, data in before.items() if path.read_bytes() != data}
    assert changed == {".json"}
    xr.testing.assert_equal(open_plain(root).load(), field(1))
    check(root)
    again = stores.migrate(root)
    assert not again.is_needed
    assert str(again) == f"nothing to do: {root} has the newest format, {FORMAT}"


@pytest.mark.parametrize("kind", ["path", "memory", "levels"])
def test_it_migrates_to_another_place(root: Path, kind: str, tmp_path: Path) -> None:
    target: Any = {
        "path": str(tmp_path / "new"),
        "memory": f"memory://{tmp_path.name}-{root.name}",
        "levels": [{"url": str(tmp_path / "ssd"), "write": False}, str(tmp_path / "new")],
    }[kind]
    foretold = stores.migrate(root, target, dry_run=True)
    done = stores.migrate(root, target)
    assert foretold.copied is not None
    assert done.copied is not None
    assert replace(foretold.copied, dry_run=False) == done.copied
    assert (done.copied.versions, done.copied.blocks) == (4, 20)
    check(stores.open(target).daskcache_root)
    assert daskcache.verify(store=target, everywhere=True).is_sound
    again = stores.migrate(root, target)
    assert not again.is_needed
    check(root)
    if kind == "path":
        xr.testing.assert_equal(open_plain(tmp_path / "new").load(), field(1))


def test_what_does_not_migrate(root: Path, tmp_path: Path) -> None:
    (root / "daskcache.json").write_text(json.dumps({"format": FORMAT + 1}))
    for target in (None, tmp_path / "new"):
        with pytest.raises(
            StoreError, match=f"has format {FORMAT + 1}, and this daskcache reads and writes up"
        ):
            stores.migrate(root, target)
    xr.Dataset({"t": 1}).to_zarr(tmp_path / "plain.zarr", consolidated=False)
    with pytest.raises(InvalidInputError, match=r"no store of daskcache is at .* daskcache\.persist\(xarray"):
        stores.migrate(tmp_path / "plain.zarr")


def test_the_command(root: Path, tmp_path: Path) -> None:
    begin = ["--store", str(root), "migrate"]
    assert "would write 4 documents" in CliRunner().invoke(cache, [*begin, "--dry-run"]).output
    assert "wrote 4 documents" in CliRunner().invoke(cache, begin).output
    assert "nothing to do" in CliRunner().invoke(cache, begin).output
    result = CliRunner().invoke(cache, [*begin, str(tmp_path / "new"), "--json"])
    assert json.loads(result.output)["copied"]["versions"] == 4

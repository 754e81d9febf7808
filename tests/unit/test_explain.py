"""Every cause is named in words, and the blocks that it costs are counted exactly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from daskcache import recipe as recipe_module
from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.fingerprint import distributions, facts
from tests.explained import causes, edit, numbers, open_source, source_fixture, workspace_fixture  # noqa: F401
from tests.workspace import Workspace

# Functions


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("return helper(x) -", "return helper(x) +", "function `anomaly.detrend` changed"),
        ("return x * 2", "return x * 5", "function `anomaly.helper` changed"),
        ("LEVEL = 2.0", "LEVEL = 2.5", "global `LEVEL` of `anomaly.detrend` changed"),
        ("window=3", "window=4", "default `window` of `anomaly.detrend` changed"),
    ],
)
def test_an_edit_of_a_function_and_of_what_it_reads(
    workspace: Workspace, old: str, new: str, text: str
) -> None:
    daskcache.persist(numbers().map_blocks(workspace.load("anomaly").detrend), "entry")
    found = daskcache.explain(numbers().map_blocks(edit(workspace, old, new).detrend), "entry")
    assert causes(found) == {text: 4}
    assert (found.blocks, found.missing, found.entry) == (4, 4, "default/entry")


def test_a_value_of_another_module(workspace: Workspace) -> None:
    daskcache.persist(numbers().map_blocks(workspace.load("anomaly").scale), "entry")
    changed = edit(workspace, "FACTOR = 3.0", "FACTOR = 4.0")
    found = daskcache.explain(numbers().map_blocks(changed.scale), "entry")
    assert causes(found) == {"global `params.FACTOR` of `anomaly.scale` changed": 4}


def test_a_method(workspace: Workspace) -> None:
    daskcache.persist(numbers().map_blocks(workspace.load("anomaly").Model(2.0), dtype="f8"), "entry")
    changed = edit(workspace, "x * self.slope", "x + self.slope")
    found = daskcache.explain(numbers().map_blocks(changed.Model(2.0), dtype="f8"), "entry")
    assert causes(found) == {"function `anomaly.Model.__call__` changed": 4}


def test_cosmetic_edits_and_unchanged_things_have_no_causes(workspace: Workspace) -> None:
    daskcache.persist(numbers().map_blocks(workspace.load("anomaly").detrend), "entry")
    changed = edit(workspace, "return helper(x) -", "# a comment\n        return helper(x) -")
    found = daskcache.explain(numbers().map_blocks(changed.detrend), "entry")
    assert (found.missing, causes(found)) == (0, {})


def test_only_what_depends_on_a_change_counts(workspace: Workspace) -> None:
    def build(module: Any) -> xr.Dataset:
        x = numbers()
        y = x.map_blocks(module.detrend)
        return xr.Dataset(
            {
                "x": ("t", x + 1),
                "y": ("t", y),
                "sum": ((), y[:6].sum()),
                "part": ("u", da.concatenate([x[:3].map_blocks(module.scale), y[9:]])),
            }
        )

    daskcache.persist(build(workspace.load("anomaly")), "entry")
    found = build(edit(workspace, "return x * 2", "return x * 5")).cache.explain("entry")
    # Of `part` one of two blocks, of `x` none.
    assert causes(found) == {"function `anomaly.helper` changed": 4 + 1 + 1}
    assert found.blocks == 4 + 4 + 1 + 2


# Arguments, arrays, the graph


def test_arguments_by_name(workspace: Workspace) -> None:
    detrend = workspace.load("anomaly").detrend
    daskcache.persist(numbers().map_blocks(detrend, window=3).clip(0, 5), "entry")
    found = daskcache.explain(numbers().map_blocks(detrend, window=7).clip(0, 5), "entry")
    assert causes(found) == {"argument `window` of `anomaly.detrend` changed": 4}
    found = daskcache.explain(numbers().map_blocks(detrend, window=3).clip(0, 6), "entry")
    assert causes(found) == {"argument `a_max` of `numpy.clip` changed": 4}


def test_order_of_arguments_by_name(workspace: Workspace) -> None:
    workspace.write({"ordered.py": "def first(x, **given): return x + next(iter(given.values()))\n"})
    first = workspace.load("ordered").first
    daskcache.persist(numbers().map_blocks(first, one=1, two=2, dtype="f8"), "entry")
    same = daskcache.explain(numbers().map_blocks(first, one=1, two=2, dtype="f8"), "entry")
    assert (causes(same), same.missing) == ({}, 0)
    found = daskcache.explain(numbers().map_blocks(first, two=2, one=1, dtype="f8"), "entry")
    assert causes(found) == {"order of the arguments of `ordered.first` changed": 4}
    # Another value says more.
    found = daskcache.explain(numbers().map_blocks(first, two=3, one=1, dtype="f8"), "entry")
    assert causes(found) == {"argument `two` of `ordered.first` changed": 4}


def test_arguments_through_apply_ufunc_and_partials(workspace: Workspace) -> None:
    detrend = workspace.load("anomaly").detrend

    def build(window: int) -> xr.DataArray:
        return xr.apply_ufunc(
            detrend,
            xr.DataArray(numbers(), dims="t"),
            kwargs={"window": window},
            dask="parallelized",
            output_dtypes=["f8"],
        )

    build(3).cache.persist("entry")
    assert causes(build(4).cache.explain("entry")) == {"argument `window` of `anomaly.detrend` changed": 4}


def test_a_function_of_many_blocks_that_are_each_given_something_else(workspace: Workspace) -> None:
    def build(module: Any) -> xr.DataArray:
        array = xr.DataArray(numbers(60, 2), dims="t", coords={"t": np.arange(60)}, name="v")
        return xr.map_blocks(module.detrend, array, kwargs={"window": 3}, template=array)

    build(workspace.load("anomaly")).cache.persist("entry")
    found = build(edit(workspace, "return helper(x) -", "return helper(x) +")).cache.explain("entry")
    assert causes(found) == {"function `anomaly.detrend` changed": 30}


def test_an_array_in_memory_block_by_block() -> None:
    values = np.arange(12.0)
    daskcache.persist(da.from_array(values, chunks=3) + 1, "entry")
    values[[4, 10]] = -1
    found = daskcache.explain(da.from_array(values, chunks=3) + 1, "entry")
    assert causes(found) == {"an array in memory, or in the store, changed": 2}


def test_what_is_loaded_from_the_store() -> None:
    base = daskcache.persist(numbers(), "base")
    daskcache.persist(base + 1, "entry")
    base = daskcache.persist(numbers() * 3, "base")
    found = daskcache.explain(base + 1, "entry")
    assert causes(found) == {"an array in memory, or in the store, changed": 4}


def test_a_step_more_and_a_step_less() -> None:
    daskcache.persist(np.sin(numbers()), "entry")
    found = daskcache.explain(np.sin(numbers().clip(0, 5)), "entry")
    assert causes(found) == {"`numpy.clip` was not there": 4}
    found = daskcache.explain(numbers(), "entry")
    assert causes(found) == {"`numpy.sin` is not there any more": 4}


def test_growth() -> None:
    def build(length: int) -> xr.DataArray:
        return xr.DataArray(numbers(length), dims="time", name="t2m") * 2

    build(11).cache.persist("entry")
    found = build(17).cache.explain("entry")
    # The last block was not full.
    assert causes(found) == {"`t2m` grew along `time` from 11 to 17": 3}
    assert found.missing == 3


def test_other_blocks() -> None:
    daskcache.persist(xr.DataArray(np.sin(numbers()), dims="t", name="v"), "entry")
    found = xr.DataArray(np.sin(numbers(chunks=4)), dims="t", name="v").cache.explain("entry")
    assert "`v` is in other blocks along `t`" in causes(found)


# The environment and the store


def test_a_library(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> xr.Dataset:
        x = numbers()
        return xr.Dataset(
            {
                "curved": ("t", x.map_blocks(workspace.load("anomaly").curved)),
                "plain": ("t", x.map_blocks(workspace.load("anomaly").helper)),
            }
        )

    build().cache.persist("entry")
    find_home = distributions.find_home

    def newer(module: str | None) -> distributions.Home:
        home = find_home(module)
        return distributions.Home("installed", "numpy", "99.1") if home.name == "numpy" else home

    monkeypatch.setattr("daskcache.fingerprint.objects.find_home", newer)
    monkeypatch.setattr(facts, "_known", {})
    found = build().cache.explain("entry")
    by_text = causes(found)
    assert f"numpy {np.__version__} → 99.1" in by_text
    assert {cause.kind for cause in found} == {"library"}
    # Both stand on numpy's arange and astype.
    assert by_text[f"numpy {np.__version__} → 99.1"] == found.missing


def test_a_salt() -> None:
    daskcache.persist(numbers(), "entry")
    with dask.config.set({"daskcache.salt": "other"}):
        found = daskcache.explain(numbers(), "entry")
    assert [(cause.kind, cause.blocks) for cause in found] == [("settings", 4)]


def test_objects_that_have_gone(store_root: Path) -> None:
    daskcache.persist(numbers(), "entry")
    gone = sorted(file for file in (store_root / "chunks").rglob("*") if file.is_file())[:2]
    for file in gone:
        file.unlink()
    found = daskcache.explain(numbers(), "entry")
    assert [(cause.kind, cause.blocks) for cause in found] == [("gone", 2)]


def test_never_stored() -> None:
    for name in ("entry", None):
        found = daskcache.explain(xr.Dataset({"v": ("t", numbers())}), name)
        assert causes(found) == {"`v` was never stored": 4}
        assert found.version is None
    assert daskcache.explain(xr.Dataset({"v": ("t", numbers())})).entry is None


def test_without_a_name_the_most_alike_is_found(workspace: Workspace) -> None:
    module = workspace.load("anomaly")
    daskcache.persist(numbers().map_blocks(module.scale), "scaled")
    daskcache.persist(numbers().map_blocks(module.detrend), "detrended")
    daskcache.persist(np.cos(numbers()), "cosine")
    found = daskcache.explain(numbers().map_blocks(module.detrend, window=9))
    assert found.entry == "default/detrended"
    assert causes(found) == {"argument `window` of `anomaly.detrend` changed": 4}


def test_the_recipe_of_a_checkpoint(workspace: Workspace) -> None:
    module = workspace.load("anomaly")
    with daskcache.activate():
        daskcache.checkpoint(numbers().map_blocks(module.detrend), "entry").sum().compute()
    found = daskcache.explain(numbers().map_blocks(module.detrend, window=9), "entry")
    assert causes(found) == {"argument `window` of `anomaly.detrend` changed": 4}


# Several at once, other processes, other forms


def test_several_causes_count_each(workspace: Workspace, source: str) -> None:
    def build(module: Any, window: int) -> xr.Dataset:
        ds = open_source(source)
        return xr.Dataset(
            {
                "a": ds.t2m.copy(data=ds.t2m.data.map_blocks(module.detrend, window=window)),
                "b": ds.t2m.copy(data=ds.t2m.data.map_blocks(module.scale)),
                "c": ds.t2m + 1,
            }
        )

    build(workspace.load("anomaly"), 3).cache.persist("entry")
    array: Any = zarr.open_group(source)["t2m"]
    array[0, 0] = -1
    changed = edit(workspace, "return x * 2", "return x * 5")
    found = build(changed, 4).cache.explain("entry")
    assert causes(found) == {
        "function `anomaly.helper` changed": 6,
        "argument `window` of `anomaly.detrend` changed": 6,
        f"source {source}/t2m chunk (0, 0) changed": 3,
    }
    assert found.missing == 6 + 1 + 1
    assert [cause.blocks for cause in found] == sorted((cause.blocks for cause in found), reverse=True)


def test_in_a_second_process_after_an_edit(workspace: Workspace, tmp_path: Path) -> None:
    script = """
import sys, dask.array as da, daskcache, anomaly
x = da.arange(12, chunks=3).map_blocks(anomaly.detrend).map_blocks(lambda b: b + 1)
if sys.argv[1] == "persist":
    daskcache.persist(x, "entry", store=sys.argv[2])
else:
    print(daskcache.explain(x, store=sys.argv[2]))
"""
    (workspace.root / "script.py").write_text(script)

    def run(action: str) -> str:
        done = subprocess.run(
            [sys.executable, "script.py", action, str(tmp_path / "store")],
            cwd=workspace.root, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("persist")
    module = workspace.root / "anomaly.py"
    module.write_text(
        module.read_text().replace("return x * 2", "return x * 5").replace("LEVEL = 2.0", "LEVEL = 7")
    )
    lines = run("explain").splitlines()
    assert lines[0].startswith(
        f"4 of 4 blocks are not stored in {tmp_path / 'store'}, compared with default/entry@"
    )
    assert lines[1:] == [
        "  4: function `anomaly.helper` changed",
        "  4: global `LEVEL` of `anomaly.detrend` changed",
    ]


def test_what_cannot_be_stored_has_a_path() -> None:
    class Client:
        def __init__(self) -> None:
            self._session = threading.local()

    def fetch(block: Any, other: Any, client: Any) -> Any:
        return block

    x = numbers()
    ds = xr.Dataset({"v": ("t", x.map_blocks(fetch, 2, Client(), dtype="f8")), "w": ("t", x)})
    found = ds.cache.explain()
    [bad] = found.uncacheable
    assert (bad.path, bad.blocks) == ("v", 4)
    assert bad.reason.startswith("task 'fetch' → argument 3 → attribute _session → <class '_thread._local'>")
    assert f"4: `v` cannot be stored: {bad.reason}" in repr(found)
    assert ds.cache.status()["v"].reason == bad.reason
    assert found.missing == 4


def test_many_causes_are_not_all_shown(source: str) -> None:
    xr.Dataset({"v": ("t", np.arange(20.0))}).to_zarr(
        source, mode="w", encoding={"v": {"chunks": (1,)}}, consolidated=False
    )
    open_source(source).cache.persist("entry")
    array: Any = zarr.open_group(source)["v"]
    array[:] = -1
    found = open_source(source).cache.explain("entry")
    assert len(found.causes) == 20
    assert "… and 8 more causes" in repr(found)


@pytest.mark.parametrize(
    "build", [lambda x: np.sin(x), lambda x: x.map_blocks(lambda b: b + 1), lambda x: x.mean(axis=0)]
)
def test_a_recipe_is_small_and_survives_json(build: Callable[[da.Array], da.Array]) -> None:
    daskcache.persist(build(da.ones((40, 40), chunks=2)), "entry")
    info: Any = Catalog(Settings.from_config().store).open("entry").info
    text = json.dumps(info["recipe"])
    assert len(text) < 400 * (1 + len(info["recipe"]["layers"]))
    read = recipe_module.Recipe.from_json(json.loads(text))
    assert read is not None
    assert read.to_json() == info["recipe"]


def test_a_manifest_without_a_recipe_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "FORMAT", 0)
    daskcache.persist(numbers(), "entry")
    monkeypatch.undo()
    daskcache.persist(numbers(), "other")
    assert [cause.kind for cause in daskcache.explain(numbers() + 1, "entry")] == ["unknown"]

"""What one process persisted, another recalls: other hash seed, other file name, nothing computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipelines import field

SCRIPT = """
    import json, os, sys

    import dask, numpy as np, xarray as xr
    import daskcache
    import helpers

    FACTOR = 3.0

    @daskcache.fingerprint_as("tally")
    def count():
        with open("tally", "a") as file:
            file.write("x")

    def costly(x, offset):
        count()
        return helpers.soften(x) * FACTOR + offset

    def build():
        ds = xr.open_zarr("source.zarr")
        y = xr.apply_ufunc(costly, ds.t, 1.5, dask="parallelized", output_dtypes=["f8"])
        return xr.Dataset(
            {
                "plain": y,
                "anomaly": y.groupby("time.month") - y.groupby("time.month").mean(),
                "monthly": y.resample(time="ME").max().rename(time="month"),
                "smooth": y.rolling(time=5).mean(),
                "weighted": (y * np.cos(np.deg2rad(y.lat))).sum(("lat", "lon")),
            }
        )

    if __name__ == "__main__":
        ds = build()
        open("tally", "w").close()
        found = {"token": ds.cache.token}
        if sys.argv[1] == "persist":
            with dask.config.set(scheduler=sys.argv[2]):
                kept = ds.cache.persist("main", store="store")
                run = daskcache.last_run()
                found |= {"computed": run.computed, "reused": run.reused, "again": kept.cache.token}
                result = kept.compute()
        else:
            result = ds.compute()
        found["calls"] = len(open("tally").read())
        np.savez("result.npz", **{name: result[name].values for name in result.variables})
        print(json.dumps(found))
"""
HELPERS = """
    LEVEL = 2.0

    def soften(x):
        return inner(x) / LEVEL

    def inner(x):
        return x * abs(x)
"""
BLOCKS = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Place:
    """A directory with a script that persists a pipeline."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ds = field(in_memory=True).fillna(0).chunk(time=30)
        ds.to_zarr(root / "source.zarr", zarr_format=2)

    def run(
        self,
        seed: str,
        *arguments: str,
        name: str = "main.py",
        script: str = SCRIPT,
        helpers: str = HELPERS,
    ) -> dict[str, Any]:
        (self.root / name).write_text(textwrap.dedent(script))
        (self.root / "helpers.py").write_text(textwrap.dedent(helpers))
        finished = subprocess.run(
            [sys.executable, "-B", "-W", "ignore", name, *arguments],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=self.root,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        with np.load(self.root / "result.npz") as saved:
            values = {key: saved[key] for key in saved.files}
        return {**json.loads(finished.stdout), "values": values}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def first(place: Place) -> dict[str, Any]:
    return place.run("1", "persist", "threads")


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["values"].keys() == other["values"].keys()
    for name, values in one["values"].items():
        assert values.dtype == other["values"][name].dtype
        assert values.tobytes() == other["values"][name].tobytes(), name


def test_the_first_process_computes_each_block_once(first: dict[str, Any]) -> None:
    assert first["calls"] == BLOCKS
    assert first["reused"] == 0
    assert first["again"] == first["token"]


@pytest.mark.parametrize(("seed", "scheduler"), [("2", "threads"), ("random", "processes")])
def test_another_process_computes_nothing(
    place: Place, first: dict[str, Any], seed: str, scheduler: str
) -> None:
    second = place.run(seed, "persist", scheduler)
    assert (second["calls"], second["computed"]) == (0, 0)
    assert second["token"] == second["again"] == first["token"]
    assert_same(first, second)


def test_results_are_those_without_a_cache(place: Place, first: dict[str, Any]) -> None:
    plain = place.run("3", "compute")
    assert plain["calls"] == BLOCKS
    assert plain["token"] == first["token"]
    assert_same(first, plain)


def test_a_script_that_was_moved_about_and_renamed_is_the_same(place: Place, first: dict[str, Any]) -> None:
    script = (
        SCRIPT.replace("    def costly", "\n\n    # costly\n    def costly")
        .replace(
            "def costly(x, offset):",
            'def costly(x: "object", offset: float = 0) -> "object":\n        """Cost."""',
        )
        .replace("offset: float = 0", "offset: float")
    )
    renamed = place.run("4", "persist", "threads", name="renamed.py", script=script)
    assert (renamed["calls"], renamed["token"]) == (0, first["token"])


@pytest.mark.parametrize(
    "changed",
    [
        {"script": SCRIPT.replace("FACTOR = 3.0", "FACTOR = 4.0")},
        {"helpers": HELPERS.replace("x * abs(x)", "x + abs(x)")},
    ],
    ids=["global of the script", "helper of the helper"],
)
def test_an_edit_is_computed(place: Place, first: dict[str, Any], changed: dict[str, str]) -> None:
    assert changed not in ({"script": SCRIPT}, {"helpers": HELPERS})
    edited = place.run("5", "persist", "threads", **changed)
    assert edited["calls"] == BLOCKS
    assert edited["token"] != first["token"]
    assert any(
        values.tobytes() != edited["values"][name].tobytes() for name, values in first["values"].items()
    )

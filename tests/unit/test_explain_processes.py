"""Explanations in another process, after real edits of code, data and installed packages: causes and counts, exactly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

pytestmark = pytest.mark.timeout(180)

MODULE = """
    import climates
    import params

    LEVEL = 2.0

    def helper(x):
        return x * 2

    def detrend(x, window):
        return helper(x) - LEVEL / window

    def scale(x):
        return climates.norm(x) * params.FACTOR
"""
LIBRARY = """
    def norm(x):
        return x - x.min()
"""
SCRIPT = """
    import sys
    import xarray as xr
    import daskcache, anomaly

    source, store, action, name = sys.argv[1:]
    ds = xr.open_zarr(source, consolidated=False)
    result = xr.Dataset({
        "trend": ds.t2m.copy(data=ds.t2m.data.map_blocks(anomaly.detrend, window=3)),
        "scaled": ds.t2m.copy(data=ds.t2m.data.map_blocks(anomaly.scale)),
        "mean": (ds.t2m + 1).mean("t"),
        "rain": ds.rain.clip(0, 5),
    })
    if action == "persist":
        daskcache.persist(result, name, store=store)
    else:
        print(daskcache.explain(result, name or None, store=store))
"""


class Place:
    """A directory with a script, its modules, an installed package and a source."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source, self.store = root / "source.zarr", root / "store"
        for name, text in {"anomaly": MODULE, "params": "FACTOR = 3.0\n", "script": SCRIPT}.items():
            (root / f"{name}.py").write_text(textwrap.dedent(text))
        self.install("1.0", LIBRARY)
        data = {"t2m": (("t", "x"), np.arange(24.0).reshape(6, 4)), "rain": ("t", np.arange(6.0))}
        encoding = {"t2m": {"chunks": (2, 2)}, "rain": {"chunks": (2,)}}
        xr.Dataset(data).to_zarr(self.source, encoding=encoding, consolidated=False)

    def install(self, version: str, text: str) -> None:
        """Put a package where installers put it, with what they write beside it."""
        packages = self.root / "site-packages"
        for old in packages.glob("climates-*/*"):
            old.unlink()
        for old in packages.glob("climates-*"):
            old.rmdir()
        beside = packages / f"climates-{version}.dist-info"
        beside.mkdir(parents=True)
        (packages / "climates.py").write_text(textwrap.dedent(text))
        (beside / "METADATA").write_text(f"Metadata-Version: 2.1\nName: climates\nVersion: {version}\n")
        (beside / "RECORD").write_text("climates.py,,\n")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / f"{name}.py"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def run(self, action: str, name: str = "entry") -> list[str]:
        done = subprocess.run(
            [sys.executable, "script.py", str(self.source), str(self.store), action, name],
            cwd=self.root, capture_output=True, text=True, check=False, timeout=120,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.root / "site-packages"), str(Path(__file__).parents[2])]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def explain(self, name: str = "entry") -> tuple[int, dict[str, int]]:
        """Give how many blocks are missing, and how many each cause costs."""
        first, *rest = self.run("explain", name)
        found = re.match(r"(\d+) of 17 blocks are not stored in ", first)
        assert found, first
        causes = {}
        for line in rest:
            count, _, text = line.strip().partition(": ")
            causes[text] = int(count)
        return int(found[1]), causes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("explained"))
    made.run("persist")
    return made


# Of t2m six blocks each in `trend` and `scaled`, two in `mean`; of rain three.
EDITS: dict[str, tuple[Callable[[Place], Any], Callable[[Place], Any], int, dict[str, int]]] = {
    "a helper": (
        lambda at: at.edit("anomaly", "return x * 2", "return x * 5"),
        lambda at: at.edit("anomaly", "return x * 5", "return x * 2"),
        6,
        {"function `anomaly.helper` changed": 6},
    ),
    "the function": (
        lambda at: at.edit("anomaly", "return helper(x) -", "return helper(x) +"),
        lambda at: at.edit("anomaly", "return helper(x) +", "return helper(x) -"),
        6,
        {"function `anomaly.detrend` changed": 6},
    ),
    "an argument": (
        lambda at: at.edit("script", "window=3", "window=5"),
        lambda at: at.edit("script", "window=5", "window=3"),
        6,
        {"argument `window` of `anomaly.detrend` changed": 6},
    ),
    "a value": (
        lambda at: at.edit("anomaly", "LEVEL = 2.0", "LEVEL = 2.5"),
        lambda at: at.edit("anomaly", "LEVEL = 2.5", "LEVEL = 2.0"),
        6,
        {"global `LEVEL` of `anomaly.detrend` changed": 6},
    ),
    "a value of another module": (
        lambda at: at.edit("params", "3.0", "4.0"),
        lambda at: at.edit("params", "4.0", "3.0"),
        6,
        {"global `params.FACTOR` of `anomaly.scale` changed": 6},
    ),
    "a library": (
        lambda at: at.install("1.1", LIBRARY),
        lambda at: at.install("1.0", LIBRARY),
        6,
        {"climates 1.0 → 1.1": 6},
    ),
    "a step": (
        lambda at: at.edit("script", "ds.rain.clip(0, 5)", "abs(ds.rain).clip(0, 5)"),
        lambda at: at.edit("script", "abs(ds.rain).clip(0, 5)", "ds.rain.clip(0, 5)"),
        3,
        {"`_operator.abs` was not there": 3},
    ),
    "a comment": (
        lambda at: at.edit("anomaly", "return x * 2", "return x * 2  # twice"),
        lambda at: at.edit("anomaly", "return x * 2  # twice", "return x * 2"),
        0,
        {},
    ),
    "two at once": (
        lambda at: (at.edit("params", "3.0", "4.0"), at.edit("script", "clip(0, 5)", "clip(0, 6)")),
        lambda at: (at.edit("params", "4.0", "3.0"), at.edit("script", "clip(0, 6)", "clip(0, 5)")),
        9,
        {
            "global `params.FACTOR` of `anomaly.scale` changed": 6,
            "argument `a_max` of `numpy.clip` changed": 3,
        },
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits(place: Place, name: str) -> None:
    edit, undo, missing, causes = EDITS[name]
    edit(place)
    try:
        assert place.explain() == (missing, causes)
    finally:
        undo(place)


def test_what_was_never_stored(place: Place) -> None:
    missing, causes = place.explain("another")
    # The blocks are there, whatever they are called.
    assert (missing, causes) == (0, {})


def test_a_chunk_and_then_more(tmp_path: Path) -> None:
    place = Place(tmp_path)
    missing, causes = place.explain("entry")
    assert missing == 17
    assert causes == {
        "`trend` was never stored": 6,
        "`scaled` was never stored": 6,
        "`mean` was never stored": 2,
        "`rain` was never stored": 3,
    }
    place.run("persist")
    array: Any = zarr.open_group(place.source)["t2m"]
    array[4:, :2] = -1
    # One block each of what is computed block by block, and the mean of its column of blocks.
    assert place.explain() == (3, {f"source {place.source}/t2m chunk (2, 0) changed": 3})
    place.run("persist")
    xr.Dataset({"t2m": (("t", "x"), np.zeros((2, 4))), "rain": ("t", np.zeros(2))}).to_zarr(
        place.source, append_dim="t", consolidated=False
    )
    first, *rest = place.run("explain")
    assert first.startswith("7 of 22 blocks are not stored")
    texts = {line.strip() for line in rest}
    assert {
        "2: `trend` grew along `t` from 6 to 8",
        "2: `scaled` grew along `t` from 6 to 8",
        "1: `rain` grew along `t` from 6 to 8",
    } <= texts
    assert texts == {
        "2: `trend` grew along `t` from 6 to 8",
        "2: `scaled` grew along `t` from 6 to 8",
        "1: `rain` grew along `t` from 6 to 8",
        f"1: source {place.source}/t2m chunk (3, 0) is new",
        f"1: source {place.source}/t2m chunk (3, 1) is new",
    }

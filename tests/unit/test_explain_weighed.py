"""What the policy ``auto`` weighed is told afterwards, and in other processes: by `explain`, and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import pytest
from click.testing import CliRunner

import daskcache
from daskcache.cli import cache
from daskcache.config import Settings
from daskcache.explain import Explanation
from daskcache.weighed import Weighed, describe_weighed

PIPELINE = """
import json
import sys
import time
from dataclasses import asdict

import dask
import dask.array as da

import daskcache


def slowly(block):
    time.sleep(0.1)
    return block


def quickly(block):
    return block + 1


x = da.arange(8, chunks=2).map_blocks(slowly, dtype=int)
y = da.ones(8, chunks=2).map_blocks(quickly, dtype=float)
if sys.argv[1] == "run":
    with daskcache.activate(policy="auto"):
        dask.compute(x.sum(), x.max(), y.sum(), y.max())
    found = [daskcache.last_run().weighed]
else:
    told = [daskcache.explain(x), daskcache.explain(y)]
    assert not any(one.weighed_last for one in told)
    print(told[0], file=sys.stderr)
    found = [one.weighed for one in told]
print(json.dumps([{layer: asdict(one) for layer, one in part.items()} for part in found]))
"""


def run(program: str, action: str, store: Path) -> tuple[list[dict[str, dict[str, Any]]], str]:
    done = subprocess.run(
        [sys.executable, "-c", program, action],
        env={**os.environ, "DASK_DASKCACHE__STORE": str(store)},
        capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def blocks(found: dict[str, dict[str, Any]], name: str) -> int:
    """Tell how many blocks of a layer were weighed, whatever dask has fused it with."""
    return sum(one["stored"] + one["left"] for layer, one in found.items() if layer.endswith(name))


def rounded(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what depends on the order in which lists of what was stored are summed up."""
    return {
        layer: {name: round(value, 9) if isinstance(value, float) else value for name, value in one.items()}
        for layer, one in found.items()
    }


@pytest.mark.slow
def test_other_processes_are_told(store_root: Path) -> None:
    """Whatever was decided there, on however busy a machine."""
    (found,), _ = run(PIPELINE, "run", store_root)
    assert (blocks(found, "slowly"), blocks(found, "quickly")) == (4, 4)
    assert next(one["compute_s"] for layer, one in found.items() if layer.endswith("slowly")) > 4 * 0.1

    (of_x, of_y), told = run(PIPELINE, "explain", store_root)
    assert (blocks(of_x, "slowly"), blocks(of_x, "quickly")) == (4, 0)
    assert (blocks(of_y, "slowly"), blocks(of_y, "quickly")) == (0, 4)
    for some in (of_x, of_y):
        assert rounded(some) == rounded({layer: one for layer, one in found.items() if layer in some})
    head, *lines = told[told.index("weighed by") :].splitlines()
    assert head.endswith(
        "the policy auto, which stores what takes 5 times as long to compute as to store and load"
    )
    assert lines == [f"  `{layer}`: {describe_weighed(Weighed(**of_x[layer]))}" for layer in sorted(of_x)]

    rows = json.loads(listing("--json")[0])["weighed"]
    assert rounded({row.pop("layer"): row for row in rows}) == rounded(
        {layer: {"namespace": "default", **one} for layer, one in found.items()}
    )


def double(block: Any) -> Any:
    return block * 2


def weigh(**overrides: Any) -> da.Array:
    """Weigh the blocks of an array in this process, and give it."""
    x = da.arange(8, chunks=2).map_blocks(double, dtype=int)
    with daskcache.activate(policy="auto", **overrides), dask.config.set(scheduler="sync"):
        assert dask.compute(x.sum(), x.max()) == (56, 14)
    return x


def test_the_last_run_is_told_beside_what_all_have_recorded() -> None:
    weighed = []
    with daskcache.activate(policy="auto"), dask.config.set(scheduler="sync"):
        for n in (8, 16):
            x = da.arange(n, chunks=2).map_blocks(double, dtype=int)
            dask.compute(x.sum(), x.max())
            weighed.append(daskcache.last_run().weighed)
    (layer,) = [name for name in weighed[1] if name.endswith("double")]
    told = daskcache.explain(x)
    both, first, last = told.weighed[layer], weighed[0][layer], weighed[1][layer]
    assert told.weighed_last[layer] == last
    assert asdict(both) == pytest.approx(
        {name: value + asdict(last)[name] for name, value in asdict(first).items()}
    )
    assert f"\n  `{layer}`: {describe_weighed(both)}\n" in str(told)
    assert f"\n  `{layer}`, in the last run: {describe_weighed(last)}" in str(told)


@pytest.mark.parametrize("elsewhere", [{"namespace": "other"}, {"store": "memory://weighed-elsewhere"}])
def test_a_run_with_another_place_is_not_told(elsewhere: dict[str, str]) -> None:
    x = weigh(**elsewhere)
    assert daskcache.last_run().weighed
    told = daskcache.explain(x)
    assert not told.weighed
    assert not told.weighed_last
    assert "weighed" not in str(told)
    told = daskcache.explain(x, **elsewhere)
    recorded, last = (
        {layer: asdict(one) for layer, one in found.items()} for found in (told.weighed, told.weighed_last)
    )
    assert rounded(recorded) == rounded(last) != {}


def test_names_of_fused_layers_are_known_by_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_one(block: Any) -> Any:
        return block + 1

    x = da.arange(4, chunks=2).map_blocks(add_one, dtype=int).rechunk(4)
    long = "-".join(["arange", "add_one"] * 12)
    ours = ["add_one", "arange-add_one", "arange-add_one-rechunk-merge", f"{long[:115]}-1a2b"]
    others = ["one", "add", "arange-other", "other-add_one", "add_ones", f"other-{long[:110]}-1a2b"]
    recorded = {layer: Weighed(left=1) for layer in [*ours, *others]}
    monkeypatch.setattr(sys.modules["daskcache.explain"], "read_weighed", lambda root, namespace: recorded)
    assert sorted(daskcache.explain(x).weighed) == sorted(ours)


def test_in_words() -> None:
    told = Explanation(
        "/store", None, None, 1, 0,
        weighed={
            "slowly": Weighed(stored=3, left=1, compute_s=480, store_s=0.4, nbytes=8),
            "mean": Weighed(left=2, compute_s=0.00002, store_s=0.02, nbytes=8),
        },
        weighed_last={"slowly": Weighed(stored=1, compute_s=1.26, store_s=0.126, nbytes=8)},
    )  # fmt: skip
    assert str(told).splitlines()[1:] == [
        "weighed by the policy auto, which stores what takes 5 times as long to compute as to store and load",
        "  `mean`: none of 2 blocks stored: one took 0.01ms to compute, 0.001 times the 10ms to store and load it",
        "  `slowly`: 3 of 4 blocks stored: one took 120s to compute, 1200 times the 100ms to store and load it",
        "  `slowly`, in the last run: 1 of 1 blocks stored: one took 1.3s to compute, 10 times the 126ms to store "
        "and load it",
    ]


def listing(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(cache, ["ls", "--weighed", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def test_the_command_line_lists_each_namespace_s_own(store_root: Path) -> None:
    assert listing() == (
        "",
        f"nothing that the policy auto has weighed in namespace 'default' of {store_root}\n",
    )
    assert not store_root.exists(), "looking must not make a store"
    private = {"ours": {"pool": "private"}}
    with dask.config.set({"daskcache.namespaces": private}):
        x = weigh(namespace="ours")
        weigh(namespace="other")
        assert Settings.from_config(namespace="ours").pool_root != str(store_root)
        assert listing()[0] == ""
        told, _ = listing("--all")
        rows = json.loads(listing("--all", "--json")[0])["weighed"]
        found = daskcache.explain(x, namespace="ours").weighed
    assert {(row["namespace"], row["layer"]) for row in rows} >= {("other", "double"), ("ours", "double")}
    head, *lines = told.splitlines()
    assert head.startswith("weighed by the policy auto, which stores what takes 5 times")
    assert f"  ours: `double`: {describe_weighed(found['double'])}" in lines
    assert sum(line.startswith("  other: ") for line in lines) == len(lines) / 2

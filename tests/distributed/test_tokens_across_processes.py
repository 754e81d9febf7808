"""Law 1: the same recipe has the same token in every process, whatever its hash seed and the order of the walk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests.pipelines import PIPELINES, field, write_sources

ROOT = Path(__file__).parents[2]
SEEDS = ["0", "1", "2", "3", "42", "1234", "4294967295", "random"]

# dask's einsum contracts several dimensions, of which at least one has several blocks, in the order of a
# set: another sum for another seed. docs/design/0001-how-a-block-gets-its-token.md
# lists them.
MISSES = ("einsum_several", "weighted")
# Without consolidated metadata Zarr lists a group's arrays in no order, and xr.map_blocks hands the function a dataset
# with its variables in that order, which the function can see.
SOMETIMES = {"zarr_plain_map_blocks"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(root: Path, number: int) -> dict[str, Any]:
    """Identify all pipelines in a fresh process, under a hash seed and in an order of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.pipelines", str(root), str(number)],
        env={**os.environ, "PYTHONHASHSEED": SEEDS[number]},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Give, by hash seed, every pipeline's token and its blocks' tokens."""
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    with ThreadPoolExecutor(
        os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    ) as pool:
        return dict(zip(SEEDS, pool.map(run, [root] * len(SEEDS), range(len(SEEDS))), strict=True))


def test_every_pipeline_has_tokens(identities: dict[str, dict[str, Any]]) -> None:
    assert len(PIPELINES) >= 150
    for name, found in identities["0"].items():
        assert len(found["whole"]) == 40, (name, found["whole"])
        without = {block for block in found["blocks"].values() if len(block) != 40}
        assert not without, (name, without)


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in {*MISSES, *SOMETIMES}])
def test_tokens_are_equal_in_every_process(name: str, identities: dict[str, dict[str, Any]]) -> None:
    expected = identities["0"][name]
    for seed in SEEDS[1:]:
        assert identities[seed][name] == expected, f"PYTHONHASHSEED={seed}"


@pytest.mark.parametrize("name", PIPELINES)
def test_layers_and_their_tasks_have_the_same_tokens(
    name: str, identities: dict[str, dict[str, Any]]
) -> None:
    for found in identities.values():
        assert found[name]["tasks"] == found[name]["blocks"]


def test_consolidated_metadata_do_not_count(identities: dict[str, dict[str, Any]]) -> None:
    found = identities["0"]
    groups = [name for name in found if name.startswith("consolidated_consolidated_")]
    assert len(groups) >= 4
    for name in groups:
        assert found[name] == found[name.replace("_consolidated_", "_not_consolidated_")]


def test_flox_is_another_recipe(identities: dict[str, dict[str, Any]]) -> None:
    found = identities["0"]
    without = {name for name in found if name.endswith("_without_flox")}
    equal = {
        name for name in without if found[name]["whole"] == found[name.removesuffix("_without_flox")]["whole"]
    }
    # What maps a function over the groups is no matter of flox.
    assert len(without) >= 8
    assert equal == {"groupby_map_without_flox"}


def test_the_known_misses_are_still_missed(identities: dict[str, dict[str, Any]]) -> None:
    # One that is no more can be taken off the list, here and in the documentation.
    seen = list(identities.values())
    assert {name for name in MISSES if any(found[name] != seen[0][name] for found in seen)} == set(MISSES)


def test_a_dataset_is_told_by_the_order_of_its_variables() -> None:
    ds = field()
    one, other = (xr.map_blocks(to_array, ds[names], template=ds.t) for names in (["t", "p"], ["p", "t"]))
    assert one.cache.token != other.cache.token


def to_array(block: xr.Dataset) -> xr.DataArray:
    return block[next(iter(block))] * xr.ones_like(block.t)


def test_another_recipe_has_another_token(identities: dict[str, dict[str, Any]]) -> None:
    equal = {"groupby_map_without_flox", *(name for name in PIPELINES if "_not_consolidated_" in name)}
    wholes = [
        found["whole"]
        for name, found in identities["0"].items()
        if name not in equal or name.startswith("plain_")
    ]
    assert len(wholes) >= 150
    assert len(set(wholes)) == len(wholes)

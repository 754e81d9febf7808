"""Zarr's state machines, over levels, limits and fan-outs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine

from daskcache.stores import Fanout, Level, Levels, Limit
from daskcache.stores.opened import DiskStore

# Each example sets and lists dozens of objects.
FEW = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# Homes are in memory: on disk an object cannot lie where a directory lies, and the machine tries that.
STORES: dict[str, Callable[[], Store]] = {
    "memory": lambda: Levels(MemoryStore(), MemoryStore()),
    "a tier that takes copies": lambda: Levels(
        Level(Limit(MemoryStore(), max_size=300, max_object=80), write=False), MemoryStore()
    ),
    "a level that takes no copies": lambda: Levels(Level(MemoryStore(), copy=False), MemoryStore()),
    "only mutable objects": lambda: Levels(MemoryStore(), MemoryStore(), fixed="never"),
    "fan-out": lambda: Fanout(MemoryStore(), MemoryStore(), MemoryStore()),
    "fan-out with documents": lambda: Fanout(MemoryStore(), MemoryStore(), fixed="[ab1]"),
    "fan-out of levels, a limit and a fan-out": lambda: Fanout(
        Levels(MemoryStore(), MemoryStore()),
        Limit(MemoryStore(), max_object=20),
        Fanout(MemoryStore(), MemoryStore()),
        MemoryStore(),
    ),
    "levels with a fan-out": lambda: Levels(MemoryStore(), Fanout(MemoryStore(), MemoryStore())),
    "limit in memory": lambda: Limit(MemoryStore(), max_size="1 GB"),
    "limit on objects": lambda: Limit(MemoryStore(), max_object="1 MB"),
}


@pytest.mark.parametrize("kind", STORES)
def test_behaves_like_a_dict(kind: str) -> None:
    run_state_machine_as_test(lambda: ZarrStoreStateMachine(STORES[kind]()), settings=FEW)


DIRECTORIES: dict[str, Callable[[Path], Store]] = {
    "disks": lambda path: Levels(DiskStore(path / "fast"), LocalStore(path / "home")),
    "a tier that takes copies": lambda path: Levels(
        Level(Limit(DiskStore(path / "tier"), max_size=3000, max_object=800), write=False),
        DiskStore(path / "home"),
    ),
    "fan-out": lambda path: Fanout(*(DiskStore(path / name) for name in "abc")),
    "limit on size": lambda path: Limit(DiskStore(path / "home"), max_size="1 GB"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::zarr.core.dtype.common.UnstableSpecificationWarning")
@pytest.mark.parametrize("kind", DIRECTORIES)
def test_hierarchies_behave_like_those_in_memory(kind: str, tmp_path: Path) -> None:
    few = settings(FEW, max_examples=3, stateful_step_count=12)
    run_state_machine_as_test(lambda: ZarrHierarchyStateMachine(DIRECTORIES[kind](tmp_path)), settings=few)

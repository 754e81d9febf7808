"""Tokens of graph nodes under every version of the rules, pinned, as fingerprints of objects are.

Graphs are written down here, because another version of dask may build others; libraries' versions are left out, and
functions of the user's declare what they are, so that one file holds for every environment.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import daskcache
from daskcache.dask_internals import (
    Alias,
    DataNode,
    Dict,
    List,
    Set,
    Task,
    TaskRef,
    Tuple,
    chunk_einsum,
    getter,
    identity_cast,
    pass_extra_kwargs,
    trim_overlap,
)
from daskcache.fingerprint import RULES, Fingerprinter
from daskcache.tokens import GraphTokens

DATA = Path(__file__).parent / "data"
VALUES = np.arange(24, dtype="<f8").reshape(4, 6)
X, Y = TaskRef("x"), TaskRef("y")


@daskcache.fingerprint_as("join", 1)
def join(*parts: Any, **named: Any) -> Any:
    return parts, named


def trimmed(place: tuple[int, ...]) -> Task:
    function = functools.partial(trim_overlap, axes={0: 1}, boundary={0: "none"})
    return Task("z", pass_extra_kwargs, function, ("_overlap_trim_info",), (place, (3,)), X)


def zarr_array() -> Any:
    array = zarr.create_array(
        {}, shape=(4,), chunks=(2,), dtype="<i8", zarr_format=2, compressors=None, filters=None, fill_value=0
    )
    array[:] = [1, 2, 3, 4]
    return array


def graphs() -> dict[str, dict[Any, Any]]:
    """Give graphs by name, of which the key ``z`` is asked for."""
    nodes: dict[str, Any] = {
        "value": DataNode("z", 1.5),
        "alias": Alias("z", "x"),
        "task": Task("z", join, X, 2, Y),
        "no arguments": Task("z", join),
        "named": Task("z", join, X, b=1, a=Y),
        "installed": Task("z", np.add, X, Y),
        "list": Task("z", join, List(X, 2, Y)),
        "tuple": Task("z", join, Tuple(X, 2, Y)),
        "set": Task("z", join, Set(X, 2, Y)),
        "dict": Task("z", join, Dict({"b": X, "a": Y})),
        "containers in containers": Task("z", join, List(Tuple(X), Dict({"a": List(Y)}))),
        "task in a task": Task("z", join, Task(None, join, X), Y),
        "cast": Task("z", identity_cast, X, Y, typ=tuple),
        "older task": (join, "x", [2, "y"]),
        "region": Task("z", getter, TaskRef("values"), (slice(1, 3), slice(None))),
        "element": Task("z", getter, TaskRef("values"), (1, 2)),
        "first of an overlap": trimmed((0,)),
        "inside of an overlap": trimmed((1,)),
        "einsum": Task("z", chunk_einsum, X, Y, subscripts="ab,bc->ac", kwargs={}, ncontract_inds=1, dtype="f8"),
        "chunk of Zarr": Task("z", getter, zarr_array(), (slice(2, 4),)),
    }  # fmt: skip
    given = {"x": DataNode("x", 1), "y": Task("y", join, 2.5), "values": DataNode("values", VALUES)}
    return {name: {**given, "z": node} for name, node in nodes.items()}


def token(graph: dict[Any, Any], **settings: Any) -> str:
    tokens = GraphTokens(graph, Fingerprinter(code_versions="none", **settings))
    found = tokens.token("z")
    assert found is not None, tokens.reason("z")
    return found.hex()


def computed(directory: Path) -> dict[str, str]:
    found = {name: token(graph) for name, graph in graphs().items()}
    found["salted"] = token(graphs()["task"], salt="mine")
    table = directory / "table.bin"
    table.write_text("1\n")
    graph = {"z": Task("z", np.fromfile, str(table))}
    return {**found, "table by content": token(graph, source_check="content")}


def pinned(rules: bytes = RULES) -> dict[str, str]:
    version = rules.decode().rpartition("/")[2]
    found: dict[str, str] = json.loads((DATA / f"tokens-{version}.json").read_text())
    return found


def test_every_token_is_as_it_was(tmp_path: Path) -> None:
    assert computed(tmp_path) == pinned()


def test_no_two_are_the_same() -> None:
    found = pinned()
    assert len(set(found.values())) == len(found)


def test_fusing_leaves_them_as_they_are() -> None:
    names = ("task", "named", "list", "set", "dict", "containers in containers", "task in a task")
    for name in names:
        graph = graphs()[name]
        whole = Task.fuse(graph["y"], graph["z"], key="z")
        assert token({"x": graph["x"], "z": whole}) == pinned()[name]

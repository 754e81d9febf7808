"""Objects put into a store by hand, so that manifests can be tested without graphs."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from daskcache import stores
from daskcache.chunks import block_key, chunk_id, group_of
from daskcache.chunks.encoding import encode, inner_ranges
from daskcache.manifest import UNNAMED, Manifest, Node, StoredVariable, kept_encoding, to_storable


def store_variable(
    root: str,
    path: str,
    variable: xr.Variable,
    *,
    chunks: Any = None,
    is_coord: bool = False,
    inline: bool = False,
    inner_shape: Any = None,
) -> StoredVariable:
    values, calendar = to_storable(np.asarray(variable.values))
    chunks = chunks or tuple((length,) for length in values.shape)
    fields: dict[str, Any] = {
        "path": path,
        "dims": tuple(map(str, variable.dims)),
        "dtype": variable.dtype,
        "chunks": chunks,
        "attrs": variable.attrs,
        "encoding": kept_encoding(variable.encoding),
        "is_coord": is_coord,
        "in_memory": inline,
        "inner_shape": inner_shape,
        "calendar": calendar,
    }
    plan = StoredVariable(**fields, inline=b"") if inline else _planned(fields)
    store = stores.open(root)
    sizes, tokens, groups, inner = [], [], [], []
    offsets = [list(itertools.accumulate(dim, initial=0)) for dim in chunks]
    for index, spec in plan.specs():
        where = tuple(
            slice(starts[i], starts[i] + dim[i])
            for starts, dim, i in zip(offsets, chunks, index, strict=True)
        )
        block = values[where] if where else values
        data = bytes(encode(block, spec))
        if inline:
            return StoredVariable(**fields, inline=data)
        token = hashlib.blake2b(repr((path, index, block.dtype)).encode() + data, digest_size=20).digest()
        group = group_of(path.encode(), spec)
        if data:
            stores.put(store, block_key(group, chunk_id(token, spec)), data)
        if data and plan.grid.kind == "inner":
            inner.extend(inner_ranges(data, spec))
        tokens.append(token)
        groups.append(int(group, 16))
        sizes.append(len(data))
    return StoredVariable(
        **fields,
        tokens=np.frombuffer(b"".join(tokens), "u1").reshape(-1, 20),
        groups=np.array(groups, "<u2"),
        sizes=np.array(sizes, "<u8"),
        inner=np.array(inner, "<u8").reshape(-1, 2) if plan.grid.kind == "inner" else None,
    )


def _planned(fields: dict[str, Any]) -> StoredVariable:
    count = int(np.prod([len(dim) for dim in fields["chunks"]]))
    return StoredVariable(
        **fields,
        tokens=np.zeros((count, 20), "u1"),
        groups=np.zeros(count, "<u2"),
        sizes=np.zeros(count, "<u8"),
    )


def store_dataset(
    root: Path | str, dataset: xr.Dataset, node: str = "", **variables: Any
) -> tuple[Any, Node]:
    """Store a dataset's variables: those of dask with their chunks, others inline."""
    prefix = f"{node}/" if node else ""
    stored = tuple(
        store_variable(
            str(root),
            f"{prefix}{name}",
            variable,
            is_coord=name in dataset.coords,
            chunks=variable.chunks,
            inline=variable.chunks is None,
            **variables.get(str(name), {}),
        )
        for name, variable in dataset.variables.items()
    )
    return stored, Node(dataset.attrs, kept_encoding(dataset.encoding))


def manifest_of(root: Path | str, thing: Any, **info: Any) -> Manifest:
    if isinstance(thing, xr.DataTree):
        variables, nodes = [], {}
        for node in thing.subtree:
            path = node.path.strip("/")
            stored, nodes[path] = store_dataset(root, node.to_dataset(inherit=False), path)
            variables.extend(stored)
        return Manifest.build("datatree", tuple(variables), nodes=nodes, info=info)
    if isinstance(thing, xr.DataArray):
        name = thing.name if isinstance(thing.name, str) and thing.name not in thing.coords else UNNAMED
        dataset = thing.rename(None).to_dataset(name=name)
        variables, _ = store_dataset(root, dataset)
        return Manifest.build("dataarray", variables, name=thing.name, info=info)
    variables, node = store_dataset(root, thing)
    return Manifest.build("dataset", variables, nodes={"": node}, info=info)


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Have what a catalog asks its store noted: the call, and the last segment of the key."""
    calls: list[tuple[str, str]] = []
    for name in ("get", "put", "create", "exists", "list_sizes", "list_dirs", "delete"):
        real = getattr(stores, name)

        def counted(store: Any, key: str, *args: Any, name: str = name, real: Any = real) -> Any:
            calls.append((name, key.rpartition("/")[2]))
            return real(store, key, *args)

        monkeypatch.setattr(stores, name, counted)
    return calls

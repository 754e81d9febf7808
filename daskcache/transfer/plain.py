"""A plain Zarr store as an entry makes it: which chunks it has, what its documents say, and whether it can become so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice, product
from math import prod
from typing import Any

from daskcache.chunks import ChunkSpec, encode
from daskcache.config import Codecs
from daskcache.errors import InvalidInputError
from daskcache.manifest import Manifest, Reference, StoredVariable, documents_of, iterate_references
from daskcache.packed import PackedBlocks, read_encoded

__all__ = ["Piece", "check_growth", "chunk_specs", "document_key", "pieces_of", "write_documents"]

_LEAST = 1024
"""Elements of the chunks of a shorter in-memory variable of one dimension, so that it may grow."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The chunks of one block, which are written together."""

    place: str
    """That of its first chunk, such as ``0/3``."""
    name: str
    """Names the bytes: equal for equal pieces in one place."""
    references: tuple[Reference, ...]
    """Where the bytes are, chunk by chunk."""
    size_bytes: int
    """Their size."""


def chunk_specs(manifest: Manifest, before: Mapping[str, Any]) -> dict[str, ChunkSpec]:
    """Choose the chunks of in-memory variables, whose blocks are as long as the variable and would not stay when it grows.

    Parameters
    ----------
    manifest : Manifest
        What is published.
    before : mapping of str to dict
        By path, the documents of the arrays that were published before, whose chunks stay.

    Returns
    -------
    dict of str to ChunkSpec
        By path.

    Examples
    --------
    >>> import numpy as np
    >>> x = StoredVariable("x", ("x",), np.dtype("i8"), ((3,),), in_memory=True, inline=b"encoded")
    >>> chunk_specs(Manifest.build("dataset", (x,)), {})["x"].chunk_shape
    (1024,)
    """
    found = {}
    for variable in manifest.variables:
        if not variable.in_memory:
            continue
        shape: tuple[int, ...] = tuple(lengths[0] if lengths else 1 for lengths in variable.chunks)
        if len(shape) == 1 and len(variable.chunks[0]) == 1:
            shape = (max(shape[0], _LEAST),)
        grid = before.get(variable.path, {}).get("chunk_grid", {})
        if grid.get("name") == "regular" and len(grid["configuration"]["chunk_shape"]) == len(shape):
            shape = tuple(map(int, grid["configuration"]["chunk_shape"]))
        # Of codecs that no setting changes.
        found[variable.path] = ChunkSpec.for_block(variable.encoded_dtype, shape, Codecs())
    return found


def pieces_of(variable: StoredVariable, root: str, spec: ChunkSpec | None) -> Iterator[Piece]:
    """Give the chunks of a variable, block by block.

    Parameters
    ----------
    variable : StoredVariable
        Of a manifest.
    root : str
        The root of the pool that holds its blocks.
    spec : ChunkSpec or None
        How an in-memory variable is encoded anew; None for those whose objects are copied.

    Yields
    ------
    Piece
        In C order; none for blocks of no size.

    Raises
    ------
    NotStoredError, CorruptChunkError
        A block of an in-memory variable is missing or damaged.

    Examples
    --------
    >>> import numpy as np
    >>> spec = ChunkSpec.for_block("i8", (2,))
    >>> inline = bytes(encode(np.arange(3), ChunkSpec.for_block("i8", (3,))))
    >>> x = StoredVariable("x", ("x",), np.dtype("i8"), ((3,),), in_memory=True, inline=inline)
    >>> [piece.place for piece in pieces_of(x, "memory://doc-pieces", spec)]
    ['0', '1']
    """
    if spec is not None:
        yield from _encoded(variable, root, spec)
        return
    references = iterate_references(variable)
    inner = variable.grid.inner_shape if variable.grid.kind == "inner" else None
    for block in PackedBlocks(root, variable):
        if 0 in block.shape:
            continue
        count = (
            1 if inner is None else prod(c // i for c, i in zip(block.spec.chunk_shape, inner, strict=True))
        )
        chunks = tuple(islice(references, count))
        yield Piece(_place(variable, chunks[0].key), block.id, chunks, block.size_bytes or 0)


def _encoded(variable: StoredVariable, root: str, spec: ChunkSpec) -> Iterator[Piece]:
    if 0 in variable.shape:
        return
    values = read_encoded(variable, root)
    counts = [-(-length // chunk) for length, chunk in zip(variable.shape, spec.chunk_shape, strict=True)]
    for index in product(*map(range, counts)):
        region = (slice(i * c, (i + 1) * c) for i, c in zip(index, spec.chunk_shape, strict=True))
        # With an ellipsis, because a 0-d array of texts would give its text.
        whole: tuple[Any, ...] = (*region, ...)
        data = bytes(encode(values[whole], spec))
        key = "/".join([f"{variable.path}/c", *map(str, index)])
        name = blake2b(data, digest_size=20).hexdigest()
        yield Piece(_place(variable, key), name, (Reference(key, None, inline=data),), len(data))


def _place(variable: StoredVariable, key: str) -> str:
    return key[len(variable.path) + 3 :]


def document_key(path: str) -> str:
    """Name the document of a node or an array.

    Parameters
    ----------
    path : str
        Its path; empty for the root.

    Returns
    -------
    str
        A key of the target.

    Examples
    --------
    >>> document_key(""), document_key("t2m")
    ('zarr.json', 't2m/zarr.json')
    """
    return f"{path}/zarr.json" if path else "zarr.json"


def write_documents(manifest: Manifest, specs: Mapping[str, ChunkSpec]) -> list[tuple[str, bytes]]:
    """Write the documents of a published store.

    Parameters
    ----------
    manifest : Manifest
        What is published.
    specs : mapping of str to ChunkSpec
        What `chunk_specs` gave.

    Returns
    -------
    list of tuple of str and bytes
        Path and content, in the order in which they are put: arrays, those of coordinates after others; then groups, the
        innermost first and the root, by which readers find all others, last.

    Examples
    --------
    >>> [path for path, _ in write_documents(Manifest.build("dataset", ()), {})]
    ['']
    """
    rank = {variable.path: (0, variable.is_coord) for variable in manifest.variables}

    def order(path: str) -> tuple[Any, ...]:
        return rank.get(path, (1, -path.count("/") - bool(path)))

    found = documents_of(manifest, specs)
    return [(path, json.dumps(found[path]).encode("ascii")) for path in sorted(found, key=order)]


def check_growth(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> None:
    """Refuse what would disturb readers of an array that was published before.

    Parameters
    ----------
    before, now : mapping
        The array's documents.
    path : str
        The array's.

    Raises
    ------
    InvalidInputError
        The array would be another one, or shrink.

    Examples
    --------
    >>> before = ChunkSpec.for_block("i8", (2,)).zarr_metadata((2,))
    >>> check_growth(before, {**before, "shape": [3]}, "t")
    """
    for member in sorted((before.keys() | now.keys()) - {"shape", "attributes", "chunk_grid"}):
        if before.get(member) != now.get(member):
            raise _other(path, member.replace("_", " "), before.get(member), now.get(member))
    old, new = before["shape"], now["shape"]
    if len(old) != len(new) or any(n < o for o, n in zip(old, new, strict=True)):
        raise _other(path, "shape", old, new)
    grids = before["chunk_grid"], now["chunk_grid"]
    if grids[0] == grids[1]:
        return
    if {grid["name"] for grid in grids} == {"rectilinear"}:
        old_chunks, new_chunks = ([*map(_expand, grid["configuration"]["chunk_shapes"])] for grid in grids)
        if all(n[: len(o)] == o for o, n in zip(old_chunks, new_chunks, strict=True)):
            return
        raise _other(path, "lengths of its chunks", old_chunks, new_chunks)
    raise _other(path, "chunks", *(_show(grid) for grid in grids))


def _expand(runs: list[Any]) -> list[int]:
    return [length for run in runs for length in ([run] if isinstance(run, int) else [run[0]] * run[1])]


def _show(grid: Mapping[str, Any]) -> Any:
    return grid["configuration"].get("chunk_shape", grid["name"])


def _other(path: str, what: str, old: Any, new: Any) -> InvalidInputError:
    return InvalidInputError(
        f"{path!r} is published with {what} {old!s:.200}, and the entry has {new!s:.200}; readers of what is there would be "
        "disturbed: publish to another target, or with overwrite=True, which begins anew"
    )

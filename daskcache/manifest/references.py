"""The readable form of a manifest, ``<version>.json``: a kerchunk reference set for any reader of Zarr."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

import numpy as np

from daskcache import stores
from daskcache.attributes import simplify_attribute
from daskcache.chunks import ChunkSpec, Grid, block_key, chunk_id
from daskcache.errors import InvalidInputError
from daskcache.manifest.forms import cf_attributes
from daskcache.manifest.idx import FORMAT, run_lengths
from daskcache.manifest.model import UNNAMED, Manifest, Node, StoredVariable

__all__ = ["Reference", "documents_of", "iterate_references", "to_kerchunk"]

# How xarray.open_dataarray restores a name that a coordinate has as well.
_NAME_ATTRIBUTE = "__xarray_dataarray_name__"


def to_kerchunk(manifest: Manifest, root_url: str, pool: str = "") -> bytes:
    """Write the reference set of a manifest.

    Parameters
    ----------
    manifest : Manifest
        What to write.
    root_url : str
        The store's root; credentials and query are left out.
    pool : str, optional
        The path from there to the pool that holds the blocks.

    Returns
    -------
    bytes
        JSON, kerchunk's version 1, with the further member ``daskcache`` for people and tools.

    Raises
    ------
    InvalidInputError
        A block's chunk does not fit the grid, or offsets of inner chunks are missing.

    Notes
    -----
    Whoever has xarray, zarr and fsspec opens it without daskcache, in one request besides those for chunks::

        xr.open_dataset(
            "reference://",
            engine="zarr",
            backend_kwargs={
                "consolidated": False,
                "storage_options": {"fo": "<root>/namespaces/<namespace>/<entry>/@/<version>.json"},
            },
        )

    For a store that was moved or mirrored, add ``"template_overrides": {"root": "<new root>"}`` to the storage
    options. For a remote root, add ``"remote_options": {"asynchronous": True, …}`` with the file system's own
    options, such as ``"anon"``, and the same without ``asynchronous`` as ``"target_options"``. A node of a
    DataTree is opened with ``group="<node>"``, all of it by `xarray.open_datatree` with the same arguments.
    Irregular blocks with small inner chunks have Zarr's rectilinear grid, which readers enable by
    ``zarr.config.set({"array.rectilinear_chunks": True})``.

    Every chunk is named, for one that is not would read as fill values; one whose object has gone raises.

    Examples
    --------
    >>> manifest = Manifest.build("dataset", (), nodes={"": Node({"title": "nothing"})})
    >>> json.loads(to_kerchunk(manifest, "s3://key:secret@bucket/cache"))["templates"]
    {'root': 's3://bucket/cache'}
    """
    documents = documents_of(manifest)
    own = {
        "format": FORMAT,
        "kind": manifest.kind,
        "name": simplify_attribute(manifest.name),
        "version": manifest.version,
    }
    head = {
        "version": 1,
        "templates": {"root": stores.describe(root_url).rstrip("/")},
        "daskcache": {**own, **manifest.info, **own},
    }
    refs = [
        f"{json.dumps(_join(path, 'zarr.json'))}:{json.dumps(json.dumps(document))}"
        for path, document in documents.items()
    ]
    for variable in manifest.variables:
        # Written as text: a hundred thousand lists would cost ten times as much.
        refs.extend(_references(variable, f"{{{{root}}}}/{pool}{'/' if pool else ''}"))
    text = json.dumps(head, allow_nan=False)
    return f'{text[:-1]}, "refs": {{\n{",\n".join(refs)}\n}}}}\n'.encode("ascii")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the bytes of a chunk lie."""

    key: str
    """The chunk's, as readers of Zarr ask for it."""
    object: str | None
    """The key of the object in the pool; None for a chunk that lies in the manifest."""
    offset: int = 0
    """Where in the object it begins."""
    size_bytes: int | None = None
    """Its size; None for all of the object."""
    inline: bytes = b""
    """The chunk itself, where there is no object."""


def iterate_references(variable: StoredVariable) -> Iterator[Reference]:
    """Give the chunks of a variable as readers of Zarr see them.

    Parameters
    ----------
    variable : StoredVariable
        Of a manifest.

    Yields
    ------
    Reference
        In C order of the readers' grid within each block.

    Raises
    ------
    InvalidInputError
        Offsets of inner chunks are missing.

    Examples
    --------
    >>> variable = StoredVariable("t", (), np.dtype("f4"), (), inline=b"encoded")
    >>> [(reference.key, reference.inline) for reference in iterate_references(variable)]
    [('t/c', b'encoded')]
    """
    for text in _references(variable, ""):
        ((key, value),) = json.loads(f"{{{text}}}").items()
        if isinstance(value, str):
            yield Reference(key, None, inline=base64.b64decode(value.removeprefix("base64:")))
        else:
            yield Reference(key, *value)


def documents_of(
    manifest: Manifest, specs: Mapping[str, ChunkSpec] | None = None
) -> dict[str, dict[str, Any]]:
    """Give the Zarr document of each node and array, those of groups with all below them.

    Parameters
    ----------
    manifest : Manifest
        What is stored.
    specs : mapping of str to ChunkSpec, optional
        By path, of variables whose chunks are not those of the pool but encoded anew.

    Returns
    -------
    dict of str to dict
        By the path of the node or array.

    Examples
    --------
    >>> list(documents_of(Manifest.build("dataset", ())))
    ['']
    """
    specs = specs or {}
    arrays = {
        variable.path: _array(manifest, variable, specs.get(variable.path) or _spec(variable))
        for variable in manifest.variables
    }
    groups = {
        path: {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": _node_attributes(manifest, path, node),
        }
        for path, node in sorted(manifest.nodes.items())
    }
    below = {**groups, **arrays}
    consolidated = {
        path: {
            **group,
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": {
                    other[len(path) :].lstrip("/"): document
                    for other, document in below.items()
                    if other != path and (not path or other.startswith(path + "/"))
                },
            },
        }
        for path, group in groups.items()
    }
    return {**consolidated, **arrays}


def _node_attributes(manifest: Manifest, path: str, node: Node) -> dict[str, Any]:
    attributes: dict[str, Any] = simplify_attribute(dict(node.attrs))
    variables = [variable for variable in manifest.variables if variable.node == path]
    named = {name for variable in variables for name in _coordinates(variable, variables).split()}
    rest = [variable.name for variable in variables if _is_listed(variable) and variable.name not in named]
    if rest:
        attributes["coordinates"] = " ".join(rest)
    if manifest.kind == "dataarray" and isinstance(manifest.name, str):
        names = [variable.name for variable in variables if not variable.is_coord]
        if names == [UNNAMED]:
            attributes[_NAME_ATTRIBUTE] = manifest.name
    return attributes


def _is_listed(variable: StoredVariable) -> bool:
    # A name with a space would be read as two.
    return (
        variable.is_coord and variable.dims != (variable.name,) and not any(map(str.isspace, variable.name))
    )


def _coordinates(variable: StoredVariable, siblings: list[StoredVariable]) -> str:
    """Give a variable's attribute ``coordinates``; empty where it has none."""
    if isinstance(variable.attrs.get("coordinates"), str):
        return str(variable.attrs["coordinates"])
    if "coordinates" in variable.encoding:
        return variable.encoding["coordinates"] or ""
    if variable.is_coord:
        return ""
    names = [other.name for other in siblings if _is_listed(other) and set(other.dims) <= set(variable.dims)]
    return " ".join(names)


def _array(manifest: Manifest, variable: StoredVariable, spec: ChunkSpec) -> dict[str, Any]:
    siblings = [other for other in manifest.variables if other.node == variable.node]
    attributes: dict[str, Any] = simplify_attribute(dict(variable.attrs))
    grid = variable.grid
    if "_FillValue" in attributes:
        fill = _fill_attribute(
            variable.attrs["_FillValue"], np.dtype("T" if spec.dtype == "string" else spec.dtype)
        )
        attributes.pop("_FillValue")
        attributes.update(fill)
    coordinates = _coordinates(variable, siblings)
    if coordinates:
        attributes["coordinates"] = coordinates
    mapping = variable.encoding.get("grid_mapping")
    if mapping and "grid_mapping" not in attributes:
        attributes["grid_mapping"] = mapping
    attributes.update(cf_attributes(variable.dtype, variable.calendar))
    members: dict[str, Any] = {"attributes": attributes, "dimension_names": list(variable.dims)}
    # Zarr takes no chunks of no length, and an array of no size has no chunks to describe.
    if grid.kind == "rectilinear" and 0 not in variable.shape:
        shapes = [run_lengths(tuple(length for length in dim if length)) for dim in variable.chunks]
        members["chunk_grid"] = {
            "name": "rectilinear",
            "configuration": {"kind": "inline", "chunk_shapes": shapes},
        }
    return spec.zarr_metadata(variable.shape, **members)


def _fill_attribute(value: Any, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Write an attribute ``_FillValue`` as xarray does in Zarr, or leave out what it could not read."""
    try:
        if dtype.kind == "f":
            return {"_FillValue": base64.b64encode(struct.pack("<d", float(value))).decode("ascii")}
        if dtype.kind == "S":
            return {"_FillValue": base64.b64encode(bytes(value)).decode("ascii")}
        if dtype.kind in "biu":
            return {"_FillValue": bool(value) if dtype.kind == "b" else int(value)}
        return {}
    except (TypeError, ValueError, OverflowError):
        return {}


def _spec(variable: StoredVariable) -> ChunkSpec:
    """Give the specification that tells readers how a chunk of the array is encoded."""
    grid = variable.grid
    first = tuple(0 for _ in variable.chunks)
    if grid.kind == "inner":
        # Readers see the inner chunks, each at its place in a block's object, and not the shards.
        assert grid.inner_shape is not None
        return ChunkSpec.for_block(variable.encoded_dtype, grid.inner_shape, variable.codecs)
    spec = grid.spec(first, variable.encoded_dtype, variable.codecs, variable.inner_shape)
    if grid.kind == "regular":
        for length, regular, count in zip(spec.chunk_shape, grid.regular, variable.numblocks, strict=True):
            if count > 1 and length != regular:
                raise InvalidInputError(
                    f"inner chunks {spec.inner_shape} of variable {variable.path!r} do not divide its blocks, "
                    f"whose lengths are {grid.regular}; only a dimension held in one block may be padded"
                )
    return spec


def _references(variable: StoredVariable, root: str) -> Iterator[str]:
    # As in JSON, for names may hold anything.
    prefix = json.dumps(_join(variable.path, "c"))[:-1]
    if variable.inline is not None:
        if 0 not in variable.shape:
            key = f'{prefix}{"/0" * len(variable.shape)}"'
            yield f'{key}:"base64:{base64.b64encode(variable.inline).decode("ascii")}"'
        return
    grid = variable.grid
    if grid.kind == "inner":
        yield from _inner_references(variable, grid, prefix, root)
        return
    places = _places(variable.chunks)
    groups = variable.groups.tolist()
    tokens = _rows(variable.tokens)
    for number, (index, spec) in enumerate(variable.specs()):
        place = [dim[i] for dim, i in zip(places, index, strict=True)]
        if -1 in place:
            continue  # a block of no size has no object
        url = _url(root, groups[number], tokens[number], spec)
        yield f'{prefix}{"".join(f"/{i}" for i in place)}":["{url}"]'


def _inner_references(variable: StoredVariable, grid: Grid, prefix: str, root: str) -> Iterator[str]:
    assert grid.inner_shape is not None
    if variable.inner is None:
        raise InvalidInputError(
            f"the offsets of inner chunks of variable {variable.path!r} are missing; "
            "read them from the ends of its objects"
        )
    starts = [
        list(accumulate((-(-length // inner) for length in dim), initial=0))
        for dim, inner in zip(variable.chunks, grid.inner_shape, strict=True)
    ]
    places: list[tuple[str, tuple[int, ...]]] = []
    groups, tokens = variable.groups.tolist(), _rows(variable.tokens)
    for number, (index, spec) in enumerate(variable.specs()):
        if 0 in grid.block_shape(index):
            continue  # a block of no size has no object
        url = _url(root, groups[number], tokens[number], spec)
        counts = [length // inner for length, inner in zip(spec.chunk_shape, grid.inner_shape, strict=True)]
        for inside in product(*map(range, counts)):
            place = tuple(dim[i] + j for dim, i, j in zip(starts, index, inside, strict=True))
            places.append((url, place))
    if len(places) != len(variable.inner):
        raise InvalidInputError(
            f"variable {variable.path!r} has {len(variable.inner)} offsets of inner chunks; expected {len(places)}"
        )
    for (url, place), (offset, size) in zip(places, variable.inner.tolist(), strict=True):
        yield f'{prefix}{"".join(f"/{i}" for i in place)}":["{url}",{offset},{size}]'


def _url(root: str, group: int, token: bytes, spec: ChunkSpec) -> str:
    return root + block_key(f"{group:04x}", chunk_id(token, spec))


def _rows(tokens: np.ndarray[Any, Any]) -> list[bytes]:
    data = tokens.tobytes()
    return [data[start : start + 20] for start in range(0, len(data), 20)]


def _places(chunks: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    """Give each block's place in the grid that readers see, along each dimension; -1 for those of no length."""
    places = []
    for dim in chunks:
        count = accumulate((1 if length else 0 for length in dim), initial=0)
        places.append([place if length else -1 for place, length in zip(count, dim, strict=False)])
    return places


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name

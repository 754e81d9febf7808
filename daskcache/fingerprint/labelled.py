"""xarray: variables, arrays and datasets by dimensions, values and attributes, in whatever order they were put in.

Encodings do not count: they say how values were or will be written, and hold paths.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

from daskcache.fingerprint.classes import assigned_names, derived_names
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles, handles_subclasses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__: list[str] = []


@handles("xarray:Variable", "xarray:IndexVariable", "xarray:NamedArray")
def _variable(fp: Fingerprinter, obj: Any) -> Node:
    index = type(obj).__name__ == "IndexVariable"
    return Node(
        (type(obj).__name__, obj.dims, _data(obj, index), dict(obj.attrs)),
        lambda parts: fp.combine(b"variable", parts),
        ("type", "dimensions", "data", "attributes"),
    )


def _data(obj: Any, is_index: bool) -> Any:
    if is_index:
        # The values: a pandas index also remembers how it was made.
        return obj.values
    # What the variable holds, dask array, lazy wrapper or numpy array; Variable.data would load it.
    named_array: Any = sys.modules["xarray"].NamedArray
    return named_array.data.fget(obj)


@handles("xarray:DataArray")
def _data_array(fp: Fingerprinter, obj: Any) -> Node:
    coords = {name: coord.variable for name, coord in obj.coords.items()}
    return Node(
        (obj.variable, obj.name, coords, _indexes(obj)),
        lambda parts: fp.combine(b"DataArray", parts),
        ("values", "name", "coordinates", "indexes"),
    )


@handles("xarray:Dataset")
def _dataset(fp: Fingerprinter, obj: Any) -> Node:
    data = {name: array.variable for name, array in obj.data_vars.items()}
    coords = {name: coord.variable for name, coord in obj.coords.items()}
    return Node(
        (data, coords, dict(obj.attrs), _indexes(obj)),
        lambda parts: fp.combine(b"Dataset", parts),
        ("variables", "coordinates", "attributes", "indexes"),
    )


@handles("xarray:DataTree")
def _data_tree(fp: Fingerprinter, obj: Any) -> Node:
    nodes = {node.relative_to(obj): node.to_dataset(inherit=False) for node in obj.subtree}
    return combine_items(fp, b"DataTree", (obj.name, nodes))


@handles_subclasses("xarray:DataArray", "xarray:Dataset", "xarray:Variable")
def _subclass(fp: Fingerprinter, obj: Any) -> Node:
    xarray: Any = sys.modules["xarray"]
    base = next(
        kind
        for kind in (xarray.DataArray, xarray.Dataset, xarray.IndexVariable, xarray.Variable)
        if isinstance(obj, kind)
    )
    rules = {xarray.DataArray: _data_array, xarray.Dataset: _dataset}
    node = rules.get(base, _variable)(fp, obj)
    return Node(
        (type(obj), _own_attributes(obj, base), *node.children),
        lambda parts: fp.combine(b"subclass", [*parts[:2], node.combine(parts[2:])]),
        lambda at: ("type", "attributes of its own")[at] if at < 2 else node.label(at - 2),
    )


def _own_attributes(obj: Any, base: type) -> dict[str, Any]:
    """List what an object of a subclass holds besides, in slots and elsewhere."""
    kinds = type(obj).__mro__[: type(obj).__mro__.index(base)]
    slots = {
        name
        for kind in kinds
        for name, slot in vars(kind).items()
        if isinstance(slot, types.MemberDescriptorType) and hasattr(obj, name)
    }
    derived = derived_names(type(obj)) - assigned_names(kinds)
    held = {**{name: getattr(obj, name) for name in slots}, **getattr(obj, "__dict__", {})}
    return {name: held[name] for name in sorted(held) if name not in derived}


def _indexes(obj: Any) -> tuple[tuple[str, str], ...]:
    """Name which coordinates have which kind of index: without one, an operation does not align along it."""
    return tuple(sorted((repr(name), type(index).__name__) for name, index in obj.xindexes.items()))

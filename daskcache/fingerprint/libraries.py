"""What libraries' objects are where pickle's parts would say too much of them, or too little.

Rules by type name; none of the libraries is imported here or needed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles, handles_subclasses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__: list[str] = []


@handles_subclasses("scipy:rv_generic", "scipy:rv_frozen")
def _distribution(fp: Fingerprinter, obj: Any) -> Node:
    """A distribution of scipy's: its random state only where it has one of its own, which few do."""
    state = dict(obj.__getstate__())
    numpy: Any = sys.modules["numpy"]
    if state.get("_random_state") is numpy.random.mtrand._rand:
        del state["_random_state"]
    return Node((type(obj), state), lambda parts: fp.combine(b"distribution", parts), ("type", "parameters"))


@handles("geopandas:GeometryArray")
def _geometries(fp: Fingerprinter, obj: Any) -> Node:
    # Not the search tree that it makes when it is first asked.
    return Node(
        (type(obj), obj.to_numpy(), obj.crs),
        lambda parts: fp.combine(b"geometries", parts),
        ("type", "geometries", "coordinate reference system"),
    )


@handles("pydantic:TypeAdapter")
def _type_adapter(fp: Fingerprinter, obj: Any) -> Node:
    # Its validators are compiled from these.
    return combine_items(fp, b"TypeAdapter", (obj._type, obj._config))


@handles("pydantic:Decorator")
def _decorator(fp: Fingerprinter, obj: Any) -> Node:
    # Its reference to the class is an address.
    return combine_items(fp, b"decorator", (obj.cls_var_name, obj.func, obj.shim, obj.info))


@handles("pydantic_core:SchemaValidator", "pydantic_core:SchemaSerializer")
def _schema(fp: Fingerprinter, obj: Any) -> bytes:
    raise UncacheableError(
        f"{type(obj)} is compiled from a schema with addresses in it; pass the model's class"
    )


@handles("numba:StencilFunc")
def _stencil(fp: Fingerprinter, obj: Any) -> Node:
    function = obj.kernel_ir.func_id.func
    return Node(
        (function, obj.mode, dict(obj.options), obj.neighborhood),
        lambda parts: fp.combine(b"stencil", parts),
        ("function", "mode", "options", "neighborhood"),
    )


@handles("numba:CFunc")
def _c_function(fp: Fingerprinter, obj: Any) -> Node:
    return Node(
        (obj._pyfunc, str(obj._sig)), lambda parts: fp.combine(b"cfunc", parts), ("function", "signature")
    )

"""Callables that are no Python functions: builtins, methods, descriptors, ufuncs, compiled and composed functions."""

from __future__ import annotations

import copy
import functools
import importlib.machinery
import os
import sys
from functools import lru_cache
from hashlib import blake2b
from types import ModuleType
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.declared_files import holds_declared
from daskcache.fingerprint.distributions import find_home, find_module_file
from daskcache.fingerprint.plain import combine_items, state_node
from daskcache.fingerprint.registry import Node, handles, handles_subclasses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["compiled_code", "member_of", "named", "resolves"]

_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_NUMBA_SIGNATURES = frozenset({"siglist", "typesigs", "sigs"})
_LOCAL = ("<locals>", "<lambda>")


def resolves(module: str | None, name: str | None, obj: object) -> bool:
    """Whether a loaded module has an object under a dotted name."""
    if not module or not name or "<" in name:
        return False
    found: Any = sys.modules.get(module)
    for step in name.split("."):
        found = member_of(found, step)
        if found is None:
            return False
    return found is obj


def named(fp: Fingerprinter, obj: Any, module: str | None, name: str | None) -> bytes:
    """Digest what is known by its name and by the version of what it comes with.

    Returns
    -------
    bytes
        20 bytes.

    Raises
    ------
    UncacheableError
        It has no name that says what it does.
    """
    if not isinstance(module, str) or not isinstance(name, str) or any(part in name for part in _LOCAL):
        raise UncacheableError(
            f"{type(obj)} {name or ''} is compiled and has no importable name; wrap it in a def"
        )
    return fp.digester.digest(
        b"named", fp.home_digest(module), compiled_code(module), module.encode(), name.encode()
    )


def compiled_code(module: str) -> bytes:
    """Digest the file of a compiled module of the user's own, for which no version stands; empty for any other."""
    if find_home(module).kind != "user":
        return b""
    file = find_module_file(module)
    if file is None or not file.endswith(_EXTENSIONS):
        return b""
    status = os.stat(file)
    return _digest_file(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _digest_file(file: str, mtime_ns: int, size_bytes: int) -> bytes:
    with open(file, "rb") as opened:
        return blake2b(opened.read(), digest_size=20).digest()


def member_of(obj: Any, name: str) -> Any:
    """Read a name of a module or a class without calling anything; a static method is its function.

    Parameters
    ----------
    obj : object
        A module or a class.
    name : str
        Its attribute.

    Returns
    -------
    object
        What stands there; None where nothing does, and for anything else.

    Examples
    --------
    >>> import json
    >>> member_of(json, "dumps") is json.dumps
    True
    """
    if not isinstance(obj, ModuleType | type):
        return None
    found = vars(obj).get(name)
    return found.__func__ if isinstance(found, staticmethod) else found


@handles("builtins:builtin_function_or_method", "builtins:method-wrapper")
def _builtin(fp: Fingerprinter, obj: Any) -> bytes | Node:
    owner = getattr(obj, "__self__", None)
    if owner is None or isinstance(owner, ModuleType) or type(owner).__name__ == "PyCapsule":
        module = obj.__module__ or getattr(owner, "__name__", None)
        return named(fp, obj, module, obj.__qualname__)
    return combine_items(fp, b"bound", (obj.__name__, owner))


@handles("builtins:method")
def _method(fp: Fingerprinter, obj: Any) -> Node:
    if isinstance(obj.__self__, ModuleType):
        return combine_items(fp, b"method", (obj.__func__,))
    return Node(
        (obj.__func__, obj.__self__), lambda parts: fp.combine(b"method", parts), ("function", "bound object")
    )


@handles("builtins:method_descriptor", "builtins:wrapper_descriptor", "builtins:classmethod_descriptor")
def _descriptor(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"descriptor", (obj.__name__, obj.__objclass__))


@handles("builtins:getset_descriptor", "builtins:member_descriptor")
def _slot(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"slot", (obj.__name__, obj.__objclass__))


@handles("builtins:staticmethod")
def _staticmethod(fp: Fingerprinter, obj: Any) -> Node:
    return Node((obj.__func__,), lambda parts: fp.combine(b"staticmethod", parts), ("function",))


@handles("builtins:classmethod")
def _classmethod(fp: Fingerprinter, obj: Any) -> Node:
    return Node((obj.__func__,), lambda parts: fp.combine(b"classmethod", parts), ("function",))


@handles("builtins:property")
def _property(fp: Fingerprinter, obj: property) -> Node:
    return Node(
        (obj.fget, obj.fset, obj.fdel),
        lambda parts: fp.combine(b"property", parts),
        ("getter", "setter", "deleter"),
    )


@handles_subclasses("functools:cached_property", "*:cached_property")
def _cached_property(fp: Fingerprinter, obj: Any) -> Node:
    return Node((obj.func,), lambda parts: fp.combine(b"cached_property", parts), ("function",))


@handles("collections:_tuplegetter")
def _tuplegetter(fp: Fingerprinter, obj: Any) -> Node:
    # Its other part is a docstring.
    return combine_items(fp, b"tuplegetter", (obj.__reduce__()[1][0],))


@handles("builtins:cell")
def _cell(fp: Fingerprinter, obj: Any) -> Node | bytes:
    try:
        return combine_items(fp, b"cell", (obj.cell_contents,))
    except ValueError:
        return fp.digester.digest(b"cell")


@handles("functools:partial")
def _partial(fp: Fingerprinter, obj: functools.partial[Any]) -> bytes | Node:
    if fp.may_read is not True and (holds_declared(obj.args) or holds_declared(_keywords(obj))):
        return fp.fingerprint_reading(obj)
    return Node(
        (obj.func, obj.args, _keywords(obj), vars(obj)),
        lambda parts: fp.combine(b"partial", parts),
        ("function", "arguments", "keyword arguments", "attributes"),
    )


def _keywords(obj: functools.partial[Any]) -> dict[str, Any]:
    """Give what is bound by name, as it was before anything was computed."""
    function: Any = obj.func
    aggregation: Any = obj.keywords.get("agg")
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    if name != "flox.core._reduce_blockwise" or not hasattr(aggregation, "finalize"):
        return obj.keywords
    # It begins by setting this to None, on the very object that the graph holds.
    aggregation = copy.copy(aggregation)
    aggregation.finalize = None
    return {**obj.keywords, "agg": aggregation}


@handles("functools:_lru_cache_wrapper")
def _lru_cache(fp: Fingerprinter, obj: Any) -> Node:
    # What it remembers is what its function gives.
    return Node((obj.__wrapped__,), lambda parts: fp.combine(b"lru_cache", parts), ("function",))


@handles("functools:_lru_list_elem")
def _lru_element(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"lru_cache")


@handles("toolz:curry", "cytoolz:curry")
def _curry(fp: Fingerprinter, obj: Any) -> Node:
    return Node(
        (obj.func, obj.args, obj.keywords),
        lambda parts: fp.combine(b"curry", parts),
        ("function", "arguments", "keyword arguments"),
    )


@handles("toolz:Compose", "cytoolz:Compose")
def _compose(fp: Fingerprinter, obj: Any) -> Node:
    functions = (obj.first, *obj.funcs)
    return Node(functions, lambda parts: fp.combine(b"compose", parts), lambda at: f"function {at}")


@handles("dask:Dispatch")
def _dispatch(fp: Fingerprinter, obj: Any) -> Node:
    # Which types it has learned of so far depends on what was loaded.
    if getattr(obj, "__name__", None) is None:
        raise UncacheableError("a dask Dispatch without a name; give it one: Dispatch('name')")
    return combine_items(fp, b"dispatch", (obj.__name__, type(obj)))


@handles("numpy:vectorize")
def _vectorize(fp: Fingerprinter, obj: Any) -> Node:
    # Not its __dict__, where the first call leaves a ufunc.
    return Node(
        (obj.pyfunc, obj.otypes, obj.signature, obj.excluded),
        lambda parts: fp.combine(b"vectorize", parts),
        ("function", "otypes", "signature", "excluded"),
    )


@handles("numpy:ufunc")
def _ufunc(fp: Fingerprinter, obj: Any) -> bytes:
    name = obj.__name__
    for module in ("numpy", "scipy.special"):
        if resolves(module, name, obj):
            return named(fp, obj, module, name)
    homes = {
        home.name: module
        for module, loaded in sorted(sys.modules.items(), reverse=True)
        if member_of(loaded, name) is obj
        for home in (find_home(module),)
        if home.kind == "installed"
    }
    if not homes:
        raise UncacheableError(
            f"ufunc {name!r} is in no installed module, so what it computes is unknown; "
            "use numpy.vectorize or a def around it"
        )
    first = min(homes)
    return fp.digester.digest(b"ufunc", fp.home_digest(homes[first]), name.encode())


@handles("numpy:_ArrayFunctionDispatcher")
def _array_function(fp: Fingerprinter, obj: Any) -> bytes | Node:
    if find_home(obj.__module__).kind == "user":
        return Node((obj.__wrapped__,), lambda parts: fp.combine(b"array_function", parts), ("function",))
    return named(fp, obj, obj.__module__, obj.__qualname__)


@handles("*:cython_function_or_method", "*:fused_cython_function", "*:nb_func", "*:nb_method", "f2py:fortran")
def _compiled(fp: Fingerprinter, obj: Any) -> bytes | Node:
    name = obj.__qualname__
    owner = getattr(obj, "__self__", None)
    digest = named(fp, obj, obj.__module__, name)
    if owner is None or isinstance(owner, ModuleType):
        return digest
    return Node((owner,), lambda parts: fp.combine(b"compiled", [digest, *parts]), ("bound object",))


@handles_subclasses("numba:Dispatcher", "numba:DUFunc", "numba:GUFunc")
def _numba(fp: Fingerprinter, obj: Any) -> Node:
    """Take a compiled function by its Python one and the options; what it was compiled for so far fills up."""
    states = obj.__reduce__()[1][0].states
    names = ["identity", "signature", "writable_args", "targetoptions", "locals", "is_dynamic", "frozen"]
    if states.get("frozen") or states.get("can_compile") is False:
        names += ["siglist", "typesigs", "sigs"]
    options = {name: states[name] for name in names if name in states}
    shown = {name: repr(value) if name in _NUMBA_SIGNATURES else value for name, value in options.items()}
    return Node(
        (type(obj), obj.__wrapped__, shown),
        lambda parts: fp.combine(b"numba", parts),
        ("type", "Python function", "options"),
    )


@handles("builtins:module")
def _module(fp: Fingerprinter, obj: ModuleType) -> bytes | Node:
    """A module of the user's that code holds as a value can give away anything in it: all of it counts."""
    name = obj.__name__
    if find_home(name).kind != "user":
        return fp.digester.digest(b"module", fp.home_digest(name), name.encode())
    compiled = compiled_code(name)
    if compiled:
        return fp.digester.digest(b"module", compiled, name.encode())
    state = {
        key: value for key, value in vars(obj).items() if not (key.startswith("__") and key.endswith("__"))
    }
    for key, value in state.items():
        if not isinstance(value, ModuleType):
            fp.note_unit(name, key, value)
    node = state_node(fp, state)
    return Node(node.children, lambda parts: fp.combine(b"user module", [node.combine(parts)]), node.label)

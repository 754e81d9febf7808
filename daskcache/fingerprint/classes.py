"""What a class is: a name and a version where it is installed, all that its body made where it is the user's."""

from __future__ import annotations

import dataclasses
import dis
import enum
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from daskcache.fingerprint.callables import compiled_code, resolves
from daskcache.fingerprint.code import ENVIRONMENT, declared_node, name_sentinel
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["assigned_names", "class_node", "derived_names", "enum_member"]

# What Python makes of a class body by itself, documentation, annotations, and what fills up later.
_NOT_OF_THE_BODY = frozenset(
    [
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__slotnames__",
        "__abstractmethods__",
        "_abc_impl",
        "__parameters__",
        "__orig_bases__",
        "__type_params__",
        "__dataclass_params__",
        "__signature__",
        "__protocol_attrs__",
        "_is_protocol",
        "_is_runtime_protocol",
        "__non_callable_proto_members__",
        "__classdictcell__",
        # What pydantic compiles of the fields, the validators and the configuration, which count.
        "__pydantic_core_schema__",
        "__pydantic_validator__",
        "__pydantic_serializer__",
        "__pydantic_parent_namespace__",
    ]
)
# What enum derives of the members and of the bases.
_TABLES_OF_ENUMS = frozenset(
    [
        "__new__",
        "_all_bits_",
        "_boundary_",
        "_flag_mask_",
        "_hashable_values_",
        "_inverted_",
        "_member_map_",
        "_member_names_",
        "_member_type_",
        "_new_member_",
        "_singles_mask_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_use_args_",
        "_value2member_map_",
        "_value_repr_",
    ]
)
_OF_MEMBERS = frozenset({"__objclass__", "_inverted_", "_name_", "_sort_order_", "_value_"})
# Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_IMMUTABLETYPE
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8
_OF_PYTHON = frozenset({"builtins", "abc", "enum", "typing", "types"})


def class_node(fp: Fingerprinter, obj: type) -> bytes | Node:
    """Give the digest or the node of a class."""
    declaration = declared(obj)
    if declaration is not None:
        return declared_node(fp, obj, declaration.value, declaration.is_whole)
    module, name = obj.__module__, obj.__qualname__
    is_users = fp.home(module).kind == "user"
    if not is_users and (resolves(module, name, obj) or not ("<" in name or _is_made_at_run_time(obj))):
        return fp.digester.digest(b"class", fp.home_digest(module), module.encode(), name.encode())
    if isinstance(obj, enum.EnumMeta):
        return _enum_class(fp, obj)
    own = [ENVIRONMENT, obj.__name__.encode("utf-8", "surrogatepass")]
    own.append(compiled_code(module) if is_users else fp.home_digest(module))
    names = ["metaclass", *(f"base {base.__qualname__}" for base in obj.__bases__)]
    children: list[Any] = [type(obj), *obj.__bases__]
    for key, value in sorted(vars(obj).items()):
        if key not in _NOT_OF_THE_BODY and not _is_made_by_type(obj, key, value):
            names.append(f"attribute {key}")
            children.append(name_sentinel(key, _without_hash(value)))
    if type(obj).__module__ not in _OF_PYTHON:
        # A library's metaclass, as pydantic's, may well act on annotations.
        for key, value in sorted(getattr(obj, "__annotations__", {}).items()):
            names.append(f"annotation {key}")
            children.append(value)
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]

    def combine(parts: Any) -> bytes:
        return fp.combine(
            b"user class", [*own, *(part for pair in zip(encoded, parts, strict=True) for part in pair)]
        )

    return Node(children, combine, [f"class {name_of(obj)} → {label}" for label in names])


def _is_made_at_run_time(obj: type) -> bool:
    """Whether a class that is not found under its name has a body: ``types.new_class`` says it were of ``types``."""
    return bool(obj.__flags__ & _HEAP_TYPE) and not obj.__flags__ & _IMMUTABLE_TYPE


def _without_hash(value: Any) -> Any:
    """Leave out the ``__hash__`` that attrs writes, with a number of this process in it; the fields say it all."""
    if not isinstance(value, types.FunctionType) or value.__name__ != "__hash__":
        return value
    return True if value.__code__.co_filename.startswith("<attrs generated") else value


def name_of(obj: type) -> str:
    """Give a class's name for messages."""
    return obj.__qualname__


def _is_made_by_type(obj: type, key: str, value: object) -> bool:
    """Whether an entry is a slot's descriptor, which ``__slots__`` says as well, or of ``typing``'s protocols."""
    if key == "__subclasshook__":
        return getattr(getattr(value, "__func__", value), "__module__", None) == "typing"
    return (
        isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
        and value.__objclass__ is obj
        and isinstance(vars(obj).get("__slots__"), str | tuple | list | dict)
    )


def _enum_class(fp: Fingerprinter, obj: enum.EnumMeta) -> Node:
    """Members by name and value, in order, and what the user defined besides; not enum's own tables of them."""
    members: dict[str, Any] = {name: vars(member)["_value_"] for name, member in _members(obj).items()}
    inherited = [base for base in obj.__bases__ if base is not object]
    defined = {
        key: value
        for key, value in vars(obj).items()
        if key not in members
        and key not in _NOT_OF_THE_BODY
        and (not key.startswith("_") or key in {"_missing_", "__call__", "__str__", "__format__", "__init__"})
        and not _is_enums_own(key, value)
    }
    children: list[Any] = [tuple(members), list(members.values()), inherited, defined]
    labels = ["names", "values", "bases", "attributes"]
    more = {
        "methods": {
            key: value for key, value in sorted(vars(obj).items()) if _is_hidden(obj, key, value, defined)
        },
        "attributes of members": {
            name: state for name, member in _members(obj).items() if (state := _state(member))
        },
        "metaclass": None if type(obj) is enum.EnumMeta else type(obj),
    }
    for label, value in more.items():
        if value:
            children += [label, value]
            labels += [label, label]
    return Node(
        children,
        lambda parts: fp.combine(b"enum class", [ENVIRONMENT, obj.__name__.encode(), *parts]),
        [f"class {name_of(obj)} → {label}" for label in labels],
    )


def _is_hidden(obj: Any, key: str, value: object, defined: dict[str, Any]) -> bool:
    """Whether the user's class body made something whose name begins like enum's own tables."""
    return (
        key.startswith("_")
        and key not in defined
        and key not in _NOT_OF_THE_BODY
        and key not in _TABLES_OF_ENUMS
        and key not in obj.__members__
        and getattr(value, "__module__", None) != "enum"
        and not isinstance(value, types.WrapperDescriptorType | types.MethodDescriptorType)
    )


def _state(member: enum.Enum) -> dict[str, Any]:
    """Give what the user's code has put on a member besides its name and value."""
    left_out = _OF_MEMBERS | derived_names(type(member))
    return {key: value for key, value in sorted(vars(member).items()) if key not in left_out}


def _members(obj: Any) -> dict[str, Any]:
    return dict(obj.__members__)


def _is_enums_own(key: str, value: object) -> bool:
    return vars(enum.Enum).get(key) is value or vars(enum.Flag).get(key) is value


def enum_member(fp: Fingerprinter, obj: enum.Enum) -> Node:
    """Make the node of a member of an enumeration."""
    return combine_items(fp, b"enum", (type(obj), obj.name, obj.value))


def derived_names(kind: type) -> frozenset[str]:
    """Name the attributes that a class computes when they are first asked for and then keeps on the instance."""
    return frozenset(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if type(value).__name__ == "cached_property"
    )


def assigned_names(kinds: Iterable[type]) -> frozenset[str]:
    """Name the attributes that the code in some classes' bodies assigns."""
    found: set[str] = set()
    for member in (value for kind in kinds for value in vars(kind).values()):
        inner = [getattr(member, name, None) for name in ("__func__", "func", "fget", "fset")]
        stack = [
            one.__code__
            for one in (member, *inner)
            if isinstance(getattr(one, "__code__", None), types.CodeType)
        ]
        while stack:
            code = stack.pop()
            found.update(step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR")
            stack += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return frozenset(found)


@handles("typing:TypeAliasType")
def _alias(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"type alias", (obj.__name__, obj.__type_params__, obj.__value__))


@handles("types:DynamicClassAttribute", "enum:property")
def _dynamic_attribute(fp: Fingerprinter, obj: Any) -> Node:
    return Node((obj.fget, obj.fset, obj.fdel), lambda parts: fp.combine(b"dynamic", parts))


@handles("dataclasses:Field")
def _field(fp: Fingerprinter, obj: Any) -> Node:
    """A dataclass's field without its type, which is an annotation."""
    # By type: pickled by value, a class comes back with another MISSING.
    missing = type(dataclasses.MISSING)
    given = {
        key: value
        for key, value in (("default", obj.default), ("default_factory", obj.default_factory))
        if not isinstance(value, missing)
    }
    flags = (obj.name, obj.init, obj.repr, obj.hash, obj.compare, obj.kw_only, dict(obj.metadata))
    kind = getattr(getattr(obj, "_field_type", None), "name", None)
    return combine_items(fp, b"field", (*flags, kind, given))

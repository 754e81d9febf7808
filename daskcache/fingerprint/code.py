"""What a function is: a distribution's version stands for what is installed, its code and all it reads for the rest."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.bytecode import Import, find_assigned, read_code
from daskcache.fingerprint.callables import resolves
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.declared_files import DeclaredSource, declared_sources, holds_declared
from daskcache.fingerprint.filled import find_filled_variables
from daskcache.fingerprint.held import find_held_impurities
from daskcache.fingerprint.impure import (
    find_assignment_impurity,
    find_attribute_impurity,
    find_impurity,
    find_named_impurity,
    find_path_reading,
    find_writing,
    is_declared,
    refusal,
)
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["ENVIRONMENT", "declared_node", "name_sentinel", "unit_of"]

ENVIRONMENT = (
    f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor} -O{sys.flags.optimize}"
).encode()
"""What compiles the user's code: the same source is other bytecode, with other effects, elsewhere."""

_COVERED_BY_VERSION = (FunctionType, type, type(len))
_UNRESOLVED = "<unresolved>"
# Where partial, numpy.vectorize, lru_cache and the like keep what they call.
_WRAPPED = ("func", "pyfunc", "__wrapped__")


class _Name:
    """Stands for a bare ``object()``, which is nothing but the name it goes by."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@handles("daskcache:_Name")
def _name(fp: Fingerprinter, obj: _Name) -> bytes:
    return fp.digester.digest(b"name", obj.name.encode())


class _Installed:
    """Stands for a module that a function's body imports, loaded already or not; or for what it calls by a name."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str = "") -> None:
        self.module = module
        self.name = name


@handles("daskcache:_Installed")
def _installed_module(fp: Fingerprinter, obj: _Installed) -> bytes:
    names = [name.encode() for name in (obj.module, obj.name) if name]
    return fp.digester.digest(b"module", fp.home_digest(obj.module), *names)


def name_sentinel(name: str, value: object) -> object:
    """Give a value, or a stand-in where it is a bare ``object()`` that only its name tells from another."""
    return _Name(name) if type(value) is object else value


class _Parts:
    """Collects a function's parts that are objects, each with the name under which it counts and is reported."""

    __slots__ = ("children", "labels", "names", "sources")

    def __init__(self, sources: tuple[DeclaredSource, ...] = ()) -> None:
        self.sources = sources
        self.children: list[Any] = []
        self.labels: list[str] = []
        self.names: list[bytes] = []

    def add(self, kind: str, name: str, value: object) -> None:
        label = f"{kind} {name}"
        if label not in self.labels:
            self.children.append(name_sentinel(name, value))
            self.labels.append(label)
            self.names.append(label.encode("utf-8", "surrogatepass"))

    def node(self, fp: Fingerprinter, tag: bytes, own: list[bytes], title: str) -> Node:
        names = self.names

        def combine(parts: Any) -> bytes:
            return fp.combine(
                tag, [*own, *(part for pair in zip(names, parts, strict=True) for part in pair)]
            )

        return Node(self.children, combine, [f"function {title} → {label}" for label in self.labels])


@handles("builtins:function")
def _function(fp: Fingerprinter, func: FunctionType) -> bytes | Node:
    module = func.__globals__.get("__name__")
    declaration = declared(func)
    if declaration is not None:
        return declared_node(fp, func, declaration.value, declaration.is_whole)
    why = find_assignment_impurity(find_assigned(func.__code__))
    if why is not None:
        raise UncacheableError(why, (f"function {func.__qualname__}",))
    if module is None or fp.home(module).kind == "user":
        if fp.may_read is not True and _declares_files(func):
            return fp.fingerprint_reading(func)
        return _users(fp, func)
    return _installed(fp, func, module)


def _declares_files(func: FunctionType) -> bool:
    """Whether what a function reads is declared: on it, or by a path that it holds."""
    if declared_sources(func):
        return True
    held = [*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()]
    held += [_content(cell) for cell in func.__closure__ or ()]
    held += [func.__globals__.get(read.name) for read in read_code(func.__code__).globals]
    return any(holds_declared(value) for value in held)


def declared_node(fp: Fingerprinter, target: Any, value: object, is_whole: bool) -> Node:
    """Make the node of what has a declared identity."""
    if is_whole:
        return combine_items(fp, b"declared as", (value,))
    parts = _Parts()
    parts.add("declared", "version", value)
    if isinstance(target, FunctionType):
        _add_files(parts, target)
        _add_defaults(parts, target)
        _add_closure(parts, target)
    names = (
        (str(target.__module__), str(target.__qualname__)) if hasattr(target, "__qualname__") else ("", "")
    )
    return parts.node(fp, b"declared", [name.encode() for name in names], names[1])


def _installed(fp: Fingerprinter, func: FunctionType, module: str) -> Node:
    code = func.__code__
    parts = _Parts()
    own = [fp.home_digest(module), module.encode(), code.co_qualname.encode()]
    is_importable = resolves(module, func.__qualname__, func) or resolves(module, code.co_qualname, func)
    if not is_importable:
        # A qualified name that leads elsewhere may belong to many: dask's wrapped sin and cos share theirs.
        own.append(read_code(code).digest)
    if _is_single_dispatch(func):
        for kind, implementation in func.registry.items():  # type: ignore[attr-defined]
            parts.add("implementation for", f"{kind.__module__}.{kind.__qualname__}", implementation)
        return parts.node(fp, b"singledispatch", own, func.__qualname__)
    _add_files(parts, func)
    _add_defaults(parts, func)

    # Decorators leave signatures, memos and warnings' texts in the closures of what can be imported. The version
    # covers what the import made of them; what may have been put there since is plain, or code.
    def keep(value: object) -> bool:
        return not is_importable or _is_plain_or_code(fp, value)

    _add_closure(parts, func, keep)
    for name, value in sorted(func.__dict__.items()):
        if not name.startswith("__daskcache_") and keep(value):
            parts.add("attribute", name, value)
    return parts.node(fp, b"installed", own, func.__qualname__)


def _is_plain_or_code(fp: Fingerprinter, value: object) -> bool:
    return isinstance(value, _COVERED_BY_VERSION) or (
        not isinstance(value, list | dict) and fp.leaf(value) is not None
    )


def _is_single_dispatch(func: FunctionType) -> bool:
    return func.__code__.co_qualname == "singledispatch.<locals>.wrapper" and hasattr(func, "registry")


def _users(fp: Fingerprinter, func: FunctionType) -> Node:
    facts = read_code(func.__code__)
    why = find_attribute_impurity(facts.attributes, func.__name__)
    why = why or find_assignment_impurity(find_filled_variables(fp, func))
    if why is not None:
        raise UncacheableError(why, (f"function {func.__qualname__}",))
    parts = _Parts(declared_sources(func))
    names = {read.name for read in (*facts.closure, *facts.globals)}
    names |= {name for target in facts.imports for name in target.attributes}
    _refuse(find_writing(facts.attributes, names), "", fp, parts, func.__qualname__, "method")
    _refuse(find_path_reading(facts.attributes, names), "", fp, parts, func.__qualname__, "path")
    for why, step in find_held_impurities(func):
        _refuse(why, "", fp, parts, func.__qualname__, step)
    _add_files(parts, func)
    _add_defaults(parts, func)
    closure = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
    for name, cell in closure.items():
        content = _content(cell)
        if not isinstance(content, ModuleType):
            parts.add("closure", name, content)
    title = func.__qualname__
    for read in facts.closure:
        content = _content(closure[read.name])
        _add_read(fp, parts, "closure", read.name, content, read.attributes, read.call, title)
    missing = object()
    function: Any = func
    builtins: dict[str, Any] = function.__builtins__
    for read in facts.globals:
        value = func.__globals__.get(read.name, missing)
        if value is missing:
            value = builtins.get(read.name, missing)
        if value is missing:
            parts.add("unresolved", read.name, None)
            continue
        _add_read(fp, parts, "global", read.name, value, read.attributes, read.call, title)
    for target in facts.imports:
        _add_import(fp, parts, func, target, title)
    _add_extensions(fp, parts, facts.attributes | facts.words)
    for name, value in sorted(func.__dict__.items()):
        if not name.startswith("__daskcache_"):
            parts.add("attribute", name, value)
    own = [ENVIRONMENT, func.__name__.encode("utf-8", "surrogatepass"), facts.digest]
    return parts.node(fp, b"function", own, title)


def _add_extensions(fp: Fingerprinter, parts: _Parts, attributes: frozenset[str]) -> None:
    """Add what code has put on libraries' classes under the names that are read; operators are not read by name."""
    extensions = fp.extensions
    for attribute in sorted(extensions):
        if attribute in attributes or attribute.startswith("__"):
            for module, name, value in extensions[attribute]:
                parts.add("extension", f"{module}.{name}", value)
                fp.note_unit(module, name, value)


def _add_files(parts: _Parts, func: FunctionType) -> None:
    for position, declared_source in enumerate(sorted(declared_sources(func))):
        parts.add("source", str(position), declared_source)


def _add_defaults(parts: _Parts, func: FunctionType) -> None:
    for position, value in enumerate(func.__defaults__ or ()):
        parts.add("default", str(position), value)
    for name, value in sorted((func.__kwdefaults__ or {}).items()):
        parts.add("default", name, value)


def _add_closure(parts: _Parts, func: FunctionType, keep: Callable[[object], bool] | None = None) -> None:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        content = _content(cell)
        if keep is None or keep(content):
            parts.add("closure", name, content)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _Name("<empty>")


def _add_read(
    fp: Fingerprinter,
    parts: _Parts,
    kind: str,
    name: str,
    value: object,
    attributes: tuple[str, ...],
    call: str,
    title: str,
) -> None:
    """Add what a name stands for; of the user's modules only what is read of them."""
    step = f"{kind} {'.'.join((name, *attributes))}"
    if isinstance(value, ModuleType) and fp.home(value.__name__).kind != "user":
        # By name as well: some libraries load their parts when they are first asked for.
        why = find_named_impurity(".".join((value.__name__, *attributes)), call)
        _refuse(why, call, fp, parts, title, step)
    for seen, rest in _follow(value, attributes):
        # This package's own names say what they do, also where it is being developed.
        if not _is_users(fp, seen) or str(getattr(seen, "__module__", None)).startswith("daskcache."):
            _refuse(find_impurity(seen, rest, call), call, fp, parts, title, step)
    _add_patched(fp, parts, kind, name, value, attributes)
    shown = name
    while isinstance(value, ModuleType) and attributes and fp.home(value.__name__).kind == "user":
        module = value
        value = _member(fp, module, attributes[0])
        shown = f"{shown}.{attributes[0]}"
        if not isinstance(value, ModuleType):
            fp.note_unit(module.__name__, attributes[0], value)
        attributes = attributes[1:]
    if kind != "closure" or shown != name or isinstance(value, ModuleType):
        parts.add(kind, shown, value)


def _add_patched(
    fp: Fingerprinter, parts: _Parts, kind: str, name: str, value: object, attributes: tuple[str, ...]
) -> None:
    """Add what was put in an installed module by others, for whose own code a version stands."""
    owner = value
    for seen, rest in _follow(value, attributes):
        if seen is value or not isinstance(owner, ModuleType) or fp.home(owner.__name__).kind == "user":
            owner = seen
            continue
        steps = attributes[: len(attributes) - len(rest)]
        found = _put_there(fp, owner, steps[-1], seen)
        if found is not None:
            parts.add(kind, ".".join((name, *steps)), found)
        owner = seen


def _put_there(fp: Fingerprinter, owner: ModuleType, name: str, value: Any) -> object:
    """Give what counts of something in an installed module that is not what the module's code calls so; else None."""
    if isinstance(value, ModuleType):
        return value if fp.home(value.__name__).kind == "user" else None
    inner = value
    for step in _WRAPPED * 2:
        inner = getattr(inner, step, None) or inner
    if isinstance(inner, FunctionType | type):
        is_users = _is_users(fp, inner)
    else:
        is_users = fp.home(type(inner).__module__).kind == "user"
    own, module = getattr(value, "__name__", None), getattr(value, "__module__", None)
    if is_users or (type(value).__name__ == "ufunc" and own != name):
        return value
    if not isinstance(own, str) or not isinstance(module, str):
        return None
    is_same = own == name and fp.home(module).name == fp.home(owner.__name__).name
    return None if is_same else _Installed(module, own)


def _is_users(fp: Fingerprinter, value: object) -> bool:
    """Whether something is defined in the user's code, where a name says nothing of what it does."""
    module = getattr(value, "__module__", None)
    return isinstance(module, str) and fp.home(module).kind == "user"


def _refuse(why: str | None, call: str, fp: Fingerprinter, parts: _Parts, title: str, step: str) -> None:
    """Raise where code is known to depend on more than it is given or declares."""
    if not is_declared(why, call, fp.may_read, parts.sources):
        assert why is not None
        raise refusal(why, (f"function {title}", step))
    if why is not None and fp.may_read == "lazily":
        fp.lazily_opened.add(f"{title}: {why}")


def _follow(value: object, attributes: tuple[str, ...]) -> Iterator[tuple[object, tuple[str, ...]]]:
    """Go along a chain of attributes, through modules, without loading any."""
    yield value, attributes
    while isinstance(value, ModuleType) and attributes:
        value = vars(value).get(attributes[0])
        attributes = attributes[1:]
        if value is None:
            return
        yield value, attributes


def _member(fp: Fingerprinter, module: ModuleType, name: str) -> object:
    """Read a name of a user's module; a submodule of a package is loaded, as the code itself would have to."""
    found = vars(module).get(name, _UNRESOLVED)
    if found is not _UNRESOLVED:
        return found
    dotted = f"{module.__name__}.{name}"
    if hasattr(module, "__path__") and importlib.util.find_spec(dotted) is not None:
        return fp.load(dotted)
    return getattr(module, name, _Name(_UNRESOLVED))


def _add_import(fp: Fingerprinter, parts: _Parts, func: FunctionType, target: Import, title: str) -> None:
    """Add what a body imports by itself: the user's modules by what is read of them, others by version."""
    package = func.__globals__.get("__package__")
    if target.level and not package:
        parts.add("unresolved", f"import {'.' * target.level}{target.module}", None)
        return
    name = "." * target.level + target.module
    full = importlib.util.resolve_name(name, package) if target.level else target.module
    bound = full.partition(".")[0] if target.from_root else full
    kind = fp.home(full).kind
    if kind != "installed" and full not in sys.modules:
        # The call would load it as well. What is installed is known by its version, loaded or not.
        try:
            fp.load(full)
        except ImportError:
            dotted = ".".join((bound, *target.attributes))
            why = find_named_impurity(dotted, target.call)
            _refuse(why, target.call, fp, parts, title, f"import {dotted}")
            parts.add("unresolved", f"import {bound}", None)
            return
    module = sys.modules.get(bound)
    if kind == "user" and module is not None:
        _add_read(fp, parts, "import", bound, module, target.attributes, target.call, title)
        return
    dotted = ".".join((bound, *target.attributes))
    why = find_named_impurity(dotted, target.call)
    _refuse(why, target.call, fp, parts, title, f"import {dotted}")
    for seen, rest in _follow(module, target.attributes):
        why = find_impurity(seen, rest, target.call)
        _refuse(why, target.call, fp, parts, title, f"import {dotted}")
    if module is not None:
        _add_patched(fp, parts, "import", bound, module, target.attributes)
    parts.add("import", bound, _Installed(full))


@handles("builtins:code")
def _code(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"code", ENVIRONMENT, read_code(obj).digest)


def unit_of(fp: Fingerprinter, obj: Any) -> tuple[str, str] | None:
    """Give the name under which another process finds a function or class of the user's, if it can be imported."""
    module, name = getattr(obj, "__module__", None), obj.__qualname__
    if (
        not isinstance(module, str)
        or module == "__main__"
        or fp.home(module).kind != "user"
        or not resolves(module, name, obj)
    ):
        return None
    return module, name

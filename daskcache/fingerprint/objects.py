"""What an object is, as 20 bytes: the same in every process, another for every other value."""

from __future__ import annotations

import copyreg
import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from daskcache.config import Settings
from daskcache.errors import InvalidInputError, UncacheableError
from daskcache.fingerprint import (  # noqa: F401  (importing them registers their rules)
    arrays,
    callables,
    classes,
    code,
    labelled,
    plain,
    tables,
)
from daskcache.fingerprint.callables import named, resolves
from daskcache.fingerprint.classes import class_node, derived_names, enum_member
from daskcache.fingerprint.code import declared_node, unit_of
from daskcache.fingerprint.declare import declared
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.distributions import Home, find_home, shorten_version
from daskcache.fingerprint.plain import combine_items, make_leaves, state_node
from daskcache.fingerprint.registry import Handler, Node, find_rule
from daskcache.fingerprint.walk import Walk

if TYPE_CHECKING:
    from daskcache.fingerprint.sources import Source

__all__ = ["Fingerprinter", "fingerprint", "register"]

_T = TypeVar("_T")
_by_type: dict[type, Callable[[Any], object]] = {}
_by_name: dict[str, Callable[[Any], object]] = {}
_NEW_OBJECT = ("__newobj__", "__newobj_ex__")


def fingerprint(obj: object, salt: str = "") -> str:
    """Give an object's identity: 40 hex digits that depend on its value alone.

    Parameters
    ----------
    obj : object
        Anything: plain values, containers, arrays, tables, functions, classes, instances.
    salt : str, optional
        Enters the result.

    Returns
    -------
    str
        40 hex digits, equal in every process.

    Raises
    ------
    UncacheableError
        A part has no deterministic identity, such as an open file; the error's path leads to it. Leave the part
        out, or say what counts of it with `register`, ``__daskcache_fingerprint__`` or `declare.fingerprint_as`.

    Examples
    --------
    >>> fingerprint([1, "a"]) == fingerprint([1, "a"])
    True
    >>> fingerprint(1) == fingerprint(1.0)
    False
    """
    return Fingerprinter(salt=salt).fingerprint(obj).hex()


def register(
    kind: type | str, function: Callable[[Any], object] | None = None
) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    """Say what counts of a type's values.

    Parameters
    ----------
    kind : type or str
        The type, or ``"module.QualName"`` of a type that is not to be imported for this. Holds for subclasses.
    function : callable, optional
        Takes a value and gives another one (a tuple of its parts, say) whose identity, together with the type's,
        is its own. Left out, `register` is a decorator.

    Returns
    -------
    callable
        A decorator, or with `function` given one that has been applied.

    Raises
    ------
    InvalidInputError
        The type is neither a type nor a dotted name.

    Examples
    --------
    >>> class Grid:
    ...     def __init__(self, resolution):
    ...         self.resolution, self.handle = resolution, object()
    >>> @register(Grid)
    ... def _(grid):
    ...     return grid.resolution
    >>> fingerprint(Grid(2)) == fingerprint(Grid(2))
    True
    """

    def record(function: Callable[[Any], object]) -> Callable[[Any], object]:
        if isinstance(kind, type):
            _by_type[kind] = function
        else:
            _by_name[kind] = function
        return function

    if not isinstance(kind, type) and not (isinstance(kind, str) and "." in kind):
        raise InvalidInputError(f"register({kind!r}): expected a type or 'module.QualName'")
    if function is not None:
        record(function)
    return record


class Fingerprinter:
    """Gives objects their identities during one pass, and remembers them by identity for no longer.

    Not for use by several threads at once.

    Parameters
    ----------
    salt : str, optional
        Enters every digest.
    code_versions : {'exact', 'minor', 'major', 'none'}, optional
        How much of an installed distribution's version counts.
    source_check : {'chunks', 'metadata', 'content', 'none'}, optional
        How closely sources are looked at.
    source_aliases : tuple of pairs of str, optional
        A source below the first prefix of a pair counts as if it lay below the second.

    Examples
    --------
    >>> fingerprinter = Fingerprinter()
    >>> digest = fingerprinter.fingerprint({"a": slice(0, 3)})
    >>> len(digest)
    20
    """

    digester: Digester
    """Hashes everything, salted."""
    code_units: dict[tuple[str, str], bytes]
    """Module and qualified name of all of the user's code that was met and can be imported, with its digest."""
    sources: dict[str, bytes]
    """Path of each source that was looked at, with the digest of what was seen of it."""
    dask_collection: Callable[[Any], bytes] | None
    """Gives the digest of a dask collection that is met within an object; without it that is uncacheable."""

    def __init__(
        self,
        *,
        salt: str = "",
        code_versions: str = "exact",
        source_check: str = "chunks",
        source_aliases: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.digester = Digester(salt)
        self.code_versions = code_versions
        self.source_check = source_check
        self.source_aliases = tuple(source_aliases)
        self.code_units = {}
        self.sources = {}
        self.dask_collection = None
        self._leaves = make_leaves(self.digester)
        self._rules: dict[type, Handler] = {}
        self._homes: dict[str | None, tuple[Home, bytes]] = {}
        self._noted: list[tuple[tuple[str, str], object]] = []
        self._found_sources: dict[int, tuple[object, Source | None]] = {}
        self._walk = Walk(self.digester, self.leaf, self._open, self._finish)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make a fingerprinter for one pass under the given settings.

        Parameters
        ----------
        settings : Settings
            Of which the salt, `code_versions` and what concerns sources count.

        Returns
        -------
        Fingerprinter
            A new one.
        """
        return cls(
            salt=settings.salt,
            code_versions=settings.code_versions,
            source_check=settings.source_check,
            source_aliases=settings.source_aliases,
        )

    def fingerprint(self, obj: object) -> bytes:
        """Give an object's identity.

        Parameters
        ----------
        obj : object
            Anything.

        Returns
        -------
        bytes
            20 bytes.

        Raises
        ------
        UncacheableError
            A part has no deterministic identity; the error's path leads to it.
        """
        leaf = self._leaves.get(type(obj))
        if leaf is not None:
            found = leaf(obj)
            if found is not None:
                return found
        digest = self._walk.digest(obj)
        while self._noted:
            unit, value = self._noted.pop()
            self.code_units[unit] = self.fingerprint(value)
        return digest

    def function(self, func: object) -> bytes:
        """Give the identity of a callable: the same as `fingerprint`.

        Parameters
        ----------
        func : callable
            A function, class, method, partial, ufunc or instance.

        Returns
        -------
        bytes
            20 bytes.

        Raises
        ------
        UncacheableError
            As from `fingerprint`.
        """
        return self.fingerprint(func)

    def combine(self, tag: bytes, parts: Iterable[bytes]) -> bytes:
        """Give the identity of something made of parts with identities.

        Parameters
        ----------
        tag : bytes
            What kind of thing: ``b"list"`` gives what `fingerprint` gives of a list of the parts, as do
            ``b"tuple"``, ``b"set"`` with sorted parts, and ``b"dict"`` with keys and values in turn, sorted by key.
        parts : iterable of bytes
            The parts' identities, in order.

        Returns
        -------
        bytes
            20 bytes.
        """
        return self.digester.combine(tag, parts)

    def source_region(self, obj: object, index: Any) -> bytes | None:
        """Give the identity of a region of a source or a numpy array.

        Parameters
        ----------
        obj : object
            Anything.
        index : tuple
            Slices, integers, integer arrays or an Ellipsis, in the object's own coordinates.

        Returns
        -------
        bytes or None
            20 bytes; None for what is neither.

        Raises
        ------
        UncacheableError
            It wraps a source in a way that is not known.
        """
        protocol = getattr(type(obj), "__daskcache_region__", None)
        if protocol is not None:
            region: bytes = protocol(obj, index, self)
            return region
        if arrays.is_ndarray(obj):
            return self.fingerprint(obj[index])  # type: ignore[index]
        source = self.find_source(obj)
        return None if source is None else source.region(index)

    def find_source(self, obj: object) -> Source | None:
        """Find what an object reads from, if it is a source; remembered like everything else of the pass.

        Raises
        ------
        UncacheableError
            It wraps a source in a way that is not known.
        """
        found = self._found_sources.get(id(obj))
        if found is None:
            # It digests with this class.
            from daskcache.fingerprint import sources

            found = self._found_sources[id(obj)] = (obj, sources.find_source(obj, self))
        return found[1]

    def leaf(self, obj: object) -> bytes | None:
        """Give a plain value's identity, or None where it takes a walk."""
        leaf = self._leaves.get(type(obj))
        return None if leaf is None else leaf(obj)

    def home(self, module: str | None) -> Home:
        """Find where a module comes from."""
        return self._home(module)[0]

    def home_digest(self, module: str | None) -> bytes:
        """Digest the version that stands for a module's code, as far as the settings let it count."""
        return self._home(module)[1]

    def note_unit(self, module: str, name: str, value: object) -> None:
        """Remember that code reads a name of a module of the user's."""
        if module != "__main__":
            self._noted.append(((module, name), value))

    def _home(self, module: str | None) -> tuple[Home, bytes]:
        found = self._homes.get(module)
        if found is None:
            home = find_home(module)
            version = home.version
            if home.kind == "installed":
                version = shorten_version(version, self.code_versions)
            digest = self.digester.digest(b"home", home.kind.encode(), home.name.encode(), version.encode())
            found = self._homes[module] = (home, digest)
        return found

    def _open(self, obj: Any) -> bytes | Node:
        rule = self._rules.get(type(obj))
        if rule is None:
            rule = self._rules[type(obj)] = _find_rule(type(obj))
        return rule(self, obj)

    def _finish(self, obj: Any, digest: bytes) -> None:
        if callable(obj) and isinstance(getattr(obj, "__qualname__", None), str):
            unit = unit_of(self, obj)
            if unit is not None:
                self.code_units[unit] = digest


def _find_rule(kind: type) -> Handler:
    """Find the rule for a type's values: the user's own come first, those for what is unknown last."""
    for base in kind.__mro__:
        function = _by_type.get(base) or _by_name.get(f"{base.__module__}.{base.__qualname__}")
        if function is not None:
            return _stand_in(function)
    if hasattr(kind, "__daskcache_fingerprint__"):
        return _stand_in(lambda obj: obj.__daskcache_fingerprint__())
    if hasattr(kind, "__daskcache_region__"):
        return lambda fp, obj: obj.__daskcache_region__((), fp)
    rule = find_rule(kind)
    if rule is not None:
        return rule
    if issubclass(kind, type):
        return class_node
    if issubclass(kind, enum.Enum):
        return enum_member
    if hasattr(kind, "__dask_graph__"):
        return _dask_collection
    if hasattr(kind, "__next__") or hasattr(kind, "__await__"):
        return _one_shot
    return _instance


def _stand_in(function: Callable[[Any], object]) -> Handler:
    def rule(fp: Fingerprinter, obj: Any) -> Node:
        return Node(
            (type(obj), function(obj)), lambda parts: fp.combine(b"registered", parts), ("type", "what counts")
        )

    return rule


def _dask_collection(fp: Fingerprinter, obj: Any) -> bytes | Node:
    if obj.__dask_graph__() is None:
        return _instance(fp, obj)
    if fp.dask_collection is None:
        raise UncacheableError(f"a dask collection ({type(obj)}) inside an object; pass it as an argument")
    return fp.dask_collection(obj)


def _one_shot(fp: Fingerprinter, obj: Any) -> bytes:
    raise UncacheableError(
        f"{type(obj)} gives its values once, so that looking at it would use it up; pass a list"
    )


def _instance(fp: Fingerprinter, obj: Any) -> bytes | Node:
    """Take an unknown object apart as pickle would, without its bytes."""
    kind = type(obj)
    declaration = declared(obj)
    if declaration is not None:
        return declared_node(fp, obj, declaration.value, declaration.is_whole)
    source = fp.find_source(obj)
    if source is not None:
        return fp.digester.digest(b"source", source.region(()))
    if kind is object:
        raise UncacheableError("a bare object() is like any other; use an Enum member, or a class")
    if isinstance(obj, set | frozenset):
        # Their reduction lists the elements in the order of this process's hashes.
        return combine_items(fp, b"set object", (kind, frozenset(obj), getattr(obj, "__dict__", None)))
    if callable(obj):
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        name = name or getattr(obj, "__name__", None)
        if isinstance(module, str) and isinstance(name, str) and fp.home(module).kind != "user":
            if resolves(module, name, obj):
                return named(fp, obj, module, name)
    return _reduced(fp, obj)


def _reduced(fp: Fingerprinter, obj: Any) -> bytes | Node:
    kind = type(obj)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced = obj.__reduce_ex__(4) if reducer is None else reducer(obj)
    except Exception as error:
        raise UncacheableError(f"{kind} has no deterministic identity: {error}") from error
    if isinstance(reduced, str):
        return combine_items(fp, b"global", (kind, reduced))
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise UncacheableError(f"{kind}.__reduce_ex__ gave {type(reduced)}; expected a tuple")
    make, arguments, state, items, pairs, _ = (*reduced, None, None, None, None)[:6]
    parts: list[Any] = []
    labels: list[str] = []
    if getattr(make, "__module__", None) == "copyreg" and make.__name__ in _NEW_OBJECT:
        parts += [arguments[0], arguments[1:]]
    else:
        parts += [make, arguments]
    labels += ["type" if parts[0] is kind else "maker", "argument of its maker"]
    for label, part in (("state", _state(kind, state)), ("items", _listed(items)), ("mapping", pairs)):
        parts.append(dict(part) if label == "mapping" and part is not None else part)
        labels.append(label)
    nodes = state_node(fp, parts[2]) if isinstance(parts[2], dict) else None
    if nodes is None:
        return Node(parts, lambda digests: fp.combine(b"object", digests), labels)
    # The attributes stand in the error's path at once, without a step for the state.
    head = (*parts[:2], *parts[3:])
    count = len(head)
    return Node(
        (*head, *nodes.children),
        lambda digests: fp.combine(b"object", [*digests[:count], nodes.combine(digests[count:])]),
        lambda at: (labels[:2] + labels[3:])[at] if at < count else nodes.label(at - count),
    )


def _state(kind: type, state: Any) -> Any:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        merged = {**(state[0] or {}), **state[1]} if isinstance(state[0], dict | None) else None
        state = state if merged is None else merged
    if type(state) is dict:
        derived = derived_names(kind)
        return {key: value for key, value in state.items() if key not in derived}
    return state


def _listed(items: Any) -> list[Any] | None:
    return None if items is None else list(items)

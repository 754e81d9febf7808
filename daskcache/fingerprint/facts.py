"""What a function's digest is made of, in names and digests, so that a later one can be told apart part by part."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, override

from daskcache.errors import UncacheableError
from daskcache.fingerprint.code import ENVIRONMENT
from daskcache.fingerprint.declared_files import DeclaredSource
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.places import clean_url
from daskcache.fingerprint.registry import Node

__all__ = ["RUNTIME", "FunctionFacts", "UnitFacts", "describe_function", "shorten_digest"]

RUNTIME = ENVIRONMENT.decode()
"""What compiles the user's code, and how."""

_REMEMBERED = 4096
_MOST_UNITS = 50
_MOST_PARTS = 50
_BLANK = bytes(20)
_CODE = (FunctionType, type, ModuleType, staticmethod, classmethod, property)


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """One function or class of the user's."""

    own: str
    """Its code alone, without what that reads."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Digests of the values that it reads, by their kind and name, such as ``global K``."""


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What the digest of a callable is made of."""

    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    """The user's functions and classes in it, itself among them, by name; at most fifty."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The distributions whose versions entered it."""


# A digest is of one function's code and all it reads, so that nothing here can go out of date.
_known: dict[bytes, FunctionFacts] = {}


def shorten_digest(digest: bytes) -> str:
    """Give enough of a digest to tell two recipes apart.

    Parameters
    ----------
    digest : bytes
        At least 6 bytes.

    Returns
    -------
    str
        8 characters.

    Examples
    --------
    >>> shorten_digest(bytes(20))
    'AAAAAAAA'
    """
    return b64encode(digest[:6], b"-_").decode()


def describe_function(function: Any, digest: bytes, fingerprinter: Fingerprinter) -> FunctionFacts:
    """Take a callable's digest apart.

    Parameters
    ----------
    function : callable
        Any callable.
    digest : bytes
        What `fingerprinter` gives for it.
    fingerprinter : Fingerprinter
        Whose settings hold.

    Returns
    -------
    FunctionFacts
        Names and digests; no code and no values. Empty where it cannot be looked into.

    Notes
    -----
    One more walk over the function, once in a process for each digest.

    Examples
    --------
    >>> fingerprinter = Fingerprinter()
    >>> import numpy as np
    >>> facts = describe_function(np.mean, fingerprinter.function(np.mean), fingerprinter)
    >>> list(facts.versions), list(facts.units)
    (['numpy'], [])
    """
    known = _known.get(digest)
    if known is None:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        known = _known[digest] = _describe(function, fingerprinter)
    return known


class _Observer(Fingerprinter):
    """Remembers which functions, classes and distributions it met."""

    def __init__(self, like: Fingerprinter) -> None:
        super().__init__(
            salt=like.digester.salt, code_versions=like.code_versions, source_check=like.source_check
        )
        self.opened: list[tuple[Any, Node]] = []
        self.versions: dict[str, str] = {}

    @override
    def _open(self, obj: Any) -> bytes | Node:
        node = super()._open(obj)
        if isinstance(obj, FunctionType | type) and isinstance(node, Node):
            self.opened.append((obj, node))
        return node

    @override
    def home_digest(self, module: str | None) -> bytes:
        home = self.home(module)
        if home.kind != "user":
            self.versions[home.name] = home.version
        return super().home_digest(module)


def _describe(function: Any, fingerprinter: Fingerprinter) -> FunctionFacts:
    observer = _Observer(fingerprinter)
    try:
        observer.function(function)
    except UncacheableError:
        return FunctionFacts()
    units: dict[str, UnitFacts] = {}
    for obj, node in observer.opened[:]:
        if observer.home(obj.__module__).kind != "user" or len(units) >= _MOST_UNITS:
            continue
        own = node.combine([_BLANK] * len(node.children))
        units[_name(obj)] = UnitFacts(shorten_digest(own), _describe_parts(observer, obj, node))
    return FunctionFacts(units, dict(sorted(observer.versions.items())))


def _describe_parts(observer: _Observer, obj: Any, node: Node) -> dict[str, str]:
    parts: dict[str, str] = {}
    for position, child in enumerate(node.children):
        # Code counts under its own name.
        if len(parts) < _MOST_PARTS and not isinstance(child, _CODE):
            label = node.label(position).rpartition(" → ")[2]
            parts[_name_part(obj, label, child)] = shorten_digest(observer.fingerprint(child))
    return parts


def _name_part(obj: Any, label: str, child: Any) -> str:
    if isinstance(child, DeclaredSource):
        return f"file {clean_url(child)}"
    kind, _, number = label.partition(" ")
    if kind != "default" or not number.isdecimal():
        return label
    # Defaults are counted; people know them by their parameter.
    names = obj.__code__.co_varnames[: obj.__code__.co_argcount]
    return f"default {names[len(names) - len(obj.__defaults__) + int(number)]}"


def _name(obj: Any) -> str:
    return str(
        obj.__qualname__ if obj.__module__ in (None, "__main__") else f"{obj.__module__}.{obj.__qualname__}"
    )

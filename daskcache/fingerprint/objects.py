"""What an object is, as 20 bytes: the same in every process, another for every other value."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from daskcache.config import CodeVersions, Settings
from daskcache.errors import UncacheableError
from daskcache.fingerprint import (  # noqa: F401  (importing them registers their rules)
    arrays,
    callables,
    classes,
    code,
    declared_files,
    extensions,
    files,
    labelled,
    libraries,
    plain,
    readers,
    tables,
)
from daskcache.fingerprint.code import unit_of
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.distributions import Home, counted_version, find_home
from daskcache.fingerprint.impure import MayRead
from daskcache.fingerprint.plain import make_leaves
from daskcache.fingerprint.registry import Handler, Node
from daskcache.fingerprint.rules import has_rule, register, rule_of
from daskcache.fingerprint.walk import Walk

if TYPE_CHECKING:
    from daskcache.fingerprint.extensions import TakenExtension
    from daskcache.fingerprint.sources import Source

__all__ = ["Fingerprinter", "fingerprint", "register"]


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


class Fingerprinter:
    """Gives objects their identities during one pass, and remembers them by identity for no longer.

    Not for use by several threads at once.

    Parameters
    ----------
    salt : str, optional
        Enters every digest.
    code_versions : {'exact', 'minor', 'major', 'none'} or tuple of pairs of str, optional
        How much of an installed distribution's version counts; by distribution, as `Settings` has it.
    source_check : {'chunks', 'metadata', 'content', 'none'}, optional
        How closely sources are looked at.
    source_aliases : tuple of pairs of str, optional
        A source below the first prefix of a pair counts as if it lay below the second.
    refused : frozenset of pairs of str, optional
        Modules and qualified names of code that has no identity here, because it is not what the client runs.
    is_of_code : bool, optional
        Look at code alone: what it declares to read does not count.
    taken : tuple of TakenExtension, optional
        What code has put on libraries' classes in the client, where that is another process.

    Examples
    --------
    >>> fingerprinter = Fingerprinter()
    >>> digest = fingerprinter.fingerprint({"a": slice(0, 3)})
    >>> len(digest)
    20
    """

    digester: Digester
    """Hashes everything, salted."""
    leaves: dict[type, Callable[[Any], bytes | None]]
    """Gives plain values their digests by exact type, or None where a part takes a walk: see `leaf`."""
    code_units: dict[tuple[str, str], bytes]
    """Module and qualified name of all of the user's code that was met and can be imported, with its digest."""
    sources: dict[str, bytes]
    """Path of each source that was looked at, with the digest of what was seen of it."""
    files: dict[Any, bytes]
    """Files that code was met to read, by what declares them, each with the state that was seen of it."""
    is_of_code: bool
    """Whether only code is looked at, so that nothing that it reads counts."""
    may_read: MayRead
    """Whether the code that is being looked at has declared which files it reads, or may open them lazily."""
    lazily_opened: set[str]
    """What code was found to open lazily: the function that does, and what `daskcache.fingerprint.impure` says of it."""
    dask_collection: Callable[[Any], bytes] | None
    """Gives the digest of a dask collection that is met within an object; without it that is uncacheable."""

    def __init__(
        self,
        *,
        salt: str = "",
        code_versions: CodeVersions = "exact",
        source_check: str = "chunks",
        source_aliases: tuple[tuple[str, str], ...] = (),
        refused: frozenset[tuple[str, str]] = frozenset(),
        is_of_code: bool = False,
        taken: tuple[TakenExtension, ...] | None = None,
    ) -> None:
        self.digester = Digester(salt)
        self.code_versions = code_versions
        self.source_check = source_check
        self.source_aliases = tuple(source_aliases)
        self._refused = refused
        self.code_units = {}
        self.sources = {}
        self.files = {}
        self.is_of_code = is_of_code
        self.may_read = False
        self.lazily_opened = set()
        self.dask_collection = None
        self.leaves = make_leaves(self.digester)
        self._rules: dict[type, Handler] = {}
        self._homes: dict[str | None, tuple[Home, bytes]] = {}
        self._noted: list[tuple[tuple[str, str], object]] = []
        # The array stands beside the digest so that its id stays its own.
        self._regions: dict[tuple[Any, ...], tuple[object, bytes]] = {}
        self._found_sources: dict[int, tuple[object, Source | None]] = {}
        self._walk = Walk(self.digester, self.leaf, self._open, self._finish)
        # What it finds must not be found by the other, for which the same code may have no identity.
        self._reading_walk = Walk(self.digester, self.leaf, self._open, self._finish)
        self._opening_walk = Walk(self.digester, self.leaf, self._open, self._finish)
        self._of_code: Fingerprinter | None = None
        self._taken = taken
        self._extensions: Mapping[str, list[tuple[str, str, object]]] | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        refused: frozenset[tuple[str, str]] = frozenset(),
        taken: tuple[TakenExtension, ...] | None = None,
    ) -> Self:
        """Make a fingerprinter for one pass under the given settings.

        Parameters
        ----------
        settings : Settings
            Of which the salt, `code_versions` and what concerns sources count.
        refused : frozenset of pairs of str, optional
            Code that has no identity.
        taken : tuple of TakenExtension, optional
            As of the class.

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
            refused=refused,
            taken=taken,
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
        leaf = self.leaves.get(type(obj))
        if leaf is not None:
            found = leaf(obj)
            if found is not None:
                return found
        try:
            digest = self._walk_of(self.may_read).digest(obj)
        except UncacheableError:
            # They belong to what has failed, not to what is looked at next.
            self._noted.clear()
            raise
        while self._noted:
            unit, value = self._noted.pop()
            self.code_units[unit] = self._unit(value, self.fingerprint(value))
        return digest

    def _walk_of(self, may_read: MayRead) -> Walk:
        if may_read == "lazily":
            return self._opening_walk
        return self._reading_walk if may_read else self._walk

    def fingerprint_opening(self, obj: object) -> bytes:
        """Give an object's identity where what its code opens lazily counts elsewhere.

        Parameters
        ----------
        obj : object
            A function that returns what it opens.

        Returns
        -------
        bytes
            20 bytes, the same as from `fingerprint` where that gives any.

        Raises
        ------
        UncacheableError
            As from `fingerprint`, but not for what `daskcache.fingerprint.impure` knows to read labels alone.
        """
        before, self.may_read = self.may_read, "lazily"
        try:
            return self.fingerprint(obj)
        finally:
            self.may_read = before

    def fingerprint_reading(self, obj: object) -> bytes:
        """Give an object's identity where what its code opens by itself counts elsewhere.

        Parameters
        ----------
        obj : object
            A function that is given, or declares, the files that it reads.

        Returns
        -------
        bytes
            20 bytes, the same as from `fingerprint` where that gives any.

        Raises
        ------
        UncacheableError
            As from `fingerprint`, but not for opening a file.
        """
        before, self.may_read = self.may_read, True
        try:
            return self.fingerprint(obj)
        finally:
            self.may_read = before

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
            return self._array_region(obj, index)
        source = self.find_source(obj)
        return None if source is None else source.region(index)

    def _array_region(self, array: Any, index: Any) -> bytes:
        parts = index if isinstance(index, tuple) else (index,)
        # True equals 1, and selects something else.
        place = id(array), tuple([(type(part), part) for part in parts])
        try:
            found = self._regions.get(place)
        except TypeError:
            # Integer arrays: not to be told from others without looking at them.
            return self.fingerprint(array[index])
        if found is None:
            found = self._regions[place] = array, self.fingerprint(array[index])
        return found[1]

    def find_source(self, obj: object) -> Source | None:
        """Find what an object reads from, if it is a source; remembered like everything else of the pass.

        Returns
        -------
        Source or None
            None for what is no source.

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
        leaf = self.leaves.get(type(obj))
        return None if leaf is None else leaf(obj)

    def has_rule(self, kind: type) -> bool:
        """Whether a type's values have a rule, this package's or the user's, besides being taken apart."""
        return has_rule(kind)

    def home(self, module: str | None) -> Home:
        """Find where a module comes from."""
        return self._home(module)[0]

    def home_digest(self, module: str | None) -> bytes:
        """Digest the version that stands for a module's code, as far as the settings let it count."""
        return self._home(module)[1]

    @property
    def extensions(self) -> Mapping[str, list[tuple[str, str, object]]]:
        """What other code has put on libraries' classes, by the name that code reads: see `choose_extensions`."""
        if self._extensions is None:
            self._extensions = extensions.choose_extensions(extensions.find_extensions(), self._taken)
        return self._extensions

    def load(self, module: str) -> ModuleType:
        """Import a module of the user's that code would import when it is called."""
        return importlib.import_module(module)

    def note_unit(self, module: str, name: str, value: object) -> None:
        """Remember that code reads a name of a module of the user's, or raise if that is refused."""
        if (module, name) in self._refused:
            self._refuse((module, name))
        # A bare object() is nothing but its name.
        if module != "__main__" and type(value) is not object:
            self._noted.append(((module, name), value))

    def _home(self, module: str | None) -> tuple[Home, bytes]:
        found = self._homes.get(module)
        if found is None:
            home = find_home(module)
            version = home.version
            if home.kind == "installed":
                version = counted_version(home, self.code_versions)
            digest = self.digester.digest(b"home", home.kind.encode(), home.name.encode(), version.encode())
            found = self._homes[module] = (home, digest)
        return found

    def _open(self, obj: Any) -> bytes | Node:
        if self._refused and callable(obj) and isinstance(getattr(obj, "__qualname__", None), str):
            unit = unit_of(self, obj)
            if unit in self._refused:
                self._refuse(unit)
        rule = self._rules.get(type(obj))
        if rule is None:
            rule = self._rules[type(obj)] = rule_of(type(obj))
        try:
            return rule(self, obj)
        except UncacheableError:
            raise
        except Exception as error:
            # An object that breaks when it is looked at must not break the computation that it is part of.
            raise UncacheableError(
                f"{type(obj)} cannot be taken apart: {type(error).__name__}: {error}"
            ) from error

    def _refuse(self, unit: tuple[str, str]) -> NoReturn:
        raise UncacheableError(
            f"{'.'.join(unit)} is not the same in this process as in the client; restart this one with the same code"
        )

    def _finish(self, obj: Any, digest: bytes) -> None:
        if callable(obj) and isinstance(getattr(obj, "__qualname__", None), str):
            unit = unit_of(self, obj)
            if unit is not None:
                self.code_units[unit] = self._unit(obj, digest)

    def _unit(self, obj: object, digest: bytes) -> bytes:
        """Give the digest of code under which other processes know it: there is no file in it."""
        if not self.files or self.is_of_code:
            return digest
        if self._of_code is None:
            self._of_code = Fingerprinter(
                salt=self.digester.salt,
                code_versions=self.code_versions,
                is_of_code=True,
                taken=self._taken,
            )
        return self._of_code.fingerprint_reading(obj)

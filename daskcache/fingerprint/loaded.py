"""What the user's code is in one process, for another process to compare its own with.

With dask's distributed scheduler the pass runs in the scheduler, which may have been started before an edit. Its
functions are then not the client's, and a token made of them would find what older code has computed.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, override

import numpy as np

from daskcache.config import CodeVersions
from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.distributions import find_home
from daskcache.fingerprint.extensions import Extension, TakenExtension, find_extensions
from daskcache.fingerprint.objects import Fingerprinter

if TYPE_CHECKING:
    from daskcache.fingerprint.sources import Source

__all__ = ["LoadedCode"]

_MARK_BYTES = 16
_LARGEST_ARRAY_BYTES = 1 << 26

_Snapshot = dict[str, tuple[ModuleType, dict[str, Any]]]
_kinds: dict[str, tuple[ModuleType, bool]] = {}
# The names' values beside the marks made of them, so that an edit or an assignment is seen.
_last: dict[
    tuple[str, CodeVersions], tuple[_Snapshot, tuple[Extension, ...], bytes, tuple[TakenExtension, ...]]
] = {}


@dataclass(frozen=True, slots=True)
class LoadedCode:
    """Digests of all of the user's code that a process has loaded, and of the values beside it; small, picklable.

    Examples
    --------
    >>> here = LoadedCode.here()
    >>> here.differing({("no.such.module", "f"): b""})
    frozenset({('no.such.module', 'f')})
    """

    marks: bytes
    """16 bytes for each name of a module of the user's, made of its name and its digest; sorted."""
    extensions: tuple[TakenExtension, ...] = ()
    """What code has put on the classes of xarray, pandas and dask."""

    @classmethod
    def here(cls, *, salt: str = "", code_versions: CodeVersions = "exact") -> Self:
        """Look at this process.

        Parameters
        ----------
        salt, code_versions : optional
            As `Fingerprinter` takes them.

        Returns
        -------
        LoadedCode
            What can be given no digest is left out, and so unknown to others; so is what reads sources, or imports
            modules of the user's that are not loaded: nothing is read or imported for this.

        Notes
        -----
        Some 50 µs for each function, when it is first called and whenever a name of a module of the user's was
        given another value; else a look at the names.
        """
        snapshot, extensions = _take_snapshot(), find_extensions()
        known = _last.get((salt, code_versions))
        if known is None or not _is_same(known[0], snapshot) or not _are_same(known[1], extensions):
            code = _CodeFingerprinter(salt=salt, code_versions=code_versions, is_of_code=True)
            marks = _mark_all(snapshot, extensions, code)
            taken = tuple(_take(one, salt, code_versions) for one in extensions)
            known = _last[salt, code_versions] = snapshot, extensions, marks, taken
        return cls(known[2], known[3])

    def differing(self, units: Mapping[tuple[str, str], bytes]) -> frozenset[tuple[str, str]]:
        """Find the code that is not what it was there.

        Parameters
        ----------
        units : mapping
            Digests by module and qualified name, as `Fingerprinter.code_units` has them.

        Returns
        -------
        frozenset of tuple
            The names of what has another digest there, or is not known there.
        """
        marks = {self.marks[at : at + _MARK_BYTES] for at in range(0, len(self.marks), _MARK_BYTES)}
        return frozenset(
            unit
            for unit, digest in units.items()
            if not _is_own(unit[0]) and _mark(unit, digest) not in marks
        )


class _CodeFingerprinter(Fingerprinter):
    """Gives no identity to what would have to be looked at outside of this process, or imported first."""

    @override
    def find_source(self, obj: object) -> Source | None:
        if super().find_source(obj) is not None:
            raise UncacheableError("it reads a source, which is not looked at to describe code")
        return None

    @override
    def load(self, module: str) -> ModuleType:
        raise UncacheableError(f"it imports {module}, which is not imported to describe code")


def _is_own(module: str) -> bool:
    """Whether it is this package, whose token rules have a version, also where it is installed from a checkout."""
    return module.partition(".")[0] == "daskcache" and not module.startswith("daskcache.demo")


def _is_users(name: str, module: ModuleType) -> bool:
    known = _kinds.get(name)
    if known is None or known[0] is not module:
        parent, dot, _ = name.rpartition(".")
        # A package with a file of its own is one distribution's, all of it.
        above = sys.modules.get(parent) if dot else None
        if (
            isinstance(above, ModuleType)
            and getattr(above, "__file__", None)
            and not _is_users(parent, above)
        ):
            _kinds[name] = module, False
            return False
        known = _kinds[name] = module, find_home(name).kind == "user"
    return known[1]


def _take_snapshot() -> _Snapshot:
    found: _Snapshot = {}
    modules: dict[str, Any] = dict(sys.modules)
    for name, module in modules.items():
        if (
            isinstance(module, ModuleType)
            and name not in ("__main__", "__mp_main__")
            and not _is_own(name)
            and _is_users(name, module)
        ):
            found[name] = module, dict(vars(module))
    return found


def _is_same(one: _Snapshot, other: _Snapshot) -> bool:
    return one.keys() == other.keys() and all(
        module is other[name][0]
        and names.keys() == other[name][1].keys()
        and all(value is other[name][1][key] for key, value in names.items())
        for name, (module, names) in one.items()
    )


def _are_same(some: tuple[Extension, ...], others: tuple[Extension, ...]) -> bool:
    return len(some) == len(others) and all(
        one[:2] == other[:2] and one.value is other.value for one, other in zip(some, others, strict=True)
    )


def _take(extension: Extension, salt: str, code_versions: CodeVersions) -> TakenExtension:
    """Digest what the scheduler may not have; what reads files or sources would be stale there, and is not."""
    fingerprinter = _CodeFingerprinter(salt=salt, code_versions=code_versions)
    try:
        digest = fingerprinter.fingerprint(extension.value)
    except UncacheableError:
        digest = b""
    return TakenExtension(extension.module, extension.name, b"" if fingerprinter.files else digest)


def _mark_all(snapshot: _Snapshot, extensions: tuple[Extension, ...], fingerprinter: Fingerprinter) -> bytes:
    units: dict[tuple[str, str], bytes] = {}
    found = [
        ((module, name), value)
        for module, (_, names) in snapshot.items()
        for name, value in names.items()
        if not (name.startswith("__") and name.endswith("__")) and _is_worth_a_look(fingerprinter, value)
    ]
    for unit, value in (*found, *(((one.module, one.name), one.value) for one in extensions)):
        try:
            units[unit] = fingerprinter.fingerprint_reading(value)
        except UncacheableError:
            continue
    # Methods, and the functions that it found by itself, under the names that they give themselves.
    units |= fingerprinter.code_units
    return b"".join(sorted({_mark(unit, digest) for unit, digest in units.items()}))


def _is_worth_a_look(fingerprinter: Fingerprinter, value: Any) -> bool:
    """Whether it is code, or a plain value, rather than a library's object that might lead anywhere."""
    if isinstance(value, ModuleType):
        return False
    if isinstance(value, np.ndarray):
        return value.nbytes <= _LARGEST_ARRAY_BYTES
    return (
        callable(value)
        or isinstance(value, enum.Enum | list | tuple | dict | set | frozenset)
        or fingerprinter.leaf(value) is not None
        or find_home(type(value).__module__).kind == "user"
    )


def _mark(unit: tuple[str, str], digest: bytes) -> bytes:
    module, name = (part.encode("utf-8", "surrogatepass") for part in unit)
    return _digester.digest(b"unit", module, name, digest)[:_MARK_BYTES]


_digester = Digester()

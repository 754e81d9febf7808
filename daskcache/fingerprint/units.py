"""Whether this process's code is the code that a token was made of."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from daskcache.config import CodeVersions
from daskcache.errors import UncacheableError
from daskcache.fingerprint.callables import member_of
from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["check_code_units"]

# The object beside its digest: a module that is loaded again holds others.
_checked: dict[tuple[str, str, str, CodeVersions], tuple[object, bytes | None]] = {}


def check_code_units(
    units: Mapping[tuple[str, str], bytes], *, salt: str = "", code_versions: CodeVersions = "exact"
) -> list[str]:
    """Name the code that is not the same in this process as where its digests were taken.

    A scheduler that was not restarted after an edit knows the old code while the workers run the new, and a result
    of the new code must not be stored under a token of the old.

    Parameters
    ----------
    units : mapping
        Digests by module and qualified name, as `Fingerprinter.code_units` has them.
    salt, code_versions : str, optional
        As the digests were taken with.

    Returns
    -------
    list of str
        Dotted names of what differs, is not there, or has no identity here; sorted.

    Notes
    -----
    Each digest is computed once per process, as long as the name stands for the same object.

    Examples
    --------
    >>> fingerprinter = Fingerprinter()
    >>> _ = fingerprinter.fingerprint(len)
    >>> check_code_units(fingerprinter.code_units)
    []
    >>> check_code_units({("no.such.module", "f"): b""})
    ['no.such.module.f']
    """
    differing = []
    for (module, name), digest in units.items():
        obj = _find(module, name)
        key = (module, name, salt, code_versions)
        known = _checked.get(key)
        if known is None or known[0] is not obj:
            known = _checked[key] = (obj, _digest(obj, salt, code_versions))
        if known[1] != digest:
            differing.append(f"{module}.{name}")
    return sorted(differing)


class _Nothing:
    """What a name stands for that is not there."""


def _digest(obj: object, salt: str, code_versions: CodeVersions) -> bytes | None:
    if obj is _Nothing:
        return None
    try:
        # Code is the same whatever the files are that it reads.
        twin = Fingerprinter(salt=salt, code_versions=code_versions, is_of_code=True)
        return twin.fingerprint_reading(obj)
    except UncacheableError:
        return None


def _find(module: str, name: str) -> object:
    try:
        found: Any = importlib.import_module(module)
        for step in name.split("."):
            # As the name was noted: a class's descriptors are not asked for what they give.
            found = member_of(found, step) if isinstance(found, type) else getattr(found, step)
    except (ImportError, AttributeError):
        return _Nothing
    return _Nothing if found is None and "." in name else found

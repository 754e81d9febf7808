"""Whose code a module is: Python's own, an installed distribution's, or the user's.

`importlib.metadata.packages_distributions` would say so after seconds. Here a module's file leads to the directory
it is installed in, and the RECORDs of the distributions there, read once per process, lead to the distribution.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Literal

from daskcache.config import CodeVersions, normalize_distribution

__all__ = ["Home", "counted_version", "find_home", "find_module_file", "shorten_version"]

_SITE_NAMES = frozenset({"site-packages", "dist-packages"})
_RELEASE = re.compile(r"(?:\d+!)?\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Home:
    """Where a module comes from."""

    kind: Literal["stdlib", "installed", "user"]
    """Python's standard library, a distribution whose version stands for its code, or the user's own code."""
    name: str = ""
    """The distribution's name."""
    version: str = ""
    """Its version; for the standard library Python's minor version."""


USER = Home("user")
STDLIB = Home("stdlib", sys.implementation.name, f"{sys.version_info.major}.{sys.version_info.minor}")


@dataclass(frozen=True, slots=True)
class _Distribution:
    """One distribution, as its metadata directory describes it."""

    name: str
    """Its name."""
    version: str
    """Its version."""
    path: str
    """The metadata directory."""
    tops: frozenset[str]
    """Names of the files and directories that it puts beside its metadata."""
    is_users: bool
    """Whether its version says nothing of its code: installed from a directory, a checkout or a file."""


def find_home(module: str | None) -> Home:
    """Find where a module comes from.

    Parameters
    ----------
    module : str or None
        The module's dotted name. It need not be loaded.

    Returns
    -------
    Home
        Its origin; what cannot be found is the user's.

    Examples
    --------
    >>> find_home("json.decoder").kind
    'stdlib'
    >>> find_home("numpy.linalg").name
    'numpy'
    >>> find_home("__main__").kind
    'user'
    """
    if not module or module == "__main__":
        return USER
    return _home_of_file(module.partition(".")[0], find_module_file(module))


def find_module_file(module: str) -> str | None:
    """Find a module's file without importing anything.

    Parameters
    ----------
    module : str
        The module's dotted name.

    Returns
    -------
    str or None
        A file, or for packages without ``__init__.py`` a directory; None for what is built in, or not there.
    """
    loaded = sys.modules.get(module)
    if loaded is not None and isinstance(getattr(loaded, "__file__", None), str):
        return loaded.__file__
    root, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.has_location and spec.origin is not None:
        return spec.origin
    # Without an __init__.py of its own a package is shared by several distributions: the module's place decides.
    places = [os.path.join(place, *rest.split(".")) for place in spec.submodule_search_locations or ()]
    return next((place for place in places if os.path.isdir(place)), None) or next(
        (found for place in places for found in glob.glob(f"{glob.escape(place)}.*")), None
    )


def shorten_version(version: str, precision: str) -> str:
    """Cut a version to what counts of it.

    Parameters
    ----------
    version : str
        A distribution's version.
    precision : {'exact', 'minor', 'major', 'none'}
        How much counts.

    Returns
    -------
    str
        The version, its first two or its first number, or nothing.

    Examples
    --------
    >>> shorten_version("2.5.1rc1", "minor")
    '2.5'
    """
    if precision == "exact":
        return version
    if precision == "none":
        return ""
    found = _RELEASE.match(version)
    if found is None:
        return version
    return ".".join(found.group().split(".")[: 2 if precision == "minor" else 1])


def counted_version(home: Home, versions: CodeVersions) -> str:
    """Cut a distribution's version to what the settings let count of it.

    Parameters
    ----------
    home : Home
        An installed distribution.
    versions : str or tuple of pairs of str
        How much counts: of all, or by name, with ``default`` for the others.

    Returns
    -------
    str
        What counts. Of several distributions in one place, as much as of the one of which most does.

    Examples
    --------
    >>> counted_version(Home("installed", "numpy", "2.5.1"), (("default", "exact"), ("numpy", "minor")))
    '2.5'
    """
    if isinstance(versions, str):
        return shorten_version(home.version, versions)
    by_name = dict(versions)
    default = by_name.get("default", "exact")
    wanted = {by_name.get(normalize_distribution(name), default) for name in home.name.split("+")}
    precision = next(precision for precision in ("exact", "minor", "major", "none") if precision in wanted)
    return shorten_version(home.version, precision)


@cache
def _home_of_file(root: str, file: str | None) -> Home:
    if file is None:
        return STDLIB if root in sys.stdlib_module_names else USER
    for candidate in dict.fromkeys((os.path.abspath(file), os.path.realpath(file))):
        for site in PurePath(candidate).parents:
            if site.name in _SITE_NAMES or str(site) in _search_path():
                found = _home_in_site(str(site), candidate)
                if found is not None:
                    return found
    # A script called random.py is not Python's random.
    if root in sys.stdlib_module_names and _is_stdlib_file(file):
        return STDLIB
    return USER


def _is_stdlib_file(file: str) -> bool:
    if file.startswith("<"):
        return True
    parents = [
        os.path.realpath(directory) for directory in (os.path.dirname(os.__file__), *_stdlib_directories())
    ]
    real = os.path.realpath(file)
    return any(real.startswith(parent + os.sep) for parent in parents) and not any(
        part in _SITE_NAMES for part in PurePath(real).parts
    )


@cache
def _stdlib_directories() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    dynamic = sysconfig.get_config_var("DESTSHARED")
    return tuple(
        path for path in (paths.get("stdlib"), paths.get("platstdlib"), dynamic) if isinstance(path, str)
    )


def _search_path() -> set[str]:
    return {os.path.abspath(entry) for entry in sys.path if entry}


def _home_in_site(site: str, file: str) -> Home | None:
    relative = os.path.relpath(file, site).replace(os.sep, "/")
    top = relative.partition("/")[0]
    owners = _owners(site).get(top, ())
    if len(owners) > 1:
        # Several distributions share a namespace package, or an upgrade left an old directory behind.
        owners = tuple(owner for owner in owners if _has_file(owner.path, relative)) or owners
    if not owners:
        return None
    if any(owner.is_users for owner in owners):
        return USER
    return Home(
        "installed",
        "+".join(sorted(owner.name for owner in owners)),
        "+".join(sorted(owner.version for owner in owners)),
    )


@cache
def _owners(site: str) -> dict[str, tuple[_Distribution, ...]]:
    owners: dict[str, tuple[_Distribution, ...]] = {}
    try:
        entries = sorted(os.listdir(site))
    except OSError:
        return owners
    for entry in entries:
        stem, suffix = os.path.splitext(entry)
        path = os.path.join(site, entry)
        # The egg-info in a source tree tells nothing of the code beside it; in site-packages it is an install.
        if suffix == ".dist-info" or (suffix == ".egg-info" and os.path.basename(site) in _SITE_NAMES):
            distribution = _read_distribution(stem, path)
            for top in distribution.tops:
                owners[top] = (*owners.get(top, ()), distribution)
    return owners


def _read_distribution(stem: str, path: str) -> _Distribution:
    name, _, version = stem.partition("-")
    if path.endswith(".egg-info"):
        version = re.sub(r"-py\d.*$", "", version)
    tops = {record.partition("/")[0] for record in _recorded_files(path) if record}
    if not tops:
        named = _read_text(os.path.join(path, "top_level.txt")).split() or [name, name.lower()]
        tops = {entry for top in named for entry in (top, f"{top}.py")}
    installer = _read_text(os.path.join(path, "INSTALLER")).strip()
    # Packages of conda carry the address of the directory that they were built in; conda's version covers them.
    is_users = installer != "conda" and os.path.exists(os.path.join(path, "direct_url.json"))
    return _Distribution(name, version, path, frozenset(tops), is_users)


def _has_file(path: str, relative: str) -> bool:
    below = f"{relative}/"
    return any(record == relative or record.startswith(below) for record in _recorded_files(path))


def _recorded_files(path: str) -> Iterator[str]:
    for line in _read_text(os.path.join(path, "RECORD")).splitlines():
        yield line.rpartition(",")[0].rpartition(",")[0].strip('"')


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""

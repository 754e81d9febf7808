"""Files that configure, besides dask's: where they lie, which wins, and where each value comes from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import dask.config

from daskcache.errors import InvalidInputError, warn_once

__all__ = ["Layer", "Value", "apply_files", "find_layers", "find_unknown", "find_values"]

SECTION = "daskcache"
# What lies below is named by the user.
_OPAQUE = frozenset(["store", "storage-options", "stores", "namespaces", "sources.aliases", "code.versions"])
# Whoever gives away a directory must not decide that what lies in a store of theirs is run.
_OF_THE_USER = "functions.pickle"


@dataclass(frozen=True, slots=True)
class Layer:
    """One place where settings come from."""

    origin: str
    """For people: a file's path, or what it is."""
    values: Mapping[str, Any]
    """By full key, such as ``functions.memory``."""


@dataclass(frozen=True, slots=True)
class Value:
    """One setting, as it holds now."""

    key: str
    """Such as ``daskcache.functions.memory``."""
    value: Any
    """What it is."""
    origin: str
    """Where it comes from."""
    problem: str = ""
    """What is wrong with its key."""


def find_layers(defaults: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Read all that configures but the code, the weakest first.

    Parameters
    ----------
    defaults : mapping
        What is shipped.

    Returns
    -------
    tuple of Layer
        The shipped defaults; ``.daskcache.toml`` in the home directory; dask's own files; ``[tool.daskcache]`` of the
        nearest ``pyproject.toml`` and the nearest ``daskcache.toml``, from the current directory upwards; the environment.

    Raises
    ------
    InvalidInputError
        A file is no TOML, or holds no table where one belongs, or a project's says which stores may run code.

    Examples
    --------
    >>> layers = find_layers({"daskcache": {"store": None}})
    >>> layers[0].origin, layers[-1].origin
    ('default', 'environment')
    """
    found = [Layer("default", _flatten(defaults.get(SECTION)))]
    files = [*_toml_layers(home=True)]
    collected: Any = dask.config.collect_yaml(dask.config.paths, return_paths=True)
    files += [Layer(str(path), _flatten(values.get(SECTION))) for path, values in collected]
    files += _toml_layers(home=False)
    environment = Layer("environment", _flatten(dask.config.collect_env(os.environ).get(SECTION)))
    return (*found, *(layer for layer in files if layer.values), environment)


def apply_files(defaults: Mapping[str, Any]) -> None:
    """Put what files of TOML say into dask's configuration, below the environment and what the code has set.

    Parameters
    ----------
    defaults : mapping
        What is shipped, and in dask's configuration already.

    Warns
    -----
    DaskcacheWarning
        A file is no TOML, or holds what does not belong there; then all of these files are left out.
    """
    try:
        # Most have none; the others are read once more.
        if not any(True for home in (True, False) for _ in _toml_layers(home=home)):
            return
        *files, environment = find_layers(defaults)
    except InvalidInputError as error:
        warn_once(f"files that configure daskcache are left out: {error}")
        return
    known: dict[str, set[Any]] = {}
    wanted: dict[str, Any] = {}
    for layer in files:
        for key, value in layer.values.items():
            known.setdefault(key, set()).add(repr(value))
            wanted[key] = value
    for key, value in wanted.items():
        here = dask.config.get(f"{SECTION}.{key}", None)
        # Something that no file says was set by the code.
        if key not in environment.values and repr(here) in {*known[key], "None"}:
            dask.config.set({f"{SECTION}.{key}": value})


def find_values(defaults: Mapping[str, Any]) -> list[Value]:
    """List the settings that hold now, and where each comes from.

    Parameters
    ----------
    defaults : mapping
        What is shipped.

    Returns
    -------
    list of Value
        By key.

    Examples
    --------
    >>> with dask.config.set({"daskcache.namespace": "trial"}):
    ...     [found] = [one for one in find_values({}) if one.key == "daskcache.namespace"]
    >>> found.value, found.origin
    ('trial', 'code')
    """
    layers = find_layers(defaults)
    held = _flatten(dask.config.get(SECTION, {}))
    unknown = find_unknown(defaults)
    found = []
    for key, value in sorted(held.items()):
        origins = [
            layer.origin for layer in layers if key in layer.values and repr(layer.values[key]) == repr(value)
        ]
        origin = origins[-1] if origins else "code"
        found.append(Value(f"{SECTION}.{key}", value, origin, unknown.get(key, "")))
    return found


def find_unknown(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Find what is set and is no setting, such as one that is misspelt.

    Parameters
    ----------
    defaults : mapping
        What is shipped, which has all that may be set.

    Returns
    -------
    dict of str to str
        What to say of each, by its full key.

    Examples
    --------
    >>> with dask.config.set({"daskcache.polcy": "outputs"}):
    ...     find_unknown({"daskcache": {"policy": "checkpoints"}})["polcy"]
    'daskcache.polcy is no setting, and has no effect; did you mean daskcache.policy?'
    """
    settings = _flatten(defaults.get(SECTION))
    known = sorted({*settings, *(key.rpartition(".")[0] for key in settings if "." in key)})
    found = {}
    for key in _flatten(dask.config.get(SECTION, None)):
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {SECTION}.{near[0]}?" if near else "`daskcache config` shows all there are"
            found[key] = f"{SECTION}.{key} is no setting, and has no effect; {hint}"
    return found


def _toml_layers(*, home: bool) -> Iterator[Layer]:
    candidates: list[tuple[Path | None, bool]]
    if home:
        candidates = [(Path.home() / ".daskcache.toml", False)]
    else:
        here = Path.cwd()
        above = [here, *here.parents]
        candidates = [
            (next((at / name for at in above if (at / name).is_file()), None), is_project)
            for name, is_project in (("pyproject.toml", True), ("daskcache.toml", False))
        ]
    for path, is_project in candidates:
        if path is None or not path.is_file():
            continue
        data = path.read_bytes()
        if is_project and b"tool.daskcache" not in data:
            continue
        try:
            document: Any = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidInputError(f"{path} is no TOML: {error}") from error
        if is_project:
            document = document.get("tool", {}).get(SECTION, {})
        if not isinstance(document, Mapping):
            raise InvalidInputError(f"{path}: tool.daskcache is {document!r}; expected a table")
        values = _flatten(document)
        if not home and _OF_THE_USER in values:
            raise InvalidInputError(
                f"{path} sets {_OF_THE_USER}; which stores may run code is for their user to say, in the home directory, "
                "dask's own files, the environment or the code"
            )
        yield Layer(str(path), values)


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Give nested settings by their full keys, spelt with hyphens as the shipped ones are."""
    found: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        key = f"{prefix}{str(name).replace('_', '-')}"
        if isinstance(value, Mapping) and value and key not in _OPAQUE:
            found |= _flatten(value, f"{key}.")
        else:
            found[key] = value
    return found

"""Configuration: dask's own, under the key ``daskcache``, and the frozen settings made of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import dask.config
import platformdirs
import yaml
from dask.utils import parse_timedelta

from daskcache.configuration import apply_files, find_unknown
from daskcache.errors import InvalidInputError, warn_once
from daskcache.locations import join_root, to_root

__all__ = [
    "CodeVersions",
    "Codecs",
    "Pool",
    "Precision",
    "Settings",
    "check_codecs",
    "default_store",
    "normalize_distribution",
    "parse_seconds",
    "pool_root",
]

Precision = Literal["exact", "minor", "major", "none"]
CodeVersions = Precision | tuple[tuple[str, Precision], ...]
Mode = Literal["off", "read", "write", "readwrite"]
Policy = Literal["checkpoints", "outputs", "auto"]
OnUncacheable = Literal["ignore", "warn", "raise"]
SourceCheck = Literal["chunks", "metadata", "content", "none"]
Pool = Literal["shared", "private"]

_YAML = Path(__file__).parent / "daskcache.yaml"


def load_defaults() -> None:
    """Merge the shipped ``daskcache.yaml`` into dask's configuration, below what the user set."""
    dask.config.ensure_file(source=str(_YAML))
    defaults = read_defaults()
    dask.config.update_defaults(defaults)
    apply_files(defaults)


def read_defaults() -> dict[str, Any]:
    """Read the settings that are shipped.

    Returns
    -------
    dict
        As dask's configuration has them.

    Examples
    --------
    >>> read_defaults()["daskcache"]["namespace"]
    'default'
    """
    with _YAML.open(encoding="utf-8") as file:
        found: dict[str, Any] = yaml.safe_load(file)
    return found


def default_store() -> str:
    """Give the directory that is the store where none is configured.

    Returns
    -------
    str
        An absolute path below the user's cache directory.
    """
    return os.path.join(platformdirs.user_cache_dir("daskcache"), "store")


@dataclass(frozen=True, slots=True)
class Codecs:
    """How blocks are compressed."""

    name: Literal["blosc", "zstd", "none"] = "blosc"
    """The compressor."""
    cname: str = "lz4"
    """Blosc's inner compressor."""
    level: int = 5
    """Effort, 0 to 9."""
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"] = "shuffle"
    """Blosc's filter before compression."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a pass or a persist needs to know, complete when made, picklable, free of secrets.

    Equal settings compare and hash equal, because dask groups collections by the optimizer that holds them.
    """

    store: str
    """URL or absolute path of the store's root; or what `daskcache.locations.to_root` makes of one with options, or
    of levels."""
    namespace: str = "default"
    """Where names are looked up and put."""
    mode: Mode = "readwrite"
    """What may be done to the store."""
    policy: Policy = "checkpoints"
    """What the pass stores besides marked blocks: nothing, what is computed for the user, or also what was costly."""
    salt: str = ""
    """Enters every token."""
    on_uncacheable: OnUncacheable = "warn"
    """What a checkpoint does that cannot be keyed."""
    progress: Literal["auto"] | bool = "auto"
    """Whether a persist draws a progress bar."""
    check_space: bool = True
    """Whether a persist that is estimated not to fit is refused."""
    code_versions: CodeVersions = "exact"
    """How much of an installed distribution's version counts; or pairs of a distribution's name, or ``default``, with
    how much of its version does."""
    source_check: SourceCheck = "chunks"
    """How closely sources are looked at."""
    source_aliases: tuple[tuple[str, str], ...] = ()
    """Pairs of prefixes: a source below the first counts as if it lay below the second."""
    codecs: Codecs = Codecs()
    """How blocks are compressed."""
    pool: Pool = "shared"
    """Whether blocks lie in the store's pool or in one of the namespace's own."""
    grace_s: float = 7 * 86400.0
    """Seconds for which nothing is swept that was written, found or dropped."""
    keep_s: float = 90 * 86400.0
    """Seconds for which what an unfinished run wants is not swept."""

    @property
    def pool_root(self) -> str:
        """The URL or path below which ``chunks`` lie, and the records of runs that want some.

        Returns
        -------
        str
            The store's root, but for a private pool.

        Examples
        --------
        >>> Settings("s3://bucket/cache", "ours", pool="private").pool_root
        's3://bucket/cache/namespaces/ours/@'
        """
        return pool_root(self.store, self.namespace, self.pool)

    @classmethod
    def from_config(cls, **overrides: Any) -> Self:
        """Read dask's configuration, with the given settings in front of it.

        Parameters
        ----------
        **overrides
            Fields of this class; those that are None are as if not given.

        Returns
        -------
        Settings
            Complete settings.

        Raises
        ------
        InvalidInputError
            A value is not one of those allowed, or a setting is unknown.

        Warns
        -----
        DaskcacheWarning
            Something is configured that is no setting; once.
        """
        for section, names in _SECTIONS.items():
            _check_section(f"daskcache{section}", names)
        # By full names, because dask keeps what an environment variable set under an underscored key.
        values: dict[str, Any] = {
            "store": dask.config.get("daskcache.store", None),
            "storage_options": dask.config.get("daskcache.storage-options", None),
            "namespace": dask.config.get("daskcache.namespace", "default"),
            "mode": dask.config.get("daskcache.mode", "readwrite"),
            "policy": dask.config.get("daskcache.policy", "checkpoints"),
            "salt": dask.config.get("daskcache.salt", ""),
            "on_uncacheable": dask.config.get("daskcache.on-uncacheable", "warn"),
            "progress": dask.config.get("daskcache.progress", "auto"),
            "check_space": dask.config.get("daskcache.check-space", True),
            "code_versions": dask.config.get("daskcache.code.versions", "exact"),
            "source_check": dask.config.get("daskcache.sources.check", "chunks"),
            "source_aliases": dask.config.get("daskcache.sources.aliases", {}),
            "codecs": dask.config.get("daskcache.codecs", {}),
            "pool": dask.config.get("daskcache.pool", "shared"),
            "grace_s": dask.config.get("daskcache.forgetting.grace", "7d"),
            "keep_s": dask.config.get("daskcache.forgetting.keep", "90d"),
        }
        unknown = overrides.keys() - values.keys()
        if unknown:
            raise InvalidInputError(f"unknown settings {sorted(unknown)}; known are {sorted(values)}")
        given = {name: value for name, value in overrides.items() if value is not None}
        namespace = given.get("namespace", values["namespace"])
        values = {**values, **_settings_of_namespace(namespace), **given}
        return cls(**_normalize(values))

    def with_(self, **changes: Any) -> Self:
        """Copy these settings with some fields changed and checked.

        Parameters
        ----------
        **changes
            Fields of this class.

        Returns
        -------
        Settings
            The changed copy.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return type(self)(**_normalize({**values, **changes}))


_CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": get_args(Mode),
    "policy": get_args(Policy),
    "on_uncacheable": get_args(OnUncacheable),
    "progress": ("auto", True, False),
    "check_space": (True, False),
    "source_check": get_args(SourceCheck),
    "pool": get_args(Pool),
}
_CODEC_CHOICES: dict[str, tuple[Any, ...]] = {
    "name": ("blosc", "zstd", "none"),
    "cname": ("lz4", "lz4hc", "blosclz", "zlib", "zstd"),
    "shuffle": ("noshuffle", "shuffle", "bitshuffle"),
}
_KEYS = {
    "source_check": "sources.check",
    "source_aliases": "sources.aliases",
    "grace_s": "forgetting.grace",
    "keep_s": "forgetting.keep",
}


def pool_root(store: str, namespace: str, pool: Pool) -> str:
    """Give the URL or path below which the chunks of a namespace lie.

    Parameters
    ----------
    store : str
        The store's root.
    namespace : str
        The namespace.
    pool : {"shared", "private"}
        Which pool.

    Returns
    -------
    str
        The store's root, or that of the namespace's own pool, which no entry's name can meet.

    Examples
    --------
    >>> pool_root("/store", "ours", "shared"), pool_root("/store", "ours", "private")
    ('/store', '/store/namespaces/ours/@')
    """
    if pool == "shared":
        return store
    return join_root(store, f"namespaces/{namespace}/@")


def parse_seconds(text: object, what: str) -> float:
    """Read a span of time as people write it.

    Parameters
    ----------
    text : str or float
        Such as ``"30d"``, ``"12 hours"``, or a number of seconds.
    what : str
        What it is of, for the error.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    InvalidInputError
        It is no span of time, or a negative one.

    Examples
    --------
    >>> parse_seconds("30d", "grace"), parse_seconds(60, "grace")
    (2592000.0, 60.0)
    """
    try:
        seconds = _parse_text(text) if isinstance(text, str) else float(text)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{what} is {text!r}; expected a span of time such as '30d', '12 hours' or '90s', or seconds as a number"
        ) from error
    if isinstance(text, bool) or not 0 <= seconds < float("inf"):
        raise InvalidInputError(f"{what} is {text!r}; expected a span of time that is not negative")
    return float(seconds)


@lru_cache
def _parse_text(text: str) -> float:
    if text.strip() == "0":
        return 0.0
    # Of other numbers in a text nobody knows whether seconds or days are meant.
    seconds: float = parse_timedelta(text, default=False)
    return seconds


def _settings_of_namespace(namespace: object) -> dict[str, Any]:
    """Give what is set for one namespace alone."""
    found = dask.config.get("daskcache.namespaces", None) or {}
    if not isinstance(found, Mapping) or not all(isinstance(below, Mapping) for below in found.values()):
        raise InvalidInputError(
            f"daskcache.namespaces is {found!r}; expected a mapping of names to mappings with 'mode' and 'pool'"
        )
    unknown = {key for below in found.values() for key in below} - {"mode", "pool"}
    if unknown:
        raise InvalidInputError(
            f"daskcache.namespaces sets {sorted(unknown)} of a namespace; expected 'mode' and 'pool'"
        )
    return dict(found.get(namespace, {}))


def _check_section(key: str, names: Set[str]) -> None:
    value = dask.config.get(key, None)
    if not isinstance(value, Mapping | Codecs | None):
        raise InvalidInputError(f"{key} is {value!r}; expected a mapping")
    # Those of codecs are refused where they are read. Others are perhaps only spelt with an underscore.
    if key != "daskcache.codecs" and isinstance(value, Mapping) and not value.keys() <= names:
        for problem in find_unknown(_DEFAULTS).values():
            warn_once(problem)


def _check_choice(key: str, value: object, allowed: tuple[Any, ...]) -> None:
    # Not just `in`: 1 equals True.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise InvalidInputError(
            f"daskcache.{key} is {value!r}; expected one of {', '.join(map(repr, allowed))}"
        )


def _normalize(values: dict[str, Any]) -> dict[str, Any]:
    # YAML reads a bare `off` as false, and a bare `none` as a string.
    mode = "off" if values["mode"] is False else values["mode"]
    values = {**values, "mode": mode}
    for name, allowed in _CHOICES.items():
        _check_choice(_KEYS.get(name, name.replace("_", "-")), values[name], allowed)
    values = dict(values)
    store = to_root(
        default_store() if values["store"] in (None, "") else values["store"],
        values.pop("storage_options", None),
    )
    if not isinstance(values["namespace"], str) or not values["namespace"]:
        raise InvalidInputError(f"daskcache.namespace is {values['namespace']!r}; expected a name")
    return {
        **values,
        "grace_s": parse_seconds(values["grace_s"], "daskcache.forgetting.grace"),
        "keep_s": parse_seconds(values["keep_s"], "daskcache.forgetting.keep"),
        "store": store,
        "salt": str(values["salt"]),
        "codecs": check_codecs(values["codecs"] or {}),
        "code_versions": _normalize_versions(values["code_versions"]),
        "source_aliases": _normalize_aliases(values["source_aliases"] or {}),
    }


def normalize_distribution(name: str) -> str:
    """Spell a distribution's name as all its spellings are spelt.

    Parameters
    ----------
    name : str
        Such as ``scikit_learn``.

    Returns
    -------
    str
        Such as ``scikit-learn``.

    Examples
    --------
    >>> normalize_distribution("Scikit_Learn")
    'scikit-learn'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _normalize_versions(versions: object) -> CodeVersions:
    allowed = get_args(Precision)
    if isinstance(versions, tuple):  # of settings that have been checked before
        versions = dict(versions)
    if not isinstance(versions, Mapping):
        _check_choice("code.versions", versions, allowed)
        return versions  # type: ignore[return-value]
    found: dict[str, Precision] = {}
    for name, precision in versions.items():
        _check_choice(f"code.versions.{name}", precision, allowed)
        found[normalize_distribution(str(name))] = precision
    default = found.pop("default", "exact")
    # One that changes nothing compares equal to none.
    rest = sorted((name, precision) for name, precision in found.items() if precision != default)
    return (("default", default), *rest) if rest else default


def check_codecs(codecs: Codecs | Mapping[str, Any]) -> Codecs:
    """Refuse codecs that are not among those allowed.

    Parameters
    ----------
    codecs : Codecs or mapping
        As configured, or as a document in a store has them.

    Returns
    -------
    Codecs
        The same.

    Raises
    ------
    InvalidInputError
        One is not known.

    Examples
    --------
    >>> check_codecs({"name": "zstd"}).name
    'zstd'
    """
    if not isinstance(codecs, Codecs):
        try:
            codecs = Codecs(**codecs)
        except TypeError as error:
            raise InvalidInputError(
                f"daskcache.codecs is {codecs!r}; expected the keys {sorted(Codecs.__slots__)}"
            ) from error
    for name, allowed in _CODEC_CHOICES.items():
        _check_choice(f"codecs.{name}", getattr(codecs, name), allowed)
    if type(codecs.level) is not int or not 0 <= codecs.level <= 9:
        raise InvalidInputError(
            f"daskcache.codecs.level is {codecs.level!r}; expected a whole number from 0 to 9"
        )
    return codecs


def _normalize_aliases(aliases: object) -> tuple[tuple[str, str], ...]:
    if isinstance(aliases, tuple):  # of settings that have been checked before
        return aliases
    if not isinstance(aliases, Mapping):
        raise InvalidInputError(f"daskcache.sources.aliases is {aliases!r}; expected a mapping of prefixes")
    return tuple(sorted((str(old), str(new)) for old, new in aliases.items()))


_DEFAULTS = read_defaults()
_SECTIONS: dict[str, Set[str]] = {
    "": _DEFAULTS["daskcache"].keys(),
    **{
        f".{name}": value.keys()
        for name, value in _DEFAULTS["daskcache"].items()
        if value and isinstance(value, dict)
    },
}
load_defaults()

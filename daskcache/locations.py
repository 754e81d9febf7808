"""What a store's root says: one URL, or several with their options, as one text that any process can open.

The text travels in settings and tasks, so it compares, hashes and pickles, and holds no secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl

import dask.config
from dask.utils import parse_bytes

from daskcache.errors import InvalidInputError
from daskcache.secrets import default_reference, is_secret

__all__ = [
    "PREFIX",
    "Compound",
    "Location",
    "has_secret",
    "is_local",
    "join_root",
    "parse_root",
    "to_root",
    "unparse_root",
]

PREFIX = "daskcache:"
"""How a root begins that is more than a path or URL."""

_CLIENTS = ("fsspec", "obstore")
_NAME = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """One store: where it lies and how it is used."""

    url: str
    """A path or URL."""
    storage_options: str = "{}"
    """fsspec's options, none of them secret, as JSON with sorted keys."""
    secret: str | None = None
    """``module:name`` of the function that fetches further options; None for ambient credentials."""
    client: str | None = None
    """``fsspec`` or ``obstore``; None for the better one that is there."""
    read_only: bool = False
    """Whether it is never written."""
    write: bool | None = None
    """Among levels: whether what is written goes here; None where its place decides."""
    copy: bool | None = None
    """Among levels: whether what is read from a slower one is copied here; None where its place decides."""
    max_object: int | None = None
    """Bytes of the largest object that it takes; None for no limit."""
    max_size: int | None = None
    """Bytes that it may hold; None for no limit."""
    within: str | None = None
    """The directory whose content `max_size` bounds, where the store is a part of it; None for the store itself."""
    weight: float | None = None
    """In a fan-out: its part of what is written, beside the others' weights; None for equal parts."""

    @property
    def options(self) -> dict[str, Any]:
        """Fsspec's options, none of them secret."""
        found: dict[str, Any] = json.loads(self.storage_options)
        return found


@dataclass(frozen=True, slots=True)
class Compound:
    """Several stores as one."""

    kind: Literal["levels", "fanout"]
    """How: a chain, fastest first; or stores among which objects are spread."""
    parts: tuple[Location | Compound, ...]
    """The stores."""
    below: str = ""
    """Of a fan-out: the path in each part below which its keys lie. Where an object goes depends on all of its path."""
    read_only: bool = False
    """Whether it is never written."""
    write: bool | None = None
    """As of a `Location`."""
    copy: bool | None = None
    """As of a `Location`."""
    max_object: int | None = None
    """As of a `Location`."""
    weight: float | None = None
    """As of a `Location`."""


_FIELDS = tuple(field.name for field in fields(Location))
_DEFAULTS = Location("")
_PLAIN = Compound("levels", ())
_KINDS = ("levels", "fanout")
_MARKS = ("read_only", "write", "copy", "max_object", "weight")
_MARKS_OF_PARTS = frozenset({"write", "copy", "weight"})


def to_root(store: object, storage_options: Mapping[str, Any] | None = None) -> str:
    """Give the one text that stands for a store.

    Parameters
    ----------
    store : str, path, mapping, sequence or store
        A path or URL; a name that ``daskcache.stores`` configures; a mapping of `Location`'s fields; a mapping of
        ``levels`` to a sequence of such, fastest first, or the sequence itself; a mapping of ``fanout`` to a sequence of
        such; a store that `daskcache.stores` opened; or what this function gave. Levels and fan-outs may be parts of each
        other.
    storage_options : mapping, optional
        fsspec's options for remote stores among them that have none of their own.

    Returns
    -------
    str
        An absolute path or a URL where that says it all, else `PREFIX` and JSON. Equal for equal stores.

    Raises
    ------
    InvalidInputError
        It is none of these, a key is unknown, or an option holds a secret.

    Examples
    --------
    >>> to_root("s3://bucket/cache")
    's3://bucket/cache'
    >>> to_root("s3://bucket/cache", {"endpoint_url": "http://127.0.0.1:5000"})
    'daskcache:{"storage_options":{"endpoint_url":"http://127.0.0.1:5000"},"url":"s3://bucket/cache"}'
    """
    root = getattr(type(store), "daskcache_root", None)
    if root is not None:
        store = store.daskcache_root  # type: ignore[attr-defined]
    given = storage_options or {}
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"daskcache.storage-options is {given!r}; expected a mapping")
    if type(store) is str and store.startswith("/"):
        return _root_of_path(store)
    return unparse_root(_place(store, given))


@lru_cache
def _root_of_path(path: str) -> str:
    """Give the root of an absolute path, which depends on nothing else."""
    return unparse_root(_place(path, {}))


def unparse_root(place: Location | Compound) -> str:
    """Give the text that `parse_root` reads.

    Parameters
    ----------
    place : Location or Compound
        The store.

    Returns
    -------
    str
        As `to_root` gives it.

    Examples
    --------
    >>> unparse_root(Compound("levels", (Location("/ssd"), Location("/hdd"))))
    'daskcache:{"levels":[{"url":"/ssd"},{"url":"/hdd"}]}'
    """
    document = _document(place)
    return document["url"] if document.keys() == {"url"} else _dump(document)


def parse_root(root: str) -> Location | Compound:
    """Read what `to_root` gave, or a path or URL.

    Parameters
    ----------
    root : str
        A store's root.

    Returns
    -------
    Location or Compound
        The store, or what it is made of.

    Raises
    ------
    InvalidInputError
        It is not of that form.

    Examples
    --------
    >>> parse_root("s3://bucket/cache").url
    's3://bucket/cache'
    """
    if not root.startswith(PREFIX):
        return Location(root)
    try:
        document = json.loads(root.removeprefix(PREFIX))
    except ValueError as error:
        raise InvalidInputError(f"the store's root {root!r} is not understood ({error})") from error
    return _place(document, {}, complete=True)


def join_root(root: str, path: str) -> str:
    """Give the root of what lies below a path of a store.

    Parameters
    ----------
    root : str
        What `to_root` gave, or a path or URL.
    path : str
        Segments joined by ``/``.

    Returns
    -------
    str
        A root as well, whose levels, options and limits are the store's.

    Examples
    --------
    >>> join_root("s3://bucket/cache", "namespaces/ours")
    's3://bucket/cache/namespaces/ours'
    """
    return unparse_root(_below(parse_root(root), path))


def _below(place: Location | Compound, path: str) -> Location | Compound:
    if isinstance(place, Location):
        url, mark, query = place.url.partition("?") if "://" in place.url else (place.url, "", "")
        within = None if place.max_size is None else place.within or place.url
        return replace(place, url=f"{url.rstrip('/')}/{path}{mark}{query}", within=within)
    if place.kind == "fanout":
        return replace(place, below=f"{place.below}/{path}".lstrip("/"))
    return replace(place, parts=tuple(_below(part, path) for part in place.parts))


def has_secret(url: str) -> bool:
    """Tell whether a URL holds a password, or a query with a secret.

    Parameters
    ----------
    url : str
        A path or URL.

    Returns
    -------
    bool
        Whether it does.

    Examples
    --------
    >>> has_secret("ftp://me:pass@host/a"), has_secret("https://host/a?sig_token=1"), has_secret("ftp://me@host")
    (True, True, False)
    """
    if "://" not in url:
        return False
    # Passwords may have slashes, as Amazon's keys have, though they should be quoted; paths may end in "@".
    if re.search(r"://[^/@\s]*:[^/@\s]*@|://[^/@\s:]*:[^@\s]*@[^/\s]", url):
        return True
    return any(is_secret(name, value) for name, value in parse_qsl(url.partition("?")[2]))


def is_local(url: str) -> bool:
    """Tell whether a URL is of this machine or process, so that it needs no credentials.

    Parameters
    ----------
    url : str
        A path or URL.

    Returns
    -------
    bool
        True for paths, ``file://`` and ``memory://``.

    Examples
    --------
    >>> is_local("/data"), is_local("s3://bucket")
    (True, False)
    """
    return url.partition("://")[0] in ("file", "local", "memory") or "://" not in url


def _place(
    store: Any, options: Mapping[str, Any], *, complete: bool = False, is_part: bool = False
) -> Location | Compound:
    if getattr(type(store), "daskcache_root", None) is not None:
        store = store.daskcache_root
    if isinstance(store, str) and store.startswith(PREFIX):
        return parse_root(store)
    # What came out of `to_root` says all: another process has other names.
    if not complete:
        store = _resolve(store)
    if isinstance(store, Sequence) and not isinstance(store, str | bytes):
        store = {"levels": store}
    kind = next((kind for kind in _KINDS if isinstance(store, Mapping) and kind in store), None)
    if kind is None:
        return _location(store, options, complete)
    return _compound(store, options, complete, is_part)


def _resolve(store: Any, seen: tuple[str, ...] = ()) -> Any:
    """Put what the configuration calls by a name in place of the name."""
    name = store.get("url") if isinstance(store, Mapping) else store
    found = dask.config.get("daskcache.stores", None) or {}
    if not isinstance(found, Mapping):
        raise InvalidInputError(f"daskcache.stores is {found!r}; expected a mapping of names to stores")
    names = {str(key).replace("_", "-"): value for key, value in found.items()}
    unfit = sorted(key for key in names if not _NAME.fullmatch(key))
    if unfit:
        raise InvalidInputError(
            f"daskcache.stores has the names {unfit}; expected letters, digits, '.', '_' and '-', from a letter on"
        )
    if not isinstance(name, str) or (known := name.replace("_", "-")) not in names:
        return store
    if known in seen:
        raise InvalidInputError(
            f"daskcache.stores: {' is '.join((*seen, known))}; expected a path, a URL or levels"
        )
    named = _resolve(names[known], (*seen, known))
    if not isinstance(store, Mapping):
        return named
    if not isinstance(named, Mapping):
        named = {"levels" if isinstance(named, Sequence) and not isinstance(named, str) else "url": named}
    marks = {str(key).replace("_", "-"): value for key, value in store.items() if key != "url"}
    return {str(key).replace("_", "-"): value for key, value in named.items()} | marks


def _compound(
    store: Mapping[str, Any], options: Mapping[str, Any], complete: bool, is_part: bool
) -> Compound:
    values = {str(name).replace("-", "_"): value for name, value in store.items()}
    kind: Literal["levels", "fanout"] = "levels" if "levels" in values else "fanout"
    parts = values.pop(kind)
    known = {*_MARKS, *(("below",) if complete else ())} - (
        frozenset() if is_part or complete else _MARKS_OF_PARTS
    )
    unknown = sorted(values.keys() - known, key=str)
    if unknown:
        raise InvalidInputError(f"daskcache.store has {unknown} beside {kind}; each store takes its own")
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes) or not parts:
        shown = "an empty sequence" if parts == [] or parts == () else f"a {type(parts).__name__}"
        raise InvalidInputError(
            f"daskcache.store: {kind} is {shown}; expected stores, of levels the fastest first"
        )
    places = tuple(_place(part, options, complete=complete, is_part=True) for part in parts)
    return Compound(kind, places, str(values.pop("below", "")), **_check_marks(values))


def _location(store: Any, options: Mapping[str, Any], complete: bool) -> Location:
    given = store if isinstance(store, Mapping) else {"url": store}
    # dask's configuration takes hyphens for underscores.
    values = {str(name).replace("-", "_"): value for name, value in given.items()}
    unknown = sorted(values.keys() - set(_FIELDS), key=str)
    if unknown:
        raise InvalidInputError(f"daskcache.store has the unknown keys {unknown}; known are {list(_FIELDS)}")
    url = values.get("url")
    if not isinstance(url, str | os.PathLike) or not os.fspath(url):
        raise InvalidInputError(
            f"daskcache.store is {url!r}; expected a path or a URL, a mapping with one, or a sequence of levels"
        )
    url = str(os.fspath(url))
    if "://" not in url:
        url = os.path.abspath(os.path.expanduser(url))
    if has_secret(url):
        raise InvalidInputError(
            f"the store's URL {url.partition('://')[0]}://… holds a secret, which settings and graphs would carry in clear; "
            "give it without, and name a function that fetches the storage options: "
            "@daskcache.secret('storage_options')"
        )
    own = values.get("storage_options") or {}
    own = json.loads(own) if isinstance(own, str) else own  # of a Location
    secret = values.get("secret")
    # What came out of this function says all: a process that declares other functions changes nothing of it.
    if not complete and not is_local(url) and secret is None:
        own = own or options
        secret = None if own.get("anon") else default_reference()
    values |= {"url": url, "secret": secret, "storage_options": _check_options(own)}
    values |= {"max_size": _check_bytes("max_size", values.get("max_size"))} | _check_marks(values)
    _check_choice("client", values.get("client"), (None, *_CLIENTS))
    if secret is not None and (not isinstance(secret, str) or ":" not in secret):
        raise InvalidInputError(f"secret is {type(secret).__name__}; expected 'module:name' of a function")
    return Location(**values)


def _check_marks(values: Mapping[str, Any]) -> dict[str, Any]:
    marks: dict[str, Any] = {
        name: _check_choice(name, values.get(name, getattr(_DEFAULTS, name)), (None, True, False))
        for name in ("read_only", "write", "copy")
    }
    marks["max_object"] = _check_bytes("max_object", values.get("max_object"))
    return marks | {"read_only": bool(marks["read_only"]), "weight": _check_weight(values.get("weight"))}


def _check_weight(value: Any) -> float | None:
    """Read a weight; a text is a capacity."""
    number = _check_bytes("weight", value) if isinstance(value, str) else value
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
        raise InvalidInputError(
            f"weight is {value!r}; expected a positive number, or a capacity such as '4 TB'"
        )
    return float(number)


def _check_options(options: Any) -> str:
    if not isinstance(options, Mapping):
        raise InvalidInputError(f"storage_options is a {type(options).__name__}; expected a mapping")
    secrets = sorted(str(name) for name, value in options.items() if is_secret(str(name), value))
    if secrets:
        raise InvalidInputError(
            f"the storage options {secrets} hold secrets, which settings and graphs would carry in clear; leave "
            "them to the ambient credentials (environment, profile, instance), or name a function that fetches "
            "them: @daskcache.secret('storage_options') or the store's key `secret`"
        )
    try:
        return json.dumps(dict(options), sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise InvalidInputError(
            f"storage_options must be plain values that JSON can hold ({error})"
        ) from error


def _check_bytes(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = parse_bytes(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{name} is {value!r}; expected bytes, such as 1000000 or '20 GiB'"
        ) from error
    if isinstance(value, bool) or number < 0:
        raise InvalidInputError(f"{name} is {value!r}; expected bytes, such as 1000000 or '20 GiB'")
    return int(number)


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if not any(value is choice or (type(value) is str and value == choice) for choice in allowed):
        raise InvalidInputError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
    return value


def _document(place: Location | Compound) -> dict[str, Any]:
    if isinstance(place, Compound):
        document: dict[str, Any] = {place.kind: [_document(part) for part in place.parts]}
        marks = {name: getattr(place, name) for name in ("below", *_MARKS)}
        return document | {name: mark for name, mark in marks.items() if mark != getattr(_PLAIN, name)}
    document = {
        name: getattr(place, name) for name in _FIELDS if getattr(place, name) != getattr(_DEFAULTS, name)
    }
    if "storage_options" in document:
        document["storage_options"] = place.options
    return document


def _dump(document: Mapping[str, Any]) -> str:
    return PREFIX + json.dumps(document, sort_keys=True, separators=(",", ":"))

"""Credentials: functions that fetch them, named instead of their values, and what keeps values out of texts."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from daskcache.errors import InvalidInputError, StoreError

__all__ = ["conceal", "default_reference", "fetch", "hide", "is_secret", "secret"]

_SETTINGS = ("storage_options", "database")

_SECRET_NAME = re.compile(
    r"secret|token|password|passwd|passphrase|credential|signature|private|cookie|auth|"
    r"(?:^|_)(?:key|pwd|pass|sas|pkey)(?:$|_)",
    re.IGNORECASE,
)
# Options with such a name that hold none: words and files that gcsfs takes for a token, switches.
_WORDS = frozenset(
    {"anon", "browser", "cache", "cloud", "google_default", "connect", "filename", "key_filename"}
)
_NO_SECRETS = frozenset({"key_filename", "token_uri", "auth_type"})
_SHORTEST = 6

_functions: dict[str, str] = {}
_values: set[str] = set()


def secret[F: Callable[[], Mapping[str, Any]]](setting: str) -> Callable[[F], F]:
    """Declare a function that fetches credentials, in each process that needs them.

    Parameters
    ----------
    setting : str
        What the function gives: ``"storage_options"``, a mapping of fsspec's options for remote stores that name
        no function and hold no credentials of their own; ``"database"``, a mapping of ``username``, ``password``
        and other parts of the URL of the database that tables are kept in.

    Returns
    -------
    callable
        A decorator that gives the function back.

    Raises
    ------
    InvalidInputError
        The setting is unknown, or the function cannot be imported by its name.

    Notes
    -----
    Settings, graphs and pickles hold ``module:name``, never a value; so workers have to be able to import the
    module. Declare it before the store is activated or opened. The last function declared is the one that counts.

    Examples
    --------
    >>> import os
    >>> import daskcache
    >>> @daskcache.secret("storage_options")  # doctest: +SKIP
    ... def credentials():
    ...     return {"key": os.environ["BUCKET_KEY"], "secret": os.environ["BUCKET_SECRET"]}
    >>> daskcache.secret("storage_option")
    Traceback (most recent call last):
        ...
    daskcache.errors.InvalidInputError: a secret can be given for 'storage_options' and 'database', not for 'storage_option'
    """
    if setting not in _SETTINGS:
        known = " and ".join(map(repr, _SETTINGS))
        raise InvalidInputError(f"a secret can be given for {known}, not for {setting!r}")

    def declare(function: F) -> F:
        _functions[setting] = _reference(function)
        return function

    return declare


def _reference(function: Any) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or "<" in name:
        raise InvalidInputError(
            f"the function {name or function!r} that fetches a secret has no name to import it by; "
            "define it at the top of a module"
        )
    return f"{module}:{name}"


def default_reference(setting: str = "storage_options") -> str | None:
    """Give the name of the function that was declared last.

    Parameters
    ----------
    setting : str, optional
        What it gives.

    Returns
    -------
    str or None
        ``module:name``; None where there is none.
    """
    return _functions.get(setting)


def fetch(reference: str) -> dict[str, Any]:
    """Call the function that fetches credentials.

    Parameters
    ----------
    reference : str
        ``module:name``.

    Returns
    -------
    dict
        Options of fsspec's. Their values are left out of messages from now on.

    Raises
    ------
    StoreError
        The function cannot be imported here, failed, or gave no mapping.
    """
    module, _, name = reference.partition(":")
    try:
        found: Any = sys.modules["__main__"] if module == "__main__" else importlib.import_module(module)
        for step in name.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        raise StoreError(
            f"the function {reference} that fetches credentials cannot be imported in this process; "
            "define it at the top of a module that is installed wherever the store is used"
        ) from error
    try:
        options = found()
    except Exception as error:  # noqa: BLE001  (its message may well hold what it fetched: only its kind is told)
        kind = type(error).__name__
        options = None
    else:
        kind = f"gave {type(options).__name__}, not a mapping"
    if not isinstance(options, Mapping):
        raise StoreError(
            f"the function {reference} that fetches credentials failed ({kind}); call it by itself to see why"
        ) from None
    hide(options, everything=True)
    return dict(options)


def is_secret(name: str, value: object) -> bool:
    """Tell whether an option holds a secret, to judge by its name, or by a user and password in a URL.

    Parameters
    ----------
    name : str
        The option.
    value : object
        Its value; of mappings, what is in them counts.

    Returns
    -------
    bool
        Whether it does.

    Examples
    --------
    >>> is_secret("endpoint_url", "http://host"), is_secret("secret", "abc"), is_secret("token", "anon")
    (False, True, False)
    """
    if isinstance(value, Mapping):
        return any(is_secret(str(inner), below) for inner, below in value.items())
    if value is None or isinstance(value, bool | int | float) or name in _NO_SECRETS:
        return False
    if isinstance(value, str):
        if re.search(r"://[^/@\s]*@", value):
            return True
        if value in _WORDS or value.endswith(".json"):
            return False
    return _SECRET_NAME.search(name) is not None


def hide(options: Mapping[str, Any], *, everything: bool = False) -> None:
    """Leave the values of options out of messages from now on.

    Parameters
    ----------
    options : mapping
        Options of a store.
    everything : bool, optional
        Whether the values of all options are hidden, not only those that `is_secret` names.
    """
    for name, value in options.items():
        if isinstance(value, Mapping):
            hide(value, everything=everything and name not in ("client_kwargs", "config_kwargs"))
        elif (
            isinstance(value, str)
            and len(value) >= _SHORTEST
            and (is_secret(str(name), value) or (everything and "://" not in value and value not in _WORDS))
        ):
            _values.add(value)


def conceal(text: str) -> str:
    """Take secrets that this process knows out of a text.

    Parameters
    ----------
    text : str
        A message.

    Returns
    -------
    str
        The same with asterisks in their places.

    Examples
    --------
    >>> hide({"secret": "open sesame"})
    >>> conceal("cannot sign with open sesame")
    'cannot sign with ***'
    """
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text

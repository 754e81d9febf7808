"""Serializers that a function names for its results; pickle, where the user trusts a store with it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask.config

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, NotStoredError, UncacheableError
from daskcache.formats import Encoded, Format

__all__ = ["check_trust", "format_of"]

_PICKLE = "pickle"


def format_of(serializer: Any, name: str | None) -> Format | None:
    """Make a format of what a function names.

    Parameters
    ----------
    serializer : object
        Something with ``dumps`` and ``loads``, a pair of functions, or None.
    name : str or None
        The format that the function asks for.

    Returns
    -------
    Format or None
        None where it names no serializer.

    Raises
    ------
    InvalidInputError
        It is of another kind.

    Examples
    --------
    >>> import json
    >>> form = format_of((lambda value: json.dumps(value).encode(), json.loads), None)
    >>> form.decode(form.encode([1]).parts, {})
    [1]
    """
    if name == _PICKLE:
        if serializer is not None:
            raise InvalidInputError("format='pickle' and a serializer are given; expected one of them")
        return _make(_PICKLE, lambda value: pickle.dumps(value, protocol=5), pickle.loads)
    if serializer is None:
        return None
    if name is not None:
        raise InvalidInputError(f"format={name!r} and a serializer are given; expected one of them")
    if hasattr(serializer, "dumps") and hasattr(serializer, "loads"):
        encode, decode = serializer.dumps, serializer.loads
    elif isinstance(serializer, tuple | list) and len(serializer) == 2 and all(map(callable, serializer)):
        encode, decode = serializer
    else:
        raise InvalidInputError(
            f"serializer is {serializer!r}; expected something with dumps and loads, or a pair of functions"
        )
    if getattr(decode, "__module__", None) in ("pickle", "_pickle", "cloudpickle", "dill", "joblib"):
        raise InvalidInputError(
            "a serializer that unpickles is asked for by format='pickle', and switched on in the configuration"
        )
    return _make(f"serializer {_name(encode)} {_name(decode)}", encode, decode)


def check_trust(form: Format | None, settings: Settings) -> None:
    """Refuse to pickle into, or unpickle out of, a store that the user does not trust with it.

    Parameters
    ----------
    form : Format or None
        That of a function.
    settings : Settings
        The store.

    Raises
    ------
    InvalidInputError
        ``daskcache.functions.pickle`` does not name the store.
    """
    if form is None or form.name != _PICKLE:
        return
    trusted = dask.config.get("daskcache.functions.pickle", None) or []
    names = [trusted] if isinstance(trusted, str) else list(trusted)
    here = stores.describe(settings.store)
    if here not in [stores.describe(settings.with_(store=name).store) for name in names]:
        raise InvalidInputError(
            f"format='pickle' runs whatever code lies in store {here}; name the store in the setting "
            "daskcache.functions.pickle if you trust all who can write to it"
        )


def _make(name: str, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> Format:
    def to_bytes(value: Any) -> Encoded:
        try:
            data = encode(value)
        except (
            Exception
        ) as error:  # (the user's code may raise anything, and the result is given all the same)
            raise UncacheableError(
                f"a value of type {type(value)} cannot be serialized: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(data, bytes | bytearray | memoryview | str):
            raise UncacheableError(f"the serializer gave {type(data)}; expected bytes")
        is_text = isinstance(data, str)
        return Encoded((data.encode() if isinstance(data, str) else bytes(data),), {"is_text": is_text})

    def from_bytes(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> Any:
        data = bytes(parts[0])
        try:
            return decode(data.decode() if attrs.get("is_text") else data)
        except (
            Exception
        ) as error:  # (the user's code may raise anything, and the result can be computed again)
            raise NotStoredError(
                f"what is stored in the format {name!r} cannot be read: {type(error).__name__}: {error}"
            ) from error

    return Format(name, "value", lambda value: True, to_bytes, from_bytes)


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"

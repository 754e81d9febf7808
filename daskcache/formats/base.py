"""What a format is: how a value that is no array becomes bytes, and a value again; and the formats there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from daskcache.errors import InvalidInputError, NotStoredError, UncacheableError

__all__ = ["Encoded", "Format", "add_format", "find_format", "get_format", "is_of_type", "register"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as it lies in a store."""

    parts: tuple[bytes, ...]
    """The contents of files, such as Parquet or JSON."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """What else it takes to read them: of the types that attributes may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """How values of some types are stored. Decoding runs no code out of what it is given."""

    name: str
    """Known in manifests by this name."""
    kind: Literal["table", "value"]
    """What the entry says that it is."""
    accepts: Callable[[Any], bool]
    """Whether a value is of its types. Imports nothing."""
    encode: Callable[[Any], Encoded]
    """Raises `UncacheableError` for what would not come back as it is."""
    decode: Callable[[Sequence[bytes], Mapping[str, Any]], Any]
    """Gives the value again."""
    is_asked_for: bool = False
    """Whether it is used only where it is named."""
    of_columns: Callable[[Any, Mapping[str, Any]], Any] | None = None
    """Of a table: gives the value of what Arrow reads of its one file."""


# In the order of their registration; the newest of the user's own is looked at first.
_FORMATS: dict[str, Format] = {}
_OWN: dict[str, Format] = {}


def add_format(form: Format) -> Format:
    """Make a format of this package known.

    Parameters
    ----------
    form : Format
        One that no other has the name of.

    Returns
    -------
    Format
        The same.
    """
    _FORMATS[form.name] = form
    return form


def register(
    kind: Any,
    *,
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    name: str | None = None,
) -> None:
    """Make known how values of a type of yours are stored.

    Parameters
    ----------
    kind : type
        The type, without its subclasses.
    encode : callable
        Makes bytes of a value.
    decode : callable
        Makes an equal value of the bytes. It must not run code out of them, as unpickling would.
    name : str, optional
        How manifests call the format; by default the type's module and name. Change it with the bytes' meaning.

    Raises
    ------
    InvalidInputError
        The name belongs to a format of this package, or an argument is of another kind.

    Notes
    -----
    A process that reads such a value has to have registered its format.

    Examples
    --------
    >>> from fractions import Fraction
    >>> register(Fraction, encode=lambda value: str(value).encode(), decode=lambda data: Fraction(data.decode()))
    >>> form = find_format(Fraction(1, 3))
    >>> form.name, form.decode(form.encode(Fraction(1, 3)).parts, {})
    ('fractions.Fraction', Fraction(1, 3))
    """
    if not isinstance(kind, type) or not all(map(callable, (encode, decode))):
        raise InvalidInputError(f"register({kind!r}, …): expected a type, and functions to encode and decode")
    name = name or f"{kind.__module__}.{kind.__qualname__}"
    if name in _FORMATS:
        raise InvalidInputError(f"{name!r} is a format of daskcache itself; give yours another name")

    def to_bytes(value: Any) -> Encoded:
        try:
            data = encode(value)
        except Exception as error:  # (the same; a result is given though it cannot be stored)
            raise UncacheableError(
                f"a value of type {type(value)} cannot be encoded: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UncacheableError(f"the format {name!r} gave {type(data)}; expected bytes")
        return Encoded((bytes(data),))

    def from_bytes(parts: Sequence[bytes], attrs: Mapping[str, Any]) -> Any:
        try:
            return decode(bytes(parts[0]))
        except (
            Exception
        ) as error:  # (the user's code may raise anything, and the result can be computed again)
            raise NotStoredError(
                f"what is stored in the format {name!r} cannot be read: {type(error).__name__}: {error}"
            ) from error

    _OWN.pop(name, None)
    _OWN[name] = Format(name, "value", lambda value: type(value) is kind, to_bytes, from_bytes)


def find_format(value: Any, name: str | None = None) -> Format:
    """Find the format for a value.

    Parameters
    ----------
    value : object
        Anything.
    name : str, optional
        The format that is asked for.

    Returns
    -------
    Format
        One that takes the value.

    Raises
    ------
    UncacheableError
        No format takes it.
    InvalidInputError
        There is no format of that name.

    Examples
    --------
    >>> find_format({"a": 1}).name
    'json'
    """
    if name is not None:
        form = _known(name)
        if form is None:
            raise InvalidInputError(f"unknown format {name!r}; known are {sorted({*_OWN, *_FORMATS})}")
        if not form.accepts(value):
            raise UncacheableError(f"the format {name!r} does not take a value of type {_type_name(value)}")
        return form
    for form in (*reversed(_OWN.values()), *_FORMATS.values()):
        if not form.is_asked_for and form.accepts(value):
            return form
    raise UncacheableError(
        f"a value of type {_type_name(value)} has no format; return a Dataset, an array, a table, or plain values, "
        "register a format with daskcache.formats.register, or name a serializer"
    )


def get_format(name: str) -> Format:
    """Give the format that a manifest names.

    Parameters
    ----------
    name : str
        Its name.

    Returns
    -------
    Format
        The format.

    Raises
    ------
    NotStoredError
        This process does not know it.

    Examples
    --------
    >>> get_format("json").kind
    'value'
    """
    form = _known(name)
    if form is None:
        raise NotStoredError(
            f"it is stored in the format {name!r:.80}, which this process does not know; import what registers it "
            "with daskcache.formats.register"
        )
    return form


def is_of_type(value: Any, module: str, *names: str) -> bool:
    """Whether a value is exactly of a type of a library, which need not be imported.

    Parameters
    ----------
    value : object
        Anything.
    module : str
        The library.
    *names : str
        The types' names.

    Returns
    -------
    bool
        False for subclasses, which hold more than would come back.

    Examples
    --------
    >>> import pandas
    >>> is_of_type(pandas.Series(), "pandas", "DataFrame", "Series")
    True
    """
    kind = type(value)
    return str(kind.__module__).partition(".")[0] == module and kind.__qualname__ in names


def _known(name: str) -> Format | None:
    return _OWN.get(name, _FORMATS.get(name))


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"

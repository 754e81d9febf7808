"""What values are in memory and what they are in the store, where a dtype alone does not tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskcache.attributes import canonical_json, decode_attribute, encode_attribute
from daskcache.errors import MissingExtraError, UncacheableError

try:
    import cftime
except ImportError:
    cftime = None

__all__ = [
    "JSON",
    "Calendar",
    "cf_attributes",
    "dtype_of",
    "dtype_text",
    "from_stored",
    "kept_encoding",
    "stored_objects",
    "to_storable",
]

JSON = "json"
"""How objects are stored that no dtype holds exactly: each as a text."""

# Strings that take nothing but strings.
_STRICT = "T!"

EPOCH = "1970-01-01"

# CF knows no longer units that always have the same length, and no shorter ones.
_UNITS = {
    "ns": "nanoseconds",
    "us": "microseconds",
    "ms": "milliseconds",
    "s": "seconds",
    "m": "minutes",
    "h": "hours",
    "D": "days",
}


@dataclass(frozen=True, slots=True)
class Calendar:
    """The calendar of cftime dates, which are stored as int64 microseconds since 1970-01-01."""

    name: str
    """As CF and cftime call it."""
    has_year_zero: bool
    """Whether year 0 comes before year 1."""


def to_storable(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Calendar | None]:
    """Give in-memory values the form that can be encoded.

    Parameters
    ----------
    values : numpy.ndarray
        Any dtype; object arrays of whatever can be an attribute, or of cftime dates.

    Returns
    -------
    array : numpy.ndarray
        The values themselves, or of objects: texts as they are, int64 for cftime dates, the dtype that holds Python's
        own numbers or bytes of one kind exactly, else JSON.
    calendar : Calendar or None
        That of the dates.

    Raises
    ------
    UncacheableError
        An object array holds something else, or dates of several calendars.

    Examples
    --------
    >>> to_storable(np.array(["a", "bc"], "O"))
    (array(['a', 'bc'], dtype=object), None)
    >>> to_storable(np.array(["a", None], "O"))[0].tolist()
    ['"a"', 'null']
    """
    if values.dtype.kind != "O" or not values.size:
        return values, None
    items = values.ravel().tolist()
    if all(isinstance(item, str) for item in items):
        return values, None
    if cftime is not None and all(isinstance(item, cftime.datetime) for item in items):
        return _to_numbers(values, items)
    stored = _to_native(items)
    if stored is None:
        stored = _to_json(items)
    return stored.reshape(values.shape), None


def _to_numbers(values: np.ndarray[Any, Any], items: list[Any]) -> tuple[np.ndarray[Any, Any], Calendar]:
    calendars = {Calendar(item.calendar, bool(item.has_year_zero)) for item in items}
    if len(calendars) > 1:
        names = ", ".join(sorted(str(calendar.name) for calendar in calendars))
        raise UncacheableError(f"an array holds dates of several calendars ({names}); convert them to one")
    (calendar,) = calendars
    if not calendar.name:
        raise UncacheableError("an array holds dates without a calendar; give them one")
    numbers = cftime.date2num(values, f"microseconds since {EPOCH}", calendar.name, calendar.has_year_zero)
    return np.asarray(numbers).astype("<i8", casting="safe", copy=False), calendar


def _to_native(items: list[Any]) -> np.ndarray[Any, Any] | None:
    """Give Python's own numbers or bytes, all of one type, the dtype that holds them exactly, if there is one."""
    kinds = {type(item) for item in items}
    expected = {bool: "b", int: "iu", float: "f", complex: "c", bytes: "S"}.get(next(iter(kinds)), "")
    if len(kinds) > 1 or not expected:
        return None
    try:
        native = np.array(items)
    except OverflowError:
        return None
    # Numpy drops the zeros that end bytes.
    is_exact = native.dtype.kind in expected and (expected != "S" or native.tolist() == items)
    return native if is_exact and native.dtype.itemsize else None


def _to_json(items: list[Any]) -> np.ndarray[Any, Any]:
    try:
        texts = [canonical_json(encode_attribute(item)).decode("ascii") for item in items]
    except UncacheableError as error:
        # Types, not values: those may be secrets, or long.
        found = sorted({type(item).__name__ for item in items})
        raise UncacheableError(
            f"an object array holds {', '.join(found)}, and {error.message}; "
            "or convert the array to one dtype first, such as with astype(str)"
        ) from None
    return np.array(texts, "T")


def stored_objects(
    dtype: np.dtype[Any], stored: np.ndarray[Any, Any], calendar: Calendar | None
) -> str | None:
    """Tell what `to_storable` made of an object array.

    Parameters
    ----------
    dtype : numpy.dtype
        What it was given.
    stored : numpy.ndarray
        What it gave.
    calendar : Calendar or None
        That of dates.

    Returns
    -------
    str or None
        `JSON`, or numpy's text of a dtype; None for texts, for dates, and for what is no object.

    Examples
    --------
    >>> stored_objects(np.dtype("O"), np.array([1, 2]), None)
    '<i8'
    """
    if dtype.kind != "O" or stored.dtype.kind == "O" or calendar is not None:
        return None
    return JSON if stored.dtype.kind == "T" else stored.dtype.str


def from_stored(
    values: np.ndarray[Any, Any],
    dtype: np.dtype[Any],
    calendar: Calendar | None,
    objects: str | None = None,
) -> np.ndarray[Any, Any]:
    """Give back what `to_storable` was given.

    Parameters
    ----------
    values : numpy.ndarray
        As decoded.
    dtype : numpy.dtype
        The dtype in memory.
    calendar : Calendar or None
        That of cftime dates.
    objects : str, optional
        What `stored_objects` gave.

    Returns
    -------
    numpy.ndarray
        Values of `dtype`.

    Raises
    ------
    MissingExtraError
        They are dates, and cftime is not installed.

    Examples
    --------
    >>> from_stored(np.array([86400000000]), np.dtype("O"), Calendar("noleap", True))
    array([cftime.DatetimeNoLeap(1970, 1, 2, 0, 0, 0, 0, has_year_zero=True)], dtype=object)
    """
    if objects == JSON:
        result = np.empty(values.size, "O")
        for i, text in enumerate(values.ravel().tolist()):
            result[i] = decode_attribute(json.loads(text))
        return result.reshape(values.shape)
    if calendar is None:
        return values if values.dtype == dtype else values.astype(dtype)
    if cftime is None:
        raise MissingExtraError("the variable holds cftime dates; install daskcache[netcdf] to read it")
    dates = cftime.num2date(
        values,
        f"microseconds since {EPOCH}",
        calendar.name,
        only_use_cftime_datetimes=True,
        has_year_zero=calendar.has_year_zero,
    )
    result = np.empty(values.shape, "O")
    result[...] = dates
    return result


def dtype_text(dtype: np.dtype[Any]) -> str:
    """Write a dtype as text.

    Parameters
    ----------
    dtype : numpy.dtype
        One that has a storage form, or object.

    Returns
    -------
    str
        What `dtype_of` reads.

    Examples
    --------
    >>> dtype_text(np.dtype(">f4")), dtype_text(np.dtypes.StringDType(coerce=False))
    ('>f4', 'T!')
    """
    if dtype.kind == "T" and dtype != np.dtype("T"):
        return _STRICT
    return dtype.char if dtype.kind in "OT" else dtype.str


def dtype_of(text: str) -> np.dtype[Any]:
    """Read a dtype from text.

    Parameters
    ----------
    text : str
        What `dtype_text` gave.

    Returns
    -------
    numpy.dtype
        An equal dtype.

    Examples
    --------
    >>> dtype_of("T!")
    StringDType(coerce=False)
    """
    return np.dtypes.StringDType(coerce=False) if text == _STRICT else np.dtype(text)


def cf_attributes(dtype: np.dtype[Any], calendar: Calendar | None) -> dict[str, Any]:
    """Tell CF readers what stored integers mean.

    Parameters
    ----------
    dtype : numpy.dtype
        The dtype in memory.
    calendar : Calendar or None
        That of cftime dates.

    Returns
    -------
    dict
        Attributes; none for dtypes that need none, and for units that CF does not have.

    Examples
    --------
    >>> cf_attributes(np.dtype("m8[s]"), None)
    {'units': 'seconds', 'dtype': 'timedelta64[s]', '_FillValue': -9223372036854775808}
    """
    if calendar is not None:
        return {"units": f"microseconds since {EPOCH}", "calendar": calendar.name}
    if dtype.kind not in "Mm":
        return {}
    unit, count = np.datetime_data(dtype)
    if unit not in _UNITS or count != 1:
        return {}
    not_a_time = int(np.iinfo("i8").min)
    if dtype.kind == "m":
        # Other resolutions than xarray's own it would refuse to restore from this attribute.
        restored = {"dtype": f"timedelta64[{unit}]"} if unit in ("s", "ms", "us", "ns") else {}
        return {"units": _UNITS[unit], **restored, "_FillValue": not_a_time}
    since = f"{_UNITS[unit]} since {EPOCH}"
    return {"units": since, "calendar": "proleptic_gregorian", "_FillValue": not_a_time}


def kept_encoding(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Choose what survives of an inherited encoding.

    Parameters
    ----------
    encoding : mapping
        xarray's, of a variable or a dataset.

    Returns
    -------
    dict
        Its ``units``, ``calendar``, ``coordinates`` and ``grid_mapping``, where they are texts (or None, by
        which xarray is told to write none); packing is dropped.

    Examples
    --------
    >>> kept_encoding({"units": "days since 2000-01-01", "scale_factor": 0.1})
    {'units': 'days since 2000-01-01'}
    """
    kept = ("units", "calendar", "coordinates", "grid_mapping")
    return {key: encoding[key] for key in kept if key in encoding and _is_text(encoding[key])}


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)

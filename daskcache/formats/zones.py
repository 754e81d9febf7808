"""Time zones of tables: of which library they are, which Arrow does not keep."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from daskcache.errors import MissingExtraError

__all__ = ["describe_zones", "in_zone"]


def describe_zones(frame: pd.DataFrame) -> dict[str, list[str | None]]:
    """Say which libraries' zones the columns and the index of a table are in.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.

    Returns
    -------
    dict
        For the ``columns`` and the levels of the ``index`` the library of each, None of what has no zone; empty where nothing
        has one.

    Examples
    --------
    >>> describe_zones(pd.DataFrame({"a": pd.date_range("2000", periods=2, tz="UTC")}))
    {'columns': ['datetime'], 'index': [None]}
    """
    levels = frame.index.levels if isinstance(frame.index, pd.MultiIndex) else [frame.index]
    found = {
        "columns": [_library_of(dtype) for dtype in frame.dtypes],
        "index": [_library_of(level.dtype) for level in levels],
    }
    return found if any(map(any, found.values())) else {}


def in_zone(values: Any, library: str | None) -> Any:
    """Give instants with the zone as a library makes it.

    Parameters
    ----------
    values : pandas.Series or pandas.Index
        Of any type.
    library : str or None
        As `describe_zones` says it; None for one of the standard library instead of pytz's, which Arrow gives up to its
        version 24 where pytz is installed, and for any other as it is.

    Returns
    -------
    pandas.Series or pandas.Index
        The same instants; the same object where nothing differs.

    Raises
    ------
    MissingExtraError
        The zone is of pytz, which is not installed.

    Examples
    --------
    >>> in_zone(pd.date_range("2000", periods=2, tz="UTC"), "zoneinfo").tz
    zoneinfo.ZoneInfo(key='UTC')
    """
    found = _library_of(values.dtype)
    if found is None or library == found or (library is None and found != "pytz"):
        return values
    zone = values.dtype.tz
    offset = zone.utcoffset(None)
    # pytz calls its names otherwise, and has none for offsets; UTC of datetime has no name.
    name = getattr(zone, "key", None) or getattr(zone, "zone", None) or (None if offset else "UTC")
    if library == "pytz":
        wanted = _of_pytz(name, offset)
    elif library == "datetime" or name is None:
        wanted = dt.timezone(offset)
    else:
        wanted = ZoneInfo(name)
    return (values.dt if isinstance(values, pd.Series) else values).tz_convert(wanted)


def _library_of(dtype: Any) -> str | None:
    zone = getattr(dtype, "tz", None)
    return None if zone is None else type(zone).__module__.partition(".")[0]


def _of_pytz(name: str | None, offset: dt.timedelta) -> Any:
    try:
        import pytz
    except ImportError as error:
        raise MissingExtraError("a table has time zones of pytz; pip install pytz") from error
    return pytz.FixedOffset(offset // dt.timedelta(minutes=1)) if name is None else pytz.timezone(name)

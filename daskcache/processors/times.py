"""Moments in time as people write them, and where they lie among labels of any kind."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from daskcache.errors import InvalidInputError
from daskcache.processors.axes import to_slice

__all__ = ["Moment", "Span", "fields_of", "is_temporal", "positions"]

Fields = tuple[int, ...]

_FIRST: Fields = (0, 1, 1, 0, 0, 0, 0)

_ISO = re.compile(
    r"(?P<year>\d{4}|[+-]\d{4,6})(?:-?(?P<month>\d\d)(?:-?(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?)?)?)?"
    r"\s*(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?\Z"
)
_MIDDLE, _LAST_YEAR = 1970, 9999

_NAMES = ("year", "month", "day", "hour", "minute", "second")


@dataclass(frozen=True, slots=True)
class Moment:
    """A place between labels: just before or just after some instant.

    Examples
    --------
    >>> Moment.parse("2000-02", "end")
    Moment(fields=(2000, 3, 1, 0, 0, 0, 0), is_after=False, is_utc=False)
    >>> Moment.parse(dt.datetime(2000, 2, 1), "end").is_after
    True
    """

    fields: Fields
    """Year, month, day, hour, minute, second, nanosecond. All but the month may be one more than there are, so that no
    calendar is needed to say where a day ends."""
    is_after: bool = False
    """Whether the instant itself lies before it."""
    is_utc: bool = False
    """Whether a time zone was given; else it is in that of the labels."""

    @classmethod
    def parse(cls, given: Any, side: Literal["start", "end"]) -> Moment | None:
        """Read a start or an end, each of which belongs to what it ends.

        Parameters
        ----------
        given : str, date, datetime, numpy.datetime64, pandas.Timestamp, pandas.Period, cftime.datetime or None
            A text, a date and a period are all of the time that they name, such as a month; others are instants.
        side : str
            ``"start"`` or ``"end"``.

        Returns
        -------
        Moment or None
            None for an open end.

        Raises
        ------
        InvalidInputError
            It is none of these.
        """
        if given is None:
            return None
        try:
            moment = _parse(given, side)
        except (ValueError, OverflowError, TypeError) as error:
            raise InvalidInputError(f"{given!r} is no time: {error}") from error
        if moment is None:
            raise InvalidInputError(
                f"{given!r} is no time; expected a text such as '2000', '2000-01' or '2000-01-31T06:00Z', a date, a "
                "datetime of Python's, numpy's, pandas' or cftime's, or None for an open end"
            )
        return moment

    @property
    def rank(self) -> Fields:
        """What moments of one zone are ordered by."""
        return (*self.fields, int(self.is_after))

    def to_timestamp(self, zone: Any) -> pd.Timestamp:
        """Give the instant in the terms of labels.

        Parameters
        ----------
        zone : tzinfo or None
            The labels' time zone. Labels without one are taken for UTC where the moment has one.

        Returns
        -------
        pandas.Timestamp
            With the zone, if there is one.
        """
        year, month, day, hour, minute, second, nanosecond = self.fields
        if not 1 <= year <= _LAST_YEAR:
            # As far as pandas goes.
            year = min(max(year, 1), _LAST_YEAR)
            month, day, hour, minute, second, nanosecond = (12, 31, 23, 59, 59, 0) if year > 1 else _FIRST[1:]
        time = pd.Timestamp(year=year, month=month, day=1)
        time += pd.Timedelta(days=day - 1) + pd.Timedelta(hours=hour, minutes=minute, seconds=second)
        if nanosecond:
            time += (
                pd.Timedelta(nanosecond, "ns")
                if nanosecond % 1000
                else pd.Timedelta(nanosecond // 1000, "us")
            )
        if zone is None:
            return time
        if self.is_utc:
            return time.tz_localize("UTC").tz_convert(zone)
        # Of an hour that comes twice, all of it; one that is left out begins when it would have ended.
        return time.tz_localize(zone, ambiguous=not self.is_after, nonexistent="shift_forward")

    def to_cftime(self, calendar: str) -> Any:
        """Give the instant in a calendar.

        Parameters
        ----------
        calendar : str
            One of cftime's.

        Returns
        -------
        cftime.datetime
            To the microsecond.
        """
        import cftime

        year, month, day, hour, minute, second, nanosecond = self.fields
        first = cftime.datetime(year, month, 1, calendar=calendar)
        return first + dt.timedelta(
            days=day - 1, hours=hour, minutes=minute, seconds=second, microseconds=nanosecond // 1000
        )


def _parse(given: Any, side: str) -> Moment | None:
    if isinstance(given, str):
        match = _ISO.match(given.strip())
        return None if match is None else _parse_text(match, side)
    if isinstance(given, pd.Period):
        time = given.start_time if side == "start" else (given + 1).start_time
        return Moment(_of_datetime(time))
    if isinstance(given, np.datetime64):
        given = pd.Timestamp(given)
    if given is pd.NaT:
        return None
    if isinstance(given, dt.datetime):
        is_utc = given.tzinfo is not None
        if is_utc:
            given = (
                given.astimezone(dt.UTC) if not isinstance(given, pd.Timestamp) else given.tz_convert("UTC")
            )
        return Moment(_of_datetime(given), side == "end", is_utc)
    if isinstance(given, dt.date):
        return Moment((given.year, given.month, given.day + (side == "end"), 0, 0, 0, 0))
    if type(given).__module__.partition(".")[0] == "cftime":
        return Moment(_of_datetime(given), side == "end")
    return None


def _parse_text(match: re.Match[str], side: str) -> Moment:
    found = [int(match[name]) for name in _NAMES if match[name] is not None]
    limits = (None, (1, 12), (1, 31), (0, 23), (0, 59), (0, 59))
    for value, limit, name in zip(found, limits, _NAMES, strict=False):
        if limit is not None and not limit[0] <= value <= limit[1]:
            raise ValueError(f"{value} is no {name}")
    fields = [*found, *_FIRST[len(found) :]]
    last = len(found) - 1
    step = 1
    if match["fraction"] is not None:
        last, step = 6, 10 ** (9 - len(match["fraction"]))
        fields[6] = int(match["fraction"]) * step
    if side == "end":
        fields[last] += step
        if fields[1] > 12:
            fields[0], fields[1] = fields[0] + 1, 1
    zone = match["zone"]
    if zone is None:
        return Moment(tuple(fields))
    time = Moment(tuple(fields)).to_timestamp(None).tz_localize("UTC")
    if zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        time -= sign * pd.Timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
    return Moment(_of_datetime(time), is_utc=True)


def _of_datetime(time: Any) -> Fields:
    nanosecond = time.microsecond * 1000 + getattr(time, "nanosecond", 0)
    return (time.year, time.month, time.day, time.hour, time.minute, time.second, nanosecond)


@dataclass(frozen=True, slots=True)
class Span:
    """What lies between two moments, either of which may be open.

    Examples
    --------
    >>> Span.parse("2000", "2001-06").covers(Span.parse("2000-05", "2001"), None)
    False
    """

    start: Moment | None = None
    """Where it begins; None: with the first label."""
    end: Moment | None = None
    """Where it ends; None: with the last label."""

    @classmethod
    def parse(cls, start: Any, end: Any) -> Span:
        """Read a start and an end, as `Moment.parse` does.

        Parameters
        ----------
        start, end : str, date, datetime, numpy.datetime64, pandas.Timestamp, cftime.datetime or None
            Both belong to it.

        Returns
        -------
        Span
            What lies between.

        Raises
        ------
        InvalidInputError
            One is no time, or the end comes before the start.
        """
        span = cls(Moment.parse(start, "start"), Moment.parse(end, "end"))
        first, last = span.start, span.end
        if first and last and first.is_utc == last.is_utc and last.rank <= first.rank:
            raise InvalidInputError(f"the time from {start!r} to {end!r} ends before it starts")
        return span

    def bounds(self, zone: Any) -> tuple[Fields | None, Fields | None]:
        """Give the ends as what they are ordered by, in the zone of labels.

        Parameters
        ----------
        zone : tzinfo or None
            The labels' time zone.

        Returns
        -------
        tuple of tuple of int or None
            Start and end; None where open.
        """

        def rank(moment: Moment | None) -> Fields | None:
            if moment is None or zone is None:
                return None if moment is None else moment.rank
            return (*_of_datetime(moment.to_timestamp(zone).tz_convert("UTC")), int(moment.is_after))

        return rank(self.start), rank(self.end)

    def covers(self, other: Span, zone: Any) -> bool:
        """Tell whether another span lies in this one.

        Parameters
        ----------
        other : Span
            The other.
        zone : tzinfo or None
            The labels' time zone.

        Returns
        -------
        bool
            True for equal ones.
        """
        return is_within(other.bounds(zone), self.bounds(zone))


def is_within(inner: tuple[Fields | None, Fields | None], outer: tuple[Fields | None, Fields | None]) -> bool:
    """Tell whether bounds lie in others.

    Parameters
    ----------
    inner, outer : tuple of tuple of int or None
        What `Span.bounds` gave.

    Returns
    -------
    bool
        True for equal ones.
    """
    starts = outer[0] is None or (inner[0] is not None and outer[0] <= inner[0])
    return starts and (outer[1] is None or (inner[1] is not None and inner[1] <= outer[1]))


def is_temporal(index: pd.Index[Any]) -> bool:
    """Tell whether labels are times.

    Parameters
    ----------
    index : pandas.Index
        The labels.

    Returns
    -------
    bool
        True for pandas' datetimes and periods, and for cftime's.
    """
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        return True
    return (
        index.dtype == object and len(index) > 0 and type(index[0]).__module__.partition(".")[0] == "cftime"
    )


def fields_of(label: Any) -> Fields:
    """Give the fields of a label, in UTC where it has a time zone.

    Parameters
    ----------
    label : datetime
        One of the labels.

    Returns
    -------
    tuple of int
        As `Moment` has them.
    """
    if isinstance(label, pd.Period):
        label = label.start_time
    if getattr(label, "tzinfo", None) is not None:
        label = label.tz_convert("UTC")
    return _of_datetime(label)


def positions(index: pd.Index[Any], span: Span) -> slice | np.ndarray[Any, Any]:
    """Find the labels that lie in a span.

    Parameters
    ----------
    index : pandas.Index
        Times, in any order.
    span : Span
        What is asked.

    Returns
    -------
    slice or numpy.ndarray
        A slice where they are neighbours, else their positions, shape (n,).
    """
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    count = len(index)
    if count == 0:
        return slice(0, 0)
    start = None if span.start is None else _locate(index, span.start)
    end = None if span.end is None else _locate(index, span.end)
    if index.is_monotonic_increasing:
        low = 0 if start is None else int(index.searchsorted(*start))
        high = count if end is None else int(index.searchsorted(*end))
        return slice(low, max(low, high))
    if index.is_monotonic_decreasing:
        turned = index[::-1]
        high = count - (0 if start is None else int(turned.searchsorted(*start)))
        low = count - (count if end is None else int(turned.searchsorted(*end)))
        return slice(low, max(low, high))
    chosen: Any = index.notna()
    if start is not None:
        chosen &= index >= start[0] if start[1] == "left" else index > start[0]
    if end is not None:
        chosen &= index < end[0] if end[1] == "left" else index <= end[0]
    return to_slice(np.flatnonzero(chosen))


def _locate(index: pd.Index[Any], moment: Moment) -> tuple[Any, Literal["left", "right"]]:
    """Give the label beside a moment, and on which side of it the moment is."""
    if not isinstance(index, pd.DatetimeIndex):
        return moment.to_cftime(index[0].calendar), "right" if moment.is_after else "left"
    time = moment.to_timestamp(index.tz)
    unit = index.unit
    floored = time.floor(unit) if time.unit != unit else time
    is_after = moment.is_after or floored != time
    try:
        return floored.as_unit(unit), "right" if is_after else "left"
    except pd.errors.OutOfBoundsDatetime:
        # Before or after all labels that there can be.
        limit, is_late = (pd.Timestamp.max, True) if time.year > _MIDDLE else (pd.Timestamp.min, False)
        limit = limit.as_unit(unit)
        return limit if index.tz is None else limit.tz_localize("UTC"), "right" if is_late else "left"

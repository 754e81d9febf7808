"""Results along time: start and end are no part of what is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import xarray as xr

from daskcache.chunks import Access, Hints
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import version
from daskcache.formats.contents import Wanted
from daskcache.processors.axes import align, column_of, kind_of, map_datasets, refuse, take_rows
from daskcache.processors.base import Arguments, Processor
from daskcache.processors.times import Span, fields_of, is_temporal, is_within, positions

__all__ = ["Timeseries", "timeseries"]

Require = Literal["any", "none"]


@version("1")
@dataclass(frozen=True, slots=True)
class Timeseries(Processor):
    """Clips results in time; made by `timeseries`."""

    timeseries: tuple[str, ...]
    """Coordinates or columns that hold times; the first of them that a result has is taken."""
    start: str = "start_time"
    """The argument that says where to begin."""
    end: str = "end_time"
    """The argument that says where to end."""
    require: Require = "any"
    """Whether there must be data between them."""
    access: Any = None
    """How results will be read, as `daskcache.Hints` takes it; None: long in time at a point."""

    @property
    def counted(self) -> Any:
        """All but how results will be read."""
        return replace(self, access=None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The two arguments.

        Returns
        -------
        tuple of str
            Start and end.
        """
        return self.start, self.end

    def bind(self, signature: inspect.Signature, arguments: Arguments) -> tuple[Arguments, Arguments, Span]:
        """Take start and end out of the key; the function is handed them as they were given."""
        span = Span.parse(arguments.get(self.start), arguments.get(self.end))
        key = {name: value for name, value in arguments.items() if name not in self.parameters}
        return arguments, key, span

    def trim(self, result: Any, state: Span) -> Any:
        """Leave away blocks of dask arrays that lie outside the span."""

        def cut(dataset: xr.Dataset, indexers: Mapping[str, Any]) -> xr.Dataset:
            return dataset.isel(align(dataset, indexers))

        return self._select(result, state, cut) if kind_of(result) == "xarray" else result

    def coverage(self, result: Any, state: Span) -> Any:
        """Say from when to when: what was asked, and what came beyond that."""
        zones = set()
        start, end = state.bounds(None)
        bounds = None
        for labels in self._all_labels(result):
            zone = getattr(labels, "tz", None)
            zones.add(None if zone is None else str(zone))
            if zone is not None:
                start, end = state.bounds(zone)
            valid = labels.dropna()
            if len(valid):
                first, last = (*fields_of(valid.min()), 0), (*fields_of(valid.max()), 1)
                bounds = (first, last) if bounds is None else (max(bounds[0], first), min(bounds[1], last))
        if bounds is not None and len(zones) == 1:
            start = None if start is None else min(start, bounds[0])
            end = None if end is None else max(end, bounds[1])
        # Of several zones nothing is the same moment.
        zone = zones.pop() if len(zones) == 1 else None
        return {"start": start and list(start), "end": end and list(end), "zone": zone}

    def covers(self, coverage: Any, state: Span) -> bool:
        """Tell whether the span lies in what is stored."""
        if coverage is None:
            return True
        stored = tuple(None if coverage[name] is None else tuple(coverage[name]) for name in ("start", "end"))
        return is_within(state.bounds(coverage["zone"]), (stored[0], stored[1]))

    def validate(self, result: Any, state: Span) -> str | None:
        """Look whether there are data in the span."""
        if self.require == "none" or (state.start is None and state.end is None):
            return None
        held = []
        found = self._all_labels(result)
        for labels in found:
            rows = positions(labels, state)
            if (rows.stop - rows.start if isinstance(rows, slice) else len(rows)) > 0:
                return None
            if len(labels):
                held.append(f"{labels.min()} to {labels.max()}")
        if not found:
            # Nothing that could be looked at.
            return None
        where = ", ".join(sorted(set(held))) or "no time at all"
        return f"there are no data in the time asked for, {_describe(state)}; there are data from {where}"

    def process(self, result: Any, state: Span) -> Any:
        """Clip the result."""
        if state.start is None and state.end is None:
            return result
        match kind_of(result):
            case "none":
                return None
            case "xarray":
                return self._select(result, state, lambda dataset, indexers: dataset.isel(indexers))
            case "pandas" | "arrow":
                return take_rows(result, positions(self._labels_of_frame(result), state))
            case "dask":
                return _clip_dask(result, self._name_in_dask(result), state)
            case "polars":
                return _clip_polars(result, self._name_among(result.collect_schema().names(), result), state)
        raise refuse(result, f"coordinate {' or '.join(map(repr, self.timeseries))}")

    def wanted(self, state: Span) -> tuple[Wanted, ...]:
        """Give the rows between start and end."""

        def bounds(zone: Any) -> tuple[Any, Any]:
            ends = state.start, state.end
            start, end = (None if one is None else one.to_timestamp(zone) for one in ends)
            return start, end

        return (Wanted(self.timeseries, bounds),)

    def hints(self, state: Span | None = None) -> Hints | None:
        """Say that the result is read along time."""
        if self.access is not None:
            return Hints.of(self.access)
        return Hints(access=[Access(name) for name in self.timeseries])

    def _all_labels(self, result: Any) -> list[pd.Index[Any]]:
        kind = kind_of(result)
        if kind in ("pandas", "arrow"):
            return [self._labels_of_frame(result)]
        found: list[pd.Index[Any]] = []
        if kind == "xarray":

            def note(dataset: xr.Dataset) -> xr.Dataset:
                coordinate = self._coordinate(dataset)
                if coordinate is not None:
                    found.append(_labels(coordinate))
                return dataset

            map_datasets(result, note)
        return found

    def _select(
        self, result: Any, span: Span, take: Callable[[xr.Dataset, Mapping[str, Any]], xr.Dataset]
    ) -> Any:
        seen = []

        def clip(dataset: xr.Dataset) -> xr.Dataset:
            coordinate = self._coordinate(dataset)
            if coordinate is None:
                return dataset
            seen.append(coordinate)
            if not coordinate.ndim:
                return dataset
            return take(dataset, {str(coordinate.dims[0]): positions(_labels(coordinate), span)})

        clipped = map_datasets(result, clip)
        if not seen:
            raise refuse(result, f"coordinate {' or '.join(map(repr, self.timeseries))}")
        return clipped

    def _coordinate(self, dataset: xr.Dataset) -> xr.DataArray | None:
        for name in self.timeseries:
            if name in dataset.coords and dataset.coords[name].ndim <= 1:
                return dataset.coords[name]
        return None

    def _labels_of_frame(self, frame: Any) -> pd.Index[Any]:
        for name in self.timeseries:
            labels = column_of(frame, name)
            if labels is not None:
                return _checked(labels, name)
        if isinstance(getattr(frame, "index", None), pd.DatetimeIndex | pd.PeriodIndex):
            index: pd.Index[Any] = frame.index
            return index
        raise refuse(frame, f"column or index {' or '.join(map(repr, self.timeseries))}")

    def _name_in_dask(self, frame: Any) -> str | None:
        columns = getattr(frame, "columns", ())
        for name in self.timeseries:
            if name in columns:
                return name
        index = frame._meta.index
        if index.name in self.timeseries or isinstance(index, pd.DatetimeIndex):
            return None
        return self._name_among(columns, frame)

    def _name_among(self, names: Any, frame: Any) -> str:
        for name in self.timeseries:
            if name in names:
                return name
        raise refuse(frame, f"column {' or '.join(map(repr, self.timeseries))}")


def timeseries(
    timeseries: str | list[str] | tuple[str, ...] = "time",
    *,
    start: str = "start_time",
    end: str = "end_time",
    require: Require = "any",
    hints: Any = None,
) -> Timeseries:
    """Clip a function's results in time, and leave start and end out of what they are stored under.

    Parameters
    ----------
    timeseries : str or sequence of str
        The coordinate, column or index that holds times; of several, the first that a result has.
    start, end : str, optional
        Names of the arguments. Either may be open, which is None. A function that does not have them gets them.
    require : str, optional
        ``"any"``: it is an error if there are no data in between; ``"none"``: nothing is looked at.
    hints : optional
        How results will be read, as `daskcache.Hints` takes it; by default, long in time at a point.

    Returns
    -------
    Timeseries
        A decorator.

    Raises
    ------
    InvalidInputError
        `require` is none of these, or no name is given.

    Notes
    -----
    The function promises that a shorter span gives what a longer one gives, clipped. If its results are lazy, the
    blocks that are stored already are not computed again, whatever was asked before; it is then best if the function
    leaves clipping to this, because a block that is cut is another block.

    Examples
    --------
    >>> @timeseries("time")
    ... def days(start_time=None, end_time=None):
    ...     return xr.DataArray(range(366), {"time": pd.date_range("2000", periods=366)}, "time")
    >>> days("2000-02", "2000-02").values[[0, -1]]
    array([31, 59])
    """
    names = (timeseries,) if isinstance(timeseries, str) else tuple(timeseries)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"timeseries is {timeseries!r}; expected the name of a coordinate or column")
    if require not in ("any", "none"):
        raise InvalidInputError(f"require is {require!r}; expected 'any' or 'none'")
    return Timeseries(names, start, end, require, hints if hints is None else Hints.of(hints))


def _labels(coordinate: xr.DataArray) -> pd.Index[Any]:
    if coordinate.ndim and coordinate.name in coordinate.xindexes:
        index = coordinate.to_index()
        if index.nlevels == 1:
            return _checked(index, str(coordinate.name))
    return _checked(pd.Index(coordinate.values.reshape(-1)), str(coordinate.name))


def _checked(labels: pd.Index[Any], name: str) -> pd.Index[Any]:
    if len(labels) and not is_temporal(labels):
        if labels.dtype == object or isinstance(labels.dtype, pd.StringDtype):
            raise InvalidInputError(f"{name!r} holds {type(labels[0]).__name__}, not times; convert it first")
        raise InvalidInputError(f"{name!r} holds {labels.dtype}, not times; convert it first")
    return labels


def _clip_dask(frame: Any, column: str | None, span: Span) -> Any:
    labels = frame._meta.index if column is None else pd.Index(frame._meta[column])
    zone = getattr(labels, "tz", None)
    if column is None and frame.known_divisions:
        # Of partitions outside nothing is read. Both ends belong to `loc`.
        low = None if span.start is None else span.start.to_timestamp(zone)
        high = None if span.end is None else span.end.to_timestamp(zone)
        if high is not None and span.end is not None and not span.end.is_after:
            high -= pd.Timedelta(1, "ns")
        return frame.loc[low:high]
    values = frame.index.to_series() if column is None else frame[column]
    if span.start is not None:
        frame = frame[_is_from(values, span.start.to_timestamp(zone), span.start.is_after)]
        values = frame.index.to_series() if column is None else frame[column]
    if span.end is not None:
        frame = frame[~_is_from(values, span.end.to_timestamp(zone), span.end.is_after)]
    return frame


def _is_from(values: Any, time: Any, is_after: bool) -> Any:
    return values > time if is_after else values >= time


def _clip_polars(frame: Any, column: str, span: Span) -> Any:
    import polars as pl

    zone = getattr(frame.collect_schema()[column], "time_zone", None)
    values = pl.col(column)
    for moment, is_start in ((span.start, True), (span.end, False)):
        if moment is not None:
            time = pl.lit(moment.to_timestamp(zone).to_pydatetime())
            inside = _is_from(values, time, moment.is_after)
            frame = frame.filter(inside if is_start else ~inside)
    return frame


def _describe(span: Span) -> str:
    def text(moment: Any) -> str:
        if moment is None:
            return "open"
        year, month, day, hour, minute, second, nanosecond = moment.fields
        exact = f"{year:04d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}"
        return exact + (f".{nanosecond:09d}" if nanosecond else "") + (" UTC" if moment.is_utc else "")

    return f"from {text(span.start)} to {text(span.end)}"

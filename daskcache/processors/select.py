"""Selecting along anything: what is selected is no part of what is computed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskcache.chunks import Hints
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import version
from daskcache.formats.contents import Wanted
from daskcache.processors.axes import align, column_of, kind_of, map_datasets, refuse, take_rows, to_slice
from daskcache.processors.base import Arguments, Processor

__all__ = ["Select", "select"]


@version("1")
@dataclass(frozen=True, slots=True)
class Select(Processor):
    """Selects along dimensions by label; made by `select`."""

    dims: tuple[tuple[str, str], ...]
    """Arguments and the dimensions, coordinates or columns that they select along."""
    method: str | None = None
    """How labels are found that are not there, as xarray's ``sel`` takes it."""
    tolerance: float | None = None
    """How far off they may be."""
    access: Any = None
    """How results will be read, as `daskcache.Hints` takes it; None: one label at a time, and all along the others."""

    @property
    def counted(self) -> Any:
        """All but how results will be read."""
        return replace(self, access=None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The arguments.

        Returns
        -------
        tuple of str
            In their order.
        """
        return tuple(name for name, _ in self.dims)

    def bind(
        self, signature: inspect.Signature, arguments: Arguments
    ) -> tuple[Arguments, Arguments, dict[str, Any]]:
        """Take what selects out of the key; the function is handed it as it was given."""
        key = {name: value for name, value in arguments.items() if name not in self.parameters}
        asked = {dim: arguments.get(name) for name, dim in self.dims}
        asked = {dim: value for dim, value in asked.items() if not _is_all(value)}
        return arguments, key, asked

    def trim(self, result: Any, state: Mapping[str, Any]) -> Any:
        """Leave away blocks of dask arrays of which nothing is asked."""
        if kind_of(result) != "xarray" or self.validate(result, state) is not None:
            return result
        return map_datasets(
            result, lambda dataset: dataset.isel(align(dataset, self._positions(dataset, state)))
        )

    def coverage(self, result: Any, state: Mapping[str, Any]) -> Any:
        """Say what was asked; None where nothing was, so that all is there."""
        return {dim: _to_json(value) for dim, value in state.items()} or None

    def covers(self, coverage: Any, state: Mapping[str, Any]) -> bool:
        """Tell whether each dimension was asked for whole, or for the same labels or more."""
        return all(
            dim in state and _covers(stored, _to_json(state[dim])) for dim, stored in (coverage or {}).items()
        )

    def validate(self, result: Any, state: Mapping[str, Any]) -> str | None:
        """Look whether all labels are there."""
        if not state or kind_of(result) not in ("xarray", "pandas", "arrow"):
            return None
        found: set[str] = set()
        problems: list[str] = []

        def look(dataset: xr.Dataset) -> xr.Dataset:
            found.update(dim for dim in state if dim in dataset.coords)
            try:
                self._positions(dataset, state)
            except KeyError as error:
                problems.append(f"a label that is asked for is not there: {error.args[0]}")
            return dataset

        if kind_of(result) == "xarray":
            map_datasets(result, look)
        else:
            for dim, value in state.items():
                labels = column_of(result, dim)
                if labels is not None:
                    found.add(dim)
                    if not _rows(labels, value).any():
                        problems.append(f"no row has {dim} {value!r}")
        missing = [dim for dim in state if dim not in found]
        if missing:
            raise refuse(result, f"coordinate or column {' or '.join(map(repr, missing))}")
        return problems[0] if problems else None

    def process(self, result: Any, state: Mapping[str, Any]) -> Any:
        """Select from the result."""
        kind = kind_of(result)
        if not state or kind == "none":
            return result
        if kind == "xarray":
            return map_datasets(result, lambda dataset: dataset.isel(self._positions(dataset, state)))
        if kind in ("pandas", "arrow"):
            for dim, value in state.items():
                labels = column_of(result, dim)
                if labels is None:
                    raise refuse(result, f"column or index {dim!r}")
                result = take_rows(result, to_slice(np.flatnonzero(_rows(labels, value))))
            return result
        if kind == "dask":
            for dim, value in state.items():
                if dim not in result.columns:
                    raise refuse(result, f"column {dim!r}")
                result = result[_matches(result[dim], value)]
            return result
        if kind == "polars":
            import polars as pl

            for dim, value in state.items():
                result = result.filter(_matches(pl.col(dim), value))
            return result
        raise refuse(result, f"coordinate {' or '.join(map(repr, state))}")

    def wanted(self, state: Mapping[str, Any]) -> tuple[Wanted, ...] | None:
        """Give the rows with the labels that are asked for."""
        found = []
        for dim, value in state.items():
            if isinstance(value, slice):
                found.append(Wanted((dim,), partial(_ends, value)))
            else:
                is_one = not isinstance(value, list | tuple | set | frozenset | np.ndarray | pd.Index)
                found.append(Wanted((dim,), values=(value,) if is_one else tuple(value)))
        return tuple(found)

    def hints(self, state: Mapping[str, Any] | None = None) -> Hints | None:
        """Say how the result is read, where that was said."""
        return Hints.of(self.access)

    def _positions(self, dataset: xr.Dataset, state: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in state.items():
            if name not in dataset.coords or not dataset.coords[name].ndim:
                continue
            coordinate = dataset.coords[name]
            (dim,) = coordinate.dims
            numbers = xr.DataArray(
                np.arange(coordinate.size), {name: (name, coordinate.values)}, dims=name, name="number"
            )
            if isinstance(value, tuple | set | frozenset) and coordinate.to_index().nlevels == 1:
                value = list(value)
            options: dict[str, Any] = {}
            if not isinstance(value, slice):
                options = {"method": self.method, "tolerance": self.tolerance}
            chosen = np.asarray(numbers.sel({name: value}, **options))
            found[str(dim)] = int(chosen) if not chosen.ndim else to_slice(chosen)
        return found


def select(
    *names: str, method: str | None = None, tolerance: float | None = None, hints: Any = None, **dims: str
) -> Select:
    """Select from a function's results by label, and leave what is selected out of what they are stored under.

    Parameters
    ----------
    *names : str
        Arguments that are called as the dimensions that they select along. A function that does not have them gets
        them.
    method : str, optional
        How labels are found that are not there, such as ``"nearest"``; for xarray objects.
    tolerance : float, optional
        How far off they may be.
    hints : optional
        How results will be read, as `daskcache.Hints` takes it.
    **dims : str
        Dimensions, coordinates or columns by the arguments that select along them.

    Returns
    -------
    Select
        A decorator. An argument is a label, a slice, a list of labels, or None for all.

    Raises
    ------
    InvalidInputError
        No argument is named.

    Examples
    --------
    >>> @select("level", where="station")
    ... def wind():
    ...     return xr.DataArray([[1, 2], [3, 4]], {"level": [850, 500], "station": ["a", "b"]}, ("level", "station"))
    >>> wind(level=500).values, int(wind(level=850, where="b"))
    (array([3, 4]), 2)
    """
    pairs = (*((name, name) for name in names), *dims.items())
    if not pairs or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise InvalidInputError(f"select is given {pairs!r}; expected names of arguments and dimensions")
    return Select(pairs, method, tolerance, hints if hints is None else Hints.of(hints))


def _ends(value: slice, zone: Any) -> tuple[Any, Any]:
    return value.start, value.stop


def _is_all(value: Any) -> bool:
    return value is None or (isinstance(value, slice) and value == slice(None))


def _rows(labels: pd.Index[Any], value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(_matches(labels.to_series(), value))


def _matches(values: Any, value: Any) -> Any:
    if isinstance(value, slice):
        # As xarray and pandas have it, both ends belong to it.
        from_start = None if value.start is None else values >= value.start
        to_stop = None if value.stop is None else values <= value.stop
        return to_stop if from_start is None else from_start if to_stop is None else from_start & to_stop
    if isinstance(value, list | tuple | set | frozenset | np.ndarray | pd.Index):
        wanted = list(value)
        return values.isin(wanted) if hasattr(values, "isin") else values.is_in(wanted)
    return values == value


def _to_json(value: Any) -> Any:
    if isinstance(value, slice):
        return {"slice": [_to_json(value.start), _to_json(value.stop), _to_json(value.step)]}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray | pd.Index):
        return [_to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return (
        value
        if isinstance(value, str | int | float | bool | None)
        else f"{type(value).__qualname__} {value!r}"
    )


def _covers(stored: Any, asked: Any) -> bool:
    if stored == asked:
        return True
    return isinstance(stored, list) and all(
        item in stored for item in (asked if isinstance(asked, list) else [asked])
    )

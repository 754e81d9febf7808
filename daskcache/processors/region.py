"""Results in space: a box or a polygon is no part of what is computed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from daskcache.chunks import Access, Hints
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import version
from daskcache.formats.contents import Wanted
from daskcache.processors.areas import Area
from daskcache.processors.axes import align, column_of, kind_of, map_datasets, refuse, take_rows, to_slice
from daskcache.processors.base import Arguments, Processor

__all__ = ["Region", "region"]


@version("1")
@dataclass(frozen=True, slots=True)
class Region(Processor):
    """Crops results in space; made by `region`."""

    argument: str = "region"
    """The argument that says where."""
    lat: tuple[str, ...] = ("lat", "latitude")
    """Coordinates or columns that hold latitudes; the first of them that a result has is taken."""
    lon: tuple[str, ...] = ("lon", "longitude")
    """Those that hold longitudes."""
    access: Any = None
    """How results will be read, as `daskcache.Hints` takes it; None: a tenth of each block's latitudes and longitudes,
    and all along the first other dimension."""

    @property
    def counted(self) -> Any:
        """All but how results will be read."""
        return replace(self, access=None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The argument.

        Returns
        -------
        tuple of str
            One name.
        """
        return (self.argument,)

    def bind(
        self, signature: inspect.Signature, arguments: Arguments
    ) -> tuple[Arguments, Arguments, Area | None]:
        """Take the region out of the key; the function is handed it as it was given."""
        area = Area.parse(arguments.get(self.argument), self.lat[0], self.lon[0])
        key = {name: value for name, value in arguments.items() if name != self.argument}
        return arguments, key, area

    def trim(self, result: Any, state: Area | None) -> Any:
        """Leave away blocks of dask arrays that lie outside of the box."""
        if state is None or kind_of(result) != "xarray":
            return result
        return map_datasets(result, lambda ds: ds.isel(align(ds, self._positions(ds, state))))

    def coverage(self, result: Any, state: Area | None) -> Any:
        """Say which box was asked for."""
        return (
            None
            if state is None
            else [state.west, state.south, state.width, state.north, state.shape is None]
        )

    def covers(self, coverage: Any, state: Area | None) -> bool:
        """Tell whether the region lies in the box that is stored."""
        if coverage is None:
            return True
        *box, is_box = coverage
        # A function may have left away what is not in its polygon.
        return is_box and state is not None and Area(*box).covers(state)

    def validate(self, result: Any, state: Area | None) -> str | None:
        """Look whether there is anything in the region."""
        if state is None:
            return None
        counts: list[int] = []
        kind = kind_of(result)
        if kind == "xarray":

            def count(dataset: xr.Dataset) -> xr.Dataset:
                places = self._places(dataset)
                if places is not None:
                    lat, lon = (place.values for place in places)
                    both = (
                        (lat[:, None], lon[None, :])
                        if lat.ndim == lon.ndim == 1 and self._is_grid(places)
                        else (lat, lon)
                    )
                    counts.append(int(state.holds(*both).sum()))
                return dataset

            map_datasets(result, count)
        elif kind in ("pandas", "arrow"):
            counts.append(int(self._rows(result, state).sum()))
        if counts and not any(counts):
            return (
                f"there are no data in the region asked for, from {state.west} degrees east over {state.width} degrees "
                f"and from {state.south} to {state.north} degrees north"
            )
        return None

    def process(self, result: Any, state: Area | None) -> Any:
        """Crop the result; of polygons, what is in the box but not inside is missing."""
        if state is None or result is None:
            return result
        kind = kind_of(result)
        if kind == "xarray":
            seen: list[bool] = []

            def crop(dataset: xr.Dataset) -> xr.Dataset:
                places = self._places(dataset)
                if places is None:
                    return dataset
                seen.append(True)
                cropped = dataset.isel(self._positions(dataset, state))
                if state.shape is None and self._is_grid(places):
                    return cropped
                return self._mask(cropped, state)

            cropped = map_datasets(result, crop)
            if not seen:
                raise refuse(result, f"coordinates {self.lat[0]!r} and {self.lon[0]!r}")
            return cropped
        if kind in ("pandas", "arrow"):
            return take_rows(result, to_slice(np.flatnonzero(self._rows(result, state))))
        if kind == "dask":
            return result.map_partitions(_crop_partition, self, state, meta=result._meta)
        if kind == "polars":
            import polars as pl

            lat, lon = (_first(names, result.collect_schema().names()) for names in (self.lat, self.lon))
            if lat is None or lon is None:
                raise refuse(result, f"columns {self.lat[0]!r} and {self.lon[0]!r}")
            points = pl.struct(
                pl.col(lat).cast(pl.Float64).alias("y"), pl.col(lon).cast(pl.Float64).alias("x")
            )

            def inside(batch: Any) -> Any:
                held = state.holds(batch.struct.field("y").to_numpy(), batch.struct.field("x").to_numpy())
                return pl.Series(held)

            return result.filter(points.map_batches(inside, return_dtype=pl.Boolean))
        raise refuse(result, f"coordinates {self.lat[0]!r} and {self.lon[0]!r}")

    def wanted(self, state: Area | None) -> tuple[Wanted, ...]:
        """Leave it to others which rows of a table are read: regions are no ranges of a column."""
        return ()

    def hints(self, state: Area | None = None) -> Hints | None:
        """Say that the result is read in boxes."""
        if self.access is not None:
            return Hints.of(self.access)
        names = dict.fromkeys((*self.lat, *self.lon), 0.1)
        return Hints(access=[Access({**names, "time": None})])

    def _places(self, dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray] | None:
        lat, lon = (_first(names, dataset.coords) for names in (self.lat, self.lon))
        if lat is None or lon is None:
            return None
        return dataset.coords[lat], dataset.coords[lon]

    @staticmethod
    def _is_grid(places: tuple[xr.DataArray, xr.DataArray]) -> bool:
        lat, lon = places
        return lat.ndim <= 1 and lon.ndim <= 1 and not set(lat.dims) & set(lon.dims)

    def _positions(self, dataset: xr.Dataset, area: Area) -> dict[str, Any]:
        places = self._places(dataset)
        if places is None:
            return {}
        lat, lon = places
        found: dict[str, Any] = {}
        if self._is_grid(places):
            if lat.ndim:
                found[str(lat.dims[0])] = to_slice(np.flatnonzero(area.holds_latitudes(lat.values)))
            if lon.ndim:
                found[str(lon.dims[0])] = area.order(lon.values)
            return found
        # Of a curvilinear grid or of stations, the smallest box of positions.
        lat, lon = xr.broadcast(lat, lon)
        inside = area.holds(lat.values, lon.values)
        for number, dim in enumerate(lat.dims):
            hit = np.flatnonzero(inside.any(axis=tuple(i for i in range(inside.ndim) if i != number)))
            if inside.ndim == 1:
                found[str(dim)] = to_slice(hit)
            else:
                found[str(dim)] = slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0)
        return found

    def _mask(self, dataset: xr.Dataset, area: Area) -> xr.Dataset:
        places = self._places(dataset)
        assert places is not None
        lat, lon = xr.broadcast(*places)
        inside = xr.DataArray(area.holds(lat.values, lon.values), dims=lat.dims)
        if bool(inside.all()):
            return dataset
        masked = {
            name: array.where(inside) if set(inside.dims) <= set(array.dims) else array
            for name, array in dataset.data_vars.items()
        }
        return dataset.assign(masked)

    def _rows(self, frame: Any, area: Area) -> np.ndarray[Any, Any]:
        names = [*getattr(frame, "columns", ()), *getattr(getattr(frame, "index", None), "names", ())]
        if kind_of(frame) == "arrow":
            names = frame.column_names
        lat, lon = (_first(wanted, names) for wanted in (self.lat, self.lon))
        if lat is not None and lon is not None:
            north, east = column_of(frame, lat), column_of(frame, lon)
            assert north is not None
            assert east is not None
            return area.holds(np.asarray(north, "f8"), np.asarray(east, "f8"))
        if hasattr(frame, "geometry") and hasattr(frame, "to_crs"):
            return area.meets(frame.geometry)
        raise refuse(frame, f"columns {self.lat[0]!r} and {self.lon[0]!r}")


def region(
    argument: str = "region",
    *,
    lat: str | tuple[str, ...] = ("lat", "latitude"),
    lon: str | tuple[str, ...] = ("lon", "longitude"),
    hints: Any = None,
) -> Region:
    """Crop a function's results in space, and leave the region out of what they are stored under.

    Parameters
    ----------
    argument : str, optional
        The argument that says where; a function that does not have it gets it. It is None for everywhere;
        (west, south, east, north); ``{"lat": (south, north), "lon": (west, east)}``; or a polygon of shapely's or
        geopandas'. Longitudes are of either convention, whatever the data's is.
    lat, lon : str or tuple of str, optional
        The coordinates or columns of the data; of several, the first that a result has.
    hints : optional
        How results will be read, as `daskcache.Hints` takes it; by default, small boxes for all time.

    Returns
    -------
    Region
        A decorator.

    Notes
    -----
    The function promises that a smaller region gives what a larger one gives, cropped. Labels stay what they are in the
    data; across their seam, longitudes come from west to east.

    Examples
    --------
    >>> @region()
    ... def ones():
    ...     return xr.DataArray(np.ones((3, 4)), {"lat": [10, 0, -10], "lon": [0, 90, 180, 270]}, ("lat", "lon"))
    >>> ones(region=(-100, -5, 10, 15)).lon.values, ones(region={"lat": (-5, 15)}).lat.values
    (array([270,   0]), array([10,  0]))
    """
    lats, lons = ((given,) if isinstance(given, str) else tuple(given) for given in (lat, lon))
    if not lats or not lons or not isinstance(argument, str):
        raise InvalidInputError(f"region is given {argument!r}, {lat!r} and {lon!r}; expected names")
    return Region(argument, lats, lons, hints if hints is None else Hints.of(hints))


def _first(wanted: tuple[str, ...], names: Any) -> str | None:
    return next((name for name in wanted if name in names), None)


def _crop_partition(frame: Any, processor: Region, area: Area) -> Any:
    return frame[processor._rows(frame, area)]

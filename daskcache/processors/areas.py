"""Boxes and polygons on the globe, whatever the convention of their longitudes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskcache.errors import InvalidInputError, MissingExtraError
from daskcache.processors.axes import to_slice

__all__ = ["Area"]

_AROUND = 360.0


@dataclass(frozen=True, slots=True)
class Area:
    """A box of latitudes and longitudes, and what of it is meant.

    Examples
    --------
    >>> Area.parse((170, -20, -170, 20)).width
    20.0
    >>> Area.parse({"lat": (10, 0)})
    Area(west=-180.0, south=0.0, width=360.0, north=10.0, shape=None)
    """

    west: float
    """Where it begins, in degrees, in the convention in which it was given."""
    south: float
    """The lower latitude."""
    width: float
    """Degrees from west to east; 360 is all around."""
    north: float
    """The higher latitude."""
    shape: Any = None
    """A polygon of shapely's inside of which points are; None for all of the box."""

    @classmethod
    def parse(cls, given: Any, lat: str = "lat", lon: str = "lon") -> Area | None:
        """Read a region.

        Parameters
        ----------
        given : tuple, mapping, polygon of shapely's, GeoSeries, GeoDataFrame, Area or None
            West, south, east, north, as GeoJSON has them; or ``{"lat": (south, north), "lon": (west, east)}``, either of
            which may be left out. A west that is larger than the east is across the seam.
        lat, lon : str, optional
            Names that a mapping may use as well.

        Returns
        -------
        Area or None
            None for everywhere.

        Raises
        ------
        InvalidInputError
            It is none of these, or has no extent.
        MissingExtraError
            A polygon needs shapely.
        """
        if given is None or isinstance(given, Area):
            return given
        if hasattr(given, "geometry") and hasattr(given, "to_crs"):
            return cls._of_frame(given)
        if hasattr(given, "geom_type"):
            return cls._of_shape(given)
        if isinstance(given, Mapping):
            return cls._of_mapping(given, lat, lon)
        if isinstance(given, tuple | list | np.ndarray) and len(given) == 4:
            west, south, east, north = map(_number, given)
            return cls._of_bounds(west, south, east, north)
        raise InvalidInputError(
            f"a region is {given!r}; expected (west, south, east, north), a mapping with {lat!r} and {lon!r}, or a polygon"
        )

    @classmethod
    def _of_bounds(cls, west: float, south: float, east: float, north: float, shape: Any = None) -> Area:
        width = east - west
        if width < 0:
            width += _AROUND
        if width < 0 or max(abs(south), abs(north)) > 90 or abs(west) > _AROUND or abs(east) > 2 * _AROUND:
            raise InvalidInputError(
                f"a region goes from {west} to {east} degrees east and from {south} to {north} degrees north; expected "
                "latitudes up to 90 and longitudes from -180 to 180, or from 0 to 360"
            )
        return cls(west, min(south, north), min(width, _AROUND), max(south, north), shape)

    @classmethod
    def _of_mapping(cls, given: Mapping[str, Any], lat: str, lon: str) -> Area:
        known = {"lat": {"lat", "latitude", lat}, "lon": {"lon", "longitude", lon}}
        found = {what: value for name, value in given.items() for what in known if name in known[what]}
        if len(found) != len(given):
            raise InvalidInputError(f"a region is {given!r}; expected a mapping with {lat!r} and {lon!r}")
        south, north = _pair(found.get("lat", (-90, 90)))
        west, east = _pair(found.get("lon", (-180, 180)))
        return cls._of_bounds(west, south, east, north)

    @classmethod
    def _of_shape(cls, shape: Any) -> Area:
        if shape.is_empty or not shape.area:
            raise InvalidInputError(f"a region is {shape!r}; expected a polygon that is not empty")
        west, south, east, north = shape.bounds
        return cls._of_bounds(west, south, east, north, shape)

    @classmethod
    def _of_frame(cls, frame: Any) -> Area:
        return cls._of_shape(_in_degrees(frame.geometry).union_all())

    def offsets(self, longitudes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Give how far longitudes lie east of the region's west.

        Parameters
        ----------
        longitudes : numpy.ndarray
            In degrees, in either convention.

        Returns
        -------
        numpy.ndarray
            From 0 to below 360; what a single-precision longitude misses the west by counts for 0.
        """
        tolerance = _tolerance(longitudes)
        found = np.mod(longitudes.astype("f8") - self.west, _AROUND)
        return np.asarray(np.where(found > _AROUND - tolerance, 0.0, found))

    def holds(
        self, latitudes: np.ndarray[Any, Any], longitudes: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Tell which points lie in the region.

        Parameters
        ----------
        latitudes, longitudes : numpy.ndarray
            In degrees, of shapes that go together.

        Returns
        -------
        numpy.ndarray
            Booleans. Its edge belongs to it.
        """
        inside: np.ndarray[Any, Any] = self.holds_latitudes(latitudes) & self.holds_longitudes(longitudes)
        if self.shape is None or not inside.any():
            return inside
        # In the polygon's own convention.
        east, north = np.broadcast_arrays(self.west + self.offsets(longitudes), latitudes)
        within: np.ndarray[Any, Any] = inside & _shapely().intersects_xy(self.shape, east, north)
        return within

    def holds_latitudes(self, latitudes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Tell which latitudes are those of the box.

        Parameters
        ----------
        latitudes : numpy.ndarray
            In degrees.

        Returns
        -------
        numpy.ndarray
            Booleans.
        """
        tolerance = _tolerance(latitudes)
        return np.asarray((latitudes >= self.south - tolerance) & (latitudes <= self.north + tolerance))

    def holds_longitudes(self, longitudes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Tell which longitudes are those of the box.

        Parameters
        ----------
        longitudes : numpy.ndarray
            In degrees, in either convention.

        Returns
        -------
        numpy.ndarray
            Booleans.
        """
        if self.width >= _AROUND:
            return np.asarray(np.isfinite(longitudes))
        return np.asarray(self.offsets(longitudes) <= self.width + _tolerance(longitudes))

    def order(self, longitudes: np.ndarray[Any, Any]) -> slice | np.ndarray[Any, Any]:
        """Find a box's longitudes, from west to east, or from east to west where they are so.

        Parameters
        ----------
        longitudes : numpy.ndarray
            In degrees, shape (n,).

        Returns
        -------
        slice or numpy.ndarray
            Their positions; a meridian that is there twice is given once, where it is across the seam.
        """
        chosen = np.flatnonzero(self.holds_longitudes(longitudes))
        found = to_slice(chosen)
        if isinstance(found, slice) and (self.width >= _AROUND or not self._wraps(longitudes[chosen])):
            return found
        offsets = self.offsets(longitudes[chosen])
        _, first = np.unique(np.round(offsets / _tolerance(longitudes)), return_index=True)
        ordered = chosen[first]
        if len(longitudes) > 1 and np.median(np.diff(longitudes.astype("f8"))) < 0:
            ordered = ordered[::-1]
        return to_slice(ordered)

    def _wraps(self, longitudes: np.ndarray[Any, Any]) -> bool:
        steps = np.diff(self.offsets(longitudes))
        return bool((steps < 0).any() and (steps > 0).any())

    def meets(self, geometry: Any) -> np.ndarray[Any, Any]:
        """Tell which geometries have a part of the region.

        Parameters
        ----------
        geometry : geopandas.GeoSeries
            In any reference system; without one, in degrees.

        Returns
        -------
        numpy.ndarray
            Booleans, shape (n,).
        """
        shapely = _shapely()
        shape = self.shape or shapely.box(self.west, self.south, self.west + self.width, self.north)
        # They may be in the other convention.
        turned = [shapely.affinity.translate(shape, by) for by in (-_AROUND, 0.0, _AROUND)]
        found: np.ndarray[Any, Any] = np.logical_or.reduce(
            [_in_degrees(geometry).intersects(other).to_numpy() for other in turned]
        )
        return found

    def covers(self, other: Area) -> bool:
        """Tell whether another region's box lies in this one's.

        Parameters
        ----------
        other : Area
            The other.

        Returns
        -------
        bool
            True for equal ones.
        """
        if not self.south <= other.south <= other.north <= self.north:
            return False
        return self.width >= _AROUND or (other.west - self.west) % _AROUND + other.width <= self.width


def _number(given: Any) -> float:
    if (
        isinstance(given, bool | np.bool_)
        or not isinstance(given, numbers.Real | np.number)
        or not math.isfinite(given)
    ):
        raise InvalidInputError(f"a region has {given!r} for an edge; expected degrees")
    return float(given)


def _pair(given: Any) -> tuple[float, float]:
    if isinstance(given, slice):
        given = (given.start, given.stop)
    if not isinstance(given, tuple | list | np.ndarray) or len(given) != 2:
        raise InvalidInputError(f"a region has {given!r} along one axis; expected two edges")
    return _number(given[0]), _number(given[1])


def _tolerance(degrees: np.ndarray[Any, Any]) -> float:
    # What is left of a longitude in the precision that it is held in.
    if degrees.dtype.kind != "f":
        return 1e-9
    return max(float(2 * np.spacing(degrees.dtype.type(_AROUND))), 1e-9)


def _shapely() -> Any:
    try:
        import shapely
        import shapely.affinity
    except ImportError as error:
        raise MissingExtraError(
            "a polygon as a region needs shapely; install daskcache[geo], or give a box"
        ) from error
    return shapely


def _in_degrees(geometry: Any) -> Any:
    if geometry.crs is None or geometry.crs.to_epsg() == 4326:
        return geometry
    return geometry.to_crs(4326)

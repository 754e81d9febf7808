"""The demo's data: what a package ships, and what is made up."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import dask.utils
import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec

from daskcache.errors import InvalidInputError, MissingExtraError, StoreFullError

__all__ = ["Generated", "Samples", "find_samples", "plan_generated", "require_extra", "write_daily"]

_MODULES = ("cftime", "click", "flox", "matplotlib", "netCDF4")
_YEARS = (2001, 2002, 2003, 2004)
_START = np.datetime64("2001-01-01", "D")
_ROOM_FACTOR = 2.5
_PERIOD = 60
_ROWS = (12, 18, 24, 36, 45, 64, 90, 128, 180, 256, 360)


@dataclass(frozen=True, slots=True)
class Samples:
    """The files that the package ``iris-sample-data`` ships and the demo reads."""

    scenarios: dict[str, Path]
    """Yearly air temperature over North America, 1860 to 2099, of each scenario."""
    months: tuple[Path, ...]
    """Sea surface temperature of three months, a file each."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Daily temperatures that are made up, of a size that is asked for, in a Zarr store."""

    steps: int
    """Days to begin with, a whole number of periods."""
    rows: int
    """Length of the grid from south to north; from west to east it is twice that."""
    period: int = _PERIOD
    """Days in a block, which are averaged."""

    @property
    def size_bytes(self) -> int:
        """Give the size of the array in memory.

        Returns
        -------
        int
            Bytes.
        """
        return self.steps * 8 * self.rows**2

    @property
    def baseline(self) -> tuple[str, str]:
        """Give a fixed reference period: the first three tenths, in whole periods.

        Returns
        -------
        tuple of str
            First and last date.
        """
        blocks = max(1, round(0.3 * self.steps / self.period))
        return str(_START), str(_START + np.timedelta64(blocks * self.period - 1, "D"))

    def check_room(self, path: Path) -> None:
        """Refuse a size for which a disk has no room.

        Parameters
        ----------
        path : Path
            An existing directory on the disk.

        Raises
        ------
        StoreFullError
            The data, their anomalies and some more would not fit; give a smaller size.
        """
        needed, free = int(_ROOM_FACTOR * self.size_bytes), shutil.disk_usage(path).free
        if needed > free:
            raise StoreFullError(
                f"the demo would need {dask.utils.format_bytes(needed)} below {path}, where "
                f"{dask.utils.format_bytes(free)} are free; give a smaller --size"
            )

    def write(self, path: Path, first: int, steps: int) -> None:
        """Create the array, or append to it, a block at a time, with a progress bar.

        Parameters
        ----------
        path : Path
            The Zarr store.
        first : int
            How many days it holds already.
        steps : int
            How many more to write, a whole number of periods.
        """
        name = f"{'writing' if first == 0 else 'appending'} {steps} days of data"
        if first == 0:
            self._create(path, steps)
        for start in _progress(range(first, first + steps, self.period), name):
            block = self._make_block(start)
            if first == 0:
                values = block.drop_vars(["time", "latitude", "longitude"])
                values.to_zarr(path, region={"time": slice(start, start + self.period)}, consolidated=False)
            else:
                block.to_zarr(path, append_dim="time", consolidated=False)

    def _create(self, path: Path, steps: int) -> None:
        latitude, longitude = _grid(self.rows, 2 * self.rows)
        shape = (steps, self.rows, 2 * self.rows)
        # Never computed: only its shape and chunks are written.
        values = da.zeros(shape, chunks=(self.period, *shape[1:]), dtype=np.float32)
        whole = _to_dataset(
            "temperature", values, _START + np.arange(steps).astype("timedelta64[D]"), latitude, longitude
        )
        codec = BloscCodec(cname="lz4", shuffle="shuffle")
        encoding = {"temperature": {"compressors": codec}, "time": {"units": f"days since {_START}"}}
        whole.to_zarr(path, mode="w", encoding=encoding, zarr_format=3, consolidated=False, compute=False)

    def _make_block(self, start: int) -> xr.Dataset:
        latitude, longitude = _grid(self.rows, 2 * self.rows)
        days = np.arange(start, start + self.period)
        # A generator a block, or a block's values would depend on how many were made before it.
        noise = np.random.default_rng(start).standard_normal(
            (self.period, self.rows, 2 * self.rows), dtype=np.float32
        )
        noise += (_climate(days, latitude) + 0.04 / 365.25 * days[:, None])[..., None].astype(np.float32)
        return _to_dataset("temperature", noise, _START + days.astype("timedelta64[D]"), latitude, longitude)


def require_extra() -> None:
    """Check that what the demo needs is installed.

    Raises
    ------
    MissingExtraError
        A package is missing; install the extra ``demo``.
    """
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise _missing(missing)


def find_samples() -> Samples:
    """Find the sample files in the installed package.

    Returns
    -------
    Samples
        Existing files.

    Raises
    ------
    MissingExtraError
        The package ``iris-sample-data`` is missing or not whole; install the extra ``demo``.

    Examples
    --------
    >>> samples = find_samples()
    >>> sorted(samples.scenarios), len(samples.months)
    (['a1b', 'e1'], 3)
    """
    spec = importlib.util.find_spec("iris_sample_data")
    if spec is None or spec.origin is None:
        raise _missing(["iris-sample-data"])
    root = Path(spec.origin).parent / "sample_data"
    scenarios = {name: root / f"{name.upper()}_north_america.nc" for name in ("a1b", "e1")}
    months = tuple(sorted((root / "NEMO").glob("nemo_1m_*_grid-T.nc")))
    lost = [path.name for path in scenarios.values() if not path.is_file()]
    if lost or len(months) < 3:
        found = f"{root} lacks {', '.join(lost) or 'three files NEMO/nemo_1m_*_grid-T.nc'}"
        raise MissingExtraError(f"{found}; install the extra again: pip install 'daskcache[demo]'")
    return Samples(scenarios, months[:3])


def plan_generated(size: str) -> Generated:
    """Choose the shape of generated data.

    Parameters
    ----------
    size : str
        Such as ``"2GB"``.

    Returns
    -------
    Generated
        At least twelve periods long and of about that size.

    Raises
    ------
    InvalidInputError
        It is not a size, or less than 1 MB.

    Examples
    --------
    >>> data = plan_generated("2GB")
    >>> data.steps, data.rows, data.size_bytes
    (3840, 256, 2013265920)
    """
    try:
        size_bytes = dask.utils.parse_bytes(size)
    except ValueError as error:
        raise InvalidInputError(f"size is {size!r}; expected a size such as '2GB'") from error
    if size_bytes < 10**6:
        raise InvalidInputError(f"size is {size!r}; the demo needs at least 1MB to be worth its name")
    # The finest grid of which there are some 60 blocks; a block is never more than 62 MB.
    rows = max(rows for rows in _ROWS if rows == _ROWS[0] or size_bytes >= 3600 * 8 * rows**2)
    periods = max(12, round(size_bytes / (8 * rows**2 * _PERIOD)))
    return Generated(periods * _PERIOD, rows)


def write_daily(directory: Path) -> list[Path]:
    """Write four years of made-up daily temperatures over North America, one of them a leap year.

    Parameters
    ----------
    directory : Path
        Where to put them, an existing directory.

    Returns
    -------
    list of Path
        A NetCDF file a year.
    """
    paths = []
    latitude, longitude = _grid(24, 48)
    for year in _YEARS:
        dates = np.arange(f"{year}-01-01", f"{year + 1}-01-01", dtype="datetime64[D]")
        days = (dates - _START).astype(np.int64)
        values = np.random.default_rng(year).standard_normal((len(days), 24, 48), dtype=np.float32)
        values += _climate(days, latitude)[..., None].astype(np.float32)
        path = directory / f"daily_{year}.nc"
        _to_dataset("air_temperature", values, dates, latitude, longitude).to_netcdf(path, engine="netcdf4")
        paths.append(path)
    return paths


def _missing(names: list[str]) -> MissingExtraError:
    return MissingExtraError(
        f"the demo needs {', '.join(names)}; install the extra 'demo': pip install 'daskcache[demo]'"
    )


def _grid(rows: int, columns: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    latitude = (np.arange(rows) + 0.5) * 180 / rows - 90
    return latitude, (np.arange(columns) + 0.5) * 360 / columns


def _climate(days: np.ndarray[Any, Any], latitude: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    season = np.cos(2 * np.pi * (days - 196) / 365.25)[:, None] * 15 * np.sin(np.deg2rad(latitude))
    climate: np.ndarray[Any, Any] = 300 - 50 * np.sin(np.deg2rad(latitude)) ** 2 + season
    return climate


def _to_dataset(
    name: str,
    values: Any,
    dates: np.ndarray[Any, Any],
    latitude: np.ndarray[Any, Any],
    longitude: np.ndarray[Any, Any],
) -> xr.Dataset:
    attrs = {"standard_name": "air_temperature", "units": "K"}
    return xr.Dataset(
        {name: (("time", "latitude", "longitude"), values, attrs)},
        coords={
            "time": dates.astype("datetime64[ns]"),
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        },
    )


def _progress(steps: range, name: str) -> Any:
    width = 30
    for number, step in enumerate(steps):
        yield step
        if sys.stderr.isatty():
            done = width * (number + 1) // len(steps)
            print(f"\r  {name} [{'#' * done}{' ' * (width - done)}]", end="", file=sys.stderr, flush=True)
    print("" if sys.stderr.isatty() else f"  {name}: done", file=sys.stderr)

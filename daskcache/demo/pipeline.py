"""A climate pipeline as its author would write it: plain xarray that knows nothing of a cache.

The demo copies this file into its work directory and runs the copy, so that it is the user's code, and edits it
there as a user would, as text. Every result goes through `keep`, which is the identity in an ordinary run and
``result.cache.persist(name)`` in the demo's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

Keep = Callable[[str, Any], Any]

REGIONS = {"all": (-90.0, 90.0), "north of 40°N": (40.0, 90.0), "south of 40°N": (-90.0, 40.0)}
OCEAN_BANDS = (110, 120, 100)
SEED = 20150101


def run(
    temperature: xr.DataArray,
    keep: Keep,
    *,
    baseline: tuple[str, str],
    period: int,
    resamples: int,
    trend_since: str,
) -> xr.Dataset:
    """Work out how much warmer it gets, and where, when, and how surely.

    Parameters
    ----------
    temperature : DataArray
        Shape (time, latitude, longitude), in kelvin; each block holds one or more whole periods.
    keep : callable
        Takes a name and a result, and gives the result, or something equal to it.
    baseline : tuple of str
        First and last date of the reference period.
    period : int
        Number of time steps that are averaged, a decade of yearly values say.
    resamples : int
        How often each period is drawn anew by the bootstrap.
    trend_since : str
        Where the fitted line starts.

    Returns
    -------
    Dataset
        Mean warming of each region and its trend.
    """
    climatology = keep("climatology", make_climatology(temperature, baseline))
    anomaly = keep("anomaly", make_anomaly(temperature, climatology))
    decades = keep("periods", make_periods(anomaly, period))
    keep("bounds", make_bounds(anomaly, period, resamples))
    warming = keep("warming", make_warming(anomaly, decades))
    trends: xr.Dataset = keep("trends", make_trends(warming, trend_since))
    return trends


def run_ocean(sst: xr.DataArray, keep: Keep) -> None:
    """Find fronts, and what changed from month to month, in sea surface temperatures.

    Parameters
    ----------
    sst : DataArray
        Shape (time, y, x), in degrees Celsius.
    keep : callable
        See `run`.
    """
    keep("ocean/fronts", make_fronts(sst))
    keep("ocean/change", sst.diff("time"))


def run_daily(temperature: xr.DataArray, keep: Keep) -> None:
    """Take the mean of every day of the year, and what differs from it, where some years are leap years.

    Parameters
    ----------
    temperature : DataArray
        Shape (time, latitude, longitude), in kelvin, one value a day, each block a year.
    keep : callable
        See `run`.
    """
    mean = keep("daily/climatology", temperature.groupby("time.dayofyear").mean())
    keep("daily/anomaly", temperature.groupby("time.dayofyear") - mean)


def open_scenario(path: str) -> xr.DataArray:
    """Open yearly air temperatures, a decade a block.

    Parameters
    ----------
    path : str
        One NetCDF file.

    Returns
    -------
    DataArray
        Shape (time, latitude, longitude), in kelvin, lazy.
    """
    temperature = xr.open_dataset(path, chunks={"time": 10})["air_temperature"]
    return temperature.drop_vars(["forecast_period", "forecast_reference_time", "height"])


def open_ocean(paths: Sequence[str]) -> xr.DataArray:
    """Open monthly sea surface temperatures, a file a month, in three blocks of rows: south, tropics, north.

    Parameters
    ----------
    paths : sequence of str
        NetCDF files, in order of time.

    Returns
    -------
    DataArray
        Shape (time, y, x), in degrees Celsius, lazy.
    """
    ocean = xr.open_mfdataset(
        paths,
        preprocess=_date,
        combine="nested",
        concat_dim="time",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        chunks={},
    )
    return ocean["tos"].chunk(y=OCEAN_BANDS)


def open_daily(paths: Sequence[str]) -> xr.DataArray:
    """Open daily air temperatures, a file and a block a year.

    Parameters
    ----------
    paths : sequence of str
        NetCDF files, in order of time.

    Returns
    -------
    DataArray
        Shape (time, latitude, longitude), in kelvin, lazy.
    """
    daily = xr.open_mfdataset(paths, combine="nested", concat_dim="time", data_vars="minimal", chunks={})
    return daily["air_temperature"]


def _date(month: xr.Dataset) -> xr.Dataset:
    # Each file counts its own months from 0; only `time_centered` tells them apart.
    middle = month["time_centered"].values
    month = month[["tos"]].drop_vars(["time_counter", "time_centered"]).rename(time_counter="time")
    return month.assign_coords(time=("time", middle))


def make_climatology(temperature: xr.DataArray, baseline: tuple[str, str]) -> xr.DataArray:
    """Take the mean over the reference period.

    Parameters
    ----------
    temperature : DataArray
        Shape (time, latitude, longitude), in kelvin.
    baseline : tuple of str
        First and last date.

    Returns
    -------
    DataArray
        Shape (latitude, longitude), in kelvin.
    """
    return temperature.sel(time=slice(*baseline)).mean("time", keep_attrs=True)


def make_anomaly(temperature: xr.DataArray, climatology: xr.DataArray) -> xr.DataArray:
    """Subtract the reference from every time step.

    Parameters
    ----------
    temperature : DataArray
        Shape (time, latitude, longitude), in kelvin.
    climatology : DataArray
        Shape (latitude, longitude), in kelvin.

    Returns
    -------
    DataArray
        Shape (time, latitude, longitude), in kelvin.
    """
    anomaly = temperature - climatology
    return anomaly.rename("anomaly").assign_attrs(long_name="air temperature anomaly", units="K")


def make_periods(anomaly: xr.DataArray, period: int) -> xr.DataArray:
    """Take the mean of each period.

    Parameters
    ----------
    anomaly : DataArray
        Shape (time, latitude, longitude), in kelvin.
    period : int
        Number of time steps in one.

    Returns
    -------
    DataArray
        Shape (time, latitude, longitude), in kelvin; its times are the first of each period.
    """
    return anomaly.coarsen(time=period, coord_func={"time": "min"}).mean()


def make_bounds(anomaly: xr.DataArray, period: int, resamples: int) -> xr.DataArray:
    """Bound the mean of each period at each place, by a bootstrap: the costly step.

    Parameters
    ----------
    anomaly : DataArray
        Shape (time, latitude, longitude), in kelvin.
    period : int
        Number of time steps in one.
    resamples : int
        How often each period is drawn anew.

    Returns
    -------
    DataArray
        Shape (period, latitude, longitude, bound), in kelvin; the bounds are the 5 % and the 95 % quantile.
    """
    periods = anomaly.drop_vars("time").coarsen(time=period).construct(time=("period", "step"))
    bounds: xr.DataArray = xr.apply_ufunc(
        bootstrap,
        periods,
        kwargs={"resamples": resamples},
        input_core_dims=[["step"]],
        output_core_dims=[["bound"]],
        dask="parallelized",
        output_dtypes=[anomaly.dtype],
        dask_gufunc_kwargs={"output_sizes": {"bound": 2}},
    )
    return bounds.rename("bounds").assign_attrs(long_name="bounds of the period's mean", units="K")


def make_warming(anomaly: xr.DataArray, periods: xr.DataArray) -> xr.Dataset:
    """Take the mean over each region, weighted by area.

    Parameters
    ----------
    anomaly : DataArray
        Shape (time, latitude, longitude), in kelvin.
    periods : DataArray
        The means of its periods.

    Returns
    -------
    Dataset
        ``steps``, shape (time, region), and ``periods``, shape (period, region), in kelvin.
    """
    means = {"steps": _over_regions(anomaly), "periods": _over_regions(periods.rename(time="period"))}
    return xr.Dataset(means, coords={"region": list(REGIONS)})


def make_trends(warming: xr.Dataset, since: str) -> xr.Dataset:
    """Fit a line to each region's warming.

    Parameters
    ----------
    warming : Dataset
        What `make_warming` gives.
    since : str
        The first date that counts.

    Returns
    -------
    Dataset
        ``slope``, in kelvin a century, and ``start``, in kelvin, of shape (region,).
    """
    steps = warming["steps"].sel(time=slice(since, None)).chunk(time=-1)
    lines = xr.apply_ufunc(
        fit_line,
        steps,
        _years_since_start(steps["time"]),
        input_core_dims=[["time"], ["time"]],
        output_core_dims=[["line"]],
        dask="parallelized",
        output_dtypes=[steps.dtype],
        dask_gufunc_kwargs={"output_sizes": {"line": 2}},
    )
    slope = lines.isel(line=0).assign_attrs(long_name="trend", units="K / century")
    start = lines.isel(line=1).assign_attrs(long_name="fitted warming at the start", units="K")
    return xr.Dataset({"slope": slope, "start": start})


def make_fronts(sst: xr.DataArray) -> xr.DataArray:
    """Find how steeply the temperature changes from cell to cell.

    Parameters
    ----------
    sst : DataArray
        Shape (time, y, x), in degrees Celsius.

    Returns
    -------
    DataArray
        Shape (time, y, x), in kelvin a cell.
    """
    data = da.map_overlap(
        steepness,
        sst.data,
        depth={1: 1, 2: 1},
        boundary={1: "none", 2: "periodic"},
        dtype=sst.dtype,
        meta=np.empty((0, 0, 0), sst.dtype),
    )
    attrs = {"long_name": "change of sea surface temperature from cell to cell", "units": "K"}
    return xr.DataArray(data, sst.coords, sst.dims, name="fronts", attrs=attrs)


def _years_since_start(time: xr.DataArray) -> xr.DataArray:
    years: xr.DataArray = time.dt.year + time.dt.dayofyear / 365.25
    return years - years[0]


def _over_regions(field: xr.DataArray) -> xr.DataArray:
    means: xr.DataArray = xr.apply_ufunc(
        region_means,
        field,
        field["latitude"],
        input_core_dims=[["latitude", "longitude"], ["latitude"]],
        output_core_dims=[["region"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"region": len(REGIONS)}},
    )
    return means.assign_attrs(long_name="mean warming", units="K")


# From here on: what is done to each block.


def bootstrap(steps: np.ndarray[Any, Any], resamples: int) -> np.ndarray[Any, Any]:
    """Draw the steps of a period again and again, and bound their mean.

    Parameters
    ----------
    steps : ndarray
        Shape (..., step).
    resamples : int
        How often.

    Returns
    -------
    ndarray
        Shape (..., bound), the 5 % and the 95 % quantile of the means.
    """
    cells = steps.reshape(-1, steps.shape[-1]).T
    draw = np.random.default_rng(SEED)
    means = np.empty((resamples, cells.shape[1]), cells.dtype)
    for mean in means:
        cells[draw.integers(len(cells), size=len(cells))].mean(axis=0, out=mean)
    return np.quantile(means, (0.05, 0.95), axis=0).T.reshape(*steps.shape[:-1], 2).astype(steps.dtype)


def area_weights(latitude: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weigh rows of a regular grid by area.

    Parameters
    ----------
    latitude : ndarray
        Shape (latitude,), in degrees.

    Returns
    -------
    ndarray
        Shape (latitude,).
    """
    return np.cos(np.deg2rad(latitude))


def region_means(field: np.ndarray[Any, Any], latitude: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Take the mean over each region.

    Parameters
    ----------
    field : ndarray
        Shape (..., latitude, longitude).
    latitude : ndarray
        Shape (latitude,), in degrees.

    Returns
    -------
    ndarray
        Shape (..., region), float64.
    """
    rows = field.mean(axis=-1, dtype=np.float64)
    weights = area_weights(latitude.astype(np.float64))
    inside = [(south <= latitude) & (latitude <= north) for south, north in REGIONS.values()]
    return np.stack(
        [np.average(rows[..., rows_in], axis=-1, weights=weights[rows_in]) for rows_in in inside], axis=-1
    )


def fit_line(values: np.ndarray[Any, Any], years: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Fit a line by least squares.

    Parameters
    ----------
    values : ndarray
        Shape (..., time).
    years : ndarray
        Shape (time,).

    Returns
    -------
    ndarray
        Shape (..., line): the slope per century, and the value where `years` is 0.
    """
    centred = years - years.mean()
    slope = (values * centred).sum(axis=-1) / (centred**2).sum()
    return np.stack([slope * 100, values.mean(axis=-1) - slope * years.mean()], axis=-1)


def steepness(field: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Take the length of the gradient.

    Parameters
    ----------
    field : ndarray
        Shape (time, y, x).

    Returns
    -------
    ndarray
        The same shape.
    """
    south_north, west_east = np.gradient(field, axis=(1, 2))
    length: np.ndarray[Any, Any] = np.hypot(south_north, west_east)
    return length


PRODUCERS = (bootstrap, region_means, fit_line, steepness)

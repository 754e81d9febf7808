"""Small pipelines of every kind of operation that xarray and dask offer, each a function of a directory of sources."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import flox.xarray
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from flox.aggregations import Aggregation

from daskcache import token
from daskcache.datasets import outline
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens

Pipeline = Callable[[Path], Any]
PIPELINES: dict[str, Pipeline] = {}
"""By name, what makes an object to be keyed."""

DAYS, CHUNK = 120, 30


def write_sources(root: Path) -> None:
    """Write what the pipelines read: Zarr groups with and without consolidated metadata, NetCDF files."""
    ds = field(in_memory=True)
    ds.chunk(time=CHUNK).to_zarr(root / "consolidated.zarr", consolidated=True, zarr_format=2)
    ds.chunk(time=CHUNK).to_zarr(root / "plain.zarr", consolidated=False, zarr_format=3)
    for start in range(0, DAYS, 40):
        ds.isel(time=slice(start, start + 40)).to_netcdf(root / f"part{start:03}.nc", engine="h5netcdf")


def field(in_memory: bool = False, calendar: str = "standard", days: int = DAYS) -> xr.Dataset:
    """Make a small field in time, latitude and longitude."""
    time = xr.date_range(
        "2000-01-15", periods=days, freq="D", calendar=calendar, use_cftime=calendar != "standard"
    )
    values = np.sin(np.arange(days * 12, dtype="f8")).reshape(days, 3, 4)
    values[::7, 1, 2] = np.nan
    ds = xr.Dataset(
        {"t": (("time", "lat", "lon"), values, {"units": "K"}), "p": (("time", "lat"), values[:, :, 0] * 2)},
        coords={"time": time, "lat": [10.0, 20.0, 30.0], "lon": [0.0, 1.0, 2.0, 3.0]},
    )
    return ds if in_memory else ds.chunk(time=CHUNK, lat=2, lon=4)


def pipeline(function: Pipeline) -> Pipeline:
    """Put a pipeline into the table, under the function's name."""
    PIPELINES[function.__name__] = function
    return function


def _add(**pipelines: Callable[[xr.Dataset], Any]) -> None:
    for name, function in pipelines.items():
        PIPELINES[name] = lambda root, function=function: function(field())


def with_options(make: Callable[[], Any], **options: Any) -> Any:
    """Make something under options of xarray's."""
    with xr.set_options(**options):
        return make()


def _add_without_flox(*names: str) -> None:
    for name in names:
        PIPELINES[f"{name}_without_flox"] = lambda root, function=PIPELINES[name]: with_options(
            lambda: function(root), use_flox=False
        )


def _add_of_groups(**pipelines: Callable[[xr.Dataset], Any]) -> None:
    """Put pipelines into the table that read a group: of either format, with and without consolidated metadata."""
    for name, function in pipelines.items():
        for group, is_consolidated in (("consolidated", True), ("consolidated", False), ("plain", False)):
            title = f"{group}_{'' if is_consolidated else 'not_'}consolidated_{name}"
            PIPELINES[title] = lambda root, function=function, group=group, is_consolidated=is_consolidated: (
                function(
                    xr.open_zarr(root / f"{group}.zarr", chunks={"time": 30}, consolidated=is_consolidated)
                )
            )


def anomaly(ds: xr.Dataset, group: str) -> xr.Dataset:
    """Subtract each group's mean."""
    return ds.groupby(group) - ds.groupby(group).mean()


def double(block: Any) -> Any:
    """Double."""
    return block * 2


def first_of(block: xr.Dataset) -> xr.Dataset:
    """Pass on."""
    return block + 1


def located(block: Any, block_info: Any = None, block_id: Any = None) -> Any:
    """Add where a block lies."""
    return block + sum(block_id) + len(block_info)


_add(
    elementwise=lambda ds: np.sqrt(abs(ds * 2 + 1)),
    ufuncs=lambda ds: xr.Dataset({"a": np.sin(ds.t), "b": np.cos(ds.t), "c": np.maximum(ds.t, ds.p)}),
    groupby_dayofyear=lambda ds: ds.groupby("time.dayofyear").mean(),
    groupby_month_std=lambda ds: ds.groupby("time.month").std(),
    groupby_season_first=lambda ds: ds.groupby("time.season").first(),
    groupby_month_quantile=lambda ds: ds.chunk(time=-1).groupby("time.month").quantile(0.5),
    groupby_month_max=lambda ds: ds.groupby("time.month").max(),
    groupby_bins=lambda ds: ds.t.groupby_bins("lat", [0, 15, 40]).mean().data,
    groupby_two=lambda ds: ds.t.groupby({"time": xr.groupers.SeasonGrouper(["DJF", "MAM"])}).sum(),
    groupby_map=lambda ds: ds.t.groupby("time.month").map(lambda x: x - x.mean()),
    groupby_anomaly=lambda ds: anomaly(ds, "time.month"),
    groupby_cumsum=lambda ds: ds.t.groupby("time.month").cumsum(),
    flox_cohorts=lambda ds: flox.xarray.xarray_reduce(ds.t, ds.time.dt.month, func="mean", method="cohorts"),
    flox_map_reduce=lambda ds: flox.xarray.xarray_reduce(
        ds.t, ds.time.dt.dayofyear, func="var", method="map-reduce", expected_groups=np.arange(1, 367)
    ),
    flox_blockwise=lambda ds: flox.xarray.xarray_reduce(
        ds.t.chunk(time=xr.groupers.TimeResampler("MS")), ds.time.dt.month, func="mean", method="blockwise"
    ),
    flox_own=lambda ds: flox.xarray.xarray_reduce(
        ds.t,
        ds.time.dt.month,
        func=Aggregation(
            "mymean",
            numpy="nanmean",
            chunk=("nansum", "nanlen"),
            combine=("sum", "sum"),
            finalize=lambda total, count: total / count,
            fill_value=(0, 0),
            dtypes=(None, np.intp),
            final_dtype=np.float64,
        ),
        method="map-reduce",
    ),
    resample_month=lambda ds: ds.resample(time="ME").mean(),
    resample_year=lambda ds: ds.resample(time="YE").max(),
    resample_start=lambda ds: ds.resample(time="MS").std(),
    resample_up=lambda ds: ds.t.resample(time="12h").interpolate("linear"),
    rolling=lambda ds: ds.rolling(time=7, center=True).mean(),
    rolling_min=lambda ds: ds.t.rolling(time=5, min_periods=1).max(),
    rolling_construct=lambda ds: ds.t.rolling(time=4).construct("window").sum("window"),
    rolling_exp=lambda ds: ds.t.chunk(time=-1).rolling_exp(time=4).mean(),
    coarsen=lambda ds: ds.coarsen(time=10, lat=3).mean(),
    coarsen_construct=lambda ds: ds.coarsen(time=10).construct(time=("decade", "day")),
    cumsum=lambda ds: ds.cumsum("time"),
    cumprod=lambda ds: ds.t.cumprod("time"),
    ffill=lambda ds: ds.ffill("time"),
    bfill=lambda ds: ds.bfill("time"),
    interpolate_na=lambda ds: ds.t.chunk(time=-1).interpolate_na("time"),
    fillna=lambda ds: ds.fillna(0).t + ds.t.isnull(),
    diff=lambda ds: ds.diff("time"),
    shift=lambda ds: ds.shift(time=2),
    roll=lambda ds: ds.roll(lon=1, roll_coords=True),
    pad=lambda ds: ds.t.pad(lon=2, mode="wrap"),
    interp=lambda ds: ds.t.interp(lat=[12.0, 25.0], lon=[0.5, 1.5]),
    interp_like=lambda ds: ds.t.interp(time=ds.time[::5] + np.timedelta64(6, "h")),
    reindex=lambda ds: ds.reindex(lat=[10.0, 15.0, 20.0], method="nearest"),
    where=lambda ds: ds.where((ds.t > 0) & (ds.lat > 10), -1),
    clip=lambda ds: ds.clip(-0.5, 0.5),
    isin=lambda ds: ds.t.isin([0.0, 1.0]),
    concat=lambda ds: xr.concat([ds, ds * 2], dim="member"),
    concat_time=lambda ds: xr.concat([ds.isel(time=slice(40)), ds.isel(time=slice(50, None))], dim="time"),
    merge=lambda ds: xr.merge([ds.t.rename("a"), (ds.t + 1).rename("b"), ds.p]),
    combine_first=lambda ds: ds.t.combine_first(ds.p),
    weighted=lambda ds: ds.t.weighted(np.cos(np.deg2rad(ds.lat))).mean(("lat", "lon")),
    polyfit=lambda ds: ds.t.chunk(time=-1).polyfit("time", 1),
    polyval=lambda ds: xr.polyval(
        ds.time, ds.t.isel(time=slice(2)).rename(time="degree").assign_coords(degree=[0, 1])
    ),
    apply_ufunc=lambda ds: xr.apply_ufunc(double, ds.t, dask="parallelized", output_dtypes=["f8"]),
    apply_ufunc_core=lambda ds: xr.apply_ufunc(
        np.percentile,
        ds.t.chunk(time=-1),
        input_core_dims=[["time"]],
        kwargs={"q": 30, "axis": -1},
        dask="parallelized",
        output_dtypes=["f8"],
    ),
    apply_ufunc_vectorize=lambda ds: xr.apply_ufunc(
        lambda x: x.std(),
        ds.t.chunk(time=-1),
        input_core_dims=[["time"]],
        vectorize=True,
        dask="parallelized",
        output_dtypes=["f8"],
    ),
    map_blocks=lambda ds: xr.map_blocks(first_of, ds, template=ds),
    map_blocks_array=lambda ds: ds.t.map_blocks(double, template=ds.t),
    map_overlap=lambda ds: ds.t.data.map_overlap(
        double, depth={0: 2, 1: 1}, boundary={0: "reflect", 1: "none"}
    ),
    rechunk=lambda ds: ds.chunk(time=45, lat=1, lon=2),
    rechunk_tasks=lambda ds: ds.t.data.rechunk((7, 3, 2), method="tasks"),
    transpose=lambda ds: ds.transpose("lon", "lat", "time"),
    stack=lambda ds: ds.t.stack(place=("lat", "lon")).data,
    unstack=lambda ds: ds.t.stack(place=("lat", "lon")).unstack("place"),
    sortby=lambda ds: ds.sortby("lat", ascending=False),
    isel_fancy=lambda ds: ds.t.isel(time=[5, 3, 77], lon=slice(None, None, -1)),
    sel_points=lambda ds: ds.t.sel(
        lat=xr.DataArray([10.0, 30.0], dims="site"), lon=xr.DataArray([1.0, 2.0], dims="site")
    ),
    vindex=lambda ds: ds.t.data.vindex[[1, 50], [0, 2], [1, 3]],
    mask_index=lambda ds: ds.t.data[np.arange(DAYS) % 3 == 0],
    reduce_tree=lambda ds: ds.t.data.sum(split_every=2),
    mean_all=lambda ds: ds.mean(),
    std_time=lambda ds: ds.std("time", ddof=1),
    # Of what skips gaps numbagg compiles its code for ten seconds, to learn the dtype.
    median=lambda ds: ds.chunk(time=-1).median("time", skipna=False),
    quantile=lambda ds: ds.chunk(time=-1).quantile([0.1, 0.9], "time", skipna=False),
    argmax=lambda ds: ds.t.fillna(0).argmax("time"),
    idxmax=lambda ds: ds.t.fillna(0).idxmax("lat"),
    topk=lambda ds: da.topk(ds.t.fillna(0).data, 3, axis=0),
    argtopk=lambda ds: da.argtopk(ds.t.fillna(0).data, 2, axis=0),
    dot=lambda ds: xr.dot(ds.t, ds.p, dim="lat"),
    tensordot=lambda ds: da.tensordot(ds.t.data, ds.p.data, axes=((0, 1), (0, 1))),
    matmul=lambda ds: ds.t.data.reshape(DAYS, 12) @ ds.t.data.reshape(DAYS, 12).T,
    einsum_one=lambda ds: da.einsum("tyx,tyx->ty", ds.t.data, ds.t.data),
    einsum_several=lambda ds: da.einsum("tyx,ty->x", ds.t.data, ds.p.data),
    corr=lambda ds: xr.corr(ds.t, ds.t.shift(time=1), "time"),
    cov=lambda ds: xr.cov(ds.t, ds.p, "time"),
    fft=lambda ds: da.fft.rfft(ds.t.data.rechunk({0: -1}), axis=0),
    histogram=lambda ds: da.histogram(ds.t.fillna(0).data, bins=5, range=(-1, 1))[0],
    bincount=lambda ds: da.bincount((ds.t.fillna(0).data.ravel() * 5 + 6).astype("i8"), minlength=20),
    digitize=lambda ds: da.digitize(ds.t.data, np.linspace(-1, 1, 4)),
    searchsorted=lambda ds: da.searchsorted(da.arange(20, chunks=5), da.from_array([3, 7], chunks=1)),
    gradient=lambda ds: da.gradient(ds.t.data, axis=0),
    differentiate=lambda ds: ds.t.differentiate("lon"),
    integrate=lambda ds: ds.t.integrate("lat"),
    linalg=lambda ds: da.linalg.svd(ds.t.fillna(0).data.reshape(DAYS, 12).rechunk((30, 12)))[1],
    qr=lambda ds: da.linalg.qr(ds.t.fillna(0).data.reshape(DAYS, 12).rechunk((30, 12)))[1],
    random=lambda ds: ds.t + da.random.default_rng(3).normal(size=ds.t.shape, chunks=ds.t.data.chunks),
    random_legacy=lambda ds: da.random.RandomState(5).random_sample((20, 3), chunks=10),
    creation=lambda ds: da.ones((40, 4), chunks=10) + da.arange(4, chunks=2) + da.linspace(0, 1, 4, chunks=2),
    tri=lambda ds: da.tril(da.eye(20, chunks=5)) + da.diag(da.arange(20, chunks=5)),
    fromfunction=lambda ds: da.fromfunction(np.hypot, shape=(8, 6), chunks=3, dtype="f8"),
    meshgrid=lambda ds: da.meshgrid(da.arange(6, chunks=3), da.arange(4, chunks=2))[0],
    block_info=lambda ds: ds.t.data.map_blocks(located, dtype="f8"),
    map_blocks_drop=lambda ds: ds.t.data.map_blocks(lambda b: b.mean(axis=2), drop_axis=2, dtype="f8"),
    gufunc=lambda ds: da.apply_gufunc(
        lambda x: x.sum(-1), "(i)->()", ds.t.data, output_dtypes=float, allow_rechunk=True
    ),
    apply_along=lambda ds: da.apply_along_axis(np.ptp, 2, ds.t.data, dtype="f8", shape=()),
    reduction=lambda ds: da.reduction(
        ds.t.data, chunk=np.nansum, aggregate=np.sum, axis=0, dtype="f8", concatenate=True
    ),
    time_coordinate=lambda ds: ds.t * ds.time.dt.month + ds.lat,
    dt_accessor=lambda ds: (ds.time.dt.floor("D") == ds.time) & (ds.t > 0),
    cftime=lambda ds: field(calendar="noleap").groupby("time.month").mean(),
    cftime_resample=lambda ds: field(calendar="360_day").t.resample(time="ME").mean(),
    drop_encoding=lambda ds: ds.drop_encoding().assign_attrs(title="x").t.astype("f4"),
    masked=lambda ds: da.ma.filled(da.ma.masked_invalid(ds.t.data), 0.0),
    unify=lambda ds: ds.t.data[:100] + ds.t.data.rechunk((25, 2, 4))[20:],
)

_add_without_flox(
    "groupby_dayofyear", "groupby_month_std", "groupby_season_first", "groupby_month_max", "groupby_bins",
    "groupby_two", "groupby_map", "groupby_anomaly", "resample_month", "resample_start",
)  # fmt: skip


def split(ds: xr.Dataset) -> xr.Dataset:
    """Cut every dimension into blocks."""
    return ds.chunk(time=CHUNK, lat=1, lon=2)


_add(
    split_mean=lambda ds: split(ds).mean(("time", "lon")),
    split_std_all=lambda ds: split(ds).std(),
    split_anomaly=lambda ds: anomaly(split(ds), "time.month"),
    split_groupby_lat=lambda ds: split(ds).t.groupby("lat").mean(("time", "lon")),
    split_flox=lambda ds: flox.xarray.xarray_reduce(
        split(ds).t,
        ds.lat,
        ds.time.dt.month,
        func="mean",
        expected_groups=(ds.lat.values, np.arange(1, 13)),
        fill_value=np.nan,
    ),
    split_rolling=lambda ds: split(ds).t.rolling(time=5, lon=2).mean(),
    split_overlap=lambda ds: split(ds).t.data.map_overlap(double, depth=1, boundary="periodic"),
    split_rechunk=lambda ds: split(ds).t.data.rechunk((40, 3, 1)),
    split_tensordot=lambda ds: da.tensordot(split(ds).t.data, split(ds).p.data, axes=((0, 1), (0, 1))),
    split_interp=lambda ds: split(ds).t.interp(lat=[12.0, 25.0], lon=[0.5, 1.5]),
    split_reshape=lambda ds: split(ds).t.data.reshape(DAYS * 3, 4)[5:100],
    split_map_blocks=lambda ds: xr.map_blocks(first_of, split(ds), template=split(ds)),
    split_gufunc=lambda ds: da.apply_gufunc(
        lambda x: x.sum(-1), "(i)->()", split(ds).t.data, output_dtypes=float, allow_rechunk=True
    ),
    split_topk=lambda ds: da.topk(split(ds).t.fillna(0).data, 2, axis=1),
    split_fancy=lambda ds: split(ds).t.isel(time=[90, 3, 77], lat=[2, 0]),
    split_coarsen=lambda ds: split(ds).coarsen(time=10, lat=3, lon=2).mean(),
    split_cumulative=lambda ds: split(ds).t.cumsum("lon").cumprod("lat"),
    split_concat=lambda ds: xr.concat([split(ds), split(ds) * 2], dim="lon", data_vars="all").sum("lon"),
)
_add_of_groups(
    anomaly=lambda ds: anomaly(ds, "time.month"),
    rolling=lambda ds: ds.t.rolling(time=7).mean(),
    window=lambda ds: ds.t.isel(time=slice(7, 95), lat=[2, 0]) * 2,
    tree=lambda ds: xr.DataTree.from_dict({"/": ds[["p"]], "/mean": ds.mean("time")}),
)


@pipeline
def zarr_consolidated(root: Path) -> Any:
    return xr.open_zarr(root / "consolidated.zarr", chunks={"time": 30}).resample(time="ME").mean()


@pipeline
def zarr_plain(root: Path) -> Any:
    return xr.open_zarr(root / "plain.zarr", chunks={"time": 30}, consolidated=False).mean("lat") * 2


@pipeline
def zarr_map_blocks(root: Path) -> Any:
    ds = xr.open_zarr(root / "consolidated.zarr", chunks={"time": 30})
    return xr.map_blocks(first_of, ds, template=ds)


@pipeline
def zarr_plain_map_blocks(root: Path) -> Any:
    ds = xr.open_zarr(root / "plain.zarr", chunks={"time": 30}, consolidated=False)
    return xr.map_blocks(first_of, ds, template=ds)


@pipeline
def dask_zarr(root: Path) -> Any:
    return da.from_zarr(str(root / "plain.zarr"), component="t")[::2] + 1


@pipeline
def mfdataset(root: Path) -> Any:
    ds = xr.open_mfdataset(str(root / "part*.nc"), engine="h5netcdf", data_vars="all")
    return ds.rolling(time=3).mean()


@pipeline
def netcdf4(root: Path) -> Any:
    parts = sorted(map(str, root.glob("part*.nc")))
    ds = xr.open_mfdataset(parts, engine="netcdf4", chunks={"time": 20}, data_vars="all")
    return anomaly(ds, "time.month")


@pipeline
def delayed(root: Path) -> Any:
    blocks = [da.from_delayed(dask.delayed(np.full)((3,), i), (3,), "i8") for i in range(3)]
    return da.concatenate(blocks) * 2


@pipeline
def optimised(root: Path) -> Any:
    return dask.optimize(field().t.cumsum("time").mean("lat").data)[0]


@pipeline
def datatree(root: Path) -> Any:
    return xr.DataTree.from_dict({"/": field()[["p"]], "/a": field() * 2, "/a/b": field().mean("time")})


def identify_all(root: Path, names: list[str] | None = None, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Give each pipeline's token and its blocks' tokens, or why it has none.

    Parameters
    ----------
    root : Path
        What `write_sources` wrote to.
    names : list of str, optional
        Which pipelines; by default all.
    seed : int, optional
        Of the order in which everything is asked: pipelines, layers, tasks and blocks.

    Returns
    -------
    dict
        By name: ``whole``, ``blocks``, and ``tasks``, which is ``blocks`` as the materialised graph gives them.
    """
    order = random.Random(seed)
    shared = Fingerprinter()
    found: dict[str, dict[str, Any]] = {}
    for name in shuffled(names or PIPELINES, order):
        obj = PIPELINES[name](root)
        _, arrays = outline(obj)
        graph = reordered(HighLevelGraph.merge(*(array.dask for array in arrays.values())), order)
        tasks = dict(shuffled(dict(graph).items(), order))
        keys = {f"{path}{list(key[1:])}": key for path, array in arrays.items() for key in keys_of([array])}
        try:
            whole = obj.cache.token if hasattr(obj, "cache") else token(obj)
        except UncacheableError as error:
            whole = str(error)
        found[name] = {
            "whole": whole,
            "blocks": ask(GraphTokens(graph, Fingerprinter()), keys, order),
            "tasks": ask(GraphTokens(tasks, shared), keys, order),
        }
    return found


def ask(tokens: GraphTokens, keys: dict[str, Any], order: random.Random) -> dict[str, str]:
    """Ask for the tokens of blocks, and of some that they need, in another order each time."""
    for key in shuffled(keys.values(), order)[:2]:
        for needed in shuffled(sorted(tokens.inputs(key), key=str), order):
            tokens.token(needed)
    found = {}
    for name, key in shuffled(keys.items(), order):
        block = tokens.token(key)
        found[name] = str(tokens.reason(key)) if block is None else block.hex()
    return {name: found[name] for name in keys}


def shuffled(items: Iterable[Any], order: random.Random) -> list[Any]:
    """Give items in another order."""
    items = list(items)
    return order.sample(items, len(items))


def reordered(graph: HighLevelGraph, order: random.Random) -> HighLevelGraph:
    """Give the same graph with its layers in another order."""
    names = shuffled(graph.layers, order)
    return HighLevelGraph(
        {name: graph.layers[name] for name in names},
        {name: set(shuffled(graph.dependencies[name], order)) for name in shuffled(names, order)},
    )


if __name__ == "__main__":
    json.dump(identify_all(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])), sys.stdout)

"""Objects that real pipelines carry, by library: each maker gives objects that differ in value, by name.

Run as a program it prints the digest of each, for another process to compare.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter

MAKERS: dict[str, Callable[[], dict[str, Any]]] = {}


def needs(library: str) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Put a maker into the table, under the library that it needs."""

    def record(maker: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        MAKERS[library] = maker
        return maker

    return record


@needs("pint")
def _pint() -> dict[str, Any]:
    import pint

    registry = pint.UnitRegistry()
    quantity = registry.Quantity
    return {
        "speed": quantity(3.0, "m/s"),
        "length": quantity(3.0, "m"),
        "other value": quantity(4.0, "m"),
        "array": quantity(np.arange(3.0), "m"),
        "other unit": quantity(np.arange(3.0), "km"),
        "unit": registry.Unit("K"),
        "of the application": pint.get_application_registry().Quantity(7.0, "m"),
    }


@needs("scipy")
def _scipy() -> dict[str, Any]:
    from scipy import interpolate, signal, sparse, spatial, special, stats

    x, points = np.arange(5.0), np.random.RandomState(0).rand(9, 2)
    matrices = {
        kind: getattr(sparse, kind)(np.eye(3))
        for kind in (
            "csr_matrix",
            "csc_matrix",
            "coo_matrix",
            "dia_matrix",
            "lil_matrix",
            "dok_matrix",
            "bsr_matrix",
        )
    }
    seeded = stats.norm(0, 1)
    seeded.random_state = 5
    return {
        **matrices,
        "csr_array": sparse.csr_array(np.eye(3)),
        "other values": sparse.csr_matrix(np.eye(3) * 2),
        "other shape": sparse.csr_matrix(np.eye(3, 4)),
        "normal": stats.norm(0, 1),
        "wider": stats.norm(0, 2),
        "seeded": seeded,
        "gamma": stats.gamma,
        "histogram": stats.rv_histogram(np.histogram(x)),
        "other histogram": stats.rv_histogram(np.histogram(x**2)),
        "interp1d": interpolate.interp1d(x, x**2),
        "other interp1d": interpolate.interp1d(x, x**3),
        "spline": interpolate.CubicSpline(x, x**2),
        "grid": interpolate.RegularGridInterpolator((x,), x),
        "scattered": interpolate.LinearNDInterpolator(points, np.arange(9.0)),
        "ufunc": special.gamma,
        "tree": spatial.cKDTree(np.eye(3)),
        "other tree": spatial.cKDTree(np.eye(3) * 2),
        "triangles": spatial.Delaunay(points),
        "rotation": spatial.transform.Rotation.from_euler("x", 1),
        "other rotation": spatial.transform.Rotation.from_euler("x", 2),
        "function": signal.detrend,
    }


@needs("shapely")
def _shapely() -> dict[str, Any]:
    import shapely

    polygon = shapely.Polygon([(0, 0), (1, 0), (1, 1)])
    return {
        "polygon": polygon,
        "with a hole": shapely.Polygon([(0, 0), (9, 0), (9, 9)], [[(2, 1), (3, 1), (3, 2)]]),
        "several": shapely.MultiPolygon([polygon]),
        "point": shapely.Point(1, 2),
        "in space": shapely.Point(1, 2, 3),
        "with a reference": shapely.set_srid(shapely.Point(1, 2), 4326),
        "array": np.array([polygon, polygon]),
        "tree": shapely.STRtree([polygon]),
    }


@needs("geopandas")
def _geopandas() -> dict[str, Any]:
    import geopandas
    import shapely

    points = [shapely.Point(1, 2)]
    series = geopandas.GeoSeries(points, crs=4326)
    return {
        "series": series,
        "other projection": geopandas.GeoSeries(points, crs=3857),
        "no projection": geopandas.GeoSeries(points),
        "other point": geopandas.GeoSeries([shapely.Point(1, 3)], crs=4326),
        "array": series.values,
        "frame": geopandas.GeoDataFrame({"a": [1]}, geometry=series),
        "other column": geopandas.GeoDataFrame({"a": [2]}, geometry=series),
    }


@needs("pyproj")
def _pyproj() -> dict[str, Any]:
    import pyproj

    return {
        "crs": pyproj.CRS.from_epsg(4326),
        "other crs": pyproj.CRS.from_epsg(3857),
        "transformer": pyproj.Transformer.from_crs(4326, 3857),
        "other order": pyproj.Transformer.from_crs(4326, 3857, always_xy=True),
        "geod": pyproj.Geod(ellps="WGS84"),
        "other geod": pyproj.Geod(ellps="airy"),
        "proj": pyproj.Proj("epsg:3857"),
    }


@needs("sklearn")
def _sklearn() -> dict[str, Any]:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.neighbors import BallTree, KDTree
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.RandomState(0).rand(20, 3)
    y = x.sum(1)
    return {
        "fitted": LinearRegression().fit(x, y),
        "fitted otherwise": LinearRegression().fit(x, 2 * y),
        "not fitted": LinearRegression(),
        "other setting": Ridge(alpha=2),
        "setting": Ridge(alpha=3),
        "components": PCA(2, random_state=0).fit(x),
        "pipeline": make_pipeline(StandardScaler(), Ridge()).fit(x, y),
        "forest": RandomForestRegressor(3, random_state=0).fit(x, y),
        "clusters": KMeans(2, random_state=0, n_init=1).fit(x),
        "tree": KDTree(x),
        "balls": BallTree(x),
    }


@needs("attrs")
def _attrs() -> dict[str, Any]:
    import attrs

    @attrs.define
    class Grid:
        size: int
        names: list[str] = attrs.field(factory=list)

    @attrs.frozen
    class Frozen:
        size: int

    @attrs.define
    class Checked:
        size: int = attrs.field(converter=int, validator=attrs.validators.instance_of(int))

    return {
        "grid": Grid(1, ["a"]),
        "other size": Grid(2, ["a"]),
        "other names": Grid(1, ["b"]),
        "frozen": Frozen(1),
        "frozen otherwise": Frozen(2),
        "checked": Checked(1),
        "class": Grid,
        "frozen class": Frozen,
    }


@needs("pydantic")
def _pydantic() -> dict[str, Any]:
    import pydantic

    class Model(pydantic.BaseModel):
        size: int = 1
        names: list[str] = []

        @pydantic.field_validator("size")
        @classmethod
        def _check(cls, value: int) -> int:
            return value

    class Derived(Model):
        title: str = "a"

    class Frozen(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        size: pydantic.PositiveInt = 1

    class Bounded(pydantic.BaseModel):
        size: int = pydantic.Field(1, gt=0)

    class BoundedOtherwise(pydantic.BaseModel):
        size: int = pydantic.Field(1, gt=-1)

    BoundedOtherwise.__name__ = "Bounded"
    return {
        "model": Model(),
        "other size": Model(size=2),
        "derived": Derived(),
        "frozen": Frozen(),
        "class": Model,
        "bounded": Bounded,
        "bounded otherwise": BoundedOtherwise,
        "adapter": pydantic.TypeAdapter(list[int]),
        "other adapter": pydantic.TypeAdapter(list[float]),
    }


@needs("xgcm")
def _xgcm() -> dict[str, Any]:
    import xarray as xr
    import xgcm

    coords = {"x": ("x", np.arange(4)), "g": ("g", np.arange(4) + 0.5)}
    axes = {"X": {"center": "x", "right": "g"}}

    def grid(**options: Any) -> Any:
        return xgcm.Grid(xr.Dataset(coords=coords), coords=axes, autoparse_metadata=False, **options)

    return {"grid": grid(), "other padding": grid(padding="extend")}


@needs("sparse")
def _weights() -> dict[str, Any]:
    import sparse
    import xarray as xr

    weights = sparse.COO(np.array([[0, 1], [1, 0]]), np.array([1.0, 2.0]), shape=(2, 2))
    array = xr.DataArray(weights, dims=("out", "in"))
    return {
        "coo": weights,
        "other values": weights * 2,
        "gcxs": sparse.GCXS(weights),
        "array": array,
        "dataset": xr.Dataset({"weights": array}),
        "regridder": _Regridder(array, "bilinear"),
        "other method": _Regridder(array, "nearest"),
        "other weights": _Regridder(array * 3, "bilinear"),
    }


class _Regridder:
    def __init__(self, weights: Any, method: str) -> None:
        self.weights = weights
        self.method = method

    def __call__(self, array: Any) -> Any:
        return array @ self.weights


@needs("numba")
def _numba() -> dict[str, Any]:
    import numba

    step = 3

    @numba.njit
    def add(x: Any) -> Any:
        return x + 1

    @numba.njit
    def subtract(x: Any) -> Any:
        return x - 1

    @numba.njit(fastmath=True)
    def quick(x: Any) -> Any:
        return x + 1

    @numba.njit
    def call(x: Any) -> Any:
        return add(x) + step

    @numba.vectorize(["float64(float64)"])
    def ufunc(x: Any) -> Any:
        return x + 1

    @numba.vectorize
    def lazy(x: Any) -> Any:
        return x + 1

    @numba.guvectorize(["void(float64[:], float64[:])"], "(n)->(n)")
    def general(x: Any, out: Any) -> None:
        out[:] = x

    @numba.stencil
    def stencil(a: Any) -> Any:
        return a[0] + a[1]

    @numba.cfunc("float64(float64)")
    def callback(x: float) -> float:
        return x

    if "--called" in sys.argv:
        # What it has compiled so far is no part of a function.
        add(1), call(2.0), lazy(3.0)
    return {
        "add": add,
        "subtract": subtract,
        "quick": quick,
        "call": call,
        "ufunc": ufunc,
        "lazy": lazy,
        "general": general,
        "stencil": stencil,
        "callback": callback,
    }


@needs("numpy")
def _numpy() -> dict[str, Any]:
    advanced = np.random.default_rng(5)
    advanced.random()
    return {
        "generator": np.random.default_rng(5),
        "other seed": np.random.default_rng(6),
        "advanced": advanced,
        "random state": np.random.RandomState(5),
        "bits": np.random.PCG64(5),
        "other bits": np.random.Philox(5),
        "seeds": np.random.SeedSequence(5),
        "child": np.random.SeedSequence(5).spawn(1)[0],
    }


def digests(library: str) -> dict[str, str]:
    """Give the digest of each of a library's objects, or why it has none."""
    found = {}
    for name, obj in MAKERS[library]().items():
        try:
            found[name] = Fingerprinter().fingerprint(obj).hex()
        except UncacheableError as error:
            found[name] = f"refused: {error}"
    return found


if __name__ == "__main__":
    for library in MAKERS:
        try:
            importlib.import_module(library)
        except ImportError:
            continue
        for name, digest in digests(library).items():
            print(f"{library}: {name}: {digest}")

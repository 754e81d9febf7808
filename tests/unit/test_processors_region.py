"""Cropping in space: either convention of longitudes, across the seam, polygons, tables."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from daskcache import region
from daskcache.errors import InvalidInputError
from daskcache.processors import Area

LATS = np.arange(-90, 91, 10)
CONVENTIONS = {
    "from 0": np.arange(0, 360, 10),
    "from -180": np.arange(-180, 180, 10),
    "descending": np.arange(350, -1, -10),
    "single": np.arange(0, 360, 10, "f4"),
}


def world(lons: np.ndarray, lats: np.ndarray = LATS) -> xr.DataArray:
    """Values that tell where they are from: latitude * 1000 + longitude from 0 to 359."""
    values = lats[:, None] * 1000.0 + np.mod(lons, 360)
    return xr.DataArray(values, {"lat": lats, "lon": lons}, ("lat", "lon"), "v")


def crop(data, area):
    return region()(lambda: data)(region=area)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("area", "east"),
    [
        ((10, -20, 40, 20), [10, 20, 30, 40]),
        ((-20, -20, 10, 20), [340, 350, 0, 10]),
        ((340, -20, 10, 20), [340, 350, 0, 10]),
        ((340, -20, 370, 20), [340, 350, 0, 10]),
        ((170, -20, -170, 20), [170, 180, 190]),
        ((170, -20, 190, 20), [170, 180, 190]),
        ((-190, -20, -170, 20), [170, 180, 190]),
        ((175, -20, 185, 20), [180]),
        ((0, -20, 0, 20), [0]),
        ((-60, 20, -30, -20), [300, 310, 320, 330]),
    ],
)
def test_boxes(convention, area, east) -> None:
    found = crop(world(CONVENTIONS[convention]), area)
    if convention == "descending":
        east = east[::-1]
    np.testing.assert_array_equal(np.mod(found.lon, 360), east)
    np.testing.assert_array_equal(found.lat, [-20, -10, 0, 10, 20])
    np.testing.assert_array_equal(found, found.lat.values[:, None] * 1000.0 + east)
    # Labels are those of the data.
    assert set(found.lon.values) <= set(CONVENTIONS[convention])
    assert found.dtype == "f8"


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("area", [(-180, -90, 180, 90), (0, -90, 360, 90), {"lat": (-90, 90)}, {}, None])
def test_all_around_changes_nothing(convention, area) -> None:
    data = world(CONVENTIONS[convention])
    xr.testing.assert_identical(crop(data, area), data)


def test_mappings_and_descending_latitudes() -> None:
    data = world(CONVENTIONS["from 0"], LATS[::-1])
    for box in [{"lat": (0, 30)}, {"latitude": (30, 0)}, {"lat": slice(30, 0)}]:
        found = crop(data, box)
        np.testing.assert_array_equal(found.lat, [30, 20, 10, 0])
        assert found.sizes["lon"] == 36
    assert crop(data, {"lon": (-10, 10)}).shape == (19, 3)


def test_a_meridian_that_is_there_twice_comes_once_across_the_seam() -> None:
    data = world(np.arange(0, 361, 10))
    np.testing.assert_array_equal(crop(data, (-10, 0, 10, 0)).lon, [350, 0, 10])
    assert crop(data, None).sizes["lon"] == 37


def test_single_precision_does_not_lose_the_edge() -> None:
    lons = (np.arange(3600) * 0.1).astype("f4")
    found = crop(world(lons), (10.1, 0, 10.3, 0))
    np.testing.assert_allclose(found.lon, [10.1, 10.2, 10.3], rtol=1e-6)
    found = crop(world(lons), (-0.1, 0, 0.1, 0))
    np.testing.assert_allclose(np.mod(found.lon, 360), [359.9, 0, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        (1, 2, 3),
        (0, -91, 10, 0),
        (0, 0, 900, 0),
        (0, float("nan"), 10, 0),
        "Europe",
        {"lat": 3},
        {"lat": (0, 1), "time": (0, 1)},
        (True, 0, 1, 1),
        5,
    ],
)
def test_what_is_no_region_is_refused(wrong) -> None:
    with pytest.raises(InvalidInputError, match="region"):
        Area.parse(wrong)


def test_a_region_without_data_is_refused() -> None:
    data = world(CONVENTIONS["from 0"]).sel(lat=slice(0, 30))
    with pytest.raises(InvalidInputError, match="no data in the region"):
        crop(data, (0, -40, 50, -30))


def test_what_has_no_places_is_refused() -> None:
    for result in [3, xr.Dataset({"a": 1}), np.ones(3)]:
        with pytest.raises(InvalidInputError, match="'lat'"):
            crop(result, (0, 0, 1, 1))


def curvilinear() -> xr.Dataset:
    y, x = np.mgrid[0:10, 0:12]
    coords = {"lat": (("y", "x"), 40.0 + y + x * 0.1), "lon": (("y", "x"), 355.0 + x - y * 0.1)}
    return xr.Dataset({"v": (("y", "x"), y * 100.0 + x), "n": ("y", np.arange(10))}, coords)


def test_curvilinear_grids_are_cropped_and_masked() -> None:
    data = curvilinear()
    found = crop(data, (-2, 42, 2, 45))
    inside = (data.lat >= 42) & (data.lat <= 45) & (np.mod(data.lon + 2, 360) <= 4)
    assert found.sizes["y"] < 10
    assert found.sizes["x"] < 12
    assert int(found.v.notnull().sum()) == int(inside.sum()) > 0
    assert found.v.sum() == data.v.where(inside).sum()
    assert found.n.dtype == data.n.dtype


def test_stations() -> None:
    stations = xr.Dataset(
        {"v": ("station", [1, 2, 3])}, {"lat": ("station", [50, 0, 51]), "lon": ("station", [10, 10, 370])}
    )
    assert crop(stations, (5, 45, 15, 55)).v.values.tolist() == [1, 3]


def test_lazy_results_stay_lazy_and_are_cut_at_blocks() -> None:
    data = world(CONVENTIONS["from 0"]).chunk(lat=5, lon=6)
    processor = region()
    area = Area.parse((-10, -20, 10, 20))
    found = processor.process(data, area)
    assert found.chunks is not None
    xr.testing.assert_identical(found.compute(), processor.process(data.compute(), area))
    box = Area.parse((70, 0, 80, 10))
    trimmed = processor.trim(data, box)
    assert trimmed.chunks == ((5, 5), (6,))
    xr.testing.assert_identical(processor.process(trimmed, box), processor.process(data, box))


def points() -> pd.DataFrame:
    return pd.DataFrame(
        {"lat": [0.0, 10.0, 20.0, 50.0], "lon": [-175.0, 178.0, 10.0, 182.0], "v": [1, 2, 3, 4]}
    )


def test_tables() -> None:
    area = (170, -20, -170, 20)
    assert crop(points(), area).v.tolist() == [1, 2]
    assert crop(points().set_index(["lat", "lon"]), area).v.tolist() == [1, 2]
    assert crop(dd.from_pandas(points(), npartitions=2), area).compute().v.tolist() == [1, 2]
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    lists = {name: points()[name].to_list() for name in points()}
    assert crop(pl.DataFrame(lists), area)["v"].to_list() == [1, 2]
    assert crop(pl.LazyFrame(lists), area).collect()["v"].to_list() == [1, 2]
    assert crop(pa.table(lists), area)["v"].to_pylist() == [1, 2]


@pytest.mark.parametrize("convention", ["from 0", "from -180"])
def test_polygons(convention) -> None:
    shapely = pytest.importorskip("shapely")
    triangle = shapely.Polygon([(-30, -20), (30, -20), (0, 40)])
    found = crop(world(CONVENTIONS[convention]), triangle)
    np.testing.assert_array_equal(np.mod(found.lon, 360), [330, 340, 350, 0, 10, 20, 30])
    np.testing.assert_array_equal(found.lat, [-20, -10, 0, 10, 20, 30, 40])
    east = np.array([-30, -20, -10, 0, 10, 20, 30])
    for lat in found.lat.values:
        inside = [triangle.intersects(shapely.Point(lon, lat)) for lon in east]
        np.testing.assert_array_equal(found.sel(lat=lat).notnull(), inside)


def test_polygons_across_the_date_line_and_of_other_reference_systems() -> None:
    shapely = pytest.importorskip("shapely")
    gpd = pytest.importorskip("geopandas")
    across = shapely.box(170, -10, 190, 10)
    assert crop(world(CONVENTIONS["from -180"]), across).shape == (3, 3)
    frame = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 20, 10), shapely.box(20, 0, 30, 10)], crs=4326)
    for given in (frame, frame.geometry, frame.to_crs(3857)):
        found = crop(world(CONVENTIONS["from 0"]), given)
        assert found.sizes["lon"] >= 3
        assert float(found.max()) <= 10_030
    with pytest.raises(InvalidInputError, match="polygon"):
        Area.parse(shapely.Point(1, 1))


def test_geometries_are_chosen_by_what_they_meet() -> None:
    shapely = pytest.importorskip("shapely")
    gpd = pytest.importorskip("geopandas")
    boxes = [shapely.box(0, 0, 5, 5), shapely.box(-8, 0, -2, 5), shapely.box(100, 0, 105, 5)]
    frame = gpd.GeoDataFrame({"v": [1, 2, 3]}, geometry=boxes, crs=4326)
    assert crop(frame, (355, -10, 364, 10)).v.tolist() == [1, 2]
    assert crop(frame.to_crs(3857), (355, -10, 364, 10)).v.tolist() == [1, 2]


def test_what_is_covered() -> None:
    processor = region()
    stored = processor.coverage(None, Area.parse((170, -20, -150, 20)))
    for area, inside in [
        ((170, -20, -150, 20), True),
        ((-179, 0, -160, 10), True),
        ((181, 0, 200, 10), True),
        ((160, 0, 175, 10), False),
        ((175, 0, 180, 30), False),
        (None, False),
    ]:
        assert processor.covers(stored, Area.parse(area)) is inside, area
    assert processor.covers(processor.coverage(None, None), Area.parse((0, 0, 1, 1)))

"""What plain xarray makes of a manifest, with daskcache out of reach."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskcache import stores
from daskcache.errors import InvalidInputError
from daskcache.manifest import Manifest, Node, StoredVariable, to_kerchunk
from tests.manifests import manifest_of, store_dataset, store_variable


def write(root: Path, manifest: Manifest) -> str:
    path = root / "manifest.json"
    path.write_bytes(to_kerchunk(manifest, str(root)))
    return str(path)


def open_plain(path: str, opener: Any = xr.open_dataset, overrides: Any = None, **options: Any) -> Any:
    storage_options = {"fo": path, **({"template_overrides": overrides} if overrides else {})}
    backend = {"consolidated": False, "storage_options": storage_options}
    return opener("reference://", engine="zarr", backend_kwargs=backend, **options)


def times(unit: str = "us") -> np.ndarray[Any, Any]:
    return np.array(["2000-01-01", "NaT", "2000-01-03T00:00:01"], f"M8[{unit}]")


def rich() -> xr.Dataset:
    return xr.Dataset(
        {
            "t2m": (
                ("time", "lat"),
                np.arange(6, dtype=">f4").reshape(3, 2),
                {"units": "K", "range": [0.5, 2]},
            ),
            "flag": ("time", np.array([True, False, True])),
            "wave": ("lat", np.array([1 + 2j, np.nan])),
            "name": ("time", np.array(["a", "", "bé"])),
            "note": ("time", np.array(["x", "yy", ""], object)),
            "code": ("time", np.array([b"ab", b"", b"c"], "S2")),
            "span": ("time", np.array([1, "NaT", 3], "m8[ms]")),
            "scalar": ((), np.float64(3.5)),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
            "nothing": (("none", "lat"), np.zeros((0, 2), "i2")),
            "big": ("lat", np.array([1, 2], ">i8")),
        },
        {
            "time": ("time", times()),
            "lat": ("lat", np.array([1.0, 2.0])),
            "height": ((), 2.0, {"units": "m"}),
            "label": ("lat", ["n", "s"]),
            "model_day": (
                "time",
                [
                    cftime.DatetimeNoLeap(1850, 2, 28),
                    cftime.DatetimeNoLeap(1850, 3, 1, 0, 0, 0, 7),
                    cftime.DatetimeNoLeap(2200, 1, 1),
                ],
            ),
            "lonely": ("other", [1, 2, 3]),
        },
        {"title": "all there is", "version": 1},
    )


@pytest.mark.filterwarnings("ignore:The data type")  # Zarr has no stable specification of fixed-length bytes
@pytest.mark.parametrize("chunked", [False, True])
def test_everything_comes_back(tmp_path: Path, chunked: bool) -> None:
    dataset = rich()
    if chunked:
        names = ["t2m", "name", "span", "flag", "big", "scalar", "nothing"]
        dataset = dataset.assign({name: dataset[name].chunk() for name in names}).chunk(time=2, lat=1)
        dataset = dataset.assign_coords(rich().coords).assign(note=rich().note, code=rich().code)
    dataset.t2m.encoding.update(grid_mapping="crs", scale_factor=0.1, _FillValue=3)
    plain = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)))
    expected = dataset.assign(t2m=dataset.t2m.assign_attrs(grid_mapping="crs"))
    xr.testing.assert_identical(plain.load(), expected.load())
    assert set(plain.coords) == set(dataset.coords)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["M", "m"])
def test_times_decode_equal(tmp_path: Path, unit: str, kind: str) -> None:
    values = times(unit) if kind == "M" else np.array([-1, "NaT", 2**40], f"m8[{unit}]")
    dataset = xr.Dataset({"when": ("x", values)}).chunk(x=2)
    plain = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)))
    assert plain.when.dtype.kind == kind
    np.testing.assert_array_equal(plain.when.values, values)
    raw = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)), decode_cf=False)
    np.testing.assert_array_equal(raw.when.values, values.view("i8"))


def test_values_survive_to_the_bit(tmp_path: Path) -> None:
    values = np.array([0x7FF8000000000ABC, 0x8000000000000000, 0], "<u8").view("f8")
    dataset = xr.Dataset({"x": ("i", values, {})}).chunk(i=2)
    dataset.x.encoding["_FillValue"] = 0.0
    plain = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)))
    assert plain.x.values.tobytes() == values.tobytes()


def test_undecoded_fill_value_can_be_opened(tmp_path: Path) -> None:
    for dtype, fill in [
        ("f4", np.float32(9)),
        ("i2", np.int16(9)),
        ("U1", "9"),
        ("?", True),
        ("c8", np.complex64(9)),
    ]:
        dataset = xr.Dataset({"x": ("i", np.zeros(2, dtype), {"_FillValue": fill})})
        plain = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)), mask_and_scale=False)
        assert dtype in ("c8", "U1") or plain.x.attrs["_FillValue"] == fill


def test_coordinates(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"a": (("y", "x"), np.zeros((2, 2))), "b": ("x", [1, 2])},
        {"lon": (("y", "x"), np.ones((2, 2))), "lat": (("y", "x"), np.ones((2, 2))), "h": 1, "two words": 2},
    )
    dataset.a.encoding["coordinates"] = "lon"
    document = json.loads(to_kerchunk(manifest_of(tmp_path, dataset), str(tmp_path)))
    attributes = {
        name: json.loads(document["refs"][f"{name}zarr.json"])["attributes"] for name in ("", "a/", "b/")
    }
    assert attributes == {
        "": {"coordinates": "lat"},
        "a/": {"coordinates": "lon"},
        "b/": {"coordinates": "h"},
    }
    plain = open_plain(write(tmp_path, manifest_of(tmp_path, dataset)))
    assert set(plain.coords) == {"lon", "lat", "h"}


def test_datatree(tmp_path: Path) -> None:
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"a": ("x", [1, 2])}, {"x": [0, 1]}, {"at": "root"}),
            "/deep/er": xr.Dataset({"b": ("x", [1.0, 2.0])}, {"h": 3}, {"at": "leaf"}).chunk(x=1),
            "/deep": xr.Dataset(attrs={"at": "middle"}),
        }
    )
    path = write(tmp_path, manifest_of(tmp_path, tree))
    xr.testing.assert_identical(open_plain(path, xr.open_datatree).load(), tree.load())
    leaf = open_plain(path, group="deep/er")
    xr.testing.assert_identical(leaf.load(), tree["deep/er"].to_dataset(inherit=False).load())


@pytest.mark.parametrize("name", ["t", None, "x"])
def test_dataarray(tmp_path: Path, name: str | None) -> None:
    array = xr.DataArray([1, 2], {"x": [3, 4]}, "x", name=name, attrs={"units": "K"})
    plain = open_plain(write(tmp_path, manifest_of(tmp_path, array)), xr.open_dataarray)
    xr.testing.assert_identical(plain, array)


@pytest.mark.parametrize("options", [{}, {"consolidated": None}, {"consolidated": True}])
def test_consolidated_or_not(tmp_path: Path, options: Any) -> None:
    dataset = xr.Dataset({"a": ("x", [1, 2])})
    path = write(tmp_path, manifest_of(tmp_path, dataset))
    plain = xr.open_dataset("reference://", engine="zarr", storage_options={"fo": path}, **options)
    xr.testing.assert_identical(plain, dataset)


irregular = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=25)
@given(st.tuples(irregular, irregular), st.booleans())
def test_any_grid(tmp_path_factory: pytest.TempPathFactory, chunks: Any, wide: bool) -> None:
    root = tmp_path_factory.mktemp("grid")
    tail = ((9000,),) if wide else ()
    shape = tuple(sum(dim) for dim in (*chunks, *tail))
    values = np.arange(1, np.prod(shape, dtype=int) + 1, dtype="f8").reshape(shape)
    variable = xr.Variable(("a", "b", "c")[: len(shape)], values)
    stored = store_variable(str(root), "v", variable, chunks=(*chunks, *tail))
    path = write(root, Manifest.build("dataset", (stored,)))
    with zarr.config.set({"array.rectilinear_chunks": True}):
        np.testing.assert_array_equal(open_plain(path).v.values, values)


def test_irregular_blocks_with_large_inner_chunks_need_no_setting(tmp_path: Path) -> None:
    values = np.arange(7 * 10000, dtype="f8").reshape(7, 10000)
    stored = store_variable(
        str(tmp_path), "v", xr.Variable(("a", "b"), values), chunks=((2, 4, 1), (8500, 1500))
    )
    assert stored.grid.kind == "inner"
    np.testing.assert_array_equal(
        open_plain(write(tmp_path, Manifest.build("dataset", (stored,)))).v.values, values
    )


def test_hinted_inner_chunks_are_shards(tmp_path: Path) -> None:
    values = np.arange(40.0).reshape(4, 10)
    variable = xr.Variable(("a", "b"), values)
    stored = store_variable(str(tmp_path), "v", variable, chunks=((2, 2), (10,)), inner_shape=(1, 3))
    np.testing.assert_array_equal(
        open_plain(write(tmp_path, Manifest.build("dataset", (stored,)))).v.values, values
    )
    stored = store_variable(str(tmp_path), "v", variable, chunks=((2, 2), (5, 5)), inner_shape=(1, 3))
    with pytest.raises(InvalidInputError, match="do not divide its blocks"):
        to_kerchunk(Manifest.build("dataset", (stored,)), "/r")


def test_missing_offsets_are_refused(tmp_path: Path) -> None:
    values = np.zeros((3, 9000))
    stored = store_variable(str(tmp_path), "v", xr.Variable(("a", "b"), values), chunks=((1, 2), (9000,)))
    fields = {name: getattr(stored, name) for name in stored.__dataclass_fields__}
    for inner, message in [
        (None, "are missing"),
        (stored.inner[:-1], "has 2 offsets of inner chunks; expected 3"),
    ]:
        broken = StoredVariable(**{**fields, "inner": inner})
        with pytest.raises(InvalidInputError, match=message):
            to_kerchunk(Manifest.build("dataset", (broken,)), "/r")


def test_a_missing_object_raises(tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": ("x", np.arange(4.0))}).chunk(x=2)
    path = write(tmp_path, manifest_of(tmp_path, dataset))
    next(file for file in (tmp_path / "chunks").rglob("*") if file.is_file()).unlink()
    with pytest.raises(RuntimeError, match="Reference"):
        open_plain(path).load()


def test_moved_store(tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": ("x", np.arange(4.0))}).chunk(x=2)
    (tmp_path / "old").mkdir()
    write(tmp_path / "old", manifest_of(tmp_path / "old", dataset))
    (tmp_path / "old").rename(tmp_path / "new")
    path = str(tmp_path / "new" / "manifest.json")
    with pytest.raises(RuntimeError, match="Reference"):
        open_plain(path).load()
    moved = open_plain(path, overrides={"root": str(tmp_path / "new")})
    xr.testing.assert_identical(moved.load(), dataset.load())


def test_document_has_no_credentials() -> None:
    manifest = Manifest.build("dataset", (), nodes={"": Node({})}, info={"recipe": [["f", "00"]]})
    text = to_kerchunk(manifest, "s3://key:secret@bucket/cache/?signature=xyz").decode()
    assert "secret" not in text
    assert "xyz" not in text
    document = json.loads(text)
    assert document["templates"] == {"root": "s3://bucket/cache"}
    assert document["daskcache"] == {
        "format": 0, "kind": "dataset", "name": None, "version": manifest.version, "recipe": [["f", "00"]]
    }  # fmt: skip


READER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "daskcache":
            raise ImportError("daskcache is out of reach")

sys.meta_path.insert(0, Refuse())
import xarray as xr

plain = xr.open_dataset(
    "reference://",
    engine="zarr",
    backend_kwargs={"consolidated": False, "storage_options": {"fo": sys.argv[1]}},
)
expected = xr.open_dataset(sys.argv[2], engine="netcdf4")
xr.testing.assert_identical(plain.load(), expected.load())
assert not any(name.partition(".")[0] == "daskcache" for name in sys.modules)
print("equal", sorted(plain.variables))
"""


def test_a_process_without_daskcache(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"t2m": (("time", "x"), np.arange(6.0).reshape(3, 2), {"units": "K"})},
        {"time": np.array(["2000-01-01", "2000-01-02", "2000-01-03"], "M8[ns]"), "name": ("x", ["a", "b"])},
    )
    dataset.to_netcdf(tmp_path / "expected.nc", engine="netcdf4")
    chunked = xr.open_dataset(tmp_path / "expected.nc", engine="netcdf4", chunks={"time": 2})
    path = write(tmp_path, manifest_of(tmp_path, chunked))
    # Isolated: neither the working directory nor the environment's paths lead to daskcache.
    command = [sys.executable, "-I", "-c", READER, path, str(tmp_path / "expected.nc")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal ['name', 't2m', 'time']\n"


def test_memory_root() -> None:
    root = "memory://references"
    dataset = xr.Dataset({"a": ("x", np.arange(4.0))}).chunk(x=2)
    variables, _ = store_dataset(root, dataset)
    assert json.loads(to_kerchunk(Manifest.build("dataset", variables), root))["templates"] == {"root": root}
    assert stores.list_dirs(stores.open(root), "chunks")

"""Sources from end to end: what an edit, a copy or a mirror of a source costs a persist in blocks."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import daskcache
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.places_remote import FsspecPlace
from daskcache.graph import keys_of
from daskcache.tokens import GraphTokens


def dataset() -> xr.Dataset:
    return xr.Dataset(
        {"t": (("time", "x"), np.arange(24.0).reshape(6, 4))},
        coords={"time": np.arange(6), "x": np.arange(4)},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    # All chunks as long as each other.
    encoding = {"t": {"compressors": None}}
    dataset().chunk(time=2).to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def persisted(source: Path, store: str, **settings: Any) -> tuple[int, Any]:
    """Persist something made of a source; give how many blocks were computed, and the values."""
    names = {f"daskcache.{name.replace('_', '.', 1)}": value for name, value in settings.items()}
    with dask.config.set(names):
        kept = daskcache.persist(xr.open_zarr(source, consolidated=False).t * 2, "t", store=store)
        return daskcache.last_run().computed, kept.values


def chunk(source: Path, number: int) -> Path:
    return source / "t" / "c" / str(number) / "0"


def overwrite(path: Path, data: bytes) -> None:
    """Rewrite a file in place and put its time back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


@pytest.mark.parametrize("check", ["chunks", "content"])
def test_a_chunk_rewritten_in_place_with_its_time_restored_is_seen(
    check: str, source: Path, store: str
) -> None:
    assert persisted(source, store, sources_check=check)[0] == 3
    overwrite(chunk(source, 0), np.full(8, 99.0).tobytes())
    computed, values = persisted(source, store, sources_check=check)
    assert computed == 1
    assert values[:3, 0].tolist() == [198.0, 198.0, 16.0]


def test_content_is_known_wherever_it_lies(source: Path, store: str) -> None:
    assert persisted(source, store, sources_check="content")[0] == 3
    chunk(source, 0).write_bytes(chunk(source, 2).read_bytes())
    computed, values = persisted(source, store, sources_check="content")
    assert computed == 0
    assert values[0].tolist() == values[4].tolist()


def test_content_does_not_mind_where_and_when(source: Path, store: str, tmp_path: Path) -> None:
    assert persisted(source, store, sources_check="content")[0] == 3
    moved = tmp_path / "elsewhere" / "other.zarr"
    shutil.copytree(source, moved, copy_function=shutil.copyfile)
    assert persisted(moved, store, sources_check="content")[0] == 0
    assert persisted(moved, store)[0] == 3


@pytest.mark.parametrize("check", ["chunks", "metadata", "none"])
def test_a_mirror_under_an_alias_finds_what_is_stored(
    check: str, source: Path, store: str, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror" / "source.zarr"
    # With the times, as rsync and cp do it when asked.
    shutil.copytree(source, mirror)
    aliases = {str(tmp_path / "mirror"): str(tmp_path)}
    settings = {"sources_check": check, "sources_aliases": aliases}
    assert persisted(source, store, **settings)[0] == 3
    assert persisted(mirror, store, **settings)[0] == 0
    assert persisted(mirror, store, sources_check=check)[0] == 3


@pytest.mark.parametrize(("check", "seen"), [("chunks", 1), ("content", 1), ("metadata", 0), ("none", 0)])
def test_what_each_mode_sees_of_a_changed_chunk(check: str, seen: int, source: Path, store: str) -> None:
    assert persisted(source, store, sources_check=check)[0] == 3
    zarr.open_array(LocalStore(source), path="t")[0, 0] = 99.0
    assert persisted(source, store, sources_check=check)[0] == seen


def test_looking_at_a_source_costs_listings_not_looks() -> None:
    """2,000 chunks of a bucket: two pages of a listing, and not a request for each."""
    calls: Counter[str] = Counter()
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({f"/many/c/{number}": b"1" for number in range(2000)})
    try:
        place = FsspecPlace(_Listed(memory, calls), "many")  # type: ignore[arg-type]
        found = place.look([f"c/{number}" for number in range(2000)], "", 2000)
        assert len(found) == 2000
        assert all(one.stamp is not None for one in found)
        assert calls == {"find": 1}
    finally:
        memory.rm("/many", recursive=True)


class _Listed:
    """A bucket that counts what is asked of it."""

    protocol = "counting"

    def __init__(self, memory: Any, calls: Counter[str]) -> None:
        self._memory, self._calls = memory, calls

    def _strip_protocol(self, path: str) -> str:
        return path.removeprefix("counting://").strip("/")

    def invalidate_cache(self, path: str | None = None) -> None:
        pass

    def info(self, path: str) -> dict[str, Any]:
        self._calls["info"] += 1
        return {"size": 1, "type": "file", "ETag": path}

    def find(self, path: str, detail: bool = False) -> dict[str, Any]:
        self._calls["find"] += 1
        return {
            name.strip("/"): {"size": 1, "type": "file", "ETag": name} for name in self._memory.find(path)
        }


GROUPS = {
    "open_datatree": lambda path, **options: xr.open_datatree(path, chunks={}, **options)[
        "deep/er"
    ].to_dataset(),
    "open_groups": lambda path, **options: xr.open_groups(path, chunks={}, **options)["/deep/er"],
    "open_zarr": lambda path, **options: xr.open_dataset(path, group="deep/er", chunks={}, **options),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("engine", ["zarr", "h5netcdf", "netcdf4"])
def test_groups_are_sources(name: str, engine: str, tmp_path: Path) -> None:
    if engine != "zarr":
        pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    path = tmp_path / ("tree.zarr" if engine == "zarr" else "tree.nc")
    tree = xr.DataTree.from_dict({"/": dataset().rename(t="top"), "/deep/er": dataset().chunk(time=2)})
    if engine == "zarr":
        tree.to_zarr(path, zarr_format=3, consolidated=False)
        options: dict[str, Any] = {"engine": "zarr", "consolidated": False}
    else:
        tree.to_netcdf(path, engine="h5netcdf")
        options = {"engine": engine}

    def tokens() -> list[bytes | None]:
        opened = GROUPS[name](path, **options)
        array = opened.t.chunk(time=2).data
        found = GraphTokens(array.dask, Fingerprinter())
        try:
            return [found.token(key) for key in keys_of([array])]
        finally:
            opened.close()

    before = tokens()
    assert None not in before
    assert len(set(before)) == 3
    assert tokens() == before


def test_trees_persist(source: Path, store: str, tmp_path: Path) -> None:
    path = tmp_path / "tree.zarr"
    xr.DataTree.from_dict({"/a": dataset().chunk(time=2), "/b": dataset().chunk(time=3)}).to_zarr(
        path, consolidated=False
    )

    def build() -> Any:
        return xr.open_datatree(path, engine="zarr", chunks={}, consolidated=False).map_over_datasets(
            lambda node: node * 2
        )

    daskcache.persist(build(), "tree", store=store)
    assert daskcache.last_run().computed == 5
    zarr.open_array(LocalStore(path), path="b/t")[0, 0] = 5.0
    kept = daskcache.persist(build(), "tree", store=store)
    assert daskcache.last_run().computed == 1
    assert kept["b"].t.values[0, 0] == 10.0


def test_kerchunk_references(tmp_path: Path, store: str) -> None:
    pytest.importorskip("h5py")
    hdf = pytest.importorskip("kerchunk.hdf")
    import fsspec

    paths = [tmp_path / f"{number}.nc" for number in range(2)]
    for number, path in enumerate(paths):
        (dataset() + number).to_netcdf(path, engine="h5netcdf")

    def build() -> Any:
        parts = []
        for path in paths:
            with path.open("rb") as file:
                references = hdf.SingleHdf5ToZarr(file, str(path), inline_threshold=0).translate()
            fs = fsspec.filesystem("reference", fo=references, skip_instance_cache=True)
            parts.append(
                xr.open_dataset(
                    fs.get_mapper(""), engine="zarr", chunks={}, backend_kwargs={"consolidated": False}
                ).t
            )
        return xr.concat(parts, "time", join="override")

    daskcache.persist(build(), "k", store=store)
    assert daskcache.last_run().computed == 2
    daskcache.persist(build(), "k", store=store)
    assert daskcache.last_run().computed == 0
    (dataset() + 9).to_netcdf(paths[1], engine="h5netcdf")
    kept = daskcache.persist(build(), "k", store=store)
    assert daskcache.last_run().computed == 1
    assert kept.values[6, 0] == 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_icechunk_snapshots(tmp_path: Path, store: str) -> None:
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "ice")))
    session = repository.writable_session("main")
    dataset().chunk(time=2).to_zarr(session.store, zarr_format=3, consolidated=False)
    session.commit("first")

    def build() -> Any:
        session = repository.readonly_session("main")
        return xr.open_zarr(session.store, consolidated=False).t * 2

    daskcache.persist(build(), "i", store=store)
    assert daskcache.last_run().computed == 3
    session = repository.writable_session("main")
    zarr.open_array(session.store, path="t")[0, 0] = 7.0
    session.commit("second")
    kept = daskcache.persist(build(), "i", store=store)
    # The other chunks are those of the first snapshot.
    assert daskcache.last_run().computed == 1
    assert kept.values[0, 0] == 14.0

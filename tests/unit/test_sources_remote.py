"""Sources that are not local files: buckets, web servers, references to parts of files, Icechunk, memory."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore, ObjectStore

from daskcache.errors import SourceChangedError, UncacheableError
from daskcache.fingerprint.guard import GuardedSource
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.places import clean_url
from daskcache.fingerprint.places_remote import FsspecPlace, ObstorePlace, place_of_filesystem
from daskcache.fingerprint.sources import read_stamps
from tests.source_kinds import tokens_of
from tests.sources import digests_of, make_dataset, rewrite, source_of

SECRET = "mJx7-very-secret"


@pytest.fixture(scope="module")
def moto_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server notes each request."""
    return tmp_path_factory.mktemp("moto") / "log"


@pytest.fixture(scope="module")
def moto(moto_log: Path) -> Iterator[str]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    program = "from moto.server import main; main()"
    with (
        moto_log.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log
        ) as server,
    ):
        try:
            deadline = time.monotonic() + 90
            while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)\s", moto_log.read_text())):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"moto's server did not start: {moto_log.read_text()}")
                time.sleep(0.1)
            yield found[1]
        finally:
            server.terminate()


def obstore_of(options: dict[str, Any], prefix: str) -> Any:
    import obstore

    return obstore.store.S3Store(
        "bucket", prefix=prefix, endpoint=options["endpoint_url"], access_key_id="someone",
        secret_access_key=SECRET, region="us-east-1", client_options={"allow_http": True},
    )  # fmt: skip


class TestBucket:
    """S3, through s3fs and through obstore."""

    @pytest.fixture
    def options(self, moto: str) -> dict[str, Any]:
        options = {"key": "someone", "secret": SECRET, "endpoint_url": moto}
        fs = fsspec.filesystem("s3", **options)
        fs.invalidate_cache()
        if not fs.exists("bucket"):
            fs.mkdir("bucket")
        return options

    def open(self, options: dict[str, Any], name: str, **array: Any) -> zarr.Array[Any]:
        store = FsspecStore.from_url(f"s3://bucket/{name}", storage_options=options)
        if not array:
            return zarr.open_array(store)
        made = zarr.create_array(store, overwrite=True, dtype="i4", compressors=None, **array)
        made[:] = np.arange(made.shape[0])
        return made

    def test_chunks_are_told_by_their_etags(self, options: dict[str, Any]) -> None:
        array = self.open(options, "a", shape=(6,), chunks=(2,))
        before = digests_of(da.from_array(array, chunks=2))
        (stamp,) = source_of(array).stamps((slice(0, 2),)).items()
        assert stamp[0] == "s3://bucket/a/c/0"
        assert stamp[1] is not None
        assert stamp[1][0] == 8
        assert len(stamp[1][1]) == 32
        # An ETag is of the bytes: the same again is no change.
        array[2:4] = [2, 3]
        assert digests_of(da.from_array(array, chunks=2)) == before
        array[2:4] = 7
        after = digests_of(da.from_array(array, chunks=2))
        assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]

    def test_obstore_sees_what_s3fs_sees(self, options: dict[str, Any]) -> None:
        pytest.importorskip("obstore")
        array = self.open(options, "b", shape=(40,), chunks=(2,))
        other = zarr.open_array(ObjectStore(obstore_of(options, "b")))
        assert digests_of(da.from_array(other, chunks=2)) == digests_of(da.from_array(array, chunks=2))
        content = [
            digests_of(da.from_array(a, chunks=20), Fingerprinter(source_check="content"))
            for a in (array, other)
        ]
        assert content[0] == content[1]

    def test_many_chunks_cost_one_listing(
        self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        array = self.open(options, "c", shape=(60,), chunks=(2,))
        looks: list[str] = []
        for place in (FsspecPlace, ObstorePlace):
            for method in ("_see", "_list"):
                original = getattr(place, method)

                def counted(self: Any, key: str, original: Any = original, method: str = method) -> Any:
                    looks.append(method)
                    return original(self, key)

                monkeypatch.setattr(place, method, counted)
        source = source_of(array)
        few = [source.region((slice(2 * i, 2 * i + 2),)) for i in range(5)]
        assert looks == ["_see"] * 5
        many = [source.region((slice(2 * i, 2 * i + 2),)) for i in range(30)]
        assert looks.count("_list") == 1
        assert len(looks) < 12
        assert many[:5] == few
        array[30] = -1
        later = source_of(array)
        again = [later.region((slice(2 * i, 2 * i + 2),)) for i in range(30)]
        assert [i for i in range(30) if again[i] != many[i]] == [15]

    @pytest.mark.slow
    def test_a_thousand_chunks_cost_a_request(self, options: dict[str, Any], moto_log: Path) -> None:
        """On the wire: by the server's own record of what it was asked."""
        pytest.importorskip("obstore")
        count = 1100
        store = FsspecStore.from_url("s3://bucket/many", storage_options=options)
        array = zarr.create_array(store, shape=(count,), chunks=(1,), dtype="i8", compressors=None)
        fs = fsspec.filesystem("s3", **options)
        fs.pipe({f"bucket/many/c/{chunk}": chunk.to_bytes(8, "little") for chunk in range(count)})
        seen = []
        for opened in (array, zarr.open_array(ObjectStore(obstore_of(options, "many")))):
            x = da.from_array(opened, chunks=1)
            for _ in range(2):
                noted = len(moto_log.read_text().splitlines())
                seen.append(digests_of(x))
                asked = [
                    line.split('"')[1] for line in moto_log.read_text().splitlines()[noted:] if '"' in line
                ]
                assert sum("list-type=2" in line for line in asked) == 2
                assert len(asked) <= 2 + 8, asked
                assert all("many" in line for line in asked), asked
                fs.pipe("bucket/many/c/1050", f"{len(seen):8}".encode())
        assert len(set(seen[0])) == count
        # After each edit, whichever client looked.
        assert [chunk for chunk in range(count) if len({digests[chunk] for digests in seen}) > 1] == [1050]
        assert len({digests[1050] for digests in seen}) == len(seen)

    @pytest.mark.parametrize("consolidated", [True, False])
    @pytest.mark.parametrize("url", ["s3://bucket", "memory://"])
    def test_a_group_is_told_chunk_by_chunk(
        self, options: dict[str, Any], url: str, consolidated: bool
    ) -> None:
        storage = options if url.startswith("s3") else None
        url = f"{url}/group-{consolidated}.zarr"

        def write(start: int, stop: int, **how: Any) -> None:
            ds = xr.Dataset(
                {"t": ("time", np.arange(start, stop, dtype="f8"))}, {"time": np.arange(start, stop)}
            )
            ds.chunk(time=2).to_zarr(
                url, storage_options=storage, zarr_format=2, consolidated=consolidated, **how
            )

        def tokens() -> list[str]:
            ds = xr.open_zarr(url, storage_options=storage, consolidated=consolidated)
            return tokens_of((ds.t * 2).data)

        write(0, 6)
        before = tokens()
        assert len(set(before)) == 3
        assert tokens() == before
        zarr.open_group(url, mode="r+", storage_options=storage)["t"][2] = -1.0
        edited = tokens()
        assert [one == other for one, other in zip(before, edited, strict=True)] == [True, False, True]
        write(6, 8, append_dim="time")
        assert tokens()[:3] == edited

    def test_secrets_enter_nothing(self, options: dict[str, Any]) -> None:
        array = self.open(options, "d", shape=(4,), chunks=(2,))
        fingerprinter = Fingerprinter()
        source = source_of(array, fingerprinter)
        before = source.region(())
        told = (source.describe(), source.stamps(()), fingerprinter.sources)
        assert SECRET not in repr(told)
        other = self.open({**options, "key": "other", "secret": "other"}, "d")
        assert source_of(other).region(()) == before

    def test_a_guard_sees_a_change_by_its_etag(self, options: dict[str, Any]) -> None:
        array = self.open(options, "e", shape=(4,), chunks=(2,))
        guarded = GuardedSource(array, read_stamps(array))
        assert guarded[0] == 0
        array[0] = 5
        with pytest.raises(SourceChangedError, match="s3://bucket/e/c/0"):
            guarded[0]
        assert guarded[2] == 2

    def test_netcdf_in_a_bucket(self, options: dict[str, Any], tmp_path: Path) -> None:
        make_dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        fs = fsspec.filesystem("s3", **options)
        fs.put_file(str(tmp_path / "a.nc"), "bucket/a.nc")
        with (
            fs.open("bucket/a.nc") as file,
            xr.open_dataset(file, engine="h5netcdf", chunks={"time": 2}) as dataset,
        ):
            assert source_of(dataset.t).describe() == "s3://bucket/a.nc/t"
            assert len(set(digests_of(dataset.t))) == 3


def test_local_copies_are_refused(tmp_path: Path) -> None:
    for kind in ("simplecache", "filecache", "blockcache"):
        fs = fsspec.filesystem(kind, target_protocol="file", cache_storage=str(tmp_path / kind))
        with pytest.raises(UncacheableError, match="FileSystem, whose copies may be out of date"):
            place_of_filesystem(fs, str(tmp_path))


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files with an ETag, of their times, below ``/tagged``."""

    asked: ClassVar[list[str]] = []

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if "/tagged/" in self.path and path.is_file():
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{path.stat().st_ino}"')
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        self.asked.append(self.requestline)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class TestWeb:
    """HTTP servers, with and without ETags."""

    def write(self, path: Path) -> None:
        array = zarr.create_array(path, shape=(4,), chunks=(2,), dtype="i8")
        array[:2] = 7

    def test_etags_are_required(self, web: str, tmp_path: Path) -> None:
        for name in ("tagged", "plain"):
            self.write(tmp_path / name / "a")
        tagged = zarr.open_array(FsspecStore.from_url(f"{web}/tagged/a", read_only=True))
        before = [source_of(tagged).region((slice(start, start + 2),)) for start in (0, 2)]
        assert list(source_of(tagged).stamps((3,)).values()) == [None]
        rewrite(tmp_path / "tagged/a/c/0")
        after = [source_of(tagged).region((slice(start, start + 2),)) for start in (0, 2)]
        assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
        plain = zarr.open_array(FsspecStore.from_url(f"{web}/plain/a", read_only=True))
        for check in ("chunks", "content"):
            with pytest.raises(UncacheableError, match="has no ETag"):
                source_of(plain, Fingerprinter(source_check=check)).region(())

    def test_each_chunk_costs_a_request_once(self, web: str, tmp_path: Path) -> None:
        """A web server has no listing; whoever minds has the metadata looked at alone."""
        array = zarr.create_array(tmp_path / "tagged/a", shape=(30,), chunks=(1,), dtype="i8")
        array[:] = 7
        tagged = zarr.open_array(FsspecStore.from_url(f"{web}/tagged/a", read_only=True))
        x = da.from_array(tagged, chunks=1)
        for check, expected in (("chunks", 30), ("metadata", 0)):
            _Handler.asked.clear()
            fingerprinter = Fingerprinter(source_check=check)
            assert digests_of(x, fingerprinter) == digests_of(x, fingerprinter)
            assert len(_Handler.asked) == expected
            assert len(set(_Handler.asked)) == expected

    def test_a_server_that_fails_is_not_a_missing_chunk(self, tmp_path: Path) -> None:
        place = FsspecPlace(fsspec.filesystem("memory"), "/")
        place._fs = type("Broken", (), {"invalidate_cache": lambda *_: None, "info": lambda *_: 1 / 0})()
        with pytest.raises(UncacheableError, match=r"cannot look at .*: ZeroDivisionError"):
            place.look(["a"], "", 1)

    @pytest.mark.parametrize(
        ("url", "clean"),
        [
            ("https://u:p@host/a.nc?sig=1#f", "https://host/a.nc"),
            ("s3://key:secret@bucket/a?b", "s3://bucket/a?b"),
            ("/plain/path?x", "/plain/path?x"),
        ],
    )
    def test_urls_are_told_without_secrets(self, url: str, clean: str) -> None:
        assert clean_url(url) == clean


class TestReferences:
    """Kerchunk's references to parts of files."""

    def write(self, path: Path) -> dict[str, Any]:
        for name in ("x", "y"):
            np.arange(4, dtype="<i8").tofile(path / name)
        document = {
            "zarr_format": 2, "shape": [8], "chunks": [2], "dtype": "<i8", "compressor": None, "filters": None,
            "fill_value": 0, "order": "C",
        }  # fmt: skip
        return {
            ".zgroup": '{"zarr_format": 2}',
            "a/.zarray": json.dumps(document),
            "a/.zattrs": '{"_ARRAY_DIMENSIONS": ["x"]}',
            "a/0": [f"file://{path}/x", 0, 16],
            "a/1": [f"file://{path}/x", 16, 16],
            "a/2": [f"file://{path}/y"],
            "a/3": "base64:AAAAAAAAAAABAAAAAAAAAA==",
        }

    def open(self, references: dict[str, Any]) -> da.Array:
        document = {"version": 1, "refs": references}
        backend = {"consolidated": False, "storage_options": {"fo": document}}
        return xr.open_dataset("reference://", engine="zarr", backend_kwargs=backend, chunks={}).a.data

    def test_the_referenced_objects_count(self, tmp_path: Path) -> None:
        references = self.write(tmp_path)
        before = digests_of(self.open(references))
        assert len(set(before)) == 4
        stamps = source_of(self.open(references)).stamps(())
        assert [Path(name).name for name in stamps] == ["x", "y", "3"]
        rewrite(tmp_path / "x")
        after = digests_of(self.open(references))
        assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True, True]
        moved = digests_of(self.open({**references, "a/1": [f"file://{tmp_path}/x", 8, 16]}))
        assert [old == new for old, new in zip(after, moved, strict=True)] == [True, False, True, True]
        inline = digests_of(self.open({**references, "a/3": "base64:AAAAAAAAAAACAAAAAAAAAA=="}))
        assert [old == new for old, new in zip(after, inline, strict=True)] == [True, True, True, False]

    def test_growth_leaves_old_regions_alone(self, tmp_path: Path) -> None:
        references = self.write(tmp_path)
        before = digests_of(self.open(references))
        references["a/.zarray"] = references["a/.zarray"].replace("[8]", "[10]")
        references["a/4"] = [f"file://{tmp_path}/y", 0, 16]
        assert digests_of(self.open(references))[:4] == before

    @pytest.mark.parametrize("check", ["metadata", "content"])
    def test_other_modes(self, tmp_path: Path, check: str) -> None:
        references = self.write(tmp_path)
        before = digests_of(self.open(references), Fingerprinter(source_check=check))
        rewrite(tmp_path / "x")
        assert digests_of(self.open(references), Fingerprinter(source_check=check)) == before
        np.arange(1, 5, dtype="<i8").tofile(tmp_path / "x")
        after = digests_of(self.open(references), Fingerprinter(source_check=check))
        assert (after != before) == (check == "content")


@pytest.mark.filterwarnings("ignore")
class TestIcechunk:
    """Chunks of a snapshot."""

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Any:
        icechunk = pytest.importorskip("icechunk")
        repository = icechunk.Repository.create(
            icechunk.local_filesystem_storage(str(tmp_path / "repository"))
        )
        session = repository.writable_session("main")
        for name in ("inline", "native"):
            size = 4 if name == "inline" else 4000
            array = zarr.create_array(
                session.store, name=name, shape=(3 * size,), chunks=(size,), dtype="i8", compressors=None
            )
            array[:] = np.arange(3 * size)
        session.commit("first")
        return repository

    def digests(self, repository: Any, name: str) -> list[bytes]:
        array = zarr.open_array(repository.readonly_session("main").store, path=name, mode="r")
        return digests_of(da.from_array(array, chunks=array.chunks))

    @pytest.mark.parametrize("name", ["inline", "native"])
    def test_chunks_are_told_by_their_references(self, repository: Any, name: str) -> None:
        before = self.digests(repository, name)
        assert len(set(before)) == 3
        session = repository.writable_session("main")
        array = zarr.open_array(session.store, path=name)
        array[0] = -1
        array.resize((array.shape[0] + array.chunks[0],))
        with pytest.raises(UncacheableError, match="uncommitted"):
            source_of(array).region(())
        session.commit("second")
        after = self.digests(repository, name)
        assert [old == new for old, new in zip(before, after, strict=False)] == [False, True, True]
        assert len(after) == 4


def test_fsspecs_memory_is_told_by_its_bytes() -> None:
    def make(root: str, value: int) -> list[bytes]:
        store = FsspecStore.from_url(f"memory://{root}")
        array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i8", overwrite=True)
        array[:2] = value
        return digests_of(da.from_array(array, chunks=2))

    one, same, other = make("one", 1), make("one", 1), make("one", 2)
    assert one == same
    assert [a == b for a, b in zip(one, other, strict=True)] == [False, True]


def test_obstores_local_and_memory_stores(tmp_path: Path) -> None:
    obstore = pytest.importorskip("obstore")
    local = zarr.create_array(
        ObjectStore(obstore.store.LocalStore(tmp_path)), shape=(4,), chunks=(2,), dtype="i8"
    )
    local[:] = 1
    direct = zarr.open_array(tmp_path)
    assert source_of(local).region(()) == source_of(direct).region(())
    digests = []
    for value in (1, 1, 2):
        array = zarr.create_array(
            ObjectStore(obstore.store.MemoryStore()), shape=(4,), chunks=(2,), dtype="i8"
        )
        array[:] = value
        digests.append(source_of(array).region(()))
    assert digests[0] == digests[1] != digests[2]


def test_a_directory_in_place_of_a_chunk_is_no_chunk(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path, shape=(4,), chunks=(2,), dtype="i8")
    os.makedirs(tmp_path / "c" / "0")
    assert list(source_of(array).stamps((0,)).values()) == [None]

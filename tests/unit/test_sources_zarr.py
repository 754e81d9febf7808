"""Zarr sources: what changes a region's digest, and what leaves it alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, LoggingStore, ZipStore

from daskcache.errors import UncacheableError
from daskcache.fingerprint import places
from daskcache.fingerprint.objects import Fingerprinter
from daskcache.fingerprint.sources import find_source, read_stamps
from tests.sources import ENCODING, digests_of, make_dataset, rewrite, source_of

# Regions smaller than chunks are what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate")

FORMATS = (2, 3)


def write(path: Path, dataset: xr.Dataset, zarr_format: int = 3, **options: Any) -> None:
    encoding = {
        **ENCODING,
        "t": {"chunks": (2, 4), **options},
        "packed": {**ENCODING["packed"], "chunks": (2, 4)},
    }
    dataset.to_zarr(path, encoding=encoding, zarr_format=zarr_format, consolidated=False)


def open_zarr(path: Path, **options: Any) -> xr.Dataset:
    options.setdefault("consolidated", False)
    return xr.open_zarr(path, **options)


def chunk_file(path: Path, variable: str, row: int, zarr_format: int = 3) -> Path:
    return path / variable / (f"{row}.0" if zarr_format == 2 else f"c/{row}/0")


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("variable", ["t", "packed"])
def test_appending_leaves_old_regions_alone(tmp_path: Path, zarr_format: int, variable: str) -> None:
    write(tmp_path / "z", make_dataset(0, 6), zarr_format)
    before = digests_of(open_zarr(tmp_path / "z", chunks={"time": 2})[variable])
    make_dataset(6, 10).to_zarr(tmp_path / "z", append_dim="time", consolidated=False)
    after = digests_of(open_zarr(tmp_path / "z", chunks={"time": 2})[variable])
    assert len(before) == 3
    assert len(set(after)) == 5
    assert after[:3] == before


def test_growth_of_the_edge_chunk_changes_its_own_regions_only(tmp_path: Path) -> None:
    write(tmp_path / "z", make_dataset(0, 5))
    before = digests_of(open_zarr(tmp_path / "z", chunks={"time": 1}).t)
    make_dataset(5, 8).to_zarr(tmp_path / "z", append_dim="time", consolidated=False)
    after = digests_of(open_zarr(tmp_path / "z", chunks={"time": 1}).t)
    assert [old == new for old, new in zip(before, after, strict=False)] == [True] * 4 + [False]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_rewriting_one_chunk_changes_exactly_what_touches_it(tmp_path: Path, zarr_format: int) -> None:
    write(tmp_path / "z", make_dataset(0, 6), zarr_format)
    data = open_zarr(tmp_path / "z", chunks={"time": 1}).t
    before = digests_of(data)
    rewrite(chunk_file(tmp_path / "z", "t", 1, zarr_format))
    assert [old == new for old, new in zip(before, digests_of(data), strict=True)] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_missing_chunk_is_told_from_one_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / "z", make_dataset())
    data = open_zarr(tmp_path / "z", chunks={"time": 2}).t
    before = digests_of(data)
    chunk_file(tmp_path / "z", "t", 2).unlink()
    after = digests_of(data)
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert source_of(data).stamps((slice(4, 6),)) == {str(chunk_file(tmp_path / "z", "t", 2)): None}


@pytest.mark.parametrize("consolidated", [True, False])
def test_attributes_and_names_of_dimensions_do_not_count(tmp_path: Path, consolidated: bool) -> None:
    dataset = make_dataset()
    dataset.to_zarr(tmp_path / "z", zarr_format=2, consolidated=consolidated)
    before = digests_of(open_zarr(tmp_path / "z", chunks={}, consolidated=consolidated).t)
    zarr.open_array(tmp_path / "z" / "t").attrs.update(title="other")
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "z")
    after = digests_of(open_zarr(tmp_path / "z", chunks={}, consolidated=consolidated).t)
    assert after == before


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize(
    ("variable", "option", "attribute", "value"),
    [
        ("packed", {"mask_and_scale": False}, "scale_factor", 0.25),
        ("packed", {"decode_cf": False}, "add_offset", 2.0),
        ("when", {"decode_times": False}, "units", "days since 2002-01-01"),
        ("when", {"decode_times": xr.coders.CFDatetimeCoder(use_cftime=True)}, "calendar", "noleap"),
        ("when", {"decode_times": xr.coders.CFDatetimeCoder(time_unit="s")}, "units", "hours since 2001-01-01"),
    ],
)  # fmt: skip
def test_how_xarray_decodes_counts(
    tmp_path: Path,
    variable: str,
    option: dict[str, Any],
    attribute: str,
    value: Any,
    consolidated: bool,
) -> None:
    """An option and an attribute that make other values of the same chunks; what is not decoded stays as it is."""
    make_dataset().to_zarr(tmp_path / "z", encoding=ENCODING, zarr_format=2, consolidated=consolidated)

    def digests(name: str, **options: Any) -> list[bytes]:
        return digests_of(open_zarr(tmp_path / "z", chunks={}, consolidated=consolidated, **options)[name])

    before, beside = digests(variable), digests("t")
    assert digests(variable) == before
    assert not set(digests(variable, **option)) & set(before)
    assert digests("t", **option) == beside
    zarr.open_array(tmp_path / "z" / variable).attrs[attribute] = value
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "z")
    assert not set(digests(variable)) & set(before)
    assert digests("t") == beside


def test_metadata_of_chunks_count() -> None:
    def digest(**options: Any) -> bytes:
        array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype=options.pop("dtype", "f4"), **options)
        return source_of(array).region((slice(0, 2),))

    variants = [
        digest(),
        digest(fill_value=1),
        digest(dtype="i4"),
        digest(compressors=None),
        digest(shards=(4,)),
        digest(zarr_format=2),
    ]
    assert len(set(variants)) == len(variants)
    assert digest(attributes={"a": 1}, dimension_names=("x",)) == variants[0]


def test_regions_of_one_chunk_are_told_apart() -> None:
    array = zarr.create_array({}, shape=(8, 8), chunks=(8, 8), dtype="f4")
    source = source_of(array)
    indices = [
        (),
        (0,),
        (slice(0, 1),),
        (slice(0, 8, 2),),
        (slice(None, None, -1),),
        (Ellipsis, 0),
        (np.array([0, 1, 3]),),
        (np.array([0, 3, 1]),),
    ]
    digests = [source.region(index) for index in indices]
    assert len(set(digests)) == len(digests)
    assert source.region((slice(0, 8), Ellipsis)) == source.region(())
    assert source.region((-1,)) == source.region((7,))
    assert source.region((slice(0, 100),)) == source.region(())


@pytest.mark.parametrize("index", [(None,), (0, 0, 0), ("a",), (1.5,), (99,), ([0], [1])])
def test_other_indices_are_refused(index: tuple[Any, ...]) -> None:
    source = source_of(zarr.create_array({}, shape=(8, 8), chunks=(4, 4), dtype="f4"))
    with pytest.raises(UncacheableError, match="reads a source"):
        source.region(index)


def test_a_shard_is_one_object(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(8,), chunks=(2,), shards=(4,), dtype="i8")
    array[:] = 1
    source = source_of(array)
    assert [Path(name).name for name in source.stamps((slice(1, 6),))] == ["0", "1"]
    before = digests_of(da.from_array(array, chunks=2))
    array[0] = 5
    assert [a == b for a, b in zip(before, digests_of(da.from_array(array, chunks=2)), strict=True)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_rectilinear_grid_may_grow(tmp_path: Path) -> None:
    with zarr.config.set({"array.rectilinear_chunks": True}):
        kind: dict[str, Any] = {"dtype": "i8", "overwrite": True, "fill_value": 0}
        digests = []
        for lengths in ([3, 2, 4], [3, 2, 4, 5], [2, 3, 4]):
            array = zarr.create_array(tmp_path / "a", shape=(sum(lengths),), chunks=[lengths], **kind)
            source = source_of(array)
            digests.append([source.region((slice(0, 3),)), source.region((slice(5, 9),))])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] == digests[2][1]


def test_memory_stores_are_told_by_their_bytes() -> None:
    def make(value: int) -> Any:
        array = zarr.create_array({}, name="a", shape=(4,), chunks=(2,), dtype="i8")
        array[:] = value
        return da.from_zarr(array)

    assert digests_of(make(1)) == digests_of(make(1))
    for check in ("chunks", "metadata", "content", "none"):
        ours, theirs = (digests_of(make(value), Fingerprinter(source_check=check)) for value in (1, 2))
        assert ours[0] != theirs[0], check


def test_one_array_has_one_digest_through_all_local_stores(tmp_path: Path) -> None:
    write(tmp_path / "z", make_dataset())
    direct = digests_of(da.from_zarr(tmp_path / "z", component="t"))
    for url in (str(tmp_path / "z"), f"file://{tmp_path}/z"):
        store = zarr.storage.FsspecStore.from_url(url) if "://" in url else LocalStore(url)
        assert digests_of(da.from_zarr(zarr.open_array(store, path="t"))) == direct


def test_a_zip_changes_as_a_whole(tmp_path: Path) -> None:
    def write_zip(value: int) -> None:
        with ZipStore(tmp_path / "a.zip", mode="w") as store:
            array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i8")
            array[:2] = 1
            array[2:] = value

    write_zip(2)
    with ZipStore(tmp_path / "a.zip", mode="r") as store:
        before = digests_of(da.from_zarr(zarr.open_array(store)))
    write_zip(3)
    with ZipStore(tmp_path / "a.zip", mode="r") as store:
        after = digests_of(da.from_zarr(zarr.open_array(store)))
    assert not set(before) & set(after)
    assert before[0] != before[1]


def test_an_unknown_store_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "z", make_dataset())
    array = zarr.open_array(LoggingStore(LocalStore(tmp_path / "z")), path="t")
    with pytest.raises(UncacheableError, match="LoggingStore"):
        source_of(array)


class TestModes:
    """How closely sources are looked at."""

    def test_content_survives_a_copy_and_sees_a_change(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / name, make_dataset())
        os.utime(chunk_file(tmp_path / "b", "t", 0), (1, 1))

        def digests(name: str) -> list[bytes]:
            data = open_zarr(tmp_path / name, chunks={"time": 2}).t
            return digests_of(data, Fingerprinter(source_check="content"))

        assert digests("a") == digests("b")
        zarr.open_array(tmp_path / "b", path="t")[2, 0] = -1
        assert [old == new for old, new in zip(digests("a"), digests("b"), strict=True)] == [
            True,
            False,
            True,
        ]

    @pytest.mark.parametrize("check", ["metadata", "none"])
    def test_metadata_and_none_do_not_look(
        self, tmp_path: Path, check: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "z", make_dataset())
        write(tmp_path / "other", make_dataset())
        data = open_zarr(tmp_path / "z", chunks={"time": 2}).t
        monkeypatch.setattr(places.os, "stat", lambda *_: pytest.fail("looked at a chunk"))
        before = digests_of(data, Fingerprinter(source_check=check))
        assert source_of(data, Fingerprinter(source_check=check)).stamps(()) == {}
        monkeypatch.undo()
        rewrite(chunk_file(tmp_path / "z", "t", 1))
        assert digests_of(data, Fingerprinter(source_check=check)) == before
        assert len(set(before)) == 3
        other = open_zarr(tmp_path / "other", chunks={"time": 2}).t
        assert digests_of(other, Fingerprinter(source_check=check)) != before

    def test_a_mode_never_meets_another(self, tmp_path: Path) -> None:
        write(tmp_path / "z", make_dataset())
        data = open_zarr(tmp_path / "z", chunks={"time": 2}).t
        modes = [
            digests_of(data, Fingerprinter(source_check=check))[0]
            for check in ("chunks", "metadata", "content", "none")
        ]
        assert len(set(modes)) == 4

    def test_only_none_ignores_the_codecs(self, tmp_path: Path) -> None:
        digests: dict[str, set[bytes]] = {"metadata": set(), "none": set()}
        for fill in (0, 1):
            array = zarr.create_array(
                tmp_path / "a", shape=(4,), chunks=(2,), dtype="i8", fill_value=fill, overwrite=True
            )
            for check, seen in digests.items():
                seen.add(source_of(array, Fingerprinter(source_check=check)).region(()))
        assert {check: len(seen) for check, seen in digests.items()} == {"metadata": 2, "none": 1}


class TestAliases:
    """A mirror counts as what it mirrors."""

    def test_a_mirror_keeps_its_digests(self, tmp_path: Path) -> None:
        for name in ("home", "mirror"):
            write(tmp_path / name / "z", make_dataset())
            for file in (tmp_path / name).rglob("*"):
                os.utime(file, (1_000_000, 1_000_000))
        aliases = ((str(tmp_path / "mirror"), str(tmp_path / "home")),)

        def digests(name: str) -> list[bytes]:
            return digests_of(
                open_zarr(tmp_path / name / "z", chunks={}).t, Fingerprinter(source_aliases=aliases)
            )

        assert digests("home") == digests("mirror")
        os.utime(chunk_file(tmp_path / "mirror" / "z", "t", 0), (1_000_001, 1_000_001))
        assert digests("home") != digests("mirror")

    def test_an_alias_ends_at_a_separator_and_the_longest_wins(self, tmp_path: Path) -> None:
        survey = places_survey((("/a", "/x"), ("/a/b", "/y"), ("/a/b", "/y")))
        assert survey.alias("/a/b/c") == ("/y/c", True)
        assert survey.alias("/a/c") == ("/x/c", True)
        assert survey.alias("/ab/c") == ("/ab/c", False)
        assert survey.alias("/x/c") == ("/x/c", True)


def places_survey(aliases: tuple[tuple[str, str], ...]) -> Any:
    from daskcache.fingerprint.sources_base import survey_of

    return survey_of(Fingerprinter(source_aliases=aliases))


class TestLooks:
    """How often a pass looks."""

    def test_many_chunks_cost_one_listing_of_their_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        array = zarr.create_array(tmp_path / "a", shape=(500,), chunks=(1,), dtype="i8")
        array[:400] = 7
        listed: list[Any] = []
        scandir = os.scandir
        monkeypatch.setattr(places.os, "scandir", lambda path: listed.append(path) or scandir(path))
        source = source_of(array)
        few = [source.region((slice(i, i + 1),)) for i in range(10)]
        assert not listed
        digests = [source.region((slice(i, i + 1),)) for i in range(500)]
        assert listed == [str(tmp_path / "a" / "c")]
        assert digests[:10] == few
        # A single look and a listing see the same.
        assert digests[450] == source_of(array).region((slice(450, 451),))
        assert digests[300] == source_of(array).region((slice(300, 301),))

    def test_a_pass_looks_once_and_a_new_one_again(self, tmp_path: Path) -> None:
        write(tmp_path / "z", make_dataset())
        data = open_zarr(tmp_path / "z", chunks={"time": 2}).t
        fingerprinter = Fingerprinter()
        before = digests_of(data, fingerprinter)
        stamps = source_of(data, fingerprinter).stamps((slice(0, 2),))
        rewrite(chunk_file(tmp_path / "z", "t", 0))
        assert digests_of(data, fingerprinter) == before
        assert source_of(data, fingerprinter).stamps((slice(0, 2),)) == stamps
        assert digests_of(data)[0] != before[0]
        assert read_stamps(source_of(data, fingerprinter), (slice(0, 2),)) != stamps

    def test_a_pass_lets_go_of_what_it_saw(self, tmp_path: Path) -> None:
        import gc
        import weakref

        write(tmp_path / "z", make_dataset())
        fingerprinter = Fingerprinter()
        digests_of(open_zarr(tmp_path / "z", chunks={}).t, fingerprinter)
        gone = weakref.ref(fingerprinter)
        del fingerprinter
        gc.collect()
        assert gone() is None

    def test_the_record_does_not_depend_on_the_order(self, tmp_path: Path) -> None:
        write(tmp_path / "z", make_dataset())
        data = open_zarr(tmp_path / "z", chunks={"time": 2}).t
        records = []
        for order in ([0, 1, 2], [2, 0, 1, 0]):
            fingerprinter = Fingerprinter()
            source = source_of(data, fingerprinter)
            for block in order:
                source.region((slice(2 * block, 2 * block + 2),))
            records.append(fingerprinter.sources)
        assert records[0] == records[1]
        assert list(records[0]) == [str(tmp_path / "z" / "t")]


def test_what_is_no_source_is_none() -> None:
    fingerprinter = Fingerprinter()
    named = xr.DataArray(np.arange(3), dims="x", coords={"array": 1})
    things = [
        named,
        1,
        "a",
        None,
        [1],
        np.arange(3),
        np.float64(1),
        xr.DataArray(np.arange(3)),
        print,
        da.ones(3),
    ]
    assert [find_source(thing, fingerprinter) for thing in things] == [None] * len(things)


def test_zero_dimensions_and_empty_arrays(tmp_path: Path) -> None:
    scalar = zarr.create_array(tmp_path / "a", shape=(), chunks=(), dtype="i8")
    scalar[...] = 3
    assert len(source_of(scalar).stamps(())) == 1
    empty = zarr.create_array(tmp_path / "b", shape=(0, 4), chunks=(1, 4), dtype="i8")
    assert source_of(empty).stamps(()) == {}
    assert len(source_of(empty).region(())) == 20

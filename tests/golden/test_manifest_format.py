"""The manifest's two documents in every format that ever shipped, pinned byte for byte.

Files here are never rewritten. Where a format must change, it gets a new number, a new pair of files, and a
reader for the old pair.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from daskcache.config import Codecs
from daskcache.manifest import Calendar, Manifest, Node, StoredVariable, from_idx, to_idx, to_kerchunk

DATA = Path(__file__).parent / "data"


def manifest_0() -> Manifest:
    def blocks(count: int) -> dict[str, Any]:
        return {
            "tokens": np.arange(20 * count, dtype="u1").reshape(count, 20),
            "groups": np.full(count, 0x1234, "<u2"),
            "sizes": np.arange(100, 100 + count, dtype="<u8"),
        }

    attrs = {"units": "K", "valid": np.array([0.5, np.inf], ">f4"), "steps": (1, 2.5), "raw": b"\xff"}
    variables = (
        StoredVariable(
            "t2m", ("time", "lat"), np.dtype(">f4"), ((2, 2, 1), (3, 1)), attrs, {"grid_mapping": "crs"},
            codecs=Codecs(), digests=np.arange(96, dtype="u1").reshape(6, 16), **blocks(6),
        ),
        StoredVariable("when", ("time",), np.dtype("<M8[us]"), ((3, 2),), {}, {"units": "days since 1850-01-01"}, True, **blocks(2)),
        StoredVariable("month", ("time",), np.dtype("<U3"), ((1, 3, 1),), codecs=Codecs(name="none"), **blocks(3)),
        StoredVariable(
            "wide", ("time", "x"), np.dtype("<f8"), ((1, 3, 1), (9000,)), inner=np.arange(10, dtype="<u8").reshape(5, 2), **blocks(3)
        ),
        StoredVariable(
            "day", (), np.dtype("O"), (), {"long_name": "model day"}, is_coord=True, in_memory=True,
            calendar=Calendar("noleap", True), inline=b"as encoded",
        ),
    )  # fmt: skip
    nodes = {"": Node({"title": "golden"}, {"coordinates": "day"})}
    return Manifest.build("dataset", variables, nodes=nodes, info={"recipe": [["mean", "00ff"]]})


def test_format_0_is_written_as_ever() -> None:
    assert to_idx(manifest_0()) == (DATA / "manifest-0.idx").read_bytes()
    assert to_kerchunk(manifest_0(), "/golden/store") == (DATA / "manifest-0.json").read_bytes()


def test_checksums_came_later_and_say_nothing_in_their_absence() -> None:
    """A column of the index that older readers pass over; without it, the bytes are those of before."""
    manifest = manifest_0()
    first, *others = manifest.variables
    assert from_idx((DATA / "manifest-0.idx").read_bytes()).variables[0].checksums is None
    first = replace(first, checksums=np.arange(1, 7, dtype="<u4"))
    path = DATA / "manifest-0-checksums.idx"
    assert to_idx(replace(manifest, variables=(first, *others))) == path.read_bytes()
    read = from_idx(path.read_bytes())
    assert read.version == manifest.version
    assert read.variables[0].checksums is not None
    assert read.variables[0].checksums.tolist() == [1, 2, 3, 4, 5, 6]
    assert read.variables[1].checksums is None


def test_format_0_is_read_as_ever() -> None:
    manifest = from_idx((DATA / "manifest-0.idx").read_bytes())
    assert manifest.version == "9a8734d3076deebd13ce2919c87dbb41886cd2cb" == manifest_0().version
    assert (manifest.kind, manifest.name, manifest.info) == ("dataset", None, {"recipe": [["mean", "00ff"]]})
    assert manifest.nodes == {"": Node({"title": "golden"}, {"coordinates": "day"})}
    first, when, month, wide, day = manifest.variables
    assert (first.path, first.dims, first.dtype.str) == ("t2m", ("time", "lat"), ">f4")
    assert first.chunks == ((2, 2, 1), (3, 1))
    assert list(first.attrs) == ["units", "valid", "steps", "raw"]
    assert first.attrs["valid"].tobytes() == np.array([0.5, np.inf], ">f4").tobytes()
    assert (first.attrs["steps"], first.attrs["raw"]) == ((1, 2.5), b"\xff")
    assert first.tokens.tobytes() == bytes(range(120))
    assert first.groups.tolist() == [0x1234] * 6
    assert first.sizes.tolist() == [100, 101, 102, 103, 104, 105]
    assert first.digests is not None
    assert first.digests.tobytes() == bytes(range(96))
    assert (when.dtype.str, when.is_coord, when.encoding) == (
        "<M8[us]",
        True,
        {"units": "days since 1850-01-01"},
    )
    assert (month.dtype.str, month.grid.kind, month.codecs.name) == ("<U3", "rectilinear", "none")
    assert wide.inner is not None
    assert wide.inner.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert (day.calendar, day.inline, day.dtype.str, day.in_memory) == (
        Calendar("noleap", True),
        b"as encoded",
        "|O",
        True,
    )


def test_format_0_names_these_objects() -> None:
    document = json.loads((DATA / "manifest-0.json").read_bytes())
    assert document["version"] == 1
    assert document["templates"] == {"root": "/golden/store"}
    refs = document["refs"]
    assert refs["t2m/c/2/1"] == ["{{root}}/chunks/1234/a6113b7a94f1b7129ddf1d212e698eb15d1cf5e9"]
    assert refs["wide/c/3/0"][1:] == [6, 7]
    assert refs["day/c"] == "base64:YXMgZW5jb2RlZA=="
    assert json.loads(refs["month/zarr.json"])["chunk_grid"]["name"] == "rectilinear"

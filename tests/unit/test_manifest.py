"""Manifests as values, their version, and their packed form."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr

from daskcache.config import Codecs
from daskcache.errors import CorruptChunkError, InvalidInputError, StoreError, UncacheableError
from daskcache.manifest import (
    Calendar,
    Manifest,
    Node,
    StoredVariable,
    from_idx,
    from_stored,
    kept_encoding,
    stored_objects,
    to_idx,
    to_storable,
)
from daskcache.manifest.idx import MAGIC
from tests.manifests import manifest_of


def variable(count: int = 3, **changes: Any) -> StoredVariable:
    tokens = np.frombuffer(hashlib.shake_128(b"tokens").digest(20 * count), "u1").reshape(-1, 20)
    fields: dict[str, Any] = {
        "path": "t2m",
        "dims": ("time", "lat"),
        "dtype": np.dtype(">f4"),
        "chunks": ((2,) * count, (4,)),
        "attrs": {"units": "K", "flags": np.array([1, 2], "i1")},
        "encoding": {"grid_mapping": "crs"},
        "tokens": tokens,
        "groups": np.full(count, 0x00FF, "<u2"),
        "sizes": np.arange(1, count + 1, dtype="<u8"),
    }
    return StoredVariable(**{**fields, **changes})


def assert_equal(left: Any, right: Any) -> None:
    """Compare field by field: arrays make equality of the whole ambiguous."""
    if isinstance(left, np.ndarray):
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    elif hasattr(left, "__dataclass_fields__"):
        assert type(left) is type(right)
        for name in left.__dataclass_fields__:
            assert_equal(getattr(left, name), getattr(right, name))
    elif isinstance(left, dict | list | tuple):
        assert type(left) is type(right)
        assert len(left) == len(right)
        pairs = (
            zip(left.items(), right.items(), strict=True)
            if isinstance(left, dict)
            else zip(left, right, strict=True)
        )
        for pair in pairs:
            assert_equal(*pair)
    else:
        assert (type(left), left) == (type(right), right)


MANY = [
    Manifest.build("dataset", (), info={"recipe": [["f", "00"]], "seconds": 1.5}),
    Manifest.build("dataarray", (variable(digests=np.zeros((3, 16), "u1")),), name=("a", 1)),
    Manifest.build("array", (variable(groups=np.array([1, 2, 3], "<u2")),)),
    Manifest.build(
        "datatree",
        (
            variable(path="deep/er/v", codecs=Codecs(level=9), inner_shape=(1, 2), is_coord=True, in_memory=True),
            variable(path="day", dims=(), chunks=(), dtype=np.dtype("O"), calendar=Calendar("noleap", True), inline=b"ab",
                     tokens=np.empty((0, 20), "u1"), groups=np.empty(0, "<u2"), sizes=np.empty(0, "<u8")),
            variable(path="deep/none", dims=("x",), chunks=((0,),), dtype=np.dtype("T"), inline=b"",
                     tokens=np.empty((0, 20), "u1"), groups=np.empty(0, "<u2"), sizes=np.empty(0, "<u8")),
        ),
        nodes={"deep": Node({"nan": float("inf")}), "deep/er": Node({}, {"coordinates": None})},
    ),
    Manifest.build("dataset", (variable(inner=np.arange(12, dtype="<u8").reshape(6, 2), chunks=((1, 3, 2), (4,))),)),
]  # fmt: skip


@pytest.mark.parametrize("manifest", MANY, ids=lambda manifest: manifest.kind)
def test_packed_form_is_exact(manifest: Manifest) -> None:
    data = to_idx(manifest)
    assert_equal(from_idx(data), manifest)
    assert to_idx(from_idx(data)) == data


def test_real_dataset_is_exact(tmp_path: Path) -> None:
    times = np.array(["2000-01-01", "NaT"], "M8[us]")
    dataset = xr.Dataset(
        {
            "a": ("t", np.array([1, 2], ">i2"), {"x": np.float32(1)}),
            "d": ("t", [cftime.Datetime360Day(1, 2, 30)] * 2),
        },
        {"t": times, "s": ("t", np.array(["a", "b"], object))},
    ).chunk(t=1)
    manifest = manifest_of(tmp_path, dataset.assign(d=dataset.d.load()))
    assert_equal(from_idx(to_idx(manifest)), manifest)


def test_every_flipped_or_missing_byte_is_noticed() -> None:
    data = to_idx(MANY[1])
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        with pytest.raises((CorruptChunkError, StoreError), match=r"damaged|upgrade"):
            from_idx(bytes(damaged))
        with pytest.raises(CorruptChunkError, match="damaged"):
            from_idx(data[:position])
    with pytest.raises(CorruptChunkError, match="damaged"):
        from_idx(data + b"\0")


def sealed(header: Any, body: bytes = b"", number: int = 0) -> bytes:
    """Make a file whose checksum is right, whatever it holds."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<8sIIQQ", MAGIC, number, 0, 32 + len(text) + len(body) + 16, len(text)) + text + body
    return data + hashlib.blake2b(data, digest_size=16).digest()


def broken_headers() -> list[Any]:
    data = to_idx(MANY[1])
    (length,) = struct.unpack_from("<Q", data, 24)
    header = json.loads(data[32 : 32 + length])
    first = header["variables"][0]
    changes: list[dict[str, Any]] = [
        {"sections": {**first["sections"], "tokens": [0, 10**9]}},
        {"sections": {**first["sections"], "tokens": [-20, 20]}},
        {"sections": {**first["sections"], "tokens": [0, 40]}},
        {"sections": {}},
        {"chunks": [[[2, 10**15]], [4]]},
        {"chunks": [[-1], [4]]},
        {"dtype": "nonsense"},
        {"codecs": {"what": 1}},
        {"attrs": {"!": "os.system"}},
    ]
    return [{**header, "variables": [{**first, **change}]} for change in changes] + [
        {**header, "kind": "pickle"},
        {key: value for key, value in header.items() if key != "nodes"},
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
    ]


@pytest.mark.parametrize("header", broken_headers(), ids=range(len(broken_headers())))
def test_whole_nonsense_is_refused(header: Any) -> None:
    with pytest.raises(CorruptChunkError, match="damaged: its header is not understood"):
        from_idx(sealed(header, bytes(200)))


def test_newer_format_says_upgrade() -> None:
    with pytest.raises(StoreError, match="has format 1, and this daskcache reads up to 0; upgrade") as caught:
        from_idx(sealed({}, number=1))
    assert not isinstance(caught.value, CorruptChunkError)


def test_version_changes_with_all_that_a_version_is() -> None:
    base = variable()
    inline = {
        "tokens": base.tokens[:0],
        "groups": base.groups[:0],
        "sizes": base.sizes[:0],
        "chunks": ((2,), (4,)),
    }
    other_token = base.tokens.copy()
    other_token[2, 19] ^= 1
    variants = [
        base,
        replace(base, path="t3m"),
        replace(base, dims=("lat", "time")),
        replace(base, dtype=np.dtype("<f4")),
        replace(base, dtype=np.dtype("<i4")),
        replace(base, chunks=((2, 2, 1), (4,))),
        replace(base, attrs={"units": "K", "flags": np.array([1, 2], "i2")}),
        replace(base, attrs={"units": "K"}),
        replace(base, encoding={}),
        replace(base, is_coord=True),
        replace(base, in_memory=True),
        replace(base, codecs=Codecs(level=1)),
        replace(base, inner_shape=(1, 4)),
        replace(base, tokens=other_token),
        replace(base, tokens=base.tokens[::-1]),
        replace(base, inline=b"a", **inline),
        replace(base, inline=b"b", **inline),
    ]
    versions = [Manifest.build("dataset", (variant,)).version for variant in variants]
    nodes = [Node({"a": 1}), Node({"a": 1.0}), Node({}, {"coordinates": "x"})]
    versions += [Manifest.build("dataset", (base,), nodes={"": node}).version for node in nodes]
    versions += [Manifest.build("dataarray", (base,), name=name).version for name in (None, "a", "b")]
    versions += [
        Manifest.build("datatree", (base,)).version,
        Manifest.build("datatree", (base,), nodes={"n": Node()}).version,
    ]
    calendar = replace(base, dtype=np.dtype("O"), calendar=Calendar("noleap", True))
    versions += [Manifest.build("dataset", (calendar,)).version]
    versions += [Manifest.build("dataset", (replace(calendar, calendar=Calendar("noleap", False)),)).version]
    assert len(set(versions)) == len(versions)


def test_version_ignores_order_place_and_size() -> None:
    base, other = variable(), variable(path="other")
    version = Manifest.build("dataset", (base, other)).version
    moved = replace(
        base,
        groups=base.groups + np.uint16(1),
        sizes=base.sizes * 2,
        checksums=np.ones(3, "<u4"),
        digests=np.ones((3, 16), "u1"),
    )
    reordered = replace(moved, attrs=dict(reversed(base.attrs.items())))
    assert Manifest.build("dataset", (other, reordered), info={"time": "now"}).version == version
    # Blosc's settings say nothing where nothing is compressed.
    plain = [replace(base, codecs=Codecs(name="none", level=level)) for level in (1, 2)]
    assert len({Manifest.build("dataset", (one,)).version for one in plain}) == 1


@pytest.mark.parametrize("path", ["a/b", "", ".", "..", "a//b", "/a", "zarr.json", "a\0b"])
def test_paths_that_cannot_be_arrays(path: str) -> None:
    with pytest.raises(InvalidInputError, match="rename it"):
        Manifest.build("dataset", (variable(path=path),))


def test_doubled_paths_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one path"):
        Manifest.build("dataset", (variable(), variable()))
    for changes in [
        {"tokens": np.zeros((2, 20), "u1")},
        {"groups": np.zeros(2, "<u2")},
        {"digests": np.zeros((3, 20), "u1")},
        {"checksums": np.zeros(2, "<u4")},
        {"dims": ("time",)},
        {
            "inline": b"",
            "tokens": np.zeros((0, 20), "u1"),
            "groups": np.zeros(0, "<u2"),
            "sizes": np.zeros(0, "<u8"),
        },
    ]:
        with pytest.raises(InvalidInputError, match="variable 't2m' has"):
            variable(**changes)


def test_bad_attribute_names_the_variable() -> None:
    with pytest.raises(
        UncacheableError, match=r"attributes of variable 't2m' → 'bad' → a value of type builtins.set"
    ):
        Manifest.build("dataset", (variable(attrs={"bad": {1}}),))


@pytest.mark.parametrize(
    "name", ["standard", "noleap", "360_day", "all_leap", "julian", "proleptic_gregorian"]
)
def test_cftime_is_exact(name: str) -> None:
    dates = np.array(
        [
            [
                cftime.datetime(1, 1, 1, calendar=name),
                cftime.datetime(9999, 12, 30, 23, 59, 59, 999999, calendar=name),
            ]
        ]
    )
    numbers, calendar = to_storable(dates)
    assert numbers.dtype == "<i8"
    back = from_stored(numbers, dates.dtype, calendar)
    assert (back == dates).all()
    assert back.shape == dates.shape
    assert [item.has_year_zero for item in back.flat] == [item.has_year_zero for item in dates.flat]
    scalar, calendar = to_storable(np.array(dates[0, 0]))
    assert from_stored(scalar, dates.dtype, calendar)[()] == dates[0, 0]


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), "O")
    for i, value in enumerate(values):
        array[i] = value
    return array


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (["a", "b"], None),
        ([True, False], "|b1"),
        ([1, -(2**63)], "<i8"),
        ([2**64 - 1], "<u8"),
        ([0.1, float("nan"), -0.0], "<f8"),
        ([1j], "<c16"),
        ([b"a", b"\xff\0c"], "|S3"),
        ([b"a\0"], "json"),
        ([b""], "|S1"),
        ([2**64, 1], "json"),
        ([2**63, -1], "json"),
        ([True, 1], "json"),
        (["a", None, float("nan"), np.float32(1), {"b": (1, [2])}], "json"),
    ],
)
def test_objects_come_back(values: list[Any], stored: str | None) -> None:
    array = _objects(values)
    storable, calendar = to_storable(array)
    assert stored_objects(array.dtype, storable, calendar) == stored
    back = from_stored(storable, array.dtype, calendar, stored)
    assert back.dtype == array.dtype
    assert repr(back.tolist()) == repr(values)


def test_objects_without_a_form() -> None:
    for values in ([object()], ["a", {1}], [cftime.DatetimeNoLeap(1, 1, 1), None]):
        with pytest.raises(UncacheableError, match=r"an object array holds .* has no JSON form"):
            to_storable(_objects(values))
    with pytest.raises(UncacheableError, match="dates without a calendar"):
        to_storable(_objects([cftime.datetime(1, 1, 1, calendar="")]))
    mixed = np.array([cftime.DatetimeNoLeap(1, 1, 1), cftime.Datetime360Day(1, 1, 1)])
    with pytest.raises(UncacheableError, match=r"several calendars \(360_day, noleap\)"):
        to_storable(mixed)


def test_packing_is_dropped() -> None:
    encoding = {
        "scale_factor": 0.1,
        "_FillValue": 3,
        "dtype": "i2",
        "chunks": (1,),
        "coordinates": None,
        "units": "K",
    }
    assert kept_encoding(encoding) == {"units": "K", "coordinates": None}


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_hundred_thousand_blocks_are_views(dimensions: int) -> None:
    chunks = ((2,) * 100_000,) if dimensions == 1 else ((2,) * 1000, (4,) * 100)
    big = variable(100_000, dims=("a", "b")[:dimensions], chunks=chunks)
    data = to_idx(Manifest.build("dataset", (big,)))
    assert len(data) < 2_900_000
    (read,) = from_idx(data).variables
    assert read.tokens.base is not None
    assert not read.tokens.flags.owndata
    np.testing.assert_array_equal(read.tokens, big.tokens)

"""The packed form of a manifest, ``<version>.idx``: all that our reader, the pass and the workers read.

Format 0, little-endian::

    8 bytes   magic
    4         format number
    4         zero
    8         length of the whole file
    8         length of the header
    …         header: JSON, padded with spaces to a multiple of 8
    …         sections, each padded with zeros to a multiple of 8; the header says where each lies
    16        BLAKE2b of everything before

Sections are packed arrays: tokens 20 bytes a block, sizes 8, and where known groups 2, checksums 4, digests 16, offset
and size of inner chunks 8 + 8. A hundred thousand blocks are read without making an object for any.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any, get_args

import numpy as np

from daskcache.attributes import decode_attribute, encode_attribute
from daskcache.chunks import storage_dtype
from daskcache.config import Pool, check_codecs
from daskcache.errors import CorruptChunkError, StoreError
from daskcache.manifest.forms import Calendar, dtype_of, dtype_text
from daskcache.manifest.model import Kind, Manifest, Node, StoredVariable, check_paths
from daskcache.names import is_version

__all__ = ["FORMAT", "from_idx", "run_lengths", "to_idx"]

FORMAT = 0
"""The newest format that this version reads and writes."""

MAGIC = b"\x93DCIDX\r\n"
"""No text, and damaged by what changes line ends."""

_HEAD = struct.Struct("<8sIIQQ")
_DIGEST_BYTES = 16

# Width and item of each packed array. A section of one group for all blocks has one item.
_SECTIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    "tokens": ("u1", (20,)),
    "groups": ("<u2", ()),
    "sizes": ("<u8", ()),
    "checksums": ("<u4", ()),
    "digests": ("u1", (16,)),
    "inner": ("<u8", (2,)),
}


def to_idx(manifest: Manifest) -> bytes:
    """Pack a manifest.

    Parameters
    ----------
    manifest : Manifest
        What to write.

    Returns
    -------
    bytes
        The content of ``<version>.idx``; equal manifests give equal bytes.

    Raises
    ------
    UncacheableError
        An attribute has no JSON form.

    Examples
    --------
    >>> manifest = Manifest.build("dataset", (), info={"recipe": []})
    >>> from_idx(to_idx(manifest)).version == manifest.version
    True
    """
    sections: list[bytes] = []
    offset = 0

    def place(data: bytes) -> list[int]:
        nonlocal offset
        start = offset
        sections.append(data + bytes(-len(data) % 8))
        offset += len(sections[-1])
        return [start, len(data)]

    variables = [_describe(variable, place) for variable in manifest.variables]
    header = {
        "kind": manifest.kind,
        "name": encode_attribute(manifest.name),
        "version": manifest.version,
        "nodes": [
            [path, encode_attribute(dict(node.attrs)), dict(node.encoding)]
            for path, node in manifest.nodes.items()
        ],
        "variables": variables,
        "info": dict(manifest.info),
        **({} if manifest.pool == "shared" else {"pool": manifest.pool}),
    }
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 8)
    total = _HEAD.size + len(text) + offset + _DIGEST_BYTES
    body = b"".join([_HEAD.pack(MAGIC, FORMAT, 0, total, len(text)), text, *sections])
    return body + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def from_idx(data: bytes) -> Manifest:
    """Read a packed manifest.

    Parameters
    ----------
    data : bytes
        The content of ``<version>.idx``.

    Returns
    -------
    Manifest
        Its arrays are views of `data`.

    Raises
    ------
    CorruptChunkError
        The bytes are damaged or cut off: persist the entry again.
    StoreError
        They have a newer format: upgrade daskcache.

    Examples
    --------
    >>> from_idx(b"nonsense")
    Traceback (most recent call last):
    ...
    daskcache.errors.CorruptChunkError: a manifest's index is damaged: it has 8 bytes; ...
    """
    header_bytes = _check(data)
    start = _HEAD.size
    body = memoryview(data)[start + header_bytes : -_DIGEST_BYTES]
    try:
        header = json.loads(data[start : start + header_bytes])
        kind = header["kind"]
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind {kind!r}")
        pool = header.get("pool", "shared")
        if pool not in get_args(Pool):
            raise ValueError(f"unknown pool {pool!r}")
        if not is_version(header["version"]):
            raise ValueError(f"its version is {header['version']!r:.80}")
        manifest = Manifest(
            kind=kind,
            name=decode_attribute(header["name"]),
            variables=tuple(_restore(document, body) for document in header["variables"]),
            nodes={
                path: Node(decode_attribute(attrs), encoding) for path, attrs, encoding in header["nodes"]
            },
            version=header["version"],
            info=header["info"],
            pool=pool,
        )
        # Whoever can write to the store shall lead nobody out of it, and run nothing.
        check_paths([variable.path for variable in manifest.variables], manifest.nodes)
        for variable in manifest.variables:
            storage_dtype(variable.encoded_dtype)
        return manifest
    # Whole and yet nonsense: written by something else. Never a guess.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise _corrupt(f"its header is not understood ({error})") from error


def _check(data: bytes) -> int:
    if len(data) < _HEAD.size + _DIGEST_BYTES:
        raise _corrupt(f"it has {len(data)} bytes")
    magic, number, _, total, header_bytes = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise _corrupt("it starts with other bytes")
    if number > FORMAT:
        raise StoreError(
            f"a manifest's index has format {number}, and this daskcache reads up to {FORMAT}; upgrade daskcache"
        )
    if total != len(data):
        raise _corrupt(f"it has {len(data)} of {total} bytes")
    digest = hashlib.blake2b(memoryview(data)[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES).digest()
    if digest != data[-_DIGEST_BYTES:]:
        raise _corrupt("its checksum does not match")
    if header_bytes > total - _HEAD.size - _DIGEST_BYTES:
        raise _corrupt("its header is longer than it is")
    return int(header_bytes)


def _corrupt(reason: str) -> CorruptChunkError:
    return CorruptChunkError(
        f"a manifest's index is damaged: {reason}; persist the entry again, which reuses its stored blocks"
    )


def _describe(variable: StoredVariable, place: Any) -> dict[str, Any]:
    packed: dict[str, np.ndarray[Any, Any] | None] = {
        "tokens": variable.tokens,
        "groups": _shortened(variable.groups),
        "sizes": variable.sizes,
        "checksums": variable.checksums,
        "digests": variable.digests,
        "inner": variable.inner,
    }
    sections = {
        name: place(np.ascontiguousarray(array, _SECTIONS[name][0]).tobytes())
        for name, array in packed.items()
        if array is not None
    }
    if variable.inline is not None:
        sections["inline"] = place(variable.inline)
    calendar = variable.calendar
    further = {"index": variable.index, "objects": variable.objects}
    return {
        "path": variable.path,
        "dims": list(variable.dims),
        "dtype": dtype_text(variable.dtype),
        "chunks": [run_lengths(lengths) for lengths in variable.chunks],
        "attrs": encode_attribute(dict(variable.attrs)),
        "encoding": dict(variable.encoding),
        "is_coord": variable.is_coord,
        "in_memory": variable.in_memory,
        "codecs": asdict(variable.codecs),
        "inner_shape": None if variable.inner_shape is None else list(variable.inner_shape),
        "calendar": None if calendar is None else asdict(calendar),
        "sections": sections,
        **{name: value for name, value in further.items() if value is not None},
    }


def _restore(document: Mapping[str, Any], body: memoryview) -> StoredVariable:
    sections = document["sections"]
    arrays = {name: _view(body, name, sections[name]) for name in _SECTIONS if name in sections}
    inline = sections.get("inline")
    # Before anything is made of them: a few bytes may say that there are any number of blocks.
    blocks = math.prod(sum(_pair(run)[1] for run in runs) for runs in document["chunks"])
    if blocks != (1 if inline is not None else len(arrays["tokens"])):
        raise ValueError(f"it has {blocks} blocks and not as many tokens")
    chunks = tuple(_expand(runs) for runs in document["chunks"])
    if inline is None:
        count = math.prod(len(lengths) for lengths in chunks)
        arrays["groups"] = _lengthened(arrays["groups"], count)
    calendar, inner = document["calendar"], document["inner_shape"]
    return StoredVariable(
        path=document["path"],
        dims=tuple(document["dims"]),
        dtype=dtype_of(document["dtype"]),
        chunks=chunks,
        attrs=decode_attribute(document["attrs"]),
        encoding=document["encoding"],
        is_coord=document["is_coord"],
        in_memory=document["in_memory"],
        codecs=check_codecs(document["codecs"]),
        inner_shape=None if inner is None else tuple(inner),
        index=document.get("index"),
        calendar=None if calendar is None else Calendar(**calendar),
        objects=document.get("objects"),
        inline=None if inline is None else bytes(_cut(body, inline)),
        **arrays,
    )


def _cut(body: memoryview, place: list[int]) -> memoryview:
    start, length = place
    if not 0 <= start <= start + length <= len(body):
        raise ValueError(f"a section from {start} of {length} bytes")
    return body[start : start + length]


def _view(body: memoryview, name: str, place: list[int]) -> np.ndarray[Any, Any]:
    dtype, item = _SECTIONS[name]
    return np.frombuffer(_cut(body, place), dtype).reshape(-1, *item)


def _shortened(groups: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Blocks of one layer and one shape lie in one group.
    return groups[:1] if len(groups) and bool((groups == groups[0]).all()) else groups


def _lengthened(groups: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    return np.broadcast_to(groups, (count,)) if len(groups) == 1 else groups


def run_lengths(lengths: tuple[int, ...]) -> list[int | list[int]]:
    """Shorten runs, as in Zarr's rectilinear grids.

    Parameters
    ----------
    lengths : tuple of int
        Such as the blocks' along a dimension.

    Returns
    -------
    list
        A length, or a length and how often it comes.

    Examples
    --------
    >>> run_lengths((3, 4, 4))
    [3, [4, 2]]
    """
    runs: list[int | list[int]] = []
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        runs.append(int(length) if count == 1 else [int(length), count])
    return runs


def _expand(runs: list[Any]) -> tuple[int, ...]:
    pairs = [_pair(run) for run in runs]
    if any(length < 0 or count < 1 for length, count in pairs):
        raise ValueError("lengths of blocks are negative or too many")
    return tuple(length for length, count in pairs for _ in range(count))


def _pair(run: Any) -> tuple[int, int]:
    """Give a length, and how often it comes."""
    return (run, 1) if isinstance(run, int) else (run[0], run[1])

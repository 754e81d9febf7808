"""Blocks on their way from one pool to another: each is checked, and created only where there is none."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from zarr.abc.store import Store

from daskcache import stores
from daskcache.chunks import checksum_of, decode, read_checksum, read_inner_ranges
from daskcache.errors import CorruptChunkError, NotStoredError, StoreError
from daskcache.manifest import Manifest, StoredVariable
from daskcache.packed import PackedBlocks
from daskcache.pool import StoredBlock, digest_of

__all__ = ["Arrived", "Wish", "complete", "known_blocks", "look_at", "move_block", "wishes_of"]

logger = logging.getLogger("daskcache")

_WIDTH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """A block that shall lie in another pool as well."""

    block: StoredBlock
    """Where it lies."""
    checksum: int
    """What its manifest says of its object; 0 where that is not known."""
    digest: bytes
    """Likewise; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What lies in a block's place in the other pool."""

    size_bytes: int
    """Its size."""
    checksum: int
    """What `daskcache.chunks.checksum_of` gives of it; 0 where that is not known."""
    digest: bytes
    """Of its bytes; empty where that is not known."""
    is_same: bool
    """Whether it is the object that the manifest names, as far as its checksum tells."""


def wishes_of(manifest: Manifest, root: str) -> dict[str, Wish]:
    """Give the blocks of a version.

    Parameters
    ----------
    manifest : Manifest
        The version.
    root : str
        The root of the pool that holds them.

    Returns
    -------
    dict of str to Wish
        By key, each once; none of no size.

    Examples
    --------
    >>> wishes_of(Manifest.build("dataset", ()), "memory://doc-wishes")
    {}
    """
    found: dict[str, Wish] = {}
    for variable in manifest.variables:
        if variable.inline is not None:
            continue
        for number, block in enumerate(PackedBlocks(root, variable)):
            if 0 not in block.shape:
                found.setdefault(block.key, Wish(block, *_noted(variable, number)))
    return found


def _noted(variable: StoredVariable, number: int) -> tuple[int, bytes]:
    checksum = 0 if variable.checksums is None else int(variable.checksums[number])
    digest = b"" if variable.digests is None else variable.digests[number].tobytes()
    return checksum, digest if any(digest) else b""


def known_blocks(manifests: Sequence[Manifest]) -> dict[tuple[int, bytes, int], tuple[int, bytes]]:
    """Give what versions say of the objects that they name.

    Parameters
    ----------
    manifests : sequence of Manifest
        Of one pool.

    Returns
    -------
    dict
        By a block's group, token and size the checksum and digest of its object, where they are known.

    Examples
    --------
    >>> known_blocks([Manifest.build("dataset", ())])
    {}
    """
    found = {}
    for manifest in manifests:
        for variable in manifest.variables:
            if variable.checksums is None:
                continue
            places = zip(variable.groups.tolist(), variable.tokens, variable.sizes.tolist(), strict=True)
            for number, (group, token, size_bytes) in enumerate(places):
                checksum, digest = _noted(variable, number)
                if checksum:
                    found[group, token.tobytes(), size_bytes] = checksum, digest
    return found


def move_block(target: Store, wish: Wish) -> Arrived:
    """Copy a block's object, unless one is there.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The other pool.
    wish : Wish
        The block.

    Returns
    -------
    Arrived
        What lies there now; a damaged object is moved aside and replaced.

    Raises
    ------
    NotStoredError
        The block is missing where it comes from.
    CorruptChunkError
        It is damaged there, or not the object that its manifest names.
    StoreFullError, ReadOnlyError, StoreError
        A store failed.

    Examples
    --------
    >>> from daskcache.chunks import ChunkSpec
    >>> from daskcache.pool import write_block
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> receipt = write_block("memory://doc-move", "00ff", bytes(20), spec, np.arange(3))
    >>> block = StoredBlock("memory://doc-move", "00ff", bytes(20), spec, (3,), np.dtype("i8"), receipt.size_bytes)
    >>> move_block(stores.open("memory://doc-moved"), Wish(block, receipt.checksum, b"")).is_same
    True
    """
    block = wish.block
    source = stores.open(block.root)
    data = stores.get(source, block.key)
    if data is None:
        raise NotStoredError(
            f"{block.key} is not in store {stores.describe(source)}; persist the entry again"
        )
    checksum = _check(data, wish, source)
    if not stores.create(target, block.key, data):
        there = _read_whole(target, block)
        if there is not None:
            return look_at(target, wish, len(there))
        if not stores.create(target, block.key, data):
            raise StoreError(
                f"{block.key} is in store {stores.describe(target)}, but cannot be read or moved aside; look at what "
                "else writes there"
            )
    return Arrived(len(data), checksum, wish.digest, is_same=True)


def _check(data: bytes, wish: Wish, source: Store) -> int:
    block = wish.block
    try:
        decode(data, block.spec, block.shape, block.dtype)
    except CorruptChunkError as error:
        raise CorruptChunkError(
            f"{block.key} in store {stores.describe(source)} is damaged, and was not copied; daskcache.verify with "
            f"quarantine=True moves it aside, so that a rerun computes it again ({error})"
        ) from error
    checksum = checksum_of(data, block.spec)
    if (wish.checksum and checksum != wish.checksum) or (wish.digest and digest_of(data) != wish.digest):
        raise CorruptChunkError(
            f"{block.key} in store {stores.describe(source)} is not the object that was stored, and was not copied; "
            "daskcache.verify with quarantine=True moves it aside, so that a rerun computes it again"
        )
    return checksum


def _read_whole(target: Store, block: StoredBlock) -> bytes | None:
    """Read what was there first; move it aside where it is damaged."""
    data = stores.get(target, block.key)
    if data is None:
        return None
    try:
        decode(data, block.spec, block.shape, block.dtype)
    except CorruptChunkError as error:
        logger.info("%s in store %s: %s", block.key, stores.describe(target), error)
        stores.rename_aside(target, block.key)
        return None
    return data


def look_at(target: Store, wish: Wish, size_bytes: int) -> Arrived:
    """Tell which object lies in a block's place already.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The other pool.
    wish : Wish
        The block.
    size_bytes : int
        The size of what lies there.

    Returns
    -------
    Arrived
        What lies there.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request, for four bytes; of a shard for all of it.

    Examples
    --------
    >>> from daskcache.chunks import ChunkSpec
    >>> from daskcache.pool import write_block
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> receipt = write_block("memory://doc-look-at", "00ff", bytes(20), spec, np.arange(3))
    >>> block = StoredBlock("memory://doc-look-at", "00ff", bytes(20), spec, (3,), np.dtype("i8"), receipt.size_bytes)
    >>> look_at(stores.open("memory://doc-look-at"), Wish(block, 0, b""), receipt.size_bytes).is_same
    False
    """
    block = wish.block
    checksum = read_checksum(target, block.key, block.spec)
    if checksum is None:
        data = stores.get(target, block.key)
        checksum = 0 if data is None else checksum_of(data, block.spec)
    is_same = bool(checksum) and checksum == wish.checksum and block.size_bytes in (0, None, size_bytes)
    return Arrived(size_bytes, checksum, wish.digest if is_same else b"", is_same)


def complete(manifest: Manifest, root: str, arrived: Mapping[str, Arrived]) -> Manifest:
    """Let a version say of each object what lies in the other pool.

    Parameters
    ----------
    manifest : Manifest
        As it was published.
    root : str
        The root of the other pool.
    arrived : mapping of str to Arrived
        By key, what lies there.

    Returns
    -------
    Manifest
        Of the same version.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> complete(Manifest.build("dataset", ()), "memory://doc-complete", {}).nblocks
    0
    """
    return dataclasses.replace(
        manifest, variables=tuple(_complete(variable, root, arrived) for variable in manifest.variables)
    )


def _complete(variable: StoredVariable, root: str, arrived: Mapping[str, Arrived]) -> StoredVariable:
    if variable.inline is not None:
        return variable
    count = len(variable.tokens)
    sizes, checksums = np.zeros(count, "<u8"), np.zeros(count, "<u4")
    digests = np.zeros((count, 16), "u1")
    blocks = list(PackedBlocks(root, variable))
    for number, block in enumerate(blocks):
        found = arrived.get(block.key)
        if found is not None:
            sizes[number], checksums[number] = found.size_bytes, found.checksum
            if found.digest:
                digests[number] = np.frombuffer(found.digest, "u1")
    inner = variable.inner
    if inner is not None and not all(arrived[b.key].is_same for b in blocks if b.key in arrived):
        # Of the same values, but of another compressor: its pieces lie elsewhere.
        inner = _read_inner(root, [block for block in blocks if 0 not in block.shape])
    return dataclasses.replace(
        variable,
        sizes=sizes,
        checksums=checksums if checksums.any() else None,
        digests=digests if digests.any() else None,
        inner=inner,
    )


def _read_inner(root: str, blocks: Sequence[StoredBlock]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    store = stores.open(root)
    with ThreadPoolExecutor(_WIDTH) as threads:
        found = threads.map(lambda block: read_inner_ranges(store, block.key, block.spec), blocks)
        ranges = [pair for block in found for pair in block or ()]
    return np.array(ranges, "<u8").reshape(-1, 2)

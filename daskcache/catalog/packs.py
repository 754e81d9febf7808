"""Packs: the blocks that runs stored without a name, listed by what they are and not by what they belong to.

A pack is a manifest whose variables hold blocks of one shape and dtype each, side by side along the first dimension. It
lies in ``namespaces/<namespace>/@``, where no entry can be, and nobody opens it: it tells the index which tokens are
stored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import NAMESPACES, TOMBSTONE, VERSIONS, check_format
from daskcache.errors import CorruptChunkError, StoreError
from daskcache.manifest import Manifest, StoredVariable, from_idx, to_idx
from daskcache.names import check_namespace, is_version
from daskcache.pool import StoredBlock
from daskcache.weighed import Weighed, merge, to_counts

__all__ = [
    "Listed",
    "drop_from_pack",
    "list_packs",
    "pack_blocks",
    "pack_key",
    "put_pack",
    "read_pack",
    "read_packs",
    "read_weighed",
]

logger = logging.getLogger("daskcache")

_MOST = 32
"""Small packs that may lie side by side; one more, and they are put together."""
_SMALL = 2**20
"""Bytes of a pack that is left as it is."""
_DIGEST_BYTES = 16
_ATTEMPTS = 3

# What never changes lives as long as the process, or until it is put together with others. Values are replaced whole.
_known: dict[tuple[str, str], dict[str, Manifest]] = {}


@dataclass(frozen=True, slots=True)
class Listed:
    """What a pack says of a block."""

    block: StoredBlock
    """Where it lies; with its size, where that is known."""
    checksum: int = 0
    """`daskcache.chunks.checksum_of` its object; 0 where not known."""
    digest: bytes = b""
    """That of its object; empty where not known."""


def put_pack(
    root: str, namespace: str, blocks: Iterable[Listed], weighed: Mapping[str, Weighed] | None = None
) -> None:
    """List blocks in a namespace, so that their tokens are found.

    Parameters
    ----------
    root : str
        The store that holds them.
    namespace : str
        Where they shall be found.
    blocks : iterable of Listed
        Each is stored already.
    weighed : mapping of str to Weighed, optional
        By layer, what blocks cost, stored or not.

    Raises
    ------
    StoreFullError, ReadOnlyError, StoreError
        The store has no room, takes no writes, failed, or has a newer format.

    Notes
    -----
    One put and one listing, and a look for an equal pack where a checksum is not known; every 32nd also reads some 32 small
    documents, writes one and deletes the others. Nothing is lost where several do so at once: each deletes only what it has
    read and written again before.

    Examples
    --------
    >>> from daskcache.chunks import ChunkSpec
    >>> spec = ChunkSpec.for_block("f4", (3,))
    >>> block = StoredBlock("memory://doc-pack", "00ff", bytes(20), spec, (3,), np.dtype("f4"), 64)
    >>> put_pack("memory://doc-pack", "default", [Listed(block)])
    >>> [len(read_pack("memory://doc-pack", "default", name).variables) for name in
    ...  list_packs("memory://doc-pack", "default")]
    [1]
    """
    rows = list(blocks)
    manifest = _pack(rows, weighed or {})
    if not manifest.variables:
        return
    store = stores.open(root)
    check_format(store, create=True)
    if not all(row.checksum for row in rows):
        # Those who stored the same blocks may have listed them already, under the same name, and knew more.
        before = read_pack(root, namespace, manifest.version)
        if before is not None:
            manifest = _pack([*rows, *pack_blocks(root, before)], weighed or {})
    stores.put(store, pack_key(namespace, manifest.version), to_idx(manifest))
    small = sorted((size, name) for name, (size, _) in _listed(store, namespace).items() if size < _SMALL)
    if len(small) > _MOST:
        # One larger than all others together waits for more of them, so that nothing is written again each time.
        while small[-1][0] > sum(size for size, _ in small[:-1]):
            small.pop()
        _merge(root, store, namespace, [name for _, name in small])


def list_packs(root: str, namespace: str) -> list[str]:
    """List the packs of a namespace.

    Parameters
    ----------
    root : str
        The store.
    namespace : str
        The namespace.

    Returns
    -------
    list of str
        Their versions, sorted.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> list_packs("memory://doc-empty", "default")
    []
    """
    return sorted(_listed(stores.open(root), namespace))


def read_pack(root: str, namespace: str, version: str) -> Manifest | None:
    """Read a pack.

    Parameters
    ----------
    root : str
        The store.
    namespace : str
        The namespace.
    version : str
        As `list_packs` gave it.

    Returns
    -------
    Manifest or None
        None where it has been put together with others since, or is damaged: then it was deleted.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> read_pack("memory://doc-empty", "default", "0" * 40) is None
    True
    """
    store = stores.open(root)
    data = stores.get(store, pack_key(namespace, version))
    try:
        return None if data is None else from_idx(data)
    except CorruptChunkError as error:
        # What it lists is found no more, is computed again, and listed anew.
        logger.info("a list of stored blocks is damaged and left out: %s", error)
        return None


def read_packs(
    root: str, namespace: str, *, since: float = -math.inf
) -> tuple[dict[str, Manifest], list[StoreError]]:
    """Read all packs of a namespace, each once in a process.

    Parameters
    ----------
    root : str
        The store.
    namespace : str
        The namespace.
    since : float, optional
        Leave those out that were written before, in seconds since 1970 by the store's clock; where it does not tell, none.

    Returns
    -------
    packs : dict of str to Manifest
        By version, sorted; without those that are damaged.
    errors : list of StoreError
        Why some could not be read.

    Raises
    ------
    StoreError
        The store cannot be listed.

    Examples
    --------
    >>> read_packs("memory://doc-empty", "default")
    ({}, [])
    """
    store = stores.open(root)
    known = _known.get((root, namespace), {})
    packs: dict[str, Manifest] = {}
    errors: list[StoreError] = []
    for _ in range(_ATTEMPTS):
        listed = _listed(store, namespace)
        found = {name: known[name] for name in listed if name in known}
        wanted = sorted(name for name, (_, at) in listed.items() if at is None or at >= since)
        has_gone, errors = False, []
        for name in wanted:
            try:
                pack = found.get(name) or read_pack(root, namespace, name)
            except StoreError as error:
                errors.append(error)
                continue
            if pack is None:
                has_gone = True
            else:
                found[name] = pack
        known = _known[root, namespace] = found
        packs = {name: found[name] for name in wanted if name in found}
        if not has_gone:
            break
        # Put together with others since they were listed: that was written before they were deleted.
    return packs, errors


def pack_blocks(root: str, pack: Manifest) -> Iterator[Listed]:
    """Give the blocks that a pack lists.

    Parameters
    ----------
    root : str
        The store that holds them.
    pack : Manifest
        What `read_pack` gave.

    Yields
    ------
    Listed
        With its size.

    Examples
    --------
    >>> list(pack_blocks("memory://doc-empty", Manifest.build("dataset", ())))
    []
    """
    for variable in pack.variables:
        spec = next(spec for _, spec in variable.specs())
        checksums, digests = variable.checksums, variable.digests
        for number in range(len(variable.tokens)):
            block = StoredBlock(
                root=root,
                group=f"{variable.groups[number]:04x}",
                token=variable.tokens[number].tobytes(),
                spec=spec,
                shape=tuple(lengths[0] for lengths in variable.chunks),
                dtype=variable.dtype,
                size_bytes=int(variable.sizes[number]) or None,
            )
            yield Listed(
                block,
                0 if checksums is None else int(checksums[number]),
                digests[number].tobytes() if digests is not None and digests[number].any() else b"",
            )


def drop_from_pack(root: str, namespace: str, version: str, tokens: Collection[bytes]) -> None:
    """List some blocks no longer. Runs that have found them may count on them for one grace period more.

    Parameters
    ----------
    root : str
        The store.
    namespace : str
        The namespace.
    version : str
        As `list_packs` gave it.
    tokens : collection of bytes
        The blocks' tokens.

    Raises
    ------
    StoreFullError, ReadOnlyError, StoreError
        The store has no room, takes no writes, or failed.

    Notes
    -----
    Two puts, a delete, and one request to read the pack. Where others put packs together at the same time, the blocks
    may stay listed.

    Examples
    --------
    >>> drop_from_pack("memory://doc-empty", "default", "0" * 40, [bytes(20)])
    """
    pack = read_pack(root, namespace, version)
    if pack is None:
        return
    store = stores.open(root)
    rows = list(pack_blocks(root, pack))
    # The tombstone first, so that whoever lists sees one or the other.
    dropped = _pack([row for row in rows if row.block.token in tokens], {})
    if not dropped.variables:
        return
    stores.put(store, pack_key(namespace, dropped.version, TOMBSTONE), to_idx(dropped))
    left = _pack([row for row in rows if row.block.token not in tokens], _weighed_in([pack]))
    if left.variables:
        stores.put(store, pack_key(namespace, left.version), to_idx(left))
    stores.delete(store, pack_key(namespace, version))


def pack_key(namespace: str, version: str = "", ending: str = ".idx") -> str:
    """Give the key of a pack, or of the directory of packs.

    Parameters
    ----------
    namespace : str
        The namespace.
    version : str, optional
        40 hex digits; by default that of the directory.
    ending : str, optional
        That of packs, or of their tombstones.

    Returns
    -------
    str
        Relative to the root of the pool.

    Examples
    --------
    >>> pack_key("default")
    'namespaces/default/@'
    """
    directory = f"{NAMESPACES}/{check_namespace(namespace)}/{VERSIONS}"
    return f"{directory}/{version}{ending}" if version else directory


def read_weighed(root: str, namespace: str) -> dict[str, Weighed]:
    """Tell what runs under the policy ``auto`` found of the layers that they weighed.

    Parameters
    ----------
    root : str
        The store.
    namespace : str
        The namespace.

    Returns
    -------
    dict of str to Weighed
        By layer, of all runs whose packs are there.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> read_weighed("memory://doc-empty", "default")
    {}
    """
    packs = (read_pack(root, namespace, name) for name in list_packs(root, namespace))
    return _weighed_in(pack for pack in packs if pack is not None)


def _listed(store: Store, namespace: str) -> dict[str, tuple[int, float | None]]:
    return {
        name[:-4]: stat
        for name, stat in stores.list_objects(store, pack_key(namespace)).items()
        if name.endswith(".idx") and is_version(name[:-4])
    }


def _merge(root: str, store: Store, namespace: str, names: Sequence[str]) -> None:
    found = {name: read_pack(root, namespace, name) for name in names}
    read = {name: manifest for name, manifest in found.items() if manifest is not None}
    rows = (row for manifest in read.values() for row in pack_blocks(root, manifest))
    merged = _pack(rows, _weighed_in(read.values()))
    stores.put(store, pack_key(namespace, merged.version), to_idx(merged))
    for name in read:
        if name != merged.version:
            stores.delete(store, pack_key(namespace, name))


def _pack(rows: Iterable[Listed], weighed: Mapping[str, Weighed]) -> Manifest:
    alike: dict[object, dict[bytes, Listed]] = {}
    for row in rows:
        block = row.block
        # One without dimensions cannot lie beside another.
        form = (block.shape, str(block.dtype.str), block.spec, None if block.shape else block.token)
        found = alike.setdefault(form, {})
        # Who stored a block knows its checksum, and who published may have listed it without.
        found[block.token] = max(found.get(block.token, row), row, key=_how_much_is_known)
    # By what they hold, so that equal packs have one name.
    ordered = sorted((sorted(found.items()) for found in alike.values()), key=lambda found: found[0][0])
    variables = (
        _variable(f"blocks{number}", [row for _, row in found]) for number, found in enumerate(ordered)
    )
    info = {"weighed": {layer: asdict(found) for layer, found in weighed.items()}} if weighed else {}
    return Manifest.build("dataset", tuple(variables), info=info)


def _how_much_is_known(row: Listed) -> tuple[bool, bool]:
    return bool(row.digest), bool(row.checksum)


def _weighed_in(manifests: Iterable[Manifest]) -> dict[str, Weighed]:
    found: dict[str, Weighed] = {}
    for manifest in manifests:
        for layer, values in manifest.info.get("weighed", {}).items():
            found = merge(found, to_counts(layer, Weighed(**values)))
    return found


def _variable(path: str, rows: Sequence[Listed]) -> StoredVariable:
    blocks = [row.block for row in rows]
    first = blocks[0]
    counts = (len(blocks), *[1] * first.ndim)
    checksums = np.array([row.checksum for row in rows], "<u4")
    digests = b"".join(row.digest or bytes(_DIGEST_BYTES) for row in rows)
    return StoredVariable(
        path=path,
        dims=tuple(f"dim_{i}" for i in range(first.ndim)),
        dtype=first.dtype,
        chunks=tuple((length,) * count for length, count in zip(first.shape, counts, strict=False)),
        codecs=first.spec.codecs,
        tokens=np.frombuffer(b"".join(block.token for block in blocks), "u1").reshape(-1, 20),
        groups=np.array([int(block.group, 16) for block in blocks], "<u2"),
        sizes=np.array([block.size_bytes or 0 for block in blocks], "<u8"),
        checksums=checksums if checksums.any() else None,
        digests=np.frombuffer(digests, "u1").reshape(-1, _DIGEST_BYTES) if any(digests) else None,
    )

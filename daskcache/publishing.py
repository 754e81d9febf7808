"""From stored blocks to a manifest: the last task of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daskcache import stores
from daskcache.catalog import Catalog, RunRecord, Wanted
from daskcache.chunks import ChunkSpec, block_key, encode, group_of, read_checksum, read_inner_ranges
from daskcache.config import Codecs, Settings
from daskcache.datasets import Outline, PackedBlocks, in_memory_blocks
from daskcache.errors import EntryNotFoundError, SourceChangedError, StoreError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.watch import Watch
from daskcache.forgetting import wait_for_sweep
from daskcache.listing import Listing
from daskcache.manifest import INLINE_LIMIT, Manifest
from daskcache.pool import Receipt, StoredBlock, write_block
from daskcache.reports import checksums_elsewhere, checksums_here
from daskcache.stores.driven import Driven

__all__ = ["PLAIN", "BlocksGoneError", "Draft", "Publication", "announce_run", "draft_manifest", "record_id"]

logger = logging.getLogger("daskcache")

PLAIN = Codecs(name="none")
"""The codecs of what lies in a manifest itself."""

CHECKSUM_BYTES = 4

_MOST_READS = 4096
_WIDTH = 16

Blocks = Mapping[str, Sequence[StoredBlock]]


class BlocksGoneError(StoreError):
    """Blocks that were found or stored are there no more: running again computes them again."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A manifest without sizes, and the blocks of in-memory variables that have to be written first."""

    manifest: Manifest
    """Complete but for sizes, digests and offsets."""
    pending: tuple[tuple[int, int, StoredBlock, np.ndarray[Any, Any]], ...] = ()
    """Variable, block number, where it goes, and the values of each in-memory block that is not inline."""


def draft_manifest(
    outline: Outline,
    blocks: Blocks,
    settings: Settings,
    fingerprinter: Fingerprinter,
    info: Mapping[str, Any],
) -> Draft:
    """Make the manifest of an object whose tokens are known.

    Parameters
    ----------
    outline : Outline
        The object.
    blocks : mapping of str to sequence of StoredBlock
        Where the blocks of each dask variable belong, in C order.
    settings : Settings
        The store and codecs.
    fingerprinter : Fingerprinter
        Gives in-memory values their identities.
    info : mapping
        JSON for people and tools.

    Returns
    -------
    Draft
        Its version is final.

    Raises
    ------
    UncacheableError
        A value or an attribute has no storage form.
    """
    variables = []
    pending = []
    for number, variable in enumerate(outline.variables):
        if variable.values is None:
            variables.append(variable.stored(settings.codecs, blocks[variable.path]))
            continue
        if variable.values.nbytes <= INLINE_LIMIT:
            # Uncompressed, so that the version does not depend on a compressor's release.
            ((values, _, spec),) = in_memory_blocks(variable, PLAIN)
            data = bytes(encode(values, spec))
            if len(data) <= INLINE_LIMIT + CHECKSUM_BYTES:
                variables.append(variable.stored(PLAIN, (), inline=data))
                continue
        targets: list[StoredBlock] = []
        for values, _, spec in in_memory_blocks(variable, settings.codecs):
            group = group_of(fingerprinter.combine(b"data", []), spec)
            token = fingerprinter.fingerprint(values)
            target = StoredBlock(settings.pool_root, group, token, spec, values.shape, values.dtype)
            pending.append((number, len(targets), target, values))
            targets.append(target)
        variables.append(variable.stored(settings.codecs, targets))
    manifest = Manifest.build(
        outline.kind, tuple(variables), name=outline.name, nodes=outline.nodes, info=info
    )
    return Draft(manifest, tuple(pending))


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """A manifest that waits for its blocks."""

    draft: Draft
    """The manifest, and in-memory blocks to write."""
    settings: Settings
    """The store and namespace."""
    entry: str
    """The name."""
    run: str
    """Names the run's record."""
    places: np.ndarray[Any, np.dtype[np.int64]]
    """Shape (receipts, 2): the variable and the block that each receipt is of."""
    watch: Watch = field(default_factory=Watch)
    """What was seen of the sources."""

    def publish(self, receipts: Sequence[Receipt]) -> Manifest:
        """Write the manifest, now that its blocks are stored.

        Parameters
        ----------
        receipts : sequence of Receipt
            In the order of `places`.

        Returns
        -------
        Manifest
            As it was written.

        Raises
        ------
        SourceChangedError
            A source is not as it was when the tokens were made. Nothing was written.
        StoreError
            A block has gone since it was looked up, or the store takes no manifest.

        Notes
        -----
        Costs one look at the sources, which lists those that have many objects, one listing for each group that holds
        blocks without receipts, and the puts of the documents.
        """
        changed = self.watch.find_changed()
        if changed is not None:
            raise SourceChangedError(
                f"{changed}: {self.settings.namespace}/{self.entry} is not published, and stays what it was. Run again: "
                "the new data get tokens of their own"
            )
        given = {tuple(place): receipt for place, receipt in zip(self.places.tolist(), receipts, strict=True)}
        for number, block, target, values in self.draft.pending:
            given[number, block] = write_block(target.root, target.group, target.token, target.spec, values)
        wait_for_sweep(self.settings.pool_root)
        manifest = self._completed(given)
        Catalog.of(self.settings).publish(self.entry, manifest, run=self.run)
        return manifest

    def _completed(self, given: Mapping[tuple[int, ...], Receipt]) -> Manifest:
        listing = Listing(self.settings.pool_root)
        # What this run wrote has its own.
        known = self._known() if len(given) < self.draft.manifest.nblocks else {}
        unreported = _Unreported(self.settings.pool_root, self.run.partition("-")[0])
        variables = []
        for number, variable in enumerate(self.draft.manifest.variables):
            sizes = np.zeros(len(variable.tokens), "<u8")
            checksums = np.zeros(len(variable.tokens), "<u4")
            digests = np.zeros((len(variable.tokens), 16), "u1")
            inner: list[tuple[int, int]] = []
            unknown: dict[int, StoredBlock] = {}
            # Readers who see blocks as a regular grid find the offsets in the objects.
            has_offsets = variable.inline is None and variable.grid.kind == "inner"
            if variable.inline is None:
                blocks = PackedBlocks(self.settings.pool_root, variable)
                for block, index in enumerate(variable.grid.indices()):
                    receipt = given.get((number, block))
                    if receipt is None:
                        receipt = self._look(listing, blocks(index), has_offsets=has_offsets)
                    elif receipt.size_bytes and not listing.has(receipt.group, receipt.id):
                        raise self._gone(block_key(receipt.group, receipt.id))
                    sizes[block] = receipt.size_bytes
                    checksum, digest = 0, b""
                    if known and not receipt.created:
                        place = int(variable.groups[block]), variable.tokens[block].tobytes()
                        checksum, digest = known.get((*place, receipt.size_bytes), (0, b""))
                    # Another object may have taken its place since.
                    if digest and (not receipt.checksum or checksum in (0, receipt.checksum)):
                        digests[block] = np.frombuffer(digest, "u1")
                    checksums[block] = receipt.checksum or checksum
                    inner.extend(receipt.inner or () if has_offsets else ())
                    if receipt.size_bytes and not checksums[block]:
                        unknown[block] = blocks(index)
                checksums[list(unknown)] = unreported.find(unknown.values())
            variables.append(
                dataclasses.replace(
                    variable,
                    sizes=sizes,
                    checksums=checksums if checksums.any() else None,
                    digests=digests if digests.any() else None,
                    inner=np.array(inner, "<u8").reshape(-1, 2) if inner else None,
                )
            )
        return dataclasses.replace(self.draft.manifest, variables=tuple(variables))

    def _known(self) -> Mapping[tuple[int, bytes, int], tuple[int, bytes]]:
        """Give checksums and digests of the entry's newest version, by a block's group, token and size."""
        catalog = Catalog.of(self.settings)
        try:
            latest = catalog.latest(self.entry)
            newest = None if latest is None else catalog.open(self.entry, latest.version)
        except (StoreError, EntryNotFoundError) as error:
            logger.info("checksums of the version before are not known: %s", error)
            return {}
        found: dict[tuple[int, bytes, int], tuple[int, bytes]] = {}
        for variable in newest.variables if newest is not None and newest.pool == self.settings.pool else ():
            checksums, digests = variable.checksums, variable.digests
            if checksums is None and digests is None:
                continue
            # A group is one form of storage, so that nobody needs the objects' names, each of which costs a hash.
            places = zip(variable.groups.tolist(), variable.tokens, variable.sizes.tolist(), strict=True)
            for number, (group, token, size_bytes) in enumerate(places):
                checksum = 0 if checksums is None else int(checksums[number])
                digest = b"" if digests is None or not digests[number].any() else digests[number].tobytes()
                found[group, token.tobytes(), size_bytes] = checksum, digest
        return found

    def _look(self, listing: Listing, block: StoredBlock, *, has_offsets: bool) -> Receipt:
        found = listing.find(block)
        if found is None:
            raise self._gone(block.key)
        inner = None
        if block.spec.inner_shape is not None and has_offsets:
            inner = read_inner_ranges(stores.open(block.root), block.key, block.spec)
        return Receipt(block.group, block.id, found.size_bytes or 0, None, inner, created=False)

    def _gone(self, key: str) -> BlocksGoneError:
        return BlocksGoneError(
            f"{key} has gone from store {stores.describe(self.settings.store)} since it was looked up; "
            "run again, which computes it again"
        )


class _Unreported:
    """Checksums of objects that nobody gave a receipt of: what a run stored on its way, or found in the store.

    Parameters
    ----------
    root : str
        Where they lie.
    run : str
        The id of the run that publishes them.
    """

    def __init__(self, root: str, run: str) -> None:
        store = stores.open(root)
        # A faster level may hold a copy that is damaged.
        self._store = store.home if isinstance(store, Driven) else store
        self._run = run
        self._told: dict[str, int] | None = None
        self._has_asked = False
        self._reads = _MOST_READS

    def find(self, blocks: Iterable[StoredBlock]) -> list[int]:
        """Give the checksum of each block's object; 0 where it cannot be had at little cost."""
        wanted = [(block.id, block) for block in blocks]
        if wanted and self._told is None:
            self._told = checksums_here(self._run)
        told = self._told or {}
        if any(identity not in told for identity, _ in wanted) and not self._has_asked:
            self._has_asked = True
            told.update(checksums_elsewhere(self._run))
        read = self._read([block for identity, block in wanted if identity not in told])
        return [told[identity] if identity in told else next(read, 0) for identity, _ in wanted]

    def _read(self, blocks: Sequence[StoredBlock]) -> Iterator[int]:
        """Read them from the ends of the objects, up to some number for each publication."""
        blocks = blocks[: self._reads]
        self._reads -= len(blocks)
        if not blocks:
            return iter(())
        try:
            return iter(self._read_all(blocks))
        except StoreError as error:
            # Of use to `verify` alone.
            self._reads = 0
            logger.info("checksums of stored blocks could not be read: %s", error)
            return iter(())

    def _read_all(self, blocks: Sequence[StoredBlock]) -> list[int]:
        try:
            with ThreadPoolExecutor(_WIDTH, "daskcache-checksums") as threads:
                return list(threads.map(self._read_one, blocks))
        except RuntimeError:  # the interpreter is at its end, and has no threads for anybody
            return [self._read_one(block) for block in blocks]

    def _read_one(self, block: StoredBlock) -> int:
        return read_checksum(self._store, block.key, block.spec) or 0


def record_id(run: str, entry: str) -> str:
    """Name the record of what a run wants for one of several entries.

    Parameters
    ----------
    run : str
        The run's id.
    entry : str
        What will be published.

    Returns
    -------
    str
        One segment of a path.

    Examples
    --------
    >>> record_id("r1", "era5") == record_id("r1", "era6")
    False
    """
    return f"{run}-{hashlib.blake2b(entry.encode(), digest_size=4).hexdigest()}"


def announce_run(run: str, settings: Settings, entry: str, blocks: Blocks) -> None:
    """Put a run's record, before it looks up what it wants.

    Parameters
    ----------
    run : str
        The run's id.
    settings : Settings
        The store and namespace.
    entry : str
        What will be published.
    blocks : mapping of str to sequence of StoredBlock
        Where the blocks of each variable belong.

    Raises
    ------
    StoreError
        The store takes no writes.
    """
    alike: dict[tuple[str, str, ChunkSpec], list[bytes]] = {}
    for path, wanted in blocks.items():
        for block in wanted:
            alike.setdefault((path, block.group, block.spec), []).append(block.token)
    wants = tuple(
        Wanted(path, group, spec, np.frombuffer(b"".join(tokens), "u1").reshape(-1, 20))
        for (path, group, spec), tokens in alike.items()
    )
    record = RunRecord.start(run, settings.namespace, entry, wants)
    Catalog.of(settings).runs.put(record)

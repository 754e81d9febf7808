"""Verification: whether the store holds what its manifests say."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from dask.utils import format_bytes

from daskcache import stores
from daskcache.catalog import Catalog, check_name, list_packs, pack_key, read_pack
from daskcache.chunks import checksum_of, decode
from daskcache.config import Settings
from daskcache.datasets import PackedBlocks
from daskcache.errors import CorruptChunkError, EntryNotFoundError, InvalidInputError, ReadOnlyError
from daskcache.manifest import Manifest, StoredVariable, to_idx
from daskcache.pool import StoredBlock, digest_of

__all__ = ["Finding", "Verification", "verify"]

logger = logging.getLogger("daskcache")

Problem = Literal["missing", "damaged", "other", "unreadable"]

_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as a manifest says."""

    namespace: str
    """Where."""
    entry: str
    """The name; empty for what was stored without one, because somebody computed it."""
    version: str
    """40 hex digits."""
    variable: str
    """The variable's path; empty where the version itself is meant."""
    block: int
    """The block's number in C order; -1 where the version itself is meant."""
    key: str
    """The object's key in the store."""
    problem: Problem
    """``missing``: there is no object. ``damaged``: it is cut off or fails its checksum. ``other``: it is whole, but not
    the object that was stored, as where two were exchanged. ``unreadable``: the version's own index is damaged."""

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.entry}@{self.version[:12]}"
        what = f" {self.variable}, block {self.block}" if self.block >= 0 else ""
        return f"{self.problem}: {where}{what} ({self.key})"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    store: str
    """The store's root, without credentials."""
    versions: int = 0
    """Versions that were looked at."""
    blocks: int = 0
    """Blocks that were read; one that several versions name counts once."""
    size_bytes: int = 0
    """Their size."""
    unproven: int = 0
    """Of these, blocks that are whole but of which neither checksum nor digest is known: two of one size and form may
    have been exchanged."""
    filled: int = 0
    """Digests that were noted."""
    findings: tuple[Finding, ...] = ()
    """What is not as it should be."""
    quarantined: tuple[str, ...] = field(default=())
    """Where bad objects were moved, so that they count as missing and a rerun computes them again."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        lines = [
            f"{self.versions} versions with {self.blocks} blocks ({format_bytes(self.size_bytes)}) of {self.store}: "
            + (
                "all is well"
                if self.is_sound
                else f"{len(self.findings)} blocks or versions are not as they should be"
            )
        ]
        lines += [f"  {finding}" for finding in self.findings]
        if self.filled:
            lines.append(f"noted the digests of {self.filled} blocks")
        if self.unproven:
            lines.append(
                f"no checksum is known of {self.unproven} blocks, which are whole: verify(fill=True) notes them, so that "
                "exchanged ones are found later"
            )
        if self.quarantined:
            lines.append(f"moved {len(self.quarantined)} objects aside: running again computes them again")
        return "\n".join(lines)


def verify(
    entry: str | None = None,
    *,
    version: str | None = None,
    namespace: str | None = None,
    store: str | None = None,
    everywhere: bool = False,
    fill: bool = False,
    quarantine: bool = False,
) -> Verification:
    """Read all that an entry, a namespace or a store holds, and tell what is not as its manifests say.

    Parameters
    ----------
    entry : str, optional
        The name; by default all of the namespace.
    version : str, optional
        One of its versions; by default all.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    everywhere : bool, optional
        All namespaces of the store.
    fill : bool, optional
        Note the digests of whole blocks that have none, so that a later call finds one that was exchanged.
    quarantine : bool, optional
        Move bad objects aside, so that they count as missing: a rerun of what stored them computes them again.

    Returns
    -------
    Verification
        Counts and findings.

    Raises
    ------
    EntryNotFoundError
        There is no such entry or version.
    InvalidInputError
        A version is given without an entry, or an entry with ``everywhere``.
    ReadOnlyError
        Something shall be noted or moved, and the namespace or store takes no writes.
    StoreError
        The store cannot be read.

    Notes
    -----
    Reads every object once, eight at a time, and decodes it; nothing of a store is ever unpickled.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2) * 2, "numbers", store="memory://doc-verify")
    >>> found = daskcache.verify("numbers", store="memory://doc-verify", fill=True)
    >>> found.is_sound, found.blocks, found.filled
    (True, 2, 2)
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    if entry is None and version is not None:
        raise InvalidInputError(f"version {version!r} is given without the entry that has it")
    if entry is not None and everywhere:
        raise InvalidInputError(
            f"entry {entry!r} is given, and everywhere=True means all entries; give one of both"
        )
    writes = fill or quarantine
    names = Catalog.of(settings).namespaces() if everywhere else [settings.namespace]
    verifier = _Verifier(fill, quarantine)
    for name in names:
        own = Settings.from_config(store=store, namespace=name)
        if writes and own.mode not in ("write", "readwrite"):
            raise ReadOnlyError(
                f"daskcache.mode of namespace {name!r} is {own.mode!r}; set it to 'readwrite', or verify without fill "
                "and quarantine"
            )
        catalog = Catalog.of(own)
        for found in catalog.entries() if entry is None else [check_name(entry)]:
            verifier.verify_entry(catalog, found, version)
        if entry is None:
            verifier.verify_packs(catalog)
    return verifier.result(stores.describe(settings.store))


@dataclass(frozen=True, slots=True)
class _Found:
    """What an object was found to be."""

    problem: Problem | None
    size_bytes: int = 0
    checksum: int = 0
    """0 where it has none."""
    digest: bytes = b""
    """Empty where it has none."""


class _Verifier:
    """One call of `verify`."""

    def __init__(self, fill: bool, quarantine: bool) -> None:
        self._fill = fill
        self._quarantine = quarantine
        self._counts: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._moved: list[str] = []
        # What each object was found to be, by root and key: one that many versions name is read once.
        self._seen: dict[tuple[str, str], _Found] = {}
        # Objects of which some manifest knows a checksum or digest, and those of which one knows none.
        self._proven: set[tuple[str, str]] = set()
        self._unproven: set[tuple[str, str]] = set()

    def result(self, store: str) -> Verification:
        self._counts["unproven"] = len(self._unproven - self._proven)
        return Verification(
            store, **self._counts, findings=tuple(self._findings), quarantined=tuple(self._moved)
        )

    def verify_entry(self, catalog: Catalog, entry: str, version: str | None) -> None:
        infos = catalog.versions(entry)
        wanted = [info for info in infos if version is None or info.version.startswith(version)]
        if not wanted:
            raise EntryNotFoundError(
                f"{version!r} is no version of entry {entry!r} of namespace {catalog.namespace!r}"
            )
        for info in wanted:
            self._counts["versions"] += 1
            try:
                manifest = catalog.open(entry, info.version)
            except CorruptChunkError as error:
                logger.info("%s", error)
                self._findings.append(
                    Finding(
                        catalog.namespace, entry, info.version, "", -1, f"{info.version}.idx", "unreadable"
                    )
                )
                continue
            filled = self._verify(catalog, entry, manifest, catalog.root_of(manifest))
            if filled is not None:
                catalog.rewrite(entry, filled)

    def verify_packs(self, catalog: Catalog) -> None:
        root = catalog.runs.pool_root
        for name in list_packs(root, catalog.namespace):
            pack = read_pack(root, catalog.namespace, name)
            if pack is not None:
                filled = self._verify(catalog, "", pack, root)
                if filled is not None:
                    stores.put(stores.open(root), pack_key(catalog.namespace, name), to_idx(filled))

    def _verify(self, catalog: Catalog, entry: str, manifest: Manifest, root: str) -> Manifest | None:
        """Look at all blocks of a manifest; give it with the digests that were not known, if there are any."""
        variables, filled = [], 0
        for variable in manifest.variables:
            count = len(variable.tokens)
            checksums = np.zeros(count, "<u4") if variable.checksums is None else variable.checksums.copy()
            digests = np.zeros((count, 16), "u1") if variable.digests is None else variable.digests.copy()
            for number, (block, found) in enumerate(self._read(root, variable)):
                is_other = (checksums[number] and found.checksum != checksums[number]) or (
                    digests[number].any() and found.digest != digests[number].tobytes()
                )
                problem: Problem | None = "other" if found.digest and is_other else found.problem
                if problem in ("other", "damaged") and self._quarantine:
                    self._move(block)
                if problem is None and found.digest:
                    is_known = checksums[number] or digests[number].any() or self._fill
                    (self._proven if is_known else self._unproven).add((block.root, block.key))
                if problem is not None:
                    place = (catalog.namespace, entry, manifest.version, variable.path, number)
                    self._findings.append(Finding(*place, block.key, problem))
                elif found.digest and self._fill and not digests[number].any():
                    checksums[number] = found.checksum
                    digests[number] = np.frombuffer(found.digest, "u1")
                    filled += 1
            variables.append(
                dataclasses.replace(
                    variable,
                    checksums=checksums if checksums.any() else None,
                    digests=digests if digests.any() else None,
                )
            )
        self._counts["filled"] += filled
        return dataclasses.replace(manifest, variables=tuple(variables)) if filled else None

    def _read(self, root: str, variable: StoredVariable) -> Iterator[tuple[StoredBlock, _Found]]:
        """Give each block with what its object was found to be."""
        if variable.inline is not None:
            return
        blocks = iter(PackedBlocks(root, variable))
        with ThreadPoolExecutor(_WIDTH) as threads:
            while part := [block for _, block in zip(range(16 * _WIDTH), blocks, strict=False)]:
                for block, found in zip(part, threads.map(self._look, part), strict=True):
                    place = block.root, block.key
                    if place not in self._seen and 0 not in block.shape:
                        self._counts["blocks"] += 1
                        self._counts["size_bytes"] += found.size_bytes
                    self._seen[place] = found
                    yield block, found

    def _look(self, block: StoredBlock) -> _Found:
        known = self._seen.get((block.root, block.key))
        return self._examine(block) if known is None else known

    def _examine(self, block: StoredBlock) -> _Found:
        if 0 in block.shape:
            return _Found(None)  # it has no object
        data = stores.get(stores.open(block.root), block.key)
        if data is None:
            return _Found("missing")
        try:
            decode(data, block.spec, block.shape, block.dtype)
        except CorruptChunkError as error:
            logger.info("%s: %s", block.key, error)
            return _Found("damaged", len(data))
        return _Found(None, len(data), checksum_of(data, block.spec), digest_of(data))

    def _move(self, block: StoredBlock) -> None:
        moved = stores.rename_aside(stores.open(block.root), block.key)
        if moved is not None:
            self._moved.append(moved)

"""Which blocks lie in a pool: what manifests name, if a few of it are there, and one listing for each group else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

from zarr.storage import LocalStore, MemoryStore

from daskcache import stores
from daskcache.errors import CorruptChunkError, NotStoredError, StoreError
from daskcache.pool import SMALLEST_BYTES, StoredBlock
from daskcache.stores.driven import Driven

__all__ = ["SAMPLE", "Listing", "note_lost"]

IsSafe = Callable[[StoredBlock, float | None], bool]

SAMPLE = 32
"""How many blocks that manifests name are looked at before the others are counted on."""

_LOST = "quarantine/lost"
_WIDTH = 16

logger = logging.getLogger("daskcache")


def note_lost(block: StoredBlock) -> None:
    """Note that a block could not be read, so that runs look before they count on a manifest that names it.

    Parameters
    ----------
    block : StoredBlock
        What could not be read where nobody could compute it.

    Notes
    -----
    One small object, which is swept with what was moved aside. A store that takes none is no error.

    Examples
    --------
    >>> import numpy as np
    >>> from daskcache.chunks import ChunkSpec
    >>> spec = ChunkSpec.for_block("f4", (3,))
    >>> note_lost(StoredBlock("memory://doc-lost", "00ff", bytes(20), spec, (3,), np.dtype("f4"), 64))
    """
    store = stores.open(block.root)
    try:
        stores.put(store, f"{_LOST}/{block.id}", block.group.encode())
    except StoreError as error:
        logger.info("nobody will know that %s is lost: %s", block.key, error)


class Listing:
    """What the pool of one store held when it was first asked, group by group.

    Parameters
    ----------
    root : str
        The root of the pool.
    is_safe : callable, optional
        Tells of a block that no manifest names, and of when it was written, whether it will stay. One that will not
        counts as missing.

    Notes
    -----
    Costs one LIST per group, however many blocks are asked for; those of blocks that are told in advance run beside
    each other. Kept for one pass, never longer.
    """

    def __init__(self, root: str, is_safe: IsSafe | None = None) -> None:
        self._store = stores.open(root)
        self._is_safe = is_safe
        self._groups: dict[str, Mapping[str, tuple[int, float | None]]] = {}
        # Of groups that were not listed as a whole, which blocks were asked for.
        self._asked: dict[str, Collection[str]] = {}
        self._counts_on_names = False

    def count_on_names(self, named: Collection[tuple[StoredBlock, StoredBlock | None]]) -> bool:
        """Look at some of the blocks that manifests name; where all are there, count on the others.

        Parameters
        ----------
        named : collection of tuple
            Some `SAMPLE` blocks, and what a manifest says of the token of each.

        Returns
        -------
        bool
            Whether they are counted on from now on. Not on a near disk, where each look costs microseconds.

        Raises
        ------
        StoreError
            The store cannot be read.

        Notes
        -----
        What a manifest names is not swept. What somebody has deleted nevertheless is computed where its load fails, or
        looked for by the next run: see `note_lost`.
        """
        home = self._store.home if isinstance(self._store, Driven) else self._store
        if isinstance(home, LocalStore | MemoryStore):
            return False
        sample = [
            known
            for block, known in named
            if known is not None and _is_same(block, known) and known.size_bytes is not None
        ]
        if not sample:
            return False
        with ThreadPoolExecutor(min(_WIDTH, len(sample)), "daskcache-look") as pool:
            sizes = list(pool.map(lambda known: stores.size(self._store, known.key), sample))
        self._counts_on_names = all(
            size == known.size_bytes for size, known in zip(sizes, sample, strict=True)
        )
        return self._counts_on_names

    def is_lost(self, block: StoredBlock) -> bool:
        """Tell whether a run has noted that a block could not be read.

        Parameters
        ----------
        block : StoredBlock
            One that a manifest names.

        Returns
        -------
        bool
            Whether it has to be looked for.

        Raises
        ------
        StoreError
            The store cannot be listed.
        """
        return bool(self._lost) and block.id in self._lost

    @cached_property
    def _lost(self) -> Collection[str]:
        return stores.list_sizes(self._store, _LOST).keys()

    def look_ahead(self, blocks: Iterable[StoredBlock]) -> None:
        """List the groups of some blocks beside each other, before they are looked for one by one.

        Parameters
        ----------
        blocks : iterable of StoredBlock
            Blocks that are going to be looked for.

        Raises
        ------
        StoreError
            The pool cannot be listed.
        """
        if isinstance(self._store, LocalStore):
            return
        wanted: dict[str, set[str]] = {}
        for block in blocks:
            if block.group not in self._groups and 0 not in block.shape:
                wanted.setdefault(block.group, set()).add(block.id)
        if wanted:
            found = stores.find_objects(
                self._store, {f"chunks/{group}": names for group, names in wanted.items()}
            )
            self._groups.update({group: found[f"chunks/{group}"] for group in wanted})
            self._asked.update(wanted)

    def has(self, group: str, identity: str) -> bool:
        """Tell whether an object lies in the pool, whose size is known.

        Parameters
        ----------
        group : str
            The pool's group.
        identity : str
            The object's name in it.

        Returns
        -------
        bool
            Whether it is listed.

        Raises
        ------
        StoreError
            The pool cannot be listed.
        """
        return identity in self._group(group, identity)

    def find(self, block: StoredBlock) -> StoredBlock | None:
        """Look for a block.

        Parameters
        ----------
        block : StoredBlock
            Where it belongs.

        Returns
        -------
        StoredBlock or None
            The same with its size; None where it is not there, or too small to be whole.

        Raises
        ------
        StoreError
            The pool cannot be listed.
        """
        found = self._look(block)
        return None if found is None else found[0]

    def find_as_known(self, block: StoredBlock, known: StoredBlock | None) -> StoredBlock | None:
        """Look for a block whose size a manifest knows; one of another size is read before it is trusted.

        Parameters
        ----------
        block : StoredBlock
            Where it belongs.
        known : StoredBlock or None
            What a manifest says of its token.

        Returns
        -------
        StoredBlock or None
            The same with its size; None where it is not there, may be swept at any moment, or is damaged: then it has
            been moved aside.

        Raises
        ------
        StoreError
            The pool cannot be listed.
        """
        is_same = known is not None and _is_same(block, known)
        if known is not None and is_same and (known.shape != block.shape or known.dtype != block.dtype):
            return None  # what was declared is not what the task gives
        if known is not None and is_same and self._counts_on(known):
            return _with_size(block, known.size_bytes or 0)
        there = self._look(block)
        if there is None:
            return None
        found, written = there
        if known is None or not is_same:
            return found if self._will_stay(found, written) else None
        if known.size_bytes in (None, found.size_bytes):
            return found
        # Damaged, or encoded anew by another release of a compressor.
        try:
            found[...]
        except (CorruptChunkError, NotStoredError) as error:
            logger.info("%s, so that it counts as missing", error)
            return None
        return found

    def _counts_on(self, known: StoredBlock) -> bool:
        return self._counts_on_names and known.size_bytes is not None and not self.is_lost(known)

    def _look(self, block: StoredBlock) -> tuple[StoredBlock, float | None] | None:
        """Give a block with its size, and when it was written."""
        if 0 in block.shape:
            return replace(block, size_bytes=0), None
        # Once, because an id costs a hash, and a file a look.
        name = block.id
        size, written = self._group(block.group, name).get(name, (0, None))
        return None if size < SMALLEST_BYTES else (_with_size(block, size), written)

    def _group(self, group: str, name: str) -> Mapping[str, tuple[int, float | None]]:
        """Give what a group holds, as far as a name is concerned."""
        found = self._groups.get(group)
        if found is None or name not in self._asked.get(group, (name,)):
            found = self._groups[group] = self._list(group)
            self._asked.pop(group, None)
        return found

    def _list(self, group: str) -> Mapping[str, tuple[int, float | None]]:
        prefix = f"chunks/{group}"
        return stores.find_objects(self._store, {prefix: None})[prefix]

    def _will_stay(self, block: StoredBlock, written: float | None) -> bool:
        if self._is_safe is None or 0 in block.shape or self._is_safe(block, written):
            return True
        logger.info("%s is old and nothing needs it, so that it counts as missing", block.key)
        return False


def _is_same(block: StoredBlock, known: StoredBlock) -> bool:
    # What is equal has equal ids, each of which costs a hash.
    return known.group == block.group and (
        (known.token == block.token and known.spec == block.spec) or known.id == block.id
    )


def _with_size(block: StoredBlock, size_bytes: int) -> StoredBlock:
    # In half the time that `dataclasses.replace` takes.
    return StoredBlock(block.root, block.group, block.token, block.spec, block.shape, block.dtype, size_bytes)

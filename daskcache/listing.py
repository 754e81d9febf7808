"""Which blocks lie in a pool: one listing for each group of siblings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from daskcache import stores
from daskcache.errors import CorruptChunkError, NotStoredError
from daskcache.pool import StoredBlock

__all__ = ["Listing"]

logger = logging.getLogger("daskcache")

_SMALLEST = 4
"""Bytes of the checksum that each object ends with; one that is smaller was torn, as by a power cut."""


class Listing:
    """What the pool of one store held when it was first asked, group by group.

    Parameters
    ----------
    root : str
        The store's root.

    Notes
    -----
    Costs one LIST per group, however many blocks are asked for. Kept for one pass, never longer.
    """

    def __init__(self, root: str) -> None:
        self._store = stores.open(root)
        self._groups: dict[str, Mapping[str, int]] = {}

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
        if 0 in block.shape:
            return replace(block, size_bytes=0)
        group = block.group
        if group not in self._groups:
            self._groups[group] = stores.list_sizes(self._store, f"chunks/{group}")
        size = self._groups[group].get(block.id)
        return None if size is None or size < _SMALLEST else replace(block, size_bytes=size)

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
            The same with its size; None where it is not there, or damaged: then it has been moved aside.

        Raises
        ------
        StoreError
            The pool cannot be listed.
        """
        found = self.find(block)
        if found is None or known is None or known.id != found.id:
            return found
        if known.size_bytes in (None, found.size_bytes):
            return found
        # Damaged, or encoded anew by another release of a compressor.
        try:
            found[...]
        except (CorruptChunkError, NotStoredError) as error:
            logger.info("%s, so that it counts as missing", error)
            return None
        return found

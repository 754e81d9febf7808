"""Which blocks lie in a pool: one listing for each group of siblings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from daskcache import stores
from daskcache.pool import StoredBlock

__all__ = ["Listing"]


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
            The same with its size; None where it is not there.

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
        return None if size is None else replace(block, size_bytes=size)

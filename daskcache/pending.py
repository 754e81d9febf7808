"""Blocks that a run is about to store: who reads one waits for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskcache import cluster
from daskcache.chunks import Selection
from daskcache.datasets import PackedBlocks
from daskcache.errors import NotStoredError
from daskcache.manifest import StoredVariable
from daskcache.pool import StoredBlock, look_up
from daskcache.runs import Run, find_run

__all__ = ["PendingBlock", "PendingBlocks"]

_FIRST_S = 0.01
_LONGEST_S = 1.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PendingBlock(StoredBlock):
    """A stored block, or one that a run of this process is going to store.

    Reading it waits until it is stored, or until the run has ended without it. On its way to another process it waits
    as well, and goes as a plain `StoredBlock`; but to the workers of a cluster on which the run itself is under way it
    goes at once, and waits there, outside of the threads that compute.
    """

    run: str = ""
    """The run's id."""

    def _read(self, selection: Selection) -> np.ndarray[Any, Any]:
        try:
            return StoredBlock._read(self, selection)
        except NotStoredError as error:
            self._await(error)
        return StoredBlock._read(self, selection)

    def _await(self, error: NotStoredError | None = None) -> None:
        run = find_run(self.run)
        pause = _FIRST_S
        with cluster.waiting() as is_unwanted:
            while True:
                # In this order, so that what is stored last is found.
                is_over = cluster.is_over(self.run) if run is None else run.done
                if look_up(self) is not None:
                    return
                if is_over or is_unwanted():
                    raise NotStoredError(self._reason(run)) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_S)

    def _reason(self, run: Run | None) -> str:
        where = f"{self.key} is not stored, and run {self.run}, which was to store it, "
        if run is None:
            return f"{where}has ended or is of another process; `wait` of that run tells why, persisting again stores it"
        return f"{where}has ended ({run.outcome}); persisting again computes what is missing"

    def __reduce__(self) -> tuple[Any, ...]:
        _, fields = StoredBlock.__reduce__(self)
        run = find_run(self.run)
        if run is None or (run.is_on_cluster and not run.done):
            return PendingBlock, (*fields, self.run)
        if not run.done:
            self._await()
        return StoredBlock, fields


class PendingBlocks:
    """Gives the block of a variable for a tuple of block numbers, as `daskcache.datasets.PackedBlocks` does.

    Parameters
    ----------
    root : str
        The root of the pool.
    variable : StoredVariable
        A variable with tokens.
    run : str
        The id of the run that stores it.
    """

    __slots__ = ("_blocks", "_run")

    def __init__(self, root: str, variable: StoredVariable, run: str) -> None:
        self._blocks = PackedBlocks(root, variable)
        self._run = run

    def __call__(self, index: tuple[int, ...]) -> PendingBlock:
        """Give the block of an index."""
        block = self._blocks(index)
        # How large its object will be is not known.
        return PendingBlock(
            block.root, block.group, block.token, block.spec, block.shape, block.dtype, None, self._run
        )

"""What a run does so that nothing it counts on is swept: which blocks it may find, and its record while it lasts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from daskcache.catalog import Runs, TokenIndex
from daskcache.chunks import ChunkSpec
from daskcache.config import Settings
from daskcache.errors import StoreError
from daskcache.forgetting.roots import Pool
from daskcache.pool import StoredBlock

__all__ = ["Reuse", "refreshing"]

logger = logging.getLogger("daskcache")

_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, eq=False)
class _Roots:
    read_s: float
    index: TokenIndex
    wanted: dict[tuple[str, ChunkSpec], set[bytes]]

    def names(self, block: StoredBlock) -> bool:
        found = self.index.get(block.token)
        if found is not None and found.key == block.key:
            return True
        return block.token in self.wanted.get((block.group, block.spec), ())


# Lives as long as the process. What protects a block now does so for one grace period more.
_kept: dict[Pool, _Roots] = {}


class Reuse:
    """Says which of the blocks that lie in a pool a run may count on.

    Parameters
    ----------
    settings : Settings
        The pool, and the grace period.
    run : str
        The run's id. What its own record wants is not protected by that: a sweep may have begun before it was put.
    now : callable, optional
        Tells the time in seconds since 1970.

    Notes
    -----
    Costs nothing for a block that is younger than half the grace period. For the first older one all manifests and
    records of the pool are read, which are kept for an eighth of the grace period, at most for an hour.
    """

    def __init__(self, settings: Settings, run: str, now: Callable[[], float] = time.time) -> None:
        self._pool = Pool(settings.store, settings.namespace if settings.pool == "private" else None)
        self._grace_s = settings.grace_s
        self._run = run
        self._now = now
        self._has_read = False

    def is_safe(self, block: StoredBlock, written: float | None) -> bool:
        """Tell whether a block will stay where it is.

        Parameters
        ----------
        block : StoredBlock
            One that the pool holds and the namespace's newest versions do not name.
        written : float or None
            When its object was written, by the store's clock.

        Returns
        -------
        bool
            False where it is older than half the grace period and nothing protects it: it may be swept at any moment.

        Raises
        ------
        StoreError
            What protects blocks cannot be read.
        """
        if written is None or self._now() - written < self._grace_s / 2:
            return True
        known = _kept.get(self._pool)
        if (
            known is not None
            and self._now() - known.read_s < min(3600.0, self._grace_s / 8)
            and known.names(block)
        ):
            return True
        if not self._has_read:
            self._has_read = True
            known = _kept[self._pool] = self._read()
        return known is not None and known.names(block)

    def _read(self) -> _Roots:
        wanted: dict[tuple[str, ChunkSpec], set[bytes]] = {}
        started = self._now()
        for record in self._pool.runs.read_all():
            # That of a pass for one of its entries begins with the run's id.
            if record.run.partition("-")[0] == self._run or record.finished is not None:
                continue
            for want in record.wants:
                tokens = wanted.setdefault((want.group, want.spec), set())
                tokens.update(token.tobytes() for token in want.tokens)
        manifests = [document.manifest for document in self._pool.documents() if not document.is_tombstone]
        return _Roots(started, TokenIndex(self._pool.pool_root, manifests), wanted)


@contextlib.contextmanager
def refreshing(runs: Runs, run: str, keep_s: float) -> Iterator[None]:
    """Keep a run's record young while the run lasts.

    Parameters
    ----------
    runs : Runs
        Where it lies.
    run : str
        The run's id.
    keep_s : float
        Seconds for which a record protects what it wants.

    Examples
    --------
    >>> with refreshing(Runs("memory://doc-empty", "memory://doc-empty"), "r1", 60.0):
    ...     pass
    """
    done = threading.Event()
    every_s = max(min(_DAY_S, keep_s / 4), 0.1)

    def refresh() -> None:
        while not done.wait(every_s):
            try:
                runs.refresh(run)
            except StoreError as error:
                logger.info("the record of run %s could not be refreshed: %s", run, error)

    thread = threading.Thread(target=refresh, name=f"daskcache-run-{run}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

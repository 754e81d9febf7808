"""The records of the runs that want blocks of one pool."""

from __future__ import annotations

from dataclasses import dataclass

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import RUNS, check_format, is_segment, run_key
from daskcache.catalog.records import RunRecord
from daskcache.errors import StoreError

__all__ = ["Runs"]


@dataclass(frozen=True, slots=True)
class Runs:
    """The records of runs, next to the blocks that they want. Holds no connection, and pickles.

    Examples
    --------
    >>> runs = Runs("memory://doc-runs", "memory://doc-runs")
    >>> runs.put(RunRecord.start("r1", "default", "era5", ()))
    >>> [record.run for record in runs.read_all()]
    ['r1']
    """

    root: str
    """The store's root."""
    pool_root: str
    """Where the blocks lie: the same, or a namespace's own pool."""

    def put(self, record: RunRecord) -> None:
        """Write a run's record, in place of an older one.

        Parameters
        ----------
        record : RunRecord
            What the run wants.

        Raises
        ------
        InvalidInputError
            The run's id is not a segment of a path.
        StoreFullError, ReadOnlyError, StoreError
            The store has no room, takes no writes, failed, or has a newer format.

        Examples
        --------
        >>> runs = Runs("memory://doc-put-run", "memory://doc-put-run")
        >>> runs.put(RunRecord.start("r1", "default", "era5", ()))
        """
        check_format(stores.open(self.root), create=True)
        stores.put(self._store(), run_key(record.run), record.to_json())

    def refresh(self, run: str) -> None:
        """Write a run's record again, so that it is as old as it is now.

        Parameters
        ----------
        run : str
            The run's id. A record that is gone is no error.

        Raises
        ------
        StoreError
            The record cannot be read or written.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").refresh("r1")
        """
        data = stores.get(self._store(), run_key(run))
        if data is not None:
            stores.put(self._store(), run_key(run), data)

    def finish(self, run: str) -> None:
        """Note that a run has published; its record stays, and protects its blocks while it is young.

        Parameters
        ----------
        run : str
            The run's id. A record that is gone is no error.

        Raises
        ------
        StoreError
            The record cannot be read or written.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").finish("r1")
        """
        data = stores.get(self._store(), run_key(run))
        if data is not None:
            stores.put(self._store(), run_key(run), RunRecord.from_json(data).finish().to_json())

    def discard(self, run: str) -> None:
        """Delete the record of a run that wants nothing more than a published version protects.

        Parameters
        ----------
        run : str
            The run's id. A record that is gone is no error.

        Raises
        ------
        ReadOnlyError, StoreError
            The store takes no writes, or failed.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").discard("r1")
        """
        stores.delete(self._store(), run_key(run))

    def names(self) -> dict[str, tuple[int, float | None]]:
        """List the records.

        Returns
        -------
        dict of str to tuple
            By the run's id the record's size in bytes, and when it was written, where the store tells.

        Raises
        ------
        StoreError
            The store cannot be listed.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").names()
        {}
        """
        return {
            name.removesuffix(".json"): found
            for name, found in stores.list_objects(self._store(), RUNS).items()
            if name.endswith(".json") and is_segment(name)
        }

    def read(self, run: str) -> RunRecord | None:
        """Read a run's record.

        Parameters
        ----------
        run : str
            The run's id.

        Returns
        -------
        RunRecord or None
            None where it is gone.

        Raises
        ------
        StoreError
            It cannot be read; the message names it.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").read("r1") is None
        True
        """
        data = stores.get(self._store(), run_key(run))
        try:
            return None if data is None else RunRecord.from_json(data)
        except StoreError as error:
            where = f"{run_key(run)} in store {stores.describe(self.pool_root)}"
            raise type(error)(f"{where}: {error}") from error

    def read_all(self) -> list[RunRecord]:
        """Read the records of all runs that want blocks of the pool, those of other namespaces too.

        Returns
        -------
        list of RunRecord
            Newest first.

        Raises
        ------
        StoreError
            A record cannot be read, so that nobody may say what is wanted.

        Examples
        --------
        >>> Runs("memory://doc-empty", "memory://doc-empty").read_all()
        []
        """
        found = [self.read(run) for run in self.names()]
        records = [record for record in found if record is not None]
        return sorted(records, key=lambda record: record.time, reverse=True)

    def _store(self) -> Store:
        return stores.open(self.pool_root)

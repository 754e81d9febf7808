"""What keeps the table of one entry in parts, wherever that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.holding import Holding, Rows
from daskcache.formats.ledger import Contribution, Writing
from daskcache.manifest import Manifest

__all__ = ["Keeper"]


class Keeper(ABC):
    """The table of one entry."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What manifests call such tables."""

    @abstractmethod
    def write(self, own: Contribution, rows: Rows, keys: Sequence[str] | None, how: Writing) -> None:
        """Put what a call gave into the table; readers see all of it or nothing.

        Parameters
        ----------
        own : Contribution
            The call and its sources.
        rows : Rows
            What it gave.
        keys : sequence of str or None
            As of `daskcache.formats.holding.merge`.
        how : Writing
            What else counts.

        Raises
        ------
        UncacheableError
            The rows do not fit the table, or would come back as others.
        StoreError
            What holds the table failed, cannot be reached, or takes no writes.
        """

    def look(self, manifest: Manifest) -> Holding:
        """Give what is known of the table.

        Parameters
        ----------
        manifest : Manifest
            That of the entry.

        Returns
        -------
        Holding
            All but its rows.

        Raises
        ------
        NotStoredError
            It is not there, or holds something else by now.
        """
        return Holding.from_json(manifest.nodes[""].attrs["holding"])

    @abstractmethod
    def lost(self, manifest: Manifest) -> set[int]:
        """Give the parts that are gone.

        Parameters
        ----------
        manifest : Manifest
            That of the entry.

        Returns
        -------
        set of int
            Their numbers.
        """

    @abstractmethod
    def read(self, manifest: Manifest, holding: Holding, wanted: Sequence[Wanted] = ()) -> Contents:
        """Read the table.

        Parameters
        ----------
        manifest : Manifest
            That of the entry.
        holding : Holding
            The parts that are wanted.
        wanted : sequence of Wanted
            Which rows; others may come as well.

        Returns
        -------
        Contents
            The rows.

        Raises
        ------
        NotStoredError
            It is gone, or was changed in the meantime.
        """

    @abstractmethod
    def read_part(self, manifest: Manifest, holding: Holding, part: int) -> Contents:
        """Read one part of the table; see `read`.

        Parameters
        ----------
        manifest : Manifest
            That of the entry.
        holding : Holding
            The table.
        part : int
            Which part.

        Returns
        -------
        Contents
            Its rows.
        """

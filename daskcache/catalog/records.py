"""Records of runs: what a run wants, put before it looks anything up."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np

from daskcache.chunks import ChunkSpec
from daskcache.errors import CorruptChunkError, StoreError

__all__ = ["RunRecord", "Wanted", "now"]

FORMAT = 0
TOKEN_BYTES = 20

_GROUP = re.compile("[0-9a-f]{4}")


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Blocks of one variable that lie in one group and are encoded alike."""

    variable: str
    """The variable's path."""
    group: str
    """The pool's group, 4 hex digits."""
    spec: ChunkSpec
    """How the blocks are encoded."""
    tokens: np.ndarray[Any, np.dtype[np.uint8]]
    """Shape (blocks, 20)."""


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """What one run wants; while it is young, nothing of it is swept."""

    run: str
    """The run's id, one segment of a path."""
    namespace: str
    """Where the entry lies."""
    entry: str
    """What will be published."""
    wants: tuple[Wanted, ...]
    """All blocks of the result."""
    time: str
    """When the run began, ISO 8601 in UTC."""
    finished: str | None = None
    """When it published; None while it is under way, and for ever where it was broken off."""

    @classmethod
    def start(cls, run: str, namespace: str, entry: str, wants: tuple[Wanted, ...]) -> Self:
        """Make the record of a run that begins now.

        Parameters
        ----------
        run : str
            The run's id.
        namespace : str
            Where the entry lies.
        entry : str
            What will be published.
        wants : tuple of Wanted
            All blocks of the result.

        Returns
        -------
        RunRecord
            Not yet in any store.

        Examples
        --------
        >>> RunRecord.start("r1", "default", "era5", ()).finished is None
        True
        """
        return cls(run, namespace, entry, wants, now())

    def finish(self) -> Self:
        """Give the record of the same run, finished now.

        Returns
        -------
        RunRecord
            The copy.

        Examples
        --------
        >>> RunRecord.start("r1", "default", "era5", ()).finish().finished is None
        False
        """
        return replace(self, finished=now())

    def to_json(self) -> bytes:
        """Write the content of ``runs/<run>.json``.

        Returns
        -------
        bytes
            JSON.

        Examples
        --------
        >>> record = RunRecord.start("r1", "default", "era5", ())
        >>> RunRecord.from_json(record.to_json()).time == record.time
        True
        """
        wants = [
            {
                "variable": wanted.variable,
                "group": wanted.group,
                "spec": wanted.spec.to_json(),
                "tokens": base64.b64encode(wanted.tokens.tobytes()).decode("ascii"),
            }
            for wanted in self.wants
        ]
        document = {
            "format": FORMAT,
            "run": self.run,
            "time": self.time,
            "finished": self.finished,
            "namespace": self.namespace,
            "entry": self.entry,
            "wants": wants,
        }
        return json.dumps(document, indent=1).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote.

        Parameters
        ----------
        data : bytes
            JSON.

        Returns
        -------
        RunRecord
            The record.

        Raises
        ------
        CorruptChunkError
            It is no such record: delete it, where its run is known to be over.
        StoreError
            It has a newer format: upgrade daskcache.

        Examples
        --------
        >>> RunRecord.from_json(b"{")
        Traceback (most recent call last):
        ...
        daskcache.errors.CorruptChunkError: a run's record is damaged (...); ...
        """
        try:
            document = json.loads(data)
            number = int(document["format"])
            if number <= FORMAT:
                return cls(
                    run=str(document["run"]),
                    namespace=str(document["namespace"]),
                    entry=str(document["entry"]),
                    wants=tuple(_read_wanted(wanted) for wanted in document["wants"]),
                    time=str(document["time"]),
                    finished=document["finished"],
                )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptChunkError(
                f"a run's record is damaged ({error}); delete it if no run is under way"
            ) from error
        raise StoreError(
            f"a run's record has format {number}, and this daskcache reads up to {FORMAT}; upgrade daskcache"
        )


def now() -> str:
    """Tell the time as documents have it.

    Returns
    -------
    str
        ISO 8601, in UTC, to the microsecond, so that texts sort as times do.

    Examples
    --------
    >>> now().endswith("+00:00")
    True
    """
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _read_wanted(document: Mapping[str, Any]) -> Wanted:
    tokens = base64.b64decode(document["tokens"], validate=True)
    group = str(document["group"])
    if not _GROUP.fullmatch(group):
        raise ValueError(f"a group is {group!r:.80}")
    return Wanted(
        str(document["variable"]),
        group,
        ChunkSpec.from_json(document["spec"]),
        np.frombuffer(tokens, "u1").reshape(-1, TOKEN_BYTES),
    )

"""What runs did: counts, bytes, seconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Run", "last_run"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one persist did."""

    id: str
    """Names the run's record in the store."""
    store: str
    """The store's root, without credentials."""
    namespace: str
    """Where the entry lies."""
    entry: str
    """The name that was given, or the version where none was."""
    version: str
    """40 hex digits; the published version."""
    blocks: int
    """Blocks of the result."""
    computed: int
    """Blocks of the result that were computed."""
    loaded: int
    """Stored blocks, of other results too, that stood in for a part of the graph."""
    reused: int
    """Blocks of the result that lay in the store already."""
    stored: int
    """Objects that this run created."""
    stored_bytes: int
    """Their size."""
    total_bytes: int
    """Size of all the result's objects."""
    seconds: float
    """From the call to the published manifest."""
    conflicts: int = 0
    """Blocks whose task gave other bytes than those stored before: it is not deterministic."""


_last: list[Run] = []


def last_run() -> Run | None:
    """Give what the newest persist of this process did.

    Returns
    -------
    Run or None
        None where nothing was persisted yet.

    Examples
    --------
    >>> last_run() is None or last_run().seconds >= 0
    True
    """
    return _last[-1] if _last else None


def record(run: Run) -> None:
    """Keep a run for `last_run`.

    Parameters
    ----------
    run : Run
        A finished run.
    """
    _last[:] = [run]

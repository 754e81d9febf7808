"""The demo's table: a row for each step, and sums of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from daskcache.runs import Run

__all__ = ["Row", "format_head", "format_row"]

_COLUMNS = (
    ("blocks", 8),
    ("computed", 10),
    ("reused", 8),
    ("loaded", 8),
    ("stored", 8),
    ("MB", 9),
    ("seconds", 9),
    ("to cold", 9),
)
_NAME_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Row:
    """What one step of one act did."""

    namespace: str
    """Where its result lies."""
    step: str
    """The name of its result."""
    version: str
    """40 hex digits; equal tokens give equal versions."""
    blocks: int
    """Blocks of the result."""
    computed: int
    """Blocks of the result that were computed."""
    reused: int
    """Blocks of the result that lay in the store already."""
    loaded: int
    """Stored blocks, of other results too, that stood in for a part of the graph."""
    stored: int
    """Objects that the step created."""
    stored_bytes: int
    """Their size."""
    seconds: float
    """From the call to the published manifest."""

    @classmethod
    def of(cls, run: Run, step: str) -> Self:
        """Take what the table shows out of a run.

        Parameters
        ----------
        run : Run
            What `daskcache.last_run` gives.
        step : str
            The name that was persisted.

        Returns
        -------
        Row
            One row.
        """
        return cls(
            namespace=run.namespace,
            step=step,
            version=run.version,
            blocks=run.blocks,
            computed=run.computed,
            reused=run.reused,
            loaded=run.loaded,
            stored=run.stored,
            stored_bytes=run.stored_bytes,
            seconds=run.seconds,
        )


def format_head(name: str) -> str:
    """Write the line above the rows.

    Parameters
    ----------
    name : str
        What the first column holds.

    Returns
    -------
    str
        At most 100 characters.

    Examples
    --------
    >>> format_head("act").split()
    ['act', 'blocks', 'computed', 'reused', 'loaded', 'stored', 'MB', 'seconds', 'to', 'cold']
    """
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{title:>{width}}" for title, width in _COLUMNS)


def format_row(name: str, rows: Sequence[Row], cold_seconds: float | None) -> str:
    """Write one line: the sum of some rows.

    Parameters
    ----------
    name : str
        The first column.
    rows : sequence of Row
        What is summed.
    cold_seconds : float or None
        How long the same took at first; None where there was nothing to compute then.

    Returns
    -------
    str
        At most 100 characters.

    Examples
    --------
    >>> row = Row("a1b", "anomaly", "0" * 40, 24, 0, 24, 0, 0, 0, 0.125)
    >>> format_row("again", [row], 0.5).split()
    ['again', '24', '0', '24', '0', '0', '0.00', '0.12', '0.25']
    """
    seconds = sum(row.seconds for row in rows)
    cells = (
        str(sum(row.blocks for row in rows)),
        str(sum(row.computed for row in rows)),
        str(sum(row.reused for row in rows)),
        str(sum(row.loaded for row in rows)),
        str(sum(row.stored for row in rows)),
        f"{sum(row.stored_bytes for row in rows) / 1e6:.2f}",
        f"{seconds:.2f}",
        "–" if cold_seconds is None else f"{seconds / max(cold_seconds, 1e-9):.2f}",
    )
    widths = [width for _, width in _COLUMNS]
    return f"{name:<{_NAME_WIDTH}}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )

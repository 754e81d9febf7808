"""What the commands share: the group that they are added to, and how they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import click

from daskcache_command import cache

__all__ = ["JSON_OPTION", "cache", "print_json", "print_table"]

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""The option by which a command prints a document in place of a table."""


def print_json(document: object) -> None:
    """Print a document.

    Parameters
    ----------
    document : object
        What JSON cannot say is printed as its str.
    """
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(rows: Sequence[Sequence[str]], right: int) -> None:
    """Print rows in aligned columns.

    Parameters
    ----------
    rows : sequence of sequence of str
        Of equal lengths; the first is the head.
    right : int
        So many of the last columns are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned: Sequence[Callable[[str, int], str]] = [str.ljust] * (len(widths) - right) + [str.rjust] * right
    for row in rows:
        cells = (align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())

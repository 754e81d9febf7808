"""The command ``daskcache``, which is also ``dask cache``: the group, and what its commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from daskcache.errors import DaskcacheError, MissingExtraError

try:
    import click
except ImportError as error:
    raise MissingExtraError(
        "the command needs click; install the extra: pip install 'daskcache[cli]'"
    ) from error

__all__ = ["JSON_OPTION", "cache", "print_json", "print_table"]

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""The option by which a command prints a document in place of a table."""


class _Group(click.Group):
    """A group in which every error of ours is one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DaskcacheError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, name="cache", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="URL", help="Path or URL of the store; by default the configured one.")
@click.option("--namespace", metavar="NAME", help="By default the configured one.")
@click.version_option(package_name="daskcache", prog_name="daskcache")
@click.pass_context
def cache(ctx: click.Context, store: str | None, namespace: str | None) -> None:
    """Look at what daskcache has stored."""
    ctx.obj = {"store": store, "namespace": namespace}


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

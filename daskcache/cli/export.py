"""``daskcache export``: an entry as a file or store of its own."""

from __future__ import annotations

from typing import Any

import click

from daskcache.cli.group import cache
from daskcache.errors import InvalidInputError
from daskcache.export import FORMATS
from daskcache.export import export as export_entry

__all__ = ["export"]


@cache.command()
@click.argument("name")
@click.argument("target")
@click.option("--format", "chosen", type=click.Choice(FORMATS), help="By default as TARGET ends.")
@click.pass_obj
def export(options: dict[str, str | None], name: str, target: str, chosen: Any) -> None:
    """Write NAME, which is ENTRY or ENTRY@VERSION, to TARGET, such as a.zarr, a.nc, a.json or a.icechunk."""
    entry, at, version = name.partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    click.echo(export_entry(entry, target, format=chosen, version=version or None, **options))

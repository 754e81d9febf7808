"""``daskcache publish``: what is stored, kept up to date elsewhere."""

from __future__ import annotations

from dataclasses import asdict

import click

from daskcache import transfer
from daskcache.cli.group import JSON_OPTION, cache, print_json
from daskcache.errors import InvalidInputError

__all__ = ["publish"]

_DRY_RUN_OPTION = click.option("--dry-run", is_flag=True, help="Only tell what would be written.")


@cache.command()
@click.argument("name")
@click.argument("target")
@click.option(
    "--overwrite", is_flag=True, help="Remove the Zarr store that is there first, whoever wrote it."
)
@_DRY_RUN_OPTION
@JSON_OPTION
@click.pass_obj
def publish(
    options: dict[str, str | None], name: str, target: str, overwrite: bool, dry_run: bool, as_json: bool
) -> None:
    """Bring the plain Zarr store TARGET up to date with NAME, which is ENTRY or ENTRY@VERSION."""
    entry, version = _split(name)
    found = transfer.publish(entry, target, version=version, overwrite=overwrite, dry_run=dry_run, **options)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(found)


def _split(name: str) -> tuple[str, str | None]:
    entry, at, version = name.partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    return entry, version or None

"""``daskcache publish``, ``copy``, ``mirror`` and ``migrate``: what is stored, elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from daskcache import stores, transfer
from daskcache.cli.group import JSON_OPTION, cache, print_json
from daskcache.errors import InvalidInputError

__all__ = ["copy", "migrate", "mirror", "publish"]

_DRY_RUN_OPTION = click.option("--dry-run", is_flag=True, help="Only tell what would be written.")
_EVERYWHERE_OPTION = click.option("--all", "everywhere", is_flag=True, help="Every namespace of the store.")


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
    _print(found, as_json)


@cache.command()
@click.argument("target")
@click.argument("name", required=False)
@_EVERYWHERE_OPTION
@_DRY_RUN_OPTION
@JSON_OPTION
@click.pass_obj
def copy(
    options: dict[str, str | None],
    target: str,
    name: str | None,
    everywhere: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy NAME, which is ENTRY or ENTRY@VERSION, or the namespace to the store TARGET: what is missing there."""
    entry, version = (None, None) if name is None else _split(name)
    found = transfer.copy(target, entry, version=version, everywhere=everywhere, dry_run=dry_run, **options)
    _print(found, as_json)


@cache.command()
@click.argument("target")
@click.argument("entry", required=False)
@_EVERYWHERE_OPTION
@_DRY_RUN_OPTION
@JSON_OPTION
@click.pass_obj
def mirror(
    options: dict[str, str | None],
    target: str,
    entry: str | None,
    everywhere: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Keep ENTRY or the namespace equal in the store TARGET: what is gone here is forgotten there."""
    _print(transfer.mirror(target, entry, everywhere=everywhere, dry_run=dry_run, **options), as_json)


@cache.command()
@click.argument("target", required=False)
@_DRY_RUN_OPTION
@JSON_OPTION
@click.pass_obj
def migrate(options: dict[str, str | None], target: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the store to the newest format, in place or as the store TARGET."""
    _print(stores.migrate(options["store"], target, dry_run=dry_run), as_json)


def _print(found: Any, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(found)


def _split(name: str) -> tuple[str, str | None]:
    entry, at, version = name.partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    return entry, version or None

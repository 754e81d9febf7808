"""``daskcache versions``, ``clear``, ``expire`` and ``gc``: what there is, and how it goes."""

from __future__ import annotations

from dataclasses import asdict

import click
from dask.utils import format_bytes

from daskcache import forgetting
from daskcache.catalog import Catalog
from daskcache.cli.group import JSON_OPTION, cache, print_json, print_table
from daskcache.config import Settings
from daskcache.errors import InvalidInputError

__all__ = ["clear", "expire", "gc", "versions"]

_VERSION_DIGITS = 12

_DRY_RUN_OPTION = click.option("--dry-run", is_flag=True, help="Only tell what would go.")


@cache.command()
@click.argument("entry")
@JSON_OPTION
@click.pass_obj
def versions(options: dict[str, str | None], entry: str, as_json: bool) -> None:
    """List the versions of ENTRY, newest first."""
    settings = Settings.from_config(**options)
    found = Catalog.of(settings).versions(entry)
    if as_json:
        print_json([asdict(info) for info in found])
        return
    rows = [
        (
            info.version[:_VERSION_DIGITS] + (" (latest)" if info.is_latest else ""),
            info.time,
            info.expires or "",
            str(info.nblocks),
            format_bytes(info.size_bytes),
        )
        for info in found
    ]
    print_table([("version", "published", "expires", "blocks", "size"), *rows], right=2)


@cache.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Drop every entry of the namespace.")
@_DRY_RUN_OPTION
@click.pass_obj
def clear(options: dict[str, str | None], name: str | None, everything: bool, dry_run: bool) -> None:
    """Drop NAME, which is ENTRY or ENTRY@VERSION; its blocks go with a later gc."""
    if (name is None) != everything:
        raise InvalidInputError("give the name of an entry, or --all for every entry of the namespace")
    entry, at, version = (name or "").partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    click.echo(forgetting.clear(entry or None, version=version or None, dry_run=dry_run, **options))


@cache.command()
@click.option("--older-than", metavar="AGE", help="Drop what was published before, such as 90d.")
@click.option("--unused-for", metavar="AGE", help="Drop what was last used before, such as 30d.")
@click.option(
    "--max-size",
    metavar="SIZE",
    help="Drop the least recently used until the rest needs no more, such as 200GiB.",
)
@_DRY_RUN_OPTION
@click.pass_obj
def expire(
    options: dict[str, str | None],
    older_than: str | None,
    unused_for: str | None,
    max_size: str | None,
    dry_run: bool,
) -> None:
    """Drop versions that are past their date, old, unused or too much; their blocks go with a later gc."""
    found = forgetting.expire(
        older_than=older_than, unused_for=unused_for, max_size=max_size, dry_run=dry_run, **options
    )
    click.echo(found)


@cache.command()
@click.option("--grace", metavar="AGE", help="Leave what is younger; by default as configured.")
@click.option(
    "--wait", metavar="TIME", default="5s", help="Time between looking for blocks and for what needs them."
)
@_DRY_RUN_OPTION
@JSON_OPTION
@click.pass_obj
def gc(options: dict[str, str | None], grace: str | None, wait: str, dry_run: bool, as_json: bool) -> None:
    """Delete the blocks of the store that no version and no run needs, in all namespaces."""
    swept = forgetting.gc(grace=grace, dry_run=dry_run, store=options["store"], wait=wait)
    if as_json:
        print_json(asdict(swept))
    else:
        click.echo(swept)

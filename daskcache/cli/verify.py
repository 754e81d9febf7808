"""``daskcache verify``: whether the store holds what its manifests say."""

from __future__ import annotations

from dataclasses import asdict

import click

from daskcache.cli.group import JSON_OPTION, cache, print_json
from daskcache.errors import InvalidInputError
from daskcache.verify import verify as verify_entries

__all__ = ["verify"]


@cache.command()
@click.argument("name", required=False)
@click.option("--all", "everywhere", is_flag=True, help="Verify every namespace of the store.")
@click.option(
    "--fill", is_flag=True, help="Note digests that are not known, so that exchanged blocks are found."
)
@click.option(
    "--quarantine", is_flag=True, help="Move bad objects aside, so that a rerun computes them again."
)
@JSON_OPTION
@click.pass_obj
def verify(
    options: dict[str, str | None],
    name: str | None,
    everywhere: bool,
    fill: bool,
    quarantine: bool,
    as_json: bool,
) -> None:
    """Read all blocks of NAME, which is ENTRY or ENTRY@VERSION, or of the namespace; exit with 1 if some are bad."""
    entry, at, version = (name or "").partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    found = verify_entries(
        entry or None,
        version=version or None,
        everywhere=everywhere,
        fill=fill,
        quarantine=quarantine,
        **options,
    )
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(found)
    if not found.is_sound:
        raise SystemExit(1)

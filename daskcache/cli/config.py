"""``daskcache config``: what is configured, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import click

from daskcache.cli.group import JSON_OPTION, cache, print_json, print_table
from daskcache.config import read_defaults
from daskcache.configuration import Value, find_values
from daskcache.locations import has_secret
from daskcache.secrets import is_secret

__all__ = ["config"]


@cache.command()
@click.option("-v", "--verbose", is_flag=True, help="Tell where each value comes from.")
@JSON_OPTION
def config(verbose: bool, as_json: bool) -> None:
    """Show all settings as they hold here; secrets are not shown."""
    found = [_without_secrets(one) for one in find_values(read_defaults())]
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [(one.key, str(one.value), one.origin) for one in found if not one.problem]
    print_table([row if verbose else row[:2] for row in [("SETTING", "VALUE", "FROM"), *rows]], right=0)
    for one in found:
        if one.problem:
            click.echo(f"{one.problem} (from {one.origin})", err=True)


def _without_secrets(one: Value) -> Value:
    return replace(one, value=_hide(one.key.rpartition(".")[2], one.value))


def _hide(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hide(str(key), held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(name, held) for held in value]
    hidden = is_secret(name, value) or (isinstance(value, str) and has_secret(value))
    return "***" if hidden else value

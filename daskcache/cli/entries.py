"""``daskcache ls`` and ``daskcache show``: what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from dask.utils import format_bytes

from daskcache.catalog import Catalog, VersionInfo
from daskcache.catalog.packs import read_weighed
from daskcache.cli.group import JSON_OPTION, cache, print_json, print_table
from daskcache.config import Settings
from daskcache.errors import InvalidInputError
from daskcache.explain import WEIGHED_BY
from daskcache.manifest import StoredVariable
from daskcache.stores import describe
from daskcache.weighed import describe_weighed

__all__ = ["ls", "show"]

# So many digits tell versions apart in a listing; `show` takes them too.
_VERSION_DIGITS = 12


@cache.command()
@click.option("--all", "everywhere", is_flag=True, help="List every namespace of the store.")
@click.option(
    "--weighed", is_flag=True, help="List what the policy auto found of each layer, in place of entries."
)
@JSON_OPTION
@click.pass_obj
def ls(options: dict[str, str | None], everywhere: bool, weighed: bool, as_json: bool) -> None:
    """List the entries: newest version, when it was published, and how much it holds."""
    settings = Settings.from_config(**options)
    here = Catalog.of(settings)
    namespaces = here.namespaces() if everywhere else [settings.namespace]
    if weighed:
        _list_weighed(settings, namespaces, as_json)
        return
    rows = [
        _row(namespace, entry, catalog.versions(entry))
        for namespace in namespaces
        for catalog in [Catalog(settings.store, namespace)]
        for entry in catalog.entries()
    ]
    if as_json:
        print_json({"store": describe(settings.store), "entries": rows})
    elif rows:
        head = ("namespace", "entry", "version", "published", "versions", "blocks", "size")
        print_table(
            [head]
            + [
                (
                    row["namespace"],
                    row["entry"],
                    row["version"][:_VERSION_DIGITS],
                    row["time"],
                    str(row["versions"]),
                    str(row["blocks"]),
                    format_bytes(row["size_bytes"]),
                )
                for row in rows
            ],
            right=3,
        )
    else:
        click.echo(f"no entries in {_where(settings, everywhere)}", err=True)


def _list_weighed(settings: Settings, namespaces: Sequence[str], as_json: bool) -> None:
    found = [
        (namespace, layer, weighed)
        for namespace in namespaces
        for root in [Settings.from_config(store=settings.store, namespace=namespace).pool_root]
        for layer, weighed in sorted(read_weighed(root, namespace).items())
    ]
    if as_json:
        rows = [{"namespace": name, "layer": layer, **asdict(weighed)} for name, layer, weighed in found]
        print_json({"store": describe(settings.store), "weighed": rows})
    elif found:
        click.echo(WEIGHED_BY)
        for namespace, layer, weighed in found:
            before = f"{namespace}: " if namespaces != [settings.namespace] else ""
            click.echo(f"  {before}`{layer}`: {describe_weighed(weighed)}")
    else:
        where = _where(settings, namespaces != [settings.namespace])
        click.echo(f"nothing that the policy auto has weighed in {where}", err=True)


def _where(settings: Settings, everywhere: bool) -> str:
    where = "any namespace" if everywhere else f"namespace {settings.namespace!r}"
    return f"{where} of {describe(settings.store)}"


@cache.command()
@click.argument("name")
@JSON_OPTION
@click.pass_obj
def show(options: dict[str, str | None], name: str, as_json: bool) -> None:
    """Show an entry: its versions, and the variables of one.

    NAME is ENTRY, or ENTRY@VERSION, where the first digits of a version suffice.
    """
    settings = Settings.from_config(**options)
    entry, at, version = name.partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    catalog = Catalog.of(settings)
    manifest = catalog.open(entry, version or None)
    versions = catalog.versions(entry)
    if as_json:
        print_json(
            {
                "store": describe(settings.store),
                "namespace": settings.namespace,
                "entry": entry,
                "version": manifest.version,
                "kind": manifest.kind,
                "size_bytes": manifest.size_bytes,
                "variables": [_describe(variable) for variable in manifest.variables],
                "versions": [asdict(info) for info in versions],
                "info": dict(manifest.info),
            }
        )
        return
    click.echo(f"{settings.namespace}/{entry}@{manifest.version}")
    click.echo(f"{manifest.kind} in {describe(settings.store)}")
    click.echo(f"{manifest.nblocks} blocks, {format_bytes(manifest.size_bytes)}\n")
    print_table(
        [("variable", "dtype", "dimensions", "blocks", "size"), *map(_cells, manifest.variables)], right=2
    )
    click.echo()
    print_table([("version", "published", "blocks", "size"), *map(_version_cells, versions)], right=2)


def _row(namespace: str, entry: str, versions: Sequence[VersionInfo]) -> dict[str, Any]:
    latest = next((info for info in versions if info.is_latest), versions[0])
    return {
        "namespace": namespace,
        "entry": entry,
        "version": latest.version,
        "time": latest.time,
        "versions": len(versions),
        "blocks": latest.nblocks,
        "size_bytes": latest.size_bytes,
    }


def _describe(variable: StoredVariable) -> dict[str, Any]:
    return {
        "path": variable.path,
        "dtype": str(variable.dtype),
        "dims": list(variable.dims),
        "shape": list(variable.shape),
        "is_coord": variable.is_coord,
        "blocks": variable.nblocks,
        "size_bytes": _size_bytes(variable),
    }


def _size_bytes(variable: StoredVariable) -> int:
    return len(variable.inline) if variable.inline is not None else int(variable.sizes.sum())


def _cells(variable: StoredVariable) -> tuple[str, ...]:
    dims = ", ".join(f"{dim}: {size}" for dim, size in zip(variable.dims, variable.shape, strict=True))
    return (
        f"{variable.path}{' (coordinate)' if variable.is_coord else ''}",
        str(variable.dtype),
        f"({dims})",
        str(variable.nblocks),
        format_bytes(_size_bytes(variable)),
    )


def _version_cells(info: VersionInfo) -> tuple[str, ...]:
    version = info.version[:_VERSION_DIGITS] + (" (latest)" if info.is_latest else "")
    return version, info.time, str(info.nblocks), format_bytes(info.size_bytes)

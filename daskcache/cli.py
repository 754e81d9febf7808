"""The command ``daskcache``, which is also ``dask cache``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from dask.utils import format_bytes

from daskcache.catalog import Catalog, VersionInfo
from daskcache.config import Settings
from daskcache.errors import DaskcacheError, InvalidInputError, MissingExtraError
from daskcache.manifest import StoredVariable
from daskcache.stores import describe

try:
    import click
except ImportError as error:
    raise MissingExtraError(
        "the command needs click; install the extra: pip install 'daskcache[cli]'"
    ) from error

__all__ = ["cache", "main"]

# So many digits tell versions apart in a listing; `show` takes them too.
_VERSION_DIGITS = 12

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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


@cache.command()
@click.option("--all", "everywhere", is_flag=True, help="List every namespace of the store.")
@_JSON
@click.pass_obj
def ls(options: dict[str, str | None], everywhere: bool, as_json: bool) -> None:
    """List the entries: newest version, when it was published, and how much it holds."""
    settings = Settings.from_config(**options)
    here = Catalog(settings.store, settings.namespace)
    namespaces = here.namespaces() if everywhere else [settings.namespace]
    rows = [
        _row(namespace, entry, catalog.versions(entry))
        for namespace in namespaces
        for catalog in [Catalog(settings.store, namespace)]
        for entry in catalog.entries()
    ]
    if as_json:
        _print_json({"store": describe(settings.store), "entries": rows})
    elif rows:
        head = ("namespace", "entry", "version", "published", "versions", "blocks", "size")
        _print_table(
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
        where = "any namespace" if everywhere else f"namespace {settings.namespace!r}"
        click.echo(f"no entries in {where} of {describe(settings.store)}", err=True)


@cache.command()
@click.argument("name")
@_JSON
@click.pass_obj
def show(options: dict[str, str | None], name: str, as_json: bool) -> None:
    """Show an entry: its versions, and the variables of one.

    NAME is ENTRY, or ENTRY@VERSION, where the first digits of a version suffice.
    """
    settings = Settings.from_config(**options)
    entry, at, version = name.partition("@")
    if at and not version:
        raise InvalidInputError(f"{name!r} names no version after the '@'; give ENTRY or ENTRY@VERSION")
    catalog = Catalog(settings.store, settings.namespace)
    manifest = catalog.open(entry, version or None)
    versions = catalog.versions(entry)
    if as_json:
        _print_json(
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
    _print_table(
        [("variable", "dtype", "dimensions", "blocks", "size"), *map(_cells, manifest.variables)], right=2
    )
    click.echo()
    _print_table([("version", "published", "blocks", "size"), *map(_version_cells, versions)], right=2)


@cache.command()
@click.option(
    "--size", metavar="SIZE", help="Use generated data of that size, such as 2GB, not the real ones."
)
@click.option("--store", metavar="URL", help="Where no store may be yet; by default a fresh directory.")
@click.option("--workdir", metavar="PATH", help="An empty or new directory; by default a fresh one.")
@click.option("--keep", is_flag=True, help="Leave the store and the data behind.")
@click.pass_obj
def demo(
    options: dict[str, str | None], size: str | None, store: str | None, workdir: str | None, keep: bool
) -> None:
    """Run a climate pipeline, run it again, grow its data, edit its code, and count what is computed."""
    # Here, because it needs the extra of its name, and the other commands do not.
    from daskcache.demo import run

    raise SystemExit(run(size=size, store=store or options["store"], workdir=workdir, keep=keep))


def main() -> None:
    """Run the command ``daskcache``."""
    cache(prog_name="daskcache")


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


def _print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def _print_table(rows: Sequence[Sequence[str]], right: int) -> None:
    """Print rows, the last `right` columns of them aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned: Sequence[Callable[[str, int], str]] = [str.ljust] * (len(widths) - right) + [str.rjust] * right
    for row in rows:
        cells = (align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()

"""What the command ``dask`` loads while it starts, and ``daskcache`` to begin with: our commands' names, not their modules.

Beside the package, not in it: importing anything of the package imports xarray and zarr, and each command of dask's would
wait for that. The commands are in ``daskcache.cli``.
"""

from __future__ import annotations

from typing import Any

try:
    import click
except ImportError as error:
    from daskcache.errors import MissingExtraError

    raise MissingExtraError(
        "the command needs click; install the extra: pip install 'daskcache[cli]'"
    ) from error

__all__ = ["COMMANDS", "cache", "main"]

COMMANDS = {
    "clear": "Drop NAME, which is ENTRY or ENTRY@VERSION; its blocks go with a later gc.",
    "config": "Show all settings as they hold here; secrets are not shown.",
    "copy": (
        "Copy NAME, which is ENTRY or ENTRY@VERSION, or the namespace to the store TARGET: what is missing there."
    ),
    "demo": "Run a climate pipeline, run it again, grow its data, edit its code, and count what is computed.",
    "expire": "Drop versions that are past their date, old, unused or too much; their blocks go with a later gc.",
    "export": (
        "Write NAME, which is ENTRY or ENTRY@VERSION, to TARGET, such as a.zarr, a.nc, a.json or a.icechunk."
    ),
    "gc": "Delete the blocks of the store that no version and no run needs, in all namespaces.",
    "ls": "List the entries: newest version, when it was published, and how much it holds.",
    "migrate": "Bring the store to the newest format, in place or as the store TARGET.",
    "mirror": "Keep ENTRY or the namespace equal in the store TARGET: what is gone here is forgotten there.",
    "publish": "Bring the plain Zarr store TARGET up to date with NAME, which is ENTRY or ENTRY@VERSION.",
    "run": "Run a Python script with the pass switched on, and otherwise as 'python SCRIPT ARGS' does.",
    "show": "Show an entry: its versions, and the variables of one.",
    "verify": (
        "Read all blocks of NAME, which is ENTRY or ENTRY@VERSION, or of the namespace; exit with 1 if some are bad."
    ),
    "versions": "List the versions of ENTRY, newest first.",
}
"""What each command's own help begins with, for the list of them all."""


class _Group(click.Group):
    """A group whose commands are imported when one is asked for, and every error of ours is one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # Importing the modules adds their commands to the group.
        import daskcache.cli  # noqa: F401

        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=text).get_short_help_str(limit))
                    for name, text in COMMANDS.items()
                ]
            )

    def invoke(self, ctx: click.Context) -> Any:
        from daskcache.errors import DaskcacheError

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


def main() -> None:
    """Run the command ``daskcache``."""
    cache(prog_name="daskcache")

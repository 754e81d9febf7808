"""``daskcache demo``."""

from __future__ import annotations

import click

from daskcache.cli.group import cache

__all__ = ["demo"]


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

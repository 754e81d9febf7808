"""The command ``daskcache``, which is also ``dask cache``; each family of its commands is a module here.

A command's module is imported with the group, to be listed in its help. What a command alone needs is imported when
it runs.
"""

# First: without click, it says what to install.
from daskcache.cli.group import cache  # isort: skip
from daskcache.cli import demo, entries, export, forgetting, run, transfer, verify

__all__ = ["cache", "main"]

# Importing a module adds its commands to the group.
_FAMILIES = (demo, entries, export, forgetting, run, transfer, verify)


def main() -> None:
    """Run the command ``daskcache``."""
    cache(prog_name="daskcache")

"""The commands of ``daskcache``, which is also ``dask cache``; each family of its commands is a module here.

The group itself is in ``daskcache_command``, beside the package, and imports this when one of them runs. What a command
alone needs is imported when it runs.
"""

# First: without click, it says what to install.
from daskcache_command import cache, main  # isort: skip
from daskcache.cli import config, demo, entries, export, forgetting, run, transfer, verify

__all__ = ["cache", "main"]

# Importing a module adds its commands to the group.
_FAMILIES = (config, demo, entries, export, forgetting, run, transfer, verify)

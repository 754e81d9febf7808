"""``daskcache run``: a script, as it is, with the pass on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import click

from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.cli.group import cache
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, StoreError

__all__ = ["run"]


@cache.command(context_settings={"allow_interspersed_args": False})
@click.option("--store", metavar="URL", help="Path or URL of the store; by default the configured one.")
@click.option("--namespace", metavar="NAME", help="By default the configured one.")
@click.option("--policy", metavar="POLICY", help="What is worth storing: checkpoints, outputs or auto.")
@click.option("--mode", metavar="MODE", help="What may be done to the store: off, read, write or readwrite.")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module, as for 'python -m'.")
@click.argument("command", metavar="SCRIPT [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(
    options: dict[str, str | None],
    store: str | None,
    namespace: str | None,
    policy: str | None,
    mode: str | None,
    is_module: bool,
    command: tuple[str, ...],
) -> None:
    """Run a Python script with the pass switched on, and otherwise as 'python SCRIPT ARGS' does.

    Options come before the script; what follows it is the script's own.
    """
    given = {
        "store": store or options["store"],
        "namespace": namespace or options["namespace"],
        "policy": policy,
        "mode": mode,
    }
    settings = Settings.from_config(**given)
    if settings.mode != "off":
        # The script takes it for a configuration, of which it would say what is wrong in a warning.
        with contextlib.suppress(StoreError):  # of credentials, which the script may know
            stores.open(Catalog.of(settings).root)
    if not sys.executable:
        raise InvalidInputError("this Python does not know its own program, so that it can start no script")
    environment = {**os.environ, "DASK_DASKCACHE__ENABLED": "True"}
    for name, value in given.items():
        if value is not None:
            # As a literal, or dask would take a name such as 2024 for a number.
            environment[f"DASK_DASKCACHE__{name.upper()}"] = repr(getattr(settings, name))
    program = [sys.executable, *(["-m"] if is_module else []), *command]
    sys.stdout.flush()
    sys.stderr.flush()
    # A new interpreter, so that what the script sees is what it sees without us: its __main__, sys.path, threads,
    # signals, tracebacks and exit code.
    if os.name == "posix":
        os.execve(program[0], program, environment)
    raise SystemExit(subprocess.run(program, env=environment, check=False).returncode)

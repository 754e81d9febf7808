"""What dask loads while it is imported: it puts daskcache's pass in line where the configuration asks for it.

Beside the package, not in it: importing anything of the package imports xarray and zarr, and needs dask complete. Here
nothing is imported but what dask has by then. See ``docs/design/0004-activation.md``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Self

import yaml
from dask import config

__all__ = ["ABSENT", "HOOKS", "Hook", "install", "register", "uninstall", "warn_of_query_planning"]

HOOKS = {"array_optimize": "dask.array.optimization"}
"""Dask's settings that name an optimizer, one per kind of collection, and the modules of their default ``optimize``."""

# Files whose lines tell a user nothing.
_INNER = (
    os.path.splitext(__file__)[0],
    os.path.join(os.path.dirname(__file__), "daskcache", ""),
    os.path.join(os.path.dirname(config.__file__), ""),
)

ABSENT: Any = object()
"""What stands in a setting that is not there."""


class Hook(tuple[()]):  # noqa: SLOT001  (a tuple has no slots)
    """Stands in dask's configuration for an optimizer.

    With settings of its own (`daskcache.activate`) for that one; without, for what the configuration says whenever dask
    asks: the first time, the package is imported.

    Attributes
    ----------
    key : str
        Dask's setting that it stands under.
    before : object
        What stood there: a callable, or a falsy value by which dask optimises nothing; `ABSENT`.
    optimizer : callable or None
        A `daskcache.optimizer.Optimizer`; None for the configured one.

    Notes
    -----
    It is an empty tuple, because distributed sends the configuration to processes on other hosts as JSON, and would fail
    with any other callable. There it is an empty list, by which dask optimises nothing where the package is missing;
    where it is not, `install` puts this in place again.
    """

    key: str
    before: Any
    optimizer: Callable[..., Any] | None

    def __new__(cls, key: str, before: Any = ABSENT, optimizer: Callable[..., Any] | None = None) -> Self:  # noqa: D102
        self = super().__new__(cls)
        vars(self).update(key=key, before=before, optimizer=optimizer)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def resolve(self) -> Callable[..., Any]:
        """Give the optimizer that this stands for.

        Returns
        -------
        callable
            The pass; where it is not on, what would have stood here without it.
        """
        if self.optimizer is not None:
            return self.optimizer
        try:
            from daskcache.activation import resolve
        except ImportError as error:
            _warn(f"the pass of daskcache is off, because the package cannot be imported: {error}")
            return self.fall_back()
        return resolve(self)

    def fall_back(self) -> Callable[..., Any]:
        """Give what would stand here without the pass.

        Returns
        -------
        callable
            What stood here, or dask's own.
        """
        if self.before is not ABSENT:
            # A falsy setting is how dask is told to optimise nothing.
            return self.before or _dont_optimize
        default: Callable[..., Any] = import_module(HOOKS[self.key]).optimize
        return default

    @property
    def settings(self) -> Any:
        """The settings of the pass, None where it is not on."""
        return getattr(self.resolve(), "settings", None)

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self.resolve()(dsk, keys, **kwargs)

    def __bool__(self) -> bool:
        # Dask asks whether there is one.
        return True

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self.resolve() == (other.resolve() if isinstance(other, Hook) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.resolve())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has another configuration: it gets what this stands for here.
        return _same, (self.resolve(),)

    def __repr__(self) -> str:
        return f"<daskcache in {self.key}{'' if self.optimizer is None else f': {self.optimizer!r}'}>"


def _dont_optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    return dsk


# As in JSON: ``dask config list`` prints what can be read again.
yaml.add_representer(Hook, lambda dumper, _: dumper.represent_list([]))


def _same(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    return optimizer


def register(_: object = None) -> None:
    """Put the pass in line where the configuration asks for it; dask calls this at its import.

    Parameters
    ----------
    _ : object, optional
        What dask hands to each plugin of its group ``dask.sizeof``.
    """
    if config.get("daskcache.enabled", False):
        install()


def install() -> None:
    """Put the configured pass in line before the optimizers that are set, once."""
    if config.get("array.query-planning", None):
        warn_of_query_planning()
    with config.config_lock:
        for key in HOOKS:
            before = config.config.get(key, ABSENT)
            if isinstance(before, list):  # what JSON made of one
                before = ABSENT
            if isinstance(before, Hook):
                continue
            hook = Hook(key, before)
            if before is ABSENT:
                # As a default it is there again after dask.config.refresh().
                config.update_defaults({key: hook})
            config.config[key] = hook


def uninstall() -> None:
    """Take the configured pass out of dask's configuration and put back what stood there."""
    with config.config_lock:
        for key in HOOKS:
            hook = config.config.get(key)
            if not isinstance(hook, Hook):
                continue
            config.defaults[:] = [new for new in config.defaults if new.get(key) is not hook]
            if hook.before is ABSENT:
                del config.config[key]
            else:
                config.config[key] = hook.before


def warn_of_query_planning() -> None:
    """Say, once, that the pass cannot work under dask's query planning."""
    _warn(
        "with array.query-planning dask calls no optimizer of arrays, so that the pass of daskcache is idle: nothing is "
        "loaded or stored but by explicit calls, such as persist. Set array.query-planning to false before dask.array is "
        "imported"
    )


@cache
def _warn(message: str) -> None:
    # Not with a category of the package, which cannot be imported while dask is.
    warnings.warn(message, skip_file_prefixes=_INNER)

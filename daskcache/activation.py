"""Switching the pass on and off, through dask's own setting."""

from __future__ import annotations

from typing import Any, Self

import dask.config
from dask.base import dont_optimize

from daskcache.config import Settings
from daskcache.errors import InvalidInputError
from daskcache.optimizer import Optimizer
from daskcache.stores import describe

__all__ = ["activate", "active_settings", "deactivate"]

_HOOK = "array_optimize"


class activate:  # noqa: N801  (used like a function, as dask.config.set is)
    """Switch the pass on: blocks that are stored are loaded, checkpoints are stored when they are computed.

    Parameters
    ----------
    store : str, optional
        URL or path of the store; by default the configured one.
    namespace : str, optional
        Where names are looked up and put; by default the configured one.
    **settings
        Further fields of `daskcache.config.Settings`, such as ``mode``.

    Raises
    ------
    InvalidInputError
        A setting is unknown or not one of those allowed.

    Notes
    -----
    Works at once, and until `deactivate`; as a context manager, until the block ends. It sets dask's
    ``array_optimize``; an optimizer that was set there before is called after it, not lost. The store is not
    looked at.

    Examples
    --------
    >>> import daskcache
    >>> with daskcache.activate("memory://doc-activate", namespace="ssp585"):
    ...     dask.config.get("daskcache.namespace")
    'ssp585'
    """

    def __init__(self, store: str | None = None, *, namespace: str | None = None, **settings: Any) -> None:
        resolved = Settings.from_config(store=store, namespace=namespace, **settings)
        current = dask.config.get(_HOOK, None)
        chained = current.chained if isinstance(current, Optimizer) else current
        if chained is False:
            chained = dont_optimize
        if not isinstance(current, Optimizer):
            # Somebody has put dask's setting back by other means.
            _active.clear()
        self.settings = resolved
        # Explicit calls, such as persist, read the configuration: they shall find what was activated.
        self._set = dask.config.set(
            {
                _HOOK: Optimizer(resolved, chained),
                "daskcache.enabled": True,
                "daskcache.store": resolved.store,
                "daskcache.namespace": resolved.namespace,
                "daskcache.mode": resolved.mode,
                "daskcache.policy": resolved.policy,
                "daskcache.salt": resolved.salt,
                "daskcache.on-uncacheable": resolved.on_uncacheable,
                "daskcache.progress": resolved.progress,
                "daskcache.check-space": resolved.check_space,
                "daskcache.code.versions": (
                    resolved.code_versions
                    if isinstance(resolved.code_versions, str)
                    else dict(resolved.code_versions)
                ),
                "daskcache.sources.check": resolved.source_check,
                "daskcache.sources.aliases": dict(resolved.source_aliases),
                "daskcache.codecs": {
                    name: getattr(resolved.codecs, name) for name in resolved.codecs.__slots__
                },
            }
        )
        _active.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self in _active:
            _active.remove(self)
            self._set.__exit__(None, None, None)

    def __repr__(self) -> str:
        return f"<daskcache: active on {describe(self.settings.store)}, namespace {self.settings.namespace}>"


_active: list[activate] = []
"""What is switched on, in that order."""


def deactivate() -> None:
    """Switch the pass off; an optimizer that was set before is back in its place, and so is the configuration.

    Examples
    --------
    >>> import daskcache
    >>> _ = daskcache.activate("memory://doc-deactivate")
    >>> daskcache.deactivate()
    >>> dask.config.get("array_optimize", None) is None
    True
    """
    if active_settings() is None:
        return
    while _active:
        _active[-1].__exit__()
    if dask.config.get("daskcache.enabled", False):
        dask.config.set({"daskcache.enabled": False})


def active_settings() -> Settings | None:
    """Give the settings of the active pass.

    Returns
    -------
    Settings or None
        None where the pass is not on.
    """
    current = dask.config.get(_HOOK, None)
    return current.settings if isinstance(current, Optimizer) else None


def activate_if_enabled() -> None:
    """Switch the pass on where the configuration says so."""
    if dask.config.get("daskcache.enabled", False) and active_settings() is None:
        try:
            activate()
        except InvalidInputError as error:
            raise InvalidInputError(f"daskcache.enabled is set, but {error}") from error

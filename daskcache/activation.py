"""Switching the pass on and off, through dask's own setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import dask.config
from dask.base import dont_optimize

from daskcache.config import Codecs, Settings
from daskcache.dask_internals import has_query_planning
from daskcache.errors import InvalidInputError, warn_once
from daskcache.optimizer import Optimizer
from daskcache.stores import describe
from daskcache_hook import ABSENT, HOOKS, Hook, install, uninstall, warn_of_query_planning

__all__ = ["activate", "activate_if_enabled", "active_settings", "deactivate", "resolve"]


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
        hooks = {key: _before(key) for key in HOOKS}
        if not _is_activated():
            # Somebody has put the configuration back by other means.
            _active.clear()
        self.settings = resolved
        if has_query_planning():
            warn_of_query_planning()
        # Explicit calls, such as persist, read the configuration: they shall find what was activated.
        given = {"namespace": namespace, **settings}
        self._set = dask.config.set(
            {
                **{
                    key: Hook(key, before, Optimizer(resolved, _chain(before)))
                    for key, before in hooks.items()
                },
                "daskcache.enabled": True,
                # Also where it is configured: a relative path means another directory after a chdir.
                "daskcache.store": resolved.store,
                **_configuration(resolved, {name for name, value in given.items() if value is not None}),
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
    if not _is_activated():
        # Somebody has put the configuration back by other means.
        _active.clear()
    while _active:
        _active[-1].__exit__()
    uninstall()
    if dask.config.get("daskcache.enabled", False):
        dask.config.set({"daskcache.enabled": False})


def active_settings() -> Settings | None:
    """Give the settings of the active pass.

    Returns
    -------
    Settings or None
        None where the pass is not on.
    """
    for key in HOOKS:
        current = dask.config.config.get(key)
        if isinstance(current, Hook | Optimizer):
            settings: Settings | None = current.settings
            return settings
    return None


def activate_if_enabled() -> None:
    """Switch the pass on where the configuration says so, as dask's import does."""
    if dask.config.get("daskcache.enabled", False):
        install()
        # So that a setting that is not allowed is told of now.
        _configured_settings()


def resolve(hook: Hook) -> Callable[..., Any]:
    """Give what stands in dask's configuration where the configuration alone decides.

    Parameters
    ----------
    hook : daskcache_hook.Hook
        What stands there.

    Returns
    -------
    callable
        The pass with the settings that are configured now. Where it is not enabled or a setting is not allowed, which
        is told once, what would have stood there without it.
    """
    settings = _configured_settings()
    if settings is None:
        return hook.fall_back()
    return Optimizer(settings, _chain(hook.before), is_configured=True)


def _configured_settings() -> Settings | None:
    enabled = dask.config.get("daskcache.enabled", False)
    if not enabled:
        return None
    try:
        if enabled not in (True, 1):
            raise InvalidInputError(f"daskcache.enabled is {enabled!r}; expected true or false")
        return Settings.from_config()
    except InvalidInputError as error:
        warn_once(f"the pass is off, because the configuration is not what it should be: {error}")
        return None


_KEYS = {
    "code_versions": "code.versions",
    "source_check": "sources.check",
    "source_aliases": "sources.aliases",
    "grace_s": "forgetting.grace",
    "keep_s": "forgetting.keep",
}


def _configuration(settings: Settings, names: set[str]) -> dict[str, Any]:
    """Give the configuration of which `Settings.from_config` makes what these settings say of some fields."""
    found: dict[str, Any] = {}
    for name in names & set(Settings.__dataclass_fields__):
        value = getattr(settings, name)
        if isinstance(value, tuple):
            value = dict(value)
        elif isinstance(value, Codecs):
            value = asdict(value)
        found[f"daskcache.{_KEYS.get(name, name.replace('_', '-'))}"] = value
    own = {name: getattr(settings, name) for name in names & {"mode", "pool"}}
    configured = dask.config.get("daskcache.namespaces", None) or {}
    if own and settings.namespace in configured:
        # What is configured for one namespace goes before what is for all.
        below = {**configured[settings.namespace], **own}
        found["daskcache.namespaces"] = {**configured, settings.namespace: below}
    return found


def _is_activated() -> bool:
    """Say whether what stands in dask's configuration was put there by `activate`."""
    standing = [dask.config.config.get(key) for key in HOOKS]
    return any(
        isinstance(one, Optimizer) or (isinstance(one, Hook) and one.optimizer is not None)
        for one in standing
    )


def _before(key: str) -> Any:
    """Give what stands in a setting of dask's, besides the pass."""
    current = dask.config.config.get(key, ABSENT)
    if isinstance(current, Hook):
        return current.before
    if isinstance(current, Optimizer):  # from another process
        return ABSENT if current.chained is None else current.chained
    return current


def _chain(before: Any) -> Callable[..., Any] | None:
    """Give the optimizer that is called after the pass; None for dask's own."""
    # A falsy setting is how dask is told to optimise nothing.
    return None if before is ABSENT else before or dont_optimize

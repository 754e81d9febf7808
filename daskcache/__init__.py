"""Persist dask and xarray pipelines block by block: compute every block once."""

from importlib.metadata import version as _version

from daskcache.accessor import register as _register
from daskcache.activation import activate, activate_if_enabled, deactivate
from daskcache.chunks import Access, Hints
from daskcache.errors import (
    CorruptChunkError,
    DaskcacheError,
    DaskcacheWarning,
    EntryNotFoundError,
    InvalidInputError,
    MissingExtraError,
    NotStoredError,
    ReadOnlyError,
    SourceChangedError,
    StoreError,
    StoreFullError,
    UncacheableError,
)
from daskcache.explain import explain
from daskcache.export import export
from daskcache.fingerprint import effect, fingerprint_as, source, version
from daskcache.forgetting import clear, expire, gc
from daskcache.functions import cache, options
from daskcache.identity import token
from daskcache.lazy import checkpoint
from daskcache.lazy import open_entry as open  # noqa: A004
from daskcache.persist import persist
from daskcache.processors import Processor, region, select, timeseries
from daskcache.runs import last_run
from daskcache.secrets import secret
from daskcache.status import status
from daskcache.transfer import copy, mirror, publish
from daskcache.verify import verify

__all__ = [
    "Access",
    "CorruptChunkError",
    "DaskcacheError",
    "DaskcacheWarning",
    "EntryNotFoundError",
    "Hints",
    "InvalidInputError",
    "MissingExtraError",
    "NotStoredError",
    "Processor",
    "ReadOnlyError",
    "SourceChangedError",
    "StoreError",
    "StoreFullError",
    "UncacheableError",
    "activate",
    "cache",
    "checkpoint",
    "clear",
    "copy",
    "deactivate",
    "effect",
    "expire",
    "explain",
    "export",
    "fingerprint_as",
    "gc",
    "last_run",
    "mirror",
    "open",
    "options",
    "persist",
    "publish",
    "region",
    "secret",
    "select",
    "source",
    "status",
    "timeseries",
    "token",
    "verify",
    "version",
]

__version__ = _version("daskcache")

_register()
activate_if_enabled()

"""Stores: Zarr's own, opened by URL, and what the rest of the package does with their objects."""

from daskcache.stores.fanout import Fanout
from daskcache.stores.levels import Level, Levels
from daskcache.stores.limit import Limit
from daskcache.stores.migration import migrate
from daskcache.stores.naming import describe, is_spread
from daskcache.stores.objects import (
    create,
    delete,
    exists,
    free_bytes,
    get,
    list_dirs,
    list_objects,
    list_sizes,
    put,
    rename_aside,
    size,
)
from daskcache.stores.pages import find_objects
from daskcache.stores.shares import Share
from daskcache.stores.urls import open_store as open  # noqa: A004 (stores.open reads as what it is)

__all__ = [
    "Fanout",
    "Level",
    "Levels",
    "Limit",
    "Share",
    "create",
    "delete",
    "describe",
    "exists",
    "find_objects",
    "free_bytes",
    "get",
    "is_spread",
    "list_dirs",
    "list_objects",
    "list_sizes",
    "migrate",
    "open",
    "put",
    "rename_aside",
    "size",
]

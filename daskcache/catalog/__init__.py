"""The catalog: entries and their versions, runs, and which values the newest versions hold."""

from daskcache.catalog.entries import Catalog
from daskcache.catalog.packs import (
    Listed,
    drop_from_pack,
    list_packs,
    pack_blocks,
    pack_key,
    put_pack,
    read_pack,
    read_packs,
)
from daskcache.catalog.records import RunRecord, Wanted
from daskcache.catalog.runs import Runs
from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.versions import Latest, VersionInfo, time_of
from daskcache.names import check_name, check_namespace

__all__ = [
    "Catalog",
    "Latest",
    "Listed",
    "RunRecord",
    "Runs",
    "TokenIndex",
    "VersionInfo",
    "Wanted",
    "check_name",
    "check_namespace",
    "drop_from_pack",
    "list_packs",
    "pack_blocks",
    "pack_key",
    "put_pack",
    "read_pack",
    "read_packs",
    "time_of",
]

"""Tables whose entries are gone: dropped from databases, and deleted where they are Delta."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from datetime import UTC, datetime

import dask.config

from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.catalog.documents import Documents
from daskcache.catalog.layout import TOMBSTONE
from daskcache.config import Settings
from daskcache.errors import CorruptChunkError, EntryNotFoundError, MissingExtraError, StoreError, warn_once
from daskcache.forgetting import Swept, sweep_also
from daskcache.formats.database import Database, sqlalchemy
from daskcache.formats.delta import DELTA, NOTE, TABLES, DeltaKeeper, deltalake
from daskcache.formats.sql import SqlKeeper, listed_tables
from daskcache.formats.sql_names import INDEX
from daskcache.names import check_name

__all__ = ["sweep_tables"]

logger = logging.getLogger("daskcache")


def sweep_tables(settings: Settings, dry_run: bool) -> Swept:
    """Drop the tables of a store whose entries were cleared or have expired, a grace period ago.

    Parameters
    ----------
    settings : Settings
        The store, and the grace period.
    dry_run : bool
        Only count.

    Returns
    -------
    Swept
        How many tables, and how many files of Delta's that no version needs.

    Warns
    -----
    DaskcacheWarning
        The configured database cannot be reached: its tables stay.

    Examples
    --------
    >>> sweep_tables(Settings("memory://doc-sweep-tables"), dry_run=True).tables
    0
    """
    swept = Swept(stores.describe(settings.store), dry_run)
    if dask.config.get("daskcache.functions.database", None):
        try:
            swept += Swept("", dry_run, tables=_sweep_database(settings, dry_run))
        except (StoreError, MissingExtraError) as error:
            warn_once(f"tables in the database were not swept: {error}")
    if os.path.isabs(settings.store):
        swept += _sweep_delta(settings, dry_run)
    return swept


def _sweep_database(settings: Settings, dry_run: bool) -> int:
    sa = sqlalchemy()
    database, here = Database.of(), stores.describe(settings.store)
    listed = listed_tables()
    query = sa.select(listed.c.namespace, listed.c.entry).where(listed.c.store == here)
    with database.begin(write=False) as connection:
        has_any = sa.inspect(connection).has_table(INDEX)
        rows = connection.execute(query).all() if has_any else []
    count = 0
    for namespace, entry in rows:
        keeper = SqlKeeper(database, here, namespace, entry)

        def is_forgotten(stored: str, namespace: str = namespace, entry: str = entry) -> bool:
            age_s = (datetime.now(UTC) - datetime.fromisoformat(stored)).total_seconds()
            return age_s >= settings.grace_s and _has_no_version(settings, namespace, entry)

        count += keeper.drop(is_forgotten, dry_run=dry_run)
    return count


def _has_no_version(settings: Settings, namespace: str, entry: str) -> bool:
    """Whether an entry has no version, and had none for a grace period."""
    documents = Documents(settings.store, namespace, check_name(entry))
    if documents.list_versions():
        return False
    listed = stores.list_objects(documents.store, documents.key())
    now = time.time()
    ages_s = [now - (written or now) for name, (_, written) in listed.items() if name.endswith(TOMBSTONE)]
    return all(age_s >= settings.grace_s for age_s in ages_s)


def _sweep_delta(settings: Settings, dry_run: bool) -> Swept:
    store = stores.open(settings.store)
    swept = Swept("", dry_run)
    for namespace in stores.list_dirs(store, TABLES):
        for name in stores.list_dirs(store, f"{TABLES}/{namespace}"):
            key = f"{TABLES}/{namespace}/{name}"
            note = stores.get(store, f"{key}/{NOTE}")
            written = stores.list_objects(store, key).get(NOTE, (0, None))[1]
            if note is None or written is None:
                continue
            entry = note.decode("utf-8", "replace")
            keeper = DeltaKeeper(settings.with_(namespace=namespace), entry)
            if keeper.key != key:
                continue
            if not _has_no_version(settings, namespace, entry):
                swept += Swept("", dry_run, leftovers=_vacuum(keeper, dry_run))
            elif time.time() - written >= settings.grace_s:
                swept += Swept("", dry_run, tables=1)
                if not dry_run:
                    shutil.rmtree(keeper.path)
    return swept


def _vacuum(keeper: DeltaKeeper, dry_run: bool) -> int:
    """Delete the files that neither the newest version of a Delta table nor one that a manifest names needs."""
    catalog = Catalog.of(keeper.settings)
    try:
        library = deltalake()
    except MissingExtraError as error:
        logger.info("files of %s stay: %s", keeper.key, error)
        return 0
    try:
        manifests = [catalog.open(keeper.entry, info.version) for info in catalog.versions(keeper.entry)]
        kept = [int(one.nodes[""].attrs["delta_version"]) for one in manifests if one.name == DELTA]
        table = library.DeltaTable(keeper.path)
        hours = math.ceil(keeper.settings.grace_s / 3600)
        gone = table.vacuum(hours, dry_run, enforce_retention_duration=False, keep_versions=kept)
    except (EntryNotFoundError, CorruptChunkError, library.exceptions.DeltaError) as error:
        logger.info("files of %s stay: %s", keeper.key, error)
        return 0
    return len(gone)


sweep_also(sweep_tables)

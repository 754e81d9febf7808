"""Migration: stores of older formats, stores that were moved, and stores that shall lie elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import RangeByteRequest

from daskcache import stores
from daskcache.catalog import Catalog
from daskcache.catalog.documents import Documents
from daskcache.catalog.layout import FORMAT, check_format
from daskcache.config import Settings
from daskcache.errors import InvalidInputError
from daskcache.transfer.copies import Copied, copy

__all__ = ["Migrated", "migrate_store"]

# Where the readable form of a version says below which root its blocks lie: in front of all else.
_HEAD_BYTES = 4096
_ROOT = re.compile(rb'"templates": \{"root": ("(?:[^"\\]|\\.)*")\}')


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did, or would do."""

    store: str
    """The store, without credentials."""
    dry_run: bool
    """Whether nothing was written."""
    documents: int = 0
    """Documents that were written anew: they named another root than the store's."""
    copied: Copied | None = None
    """What was copied to the other store; None in place."""

    @property
    def is_needed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.documents or (self.copied and (self.copied.versions or self.copied.blocks)))

    def __str__(self) -> str:
        if self.copied is not None:
            return str(self.copied)
        if not self.documents:
            return f"nothing to do: {self.store} has the newest format, {FORMAT}"
        done = "would write" if self.dry_run else "wrote"
        return f"{done} {self.documents} documents of {self.store} anew, which name another root"


def migrate_store(store: Any = None, target: Any = None, *, dry_run: bool = False) -> Migrated:
    """Do what `daskcache.stores.migrate` says.

    Parameters
    ----------
    store, target, dry_run : optional
        As there.

    Returns
    -------
    Migrated
        What was done.

    Raises
    ------
    InvalidInputError
        There is no store of ours.
    StoreError
        A store failed, or has a newer format.

    Examples
    --------
    >>> from daskcache.manifest import Manifest
    >>> published = Catalog("memory://doc-migrate-store").publish("era5", Manifest.build("dataset", ()))
    >>> migrate_store("memory://doc-migrate-store").is_needed
    False
    """
    root = Settings.from_config(store=store).store
    check_format(stores.open(root))
    catalog = Catalog(root)
    namespaces = catalog.namespaces()
    if not namespaces:
        raise InvalidInputError(
            f"no store of daskcache is at {stores.describe(root)}; what other programs wrote becomes an entry by "
            "daskcache.persist(xarray.open_zarr(…), name)"
        )
    if target is not None:
        copied = copy(target, store=root, everywhere=True, dry_run=dry_run)
        return Migrated(stores.describe(root), dry_run, copied=copied)
    moved = 0
    for documents, version in _moved(root, namespaces):
        moved += 1
        if not dry_run:
            documents.put(documents.read(version))
    return Migrated(stores.describe(root), dry_run, moved)


def _moved(root: str, namespaces: list[str]) -> Iterator[tuple[Documents, str]]:
    """Give the versions whose readable form names another root: the store was moved, or copied by other means."""
    where = stores.describe(root).rstrip("/")
    store = stores.open(root)
    for namespace in namespaces:
        for entry in Catalog(root, namespace).entries():
            documents = Documents(root, namespace, entry)
            for version in documents.list_versions():
                head = stores.get(store, documents.key(f"{version}.json"), RangeByteRequest(0, _HEAD_BYTES))
                found = _ROOT.search(head or b"")
                if found is None or json.loads(found[1]) != where:
                    yield documents, version

"""The place to which an entry is published: what is there already, and whose it is."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zarr.abc.store import Store

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError
from daskcache.locations import has_secret
from daskcache.stores import drive
from daskcache.stores.faults import translating
from daskcache.stores.remote import PROBE
from daskcache.stores.sync import wait_for
from daskcache.transfer.claims import CLAIMS
from daskcache.transfer.plain import document_key

__all__ = ["WIDTH", "clear_target", "open_target", "read_arrays", "unchanged"]

WIDTH = 8
"""Requests at the same time."""

_GROUPS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


def open_target(target: Any) -> Store:
    """Open the place where a plain store is, or will be.

    Parameters
    ----------
    target : str, path, mapping, sequence or zarr.abc.store.Store
        What `daskcache.stores.open` takes; remote ones with the configured storage options, where they have none of
        their own.

    Returns
    -------
    zarr.abc.store.Store
        Nothing has been asked of it yet.

    Raises
    ------
    InvalidInputError
        It is none of these, or lies in the store of the entries.

    Examples
    --------
    >>> str(open_target("memory://doc-target"))
    'memory://doc-target'
    """
    if isinstance(target, Store):
        return target
    if isinstance(target, str | os.PathLike):
        text = os.fspath(target)
        if "://" not in text or has_secret(text):
            return stores.open(text)
    return stores.open(Settings.from_config(store=target).store)


def read_arrays(target: Store, wanted: Collection[str]) -> dict[str, Any] | None:
    """Read which arrays were published before.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The place.
    wanted : collection of str
        The arrays that are going to be published.

    Returns
    -------
    dict of str to dict or None
        By path, the documents that readers see; None where there is nothing to read yet.

    Raises
    ------
    InvalidInputError
        Something else is there, or arrays that are not published any more.
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> read_arrays(stores.open("memory://doc-target-arrays"), ["t2m"]) is None
    True
    """
    root = drive.get(target, document_key(""))
    if root is None:
        _check_begun(target, wanted)
        return None
    arrays = _arrays_of(root)
    if arrays is None or (wanted and not arrays):
        raise _in_the_way(target)
    with ThreadPoolExecutor(WIDTH) as threads:
        ours = dict(
            zip(
                arrays,
                threads.map(lambda path: drive.exists(target, f"{path}/{CLAIMS}"), arrays),
                strict=True,
            )
        )
    if not all(ours.values()):
        raise _in_the_way(target)
    gone = sorted(arrays.keys() - set(wanted))
    if gone:
        raise InvalidInputError(
            f"{', '.join(gone)} is published at {stores.describe(target)} and not in the entry; readers of what is there "
            "would be disturbed: publish to another target, or with overwrite=True, which begins anew"
        )
    return arrays


def _arrays_of(root: bytes) -> dict[str, Any] | None:
    """Give the arrays of a store by the root's document; None where that is none of ours."""
    try:
        below = json.loads(root)["consolidated_metadata"]["metadata"]
        return {path: document for path, document in below.items() if document["node_type"] == "array"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _check_begun(target: Store, wanted: Collection[str]) -> None:
    """Refuse a place that holds anything but what a publish leaves that was broken off."""
    files = {name for name in drive.list_objects(target, "") if name != PROBE}
    tops = {path.partition("/")[0] for path in wanted}
    if files or not tops.issuperset(drive.list_dirs(target, "")):
        raise _in_the_way(target)
    for path in wanted:
        if drive.list_dirs(target, path) and not drive.exists(target, f"{path}/{CLAIMS}"):
            raise _in_the_way(target)


def clear_target(target: Store, wanted: Collection[str]) -> None:
    """Remove a Zarr store, the documents by which readers find all others first.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The place.
    wanted : collection of str
        The arrays that are going to be published.

    Raises
    ------
    InvalidInputError
        Something is there that is no Zarr store.
    StoreError
        The store failed, or takes no writes.

    Examples
    --------
    >>> clear_target(stores.open("memory://doc-target-clear"), [])
    """
    found = [name for name in _GROUPS if drive.exists(target, name)]
    if not found:
        _check_begun(target, wanted)
    for name in found:
        drive.delete(target, name)
    files = drive.list_objects(target, "").keys() - {PROBE}
    for name in [*files, *drive.list_dirs(target, "")]:
        with translating(stores.describe(target), f"delete {name}", writes=True):
            # With its directories, which readers would take for arrays that are broken.
            wait_for(target.delete_dir(name) if name not in files else target.delete(name))


def _in_the_way(target: Store) -> InvalidInputError:
    return InvalidInputError(
        f"something is at {stores.describe(target)} that was not published there; name another target, or, where it is a "
        "Zarr store that may be removed, say overwrite=True"
    )


def unchanged(target: Store, documents: Mapping[str, bytes]) -> dict[str, bool]:
    """Tell which documents are there as they shall be.

    Parameters
    ----------
    target : zarr.abc.store.Store
        The place.
    documents : mapping of str to bytes
        By path.

    Returns
    -------
    dict of str to bool
        By path.

    Examples
    --------
    >>> unchanged(stores.open("memory://doc-target-unchanged"), {"t2m": b"{}"})
    {'t2m': False}
    """
    with ThreadPoolExecutor(WIDTH) as threads:
        found = threads.map(lambda path: drive.get(target, document_key(path)), documents)
        return {path: data == content for (path, content), data in zip(documents.items(), found, strict=True)}

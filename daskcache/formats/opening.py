"""What a manifest holds, of whatever kind it is."""

from __future__ import annotations

from typing import Any

from daskcache.datasets import BlocksOf, assemble
from daskcache.formats.base import Format
from daskcache.formats.containers import is_container, open_container
from daskcache.formats.entries import read_value
from daskcache.formats.frames import is_frame, open_frame
from daskcache.manifest import Manifest

__all__ = ["open_stored"]


def open_stored(
    manifest: Manifest, root: str, blocks: BlocksOf | None = None, form: Format | None = None
) -> Any:
    """Give what a manifest holds.

    Parameters
    ----------
    manifest : Manifest
        Of any kind.
    root : str
        The store that holds its blocks.
    blocks : callable, optional
        As of `daskcache.datasets.assemble`.
    form : Format, optional
        One that this process need not know, where the manifest names it.

    Returns
    -------
    object
        Arrays and tables of dask are lazy; the rest is read.

    Raises
    ------
    NotStoredError
        An object is gone, or this process does not know the format or a class that it names.

    Examples
    --------
    >>> import dask, daskcache
    >>> from daskcache.catalog import Catalog
    >>> with dask.config.set({"daskcache.store": "memory://doc-open-stored"}):
    ...     daskcache.cache(lambda: [1, 2])()
    [1, 2]
    >>> catalog = Catalog("memory://doc-open-stored")
    >>> open_stored(catalog.open(catalog.entries()[0]), "memory://doc-open-stored")
    [1, 2]
    """
    if is_frame(manifest):
        return open_frame(manifest, root)
    if is_container(manifest):
        return open_container(manifest, root, blocks)
    if manifest.kind in ("table", "value"):
        return read_value(manifest, root, form)
    return assemble(manifest, root, blocks)

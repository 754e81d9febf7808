"""Moving a store to another format or place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskcache.transfer.migration import Migrated

__all__ = ["migrate"]


def migrate(store: Any = None, target: Any = None, *, dry_run: bool = False) -> Migrated:
    """Bring a store to the newest format, in place or at another place.

    Parameters
    ----------
    store : str, path, mapping or sequence, optional
        The store, as `daskcache.store` takes it; by default the configured one.
    target : str, path, mapping or sequence, optional
        Another store, of whatever kind, with levels or without: all namespaces are copied there, and readers of this one
        are left alone. By default the store is migrated where it is.
    dry_run : bool, optional
        Only tell what would be done.

    Returns
    -------
    daskcache.transfer.migration.Migrated
        What was done.

    Raises
    ------
    InvalidInputError
        There is no store of ours.
    StoreError
        A store failed, or has a newer format: upgrade daskcache.

    Notes
    -----
    Format 0 is the only one that shipped, so in place there is nothing to convert. Of a store that was moved or copied by
    other means, the documents that plain readers open still name the root of before, and are written anew. A migration
    that was broken off goes on when it is called again. Tokens are no part of the format: entries that were stored under
    earlier token rules open by name in any case.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2), "numbers", store="memory://doc-migrate")
    >>> print(migrate("memory://doc-migrate"))
    nothing to do: memory://doc-migrate has the newest format, 0
    >>> migrate("memory://doc-migrate", "memory://doc-migrated").copied.blocks
    2
    """
    # The one way up: users look for it among stores, and what a store holds is known above.
    from daskcache.transfer.migration import migrate_store

    return migrate_store(store, target, dry_run=dry_run)

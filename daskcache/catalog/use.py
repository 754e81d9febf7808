"""When versions were last used: a note beside each, written at most once a day."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import USED
from daskcache.catalog.records import now
from daskcache.errors import StoreError

__all__ = ["note_use", "read_use"]

logger = logging.getLogger("daskcache")

_DAY = timedelta(days=1)

# Lives as long as the process: when it last looked after each note.
_looked: dict[tuple[str, str], datetime] = {}


def note_use(store: Store, key: str, published: str) -> None:
    """Note that a version is used, unless that was noted within a day.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    key : str
        That of the version's documents, without their endings.
    published : str
        When it was published, ISO 8601.

    Notes
    -----
    A store that takes no writes is no error.

    Examples
    --------
    >>> store = stores.open("memory://doc-use")
    >>> note_use(store, "namespaces/default/era5/@/0", "2026-01-01T00:00:00+00:00")
    >>> read_use(store, "namespaces/default/era5/@/0") > "2026-01-01T00:00:00+00:00"
    True
    """
    place = stores.describe(store), key
    today = datetime.now(UTC)
    last = _looked.get(place) or _time(published)
    if last is not None and today - last < _DAY:
        return
    _looked[place] = today
    try:
        noted = _time(read_use(store, key))
        if noted is None or today - noted >= _DAY:
            stores.put(store, f"{key}{USED}", now().encode("ascii"))
    except StoreError as error:
        logger.info("that %s is used was not noted: %s", key, error)


def read_use(store: Store, key: str) -> str:
    """Tell when a version's use was last noted.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    key : str
        That of the version's documents, without their endings.

    Returns
    -------
    str
        ISO 8601 in UTC; empty where it never was, or the note is not understood.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> read_use(stores.open("memory://doc-use"), "namespaces/default/other/@/0")
    ''
    """
    data = stores.get(store, f"{key}{USED}") or b""
    text = data.decode("ascii", "replace")
    return text if _time(text) is not None else ""


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None

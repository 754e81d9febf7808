"""Dropping versions by age, by use and by size; their blocks are left to `gc`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dask.utils import parse_bytes

from daskcache import stores
from daskcache.catalog import Catalog, check_name
from daskcache.catalog.layout import entry_key
from daskcache.catalog.use import read_use
from daskcache.catalog.versions import VersionInfo
from daskcache.config import Settings, parse_seconds
from daskcache.errors import EntryNotFoundError, InvalidInputError, ReadOnlyError
from daskcache.forgetting.roots import chunk_ids

__all__ = ["Expired", "clear", "expire"]


@dataclass(frozen=True, slots=True)
class Expired:
    """The versions that were dropped, or would be."""

    namespace: str
    """Where."""
    dry_run: bool
    """Whether they are still there."""
    versions: tuple[tuple[str, str], ...]
    """Entry and version of each."""

    @property
    def dropped(self) -> int:
        """How many."""
        return len(self.versions)

    def __str__(self) -> str:
        done = "would drop" if self.dry_run else "dropped"
        lines = [f"{done} {self.dropped} versions of namespace {self.namespace!r}"]
        return "\n".join([*lines, *(f"  {entry}@{version[:12]}" for entry, version in self.versions)])


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version that may be dropped."""

    entry: str
    info: VersionInfo
    used: datetime
    """When it was published or, as far as noted, used."""

    @property
    def published(self) -> datetime:
        return _time(self.info.time)


def expire(
    *,
    older_than: str | float | None = None,
    unused_for: str | float | None = None,
    max_size: str | int | None = None,
    namespace: str | None = None,
    store: str | None = None,
    dry_run: bool = False,
) -> Expired:
    """Drop the versions of a namespace that are past their ``expires=``, and those that are old, unused or too much.

    Parameters
    ----------
    older_than : str or float, optional
        Such as ``"90d"``, or seconds: drop what was published before.
    unused_for : str or float, optional
        Drop what was last opened or published before. Use is noted to the day.
    max_size : str or int, optional
        Such as ``"200 GiB"``, or bytes: drop the least recently used until the rest needs no more. Blocks that
        versions share count once.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    dry_run : bool, optional
        Only tell what would be dropped.

    Returns
    -------
    Expired
        The versions.

    Raises
    ------
    InvalidInputError
        A span or size is none.
    ReadOnlyError
        The namespace or the store takes no writes.
    StoreError
        The store cannot be read.

    Notes
    -----
    Reads the index of each version. Blocks stay until `gc`, at least for one grace period, and are found by runs that
    need them until then.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2) * 2, "numbers", store="memory://doc-expire")
    >>> daskcache.expire(older_than="30d", max_size="1 GiB", store="memory://doc-expire").dropped
    0
    >>> daskcache.expire(max_size=0, store="memory://doc-expire").dropped
    1
    """
    catalog = _writable(store, namespace, dry_run)
    now = datetime.now(UTC)
    oldest = None if older_than is None else _before(now, parse_seconds(older_than, "older_than"))
    unused = None if unused_for is None else _before(now, parse_seconds(unused_for, "unused_for"))
    limit = None if max_size is None else _parse_bytes(max_size)
    dropped: list[_Kept] = []
    left: list[_Kept] = []
    for kept in _versions(catalog):
        is_past = kept.info.expires is not None and _time(kept.info.expires) <= now
        is_old = oldest is not None and kept.published < oldest
        (dropped if is_past or is_old or (unused is not None and kept.used < unused) else left).append(kept)
    if limit is not None:
        dropped += _beyond(catalog, left, limit)
    return _drop(catalog, dropped, dry_run)


def clear(
    entry: str | None = None,
    *,
    version: str | None = None,
    namespace: str | None = None,
    store: str | None = None,
    dry_run: bool = False,
) -> Expired:
    """Drop an entry, one of its versions, or all of a namespace.

    Parameters
    ----------
    entry : str, optional
        The name; by default all.
    version : str, optional
        One of its versions, or as many of its first digits as tell it from others; by default all.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    dry_run : bool, optional
        Only tell what would be dropped.

    Returns
    -------
    Expired
        The versions.

    Raises
    ------
    EntryNotFoundError
        There is no such entry or version.
    InvalidInputError
        A version is given without an entry.
    ReadOnlyError
        The namespace or the store takes no writes.
    StoreError
        The store cannot be read.

    Notes
    -----
    Blocks stay until `gc`, at least for one grace period: what was dropped by mistake is persisted again without
    computing anything.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> kept = daskcache.persist(da.arange(4, chunks=2) * 2, "numbers", store="memory://doc-clear")
    >>> print(daskcache.clear(store="memory://doc-clear", dry_run=True))
    would drop 1 versions of namespace 'default'
      numbers@...
    """
    catalog = _writable(store, namespace, dry_run)
    if entry is None:
        if version is not None:
            raise InvalidInputError(f"version {version!r} is given without the entry that has it")
        return _drop(catalog, list(_versions(catalog)), dry_run)
    # Sorted out by name, so that a version whose index is damaged can be dropped, too.
    infos = catalog.versions(check_name(entry))
    found = [info for info in infos if version is None or (version and info.version.startswith(version))]
    if not found or (version is not None and len(found) > 1):
        problem = "is short for several versions" if found else "is no version"
        raise EntryNotFoundError(
            f"{version!r} {problem} of entry {entry!r} of namespace {catalog.namespace!r}"
        )
    return _drop(catalog, [_Kept(entry, info, _time(info.time)) for info in found], dry_run)


def _writable(store: str | None, namespace: str | None, dry_run: bool) -> Catalog:
    settings = Settings.from_config(store=store, namespace=namespace)
    if not dry_run and settings.mode not in ("write", "readwrite"):
        raise ReadOnlyError(
            f"daskcache.mode of namespace {settings.namespace!r} is {settings.mode!r}; set it to 'readwrite' to drop "
            "what it holds"
        )
    return Catalog.of(settings)


def _versions(catalog: Catalog) -> Iterator[_Kept]:
    store = stores.open(catalog.root)
    for entry in catalog.entries():
        for info in catalog.versions(entry):
            noted = read_use(store, entry_key(catalog.namespace, entry, info.version))
            yield _Kept(entry, info, max(_time(info.time), _time(noted)))


def _beyond(catalog: Catalog, versions: list[_Kept], limit: int) -> list[_Kept]:
    """Give the least recently used versions whose blocks go beyond a size."""
    seen: set[tuple[str, str]] = set()
    total = 0
    ordered = sorted(versions, key=lambda kept: (kept.used, kept.published), reverse=True)
    for number, kept in enumerate(ordered):
        if not kept.info.time:
            continue  # its index cannot be read
        for variable in catalog.open(kept.entry, kept.info.version).variables:
            total += len(variable.inline or b"")
            for chunk, size in zip(chunk_ids(variable), variable.sizes.tolist(), strict=False):
                if chunk not in seen:
                    seen.add(chunk)
                    total += size
        if total > limit:
            return ordered[number:]
    return []


def _drop(catalog: Catalog, versions: list[_Kept], dry_run: bool) -> Expired:
    by_entry: dict[str, list[str]] = {}
    for kept in versions:
        by_entry.setdefault(kept.entry, []).append(kept.info.version)
    if not dry_run:
        by_entry = {entry: catalog.drop(entry, found) for entry, found in by_entry.items()}
    pairs = [(entry, version) for entry, found in by_entry.items() for version in found]
    return Expired(catalog.namespace, dry_run, tuple(pairs))


def _time(text: str) -> datetime:
    # Without a time: before all others.
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def _before(now: datetime, seconds: float) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _parse_bytes(size: str | int) -> int:
    try:
        found = int(parse_bytes(size))
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"max_size is {size!r}; expected a size such as '200 GiB' or a number of bytes"
        ) from error
    if found < 0:
        raise InvalidInputError(f"max_size is {size!r}; expected a size that is not negative")
    return found

"""Dropping versions by age, by use and by size; their blocks are left to `gc`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dask.utils import parse_bytes

from daskcache import stores
from daskcache.catalog import Catalog, check_name, drop_from_pack, list_packs, pack_blocks, read_pack
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
    unnamed: int = 0
    """Blocks that were stored without a name, because somebody computed them, and are found no longer."""

    @property
    def dropped(self) -> int:
        """How many versions."""
        return len(self.versions)

    def __str__(self) -> str:
        done = "would drop" if self.dry_run else "dropped"
        unnamed = f" and {self.unnamed} blocks without a name" if self.unnamed else ""
        lines = [f"{done} {self.dropped} versions{unnamed} of namespace {self.namespace!r}"]
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


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """A block that was stored without a name."""

    pack: str
    """The pack that lists it."""
    token: bytes
    chunk: tuple[str, str]
    """The pool's group, and the object's name in it."""
    size_bytes: int
    used: datetime | None
    """When its object was written, by the store's clock; None where the store does not tell."""


def expire(
    *,
    older_than: str | float | None = None,
    unused_for: str | float | None = None,
    max_size: str | int | None = None,
    namespace: str | None = None,
    store: str | None = None,
    dry_run: bool = False,
) -> Expired:
    """Drop the versions of a namespace that are past their ``expires=``, and what is old, unused or too much.

    Parameters
    ----------
    older_than : str or float, optional
        Such as ``"90d"``, or seconds: drop what was published before.
    unused_for : str or float, optional
        Drop what was last opened or published before. Use is noted to the day; of blocks without a name, which were
        stored because somebody computed them, it is not, and they count from when they were stored.
    max_size : str or int, optional
        Such as ``"200 GiB"``, or bytes: drop the least recently used until the rest needs no more, and what is larger
        by itself in any case. Blocks that versions share count once.
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
    Reads the index of each version, and lists the groups of blocks without a name. Blocks stay until `gc`, at least for one grace period, and are found by runs that
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
    since = max((one for one in (oldest, unused) if one is not None), default=None)
    unnamed: list[_Unnamed] = []
    if since is not None or limit is not None:
        unnamed = list(_unnamed(catalog))
    old: list[_Unnamed] = []
    young: list[_Unnamed] = []
    for one in unnamed:
        (old if since is not None and one.used is not None and one.used < since else young).append(one)
    if limit is not None:
        more, others = _beyond(catalog, left, young, limit)
        dropped, old = dropped + more, old + others
    return _drop(catalog, dropped, dry_run, old)


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
        The name; by default all, and what was stored without a name.
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
        return _drop(catalog, list(_versions(catalog)), dry_run, list(_unnamed(catalog)))
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


def _unnamed(catalog: Catalog) -> Iterator[_Unnamed]:
    """Give the blocks that packs list, and when their objects were written."""
    root = catalog.runs.pool_root
    store = stores.open(root)
    groups: dict[str, Mapping[str, tuple[int, float | None]]] = {}
    for name in list_packs(root, catalog.namespace):
        pack = read_pack(root, catalog.namespace, name)
        for row in pack_blocks(root, pack) if pack is not None else ():
            block = row.block
            if block.group not in groups:
                groups[block.group] = stores.list_objects(store, f"chunks/{block.group}")
            size, written = groups[block.group].get(block.id, (0, None))
            used = None if written is None else datetime.fromtimestamp(written, UTC)
            yield _Unnamed(name, block.token, (block.group, block.id), size, used)


def _beyond(
    catalog: Catalog, versions: list[_Kept], unnamed: list[_Unnamed], limit: int
) -> tuple[list[_Kept], list[_Unnamed]]:
    """Give the versions and blocks without a name that go, so that what is left needs no more than a size.

    What is larger by itself goes in any case; where that is not enough, the least recently used.
    """
    seen: set[tuple[str, str]] = set()
    total = 0
    never = datetime.min.replace(tzinfo=UTC)
    timed: list[tuple[datetime, datetime, _Kept | _Unnamed]] = [
        (kept.used, kept.published, kept) for kept in versions
    ]
    timed += [(one.used or never, one.used or never, one) for one in unnamed]
    going: list[_Kept | _Unnamed] = []
    is_full = False
    for _, _, one in sorted(timed, key=lambda one: one[:2], reverse=True):
        own, chunks = _size(catalog, one)
        more = own + sum(size for chunk, size in chunks.items() if chunk not in seen)
        is_too_large = own + sum(chunks.values()) > limit
        is_full = is_full or (not is_too_large and total + more > limit)
        if is_too_large or is_full:
            going.append(one)
        else:
            total += more
            seen.update(chunks)
    return [one for one in going if isinstance(one, _Kept)], [
        one for one in going if isinstance(one, _Unnamed)
    ]


def _size(catalog: Catalog, one: _Kept | _Unnamed) -> tuple[int, dict[tuple[str, str], int]]:
    """Give the bytes that lie in something's index, and the sizes of the objects that it needs."""
    if isinstance(one, _Unnamed):
        return 0, {one.chunk: one.size_bytes}
    if not one.info.time:
        return 0, {}  # its index cannot be read
    variables = catalog.open(one.entry, one.info.version).variables
    chunks: dict[tuple[str, str], int] = {}
    for variable in variables:
        chunks.update(zip(chunk_ids(variable), variable.sizes.tolist(), strict=False))
    return sum(len(variable.inline or b"") for variable in variables), chunks


def _drop(
    catalog: Catalog, versions: list[_Kept], dry_run: bool, unnamed: Sequence[_Unnamed] = ()
) -> Expired:
    by_entry: dict[str, list[str]] = {}
    for kept in versions:
        by_entry.setdefault(kept.entry, []).append(kept.info.version)
    by_pack: dict[str, set[bytes]] = {}
    for one in unnamed:
        by_pack.setdefault(one.pack, set()).add(one.token)
    if not dry_run:
        by_entry = {entry: catalog.drop(entry, found) for entry, found in by_entry.items()}
        for pack, tokens in by_pack.items():
            drop_from_pack(catalog.runs.pool_root, catalog.namespace, pack, tokens)
    pairs = [(entry, version) for entry, found in by_entry.items() for version in found]
    return Expired(catalog.namespace, dry_run, tuple(pairs), len({one.token for one in unnamed}))


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

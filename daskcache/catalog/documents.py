"""The documents of one entry: its versions, their tombstones, and which of them the name opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.layout import TOMBSTONE, USED, entry_key
from daskcache.catalog.versions import Latest, VersionInfo, expiry_of, time_of
from daskcache.config import pool_root
from daskcache.errors import CorruptChunkError, EntryNotFoundError, StoreError, warn_once
from daskcache.manifest import Manifest, from_idx, to_idx, to_kerchunk
from daskcache.names import is_version

__all__ = ["Documents"]


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one entry, whose name was checked."""

    root: str
    """The store's root."""
    namespace: str
    """Where the entry lies."""
    entry: str
    """Its name."""

    @property
    def store(self) -> Store:
        """The store."""
        return stores.open(self.root)

    def key(self, name: str = "") -> str:
        """Give the key of a document.

        Parameters
        ----------
        name : str, optional
            The document's; by default that of the directory of them all.

        Returns
        -------
        str
            Relative to the store's root.
        """
        return entry_key(self.namespace, self.entry, name)

    def __str__(self) -> str:
        return f"entry {self.entry!r} of namespace {self.namespace!r} in store {stores.describe(self.root)}"

    def list_versions(self) -> list[str]:
        """List the versions that are there, in no order.

        Returns
        -------
        list of str
            40 hex digits each.
        """
        names = stores.list_sizes(self.store, self.key())
        return [name[:-4] for name in names if name.endswith(".idx") and is_version(name[:-4])]

    def read(self, version: str) -> Manifest:
        """Read a version.

        Parameters
        ----------
        version : str
            40 hex digits.

        Returns
        -------
        Manifest
            The version.

        Raises
        ------
        EntryNotFoundError
            It is not there.
        CorruptChunkError
            Its index is damaged.
        """
        data = stores.get(self.store, self.key(f"{version}.idx"))
        if data is None:
            raise EntryNotFoundError(f"{self} has no version {version}; it has {self._shown()}")
        try:
            return from_idx(data)
        except CorruptChunkError as error:
            raise CorruptChunkError(f"{self}: {error}") from error

    def put(self, manifest: Manifest) -> None:
        """Write a version.

        Parameters
        ----------
        manifest : Manifest
            The version.
        """
        key = self.key(manifest.version)
        root, pool = (
            stores.describe(where).rstrip("/")
            for where in (self.root, pool_root(self.root, self.namespace, manifest.pool))
        )
        stores.put(self.store, f"{key}.idx", to_idx(manifest))
        stores.put(
            self.store, f"{key}.json", to_kerchunk(manifest, self.root, pool.removeprefix(root).strip("/"))
        )

    def read_latest(self) -> Latest | None:
        """Tell what the name opens.

        Returns
        -------
        Latest or None
            None where nothing was published.

        Raises
        ------
        CorruptChunkError
            The document is damaged.
        """
        data = stores.get(self.store, self.key("latest"))
        if data is None:
            return None
        try:
            return Latest.from_json(data)
        except (ValueError, RecursionError) as error:
            raise CorruptChunkError(
                f"{self}: its document 'latest' is damaged ({error}); "
                "persist the entry again, which reuses its stored blocks"
            ) from error

    def put_latest(self, latest: Latest) -> None:
        """Let the name open a version.

        Parameters
        ----------
        latest : Latest
            The version, whose documents are there.
        """
        stores.put(self.store, self.key("latest"), latest.to_json())

    def describe(self, version: str, latest: Latest | None) -> VersionInfo:
        """Describe a version.

        Parameters
        ----------
        version : str
            40 hex digits.
        latest : Latest or None
            What the name opens.

        Returns
        -------
        VersionInfo
            Without a time where its index cannot be read.
        """
        is_latest = latest is not None and latest.version == version
        try:
            manifest = self.read(version)
        except (CorruptChunkError, EntryNotFoundError):
            # Listed, so that it is seen; without a time, so that it is dropped before those that can be read.
            return VersionInfo(version, "", 0, 0, is_latest)
        time, expires = time_of(manifest), expiry_of(manifest)
        return VersionInfo(version, time, manifest.size_bytes, manifest.nblocks, is_latest, expires)

    def complete(self, version: str) -> str:
        """Give the version that starts with some digits.

        Parameters
        ----------
        version : str
            As many digits as tell it from others.

        Returns
        -------
        str
            40 hex digits.

        Raises
        ------
        EntryNotFoundError
            None does, or several do.
        """
        found = [name for name in self.list_versions() if version and name.startswith(version)]
        if len(found) == 1:
            return found[0]
        problem = "is short for several versions" if found else "is no version"
        raise EntryNotFoundError(f"{version!r} {problem} of {self}; it has {self._shown()}")

    def drop(self, versions: Iterable[str]) -> list[str]:
        """Bury versions, and let the name open the newest that is left.

        Parameters
        ----------
        versions : iterable of str
            40 hex digits each.

        Returns
        -------
        list of str
            Those of them that were there.
        """
        left = set(self.list_versions())
        dropped = [version for version in dict.fromkeys(versions) if version in left]
        if not dropped:
            return []
        left = left.difference(dropped)
        latest = self.read_latest()
        if latest is not None and latest.version not in left:
            # Before anything goes, so that the name never opens what is not there.
            self._point(left)
        for version in dropped:
            self._bury(version)
        return dropped

    def warn_of_alternation(self, manifest: Manifest, before: list[str]) -> None:
        """Warn where a version is about to be published again, after one of another recipe.

        Parameters
        ----------
        manifest : Manifest
            The version.
        before : list of str
            The versions that are there.
        """
        if manifest.version not in before or len(before) < 2:
            return
        try:
            latest = self.read_latest()
            if latest is None or latest.version == manifest.version or latest.version not in before:
                return
            recipe = self.read(latest.version).info.get("recipe")
        except CorruptChunkError:
            return  # publishing repairs it
        if recipe != manifest.info.get("recipe"):
            warn_once(
                f"{self} alternates between recipes: version {manifest.version[:12]} is published again, after "
                f"{latest.version[:12]}; give each a name or a namespace of its own",
            )

    def _point(self, versions: Iterable[str]) -> None:
        infos = sorted((self.describe(version, None) for version in versions), key=lambda info: info.time)
        if infos and infos[-1].time:
            self.put_latest(Latest(infos[-1].version, infos[-1].time, None))
        else:
            stores.delete(self.store, self.key("latest"))

    def _bury(self, version: str) -> None:
        key = self.key(version)
        data = stores.get(self.store, f"{key}.idx")
        manifest = None if data is None else _read_if_whole(data)
        if data is not None and manifest is not None:
            # What cannot be read protects nothing, and would keep all sweeps from going on.
            stores.put(self.store, f"{key}{TOMBSTONE}", data)
        for suffix in (".json", ".idx", USED):
            stores.delete(self.store, f"{key}{suffix}")
        latest = self.read_latest()
        if manifest is not None and latest is not None and latest.version == version:
            # Another process has published it again in the meantime.
            self.put(manifest)

    def _shown(self) -> str:
        return ", ".join(version[:12] for version in self.list_versions()[:5]) or "none"


def _read_if_whole(data: bytes) -> Manifest | None:
    try:
        return from_idx(data)
    except StoreError:
        return None

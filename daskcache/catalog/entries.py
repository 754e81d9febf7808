"""Entries and their versions below a store's root."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.hints import hint_of_names, hint_of_run
from daskcache.catalog.layout import (
    NAMESPACES,
    RUNS,
    check_format,
    entry_key,
    is_segment,
    run_key,
    walk_entries,
)
from daskcache.catalog.newest import newest_tokens
from daskcache.catalog.records import RunRecord, now
from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.versions import Latest, VersionInfo
from daskcache.errors import CorruptChunkError, EntryNotFoundError, InvalidInputError, StoreError, warn_once
from daskcache.manifest import Manifest, from_idx, to_idx, to_kerchunk
from daskcache.names import check_name, check_namespace, is_version

__all__ = ["RETAINED_VERSIONS", "Catalog"]

RETAINED_VERSIONS = 3
"""Versions that a publish leaves of an entry."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A namespace of a store. Holds no connection, and pickles.

    Examples
    --------
    >>> catalog = Catalog("memory://doc-catalog", "default")
    >>> catalog.publish("era5/mean", Manifest.build("dataset", ())).version == catalog.open("era5/mean").version
    True
    >>> catalog.entries()
    ['era5/mean']
    """

    root: str
    """The store's URL or path."""
    namespace: str = "default"
    """One segment of a path."""

    def __post_init__(self) -> None:
        check_namespace(self.namespace)

    def publish(self, entry: str, manifest: Manifest, run: str | None = None) -> Latest:
        """Make a version what an entry's name opens.

        Parameters
        ----------
        entry : str
            The name.
        manifest : Manifest
            The version, whose objects are all stored.
        run : str, optional
            The run's id.

        Returns
        -------
        Latest
            What the name opens now.

        Raises
        ------
        InvalidInputError
            The name is not of the form that is allowed.
        StoreFullError, ReadOnlyError, StoreError
            The store has no room, takes no writes, failed, or has a newer format.

        Notes
        -----
        Five requests, whatever the manifest's size (six in a new store), and a few more where an older version is dropped. Nobody
        sees a version before all of its documents are there; of two publishes at once, the name opens the
        last. The same version may be published again, which repairs its documents.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-publish")
        >>> catalog.publish("era5", Manifest.build("dataset", ()), run="r1").run
        'r1'
        """
        check_name(entry)
        store = self._store()
        check_format(store, create=True)
        latest = Latest(manifest.version, now(), run)
        published = {"time": latest.time, "run": run, "namespace": self.namespace, "entry": entry}
        manifest = dataclasses.replace(manifest, info={**manifest.info, "published": published})
        stores.put(store, self._key(entry, f"{manifest.version}.idx"), to_idx(manifest))
        stores.put(store, self._key(entry, f"{manifest.version}.json"), to_kerchunk(manifest, self.root))
        stores.put(store, self._key(entry, "latest"), latest.to_json())
        try:
            self.retain(entry)
        except StoreError as error:
            # What had to be stored is.
            warn_once(f"old versions of {entry!r} could not be dropped: {error}")
        return latest

    def open(self, entry: str, version: str | None = None) -> Manifest:
        """Read a version of an entry.

        Parameters
        ----------
        entry : str
            The name.
        version : str, optional
            40 hex digits, or as many of the first as tell it from others; by default the newest published.

        Returns
        -------
        Manifest
            The version.

        Raises
        ------
        EntryNotFoundError
            There is none; the message names entries that are called alike, and a run under way.
        CorruptChunkError
            Its document is damaged: persist the entry again.
        StoreError
            The store cannot be read, or has a newer format.

        Notes
        -----
        Three requests.

        Examples
        --------
        >>> Catalog("memory://doc-empty").open("era5")
        Traceback (most recent call last):
        ...
        daskcache.errors.EntryNotFoundError: no version of entry 'era5' of namespace 'default' in store ...
        """
        check_name(entry)
        store = self._store()
        check_format(store)
        if version is None:
            latest = self.latest(entry)
            if latest is None:
                raise self._not_found(entry)
            version = latest.version
        elif not is_version(version):
            version = self._complete(entry, version)
        return self._read(entry, version)

    def latest(self, entry: str) -> Latest | None:
        """Tell what an entry's name opens.

        Parameters
        ----------
        entry : str
            The name.

        Returns
        -------
        Latest or None
            None where nothing was published.

        Raises
        ------
        CorruptChunkError
            The document is damaged: persist the entry again.
        StoreError
            The store cannot be read.

        Examples
        --------
        >>> Catalog("memory://doc-empty").latest("era5") is None
        True
        """
        data = stores.get(self._store(), self._key(check_name(entry), "latest"))
        if data is None:
            return None
        try:
            return Latest.from_json(data)
        except (ValueError, RecursionError) as error:
            raise CorruptChunkError(
                f"{self._shown(entry)}: its document 'latest' is damaged ({error}); "
                "persist the entry again, which reuses its stored blocks"
            ) from error

    def versions(self, entry: str) -> list[VersionInfo]:
        """List the versions of an entry, newest first.

        Parameters
        ----------
        entry : str
            The name.

        Returns
        -------
        list of VersionInfo
            By time of their last publish.

        Raises
        ------
        EntryNotFoundError
            There is none.
        StoreError
            The store cannot be read.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-versions")
        >>> latest = catalog.publish("era5", Manifest.build("dataset", ()))
        >>> [info.version == latest.version for info in catalog.versions("era5")]
        [True]
        """
        check_format(self._store())
        latest = self.latest(entry)
        infos = [self._describe(entry, version, latest) for version in self._listed(entry)]
        if not infos:
            raise self._not_found(entry)
        return sorted(infos, key=lambda info: (info.time, info.is_latest), reverse=True)

    def entries(self) -> list[str]:
        """List the entries that have a published version.

        Returns
        -------
        list of str
            Names, sorted.

        Raises
        ------
        StoreError
            The store cannot be read.

        Notes
        -----
        Two requests for each entry, one for each name on the way.

        Examples
        --------
        >>> Catalog("memory://doc-empty").entries()
        []
        """
        store = self._store()
        return sorted(
            entry
            for entry in walk_entries(self._store(), self.namespace)
            if "latest" in stores.list_sizes(store, self._key(entry))
        )

    def namespaces(self) -> list[str]:
        """List the namespaces of the store.

        Returns
        -------
        list of str
            Names, sorted.

        Raises
        ------
        StoreError
            The store cannot be read.

        Examples
        --------
        >>> Catalog("memory://doc-empty").namespaces()
        []
        """
        return [name for name in stores.list_dirs(self._store(), NAMESPACES) if is_segment(name)]

    def retain(self, entry: str, count: int = RETAINED_VERSIONS) -> list[str]:
        """Drop all but the newest versions of an entry; never a chunk.

        Parameters
        ----------
        entry : str
            The name.
        count : int, optional
            How many are left, that which the name opens among them.

        Returns
        -------
        list of str
            What was dropped.

        Raises
        ------
        StoreError
            The store cannot be read, or takes no writes.

        Examples
        --------
        >>> Catalog("memory://doc-empty").retain("era5")
        []
        """
        if count < 1:
            raise InvalidInputError(f"{count} versions are to be retained; expected at least 1")
        if len(self._listed(check_name(entry))) <= count:
            return []
        # That which the name opens first, then by time.
        infos = sorted(self.versions(entry), key=lambda info: not info.is_latest)
        dropped = [info.version for info in infos[count:]]
        store = self._store()
        for version in dropped:
            stores.delete(store, self._key(entry, f"{version}.json"))
            stores.delete(store, self._key(entry, f"{version}.idx"))
        return dropped

    def token_index(self) -> TokenIndex:
        """Give the blocks that the newest versions of all entries name, by token.

        Returns
        -------
        TokenIndex
            The same object until an entry is published.

        Raises
        ------
        StoreError
            The store cannot be read, or has a newer format.

        Notes
        -----
        One request for each entry and each name on the way, and one for each entry published since this
        process last asked. An entry whose document cannot be read is left out, with a warning.

        Examples
        --------
        >>> len(Catalog("memory://doc-empty").token_index())
        0
        """
        check_format(self._store())
        entries = walk_entries(self._store(), self.namespace)
        return newest_tokens((self.root, self.namespace), entries, self.latest, self._read)

    def put_run(self, record: RunRecord) -> None:
        """Write a run's record, in place of an older one.

        Parameters
        ----------
        record : RunRecord
            What the run wants.

        Raises
        ------
        InvalidInputError
            The run's id is not a segment of a path.
        StoreFullError, ReadOnlyError, StoreError
            The store has no room, takes no writes, failed, or has a newer format.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-runs")
        >>> catalog.put_run(RunRecord.start("r1", "default", "era5", ()))
        >>> [record.run for record in catalog.runs()]
        ['r1']
        """
        store = self._store()
        check_format(store, create=True)
        stores.put(store, run_key(record.run), record.to_json())

    def finish_run(self, run: str) -> None:
        """Note that a run has published; its record stays, and protects its blocks while it is young.

        Parameters
        ----------
        run : str
            The run's id. A record that is gone is no error.

        Raises
        ------
        StoreError
            The record cannot be read or written.

        Examples
        --------
        >>> Catalog("memory://doc-empty").finish_run("r1")
        """
        store = self._store()
        data = stores.get(store, run_key(run))
        if data is not None:
            stores.put(store, run_key(run), RunRecord.from_json(data).finish().to_json())

    def runs(self) -> list[RunRecord]:
        """Read the records of all runs of the store, those of other namespaces too.

        Returns
        -------
        list of RunRecord
            Newest first.

        Raises
        ------
        StoreError
            A record cannot be read, so that nobody may say what is wanted.

        Examples
        --------
        >>> Catalog("memory://doc-empty").runs()
        []
        """
        store = self._store()
        names = [
            name for name in stores.list_sizes(store, RUNS) if name.endswith(".json") and is_segment(name)
        ]
        found = [stores.get(store, f"{RUNS}/{name}") for name in names]
        records = [RunRecord.from_json(data) for data in found if data is not None]
        return sorted(records, key=lambda record: record.time, reverse=True)

    def _store(self) -> Store:
        return stores.open(self.root)

    def _key(self, entry: str, name: str = "") -> str:
        return entry_key(self.namespace, entry, name)

    def _shown(self, entry: str) -> str:
        return f"entry {entry!r} of namespace {self.namespace!r} in store {stores.describe(self.root)}"

    def _listed(self, entry: str) -> list[str]:
        names = stores.list_sizes(self._store(), self._key(check_name(entry)))
        return [name[:-4] for name in names if name.endswith(".idx") and is_version(name[:-4])]

    def _describe(self, entry: str, version: str, latest: Latest | None) -> VersionInfo:
        is_latest = latest is not None and latest.version == version
        try:
            manifest = self._read(entry, version)
        except (CorruptChunkError, EntryNotFoundError):
            # Listed, so that it is seen; without a time, so that it is dropped before those that can be read.
            return VersionInfo(version, "", 0, 0, is_latest)
        published: Any = manifest.info.get("published", {})
        return VersionInfo(
            version, str(published.get("time", "")), manifest.size_bytes, manifest.nblocks, is_latest
        )

    def _read(self, entry: str, version: str) -> Manifest:
        data = stores.get(self._store(), self._key(entry, f"{version}.idx"))
        if data is None:
            raise EntryNotFoundError(
                f"{self._shown(entry)} has no version {version}; it has {self._shown_versions(entry)}"
            )
        try:
            return from_idx(data)
        except CorruptChunkError as error:
            raise CorruptChunkError(f"{self._shown(entry)}: {error}") from error

    def _complete(self, entry: str, version: str) -> str:
        found = [name for name in self._listed(entry) if version and name.startswith(version)]
        if len(found) == 1:
            return found[0]
        problem = "is short for several versions" if found else "is no version"
        raise EntryNotFoundError(
            f"{version!r} {problem} of {self._shown(entry)}; it has {self._shown_versions(entry)}"
        )

    def _shown_versions(self, entry: str) -> str:
        return ", ".join(version[:12] for version in self._listed(entry)[:5]) or "none"

    def _not_found(self, entry: str) -> EntryNotFoundError:
        others = [
            name
            for name in self.namespaces()
            if name != self.namespace and stores.exists(self._store(), entry_key(name, entry, "latest"))
        ]
        try:
            records = self.runs()
        except StoreError:
            records = []  # a hint is no reason to fail otherwise than by the error that it belongs to
        hints = hint_of_run(self.namespace, entry, records), hint_of_names(entry, self.entries(), others)
        found = [f"no version of {self._shown(entry)} is published", *filter(None, hints)]
        return EntryNotFoundError("; ".join(found))

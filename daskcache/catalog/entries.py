"""Entries and their versions below a store's root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.documents import Documents
from daskcache.catalog.hints import hint_of_names, hint_of_run
from daskcache.catalog.layout import (
    NAMESPACES,
    check_format,
    entry_key,
    is_segment,
    walk_entries,
)
from daskcache.catalog.newest import newest_tokens
from daskcache.catalog.records import now
from daskcache.catalog.runs import Runs
from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.use import note_use
from daskcache.catalog.versions import Latest, VersionInfo
from daskcache.config import Pool, Settings, pool_root
from daskcache.errors import EntryNotFoundError, StoreError, warn_once
from daskcache.manifest import Manifest
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
    pool: Pool = "shared"
    """Where the blocks of what is published lie."""

    def __post_init__(self) -> None:
        check_namespace(self.namespace)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Give the namespace that settings name.

        Parameters
        ----------
        settings : Settings
            The store, namespace and pool.

        Returns
        -------
        Catalog
            Nothing has been asked of the store yet.

        Examples
        --------
        >>> Catalog.of(Settings("memory://doc-catalog", "ssp585")).namespace
        'ssp585'
        """
        return cls(settings.store, settings.namespace, settings.pool)

    @property
    def runs(self) -> Runs:
        """The records of the runs that want blocks of the namespace's pool."""
        return Runs(self.root, pool_root(self.root, self.namespace, self.pool))

    def root_of(self, manifest: Manifest) -> str:
        """Tell below which root the blocks of a version lie.

        Parameters
        ----------
        manifest : Manifest
            One of the namespace's.

        Returns
        -------
        str
            The store's root, or that of the namespace's own pool, where it had one when it was published.

        Examples
        --------
        >>> Catalog("/store", "ours", "private").root_of(Manifest.build("dataset", ()))
        '/store'
        """
        return pool_root(self.root, self.namespace, manifest.pool)

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
        Five requests, whatever the manifest's size (six in a new store), and a few more where an older version is
        dropped. Nobody sees a version before all of its documents are there; of two publishes at once, the name
        opens the last. The same version may be published again, which repairs its documents.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-publish")
        >>> catalog.publish("era5", Manifest.build("dataset", ()), run="r1").run
        'r1'
        """
        documents = self._of(entry)
        check_format(self._store(), create=True)
        before = documents.list_versions()
        documents.warn_of_alternation(manifest, before)
        latest = Latest(manifest.version, now(), run)
        published = {"time": latest.time, "run": run, "namespace": self.namespace, "entry": entry}
        manifest = replace(manifest, pool=self.pool, info={**manifest.info, "published": published})
        documents.put(manifest)
        documents.put_latest(latest)
        if len({*before, manifest.version}) > RETAINED_VERSIONS:
            try:
                # That which the name opens first, then by time.
                infos = sorted(self.versions(entry), key=lambda info: not info.is_latest)
                documents.drop([info.version for info in infos[RETAINED_VERSIONS:]])
            except StoreError as error:
                # What had to be stored is.
                warn_once(f"old versions of {entry!r} could not be dropped: {error}")
        return latest

    def rewrite(self, entry: str, manifest: Manifest) -> None:
        """Write the documents of a version anew, such as with more digests; the name opens what it did.

        Parameters
        ----------
        entry : str
            The name.
        manifest : Manifest
            A version that is published.

        Raises
        ------
        StoreFullError, ReadOnlyError, StoreError
            The store has no room, takes no writes, or failed.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-rewrite")
        >>> catalog.publish("era5", Manifest.build("dataset", ())).run
        >>> catalog.rewrite("era5", catalog.open("era5"))
        """
        self._of(entry).put(manifest)

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
            version = self._of(entry).complete(version)
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
        return self._of(entry).read_latest()

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
        documents = self._of(entry)
        infos = [documents.describe(version, latest) for version in documents.list_versions()]
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
            if "latest" in stores.list_sizes(store, entry_key(self.namespace, entry))
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

    def drop(self, entry: str, versions: Iterable[str]) -> list[str]:
        """Forget versions of an entry, but none of their blocks: those are protected for one grace period more.

        Parameters
        ----------
        entry : str
            The name. It opens the newest version that is left, and nothing where none is.
        versions : iterable of str
            40 hex digits each; those that are not there are left out.

        Returns
        -------
        list of str
            What was dropped.

        Raises
        ------
        ReadOnlyError, StoreError
            The store takes no writes, or failed. What was dropped until then stays so.

        Notes
        -----
        A version's index is kept as its tombstone until `daskcache.gc` finds it old enough. Where the same version is
        published at the same moment, it stays.

        Examples
        --------
        >>> Catalog("memory://doc-empty").drop("era5", [])
        []
        """
        return self._of(entry).drop(versions)

    def note_use(self, entry: str, version: str, published: str) -> None:
        """Note that a version is used, at most once a day; a store that takes no writes is no error.

        Parameters
        ----------
        entry : str
            The name.
        version : str
            40 hex digits.
        published : str
            When it was published, ISO 8601.

        Notes
        -----
        Costs nothing for a version that was published within a day, one request otherwise, and another where its
        use was not noted within a day. Each process asks once a day.

        Examples
        --------
        >>> catalog = Catalog("memory://doc-note-use")
        >>> catalog.note_use("era5", "0" * 40, "2026-01-01T00:00:00+00:00")
        """
        note_use(self._store(), self._of(entry).key(version), published)

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
        # Results of functions' calls are found by their calls, and would cost two requests each in every pass.
        entries = walk_entries(self._store(), self.namespace, calls=False)
        return newest_tokens(
            (self.runs.pool_root, self.namespace), entries, self.latest, self._read, self.pool
        )

    def _store(self) -> Store:
        return stores.open(self.root)

    def _of(self, entry: str) -> Documents:
        return Documents(self.root, self.namespace, check_name(entry))

    def _read(self, entry: str, version: str) -> Manifest:
        return self._of(entry).read(version)

    def _not_found(self, entry: str) -> EntryNotFoundError:
        others = [
            name
            for name in self.namespaces()
            if name != self.namespace and stores.exists(self._store(), entry_key(name, entry, "latest"))
        ]
        try:
            records = self.runs.read_all()
        except StoreError:
            records = []  # a hint is no reason to fail otherwise than by the error that it belongs to
        hints = hint_of_run(self.namespace, entry, records), hint_of_names(entry, self.entries(), others)
        found = [f"no version of {self._of(entry)} is published", *filter(None, hints)]
        return EntryNotFoundError("; ".join(found))

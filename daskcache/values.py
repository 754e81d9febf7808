"""Values of `dask.delayed`: stored by the task that computes them, in the format of their type, and loaded by a task.

What form a value takes is known only when it is computed. So it is found by its token through an entry that is named by
it, and not by blocks that were known before.
"""

from __future__ import annotations

import logging
import operator
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache import runs, stores
from daskcache.catalog import Catalog
from daskcache.catalog.documents import Documents
from daskcache.catalog.layout import CALL
from daskcache.catalog.versions import expiry_of
from daskcache.config import Settings
from daskcache.dask_internals import DataNode, Key, Task, TaskRef
from daskcache.datasets import PackedBlocks, outline
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.watch import Watch
from daskcache.formats import draft_value, find_format
from daskcache.formats.containers import split_container
from daskcache.formats.opening import open_stored
from daskcache.graph import substitute
from daskcache.guards import guard_sources
from daskcache.identity import identify_value
from daskcache.jobs import Engine, Job, Work
from daskcache.listing import Listing
from daskcache.manifest import Manifest
from daskcache.optimizer import writer_for
from daskcache.parts import Parts, split
from daskcache.plan import make_plan
from daskcache.pool import StoredBlock
from daskcache.progress import shows_progress
from daskcache.publishing import BlocksGoneError, Draft, Publication, announce_run, draft_manifest
from daskcache.recovery import Recovery
from daskcache.tokens import GraphTokens
from daskcache.writing import Writer

__all__ = ["StoredValue", "find_value", "publish_values", "store_value"]

logger = logging.getLogger("daskcache")

_NO_PLACES = np.empty((0, 2), "i8")
_ARRAYS = (xr.Dataset, xr.DataArray, xr.DataTree, np.ndarray)


@dataclass(frozen=True, slots=True, eq=False)
class StoredValue:
    """A stored value, as the literal of the task that loads it: its identity is that of the task that computed it."""

    root: str
    """Below which its objects lie."""
    manifest: Manifest
    """What is stored."""
    token: bytes
    """20 bytes."""

    def __getitem__(self, index: tuple[()]) -> Any:
        return open_stored(self.manifest, self.root)

    def __daskcache_region__(self, index: Any, fingerprinter: Any) -> bytes:
        return self.token

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "daskcache.StoredValue", self.root, self.token, self.manifest.version


def find_value(token: bytes, settings: Settings) -> Manifest | None:
    """Find what is stored of a delayed value.

    Parameters
    ----------
    token : bytes
        Its identity.
    settings : Settings
        The store and namespace.

    Returns
    -------
    Manifest or None
        None where nothing is, it has expired, or an object of it is gone.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    Two requests, and a listing for each group of blocks.

    Examples
    --------
    >>> find_value(bytes(20), Settings("memory://doc-find-value")) is None
    True
    """
    documents = Documents(settings.store, settings.namespace, _entry_of(token))
    latest = documents.read_latest()
    if latest is None:
        return None
    manifest = documents.read(latest.version)
    expiry = expiry_of(manifest)
    if expiry is not None and datetime.fromisoformat(expiry) <= datetime.now(UTC):
        return None
    root = Catalog.of(settings).root_of(manifest)
    listing = Listing(root)
    is_whole = all(
        listing.find(block) is not None
        for variable in manifest.variables
        if variable.inline is None
        for block in PackedBlocks(root, variable)
    )
    return manifest if is_whole else None


def store_value(obj: Delayed, name: str | None, settings: Settings, info: Mapping[str, Any]) -> Delayed:
    """Store a delayed value, computing it if it is not there.

    Parameters
    ----------
    obj : dask.delayed.Delayed
        The value.
    name : str or None
        A name that was checked.
    settings : Settings
        Which let it write.
    info : mapping
        Further members of the manifest's info.

    Returns
    -------
    dask.delayed.Delayed
        Loads what is stored, and has the token of what it was computed from.

    Raises
    ------
    UncacheableError
        It has no identity, or no form of storage.

    Examples
    --------
    >>> from dask.delayed import delayed
    >>> store_value(delayed([1, 2]), None, Settings("memory://doc-store-value"), {}).compute()
    [1, 2]
    """
    begun = time.perf_counter()
    token, tokens, graph = identify_value(obj, settings)
    found = find_value(token, settings)
    place = _Place(settings, uuid.uuid4().hex, token, name, info, Watch.of(tokens.fingerprinter))
    work = None
    if found is None:
        engine = Engine(_job(obj.key, graph, tokens, place), place.run)
        shows_bar = shows_progress(settings.progress)
        where = stores.describe(settings.store)
        logger.info("daskcache: storing a value as %s in %s", place.described, where)
        work = Work(lambda: engine.compute(shows_bar=shows_bar, background=False), engine)
    figures = runs.Figures(
        id=place.run,
        store=stores.describe(settings.store),
        namespace=settings.namespace,
        entry=name or _entry_of(token),
        blocks=1,
        wanted=int(found is None),
        reused=int(found is not None),
    )
    run = runs.begin(figures, work)
    if work is not None:
        manifest = work.run()
    else:
        assert found is not None
        manifest = place.publish_again(found)
    run.settle(
        final=True,
        version=manifest.version,
        computed=run.wanted,
        stored=run.wanted,
        total_bytes=manifest.size_bytes,
        seconds=time.perf_counter() - begun,
    )
    stored = StoredValue(Catalog.of(settings).root_of(manifest), manifest, token)
    key = f"daskcache-value-{token.hex()}-{manifest.version[:8]}"
    # Not a getter of dask's, which would make an array of it.
    layer = MaterializedLayer({key: Task(key, operator.getitem, DataNode(None, stored), ())})
    return Delayed(key, HighLevelGraph({key: layer}, {key: set()}), length=obj._length)


def publish_values(
    make: Callable[[], Draft], entries: list[str], settings: Settings, watch: Watch | None = None
) -> Manifest:
    """Publish a value whose blocks are known by what they hold; see `daskcache.formats.draft_value`.

    Parameters
    ----------
    make : callable
        Gives the draft; asked again where a block of it was swept meanwhile.
    entries : list of str
        The names that it gets.
    settings : Settings
        The store and namespace.
    watch : Watch, optional
        What was seen of its sources.

    Returns
    -------
    Manifest
        As it was written.

    Raises
    ------
    SourceChangedError
        A source is not as it was.
    StoreError
        The store does not take it.

    Examples
    --------
    >>> settings = Settings("memory://doc-publish-values")
    >>> manifest = publish_values(lambda: draft_value(3, find_format(3), settings, {}), ["three"], settings)
    >>> open_stored(manifest, settings.pool_root)
    3
    """
    watch = watch or Watch()
    try:
        return _publish(make(), entries, settings, watch)
    except BlocksGoneError as error:
        # Swept since they were found. The record of the first attempt protects them from now on.
        logger.info("%s", error)
        return _publish(make(), entries, settings, watch)


def _publish(draft: Draft, entries: list[str], settings: Settings, watch: Watch) -> Manifest:
    run = uuid.uuid4().hex
    wanted: dict[str, list[StoredBlock]] = {}
    for number, _, target, _ in draft.pending:
        wanted.setdefault(draft.manifest.variables[number].path, []).append(target)
    for variable in draft.manifest.variables:
        if variable.inline is None and variable.path not in wanted:
            wanted[variable.path] = list(PackedBlocks(settings.pool_root, variable))
    # What lies in the manifest itself needs no protection.
    if wanted:
        announce_run(run, settings, entries[-1], wanted)
    *_, manifest = [
        Publication(draft, settings, entry, run, _NO_PLACES, watch).publish(()) for entry in entries
    ]
    if wanted:
        Catalog.of(settings).runs.finish(run)
    return manifest


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a delayed value goes, as the task that stores it is told."""

    settings: Settings
    """The store and namespace."""
    run: str
    """The run's id."""
    token: bytes
    """The value's."""
    name: str | None
    """What else it is called."""
    info: Mapping[str, Any]
    """What else its manifest says."""
    watch: Watch
    """What was seen of the sources."""

    @property
    def described(self) -> str:
        """Its name, for people."""
        return f"{self.settings.namespace}/{self.name or _entry_of(self.token)}"

    def publish(self, value: Any) -> Manifest:
        """Store a value that was computed."""
        info = {**self.info, "delayed": {"token": self.token.hex()}}
        names = [] if self.name is None else [self.name]
        # The name last: who finds it finds the other as well.
        entries = [_entry_of(self.token), *names]
        return publish_values(lambda: _draft(value, self.settings, info), entries, self.settings, self.watch)

    def publish_again(self, manifest: Manifest) -> Manifest:
        """Give one that is stored its name, if it has not got it."""
        if self.name is not None:
            latest = Catalog.of(self.settings).latest(self.name)
            if latest is None or latest.version != manifest.version:
                draft = Draft(replace(manifest, info={**manifest.info, **self.info}))
                return publish_values(lambda: draft, [self.name], self.settings, self.watch)
        return manifest


def _entry_of(token: bytes) -> str:
    # Not read when the index of tokens is made, as those of calls are not.
    return f"delayed/{CALL}{token.hex()}"


def _draft(value: Any, settings: Settings, info: Mapping[str, Any]) -> Draft:
    """Make the manifest of a value in memory, in the format of its type."""
    parts: Parts | None = None
    if type(value) in _ARRAYS:
        parts = split(value)
    else:
        form = find_format(value)
        parts = split_container(value) if form.name == "json" else None
        if parts is None:
            return draft_value(value, form, settings, info)
    described, arrays = outline(parts)
    if arrays:
        raise UncacheableError(
            "the value holds arrays of dask; persist what is lazy by itself, or compute it in the delayed function"
        )
    return draft_manifest(described, {}, settings, Fingerprinter.from_settings(settings), info)


def _job(key: Key, graph: HighLevelGraph, tokens: GraphTokens, place: _Place) -> Job:
    """Make the graph that computes a value and stores it, of which what is stored is loaded."""
    settings = place.settings
    index: Any = Catalog.of(settings).token_index() if settings.mode == "readwrite" else {}
    writer = writer_for(tokens.fingerprinter, settings, place.run)

    def find(key: Key, token: bytes) -> StoredBlock | None:
        block: StoredBlock | None = index.get(token)
        return block

    plan = Recovery(graph, tokens, find, writer, place.run).protect(make_plan(tokens, [key], find=find))
    graph = guard_sources(substitute(graph, plan), tokens)
    last = f"daskcache-value-{place.run}"
    task = Task(last, _store, TaskRef(key), DataNode(None, place), DataNode(None, writer))
    layers = {**graph.layers, last: MaterializedLayer({last: task})}
    return Job(HighLevelGraph(layers, {**graph.dependencies, last: set(graph.layers)}), last)


def _store(value: Any, place: _Place, writer: Writer) -> Manifest:
    writer.check()
    return place.publish(value)

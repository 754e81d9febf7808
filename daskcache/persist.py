"""Eager persistence: compute what is missing, store it, publish it, give back what is stored."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import format_bytes, format_time

from daskcache import runs, stores
from daskcache.catalog import Catalog, check_name
from daskcache.chunks import Hints
from daskcache.config import Settings, parse_seconds
from daskcache.dask_internals import DataNode, Key, List, Task, TaskRef
from daskcache.doubles import without_doubles
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreFullError, UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.watch import Watch
from daskcache.forgetting import Reuse, refreshing
from daskcache.formats.opening import open_stored
from daskcache.graph import keys_of, substitute
from daskcache.guards import guard_sources
from daskcache.identity import identify
from daskcache.jobs import Engine, Job, Work
from daskcache.listing import Listing
from daskcache.manifest import Manifest, StoredVariable
from daskcache.optimizer import writer_for
from daskcache.parts import Collection, Parts, rechunk
from daskcache.pending import PendingBlocks
from daskcache.plan import Plan, make_plan
from daskcache.pool import Receipt, StoredBlock, write_block
from daskcache.progress import shows_progress
from daskcache.publishing import BlocksGoneError, Draft, Publication, announce_run, draft_manifest
from daskcache.records import describe_recipe
from daskcache.recovery import Find, Recovery
from daskcache.values import store_value
from daskcache.writing import refuse_form, store_block

__all__ = ["persist", "store_object"]

logger = logging.getLogger("daskcache")

_FAN_IN = 256


def persist(
    obj: Collection | Delayed,
    name: str | None = None,
    *,
    namespace: str | None = None,
    store: str | None = None,
    chunks: Any = None,
    hints: Any = None,
    wait: bool = True,
    expires: str | float | None = None,
) -> Any:
    """Store an object, computing what is missing, and give it back as it is stored.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or dask.delayed.Delayed
        What to store. A delayed value takes the format of its type: arrays, tables, plain values, containers of them.
    name : str, optional
        The entry's name in the namespace; by default its version, 40 hex digits.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    chunks : optional
        Rechunk first, as by the object's own ``chunk`` or ``rechunk``; in-memory objects stay as they are.
    hints : Hints, str, tuple, mapping or list, optional
        How it will be read, such as ``"time"`` for long in time at a point: inner chunks follow from it; see
        `daskcache.Hints`.
    wait : bool, optional
        Whether to wait until all is stored. If not, the object is given back as soon as it is known what is missing:
        what is computed of it waits for the blocks that it needs. How far that is, its error, and how to stop it are
        in `daskcache.last_run`.
    expires : str or float, optional
        Such as ``"30d"``, or seconds: so long after this `daskcache.expire` drops the version; by default never.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or dask.delayed.Delayed
        The same kind of object, lazy, chunked as it was, read from the store.

    Raises
    ------
    UncacheableError
        Something has no storage form or no deterministic identity. Nothing was computed.
    InvalidInputError
        The name is not one, the hints are none, or a delayed value is given chunks, hints or no time. Nothing was computed.
    StoreFullError
        It is estimated not to fit (nothing was computed), or the store ran full.
    StoreError
        The store cannot be read or written.

    Notes
    -----
    Costs one put for each missing block, one listing for each group of siblings, and a constant number of requests
    besides. Blocks that are finished survive whatever happens to the rest; one that another run stores meanwhile is
    not computed again, where all that it takes became one task.

    Without waiting, the work is done in a thread, and the interpreter waits for it at its end; with distributed, on the
    cluster, which goes on when the client leaves.

    How much is stored at most, in about what time and where, is told before anything is computed: to the logger
    ``daskcache`` at level INFO, and on a terminal, or with ``daskcache.progress`` true, on standard error as well.

    Examples
    --------
    >>> import dask.array as da
    >>> kept = persist(da.arange(10, chunks=5) + 1, "numbers", store="memory://doc-persist")
    >>> kept.sum().compute()
    np.int64(55)
    >>> kept = persist(da.arange(10, chunks=5) + 2, "more", store="memory://doc-persist", wait=False)
    >>> kept.sum().compute()
    np.int64(65)
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    if name is not None:
        check_name(name)
    Catalog.of(settings)
    if settings.mode not in ("write", "readwrite"):
        raise ReadOnlyError(
            f"persist has to store, and daskcache.mode is {settings.mode!r}; set it to 'readwrite', or open what is "
            "stored with daskcache.open"
        )
    info = {} if expires is None else {"expires_s": parse_seconds(expires, "expires")}
    if isinstance(obj, Delayed):
        if chunks is not None or hints is not None or not wait:
            raise InvalidInputError(
                "a delayed value takes neither chunks nor hints, and is waited for: what form it has is known when it "
                "is computed"
            )
        return store_value(obj, name, settings, info)
    hints = Hints.of(hints)
    if chunks is not None:
        obj = rechunk(obj, chunks)
    return store_object(obj, name, settings, lambda _: info, hints, wait=wait)


def store_object(
    obj: Collection | Parts,
    name: str | None,
    settings: Settings,
    describe: Callable[[Fingerprinter], Mapping[str, Any]],
    hints: Hints | None,
    *,
    wait: bool = True,
) -> Any:
    """Do what `persist` does, under settings that are complete, and note more in the manifest.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The object.
    name : str or None
        A name that was checked.
    settings : Settings
        Which let it write.
    describe : callable
        Gives further members of the manifest's info, of the fingerprinter that has seen the object's sources.
    hints : Hints or None
        How it will be read.
    wait : bool, optional
        Whether to wait until all is stored.

    Returns
    -------
    xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        As from `persist`.
    """
    catalog = Catalog.of(settings)
    try:
        return _Persist(obj, name, settings, catalog, describe, hints).run(wait)
    except BlocksGoneError as error:
        # Swept since they were looked up. The record of this run protects them from now on.
        logger.info("%s", error)
        return _Persist(obj, name, settings, catalog, describe, hints).run(wait)


class _Persist:
    """One call of persist, step by step."""

    def __init__(
        self,
        obj: Collection | Parts,
        name: str | None,
        settings: Settings,
        catalog: Catalog,
        describe: Callable[[Fingerprinter], Mapping[str, Any]],
        hints: Hints | None,
    ) -> None:
        self.describe = describe
        self.started = time.perf_counter()
        self.settings = settings
        self.catalog = catalog
        self.id = uuid.uuid4().hex
        self.identified = identify(obj, settings, hints)
        self.identified.require_tokens()
        self.draft = self._draft()
        self.entry = name or self.draft.manifest.version

    def run(self, wait: bool) -> Any:
        wanted: dict[str, list[StoredBlock]] = {
            path: [*blocks] for path, blocks in self.identified.targets.items()
        }
        for number, _, target, _ in self.draft.pending:
            wanted.setdefault(self.draft.manifest.variables[number].path, []).append(target)
        announce_run(self.id, self.settings, self.entry, wanted)
        listing = Listing(self.settings.pool_root, Reuse(self.settings, self.id).is_safe)
        listing.look_ahead(block for blocks in self.identified.targets.values() for block in blocks)
        index: Any = self.catalog.token_index() if self.settings.mode == "readwrite" else {}
        missing = {
            path: [
                number
                for number, block in enumerate(blocks)
                if listing.find_as_known(block, index.get(block.token)) is None
            ]
            for path, blocks in self.identified.targets.items()
        }
        for path, numbers in missing.items():
            for number in numbers:
                target = self.identified.targets[path][number]
                _require_form(target, index.get(target.token))
        if not any(missing.values()):
            return self._finish(runs.begin(self._figures(Plan(), missing)), 0, self._publish(), ())
        self._announce(missing, listing)
        find = self._finder(missing, index)
        plan = make_plan(self.identified.tokens, self._missing_keys(missing), find=find)
        engine = Engine(self._job(missing, plan, find), self.id)
        shows_bar = wait and shows_progress(self.settings.progress)

        def do() -> Any:
            with refreshing(self.catalog.runs, self.id, self.settings.keep_s):
                computed = engine.compute(shows_bar=shows_bar, background=not wait)
            return self._finish(run, reencoded, *computed)

        # An output that is loaded was stored under other settings and is only encoded anew.
        reencoded = sum(1 for key in self._missing_keys(missing) if key in plan.loads)
        work = Work(do, engine)
        run = runs.begin(self._figures(plan, missing), work)
        if wait:
            return work.run()
        # What is in memory is read when the object is made.
        for _, _, target, values in self.draft.pending:
            write_block(target.root, target.group, target.token, target.spec, values)
        work.start()

        def pending(root: str, variable: StoredVariable) -> PendingBlocks:
            return PendingBlocks(root, variable, self.id)

        return open_stored(self.draft.manifest, self.settings.pool_root, pending)

    def _finish(self, run: runs.Run, reencoded: int, manifest: Manifest, receipts: Sequence[Receipt]) -> Any:
        self.catalog.runs.finish(self.id)
        shared = sum(receipt.found for receipt in receipts)
        run.settle(
            final=True,
            computed=run.wanted - reencoded - shared,
            shared=shared,
            stored=sum(receipt.created for receipt in receipts),
            stored_bytes=sum(receipt.size_bytes for receipt in receipts if receipt.created),
            total_bytes=manifest.size_bytes,
            seconds=time.perf_counter() - self.started,
            conflicts=sum(receipt.conflict for receipt in receipts),
        )
        return open_stored(manifest, self.settings.pool_root)

    def _draft(self) -> Draft:
        arrays = self.identified.arrays.values()
        graph = HighLevelGraph.merge(*(array.dask for array in arrays))
        info = describe_recipe(self.identified.tokens, graph, [array.name for array in arrays])
        info = {**info, **self.describe(self.identified.fingerprinter)}
        return draft_manifest(
            self.identified.outline,
            self.identified.targets,
            self.settings,
            self.identified.fingerprinter,
            info,
        )

    def _finder(self, missing: Mapping[str, list[int]], index: Any) -> Find:
        """Say where blocks lie: those of the result that are there, and what the namespace has published."""
        reusable: dict[Key, StoredBlock] = {}
        gone: set[StoredBlock] = set()
        for path, array in self.identified.arrays.items():
            wanted = set(missing[path])
            for number, key in enumerate(keys_of([array])):
                block = self.identified.targets[path][number]
                if number in wanted:
                    gone.add(block)
                else:
                    reusable[key] = block

        def find(key: Key, token: bytes) -> StoredBlock | None:
            found: StoredBlock | None = reusable[key] if key in reusable else index.get(token)
            return None if found in gone else found

        return find

    def _job(self, missing: Mapping[str, list[int]], plan: Plan, find: Find) -> Job:
        arrays, targets = self.identified.arrays, self.identified.targets
        tokens = self.identified.tokens
        checks = writer_for(tokens.fingerprinter, self.settings, self.id)
        writer = DataNode(None, checks)
        graph = without_doubles(HighLevelGraph.merge(*(array.dask for array in arrays.values())))
        plan = Recovery(graph, tokens, find, checks, self.id).protect(plan)
        graph = guard_sources(substitute(graph, plan), tokens)
        prefix = f"daskcache-store-{self.id}"
        tasks: dict[Key, Any] = {}
        for path, array in arrays.items():
            keys = keys_of([array])
            for number in missing[path]:
                key = (prefix, len(tasks))
                target = DataNode(None, targets[path][number])
                tasks[key] = Task(key, store_block, TaskRef(keys[number]), target, writer)
        level: list[Key] = list(tasks)
        while len(level) > _FAN_IN:
            # A tree, so that no task has more inputs than a scheduler likes.
            gathered = []
            for start in range(0, len(level), _FAN_IN):
                key = (prefix, len(tasks))
                tasks[key] = Task(key, _flatten, List(*map(TaskRef, level[start : start + _FAN_IN])))
                gathered.append(key)
            level = gathered
        publication = self._publication(_places(self.draft, missing))
        last = f"daskcache-publish-{self.id}"
        tasks[last] = Task(last, _publish, List(*map(TaskRef, level)), DataNode(None, publication))
        layers = {**graph.layers, prefix: MaterializedLayer(tasks)}
        dependencies = {**graph.dependencies, prefix: set(graph.layers)}
        return Job(HighLevelGraph(layers, dependencies), last)

    def _publication(self, places: np.ndarray[Any, np.dtype[np.int64]]) -> Publication:
        manifest = self.draft.manifest
        info = {**manifest.info, "missing": len(places)}
        draft = dataclasses.replace(self.draft, manifest=dataclasses.replace(manifest, info=info))
        watch = Watch.of(self.identified.fingerprinter)
        return Publication(draft, self.settings, self.entry, self.id, places, watch)

    def _publish(self) -> Manifest:
        return self._publication(_places(self.draft, {})).publish(())

    def _announce(self, missing: Mapping[str, list[int]], listing: Listing) -> None:
        """Say what is about to happen and where; refuse what cannot fit."""
        targets = self.identified.targets
        wanted = [targets[path][number] for path, numbers in missing.items() for number in numbers]
        nbytes = sum(block.nbytes for block in wanted)
        stored = [
            found
            for blocks in targets.values()
            for block in blocks
            if (found := listing.find(block)) is not None
        ]
        raw = sum(block.nbytes for block in stored)
        ratio = sum(block.size_bytes or 0 for block in stored) / raw if raw else 1.0
        estimate = int(nbytes * min(ratio, 1.0))
        where = stores.describe(self.settings.store)
        seconds = self._seconds_per_block()
        took = f", in about {format_time(seconds * len(wanted))}" if seconds else ""
        message = (
            f"daskcache: storing {len(wanted)} of {sum(map(len, targets.values()))} blocks, "
            f"at most {format_bytes(estimate)}{took}, as {self.settings.namespace}/{self.entry} in {where}"
        )
        logger.info(message)
        if shows_progress(self.settings.progress):
            sys.stderr.write(f"{message}\n")
        free = stores.free_bytes(stores.open(self.settings.store)) if self.settings.check_space else None
        if free is not None and estimate > free:
            raise StoreFullError(
                f"{self.settings.namespace}/{self.entry} needs at most {format_bytes(estimate)}, and {where} has "
                f"{format_bytes(free)} left: nothing was computed; make room, choose another store, or set "
                "daskcache.check-space to false where it compresses well enough"
            )

    def _seconds_per_block(self) -> float | None:
        """Tell how long the blocks of the entry's newest version took, where one was published."""
        if self.catalog.latest(self.entry) is None:
            return None
        info = self.catalog.open(self.entry).info
        computed = int(info.get("missing", 0))
        if not computed:
            return None
        begun, done = info["created"], info["published"]["time"]
        taken = datetime.fromisoformat(done) - datetime.fromisoformat(begun)
        return taken.total_seconds() / computed

    def _figures(self, plan: Plan, missing: Mapping[str, list[int]]) -> runs.Figures:
        blocks = sum(map(len, self.identified.targets.values()))
        wanted = sum(map(len, missing.values()))
        return runs.Figures(
            id=self.id,
            store=stores.describe(self.settings.store),
            namespace=self.settings.namespace,
            entry=self.entry,
            version=self.draft.manifest.version,
            blocks=blocks,
            wanted=wanted,
            loaded=len(plan.loads),
            reused=blocks - wanted,
        )

    def _missing_keys(self, missing: Mapping[str, list[int]]) -> Iterator[Key]:
        for path, array in self.identified.arrays.items():
            keys = keys_of([array])
            for number in missing[path]:
                yield keys[number]


def _places(draft: Draft, missing: Mapping[str, list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Say of which variable and block each receipt will be, in the order of the store tasks."""
    numbers = {variable.path: i for i, variable in enumerate(draft.manifest.variables)}
    pairs = [(numbers[path], block) for path, blocks in missing.items() for block in blocks]
    return np.array(pairs, "i8").reshape(-1, 2)


def _require_form(block: StoredBlock, known: StoredBlock | None) -> None:
    """Refuse a block where a manifest lists its object as something else than was declared."""
    refusal = refuse_form(known, block) if known is not None and known.key == block.key else None
    if refusal:
        raise UncacheableError(refusal)


def _flatten(parts: Sequence[Any]) -> list[Receipt]:
    return [receipt for part in parts for receipt in (part if isinstance(part, list) else [part])]


def _publish(parts: Sequence[Any], publication: Publication) -> tuple[Manifest, list[Receipt]]:
    receipts = _flatten(parts)
    return publication.publish(receipts), receipts

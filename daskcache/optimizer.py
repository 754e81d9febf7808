"""The pass: what dask calls before it optimises a graph.

It tokens the graph's blocks, looks up which are stored, and puts loads and writes in their place.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import dask.array.optimization
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from daskcache.catalog import Catalog
from daskcache.checkpoints import Checkpoint, Targets, find_checkpoints, write_layer
from daskcache.completion import publish_checkpoints
from daskcache.config import Settings
from daskcache.dask_internals import Blockwise, DataNode, Key, Task
from daskcache.errors import ReadOnlyError, StoreError, StoreFullError, UncacheableError, warn_once
from daskcache.fingerprint import Fingerprinter, LoadedCode
from daskcache.fingerprint.watch import whole_sources
from daskcache.graph import substitute
from daskcache.guards import guard_sources
from daskcache.listing import Listing
from daskcache.plan import Plan, make_plan
from daskcache.pool import StoredBlock
from daskcache.publishing import announce_run
from daskcache.records import describe_recipe
from daskcache.recovery import Recovery
from daskcache.tokens import GraphTokens
from daskcache.writing import Writer, keep_block

__all__ = ["Optimizer", "rewrite", "writer_for"]

logger = logging.getLogger("daskcache")


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The callable that dask's setting ``array_optimize`` names.

    Equal settings are equal optimizers, because dask merges collections by it.
    """

    settings: Settings
    """Where to look and what to do."""
    chained: Callable[..., Any] | None = None
    """The optimizer that was set before; None: dask's own."""
    client: LoadedCode | None = field(default=None, compare=False, repr=False)
    """The user's code in the client, where this has come from another process; no part of what compares or hashes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # With distributed the pass runs in the scheduler, which may have been started before an edit.
        client = self.client or LoadedCode.here(
            salt=self.settings.salt, code_versions=self.settings.code_versions
        )
        return type(self), (self.settings, self.chained, client)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Rewrite a graph and hand it to dask's own optimizer, which culls and fuses.

        Parameters
        ----------
        dsk : HighLevelGraph or Mapping
            The graph that is about to run.
        keys : list or key
            The keys that are wanted, nested as dask gives them.
        **kwargs
            Passed on.

        Returns
        -------
        HighLevelGraph or Mapping
            What dask's optimizer makes of the rewritten graph. Where the store cannot be reached, of the graph as it
            was, with one warning.
        """
        try:
            dsk = rewrite(dsk, keys, self.settings, self.client)
        except StoreError as error:
            warn_once(f"the store is left alone and all is computed: {error}")
        optimize: Any = self.chained or dask.array.optimization.optimize
        return optimize(dsk, keys, **kwargs)


def rewrite(dsk: Any, keys: Any, settings: Settings, client: LoadedCode | None = None) -> Any:
    """Put loads in place of stored blocks, and writes behind those that are marked.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        Any graph of arrays.
    keys : list or key
        The keys that are wanted.
    settings : Settings
        Where to look and what to do.
    client : LoadedCode, optional
        The user's code where the graph was made. What uses code that is other here is left alone.

    Returns
    -------
    HighLevelGraph or Mapping
        The rewritten graph; `dsk` itself where there is nothing to load or to write.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    if settings.mode == "off":
        return dsk
    outputs = list(flatten(keys)) if isinstance(keys, list | set | tuple) and not _is_key(keys) else [keys]
    if not isinstance(dsk, HighLevelGraph):
        dsk = HighLevelGraph.from_collections(f"graph-{id(dsk)}", dsk, dependencies=())
    checkpoints = find_checkpoints(dsk)
    index: Any = Catalog(settings.store, settings.namespace).token_index() if _reads(settings) else {}
    if not checkpoints and not len(index):
        return dsk
    tokens = GraphTokens(dsk, Fingerprinter.from_settings(settings))
    finder = _Finder(tokens, checkpoints, index)
    finder.identify(outputs)
    stale = client.differing(tokens.fingerprinter.code_units) if client is not None else frozenset()
    if stale:
        _warn_of_stale(stale)
        tokens = GraphTokens(dsk, Fingerprinter.from_settings(settings, stale))
        finder = _Finder(tokens, checkpoints, index)
        finder.identify(outputs)
    run = uuid.uuid4().hex
    finder.announce(run)
    plan = make_plan(tokens, outputs, find=finder.find, target=finder.target, wants=finder.wants)
    _report(plan, settings)
    if plan.is_trivial:
        return dsk
    writer = writer_for(tokens.fingerprinter, settings, run)
    recovery = Recovery(dsk, tokens, finder.find, writer if _writes(settings) else None, run)
    plan = recovery.protect(plan)

    def write(key: Key, task: Any, target: StoredBlock) -> Task:
        # The mark's own argument, so that the mark leaves no trace.
        return Task(key, keep_block, task.args[0], DataNode(None, target), DataNode(None, writer))

    def write_all(layer: Blockwise, targets: Mapping[tuple[int, ...], StoredBlock]) -> Blockwise:
        return write_layer(layer, targets, writer)

    rewritten = substitute(dsk, plan, write, write_all)
    if plan.writes:
        rewritten = guard_sources(rewritten, tokens)
    if not finder.writes:
        return rewritten
    # Where all blocks were stored already, the object may not have been published under this name.
    numblocks = {name: _numblocks(dsk.layers[name]) for name in checkpoints}
    return publish_checkpoints(
        rewritten,
        outputs,
        checkpoints,
        numblocks,
        finder.targets,
        plan,
        tokens.fingerprinter,
        lambda layers: describe_recipe(tokens, dsk, layers),
        run,
    )


def _warn_of_stale(stale: frozenset[tuple[str, str]]) -> None:
    names = sorted(".".join(unit) for unit in stale)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    warn_once(
        f"the scheduler has other code than the client, or the client has not imported it ({', '.join(names[:3])}{more}): "
        "what uses it is computed, and nothing of it is loaded or stored; restart the scheduler with the client's code"
    )


def _numblocks(layer: Any) -> tuple[int, ...]:
    return tuple(layer.dims[i] for i in layer.output_indices)


def writer_for(fingerprinter: Fingerprinter, settings: Settings, run: str) -> Writer:
    """Make what the workers check before they store a block.

    Parameters
    ----------
    fingerprinter : Fingerprinter
        Knows which of the user's functions were met.
    settings : Settings
        How code was looked at.
    run : str
        The run's id.

    Returns
    -------
    Writer
        Picklable and small.
    """
    units = tuple(
        (module, name, digest) for (module, name), digest in sorted(fingerprinter.code_units.items())
    )
    files = tuple((file, state) for file, state in fingerprinter.files.items() if state)
    sources = whole_sources(fingerprinter)
    return Writer(units, settings.code_versions, settings.salt, run, (*files, *sources))


class _Finder:
    """Looks up blocks: marked ones in the pool, the others among what the namespace has published."""

    def __init__(self, tokens: GraphTokens, checkpoints: Mapping[str, Checkpoint], index: Any) -> None:
        self._tokens = tokens
        self._checkpoints = checkpoints
        self._index = index
        self._listings: dict[str, Listing] = {}
        # What a manifest still names, but a listing does not.
        self._gone: set[StoredBlock] = set()
        self.targets: dict[Key, StoredBlock] = {}
        self.writes = {name for name, mark in checkpoints.items() if _writes(mark.settings)}

    def identify(self, outputs: Iterable[Key]) -> None:
        """Work out where the marked blocks that are needed belong, before anything is looked up."""
        places = {
            name: Targets.of(mark.outline.variable(mark.path), mark.settings)
            for name, mark in self._checkpoints.items()
        }
        for key, token in self._tokens.evaluate(outputs):
            if type(key) is tuple and key and key[0] in places:
                function = self._tokens.function(key)
                self.targets[key] = places[key[0]].block(key[1:], token, function)

    def announce(self, run: str) -> None:
        """Put the run's record, which protects what it is about to find; without one, nothing is written."""
        wanted: dict[tuple[Settings, str], dict[str, list[StoredBlock]]] = {}
        for key, target in self.targets.items():
            name = key[0]
            if name in self.writes:
                mark = self._checkpoints[name]
                blocks = wanted.setdefault((mark.settings, mark.entry or run), {})
                blocks.setdefault(mark.path, []).append(target)
        for (settings, entry), blocks in wanted.items():
            try:
                announce_run(run, settings, entry, blocks)
            except (ReadOnlyError, StoreFullError) as error:
                self.writes -= {name for name, mark in self._checkpoints.items() if mark.settings == settings}
                warn_once(
                    f"what is stored is loaded, and nothing is written: {error}",
                    stacklevel=6,
                    about=f"unwritable {settings.store}",
                )

    def find(self, key: Key, token: bytes) -> StoredBlock | None:
        target = self.targets.get(key)
        if target is not None and _reads(self._checkpoints[key[0]].settings):
            if target.root not in self._listings:
                self._listings[target.root] = Listing(target.root)
            stored = self._listings[target.root].find_as_known(target, self._index.get(token))
            if stored is not None:
                return stored
            self._gone.add(target)
        found: StoredBlock | None = self._index.get(token)
        return None if found in self._gone else found

    def target(self, key: Key, token: bytes) -> StoredBlock | None:
        name = key[0] if type(key) is tuple and key else None
        return self.targets.get(key) if name in self.writes else None

    def wants(self, key: Key) -> bool:
        return type(key) is tuple and bool(key) and key[0] in self.writes


def _writes(settings: Settings) -> bool:
    return settings.mode in ("write", "readwrite")


def _reads(settings: Settings) -> bool:
    return settings.mode in ("read", "readwrite")


def _is_key(keys: Any) -> bool:
    return isinstance(keys, tuple) and bool(keys) and isinstance(keys[0], str)


def _report(plan: Plan, settings: Settings) -> None:
    logger.info("%r", plan)
    if not plan.uncacheable or settings.on_uncacheable == "ignore":
        return
    reasons = sorted({str(reason) for reason in plan.uncacheable.values()})
    message = (
        f"{len(plan.uncacheable)} marked blocks cannot be keyed and are not stored: {'; '.join(reasons[:3])}"
    )
    if settings.on_uncacheable == "raise":
        raise UncacheableError(message)
    warn_once(message)

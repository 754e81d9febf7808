"""The pass: what dask calls before it optimises a graph.

It tokens the graph's blocks, looks up which are stored, and puts loads and writes in their place.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Self

import dask.array.optimization
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from daskcache import cluster, reports, runs, stores
from daskcache.catalog import Catalog
from daskcache.checkpoints import CheckpointLayer, find_checkpoints, write_layer
from daskcache.completion import list_outputs, publish_checkpoints
from daskcache.config import Settings
from daskcache.costs import weigh
from daskcache.dask_internals import GETTERS, Blockwise, DataNode, Key, Task
from daskcache.doubles import without_doubles
from daskcache.errors import (
    DaskcacheError,
    DaskcacheWarning,
    InvalidInputError,
    MissingExtraError,
    StoreError,
    UncacheableError,
    warn_of_defect,
    warn_once,
)
from daskcache.finder import Finder, may_read, may_write
from daskcache.fingerprint import Fingerprinter, LoadedCode
from daskcache.fingerprint.watch import whole_sources
from daskcache.graph import find_calls, substitute
from daskcache.guards import guard_sources
from daskcache.journal import list_pending
from daskcache.lacking import run_plainly
from daskcache.narrowing import narrow_reads
from daskcache.outputs import find_outputs, keep_layer, keep_task
from daskcache.plan import Plan, Target, make_plan
from daskcache.records import describe_recipe
from daskcache.recovery import Recovery
from daskcache.sharing import STORING, look_first
from daskcache.tokens import GraphTokens
from daskcache.tokens.collecting import without_collecting
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
    origin: str = field(default="", compare=False, repr=False)
    """Names the client's process, where this has come from another one, so that it knows its own runs."""
    is_configured: bool = field(default=False, compare=False)
    """Whether the configuration alone asks for it: then a store that it names wrongly only switches it off."""

    def __reduce__(self) -> tuple[Any, ...]:
        # It leaves for a scheduler, which will tell what it plans.
        cluster.listen(reports.receive)
        # With distributed the pass runs in the scheduler, which may have been started before an edit.
        client = self.client or LoadedCode.here(
            salt=self.settings.salt, code_versions=self.settings.code_versions
        )
        origin = self.origin or reports.ORIGIN
        return type(self), (self.settings, self.chained, client, origin, self.is_configured)

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
            What dask's optimizer makes of the rewritten graph. Where the store cannot be reached, the pass has a
            defect, or runs on a scheduler that has workers without daskcache, of the graph as it was, with one warning;
            so also where the store cannot be opened and the configuration alone asks for the pass.

        Raises
        ------
        InvalidInputError
            The store or namespace is not of the form that is expected.
        MissingExtraError
            The store needs a package that is not installed.
        """
        optimize: Any = self.chained or _optimize
        lacking = [] if self.client is None else cluster.find_lacking_here()
        if lacking:
            return run_plainly(optimize, dsk, keys, lacking, self.origin, **kwargs)
        wanted = set(flatten([keys], container=(list, set)))
        try:
            rewritten, weighing = _rewrite(dsk, keys, self.settings, self.client, self.origin)
            return weighing(_refine(optimize(rewritten, keys, **kwargs), wanted))
        except StoreError as error:
            problem = f"the store is left alone and all is computed: {error}"
        except (DaskcacheError, DaskcacheWarning) as error:
            if not self.is_configured or _can_open(self.settings):
                raise  # on purpose
            problem = f"the pass is off, because the configuration is not what it should be: {error}"
        except Exception as error:  # noqa: BLE001  (a cache only helps, also where it is wrong)
            # What another optimizer refuses it refuses again.
            optimized = optimize(dsk, keys, **kwargs)
            warn_of_defect("nothing is loaded or stored, and all is computed", error, self.origin)
            return optimized
        # A scheduler has many clients, and each is told.
        warn_once(problem, about=f"{self.origin} {problem}")
        return look_first(optimize(dsk, keys, **kwargs), wanted)


@without_collecting
def _optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    # What the pass holds of a graph would be searched for garbage as often as what dask makes of it.
    return dask.array.optimization.optimize(dsk, keys, **kwargs)


@without_collecting
def _refine(optimized: Any, wanted: Set[Key]) -> Any:
    """Do what is done to reads and writes once dask has fused them with what comes before and after."""
    among = find_calls(optimized, (*GETTERS, *STORING)) if isinstance(optimized, dict) else ()
    return look_first(narrow_reads(optimized, wanted, among), wanted, among)


def _can_open(settings: Settings) -> bool:
    """Tell whether the store is one that this process knows how to open, whether it can be reached or not."""
    try:
        stores.open(Catalog.of(settings).root)
    except (InvalidInputError, MissingExtraError):
        return False
    return True


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
    return _rewrite(dsk, keys, settings, client, "")[0]


@without_collecting
def _rewrite(
    dsk: Any, keys: Any, settings: Settings, client: LoadedCode | None, origin: str
) -> tuple[Any, Callable[[Any], Any]]:
    """Rewrite a graph, and say what is to be done with what dask makes of it."""
    if settings.mode == "off":
        return dsk, _leave
    outputs = list(flatten(keys)) if isinstance(keys, list | set | tuple) and not _is_key(keys) else [keys]
    if not isinstance(dsk, HighLevelGraph):
        dsk = HighLevelGraph.from_collections(f"graph-{id(dsk)}", dsk, dependencies=())
    dsk = without_doubles(dsk)
    checkpoints = find_checkpoints(dsk)
    list_pending()
    index: Any = Catalog.of(settings).token_index() if may_read(settings) else {}
    stores_outputs = settings.policy != "checkpoints" and may_write(settings)
    if not checkpoints and not len(index) and not stores_outputs:
        return dsk, _leave
    taken = None if client is None else client.extensions
    tokens = GraphTokens(dsk, Fingerprinter.from_settings(settings, taken=taken))
    finder = Finder(dsk, tokens, checkpoints, index, settings)
    finder.identify(outputs)
    stale = client.differing(tokens.fingerprinter.code_units) if client is not None else frozenset()
    if stale:
        _warn_of_stale(stale, origin)
        tokens = GraphTokens(dsk, Fingerprinter.from_settings(settings, stale, taken))
        finder = Finder(dsk, tokens, checkpoints, index, settings)
        finder.identify(outputs)
    if stores_outputs:
        finder.keep(find_outputs(dsk, tokens, outputs))
    run = reports.name_run(origin)
    finder.announce(run)
    weighs = settings.policy == "auto" and stores_outputs
    among = finder.among
    if not among and not finder.writes and not weighs:
        logger.info("nothing of it is stored, and nothing is wanted")
        return dsk, _leave
    plan = make_plan(
        tokens,
        outputs,
        find=finder.find,
        target=finder.target,
        marked=finder.writes,
        among=among,
    )
    _report(plan, settings, origin)
    if plan.is_trivial and not weighs:
        return dsk, _leave
    reports.announce(_figures(run, plan, settings), elsewhere=client is not None)
    writer = writer_for(tokens.fingerprinter, settings, run)
    recovery = Recovery(dsk, tokens, finder.find, writer if may_write(settings) else None, run)
    plan = recovery.protect(plan)

    def write(key: Key, task: Any, target: Target) -> Task:
        if isinstance(target, bytes):
            return keep_task(key, task, finder.place(key), target, writer)
        # The mark's own argument, so that the mark leaves no trace.
        return Task(key, keep_block, task.args[0], DataNode(None, target), DataNode(None, writer))

    def write_all(layer: Blockwise, targets: Mapping[tuple[int, ...], Any]) -> Blockwise:
        if isinstance(layer, CheckpointLayer):
            return write_layer(layer, targets, writer)
        return keep_layer(layer, finder.place((layer.output, *next(iter(targets)))), targets, writer)

    rewritten = substitute(dsk, plan, write, write_all)
    if plan.writes or weighs:
        rewritten = guard_sources(rewritten, tokens)
    kept = {key: target for key, target in plan.writes.items() if isinstance(target, bytes)}
    if kept:
        rewritten = list_outputs(
            rewritten, outputs, kept, finder.place, tokens.fingerprinter, run, here=client is None
        )
    weighing: Callable[[Any], Any] = _leave
    if weighs:
        place = functools.partial(finder.place_of_intermediate, plan)
        weighing = functools.partial(weigh, wanted=set(outputs), tokens=tokens, place=place, writer=writer)
    if not finder.writes:
        return rewritten, weighing
    # Where all blocks were stored already, the object may not have been published under this name.
    numblocks = {name: _numblocks(dsk.layers[name]) for name in checkpoints}
    published = publish_checkpoints(
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
    return published, weighing


def _leave(dsk: Any) -> Any:
    return dsk


def _warn_of_stale(stale: frozenset[tuple[str, str]], origin: str) -> None:
    names = sorted(".".join(unit) for unit in stale)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    message = (
        f"the scheduler has other code than the client, or the client has not imported it ({', '.join(names[:3])}{more}): "
        "what uses it is computed, and nothing of it is loaded or stored; restart the scheduler with the client's code"
    )
    warn_once(message, about=f"{origin} {message}")


def _figures(run: str, plan: Plan, settings: Settings) -> runs.Figures:
    wanted, loaded = len(plan.writes), len(plan.loads)
    return runs.Figures(
        run,
        kind="compute",
        store=stores.describe(settings.store),
        namespace=settings.namespace,
        blocks=wanted + loaded,
        wanted=wanted,
        loaded=loaded,
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
    looks = settings.mode == "readwrite"
    return Writer(units, settings.code_versions, settings.salt, run, (*files, *sources), looks, time.time())


def _is_key(keys: Any) -> bool:
    return isinstance(keys, tuple) and bool(keys) and isinstance(keys[0], str)


def _report(plan: Plan, settings: Settings, origin: str) -> None:
    logger.info("%r", plan)
    if not plan.uncacheable or settings.on_uncacheable == "ignore":
        return
    reasons = sorted({str(reason) for reason in plan.uncacheable.values()})
    message = f"{len(plan.uncacheable)} blocks cannot be keyed and are not stored: {'; '.join(reasons[:3])}"
    if settings.on_uncacheable == "raise":
        raise UncacheableError(message)
    warn_once(message, about=f"{origin} {message}")

"""Publishing checkpoints: when a run has all blocks of an object, its manifest is written by the graph itself."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.catalog import Catalog
from daskcache.checkpoints import Checkpoint
from daskcache.dask_internals import (
    Blockwise,
    DataNode,
    GraphNode,
    Key,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    convert_legacy_task,
)
from daskcache.errors import CorruptChunkError, SourceChangedError, StoreError, UncacheableError, warn_once
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.watch import Watch
from daskcache.journal import expect
from daskcache.outputs import OutputPlace, Pack, form_of
from daskcache.plan import Plan
from daskcache.pool import StoredBlock
from daskcache.publishing import Publication, draft_manifest, record_id
from daskcache.writing import refuse_form, unstored_in

__all__ = ["list_outputs", "publish_checkpoints"]

logger = logging.getLogger("daskcache")

_FAN_IN = 256
"""Inputs of a task, beyond which a scheduler is slow."""


def publish_checkpoints(
    dsk: HighLevelGraph,
    outputs: Sequence[Key],
    checkpoints: Mapping[str, Checkpoint],
    numblocks: Mapping[str, tuple[int, ...]],
    targets: Mapping[Key, StoredBlock],
    plan: Plan,
    fingerprinter: Fingerprinter,
    info: Callable[[Iterable[str]], Mapping[str, Any]],
    run: str,
) -> HighLevelGraph:
    """Add, for each object of which this run has all blocks, the task that writes its manifest.

    Parameters
    ----------
    dsk : HighLevelGraph
        The rewritten graph.
    outputs : sequence of Hashable
        The keys that are wanted.
    checkpoints : mapping of str to Checkpoint
        The marks, by layer.
    numblocks : mapping of str to tuple of int
        How many blocks each of these layers has.
    targets : mapping of Hashable to StoredBlock
        Where the marked blocks that are needed belong.
    plan : Plan
        What is loaded and written.
    fingerprinter : Fingerprinter
        Gives in-memory values their identities.
    info : callable
        Gives, for the layers of an object, what its manifest says of its origin.
    run : str
        The run's id.

    Returns
    -------
    HighLevelGraph
        With one more small task for each block that is written, on which the publishing waits so that it holds no
        block in memory, and an output that waits for the publishing.
    """
    layers, dependencies = dict(dsk.layers), {name: set(deps) for name, deps in dsk.dependencies.items()}
    complete = _complete(checkpoints, numblocks, targets, plan).values()
    for publishing, objects in enumerate(complete):
        checkpoint = checkpoints[next(iter(objects.values()))]
        settings = checkpoint.settings
        blocks = {
            path: [targets[(layer, *index)] for index in np.ndindex(*numblocks[layer])]
            for path, layer in objects.items()
        }
        try:
            draft = draft_manifest(checkpoint.outline, blocks, settings, fingerprinter, {})
        except UncacheableError as error:
            if settings.on_uncacheable == "raise":
                raise
            if settings.on_uncacheable == "warn":
                warn_once(
                    f"blocks are stored, but {checkpoint.entry or 'their object'} is not published: {error}"
                )
            continue
        entry = checkpoint.entry or draft.manifest.version
        catalog = Catalog.of(settings)
        if _is_published(catalog, entry, draft.manifest.version):
            _release(catalog, record_id(run, checkpoint.entry or run), entry, draft.manifest.version)
            continue
        output = _terminal(outputs, layers, dependencies)
        if output is None:
            continue
        # Only now, because a version does not depend on it, and most passes have nothing to publish.
        manifest = dataclasses.replace(draft.manifest, info=_info(checkpoint, info(objects.values())))
        draft = dataclasses.replace(draft, manifest=manifest)
        watch = Watch.of(fingerprinter)
        record = record_id(run, checkpoint.entry or run)
        publication = Publication(draft, settings, entry, record, np.empty((0, 2), "i8"), watch)
        written = [
            block
            for path_layer in objects.values()
            for index in np.ndindex(*numblocks[path_layer])
            if (block := (path_layer, *index)) in plan.writes
        ]
        if len(outputs) == 1 and output[0] not in plan.writes:
            # All that is written is needed for it.
            _wrap(layers, dependencies, output, _publish_after, DataNode(None, publication))
            continue
        _append(
            layers,
            dependencies,
            output,
            f"daskcache-publish-{run}-{publishing}",
            written if len(written) <= len(outputs) else list(dict.fromkeys(outputs)),
            publication,
        )
    return HighLevelGraph(layers, dependencies)


def list_outputs(
    dsk: HighLevelGraph,
    outputs: Sequence[Key],
    writes: Mapping[Key, bytes],
    place: Callable[[Key], OutputPlace],
    fingerprinter: Fingerprinter,
    run: str,
    *,
    here: bool = True,
) -> HighLevelGraph:
    """Add what lists the blocks that are stored because somebody computes them.

    Parameters
    ----------
    dsk : HighLevelGraph
        The rewritten graph.
    outputs : sequence of Hashable
        The keys that are wanted.
    writes : mapping of Hashable to bytes
        The tokens of the blocks that are written.
    place : callable
        Says where the block of a key goes.
    fingerprinter : Fingerprinter
        Knows what was seen of the sources.
    run : str
        The run's id.
    here : bool, optional
        Whether the graph is planned where it is wanted, and not on a scheduler for its workers.

    Returns
    -------
    HighLevelGraph
        The task that puts blocks together lists them as well. Blocks that no such task is given are listed by the process
        that stores the last of them, without a task; on a cluster each worker lists those that it has.
    """
    layers, dependencies = dict(dsk.layers), {name: set(deps) for name, deps in dsk.dependencies.items()}
    watch = Watch.of(fingerprinter)
    rest = dict(writes)

    def pack(keys: Iterable[Key]) -> DataNode:
        keys = list(keys)
        return DataNode(
            None, Pack(run, tuple(map(place, keys)), b"".join(writes[key] for key in keys), watch)
        )

    for key in outputs:
        layer = layers.get(key) if isinstance(key, str) else None
        if layer is None:
            continue
        task = convert_legacy_task(key, layer[key], dsk)
        direct = [block for block in getattr(task, "dependencies", ()) if block in rest]
        if direct:
            # It holds them all anyway.
            _wrap(layers, dependencies, (key, key), _list_after, pack(direct), List(*map(TaskRef, direct)))
            for block in direct:
                del rest[block]
    # Also where a task lists all of them, which may never be run.
    expect(run, rest.values(), watch, elsewhere=not here)
    return HighLevelGraph(layers, dependencies)


def _wrap(
    layers: dict[str, Any],
    dependencies: Mapping[str, set[str]],
    output: tuple[Key, str],
    then: Callable[..., Any],
    *args: GraphNode,
) -> None:
    """Make an output's task do something more when it has its value."""
    key, layer = output
    held = dict(layers[layer])
    node = convert_legacy_task(key, held[key], HighLevelGraph(layers, dependencies))
    held[key] = Task(key, then, node if isinstance(node, GraphNode) else DataNode(None, node), *args)
    layers[layer] = MaterializedLayer(held, annotations=layers[layer].annotations)


def _append(
    layers: dict[str, Any],
    dependencies: dict[str, set[str]],
    output: tuple[Key, str],
    name: str,
    blocks: Sequence[Key],
    publication: Publication,
) -> None:
    """Add the task that publishes, which waits for blocks and holds none, and make an output wait for it."""
    key, layer = output
    inner: Key = f"{name}-before"
    tasks: dict[Key, GraphNode] = {}
    for number, block in enumerate(blocks):
        tasks[name, number] = Task((name, number), _done, TaskRef(inner if block == key else block))
    groups: list[Any] = []
    for start in range(0, len(blocks), _FAN_IN):
        group: Any = List(
            *(TaskRef((name, number)) for number in range(start, min(start + _FAN_IN, len(blocks))))
        )
        if len(blocks) > _FAN_IN:
            tasks[name, "all", start] = Task((name, "all", start), list, group)
            group = TaskRef((name, "all", start))
        groups.append(group)
    tasks[name] = Task(name, _publish, DataNode(None, publication), List(*groups))
    graph = HighLevelGraph(layers, dependencies)
    held = dict(layers[layer])
    if not isinstance(layers[layer], Blockwise):
        # Blocks of one layer may need each other. Of the output they want the value alone, or they would wait for it and
        # what it waits for would wait for them.
        held = {
            other: task.substitute({key: inner}) if key in task.dependencies else task
            for other, task in convert_legacy_graph(held, all_keys=graph).items()
        }
    node = convert_legacy_task(key, held[key], graph)
    held[inner] = node.substitute({}, key=inner) if isinstance(node, GraphNode) else DataNode(inner, node)
    held[key] = Task(key, _first, TaskRef(inner), TaskRef(name))
    # One layer, because the two refer to one another.
    layers[layer] = MaterializedLayer({**held, **tasks}, annotations=layers[layer].annotations)
    owners = (block[0] if type(block) is tuple else block for block in blocks)
    dependencies[layer] |= {owner for owner in owners if owner in layers}
    dependencies[layer].discard(layer)


def _is_published(catalog: Catalog, entry: str, version: str) -> bool:
    """Whether an entry's name opens a version already, or nobody can make it do so."""
    try:
        latest = catalog.latest(entry)
    except CorruptChunkError:
        return False  # publishing repairs it
    except StoreError as error:
        # The namespace's index has warned of it.
        logger.info("the stored blocks of %r are not published: %s", entry, error)
        return True
    return latest is not None and latest.version == version


def _complete(
    checkpoints: Mapping[str, Checkpoint],
    numblocks: Mapping[str, tuple[int, ...]],
    targets: Mapping[Key, StoredBlock],
    plan: Plan,
) -> dict[tuple[Any, ...], dict[str, str]]:
    """Find the objects of which all blocks are loaded or written: by object, the layer of each path."""
    objects: dict[tuple[Any, ...], dict[str, str]] = {}
    for layer, checkpoint in checkpoints.items():
        settings = checkpoint.settings
        if settings.mode not in ("write", "readwrite"):
            continue
        identity = (id(checkpoint.outline), checkpoint.entry, settings.store, settings.namespace)
        if all(_is_kept((layer, *index), targets, plan) for index in np.ndindex(*numblocks[layer])):
            objects.setdefault(identity, {})[checkpoint.path] = layer
    return {
        identity: paths
        for identity, paths in objects.items()
        if {
            variable.path
            for variable in checkpoints[next(iter(paths.values()))].outline.variables
            if variable.values is None
        }
        == set(paths)
    }


def _is_kept(key: Key, targets: Mapping[Key, StoredBlock], plan: Plan) -> bool:
    if key in plan.writes:
        return True
    # A block found under another form of storage is loaded from there, and is none of this object's.
    found, target = plan.loads.get(key), targets.get(key)
    if found is None or target is None or found.key != target.key:
        return False
    return refuse_form(found, target) is None


def _terminal(
    outputs: Iterable[Key], layers: Mapping[str, Any], dependencies: Mapping[str, set[str]]
) -> tuple[Key, str] | None:
    """Find an output on which nothing depends, so that it can wait for a manifest without a cycle."""
    needed = set().union(*dependencies.values()) if dependencies else set()
    last = {name for name in layers if name not in needed}
    for key in outputs:
        name = key[0] if type(key) is tuple and key else key
        for layer in (name, *last) if name in last else last:
            if key in layers[layer]:
                return key, layer
    return None


def _done(block: Any) -> None:
    return None


def _first(value: Any, after: Any) -> Any:
    return value


def _list_after(value: Any, pack: Pack, blocks: Sequence[Any]) -> Any:
    pack.put([form_of(block) for block in blocks])
    return value


def _publish_after(value: Any, publication: Publication) -> Any:
    _publish(publication, ())
    return value


def _release(catalog: Catalog, record: str, entry: str, version: str) -> None:
    """Note that a version is used, which protects what the run wants."""
    try:
        catalog.runs.discard(record)
        latest = catalog.latest(entry)
    except StoreError as error:
        logger.info("the record of a run is left: %s", error)
        return
    if latest is not None:
        catalog.note_use(entry, version, latest.time)


def _info(checkpoint: Checkpoint, info: Mapping[str, Any]) -> Mapping[str, Any]:
    return info if checkpoint.expires_s is None else {**info, "expires_s": checkpoint.expires_s}


def _publish(publication: Publication, written: Sequence[Sequence[None]]) -> None:
    try:
        publication.publish(())
        Catalog.of(publication.settings).runs.finish(publication.run)
    except (SourceChangedError, StoreError) as error:
        warn_once(
            f"the result is right, but was not published: {error}",
            about=unstored_in(publication.run.partition("-")[0]),
        )


_first.__daskcache_transparent__ = True  # type: ignore[attr-defined]
_list_after.__daskcache_transparent__ = True  # type: ignore[attr-defined]
_publish_after.__daskcache_transparent__ = True  # type: ignore[attr-defined]

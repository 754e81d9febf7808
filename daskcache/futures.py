"""Futures in a graph: what a cluster holds already, known by its content."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from daskcache import cluster
from daskcache.config import Settings
from daskcache.dask_internals import Blockwise, DataNode, GraphNode, Key, Task, TaskRef
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens, Settled
from daskcache.tokens.rules import READERS, is_basic, is_one_of

__all__ = ["identify_futures"]


def identify_futures(graph: HighLevelGraph, settings: Settings) -> dict[Key, Settled | UncacheableError]:
    """Work out the tokens of a graph's futures, on the workers that hold their values.

    Parameters
    ----------
    graph : HighLevelGraph
        Any graph.
    settings : Settings
        The token rules.

    Returns
    -------
    dict of Hashable to Settled or UncacheableError
        By key, of futures and of the tasks that take regions of them: what the same graph has where it holds the
        values, or why there is no such thing.

    Notes
    -----
    Waits until the futures are finished; then costs one small task for each, where its value lies. No value travels.
    """
    futures = _find(graph)
    if not futures:
        return {}
    tasks = _find_regions(graph, futures)
    known: dict[Key, Settled | UncacheableError] = {}
    by_client: dict[int, list[Any]] = {}
    for future in futures.values():
        by_client.setdefault(id(future.client), []).append(future)
    for group in by_client.values():
        _identify(group, tasks, settings, known)
    return known


def _find(graph: HighLevelGraph) -> dict[Key, Any]:
    """Find the futures that lie in a graph, and those that it refers to."""
    kind = cluster.future_type()
    if kind is None:
        return {}
    found: dict[Key, Any] = {}
    absent: set[Key] = set()
    owners = {layer.output for layer in graph.layers.values() if isinstance(layer, Blockwise)}
    held: set[Key] = set()
    for layer in graph.layers.values():
        if isinstance(layer, Blockwise):
            found.update((one.key, one) for one, _ in layer.indices if isinstance(one, kind))
            absent.update(layer.task.dependencies)
            continue
        for key, node in layer.items():
            held.add(key)
            if isinstance(node, kind):
                found[node.key] = node
            elif isinstance(node, GraphNode):
                absent.update(node.dependencies)
    known = cluster.client()
    for key in absent - held - found.keys():
        name = key[0] if type(key) is tuple and key else None
        if name not in owners and known is not None and key in known.futures:
            found[key] = kind(key, known)
    return found


def _find_regions(graph: HighLevelGraph, futures: Mapping[Key, Any]) -> dict[Key, dict[Key, Task]]:
    """Find, for each future, the tasks that take regions of it: their tokens are those of the regions' bytes."""
    found: dict[Key, dict[Key, Task]] = {}
    for layer in graph.layers.values():
        for key, node in () if isinstance(layer, Blockwise) else layer.items():
            if not isinstance(node, Task) or len(node.args) < 2 or not is_one_of(node.func, READERS):
                continue
            array, index, *others = node.args
            if isinstance(array, TaskRef) and array.key in futures and not node.kwargs and is_basic(index):
                # Without the future itself, which would be awaited anew.
                task = Task(key, node.func, TaskRef(array.key), index, *others)
                found.setdefault(array.key, {})[key] = task
    return found


def _identify(
    futures: Sequence[Any],
    tasks: Mapping[Key, Mapping[Key, Task]],
    settings: Settings,
    known: dict[Key, Settled | UncacheableError],
) -> None:
    client = futures[0].client
    if client is None or client.status != "running" or client.asynchronous:
        why = (
            "an asynchronous client cannot be waited for"
            if client and client.asynchronous
            else "it is closed"
        )
        for future in futures:
            _note(future, tasks, f"is of a client that cannot be asked: {why}", known)
        return
    _wait(futures)
    finished = [future for future in futures if future.status == "finished"]
    asked = client.map(
        _look_up,
        [future.key for future in finished],
        finished,
        [pickle.dumps(dict(tasks.get(future.key, {}))) for future in finished],
        settings=settings,
        pure=False,
        batch_size=None,
    )
    _wait(asked)
    answers = dict(zip([future.key for future in finished], asked, strict=True))
    for future in futures:
        answer = answers.get(future.key)
        if answer is not None and answer.status == "finished":
            known.update(answer.result())
            continue
        # Of a value that was lost meanwhile the question fails like the future itself.
        failed = future if answer is None or future.status == "error" else answer
        error = failed.exception() if failed.status == "error" else None
        state = f"failed: {type(error).__name__}: {error}" if error is not None else f"was {failed.status}"
        _note(future, tasks, f"{state}; make it again", known)


def _note(
    future: Any,
    tasks: Mapping[Key, Mapping[Key, Task]],
    state: str,
    known: dict[Key, Settled | UncacheableError],
) -> None:
    reason = UncacheableError(f"the future {future.key!r}, which the graph refers to, {state}")
    known.update(dict.fromkeys((future.key, *tasks.get(future.key, ())), reason))


def _wait(futures: Sequence[Any]) -> None:
    try:
        cluster.wait(futures)
    except CancelledError:
        # Each one's status says which.
        cluster.wait([future for future in futures if future.status == "pending"])


def _look_up(
    key: Key, value: Any, pickled: bytes, *, settings: Settings
) -> dict[Key, Settled | UncacheableError]:
    """Do what the pass does with a value that lies in the graph; runs on the worker that holds it."""
    # From the client, by the scheduler; never from a store.
    graph = {key: DataNode(key, value), **pickle.loads(pickled)}  # noqa: S301
    tokens = GraphTokens(graph, Fingerprinter.from_settings(settings))
    return dict(_answers(graph, tokens))


def _answers(
    graph: Mapping[Key, Any], tokens: GraphTokens
) -> Iterator[tuple[Key, Settled | UncacheableError]]:
    for key in graph:
        token = tokens.token(key)
        reason = tokens.reason(key)
        if token is not None:
            yield key, Settled(token, tokens.function(key))
        elif reason is not None:
            yield key, reason

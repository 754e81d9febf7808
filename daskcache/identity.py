"""The identity of a whole object: its blocks' tokens, and the token of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from daskcache.checkpoints import CheckpointLayer, Targets
from daskcache.chunks import Hints, plan_grid
from daskcache.config import Settings
from daskcache.dask_internals import GETTERS, Key, Task
from daskcache.datasets import Outline, outline
from daskcache.doubles import without_doubles
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.futures import identify_futures
from daskcache.graph import keys_of
from daskcache.parts import Collection, Parts
from daskcache.pool import StoredBlock
from daskcache.publishing import PLAIN, draft_manifest
from daskcache.tokens import GraphTokens

__all__ = ["Identified", "identify", "identify_value", "token"]


@dataclass(frozen=True, slots=True, eq=False)
class Identified:
    """An object taken apart, and what its blocks are."""

    outline: Outline
    """All but the blocks."""
    arrays: Mapping[str, da.Array]
    """What dask computes, by the path of its variable."""
    tokens: GraphTokens
    """The graph of all arrays."""
    targets: Mapping[str, list[StoredBlock]]
    """Where the blocks of each array belong, in C order; not those of `reasons`."""
    reasons: Mapping[str, UncacheableError] = field(default_factory=dict)
    """Arrays with a block that cannot be keyed, and the first reason."""

    @property
    def fingerprinter(self) -> Fingerprinter:
        """What the tokens were made with.

        Returns
        -------
        Fingerprinter
            Knows the code and the sources that were met.
        """
        return self.tokens.fingerprinter

    def require_tokens(self) -> None:
        """Refuse an object that cannot be keyed.

        Raises
        ------
        UncacheableError
            A block has no deterministic identity; the message says why.
        """
        for path, reason in self.reasons.items():
            raise reason.within(f"variable {path!r}")


def identify(obj: Collection | Parts, settings: Settings, hints: Hints | None = None) -> Identified:
    """Work out what an object's blocks are, without storing anything; what a cluster computes already is waited for.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or Parts
        The object.
    settings : Settings
        The token rules, and the store where blocks belong.
    hints : Hints, optional
        How the blocks will be read. Without any, those of an array that is marked or stored with hints.

    Returns
    -------
    Identified
        With a reason for each array that cannot be keyed.

    Raises
    ------
    UncacheableError
        Something has no storage form.
    """
    described, arrays = outline(obj, hints)
    graph = without_doubles(HighLevelGraph.merge(*(array.dask for array in arrays.values())))
    known = identify_futures(graph, settings)
    tokens = GraphTokens(graph, Fingerprinter.from_settings(settings), known)
    if hints is None:
        described = _with_known_forms(described, arrays, tokens)
    # All at once: what each block needs comes before it then.
    tokens.evaluate(keys_of(arrays.values()))
    targets: dict[str, list[StoredBlock]] = {}
    reasons: dict[str, UncacheableError] = {}
    for path, array in arrays.items():
        place = Targets.of(described.variable(path), settings)
        found: list[StoredBlock] = []
        for key in keys_of([array]):
            token = tokens.token(key)
            if token is None:
                reason = tokens.reason(key)
                assert reason is not None
                reasons[path] = reason
                break
            target = place.block(key[1:], token, tokens.function(key))
            loaded = _loaded(tokens, key)
            if loaded is not None and (loaded.root, loaded.id) == (target.root, target.id):
                # A block of a dataset of ours lies in the group of the function that made it.
                target = loaded
            found.append(target)
        else:
            targets[path] = found
    return Identified(described, arrays, tokens, targets, reasons)


def _with_known_forms(described: Outline, arrays: Mapping[str, da.Array], tokens: GraphTokens) -> Outline:
    """Take over the inner chunks of arrays that are marked with hints, or stored with them."""
    variables = []
    for variable in described.variables:
        array = arrays.get(variable.path)
        inner = None if array is None else _known_form(array, tokens)
        variables.append(variable if inner is None else replace(variable, inner_shape=inner))
    return replace(described, variables=tuple(variables))


def _known_form(array: da.Array, tokens: GraphTokens) -> tuple[int, ...] | None:
    layer = array.dask.layers.get(array.name)
    if isinstance(layer, CheckpointLayer):
        mark = layer.checkpoint
        return mark.outline.variable(mark.path).inner_shape
    if not array.npartitions or plan_grid(array.chunks, array.dtype).kind != "regular":
        return None
    loaded = _loaded(tokens, (array.name, *(0 for _ in array.chunks)))
    return None if loaded is None else loaded.spec.inner_shape


def _loaded(tokens: GraphTokens, key: Key) -> StoredBlock | None:
    """Give the stored block that a task does nothing but load, and loads whole."""
    try:
        scope, node = tokens.task(key)
    except KeyError:
        return None
    if not isinstance(node, Task) or node.func not in GETTERS:
        return None
    block, index = (scope.literal(arg) for arg in node.args[:2])
    is_whole = isinstance(index, tuple) and all(part == slice(None) for part in index)
    return block if is_whole and isinstance(block, StoredBlock) else None


def identify_value(obj: Delayed, settings: Settings) -> tuple[bytes, GraphTokens, HighLevelGraph]:
    """Work out what a delayed value is: what is computed from what.

    Parameters
    ----------
    obj : dask.delayed.Delayed
        The value.
    settings : Settings
        The token rules.

    Returns
    -------
    token : bytes
        20 bytes.
    tokens : GraphTokens
        Those of its graph.
    graph : HighLevelGraph
        Its graph.

    Raises
    ------
    UncacheableError
        It has no deterministic identity, or is run for its effect; the message says why.

    Examples
    --------
    >>> from dask.delayed import delayed
    >>> settings = Settings("memory://doc-identify-value")
    >>> identify_value(delayed(1), settings)[0] == identify_value(delayed(1), settings)[0]
    True
    """
    graph: Any = obj.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        graph = HighLevelGraph.from_collections(f"graph-{id(graph)}", graph, dependencies=())
    graph = without_doubles(graph)
    tokens = GraphTokens(graph, Fingerprinter.from_settings(settings), identify_futures(graph, settings))
    found = tokens.token(obj.key)
    if found is None:
        reason = tokens.reason(obj.key)
        assert reason is not None
        raise reason
    return found, tokens, graph


def token(obj: Any, **settings: Any) -> str:
    """Give the identity of an object: what is computed from what, and its labels.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or dask.delayed.Delayed
        The object. Nothing is computed; no store is looked at.
    **settings
        Fields of `daskcache.config.Settings` in place of those configured, such as ``salt``.

    Returns
    -------
    str
        40 hex digits: equal in every process for the same recipe, other for any other.

    Raises
    ------
    UncacheableError
        A block has no deterministic identity, or something has no storage form; the message says why.

    Examples
    --------
    >>> import dask.array as da
    >>> token(da.arange(10, chunks=5) + 1) == token(da.arange(10, chunks=5) + 1)
    True
    >>> token(da.arange(10, chunks=5) + 1) == token(da.arange(10, chunks=5) + 2)
    False
    """
    resolved = Settings.from_config(**settings).with_(codecs=PLAIN)
    if isinstance(obj, Delayed):
        return identify_value(obj, resolved)[0].hex()
    # A form of storage is no part of what something is.
    identified = identify(obj, resolved, Hints())
    identified.require_tokens()
    draft = draft_manifest(identified.outline, identified.targets, resolved, identified.fingerprinter, {})
    return draft.manifest.version

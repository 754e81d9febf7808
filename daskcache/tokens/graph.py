"""Tokens of a graph, each computed once, on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from daskcache.dask_internals import (
    Alias,
    Blockwise,
    DataNode,
    GraphNode,
    Key,
    Task,
    convert_legacy_task,
)
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter
from daskcache.fingerprint.files import FileSource, Seen
from daskcache.fingerprint.sources import Source
from daskcache.tokens.blockwise import BlockwiseLayer
from daskcache.tokens.collecting import without_collecting
from daskcache.tokens.direct import Direct, GraphKeys
from daskcache.tokens.functions import Functions, Known, Settled
from daskcache.tokens.needs import Needs
from daskcache.tokens.scope import MISSING, FromDependencyError, Scope

__all__ = ["GraphTokens"]


class GraphTokens:
    """Compute the tokens of a graph's blocks, each once, on demand.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        The graph, before any fusion. It is not changed.
    fingerprinter : Fingerprinter
        Gives the identities of functions, literals and sources.
    known : mapping of Hashable to Settled or UncacheableError, optional
        What has been worked out elsewhere, of futures of a cluster.

    Notes
    -----
    Costs a few microseconds a block, and one listing for each directory of a source that is read.
    Not safe for use by several threads at once.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones((4, 4), chunks=2) + 1
    >>> tokens = GraphTokens(x.dask, Fingerprinter())
    >>> token = tokens.token((x.name, 0, 1))
    >>> y = da.ones((4, 4), chunks=2, name="another-key") + 1
    >>> GraphTokens(y.dask, Fingerprinter()).token((y.name, 0, 1)) == token
    True
    """

    def __init__(
        self,
        dsk: HighLevelGraph | Mapping[Key, Any],
        fingerprinter: Fingerprinter,
        known: Mapping[Key, Settled | UncacheableError] | None = None,
    ) -> None:
        self.fingerprinter = fingerprinter
        self._dsk = dsk
        self._known = known or {}
        self._layers: dict[str, BlockwiseLayer] = {}
        self._nodes: dict[Key, Any] = {}
        layers = dsk.layers.values() if isinstance(dsk, HighLevelGraph) else [dsk]
        for layer in layers:
            if isinstance(layer, Blockwise):
                self._layers[layer.output] = BlockwiseLayer(layer)
            else:
                # Not through the layer, which takes each key by itself.
                self._nodes.update(layer.mapping if isinstance(layer, MaterializedLayer) else dict(layer))
        self._keys = GraphKeys(self._nodes, self._layers)
        self.needs = Needs(dsk, self._layers, self._nodes, self.inputs)
        self.ordinary: dict[int, Known] = {}
        self.readers: dict[int, Known] = {}
        self.watched: dict[int, Known] = {}
        self.functions = Functions()
        self._reads: dict[int, tuple[Any, list[Any]]] = {}
        self._files: dict[FileSource, bytes] = {}
        self._tokens: dict[Key, bytes | UncacheableError] = {
            key: found.token if isinstance(found, Settled) else found for key, found in self._known.items()
        }
        self._has_reasons = not all(isinstance(found, Settled) for found in self._known.values())
        self._scope = Scope(self)
        self._direct = Direct(self, self._scope, self._nodes, self._layers, self._keys, self._tokens)

    def token(self, key: Key) -> bytes | None:
        """Give the token of a block.

        Parameters
        ----------
        key : Hashable
            The block's key in the graph.

        Returns
        -------
        bytes or None
            20 bytes; None for a block that cannot be keyed (see `reason`).
        """
        token = self._tokens.get(key) or self._evaluate(key)
        return token if isinstance(token, bytes) else None

    def known(self, key: Key) -> bytes | None:
        """Give the token of a block where something has asked for it before; nothing is worked out.

        Parameters
        ----------
        key : Hashable
            Any key.

        Returns
        -------
        bytes or None
            20 bytes; None also for a value of which tasks want regions only.
        """
        token = self._tokens.get(key)
        return token if isinstance(token, bytes) else None

    def reason(self, key: Key) -> UncacheableError | None:
        """Tell why a block has no token.

        Parameters
        ----------
        key : Hashable
            The block's key in the graph.

        Returns
        -------
        UncacheableError or None
            The first cause, with the path to it; None for a block that has a token.
        """
        token = self._evaluate(key)
        return None if isinstance(token, bytes) else token

    @without_collecting
    def evaluate(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Token all that some keys need.

        Parameters
        ----------
        keys : iterable of Hashable
            Keys of the graph.

        Returns
        -------
        dict
            Tokens of 20 bytes, by key: of those of the given that have one, and of those that they need.
        """
        wanted = list(keys)
        if isinstance(self._dsk, HighLevelGraph):
            for key in self._direct.evaluate(self.needs.batches([*wanted], self._tokens)):
                self._evaluate(key)
        self._evaluate_all(wanted)
        if self._has_reasons:
            return {key: token for key, token in self._tokens.items() if isinstance(token, bytes)}
        # Of a million tasks this takes a tenth of the time.
        return cast("dict[Key, bytes]", self._tokens.copy())

    def function(self, key: Key) -> bytes:
        """Give the fingerprint of the function whose result a block is.

        Parameters
        ----------
        key : Hashable
            The key of a block that has a token.

        Returns
        -------
        bytes
            20 bytes, equal for the blocks of a layer; for what is read rather than computed a constant.
        """
        known = self._known.get(key)
        if isinstance(known, Settled):
            return known.function
        layer = self._layer(key)
        if layer is not None:
            return layer.scope(key[1:], self._scope).function(layer.task)
        return self._scope.function(self.node(key))

    def dependencies(self, key: Key) -> Iterable[Key]:
        """List the keys that a task refers to.

        Parameters
        ----------
        key : Hashable
            A key of the graph.

        Returns
        -------
        Iterable of Hashable
            Keys, in no particular order; those that the graph does not hold included.
        """
        layer = self._layer(key)
        if layer is not None:
            return layer.dependencies(key[1:])
        node = self.node(key)
        return node.dependencies if isinstance(node, GraphNode) else ()

    def inputs(self, key: Key) -> Iterable[Key]:
        """List the keys of this graph that a task refers to.

        Parameters
        ----------
        key : Hashable
            Any key; one that the graph does not hold has no inputs.

        Returns
        -------
        Iterable of Hashable
            Keys, in no particular order.
        """
        node = self._nodes.get(key)
        if type(node) is Task:
            found: Iterable[Key] = node.dependencies
            return found
        return self.dependencies(key) if key in self._keys else ()

    def node(self, key: Key) -> Any:
        """Give the task or value that a key of a materialised layer stands for.

        Parameters
        ----------
        key : Hashable
            A key of the graph that is not in a blockwise layer.

        Returns
        -------
        object
            A ``GraphNode``, or the plain value that the graph holds.

        Raises
        ------
        KeyError
            The graph has no such key.
        """
        node = self._nodes[key]
        if not isinstance(node, GraphNode):
            converted = convert_legacy_task(key, node, self._keys)
            if converted is not node:
                self._nodes[key] = node = converted
        return node

    def converted(self, key: Key, node: Any) -> Any:
        """Give a node of a graph as a task of dask's present form.

        Parameters
        ----------
        key : Hashable
            Its key.
        node : object
            What a graph that was made of this one holds under it.

        Returns
        -------
        object
            The node itself where it has that form, or is no task.
        """
        return node if isinstance(node, GraphNode) else convert_legacy_task(key, node, self._keys)

    def literal(self, key: Key) -> Any:
        """Give the value that a key stands for without anything being computed.

        Parameters
        ----------
        key : Hashable
            A key of the graph.

        Returns
        -------
        object
            The value, or ``MISSING`` where the key stands for a computation.
        """
        node = self._nodes.get(key, MISSING)
        is_task = type(node) is Task or (type(node) is tuple and node and callable(node[0]))
        if node is MISSING or is_task or self._layer(key) is not None:
            return MISSING
        node = self.node(key)
        if isinstance(node, DataNode):
            return node.value
        if isinstance(node, Alias):
            return self.literal(node.target) if node.target != key else MISSING
        return MISSING if isinstance(node, GraphNode) else node

    def is_value(self, key: Key) -> bool:
        """Tell whether a key of the graph stands for a value, without anything being computed."""
        return self.literal(key) is not MISSING

    def task(self, key: Key) -> tuple[Scope, Any]:
        """Give the task or value that a key stands for.

        Parameters
        ----------
        key : Hashable
            A key of the graph.

        Returns
        -------
        scope : Scope
            In which its references are to be read.
        node : object
            A ``GraphNode``, or a plain value; of a blockwise layer its task, with placeholders.

        Raises
        ------
        KeyError
            The graph has no such key.
        """
        layer = self._layer(key)
        if layer is not None:
            return layer.scope(key[1:], self._scope), layer.task
        return self._scope, self.node(key)

    def _layer(self, key: Key) -> BlockwiseLayer | None:
        return self._layers.get(key[0]) if type(key) is tuple and key else None

    @without_collecting
    def _evaluate(self, key: Key) -> bytes | UncacheableError:
        if key not in self._tokens:
            self._evaluate_all([key])
        return self._tokens[key]

    def _evaluate_all(self, stack: list[Key]) -> None:
        tokens = self._tokens
        entered: set[Key] = set()
        ruled: set[Key] = set()
        direct = self._direct.token
        missing: list[Key] = []
        while stack:
            key = stack.pop()
            if key in tokens:
                continue
            token = direct(key, missing)
            if token is not None:
                tokens[key] = token
                continue
            stack.append(key)
            if missing and key not in entered:
                entered.add(key)
                stack.extend(missing)
                missing.clear()
                continue
            missing.clear()
            if key not in ruled:
                ruled.add(key)
                # A value in the graph is looked at only where a task wants it whole: most tasks want a region.
                waiting = [
                    dep
                    for dep in self.inputs(key)
                    if dep not in tokens and dep != key and self.literal(dep) is MISSING
                ]
                if waiting:
                    stack.extend(waiting)
                    continue
            stack.pop()
            tokens[key] = self._compute(key)

    def _compute(self, key: Key) -> bytes | UncacheableError:
        try:
            layer = self._layer(key)
            if layer is not None:
                return layer.token(key[1:], self._scope)
            node = self.node(key) if key in self._nodes else None
            # dask reads a future in a graph as an alias of its own key.
            if node is None or (isinstance(node, GraphNode) and key in node.dependencies):
                raise UncacheableError(
                    f"the graph refers to {key!r}, which it does not hold (a future, or data kept on a cluster), and "
                    "cannot be asked for here; cache.persist() asks the cluster what it holds, or do without dask's "
                    "own persist()"
                )
            return self._scope.token(node)
        except FromDependencyError as error:
            reason = error.reason
        except UncacheableError as error:
            reason = error
        except RecursionError:
            reason = UncacheableError("its arguments nest too deeply, or the graph goes round in a circle")
        self._has_reasons = True
        return reason

    def note_read(self, array: Any, index: Any) -> None:
        """Remember that a region of a source was looked at.

        Parameters
        ----------
        array : object
            The source's array.
        index : tuple
            The region.
        """
        self._reads.setdefault(id(array), (array, []))[1].append(index)

    def note_file(self, seen: Seen) -> None:
        """Remember that a file was looked at, which a task is given to read.

        Parameters
        ----------
        seen : Seen
            The file and what it looked like.
        """
        self._files[seen.source] = seen.state

    def file_states(self) -> dict[FileSource, bytes]:
        """Tell how the files looked that tasks are given to read.

        Returns
        -------
        dict of FileSource to bytes
            What `FileSource.look` gives as long as they are as they were; empty where they were not looked at.
        """
        return dict(self._files)

    def source_reads(self) -> dict[int, tuple[Source, list[Any]]]:
        """Tell which regions of sources were looked at when tokens were made of them.

        Returns
        -------
        dict of int to tuple
            By the identity of a source's array: the source, which remembers what it saw, and the regions.
        """
        found = {}
        for identity, (array, regions) in self._reads.items():
            source = self.fingerprinter.find_source(array)
            if source is not None:
                found[identity] = source, regions
        return found

    def look(self, key: Key) -> bytes:
        """Give the token of an input, or raise why it has none.

        Parameters
        ----------
        key : Hashable
            A key of the graph whose own inputs have been looked at.

        Returns
        -------
        bytes
            The token.
        """
        found = self._tokens.get(key)
        if found is None:
            found = self._tokens[key] = self._compute(key)
        if isinstance(found, bytes):
            return found
        raise FromDependencyError(found)

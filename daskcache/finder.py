"""Where the pass looks for blocks, and where it wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from itertools import compress
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from daskcache.checkpoints import Checkpoint, Targets
from daskcache.config import Settings
from daskcache.dask_internals import Alias, Blockwise, Key, Task
from daskcache.errors import EffectError, ReadOnlyError, StoreFullError, WritesError, warn_once
from daskcache.forgetting import Reuse
from daskcache.listing import SAMPLE, Listing
from daskcache.outputs import OutputPlace
from daskcache.plan import Plan, Target
from daskcache.pool import StoredBlock
from daskcache.publishing import announce_run, record_id
from daskcache.tokens import GraphTokens
from daskcache.tokens.rules import READERS, is_basic, is_one_of

__all__ = ["Finder", "may_read", "may_write"]


class Finder:
    """Looks up blocks: marked ones in the pool, the others among what the namespace has published.

    Parameters
    ----------
    dsk : HighLevelGraph
        The graph.
    tokens : GraphTokens
        Its tokens.
    checkpoints : mapping of str to Checkpoint
        Its marks.
    index : TokenIndex or mapping
        What the namespace has published.
    settings : Settings
        The pass's own; marks have theirs.
    """

    def __init__(
        self,
        dsk: HighLevelGraph,
        tokens: GraphTokens,
        checkpoints: Mapping[str, Checkpoint],
        index: Any,
        settings: Settings,
    ) -> None:
        self._tokens = tokens
        self._checkpoints = checkpoints
        self._index = index
        self._settings = settings
        self._listings: dict[str, Listing] = {}
        self._looked_ahead: set[str] = set()
        # What a manifest still names, but a listing does not.
        self._gone: set[StoredBlock] = set()
        # Where the index has what the outputs need.
        self._positions: dict[Key, int] = {}
        self._kept: set[Key] = set()
        # All tasks of one call one function.
        self._blockwise = {layer.output for layer in dsk.layers.values() if isinstance(layer, Blockwise)}
        self._functions: dict[str, bytes] = {}
        # Layers of which no block is only read.
        self._computing: set[str] = set()
        self._data = tokens.fingerprinter.combine(b"data", [])
        self._run = ""
        self.targets: dict[Key, StoredBlock] = {}
        self.writes = {name for name, mark in checkpoints.items() if may_write(mark.settings)}

    def identify(self, outputs: Iterable[Key]) -> None:
        """Work out where the marked blocks that are needed belong, before anything is looked up."""
        places = {
            name: Targets.of(mark.outline.variable(mark.path), mark.settings)
            for name, mark in self._checkpoints.items()
        }
        known = self._tokens.evaluate(outputs)
        if places:
            for key, token in known.items():
                if type(key) is tuple and key and key[0] in places:
                    function = self._tokens.function(key)
                    self.targets[key] = places[key[0]].block(key[1:], token, function)
        if len(self._index):
            found = self._index.find_many(known.values())
            keys = compress(known, found >= 0)
            self._positions = dict(zip(keys, found[found >= 0].tolist(), strict=True))

    def announce(self, run: str) -> None:
        """Put the run's record, which protects what it is about to find; without one, nothing is written."""
        wanted: dict[tuple[Settings, str], dict[str, list[StoredBlock]]] = {}
        for key, target in self.targets.items():
            name = key[0]
            if name in self.writes:
                mark = self._checkpoints[name]
                blocks = wanted.setdefault((mark.settings, mark.entry or run), {})
                blocks.setdefault(mark.path, []).append(target)
        self._run = run
        for (settings, entry), blocks in wanted.items():
            try:
                announce_run(record_id(run, entry), settings, entry, blocks)
            except (ReadOnlyError, StoreFullError) as error:
                self.writes -= {name for name, mark in self._checkpoints.items() if mark.settings == settings}
                warn_once(
                    f"what is stored is loaded, and nothing is written: {error}",
                    about=f"unwritable {settings.store}",
                )

    def keep(self, outputs: Iterable[Key]) -> None:
        """Want some blocks stored whatever form they turn out to have."""
        # What waits for an effect is computed on purpose, and nobody needs to be told but of what only looks like one.
        self._kept.update(
            key
            for key in outputs
            if key not in self.targets
            and (not isinstance(why := self._tokens.reason(key), EffectError) or isinstance(why, WritesError))
        )

    def place(self, key: Key) -> OutputPlace:
        """Say where a block goes that is stored whatever form it turns out to have."""
        settings = self._settings
        return OutputPlace(
            settings.pool_root, settings.namespace, self._function(key), settings.codecs, len(key) - 1
        )

    def place_of_intermediate(self, plan: Plan, key: Key) -> OutputPlace | None:
        """Say where a block goes if it is worth it; None for one that is stored anyway, and one that is only read."""
        if key in plan.loads or key in plan.writes or self._is_only_read(key):
            return None
        return self.place(key)

    def find(self, key: Key, token: bytes) -> StoredBlock | None:
        """Give the stored block that may take a task's place, or None."""
        target = self.targets.get(key)
        if target is not None and may_read(self._checkpoints[key[0]].settings):
            known = self._published(key)
            stored = self._listing(key).find_as_known(target, known)
            if stored is not None:
                return stored
            self._gone.add(target)
        found = self._published(key)
        if target is not None and found is not None and key[0] in self.writes:
            inner = target.spec.inner_shape
            if found.root != target.root or (inner is not None and found.spec.inner_shape != inner):
                # The mark has a pool of its own, or a hint asks for another form: what is below the mark is loaded, and
                # what passes it stored anew.
                return None
        if found is None:
            return None
        if found.root not in self._listings:
            self._listings[found.root] = Listing(found.root)
        if self._listings[found.root].is_lost(found):
            return self._listings[found.root].find(found)
        # To be looked for in a set costs a block a hash.
        return None if self._gone and found in self._gone else found

    def _listing(self, key: Key) -> Listing:
        """Give the listing of the store that a marked block belongs into, once that was asked for all of them."""
        root = self.targets[key].root
        if root not in self._looked_ahead:
            settings = self._checkpoints[key[0]].settings
            # What is only read is computed where it has gone.
            reuse = Reuse(settings, self._run).is_safe if key[0] in self.writes else None
            listing = self._listings[root] = Listing(root, reuse)
            self._looked_ahead.add(root)
            keys = [other for other, target in self.targets.items() if target.root == root]
            named = [other for other in keys if other in self._positions]
            sample = named[:: max(len(named) // SAMPLE, 1)]
            if listing.count_on_names([(self.targets[other], self._published(other)) for other in sample]):
                keys = [other for other in keys if other not in self._positions]
            listing.look_ahead(self.targets[other] for other in keys)
        return self._listings[root]

    def _published(self, key: Key) -> StoredBlock | None:
        position = self._positions.get(key)
        if position is None:
            return None
        found: StoredBlock = self._index.block(position)
        return found

    @property
    def among(self) -> Set[Key]:
        """All keys that may be loaded, or written."""
        return self._positions.keys() | self.targets.keys() | self._kept

    def target(self, key: Key, token: bytes) -> Target | None:
        """Say where a task's block is wanted, or None where nobody wants it."""
        if key in self._kept:
            return None if self._is_only_read(key) else token
        name = key[0] if type(key) is tuple and key else None
        return self.targets.get(key) if name in self.writes else None

    def _is_only_read(self, key: Key) -> bool:
        """Tell whether a block is read, or selected of one that is: it lies in its source, or in the graph.

        A write behind a selection would keep dask from reading no more than what is selected.
        """
        while self._function(key) != self._data:
            if key[0] in self._computing:
                return False
            scope, node = self._tokens.task(key)
            if not isinstance(node, Alias) and not _is_selection(scope, node):
                if key[0] in self._blockwise and not is_one_of(node.func, READERS):
                    self._computing.add(key[0])
                return False
            inputs = list(self._tokens.inputs(key))
            if len(inputs) != 1 or inputs[0] == key:
                return False
            (key,) = inputs
        return True

    def _function(self, key: Key) -> bytes:
        if key[0] not in self._blockwise:
            return self._tokens.function(key)
        if key[0] not in self._functions:
            self._functions[key[0]] = self._tokens.function(key)
        return self._functions[key[0]]


def _is_selection(scope: Any, node: Any) -> bool:
    """Whether a task takes slices and positions of something."""
    if not isinstance(node, Task) or not is_one_of(node.func, READERS) or len(node.args) < 2:
        return False
    index = scope.literal(node.args[1])
    parts = index if isinstance(index, tuple) else (index,)
    return is_basic(tuple(part for part in parts if part is not None))


def may_read(settings: Settings) -> bool:
    """Whether settings let the pass look things up."""
    return settings.mode in ("read", "readwrite")


def may_write(settings: Settings) -> bool:
    """Whether settings let the pass store."""
    return settings.mode in ("write", "readwrite")

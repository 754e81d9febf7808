"""What a run will load, compute and write, and why: worked out without touching a store.

A `Plan` is a value that can be printed, tested and drawn; ``daskcache.graph`` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from daskcache.dask_internals import Key
from daskcache.errors import UncacheableError
from daskcache.pool import StoredBlock
from daskcache.tokens import GraphTokens

__all__ = ["Plan", "Target", "make_plan"]

Target = StoredBlock | bytes
"""Where a block goes; of one whose form nobody knows before it is there, its token."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with each task that the outputs need."""

    loads: Mapping[Key, StoredBlock] = field(default_factory=dict)
    """Tasks to be replaced by loads, and what each loads."""
    writes: Mapping[Key, Target] = field(default_factory=dict)
    """Tasks to be run whose blocks are wanted in the store, and where each goes."""
    needed: Mapping[str | None, Sequence[Key]] = field(default_factory=dict)
    """All tasks that are not above a load, by the layer that they are called by; by None those called otherwise."""
    uncacheable: Mapping[Key, UncacheableError] = field(default_factory=dict)
    """Wanted blocks that have no identity, and the reason of each."""

    @property
    def computes(self) -> frozenset[Key]:
        """Tasks to be run, those of `writes` included.

        Returns
        -------
        frozenset of Hashable
            Their keys.
        """
        return frozenset(key for keys in self.needed.values() for key in keys if key not in self.loads)

    @property
    def is_trivial(self) -> bool:
        """Whether the graph can be run as it is.

        Returns
        -------
        bool
            True where nothing is loaded and nothing written.
        """
        return not self.loads and not self.writes

    def __repr__(self) -> str:
        computes = sum(map(len, self.needed.values())) - len(self.loads)
        return (
            f"<Plan: {len(self.loads)} loads, {computes} computes, {len(self.writes)} writes, "
            f"{len(self.uncacheable)} uncacheable>"
        )


def make_plan(
    tokens: GraphTokens,
    outputs: Iterable[Key],
    *,
    find: Callable[[Key, bytes], StoredBlock | None],
    target: Callable[[Key, bytes], Target | None] = lambda key, token: None,
    marked: Container[str | None] = (),
    among: Set[Key] | None = None,
) -> Plan:
    """Cut a graph where blocks are stored already.

    Parameters
    ----------
    tokens : GraphTokens
        The graph and its tokens.
    outputs : iterable of Hashable
        The keys that are wanted.
    find : callable
        Gives, for a key and its token, the stored block that may take its place, or None.
    target : callable, optional
        Gives, for a key and its token, where its block is wanted, or None where nobody wants it stored.
    marked : container of str, optional
        Layers of which somebody wants the blocks, also those that have no token.
    among : set of Hashable, optional
        All other keys of which somebody wants the block, and all of which `find` or `target` give anything.

    Returns
    -------
    Plan
        Tasks above a load are not in it.

    Notes
    -----
    Goes over each needed task once, from the outputs down; stops at loads. Where there are none, as the tokens have done.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.fingerprint import Fingerprinter
    >>> x = da.ones((4, 4), chunks=2) + 1
    >>> tokens = GraphTokens(x.dask, Fingerprinter())
    >>> make_plan(tokens, [(x.name, 0, 0)], find=lambda key, token: None)
    <Plan: 0 loads, 2 computes, 0 writes, 0 uncacheable>
    """
    loads: dict[Key, StoredBlock] = {}
    writes: dict[Key, Target] = {}
    uncacheable: dict[Key, UncacheableError] = {}

    def go_on(name: str | None, keys: list[Key]) -> list[Key]:
        is_marked = name in marked
        if not is_marked and among is not None and (name not in called or among.isdisjoint(keys)):
            return keys
        going: list[Key] = []
        for key in keys:
            is_wanted = among is None or key in among
            token = tokens.token(key) if is_wanted else None
            if token is not None:
                stored = find(key, token) if may_load else None
                if stored is not None:
                    loads[key] = stored
                    continue
                wanted = target(key, token)
                if wanted is not None:
                    writes[key] = wanted
            elif is_marked or (is_wanted and among is not None):
                reason = tokens.reason(key)
                if reason is not None:
                    uncacheable[key] = reason
            going.append(key)
        return going

    called = {None, *(key[0] if type(key) is tuple and key else key for key in among or ())}
    may_load = among is None or any(_is_found(tokens, key, find) for key in among)
    needed = tokens.needs.by_layer([*outputs], go_on if may_load else None)
    if not may_load:
        for name, keys in needed.items():
            go_on(name, keys)
    return Plan(loads, writes, needed, uncacheable)


def _is_found(tokens: GraphTokens, key: Key, find: Callable[[Key, bytes], StoredBlock | None]) -> bool:
    token = tokens.token(key)
    return token is not None and find(key, token) is not None

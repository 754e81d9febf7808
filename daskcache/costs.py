"""The policy ``auto``: store the blocks that took much longer to compute than storing and loading them takes.

Tasks are weighed as dask has fused them, so that nothing comes between what it fuses. What a block cost is what its task
took, and its share of what the blocks cost that it was made of: a block that three others need counts a third for each.
Of what ran in other processes nothing is known, and nothing is counted.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dask.utils import key_split

from daskcache.dask_internals import GETTERS, Alias, Key, Task
from daskcache.errors import NotStoredError, StoreError
from daskcache.journal import note_weighed
from daskcache.outputs import OutputPlace, form_of, keep_output
from daskcache.pool import StoredBlock
from daskcache.reports import note
from daskcache.sharing import run_looking
from daskcache.tokens import GraphTokens, has_effect
from daskcache.tokens.collecting import without_collecting
from daskcache.weighed import Weighed, to_counts
from daskcache.writing import Writer

__all__ = ["WORTH", "Question", "weigh", "weigh_block", "weigh_tasks"]

logger = logging.getLogger("daskcache")

WORTH = 5
"""How many times longer than storing and loading it a block must have taken. Storing is about half of the two, so that a
run that stores all of its blocks takes a tenth longer."""

_LATENCY_S = 0.005
_BYTES_PER_S = 100e6
_SMALL = 2**16
_MOST_RUNS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What has to be known to weigh one block."""

    key: Key
    """The task's key."""
    layer: str
    """What people call its layer."""
    place: OutputPlace | None
    """Where the block would go; None where it is only measured."""
    token: bytes
    """Its token; empty where it is only measured."""
    writer: Writer
    """The run's checks."""
    inputs: tuple[tuple[Key, int], ...]
    """The tasks whose blocks it is made of, and how many tasks share each."""


@without_collecting
def weigh(
    dsk: Any,
    wanted: Collection[Key],
    tokens: GraphTokens,
    place: Callable[[Key], OutputPlace | None],
    writer: Writer,
) -> Any:
    """Weigh the blocks of a graph that dask has optimised.

    Parameters
    ----------
    dsk : HighLevelGraph or Mapping
        What dask's optimizer gave.
    wanted : collection of Hashable
        The keys that are wanted; these are stored anyway.
    tokens : GraphTokens
        The graph before.
    place : callable
        Says where the block of a key would go; None for one that is stored, loaded, or only read.
    writer : Writer
        The run's checks.

    Returns
    -------
    HighLevelGraph or Mapping
        With as many tasks of the same keys. `dsk` itself where the user has switched dask's fusing off.

    Notes
    -----
    Costs half a microsecond a task. What has to be known of a block is asked when its task runs, or leaves for another
    process.
    """
    if not isinstance(dsk, dict):
        return dsk
    questions = _Questions(dsk, wanted, tokens, place, writer)
    result = dict(dsk)
    new = _TimedTask.__new__
    for key, node in dsk.items():
        # Not subclasses, such as containers.
        if type(node) is Task and type(key) is tuple and node.key == key:
            # As `_TimedTask.of`, without a call.
            timed = new(_TimedTask)
            timed.key, timed._dependencies, timed.plain, timed.asks = key, node._dependencies, node, questions
            result[key] = timed
    return result


class _Questions:
    """What has to be known to weigh the blocks of a graph, each worked out when it is asked for."""

    def __init__(
        self,
        dsk: Mapping[Key, Any],
        wanted: Collection[Key],
        tokens: GraphTokens,
        place: Callable[[Key], OutputPlace | None],
        writer: Writer,
    ) -> None:
        self._dsk = dsk
        self._wanted = wanted
        self._tokens = tokens
        self._place = place
        self._writer = writer
        # Several threads ask, and tokens are for one at a time.
        self._lock = threading.Lock()

    @functools.cached_property
    def _links(self) -> tuple[dict[Key, Key], dict[Key, Key], Counter[Key]]:
        # dask calls what it has fused by another name, for which the old one is an alias.
        targets = {key: node.target for key, node in self._dsk.items() if isinstance(node, Alias)}
        names = {target: key for key, target in targets.items()}
        dependents = Counter(
            targets.get(dep, dep)
            for key, node in self._dsk.items()
            if key not in targets
            for dep in node.dependencies
        )
        return targets, names, dependents

    def __call__(self, task: Task) -> Question | None:
        """Give what has to be known of a task's block; None where the task is wanted itself, or for what it does."""
        with self._lock:
            targets, names, dependents = self._links
            key = task.key
            name = names.get(key, key)
            if not dependents[key] or key in self._wanted or name in self._wanted or has_effect(task):
                return None
            # What looks first stores its block anyway, and may have a key that no graph of the user's has.
            is_known = type(name) is tuple and task.func is not run_looking
            token = self._tokens.token(name) if is_known else None
            place = self._place(name) if token is not None and task.func not in GETTERS else None
            needed = {targets.get(dep, dep) for dep in task.dependencies}
            inputs = tuple((dep, dependents[dep]) for dep in needed if isinstance(self._dsk.get(dep), Task))
            return Question(key, key_split(key), place, token or b"", self._writer, inputs)


class _TimedTask(Task):
    """A task that weighs the block that it gives. It has the token of the task that it is.

    Of what a task has, only what schedulers ask for again and again is its own: one is made of every task of a graph.
    """

    plain: Task
    asks: _Questions | Question
    __slots__ = ("asks", "plain")

    @classmethod
    def of(cls, key: Key, plain: Task, asks: _Questions | Question) -> Self:
        timed = cls.__new__(cls)
        timed.key, timed._dependencies, timed.plain, timed.asks = key, plain._dependencies, plain, asks
        return timed

    func = property(lambda self: self.plain.func)
    args = property(lambda self: self.plain.args)
    kwargs = property(lambda self: self.plain.kwargs)
    data_producer = _data_producer = property(lambda self: self.plain.data_producer)
    is_coro = _is_coro = property(lambda self: self.plain.is_coro)
    _token = property(lambda self: self.plain._token)
    _repr = property(lambda self: repr(self.plain))

    @property
    def question(self) -> Question | None:
        asks = self.asks
        return asks if isinstance(asks, Question) else asks(self.plain)

    def __call__(self, values: Any = ()) -> Any:
        start = time.perf_counter()
        result = self.plain(values)
        seconds = time.perf_counter() - start
        question = self.question
        return result if question is None else weigh_block(result, seconds, question)

    def substitute(self, subs: dict[Any, Any], key: Key | None = None) -> Task:
        made = self.plain.substitute(subs, self.key if key is None else key)
        return _make_timed(made.key, made, self.question)

    def copy(self) -> Task:
        return type(self).of(self.key, self.plain, self.asks)

    def _get_token(self) -> str:
        token: str = self.plain._get_token()
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_timed, (self.key, self.plain, self.question)


def _make_timed(key: Key, plain: Task, question: Question | None) -> Task:
    if question is not None:
        return _TimedTask.of(key, plain, question)
    return plain if plain.key == key else plain.substitute({}, key)


def weigh_block(block: Any, seconds: float, question: Question) -> Any:
    """Store a block if it is worth it.

    Parameters
    ----------
    block : object
        What a task returned.
    seconds : float
        How long it took.
    question : Question
        What it is, and where it would go.

    Returns
    -------
    object
        The block; where another writer stored other bytes under its token before, those.
    """
    costs = _costs_of(question.writer.run)
    seconds += costs.take(question.inputs)
    form = form_of(block)
    if form is None or question.place is None:
        costs.put(question.key, seconds)
        return block
    nbytes = int(getattr(block, "nbytes", 0))
    rate = _rate_of(question.place.root)
    takes = rate.estimate(nbytes)
    is_worth = seconds >= WORTH * takes
    if is_worth:
        start = time.perf_counter()
        block = keep_output(block, question.place, question.token, question.writer)
        rate.note_write(nbytes, time.perf_counter() - start)
        if rate.wants_read:
            _try_read(rate, question.place.block(question.token, form))
    # Whoever needs it again loads it.
    costs.put(question.key, min(takes, seconds) if is_worth else seconds)
    found = Weighed(int(is_worth), int(not is_worth), seconds, takes, nbytes)
    note(question.writer.run, **to_counts(question.layer, found))
    note_weighed(question.writer.run, question.layer, found)
    return block


def _try_read(rate: _Rate, block: StoredBlock) -> None:
    start = time.perf_counter()
    try:
        block[...]
    except (NotStoredError, StoreError) as error:
        logger.info("how fast the store is read is not known: %s", error)
        return
    rate.note_read(block.nbytes, time.perf_counter() - start)


@dataclass(slots=True, eq=False)
class _Costs:
    """What the blocks of one run cost, that this process computed, until all that need them have run."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: dict[Key, float] = field(default_factory=dict)
    taken: Counter[Key] = field(default_factory=Counter)

    def put(self, key: Key, seconds: float) -> None:
        with self.lock:
            self.seconds[key] = seconds

    def take(self, inputs: tuple[tuple[Key, int], ...]) -> float:
        total = 0.0
        with self.lock:
            for key, sharers in inputs:
                total += self.seconds.get(key, 0.0) / sharers
                self.taken[key] += 1
                if self.taken[key] >= sharers:
                    self.seconds.pop(key, None)
                    del self.taken[key]
        return total


@dataclass(slots=True, eq=False)
class _Rate:
    """How fast a store is for this process: means in which new measurements count more."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    latency_s: dict[str, float] = field(default_factory=dict)
    s_per_byte: dict[str, float] = field(default_factory=dict)

    @property
    def wants_read(self) -> bool:
        return "read" not in self.latency_s and "read" not in self.s_per_byte

    def estimate(self, nbytes: int) -> float:
        return sum(
            self.latency_s.get(what, _LATENCY_S) + nbytes * self.s_per_byte.get(what, 1 / _BYTES_PER_S)
            for what in ("write", "read")
        )

    def note_write(self, nbytes: int, seconds: float) -> None:
        self._note("write", nbytes, seconds)

    def note_read(self, nbytes: int, seconds: float) -> None:
        self._note("read", nbytes, seconds)

    def _note(self, what: str, nbytes: int, seconds: float) -> None:
        with self.lock:
            if nbytes < _SMALL:
                self.latency_s[what] = _mean(self.latency_s.get(what), seconds)
            else:
                rest = max(seconds - self.latency_s.get(what, 0.0), 0.0)
                self.s_per_byte[what] = _mean(self.s_per_byte.get(what), rest / nbytes)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else 0.7 * old + 0.3 * new


_lock = threading.Lock()
_costs: dict[str, _Costs] = {}
_rates: dict[str, _Rate] = {}


def _costs_of(run: str) -> _Costs:
    with _lock:
        if run not in _costs:
            while len(_costs) >= _MOST_RUNS:
                del _costs[next(iter(_costs))]
            _costs[run] = _Costs()
        return _costs[run]


def _rate_of(root: str) -> _Rate:
    with _lock:
        return _rates.setdefault(root, _Rate())


def weigh_tasks(graph: Mapping[Key, Any]) -> list[Question]:
    """List what a graph weighs.

    Parameters
    ----------
    graph : mapping of Hashable to GraphNode
        What `weigh` gave.

    Returns
    -------
    list of Question
        Of blocks that may be stored.

    Examples
    --------
    >>> weigh_tasks({})
    []
    """
    asked = [node.question for node in graph.values() if isinstance(node, _TimedTask)]
    return [question for question in asked if question is not None and question.place is not None]

"""Functions whose results are kept."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dask.config

from daskcache.chunks import Hints
from daskcache.config import Settings, default_store
from daskcache.errors import (
    InvalidInputError,
    NotStoredError,
    SourceChangedError,
    StoreError,
    UncacheableError,
    warn_once,
)
from daskcache.fingerprint.declared_files import DeclaredSource, declared_sources
from daskcache.functions.keys import Call, Function
from daskcache.functions.memory import MEMORY
from daskcache.functions.options import PER_CALL, Definition, Options, current_options, passing_on
from daskcache.functions.recall import Recalled, drop_older, memory_key, recall
from daskcache.functions.saving import Details, Saved, save
from daskcache.functions.serializers import check_trust, format_of
from daskcache.functions.sources import Noted, collecting, note
from daskcache.functions.tables import Table
from daskcache.processors.chain import Bound, Chain

__all__ = ["CachedFunction"]

logger = logging.getLogger("daskcache")

Steps = Generator[Callable[[], Any] | inspect.BoundArguments, Any, Any]


class CachedFunction:
    """A function whose results are kept, as `daskcache.cache` makes one.

    Parameters
    ----------
    func : function
        The user's.
    definition : Definition
        How its results are kept.
    sources : tuple of DeclaredSource
        What it reads by itself.
    chain : Chain, optional
        What processors do to its arguments and results.

    Raises
    ------
    InvalidInputError
        It is a generator, or has no parameters of names that are given.
    """

    def __init__(
        self,
        func: Any,
        definition: Definition,
        sources: tuple[DeclaredSource, ...],
        chain: Chain | None = None,
    ) -> None:
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise InvalidInputError(
                f"{func.__qualname__} is a generator, whose results would be gone once they were stored; return a list, a "
                "table or an array instead"
            )
        if not callable(func) or isinstance(func, type):
            raise InvalidInputError(f"cache decorates functions, and was given {func!r}")
        for source in sources:
            if isinstance(func, types.FunctionType) and source not in declared_sources(func):
                source(func)
        functools.update_wrapper(self, func)
        self.__wrapped__ = func
        self.definition = definition
        self.sources = sources
        self.chain = Chain() if chain is None else chain
        self._form = format_of(definition.serializer, definition.format)
        self.__signature__ = self.chain.extend(inspect.signature(func))
        self.function = Function(
            func, definition.name, definition.version, definition.cache_args, definition.ignore, sources
        )
        # What the function takes for itself is never ours.
        self._own_words = PER_CALL & self.__signature__.parameters.keys()

    def with_processor(self, processor: Any) -> CachedFunction:
        """Put a processor around it.

        Parameters
        ----------
        processor : Processor
            Sees the result last.

        Returns
        -------
        CachedFunction
            Another function.
        """
        return CachedFunction(self.__wrapped__, self.definition, self.sources, self.chain + processor)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or recall what it returned."""
        steps = self._steps(args, kwargs)
        if inspect.iscoroutinefunction(self.__wrapped__):
            return _drive_async(steps, self.__wrapped__)
        return _drive(steps, self.__wrapped__)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        return CachedFunction, (self.__wrapped__, self.definition, self.sources, self.chain)

    def __repr__(self) -> str:
        return f"<cached function {self.function.name}>"

    def _steps(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Steps:
        """Do all but what takes long or awaits: what is yielded is done, and its result sent back.

        Yields
        ------
        callable or inspect.BoundArguments
            Work of ours, or the arguments that the function itself is to be called with.
        """
        given = {name: kwargs.pop(name) for name in PER_CALL - self._own_words if name in kwargs}
        chosen = current_options(self.definition.defaults, given)
        filled = self.__signature__.bind(*args, **kwargs)
        filled.apply_defaults()
        bound = self.chain.bind(self.function.signature, filled.arguments)
        settings = self._settings()
        check_trust(self._form, settings)
        self._check_upsert(chosen, given)
        call = self._identify(bound, filled.arguments, chosen, settings)
        if call is None:
            with passing_on(chosen):
                result = yield self._arguments(bound)
            return self.chain.process(result, bound.states)
        place = _Place.of(chosen, settings)
        part = self._part(call, filled.arguments, settings)
        table = Table(self.definition.database, part if chosen.upsert else None)
        for one in () if self._recomputes(chosen) else place.reads:
            found, finished = yield partial(self._recall, call, one, chosen, bound.states, table)
            if found is not None:
                note(found.sources, call.opens)
                if chosen.mode == "local_sync" and one is not place.writes[0] and not chosen.path_only:
                    yield partial(
                        self._keep,
                        found.value,
                        call,
                        place.writes[:1],
                        [Noted(found.sources, call.opens)],
                        bound,
                        part,
                        chosen,
                    )
                return found.path if chosen.path_only else finished
        if chosen.fail_if_missing or chosen.mode == "read_only_strict":
            raise NotStoredError(
                f"no result of this call of {self.function.name} is stored in namespace {settings.namespace!r}, or it is "
                "stale, and it shall not be computed; call it without fail_if_missing or the mode 'read_only_strict'"
            )
        with collecting() as inner, passing_on(chosen):
            result = yield self._arguments(bound)
        result = self.chain.trim(result, bound.states)
        is_anew = self._recomputes(chosen) and not chosen.upsert
        saved = yield partial(self._keep, result, call, place.writes, inner, bound, part, chosen, is_anew)
        for noted in inner if saved is None else [Noted(saved.sources, call.opens)]:
            note(*noted)
        if saved is None and chosen.path_only:
            raise NotStoredError(f"the result of {self.function.name} was not stored, so it has no path")
        if saved is not None and (saved.is_lazy or chosen.memoize or chosen.path_only or self._is_filled):
            # As the next call gets it: by reference, from memory, or with the rows of other calls.
            again = chosen.with_({"verify": "sources" if self._is_filled else "never", "retry_null": False})
            found, _ = yield partial(self._recall, call, place.writes[0], again, None, table)
            if found is not None and chosen.path_only:
                return found.path
            result = result if found is None else found.value
        return self.chain.process(result, bound.states)

    @property
    def _is_filled(self) -> bool:
        """Whether several calls fill one table."""
        return self.definition.upsert_keys is not None

    def _check_upsert(self, chosen: Options, given: Mapping[str, Any]) -> None:
        if not self._is_filled and (given.get("upsert") or self.definition.defaults.get("upsert")):
            raise InvalidInputError(
                f"{self.function.name} is called with upsert=True and has no upsert_keys; name the columns that tell its rows "
                "from each other, or give an empty list for rows that are added"
            )
        if self._is_filled and (
            chosen.mode.startswith("local") or (chosen.upsert and "read_only" in chosen.mode)
        ):
            raise InvalidInputError(
                f"{self.function.name} fills one table, which the mode {chosen.mode!r} has no meaning for; use 'write', "
                "'overwrite' or 'off', or 'read_only' without upsert"
            )

    def _part(self, call: Call, arguments: Mapping[str, Any], settings: Settings) -> str:
        """Tell the call from others that fill the same table."""
        return self.function.identify_part(arguments, call, settings) if self._is_filled else call.key.hex()

    def _identify(
        self, bound: Bound, arguments: Mapping[str, Any], chosen: Options, settings: Settings
    ) -> Call | None:
        """Give the identity of a call that is cached; None for one that is not."""
        when = self.definition.when
        if "off" in (chosen.mode, settings.mode) or (when is not None and not when(arguments)):
            return None
        try:
            counted = [processor.counted for processor in self.chain.processors]
            return self.function.identify(bound.key_arguments, settings, counted)
        except UncacheableError as error:
            if chosen.fail_if_missing or chosen.mode == "read_only_strict":
                raise
            self._report(error, settings)
            return None

    def _arguments(self, bound: Bound) -> inspect.BoundArguments:
        return inspect.BoundArguments(self.function.signature, dict(bound.arguments))

    def _recomputes(self, chosen: Options) -> bool:
        names = self.function.name, self.__wrapped__.__name__, self.__wrapped__.__qualname__
        is_named = chosen.recompute is True or chosen.recomputes(*names)
        return is_named or chosen.mode in ("overwrite", "local_overwrite")

    def _settings(self) -> Settings:
        settings = Settings.from_config(store=self.definition.store, namespace=self.definition.namespace)
        if self.definition.encoding is None:
            return settings
        return settings.with_(codecs=dict(self.definition.encoding))

    def _recall(
        self, call: Call, settings: Settings, chosen: Options, states: Any, table: Table
    ) -> tuple[Recalled | None, Any]:
        """Give what is stored, and what the caller gets of it; a store that fails is as if it were empty."""

        def covers(coverage: Any) -> bool:
            held = call.held_in(coverage)
            return states is None or (held is not None and self.chain.covers(held, states))

        try:
            table = replace(table, wanted=() if states is None else self.chain.wanted(states))
            found = recall(call, settings, chosen, covers, self._form, table)
            if found is None or chosen.path_only or states is None:
                return found, None
            finished, problem = self.chain.finish(found.value, states)
        except (StoreError, NotStoredError) as error:
            if self._is_filled:
                raise
            warn_once(f"a stored result of {self.function.name} cannot be read, and is computed: {error}")
            return None, None
        if problem is not None:
            logger.info("%s is computed again: %s", call.entry, problem)
            return None, None
        return found, finished

    def _keep(
        self,
        result: Any,
        call: Call,
        places: tuple[Settings, ...],
        inner: Sequence[Noted],
        bound: Bound,
        part: str,
        chosen: Options,
        is_anew: bool = False,
    ) -> Saved | None:
        """Store a result; None where that was not possible, of which the user is told."""
        saved: Saved | None = None
        coverage = call.say(self.chain.coverage(result, bound.states)) if self.chain else None
        hints = Hints.of(self.definition.hints) or self.chain.hints(bound.states)
        hints = None if hints is None else hints.resolve(bound.arguments)
        details = Details(tuple(inner), hints, coverage, self._form, part, is_anew)
        for settings in places:
            try:
                saved = save(result, call, settings, self.definition, details)
                MEMORY.drop(memory_key(settings, call))
                if chosen.force_overwrite and not self._is_filled:
                    drop_older(call, settings)
            except UncacheableError as error:
                if self._is_filled:
                    raise
                self._report(error, settings)
            except (StoreError, SourceChangedError) as error:
                if self._is_filled:
                    # One call's rows are not the table.
                    raise
                warn_once(f"a result of {self.function.name} was not stored: {error}")
        return saved

    def _report(self, error: UncacheableError, settings: Settings) -> None:
        if settings.on_uncacheable == "raise":
            raise error
        message = f"{self.function.name} is computed each time: {error}"
        if settings.on_uncacheable == "warn":
            warn_once(message, about=f"uncacheable {self.function.name}: {error}")
        else:
            logger.info("%s", message)


class _Place:
    """Which stores are looked at, in order, and which are written."""

    def __init__(self, reads: tuple[Settings, ...], writes: tuple[Settings, ...]) -> None:
        self.reads = reads
        self.writes = writes

    @classmethod
    def of(cls, chosen: Options, settings: Settings) -> _Place:
        main = (settings,)
        local: tuple[Settings, ...] = ()
        if chosen.mode.startswith("local"):
            configured = dask.config.get("daskcache.functions.local", None)
            local = (settings.with_(store=configured or f"{default_store()}-local"),)
        reads, writes = {
            "write": (main, main),
            "overwrite": ((), main),
            "local": ((*local, *main), local),
            "local_overwrite": ((), local),
            "local_sync": ((*local, *main), (*local, *main)),
            "local_strict": (local, local),
            "read_only": (main, ()),
            "read_only_strict": (main, ()),
        }[chosen.mode]
        return cls(
            tuple(one for one in reads if one.mode in ("read", "readwrite")),
            tuple(one for one in writes if one.mode in ("write", "readwrite")),
        )


def _drive(steps: Steps, function: Callable[..., Any]) -> Any:
    """Do the steps of a call one after another."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as stop:
            return stop.value
        answer = error = None
        try:
            answer = (
                function(*step.args, **step.kwargs) if isinstance(step, inspect.BoundArguments) else step()
            )
        except BaseException as caught:  # noqa: BLE001 (it goes back to where the step was asked for)
            error = caught


async def _drive_async(steps: Steps, function: Callable[..., Any]) -> Any:
    """Do the same in an event loop, which goes on while results are stored or read."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as stop:
            return stop.value
        answer = error = None
        try:
            if isinstance(step, inspect.BoundArguments):
                answer = await function(*step.args, **step.kwargs)
            else:
                answer = await asyncio.to_thread(step)
        except BaseException as caught:  # noqa: BLE001 (it goes back to where the step was asked for)
            error = caught

"""Functions whose results are kept: `cache`, and what it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from daskcache.errors import InvalidInputError
from daskcache.fingerprint import source as declare_source
from daskcache.functions.cached import CachedFunction
from daskcache.functions.options import Definition, Options, options

__all__ = ["CachedFunction", "cache", "options"]


@overload
def cache(function: Callable[..., Any], /) -> CachedFunction: ...
@overload
def cache(
    *,
    name: str | None = ...,
    namespace: str | None = ...,
    store: str | None = ...,
    version: Any = ...,
    cache_args: Sequence[str] | None = ...,
    ignore: Sequence[str] | None = ...,
    when: Any = ...,
    unless: Any = ...,
    source: Any = ...,
    expires: str | float | None = ...,
    chunks: Any = ...,
    hints: Any = ...,
    encoding: Mapping[str, Any] | None = ...,
    format: str | None = ...,
    serializer: Any = ...,
    database: str | None = ...,
    upsert_keys: Sequence[str] | None = ...,
    **defaults: Any,
) -> Callable[[Callable[..., Any]], CachedFunction]: ...
def cache(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    namespace: str | None = None,
    store: str | None = None,
    version: Any = None,
    cache_args: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    when: Any = None,
    unless: Any = None,
    source: Any = None,
    expires: str | float | None = None,
    chunks: Any = None,
    hints: Any = None,
    encoding: Mapping[str, Any] | None = None,
    format: str | None = None,  # noqa: A002 (as in many a library that writes files)
    serializer: Any = None,
    database: str | None = None,
    upsert_keys: Sequence[str] | None = None,
    **defaults: Any,
) -> Any:
    """Keep the results of a function: called again with the same arguments it does not run again.

    The same call is: the same code, with all that it reads and calls, and the same arguments by value, however they are
    passed. A result is recalled as long as the sources are as they were that it was read from.

    Parameters
    ----------
    function : callable, optional
        The function, where the decorator is used without parentheses. Methods and ``async def`` are as welcome.
    name : str, optional
        What its entries are called, with the call's digest behind it; by default its module and qualified name.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.
    version : str, optional
        Enters the key beside the code; `daskcache.version` stands in its place.
    cache_args : list of str, optional
        The only arguments that count. By default all do.
    ignore : list of str, optional
        Arguments that do not count.
    when : callable, bool, mapping or list of mappings, optional
        A function of the arguments, by name, that says whether a call is cached; or a table: calls are whose arguments
        have the values of one of its rows.
    unless : callable, bool, mapping or list of mappings, optional
        The same of calls that are not cached.
    source : path, list of paths, optional
        Files, directories, URLs or patterns that the function reads by itself, as for `daskcache.source`: when one
        changes, the result is another. What xarray opens lazily shows by itself.
    expires : str or float, optional
        Such as ``"30d"``, or seconds: so long after it was stored a result is computed again.
    chunks : optional
        How arrays are rechunked before they are stored.
    hints : optional
        How arrays will be read; see `daskcache.Hints`.
    encoding : mapping, optional
        Codecs of arrays in place of the configured ones, such as ``{"name": "zstd", "level": 9}``.
    format : str, optional
        ``"zarr"``, ``"parquet"``, ``"json"``, ``"sql"`` or ``"delta"`` for tables, one that is registered, or
        ``"pickle"``, which has to be switched on; by default the one of the result's type.
    serializer : object, optional
        For results of other types: something with ``dumps`` and ``loads``, or a pair of functions.
    database : str, optional
        The URL of the database of ``format="sql"``, without a password, instead of ``daskcache.functions.database``.
    upsert_keys : list of str, optional
        Columns or index levels that tell the rows of a table from each other. All calls whose counted arguments are the
        same fill one table then: ``upsert=True`` puts the rows of a call into it. An empty list: rows are added, and none
        is taken for another.
    **defaults
        What may also be given with each call or in `daskcache.options`: ``recompute``, ``memoize``, ``mode``,
        ``fail_if_missing``, ``retry_null``, ``path_only``, ``verify``, ``upsert``.

    Returns
    -------
    CachedFunction
        Called as the function is. The options named last are keywords of each call as well, except where the function has
        a parameter of that name.

    Raises
    ------
    InvalidInputError
        The function is a generator, or an option is not of its form.

    Notes
    -----
    What cannot be keyed or stored is computed each time, with one warning that says why; a store that fails is warned of
    once, and what is not found there is computed. A dask-backed result is stored block by block, and is given back lazy,
    with the tokens of the graph that made it: what is computed of it, cached functions included, is found by any pipeline
    that computes the same.

    A recall costs two requests, and a look at each source.

    Examples
    --------
    >>> import dask, daskcache
    >>> @daskcache.cache(expires="30d")
    ... def square(x, power=2):
    ...     print("computing")
    ...     return x**power
    >>> with dask.config.set({"daskcache.store": "memory://doc-cache"}):
    ...     square(3), square(x=3), square(3, power=2)
    computing
    (9, 9, 9)
    """
    Options().with_(defaults)
    definition = Definition.check(
        name=name,
        namespace=namespace,
        store=store,
        version=version,
        cache_args=cache_args,
        ignore=ignore,
        when=when,
        unless=unless,
        expires=expires,
        chunks=chunks,
        hints=hints,
        encoding=encoding,
        format=format,
        serializer=serializer,
        database=database,
        upsert_keys=upsert_keys,
        defaults=defaults,
    )
    paths = [source] if isinstance(source, str | os.PathLike) else list(source or ())
    sources = tuple(declare_source(path) for path in paths)

    def decorate(function: Any) -> CachedFunction:
        # Processors below work on what is stored, as those above do.
        chain = getattr(function, "chain", None)
        if isinstance(function, CachedFunction):
            raise InvalidInputError(f"{function!r} is cached already")
        inner = function.function if chain is not None else function
        return CachedFunction(inner, definition, sources, chain)

    return decorate if function is None else decorate(function)

"""Why blocks are not stored: what changed since the newest version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.utils import key_split

from daskcache import runs, stores
from daskcache.catalog import Catalog, check_name
from daskcache.catalog.packs import read_weighed
from daskcache.causes import Change, Kind, Tracer, describe_gone
from daskcache.config import Settings
from daskcache.costs import WORTH
from daskcache.datasets import Collection, OutlineVariable
from daskcache.errors import EntryNotFoundError, StoreError
from daskcache.graph import keys_of
from daskcache.identity import Identified, identify
from daskcache.listing import Listing
from daskcache.manifest import UNNAMED, Manifest, StoredVariable
from daskcache.recipe import Recipe, read_recipe
from daskcache.weighed import Weighed, describe_weighed

__all__ = ["WEIGHED_BY", "Cause", "Explanation", "Uncacheable", "explain"]

WEIGHED_BY = f"weighed by the policy auto, which stores what takes {WORTH} times as long to compute as to store and load"
"""The head of a list of what was weighed."""

_SHOWN = 12
_LEAST_ALIKE = 0.5
_LONG_NAME = 110


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that missing blocks have in common."""

    kind: Kind
    """``function``, ``value`` (that a function reads), ``argument``, ``data`` (in memory), ``library``, ``source``,
    ``step`` (the graph is built otherwise), ``settings``, ``grown``, ``chunks``, ``gone``, ``never`` or ``unknown``.
    """
    text: str
    """What it is, in words."""
    blocks: int
    """How many missing blocks depend on it; one that depends on several causes counts for each."""

    def __str__(self) -> str:
        return f"{self.blocks}: {self.text}"


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """Blocks that have no identity."""

    path: str
    """Their variable."""
    reason: str
    """Why, with the way to the offending part."""
    blocks: int
    """How many they are."""

    def __str__(self) -> str:
        return f"{self.blocks}: {_show(self.path)} cannot be stored: {self.reason}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why blocks of an object are not stored."""

    store: str
    """The store's root, without credentials."""
    entry: str | None
    """What the object was compared with, as ``namespace/entry``; None where nothing is like it."""
    version: str | None
    """The version of the entry; None where none is published."""
    blocks: int
    """All blocks of the object that dask computes."""
    missing: int
    """Those that are not stored, but could be."""
    causes: tuple[Cause, ...] = ()
    """Those that cost most first."""
    uncacheable: tuple[Uncacheable, ...] = ()
    """What cannot be stored at all."""
    weighed: Mapping[str, Weighed] = field(default_factory=dict)
    """What runs under the policy ``auto`` found of the object's layers and have recorded in the namespace, by layer as
    dask has fused it."""
    weighed_last: Mapping[str, Weighed] = field(default_factory=dict)
    """The same of the last run of this process alone, if it used this store and namespace."""

    def __iter__(self) -> Iterator[Cause]:
        return iter(self.causes)

    def __str__(self) -> str:
        against = f", compared with {self.entry}@{self.version[:12]}" if self.version else ""
        lines = [f"{self.missing} of {self.blocks} blocks are not stored in {self.store}{against}"]
        lines += [f"  {cause}" for cause in self.causes[:_SHOWN]]
        if len(self.causes) > _SHOWN:
            lines.append(f"  … and {len(self.causes) - _SHOWN} more causes")
        lines += [f"  {found}" for found in self.uncacheable]
        if self.weighed or self.weighed_last:
            lines.append(WEIGHED_BY)
        for layer in sorted(self.weighed.keys() | self.weighed_last.keys()):
            # What the last run found is part of what is recorded, once it is.
            recorded, last = self.weighed.get(layer), self.weighed_last.get(layer)
            if recorded is not None:
                lines.append(f"  `{layer}`: {describe_weighed(recorded)}")
            if last is not None:
                lines.append(f"  `{layer}`, in the last run: {describe_weighed(last)}")
        return "\n".join(lines)

    __repr__ = __str__


def explain(
    obj: Collection, name: str | None = None, *, namespace: str | None = None, store: str | None = None
) -> Explanation:
    """Tell why blocks of an object are not stored: what changed since it was stored last.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree or dask.array.Array
        The object. Nothing is computed.
    name : str, optional
        The entry to compare it with; by default the one whose recipe has most functions in common with it.
    namespace : str, optional
        Instead of the configured one.
    store : str, optional
        URL or path, instead of the configured one.

    Returns
    -------
    Explanation
        Each cause with the number of missing blocks that depend on it, and what the policy ``auto`` found of its layers.

    Raises
    ------
    InvalidInputError
        The name is not one.
    StoreError
        The store cannot be read.

    Notes
    -----
    Costs what `status` costs, two requests, a listing, and one request for each list of what the pass has stored in the
    namespace; without a name two requests for each entry of the namespace.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskcache.persist import persist
    >>> x = da.arange(8, chunks=2)
    >>> kept = persist(x.clip(0, 5), "clipped", store="memory://doc-explain")
    >>> explain(x.clip(0, 6), "clipped", store="memory://doc-explain")
    4 of 4 blocks are not stored in memory://doc-explain, compared with default/clipped@...
      4: argument `a_max` of `numpy.clip` changed
    """
    settings = Settings.from_config(store=store, namespace=namespace)
    if name is not None:
        check_name(name)
    identified = identify(obj, settings)
    arrays = list(identified.arrays.values())
    graph = HighLevelGraph.merge(*(array.dask for array in arrays))
    recipe = read_recipe(identified.tokens, graph, [array.name for array in arrays])
    catalog = Catalog.of(settings)
    entry, manifest = _find(catalog, name, recipe)
    counts: Counter[Change] = Counter()
    missing = 0
    for path, changes in _causes(identified, graph, recipe, manifest, Listing(settings.pool_root)):
        missing += 1
        counts.update(changes or [Change("unknown", f"nothing that is recorded of {_show(path)} changed")])
    causes = [Cause(change.kind, change.text, count) for change, count in _merge(counts).items()]
    return Explanation(
        stores.describe(settings.store),
        None if entry is None else f"{settings.namespace}/{entry}",
        None if manifest is None else manifest.version,
        sum(array.npartitions for array in arrays),
        missing,
        tuple(sorted(causes, key=lambda cause: (-cause.blocks, cause.text))),
        tuple(_uncacheable(identified)),
        _of_layers(read_weighed(settings.pool_root, settings.namespace), graph),
        _of_layers(_weighed_last(settings), graph),
    )


def _weighed_last(settings: Settings) -> Mapping[str, Weighed]:
    run = runs.last_run()
    place = stores.describe(settings.store), settings.namespace
    return {} if run is None or (run.store, run.namespace) != place else run.weighed


def _of_layers(weighed: Mapping[str, Weighed], graph: HighLevelGraph) -> dict[str, Weighed]:
    """Pick what was found of layers of a graph, which dask names after those that it has fused."""
    names = {key_split(layer) for layer in graph.layers}

    @cache
    def is_made_of_them(label: str) -> bool:
        return label in names or any(
            is_made_of_them(label[len(name) + 1 :]) for name in names if label.startswith(f"{name}-")
        )

    # Of a long name dask keeps the beginning.
    return {
        layer: found
        for layer, found in weighed.items()
        if is_made_of_them(layer) or (len(layer) > _LONG_NAME and layer.startswith(tuple(names)))
    }


def _show(path: str) -> str:
    return "the array" if path == UNNAMED else f"`{path}`"


def _merge(counts: Counter[Change]) -> dict[Change, int]:
    # A change is the same for people whether or not it may differ between blocks.
    merged: dict[tuple[str, str], tuple[Change, int]] = {}
    for change, count in counts.items():
        known = merged.get((change.kind, change.text))
        merged[change.kind, change.text] = change, count + (known[1] if known else 0)
    return dict(merged.values())


def _find(catalog: Catalog, name: str | None, recipe: Recipe) -> tuple[str | None, Manifest | None]:
    """Find the newest version of an entry, by default of that which is most like a recipe."""
    if name is not None:
        try:
            return name, catalog.open(name)
        except EntryNotFoundError:
            return name, None
    best: tuple[float, str, str, Manifest] | None = None
    wanted = set(recipe.functions)
    for entry in catalog.entries():
        try:
            manifest = catalog.open(entry)
        except (EntryNotFoundError, StoreError):
            # It went, or is damaged: there are others.
            continue
        other = Recipe.from_json(manifest.info.get("recipe"))
        names = set() if other is None else set(other.functions)
        alike = len(names & wanted) / max(len(names | wanted), 1)
        published = manifest.info.get("published", {})
        found = alike, str(published.get("time", "")), entry, manifest
        if alike > _LEAST_ALIKE and (best is None or found[:3] > best[:3]):
            best = found
    return (None, None) if best is None else (best[2], best[3])


def _causes(
    identified: Identified,
    graph: HighLevelGraph,
    recipe: Recipe,
    manifest: Manifest | None,
    listing: Listing,
) -> Iterator[tuple[str, list[Change]]]:
    """Give, for each missing block, its variable and what it is missing for."""
    old = None if manifest is None else Recipe.from_json(manifest.info.get("recipe"))
    tracer = None if old is None else Tracer(identified.tokens, graph, recipe, old)
    has_other_settings = old is not None and old.settings != recipe.settings
    variables: Mapping[str, StoredVariable] = (
        {} if manifest is None else {variable.path: variable for variable in manifest.variables}
    )
    for path, blocks in identified.targets.items():
        variable = variables.get(path)
        described = identified.outline.variable(path)
        published = set() if variable is None else {row.tobytes() for row in variable.tokens}
        keys = keys_of([identified.arrays[path]])
        for index, key, block in zip(np.ndindex(*map(len, described.chunks)), keys, blocks, strict=True):
            if listing.find(block) is not None:
                continue
            if manifest is None or variable is None:
                yield path, [Change("never", f"{_show(path)} was never stored")]
            elif block.token in published:
                yield (
                    path,
                    [Change("gone", f"{_show(path)} was stored and has gone, or other codecs are set")],
                )
            elif tracer is None:
                yield path, [Change("unknown", "the version does not tell how it was made")]
            elif has_other_settings:
                text = "settings that all tokens depend on changed (salt, code.versions, sources.check)"
                yield path, [Change("settings", text)]
            else:
                yield path, _of_block(tracer, key, _place(described, variable, index))


def _of_block(tracer: Tracer, key: object, place: Change | None) -> list[Change]:
    changes = tracer.changes(key)
    if place is not None:
        # What is said of each block says nothing of one that did not exist.
        return [place, *(change for change in changes if not change.is_local)]
    if not changes and tracer.gone:
        names = describe_gone(tracer.gone)
        return [Change("step", f"{names or 'a step'} is not there any more")]
    return changes


def _place(new: OutlineVariable, old: StoredVariable, index: tuple[int, ...]) -> Change | None:
    """Tell what became of a block's place in the grid: None where it is what it was."""
    if len(new.chunks) != len(old.chunks):
        return Change("chunks", f"{_show(new.path)} has other dimensions")
    for dim, number, now, before in zip(new.dims, index, new.chunks, old.chunks, strict=True):
        stop = sum(now[: number + 1])
        bounds = stop - now[number], stop
        if number < len(before) and sum(before[:number]) == bounds[0] and before[number] == now[number]:
            continue
        if bounds[1] > sum(before):
            return Change("grown", f"{_show(new.path)} grew along `{dim}` from {sum(before)} to {sum(now)}")
        return Change("chunks", f"{_show(new.path)} is in other blocks along `{dim}`")
    return None


def _uncacheable(identified: Identified) -> Iterator[Uncacheable]:
    for path in identified.reasons:
        reasons = Counter(
            str(reason)
            for key in keys_of([identified.arrays[path]])
            if (reason := identified.tokens.reason(key)) is not None
        )
        yield from (Uncacheable(path, reason, count) for reason, count in sorted(reasons.items()))

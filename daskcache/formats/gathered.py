"""Tables that several calls put rows into, as Parquet: a file for each call and partition, and a manifest of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, override

from daskcache.catalog import Catalog
from daskcache.config import Settings
from daskcache.datasets import PackedBlocks
from daskcache.errors import CorruptChunkError, EntryNotFoundError
from daskcache.formats.base import Encoded, Format
from daskcache.formats.columns import arrow
from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.entries import PART, draft_encoded, read_part
from daskcache.formats.holding import Holding, Parts, Rows, merge
from daskcache.formats.keeper import Keeper
from daskcache.formats.ledger import Contribution, Ledger, Writing
from daskcache.formats.tables import read_parquet
from daskcache.formats.turns import take_turn
from daskcache.listing import Listing
from daskcache.manifest import Manifest, StoredVariable
from daskcache.pool import write_block

__all__ = ["GATHERED", "GatheredKeeper", "latest_of"]

GATHERED = "gathered"
"""What manifests call such tables."""


@dataclass(frozen=True, slots=True)
class GatheredKeeper(Keeper):
    """The table of one entry, in the store itself.

    Examples
    --------
    >>> GatheredKeeper(Settings("memory://doc-gathered"), "daily/call-00").name
    'gathered'
    """

    settings: Settings
    """The store and namespace."""
    entry: str
    """The name."""

    @property
    @override
    def name(self) -> str:
        return GATHERED

    @override
    def write(self, own: Contribution, rows: Rows, keys: Sequence[str] | None, how: Writing) -> None:
        with take_turn(self.settings, self.entry) as turn:
            manifest = None if how.is_anew() else latest_of(self.settings, self.entry, GATHERED)
            holding, living = None, Ledger()
            stored: dict[int, StoredVariable] = {}
            if manifest is not None:
                holding = self.look(manifest)
                stored = _by_part(manifest)
                living = holding.ledger.living(how.is_changed)
                living = living.without(self.lost(manifest))

            def read(part: int, names: Sequence[str] | None) -> Any:
                table = read_parquet(read_part(stored[part], self.settings.pool_root))
                return table if names is None else table.select(list(names))

            merged = merge(holding, Parts(read), living, own, rows, keys)
            written = {part: stored[part] for part in merged.holding.pieces if part in stored}
            given = chain(merged.changed.items(), zip(merged.added, rows.parts, strict=True))
            for part, contents in given:
                written[part] = self._write_part(part, contents)
            turn.check()
            attrs = {"is_gathered": keys is not None, "holding": merged.holding.to_json()}
            how.publish(attrs, tuple(written[part] for part in merged.holding.pieces))

    @override
    def lost(self, manifest: Manifest) -> set[int]:
        stored = {part: one for part, one in _by_part(manifest).items() if one.inline is None}
        if not stored:
            return set()
        root = self.settings.pool_root
        listing = Listing(root)
        return {
            part
            for part, variable in stored.items()
            if any(listing.find(block) is None for block in PackedBlocks(root, variable))
        }

    @override
    def read(self, manifest: Manifest, holding: Holding, wanted: Sequence[Wanted] = ()) -> Contents:
        # All rows are given.
        stored = _by_part(manifest)
        root = self.settings.pool_root
        tables = [read_parquet(read_part(stored[part], root)) for part in holding.pieces]
        whole = holding.whole()
        plain = [table.replace_schema_metadata(whole.table.schema.metadata) for table in tables]
        return whole.with_rows(arrow().concat_tables(plain))

    @override
    def read_part(self, manifest: Manifest, holding: Holding, part: int) -> Contents:
        data = read_part(_by_part(manifest)[part], self.settings.pool_root)
        return holding.part(part).with_rows(read_parquet(data))

    def _write_part(self, part: int, contents: Contents) -> StoredVariable:
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(contents.table, sink, compression="zstd", use_compliant_nested_type=False)
        draft = draft_encoded(_AS_PART, Encoded((sink.getvalue(),)), self.settings, {})
        for _, _, target, values in draft.pending:
            write_block(target.root, target.group, target.token, target.spec, values)
        (variable,) = draft.manifest.variables
        return replace(variable, path=f"{PART}{part}", dims=(f"{PART}{part}_bytes",))


def latest_of(settings: Settings, entry: str, name: str) -> Manifest | None:
    """Read the newest version of an entry.

    Parameters
    ----------
    settings : Settings
        The store and namespace.
    entry : str
        The name.
    name : str
        What its manifest calls such tables.

    Returns
    -------
    Manifest or None
        None where there is none, or one of something else.
    """
    catalog = Catalog.of(settings)
    latest = catalog.latest(entry)
    if latest is None:
        return None
    try:
        found = catalog.open(entry, latest.version)
    except (EntryNotFoundError, CorruptChunkError):
        # Damaged, or dropped this moment: it begins anew.
        return None
    return found if found.name == name else None


def _by_part(manifest: Manifest) -> dict[int, StoredVariable]:
    return {int(variable.path.removeprefix(PART)): variable for variable in manifest.variables}


def _take(parts: Any, attrs: Any = None) -> Encoded:
    return Encoded(tuple(parts))


_AS_PART = Format("part", "table", lambda value: True, _take, _take)

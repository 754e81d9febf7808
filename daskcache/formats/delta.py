"""Tables as Delta: one for each entry, of which a manifest names a version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, override
from uuid import uuid4

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import (
    InvalidInputError,
    MissingExtraError,
    NotStoredError,
    StoreError,
    UncacheableError,
)
from daskcache.formats.columns import arrow, from_template, lower, restore
from daskcache.formats.contents import Contents, Wanted
from daskcache.formats.gathered import latest_of
from daskcache.formats.holding import Holding, Parts, Rows, merge
from daskcache.formats.keeper import Keeper
from daskcache.formats.ledger import Contribution, Ledger, Writing
from daskcache.formats.sql_names import PART, ROW, column_names, table_name
from daskcache.formats.turns import take_turn
from daskcache.manifest import Manifest

__all__ = ["DELTA", "NOTE", "TABLES", "DeltaKeeper", "deltalake"]

DELTA = "delta"
"""What manifests call such tables."""

TABLES = "tables"
"""The directory of a store that holds them."""

NOTE = "_daskcache"
"""The object beside a table that names its entry."""


def deltalake() -> Any:
    """Import deltalake.

    Returns
    -------
    module
        The library.

    Raises
    ------
    MissingExtraError
        It is not installed.

    Examples
    --------
    >>> deltalake().__name__
    'deltalake'
    """
    try:
        import deltalake as library
    except ImportError as error:
        raise MissingExtraError("Delta tables need deltalake; pip install 'daskcache[delta]'") from error
    return library


@dataclass(frozen=True, slots=True)
class DeltaKeeper(Keeper):
    """The table of one entry as Delta, below the store's root.

    Examples
    --------
    >>> DeltaKeeper(Settings("/data/cache"), "daily.mean/call-00").path
    '/data/cache/tables/default/daily_mean_...'
    """

    settings: Settings
    """The store and namespace; on a local disk."""
    entry: str
    """The name."""

    @property
    @override
    def name(self) -> str:
        return DELTA

    @property
    def key(self) -> str:
        """Where the table lies in the store."""
        return f"{TABLES}/{self.settings.namespace}/{table_name('', self.settings.namespace, self.entry)}"

    @property
    def path(self) -> str:
        """Where the table lies, for deltalake."""
        root = self.settings.store
        if not os.path.isabs(root):
            raise InvalidInputError(
                f"format='delta' keeps tables in a store on a local disk, and the store is {stores.describe(root)}; give the "
                "function a store=, or use format='parquet'"
            )
        return os.path.join(root, self.key)

    @override
    def write(self, own: Contribution, rows: Rows, keys: Sequence[str] | None, how: Writing) -> None:
        library = deltalake()
        pa = arrow()
        path = self.path
        with take_turn(self.settings, self.entry) as turn:
            manifest = None if how.is_anew() or keys is None else latest_of(self.settings, self.entry, DELTA)
            holding, living, old = None, Ledger(), None
            if manifest is not None:
                try:
                    old = self._open(manifest)
                except NotStoredError:
                    manifest = None
            if manifest is not None:
                holding = self.look(manifest)
                living = holding.ledger.living(how.is_changed)

            def read(part: int, names: Sequence[str] | None) -> Any:
                assert holding is not None
                table = self._rows_of(old, holding, part)
                return table if names is None else table.select(list(names))

            merged = merge(holding, Parts(read), living, own, rows, keys)
            template = from_template(merged.holding.template)
            plain = lower(template, "Delta")
            fields = [pa.field(PART, pa.int64()), pa.field(ROW, pa.int64())]
            names = column_names(template.column_names)
            fields += [pa.field(name, field.type) for name, field in zip(names, plain.schema, strict=True)]
            schema = pa.schema(fields)
            first = min(merged.added)

            def fresh(part: int) -> Contents:
                return rows.parts[part - first] if part >= first else merged.changed[part]

            def batches() -> Iterator[Any]:
                for part in merged.holding.pieces:
                    is_fresh = part >= first or part in merged.changed
                    table = fresh(part).table if is_fresh else read(part, None)
                    yield from _numbered(lower(table, "Delta"), part, schema)

            stamp = uuid4().hex
            stores.put(stores.open(self.settings.store), f"{self.key}/{NOTE}", self.entry.encode("utf-8"))
            with _translating(library, path):
                library.write_deltalake(
                    path,
                    pa.RecordBatchReader.from_batches(schema, batches()),
                    mode="overwrite",
                    schema_mode="overwrite",
                    commit_properties=library.CommitProperties(custom_metadata={"daskcache": stamp}),
                )
                version = _version_of(library.DeltaTable(path), stamp)
                made = self._scan(library.DeltaTable(path, version=version))
            for part in (*merged.changed, *merged.added):
                contents = fresh(part)
                found = self._rows_of(made, merged.holding, part)
                if not contents.is_same(found.replace_schema_metadata(contents.table.schema.metadata)):
                    raise UncacheableError(
                        "Delta gives other values back than it was given; use format='parquet'"
                    )
            turn.check()
            attrs = {"is_gathered": keys is not None, "holding": merged.holding.to_json()}
            how.publish({**attrs, "key": self.key, "delta_version": version}, ())

    @override
    def lost(self, manifest: Manifest) -> set[int]:
        # All of them, or none.
        try:
            self._open(manifest)
        except NotStoredError:
            return set(self.look(manifest).pieces)
        return set()

    @override
    def read(self, manifest: Manifest, holding: Holding, wanted: Sequence[Wanted] = ()) -> Contents:
        # All rows are given.
        table = self._open(manifest)
        whole = holding.whole()
        return whole.with_rows(self._rows_of(table, holding, *holding.pieces))

    @override
    def read_part(self, manifest: Manifest, holding: Holding, part: int) -> Contents:
        return holding.part(part).with_rows(self._rows_of(self._open(manifest), holding, part))

    def _open(self, manifest: Manifest) -> Any:
        """Give the version that a manifest names, as a dataset of Arrow's."""
        library = deltalake()
        attrs = manifest.nodes[""].attrs
        if attrs["key"] != self.key:
            raise NotStoredError(f"{attrs['key']!r:.80} is not the table of {self.entry}")
        try:
            table = library.DeltaTable(self.path, version=int(attrs["delta_version"]))
            missing = [path for path in table.file_uris() if not os.path.exists(path)]
        except library.exceptions.DeltaError as error:
            raise NotStoredError(
                f"version {attrs['delta_version']} of {self.key} is gone: {error}"
            ) from error
        if missing:
            raise NotStoredError(f"a file of version {attrs['delta_version']} of {self.key} is gone")
        return self._scan(table)

    def _scan(self, table: Any) -> Any:
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

        # With Arrow's own files, because deltalake cannot read while it writes.
        with _translating(deltalake(), self.path):
            return table.to_pyarrow_dataset(filesystem=SubTreeFileSystem(self.path, LocalFileSystem()))

    def _rows_of(self, dataset: Any, holding: Holding, *parts: int) -> Any:
        import pyarrow.compute as pc

        pa = arrow()
        template = from_template(holding.template)
        plain = lower(template, "Delta")
        with _translating(deltalake(), self.path):
            found = dataset.to_table(filter=pc.field(PART).isin(list(parts)))
        found = found.sort_by([(PART, "ascending"), (ROW, "ascending")]).drop_columns([PART, ROW])
        columns = [column.cast(field.type) for column, field in zip(found.columns, plain.schema, strict=True)]
        return restore(pa.Table.from_arrays(columns, schema=plain.schema), template)


def _numbered(table: Any, part: int, schema: Any) -> Iterator[Any]:
    pa = arrow()
    numbers = [pa.array([part] * table.num_rows, pa.int64()), pa.array(range(table.num_rows), pa.int64())]
    whole = pa.Table.from_arrays([*numbers, *table.columns], schema=schema)
    yield from whole.to_batches()


def _version_of(table: Any, stamp: str) -> int:
    for commit in table.history(20):
        if commit.get("daskcache") == stamp:
            return int(commit["version"])
    raise StoreError(f"the version that was written to {table.table_uri} is not in its history")


@contextmanager
def _translating(library: Any, path: str) -> Iterator[None]:
    try:
        yield
    except library.exceptions.SchemaMismatchError as error:
        raise UncacheableError(f"Delta cannot hold the table: {error}; use format='parquet'") from error
    except (library.exceptions.DeltaError, OSError) as error:
        raise StoreError(f"Delta table {path}: {error}") from error

"""Tables of dask: each partition as Parquet, written by the task that computes it, and read by a task again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.config
import numpy as np
from dask.base import compute
from dask.delayed import delayed

from daskcache.attributes import encode_attribute
from daskcache.config import Settings
from daskcache.errors import MissingExtraError, UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint_as
from daskcache.formats.base import Format, is_of_type
from daskcache.formats.entries import PART, draft_encoded, read_part
from daskcache.formats.tables import decode_frame, encode_frame
from daskcache.manifest import Manifest, Node, StoredVariable
from daskcache.pool import write_block
from daskcache.publishing import Draft

__all__ = ["FRAME", "StoredPartition", "draft_frame", "is_dask_frame", "is_frame", "open_frame"]

FRAME = "dask.dataframe"
"""What manifests call the format."""

_META = "meta"


def is_dask_frame(value: Any) -> bool:
    """Whether a value is a table of dask, or a column of one."""
    return hasattr(value, "divisions") and hasattr(value, "_meta") and hasattr(value, "to_delayed")


def is_frame(manifest: Manifest) -> bool:
    """Whether a manifest is of a table of dask."""
    return manifest.kind == "table" and manifest.name == FRAME


@dataclass(frozen=True, slots=True, eq=False)
class StoredPartition:
    """A stored partition, as the literal of the task that reads it: its identity is that of what was stored."""

    root: str
    """Below which the objects lie."""
    variable: StoredVariable
    """The bytes."""
    attrs: Mapping[str, Any]
    """What it takes to read them."""
    is_series: bool
    """Whether it is one column."""

    def __daskcache_region__(self, index: Any, fingerprinter: Fingerprinter) -> bytes:
        content = self.variable.inline or np.ascontiguousarray(self.variable.tokens).tobytes()
        return fingerprinter.digester.digest(b"stored partition", content)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "daskcache.StoredPartition", self.root, self.variable.inline, self.variable.tokens.tobytes()


def draft_frame(value: Any, settings: Settings, info: Mapping[str, Any]) -> Draft:
    """Compute and store the partitions of a table of dask, and make its manifest.

    Parameters
    ----------
    value : dask.dataframe.DataFrame or dask.dataframe.Series
        With partitions of pandas.
    settings : Settings
        The store.
    info : mapping
        JSON for people and tools.

    Returns
    -------
    Draft
        To be published; its objects are stored already.

    Raises
    ------
    UncacheableError
        A partition would not come back as it is.
    """
    meta = value._meta
    is_series = is_of_type(meta, "pandas", "Series")
    if not is_series and not is_of_type(meta, "pandas", "DataFrame"):
        raise UncacheableError(
            f"a table of dask with partitions of {type(meta)} has no storage form; use pandas"
        )
    store = delayed(_store_part, pure=False)
    parts = [_store_part(meta, settings, is_series, _META)]
    tasks = [
        store(part, settings, is_series, f"{PART}{number}") for number, part in enumerate(value.to_delayed())
    ]
    parts += compute(*tasks)
    attrs = {
        "divisions": list(value.divisions),
        "is_series": is_series,
        "parts": [part_attrs for _, part_attrs in parts],
    }
    encode_attribute(attrs)
    variables = tuple(variable for variable, _ in parts)
    return Draft(Manifest.build("table", variables, name=FRAME, nodes={"": Node(attrs)}, info=info))


def open_frame(manifest: Manifest, root: str) -> Any:
    """Give a stored table of dask; its partitions are read when they are computed.

    Parameters
    ----------
    manifest : Manifest
        Of one.
    root : str
        The store that holds its blocks.

    Returns
    -------
    dask.dataframe.DataFrame or dask.dataframe.Series
        With the same partitions.

    Raises
    ------
    MissingExtraError
        There is no dask.dataframe.
    """
    try:
        import dask.dataframe as dd
    except ImportError as error:
        raise MissingExtraError("this is a table of dask; pip install 'daskcache[dataframe]'") from error
    attrs = manifest.nodes[""].attrs
    meta, *parts = (
        StoredPartition(root, variable, part_attrs, attrs["is_series"])
        for variable, part_attrs in zip(manifest.variables, attrs["parts"], strict=True)
    )
    # What texts are made of is as it was stored.
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(
            _read_partition, parts, meta=_read_partition(meta), divisions=tuple(attrs["divisions"])
        )


# What is read is told by the literal, and not by how it is read.
@fingerprint_as("daskcache.formats.frames.read_partition", 0)
def _read_partition(part: StoredPartition) -> Any:
    frame = decode_frame([read_part(part.variable, part.root)], part.attrs["frame"])
    return frame.iloc[:, 0].rename(part.attrs["name"]) if part.is_series else frame


def _store_part(
    part: Any, settings: Settings, is_series: bool, path: str
) -> tuple[StoredVariable, dict[str, Any]]:
    frame = part.to_frame("values") if is_series else part
    encoded = encode_frame(frame)
    draft = draft_encoded(_AS_PART, encoded, settings, {})
    for _, _, target, values in draft.pending:
        write_block(target.root, target.group, target.token, target.spec, values)
    (variable,) = draft.manifest.variables
    attrs = {"frame": dict(encoded.attrs), "name": part.name if is_series else None}
    return replace(variable, path=path, dims=(f"{path}_bytes",)), attrs


_AS_PART = Format("part", "table", lambda value: True, encode_frame, decode_frame)

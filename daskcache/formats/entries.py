"""Values as manifests: each part is a Zarr array of its bytes, so that all that keeps blocks keeps these as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from daskcache.chunks import ChunkSpec, decode
from daskcache.config import Settings
from daskcache.datasets import PackedBlocks, outline
from daskcache.errors import InvalidInputError
from daskcache.fingerprint import Fingerprinter
from daskcache.formats.base import Encoded, Format, get_format
from daskcache.manifest import Manifest, Node, StoredVariable
from daskcache.publishing import PLAIN, Draft, draft_manifest

__all__ = ["PART", "draft_encoded", "draft_value", "read_part", "read_value"]

PART = "part"
"""How variables that hold parts are called, with a number behind it."""


def draft_value(value: Any, form: Format, settings: Settings, info: Mapping[str, Any]) -> Draft:
    """Make the manifest of a value.

    Parameters
    ----------
    value : object
        The value.
    form : Format
        One that takes it.
    settings : Settings
        The store.
    info : mapping
        JSON for people and tools.

    Returns
    -------
    Draft
        To be published.

    Raises
    ------
    UncacheableError
        The value would not come back as it is.

    Examples
    --------
    >>> from daskcache.formats import find_format
    >>> draft = draft_value({"a": 1}, find_format({"a": 1}), Settings("memory://doc-values"), {})
    >>> read_value(draft.manifest, "memory://doc-values")
    {'a': 1}
    """
    return draft_encoded(form, form.encode(value), settings, info)


def draft_encoded(form: Format, encoded: Encoded, settings: Settings, info: Mapping[str, Any]) -> Draft:
    """Make the manifest of what a format gave; see `draft_value`."""
    settings = settings.with_(codecs=PLAIN)
    arrays = {
        f"{PART}{at}": (f"{PART}{at}_bytes", np.frombuffer(part, "u1"))
        for at, part in enumerate(encoded.parts)
    }
    described, _ = outline(xr.Dataset(arrays))
    described = replace(described, kind=form.kind, name=form.name, nodes={"": Node(dict(encoded.attrs))})
    # By content: two results are one object where they are equal, and a recomputed one is never taken for the old.
    return draft_manifest(described, {}, settings, Fingerprinter.from_settings(settings), info)


def read_value(manifest: Manifest, root: str, form: Format | None = None) -> Any:
    """Read the value of a manifest.

    Parameters
    ----------
    manifest : Manifest
        Of the kind ``table`` or ``value``.
    root : str
        The store that holds its blocks.
    form : Format, optional
        One that this process need not know, where the manifest names it.

    Returns
    -------
    object
        The value.

    Raises
    ------
    NotStoredError
        An object is gone, or this process does not know the format or a class that it names.
    CorruptChunkError
        An object fails its checksum.

    Notes
    -----
    One request for each part that does not lie in the manifest itself.
    """
    if not isinstance(manifest.name, str):
        raise InvalidInputError(f"a manifest names the format {manifest.name!r:.80}; expected a text")
    if form is None or form.name != manifest.name:
        form = get_format(manifest.name)
    parts = [read_part(variable, root) for variable in manifest.variables]
    return form.decode(parts, manifest.nodes[""].attrs)


def read_part(variable: StoredVariable, root: str) -> bytes:
    """Read the bytes of one part; see `read_value`."""
    if variable.inline is not None:
        spec = ChunkSpec.for_block(variable.dtype, variable.shape, variable.codecs)
        return decode(variable.inline, spec, variable.shape, variable.dtype).tobytes()
    blocks = [np.asarray(block[...]) for block in PackedBlocks(root, variable)]
    return blocks[0].tobytes() if len(blocks) == 1 else np.concatenate(blocks).tobytes()

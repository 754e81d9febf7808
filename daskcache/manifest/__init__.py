"""Manifests: the documents of one stored version, exact for us and readable by anyone.

`idx` packs what we need, and is all that our reader, the pass and the workers read; `references` writes the
kerchunk reference set that xarray and fsspec open without us.
"""

from daskcache.manifest.forms import JSON, Calendar, from_stored, kept_encoding, stored_objects, to_storable
from daskcache.manifest.idx import from_idx, to_idx
from daskcache.manifest.model import (
    INLINE_LIMIT,
    UNNAMED,
    Kind,
    Manifest,
    Node,
    StoredVariable,
    check_paths,
    is_array_name,
    version_of,
)
from daskcache.manifest.references import Reference, documents_of, iterate_references, to_kerchunk

__all__ = [
    "INLINE_LIMIT",
    "JSON",
    "UNNAMED",
    "Calendar",
    "Kind",
    "Manifest",
    "Node",
    "Reference",
    "StoredVariable",
    "check_paths",
    "documents_of",
    "from_idx",
    "from_stored",
    "is_array_name",
    "iterate_references",
    "kept_encoding",
    "stored_objects",
    "to_idx",
    "to_kerchunk",
    "to_storable",
    "version_of",
]

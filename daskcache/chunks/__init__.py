"""Chunks: what a block becomes in the store.

A *block* is a dask chunk, one task's array; a *chunk* is the one encoded object that a block becomes. Its
specification says how, and depends on the block, its settings and the regular length of its grid, on nothing
else of the other blocks.
"""

from daskcache.chunks.checksums import checksum_of, read_checksum
from daskcache.chunks.encoding import decode, encode, inner_ranges, read_inner_ranges, read_part
from daskcache.chunks.grid import Grid, plan_grid
from daskcache.chunks.hints import Access, Hints
from daskcache.chunks.selection import Selection, is_basic
from daskcache.chunks.spec import ChunkSpec, block_key, check_storable, chunk_id, group_of, storage_dtype

__all__ = [
    "Access",
    "ChunkSpec",
    "Grid",
    "Hints",
    "Selection",
    "block_key",
    "check_storable",
    "checksum_of",
    "chunk_id",
    "decode",
    "encode",
    "group_of",
    "inner_ranges",
    "is_basic",
    "plan_grid",
    "read_checksum",
    "read_inner_ranges",
    "read_part",
    "storage_dtype",
]

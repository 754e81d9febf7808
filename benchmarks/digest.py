"""What a digest of each object would add to a persist."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import compare, header

from daskcache import stores
from daskcache.chunks import ChunkSpec, encode

__all__ = ["run"]


def run(directory: Path, repeats: int) -> None:
    """Measure encoding and storing a block with a digest against without."""
    header("digest: encode, store and hash / encode and store, blocks of 4 MB, one thread")
    store = stores.open(str(directory / "store"))
    rng = np.random.default_rng(0)
    block = np.round(280 + rng.standard_normal(10**6, dtype="f4"), 1).astype("f4")
    spec = ChunkSpec.for_block(block.dtype, block.shape)

    def write(number: int, name: str, hash_bytes: Callable[[memoryview], object]) -> Callable[[], object]:
        def call() -> None:
            for i in range(20):
                data = encode(block, spec)
                hash_bytes(data)
                stores.create(store, f"chunks/{name}/{number}-{i}", data)

        return call

    def plain(number: int) -> Callable[[], object]:
        return write(number, "plain", lambda data: None)

    for name in ("blake2b", "sha256"):
        hash_bytes = {
            "blake2b": lambda data: hashlib.blake2b(data, digest_size=16).digest(),
            "sha256": lambda data: hashlib.sha256(data).digest()[:16],
        }[name]

        def hashed(
            number: int, name: str = name, hash_bytes: Callable[..., object] = hash_bytes
        ) -> Callable[[], object]:
            return write(number, name, hash_bytes)

        compare(name, hashed, plain, repeats=repeats, limit=1.05)

"""Stores against what lies under them: a chunk's round trip, and a warm read through levels. Prints ratios.

    python benchmarks/stores.py

Each figure is a ratio of medians of CPU time, of this process alone: a server's share is the same for both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from zarr.abc.store import Store

from daskcache import stores
from daskcache.stores import Levels, Limit
from daskcache.stores.sync import wait_for
from tests.servers.harness import BUCKET, KEY, SECRET, moto

SIZE = 16_000_000
LIMIT = 0.9


def ratio(raw: Callable[[int], None], ours: Callable[[int], None], rounds: int) -> float:
    """Give how many times as fast as the raw one ours is; each is called with numbers that do not repeat."""
    took: dict[Callable[[int], None], list[float]] = {raw: [], ours: []}
    for number in range(rounds):
        # Each first in turn: what comes second finds caches warm.
        for call in [raw, ours] if number % 2 else [ours, raw]:
            start = time.process_time()
            call(number)
            took[call].append(time.process_time() - start)
    return statistics.median(took[raw]) / statistics.median(took[ours])


def disk(data: bytes, root: Path) -> float:
    store = stores.open(root / "ours")
    (root / "raw").mkdir()

    def raw(number: int) -> None:
        path = root / "raw" / f"{number}"
        partial = path.with_suffix(".partial")
        with open(partial, "wb", buffering=0) as file:
            file.write(data)
        os.link(partial, path)
        os.unlink(partial)
        assert len(path.read_bytes()) == SIZE
        path.unlink()

    def ours(number: int) -> None:
        stores.create(store, f"chunks/{number}", data)
        assert len(stores.get(store, f"chunks/{number}") or b"") == SIZE
        stores.delete(store, f"chunks/{number}")

    return ratio(raw, ours, 61)


def bucket(client: str, endpoint: str, data: bytes) -> float:
    options: dict[str, Any] = {"endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}
    store: Any = stores.open(f"s3://{BUCKET}/ours", client=client, **options)
    stores.create(store, "first", b"")  # asks once whether the server keeps the condition

    async def fetch(path: str) -> Any:
        import obstore

        # The faster of its two ways.
        return await (await obstore.get_async(store.store, path)).bytes_async()

    def raw(number: int) -> None:
        if client == "fsspec":
            path = f"{BUCKET}/raw/{number}"
            wait_for(store.fs._pipe_file(path, data))
            assert len(wait_for(store.fs._cat_file(path))) == SIZE
        else:
            import obstore

            obstore.put(store.store, f"raw/{number}", data, use_multipart=False)
            assert len(wait_for(fetch(f"raw/{number}"))) == SIZE

    def ours(number: int) -> None:
        stores.create(store, f"chunks/{number}", data)
        assert len(stores.get(store, f"chunks/{number}") or b"") == SIZE

    return ratio(raw, ours, 15)


def levels(data: bytes, root: Path) -> dict[str, float]:
    fast = stores.open(root / "fast")
    tier = Limit(fast, max_size=SIZE * 20)
    home = stores.open(root / "home")
    stores.put(Levels(tier, home), "chunks/a", data)

    def read(store: Store) -> Callable[[int], None]:
        def call(number: int) -> None:
            assert len(stores.get(store, "chunks/a") or b"") == SIZE

        return call

    return {
        "warm read from levels / the fast level alone": ratio(read(fast), read(Levels(fast, home)), 201),
        "the same, the fast level a bounded tier": ratio(read(tier), read(Levels(tier, home)), 201),
        "read from a bounded tier / its directory alone": ratio(read(fast), read(tier), 201),
    }


def main() -> int:
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    data = os.urandom(SIZE)
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        figures["round trip on disk / the same calls by hand"] = disk(data, root)
        server = moto()
        server.start()
        try:
            for client in ("fsspec", "obstore"):
                figures[f"round trip in a bucket / the same put and get of {client}"] = bucket(
                    client, server.endpoint, data
                )
        finally:
            server.kill()
        figures |= levels(data, root)
    for name, figure in figures.items():
        verdict = "" if figure >= LIMIT else f"  below {LIMIT}"
        print(f"{figure:6.2f}  {name}{verdict}")
    return 0 if min(figures.values()) >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

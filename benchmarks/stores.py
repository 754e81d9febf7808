"""Stores against what lies under them: a chunk's round trip, and a warm read through levels. Prints ratios.

    python benchmarks/stores.py

Each figure is the median of the ratios of neighbouring runs, because a machine's speed changes by the second.
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

from daskcache import stores
from daskcache.stores import Levels, Limit, local
from daskcache.stores.sync import wait_for
from tests.servers.harness import BUCKET, KEY, SECRET, moto

SIZE = 16_000_000
LIMIT = 0.9


def ratio(raw: Callable[[int], None], ours: Callable[[int], None], rounds: int) -> float:
    """Give how many times as fast as the raw one ours is; each is called with numbers that do not repeat."""
    found = []
    for number in range(rounds + 1):
        # Each first in turn: what comes second finds caches warm.
        pair = [raw, ours] if number % 2 else [ours, raw]
        took = {}
        for call in pair:
            start = time.perf_counter()
            call(number)
            took[call] = time.perf_counter() - start
        if number:
            found.append(took[raw] / took[ours])
    return statistics.median(found)


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

    return ratio(raw, ours, 21)


def bucket(client: str, endpoint: str, data: bytes) -> float:
    options: dict[str, Any] = {"endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}
    store: Any = stores.open(f"s3://{BUCKET}/ours", client=client, **options)
    stores.create(store, "first", b"")  # asks once whether the server keeps the condition

    def raw(number: int) -> None:
        if client == "fsspec":
            path = f"{BUCKET}/raw/{number}"
            wait_for(store.fs._pipe_file(path, data))
            assert len(wait_for(store.fs._cat_file(path))) == SIZE
        else:
            import obstore

            obstore.put(store.store, f"raw/{number}", data, use_multipart=False)
            assert len(obstore.get(store.store, f"raw/{number}").bytes()) == SIZE

    def ours(number: int) -> None:
        stores.create(store, f"chunks/{number}", data)
        assert len(stores.get(store, f"chunks/{number}") or b"") == SIZE

    return ratio(raw, ours, 7)


def levels(data: bytes, root: Path, *, limited: bool) -> float:
    fast = stores.open(root / f"fast-{limited}")
    tier = Limit(fast, max_size=SIZE * 20) if limited else fast
    chain = Levels(tier, stores.open(root / f"home-{limited}"))
    stores.put(chain, "chunks/a", data)

    def raw(number: int) -> None:
        assert len(local.get(f"{fast.root}/chunks/a") or b"") == SIZE

    def ours(number: int) -> None:
        assert len(stores.get(chain, "chunks/a") or b"") == SIZE

    return ratio(raw, ours, 41)


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
        figures["warm read from levels / the fast level alone"] = levels(data, root, limited=False)
        figures["warm read from levels with a bounded tier / the file alone"] = levels(
            data, root, limited=True
        )
    for name, figure in figures.items():
        verdict = "" if figure >= LIMIT else f"  below {LIMIT}"
        print(f"{figure:6.2f}  {name}{verdict}")
    return 0 if min(figures.values()) >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

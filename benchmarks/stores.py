"""Stores against what lies under them: a chunk's round trip, and a warm read through levels. Prints ratios.

    python benchmarks/stores.py [--ceph]

Each figure is a ratio of medians of CPU time, of this process alone: a server's share is the same for both. Round trips
to Redis, and over SFTP and HTTP, are also compared by the clock: the median of the ratios of neighbours.
"""

from __future__ import annotations

import io
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from zarr.abc.store import Store

from daskcache import stores
from daskcache.stores import Levels, Limit
from daskcache.stores.sync import wait_for
from tests.servers import ceph, services
from tests.servers.harness import BUCKET, KEY, SECRET, Bucket, Server, gcs, moto

SIZE = 16_000_000
LIMIT = 0.9
# What stores of our own have to reach, of chunks of this size.
CHUNK = 1_000_000
KINDS = {"moto": moto, "gcs": gcs, "ceph": ceph.gateway}
LIMITS = {"redis": 0.8, "sftp": 0.7, "http": 0.8}


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


def bucket(place: Bucket, data: bytes) -> float:
    store: Any = place.open()
    stores.create(store, "first", b"")  # asks once whether the server keeps the condition

    async def fetch(path: str) -> Any:
        import obstore

        # The faster of its two ways.
        return await (await obstore.get_async(store.store, path)).bytes_async()

    def raw(number: int) -> None:
        if place.client == "fsspec":
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


def pairs(raw: Callable[[int], None], ours: Callable[[int], None], rounds: int) -> tuple[float, float]:
    """Give how many times as fast ours is by the processor's time, and by the clock."""
    took: dict[Callable[[int], None], list[tuple[float, float]]] = {raw: [], ours: []}
    for number in range(rounds):
        for call in [raw, ours] if number % 2 else [ours, raw]:
            start = time.process_time(), time.perf_counter()
            call(number)
            took[call].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    del took[raw][:5], took[ours][:5]  # connections are made, and memory is asked for
    cpu = statistics.median(one for one, _ in took[raw]) / statistics.median(one for one, _ in took[ours])
    wall = statistics.median(one / other for (_, one), (_, other) in zip(took[raw], took[ours], strict=True))
    return cpu, wall


def over_redis(data: bytes) -> tuple[float, float]:
    import redis

    with running(services.redis("--appendonly", "no")) as server:
        client = redis.Redis(port=server.port)
        store = services.RedisPlace(server, "redis", None, {}, "ours").open()

        def raw(number: int) -> None:
            client.set(f"raw/{number}", data, nx=True)
            assert len(client.get(f"raw/{number}") or b"") == CHUNK

        return pairs(raw, round_trip(store, data), 105)


def over_sftp(data: bytes) -> tuple[float, float]:
    import paramiko

    with running(services.sshd()) as server:
        store = services.SftpPlace(server, "sftp", None, {}, "ours").open()
        client = paramiko.SSHClient()
        client.load_system_host_keys(str(server.directory / "known_hosts"))
        plug = socket.create_connection(("127.0.0.1", server.port))
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect("127.0.0.1", server.port, key_filename=str(server.directory / "user_key"), sock=plug)
        sftp = client.open_sftp()
        (server.directory / "files" / "raw").mkdir()

        def raw(number: int) -> None:
            path, found = f"{server.directory}/files/raw/{number}", io.BytesIO()
            sftp.putfo(io.BytesIO(data), path, confirm=False)
            sftp.getfo(path, found)
            assert found.tell() == CHUNK

        try:
            return pairs(raw, round_trip(store, data), 65)
        finally:
            client.close()


def over_http(data: bytes) -> tuple[float, float]:
    import urllib3

    with running(services.nginx()) as server:
        (server.directory / "files" / "chunk").write_bytes(data)
        store, pool = stores.open(server.endpoint), urllib3.PoolManager()

        def raw(number: int) -> None:
            assert len(pool.request("GET", f"{server.endpoint}/chunk").data) == CHUNK

        def ours(number: int) -> None:
            assert len(stores.get(store, "chunk") or b"") == CHUNK

        return pairs(raw, ours, 205)


def round_trip(store: Store, data: bytes) -> Callable[[int], None]:
    def call(number: int) -> None:
        assert stores.create(store, f"chunks/{number}", data)
        assert len(stores.get(store, f"chunks/{number}") or b"") == CHUNK

    return call


def places(kind: str, server: Server) -> list[Bucket]:
    if kind == "gcs":
        return [Bucket(server, "gs", "fsspec", {"token": "anon", "project": "p"}, "ours")]
    options = {"client_kwargs": {"region_name": "us-east-1"}}
    return [Bucket(server, "s3", client, options, "ours") for client in ("fsspec", "obstore")]


@contextmanager
def running[S: Server](server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.close()


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
    # gcsfs would ask the server what kind of bucket it is, in a way that the emulator does not know.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    data = os.urandom(SIZE)
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        figures["round trip on disk / the same calls by hand"] = disk(data, root)
        for kind, make in KINDS.items():
            if kind != "ceph" or "--ceph" in sys.argv:
                with running(make()) as server:
                    for place in places(kind, server):
                        name = f"round trip in a bucket of {kind} / the same put and get of {place.client}"
                        figures[name] = bucket(place, data)
        figures |= levels(data, root)
    limits = dict.fromkeys(figures, LIMIT)
    for kind, measure, peer in [
        ("redis", over_redis, "redis-py"),
        ("sftp", over_sftp, "paramiko"),
        ("http", over_http, "urllib3, a read"),
    ]:
        for figure, by in zip(measure(data[:CHUNK]), ("processor", "clock"), strict=True):
            name = f"round trip of 1 MB over {kind} / the same of {peer}, by the {by}"
            figures[name], limits[name] = figure, LIMITS[kind]
    for name, figure in figures.items():
        verdict = "" if figure >= limits[name] else f"  below {limits[name]}"
        print(f"{figure:6.2f}  {name}{verdict}")
    return 0 if all(figure >= limits[name] for name, figure in figures.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

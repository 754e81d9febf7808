"""Looking 100,000 blocks up in a pool of 1,000,000: on a local disk, and in a bucket that takes 10 ms a request."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import numpy as np
from dask.array.optimization import optimize as optimize_with_dask
from measure import Cost, header, timed

from daskcache.catalog.tokens import TokenIndex
from daskcache.listing import SAMPLE, Listing
from daskcache.manifest import Manifest, StoredVariable
from daskcache.pool import StoredBlock

__all__ = ["run"]

WANTED = 100_000
POOL = 1_000_000
GROUPS = 10
OBJECT_BYTES = 4096


def run(directory: Path, repeats: int) -> None:
    """Measure blocks that lie in one group and in ten, named by a manifest and not."""
    header(f"lookups: {WANTED} blocks in a pool of {POOL}, in seconds by the clock")
    repeats = min(repeats, 3)
    dask_s = statistics.median(_optimize().wall_s for _ in range(repeats))
    print(
        f"  dask's own: making the tasks of an array of so many blocks, and optimising them: {dask_s:.2f} s"
    )
    manifests = {"one group": _manifest(1), f"{GROUPS} groups": _manifest(GROUPS)}
    place = directory / "pool"
    _fill(place, manifests.values())
    for where, manifest in manifests.items():
        _measure(f"local disk, {where}", str(place), manifest, repeats, dask_s, (2, 2))
    with _bucket(place):
        for where, manifest in manifests.items():
            _measure(f"bucket, {where}", "s3://b/r", manifest, repeats, dask_s, (3, 10))


def _measure(
    label: str,
    root: str,
    manifest: Manifest,
    repeats: int,
    dask_s: float,
    limits: tuple[float, float],
) -> None:
    index = TokenIndex(root, [manifest])
    counted = os.environ.get("AWS_ENDPOINT_URL") if root.startswith("s3:") else None
    blocks = [index.block(position) for position in index.find_many(manifest.variables[0].tokens)]
    for is_named, limit in zip((True, False), limits, strict=True):
        _count(counted)
        costs = [timed(_look_up(root, blocks, index if is_named else None)) for _ in range(repeats)]
        requests = f"   {_count(counted) // repeats} requests" if counted else ""
        seconds = statistics.median(cost.wall_s for cost in costs)
        cpu_s = statistics.median(cost.cpu_s for cost in costs)
        what = f"{label}, {'named' if is_named else 'named by none'}"
        print(
            f"  {what:<44} {seconds:6.2f} s ({cpu_s:.2f} s of processor time)   x{seconds / dask_s:5.2f} of dask's own   "
            f"x{seconds / limit:4.2f} of the limit of {limit} s{requests}",
            flush=True,
        )


def _count(endpoint: str | None) -> int:
    """Give the number of requests since this was called last."""
    if endpoint is None:
        return 0
    with urllib.request.urlopen(f"{endpoint}/requests") as answer:
        return int(answer.read())


def _look_up(root: str, blocks: Sequence[StoredBlock], index: TokenIndex | None) -> Callable[[], object]:
    def call() -> None:
        # As the pass does.
        listing = Listing(root)
        sample = blocks[:: len(blocks) // SAMPLE] if index is not None else ()
        if index is None or not listing.count_on_names([(block, index.get(block.token)) for block in sample]):
            listing.look_ahead(blocks)
        known = {} if index is None else index
        found = [listing.find_as_known(block, known.get(block.token)) for block in blocks]
        assert None not in found

    return call


def _manifest(groups: int) -> Manifest:
    rng = np.random.default_rng(groups)
    variable = StoredVariable(
        "t2m",
        ("time", "lat", "lon"),
        np.dtype("f4"),
        ((1,) * (WANTED // 100), (18,) * 10, (36,) * 10),
        tokens=rng.integers(0, 256, (WANTED, 20), "u1"),
        groups=np.arange(WANTED, dtype="<u2") % groups,
        sizes=np.full(WANTED, OBJECT_BYTES, "<u8"),
    )
    return Manifest.build("dataset", (variable,))


def _fill(place: Path, manifests: Iterable[Manifest]) -> None:
    """Make the pool: files of a size and no content, and for the bucket the list of their names."""
    names: dict[str, list[str]] = {f"{number:04x}": [] for number in range(GROUPS)}
    for manifest in manifests:
        index = TokenIndex(str(place), [manifest])
        for number in range(WANTED):
            block = index.block(number)
            names[block.group].append(block.id)
    rng = np.random.default_rng(0)
    listed = place.with_name(f"{place.name}-names") / "chunks"
    listed.mkdir(parents=True)
    for group, found in names.items():
        # Siblings of what is wanted.
        found += [rng.bytes(20).hex() for _ in range(POOL // GROUPS - len(found))]
        (listed / group).write_text("\n".join(found))
        folder = place / "chunks" / group
        folder.mkdir(parents=True)
        for name in found:
            descriptor = os.open(folder / name, os.O_CREAT | os.O_WRONLY)
            os.ftruncate(descriptor, OBJECT_BYTES)
            os.close(descriptor)


@contextmanager
def _bucket(place: Path) -> Iterator[None]:
    command = [sys.executable, str(Path(__file__).with_name("bucket.py")), f"{place}-names", "r"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
            }
            yield
        finally:
            server.terminate()


def _optimize() -> Cost:
    array = da.ones(WANTED, chunks=1) + 1
    return timed(lambda: optimize_with_dask(array.dask, array.__dask_keys__()))

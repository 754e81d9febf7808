"""Peak memory of a cold persist against ``to_zarr``, each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from measure import header
from workloads import LATITUDES, LONGITUDES, remove

__all__ = ["run"]

_CODE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import daskcache
from workloads import dataset, to_zarr
data = dataset({days}, {blocks}, is_costly={is_costly})
if {is_ours}:
    daskcache.persist(data, "entry", store={path!r})
else:
    to_zarr(data, Path({path!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(directory: Path, repeats: int) -> None:
    """Measure costly and cheap maps in chunks of 4 and 16 MB."""
    header("memory: peak resident set of a cold persist / to_zarr's (limit 1.1)")
    for is_costly in (True, False):
        for megabytes, blocks in ((4, 40), (16, 20)):
            ratios, peaks = [], []
            for _ in range(min(repeats, 5)):
                ours, theirs = (
                    _peak(directory, megabytes, blocks, is_costly=is_costly, is_ours=is_ours)
                    for is_ours in (True, False)
                )
                ratios.append(ours / theirs)
                peaks.append(ours)
            label = f"{'costly' if is_costly else 'cheap'} map, {blocks} blocks of {megabytes} MB"
            print(
                f"  {label:<44} x{statistics.median(ratios):5.3f} [{min(ratios):.2f} to {max(ratios):.2f}]"
                f"   {statistics.median(peaks) / 1024:.0f} MB",
                flush=True,
            )


def _peak(directory: Path, megabytes: int, blocks: int, *, is_costly: bool, is_ours: bool) -> int:
    path = directory / "peak"
    code = _CODE.format(
        here=str(Path(__file__).parent),
        days=megabytes * 10**6 // (4 * LATITUDES * LONGITUDES),
        blocks=blocks,
        is_costly=is_costly,
        is_ours=is_ours,
        path=str(path),
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    remove(path)
    return int(done.stdout)

"""Two runs that start the same cold pipeline at once on one store: how many blocks are computed twice."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from measure import header

__all__ = ["run"]

BLOCKS = 48
SECONDS = 0.15

_CODE = """
import sys, time
import dask, dask.array as da, numpy as np
import daskcache

how, where, root, blocks, seconds = sys.argv[1:]

@daskcache.version("1")
def slowly(block, seconds):
    time.sleep(float(seconds))
    return block * 2

def pipeline(blocks, more):
    numbers = da.arange(blocks * 3, chunks=3)
    return numbers.map_blocks(slowly, seconds, dtype="i8", meta=np.empty(0, "i8")) + more

def main():
    client = None
    if where == "cluster":
        from distributed import Client
        client = Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with dask.config.set(num_workers=2):
        go(pipeline(2, 1), root + "-warm")
        print("ready", flush=True)
        sys.stdin.readline()
        go(pipeline(int(blocks), 0), root)
    run = daskcache.last_run().wait()
    print(run.computed, run.shared, run.conflicts, flush=True)
    if client is not None:
        client.close()

def go(x, root):
    if how == "persist":
        daskcache.persist(x, "x", store=root)
        return
    with daskcache.activate(root, policy="outputs" if how == "outputs" else "checkpoints"):
        (x if how == "outputs" else daskcache.checkpoint(x, "x")).compute()

if __name__ == "__main__":
    main()
"""


def run(directory: Path, repeats: int) -> None:
    """Measure a persist, a checkpoint and what a policy stores, by two processes and by two clusters."""
    header(
        f"two runs at once of {BLOCKS} blocks of {SECONDS} s, two threads each: computations / blocks "
        "(1: none twice, 2: all)"
    )
    script = directory / "script.py"
    script.write_text(_CODE)
    for where in ("threads", "cluster"):
        for how in ("persist", "checkpoint", "outputs"):
            ratios = []
            for number in range(min(repeats, 3)):
                found = _run_twice(script, how, where, directory / f"{where}-{how}-{number}")
                assert not any(conflicts for _, _, conflicts in found)
                ratios.append(sum(computed for computed, _, _ in found) / BLOCKS)
            who = "two processes" if where == "threads" else "two clusters"
            print(
                f"  {who + ', ' + how:<44} x{statistics.median(ratios):5.3f} [{min(ratios):.2f} to {max(ratios):.2f}]",
                flush=True,
            )


def _run_twice(script: Path, how: str, where: str, root: Path) -> list[tuple[int, ...]]:
    arguments = [how, where, str(root), str(BLOCKS), str(SECONDS)]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [tuple(map(int, process.communicate()[0].split())) for process in started]

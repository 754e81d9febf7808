"""Run benchmarks: ``python benchmarks/run.py [name ...] [--repeats N] [--directory D]``."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

NAMES = (
    "cold", "warm", "memory", "index", "lookups", "tokens", "partial", "digest", "startup", "functions", "two_runs",
)  # fmt: skip


def main() -> None:
    """Run the benchmarks that are named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--repeats", type=int, default=7, help="how often each thing runs")
    parser.add_argument("--directory", help="where stores are made, such as a disk in memory")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {sorted(unknown)}; there are {', '.join(NAMES)}")
    for name in options.names or NAMES:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="daskcache-benchmark-", dir=options.directory) as directory:
            importlib.import_module(name).run(Path(directory), options.repeats)
        print(f"  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

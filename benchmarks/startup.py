"""What a process pays once: for our being there when dask or its command starts, for the import, for its first persist."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from measure import header

__all__ = ["run"]

_CODE = """
import sys, time
import xarray, dask.array, zarr, numpy
base = time.perf_counter()
import daskcache
imported = time.perf_counter()
x = xarray.Dataset({"a": ("x", dask.array.arange(10, chunks=5) + 1)})
started = time.perf_counter()
if sys.argv[2] == "ours":
    daskcache.persist(x, "a", store=sys.argv[1])
else:
    x.to_zarr(sys.argv[1], consolidated=False)
done = time.perf_counter()
y = x + 1
again = time.perf_counter()
if sys.argv[2] == "ours":
    daskcache.persist(y, "a", store=sys.argv[1])
else:
    y.to_zarr(sys.argv[1] + "2", consolidated=False)
print(imported - base, done - started, time.perf_counter() - again)
"""


_METADATA = "Metadata-Version: 2.1\nName: daskcache\nVersion: 0.1.0\n"
_ENTRY_POINTS = "[dask_cli]\ncache = daskcache_command:cache\n"
_HOOK = "[dask.sizeof]\ndaskcache = daskcache_hook:register\n"
_STARTS = 20  # per repeat


def run(directory: Path, repeats: int) -> None:
    """Measure ``import dask`` with and without us, our import and the first and second persist of a tiny dataset."""
    _measure_hook(directory, _STARTS * repeats)
    _measure_command(directory, 2 * repeats)
    _measure_persist(directory, repeats)


def _measure_hook(directory: Path, starts: int) -> None:
    """Start processes that import dask, in turns with and without the entry point that dask loads then."""
    header(f"startup: import dask, {starts} processes each, processor time")
    paths = {}
    for kind, text in (("without", _ENTRY_POINTS), ("with", _ENTRY_POINTS + _HOOK)):
        paths[kind] = _install(directory / kind, text)
    enabled = {"DASK_DASKCACHE__ENABLED": "true", "DASK_DASKCACHE__STORE": str(directory / "none")}
    variants = {
        "without us": paths["without"],
        "disabled": paths["with"],
        "enabled": paths["with"] | enabled,
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(starts + 1):
        for name, variables in variants.items():
            taken = _start("import dask, sys; assert 'daskcache' not in sys.modules", variables)
            if number:  # the first compiles
                seconds[name].append(taken)
    _print_differences(seconds)


def _measure_command(directory: Path, starts: int) -> None:
    """Start ``dask --help`` in turns with and without the entry point, and ``daskcache --help``."""
    header(f"startup: dask --help, {starts} processes each, processor time")
    paths = {
        "without us": _install(directory / "command-without", _HOOK),
        "with us": _install(directory / "command-with", _ENTRY_POINTS + _HOOK),
    }
    dask = "import os, sys; sys.argv = ['dask', '--help']; sys.stdout = open(os.devnull, 'w'); "
    codes = dict.fromkeys(paths, f"{dask}from dask.cli import run_cli; run_cli()")
    codes["daskcache"] = (
        f"{dask}import dask.cli, daskcache_command; sys.argv[0] = 'daskcache'; daskcache_command.main()"
    )
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for number in range(starts + 1):
        for name, code in codes.items():
            taken = _start(code, paths.get(name, paths["with us"]))
            if number:
                seconds[name].append(taken)
    least = min(_start("import dask.cli", paths["with us"]) for _ in range(starts))
    ours = seconds.pop("daskcache")
    _print_differences(seconds)
    print(
        f"  daskcache --help: {1000 * (min(ours) - least):+.1f} ms to the {1000 * least:.1f} ms of import dask.cli"
    )


def _install(path: Path, entry_points: str) -> dict[str, str]:
    """Make a distribution that hides the one that is installed: the first of a name on the path does."""
    metadata = path / "daskcache-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(entry_points)
    return {"PYTHONPATH": str(path)}


def _print_differences(seconds: dict[str, list[float]]) -> None:
    plain = seconds["without us"]
    print(
        f"  without us   median {1000 * statistics.median(plain):7.1f} ms, least {1000 * min(plain):7.1f} ms"
    )
    for name in [name for name in seconds if name != "without us"]:
        pairs = list(zip(seconds[name], plain, strict=True))
        more = statistics.median(ours - theirs for ours, theirs in pairs)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        least = min(seconds[name]) - min(plain)
        print(
            f"  {name:12} median {1000 * more:+6.2f} ms (x {ratio:.3f}), difference of the least {1000 * least:+6.2f} ms",
            flush=True,
        )


def _start(code: str, variables: dict[str, str]) -> float:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("DASK_")
    } | variables
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{code!r} failed")
    return usage.ru_utime + usage.ru_stime


def _measure_persist(directory: Path, repeats: int) -> None:
    """Measure the import beside xarray, dask.array and zarr, and the first and second persist of a tiny dataset."""
    header("startup: seconds in new processes")
    for kind in ("ours", "theirs"):
        rows = [_measure(directory / f"{kind}-{number}", kind) for number in range(repeats)]
        imported, first, second = (statistics.median(column) for column in zip(*rows, strict=True))
        what = "persist" if kind == "ours" else "to_zarr"
        if kind == "ours":
            print(f"  import daskcache after xarray, dask.array, zarr   {1000 * imported:8.1f} ms")
        print(f"  first {what} of a process {1000 * first:27.1f} ms")
        print(f"  second {what} {1000 * second:38.1f} ms", flush=True)


def _measure(path: Path, kind: str) -> tuple[float, ...]:
    command = [sys.executable, "-W", "ignore", "-c", _CODE, str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))

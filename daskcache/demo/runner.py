"""The demo: the main job on real data, each act in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dask.utils
import xarray as xr

from daskcache import stores
from daskcache.activation import activate
from daskcache.catalog import Catalog
from daskcache.demo.acts import Job, Outcome
from daskcache.demo.checks import Check, check_acts, check_memory
from daskcache.demo.data import Generated, find_samples, plan_generated, require_extra, write_daily
from daskcache.demo.picture import Scenario, draw
from daskcache.demo.table import format_head, format_row
from daskcache.errors import DaskcacheError, InvalidInputError
from daskcache.lazy import open_entry

__all__ = ["run"]

_HERE = Path(__file__).parent
_BASELINE, _TREND_SINCE = ("1961", "1990"), "2000"
_HELPER = "return np.cos(np.deg2rad(latitude))"
# The area of a band is the difference of the sines of its edges: right at the poles, too.
_EDITED_HELPER = """half = abs(latitude[1] - latitude[0]) / 2
    return np.sin(np.deg2rad(latitude + half)) - np.sin(np.deg2rad(latitude - half))"""
_GROWTH_PERIODS = 2
_PICTURE = "warming.png"
_ACT = "import sys; from daskcache.demo.acts import main; main(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Act:
    """A process of the demo."""

    title: str
    """What it shows."""
    prepare: Callable[[], None] = field(repr=False)
    """What has changed since the act before."""


def run(
    size: str | None = None, store: str | None = None, workdir: str | None = None, keep: bool = False
) -> int:
    """Run a climate pipeline cold, again, on grown data and edited, each in a new process, and check what is computed.

    Parameters
    ----------
    size : str, optional
        Such as ``"2GB"``: use generated data of that size, not the real ones.
    store : str, optional
        URL or path of the store, where no store may be yet; a directory below `workdir` by default.
    workdir : str, optional
        An empty or new directory; by default a fresh one below the current directory, or that for temporary files.
    keep : bool
        Whether the store and the data are left behind. The picture is in any case, and so is a store that was named.

    Returns
    -------
    int
        0 where all that is promised held, else 1.

    Raises
    ------
    MissingExtraError
        A package is missing; install the extra ``demo``.
    InvalidInputError
        `size` is not a size, `workdir` is not empty, or `store` is a store already.
    StoreFullError
        The disk has no room for that much data.

    Notes
    -----
    Takes less than a minute without `size`. With it, it holds a few blocks in memory, and takes room for the data
    and one and a half times as much.

    Examples
    --------
    >>> run(size="2 elephants")
    Traceback (most recent call last):
    daskcache.errors.InvalidInputError: size is '2 elephants'; expected a size such as '2GB'
    """
    start = time.perf_counter()
    generated = None if size is None else plan_generated(size)
    require_extra()
    is_new = workdir is None or not Path(workdir).expanduser().exists()
    directory = _make_workdir(workdir)
    try:
        root = str(directory / "store") if store is None else _check_store(store)
        if generated is not None:
            generated.check_room(directory)
        print(f"work directory: {directory}\nstore:          {root}")
        shutil.copy(_HERE / "pipeline.py", directory / "pipeline.py")
        if generated is None:
            job, acts = _stage_samples(directory, root)
        else:
            job, acts = _stage_generated(directory, root, generated)
        is_kept = _play(job, acts, directory, generated)
        print(f"\n{time.perf_counter() - start:.0f} seconds in all")
        if (directory / _PICTURE).exists():
            print(f"picture: {directory / _PICTURE}")
        if not keep:
            print("the data are removed now, and a store that was not named; --keep leaves them")
        return 0 if is_kept else 1
    finally:
        if not keep:
            _tidy(directory, is_new)


def _make_workdir(workdir: str | None) -> Path:
    if workdir is None:
        here = Path.cwd()
        parent = here if os.access(here, os.W_OK) else Path(tempfile.gettempdir())
        return Path(tempfile.mkdtemp(prefix="daskcache-demo-", dir=parent))
    directory = Path(workdir).expanduser().absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InvalidInputError(f"workdir {directory} is not empty; name a new directory")
    return directory


def _check_store(store: str) -> str:
    root = store if "://" in store else os.path.abspath(os.path.expanduser(store))
    if stores.exists(stores.open(root), "daskcache.json"):
        raise InvalidInputError(
            f"{stores.describe(root)} is a store already, and the demo's first act must find nothing; name a new one"
        )
    return root


def _stage_samples(directory: Path, root: str) -> tuple[Job, list[Act]]:
    samples = find_samples()
    ocean, daily = directory / "ocean", directory / "daily"
    ocean.mkdir()
    daily.mkdir()
    write_daily(daily)
    for month in samples.months[:2]:
        shutil.copy(month, ocean)
    job = Job(
        number=1,
        store=root,
        workdir=str(directory),
        scenarios={name: str(path) for name, path in samples.scenarios.items()},
        options={"baseline": _BASELINE, "period": 10, "resamples": 2000, "trend_since": _TREND_SINCE},
        has_ocean=True,
    )

    def grow() -> None:
        shutil.copy(samples.months[2], ocean)

    return job, _acts(directory, "one more month of the ocean", grow)


def _stage_generated(directory: Path, root: str, data: Generated) -> tuple[Job, list[Act]]:
    source = directory / "source.zarr"
    print(f"data:           {source}, {dask.utils.format_bytes(data.size_bytes)}")
    data.write(source, 0, data.steps)
    since = data.baseline[0]
    # Small data shall be costly as well, and large ones bearable.
    resamples = min(200, max(16, 16 * 2 * 10**9 // data.size_bytes))
    job = Job(
        number=1,
        store=root,
        workdir=str(directory),
        scenarios={"generated": str(source)},
        options={
            "baseline": data.baseline,
            "period": data.period,
            "resamples": resamples,
            "trend_since": since,
        },
        has_ocean=False,
    )

    def grow() -> None:
        data.write(source, data.steps, _GROWTH_PERIODS * data.period)

    return job, _acts(directory, f"{_GROWTH_PERIODS * data.period} more days", grow)


def _acts(directory: Path, growth: str, grow: Callable[[], None]) -> list[Act]:
    pipeline = directory / "pipeline.py"

    def comment() -> None:
        pipeline.write_text(
            "# A comment, and every line below moves.\n" + pipeline.read_text("utf-8"), "utf-8"
        )

    def edit() -> None:
        text = pipeline.read_text("utf-8")
        if text.count(_HELPER) != 1:
            raise DaskcacheError(f"{pipeline} should hold {_HELPER!r} once; it has {text.count(_HELPER)}")
        pipeline.write_text(text.replace(_HELPER, _EDITED_HELPER), "utf-8")

    return [
        Act("cold", lambda: None),
        Act("again, a comment added", comment),
        Act(growth, grow),
        Act("helper area_weights edited", edit),
    ]


def _play(job: Job, acts: list[Act], directory: Path, generated: Generated | None) -> bool:
    outcomes = []
    for number, act in enumerate(acts, 1):
        act.prepare()
        print(f"\nAct {number}: {act.title}")
        job = Job(number, job.store, job.workdir, job.scenarios, job.options, job.has_ocean)
        # Another hash seed each, for nothing may hang on the order of a set.
        if _start(["-c", _ACT, str(job.write())], hash_seed=number * 1111):
            print(f"act {number} failed; what it says stands above", file=sys.stderr)
            return False
        outcomes.append(Outcome.read(job.outcome))
    checks = check_acts(outcomes)
    print()
    if generated is not None:
        checks.extend(check_memory(outcomes, generated.size_bytes))
    else:
        _draw(job, directory / _PICTURE)
    checks.append(_read_alone(job, directory / "job.json"))
    _print_table(acts, outcomes)
    print("\n" + "\n".join(map(str, checks)))
    return all(check.is_kept for check in checks)


def _start(arguments: list[str], hash_seed: int) -> int:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    root = _HERE.parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # A checkout that is not installed.
        paths = [str(root), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-P", *arguments], env=environment, check=False).returncode


def _draw(job: Job, path: Path) -> None:
    scenarios = {}
    for namespace in job.scenarios:
        with activate(job.store, namespace=namespace):
            warming, trends, periods = (open_entry(name) for name in ("warming", "trends", "periods"))
        assert isinstance(warming, xr.Dataset)
        assert isinstance(trends, xr.Dataset)
        assert isinstance(periods, xr.DataArray)
        scenarios[namespace] = Scenario(warming.compute(), trends.compute(), periods.compute())
    draw(path, scenarios, baseline=_BASELINE, trend_since=_TREND_SINCE)


def _read_alone(job: Job, job_path: Path) -> Check:
    namespace = next(iter(job.scenarios))
    entry = "warming"
    promise = "plain: xarray and fsspec alone read what plain xarray computes"
    latest = Catalog(job.store, namespace).latest(entry)
    if latest is None:
        return Check(promise, is_kept=False, found=f"{namespace}/{entry} was never published")
    manifest = f"{job.store}/namespaces/{namespace}/{entry}/@/{latest.version}.json"
    code = _start([str(_HERE / "reader.py"), str(job_path), manifest], hash_seed=5555)
    return Check(promise, code == 0, "what the reader says stands above")


def _print_table(acts: list[Act], outcomes: list[Outcome]) -> None:
    print(f"\n{format_head('act')}")
    cold = outcomes[0]
    for number, (act, outcome) in enumerate(zip(acts, outcomes, strict=True), 1):
        namespaces = dict.fromkeys(row.namespace for row in outcome.rows)
        print(format_row(f"{number} {act.title}", outcome.rows, sum(row.seconds for row in cold.rows)))
        for namespace in namespaces if len(namespaces) > 1 else ():
            rows = [row for row in outcome.rows if row.namespace == namespace]
            before = sum(row.seconds for row in cold.rows if row.namespace == namespace)
            print(format_row(f"    {namespace}", rows, before))
    for number, outcome in enumerate(outcomes, 1):
        calls = ", ".join(f"{name} {count}" for name, count in sorted(outcome.calls.items())) or "none"
        memory = f"{outcome.peak_bytes / 1e6:.0f} MB" if outcome.peak_bytes else "unknown"
        print(f"act {number}: process {outcome.seconds:.1f} s, memory {memory}, dask tasks {outcome.tasks}")
        print(f"       calls: {calls}")


def _tidy(directory: Path, is_new: bool) -> None:
    for path in directory.iterdir():
        if path.name == _PICTURE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if is_new and not any(directory.iterdir()):
        directory.rmdir()

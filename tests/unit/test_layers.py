"""The shape of the package that no linter holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import daskcache

PACKAGE = Path(daskcache.__file__).parent
MAX_LINES = 475


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in sorted(PACKAGE.rglob("*.py"))]
)
def test_modules_stay_small(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        assert sum(1 for _ in file) <= MAX_LINES, "split it: a newcomer cannot hold this in the head"


def test_import_leaves_the_optional_and_the_heavy_alone() -> None:
    """Workers and command lines import daskcache at every start; an extra may be missing."""
    unwanted = [
        "click",
        "dask.dataframe",
        "distributed",
        "flox",
        "gcsfs",
        "h5netcdf",
        "h5py",
        "icechunk",
        "kerchunk",
        "matplotlib",
        "netCDF4",
        "obstore",
        "paramiko",
        "redis",
        "s3fs",
    ]
    program = f"import sys, daskcache; print([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"

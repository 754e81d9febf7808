"""Keep every test and docstring example away from the user's files and from each other."""

from __future__ import annotations

import atexit
import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before dask is imported, because it reads and writes its configuration then. The home directory too, because
# dask, platformdirs, matplotlib and the cloud libraries all look below it; child processes inherit it.
HOME = Path(tempfile.mkdtemp(prefix="daskcache-tests-"))
_OWNER = os.getpid()
for _name in [name for name in os.environ if name.startswith("DASK_")]:
    del os.environ[_name]
os.environ |= {
    "HOME": str(HOME),
    "XDG_CACHE_HOME": str(HOME / "cache"),
    "XDG_CONFIG_HOME": str(HOME / "config"),
    "XDG_DATA_HOME": str(HOME / "data"),
    "DASK_CONFIG": str(HOME / "dask"),
    "MPLBACKEND": "Agg",
}

import dask.config  # noqa: E402
import distributed  # noqa: E402, F401  (its import adds defaults to the configuration)
import pytest  # noqa: E402
import xarray  # noqa: E402
import zarr  # noqa: E402

import daskcache  # noqa: E402, F401


@atexit.register
def _remove_home() -> None:
    if os.getpid() == _OWNER:  # not in a forked child
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def store_root(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give the directory of this test's own store, which the configuration names; it does not exist yet."""
    root = tmp_path_factory.getbasetemp() / "stores" / f"{os.getpid()}-{id(request):x}"
    before = copy.deepcopy((dask.config.config, zarr.config.config, dict(xarray.get_options())))
    with dask.config.set({"daskcache.store": str(root)}):
        configured = copy.deepcopy(dask.config.config)
        yield root
        inside = copy.deepcopy(dask.config.config)
    after = (dask.config.config, zarr.config.config, dict(xarray.get_options()))
    leaked = [
        name for name, old, new in zip(("dask", "zarr", "xarray"), before, after, strict=True) if old != new
    ]
    if inside != configured and "dask" not in leaked:
        leaked.append("dask")
    dask.config.config.clear()
    dask.config.config.update(before[0])
    zarr.config.config.clear()
    zarr.config.config.update(before[1])
    shutil.rmtree(root, ignore_errors=True)
    assert not leaked, f"this test changed the global configuration of {' and '.join(leaked)} and left it so"

"""Each client of a scheduler is told once what the pass has to say, whoever else was told before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("redis")

from tests.clusters import ROOT, Processes, processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT = """
import sys, time, warnings
import dask.array as da
import numpy as np
from distributed import Client

class Odd:
    def __init__(self):
        self.values = iter(())
    def __reduce__(self):
        return Odd, ()

def keep(block, odd):
    return block

if __name__ == "__main__":
    address, message = sys.argv[1:]
    x = da.ones(4, chunks=2).map_blocks(keep, Odd(), dtype=float, meta=np.empty(0))
    with Client(address), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        def told():
            return sum(message in str(each.message) for each in caught)
        assert x.compute().tolist() == [1] * 4
        end = time.monotonic() + 20
        while not told() and time.monotonic() < end:
            time.sleep(0.05)
        assert x.compute().tolist() == [1] * 4
        time.sleep(0.5)
        print(told())
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("cluster"), 1) as made:
        yield made


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("store", "cannot be keyed"),
        # The configuration alone asks for the pass, so that this is no error.
        ("nosuch://x", "the pass is off, because the configuration is not what it should be"),
        # Nothing listens there.
        ("redis://127.0.0.1:1/0", "the store is left alone and all is computed"),
    ],
)
def test_each_client_is_told_once(started: Processes, tmp_path: Path, store: str, message: str) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    environment = {
        "DASK_DASKCACHE__ENABLED": "true",
        "DASK_DASKCACHE__STORE": store if "://" in store else str(tmp_path / store),
        "DASK_DASKCACHE__POLICY": "outputs",
    }
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "client.py", started.address, message],
            cwd=tmp_path,
            env={**started.environment, **environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.strip())
    assert told == ["1", "1"]

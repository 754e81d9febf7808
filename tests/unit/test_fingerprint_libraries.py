"""Objects of libraries: the same in every process, another for every other value, refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint
from tests.library_objects import MAKERS, digests
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def elsewhere() -> list[dict[str, str]]:
    """What two other processes say, with other hash seeds, one of which has used what can be called."""
    found = []
    for seed, *options in (("1",), ("2", "--called")):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.library_objects", *options],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
        found.append(
            dict(line.rsplit(": ", 1) for line in result.stdout.splitlines() if "refused" not in line)
        )
    return found


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.filterwarnings("ignore")
def test_same_in_every_process_and_other_for_every_value(
    library: str, elsewhere: list[dict[str, str]]
) -> None:
    pytest.importorskip(library)
    here = digests(library)
    assert not [name for name, digest in here.items() if digest.startswith("refused")]
    first, second = ({name: other[f"{library}: {name}"] for name in here} for other in elsewhere)
    assert first == second
    assert here == first
    assert len(set(here.values())) == len(here)


@pytest.mark.parametrize(
    "make",
    [
        np.random.default_rng,
        np.random.RandomState,
        np.random.SeedSequence,
        lambda: np.random.Generator(np.random.MT19937()),
    ],
)
def test_unseeded_generators_are_refused(make: Any) -> None:
    with pytest.raises(UncacheableError, match="without a seed"):
        fingerprint(make())


def test_reseeded_and_global_states() -> None:
    state = np.random.RandomState()
    state.seed(3)
    assert fingerprint(state) == fingerprint(np.random.RandomState(3))


def test_unseeded_random_arrays_are_refused() -> None:
    import dask.array as da

    from daskcache.graph import keys_of
    from daskcache.tokens import GraphTokens

    unseeded = da.random.default_rng().random(4, chunks=2)
    tokens = GraphTokens(unseeded.dask, Fingerprinter())
    assert "without a seed" in str(tokens.reason(keys_of([unseeded])[0]))
    one, other, third = (da.random.default_rng(seed).random(4, chunks=2) for seed in (1, 1, 2))
    found = [
        GraphTokens(array.dask, Fingerprinter()).token(keys_of([array])[0]) for array in (one, other, third)
    ]
    assert found[0] == found[1] != found[2]
    assert None not in found


def test_a_search_tree_made_on_demand_is_no_part_of_geometries() -> None:
    geopandas = pytest.importorskip("geopandas")
    shapely = pytest.importorskip("shapely")
    series = geopandas.GeoSeries([shapely.Point(1, 2)], crs=4326)
    before = fingerprint(series)
    assert series.sindex is not None
    assert fingerprint(series) == before


@pytest.mark.parametrize(
    ("source", "edited"),
    [
        ("x + step", "x - step"),
        ("x + step", "x + step + 0 * step"),
    ],
)
def test_an_edit_of_a_compiled_function_is_seen(source: str, edited: str, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    module = """
    import numba
    step = 2

    @numba.njit
    def inner(x):
        return {body}

    @numba.vectorize(["float64(float64)"])
    def outer(x):
        return inner(x)
    """
    sys.path.insert(0, str(tmp_path))
    workspace = Workspace(tmp_path)
    try:
        found = {
            (target, body): workspace.digest({"compiled.py": module.format(body=body)}, f"compiled:{target}")
            for target in ("inner", "outer")
            for body in (source, edited)
        }
        again = workspace.digest({"compiled.py": module.format(body=source)}, "compiled:outer")
        other_global = workspace.digest(
            {"compiled.py": module.format(body=source).replace("step = 2", "step = 4")}, "compiled:outer"
        )
    finally:
        workspace.forget()
        sys.path.remove(str(tmp_path))
    assert len(set(found.values())) == 4
    assert again == found["outer", source]
    assert other_global not in found.values()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_cython_functions_count_with_their_file(tmp_path: Path) -> None:
    """One extension of the user's, compiled twice: no version stands for it, so that its bytes count."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    program = tmp_path / "build.py"
    program.write_text(
        textwrap.dedent("""
        import sys
        from Cython.Build import cythonize
        from setuptools import Extension, setup
        setup(script_args=["-q", "build_ext", "--inplace"], ext_modules=cythonize(
            [Extension("compiled_code", ["compiled_code.pyx"])], quiet=True, language_level=3))
        """)
    )
    use = (
        "import compiled_code, daskcache.fingerprint as f; from functools import partial;"
        "print(f.fingerprint(compiled_code.add), f.fingerprint(partial(compiled_code.add, 1)), "
        "f.fingerprint(compiled_code.Adder), f.fingerprint(compiled_code.Adder(2)))"
    )
    found = []
    for body in ("x + 1", "x + 1", "x + 2"):
        (tmp_path / "compiled_code.pyx").write_text(
            f"def add(x):\n    return {body}\n\n"
            "class Adder:\n    def __init__(self, n):\n        self.n = n\n"
            f"    def __call__(self, x):\n        return {body}\n"
        )
        for old in (*tmp_path.glob("*.c"), *tmp_path.glob("*.so")):
            if not found or body not in found[-1][0]:
                old.unlink()
        try:
            subprocess.run(
                [sys.executable, "build.py"], cwd=tmp_path, check=True, capture_output=True, timeout=100
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"nothing compiles here: {error.stderr.decode()[-200:]}")
        result = subprocess.run(
            [sys.executable, "-c", use],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        found.append((body, result.stdout.split()))
    assert found[0] == found[1]
    assert not set(found[0][1]) & set(found[2][1])

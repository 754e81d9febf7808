"""Law 2 from outside: what an edit of the user's code or data makes be computed again, and what it does not."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

import daskcache
from tests.workspace import Workspace

BLOCKS = 2

FILES = {
    # Counts the calls of producers; says what it is itself, so that it enters no token by its code.
    "tally.py": """
        import os
        import daskcache

        @daskcache.fingerprint_as("tally")
        def count(name):
            with open(os.environ["TALLY"], "a") as file:
                file.write(name + "\\n")
    """,
    "params.py": """
        K = 3
        UNUSED = 1
        TABLE = {"a": 1.0, "b": [1, 2]}
    """,
    "package/__init__.py": "",
    "package/deep.py": """
        from . import deeper

        def descend(x):
            return deeper.bottom(x)
    """,
    "package/deeper.py": """
        LEVEL = 5

        def bottom(x):
            return x + LEVEL
    """,
    "helpers.py": """
        import numpy as np

        SCALE = 2
        OFFSET = 7

        def scale(x):
            return x * SCALE

        def offset(x):
            return inner(x) + OFFSET

        def inner(x):
            return np.abs(x)

        def unused(x):
            return x

        def decorate(function):
            def wrapper(x):
                return function(x) + 100
            return wrapper

        class Model:
            order = 2

            def __init__(self, weight):
                self.weight = weight

            def __call__(self, x):
                return self.apply(x)

            def apply(self, x):
                return x ** self.order * self.weight
    """,
    "pipeline.py": """
        import functools
        import os

        import numpy as np
        import xarray as xr

        import helpers
        import package.deep
        import params
        import tally
        from helpers import Model, decorate, offset

        LIMIT = 4
        NAMES = {"x": 1}

        def body(x):
            tally.count("body")
            return x * 1.5 + 1

        def calls_helper(x):
            tally.count("calls_helper")
            return local_helper(x)

        def local_helper(x):
            if x.size:
                return x - 11
            return x

        def calls_module(x):
            tally.count("calls_module")
            return helpers.scale(x)

        def calls_imported(x):
            tally.count("calls_imported")
            return offset(x)

        def calls_package(x):
            tally.count("calls_package")
            return package.deep.descend(x)

        def imports_inside(x):
            import params as inside
            tally.count("imports_inside")
            return x * inside.TABLE["a"]

        def reads_global(x):
            tally.count("reads_global")
            return np.minimum(x, LIMIT)

        def reads_parameter(x):
            tally.count("reads_parameter")
            return x + params.K

        def make_closure(value):
            def closure(x):
                tally.count("closure")
                return x + value
            return closure

        def default(x, by=13):
            tally.count("default")
            return x / by

        def keyword_default(x, *, by=17):
            tally.count("keyword_default")
            return x / by

        first, second = lambda x: (tally.count("first"), x + 1)[1], lambda x: (tally.count("second"), x + 2)[1]

        @decorate
        def decorated(x):
            tally.count("decorated")
            return x

        def with_partial(x, power):
            tally.count("with_partial")
            return x ** power

        def with_literal(x, factor):
            tally.count("with_literal")
            return x * factor

        def recursive(x, depth=3):
            tally.count("recursive") if depth == 3 else None
            return x if not depth else recursive(x, depth - 1) + 1

        def comprehends(x):
            tally.count("comprehends")
            return sum(x * i for i in range(4)) + [j for j in (1, 2)][0]

        def model(x, model):
            tally.count("model")
            return model(x)

        def build(path):
            # one literal
            x = xr.open_zarr(path).v.data
            blocks = {
                "body": x.map_blocks(body),
                "calls_helper": x.map_blocks(calls_helper),
                "calls_module": x.map_blocks(calls_module),
                "calls_imported": x.map_blocks(calls_imported),
                "calls_package": x.map_blocks(calls_package),
                "imports_inside": x.map_blocks(imports_inside),
                "reads_global": x.map_blocks(reads_global),
                "reads_parameter": x.map_blocks(reads_parameter),
                "closure": x.map_blocks(make_closure(19)),
                "default": x.map_blocks(default),
                "keyword_default": x.map_blocks(keyword_default),
                "first": x.map_blocks(first),
                "second": x.map_blocks(second),
                "decorated": x.map_blocks(decorated),
                "with_partial": x.map_blocks(functools.partial(with_partial, power=2)),
                "with_literal": x.map_blocks(with_literal, 23.0),
                "recursive": x.map_blocks(recursive),
                "comprehends": x.map_blocks(comprehends),
                "model": x.map_blocks(model, model=Model(29.0)),
            }
            return xr.Dataset({name: ("x", block) for name, block in blocks.items()})
    """,
}
ALL = frozenset(
    [
        "body",
        "calls_helper",
        "calls_module",
        "calls_imported",
        "calls_package",
        "imports_inside",
        "reads_global",
        "reads_parameter",
        "closure",
        "default",
        "keyword_default",
        "first",
        "second",
        "decorated",
        "with_partial",
        "with_literal",
        "recursive",
        "comprehends",
        "model",
    ]
)

# File, what is replaced by what, and the variables that have to be computed again.
EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    "body": ("pipeline.py", "x * 1.5 + 1", "x * 1.5 + 2", {"body"}),
    "type of a constant": ("pipeline.py", "x * 1.5 + 1", "x * 1.5 + 1.0", {"body"}),
    "operator": ("pipeline.py", "x * 1.5 + 1", "x * 1.5 - 1", {"body"}),
    "order of operands": ("pipeline.py", "x * 1.5 + 1", "1 + x * 1.5", {"body"}),
    "helper of the module": ("pipeline.py", "return x - 11", "return x - 12", {"calls_helper"}),
    "branch of the helper": ("pipeline.py", "if x.size:", "if not x.size:", {"calls_helper"}),
    "attribute": ("pipeline.py", "if x.size:", "if x.ndim:", {"calls_helper"}),
    "helper of a module": ("helpers.py", "return x * SCALE", "return x / SCALE", {"calls_module"}),
    "global of the helper": ("helpers.py", "SCALE = 2", "SCALE = 3", {"calls_module"}),
    "imported helper": ("helpers.py", "return inner(x) + OFFSET", "return inner(x) - OFFSET", {"calls_imported"}),
    "helper of a helper": ("helpers.py", "np.abs(x)", "np.negative(x)", {"calls_imported"}),
    "its global": ("helpers.py", "OFFSET = 7", "OFFSET = 8", {"calls_imported"}),
    "function deep in a package": ("package/deeper.py", "x + LEVEL", "x - LEVEL", {"calls_package"}),
    "global deep in a package": ("package/deeper.py", "LEVEL = 5", "LEVEL = 6", {"calls_package"}),
    "imported inside": ("params.py", '"a": 1.0', '"a": 2.0', {"imports_inside"}),
    "deep in what is imported inside": ("params.py", "[1, 2]", "[2, 1]", {"imports_inside"}),
    "global": ("pipeline.py", "LIMIT = 4", "LIMIT = 5", {"reads_global"}),
    "type of a global": ("pipeline.py", "LIMIT = 4", "LIMIT = 4.0", {"reads_global"}),
    "parameter": ("params.py", "K = 3", "K = 4", {"reads_parameter"}),
    "closure": ("pipeline.py", "make_closure(19)", "make_closure(20)", {"closure"}),
    "default": ("pipeline.py", "by=13", "by=14", {"default"}),
    "keyword default": ("pipeline.py", "by=17", "by=18", {"keyword_default"}),
    "first lambda of a line": ("pipeline.py", "x + 1)[1], lambda", "x + 3)[1], lambda", {"first"}),
    "second lambda of a line": ("pipeline.py", '("second"), x + 2)', '("second"), x + 5)', {"second"}),
    "decorator": ("helpers.py", "+ 100", "+ 101", {"decorated"}),
    "bound argument": ("pipeline.py", "power=2)", "power=3)", {"with_partial"}),
    "bound argument's type": ("pipeline.py", "power=2)", "power=np.int8(2))", {"with_partial"}),
    "literal": ("pipeline.py", "with_literal, 23.0", "with_literal, 24.0", {"with_literal"}),
    "literal's type": ("pipeline.py", "with_literal, 23.0", "with_literal, np.float32(23.0)", {"with_literal"}),
    "recursion": ("pipeline.py", "depth - 1) + 1", "depth - 1) + 2", {"recursive"}),
    "generator expression": ("pipeline.py", "x * i for", "x - i for", {"comprehends"}),
    "range": ("pipeline.py", "range(4)", "range(5)", {"comprehends"}),
    "method": ("helpers.py", "return self.apply(x)", "return -self.apply(x)", {"model"}),
    "method that a method calls": ("helpers.py", "self.order * self.weight", "self.order + self.weight", {"model"}),
    "class attribute": ("helpers.py", "order = 2", "order = 3", {"model"}),
    "instance's state": ("pipeline.py", "Model(29.0)", "Model(31.0)", {"model"}),
    "constructor": ("helpers.py", "self.weight = weight", "self.weight = weight + 1", {"model"}),
}  # fmt: skip

COSMETICS: dict[str, tuple[str, str, str]] = {
    "comment": ("pipeline.py", "return x * 1.5 + 1", "return x * 1.5 + 1  # better so"),
    "comment line": ("helpers.py", "return x * SCALE", "# doubled\n            return x * SCALE"),
    "docstring": ("pipeline.py", "def body(x):", 'def body(x):\n            """Do it."""'),
    "long docstring": ("helpers.py", "def scale(x):", 'def scale(x):\n            """Scale.\n\n            It.\n            """'),
    "docstring of a method": ("helpers.py", "def apply(self, x):", 'def apply(self, x):\n                """Do."""'),
    "docstring of a class": ("helpers.py", "class Model:", 'class Model:\n            """A model."""'),
    "docstring of a closure": ("pipeline.py", "def closure(x):", 'def closure(x):\n                """Add."""'),
    "line breaks": ("pipeline.py", "return x * 1.5 + 1", "return (\n                x * 1.5\n                + 1\n            )"),
    "parentheses": ("pipeline.py", "return x * 1.5 + 1", "return ((x * 1.5) + 1)"),
    "blank lines": ("pipeline.py", "LIMIT = 4", "\n\n\n\n        LIMIT = 4"),
    "spaces": ("pipeline.py", "x * 1.5 + 1", "x*1.5+1"),
    "quotes": ("pipeline.py", 'count("body")', "count('body')"),
    "trailing comma": ("pipeline.py", 'count("body")', 'count("body",)'),
    "spelling of a number": ("pipeline.py", "LIMIT = 4", "LIMIT = 0x4"),
    "type hint": ("pipeline.py", "def body(x):", "def body(x: np.ndarray) -> np.ndarray:"),
    "type hint of a method": ("helpers.py", "def apply(self, x):", "def apply(self, x: 'np.ndarray') -> object:"),
    "type hint of a default": ("pipeline.py", "by=13", "by: int = 13"),
    "type hint of a variable": ("pipeline.py", "LIMIT = 4", "LIMIT: int = 4"),
    "type hint of a class": ("helpers.py", "order = 2", "order: int = 2"),
    "future import": ("pipeline.py", "import functools\n", "from __future__ import annotations\n        import functools\n"),
    "unused import": ("pipeline.py", "import functools\n", "import functools\n        import json\n"),
    "unused global": ("helpers.py", "SCALE = 2", "SCALE = 2\n        OTHER = 1"),
    "unused function": ("helpers.py", "def unused(x):\n            return x", "def unused(x):\n            return x + 1"),
    "unused parameter": ("params.py", "UNUSED = 1", "UNUSED = 2"),
    "unread global": ("pipeline.py", 'NAMES = {"x": 1}', 'NAMES = {"x": 2}'),
    "pass": ("pipeline.py", "return x * 1.5 + 1", "pass\n            return x * 1.5 + 1"),
    "another place": (
        "helpers.py",
        "def inner(x):\n            return np.abs(x)\n",
        "def moved(x):\n            return x\n\n        def inner(x):\n            return np.abs(x)\n",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("edits")
    source = xr.Dataset({"v": ("x", np.linspace(1.0, 9.0, 8))}).chunk(x=4)
    source.to_zarr(root / "source.zarr", zarr_format=2)
    (root / "modules").mkdir()
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(root / "modules"))
    patch.setenv("TALLY", str(root / "tally"))
    # No bytecode: two variants of a file may have the same size and time.
    patch.setattr(sys, "dont_write_bytecode", True)
    workspace = Workspace(root / "modules")
    calls, _ = run(root, {})
    assert calls == dict.fromkeys(ALL, BLOCKS)
    yield root
    workspace.forget()
    patch.undo()


def run(root: Path, changed: Mapping[str, str]) -> tuple[dict[str, int], xr.Dataset]:
    """Persist the pipeline of a tree of modules, and count the calls of its producers."""
    pipeline = load(root, changed)
    ds = pipeline.build(str(root / "source.zarr"))
    # dask has called the functions already, with tiny arrays, to learn the dtype of their results.
    (root / "tally").write_text("")
    with dask.config.set(scheduler="synchronous"):
        kept = daskcache.persist(ds, "edited", store=str(root / "store"))
        calls = Counter((root / "tally").read_text().split())
        xr.testing.assert_identical(kept.compute(), ds.compute())
    return dict(calls), ds


def load(root: Path, changed: Mapping[str, str]) -> ModuleType:
    workspace = Workspace(root / "modules")
    workspace.write({**FILES, **changed})
    return importlib.import_module("pipeline")


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert FILES[file].count(old) == 1, f"{old!r} is not once in {file}"
    return {file: FILES[file].replace(old, new)}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_a_miss_for_what_depends_on_it(name: str, place: Path) -> None:
    file, old, new, dependents = EDITS[name]
    calls, _ = run(place, edited(file, old, new))
    last = daskcache.last_run()
    assert last is not None
    assert calls == dict.fromkeys(dependents, BLOCKS)
    assert (last.computed, last.reused) == (BLOCKS * len(dependents), BLOCKS * (len(ALL) - len(dependents)))


@pytest.mark.parametrize("name", COSMETICS)
def test_a_cosmetic_change_is_a_hit(name: str, place: Path) -> None:
    calls, _ = run(place, edited(*COSMETICS[name]))
    assert calls == {}


def test_an_edit_that_is_taken_back_is_a_hit(place: Path) -> None:
    run(place, edited("pipeline.py", "x * 1.5 + 1", "x * 1.5 + 99"))
    assert run(place, {})[0] == {}


def test_one_changed_source_chunk_is_a_miss_for_one_block_of_each(place: Path) -> None:
    chunk = place / "source.zarr" / "v" / "1"
    before = chunk.read_bytes(), chunk.stat()
    try:
        zarr.open_group(str(place / "source.zarr"), mode="r+")["v"][5] = -1.0
        calls, _ = run(place, {})
        assert calls == dict.fromkeys(ALL, 1)
    finally:
        chunk.write_bytes(before[0])

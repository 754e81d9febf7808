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
from tests.edited_modules import FILES
from tests.edited_modules import VARIABLES as ALL
from tests.workspace import Workspace

BLOCKS = 2

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
    "star import": ("stars.py", "return x + STAR", "return x - STAR", {"star"}),
    "global of a star import": ("stars.py", "STAR = 37", "STAR = 38", {"star"}),
    "condition": ("helpers.py", "if SCALE:", "if not SCALE:", {"conditional"}),
    "branch that was chosen": ("helpers.py", "x + 67", "x + 68", {"conditional"}),
    "wrapper": ("helpers.py", "function(x) * 41", "function(x) * 42", {"wrapped"}),
    "what a wrapper wraps": ("pipeline.py", "return x - 2", "return x - 3", {"wrapped"}),
    "behind a cache": ("pipeline.py", "n + 79", "n + 80", {"cached"}),
    "implementation for a type": ("pipeline.py", "return x + 83", "return x + 84", {"dispatches"}),
    "member": ("pipeline.py", "unit=Unit.LARGE", "unit=Unit.SMALL", {"enumerates"}),
    "value of a member": ("helpers.py", "LARGE = 2", "LARGE = 5", {"enumerates"}),
    "field": ("pipeline.py", "alpha=137.0", "alpha=138.0", {"data"}),
    "default of a field": ("helpers.py", "beta: int = 3", "beta: int = 4", {"data"}),
    "static method": ("helpers.py", "x + 47", "x + 48", {"static", "of_class", "inherits"}),
    "class method": ("helpers.py", "x + cls.step", "x - cls.step", {"static", "of_class", "inherits"}),
    "attribute of a base": ("helpers.py", "step = 43", "step = 44", {"static", "of_class", "inherits"}),
    "property": ("helpers.py", "return 53", "return 54", {"static", "of_class", "inherits"}),
    "method of a subclass": ("helpers.py", "inherited(x) * 2", "inherited(x) * 3", {"inherits"}),
    "base": ("helpers.py", "class Child(Base)", "class Child(Base, Options)", {"inherits"}),
    "descriptor": ("helpers.py", "return 59", "return 60", {"meta"}),
    "metaclass": ("helpers.py", "made.extra = 61", "made.extra = 62", {"meta"}),
    "one of two that call each other": ("pipeline.py", "x + 73", "x + 74", {"mutual"}),
    "the other": ("pipeline.py", "else odd(x, n - 1)", "else odd(x, n - 2)", {"mutual"}),
    "body of a try": ("pipeline.py", "x + 89", "x + 90", {"guarded"}),
    "what is caught": ("pipeline.py", "except ValueError", "except KeyError", {"guarded"}),
    "what is done at last": ("pipeline.py", "x = x + 0", "x = x - 0", {"guarded"}),
    "default of an inner function": ("pipeline.py", "z=97", "z=98", {"nested"}),
    "inner class": ("pipeline.py", "width = 101", "width = 102", {"nested"}),
    "argument": ("pipeline.py", "block + 1], 3,", "block + 1], 4,", {"several"}),
    "order of a list": ("pipeline.py", "[block, block + 1]", "[block + 1, block]", {"several"}),
    "list and tuple": ("pipeline.py", "[block, block + 1]", "(block, block + 1)", {"several"}),
    "nesting": ("pipeline.py", "[block, block + 1]", "[block, [block + 1]][:1]", {"several"}),
    "named argument": ("pipeline.py", "two=149", "two=150", {"several"}),
    "order of named arguments": ("pipeline.py", "one=139, two=149", "two=149, one=139", {"several"}),
    "names of arguments": ("pipeline.py", "one=139, two=149", "two=139, one=149", {"several"}),
    "order of a dict": ("params.py", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', {"ordered"}),
    "deep in an argument": ("params.py", "[1, (2, 3)]", "[1, (3, 2)]", {"deep"}),
    "kind deep in an argument": ("params.py", "[1, (2, 3)]", "[1, [2, 3]]", {"deep"}),
    "generator": ("pipeline.py", "yield x + 103", "yield x + 104", {"generates"}),
    "case": ("pipeline.py", "x + 107", "x + 108", {"matches"}),
    "pattern": ("pipeline.py", "case 1:", "case 2:", {"matches"}),
    "format": ("pipeline.py", ":>5}", ":>6}", {"formats"}),
    "overlapping function": ("pipeline.py", "x * 109", "x * 110", {"around"}),
    "depth of the overlap": ("pipeline.py", "depth=1", "depth=2", {"around"}),
    "boundary of the overlap": ("pipeline.py", 'boundary="reflect"', 'boundary="nearest"', {"around"}),
    "core": ("pipeline.py", "x * 113", "x * 114", {"core"}),
    "argument of something delayed": ("pipeline.py", "(number, 151)", "(number, 152)", {"partition"}),
    "declared version": ("pipeline.py", 'version("1")', 'version("2")', {"versioned"}),
    "declared identity": ("pipeline.py", '"whole", 1)', '"whole", 2)', {"declared"}),
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
    "body of what has a version": ("pipeline.py", "x * 127", "127 * x"),
    "body of what is declared": ("pipeline.py", "x * 131", "131 * x"),
    "docstring of a descriptor": ("helpers.py", "'A descriptor.'", "'Another.'"),
    "branch that is not chosen": ("helpers.py", "x + 71", "x + 72"),
    "name that a star leaves out": ("stars.py", "HIDDEN = 1", "HIDDEN = 2"),
    "comment in a class": ("helpers.py", "step = 43", "step = 43  # how far"),
    "type hint of an inner function": ("pipeline.py", "def inner(y, z=97):", "def inner(y: int, z: 'str' = 97) -> list:"),
    "spelling of a string": ("pipeline.py", 'boundary="reflect"', "boundary='re' 'flect'"),
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


def test_the_tables_are_long() -> None:
    assert len(EDITS) >= 60
    assert len(COSMETICS) >= 25
    # Each function is edited, and each edit is of something.
    assert {name for *_, dependents in EDITS.values() for name in dependents} == ALL


@pytest.mark.parametrize("name", COSMETICS)
def test_a_cosmetic_change_is_a_hit(name: str, place: Path) -> None:
    calls, _ = run(place, edited(*COSMETICS[name]))
    assert calls == {}


@pytest.mark.filterwarnings("ignore:.*alternates between recipes")
def test_an_edit_that_is_taken_back_is_a_hit(place: Path) -> None:
    run(place, edited("pipeline.py", "x * 1.5 + 1", "x * 1.5 + 99"))
    assert run(place, {})[0] == {}


def test_one_changed_source_chunk_is_a_miss_for_one_block_of_each(place: Path) -> None:
    chunk = place / "source.zarr" / "v" / "1"
    before = chunk.read_bytes(), chunk.stat()
    try:
        zarr.open_group(str(place / "source.zarr"), mode="r+")["v"][5] = -1.0
        calls, _ = run(place, {})
        # An overlapping function sees the edge of the other block; what reads nothing is as it was.
        assert calls == {**dict.fromkeys(ALL - {"partition"}, 1), "around": 2}
    finally:
        chunk.write_bytes(before[0])

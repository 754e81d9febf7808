"""Which edits of the user's code change a function's identity, and which do not."""

from __future__ import annotations

import textwrap

import pytest

from daskcache.fingerprint import Fingerprinter, fingerprint
from tests.workspace import Workspace

BASE = {
    "analysis.py": '''
        import functools
        import math
        import numpy as np
        import helpers, params
        import pkg.sub
        from helpers import scale as imported_scale
        from shapes import Grid, Scaled

        OFFSET = 3
        TABLE = {"a": 1, "b": [2, 3]}
        ORDER = ("x", "y")

        def smooth(x, window=5, *, mode="same"):
            """Smooth a series."""
            y = local_helper(x) + OFFSET
            z = imported_scale(y) * TABLE["b"][0]
            for i in range(window):
                z = z + i
            if mode == "same" and x in {1, 2, 3}:
                return z
            return [q * 2 for q in z]

        def local_helper(x):
            return deep_helper(x) + 1

        def deep_helper(x):
            return math.floor(x)

        def through_modules(x):
            return helpers.scale(x) * params.K + pkg.sub.LIMIT

        def body_imports(x):
            from helpers import scale as s
            import params as p
            import pkg.sub
            return s(x) + p.K + pkg.sub.LIMIT

        def relative(x):
            return pkg.sub.relative(x)

        def make(k):
            def inner(x, shift=0):
                return x * k + shift
            return inner

        twice = make(2)

        def decorate(func):
            @functools.wraps(func)
            def wrapper(*args):
                return func(*args) + 1
            return wrapper

        @decorate
        def decorated(x):
            return x * 2

        @functools.lru_cache
        def remembered(x):
            return local_helper(x)

        bound = functools.partial(smooth, window=3)
        square = lambda x: x ** 2; cube = lambda x: x ** 3

        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n != 0 and even(n - 1)

        def uses_class(x):
            return Grid(x).area() + Scaled.FACTOR

        def nested(x):
            def one(a: int, b: str = "b") -> float:
                return a + OFFSET
            class Local:
                """Something local."""
                value = 1
            return one(x) + Local.value

        def guarded(x):
            try:
                return x / 2
            except ZeroDivisionError:
                return 0

        def generate(x):
            yield x
    ''',
    "helpers.py": '''
        FACTOR = 10

        def scale(x):
            """Scale."""
            return x * FACTOR

        def unrelated(x):
            return x
    ''',
    "params.py": "K = 7\nOTHER = 8\n",
    "pkg/__init__.py": "",
    "pkg/sub.py": """
        from . import near
        LIMIT = 100
        def relative(x):
            from .near import bend
            from . import near as n
            return bend(x) + n.BEND
    """,
    "pkg/near.py": """
        BEND = 2
        def bend(x):
            return x + 0.5
    """,
    "shapes.py": '''
        import dataclasses
        import enum

        class Kind(enum.Enum):
            SMALL = 1
            LARGE = 2

        class Base:
            UNIT = 1.0
            def area(self):
                return self.size * self.UNIT

        class Grid(Base):
            """A grid."""
            def __init__(self, size):
                self.size = size
                self.kind = Kind.SMALL

            @property
            def double(self):
                return self.size * 2

            @classmethod
            def make(cls, size):
                return cls(size)

            @staticmethod
            def check(size):
                return size > 0

        class Scaled(Grid):
            FACTOR = 4
            def area(self):
                return super().area() * self.FACTOR

        @dataclasses.dataclass
        class Options:
            alpha: float = 0.5
            names: list = dataclasses.field(default_factory=list)
    ''',
}

BASE = {name: textwrap.dedent(source) for name, source in BASE.items()}


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert old in BASE[file], f"{old!r} is not in {file}"
    return {**BASE, file: BASE[file].replace(old, new)}


CHANGES = [
    ("smooth", "analysis.py", "return z\n", "return z + 0\n"),
    ("smooth", "analysis.py", "range(window)", "range(window + 1)"),
    ("smooth", "analysis.py", 'mode == "same"', 'mode != "same"'),
    ("smooth", "analysis.py", "{1, 2, 3}", "{1, 2, 4}"),
    ("smooth", "analysis.py", "{1, 2, 3}", "{1, 2, 3.0}"),
    ("smooth", "analysis.py", "[q * 2 for q in z]", "[q * 2.0 for q in z]"),
    ("smooth", "analysis.py", "[q * 2 for q in z]", "[q * True for q in z]"),
    ("smooth", "analysis.py", "[q * 2 for q in z]", "(q * 2 for q in z)"),
    ("smooth", "analysis.py", "window=5", "window=6"),
    ("smooth", "analysis.py", "window=5", "window=5.0"),
    ("smooth", "analysis.py", '*, mode="same"', '*, mode="valid"'),
    ("smooth", "analysis.py", 'x, window=5, *, mode="same"', 'x, window=5, mode="same"'),
    ("smooth", "analysis.py", "OFFSET = 3", "OFFSET = 4"),
    ("smooth", "analysis.py", "OFFSET = 3", "OFFSET = True"),
    ("smooth", "analysis.py", '"b": [2, 3]', '"b": [3, 2]'),
    ("smooth", "analysis.py", '{"a": 1, "b": [2, 3]}', '{"b": [2, 3], "a": 1}'),
    ("smooth", "analysis.py", "+ OFFSET", "- OFFSET"),
    ("smooth", "analysis.py", "deep_helper(x) + 1", "deep_helper(x) + 2"),
    ("smooth", "analysis.py", "math.floor(x)", "math.ceil(x)"),
    ("smooth", "analysis.py", "import math", "import cmath as math"),
    ("smooth", "helpers.py", "x * FACTOR", "x / FACTOR"),
    ("smooth", "helpers.py", "FACTOR = 10", "FACTOR = 11"),
    ("through_modules", "helpers.py", "x * FACTOR", "FACTOR * x"),
    ("through_modules", "params.py", "K = 7", "K = 9"),
    ("through_modules", "pkg/sub.py", "LIMIT = 100", "LIMIT = 101"),
    ("body_imports", "helpers.py", "FACTOR = 10", "FACTOR = 11"),
    ("body_imports", "params.py", "K = 7", "K = 9"),
    ("body_imports", "pkg/sub.py", "LIMIT = 100", "LIMIT = 101"),
    ("relative", "pkg/near.py", "x + 0.5", "x + 0.25"),
    ("relative", "pkg/near.py", "BEND = 2", "BEND = 3"),
    ("twice", "analysis.py", "make(2)", "make(3)"),
    ("twice", "analysis.py", "x * k + shift", "x * k - shift"),
    ("twice", "analysis.py", "shift=0", "shift=1"),
    ("decorated", "analysis.py", "return x * 2", "return x * 3"),
    ("decorated", "analysis.py", "func(*args) + 1", "func(*args) + 2"),
    ("remembered", "analysis.py", "deep_helper(x) + 1", "deep_helper(x) + 2"),
    ("bound", "analysis.py", "window=3", "window=4"),
    ("bound", "analysis.py", "math.floor(x)", "math.ceil(x)"),
    ("square", "analysis.py", "x ** 2", "x ** 4"),
    ("even", "analysis.py", "odd(n - 1)", "odd(n - 2)"),
    ("even", "analysis.py", "n != 0", "n != 1"),
    ("odd", "analysis.py", "n == 0", "n == 1"),
    ("uses_class", "shapes.py", "return self.size * self.UNIT", "return self.size / self.UNIT"),
    ("uses_class", "shapes.py", "UNIT = 1.0", "UNIT = 2.0"),
    ("uses_class", "shapes.py", "self.size = size", "self.size = size + 1"),
    ("uses_class", "shapes.py", "return self.size * 2", "return self.size * 3"),
    ("uses_class", "shapes.py", "return cls(size)", "return cls(size + 1)"),
    ("uses_class", "shapes.py", "size > 0", "size >= 0"),
    ("uses_class", "shapes.py", "FACTOR = 4", "FACTOR = 5"),
    ("uses_class", "shapes.py", "Scaled(Grid)", "Scaled(Base)"),
    ("uses_class", "shapes.py", "SMALL = 1", "SMALL = 3"),
    ("nested", "analysis.py", "return a + OFFSET", "return a - OFFSET"),
    ("nested", "analysis.py", "value = 1", "value = 2"),
    ("nested", "analysis.py", 'b: str = "b"', 'b: str = "c"'),
    ("guarded", "analysis.py", "except ZeroDivisionError", "except ValueError"),
    ("guarded", "analysis.py", "return x / 2", "return x / 4"),
    ("generate", "analysis.py", "yield x", "return x"),
]


@pytest.mark.parametrize(("target", "file", "old", "new"), CHANGES)
def test_an_edit_that_can_change_a_value_changes_the_digest(
    workspace: Workspace, target: str, file: str, old: str, new: str
) -> None:
    before = workspace.digest(BASE, f"analysis:{target}")
    assert workspace.digest(edited(file, old, new), f"analysis:{target}") != before
    assert workspace.digest(BASE, f"analysis:{target}") == before


COSMETIC = [
    ("smooth", "analysis.py", '"""Smooth a series."""', '"""Smooth."""'),
    ("smooth", "analysis.py", '    """Smooth a series."""\n', ""),
    (
        "smooth",
        "analysis.py",
        "def local_helper(x):\n",
        "def local_helper(x):\n    'New docstring.'\n",
    ),
    ("smooth", "analysis.py", "OFFSET = 3", "# How much to add.\n\nOFFSET = 3"),
    (
        "smooth",
        "analysis.py",
        "y = local_helper(x) + OFFSET",
        "y = (local_helper(x)\n                 + OFFSET)  # more",
    ),
    ("smooth", "analysis.py", "y = local_helper", "y: float = local_helper"),
    ("smooth", "analysis.py", "def smooth(x, window=5,", "def smooth(x: float, window: int = 5,"),
    ("smooth", "analysis.py", "def deep_helper(x):", "def deep_helper(x: 'float') -> 'int':"),
    (
        "smooth",
        "analysis.py",
        "import functools\n",
        "from __future__ import annotations\nimport functools\n",
    ),
    ("smooth", "analysis.py", 'ORDER = ("x", "y")', "ORDER = None"),
    (
        "smooth",
        "analysis.py",
        "def even(n):",
        "def another(n):\n    return n\n\ndef even(n):",
    ),
    ("smooth", "analysis.py", "{1, 2, 3}", "{3, 2, 1}"),
    ("smooth", "helpers.py", '"""Scale."""', '"""Scale by ten."""'),
    (
        "smooth",
        "helpers.py",
        "def unrelated(x):\n    return x",
        "def unrelated(x):\n    return x + 1",
    ),
    ("smooth", "shapes.py", "FACTOR = 4", "FACTOR = 5"),
    ("smooth", "params.py", "K = 7", "K = 9"),
    ("through_modules", "params.py", "OTHER = 8", "OTHER = 9"),
    ("through_modules", "pkg/near.py", "BEND = 2", "BEND = 3"),
    ("body_imports", "helpers.py", "return x\n", "return x + 1\n"),
    ("uses_class", "shapes.py", '"""A grid."""', '"""Another grid."""'),
    ("uses_class", "shapes.py", "    def check(size):", "    def check(size: int) -> bool:"),
    ("uses_class", "shapes.py", "alpha: float = 0.5", "alpha: float = 0.75"),
    ("nested", "analysis.py", 'a: int, b: str = "b"', 'a, b="b"'),
    ("nested", "analysis.py", ") -> float:", ") -> np.float64:"),
    ("nested", "analysis.py", '"""Something local."""', '"""Something else."""'),
    ("nested", "analysis.py", '        """Something local."""\n', ""),
    ("guarded", "analysis.py", "return 0\n", "pass\n        return 0\n"),
    ("square", "analysis.py", "square = lambda x: x ** 2; cube", "square = lambda x: x ** 2\ncube"),
]


@pytest.mark.parametrize(("target", "file", "old", "new"), COSMETIC)
def test_a_cosmetic_edit_does_not_change_the_digest(
    workspace: Workspace, target: str, file: str, old: str, new: str
) -> None:
    before = workspace.digest(BASE, f"analysis:{target}")
    assert workspace.digest(edited(file, old, new), f"analysis:{target}") == before


def test_one_edit_changes_exactly_what_depends_on_it(workspace: Workspace) -> None:
    names = [
        "smooth",
        "through_modules",
        "body_imports",
        "twice",
        "decorated",
        "even",
        "uses_class",
        "nested",
    ]

    def digests(files: dict[str, str]) -> dict[str, bytes]:
        return {name: workspace.digest(files, f"analysis:{name}") for name in names}

    before, after = digests(BASE), digests(edited("helpers.py", "FACTOR = 10", "FACTOR = 11"))
    assert {name for name in names if before[name] != after[name]} == {
        "smooth",
        "through_modules",
        "body_imports",
    }


def test_two_lambdas_on_one_line_differ(workspace: Workspace) -> None:
    assert workspace.digest(BASE, "analysis:square") != workspace.digest(BASE, "analysis:cube")


def test_mutual_recursion_is_the_same_from_every_entry(workspace: Workspace) -> None:
    workspace.write(BASE)
    even, odd = workspace.find("analysis:even"), workspace.find("analysis:odd")
    one, other, alone = Fingerprinter(), Fingerprinter(), fingerprint(odd)
    forwards = one.fingerprint(even), one.fingerprint(odd)
    backwards = other.fingerprint(odd), other.fingerprint(even)
    assert forwards == backwards[::-1]
    assert forwards[0] != forwards[1]
    assert alone == forwards[1].hex()


def test_a_method_counts_with_what_it_is_bound_to(workspace: Workspace) -> None:
    workspace.write(BASE)
    grid = workspace.find("shapes:Grid")
    small, large = grid(1), grid(2)
    digests = {
        fingerprint(found) for found in (small.area, large.area, small.check, grid.make, grid.area, small)
    }
    assert len(digests) == 6
    assert fingerprint(grid(1).area) == fingerprint(small.area)

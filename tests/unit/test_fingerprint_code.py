"""Which edits of the user's code change a function's identity, and which do not."""

from __future__ import annotations

import functools
import operator
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint
from tests.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    space = Workspace(tmp_path)
    yield space
    space.forget()


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
    ("smooth", "analysis.py", '{"a": 1, "b": [2, 3]}', '{"b": [2, 3], "a": 1}'),
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


def test_what_a_try_covers_counts(workspace: Workspace) -> None:
    """The instructions are the same ones; only the table of handlers differs."""
    source = "def f(x, g, h):\n    try:\n        y = g(x)\n{}        y = h(y)\n    except ValueError:\n        return 0\n    return y\n"
    narrow = "def f(x, g, h):\n    try:\n        y = g(x)\n    except ValueError:\n        return 0\n    else:\n        y = h(y)\n    return y\n"
    assert workspace.digest({"m.py": source.format("")}, "m:f") != workspace.digest({"m.py": narrow}, "m:f")


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


def test_functions_of_one_name_in_two_modules_differ_by_their_code(workspace: Workspace) -> None:
    workspace.write({"one.py": "def f(x):\n    return x + 1\n", "two.py": "def f(x):\n    return x + 2\n"})
    assert fingerprint(workspace.find("one:f")) != fingerprint(workspace.find("two:f"))


def test_code_counts_wherever_it_stands(workspace: Workspace) -> None:
    """A script that is run and the same file imported are one recipe."""
    source = "def f(x):\n    class C:\n        'doc'\n        y = x\n    return C.y + 1\n"
    workspace.write({"one.py": source, "deep/__init__.py": "", "deep/two.py": source})
    main: dict[str, object] = {"__name__": "__main__"}
    exec(compile(source, "somewhere/else.py", "exec"), main)
    digests = {
        fingerprint(found) for found in (workspace.find("one:f"), workspace.find("deep.two:f"), main["f"])
    }
    assert len(digests) == 1


def test_mutual_recursion_is_the_same_from_every_entry(workspace: Workspace) -> None:
    workspace.write(BASE)
    even, odd = workspace.find("analysis:even"), workspace.find("analysis:odd")
    one, other, alone = Fingerprinter(), Fingerprinter(), fingerprint(odd)
    forwards = one.fingerprint(even), one.fingerprint(odd)
    backwards = other.fingerprint(odd), other.fingerprint(even)
    assert forwards == backwards[::-1]
    assert forwards[0] != forwards[1]
    assert alone == forwards[1].hex()


RING = """
def a(n): return b(n) + 1
def b(n): return c(n) + 2
def c(n): return a(n) + d(n)
def d(n): return d(n - 1) + e(n)
def e(n): return n
REGISTRY = {"f": None}
def f(n): return REGISTRY["f"](n - 1)
REGISTRY["f"] = f
"""


def test_components_within_components(workspace: Workspace) -> None:
    workspace.write({"ring.py": RING})
    names = "abcdef"
    found = {name: workspace.find(f"ring:{name}") for name in names}
    alone = {name: fingerprint(found[name]) for name in names}
    assert len(set(alone.values())) == len(names)
    for start in range(len(names)):
        order = names[start:] + names[:start]
        walk = Fingerprinter()
        assert {name: walk.fingerprint(found[name]).hex() for name in order} == alone
    changed = RING.replace("return n\n", "return n + 1\n")
    workspace.write({"ring.py": changed})
    assert {name for name in names if fingerprint(workspace.find(f"ring:{name}")) != alone[name]} == set(
        "abcde"
    )


def test_cycles_of_other_length_differ(workspace: Workspace) -> None:
    """Three functions in a ring unfold to what one that calls itself does, but for their names."""

    def ring(bodies: list[str]) -> str:
        count = len(bodies)
        lines = [f"def f{at}(n): return f{(at + 1) % count}(n) + {body}" for at, body in enumerate(bodies)]
        return "\n".join(lines)

    rings = [
        ["1", "1", "2"],
        ["1", "2", "1"],
        ["1", "1"],
        ["1"],
        ["1", "1", "1", "2"],
        ["1", "1", "2", "1", "1", "2"],
    ]
    digests = []
    for bodies in rings:
        workspace.write({"ring.py": ring(bodies)})
        digests.append(fingerprint(workspace.find("ring:f0")))
    assert len(set(digests)) == len(rings)


def test_what_lies_in_an_unfinished_cycle_is_not_remembered_when_a_part_fails(workspace: Workspace) -> None:
    workspace.write(
        {
            "bad.py": "import time\ndef a(n): return b(n)\ndef b(n): return a(n) + c(n)\ndef c(n): return time.time()\n"
        }
    )
    walk = Fingerprinter()
    for name in "abcab":
        with pytest.raises(UncacheableError, match="clock"):
            walk.fingerprint(workspace.find(f"bad:{name}"))


def test_a_failure_is_reported_with_the_path_each_time(workspace: Workspace) -> None:
    workspace.write({"bad.py": "import time\ndef a(n): return b(n)\ndef b(n): return time.time()\n"})
    walk = Fingerprinter()
    messages = []
    for _ in range(3):
        with pytest.raises(UncacheableError) as caught:
            walk.fingerprint([workspace.find("bad:a")])
        messages.append(str(caught.value))
    assert len(set(messages)) == 1
    assert messages[0].startswith(
        "item 0 → function a → global b → function b → global time.time → reads the clock (time.time)"
    )


def test_a_missing_global_counts_by_name(workspace: Workspace) -> None:
    workspace.write({"m.py": "def f(): return missing_one\ndef g(): return missing_two\n"})
    f, g = workspace.find("m:f"), workspace.find("m:g")
    before = fingerprint(f)
    assert before != fingerprint(g)
    f.__globals__["missing_one"] = 1
    assert fingerprint(f) != before


def test_a_shadowed_builtin_counts(workspace: Workspace) -> None:
    source = "def f(x): return len(x)\n"
    before = workspace.digest({"m.py": source}, "m:f")
    assert workspace.digest({"m.py": source + "def len(x): return 3\n"}, "m:f") != before


def test_attribute_names_are_no_globals(workspace: Workspace) -> None:
    """A loop variable of a script that is called like an attribute is not what the attribute is."""
    source = "i = {}\ndef f(x): return x.i.mean\nmean = {}\n"
    assert workspace.digest({"m.py": source.format(1, 2)}, "m:f") == workspace.digest(
        {"m.py": source.format(3, 4)}, "m:f"
    )


def test_conditional_redefinition_counts_what_is_defined(workspace: Workspace) -> None:
    source = "if {}:\n    def h(x): return x + 1\nelse:\n    def h(x): return x + 2\ndef f(x): return h(x)\n"
    assert workspace.digest({"m.py": source.format("True")}, "m:f") != workspace.digest(
        {"m.py": source.format("False")}, "m:f"
    )


def test_star_imports_count(workspace: Workspace) -> None:
    files = {"h.py": "K = 1\n", "m.py": "from h import *\ndef f(x): return x + K\n"}
    assert workspace.digest(files, "m:f") != workspace.digest({**files, "h.py": "K = 2\n"}, "m:f")


def test_a_module_held_as_a_value_counts_whole(workspace: Workspace) -> None:
    files = {"h.py": "K = 1\ndef g(): return 1\n", "m.py": "import h\ndef f(name): return getattr(h, name)\n"}
    before = workspace.digest(files, "m:f")
    assert workspace.digest({**files, "h.py": "K = 2\ndef g(): return 1\n"}, "m:f") != before
    assert workspace.digest({**files, "h.py": "K = 1\ndef g(): return 2\n"}, "m:f") != before
    assert workspace.digest({**files, "h.py": "K = 1\ndef g():\n    'doc'\n    return 1\n"}, "m:f") == before


def test_a_submodule_counts_loaded_or_not(workspace: Workspace) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/sub.py": "K = 1\n",
        "m.py": "import pkg\ndef f():\n    import pkg.sub\n    return pkg.sub.K\n",
    }
    before = workspace.digest(files, "m:f")
    workspace.write(files)
    workspace.load("pkg.sub")
    assert Fingerprinter().fingerprint(workspace.find("m:f")) == before
    assert workspace.digest({**files, "pkg/sub.py": "K = 2\n"}, "m:f") != before


def test_a_module_in_a_closure_counts_by_what_is_read_of_it(workspace: Workspace) -> None:
    files = {
        "h.py": "K = 1\nUNUSED = 1\n",
        "m.py": "def make():\n    import h\n    def f(x): return x + h.K\n    return f\nf = make()\n",
    }
    before = workspace.digest(files, "m:f")
    assert workspace.digest({**files, "h.py": "K = 2\nUNUSED = 1\n"}, "m:f") != before
    assert workspace.digest({**files, "h.py": "K = 1\nUNUSED = 2\n"}, "m:f") == before


def test_attributes_of_functions_count(workspace: Workspace) -> None:
    workspace.write({"m.py": "def f(x): return x * f.factor\nf.factor = 2\n"})
    f = workspace.find("m:f")
    before = fingerprint(f)
    f.factor = 3
    assert fingerprint(f) != before


def test_a_method_counts_with_what_it_is_bound_to(workspace: Workspace) -> None:
    workspace.write(BASE)
    grid = workspace.find("shapes:Grid")
    small, large = grid(1), grid(2)
    digests = {
        fingerprint(found) for found in (small.area, large.area, small.check, grid.make, grid.area, small)
    }
    assert len(digests) == 6
    assert fingerprint(grid(1).area) == fingerprint(small.area)


def test_the_names_of_functions_count(workspace: Workspace) -> None:
    """Pandas labels columns by them."""
    source = "def f(x): return x\ndef g(x): return x\n"
    workspace.write({"m.py": source})
    assert fingerprint(workspace.find("m:f")) != fingerprint(workspace.find("m:g"))


def test_a_sentinel_counts_by_its_name(workspace: Workspace) -> None:
    workspace.write({"m.py": "MISSING = object()\nOTHER = object()\ndef f(x=MISSING): return x is MISSING\n"})
    f = workspace.find("m:f")
    before = fingerprint(f)
    workspace.forget()
    assert fingerprint(workspace.find("m:f")) == before
    with pytest.raises(UncacheableError, match="object"):
        fingerprint(workspace.find("m:OTHER"))


def test_closures_over_themselves_end(workspace: Workspace) -> None:
    workspace.write(
        {
            "m.py": "def make():\n    def fact(n): return n * fact(n - 1) if n else 1\n    return fact\nf = make()\n"
        }
    )
    f = workspace.find("m:f")
    assert fingerprint(f) == fingerprint(workspace.load("m").make())


def test_an_empty_cell_is_no_error() -> None:
    def outer() -> types.FunctionType:
        def inner() -> object:
            return later

        if sys.maxsize < 0:
            later = 1
        return inner

    assert len(fingerprint(outer())) == 40


def test_a_long_chain_of_helpers_does_not_overflow(workspace: Workspace) -> None:
    count = 3 * sys.getrecursionlimit()
    source = "\n".join(f"def f{at}(x): return f{at + 1}(x) + {at}" for at in range(count))
    workspace.write({"m.py": f"{source}\ndef f{count}(x): return x\n"})
    assert len(fingerprint(workspace.find("m:f0"))) == 40


@pytest.mark.parametrize(
    "function",
    [
        np.mean,
        np.sin,
        len,
        operator.add,
        functools.reduce,
        np.linalg.norm,
        str.upper,
        "a".upper,
        dict.fromkeys,
    ],
)
def test_installed_and_builtin_functions_count_by_name(function: object) -> None:
    assert fingerprint(function) == fingerprint(function)
    assert fingerprint(function) not in {fingerprint(other) for other in (np.max, np.cos, max, operator.sub)}


def test_dasks_wrapped_ufuncs_share_a_name_and_differ() -> None:
    import dask.array as da

    assert da.sin.__call__.__qualname__ == da.cos.__call__.__qualname__
    assert fingerprint(da.sin) != fingerprint(da.cos)


def test_defaults_of_installed_functions_count() -> None:
    import dask.array.reductions as reductions

    function = types.FunctionType(
        reductions.mean_chunk.__code__, reductions.mean_chunk.__globals__, "mean_chunk", (1, 2)
    )
    assert fingerprint(function) != fingerprint(reductions.mean_chunk)


def test_a_python_function_compiled_by_numba_counts_by_its_code() -> None:
    numba = pytest.importorskip("numba")

    def first(x: float) -> float:
        return x + 1

    def second(x: float) -> float:
        return x + 2

    second.__name__ = "first"
    assert fingerprint(numba.njit(first)) != fingerprint(numba.njit(second))
    assert fingerprint(numba.njit(first)) != fingerprint(numba.njit(first, fastmath=True))
    compiled = numba.njit(first)
    before = fingerprint(compiled)
    compiled(1.0)
    assert fingerprint(compiled) == before
    lifted = [numba.vectorize(function) for function in (first, second)]
    assert fingerprint(lifted[0]) != fingerprint(lifted[1])
    before = fingerprint(lifted[0])
    lifted[0](1.0)
    assert fingerprint(lifted[0]) == before


def test_a_call_does_not_change_a_vectorized_function() -> None:
    vectorized = np.vectorize(lambda x: x + 1, otypes=[float])
    before = fingerprint(vectorized)
    vectorized([1, 2])
    assert fingerprint(vectorized) == before


def test_single_dispatch_counts_its_implementations() -> None:
    def make(first: int) -> object:
        @functools.singledispatch
        def area(x: object) -> int:
            return first

        area.register(int)(lambda x: 2)
        return area

    one, other = make(1), make(3)
    before = fingerprint(one)
    one(1.5)  # type: ignore[operator]  # fills its cache
    assert fingerprint(one) == before == fingerprint(make(1))
    assert fingerprint(other) != before
    other.register(str)(lambda x: 3)  # type: ignore[attr-defined]
    assert fingerprint(other) != fingerprint(make(3))


def test_the_interpreter_counts_for_the_users_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from daskcache.fingerprint import code

    def function(x: int) -> int:
        return x + 1

    before, installed = fingerprint(function), fingerprint(np.mean)
    monkeypatch.setattr(code, "ENVIRONMENT", b"cpython 3.99 -O0")
    assert fingerprint(function) != before
    assert fingerprint(np.mean) == installed

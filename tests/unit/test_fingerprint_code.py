"""What counts of functions and of what they read, wherever they stand."""

from __future__ import annotations

import functools
import operator
import sys
import types

import numpy as np
import pytest

from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint
from tests.workspace import Workspace


def test_what_a_try_covers_counts(workspace: Workspace) -> None:
    """The instructions are the same ones; only the table of handlers differs."""
    source = "def f(x, g, h):\n    try:\n        y = g(x)\n{}        y = h(y)\n    except ValueError:\n        return 0\n    return y\n"
    narrow = "def f(x, g, h):\n    try:\n        y = g(x)\n    except ValueError:\n        return 0\n    else:\n        y = h(y)\n    return y\n"
    assert workspace.digest({"m.py": source.format("")}, "m:f") != workspace.digest({"m.py": narrow}, "m:f")


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

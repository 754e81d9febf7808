"""Functions that fill something besides what they return run each time; what only looks like it is stored as before."""

from __future__ import annotations

import dis
import inspect
import os
import subprocess
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import UncacheableError
from daskcache.fingerprint import fingerprint, uses
from daskcache.fingerprint.filled import find_filled_arguments
from daskcache.tokens.rules import refuse_impure

IMPORTS = "import functools, heapq, operator\nimport numpy as np\nimport toolz\n"


def define(source: str, name: str = "f") -> Any:
    module = types.ModuleType("users_module")
    exec(compile(IMPORTS + source, "users_module.py", "exec", dont_inherit=True), module.__dict__)
    return vars(module)[name]


def call(function: Any) -> str:
    """Give the token of a function that a task calls."""
    refuse_impure(function)
    return fingerprint(function)


# What the body of ``def f(b, t): …; return b`` does to ``t``.
STATEMENTS = [
    "t[...] = b",
    "t[0] = b.sum()",
    "t[1:2] = b",
    "t[b.n] += b",
    "t[0] += b if b.n else 3",
    "t[0 if b.n else 1] = b",
    "t[0] = np.maximum(t[0], b.max())",
    "t[0], t[1] = b",
    "for t[0] in b: pass",
    "del t[0]",
    "t.n = b",
    "t.n = t.n + 1",
    "t.a.n += 1",
    "del t.n",
    "t['a']['b'] = 1",
    "t['a'].append(1)",
    "t.append(b.sum())",
    "t.update(a=b.sum())",
    "t.fill(0)",
    "t.setdefault('a', []).append(b)",
    "t.__setitem__(0, b)",
    "t += b",
    "t |= {1}",
    "setattr(t, 'x', b)",
    "np.copyto(t, b)",
    "np.add.at(t, 0, b)",
    "np.add(b, 1, out=t)",
    "np.add(t, b, out=t[0:3])",
    "b.mean(axis=0, out=t)",
    "operator.iadd(t, [1])",
    "operator.setitem(t, 0, b)",
    "heapq.heappush(t, b.sum())",
    "row = t[0]\n    row[...] = b",
    "t[...] = b\n    t.flush()",
    "if t is not None:\n        t[...] = b",
    "if t.shape == b.shape:\n        t[...] = b",
    "for i in range(3):\n        t[i] = b[i]",
    "try:\n        t[0] = b\n    except ValueError:\n        pass",
    "with np.errstate(all='ignore'):\n        t[0] = b",
    "def g(): t[0] = b\n    g()",
    "def g(): t.append(1)\n    g()",
]

FUNCTIONS = [
    "def f(b, *, t): t[...] = b",
    "async def f(b, t): t[0] = b",
    "def f(b, t):\n    t[0] = b\n    yield b",
    "def f(b):\n    b.append(1)",
    "def f(b, path): b.dump(path)",
    "f = functools.partial(lambda b, t: t.__setitem__(0, b), t=[])",
    "f = toolz.curry(lambda b, t: t.__setitem__(0, b))(t=[])",
    "def g(b, t): t[0] = b\nf = toolz.compose(str, functools.partial(g, t=[]))",
    "def g(b, t): t[0] = b\nf = np.vectorize(g)",
    "def d(g):\n    @functools.wraps(g)\n    def w(*a): return g(*a)\n    return w\n@d\ndef f(b, t): t[0] = b",
    "f = [].append",
    "f = operator.setitem",
]

# Methods of an object with a list ``seen``, an array ``t`` and a number ``n``, that go by ``m``.
METHODS = [
    "self.seen.append(1)\n        return b",
    "self.n += 1\n        return b",
    "self.t[...] = b\n        return b",
    "np.add(b, 1, out=self.t)\n        return b",
    "self.note(b)\n        return b",
]
OBJECT = """
class C:
    def __init__(self): self.seen, self.t, self.n = [], np.zeros(3), 0
    def note(self, b): self.seen.append(b)
    def last(self): return self.n
    def m(self, b):
        {}
    __call__ = m
c = C()
"""
CALLERS = [
    "f = c",
    "f = c.m",
    "def f(b): return c.m(b)",
    "def make():\n    c = C()\n    return lambda b: c.m(b)\nf = make()",
]

OTHERS = [
    "n = np.zeros(3)\ndef f(b):\n    np.add(b, 1, out=n)\n    return b",
    "n = []\ndef f(b):\n    operator.iadd(n, [1])\n    return b",
    "n = np.zeros(3)\ndef f(b):\n    np.copyto(n, b)\n    return b",
    "class C: pass\nn = C()\nn.seen = []\ndef f(b):\n    n.seen.append(1)\n    return b",
    "class C:\n    n = 0\n    @classmethod\n    def f(cls, b):\n        cls.n += 1\n        return b\nf = C.f",
]

REFUSED = [
    *(f"def f(b, t):\n    {body}\n    return b" for body in STATEMENTS),
    *FUNCTIONS,
    *(OBJECT.format(body) + caller for body in METHODS for caller in CALLERS),
    *OTHERS,
]


@pytest.mark.parametrize("source", REFUSED)
def test_what_fills_something_has_no_token(source: str) -> None:
    with pytest.raises(UncacheableError, match=r"not its own|writes a file \(\.dump\)"):
        call(define(source))


BODIES = [
    "t[:] = b\n    return t",
    "if t is None: t = np.empty(3)\n    t[:] = b\n    return t",
    "t = t.copy()\n    t[0] = 1\n    return b",
    "t = t or {}\n    t['a'] = 1\n    return b",
    "np.add(b, 1, out=t)\n    return t.sum()",
    "return np.add(b, 1, out=t)",
    "t[...] = b\n    return b + t.mean()",
    "t[...] = b\n    return g(b, t)",
    "t[...] = b\n    g(b, t)\n    return b",
    "t[...] = b\n    return [b, lambda: t]",
    "t[...] = b\n    return f'{t:>{t}}'",
    "t[...] = b\n    return (t if b.n else b).sum()",
    "t[0] = 1\n    x, y = t\n    return x",
    "t.append(1)\n    return {**t}",
    "t.append(1)\n    return g(*t)",
    "last = None\n    for i in b:\n        if last is not None: b[i] = last[0]\n        last = t[i]\n        t[i] = 1\n    return b",
    "t.sort()\n    return b[t]",
    "t.add(1)\n    return len(t)",
    "y = list(t)\n    y.append(1)\n    return b",
    "t.copy()[0] = 1\n    return b",
    "np.asarray(t)[0] = 1\n    return b",
    "del t\n    return b",
    "return [t for t in b]",
    "return {t: 1 for t in b}",
    "return (t := b)",
    "for t in b: t[0] = 1\n    return b",
    "with b as t: t.n = 1\n    return b",
    "try: return b\n    except ValueError as t: return t",
    "t = t.pop('n')\n    return b * t",
    "t.pop('n', None)\n    return g(b, **t)",
    "t.shuffle(b)\n    return b",
    "b['x'] = t\n    b.attrs['a'] = 1\n    b.name = 'x'\n    return b",
    "b.attrs.update(t)\n    return b",
    "b.sort(axis=0)\n    return b[t]",
    "b += t\n    b[b < 0] = 0\n    return b",
    "b.loc[0] = t\n    b.insert(0, 'x', t)\n    return b",
    "return b.update(t)",
    "return b.append(t), b.insert(0, t)",
]

LOOKALIKES = [
    *(f"def g(b, t): return b\ndef f(b, t):\n    {body}" for body in BODIES),
    "def g(b, w): w[:] = b\ndef f(b):\n    w = np.empty(3)\n    g(b, w)\n    return w",
    "def f(b, block_info=None): return b + block_info[None]['x'][0]",
    "def f(b, **kwargs):\n    kwargs.setdefault('a', 3)\n    kwargs.pop('b', None)\n    kwargs['c'] = 1\n    return b",
    "def d(g):\n    @functools.wraps(g)\n    def w(b):\n        t = np.empty(3)\n        g(b, t)\n        return t\n    return w\n"
    "@d\ndef f(b, t): t[:] = b",
    "def f(b, t):\n    object.__setattr__(b, 'n', t)\n    return b",
    "import dataclasses\n@dataclasses.dataclass(frozen=True, slots=True)\nclass C: n: int\ndef f(b): return C(b).n",
    "import sys\ndef f(b):\n    sys.path.insert(0, '.')\n    return b",
    "n = None\ndef f(b):\n    if n is not None: n[0] = b\n    return b",
    "f = [3].count",
    "f = operator.iadd",
    "f = np.add",
    *(
        OBJECT.format(body) + caller
        for body in [
            "return b * self.n",
            "self.n += 1\n        return self.n",
            "self.n += 1\n        return self.last()",
            "self.n = b.mean()\n        return self",
            "self.n = b.mean()\n        return (lambda: self.n)()",
            "if 1 not in self.seen: self.seen.append(b)\n        return self.seen[0]",
        ]
        for caller in CALLERS
    ),
    OBJECT.format("return b") + "def f(b):\n    c = C()\n    c.note(b)\n    return b",
    OBJECT.format("return b") + "f = C",
]


@pytest.mark.parametrize("source", LOOKALIKES)
def test_what_reads_it_as_well_has_one(source: str) -> None:
    assert len(call(define(source))) == 40


def test_who_declares_a_version_fills_what_he_likes() -> None:
    function = daskcache.version("1")(define("def f(b, t): t[0] = b"))
    assert len(call(function)) == 40


def test_of_libraries_functions_nothing_is_said() -> None:
    assert find_filled_arguments(np.put) == find_filled_arguments(textwrap.dedent) == []
    assert find_filled_arguments(da.Array.__setitem__) == []


def test_the_stack_is_followed_exactly() -> None:
    """An instruction that takes or gives another number of values would shift all that comes after."""

    class Checked(uses._Reader):
        def _take(self, operation: Any) -> None:
            before = [uses._UNKNOWN] * 8 + self._stack
            self._stack = list(before)
            super()._take(operation)
            effect = dis.stack_effect(operation.opcode, operation.arg, jump=False)
            assert len(self._stack) - len(before) == effect, operation
            del self._stack[:8]

    modules = (typing, inspect, dis, subprocess, textwrap, np.lib._function_base_impl)
    codes = [
        each.__code__ for module in modules for each in vars(module).values() if inspect.isfunction(each)
    ]
    assert len(codes) > 150
    for code in codes:
        Checked(code)


@pytest.mark.filterwarnings("ignore:.*cannot be keyed:daskcache.DaskcacheWarning")
@pytest.mark.parametrize("how", ["map_blocks", "block_info", "apply_ufunc", "xarray", "delayed"])
def test_a_second_computation_fills_again(store_root: Path, how: str) -> None:
    """However dask and xarray hand a function on to their tasks."""
    seen: list[int] = []

    def note(block: Any, target: list[int], block_info: Any = None) -> Any:
        target.append(1)
        return block

    def plain(block: Any, target: list[int]) -> Any:
        target.append(1)
        return block

    def compute() -> None:
        x = da.ones(4, chunks=2)
        if how in ("map_blocks", "block_info"):
            function = note if how == "block_info" else plain
            made: Any = x.map_blocks(function, target=seen, dtype=float, meta=np.empty(0))
        elif how == "apply_ufunc":
            made = xr.apply_ufunc(
                plain,
                xr.DataArray(x, dims="x"),
                kwargs={"target": seen},
                dask="parallelized",
                output_dtypes=[float],
            )
        elif how == "xarray":
            array = xr.DataArray(x, dims="x")
            made = xr.map_blocks(plain, array, kwargs={"target": seen}, template=array)
        else:
            made = da.concatenate(
                [da.from_delayed(dask.delayed(plain)(block, seen), (2,), float) for block in x.to_delayed()]
            )
        assert np.asarray(made.compute(scheduler="sync")).tolist() == [1] * 4

    with daskcache.activate(policy="outputs"):
        compute()
        first, seen[:] = len(seen), []
        compute()
    assert first == len(seen) > 0


SCRIPT = """
import sys
import dask.array as da
import numpy as np

target = np.memmap(sys.argv[1], dtype="f8", mode="w+", shape=8)

def keep(block, target, block_info=None):
    start, stop = block_info[0]["array-location"][0]
    target[start:stop] = block
    target.flush()
    return block

x = da.arange(8.0, chunks=2) * 2
print(x.map_blocks(keep, target, dtype="f8", meta=np.empty(0)).sum().compute(scheduler="sync"))
"""


def test_a_script_fills_a_file_in_each_run(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("first.bin", "second.bin"):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "daskcache.cli",
                "run",
                "--store",
                "store",
                "--policy",
                "outputs",
                "script.py",
                name,
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
        )
        assert np.fromfile(tmp_path / name).tolist() == [0, 2, 4, 6, 8, 10, 12, 14], name

"""Ways in which functions depend on code and values: two sources that differ in value have each its own identity."""

from __future__ import annotations

import builtins
import re
import textwrap

import pytest
import toolz

from daskcache.errors import UncacheableError
from tests.workspace import Workspace


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what sources put into modules that others use."""
    monkeypatch.setattr(toolz, "identity", toolz.identity)
    for place, name in ((toolz, "daskcache_test"), (builtins, "mybuiltin")):
        monkeypatch.setattr(place, name, None, raising=False)
        monkeypatch.delattr(place, name)


# A module that defines f, and what is replaced in it by what.
TRAPS: dict[str, tuple[str, str, str]] = {
    'default mutable arg content': ("def f(x, t={'a':[1]}): return x+t['a'][0]\n", '[1]', '[2]'),
    'func __name__': ('def g1(): pass\ndef f(x): return x+int(g1.__name__[1])\n', 'g1', 'g2'),
    'lambda in dict': ("T={'a': lambda x: x+1}\ndef f(x): return T['a'](x)\n", 'x+1', 'x+2'),
    'partial of partial': ("""
        import functools
        def g(a,b,c): return a+b+c
        h=functools.partial(functools.partial(g,1),2)
        def f(x): return h(x)
    """, 'g,1),2', 'g,2),1'),
    'reduce op': ('import functools, operator\ndef f(x): return functools.reduce(operator.add,[x,1])\n', 'operator.add', 'operator.sub'),
    'operator attr chain': ("""
        import operator as o
        OPS={'k': o.add}
        def f(x): return OPS['k'](x,1)
    """, 'o.add', 'o.sub'),
    'lru over closure': ("""
        import functools
        def mk(k):
            @functools.lru_cache
            def g(x): return x+k
            return g
        g=mk(1)
        def f(x): return g(x)
    """, 'mk(1)', 'mk(2)'),
    'async': ('async def f(x): return 1\n', 'async def', 'def'),
    'walrus/const tuple': ('def f(x): return x in (1,2)\n', '(1,2)', '(1,2.0)'),
    'const -0.0': ('def f(x): return x*0.0\n', '0.0', '-0.0'),
    'const tuple zero': ('def f(x): return (0.0,x)\n', '0.0', '-0.0'),
    'is vs ==': ('def f(x): return x is None\n', 'is None', '== None'),
    'not in': ('def f(x): return 1 in x\n', 'in x', 'not in x'),
    'kw call order': ('def g(**k): return list(k)\ndef f(x): return g(a=1,b=2)\n', 'a=1,b=2', 'b=2,a=1'),
    'addition in place': ("""
        def f(x):
            x+=1
            return x
    """, 'x+=1', 'x=x+1'),
    'numpy errstate seterr': ("""
        import numpy as np
        def f(x):
            with np.errstate(all='ignore'): return x
    """, "'ignore'", "'raise'"),
    'monkeypatched installed func': ("""
        import toolz
        def g(x): return x+1
        toolz.identity=g
        def f(x): return toolz.identity(x)
    """, 'x+1', 'x+2'),
    'xarray attrs': ("""
        import xarray as xr
        d=xr.DataArray([1],attrs={'k':1})
        def f(x): return x+d.attrs['k']
    """, "'k':1", "'k':2"),
    'pandas attrs': ("""
        import pandas as pd
        d=pd.Series([1]); d.attrs['k']=1
        def f(x): return x+d.attrs['k']
    """, "['k']=1", "['k']=2"),
    'exception args attr': ('e=ValueError(1); e.k=1\ndef f(x): return e.k\n', 'e.k=1', 'e.k=2'),
    'functools.wraps __wrapped__': ("""
        import functools
        def g(x): return x+1
        def h(x): return h.__wrapped__(x)
        h.__wrapped__=g
        def f(x): return h(x)
    """, 'x+1', 'x+2'),
    'closure via default list of funcs': ('fs=[lambda x,i=i: x+i for i in (1,2)]\ndef f(x): return fs[0](x)\n', '(1,2)', '(2,1)'),
    'late closure': ("""
        def mk():
            fs=[]
            for i in (1,2):
                fs.append(lambda x: x+i)
            return fs
        fs=mk()
        def f(x): return fs[0](x)
    """, '(1,2)', '(1,3)'),
    'nonlocal': ("""
        def mk():
            k=1
            def g(x): return x+k
            def s(v):
                nonlocal k
                k=v
            s(5)
            return g
        f=mk()
    """, 's(5)', 's(6)'),
    're compiled': ("""
        import re
        R=re.compile('a')
        def f(x): return R.sub('b',x)
    """, "'a'", "'c'"),
    'decimal ctx': ("""
        import decimal
        C=decimal.Context(prec=3)
        def f(x): return C.divide(1,3)
    """, 'prec=3', 'prec=4'),
    'random.Random(1)': ('import random\ndef f(x): return random.Random(1).random()\n', 'Random(1)', 'Random(2)'),
    'code replaced': ("""
        def f(x): return 1
        def g(x): return 1
        f.__code__=g.__code__
    """, 'def g(x): return 1', 'def g(x): return 2'),
    'builtins override': ("""
        import builtins
        builtins.mybuiltin=1
        def f(x): return x+mybuiltin
    """, 'mybuiltin=1', 'mybuiltin=2'),
    'f.__globals__ swap': ("""
        import types
        def g(x): return x+K
        f=types.FunctionType(g.__code__,{'K':1,'__builtins__':{}})
    """, "'K':1", "'K':2"),
    '__builtins__ dict': ("""
        import types
        def g(x): return abs(x)
        f=types.FunctionType(g.__code__,{'__builtins__':{'abs':min}})
    """, 'min', 'max'),
    'np.vectorize excl': ("import numpy as np\nf=np.vectorize(lambda x,k: x+k,excluded=['k'])\n", "['k']", '[]'),
    'numba global': ("""
        import numba
        K=1
        @numba.njit
        def f(x): return x+K
    """, 'K=1', 'K=2'),
    'numba helper': ("""
        import numba
        @numba.njit
        def g(x): return x+1
        @numba.njit
        def f(x): return g(x)
    """, 'x+1', 'x+2'),
    'numba cfunc': ("""
        import numba
        @numba.cfunc('f8(f8)')
        def f(x): return x+1
    """, 'x+1', 'x+2'),
    'numba stencil': ("""
        import numba
        @numba.stencil
        def f(a): return a[0]+a[1]
    """, 'a[1]', 'a[2]'),
    'numba vectorize sig': ("""
        import numba
        @numba.vectorize(['f8(f8)'])
        def f(x): return x+1
    """, 'x+1', 'x+2'),
    'numba structref/np ufunc in dict': ("""
        import numba
        T={'a':numba.njit(lambda x: x+1)}
        def f(x): return T['a'](x)
    """, 'x+1', 'x+2'),
    'generator expr global': ('K=[1]\ndef f(x): return sum(k for k in K)\n', 'K=[1]', 'K=[2]'),
    'class body in func via type params': ("""
        K=1
        def f[T](x):
            return K
    """, 'K=1', 'K=2'),
    'type alias': ('type A=int\ndef f(x): return A.__value__(x)\n', '=int', '=float'),
    'fstring': ("def f(x): return f'{x:.3f}'\n", '.3f', '.4f'),
    'fstring repr': ("def f(x): return f'{x!r}'\n", '!r', '!s'),
    'exec at module level': ("exec('def g(x): return x+1')\ndef f(x): return g(x)\n", 'x+1', 'x+2'),
    'eval lambda': ("g=eval('lambda x: x+1')\ndef f(x): return g(x)\n", 'x+1', 'x+2'),
    'code const': ("""
        c=compile('x+1','','eval')
        def g(c,x): return x
        def f(x): return g(c,x)
    """, 'x+1', 'x+2'),
    'operator.methodcaller': ("""
        import operator
        g=operator.methodcaller('clip',0)
        def f(x): return g(x)
    """, "'clip',0", "'clip',1"),
    'toolz curry': ("""
        import toolz
        @toolz.curry
        def g(a,x): return x+a
        h=g(1)
        def f(x): return h(x)
    """, 'g(1)', 'g(2)'),
    'toolz memoize': ("""
        import toolz
        @toolz.memoize
        def g(x): return x+1
        def f(x): return g(x)
    """, 'x+1', 'x+2'),
    'toolz pipe': ('import toolz\ndef f(x): return toolz.pipe(x,abs)\n', 'abs', 'str'),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_what_differs_in_value_differs(name: str, workspace: Workspace) -> None:
    source, old, new = TRAPS[name]
    assert source.count(old) >= 1
    for library in set(
        re.findall(r"^import (attrs|numba|pydantic|toolz)$", textwrap.dedent(source), re.MULTILINE)
    ):
        pytest.importorskip(library)
    before = workspace.digest({"m.py": source}, "m:f")
    assert workspace.digest({"m.py": source.replace(old, new)}, "m:f") != before
    assert workspace.digest({"m.py": source}, "m:f") == before


IMPORTS = {
    "of a submodule": "import pkg.a as q\ndef f(x): return q.g(x)\n",
    "in the body": "def f(x):\n    from pkg import a\n    return a.g(x)\n",
    "of two names": "def f(x):\n    from pkg.a import h, g\n    return h(g(x))\n",
    "of two modules": "def f(x):\n    import pkg.b as y, pkg.a as z\n    return z.g(x) + y.K\n",
    "for an inner function": "def f(x):\n    import pkg.a as z\n    def inner(y): return z.g(y)\n    return inner(x)\n",
    "passed on": "def h(m, x): return m.g(x)\ndef f(x):\n    import pkg.a as z\n    return h(z, x)\n",
    "in an inner class": "def f(x):\n    class C:\n        from pkg.a import g\n    return C.g(x)\n",
    "of a module in an inner class": "def f(x):\n    class C:\n        import pkg.a\n    return C.pkg.a.g(x)\n",
    "of a global": "def f(x):\n    global pkg\n    import pkg.a\n    return pkg.a.g(x)\n",
    "in place of another": "def f(x):\n    try:\n        import nothing_there as q\n    except ImportError:\n        import pkg.a as q\n    return q.g(x)\n",
    "by another module": "import pkg, other\ndef f(x): return pkg.a.g(x)\n",
    "through the package": "import pkg\ndef f(x): return pkg.shown(x)\n",
    "of a name that a module makes on demand": "import pkg.lazy\ndef f(x): return pkg.lazy.on_demand(x)\n",
    "into an installed module": "import toolz, pkg.a\ntoolz.daskcache_test = pkg.a.g\ndef f(x): return toolz.daskcache_test(x)\n",
    "from an installed module in the body": (
        "import toolz, pkg.a\ntoolz.daskcache_test = pkg.a.g\n"
        "def f(x):\n    from toolz import daskcache_test\n    return daskcache_test(x)\n"
    ),
}  # fmt: skip
PACKAGE = {
    "pkg/__init__.py": "def __getattr__(name):\n    if name != 'shown': raise AttributeError(name)\n    from pkg.a import g\n    return g\n",
    "pkg/a.py": "def g(x): return x + 1\ndef h(x): return x\n",
    "pkg/b.py": "K = 1\n",
    "pkg/lazy.py": "def __getattr__(name):\n    if name != 'on_demand': raise AttributeError(name)\n    from pkg.a import g\n    return g\n",
    "other.py": "import pkg.a\n",
}  # fmt: skip


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_lead_to_what_is_called(name: str, workspace: Workspace) -> None:
    files = {**PACKAGE, "m.py": IMPORTS[name]}
    before = workspace.digest(files, "m:f")
    assert (
        workspace.digest({**files, "pkg/a.py": PACKAGE["pkg/a.py"].replace("x + 1", "x + 2")}, "m:f")
        != before
    )
    assert workspace.digest(files, "m:f") == before


@pytest.mark.parametrize(
    "body",
    ["sys.modules['m'].K", "sys._getframe().f_lineno", "len(inspect.getsource(f))", "globals()['K']", "v.get()", "next(c)"],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(body: str, workspace: Workspace) -> None:
    source = (
        "import contextvars, inspect, itertools, sys\nK = 1\nc = itertools.count()\n"
        f"v = contextvars.ContextVar('v', default=1)\ndef f(x): return x + {body}\n"
    )
    with pytest.raises(UncacheableError):
        workspace.digest({"m.py": source}, "m:f")

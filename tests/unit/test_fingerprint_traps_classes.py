"""Ways in which classes and instances depend on code: two sources that differ in value have each its own identity."""

from __future__ import annotations

import re
import textwrap

import pytest

from tests.workspace import Workspace

# A module that defines f, and what is replaced in it by what.
TRAPS: dict[str, tuple[str, str, str]] = {
    'method via self': ("""
        class A:
            def a(self,x): return self.b(x)
            def b(self,x): return x+1
        def f(x): return A().a(x)
    """, 'x+1', 'x+2'),
    'global via instance attr': ("""
        class A: pass
        obj=A()
        obj.k=1
        def f(x): return x+obj.k
    """, 'obj.k=1', 'obj.k=2'),
    'class decorator': ("""
        def deco(c):
            c.k=1
            return c
        @deco
        class A: pass
        def f(x): return x+A.k
    """, 'c.k=1', 'c.k=2'),
    'metaclass prepare': ("""
        class M(type):
            @classmethod
            def __prepare__(m,*a): return {'k':1}
        class A(metaclass=M): pass
        def f(x): return x+A.k
    """, "'k':1", "'k':2"),
    '__init_subclass__': ("""
        class B:
            def __init_subclass__(cls): cls.k=1
        class A(B): pass
        def f(x): return x+A.k
    """, 'cls.k=1', 'cls.k=2'),
    'metaclass attribute': ("""
        class M(type):
            @property
            def k(cls): return 1
        class A(metaclass=M): pass
        def f(x): return x+A.k
    """, 'return 1', 'return 2'),
    '__class_getitem__': ("""
        class A:
            def __class_getitem__(c,i): return i+1
        def f(x): return x+A[1]
    """, 'i+1', 'i+2'),
    'class name in nested': ("""
        def f(x):
            class C1: pass
            return x+int(C1.__name__[1])
    """, 'C1', 'C2'),
    'getattr on instance of class attr': ("""
        class A:
            k=1
        a=A()
        def f(x): return x+getattr(a,'k')
    """, 'k=1', 'k=2'),
    'slot class values': ("""
        class A:
            __slots__=('k',)
            def __init__(s): s.k=1
        a=A()
        def f(x): return x+a.k
    """, 's.k=1', 's.k=2'),
    'lock with attr': ("""
        import threading
        class L:
            def __init__(s,k): s.k=k; s.lock=threading.Lock()
        l=L(1)
        def f(x): return x+l.k
    """, 'L(1)', 'L(2)'),
    'singledispatchmethod': ("""
        import functools
        class A:
            @functools.singledispatchmethod
            def m(s,x): return x
            @m.register
            def _(s,x:int): return x+1
        def f(x): return A().m(x)
    """, 'x+1', 'x+2'),
    'partialmethod': ("""
        import functools
        class A:
            def m(s,k,x): return x+k
            p=functools.partialmethod(m,1)
        def f(x): return A().p(x)
    """, 'm,1)', 'm,2)'),
    'total_ordering': ("""
        import functools
        @functools.total_ordering
        class A:
            def __lt__(s,o): return True
            def __eq__(s,o): return False
        def f(x): return A()<=x
    """, 'return True', 'return False'),
    'dict subclass': ("""
        class D(dict):
            k=1
        d=D(a=1)
        def f(x): return d['a']+d.k
    """, 'k=1', 'k=2'),
    'method of a base': ("""
        class A:
            def m(s): return 1
        class B(A):
            def m(s): return super().m()
        def f(x): return B().m()
    """, 'return 1', 'return 2'),
    'super w/o call attr': ("""
        class A:
            k=1
        class B(A):
            k=5
            def m(s): return super().k
        def f(x): return B().m()
    """, 'k=1', 'k=2'),
    'order of bases': ("""
        class A:
            k=1
        class B:
            k=2
        class C(A,B): pass
        def f(x): return C.k
    """, '(A,B)', '(B,A)'),
    'del attr': ("""
        class A:
            k=1
        def f(x): return hasattr(A,'k')
    """, 'k=1\n', 'pass\n'),
    'subclass registry': ("""
        class B:
            reg={}
            def __init_subclass__(c): B.reg[c.__name__]=c
        class A(B):
            k=1
        def f(x): return B.reg['A'].k
    """, 'k=1', 'k=2'),
    'numpy subclass class attr': ("""
        import numpy as np
        class A(np.ndarray):
            k=1
        a=np.zeros(2).view(A)
        def f(x): return x+a.k
    """, 'k=1', 'k=2'),
    'numpy subclass inst attr': ("""
        import numpy as np
        class A(np.ndarray): pass
        a=np.zeros(2).view(A); a.k=1
        def f(x): return x+a.k
    """, 'a.k=1', 'a.k=2'),
    'str subclass': ("""
        class S(str):
            k=1
        s=S('a')
        def f(x): return s.k
    """, 'k=1', 'k=2'),
    'int subclass inst attr': ("""
        class S(int): pass
        s=S(1); s.k=1
        def f(x): return s.k
    """, 's.k=1', 's.k=2'),
    'function attr on method': ("""
        class A:
            def m(s): return A.m.k
        A.m.k=1
        def f(x): return A().m()
    """, 'k=1', 'k=2'),
    'types.MethodType': ("""
        import types
        class A: pass
        a=A()
        def g(s,x): return x+1
        a.m=types.MethodType(g,a)
        def f(x): return a.m(x)
    """, 'x+1', 'x+2'),
    'property on instance class reassign': ("""
        class A:
            def m(s): return 1
        class B:
            def m(s): return 2
        a=A()
        a.__class__=A
        def f(x): return a.m()
    """, '__class__=A', '__class__=B'),
    'class in func reads global': ("""
        K=1
        def f(x):
            class C:
                k=K
            return C.k
    """, 'K=1', 'K=2'),
    'descr __set_name__': ("""
        class D:
            def __set_name__(s,o,n): s.n=n
            def __get__(s,i,o): return s.n
        class A:
            one=D()
            two=one
        def f(x): return A.two
    """, 'two=one', 'two=D()'),
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

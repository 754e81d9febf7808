"""Enumerations, dataclasses, models and their like: two sources that differ in value have each its own identity."""

from __future__ import annotations

import re
import textwrap

import pytest

from tests.workspace import Workspace

# A module that defines f, and what is replaced in it by what.
TRAPS: dict[str, tuple[str, str, str]] = {
    'enum auto': ("""
        import enum
        class E(enum.Enum):
            A=1
            def k(self): return 1
        def f(x): return x+E.A.k()
    """, 'return 1', 'return 2'),
    'enum private method': ("""
        import enum
        class E(enum.Enum):
            A=1
            def _k(self): return 1
            def k(self): return self._k()
        def f(x): return x+E.A.k()
    """, 'return 1', 'return 2'),
    'enum dunder add': ("""
        import enum
        class E(enum.Enum):
            A=1
            def __add__(self,o): return 1
        def f(x): return E.A+x
    """, 'return 1', 'return 2'),
    'enum __new__': ("""
        import enum
        class E(enum.Enum):
            A=1
            def __new__(cls,v):
                o=object.__new__(cls); o._value_=v; o.k=1
                return o
        def f(x): return E.A.k+x
    """, 'o.k=1', 'o.k=2'),
    'enum generate next': ("""
        import enum
        class E(enum.Enum):
            def _generate_next_value_(n,s,c,l): return n+'1'
            A=enum.auto()
        def f(x): return E.A.value+x
    """, "'1'", "'2'"),
    'enum class attr nonmember': ("""
        import enum
        class E(enum.Enum):
            A=1
            k=enum.nonmember(1)
        def f(x): return E.k+x
    """, 'nonmember(1)', 'nonmember(2)'),
    'enum meta': ("""
        import enum
        class M(enum.EnumMeta):
            def kk(cls): return 1
        class E(enum.Enum,metaclass=M):
            A=1
        def f(x): return E.kk()+x
    """, 'return 1', 'return 2'),
    'enum alias': ("""
        import enum
        class E(enum.Enum):
            A=1
            B=2
            C=1
        def f(x): return E.C.value+x
    """, 'C=1', 'C=2'),
    'namedtuple defaults': ("""
        import collections
        P=collections.namedtuple('P','a b',defaults=[1])
        def f(x): return P(1).b+x
    """, '[1]', '[2]'),
    'NamedTuple method': ("""
        import typing
        class P(typing.NamedTuple):
            a:int
            def m(s): return 1
        def f(x): return P(1).m()+x
    """, 'return 1', 'return 2'),
    'TypedDict/dataclass kw order': ('import dataclasses\n@dataclasses.dataclass\nclass D:\n    a:int=1\n    b:int=2\ndef f(x): return dataclasses.astuple(D())[0]+x\n', 'a:int=1\n    b:int=2', 'b:int=2\n    a:int=1'),
    'dataclass post init': ("""
        import dataclasses
        @dataclasses.dataclass
        class D:
            a:int=1
            def __post_init__(s): s.b=1
        def f(x): return D().b+x
    """, 's.b=1', 's.b=2'),
    'dataclass order flag': ("""
        import dataclasses
        @dataclasses.dataclass(order=True)
        class D:
            a:int=1
        def f(x): return D()<D()
    """, 'order=True', 'order=False'),
    'dataclass eq flag': ("""
        import dataclasses
        @dataclasses.dataclass(eq=True)
        class D:
            a:int=1
        def f(x): return D()==D()
    """, 'eq=True', 'eq=False'),
    'dataclass repr flag': ("""
        import dataclasses
        @dataclasses.dataclass(repr=True)
        class D:
            a:int=1
        def f(x): return len(repr(D()))
    """, 'repr=True', 'repr=False'),
    'ChainMap etc': ("""
        import collections
        d=collections.ChainMap({'a':1},{'a':2})
        def f(x): return d['a']
    """, "{'a':1},{'a':2}", "{'a':2},{'a':1}"),
    'bool subclass IntFlag': ("""
        import enum
        class F(enum.IntFlag):
            A=1
            B=2
        v=F.A|F.B
        def f(x): return v
    """, 'F.A|F.B', 'F.A'),
    'typing Protocol etc': ("""
        import typing
        class P(typing.Protocol):
            def m(s): return 1
        class A(P): pass
        def f(x): return A().m()
    """, 'return 1', 'return 2'),
    'Generic': ("""
        import typing
        T=typing.TypeVar('T')
        class P(typing.Generic[T]):
            def m(s): return 1
        def f(x): return P[int]().m()
    """, 'return 1', 'return 2'),
    'attrs conv': ("""
        import attrs
        @attrs.define
        class A:
            a=attrs.field(converter=lambda v: v+1)
        def f(x): return A(1).a
    """, 'v+1', 'v+2'),
    'attrs default factory': ("""
        import attrs
        @attrs.define
        class A:
            a=attrs.field(factory=lambda: 1)
        def f(x): return A().a
    """, ': 1', ': 2'),
    'attrs on_setattr': ("""
        import attrs
        @attrs.define(on_setattr=lambda i,a,v: v+1)
        class A:
            a: int=1
        def f(x):
            a=A(); a.a=1
            return a.a
    """, 'v+1', 'v+2'),
    'pydantic default': ("""
        import pydantic
        class A(pydantic.BaseModel):
            a:int=1
        def f(x): return A().a
    """, 'a:int=1', 'a:int=2'),
    'pydantic type': ("""
        import pydantic
        class A(pydantic.BaseModel):
            a:int=1
        def f(x): return A(a='1').a
    """, 'a:int=1', 'a:float=1'),
    'pydantic validator': ("""
        import pydantic
        class A(pydantic.BaseModel):
            a:int=1
            @pydantic.field_validator('a')
            def v(cls,v): return v+1
        def f(x): return A(a=1).a
    """, 'v+1', 'v+2'),
    'pydantic computed': ("""
        import pydantic
        class A(pydantic.BaseModel):
            a:int=1
            @pydantic.computed_field
            def v(self)->int: return self.a+1
        def f(x): return A().model_dump()['v']
    """, 'a+1', 'a+2'),
    'pydantic private attr': ("""
        import pydantic
        class A(pydantic.BaseModel):
            _p: int=pydantic.PrivateAttr(1)
        def f(x): return A()._p
    """, 'Attr(1)', 'Attr(2)'),
    'pydantic field constraint': ("""
        import pydantic
        class A(pydantic.BaseModel):
            a:int=pydantic.Field(1,multiple_of=2)
        def f(x): return A(a=2).a
    """, 'multiple_of=2', 'multiple_of=3'),
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

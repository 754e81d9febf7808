"""The modules of a user whose edits are tested: each of a pipeline's variables is made by other code."""

from __future__ import annotations

import re

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
    "stars.py": """
        __all__ = ["STAR", "shine"]
        STAR = 37
        HIDDEN = 1

        def shine(x):
            return x + STAR
    """,
    "params.py": """
        K = 3
        NESTED = {"one": {"two": [1, (2, 3)]}}
        ORDERED = {"a": 1, "b": 2}
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
        import dataclasses
        import enum
        import functools

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

        def remember(function):
            @functools.wraps(function)
            def wrapper(x):
                return function(x) * 41
            return wrapper

        class Unit(enum.Enum):
            SMALL = 1
            LARGE = 2

        @dataclasses.dataclass
        class Options:
            alpha: float = 0.5
            beta: int = 3

        class Base:
            step = 43

            @staticmethod
            def still(x):
                return x + 47

            @classmethod
            def made(cls, x):
                return x + cls.step

            @property
            def shift(self):
                return 53

            def inherited(self, x):
                return x + self.shift

        class Child(Base):
            def inherited(self, x):
                return super().inherited(x) * 2

        class Scale:
            'A descriptor.'
            def __get__(self, instance, owner):
                return 59

        class Meta(type):
            def __call__(cls, *args):
                made = super().__call__(*args)
                made.extra = 61
                return made

        class Made(metaclass=Meta):
            scale = Scale()

            def __call__(self, x):
                return x * self.scale + self.extra

        if SCALE:
            def chosen(x):
                return x + 67
        else:
            def chosen(x):
                return x + 71

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

        import dask
        import dask.array as da
        import numpy as np
        import xarray as xr

        import daskcache
        import helpers
        import package.deep
        import params
        import tally
        from helpers import Base, Child, Made, Model, Options, Unit, chosen, decorate, offset, remember
        from stars import *

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

        def even(x, n):
            return x if n == 0 else odd(x, n - 1)

        def odd(x, n):
            return x + 73 if n == 0 else even(x, n - 1)

        def mutual(x):
            tally.count("mutual")
            return even(x, 3)

        def star(x):
            tally.count("star")
            return shine(x)

        def conditional(x):
            tally.count("conditional")
            return chosen(x)

        @remember
        def wrapped(x):
            tally.count("wrapped")
            return x - 2

        @functools.lru_cache
        def table(n):
            return n + 79

        def cached(x):
            tally.count("cached")
            return x + table(1)

        @functools.singledispatch
        def dispatched(kind, x):
            return x

        @dispatched.register
        def _(kind: int, x):
            return x + 83

        def dispatches(x):
            tally.count("dispatches")
            return dispatched(1, x)

        def enumerates(x, unit):
            tally.count("enumerates")
            return x * unit.value

        def data(x, options):
            tally.count("data")
            return x * options.alpha + options.beta

        def static(x):
            tally.count("static")
            return Base.still(x)

        def of_class(x):
            tally.count("of_class")
            return Base.made(x)

        def inherits(x):
            tally.count("inherits")
            return Child().inherited(x)

        def meta(x):
            tally.count("meta")
            return Made()(x)

        def guarded(x):
            tally.count("guarded")
            try:
                return x + 89
            except ValueError:
                return x
            finally:
                x = x + 0

        def nested(x):
            tally.count("nested")
            def inner(y, z=97):
                class Local:
                    width = 101
                return y + z + Local.width
            return inner(x)

        def several(*parts, **named):
            tally.count("several")
            return sum(parts[0]) * parts[1] + sum(named.values(), 0)

        def ordered(x, table):
            tally.count("ordered")
            return x * list(table.values())[0]

        def deep(x, table):
            tally.count("deep")
            return x * table["one"]["two"][1][0]

        def generates(x):
            tally.count("generates")
            def pieces():
                yield x
                yield x + 103
            return sum(pieces())

        def matches(x):
            tally.count("matches")
            match x.ndim:
                case 1:
                    return x + 107
                case _:
                    return x

        def formats(x):
            tally.count("formats")
            return x + len(f"{x.ndim:>5}")

        def around(x):
            tally.count("around")
            return x * 109

        def core(x):
            tally.count("core")
            return x * 113

        def partition(number, plus):
            tally.count("partition")
            return np.full(4, number + plus + 0.0)

        @daskcache.version("1")
        def versioned(x):
            tally.count("versioned")
            return x * 127

        @daskcache.fingerprint_as("whole", 1)
        def declared(x):
            tally.count("declared")
            return x * 131

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
                "mutual": x.map_blocks(mutual),
                "star": x.map_blocks(star),
                "conditional": x.map_blocks(conditional),
                "wrapped": x.map_blocks(wrapped),
                "cached": x.map_blocks(cached),
                "dispatches": x.map_blocks(dispatches),
                "enumerates": x.map_blocks(enumerates, unit=Unit.LARGE),
                "data": x.map_blocks(data, options=Options(alpha=137.0)),
                "static": x.map_blocks(static),
                "of_class": x.map_blocks(of_class),
                "inherits": x.map_blocks(inherits),
                "meta": x.map_blocks(meta),
                "guarded": x.map_blocks(guarded),
                "nested": x.map_blocks(nested),
                "ordered": x.map_blocks(ordered, params.ORDERED),
                "deep": x.map_blocks(deep, params.NESTED),
                "generates": x.map_blocks(generates),
                "matches": x.map_blocks(matches),
                "formats": x.map_blocks(formats),
                "around": x.map_overlap(around, depth=1, boundary="reflect"),
                "core": xr.apply_ufunc(
                    core, xr.DataArray(x, dims="x"), dask="parallelized", output_dtypes=["f8"]
                ).data,
                "several": da.concatenate(
                    [
                        da.from_delayed(
                            dask.delayed(several)([block, block + 1], 3, one=139, two=149), (4,), "f8"
                        )
                        for block in x.to_delayed()
                    ]
                ),
                "partition": da.concatenate(
                    [da.from_delayed(dask.delayed(partition)(number, 151), (4,), "f8") for number in (1, 2)]
                ),
                "versioned": x.map_blocks(versioned),
                "declared": x.map_blocks(declared),
            }
            return xr.Dataset({name: ("x", block) for name, block in blocks.items()})
    """,
}

VARIABLES = frozenset(re.findall(r'tally\.count\("(\w+)"\)', FILES["pipeline.py"]))
"""What the pipeline makes, each by a function that tells `tally` of its calls."""

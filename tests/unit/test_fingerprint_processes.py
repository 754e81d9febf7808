"""Fingerprints are compared between processes with other hash seeds, never within one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OBJECTS = """
import json, random, sys, warnings
warnings.simplefilter("ignore")
from tests.unit.test_fingerprint_objects import DIFFERENT, SAME
from daskcache.fingerprint import Fingerprinter
made = [(f"{group} {at}", value) for group, make in DIFFERENT.items() for at, value in enumerate(make())]
made += [(f"{group} {at}", value) for group, make in SAME for at, value in enumerate(make())]
words = {f"w{i}" for i in range(100)}
made += [("set", words), ("frozenset", frozenset(words)), ("dict", dict.fromkeys(sorted(words)))]
made.append(("nested set", {frozenset({w, w + "x"}) for w in words}))
random.Random(int(sys.argv[1])).shuffle(made)
walk = Fingerprinter()
print(json.dumps({name: walk.fingerprint(value).hex() for name, value in made}))
"""

# Defined in __main__, and with everything that has an order of its own in a process.
MAIN = '''
import base64, collections, dataclasses, enum, functools, json, sys
import cloudpickle
import numpy as np
import dask.array as da
from daskcache.fingerprint import Fingerprinter

class Kind(enum.Enum):
    A = "a"
    B = "b"

@dataclasses.dataclass
class Options:
    names: frozenset = frozenset({"a", "b", "c"})
    kind: Kind = Kind.A

class Base:
    table = {name: len(name) for name in sorted({"x", "yy", "zzz"})}
    def __init__(self, k):
        self.k = k
    @property
    def twice(self):
        return self.k * 2
    @classmethod
    def make(cls, k):
        return cls(k)
    def __call__(self, x):
        return x * self.twice if x in {"p", "q", "r"} else OFFSET

class Derived(Base):
    __slots__ = ("other",)
    def __call__(self, x):
        return super().__call__(x) + LIMITS["a"]

Point = collections.namedtuple("Point", "x y", defaults=[1])
OFFSET = 3
LIMITS = {"a": 1, "b": np.arange(3)}
i = 5

def helper(x):
    """Help."""
    return np.sin(x) + OFFSET

def reads(x: "float", options: Options = Options()) -> float:
    def inner(y: int):
        return helper(y) + x.i
    return inner(x) if options.kind is Kind.A else [inner(z) for z in x]

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def closing(k):
    def inner(x):
        return inner(x - k) if x > k else Base(k)(x)
    return inner

def decorate(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)
    return wrapper

@decorate
def decorated(x):
    return {"a", "b"} - {x}

@functools.singledispatch
def dispatched(x):
    return 1

@dispatched.register
def _(x: int):
    return 2

def imports(x):
    import json.decoder as decoder
    from collections import OrderedDict
    return decoder.JSONDecoder, OrderedDict(x)

class Recursive:
    def spawn(self):
        return Recursive(), DEFAULT

DEFAULT = Recursive()

FUNCTIONS = {
    "lambda": lambda x: x + OFFSET, "reads": reads, "even": even, "odd": odd, "closing": closing(2), "decorated": decorated, "base": Base, "derived": Derived,
    "instance": Base(3), "method": Derived(4).__call__, "classmethod": Base.make, "point": Point(1), "options": Options(), "kind": Kind.B,
    "dispatched": dispatched, "imports": imports, "recursive": Recursive, "default": DEFAULT, "spawn": Recursive.spawn,
    "partial": functools.partial(helper, x=LIMITS), "vectorize": np.vectorize(helper), "points": Point, "ufunc": da.sin, "kinds": Kind,
}

if __name__ == "__main__":
    walk = Fingerprinter()
    mine = {name: walk.fingerprint(value).hex() for name, value in FUNCTIONS.items()}
    # cloudpickle does not take functools.singledispatch.
    portable = {name: value for name, value in FUNCTIONS.items() if name != "dispatched"}
    pickled = base64.b64encode(cloudpickle.dumps(portable)).decode()
    print(json.dumps([mine, pickled, sorted(map(list, walk.code_units))]))
'''

UNPICKLE = """
import base64, cloudpickle, json, sys
from daskcache.fingerprint import Fingerprinter
functions = cloudpickle.loads(base64.b64decode(sys.stdin.read()))
walk = Fingerprinter()
print(json.dumps({name: walk.fingerprint(value).hex() for name, value in reversed(functions.items())}))
"""


def run(arguments: list[str], seed: int, given: str = "", *options: str) -> str:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(seed),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    found = subprocess.run(
        [sys.executable, *options, *arguments],
        env=environment, input=given, capture_output=True, text=True, check=False, cwd=ROOT, timeout=100,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_objects_agree_between_processes() -> None:
    first, second = (json.loads(run(["-c", OBJECTS, str(seed)], seed)) for seed in (1, 2))
    assert len(first) > 300
    assert {name for name in first if first[name] != second[name]} == set()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripts") / "script.py"
    path.write_text(MAIN)
    return path


def test_functions_pickled_by_value_agree_with_the_original(script: Path) -> None:
    mine, pickled, units = json.loads(run([str(script)], 3))
    assert units == []
    assert len(set(mine.values())) == len(mine)
    theirs = json.loads(run(["-c", UNPICKLE], 4, pickled))
    assert len(theirs) == len(mine) - 1
    assert {name for name in theirs if mine[name] != theirs[name]} == set()
    again = json.loads(run([str(script)], 5))[0]
    assert {name for name in mine if mine[name] != again[name]} == set()


def test_a_module_and_a_script_of_the_same_code_agree(script: Path) -> None:
    mine = json.loads(run([str(script)], 3))[0]
    importing = (
        f"import sys; sys.path.insert(0, {str(script.parent)!r})\n"
        "import json, script\nfrom daskcache.fingerprint import Fingerprinter\nwalk = Fingerprinter()\n"
        "print(json.dumps({n: walk.fingerprint(v).hex() for n, v in script.FUNCTIONS.items()}))"
    )
    theirs = json.loads(run(["-c", importing], 6))
    assert {name for name in mine if mine[name] != theirs[name]} == set()


def test_optimised_processes_are_keyed_apart(script: Path) -> None:
    """Without asserts and docstrings the same source is other code; what is installed is not recompiled by us."""
    mine = json.loads(run([str(script)], 3))[0]
    theirs = json.loads(run([str(script)], 3, "", "-O"))[0]
    assert {name for name in mine if mine[name] == theirs[name]} == {"ufunc"}

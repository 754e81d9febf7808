"""The clock, the process and paths in all their spellings: refused, or another token when they change."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from dask.core import flatten

import daskcache
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, fingerprint
from daskcache.tokens import GraphTokens


def define(source: str, name: str = "f") -> Any:
    module = types.ModuleType("users_module")
    exec(compile(source, "users_module.py", "exec"), module.__dict__)
    return vars(module)[name]


def token_of(obj: Any) -> bytes | None:
    tokens = GraphTokens(obj.__dask_graph__(), Fingerprinter())
    return tokens.token(next(flatten(obj.__dask_keys__())))


CLOCK = [
    "np.datetime64('now')",
    "np.datetime64('now', 's')",
    "np.datetime64('today')",
    "np.datetime64('today', unit)",
    "np.datetime64('NOW')",
    "pd.Timestamp('now')",
    "pd.Timestamp('now', tz='UTC')",
    "pd.Timestamp('today', tz=unit)",
    "pd.Timestamp.now()",
    "pd.Timestamp.now(tz=unit)",
    "pd.Timestamp.utcnow()",
    "pd.Timestamp.today('UTC')",
    "pd.to_datetime('now')",
    "pd.to_datetime('now', utc=True)",
    "pd.to_datetime(['now', unit])",
    "pd.date_range(end='today', periods=3)",
    "pd.date_range('2000', 'now', freq=unit)",
    "pd.Period('now', 'D')",
    "pd.DatetimeIndex(['now'])",
    "pd.Timestamp(unit or 'now')",
    "D.now()",
    "D.now(tz=unit)",
    "D.now(datetime.UTC)",
    "D.utcnow()",
    "D.today()",
    "datetime.date.today()",
    "datetime.datetime.now(datetime.timezone.utc)",
    "T('now', tz=unit)",
    "time.time()",
    "time.time_ns()",
    "time.perf_counter()",
    "time.process_time()",
    "time.thread_time_ns()",
    "time.clock_gettime(time.CLOCK_REALTIME)",
    "time.monotonic_ns()",
    "time.localtime()",
    "time.strftime('%Y')",
]
IMPORTS = (
    "import datetime, hashlib, os, pathlib, platform, random, secrets, socket, threading, time, uuid\n"
    "from datetime import datetime as D\nfrom pandas import Timestamp as T\n"
    "import numpy as np\nimport pandas as pd\n"
)


@pytest.mark.parametrize("spelt", CLOCK)
@pytest.mark.parametrize(
    "shape",
    [
        "def f(unit): return {}",
        "f = lambda unit: {}",
        "def helper(unit): return {}\ndef f(unit): return helper(unit)",
        "class C:\n    def m(self, unit): return {}\ndef f(unit): return C().m(unit)",
        "def f(unit):\n    def inner(): return {}\n    return inner()",
    ],
)
def test_the_clock(spelt: str, shape: str) -> None:
    with pytest.raises(UncacheableError, match="reads the clock"):
        fingerprint(define(IMPORTS + shape.format(spelt)))


def test_the_clock_under_names_of_a_functions_own() -> None:
    for source in (
        "def f():\n    from datetime import datetime as E\n    return E.now()",
        "def f():\n    import pandas\n    return pandas.Timestamp('now')",
        "def f():\n    from numpy import datetime64 as at\n    return at('today')",
        "import pandas as pd\ndef f(when='now'): return pd.Timestamp(when)",
        "import pandas as pd\ndef f(*, when='today'): return pd.Timestamp(when)",
        "import numpy\nclass C:\n    now = staticmethod(numpy.datetime64)\ndef f():\n    return numpy.datetime64('now')",
    ):
        with pytest.raises(UncacheableError, match="reads the clock"):
            fingerprint(define(source))


@pytest.mark.parametrize("call", [np.datetime64, pd.Timestamp, pd.to_datetime])
def test_the_clock_as_a_task(call: Any) -> None:
    assert token_of(delayed(call)("now")) is None
    assert token_of(delayed(call)("2000-01-01")) is not None


PROCESS = [
    ("hash('text')", "hashes"),
    ("hash(b)", "hashes"),
    ("[hash(each) for each in b]", "hashes"),
    ("sorted(b, key=hash)", "hashes"),
    ("id(b)", "where an object lies"),
    ("os.getpid()", "environment"),
    ("os.environ['HOME']", "environment"),
    ("os.environ.get('HOME', 'x')", "environment"),
    ("dict(os.environ)", "environment"),
    ("os.getenv('HOME')", "environment"),
    ("platform.node()", "environment"),
    ("uuid.getnode()", "environment"),
    ("threading.get_ident()", "environment"),
    ("threading.get_native_id()", "environment"),
    ("threading.current_thread().name", "settings"),
    ("socket.gethostname()", "environment|network"),
    ("uuid.uuid1()", "unseeded"),
    ("uuid.uuid4().hex", "unseeded"),
    ("secrets.token_bytes(3)", "unseeded"),
    ("secrets.choice(b)", "unseeded"),
    ("os.urandom(3)", "unseeded"),
    ("random.SystemRandom().random()", "unseeded"),
    ("random.random()", "random state"),
    ("np.random.normal(size=3)", "random state"),
]


@pytest.mark.parametrize(("spelt", "why"), PROCESS)
@pytest.mark.parametrize(
    "shape",
    [
        "def f(b): return {}",
        "def helper(b): return {}\nf = lambda b: helper(b)",
        "class C:\n    def m(self, b): return {}\ndef f(b): return C().m(b)",
    ],
)
def test_what_differs_between_processes(spelt: str, why: str, shape: str) -> None:
    with pytest.raises(UncacheableError, match=why):
        fingerprint(define(IMPORTS + shape.format(spelt)))


USUAL = [
    "class C:\n    def __init__(self, a): self.a = a\n    def __hash__(self): return hash(self.a)\n"
    "    def __eq__(self, o): return self.a == o.a\ndef f(b): return {C(b): 1}",
    "class C:\n    def __deepcopy__(self, memo):\n        memo[id(self)] = self\n        return self\ndef f(b): return C()",
    "class C:\n    def __repr__(self): return f'C at {id(self):x}'\ndef f(b): return C()",
    "def f(b): return b.hash() + b.id",
    "import hashlib\ndef f(b): return hashlib.sha256(b).hexdigest()",
    "import pandas as pd\ndef f(b): return pd.util.hash_pandas_object(b)",
    "import pandas as pd\ndef f(b): return pd.to_datetime(b['time'], utc=True)",
    "import pandas as pd\ndef f(b): return pd.date_range('2000', periods=3) + pd.Timedelta('1D')",
    "def f(b): return b.sel(time='today') + b['now']",
    "def hash(b): return b\ndef f(b): return hash(b)",
    "def f(b): return b.open",
    "import webbrowser\nfrom pathlib import Path\ndef f(b): return webbrowser.open",
    "from pathlib import Path\nOUT = Path('out')\ndef f(b): return b, OUT.name, (OUT / 'a').suffix",
]


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


def test_the_hash_of_a_dataclass() -> None:
    assert len(fingerprint(lambda b: {Point(b): 1})) == 40


@pytest.mark.parametrize("source", USUAL)
def test_what_only_looks_like_it(source: str) -> None:
    assert len(fingerprint(define(source))) == 40


PATHS = [
    "def f(b, path): return b + float(path.read_text())",
    "import pathlib\ndef f(b, path):\n    with path.open() as file: return b + float(file.read())",
    "def f(b, path):\n    with path.open() as file: return b + float(file.read())",
    "def f(b, path):\n    with open(path) as file: return b + float(file.read())",
    "import numpy as np\ndef f(b, path): return b + np.loadtxt(path)",
    "def f(b, path): return b + path.stat().st_size",
    "def f(b, path): return b + path.exists()",
    "import io\ndef f(b, path): return b + float(io.open(path).read())",
    "def g(path): return path.open().read()\ndef f(b, path): return b + float(g(path))",
    "class C:\n    def read(self, path): return path.open().read()\ndef f(b, path): return b + float(C().read(path))",
    "def f(b, path): return b + len([each for each in path.parent.iterdir()])",
]


@pytest.mark.parametrize("source", PATHS)
def test_a_path_that_a_task_is_given(source: str, tmp_path: Path) -> None:
    function, path = define(source), tmp_path / "a.txt"
    path.write_text("1")
    block = da.ones(2, chunks=2)
    assert token_of(block.map_blocks(function, path, meta=np.empty(0))) is None
    assert token_of(block.map_blocks(function, path=path, meta=np.empty(0))) is None
    assert token_of(block.map_blocks(functools.partial(function, path=path), meta=np.empty(0))) is None
    assert token_of(delayed(function)(1, path)) is None


def test_paths_within_what_a_task_is_given(tmp_path: Path) -> None:
    for given in ([tmp_path], {"a": tmp_path}, (1, [tmp_path])):
        assert token_of(delayed(lambda held: len(held))(given)) is None
    assert token_of(delayed(lambda held: len(held))([str(tmp_path)])) is not None
    assert token_of(delayed(lambda held: held.name)(pathlib.PurePosixPath("a"))) is not None


HELD = [
    "from pathlib import Path\nPATH = Path('a')\ndef f(b): return b + float(PATH.open().read())",
    "from pathlib import Path\nPATH = Path('a')\ndef f(b): return b + float((PATH / 'b').open().read())",
    "import pathlib\ndef make(path):\n    return lambda b: b + path.stat().st_size\nf = make(pathlib.Path('a'))",
    "import pathlib as p\ndef f(b, path=p.Path('a')): return b + path.exists()",
    "from pathlib import Path\nclass C:\n    def __init__(self): self.path = Path('a')\n"
    "    def __call__(self, b): return b + float(self.path.open().read())\nf = C()",
]


@pytest.mark.parametrize("source", HELD)
def test_a_path_that_a_function_holds(source: str) -> None:
    with pytest.raises(UncacheableError, match="reads a file"):
        fingerprint(define(source))


def test_what_declares_itself_may_be_given_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1")
    reads = daskcache.source(path)(define("def f(b, path): return b + float(path.read_text())"))
    versioned = daskcache.version("1")(define("def f(b, path): return path.open()"))
    before = token_of(delayed(reads)(1, path))
    assert before is not None
    assert token_of(delayed(versioned)(1, path)) is not None
    assert token_of(delayed(functools.partial(versioned, path=path))(1)) is not None
    path.write_text("22")
    assert token_of(delayed(reads)(1, path)) not in (None, before)


SCRIPT = """
import dask, dask.array as da, pathlib, sys, warnings
import daskcache
warnings.simplefilter("ignore")
dask.config.set(scheduler="sync")

def add(block, path):
    with path.open() as file:
        return block + float(file.read())

with daskcache.activate(sys.argv[1], policy="outputs"):
    print(da.ones(2, chunks=2).map_blocks(add, pathlib.Path(sys.argv[2]), dtype=float).compute()[0])
"""


@pytest.mark.slow
def test_a_file_that_changes_between_two_processes(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    seen = []
    for text in ("1", "2"):
        (tmp_path / "a.txt").write_text(text)
        command = [sys.executable, str(tmp_path / "script.py"), str(store_root), str(tmp_path / "a.txt")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        seen.append(float(done.stdout))
    assert seen == [2, 3]

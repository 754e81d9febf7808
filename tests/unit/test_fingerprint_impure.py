"""Code that visibly depends on more than its arguments is uncacheable, by name."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from daskcache.errors import UncacheableError
from daskcache.fingerprint import fingerprint


def define(source: str, name: str = "f") -> object:
    module = types.ModuleType("users_module")
    exec(compile(source, "users_module.py", "exec"), module.__dict__)
    return vars(module)[name]


IMPURE = [
    ("def f(): return open('x').read()", "reads a file"),
    ("from io import open as o\ndef f(): return o('x')", "reads a file"),
    ("import os\ndef f(): return os.environ['HOME']", "environment"),
    ("import os\ndef f(): return os.environ.get('HOME')", "environment"),
    ("from os import environ\ndef f(): return environ['HOME']", "environment"),
    ("import os\ndef f(): return os.getenv('HOME')", "environment"),
    ("import os\ndef f(): return os.listdir('.')", "file system"),
    ("import os\ndef f(): return os.path.getmtime('x')", "file system"),
    ("import os.path as p\ndef f(): return p.exists('x')", "file system"),
    ("import glob\ndef f(): return glob.glob('*')", "file system"),
    ("import time\ndef f(): return time.time()", "clock"),
    ("from time import perf_counter as now\ndef f(): return now()", "clock"),
    ("def f():\n    import time\n    return time.time()", "clock"),
    ("def f():\n    from time import monotonic\n    return monotonic()", "clock"),
    ("import datetime\ndef f(): return datetime.datetime.now()", "clock"),
    ("from datetime import datetime\ndef f(): return datetime.utcnow()", "clock"),
    ("from datetime import date\ndef f(): return date.today()", "clock"),
    ("import pandas as pd\ndef f(): return pd.Timestamp.now()", "clock"),
    ("import pandas as pd\ndef f(): return pd.Timestamp('now')", "clock"),
    ("import numpy as np\ndef f(): return np.datetime64('today')", "clock"),
    ("import random\ndef f(): return random.random()", "random state"),
    ("import random\ndef f(x): return random.choice(x)", "random state"),
    ("from random import shuffle\ndef f(x): return shuffle(x)", "random state"),
    ("import random\ndef f(): return random.Random()", "unseeded"),
    ("import numpy as np\ndef f(): return np.random.rand(3)", "random state"),
    ("import numpy as np\ndef f():\n    np.random.seed(0)\n    return np.random.normal()", "random state"),
    ("from numpy.random import normal\ndef f(): return normal()", "random state"),
    ("import numpy as np\ndef f(): return np.random.default_rng()", "unseeded"),
    ("import numpy as np\ndef f(): return np.random.default_rng(None)", "unseeded"),
    ("import numpy as np\ndef f(): return np.random.default_rng(seed=None)", "unseeded"),
    ("def f():\n    import numpy as np\n    return np.random.default_rng()", "unseeded"),
    ("import numpy as np\ndef f(): return np.random.RandomState()", "unseeded"),
    ("import uuid\ndef f(): return uuid.uuid4()", "unseeded"),
    ("import os\ndef f(): return os.urandom(3)", "unseeded"),
    ("import secrets\ndef f(): return secrets.token_hex()", "unseeded"),
    ("def f(x): return eval(x)", "code by name"),
    ("def f(x): exec(x)", "code by name"),
    ("def f(x): return globals()[x]", "code by name"),
    ("import importlib\ndef f(x): return importlib.import_module(x)", "code by name"),
    ("def f(): return input()", "asks"),
    ("import subprocess\ndef f(): return subprocess.run(['ls'])", "program"),
    ("import urllib.request\ndef f(): return urllib.request.urlopen('x')", "network"),
    ("def f():\n    import requests\n    return requests.get('x')", "network"),
    ("import socket\ndef f(): return socket.gethostname()", "environment|network"),
    ("import numpy as np\ndef f(): return np.load('x')", "reads a file"),
    ("import pandas as pd\ndef f(): return pd.read_csv('x')", "reads a file"),
    ("import xarray as xr\ndef f(): return xr.open_dataset('x')", "reads a file"),
    ("import zarr\ndef f(): return zarr.open_group('x')", "reads a file"),
    ("import numpy as np\ndef f(x): np.save('x', x)", "writes a file"),
    ("from numpy import save as s\ndef f(x): s('x', x)", r"writes a file \(numpy.save\)"),
    ("from numpy import savetxt as s\ndef f(x): s('x', x)", r"writes a file \(numpy.savetxt\)"),
    ("import os\ndef f(x): os.makedirs(x)", "writes a file"),
    ("from os import rename\ndef f(x): rename(x, 'y')", r"writes a file \(posix.rename\)"),
    ("from shutil import copyfile\ndef f(x): copyfile(x, 'y')", r"writes a file \(shutil.copyfile\)"),
    ("def f(x): x.to_netcdf('x')", r"writes a file \(.to_netcdf\)"),
    ("def f(x): return [b.tofile('x') for b in x]", r"writes a file \(.tofile\)"),
    ("from pathlib import Path\ndef f(x): Path(x).touch()", r"writes a file \(.touch\)"),
    ("def f(x, path): path.write_text(str(x))", r"writes a file \(.write_text\)"),
    ("def f(x, axes): axes.figure.savefig('x')", r"writes a file \(.savefig\)"),
    ("def f(x):\n    def inner(): return open(x)\n    return inner()", "reads a file"),
    ("def f(x): return [open(p) for p in x]", "reads a file"),
    (
        "class C:\n    def read(self): return open('x')\ndef f(): return C().read()",
        "class C → attribute read",
    ),
    ("def g(): return open('x')\ndef f(): return g()", "function f → global g → function g"),
    ("n = 0\ndef f(x):\n    global n\n    n += 1\n    return x", r"function f → changes a variable .*\(n\)"),
    ("n = 0\ndef f(x):\n    global n\n    del n\n    return x", r"not its own \(n\)"),
    ("import sys\ndef f(x):\n    global sys\n    import sys\n    sys = x", r"not its own \(sys\)"),
    ("def f(x):\n    def g():\n        global n\n        n = x\n    return g()", r"not its own \(n\)"),
    ("n = 0\ndef g():\n    global n\n    n = 1\ndef f(x): return g()", "function f → global g → function g"),
    ("n = {}\ndef f(x):\n    n[x] = 1", r"not its own \(n\)"),
    ("n = {}\ndef f(x):\n    n[len(x)] += 1", r"not its own \(n\)"),
    ("n = [1, 2]\ndef f(x):\n    n[x:] = x", r"not its own \(n\)"),
    ("n = {}\ndef f(x):\n    del n[x]", r"not its own \(n\)"),
    ("class C: n = 0\ndef f(x):\n    C.n += 1\n    return x", r"not its own \(C\)"),
    ("class C: n = 0\ndef f(x):\n    C.n = x", r"not its own \(C\)"),
    ("n = {'k': []}\ndef f(x):\n    n['k'][0] = x", r"not its own \(n\)"),
    ("n = []\ndef f(x):\n    n.append(x)\n    return x", r"not its own \(n\)"),
    ("import queue\nn = queue.Queue()\ndef f(x): n.put(x)", r"not its own \(n\)"),
    (
        "def make():\n    n = []\n    def f(x):\n        def g():\n            n[0] = x\n        g()\n    return f\nf = make()",
        r"not its own \(n\)",
    ),
    (
        "def make():\n    n = 0\n    def f(x):\n        nonlocal n\n        n += 1\n        return x\n    return f\nf = make()",
        r"not its own \(n\)",
    ),
    (
        "def make():\n    n = 0\n    def f(x):\n        def g():\n            nonlocal n\n            n += 1\n        g()\n"
        "    return f\nf = make()",
        r"not its own \(n\)",
    ),
]


@pytest.mark.parametrize(("source", "reason"), IMPURE)
def test_recognised_calls_are_uncacheable(source: str, reason: str) -> None:
    with pytest.raises(UncacheableError, match=reason):
        fingerprint(define(source))


PURE = [
    "import numpy as np\ndef f(): return np.random.default_rng(3).random()",
    "import numpy as np\ndef f(seed): return np.random.default_rng(seed).random()",
    "import random\ndef f(): return random.Random(3).random()",
    "import datetime\ndef f(): return datetime.datetime(2000, 1, 1)",
    "import time\ndef f(): return time.strptime('2000', '%Y')",
    "import os\ndef f(x): return os.path.join(x, 'a')",
    "import os\ndef f(x): return os.path.basename(x) + os.sep",
    "import pandas as pd\ndef f(): return pd.Timestamp('2000-01-01')",
    "import numpy as np\ndef f(): return np.datetime64('2000-01-01')",
    "def f(x): return getattr(x, 'mean')()",
    "def f(x, name): return getattr(x, name)()",
    "def f(x): return x.open() + x.time() + x.environ",
    "def open(x): return x\ndef f(x): return open(x)",
    "import logging\nlog = logging.getLogger('x')\ndef f(x):\n    log.info('x')\n    print(x)\n    return x",
    "import threading\nlock = threading.Lock()\ndef f(x):\n    with lock:\n        return x",
    "import warnings\ndef f(x):\n    with warnings.catch_warnings():\n        return x",
    "def f(time): return time.time()",
    "def f(x): return x.to_numpy() + x.touch()",
    "def f(x):\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    g()\n    return x + n",
    "def f(x):\n    global math, pi\n    import math\n    from math import pi\n    return math.floor(x) + pi",
    "def f(x): return [y := x, *(y := z for z in x)]",
    "def f(x):\n    n = {}\n    def g(): n[0] = x\n    g()\n    n['a'] = 1\n    return n",
    "def f(x):\n    n = []\n    def g(): n.append(x)\n    g()\n    return n",
    "import numpy as np\ndef f(x):\n    np.asarray(x)[0] = 1\n    x.attrs['a'] = 1\n    x.name = 'a'\n    return x",
    "def g(x): return x\ndef f(x):\n    g(x)[0] = 1\n    g(x).n += 1\n    x[g(x)] = g\n    return x",
    "class C:\n    def __init__(self): self.n = 0\n    def add(self): self.n += 1\ndef f(x): return C().add()",
    "n = {}\ndef f(x):\n    if x not in n:\n        n[x] = x + 1\n    return n[x]",
    "n = {}\ndef f(x): return n.setdefault(x, x)",
    "import numpy as np\ndef f(x): return np.append(x, 1)",
    "n = {1: 2}\ndef f(x): return n.get(x), n[x], n.copy().pop(x)",
]


@pytest.mark.parametrize("source", PURE)
def test_what_only_looks_like_it_is_not(source: str) -> None:
    assert len(fingerprint(define(source))) == 40


def test_a_package_that_is_not_loaded_is_recognised_by_name() -> None:
    """Whether it is loaded must not decide whether something is stored."""
    name = next(name for name in ("sqlite3", "netCDF4", "h5netcdf") if importlib.util.find_spec(name))
    attribute = {"sqlite3": "connect", "netCDF4": "Dataset", "h5netcdf": "File"}[name]
    with pytest.raises(UncacheableError, match="reads a file"):
        fingerprint(define(f"def f():\n    import {name}\n    return {name}.{attribute}('x')"))


def test_a_package_that_is_not_there_is_recognised_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UncacheableError, match=r"network \(httpx.get\)"):
        fingerprint(define("def f():\n    import httpx\n    return httpx.get('x')"))


def test_a_part_that_is_loaded_on_demand_is_recognised_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    function = define("import numpy as np\ndef f(): return np.random.rand(3)")
    monkeypatch.delattr(np, "random")
    with pytest.raises(UncacheableError, match="random state"):
        fingerprint(function)


def test_a_function_of_the_users_is_not_judged_by_its_name() -> None:
    module = types.ModuleType("requests")
    exec("def get(x): return x\ndef f(x): return get(x)", module.__dict__)
    assert len(fingerprint(vars(module)["f"])) == 40

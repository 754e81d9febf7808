"""Fingerprints under every version of the rules, pinned.

The digests in ``data`` are never rewritten: whoever changes a rule makes all that was stored unfindable, and says so
by beginning a new version (`daskcache.fingerprint.RULES`) with a file of its own.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import functools
import json
import operator
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr

from daskcache.fingerprint import RULES, Fingerprinter

DATA = Path(__file__).parent / "data"

SOURCE = '''
K = {"a": [1, 2.5], "b": {"x", "y"}}

def helper(x):
    """Half of it."""
    return x / 2 + K["a"][1]

def f(x, y=2, *, z="z"):
    def inner(a: int) -> int:
        return helper(a) if a in {1, 2, 3} else g(a - 1)
    try:
        return [inner(q) for q in x]
    except ZeroDivisionError:
        return y

def g(x):
    return f(x) + 1
'''


def users_function() -> Any:
    module = types.ModuleType("users_module")
    exec(compile(SOURCE, "users_module.py", "exec"), module.__dict__)
    return vars(module)["f"]


def values() -> dict[str, Any]:
    times = pd.date_range("2000-01-01", periods=3, freq="D", unit="ns")
    return {
        "None": None, "Ellipsis": ..., "True": True, "False": False, "0": 0, "1": 1, "-1": -1, "2**70": 2**70, "0.0": 0.0, "-0.0": -0.0, "1.5": 1.5,
        "nan": float("nan"), "inf": float("inf"), "1+2j": 1 + 2j, "''": "", "'a'": "a", "'ä'": "ä", "b'a'": b"a", "bytearray": bytearray(b"a"),
        "slice(1, None, 2)": slice(1, None, 2), "range": range(1, 9, 2), "()": (), "[]": [], "{}": {}, "set()": set(), "(1, 'a')": (1, "a"), "[1, 'a']": [1, "a"],
        "{'a': 1, 2: [3]}": {"a": 1, 2: [3]}, "{1, 'a'}": {1, "a"}, "frozenset": frozenset({1, "a"}), "nested": [(1, {"k": [{2.5, None}, (slice(3),)]})],
        "deque": collections.deque([1, 2], 3), "OrderedDict": collections.OrderedDict(a=1), "mappingproxy": types.MappingProxyType({"a": 1}), "date": dt.date(2000, 1, 2),
        "datetime": dt.datetime(2000, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), "time": dt.time(1, 2), "timedelta": dt.timedelta(1, 2, 3), "zone": zoneinfo.ZoneInfo("Europe/Berlin"),
        "Decimal": decimal.Decimal("1.50"), "Fraction": fractions.Fraction(1, 3), "UUID": uuid.UUID(int=5), "path": pathlib.PurePosixPath("a/b"), "pattern": re.compile("a+", re.IGNORECASE),
        "int64 array": np.arange(6).reshape(2, 3), ">f4 array": np.arange(3, dtype=">f4"), "empty array": np.empty((0, 2)), "str array": np.array(["a", "bb"]),
        "object array": np.array(["a", 1, None], dtype=object), "datetime64 array": np.array([1, 2], "M8[us]"), "structured": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        "large array": np.arange(17 << 17, dtype="<i8").reshape(17, -1), "float32": np.float32(1.5), "int64": np.int64(1), "datetime64": np.datetime64(1, "us"), "dtype": np.dtype("<f4"), "structured dtype": np.dtype([("a", "i4"), ("b", "f8")]),
        "Generator": np.random.Generator(np.random.PCG64(3)), "masked": np.ma.masked_array([1, 2], [0, 1], fill_value=9),
        "Index": pd.Index([1, 2], name="i"), "RangeIndex": pd.RangeIndex(3), "DatetimeIndex": times, "MultiIndex": pd.MultiIndex.from_product([[1], [2.5]]),
        "Series": pd.Series([1, 2], name="s"), "DataFrame": pd.DataFrame({"a": [1.5, 2.5]}), "Timestamp": pd.Timestamp(5, unit="us"), "Timedelta": pd.Timedelta(5, unit="us"),
        "Categorical": pd.Categorical([1, 2], categories=[2, 1]), "Int64": pd.array([1, None], "Int64"), "offset": pd.offsets.MonthEnd(2),
        "arrow": pa.array([1, None, 3]), "arrow strings": pa.array(["a", None]), "cftime": cftime.DatetimeNoLeap(2000, 1, 2),
        "Variable": xr.Variable(("x",), [1, 2], {"units": "K"}), "DataArray": xr.DataArray([1.5, 2.5], {"x": [1, 2]}, name="v"),
        "Dataset": xr.Dataset({"v": ("time", [1, 2, 3])}, {"time": times}, {"title": "t"}),
        "partial": functools.partial(operator.itemgetter, 1).args, "lock": __import__("threading").Lock(),
    }  # fmt: skip


def pinned(rules: bytes = RULES) -> dict[str, str]:
    version = rules.decode().rpartition("/")[2]
    found: dict[str, str] = json.loads((DATA / f"fingerprints-{version}.json").read_text())
    return found


def computed() -> dict[str, str]:
    walk, salted = Fingerprinter(), Fingerprinter(salt="mine")
    digests = {name: walk.fingerprint(value).hex() for name, value in values().items()}
    digests["salted"] = salted.fingerprint([1, "a"]).hex()
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    digests[f"function {minor}"] = walk.fingerprint(users_function()).hex()
    return digests


def test_every_digest_is_as_it_was() -> None:
    before, now = pinned(), computed()
    assert {name: digest for name, digest in now.items() if before.get(name) != digest} == {}


def test_nothing_is_found_under_the_digests_of_earlier_rules() -> None:
    # A store that was written under them holds nothing that today's rules would take for theirs.
    current, earlier = int(RULES.rpartition(b"/")[2]), set()
    for version in range(current):
        earlier |= set(pinned(b"daskcache/%d" % version).values())
    assert earlier
    assert not earlier & set(computed().values())


def test_nothing_that_is_pinned_is_left_out() -> None:
    missing = {name for name in pinned() if name not in computed()}
    assert all(name.startswith("function ") for name in missing)


@pytest.mark.skipif(
    sys.version_info[:2] not in {(3, 12), (3, 13)}, reason="bytecode is pinned for 3.12 and 3.13"
)
def test_the_users_code_is_pinned_for_this_python() -> None:
    assert f"function {sys.version_info.major}.{sys.version_info.minor}" in pinned()


def test_minor_versions_of_python_never_meet() -> None:
    # Each was written down by the interpreter that it names.
    functions = [digest for name, digest in pinned().items() if name.startswith("function ")]
    assert len(functions) == len(set(functions)) >= 2

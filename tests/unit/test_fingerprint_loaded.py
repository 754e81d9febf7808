"""A process tells another what code it has, and the other gives no identity to what is not the same."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import pytest
from dask.highlevelgraph import HighLevelGraph

import daskcache
from daskcache.config import Settings
from daskcache.errors import UncacheableError
from daskcache.fingerprint import Fingerprinter, LoadedCode, loaded
from daskcache.optimizer import Optimizer, rewrite
from tests.workspace import Workspace

# All that other tests have loaded into the process is the user's code here, and is looked at.
pytestmark = pytest.mark.timeout(600)

FILES = {
    "mine.py": """
        import zarr
        import params
        from other import imported

        class Model:
            def run(self, x): return x + params.K
        def helper(x): return x * 2
        def f(x): return helper(x) + imported(x)
        def lazy(x):
            import never_loaded
            return never_loaded.g(x)
        SOURCE = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="i8")
        def reads(x): return SOURCE[:] + x
    """,
    "params.py": "K = 1\nTABLE = {'a': [1]}\n",
    "bare.py": "NOTHING = object()\n",
    "other.py": "def imported(x): return x\n",
    "never_loaded.py": "raise SystemExit('imported')\n",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(loaded, "_last", {})
    space = Workspace(tmp_path)
    space.write(FILES)
    yield space
    space.forget()


def units(*objects: Any, **settings: Any) -> dict[tuple[str, str], bytes]:
    walk = Fingerprinter(**settings)
    for obj in objects:
        walk.fingerprint(obj)
    return walk.code_units


def test_the_same_code_differs_in_nothing(workspace: Workspace) -> None:
    mine = workspace.load("mine")
    script = {"__name__": "__main__"}
    exec(
        "import params, bare\ndef g(x): return x + params.K + params.TABLE['a'][0] + (x is bare.NOTHING)\n",
        script,
    )
    met = units(mine.f, mine.Model, script["g"])
    assert {("mine", "Model.run"), ("other", "imported"), ("params", "K"), ("params", "TABLE")} <= set(met)
    assert LoadedCode.here().differing(met) == frozenset()
    assert len(LoadedCode.here(salt="s").differing(met)) == len(met)
    assert LoadedCode.here(salt="s").differing(units(mine.f, salt="s")) == frozenset()


def test_what_is_edited_differs_and_what_uses_it(workspace: Workspace) -> None:
    workspace.load("mine")
    here = LoadedCode.here()
    workspace.write({**FILES, "params.py": FILES["params.py"].replace("K = 1", "K = 2")})
    mine = workspace.load("mine")
    met = units(mine.f, mine.Model)
    assert here.differing(met) == {("mine", "Model"), ("mine", "Model.run"), ("params", "K")}
    assert LoadedCode.here().differing(met) == frozenset()


def test_an_assignment_is_seen(workspace: Workspace) -> None:
    mine = workspace.load("mine")
    before = LoadedCode.here()
    assert LoadedCode.here() == before
    mine.params.K = 3
    assert LoadedCode.here() != before
    assert before.differing(units(mine.Model)) >= {("params", "K")}


def test_nothing_is_imported_or_read_to_describe_code(workspace: Workspace) -> None:
    mine = workspace.load("mine")
    here = LoadedCode.here()
    assert "never_loaded" not in sys.modules
    assert here.differing(units(mine.reads)) == {("mine", "reads")}


def test_code_is_the_same_whatever_the_files_hold_that_it_reads(workspace: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "table.txt"
    table.write_text("1")
    workspace.write(
        {
            "reader.py": f"""
        import daskcache
        TABLE = daskcache.source({str(table)!r})
        def look(x, path=TABLE):
            with open(path) as file:
                return x + int(file.read())
    """
        }
    )
    reader = workspace.load("reader")
    here = LoadedCode.here()
    assert here.differing(units(reader.look)) == frozenset()
    table.write_text("22")
    assert here.differing(units(reader.look)) == frozenset()


def test_what_a_module_holds_counts_where_the_module_is_handed_on(workspace: Workspace) -> None:
    workspace.load("mine")
    script = {"__name__": "__main__"}
    exec("import params\ndef g(x, name): return x + getattr(params, name)\n", script)
    met = units(script["g"])
    assert {("params", "K"), ("params", "TABLE")} <= set(met)


def test_refused_code_and_what_uses_it_has_no_identity(workspace: Workspace) -> None:
    mine = workspace.load("mine")
    walk = Fingerprinter(refused=frozenset({("mine", "helper"), ("params", "K")}))
    with pytest.raises(UncacheableError, match=r"function f → global helper → mine\.helper is not the same"):
        walk.fingerprint(mine.f)
    with pytest.raises(UncacheableError, match=r"params\.K is not the same"):
        walk.fingerprint([mine.Model()])
    assert walk.fingerprint(mine.imported)


def test_an_object_that_fails_leaves_the_next_one_alone(workspace: Workspace) -> None:
    workspace.write(
        {
            "bad.py": "import sys\nfrom other import imported\nDOOR = sys.stdin\nOPEN = (c for c in '')\n",
            **FILES,
        }
    )
    workspace.load("bad")
    script = {"__name__": "__main__"}
    exec("import bad\ndef g(x): return x, bad.OPEN\n", script)
    walk = Fingerprinter()
    with pytest.raises(UncacheableError):
        walk.fingerprint(script["g"])
    assert walk.fingerprint(workspace.find("mine:f"))


def test_an_optimizer_tells_of_its_client_and_stays_equal(workspace: Workspace) -> None:
    workspace.load("mine")
    here = Optimizer(Settings.from_config())
    there = pickle.loads(pickle.dumps(here))
    assert here.client is None
    assert there.client == LoadedCode.here()
    assert there == here
    assert hash(there) == hash(here)
    assert pickle.loads(pickle.dumps(there)).client is there.client or there.client == LoadedCode.here()
    assert copy.deepcopy(here) is here


def test_only_what_depends_on_other_code_is_left_alone(workspace: Workspace) -> None:
    mine = workspace.load("mine")
    x = da.arange(4, chunks=2)
    settings = Settings.from_config(on_uncacheable="ignore")
    with daskcache.activate():
        marked = [daskcache.checkpoint(x.map_blocks(getattr(mine, name)), name) for name in ("f", "imported")]
    graph = HighLevelGraph.merge(*(array.dask for array in marked))
    keys = [array.__dask_keys__() for array in marked]
    client = _without(LoadedCode.here(), units(mine.f), "f")
    with pytest.warns(daskcache.DaskcacheWarning, match=r"other code .*\(mine\.f\)"):
        rewritten = rewrite(graph, keys, settings, client)
    assert [_writes(rewritten, array) for array in marked] == [0, 2]
    rewritten = rewrite(graph, keys, settings)
    assert all(_writes(rewritten, array) for array in marked)


def _writes(graph: HighLevelGraph, array: da.Array) -> int:
    return sum(1 for task in dict(graph.layers[array.name]).values() if "keep_block" in repr(task))


def _without(code: LoadedCode, met: dict[tuple[str, str], bytes], name: str) -> LoadedCode:
    """Give code without one function."""
    mark = next(loaded._mark(unit, digest) for unit, digest in met.items() if unit[1] == name)
    marks = [code.marks[at : at + 16] for at in range(0, len(code.marks), 16)]
    return LoadedCode(b"".join(one for one in marks if one != mark))

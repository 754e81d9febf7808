"""A process that has other code than the token was made of finds out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daskcache.fingerprint import Fingerprinter, check_code_units
from daskcache.fingerprint import units as units_module
from tests.workspace import Workspace

FILES = {
    "mine.py": """
        import functools
        import params, other
        from other import imported

        class Model:
            def run(self, x): return x + 1

        def helper(x): return x * 2

        @functools.lru_cache
        def cached(x): return x

        def f(x):
            def local(y): return y
            return local(helper(x)) + params.K + imported(x) + Model().run(x) + cached(x) + other.TABLE[0]
    """,
    "params.py": "K = 1\n",
    "other.py": "TABLE = [1, 2]\ndef imported(x): return x\n",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(units_module, "_checked", {})
    space = Workspace(tmp_path)
    space.write(FILES)
    yield space
    space.forget()


def test_units_are_what_can_be_imported_of_the_users(workspace: Workspace) -> None:
    walk = Fingerprinter()
    f = workspace.find("mine:f")
    walk.fingerprint([f, len, sys.version_info])
    assert set(walk.code_units) == {
        ("mine", "f"),
        ("mine", "helper"),
        ("mine", "cached"),
        ("mine", "Model"),
        ("mine", "Model.run"),
        ("other", "imported"),
        ("params", "K"),
        ("other", "TABLE"),
    }
    assert walk.code_units["mine", "f"] == walk.fingerprint(f)


def test_an_edit_is_found_in_a_process_that_has_it(workspace: Workspace) -> None:
    walk = Fingerprinter(salt="s")
    walk.fingerprint(workspace.find("mine:f"))
    units = dict(walk.code_units)
    assert check_code_units(units, salt="s") == []
    assert len(check_code_units(units)) == len(units)
    workspace.write({**FILES, "params.py": "K = 2\n"})
    assert check_code_units(units, salt="s") == ["mine.f", "params.K"]
    workspace.write({name: source for name, source in FILES.items() if name != "other.py"})
    assert check_code_units({("other", "imported"): b""}, salt="s") == ["other.imported"]


def test_each_digest_is_computed_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Fingerprinter()
    walk.fingerprint(workspace.find("mine:f"))
    assert check_code_units(walk.code_units) == []
    monkeypatch.setattr(units_module, "Fingerprinter", None)
    assert check_code_units(walk.code_units) == []


def test_a_function_of_main_has_no_unit_but_what_it_reads_has(workspace: Workspace) -> None:
    space = {"__name__": "__main__"}
    exec("import params\ndef f(x): return x + params.K\n", space)
    walk = Fingerprinter()
    walk.fingerprint(space["f"])
    assert set(walk.code_units) == {("params", "K")}


def test_a_stale_process_differs_from_a_fresh_one(workspace: Workspace) -> None:
    walk = Fingerprinter()
    walk.fingerprint(workspace.find("mine:f"))
    workspace.root.joinpath("mine.py").write_text(
        workspace.root.joinpath("mine.py").read_text().replace("x * 2", "x * 3")
    )
    script = (
        "import sys, ast; sys.path.insert(0, sys.argv[1])\n"
        "from daskcache.fingerprint import check_code_units\n"
        "print(check_code_units(ast.literal_eval(sys.argv[2])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(workspace.root), repr(walk.code_units)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "['mine.f', 'mine.helper']"


KINDS = """
    import functools
    import operator

    def keep(function):
        @functools.wraps(function)
        def wrapper(x): return function(x)
        return wrapper

    class Callable:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function = function
        def __get__(self, instance, owner):
            return functools.partial(self.function, instance)
        def __call__(self, x): return self.function(None, x)

    class Base:
        @staticmethod
        def still(x): return x + 1
        @classmethod
        def made(cls, x): return x + 2
        @property
        def shift(self): return 3
        @functools.cached_property
        def table(self): return 4
        @functools.lru_cache
        def cached(self, x): return x
        @functools.singledispatchmethod
        def sorted(self, x): return x
        part = functools.partialmethod(still, 1)
        @Callable
        def described(self, x): return x + 5
        class Inner:
            @staticmethod
            def deep(x): return x + 6

    class Child(Base):
        alias = Base.still

    @keep
    def wrapped(x): return x + 7
    @functools.singledispatch
    def dispatched(x): return x + 8
    renamed = wrapped
    instance = Callable(keep)
"""


@pytest.mark.parametrize(
    "name",
    [
        "Base", "Base.still", "Base.made", "Base.cached", "Base.Inner", "Base.Inner.deep", "Child",
        "Child.alias", "Child.made", "wrapped", "renamed", "dispatched", "instance",
    ],
)  # fmt: skip
def test_what_one_process_notes_the_other_finds(name: str, workspace: Workspace) -> None:
    workspace.write({"kinds.py": KINDS})
    walk = Fingerprinter()
    walk.fingerprint(workspace.find(f"kinds:{name}"))
    assert walk.code_units
    assert check_code_units(walk.code_units) == []


@pytest.mark.parametrize("name", ["Base.still", "Base.Inner.deep", "Child.alias"])
def test_static_methods_are_noted_by_themselves(name: str, workspace: Workspace) -> None:
    """They are pickled by name: a worker may have others than the scheduler."""
    workspace.write({"kinds.py": KINDS})
    walk = Fingerprinter()
    walk.fingerprint(workspace.find(f"kinds:{name}"))
    workspace.write({"kinds.py": KINDS.replace("x + 1", "x + 10").replace("x + 6", "x + 60")})
    assert check_code_units(walk.code_units)

"""Whose code a module is, found from its place alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskcache.fingerprint import Fingerprinter, distributions, fingerprint
from daskcache.fingerprint.distributions import find_home, shorten_version


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "lib" / "site-packages"
    directory.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield directory
    for name in [name for name, module in list(sys.modules.items()) if is_below(module, directory)]:
        del sys.modules[name]
    forget()


def is_below(module: Any, directory: Path) -> bool:
    places = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    return str(places).startswith(str(directory))


def forget() -> None:
    for function in (distributions._home_of_file, distributions._owners):
        function.cache_clear()


def install(site: Path, name: str, version: str, files: dict[str, str], **metadata: str) -> None:
    for path, source in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(source)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    info.joinpath("RECORD").write_text(
        "".join(f"{path},sha256=x,1\n" for path in (*files, f"{info.name}/RECORD"))
    )
    for file, text in metadata.items():
        info.joinpath(file.replace("_json", ".json").replace("_txt", ".txt")).write_text(text)
    importlib.invalidate_caches()
    forget()


@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [
        ("json", "stdlib", "cpython"), ("json.decoder", "stdlib", "cpython"), ("builtins", "stdlib", "cpython"),
        ("_io", "stdlib", "cpython"), ("posix", "stdlib", "cpython"), ("math", "stdlib", "cpython"), ("collections.abc", "stdlib", "cpython"),
        ("numpy", "installed", "numpy"), ("numpy.linalg", "installed", "numpy"), ("yaml", "installed", "pyyaml"),
        ("dask.array.core", "installed", "dask"), ("cftime._cftime", "installed", "cftime"), ("__main__", "user", ""), ("no_such_module", "user", ""),
        (None, "user", ""), ("", "user", ""), (__name__, "user", ""),
    ],
)  # fmt: skip
def test_homes(module: str | None, kind: str, name: str) -> None:
    home = find_home(module)
    assert (home.kind, home.name) == (kind, name)
    if kind == "installed":
        assert home.version == importlib.metadata.version(name)


def test_an_editable_install_is_the_users() -> None:
    url = importlib.metadata.distribution("daskcache").read_text("direct_url.json")
    if url is None or not json.loads(url).get("dir_info", {}).get("editable"):
        pytest.skip("daskcache is not installed from its directory here")
    assert find_home("daskcache.config").kind == "user"


def test_installed_from_an_index_or_from_a_checkout(site: Path) -> None:
    source = {"gridtool/__init__.py": "K = 1\ndef f(x): return x + K\n"}
    install(site, "gridtool", "1.2.3", source)
    assert find_home("gridtool") == distributions.Home("installed", "gridtool", "1.2.3")
    install(site, "gridtool", "1.2.3", source, direct_url_json='{"url": "file:///x", "dir_info": {}}')
    assert find_home("gridtool").kind == "user"
    install(site, "gridtool", "1.2.3", source, direct_url_json='{"url": "file:///x"}', INSTALLER="conda\n")
    assert find_home("gridtool").kind == "installed"


def test_a_function_counts_by_version_or_by_code(site: Path) -> None:
    def digest(version: str, body: str, precision: Any = "exact", **metadata: str) -> bytes:
        for old in site.glob("gridtool*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        sys.modules.pop("gridtool", None)
        install(site, "gridtool", version, {"gridtool.py": f"def f(x): return {body}\n"}, **metadata)
        return Fingerprinter(code_versions=precision).fingerprint(importlib.import_module("gridtool").f)

    first = digest("1.2.3", "x + 1")
    assert digest("1.2.3", "x + 2") == first
    assert digest("1.2.4", "x + 1") != first
    assert (
        digest("1.2.3", "x + 1", "minor")
        == digest("1.2.4", "x + 1", "minor")
        != digest("1.3.0", "x + 1", "minor")
    )
    assert (
        digest("1.2.3", "x + 1", "major")
        == digest("1.9.0", "x + 1", "major")
        != digest("2.0.0", "x + 1", "major")
    )
    assert digest("1.2.3", "x + 1", "none") == digest("9.9.9", "x + 1", "none")
    only_gridtool = (("default", "exact"), ("gridtool", "minor"))
    assert (
        digest("1.2.3", "x + 1", only_gridtool)
        == digest("1.2.4", "x + 1", only_gridtool)
        != digest("1.3.0", "x + 1", only_gridtool)
    )
    others = (("default", "none"), ("gridtool", "exact"))
    assert digest("1.2.3", "x + 1", others) != digest("1.2.4", "x + 1", others)
    checkout = {"direct_url_json": "{}"}
    assert digest("1.2.3", "x + 1", **checkout) == digest("1.2.4", "x + 1", **checkout)
    assert digest("1.2.3", "x + 1", **checkout) != digest("1.2.3", "x + 2", **checkout)


def test_functions_of_one_qualified_name_count_by_their_code_too(site: Path) -> None:
    """A version and a name say nothing of which of two lambdas it is."""
    source = """
one, two = lambda x: x + 1, lambda x: x + 2
def make(k, double):
    if double:
        def inner(x): return 2 * x
    else:
        def inner(x): return 3 * x
    return inner
def scaled(k):
    return lambda x, y=k: x * k + y
def plain(x, y=1): return x
def other(x, y=2): return x
"""
    install(site, "gridtool", "1.0", {"gridtool.py": source})
    module = importlib.import_module("gridtool")
    found = [
        module.one,
        module.two,
        module.make(1, True),
        module.make(1, False),
        module.scaled(1),
        module.scaled(2),
    ]
    assert len({fingerprint(function) for function in found}) == len(found)
    assert fingerprint(module.scaled(2)) == fingerprint(module.scaled(2))
    before = fingerprint(module.plain)
    module.plain.__defaults__ = (3,)
    changed = fingerprint(module.plain)
    module.plain.factor = 2
    assert len({before, changed, fingerprint(module.plain)}) == 3


def test_a_namespace_that_distributions_share(site: Path) -> None:
    install(site, "shared_one", "1.0", {"shared/one.py": "", "shared/first/__init__.py": ""})
    install(site, "shared_two", "2.0", {"shared/two.py": "", "shared/second/deep.py": ""})
    expected = {"shared.one": "shared_one", "shared.two": "shared_two", "shared.first": "shared_one"}
    expected["shared.second.deep"] = "shared_two"
    assert {module: find_home(module).name for module in expected} == expected
    for module in expected:
        importlib.import_module(module)
    forget()
    assert {module: find_home(module).name for module in expected} == expected


def test_what_no_distribution_owns_is_the_users(site: Path) -> None:
    install(site, "gridtool", "1.0", {"gridtool.py": ""})
    (site / "dropped_in.py").write_text("")
    assert find_home("dropped_in").kind == "user"


def test_a_script_called_like_a_standard_module_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quopri.py").write_text("def f(x): return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "quopri", raising=False)
    module = importlib.import_module("quopri")
    assert find_home("quopri").kind == "user"
    assert module.f(1) == 1
    del sys.modules["quopri"]


def test_old_kinds_of_installs(site: Path) -> None:
    (site / "elder.py").write_text("")
    info = site / "Elder-0.9-py3.12.egg-info"
    info.mkdir()
    (info / "top_level.txt").write_text("elder\n")
    forget()
    assert find_home("elder") == distributions.Home("installed", "Elder", "0.9")


@pytest.mark.parametrize(
    ("version", "precision", "short"),
    [
        ("2.5.1", "exact", "2.5.1"), ("2.5.1", "minor", "2.5"), ("2.5.1", "major", "2"), ("2.5.1", "none", ""), ("2", "minor", "2"),
        ("2.5rc1", "minor", "2.5"), ("1!2.5.1", "major", "1!2"), ("2.5.1+local.7", "minor", "2.5"), ("unknown", "minor", "unknown"),
    ],
)  # fmt: skip
def test_versions_are_cut_to_what_counts(version: str, precision: str, short: str) -> None:
    assert shorten_version(version, precision) == short


def test_where_distributions_share_a_place_the_most_that_counts_of_one_counts() -> None:
    home = distributions.Home("installed", "One_a+two", "1.2.3+4.5.6")
    assert distributions.counted_version(home, (("default", "none"), ("one-a", "none"))) == ""
    assert distributions.counted_version(home, (("default", "none"), ("two", "exact"))) == "1.2.3+4.5.6"


def test_finding_homes_takes_no_seconds() -> None:
    forget()
    started = time.thread_time()
    for name in ("numpy", "xarray.core.dataset", "dask.array.core", "scipy.signal", "json"):
        find_home(name)
    assert time.thread_time() - started < 2


def test_a_version_is_an_edit_for_what_uses_it_alone(site: Path) -> None:
    """Two of three functions of a graph come of distributions; an upgrade of one costs its own blocks."""
    import dask.array as da

    from daskcache.graph import keys_of
    from daskcache.tokens import GraphTokens

    def tokens(versions: dict[str, str], precision: Any = "exact") -> dict[str, list[bytes | None]]:
        for old in site.glob("*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        for name, version in versions.items():
            sys.modules.pop(name, None)
            install(site, name, version, {f"{name}.py": "def f(x): return x + 1\n"})
        x = da.ones(4, chunks=2)
        arrays = {name: x.map_blocks(importlib.import_module(name).f) for name in versions}
        # What uses both, through code of the user's; and what uses neither.
        one, other = (importlib.import_module(name) for name in versions)
        arrays["both"] = x.map_blocks(lambda block: one.f(other.f(block)), dtype="f8")
        arrays["neither"] = x.map_blocks(lambda block: block + 1, dtype="f8")
        walk = Fingerprinter(code_versions=precision)
        graphs = {name: GraphTokens(array.dask, walk) for name, array in arrays.items()}
        return {name: [graphs[name].token(key) for key in keys_of([array])] for name, array in arrays.items()}

    def changed(after: dict[str, str], precision: Any = "exact") -> set[str]:
        before = tokens({"gridtool": "1.2.3", "plottool": "1.0"}, precision)
        assert None not in [token for found in before.values() for token in found]
        later = tokens(after, precision)
        return {name for name in before if before[name] != later[name]}

    assert changed({"gridtool": "1.2.3", "plottool": "1.0"}) == set()
    assert changed({"gridtool": "1.2.4", "plottool": "1.0"}) == {"gridtool", "both"}
    assert changed({"gridtool": "1.2.3", "plottool": "1.1"}) == {"plottool", "both"}
    assert changed({"gridtool": "1.2.4", "plottool": "1.0"}, "minor") == set()
    assert changed({"gridtool": "1.3.0", "plottool": "1.0"}, "minor") == {"gridtool", "both"}
    assert changed({"gridtool": "1.3.0", "plottool": "1.1"}, "major") == set()
    assert changed({"gridtool": "2.0", "plottool": "1.1"}, "major") == {"gridtool", "both"}
    assert changed({"gridtool": "2.0", "plottool": "3.0"}, "none") == set()
    mixed = (("default", "exact"), ("plottool", "none"))
    assert changed({"gridtool": "1.2.3", "plottool": "3.0"}, mixed) == set()
    assert changed({"gridtool": "1.2.4", "plottool": "3.0"}, mixed) == {"gridtool", "both"}

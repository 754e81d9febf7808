"""Names are refused before anything is touched; none that is accepted leads out of its namespace."""

import os
import posixpath
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskcache.catalog import Catalog
from daskcache.errors import InvalidInputError
from daskcache.manifest import Manifest
from daskcache.names import check_name, check_namespace, is_version
from daskcache.stores.objects import _KEY

GOOD = [
    "a",
    "era5/climatology-v1.2",
    "A_b.c-d",
    "..a",
    "a..b",
    ".hidden",
    "-",
    "0" * 200,
    "console",
    "com",
    "a/b/c/d",
]
BAD = [
    "", ".", "..", "../a", "a/..", "a/../b", "./a", "/a", "a/", "a//b", "//", "a\0", "\0", "a\n", "\n", "a b", "é", "e\u0301",
    "a%2e%2e", "%2e%2e%2f", "a\\b", "..\\a", "C:", "C:/a", "a:b", "@", "a/@/b", "a@b", "~", "$HOME", "a*", "a?", "a#b", "s3://x",
    "con", "CON", "nul.txt", "aux", "a/prn", "com1", "LPT9.x.y", "a.", "a./b", " a", "a ", "x.partial", "x.PARTIAL/a",
    "a" * 201, "/".join(["a" * 150] * 5), "\u2215", "a\u202e", "．．",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^the name "):
        check_name(name)


@pytest.mark.parametrize("name", [None, 3, b"a", ("a",), Path("a")], ids=repr)
def test_other_types(name: object) -> None:
    with pytest.raises(InvalidInputError, match="expected a text"):
        check_name(name)  # type: ignore[arg-type]


def test_namespaces_do_not_nest() -> None:
    assert check_namespace("ssp585") == "ssp585"
    for name in ["a/b", *BAD]:
        with pytest.raises(InvalidInputError, match=r"^the namespace "):
            check_namespace(name)


@pytest.mark.parametrize("name", [name for name in BAD if name], ids=ascii)
def test_nothing_is_touched(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    catalog = Catalog(str(root))
    calls = [
        lambda: catalog.publish(name, Manifest.build("dataset", ())),
        lambda: catalog.open(name),
        lambda: catalog.open("a", name),
        lambda: catalog.latest(name),
        lambda: catalog.versions(name),
        lambda: catalog.drop(name, []),
        lambda: catalog.runs.finish(name),
        lambda: Catalog(str(root), name),
    ]
    for number, call in enumerate(calls):
        with pytest.raises((InvalidInputError, KeyError)) as caught:
            call()
        # A version that was asked for is compared with those there are, and never a path.
        assert number == 2 or isinstance(caught.value, InvalidInputError)
    assert list(tmp_path.iterdir()) == []


@given(st.one_of(st.text(), st.text("abc./\\%@~:-_ \0\n", max_size=12), st.from_regex(r"[a.\-/]{1,8}")))
def test_no_accepted_name_escapes(name: str) -> None:
    try:
        check_name(name)
    except InvalidInputError:
        return
    base = "/store/namespaces/default"
    for path in (posixpath.normpath(f"{base}/{name}"), os.path.abspath(f"{base}/{name}")):
        assert path == f"{base}/{name}"
    windows = PureWindowsPath("C:/root") / name
    assert windows.parts == ("C:\\", "root", *name.split("/"))
    # Stores check keys for themselves, and must take whatever is accepted here.
    assert _KEY.match(f"namespaces/default/{name}/@/latest")
    assert "@" not in name.split("/")


def test_versions() -> None:
    assert is_version("0a" * 20)
    for text in ["0A" * 20, "0" * 39, "0" * 41, "0" * 40 + "\n", "latest", "", None, b"0" * 40]:
        assert not is_version(text)

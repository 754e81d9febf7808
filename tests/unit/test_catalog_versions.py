"""Versions that are dropped, alternate, and are used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from daskcache import errors, stores
from daskcache.catalog import Catalog, records, use
from daskcache.errors import EntryNotFoundError
from daskcache.manifest import Manifest, Node
from tests.manifests import record_calls


@pytest.fixture(params=["local", "memory"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    root = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"
    return Catalog(root, "ssp585")


@pytest.fixture
def local(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "store"))


def manifest(title: Any = "a") -> Manifest:
    return Manifest.build("dataset", (), nodes={"": Node({"title": title})})


def test_a_name_whose_newest_version_is_dropped_opens_the_one_before(catalog: Catalog) -> None:
    first, second = (catalog.publish("a", manifest(title)).version for title in "ab")
    assert catalog.drop("a", ["0" * 40, second]) == [second]
    assert catalog.open("a").version == first
    with pytest.raises(EntryNotFoundError, match=f"has no version {second}; it has {first[:12]}"):
        catalog.open("a", second)
    assert catalog.drop("a", [first, first]) == [first]
    assert catalog.latest("a") is None
    assert catalog.entries() == []
    with pytest.raises(EntryNotFoundError, match="is published"):
        catalog.open("a")
    assert catalog.publish("a", manifest("b")).version == second
    assert catalog.open("a", second).version == second


def test_a_version_that_is_published_while_it_is_dropped_stays(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = catalog.publish("a", manifest("a")).version
    real, again = stores.delete, []

    def delete(store: Any, key: str) -> None:
        if key.endswith(f"{version}.json") and not again:
            again.append(catalog.publish("a", manifest("a")).version)
        real(store, key)

    monkeypatch.setattr(stores, "delete", delete)
    catalog.drop("a", [version])
    assert again == [version]
    assert catalog.open("a").version == version


def test_a_name_that_alternates_between_recipes_is_told(catalog: Catalog) -> None:
    def one(title: str, recipe: str) -> Manifest:
        return Manifest.build("dataset", (), nodes={"": Node({"title": title})}, info={"recipe": recipe})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for title, recipe in [("a", "r"), ("b", "s"), ("b", "s"), ("c", "s"), ("b", "s")]:
            catalog.publish("alternating", one(title, recipe))
    with pytest.warns(errors.DaskcacheWarning, match="'alternating' .* alternates between recipes: version"):
        catalog.publish("alternating", one("a", "r"))


def test_use_is_noted_once_a_day(local: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    old = "0" * 40, "2026-01-01T00:00:00+00:00"
    calls = record_calls(monkeypatch)
    local.note_use("a", *old)
    assert [name for name, _ in calls] == ["get", "put"]
    local.note_use("a", *old)
    assert len(calls) == 2
    use._looked.clear()  # as in another process
    local.note_use("a", *old)
    assert [name for name, _ in calls] == ["get", "put", "get"]
    calls.clear()
    local.note_use("b", "0" * 40, records.now())
    assert calls == []


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "_looked", {})
    monkeypatch.setattr(errors, "_warned", set())

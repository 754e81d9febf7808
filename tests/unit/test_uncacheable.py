"""What has no identity: computed as ever, never stored, and the reason told wherever one may look for it."""

from __future__ import annotations

import re
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskcache
from daskcache.errors import DaskcacheWarning, UncacheableError

SOCKET = r"<class 'socket\.socket'>"


class Client:
    def __init__(self, session: Any) -> None:
        self._session = session


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each matter is warned of once in a process.
    monkeypatch.setattr("daskcache.errors._warned", set())


@pytest.fixture(name="client")
def client_fixture() -> Iterator[Client]:
    with socket.socket() as session:
        yield Client(session)


def fetch(block: Any, client: Any, *, other: Any = None) -> Any:
    return block + 1


def make(client: Any) -> Any:
    return np.ones(2)


def by_argument(client: Client) -> da.Array:
    return da.zeros(4, chunks=2).map_blocks(fetch, client, dtype="f8")


def by_keyword(client: Client) -> da.Array:
    return da.zeros(4, chunks=2).map_blocks(fetch, None, other=[1, client], dtype="f8")


def by_closure(client: Client) -> da.Array:
    def look(block: Any) -> Any:
        return block + 1 if client else block

    return da.zeros(4, chunks=2).map_blocks(look, dtype="f8")


def by_delayed(client: Client) -> da.Array:
    parts = [da.from_delayed(dask.delayed(make)(client), (2,), dtype="f8") for _ in range(2)]
    return da.concatenate(parts)


def by_ufunc(client: Client) -> da.Array:
    array = xr.DataArray(da.zeros(4, chunks=2), dims="x")
    kwargs = {"client": client}
    return xr.apply_ufunc(fetch, array, kwargs=kwargs, dask="parallelized", output_dtypes=["f8"]).data  # type: ignore[no-any-return]


def downstream(client: Client) -> da.Array:
    """The first cause is told of whatever depends on it."""
    return (by_argument(client) * 2 - 1)[:].rechunk(4).rechunk(2)


WAYS: dict[str, tuple[Callable[[Client], da.Array], str]] = {
    "argument": (by_argument, rf"task 'fetch' → argument 2 → attribute _session → {SOCKET}"),
    "keyword": (by_keyword, rf"task 'fetch' → other → item 1 → attribute _session → {SOCKET}"),
    "closure": (by_closure, rf"task '.*' → function → .*client.* → attribute _session → {SOCKET}"),
    "delayed": (by_delayed, rf"task 'make' → argument 1 → attribute _session → {SOCKET}"),
    "ufunc": (by_ufunc, rf"attribute _session → {SOCKET}"),
    "downstream": (downstream, rf"task 'fetch' → argument 2 → attribute _session → {SOCKET}"),
}


@pytest.fixture(params=WAYS, name="way")
def way_fixture(request: pytest.FixtureRequest, client: Client) -> tuple[xr.Dataset, str]:
    build, reason = WAYS[request.param]
    ds = xr.Dataset({"bad": ("x", build(client)), "good": ("x", da.arange(4, chunks=2) * 3)})
    return ds, reason


def compute(x: Any, choice: str, name: str | None = "kept") -> Any:
    """Compute a checkpoint under a setting, with the pass on."""
    with dask.config.set({"daskcache.on-uncacheable": choice}), daskcache.activate():
        return daskcache.checkpoint(x, name).compute()


def stored(root: Path) -> int:
    return len([path for path in root.glob("chunks/*/*") if path.is_file()])


def test_persist_raises_whatever_is_set(way: tuple[xr.Dataset, str], store_root: Path) -> None:
    ds, reason = way
    for choice in ("ignore", "warn", "raise"):
        with dask.config.set({"daskcache.on-uncacheable": choice}):
            for act in (ds.cache.persist, lambda: daskcache.persist(ds.bad.data), lambda: ds.cache.token):
                with pytest.raises(UncacheableError, match=reason):
                    act()
    assert stored(store_root) == 0


def test_status_and_explain_say_why(way: tuple[xr.Dataset, str]) -> None:
    ds, reason = way
    status, found = ds.cache.status(), ds.cache.explain()
    [bad] = found.uncacheable
    assert status["bad"].reason == bad.reason
    assert status["good"].reason is None
    assert (bad.path, bad.blocks, found.missing) == ("bad", 2, 2)
    _assert_matches(reason, bad.reason)
    _assert_matches(reason, str(status))
    _assert_matches(reason, str(found))


def _assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def test_a_computed_checkpoint(way: tuple[xr.Dataset, str], store_root: Path) -> None:
    ds, reason = way
    expected = ds.compute()
    with pytest.raises(UncacheableError, match=rf"2 blocks cannot be keyed .*{reason}"):
        compute(ds, "raise")
    assert stored(store_root) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(compute(ds, "ignore"), expected)
    # What has an identity is stored all the same; the object as a whole is not published.
    assert stored(store_root) == 2
    with pytest.warns(DaskcacheWarning, match=rf"2 blocks cannot be keyed .*{reason}"):
        xr.testing.assert_identical(compute(ds, "warn"), expected)
    with pytest.raises(daskcache.EntryNotFoundError):
        daskcache.open("kept")


@pytest.mark.parametrize("policy", ["outputs", "auto"])
def test_results_that_a_policy_would_store(
    policy: str, way: tuple[xr.Dataset, str], store_root: Path
) -> None:
    ds, reason = way
    expected = ds.compute()
    with daskcache.activate(policy=policy, on_uncacheable="raise"):
        with pytest.raises(UncacheableError, match=reason):
            ds.compute()
        assert stored(store_root) == 0
    with daskcache.activate(policy=policy, on_uncacheable="ignore"):
        xr.testing.assert_identical(ds.compute(), expected)
        assert stored(store_root) == 2
    with (
        daskcache.activate(policy=policy, on_uncacheable="warn"),
        pytest.warns(DaskcacheWarning, match=rf"2 blocks cannot be keyed .*{reason}"),
    ):
        xr.testing.assert_identical(ds.compute(), expected)


def test_what_it_is_made_of_is_loaded_and_stored(client: Client, store_root: Path) -> None:
    """Above the first cause all is as ever, below it nothing is."""
    x = da.arange(4, chunks=2) + 1
    with dask.config.set({"daskcache.on-uncacheable": "ignore"}), daskcache.activate():
        marked = daskcache.checkpoint(x, "above")
        z = daskcache.checkpoint(marked.map_blocks(fetch, client, dtype="i8"), "below")
        assert (z.compute() == np.arange(4) + 2).all()
    assert stored(store_root) == 2
    assert (daskcache.open("above").compute() == np.arange(4) + 1).all()
    with pytest.raises(daskcache.EntryNotFoundError):
        daskcache.open("below")


@pytest.mark.parametrize("choice", ["ignore", "warn", "raise"])
def test_values_in_memory_without_identity(choice: str, store_root: Path) -> None:
    """They are found out when an object is marked, before anything is computed."""
    ds = xr.Dataset({"good": ("x", da.arange(4, chunks=2)), "bad": ("y", np.array([threading.local()]))})
    with dask.config.set({"daskcache.on-uncacheable": choice}), daskcache.activate():
        for act in (ds.cache.persist, ds.cache.checkpoint):
            with pytest.raises(UncacheableError, match="bad"):
                act("kept")
    assert stored(store_root) == 0


def test_a_publication_without_a_form(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are stored one by one; the document about all of them may still be impossible."""

    def refuse(*args: Any) -> Any:
        raise UncacheableError("no form", ("attribute units",))

    monkeypatch.setattr("daskcache.completion.draft_manifest", refuse)
    x = da.arange(4, chunks=2) * 5
    with pytest.raises(UncacheableError, match="attribute units → no form"):
        compute(x, "raise")
    with pytest.warns(
        DaskcacheWarning, match="blocks are stored, but kept is not published: attribute units"
    ):
        assert (compute(x, "warn") == np.arange(4) * 5).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (compute(x, "ignore") == np.arange(4) * 5).all()
    assert stored(store_root) == 2

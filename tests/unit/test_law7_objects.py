"""Law 7, a cache only helps: objects and documents of a store that are bad or gone."""

import errno
import os
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest

import daskcache
from daskcache import stores
from daskcache.dask_internals import convert_legacy_graph
from daskcache.errors import (
    CorruptChunkError,
    DaskcacheWarning,
    NotStoredError,
    StoreError,
)
from daskcache.recovery import RecoverableBlock, Recovery
from tests.producers import count, doubled, leftovers, objects
from tests.troubles import (  # noqa: F401
    EXPECTED,
    calls_fixture,
    compute_silently,
    compute_with_one_warning,
    scheduler_fixture,
)

# Objects that are bad.


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


def other_bytes(path):
    path.write_bytes(b"x" * path.stat().st_size)


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def directory(path):
    path.unlink()
    path.mkdir()


def fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = [flip, truncate, empty, remove, other_bytes, longer]
OBSTACLES = [directory, fifo]


def is_whole(root):
    """Every object of a store decodes to what it should be."""
    return (daskcache.open("x", store=str(root)).compute() == EXPECTED).all()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", [(0,), (0, 1, 2, 3)])
def test_a_checkpoint_with_bad_objects(store_root, damage, which, scheduler):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        assert count() == 4
        found = objects(store_root)
        for number in which:
            damage(found[number])
        # Where sizes tell, it counts as missing before the run, and nothing is amiss.
        if damage in (flip, other_bytes):
            result = compute_with_one_warning(
                x, "could not be read and was computed again, the result is right: chunks/.* is damaged"
            )
        else:
            result = compute_silently(x)
        assert (result == EXPECTED).all()
        assert count() == len(which)
        assert is_whole(store_root)
        assert (compute_silently(x) == EXPECTED).all()
        assert count() == 0
        assert objects(store_root) == found
        assert not leftovers(store_root)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_object_that_turns_bad_after_the_plan(store_root, damage):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        count()
        (planned,) = dask.optimize((x + 1)[1:])
        found = objects(store_root)
        damage(found[0])
        damage(found[1])
        result = compute_with_one_warning(
            planned, "was computed again, the result is right: chunks/.* is (damaged|not in store)"
        )
        assert (result == EXPECTED[1:] + 1).all()
        assert count() == 2
        assert is_whole(store_root)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_object_that_two_graphs_load_is_computed_once(store_root, damage, monkeypatch):
    """Both have found it bad before either computes it."""
    both, recompute = threading.Barrier(2, timeout=30), Recovery.recompute
    monkeypatch.setattr(Recovery, "recompute", lambda *given: both.wait() >= 0 and recompute(*given))
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        planned = [dask.optimize(x[:2])[0], dask.optimize(x[1:3] + 1)[0]]
        count()
        for path in objects(store_root):
            damage(path)
        with ThreadPoolExecutor(2) as pool, pytest.warns(DaskcacheWarning, match="computed again"):
            (one,), (other,) = pool.map(lambda part: dask.get(part.dask, part.__dask_keys__()), planned)
    assert count() == 1
    assert ([*one], [*other]) == ([0, 2], [3, 5])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_persist_that_reads_bad_objects(store_root, damage):
    """The blocks of another entry, found through its manifest, which do not lie where they should."""
    daskcache.persist(doubled(), "x")
    count()
    for path in objects(store_root)[:2]:
        damage(path)
    with pytest.warns(DaskcacheWarning, match="was computed again, the result is right: chunks/.*") as caught:
        kept = daskcache.persist(doubled() + 1, "y")
    assert len(caught) == 1
    assert (kept.compute() == EXPECTED + 1).all()
    assert count() == 2
    assert is_whole(store_root)


@pytest.mark.parametrize("damage", OBSTACLES)
def test_something_else_in_the_place_of_an_object(store_root, damage):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        damage(objects(store_root)[0])
        assert (compute_with_one_warning(x, "computed only: store .* failed: ") == EXPECTED).all()
        with pytest.raises(StoreError, match=r"store .* failed: "):
            daskcache.persist(doubled(), "x")


@pytest.mark.parametrize("damage", [truncate, empty, remove, longer])
def test_a_persist_again_mends_what_sizes_tell(store_root, damage):
    daskcache.persist(doubled(), "x")
    count()
    damage(objects(store_root)[0])
    assert (daskcache.persist(doubled(), "x").compute() == EXPECTED).all()
    assert count() == 1


@pytest.mark.parametrize("damage", [flip, other_bytes, remove])
def test_what_was_opened_has_no_recipe(store_root, damage):
    kept = daskcache.persist(doubled(), "x")
    count()
    damage(objects(store_root)[0])
    error, message = (
        (NotStoredError, "is not in store .*; it was removed")
        if damage is remove
        else (
            CorruptChunkError,
            "is damaged .* bytes.; it was moved to quarantine/chunks/.*, and running again",
        )
    )
    with pytest.raises(error, match=message):
        kept.compute()
    with daskcache.activate(), pytest.raises(NotStoredError, match="is not in store"):
        (daskcache.open("x") + 1).compute()
    assert (daskcache.persist(doubled(), "x").compute() == EXPECTED).all()
    assert count() == 1


def test_everything_upstream_is_gone_too(store_root):
    """A chain of which each link is stored: recovering the last needs the one before, and so on."""
    with daskcache.activate():
        chain = doubled(4, chunks=4)
        for number in range(60):
            chain = daskcache.checkpoint(chain + 1, f"link-{number:02}")
        expected = np.arange(4) * 2 + 60
        assert (chain.compute() == expected).all()
        # With only the last links marked, the pass finds the last; the links under it are in the token index.
        (planned,) = dask.optimize(chain)
        for path in objects(store_root):
            flip(path)
    assert (compute_with_one_warning(planned, "computed again") == expected).all()


def test_an_unreadable_object_is_computed_again(store_root, monkeypatch):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        count()
        bad, get = objects(store_root)[2].name, stores.local.get

        def fail(path, byte_range=None):
            if path.endswith(bad):
                raise OSError(errno.EIO, "Input/output error")
            return get(path, byte_range)

        monkeypatch.setattr(stores.local, "get", fail)
        result = compute_with_one_warning(
            x, "right: store .* failed: cannot read chunks/.*Input/output error"
        )
        assert (result == EXPECTED).all()
        assert count() == 1


def nodes(node):
    """List a task's arguments, those of fused tasks too."""
    for arg in getattr(node, "args", ()):
        yield arg
        for inner in arg.values() if isinstance(arg, dict) else ():
            yield from nodes(inner)


def test_recovery_travels_only_while_it_is_small(store_root):
    big = da.from_array(np.arange(40_000), chunks=10_000, name="big", inline_array=True)
    deep = doubled(3)
    for _ in range(70):
        deep = deep + 1
    with daskcache.activate():
        small, large, long = (
            daskcache.checkpoint(x, name) for x, name in ((doubled(3), "a"), (big + 1, "b"), (deep + 1, "c"))
        )
        dask.compute(small, large, long)
        sizes = []
        for x, travels in ((small, True), (large, False), (long, False)):
            (planned,) = dask.optimize(x)
            load = next(
                arg.value
                for task in convert_legacy_graph(dict(planned.dask)).values()
                for arg in nodes(task)
                if isinstance(getattr(arg, "value", None), RecoverableBlock)
            )
            data = pickle.dumps(load)
            sizes.append(len(data))
            assert isinstance(pickle.loads(data), RecoverableBlock) is travels
        assert max(sizes) < 4000


# Documents that are bad.


@pytest.mark.parametrize("damage", [flip, empty, remove, directory])
@pytest.mark.parametrize("document", ["*.idx", "*.json", "latest"])
def test_damaged_documents(store_root, damage, document):
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        x.compute()
        count()
        (path,) = (store_root / "namespaces/default/x/@").glob(document)
        damage(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert (x.compute() == EXPECTED).all()
        assert {warning.category for warning in caught} <= {DaskcacheWarning}
        assert len(caught) <= 1
        assert all("the stored blocks of 'x' are not found for now: " in str(w.message) for w in caught)
        assert count() == 0  # the pool was asked itself
        if damage is directory:
            with pytest.raises(StoreError, match="cannot write"):
                daskcache.persist(doubled(), "x")
        else:
            # Persisting again repairs it.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DaskcacheWarning)
                kept = daskcache.persist(doubled(), "x")
            assert (kept.compute() == EXPECTED).all()
            assert (daskcache.open("x").compute() == EXPECTED).all()
        assert count() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "daskcache.json that is not understood"),
        (b"{}", "daskcache.json that is not understood"),
        (b'{"format": 99}', "has format 99, and this daskcache reads and writes up to 0; upgrade daskcache"),
    ],
)
def test_a_store_of_another_format(store_root, content, message):
    store_root.mkdir(parents=True)
    (store_root / "daskcache.json").write_bytes(content)
    with daskcache.activate():
        x = daskcache.checkpoint(doubled(), "x")
        assert (compute_with_one_warning(x, message) == EXPECTED).all()
        count()
        with pytest.raises(StoreError, match=message):
            daskcache.persist(doubled(), "x")
        assert count() == 0
        with pytest.raises(StoreError, match=message):
            daskcache.open("x")
    assert [path.name for path in store_root.iterdir()] == ["daskcache.json"]

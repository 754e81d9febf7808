"""Switching the pass on and off: as a call, as a context manager, nested, beside other optimizers."""

import copy

import dask
import dask.array as da
import numpy as np
import pytest
from dask.array.optimization import optimize

import daskcache
from daskcache.activation import active_settings
from daskcache.config import Settings
from daskcache.errors import InvalidInputError
from daskcache.optimizer import Optimizer


def hook():
    return dask.config.get("array_optimize", None)


@pytest.fixture(autouse=True)
def restored():
    with dask.config.set({}):
        yield
    daskcache.deactivate()
    dask.config.set({"daskcache.enabled": False})


@pytest.fixture
def clean():
    """Calls without a context change dask's configuration, as they are meant to."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)


def test_as_a_context(store_root):
    with daskcache.activate(namespace="n", mode="read") as active:
        assert hook() == Optimizer(active.settings)
        assert active_settings() == active.settings
        assert (active.settings.namespace, active.settings.mode) == ("n", "read")
        assert dask.config.get("daskcache.namespace") == "n"
        assert repr(active) == f"<daskcache: active on {store_root}, namespace n>"
    assert hook() is None
    assert active_settings() is None
    assert dask.config.get("daskcache.namespace") == "default"


def test_as_a_call(clean, tmp_path):
    before = copy.deepcopy(dask.config.config)
    daskcache.activate(str(tmp_path / "a"))
    assert active_settings().store == str(tmp_path / "a")
    daskcache.activate(str(tmp_path / "b"))
    assert hook().resolve().chained is None, "one pass at a time"
    assert active_settings().store == str(tmp_path / "b")
    daskcache.deactivate()
    assert hook() is None
    assert dask.config.config == before, "nothing of what was activated is left"
    daskcache.deactivate()
    assert "array_optimize" not in dask.config.config


def test_deactivate_ends_a_context_and_what_was_enabled(clean, tmp_path):
    before = copy.deepcopy(dask.config.config)
    with daskcache.activate(str(tmp_path / "a")):
        daskcache.deactivate()
        assert active_settings() is None
    assert dask.config.config == before
    dask.config.set({"daskcache.enabled": True})
    daskcache.activate(str(tmp_path / "a"))
    daskcache.deactivate()
    assert dask.config.get("daskcache.enabled") is False


def test_nested(store_root):
    with daskcache.activate(namespace="outer"):
        with daskcache.activate(namespace="inner"):
            assert active_settings().namespace == "inner"
        assert active_settings().namespace == "outer"
        with daskcache.activate():
            assert active_settings().namespace == "outer", "what is active is what is configured"
    assert active_settings() is None


def test_restored_after_an_error(store_root):
    with pytest.raises(ZeroDivisionError), daskcache.activate():
        raise ZeroDivisionError
    assert hook() is None


def seen(dsk, keys, **kwargs):
    seen.calls += 1
    return optimize(dsk, keys, **kwargs)


def test_another_optimizer_is_called_after_it(store_root):
    seen.calls = 0
    with dask.config.set(array_optimize=seen):
        with daskcache.activate():
            x = daskcache.checkpoint(da.arange(4, chunks=2) * 2, "x")
            assert (x.compute() == [0, 2, 4, 6]).all()
            assert seen.calls == 1
            with daskcache.activate(namespace="nested"):
                assert hook().resolve().chained is seen
        assert hook() is seen
    assert (daskcache.open("x").compute() == [0, 2, 4, 6]).all()


def test_deactivate_gives_the_other_optimizer_back(clean):
    dask.config.set(array_optimize=seen)
    daskcache.activate()
    daskcache.deactivate()
    assert hook() is seen


def test_an_optimizer_that_was_switched_off_stays_off(store_root):
    with dask.config.set(array_optimize=False), daskcache.activate():
        x = daskcache.checkpoint(da.arange(4, chunks=2) * 2, "x") + 1
        (planned,) = dask.optimize(x)
        # Nothing is fused: each task of the graph is there.
        assert {(x.name, 0), (x.name, 1)} <= set(dict(planned.dask))
        assert len(dict(planned.dask)) > 4
        assert (x.compute() == np.arange(4) * 2 + 1).all()
    assert (daskcache.open("x").compute() == [0, 2, 4, 6]).all()


def test_bad_settings_change_nothing(store_root):
    with pytest.raises(InvalidInputError, match="unknown settings"):
        daskcache.activate(colour="red")
    with pytest.raises(InvalidInputError, match="mode"):
        daskcache.activate(mode="sometimes")
    assert hook() is None
    assert not store_root.exists(), "nothing is looked at"


GIVEN = {
    "store": "memory://given",
    "namespace": "given",
    "mode": "read",
    "policy": "outputs",
    "salt": "given",
    "on_uncacheable": "raise",
    "progress": False,
    "check_space": False,
    "code_versions": {"default": "minor", "numpy": "none"},
    "source_check": "metadata",
    "source_aliases": {"/a": "/b"},
    "codecs": {"name": "zstd", "level": 3},
    "pool": "private",
    "grace_s": "1d",
    "keep_s": 86400,
}


def test_explicit_calls_find_what_was_activated(store_root):
    assert GIVEN.keys() == Settings.__dataclass_fields__.keys(), "one of each"
    default = Settings.from_config()
    for name, value in GIVEN.items():
        with daskcache.activate(**{name: value}) as active:
            assert Settings.from_config() == active.settings
            assert getattr(active.settings, name) != getattr(default, name)
    with daskcache.activate(**GIVEN) as active:
        assert Settings.from_config() == active.settings
    assert Settings.from_config() == default


def test_what_is_set_for_one_namespace_stays_there(store_root):
    with dask.config.set({"daskcache.namespaces": {"ours": {"mode": "read", "pool": "private"}}}):
        with daskcache.activate(namespace="ours") as active:
            assert (active.settings.mode, active.settings.pool) == ("read", "private")
            assert Settings.from_config() == active.settings
            other = Settings.from_config(namespace="other")
            assert (other.mode, other.pool) == ("readwrite", "shared")
        with daskcache.activate(namespace="ours", mode="readwrite") as active:
            assert (active.settings.mode, active.settings.pool) == ("readwrite", "private")
            assert Settings.from_config() == active.settings


def test_options_of_a_store_are_activated_with_it(store_root):
    options = {"endpoint_url": "http://localhost:1"}
    with daskcache.activate("s3://bucket/cache", storage_options=options) as active:
        assert Settings.from_config() == active.settings != Settings.from_config(store="s3://bucket/cache")
    configured = {"daskcache.store": "s3://bucket/cache", "daskcache.storage-options": options}
    with dask.config.set(configured), daskcache.activate() as active:
        assert Settings.from_config() == active.settings

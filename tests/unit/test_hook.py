"""daskcache_hook: what stands in dask's configuration while the configuration alone decides."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import yaml
from dask.array.optimization import optimize

import daskcache
import daskcache_hook
from daskcache.activation import active_settings
from daskcache.config import Settings
from daskcache.errors import DaskcacheWarning, InvalidInputError, MissingExtraError
from daskcache.optimizer import Optimizer
from daskcache_hook import Hook, register, uninstall


def hook() -> Any:
    return dask.config.config.get("array_optimize", "nothing")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What the hook does to dask's configuration lasts for a process."""
    before, defaults = copy.deepcopy(dask.config.config), list(dask.config.defaults)
    daskcache_hook._warn.cache_clear()
    yield
    dask.config.config.clear()
    dask.config.config.update(before)
    dask.config.defaults[:] = defaults


@pytest.fixture
def enabled() -> None:
    dask.config.set({"daskcache.enabled": True})
    register()


def seen(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    seen.calls += 1  # type: ignore[attr-defined]
    return optimize(dsk, keys, **kwargs)


def fused(x: Any) -> bool:
    (planned,) = dask.optimize(x)
    return len(dict(planned.dask)) == x.npartitions


def pipeline() -> Any:
    return da.ones(4, chunks=2) * 2 + 1


@pytest.mark.parametrize("value", [False, None, 0])
def test_nothing_is_put_where_it_is_not_enabled(value: object) -> None:
    dask.config.set({"daskcache.enabled": value})
    register()
    assert hook() == "nothing"


def test_it_is_the_optimizer_that_activate_sets(enabled: None) -> None:
    configured = hook()
    with daskcache.activate():
        activated = hook()
        assert configured == activated == Optimizer(Settings.from_config())
        assert Optimizer(Settings.from_config()) == configured
        assert hash(configured) == hash(activated)
    assert hook() is configured
    before = hook().resolve()
    with daskcache.activate(namespace="other"):
        assert hook() != before


def test_it_follows_the_configuration(enabled: None) -> None:
    with dask.config.set({"daskcache.namespace": "other"}):
        assert active_settings().namespace == "other"
    with dask.config.set({"daskcache.enabled": False}):
        assert active_settings() is None
        assert hook().resolve() is optimize
        assert fused(pipeline())
    assert active_settings().namespace == "default"


def test_it_is_put_once_and_survives_a_refresh(enabled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hook()
    register()
    assert hook() is first
    monkeypatch.setenv("DASK_DASKCACHE__ENABLED", "true")
    dask.config.refresh()
    assert hook() is first
    assert active_settings() is not None


def test_collections_are_optimized_in_one_call(enabled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    call = Optimizer.__call__
    monkeypatch.setattr(Optimizer, "__call__", lambda *args: calls.append(1) or call(*args))
    assert dask.compute(pipeline().sum(), pipeline().max()) == (12, 3)
    assert calls == [1]


@pytest.mark.parametrize("when", ["before", "after", "inside"])
def test_an_optimizer_of_the_users_is_called_too(store_root: Any, when: str) -> None:
    seen.calls = 0  # type: ignore[attr-defined]
    if when == "before":
        dask.config.set({"array_optimize": seen, "daskcache.enabled": True})
        register()
    else:
        dask.config.set({"daskcache.enabled": True})
        register()
        dask.config.set(array_optimize=seen)
    if when == "inside":  # one that is set later is put behind the pass by another activation
        daskcache.activate()
    x = daskcache.checkpoint(pipeline(), "x") if when != "after" else pipeline()
    np.testing.assert_array_equal(x.compute(), [3, 3, 3, 3])
    assert seen.calls == 1  # type: ignore[attr-defined]
    if when == "after":  # dask's own rule: what is set last stands alone
        assert hook() is seen
        assert active_settings() is None
    else:
        np.testing.assert_array_equal(daskcache.open("x").compute(), [3, 3, 3, 3])


def test_a_context_of_the_users_ends(enabled: None) -> None:
    ours = hook()
    with dask.config.set(array_optimize=seen):
        assert hook() is seen
    assert hook() is ours


@pytest.mark.parametrize("before", ["nothing", seen, False, None])
def test_deactivate_puts_back_what_stood_there(before: Any) -> None:
    if before != "nothing":
        dask.config.set(array_optimize=before)
    dask.config.set({"daskcache.enabled": True})
    register()
    if before is seen:
        assert hook().resolve().chained is seen
    daskcache.deactivate()
    assert hook() is before or hook() == before == "nothing"
    assert dask.config.get("daskcache.enabled") is False
    assert all("array_optimize" not in new for new in dask.config.defaults)


@pytest.mark.parametrize("off", [False, None])
def test_dask_optimizes_nothing_where_it_was_told_so(off: object) -> None:
    dask.config.set({"array_optimize": off, "daskcache.enabled": True})
    assert not fused(pipeline())
    register()
    assert not fused(pipeline())
    with dask.config.set({"daskcache.enabled": False}):
        assert not fused(pipeline())
    daskcache.activate()
    assert not fused(pipeline())


def test_a_name_is_no_optimizer_as_in_dask() -> None:
    dask.config.set(array_optimize="package.function")
    with pytest.raises(TypeError, match="'str' object is not callable"):
        pipeline().compute()
    dask.config.set({"daskcache.enabled": True})
    register()
    with pytest.raises(TypeError, match="'str' object is not callable"):
        pipeline().compute()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("enabled", "yes", "enabled is 'yes'; expected true or false"),
        ("mode", "sometimes", "mode is 'sometimes'"),
        ("codecs", 3, "codecs is 3"),
    ],
)
def test_a_broken_configuration_is_told_of_once_and_leaves_dask_as_it_is(
    key: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskcache.errors._warned", set())
    dask.config.set({"daskcache.enabled": True})
    dask.config.set({f"daskcache.{key}": value})
    register()
    with pytest.warns(DaskcacheWarning, match=message):
        assert (pipeline().compute() == [3, 3, 3, 3]).all()
    assert fused(pipeline()), "and no second warning, which would be an error"
    assert active_settings() is None
    if key != "enabled":
        with pytest.raises(InvalidInputError, match=message):
            daskcache.persist(pipeline())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("store", "nosuch://x", "unknown scheme 'nosuch'"),
        ("store", "s3://", "names no place; expected s3://bucket/path"),
        ("store", "redis://host", r"needs redis-py.*daskcache\[redis\]"),
        ("store", ["/tmp/none", {"url": "redis://host"}], r"daskcache\[redis\]"),
        ("namespace", "a b", "the namespace 'a b' holds ' '"),
    ],
)
@pytest.mark.parametrize("policy", ["checkpoints", "outputs"])
def test_a_store_that_cannot_be_opened_is_a_broken_configuration(
    key: str, value: object, message: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such things show only when the store is opened; where the code asks for the pass, they are errors."""
    monkeypatch.setattr("daskcache.errors._warned", set())
    monkeypatch.setitem(sys.modules, "redis", None)
    dask.config.set({"daskcache.enabled": True, "daskcache.policy": policy, f"daskcache.{key}": value})
    register()
    with pytest.warns(DaskcacheWarning, match=f"the pass is off, because the configuration .*{message}"):
        assert (pipeline().compute() == [3, 3, 3, 3]).all()
    assert fused(pipeline()), "and no second warning, which would be an error"
    sent = pickle.loads(pickle.dumps(hook()))
    with pytest.warns(DaskcacheWarning, match=message):  # as a scheduler, which tells this client
        assert sent(pipeline().dask, pipeline().__dask_keys__())
    refused = pytest.raises((InvalidInputError, MissingExtraError), match=message)
    with daskcache.activate(), refused:
        pipeline().compute()
    with refused:
        daskcache.persist(pipeline())


def test_other_errors_of_a_configured_pass_stay_errors(
    enabled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask.config.set({"daskcache.stores": {"far": "nosuch://x"}}):
        marked = daskcache.checkpoint(pipeline(), "x", store="far")
    with pytest.raises(InvalidInputError, match="unknown scheme 'nosuch'"):
        marked.compute()


def test_it_travels_as_what_it_stands_for(enabled: None) -> None:
    back = pickle.loads(pickle.dumps(hook()))
    assert type(back) is Optimizer
    assert back == hook()
    with dask.config.set({"daskcache.enabled": False}):
        assert pickle.loads(pickle.dumps(hook())) is optimize


@pytest.mark.parametrize("how", ["configured", "activated"])
def test_dask_can_send_the_configuration_to_other_hosts(how: str) -> None:
    dask.config.set({"daskcache.enabled": True})
    register()
    if how == "activated":
        daskcache.activate()
    sent = dask.config.deserialize(dask.config.serialize(dask.config.config))
    assert json.loads(json.dumps(dask.config.config)) == sent
    assert sent["array_optimize"] == [], "dask optimises nothing by it where the package is missing"
    # What ``dask config list`` prints.
    assert yaml.safe_load(yaml.dump(dask.config.config))["array_optimize"] == []
    dask.config.config.clear()
    dask.config.config.update(sent)
    uninstall()  # of what this process had as a default
    dask.config.defaults[:] = [new for new in dask.config.defaults if "array_optimize" not in new]
    register()
    assert isinstance(hook(), Hook)
    assert hook().before is daskcache_hook.ABSENT


def test_it_is_frozen_and_is_not_copied(enabled: None) -> None:
    with pytest.raises(AttributeError, match="frozen"):
        hook().optimizer = None
    assert copy.copy(hook()) is copy.deepcopy(hook()) is hook()
    assert repr(hook()) == "<daskcache in array_optimize>"


def test_query_planning_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dask.config.set({"daskcache.enabled": True, "array.query-planning": True})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        register()
        register()
    assert len(caught) == 1
    assert "array.query-planning" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_dask_calls_plugins_of_sizeof() -> None:
    """A canary: what else would call the hook at dask's import?"""
    from importlib.metadata import entry_points

    import dask.sizeof

    (entry,) = entry_points(group="dask.sizeof", name="daskcache")
    assert entry.load() is register
    dask.config.set({"daskcache.enabled": True})
    dask.sizeof._register_entry_point_plugins()
    assert isinstance(hook(), Hook)

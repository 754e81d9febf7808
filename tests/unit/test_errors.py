"""daskcache.errors: what handlers rely on."""

from __future__ import annotations

import pickle
import warnings

import dask.array as da
import pytest
import xarray as xr

import daskcache
from daskcache import errors
from daskcache.errors import DaskcacheError, DaskcacheWarning, UncacheableError, warn_of_defect, warn_once

CLASSES = sorted(
    (value for name in errors.__all__ if isinstance(value := getattr(errors, name), type)),
    key=lambda cls: cls.__name__,
)
ERRORS = [cls for cls in CLASSES if issubclass(cls, DaskcacheError)]
MESSAGE = "no entry 'a' in 'default'; see `daskcache ls`"


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_intact(cls: type[DaskcacheError], protocol: int) -> None:
    error = cls(MESSAGE)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert (again.message, str(again), again.args) == (MESSAGE, str(error), error.args)


@pytest.mark.parametrize("cls", ERRORS)
def test_message_is_shown_as_given(cls: type[DaskcacheError]) -> None:
    """KeyError would show its repr, OSError an errno of None."""
    assert str(cls(MESSAGE)) == MESSAGE
    assert MESSAGE in repr(cls(MESSAGE))


@pytest.mark.parametrize("cls", ERRORS)
def test_is_public_and_has_a_docstring(cls: type[DaskcacheError]) -> None:
    assert cls.__name__ in errors.__all__
    assert cls.__doc__


def test_all_names_every_error() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, DaskcacheError)
    }
    assert defined <= set(errors.__all__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidInputError", ValueError),
        ("MissingExtraError", ImportError),
        ("NotStoredError", KeyError),
        ("EntryNotFoundError", KeyError),
        ("UncacheableError", TypeError),
        ("SourceChangedError", RuntimeError),
        ("StoreError", OSError),
        ("StoreFullError", OSError),
        ("ReadOnlyError", PermissionError),
        ("CorruptChunkError", OSError),
    ],
)
def test_is_also_a_builtin(name: str, builtin: type[Exception]) -> None:
    """Code that knows nothing of daskcache handles it well."""
    cls = getattr(errors, name)
    assert issubclass(cls, builtin)
    with pytest.raises(builtin):
        raise cls(MESSAGE)


def test_groups() -> None:
    assert issubclass(errors.EntryNotFoundError, errors.NotStoredError)
    for cls in (errors.StoreFullError, errors.ReadOnlyError, errors.CorruptChunkError):
        assert issubclass(cls, errors.StoreError)


def test_uncacheable_path_grows_outwards_and_pickles() -> None:
    error = (
        UncacheableError("a generator has no identity; make it a list")
        .within("argument 2")
        .within("task 'mean'")
    )
    assert error.path == ("task 'mean'", "argument 2")
    assert str(error) == "task 'mean' → argument 2 → a generator has no identity; make it a list"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.path, str(again)) == (UncacheableError, error.path, str(error))


class Odd:
    """What has no identity."""

    def __init__(self) -> None:
        self.values = iter(())

    def __reduce__(self) -> tuple[object, ...]:
        return Odd, ()


def keep(block: object, odd: Odd) -> object:
    return block


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_warning_shows_the_users_line(
    scheduler: str, is_wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither dask's, which calls the pass, nor ours."""
    monkeypatch.setattr(errors, "_warned", set())
    x = da.ones(4, chunks=2).map_blocks(keep, Odd(), dtype=float, meta=da.ones(0))
    y = xr.DataArray(x) if is_wrapped else x
    with (
        daskcache.activate(policy="outputs"),
        pytest.warns(DaskcacheWarning, match="cannot be keyed") as caught,
    ):
        y.compute(scheduler=scheduler)
    assert [one.filename for one in caught] == [__file__]


def test_defects_and_plain_calls_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())
    with pytest.warns(DaskcacheWarning, match="please report") as caught:
        warn_of_defect("all is computed", KeyError("x"))
    assert [one.filename for one in caught] == [__file__]
    with pytest.warns(DaskcacheWarning, match="the pass is not on") as caught:
        daskcache.checkpoint(da.ones(2), "x")
    assert [one.filename for one in caught] == [__file__]


def test_what_was_warned_of_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker lives long, and some matters are of one run."""
    monkeypatch.setattr(errors, "_warned", set())
    monkeypatch.setattr(errors, "_MOST", 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for run in range(10):
            for _ in range(2):
                warn_once("not stored", about=f"unstored {run}")
    assert len(caught) == 10
    assert len(errors._warned) == 3

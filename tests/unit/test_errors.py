"""daskcache.errors: what handlers rely on."""

from __future__ import annotations

import pickle

import pytest

from daskcache import errors
from daskcache.errors import DaskcacheError, UncacheableError

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

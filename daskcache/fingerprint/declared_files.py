"""Sources that a user declares: files that functions open by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from daskcache.errors import InvalidInputError
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.places import clean_url
from daskcache.fingerprint.registry import handles

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["DeclaredSource", "declared_sources", "holds_declared", "is_any_declared", "source"]

_T = TypeVar("_T", bound=Callable[..., Any])
_ATTRIBUTE = "__daskcache_sources__"
_made: list[bool] = []


class DeclaredSource(str):
    """A path or URL whose file counts wherever it is passed on: any function opens it as it opens a string.

    Made by `source`. Called with a function, it declares that the function reads the file.
    """

    __slots__ = ("_options",)

    _options: tuple[tuple[str, Any], ...]

    def __new__(cls, path: str, options: tuple[tuple[str, Any], ...] = ()) -> DeclaredSource:  # noqa: D102
        made = super().__new__(cls, path)
        made._options = options
        # Tasks are looked through for them only where there can be any.
        if not _made:
            _made.append(True)
        return made

    @property
    def file(self) -> FileSource:
        """What it stands for."""
        return FileSource(str.__str__(self), None, self._options)

    def __fspath__(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return DeclaredSource, (str.__str__(self), self._options)

    def __repr__(self) -> str:
        return f"daskcache.source({clean_url(str.__str__(self))!r})"

    def __call__(self, function: _T) -> _T:
        """Declare that a function reads this.

        Parameters
        ----------
        function : function
            Opens the file in its own body.

        Returns
        -------
        function
            The same.

        Raises
        ------
        InvalidInputError
            It is no Python function.
        """
        if not isinstance(function, FunctionType):
            raise InvalidInputError(
                f"source(...) decorates functions, not {type(function)}: decorate the function that opens the file"
            )
        others = declared_sources(function)
        setattr(function, _ATTRIBUTE, _Declared((self, *others), function.__code__))
        return function


class _Declared:
    """What a function declares to read. ``functools.wraps`` copies attributes to wrappers, which are others."""

    __slots__ = ("code", "sources")

    def __init__(self, sources: tuple[DeclaredSource, ...], code: CodeType) -> None:
        self.sources = sources
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return _Declared, (self.sources, self.code)


def source(path: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None) -> DeclaredSource:
    """Declare a file that a function opens by itself, so that an edit of the file is another value.

    Pass it to the function in place of the path, or decorate the function that opens the file.

    Parameters
    ----------
    path : str or path-like
        A path, a URL, or a pattern such as ``"tables/*.csv"``. Of a directory, a Zarr store say, all files below it
        count. A relative path is taken from the present working directory.
    storage_options : dict, optional
        What fsspec needs to open the URL. Of no effect on identities; credentials belong into the surroundings.

    Returns
    -------
    DeclaredSource
        A string: the absolute path or the URL. Its identity is that of the file: path, size, and time with inode or
        ETag, as for every source, by ``daskcache.sources.check`` and ``aliases``. Called with a function it is a
        decorator, which gives the function back.

    Raises
    ------
    InvalidInputError
        The path is empty or no path.

    Notes
    -----
    One look at each file when a graph is tokened, one before and one after each task that is given it. What a
    decorated function's file is like is looked at before each block is stored.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from daskcache.fingerprint import fingerprint
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "weights.json"
    >>> _ = file.write_text("[1, 2]")
    >>> @source(file)
    ... def total():
    ...     return sum(json.loads(file.read_text()))
    >>> before = fingerprint(total), fingerprint(source(file))
    >>> _ = file.write_text("[1, 20]")
    >>> fingerprint(total) == before[0], fingerprint(source(file)) == before[1]
    (False, False)
    """
    given: object = path
    name = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError(f"source({path!r}): expected a path or URL")
    options = path._options if isinstance(path, DeclaredSource) else ()
    if storage_options is not None:
        options = tuple(sorted(storage_options.items()))
    name = str.__str__(name)
    if name.startswith("file://"):
        name = LocalFileSystem._strip_protocol(name)
    return DeclaredSource(name if "://" in name else os.path.abspath(os.path.expanduser(name)), options)


def declared_sources(function: Any) -> tuple[DeclaredSource, ...]:
    """List what a function itself declares to read.

    Parameters
    ----------
    function : object
        Anything.

    Returns
    -------
    tuple of DeclaredSource
        Empty for what declares nothing.
    """
    found = getattr(function, "__dict__", {}).get(_ATTRIBUTE) if isinstance(function, FunctionType) else None
    return found.sources if isinstance(found, _Declared) and found.code == function.__code__ else ()


def is_any_declared() -> bool:
    """Whether this process has seen a declared source at all."""
    return bool(_made)


def holds_declared(value: object, depth: int = 2) -> bool:
    """Whether a value is a declared source, or a container of some.

    Parameters
    ----------
    value : object
        Anything.
    depth : int, optional
        How many containers deep to look.

    Returns
    -------
    bool
        False for what holds none in plain sight.
    """
    if isinstance(value, DeclaredSource):
        return True
    if not depth or not isinstance(value, list | tuple | dict | set | frozenset):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return any(holds_declared(part, depth - 1) for part in parts)


@handles("daskcache:DeclaredSource")
def _declared_source(fp: Fingerprinter, obj: DeclaredSource) -> bytes:
    return fp.fingerprint(obj.file)

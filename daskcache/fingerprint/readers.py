"""Tasks that are given what they read: files by path, as dask's readers of tables, text and bytes are.

>>> import pandas
>>> files_in(pandas.read_csv, ("/data/a.csv",), {})
[FileSource(path='/data/a.csv', filesystem=None, options=())]
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from daskcache.errors import UncacheableError
from daskcache.fingerprint.declared_files import DeclaredSource, source
from daskcache.fingerprint.files import FileSource, digest_file
from daskcache.fingerprint.held import is_trusted
from daskcache.fingerprint.impure import find_call_impurity, is_declared
from daskcache.fingerprint.plain import pairs_of
from daskcache.fingerprint.registry import Node, handles, rule_name
from daskcache.fingerprint.seeds import depends_on_seed

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["Reads", "digest_argument", "files_in", "name_files", "reads_of"]

# Readers that give back what they have read, none of it still to be read. Their first argument is the path.
_EAGER = frozenset(
    [
        "numpy:load",
        "numpy:loadtxt",
        "numpy:genfromtxt",
        "numpy:fromfile",
        "pandas:read_csv",
        "pandas:read_table",
        "pandas:read_fwf",
        "pandas:read_json",
        "pandas:read_excel",
        "pandas:read_parquet",
        "pandas:read_pickle",
        "pandas:read_hdf",
        "pandas:read_feather",
        "pandas:read_orc",
        "pandas:read_sas",
        "pandas:read_stata",
        "pandas:read_xml",
        "xarray:load_dataset",
        "xarray:load_dataarray",
        "pyarrow:read_table",
        "pyarrow:read_feather",
    ]
)
# They are given files that are open, or about to be.
_OF_DASK = frozenset(["dask:read_block_from_file", "dask:file_to_blocks", "dask:_fragment_to_table"])
_PATHS = (
    "filepath_or_buffer",
    "path_or_buf",
    "path",
    "io",
    "fname",
    "file",
    "filename_or_obj",
    "source",
    "where",
)
_DEPTH = 4


class Reads(NamedTuple):
    """What a function is known to do besides computing."""

    takes_files: bool
    """Whether its arguments may say which files it reads."""
    refusal: str | None
    """Why its result depends on more than its arguments, unless these say which files it reads."""
    is_trusted: bool = False
    """Whether it declares what it reads, or its version."""
    depends_on_seed: bool = False
    """Whether it depends on what a task gives it whether it draws unseeded random numbers."""


def reads_of(function: Any) -> Reads:
    """Say whether a function that a task calls reads files, or does worse.

    Parameters
    ----------
    function : callable
        What a task calls.

    Returns
    -------
    Reads
        For most: nothing.

    Examples
    --------
    >>> import operator, time
    >>> reads_of(operator.add)
    Reads(takes_files=False, refusal=None, is_trusted=False, depends_on_seed=False)
    >>> reads_of(time.time).refusal.partition(";")[0]
    'reads the clock (time.time)'
    """
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = _function_name(inner)
    why = find_call_impurity(function)
    takes = name in _EAGER or name in _OF_DASK or rule_name(type(inner)) == "dask:ParquetFunctionWrapper"
    takes = takes or (why is not None and is_declared(why, "", True, ()))
    return Reads(takes, why, is_trusted(inner), depends_on_seed(inner))


def name_files(
    function: Any, arguments: Iterable[Any], keywords: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Put files in place of the paths that a task's arguments hold.

    Parameters
    ----------
    function : callable
        What the task calls.
    arguments : iterable
        Of which plain values are looked at.
    keywords : mapping
        The same.

    Returns
    -------
    arguments : list
        As they were, or with a `FileSource` where a path stood that is known to be read.
    keywords : dict
        The same.
    """
    found, named = list(arguments), dict(keywords)
    kind = rule_name(type(function))
    if kind == "dask:ParquetFunctionWrapper":
        return [_name_parts(value, function.fs) for value in found], named
    if isinstance(function, functools.partial):
        bound = len(function.args)
        if _function_name(function.func) == "dask:file_to_blocks":
            includes_path = [*function.args, *found][:1] == [True]
            return [_with_path(value) if includes_path else value for value in found], named
        # What is bound counts with the function; a path among it is looked at with it.
        return (found, named) if bound else name_files(function.func, found, named)
    if _function_name(function) in _EAGER:
        if found:
            found[0] = _name_path(found[0], named)
        else:
            named |= {name: _name_path(named[name], named) for name in _PATHS if name in named}
    return found, named


def files_in(function: Any, arguments: Iterable[Any], keywords: Mapping[str, Any]) -> list[FileSource]:
    """List the files that a task is given to read.

    Parameters
    ----------
    function : callable
        What the task calls.
    arguments : iterable
        Of which plain values are looked at.
    keywords : mapping
        The same.

    Returns
    -------
    list of FileSource
        In no particular order.

    Raises
    ------
    UncacheableError
        It is given something to read in a way that is not known.
    """
    found, named = name_files(function, arguments, keywords)
    files: list[FileSource] = []
    for value in (*found, *named.values()):
        _collect(value, files, _DEPTH)
    return files


def digest_argument(fp: Fingerprinter, value: Any) -> bytes:
    """Give the identity of an argument in which files stand for paths.

    Parameters
    ----------
    fp : Fingerprinter
        Of the pass.
    value : object
        From `name_files`, of a task for which `files_in` gives some.

    Returns
    -------
    bytes
        20 bytes, those of `Fingerprinter.fingerprint` for what holds no file.

    Raises
    ------
    UncacheableError
        A file is missing or cannot be looked at, or something has no deterministic identity.
    """
    file = _file_of(value)
    if isinstance(value, FileSource | DeclaredSource) and file is not None:
        return digest_file(fp, file)
    if file is not None:
        digest = _digest_open_file if rule_name(type(value)) == "fsspec:OpenFile" else _digest_fragment
        return digest(fp, value, digest_file(fp, file))
    kind = type(value)
    if kind is list or kind is tuple:
        return fp.combine(kind.__name__.encode(), [digest_argument(fp, part) for part in value])
    if kind is dict:
        keys = [fp.fingerprint_reading(key) for key in value]
        values = [digest_argument(fp, part) for part in value.values()]
        return fp.combine(b"dict", pairs_of(keys, values))
    return fp.fingerprint_reading(value)


def _collect(value: Any, files: list[FileSource], depth: int) -> None:
    file = _file_of(value)
    if file is not None:
        files.append(file)
    elif depth and isinstance(value, list | tuple | set | frozenset | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _collect(part, files, depth - 1)


def _file_of(value: Any) -> FileSource | None:
    if isinstance(value, FileSource):
        return value
    if isinstance(value, str):
        return value.file if isinstance(value, DeclaredSource) else None
    kind = rule_name(type(value))
    if kind == "fsspec:OpenFile":
        return _on_filesystem(value.path, value.fs)
    if kind == "dask:FragmentWrapper":
        return _file_of_fragment(value.fragment)
    return None


def _on_filesystem(path: str, fs: AbstractFileSystem | None) -> FileSource:
    if fs is None or isinstance(fs, LocalFileSystem):
        return FileSource(os.path.abspath(LocalFileSystem._strip_protocol(path)))
    return FileSource(path, fs)


def _name_path(value: Any, keywords: Mapping[str, Any]) -> Any:
    """Give the file of a path; anything else, such as a buffer, is what it is."""
    if isinstance(value, DeclaredSource) or not isinstance(value, str | os.PathLike) or not os.fspath(value):
        return value
    if isinstance(value, str) and ("\n" in value or value.lstrip()[:1] in ("{", "[", "<")):
        # Some of the readers of pandas take the text itself.
        return value
    options = keywords.get("storage_options")
    return source(value, storage_options=options if isinstance(options, dict) else None).file


def _name_parts(value: Any, fs: AbstractFileSystem) -> Any:
    """Put files into the parts that a reader of Parquet is given: path, row groups, partition."""
    if isinstance(value, list):
        return [_name_parts(part, fs) for part in value]
    value = getattr(value, "data", value)
    piece = value.get("piece") if isinstance(value, dict) else None
    if not isinstance(piece, tuple | list) or not piece:
        raise UncacheableError(
            f"reads Parquet from a {type(value).__qualname__} that is not known; update daskcache"
        )
    path, *rest = piece
    paths = [path] if isinstance(path, str) else path
    files = [_on_filesystem(one, fs) if isinstance(one, str) else one for one in paths]
    return {**value, "piece": (*files, *rest)}


def _with_path(value: Any) -> Any:
    return (value, value.path) if rule_name(type(value)) == "fsspec:OpenFile" else value


def _function_name(function: Any) -> str:
    module = str(getattr(function, "__module__", None))
    return f"{module.partition('.')[0]}:{getattr(function, '__qualname__', '')}"


def _file_of_fragment(fragment: Any) -> FileSource:
    """Find the file of a fragment of pyarrow's."""
    fs = fragment.filesystem
    if fragment.buffer is not None or type(fs).__name__ != "LocalFileSystem":
        raise UncacheableError(
            f"reads {fragment.path} through pyarrow's {type(fs).__name__}, which tells no ETag; "
            "open it with filesystem='fsspec'"
        )
    return FileSource(os.path.abspath(fragment.path))


def _digest_open_file(fp: Fingerprinter, obj: Any, file: bytes) -> bytes:
    how = (obj.mode, obj.compression, obj.encoding, obj.errors, obj.newline)
    return fp.combine(b"OpenFile", [file, fp.fingerprint(how)])


@handles("fsspec:OpenFile")
def _open_file(fp: Fingerprinter, obj: Any) -> bytes:
    return _digest_open_file(fp, obj, fp.fingerprint(_file_of(obj)))


@handles("dask:FragmentWrapper")
def _fragment(fp: Fingerprinter, obj: Any) -> bytes:
    return _digest_fragment(fp, obj, fp.fingerprint(_file_of(obj)))


def _digest_fragment(fp: Fingerprinter, obj: Any, file: bytes) -> bytes:
    fragment = obj.fragment
    options = fragment.format.read_options
    how = (
        str(fragment.partition_expression),
        [group.id for group in fragment.row_groups],
        sorted(options.dictionary_columns),
        options.coerce_int96_timestamp_unit,
        str(getattr(options, "binary_type", None)),
        str(getattr(options, "list_type", None)),
    )
    return fp.combine(b"fragment", [file, fp.fingerprint(how)])


@handles("dask:ParquetFunctionWrapper")
def _parquet(fp: Fingerprinter, obj: Any) -> Node:
    # Its filesystem says where the parts lie, and may hold credentials; the parts say it without.
    parts = {name: value for name, value in vars(obj).items() if name != "fs"}
    return Node(
        (type(obj), parts), lambda digests: fp.combine(b"read_parquet", digests), ("type", "settings")
    )

"""Files that a task opens by itself, by their path: where they lie and what is seen of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from daskcache.errors import UncacheableError
from daskcache.fingerprint.places import Found, LocalPlace, Place, clean_url
from daskcache.fingerprint.places_remote import place_of_filesystem
from daskcache.fingerprint.registry import handles
from daskcache.fingerprint.sources_base import survey_of

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["FileSource", "Seen", "digest_file", "see_file"]


class Seen(NamedTuple):
    """What a pass saw of a file, or of all files of a directory or pattern."""

    source: FileSource
    """Where."""
    state: bytes
    """16 bytes of what they looked like, as `FileSource.look` gives them again; empty where nothing was looked at."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, a directory with all files below it, or a pattern of paths.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("1")
    >>> source = FileSource(str(path))
    >>> before = source.look()
    >>> _ = path.write_text("12")
    >>> source.look() == before
    False
    """

    path: str
    """Absolute path or URL."""
    filesystem: AbstractFileSystem | None = None
    """What opens it; None: the path itself says it, with the surroundings' own credentials."""
    options: tuple[tuple[str, Any], ...] = ()
    """What fsspec is given besides a URL; never part of an identity."""

    @property
    def name(self) -> str:
        """The path or URL, without credentials and query."""
        return clean_url(self.path)

    def look(self) -> bytes:
        """Look afresh.

        Returns
        -------
        bytes
            16 bytes, of the names, sizes and times or ETags of all its files; of nothing, where there are none.

        Raises
        ------
        UncacheableError
            It cannot be looked at.
        """
        located = self.locate()
        if located is None:
            return _state(())
        place, keys = located
        return _state(place.look(keys, "", len(keys)))

    def locate(self) -> tuple[Place, list[str]] | None:
        """Find its files.

        Returns
        -------
        tuple or None
            The place, and the files' keys in it, sorted; None where there is nothing.

        Raises
        ------
        UncacheableError
            Nothing installed opens it, or it cannot be listed.
        """
        fs, path = self.filesystem, self.path
        if fs is None and "://" in path:
            try:
                fs, path = url_to_fs(path, **dict(self.options))
            except Exception as error:
                # Texts of clients' errors may show signed addresses.
                raise UncacheableError(f"cannot open {self.name}: {type(error).__name__}") from error
        if fs is None or isinstance(fs, LocalFileSystem):
            return _locate_local(path if fs is None else fs._strip_protocol(path))
        try:
            return _locate_remote(fs, path)
        except UncacheableError:
            raise
        except Exception as error:
            raise UncacheableError(f"cannot look at {self.name}: {type(error).__name__}") from error


def see_file(fp: Fingerprinter, file: FileSource) -> tuple[bytes, Seen]:
    """Give what identifies a file under the mode of checking, and what was seen of it; looked at once in a pass.

    Parameters
    ----------
    fp : Fingerprinter
        Of the pass.
    file : FileSource
        What is read.

    Returns
    -------
    digest : bytes
        20 bytes.
    seen : Seen
        To be compared when it is read.

    Raises
    ------
    UncacheableError
        There is no such file, or it cannot be told apart from a changed one.
    """
    survey = survey_of(fp)
    if file in survey.files:
        seen: tuple[bytes, Seen] = survey.files[file]
        return seen
    digest = survey.digester.digest
    if survey.is_blind:
        name, _ = survey.alias(file.name)
        found = digest(b"file", survey.check.encode(), name.encode("utf-8", "surrogatepass"))
        survey.record(file.name, [found], fp.sources)
        known = found, Seen(file, b"")
    else:
        located = file.locate()
        if located is None:
            raise UncacheableError(
                f"reads {file.name}, and there is no such file or directory; check the path and where it was "
                "made absolute"
            )
        made, keys = located
        # What the survey remembers of contents goes by the identity of the place, which has to stay its own.
        place = survey.place(file, ("file source", file), lambda: made)
        looks = place.look(keys, "", len(keys))
        objects = [survey.digest_object(place, key, look) for key, look in zip(keys, looks, strict=True)]
        survey.record(file.name, objects, fp.sources)
        names = [key.encode("utf-8", "surrogatepass") for key in keys]
        known = (
            digest(b"file", survey.check.encode(), digest(b"names", *names), digest(b"objects", *objects)),
            Seen(file, _state(looks)),
        )
    survey.files[file] = known
    return known


def digest_file(fp: Fingerprinter, file: FileSource) -> bytes:
    """Give what identifies a file.

    Parameters
    ----------
    fp : Fingerprinter
        Of the pass, which remembers that the file was read.
    file : FileSource
        What is read.

    Returns
    -------
    bytes
        20 bytes. Where only code is looked at the same for all files: which code it is does not depend on them.
    """
    if fp.is_of_code:
        return fp.digester.digest(b"file")
    return see_file(fp, file)[0]


@handles("daskcache:FileSource")
def _file_source(fp: Fingerprinter, obj: FileSource) -> bytes:
    digest = digest_file(fp, obj)
    # Which of the tasks read it is not known, so it is looked at whenever one of their results is stored.
    fp.files[obj] = b"" if fp.is_of_code else see_file(fp, obj)[1].state
    return digest


def _locate_local(path: str) -> tuple[Place, list[str]] | None:
    full = os.path.abspath(path)
    if os.path.isfile(full):
        return LocalPlace(full), [""]
    if os.path.isdir(full):
        return LocalPlace(full), sorted(_walk_local(full, full))
    if not glob.has_magic(full):
        return None
    base = _fixed_part(full)
    matches: set[str] = set()
    for match in glob.iglob(full, recursive=True):
        if os.path.isdir(match):
            matches.update(_walk_local(match, base))
        else:
            matches.add(os.path.relpath(match, base).replace(os.sep, "/"))
    return (LocalPlace(base), sorted(matches)) if matches else None


def _walk_local(top: str, base: str) -> Iterator[str]:
    for directory, _, names in os.walk(top, onerror=_refuse):
        for name in names:
            yield os.path.relpath(os.path.join(directory, name), base).replace(os.sep, "/")


def _refuse(error: OSError) -> None:
    # A part that is left out could change unseen.
    raise UncacheableError(f"cannot list {error.filename}: {error.strerror}") from error


def _fixed_part(pattern: str) -> str:
    """Give the directory above the first part of a pattern that holds a wildcard."""
    parts = pattern.split("/")
    first = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or "/"


def _locate_remote(fs: AbstractFileSystem, path: str) -> tuple[Place, list[str]] | None:
    path = fs._strip_protocol(path)
    fs.invalidate_cache()
    if glob.has_magic(path) and not fs.exists(path):
        base = _fixed_part(path)
        matches = sorted(str(match) for match in fs.glob(path))
        keys = [match.removeprefix(base).lstrip("/") for match in matches if not fs.isdir(match)]
        return (place_of_filesystem(fs, base), keys) if keys else None
    try:
        kind = fs.info(path)["type"]
    except FileNotFoundError:
        return None
    if kind != "directory":
        return place_of_filesystem(fs, path), [""]
    keys = sorted(str(found).removeprefix(path).lstrip("/") for found in fs.find(path))
    return (place_of_filesystem(fs, path), keys) if keys else None


def _state(looks: Any) -> bytes:
    state = blake2b(digest_size=16)
    look: Found
    for look in looks:
        state.update(repr((look.name, look.stamp)).encode("utf-8", "surrogatepass"))
    return state.digest()

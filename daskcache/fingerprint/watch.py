"""What a run has seen of its sources, small enough to travel, and whether it is still so."""

from __future__ import annotations

import bisect
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

from daskcache.errors import UncacheableError
from daskcache.fingerprint.files import FileSource
from daskcache.fingerprint.places import Found, Stamp
from daskcache.fingerprint.sources import Source, open_source
from daskcache.fingerprint.sources_base import MemoryOrigin, survey_of

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["Stamps", "Watch", "WholeSource", "digest_whole", "whole_sources"]


# Up to so many, searching is faster than making a table.
_FEW = 32


class Stamps:
    """How objects of a source looked: 16 bytes for each, so that those of a large array can travel.

    Parameters
    ----------
    names : bytes
        Eight bytes of each object's hashed name, in ascending order.
    looks : bytes
        Eight bytes of each object's hashed stamp, in the same order; zeros where there was no object.

    Examples
    --------
    >>> stamps = Stamps.of({"/a/0": (4, "etag"), "/a/1": None})
    >>> stamps.find_changed({"/a/0": (4, "etag"), "/elsewhere": (1, "other")})
    >>> stamps.find_changed({"/a/0": (4, "etag"), "/a/1": (4, "new")})
    '/a/1'
    """

    __slots__ = ("_looks", "_names")

    def __init__(self, names: bytes = b"", looks: bytes = b"") -> None:
        self._names = names
        self._looks = looks

    @classmethod
    def of(cls, stamps: Mapping[str, Stamp | None]) -> Self:
        """Make them of what `Source.stamps` gives.

        Parameters
        ----------
        stamps : mapping of str to tuple or None
            By absolute path or URL.

        Returns
        -------
        Stamps
            In which an object is known by its name.
        """
        pairs = sorted([(_hash(name), _hash_stamp(stamp)) for name, stamp in stamps.items()])
        form = f">{len(pairs)}Q"
        return cls(
            struct.pack(form, *[name for name, _ in pairs]), struct.pack(form, *[look for _, look in pairs])
        )

    def __len__(self) -> int:
        return len(self._names) // 8

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamps):
            return NotImplemented
        return (self._names, self._looks) == (other._names, other._looks)

    def __hash__(self) -> int:
        return hash((self._names, self._looks))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._names, self._looks)

    def find_changed(self, stamps: Mapping[str, Stamp | None]) -> str | None:
        """Name an object that is not as it was.

        Parameters
        ----------
        stamps : mapping of str to tuple or None
            How objects look now; those that were not seen before are not compared.

        Returns
        -------
        str or None
            The first of them, None where all are as they were.
        """
        many: dict[int, int] = {}
        if len(stamps) > _FEW:
            form = f">{len(self)}Q"
            many = dict(zip(struct.unpack(form, self._names), struct.unpack(form, self._looks), strict=True))
        for name, stamp in stamps.items():
            known = many.get(_hash(name)) if many else self._find(name)
            if known is not None and known != _hash_stamp(stamp):
                return name
        return None

    def was_missing(self, name: str) -> bool:
        """Whether there was no object of a name.

        Parameters
        ----------
        name : str
            One that was looked at.

        Returns
        -------
        bool
            True where it was looked for in vain.
        """
        return self._find(name) == 0

    def _find(self, name: str) -> int | None:
        hashed = _hash(name)
        names = memoryview(self._names)
        at = bisect.bisect_left(range(len(self)), hashed, key=lambda at: _number(names, at))
        return (
            _number(memoryview(self._looks), at) if at < len(self) and _number(names, at) == hashed else None
        )


@dataclass(frozen=True, slots=True, eq=False)
class WholeSource:
    """A source that a task is handed as it is, to read of it what it likes."""

    array: Any
    """The source's array."""

    @property
    def name(self) -> str:
        """The source's path or URL, without credentials and query."""
        return _open(self.array).describe()

    def look(self) -> bytes:
        """Look afresh at all its objects.

        Returns
        -------
        bytes
            16 bytes.

        Raises
        ------
        UncacheableError
            It cannot be looked at.
        """
        return _digest_stamps(_open(self.array).stamps(()))


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """The objects of one source that a run has looked at."""

    array: Any
    """The source's array, by which they are looked at again."""
    keys: bytes
    """Their keys, joined and compressed."""
    stamps: Stamps
    """How they looked."""

    @classmethod
    def of(cls, array: Any, keys: Sequence[str], found: Iterable[Found]) -> Self:
        stamps = Stamps.of({one.name: one.stamp for one in found})
        joined = "\0".join(keys).encode("utf-8", "surrogatepass")
        return cls(array, zlib.compress(joined, 1), stamps)

    def find_changed(self) -> str | None:
        keys = zlib.decompress(self.keys).decode("utf-8", "surrogatepass").split("\0")
        found = _open(self.array).look(keys)
        return self.stamps.find_changed({one.name: one.stamp for one in found})


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """All sources that a run has looked at, to be compared once more before its result is published."""

    sources: tuple[_Watched, ...] = ()
    """Arrays."""
    files: tuple[tuple[FileSource, bytes], ...] = ()
    """Files that tasks open by their path, each with what `FileSource.look` gave."""

    @classmethod
    def of(cls, fingerprinter: Fingerprinter) -> Self:
        """Take down what a pass has seen.

        Parameters
        ----------
        fingerprinter : Fingerprinter
            Of the pass.

        Returns
        -------
        Watch
            Empty under the modes of checking that look at nothing. Picklable: for each object 16 bytes and its
            compressed key.
        """
        survey = survey_of(fingerprinter)
        if survey.is_blind:
            return cls()
        found: dict[str, _Watched] = {}
        for array, traced in survey.traced.values():
            if traced is None or isinstance(traced.trace.origin, MemoryOrigin):
                continue
            source = Source(array, traced, survey, fingerprinter)
            name = source.describe()
            keys = list(survey.objects.get(name, ()))
            if keys and name not in found:
                found[name] = _Watched.of(array, keys, source.look(keys))
        files = tuple((seen.source, seen.state) for _, seen in survey.files.values() if seen.state)
        return cls(tuple(found.values()), files)

    def find_changed(self) -> str | None:
        """Look at everything again.

        Returns
        -------
        str or None
            What is not as it was, in words; None where all is.

        Notes
        -----
        Costs what the pass's own look did: one listing for each large array, a look at each object of a small one.
        """
        for watched in self.sources:
            try:
                changed = watched.find_changed()
            except UncacheableError as error:
                # A file that has gone shows itself in this way.
                return f"a source cannot be looked at again: {error}"
            if changed is not None:
                return f"{changed} is not as it was when this run was planned"
        for file, state in self.files:
            try:
                is_same = file.look() == state
            except UncacheableError as error:
                return f"a source cannot be looked at again: {error}"
            if not is_same:
                return f"{file.name} is not as it was when this run was planned"
        return None


def whole_sources(fingerprinter: Fingerprinter) -> tuple[tuple[WholeSource, bytes], ...]:
    """List the sources that are values of functions, such as a Zarr array in a closure.

    Parameters
    ----------
    fingerprinter : Fingerprinter
        Of the pass.

    Returns
    -------
    tuple of pairs of WholeSource and bytes
        Each with what `WholeSource.look` gives as long as it is as it was. Which tasks read them, and when, is not
        known. Those of which tasks read regions are guarded there.
    """
    survey = survey_of(fingerprinter)
    found = []
    for identity, array in survey.whole.items():
        state = b"" if identity in survey.read else digest_whole(fingerprinter.find_source(array))
        if state:
            found.append((WholeSource(array), state))
    return tuple(found)


def digest_whole(source: Source | None) -> bytes:
    """Give what `WholeSource.look` gives as long as a source is as the pass saw it; empty where it is not looked at."""
    return b"" if source is None else _digest_stamps(source.stamps(()))


def _digest_stamps(stamps: Mapping[str, Stamp | None]) -> bytes:
    """Hash how objects look; empty for none."""
    state = blake2b(digest_size=16)
    for pair in stamps.items():
        state.update(repr(pair).encode("utf-8", "surrogatepass"))
    return state.digest() if stamps else b""


def _open(array: Any) -> Source:
    source = open_source(array)
    if source is None:
        raise UncacheableError(f"{type(array).__qualname__} is no source any more")
    return source


def _number(packed: memoryview, at: int) -> int:
    return int.from_bytes(packed[8 * at : 8 * at + 8], "big")


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _hash_stamp(stamp: Stamp | None) -> int:
    return 0 if stamp is None else _hash(repr(stamp)) or 1

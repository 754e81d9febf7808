"""What all sources have in common: a region of an array outside of memory, and what a pass has seen of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, override
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.places import Found, Place, Stamp
from daskcache.fingerprint.regions import Outer, Region

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = [
    "ArrayOrigin",
    "MemoryOrigin",
    "Origin",
    "Source",
    "Step",
    "Survey",
    "Trace",
    "Traced",
    "survey_of",
]


class Survey:
    """What one pass has seen of sources; each object is looked at once, so that a pass is consistent.

    Parameters
    ----------
    fingerprinter : Fingerprinter, optional
        Whose settings hold. Without one only stamps can be read.
    """

    def __init__(self, fingerprinter: Fingerprinter | None = None) -> None:
        self.digester = fingerprinter.digester if fingerprinter else Digester()
        self.check: str = fingerprinter.source_check if fingerprinter else "chunks"
        self.is_blind = self.check in ("metadata", "none")
        """Whether objects are only named, never looked at."""
        aliases = fingerprinter.source_aliases if fingerprinter else ()
        # The longest prefix wins.
        self._aliases = sorted(aliases, key=lambda pair: (-len(pair[0]), pair))
        self._places: dict[Hashable, tuple[Any, Place]] = {}
        self._contents: dict[tuple[int, str], bytes] = {}
        self._digests: dict[Found, bytes] = {}
        self._sums: dict[str, int] = {}
        self.objects: dict[str, dict[str, bytes]] = {}
        """What was seen of each source: the digests of its objects, by their keys."""
        self.rebuilding: set[int] = set()
        """The identities of objects that are being made again of what they give to pickle."""
        self.files: dict[Any, Any] = {}
        """What was seen of files that tasks open by their paths."""
        self.whole: dict[int, Any] = {}
        """Sources that were looked at as values, by their identity."""
        self.read: set[int] = set()
        """The identities of those of which tasks read regions."""
        self.traced: dict[int, tuple[Any, Traced | None]] = {}
        """What was found, by the identity of the object, which is kept alive so that its identity stays its own."""

    def place(self, owner: Any, key: Hashable, make: Callable[[], Place]) -> Place:
        """Give the place under a key, made once; its owner is kept alive."""
        entry = self._places.get(key)
        if entry is None:
            entry = self._places[key] = owner, make()
        return entry[1]

    def forget(self) -> None:
        """Forget how objects looked, so that the next look is a fresh one."""
        for _, place in self._places.values():
            place.forget()

    def alias(self, name: str) -> tuple[str, bool]:
        """Rename a path as the user declared, and say whether it is one of a mirrored pair."""
        for old, new in self._aliases:
            if _is_below(name, old):
                return new.rstrip("/") + name[len(old.rstrip("/")) :], True
        return name, any(_is_below(name, new) for _, new in self._aliases)

    def digest_object(self, place: Place, key: str, found: Found) -> bytes:
        """Hash what identifies one object under the mode of checking."""
        if self.check == "content" and place.has_bytes:
            return self._digest_content(place, key)
        digest = self._digests.get(found)
        if digest is None:
            name, mirrored = self.alias(found.name)
            # A process' memory has no paths, and another one's need not agree.
            parts = [b"" if name.startswith("memory:") else name.encode("utf-8", "surrogatepass")]
            parts.append(_encode_stamp(found.stamp, mirrored))
            if found.part is not None:
                parts.append(b"%d:%d" % found.part)
            digest = self._digests[found] = self.digester.digest(b"object", *parts)
        return digest

    def _digest_content(self, place: Place, key: str) -> bytes:
        digest = self._contents.get((id(place), key))
        if digest is None:
            content = place.digest_bytes(key)
            parts = (b"missing",) if content is None else (b"bytes", content)
            digest = self._contents[id(place), key] = self.digester.digest(b"content", *parts)
        return digest

    def record(self, name: str, digests: Sequence[bytes], sources: dict[str, bytes]) -> None:
        """Note under a source's name what was looked at, in an order-free sum."""
        # A sum, because a pass may walk the regions in any order, and over 160 bits none is met by chance.
        total = self._sums.get(name, 0) + sum(int.from_bytes(digest, "big") for digest in digests)
        self._sums[name] = total = total % (1 << 160)
        sources[name] = total.to_bytes(20, "big")


_SURVEYS: WeakKeyDictionary[Fingerprinter, Survey] = WeakKeyDictionary()


def survey_of(fingerprinter: Fingerprinter) -> Survey:
    """Give the survey that lives as long as a fingerprinter, that is for one pass."""
    survey = _SURVEYS.get(fingerprinter)
    if survey is None:
        survey = _SURVEYS[fingerprinter] = Survey(fingerprinter)
    return survey


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to each element after the read, such as unpacking."""

    name: str
    """Which kind of wrapper does it."""
    dtype: str
    """The dtype that it gives."""
    parameters: Any = None
    """What it does it with: a function, or plain values."""


class Origin(ABC):
    """An array that lies outside of the graph, as it is before anything decodes it."""

    shape: tuple[int, ...]

    @abstractmethod
    def describe(self) -> str:
        """Name it, without credentials and query."""

    @abstractmethod
    def objects(self, region: Region) -> tuple[Place, list[str], str, int]:
        """Say which objects hold a region: their place, keys, common directory, and how many may lie there."""

    @abstractmethod
    def metadata(self) -> Iterator[bytes]:
        """Give what says how the objects' bytes become values; independent of the array's length."""

    @abstractmethod
    def encode(self, region: Region) -> Iterator[bytes]:
        """Give the region's canonical bytes, counted from the first object that holds some of it."""

    def variable(self) -> bytes:
        """Name what is read within the objects."""
        return b""

    def refresh(self) -> None:  # noqa: B027
        """Let go of handles that may show the objects as they were."""

    def digest(self, region: Region, source: Source) -> bytes:
        """Hash a region of the array, as finely as the mode of checking asks."""
        survey, fingerprinter = source.survey, source.fingerprinter
        digest = survey.digester.digest
        place, keys, directory, total = self.objects(region)
        # Content too is looked at before it is read, so that a later change shows.
        found = place.refer(keys) if survey.is_blind else place.look(keys, directory, total)
        objects = [survey.digest_object(place, key, one) for key, one in zip(keys, found, strict=True)]
        survey.objects.setdefault(self.describe(), {}).update(zip(keys, objects, strict=True))
        recorded = source.traced.recorded
        fresh = [digest for digest in objects if digest not in recorded]
        if fresh:
            recorded.update(fresh)
            survey.record(self.describe(), fresh, fingerprinter.sources)
        metadata = () if survey.check == "none" else self.metadata()
        return digest(
            b"region of " + type(self).__name__.encode(),
            survey.check.encode(),
            self.variable(),
            digest(b"metadata", *metadata),
            digest(b"objects", *objects),
            digest(b"positions", *self.encode(region)),
        )


class ArrayOrigin(Origin):
    """An array within one file: a file that changes in any way changes all of it."""

    def __init__(
        self, place: Place, key: str, kind: str, variable: str, array: Any, options: Sequence[str] = ()
    ) -> None:
        self.place, self.key = place, key
        self.kind, self.name, self.options = kind, variable, tuple(options)
        self.shape = tuple(int(size) for size in array.shape)
        self.dtype = str(array.dtype)

    @override
    def describe(self) -> str:
        return f"{self.place.name(self.key)}/{self.name}".rstrip("/")

    @override
    def objects(self, region: Region) -> tuple[Place, list[str], str, int]:
        return self.place, [self.key], self.key, 1

    @override
    def metadata(self) -> Iterator[bytes]:
        yield self.dtype.encode()
        yield repr(self.shape).encode()

    @override
    def encode(self, region: Region) -> Iterator[bytes]:
        yield from region.encode((0,) * len(self.shape))

    @override
    def variable(self) -> bytes:
        return repr((self.kind, self.name, *self.options)).encode("utf-8", "surrogatepass")


class MemoryOrigin(Origin):
    """An array in memory, under wrappers that decode it."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape

    @override
    def describe(self) -> str:
        return "memory"

    @override
    def objects(self, region: Region) -> tuple[Place, list[str], str, int]:
        raise NotImplementedError("an array in memory has no objects")

    @override
    def metadata(self) -> Iterator[bytes]:
        return iter(())

    @override
    def encode(self, region: Region) -> Iterator[bytes]:
        return iter(())

    @override
    def digest(self, region: Region, source: Source) -> bytes:
        return source.fingerprinter.fingerprint(region.select(self.array))


@dataclass(frozen=True, slots=True)
class Trace:
    """What a wrapper shows: a region of an origin, decoded."""

    origin: Origin
    """What is read."""
    region: Region
    """What of it the wrapper shows."""
    steps: tuple[Step, ...] = ()
    """What is done to each element, first thing first."""
    hidden: int = 0
    """How many of the region's last axes a step uses up."""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """What a pass remembers of a source. Knows no fingerprinter, or none would ever be let go of."""

    trace: Trace
    """What lies under the wrappers."""
    recorded: set[bytes] = field(default_factory=set)
    """Digests of the objects that the fingerprinter's record already counts."""
    decoding: list[bytes] = field(default_factory=list)
    """The digest of the steps, once it has been asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An array outside of the graph, decoded, of which regions have an identity. Lives for one pass."""

    array: Any
    """The object that stands in the graph."""
    traced: Traced
    """What lies under the wrappers."""
    survey: Survey
    """What the pass has seen."""
    owner: Fingerprinter | None = None
    """The fingerprinter of the pass, None where only stamps are read."""

    @property
    def fingerprinter(self) -> Fingerprinter:
        """The fingerprinter of the pass."""
        if self.owner is None:
            raise UncacheableError("a source that was opened for its stamps has no identity")
        return self.owner

    @property
    def trace(self) -> Trace:
        """What lies under the wrappers."""
        return self.traced.trace

    def region(self, index: Any = ()) -> bytes:
        """Hash a region: what its bytes are and how they are decoded.

        Parameters
        ----------
        index : tuple
            Integers, slices, lists of integers, an ellipsis, in the coordinates of the outermost wrapper.

        Returns
        -------
        bytes
            20 bytes.

        Raises
        ------
        UncacheableError
            The index is of another kind, or the objects cannot be told apart.
        """
        decoding = self.traced.decoding
        if not (isinstance(index, tuple) and not index):
            self.survey.read.add(id(self.array))
        if not decoding:
            decoding.append(self._decode())
        part = self.trace.origin.digest(self._take(index), self)
        return self.survey.digester.digest(b"source", decoding[0], part)

    def stamps(self, index: Any = ()) -> dict[str, Stamp | None]:
        """Say how the objects look that a region touches.

        Parameters
        ----------
        index : tuple
            As for `region`.

        Returns
        -------
        dict of str to tuple or None
            By absolute path or URL: the size and the ETag, or the size and mtime_ns, inode and ctime_ns. None
            where there is no object. Empty under the modes that do not look at objects.
        """
        if self.survey.is_blind or isinstance(self.trace.origin, MemoryOrigin):
            return {}
        place, keys, directory, total = self.trace.origin.objects(self._take(index))
        return {found.name: found.stamp for found in place.look(keys, directory, total)}

    def look(self, keys: Sequence[str]) -> list[Found]:
        """See some of the source's objects.

        Parameters
        ----------
        keys : sequence of str
            As the origin names its objects.

        Returns
        -------
        list of Found
            One for each key.

        Raises
        ------
        UncacheableError
            One cannot be seen.
        """
        origin = self.trace.origin
        place, _, directory, total = origin.objects(Outer.whole(origin.shape))
        return place.look(keys, directory, total)

    def describe(self) -> str:
        """Name the source, without credentials and query."""
        return self.trace.origin.describe()

    def objects(self, index: Any = ()) -> dict[str, bytes]:
        """Give the digests of the objects that hold a region, by key, as this pass has seen them."""
        if isinstance(self.trace.origin, MemoryOrigin):
            return {}
        _, keys, _, _ = self.trace.origin.objects(self._take(index))
        seen = self.survey.objects.get(self.describe(), {})
        return {key: seen[key] for key in keys if key in seen}

    def refresh(self) -> None:
        """Let go of file handles that may show the source as it was."""
        self.trace.origin.refresh()

    def _take(self, index: Any) -> Region:
        entries = index if isinstance(index, tuple) else (index,)
        if sum(isinstance(entry, list | np.ndarray) and np.ndim(entry) > 0 for entry in entries) > 1:
            raise UncacheableError(
                "reads a source with several lists of positions, which libraries understand differently"
            )
        return self.trace.region.take(index, self.trace.hidden)

    def _decode(self) -> bytes:
        digest = self.survey.digester.digest
        parts = []
        for step in self.trace.steps:
            try:
                parameters = self.fingerprinter.fingerprint(step.parameters)
            except UncacheableError as error:
                raise error.within(f"decoding by {step.name}") from error
            parts.append(digest(b"step", step.name.encode(), step.dtype.encode(), parameters))
        return digest(b"steps", *parts)


def trace_whole(origin: Origin) -> Trace:
    """Show all of an origin, as it is."""
    return Trace(origin, Outer.whole(origin.shape))


def _encode_stamp(stamp: Stamp | None, mirrored: bool) -> bytes:
    if stamp is None:
        return b"missing"
    if mirrored and len(stamp) == 2 and isinstance(stamp[1], tuple):
        # A copy on another disk keeps its times, if made so, but never its inode.
        stamp = (stamp[0], stamp[1][:1])
    return repr(stamp).encode("utf-8", "surrogatepass")


def _is_below(name: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return name == prefix or name.startswith(prefix + "/")

"""What stores of our own offer besides Zarr's interface: whole objects, here and now, without an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Buffer, Iterator

from zarr.abc.store import ByteRequest, Store

__all__ = ["Driven", "Listed"]

type Listed = dict[str, tuple[int, float | None]]
"""By the last segment of a key the object's size in bytes, and when it was written; None where that is not known."""


class Driven(ABC):
    """A store that is composed of others, or is of our own making."""

    @property
    @abstractmethod
    def home(self) -> Store:
        """The store whose word counts, and whose name stands for all; of one that is not composed, itself."""

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores that it is composed of."""
        home: object = self.home
        return () if home is self else (self.home,)

    def origins(self, key: str) -> tuple[Store, ...]:
        """Give the stores that have what is read under a key: the first of them that has it. Empty where nobody knows."""
        return ()

    @abstractmethod
    def takes(self, nbytes: int) -> bool:
        """Tell whether an object of so many bytes may be put."""

    @abstractmethod
    def create_object(self, key: str, data: Buffer) -> bool:
        """Put an object unless it is there; tell whether this call did."""

    @abstractmethod
    def put_object(self, key: str, data: Buffer) -> None:
        """Put an object, in place of one that may be there."""

    @abstractmethod
    def get_object(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read an object or a part of it; None where there is none."""

    @abstractmethod
    def has_object(self, key: str) -> bool:
        """Tell whether an object is there."""

    @abstractmethod
    def size_object(self, key: str) -> int | None:
        """Give an object's size in bytes; None where there is none."""

    @abstractmethod
    def delete_object(self, key: str) -> None:
        """Remove an object; one that is missing is no error."""

    @abstractmethod
    def list_here(self, prefix: str) -> Listed:
        """List the objects directly under a prefix."""

    @abstractmethod
    def list_dirs(self, prefix: str) -> list[str]:
        """List the prefixes directly under a prefix, sorted."""

    @abstractmethod
    def walk(self, prefix: str) -> Iterator[str]:
        """List all keys that begin with a prefix."""

    @abstractmethod
    def discard(self, key: str) -> bool:
        """Remove a damaged copy where a good one may lie behind it; tell whether that was so."""

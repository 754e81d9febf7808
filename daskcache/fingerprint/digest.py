"""The one hash function of fingerprints and tokens: BLAKE2b with 160 bits over framed parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import Struct

__all__ = ["DIGEST_FRAME", "DIGEST_SIZE", "RULES", "Digester", "frame"]

DIGEST_SIZE = 20
"""Bytes of a digest."""
RULES = b"daskcache/1"
"""The version of the token rules; it enters every digest."""

Buffer = bytes | bytearray | memoryview

_pack_length = Struct("<Q").pack
# Formatting a length costs as much as hashing a small part does; nearly all parts are short.
_LENGTHS = tuple(_pack_length(size) for size in range(512))
DIGEST_FRAME = _pack_length(DIGEST_SIZE)
"""What stands in front of a part that is a digest: framed digests are joined by it."""


def frame(*parts: bytes) -> bytes:
    """Frame small parts as `Digester.combine` does, the tag among them.

    Parameters
    ----------
    *parts : bytes
        In order.

    Returns
    -------
    bytes
        What `Digester.digest_framed` hashes, or the beginning of it.

    Examples
    --------
    >>> Digester().digest_framed(frame(b"pair", b"ab", b"c")) == Digester().digest(b"pair", b"ab", b"c")
    True
    """
    return b"".join([piece for part in parts for piece in (_pack_length(len(part)), part)])


class Digester:
    """Hashes framed parts, under the version of some rules and a salt of the user's.

    Equal salts and versions make equal digesters. A digest depends on the tag, on how many parts there are, on each part's
    length and on its bytes, so that no two different sequences of parts are the same input.

    Parameters
    ----------
    salt : str, optional
        Enters every digest. Another salt gives other digests throughout.
    version : bytes, optional
        Of the rules that say what is hashed; at most 16 bytes, and enters every digest.

    Examples
    --------
    >>> digester = Digester()
    >>> digester.digest(b"int", b"1").hex()
    'e43e8afa268aed0e0025e1da6c76ffab9ac3040a'
    >>> digester.digest(b"pair", b"ab", b"c") == digester.digest(b"pair", b"a", b"bc")
    False
    """

    __slots__ = ("_copy", "salt", "version")

    salt: str
    """What enters every digest besides the version."""
    version: bytes
    """Of the rules that say what is hashed."""

    def __init__(self, salt: str = "", version: bytes = RULES) -> None:
        self.salt = salt
        self.version = version
        inner = blake2b(salt.encode("utf-8", "surrogatepass")).digest()[: blake2b.SALT_SIZE]
        self._copy = blake2b(digest_size=DIGEST_SIZE, person=version, salt=inner).copy

    def digest(self, tag: bytes, *parts: bytes) -> bytes:
        """Hash small parts.

        Parameters
        ----------
        tag : bytes
            What kind of thing the parts make up.
        *parts : bytes
            Its parts, in order.

        Returns
        -------
        bytes
            `DIGEST_SIZE` bytes.
        """
        return self.combine(tag, parts)

    def combine(self, tag: bytes, parts: Iterable[bytes]) -> bytes:
        """Hash an iterable of small parts.

        Parameters
        ----------
        tag : bytes
            What kind of thing the parts make up.
        parts : iterable of bytes
            Its parts, in order.

        Returns
        -------
        bytes
            `DIGEST_SIZE` bytes, the same as from `digest`.
        """
        size = len(tag)
        framed = [_LENGTHS[size] if size < 512 else _pack_length(size), tag]
        append = framed.append
        for part in parts:
            size = len(part)
            append(_LENGTHS[size] if size < 512 else _pack_length(size))
            append(part)
        state = self._copy()
        state.update(b"".join(framed))
        return state.digest()

    def combine_digests(self, tag: bytes, digests: Sequence[bytes]) -> bytes:
        """Hash parts that are digests, in half the time that `combine` takes.

        Parameters
        ----------
        tag : bytes
            What kind of thing the parts make up.
        digests : sequence of bytes
            Of `DIGEST_SIZE` bytes each, in order.

        Returns
        -------
        bytes
            `DIGEST_SIZE` bytes, the same as from `combine`.
        """
        state = self._copy()
        state.update(_LENGTHS[len(tag)] + DIGEST_FRAME.join([tag, *digests]))
        return state.digest()

    def digest_framed(self, framed: bytes) -> bytes:
        """Hash what is framed already.

        Parameters
        ----------
        framed : bytes
            Tag and parts, each behind its length, as from `frame`.

        Returns
        -------
        bytes
            `DIGEST_SIZE` bytes, the same as from `digest` of the parts.
        """
        state = self._copy()
        state.update(framed)
        return state.digest()

    def digest_all(self, framed: Iterable[bytes]) -> list[bytes]:
        """Hash many things that are framed already.

        Parameters
        ----------
        framed : iterable of bytes
            As for `digest_framed`.

        Returns
        -------
        list of bytes
            The same as from `digest_framed` of each.
        """
        copy = self._copy
        found = []
        for one in framed:
            state = copy()
            state.update(one)
            found.append(state.digest())
        return found

    def digest_pieces(
        self, tag: bytes, parts: Iterable[bytes], size_bytes: int, pieces: Iterable[Buffer]
    ) -> bytes:
        """Hash small parts and one large last part that comes in pieces, without copying it.

        Parameters
        ----------
        tag : bytes
            What kind of thing the parts make up.
        parts : iterable of bytes
            The small parts, in order.
        size_bytes : int
            Length of the last part.
        pieces : iterable of buffers
            The last part, cut anywhere. Together they must have `size_bytes` bytes.

        Returns
        -------
        bytes
            `DIGEST_SIZE` bytes, the same as from `digest` with the pieces joined.
        """
        state = self._copy()
        for part in (tag, *parts):
            state.update(_pack_length(len(part)))
            state.update(part)
        state.update(_pack_length(size_bytes))
        for piece in pieces:
            state.update(piece)
        return state.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digester) and other.__reduce__() == self.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    def __reduce__(self) -> tuple[type[Digester], tuple[str, bytes]]:
        return Digester, (self.salt, self.version)

    def __repr__(self) -> str:
        return f"Digester({self.salt!r})"

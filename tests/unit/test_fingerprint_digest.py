"""The hash: framed, salted, versioned, cheap."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import struct

import pytest

from daskcache.fingerprint import DIGEST_SIZE, RULES, Digester


def frame(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


@pytest.mark.parametrize("salt", ["", "mine"])
def test_it_is_blake2b_over_framed_parts(salt: str) -> None:
    inner = hashlib.blake2b(salt.encode()).digest()[:16]
    expected = hashlib.blake2b(
        frame(b"tag", b"one", b"", b"x" * 1000), digest_size=20, person=RULES, salt=inner
    ).digest()
    digester = Digester(salt)
    assert digester.digest(b"tag", b"one", b"", b"x" * 1000) == expected
    assert digester.combine(b"tag", iter([b"one", b"", b"x" * 1000])) == expected
    assert (
        digester.digest_pieces(b"tag", [b"one", b""], 1000, [b"x" * 400, memoryview(b"x" * 600)]) == expected
    )
    assert len(expected) == DIGEST_SIZE


def test_no_two_ways_to_cut_the_parts_agree() -> None:
    digester = Digester()
    cuts = [
        tuple(b"abcd"[start:stop] for start, stop in itertools.pairwise((0, *inner, 4)))
        for size in range(4)
        for inner in itertools.combinations_with_replacement(range(5), size)
    ]
    digests = {digester.digest(*cut) for cut in cuts}
    assert len(digests) == len(set(cuts))


def test_equal_salts_are_equal_digesters() -> None:
    one, other = Digester("a"), pickle.loads(pickle.dumps(Digester("a")))
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest(b"x") == other.digest(b"x")
    assert one != Digester("b")
    assert one.digest(b"x") != Digester("b").digest(b"x")
    assert one != "a"

"""numpy: arrays by dtype, shape and bytes, and what lives beside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.plain import combine_items
from daskcache.fingerprint.registry import Node, handles, handles_subclasses

if TYPE_CHECKING:
    from daskcache.fingerprint.objects import Fingerprinter

__all__ = ["LARGE_BYTES", "LEAF_BYTES", "array_node", "hash_leaf", "is_ndarray"]

# What is not contiguous is copied piece by piece.
_PIECE_BYTES = 1 << 22

LARGE_BYTES = 1 << 24
"""Arrays of more bytes are hashed leaf by leaf, by several threads: a rule of tokens, as is the next."""
LEAF_BYTES = 1 << 22
"""Of a leaf; the last may have fewer. What is hashed does not depend on how many threads there are."""
_THREADS = min(8, os.cpu_count() or 1)


def is_ndarray(obj: object) -> bool:
    """Whether an object is a plain numpy array, not of a subclass."""
    kind = type(obj)
    return kind.__qualname__ == "ndarray" and kind.__module__ == "numpy"


# A generator that was given no seed draws 128 bits from the system; one in 2^32 of these is shorter.
_LONGEST_SEED_BITS = 96


@handles("numpy:ndarray")
def array_node(fp: Fingerprinter, obj: Any) -> bytes | Node:
    """Digest an array's dtype, shape and bytes in C order, without a copy where they lie so."""
    dtype = obj.dtype
    shape = fp.fingerprint(tuple(int(length) for length in obj.shape))
    if dtype.char == "T" or (dtype.hasobject and dtype.names is None):
        values = obj.ravel(order="C").tolist()
        return Node(
            (dtype, *values),
            lambda parts: fp.combine(b"ndarray", [parts[0], shape, *parts[1:]]),
            lambda at: "dtype" if at == 0 else f"element {at - 1}",
        )
    if dtype.names is not None and (dtype.hasobject or not _is_packed(dtype)):
        # Between fields lies whatever was in memory.
        fields = tuple(obj[name] for name in dtype.names)
        return Node(
            (dtype, *fields),
            lambda parts: fp.combine(b"ndarray", [parts[0], shape, *parts[1:]]),
            lambda at: "dtype" if at == 0 else f"field {dtype.names[at - 1]}",
        )
    parts = [fp.fingerprint(dtype), shape]
    if obj.nbytes > LARGE_BYTES:
        return fp.digester.digest(b"large ndarray", *parts, *_leaves(obj))
    return fp.digester.digest_pieces(b"ndarray", parts, obj.nbytes, _pieces(obj))


def _leaves(obj: Any) -> Iterable[bytes]:
    """Hash each leaf of a large array's bytes in C order."""
    if not obj.flags.c_contiguous or obj.dtype.char in "gG":
        return [hash_leaf(leaf) for leaf in _cut(_pieces(obj))]
    [whole] = _pieces(obj)
    leaves = [whole[start : start + LEAF_BYTES] for start in range(0, obj.nbytes, LEAF_BYTES)]
    # Hashing lets other threads run.
    with ThreadPoolExecutor(_THREADS, "daskcache-hash") as pool:
        return list(pool.map(hash_leaf, leaves))


def hash_leaf(leaf: Any) -> bytes:
    """Hash some bytes by the function that processors have instructions for."""
    return sha256(leaf).digest()


def _cut(pieces: Iterable[Any]) -> Iterator[bytes]:
    """Cut what comes in pieces of any length into leaves."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        full = len(rest) // LEAF_BYTES * LEAF_BYTES
        for start in range(0, full, LEAF_BYTES):
            yield bytes(rest[start : start + LEAF_BYTES])
        del rest[:full]
    if rest:
        yield bytes(rest)


def _pieces(obj: Any) -> Iterator[Any]:
    numpy = sys.modules["numpy"]
    if obj.size == 0:
        return
    if obj.dtype.char in "gG":
        yield _without_padding(numpy.ascontiguousarray(obj)).tobytes()
    elif obj.flags.c_contiguous:
        yield memoryview(obj.reshape(-1).view(numpy.uint8))
    elif obj.ndim == 0 or obj.nbytes <= _PIECE_BYTES:
        yield obj.tobytes(order="C")
    else:
        for row in _rows(obj):
            yield from _pieces(row)


def _rows(obj: Any) -> Iterator[Any]:
    step = max(1, _PIECE_BYTES // max(1, obj.nbytes // obj.shape[0]))
    if obj.shape[0] == 1:
        yield obj[0]
        return
    for start in range(0, obj.shape[0], min(step, max(1, obj.shape[0] // 2))):
        yield obj[start : start + min(step, max(1, obj.shape[0] // 2))]


def _without_padding(obj: Any) -> Any:
    """Clear what of an extended-precision number is no number: 6 of 16 bytes on x86, whatever was in memory."""
    numpy = sys.modules["numpy"]
    real = numpy.dtype(numpy.longdouble)
    if numpy.finfo(real).nmant != 63:
        return obj
    raw = obj.reshape(-1).view(numpy.uint8).reshape(-1, real.itemsize).copy()
    raw[:, 10:] = 0
    return raw


def _is_packed(dtype: Any) -> bool:
    """Whether every byte of a structured type belongs to one of its plain fields."""
    total = 0
    for name in dtype.names:
        field = dtype.fields[name][0].base
        if field.names is not None and not _is_packed(field):
            return False
        if field.char in "gG":
            return False
        total += dtype.fields[name][0].itemsize
    return bool(total == dtype.itemsize)


@handles_subclasses("numpy:dtype")
def _dtype(fp: Fingerprinter, obj: Any) -> bytes | Node:
    if obj.char == "T":
        missing = (obj.na_object,) if hasattr(obj, "na_object") else ()
        return combine_items(fp, b"dtype", ("StringDType", obj.coerce, missing))
    if obj.subdtype is not None:
        return combine_items(fp, b"dtype", ("subarray", *obj.subdtype))
    if obj.names is not None:
        fields = tuple((name, *obj.fields[name][:2]) for name in obj.names)
        return combine_items(fp, b"dtype", ("fields", fields, obj.itemsize, obj.isalignedstruct))
    if not obj.isbuiltin and type(obj).__module__.partition(".")[0] != "numpy":
        # A type of another library, such as ml_dtypes' bfloat16: its letters may be anyone's.
        return combine_items(fp, b"dtype", (type(obj), obj.str, obj.name))
    return fp.digester.digest(b"dtype", obj.str.encode())


@handles_subclasses("numpy:generic")
def _scalar(fp: Fingerprinter, obj: Any) -> bytes | Node:
    numpy = sys.modules["numpy"]
    dtype = obj.dtype
    if dtype.names is not None or dtype.hasobject or dtype.char in "gG" or type(obj).__module__ != "numpy":
        return combine_items(fp, b"scalar", (type(obj), numpy.asarray(obj)))
    return fp.digester.digest(b"scalar", dtype.str.encode(), obj.tobytes())


@handles("numpy:MaskedConstant")
def _masked_constant(fp: Fingerprinter, obj: Any) -> bytes:
    return fp.digester.digest(b"masked")


@handles("numpy:MaskedArray")
def _masked(fp: Fingerprinter, obj: Any) -> Node:
    numpy = sys.modules["numpy"]
    # Not what is behind the mask: the mask can be lifted, so that counts too.
    parts = (numpy.asarray(obj.data), numpy.ma.getmaskarray(obj), obj.fill_value, obj.hardmask)
    return Node(
        parts, lambda digests: fp.combine(b"MaskedArray", digests), ("data", "mask", "fill value", "hard")
    )


@handles_subclasses("numpy:ndarray")
def _array_subclass(fp: Fingerprinter, obj: Any) -> bytes | Node:
    numpy: Any = sys.modules["numpy"]
    source = fp.find_source(obj) if isinstance(obj, numpy.memmap) else None
    if source is not None:
        return fp.digester.digest(b"source", source.region(()))
    if isinstance(obj, numpy.ma.MaskedArray):
        state: Any = (numpy.ma.getmaskarray(obj), obj.fill_value)
    else:
        state = None
    attributes = {} if isinstance(obj, numpy.memmap) else dict(getattr(obj, "__dict__", None) or {})
    if state is not None:
        attributes = {key: value for key, value in attributes.items() if not key.startswith("_")}
    return Node(
        (type(obj), numpy.asarray(obj), state, attributes),
        lambda parts: fp.combine(b"array subclass", parts),
        ("type", "data", "mask", "attributes"),
    )


@handles("numpy:Generator")
def _generator(fp: Fingerprinter, obj: Any) -> Node:
    return combine_items(fp, b"Generator", (obj.bit_generator,))


@handles("numpy:RandomState")
def _random_state(fp: Fingerprinter, obj: Any) -> Node:
    seeds = getattr(getattr(obj, "_bit_generator", None), "seed_seq", None)
    if seeds is not None:
        # It has one where it was made without a seed, or around a generator.
        fp.fingerprint(seeds)
    return combine_items(fp, b"RandomState", (obj.get_state(legacy=False),))


@handles_subclasses("numpy:BitGenerator")
def _bit_generator(fp: Fingerprinter, obj: Any) -> Node:
    # The seed sequence is what spawn() goes on from.
    return combine_items(fp, b"BitGenerator", (type(obj).__name__, obj.state, getattr(obj, "seed_seq", None)))


@handles("numpy:SeedSequence")
def _seed_sequence(fp: Fingerprinter, obj: Any) -> Node:
    if isinstance(obj.entropy, int) and obj.entropy >> _LONGEST_SEED_BITS:
        raise UncacheableError(
            "a random generator without a seed, or with one of more than 96 bits, which looks the same: seed it with "
            "a smaller number"
        )
    state = (obj.entropy, tuple(obj.spawn_key), obj.pool_size, obj.n_children_spawned)
    return combine_items(fp, b"SeedSequence", state)


@handles("numpy:nditer", "numpy:flatiter", "numpy:broadcast")
def _iterator(fp: Fingerprinter, obj: Any) -> bytes:
    raise UncacheableError(f"{type(obj)} gives its values once; pass the array")

"""The pool: one object for each block, written once, found by what it was computed from."""

from __future__ import annotations

from collections.abc import Buffer
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol

import numpy as np
from zarr.abc.store import Store
from zarr.storage import LocalStore

from daskcache import stores
from daskcache.chunks import (
    ChunkSpec,
    Selection,
    block_key,
    checksum_of,
    chunk_id,
    decode,
    encode,
    inner_ranges,
    is_basic,
    read_inner_ranges,
    read_part,
)
from daskcache.errors import CorruptChunkError, NotStoredError, NotSureError, StoreError

__all__ = ["DIGEST_BYTES", "SMALLEST_BYTES", "Receipt", "StoredBlock", "digest_of", "look_up", "write_block"]

DIGEST_BYTES = 16
"""Bytes of an object's digest."""

SMALLEST_BYTES = 4
"""Bytes of the checksum that each object ends with; one that is smaller was torn, as by a power cut."""

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a block that was to be stored."""

    group: str
    """The pool's group, 4 hex digits."""
    id: str
    """The object's name in its group, 40 hex digits."""
    size_bytes: int
    """The size of the object that is stored now; 0 for a block of no size, which needs none."""
    checksum: int | None
    """`checksum_of` the object that is stored now; None where it was not read, or there is none."""
    inner: tuple[tuple[int, int], ...] | None
    """Offset and size in bytes of each inner chunk, in C order; None where there are none."""
    created: bool
    """Whether this call put the object; else it was there."""
    conflict: bool = False
    """Whether the object that was there holds other values: the task is not deterministic."""
    found: bool = False
    """Whether it was there when its task was about to run, so that nothing was computed."""


class _Digests(Protocol):
    """What a fingerprinter offers to `StoredBlock`."""

    @property
    def digester(self) -> Any: ...


def digest_of(data: Buffer) -> bytes:
    """Hash an object's bytes.

    Parameters
    ----------
    data : buffer
        All of it.

    Returns
    -------
    bytes
        `DIGEST_BYTES` bytes of BLAKE2b.

    Examples
    --------
    >>> len(digest_of(b"an object"))
    16
    """
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def write_block(
    root: str | Store,
    group: str,
    token: bytes,
    spec: ChunkSpec,
    block: np.ndarray[Any, Any] | np.generic,
) -> Receipt:
    """Store a block unless it is there.

    Parameters
    ----------
    root : str or zarr.abc.store.Store
        The store.
    group : str
        The pool's group, as `daskcache.chunks.group_of` gave it.
    token : bytes
        The identity of the block's value.
    spec : ChunkSpec
        How it is encoded.
    block : numpy.ndarray
        The value.

    Returns
    -------
    Receipt
        What is stored now. Where another writer was first, that is the other's object; a damaged one is
        moved aside and replaced.

    Raises
    ------
    UncacheableError, InvalidInputError
        The block has no storage form, or is not of the specification's dtype or shape.
    StoreFullError, ReadOnlyError, StoreError
        The store has no room, takes no writes, or failed; nothing half written is left under the name.

    Notes
    -----
    One put where nobody else is writing. Safe beside other writers as far as `stores.create` is.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> receipt = write_block("memory://doc-write", "00ff", bytes(20), spec, np.arange(3))
    >>> receipt.created, receipt.conflict
    (True, False)
    >>> write_block("memory://doc-write", "00ff", bytes(20), spec, np.arange(1, 4)).conflict
    True
    """
    store = stores.open(root) if isinstance(root, str) else root
    identity = chunk_id(token, spec)
    if isinstance(block, np.generic):
        block = np.asarray(block)
    data = encode(block, spec)
    if block.size == 0:
        return Receipt(group, identity, 0, None, None, created=False)
    key = block_key(group, identity)
    stored: Buffer = data
    created = stores.create(store, key, data)
    conflict = False
    for _ in range(_ATTEMPTS):
        if created:
            break
        verdict, found = _compare(store, key, spec, block, data)
        if verdict in ("same", "other"):
            stored, conflict = found, verdict == "other"
            break
        if verdict == "damaged":
            stores.rename_aside(store, key)
        created = stores.create(store, key, data)
    else:
        if not created:
            raise StoreError(
                f"store {stores.describe(store)} failed: {key} is there, but cannot be read or moved aside; "
                "look at what else writes there"
            )
    return Receipt(
        group,
        identity,
        memoryview(stored).nbytes,
        checksum_of(stored, spec),
        None if spec.inner_shape is None else inner_ranges(stored, spec),
        created,
        conflict,
    )


def _compare(
    store: Store, key: str, spec: ChunkSpec, block: np.ndarray[Any, Any], data: memoryview
) -> tuple[Literal["same", "other", "gone", "damaged"], bytes]:
    """Say what the object is that was there first."""
    found = stores.get(store, key)
    if found is None:
        return "gone", b""
    if found == data:
        return "same", found
    try:
        theirs = decode(found, spec, block.shape, block.dtype)
    except CorruptChunkError:
        return "damaged", found
    # Another release of a compressor gives other bytes for the same values.
    same = np.array_equal(theirs, block) if block.dtype.kind in "OT" else theirs.tobytes() == block.tobytes()
    return ("same" if same else "other"), found


def look_up(block: StoredBlock) -> Receipt | None:
    """Tell what lies in the store in a block's place.

    Parameters
    ----------
    block : StoredBlock
        Where it belongs.

    Returns
    -------
    Receipt or None
        None where it is not there, or too small to be whole.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request, which reads nothing but the size; a shard's index takes another.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> block = StoredBlock("memory://doc-look", "00ff", bytes(20), spec, (3,), np.dtype("i8"))
    >>> look_up(block) is None
    True
    """
    if 0 in block.shape:
        return Receipt(block.group, block.id, 0, None, None, created=False, found=True)
    store = stores.open(block.root)
    try:
        size = stores.size(store, block.key)
    except NotSureError:
        return None  # to compute it costs seconds, and the store has said what it cannot reach
    if size is None or size < SMALLEST_BYTES:
        return None
    inner = None
    if block.spec.inner_shape is not None:
        inner = read_inner_ranges(store, block.key, block.spec)
        if inner is None:
            return None
    return Receipt(block.group, block.id, size, None, inner, created=False, found=True)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StoredBlock:
    """A block in the pool as something to index, the literal of tasks that load it.

    Pickles to a few hundred bytes and holds no connection: each process opens the root for itself.

    Examples
    --------
    >>> spec = ChunkSpec.for_block("i8", (3,))
    >>> receipt = write_block("memory://doc-block", "00ff", bytes(20), spec, np.arange(3))
    >>> block = StoredBlock("memory://doc-block", "00ff", bytes(20), spec, (3,), np.dtype("i8"))
    >>> block[1:]
    array([1, 2])
    """

    root: str
    """URL or absolute path of the store."""
    group: str
    """The pool's group, 4 hex digits."""
    token: bytes
    """The identity of the value, 20 bytes."""
    spec: ChunkSpec
    """How it is encoded."""
    shape: tuple[int, ...]
    """The block's lengths."""
    dtype: np.dtype[Any]
    """The block's dtype in memory, with byte order."""
    size_bytes: int | None = None
    """The size of its object; None where unknown."""

    @property
    def id(self) -> str:
        """The object's name in its group, 40 hex digits."""
        return chunk_id(self.token, self.spec)

    @property
    def key(self) -> str:
        """The object's key in the store."""
        return block_key(self.group, self.id)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Any:
        """Read the block or a part of it.

        Parameters
        ----------
        index : int, slice, Ellipsis or tuple of them
            Of a block with inner chunks, only those that it touches are fetched. Other indices of numpy's are
            applied to the whole block.

        Returns
        -------
        numpy.ndarray or numpy.generic
            The values, bit for bit; a scalar where numpy gives one that keeps the dtype.

        Raises
        ------
        NotStoredError
            The object is not there: it has to be computed again.
        CorruptChunkError
            It was damaged and has been moved aside, so that a rerun computes it again.
        StoreError
            The store cannot be read.
        """
        if not is_basic(index):
            part: np.ndarray[Any, Any] = self._read(Selection.of(self.shape))[index]
            return part
        values = self._read(Selection.of(self.shape, index))
        if values.ndim or index is Ellipsis or (isinstance(index, tuple) and Ellipsis in index):
            return values
        # What dask's reductions return and what numpy gives here, unless that has no byte order or length.
        scalar: Any = values[()]
        return scalar if isinstance(scalar, np.generic) and scalar.dtype == self.dtype else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("a stored block has to be read into a new array; copy=False cannot be had")
        values = self._read(Selection.of(self.shape))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a stored block without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        where = f"{stores.describe(self.root)}/{self.key}"
        return f"<StoredBlock {self.shape} {self.dtype} {where}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredBlock):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("daskcache.StoredBlock", *self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        # By position: names of fields would be the larger part. Blocks of one array share their specification.
        return type(self), (
            self.root,
            self.group,
            self.token,
            self.spec,
            self.shape,
            self.dtype,
            self.size_bytes,
        )

    def __daskcache_region__(self, index: Any, fingerprinter: _Digests) -> bytes:
        """Give the identity of a part of the value.

        Parameters
        ----------
        index : int, slice, Ellipsis or tuple of them
            The part.
        fingerprinter : daskcache.fingerprint.Fingerprinter
            Whose digester is used.

        Returns
        -------
        bytes
            The token itself for the whole block; equal for indices that select the same elements.
        """
        selection = Selection.of(self.shape, index)
        if selection.is_whole and not selection.rest:
            return self.token
        bounds = repr([(part.start, part.stop) for part in selection.region])
        digest: bytes = fingerprinter.digester.digest(
            b"region", self.token, bounds.encode(), repr(selection.rest).encode()
        )
        return digest

    def _identity(self) -> tuple[Any, ...]:
        return self.root, self.group, self.id, self.shape, self.dtype.str

    def _read(self, selection: Selection) -> np.ndarray[Any, Any]:
        if 0 in self.shape:
            return selection.apply(np.empty(self.shape, self.dtype))
        store = stores.open(self.root)
        try:
            if self._pays_to_read_in_parts(store, selection):
                return read_part(store, self.key, self.spec, self.shape, self.dtype, selection)
            return self._decode(self._fetch(store), selection)
        except CorruptChunkError:
            return self._read_again(store, selection)
        except NotStoredError as error:
            raise self._missing(store) from error

    def _pays_to_read_in_parts(self, store: Store, selection: Selection) -> bool:
        if self.spec.inner_shape is None:
            return False
        # Of a whole shard on a local disk, inner chunks are decoded while others are read; elsewhere the further
        # request costs more than that wins.
        return not selection.is_whole or isinstance(store, LocalStore)

    def _read_again(self, store: Store, selection: Selection) -> np.ndarray[Any, Any]:
        """Look once more at an object that seems damaged, all of it, and move it aside if it is."""
        # A torn read is no damage, and another process may have replaced the object since.
        data = self._fetch(store)
        try:
            return selection.apply(self._decode(data, Selection.of(self.shape)))
        except CorruptChunkError as error:
            raise CorruptChunkError(
                f"{self.key} in store {stores.describe(store)} is damaged ({len(data)} bytes); "
                f"{self._move_aside(store)}"
            ) from error

    def _move_aside(self, store: Store) -> str:
        try:
            moved = stores.rename_aside(store, self.key)
        except StoreError as error:
            return f"it could not be moved aside: {error}"
        where = f"was moved to {moved}" if moved else "is gone"
        return f"it {where}, and running again computes it again"

    def _fetch(self, store: Store) -> bytes:
        data = stores.get(store, self.key)
        if data is None:
            raise self._missing(store)
        return data

    def _decode(self, data: Buffer, selection: Selection) -> np.ndarray[Any, Any]:
        return decode(data, self.spec, self.shape, self.dtype, selection)

    def _missing(self, store: Store) -> NotStoredError:
        return NotStoredError(
            f"{self.key} is not in store {stores.describe(store)}; it was removed since it was looked up, "
            "and running again computes it again"
        )

"""Which values are stored, and where: the tokens of many manifests, searched together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from daskcache.chunks import Grid
from daskcache.manifest import Manifest, StoredVariable
from daskcache.pool import StoredBlock

__all__ = ["TokenIndex"]

TOKEN_BYTES = 20


class TokenIndex:
    """The blocks that some manifests name, by token.

    Parameters
    ----------
    root : str
        The store that holds the blocks.
    manifests : iterable of Manifest
        Where two have a token, the first one's block is given.

    Notes
    -----
    Holds 36 bytes for each block, and makes an object only of those that are asked for. A hundred thousand
    look-ups at once take about 20 ms, one look-up about 3 µs. Never changes, so threads may share it.

    Examples
    --------
    >>> index = TokenIndex("memory://doc-index", ())
    >>> len(index), index.get(bytes(20)), index.find_many([bytes(20)])
    (0, None, array([-1]))
    """

    __slots__ = ("_grids", "_numbers", "_prefixes", "_root", "_starts", "_tokens", "_variables")

    def __init__(self, root: str, manifests: Iterable[Manifest]) -> None:
        # Objects (texts, dates) are left out: the blocks of a task never have their dtype.
        self._variables: list[StoredVariable] = [
            variable
            for manifest in manifests
            for variable in manifest.variables
            if len(variable.tokens) and variable.dtype.kind != "O"
        ]
        self._root = root
        self._grids: dict[int, Grid] = {}
        counts = [len(variable.tokens) for variable in self._variables]
        self._starts = np.cumsum([0, *counts])
        tokens = np.concatenate([np.empty((0, TOKEN_BYTES), "u1"), *(var.tokens for var in self._variables)])
        prefixes = _prefixes(tokens)
        # Stable, so that the first manifest's block comes first.
        self._numbers = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[self._numbers]
        self._tokens = tokens[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, token: bytes) -> bool:
        return self._position(token) >= 0

    def get(self, token: bytes) -> StoredBlock | None:
        """Give the stored block that has a token.

        Parameters
        ----------
        token : bytes
            20 bytes.

        Returns
        -------
        StoredBlock or None
            None where no manifest names it.

        Examples
        --------
        >>> TokenIndex("memory://doc-index", ()).get(bytes(20)) is None
        True
        """
        position = self._position(token)
        return None if position < 0 else self.block(position)

    def find_many(self, tokens: Sequence[bytes] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Look many tokens up at once.

        Parameters
        ----------
        tokens : sequence of bytes or numpy.ndarray
            Of 20 bytes each, or of shape (tokens, 20) and dtype uint8.

        Returns
        -------
        numpy.ndarray
            Shape (tokens,), int64: a position for `block`, or -1.

        Examples
        --------
        >>> TokenIndex("memory://doc-index", ()).find_many([])
        array([], dtype=int64)
        """
        if not isinstance(tokens, np.ndarray):
            tokens = np.frombuffer(b"".join(tokens), "u1").reshape(-1, TOKEN_BYTES)
        if not len(self) or not len(tokens):
            return np.full(len(tokens), -1, "i8")
        tokens = np.ascontiguousarray(tokens, "u1")
        prefixes = _prefixes(tokens)
        # Sorted needles go through memory in one direction, which is several times faster.
        order = np.argsort(prefixes)
        positions = np.empty(len(tokens), "i8")
        positions[order] = self._prefixes.searchsorted(prefixes[order])
        near = np.minimum(positions, len(self) - 1)
        equal = (self._tokens[near] == tokens).all(axis=1)
        result = np.where(equal, near, -1)
        # Another token of the same first 8 bytes: no accident, but not impossible.
        for i in np.flatnonzero(~equal & (self._prefixes[near] == prefixes)):
            result[i] = self._position(tokens[i].tobytes())
        return result

    def block(self, position: int) -> StoredBlock:
        """Give the stored block at a position.

        Parameters
        ----------
        position : int
            Not negative, as `find_many` gave it.

        Returns
        -------
        StoredBlock
            Whether its object is still there has not been looked at.
        """
        number = int(self._numbers[position])
        slot = int(np.searchsorted(self._starts, number, side="right")) - 1
        variable = self._variables[slot]
        grid = self._grids.get(slot)
        if grid is None:
            grid = self._grids.setdefault(slot, variable.grid)
        within = number - int(self._starts[slot])
        index = tuple(int(i) for i in np.unravel_index(within, variable.numblocks)) if variable.chunks else ()
        return StoredBlock(
            root=self._root,
            group=f"{variable.groups[within]:04x}",
            token=variable.tokens[within].tobytes(),
            spec=grid.spec(index, variable.encoded_dtype, variable.codecs, variable.inner_shape),
            shape=grid.block_shape(index),
            dtype=variable.dtype,
            size_bytes=int(variable.sizes[within]) or None,
        )

    def _position(self, token: bytes) -> int:
        prefix = np.uint64(int.from_bytes(token[:8], "big"))
        position = int(self._prefixes.searchsorted(prefix))
        while position < len(self._prefixes) and self._prefixes[position] == prefix:
            if self._tokens[position].tobytes() == token:
                return position
            position += 1
        return -1


def _prefixes(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    head = np.ascontiguousarray(tokens[:, :8])
    return head.view(">u8").reshape(-1).astype("u8")

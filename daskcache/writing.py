"""What workers do with a block that is wanted in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from daskcache.config import CodeVersions
from daskcache.errors import (
    DaskcacheError,
    NotStoredError,
    SourceChangedError,
    StoreError,
    UncacheableError,
    warn_of_defect,
    warn_once,
)
from daskcache.fingerprint import check_code_units
from daskcache.fingerprint.guard import Watched, find_changed_file
from daskcache.pool import Receipt, StoredBlock, write_block
from daskcache.reports import note, note_checksum

__all__ = ["CodeUnit", "Writer", "keep_block", "refuse_form", "store_block", "try_to_keep", "unstored_in"]

CodeUnit = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class Writer:
    """What a worker must know to store blocks of one run: it reads no configuration."""

    units: tuple[CodeUnit, ...] = ()
    """Module, qualified name and digest of each of the user's functions that the run's tokens used."""
    code_versions: CodeVersions = "exact"
    """How much of a distribution's version counted."""
    salt: str = ""
    """What entered every token."""
    run: str = ""
    """The run's id: each run warns once in a process of what it cannot store."""
    files: tuple[tuple[Watched, bytes], ...] = ()
    """Files that functions declare to read by themselves, and sources that they are handed as they are, each with what
    it looked like.
    """

    looks: bool = False
    """Whether a block that is stored by now is loaded and not computed."""
    planned_s: float = 0.0
    """When the run was planned, in seconds since 1970."""

    def refusal(self, block: Any, target: StoredBlock) -> str | None:
        """Tell why a block may not be stored under its token.

        Parameters
        ----------
        block : object
            What the task returned.
        target : StoredBlock
            What was declared.

        Returns
        -------
        str or None
            The reason and what to do; None for a block that may be stored.
        """
        if type(block) is not np.ndarray and not isinstance(block, np.generic):
            return (
                f"the task returned {type(block).__module__}.{type(block).__qualname__}, not a numpy array: "
                "it was not stored"
            )
        return refuse_form(block, target) or self._find_other_code() or find_changed_file(self.files)

    def check(self) -> None:
        """Refuse to store anything that was computed of other code or files than the tokens were made of.

        Raises
        ------
        UncacheableError
            This process runs other code.
        SourceChangedError
            A file that a function reads by itself is not as it was.
        """
        changed = find_changed_file(self.files)
        if changed:
            raise SourceChangedError(changed)
        refusal = self._find_other_code()
        if refusal:
            raise UncacheableError(refusal)

    def _find_other_code(self) -> str | None:
        units = {(module, name): digest for module, name, digest in self.units}
        changed = check_code_units(units, code_versions=self.code_versions, salt=self.salt)
        if not changed:
            return None
        # Which tasks call those functions is not known, so it holds for all blocks of the run.
        return (
            f"this process runs other code than the one that the graph was keyed with ({', '.join(changed[:3])}): "
            "nothing of it was stored; restart the scheduler, the workers and the client with the same code"
        )


def refuse_form(block: Any, target: StoredBlock) -> str | None:
    """Tell that a block has another dtype or shape than was declared.

    Parameters
    ----------
    block : numpy.ndarray or StoredBlock
        What the task returned, or what is known to lie where the block belongs.
    target : StoredBlock
        What was declared.

    Returns
    -------
    str or None
        What differs and what to do; None where nothing does.
    """
    if block.dtype == target.dtype and block.shape == target.shape:
        return None
    return (
        f"the task returned {block.dtype} {block.shape} where {target.dtype} {target.shape} was declared: "
        "it was not stored; give map_blocks or apply_ufunc the dtype and chunks that it really returns"
    )


def store_block(block: Any, target: StoredBlock, writer: Writer) -> Receipt:
    """Store a block for a persist, whose job is to store.

    Parameters
    ----------
    block : numpy.ndarray
        The computed block.
    target : StoredBlock
        Where it goes, and what shape and dtype were declared.
    writer : Writer
        The run's checks.

    Returns
    -------
    Receipt
        What lies in the store now.

    Raises
    ------
    UncacheableError
        The block is not what was declared, or this process runs other code.
    SourceChangedError
        A file that a function reads by itself is not as it was.
    StoreError
        The store does not take it.
    """
    block = _as_declared(block, target)
    refusal = writer.refusal(block, target)
    if refusal:
        changed = find_changed_file(writer.files)
        raise SourceChangedError(changed) if changed else UncacheableError(refusal)
    receipt = write_block(target.root, target.group, target.token, target.spec, block)
    _count(writer, receipt)
    return receipt


def keep_block(block: Any, target: StoredBlock, writer: Writer) -> Any:
    """Store a block on its way through a graph; whatever the store does, the block goes on.

    Parameters
    ----------
    block : numpy.ndarray
        The computed block.
    target : StoredBlock
        Where it goes, and what shape and dtype were declared.
    writer : Writer
        The run's checks.

    Returns
    -------
    numpy.ndarray
        The block; where another writer stored other bytes under its token before, those.

    Notes
    -----
    This process remembers the checksum of what lies in the store, for who publishes the run.
    """
    kept, receipt = try_to_keep(block, target, writer)
    if receipt is not None and receipt.checksum:
        note_checksum(writer.run, receipt.id, receipt.checksum)
    return kept


def try_to_keep(block: Any, target: StoredBlock, writer: Writer) -> tuple[Any, Receipt | None]:
    """Store a block whatever the store does, and give what became of it.

    Parameters
    ----------
    block : numpy.ndarray
        The computed block.
    target : StoredBlock
        Where it goes, and what shape and dtype were declared.
    writer : Writer
        The run's checks.

    Returns
    -------
    numpy.ndarray
        The block; where another writer stored other bytes under its token before, those.
    Receipt or None
        What lies in the store now; None where it could not be stored.
    """
    stored = _as_declared(block, target)
    refusal = writer.refusal(stored, target)
    if refusal:
        warn_once(refusal, about=unstored_in(writer.run))
        note(writer.run, computed=1, unstored=1)
        return block, None
    receipt = None
    try:
        receipt = write_block(target.root, target.group, target.token, target.spec, stored)
        _count(writer, receipt)
        if receipt.conflict:
            warn_once(
                "a task gave other bytes than those stored under its token before, which are used: "
                "it is not deterministic; seed its randomness"
            )
            return target[(slice(None),) * target.ndim], receipt
    except (NotStoredError, StoreError) as error:
        warn_once(
            f"a block could not be stored and was computed only: {error}", about=unstored_in(writer.run)
        )
        note(writer.run, computed=1, unstored=1)
    except DaskcacheError:
        raise  # on purpose
    except Exception as error:  # noqa: BLE001  (a cache only helps, also where it is wrong)
        warn_of_defect("a block was computed and is not stored", error)
        note(writer.run, computed=1, unstored=1)
    return block, receipt


def _count(writer: Writer, receipt: Receipt) -> None:
    created = receipt.created
    note(
        writer.run,
        computed=1,
        stored=int(created),
        stored_bytes=receipt.size_bytes if created else 0,
        conflicts=int(receipt.conflict),
    )


def _as_declared(block: Any, target: StoredBlock) -> Any:
    """Give a 0-d block the declared dtype where its value says the same.

    Scalars know neither byte order nor the length of texts, and that of a StringDType is Python's own. So scalars of
    two dtypes may have one token, and what was stored of one be loaded for the other.
    """
    scalars = np.ndarray | np.generic | str | bytes | bool | int | float | complex
    if target.shape or not isinstance(block, scalars) or np.shape(block):
        return block
    if isinstance(block, str) and target.dtype.kind == "T":
        return np.array(block, target.dtype)
    array = np.asarray(block)
    if array.dtype.kind == target.dtype.kind and array.dtype.kind in "US":
        text = array.astype(target.dtype)
        return text if text == array else block
    return array.astype(target.dtype) if np.can_cast(array.dtype, target.dtype, "equiv") else block


def unstored_in(run: str) -> str:
    """Name what a run warns of once, where it cannot store or publish.

    Parameters
    ----------
    run : str
        The run's id.

    Returns
    -------
    str
        For `daskcache.errors.warn_once`.

    Examples
    --------
    >>> unstored_in("r1")
    'unstored r1'
    """
    return f"unstored {run}"


keep_block.__daskcache_transparent__ = True  # type: ignore[attr-defined]

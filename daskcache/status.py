"""How much of an object is stored."""

from __future__ import annotations

from dataclasses import dataclass

from dask.delayed import Delayed
from dask.utils import format_bytes

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import UncacheableError
from daskcache.identity import identify, identify_value
from daskcache.listing import Listing
from daskcache.parts import Collection
from daskcache.values import find_value

__all__ = ["Status", "VariableStatus", "status"]


@dataclass(frozen=True, slots=True)
class VariableStatus:
    """How much of one variable is stored."""

    path: str
    """The variable; of a DataTree with its node."""
    blocks: int
    """Its blocks."""
    stored: int
    """Those that lie in the store."""
    stored_bytes: int
    """The size of their objects."""
    reason: str | None = None
    """Why its blocks cannot be stored; None where they can."""

    @property
    def is_complete(self) -> bool:
        """Whether all blocks are stored.

        Returns
        -------
        bool
            True for a variable without blocks, too.
        """
        return self.stored == self.blocks

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.path}: cannot be stored: {self.reason}"
        return f"{self.path}: {self.stored} of {self.blocks} blocks, {format_bytes(self.stored_bytes)}"


@dataclass(frozen=True, slots=True)
class Status:
    """How much of an object is stored."""

    store: str
    """The store's root, without credentials."""
    variables: tuple[VariableStatus, ...]
    """Those that dask computes, in the object's order."""

    @property
    def is_complete(self) -> bool:
        """Whether all blocks of all variables are stored.

        Returns
        -------
        bool
            True where a persist would compute nothing.
        """
        return all(variable.is_complete for variable in self.variables)

    def __getitem__(self, path: str) -> VariableStatus:
        for variable in self.variables:
            if variable.path == path:
                return variable
        raise KeyError(path)

    def __str__(self) -> str:
        lines = [f"in {self.store}"]
        lines += [f"  {variable}" for variable in self.variables]
        return "\n".join(lines if self.variables else [*lines, "  nothing that dask computes"])

    __repr__ = __str__


def status(obj: Collection | Delayed, *, store: str | None = None) -> Status:
    """Tell which blocks of an object are stored, without computing anything.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray, xarray.DataTree, dask.array.Array or dask.delayed.Delayed
        The object. A delayed value counts as one block, of the path ``value``.
    store : str, optional
        URL or path, instead of the configured one.

    Returns
    -------
    Status
        Counts and bytes for each variable that dask computes.

    Raises
    ------
    StoreError
        The store cannot be read.

    Examples
    --------
    >>> import dask.array as da
    >>> status(da.ones(4, chunks=2), store="memory://doc-status").is_complete
    False
    """
    settings = Settings.from_config(store=store)
    if isinstance(obj, Delayed):
        return Status(stores.describe(settings.store), (_status_of_value(obj, settings),))
    identified = identify(obj, settings)
    listing = Listing(settings.pool_root)
    found = []
    for path, array in identified.arrays.items():
        reason = identified.reasons.get(path)
        stored = [
            block.size_bytes or 0
            for wanted in identified.targets.get(path, ())
            if (block := listing.find(wanted)) is not None
        ]
        found.append(
            VariableStatus(
                path,
                array.npartitions,
                len(stored),
                sum(stored),
                None if reason is None else str(reason),
            )
        )
    return Status(stores.describe(settings.store), tuple(found))


def _status_of_value(obj: Delayed, settings: Settings) -> VariableStatus:
    try:
        token, *_ = identify_value(obj, settings)
    except UncacheableError as reason:
        return VariableStatus("value", 1, 0, 0, str(reason))
    found = find_value(token, settings)
    return VariableStatus("value", 1, int(found is not None), 0 if found is None else found.size_bytes)

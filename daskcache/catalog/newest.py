"""The token index of a namespace's newest versions, kept by each process until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.versions import Latest
from daskcache.errors import EntryNotFoundError, StoreError, warn_once
from daskcache.manifest import Manifest

__all__ = ["newest_tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    manifests: dict[tuple[str, Latest], Manifest]
    index: TokenIndex


# Lives as long as the process, one for each root and namespace in use. Values are replaced whole.
_kept: dict[tuple[str, str], _Kept] = {}


def newest_tokens(
    place: tuple[str, str],
    entries: Iterable[str],
    latest: Callable[[str], Latest | None],
    read: Callable[[str, str], Manifest],
) -> TokenIndex:
    """Give the index of the newest versions.

    Parameters
    ----------
    place : tuple of str
        The store's root, and the namespace.
    entries : iterable of str
        Where to look.
    latest : callable
        Tells what an entry's name opens.
    read : callable
        Reads an entry's version.

    Returns
    -------
    TokenIndex
        The same object until a name opens something else.

    Notes
    -----
    What cannot be read is left out with one warning, and tried again the next time. What the documents
    ``latest`` say is the key, and not their time stamps, which may stand still.

    Examples
    --------
    >>> len(newest_tokens(("memory://doc-newest", "default"), [], lambda entry: None, lambda *_: None))
    0
    """
    known = _kept.get(place)
    manifests: dict[tuple[str, Latest], Manifest] = {}
    is_whole = True
    for entry in entries:
        try:
            newest = latest(entry)
            if newest is None:
                continue
            found = known.manifests.get((entry, newest)) if known else None
            manifests[entry, newest] = read(entry, newest.version) if found is None else found
        except (StoreError, EntryNotFoundError) as error:
            is_whole = False
            warn_once(f"the stored blocks of {entry!r} are not found for now: {error}")
    if known is not None and known.manifests.keys() == manifests.keys():
        return known.index
    index = TokenIndex(place[0], manifests.values())
    if is_whole:
        _kept[place] = _Kept(manifests, index)
    return index

"""The token index of a namespace's newest versions, kept by each process until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daskcache.catalog.packs import list_packs, read_pack
from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.versions import Latest
from daskcache.config import Pool
from daskcache.errors import EntryNotFoundError, StoreError, warn_once
from daskcache.manifest import Manifest

__all__ = ["newest_tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    manifests: dict[tuple[str, Latest | None], Manifest]
    index: TokenIndex


_ATTEMPTS = 3

# Lives as long as the process, one for each root and namespace in use. Values are replaced whole.
_kept: dict[tuple[str, str], _Kept] = {}


def newest_tokens(
    place: tuple[str, str],
    entries: Iterable[str],
    latest: Callable[[str], Latest | None],
    read: Callable[[str, str], Manifest],
    pool: Pool = "shared",
) -> TokenIndex:
    """Give the index of the newest versions, and of what was stored without a name.

    Parameters
    ----------
    place : tuple of str
        The root of the pool, and the namespace.
    entries : iterable of str
        Where to look.
    latest : callable
        Tells what an entry's name opens.
    read : callable
        Reads an entry's version.
    pool : {"shared", "private"}, optional
        Which pool: versions whose blocks lie in another are left out.

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
    manifests: dict[tuple[str, Latest | None], Manifest] = {}
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
    packs, has_all = _packs(place, known)
    manifests |= packs
    if known is not None and known.manifests.keys() == manifests.keys():
        return known.index
    # Packs lie with the pool that they list.
    found_here = [manifests[at] for at in manifests if at[1] is None or manifests[at].pool == pool]
    index = TokenIndex(place[0], found_here)
    if is_whole and has_all:
        _kept[place] = _Kept(manifests, index)
    return index


def _packs(
    place: tuple[str, str], known: _Kept | None
) -> tuple[dict[tuple[str, Latest | None], Manifest], bool]:
    """Read the packs, and tell whether all could be read."""
    found: dict[tuple[str, Latest | None], Manifest] = {}
    is_whole = True
    for _ in range(_ATTEMPTS):
        has_gone, is_whole = False, True
        for name in list_packs(*place):
            try:
                kept = known.manifests.get((name, None)) if known else None
                pack = found.get((name, None)) or kept or read_pack(*place, name)
            except StoreError as error:
                is_whole = False
                warn_once(f"some stored blocks are not found for now: {error}")
                continue
            if pack is None:
                has_gone = True
            else:
                found[name, None] = pack
        if not has_gone:
            break
        # Put together with others since they were listed: that was written before they were deleted.
    return found, is_whole

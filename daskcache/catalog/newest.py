"""The token index of a namespace's newest versions, kept by each process until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daskcache.catalog.packs import read_packs
from daskcache.catalog.tokens import TokenIndex
from daskcache.catalog.versions import Latest
from daskcache.config import Pool
from daskcache.errors import EntryNotFoundError, StoreError, warn_once
from daskcache.manifest import Manifest

__all__ = ["newest_tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    versions: dict[tuple[str, Latest], Manifest]
    packs: frozenset[str]
    index: TokenIndex


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
    versions: dict[tuple[str, Latest], Manifest] = {}
    is_whole = True
    for entry in entries:
        try:
            newest = latest(entry)
            if newest is None:
                continue
            found = known.versions.get((entry, newest)) if known else None
            versions[entry, newest] = read(entry, newest.version) if found is None else found
        except (StoreError, EntryNotFoundError) as error:
            is_whole = False
            warn_once(f"the stored blocks of {entry!r} are not found for now: {error}")
    packs, errors = read_packs(*place)
    for reason in errors:
        warn_once(f"some stored blocks are not found for now: {reason}")
    if known and known.versions.keys() == versions.keys() and known.packs == packs.keys():
        return known.index
    # Packs lie with the pool that they list.
    here = [manifest for manifest in versions.values() if manifest.pool == pool]
    index = TokenIndex(place[0], [*here, *packs.values()])
    if is_whole and not errors:
        _kept[place] = _Kept(versions, frozenset(packs), index)
    return index

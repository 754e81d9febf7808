"""Where documents lie below a store's root, and which format the store has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from zarr.abc.store import Store

from daskcache import stores
from daskcache.catalog.records import now
from daskcache.errors import InvalidInputError, StoreError
from daskcache.names import check_namespace

__all__ = [
    "CALL",
    "FORMAT",
    "NAMESPACES",
    "RUNS",
    "TOMBSTONE",
    "USED",
    "VERSIONS",
    "check_format",
    "entry_key",
    "is_segment",
    "run_key",
    "walk_entries",
    "write_json",
]

FORMAT = 0
"""The newest format of a store that this version reads and writes."""

FORMAT_KEY = "daskcache.json"
NAMESPACES = "namespaces"
RUNS = "runs"

VERSIONS = "@"
"""The directory of an entry's versions. No entry can have this name, so entries nest and never meet one."""


TOMBSTONE = ".dropped"
"""How the index of a version is called that was dropped: it protects blocks for one grace period more."""

CALL = "call-"
"""How the last part of an entry's name begins that holds the result of a function's call."""

USED = ".used"
"""How a version's note of its last use ends."""


def check_format(store: Store, *, create: bool = False) -> None:
    """Refuse a store whose format is newer.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    create : bool, optional
        Whether to write the document where there is none; it is written once and never changed.

    Raises
    ------
    StoreError
        The format is newer, the document is not understood, or the store failed.

    Notes
    -----
    One request, and another where the document is written.

    Examples
    --------
    >>> check_format(stores.open("memory://doc-layout"), create=True)
    """
    data = stores.get(store, FORMAT_KEY)
    if data is None:
        # Create-only: of two first writers both go on, with one document.
        if not create or stores.create(store, FORMAT_KEY, write_json({"format": FORMAT, "created": now()})):
            return
        data = stores.get(store, FORMAT_KEY) or b""
    try:
        number = int(json.loads(data)["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"store {stores.describe(store)} has a {FORMAT_KEY} that is not understood ({error}); "
            "restore the file, or name another root in `daskcache.store`"
        ) from error
    if number > FORMAT:
        raise StoreError(
            f"store {stores.describe(store)} has format {number}, and this daskcache reads and writes up "
            f"to {FORMAT}; upgrade daskcache, or name another root in `daskcache.store`"
        )


def entry_key(namespace: str, entry: str, name: str = "") -> str:
    """Give the key of an entry's document, or of the directory of them all.

    Parameters
    ----------
    namespace : str
        A namespace that was checked.
    entry : str
        A name that was checked.
    name : str, optional
        The document's.

    Returns
    -------
    str
        Relative to the store's root.

    Examples
    --------
    >>> entry_key("default", "era5/mean", "latest")
    'namespaces/default/era5/mean/@/latest'
    """
    return f"{NAMESPACES}/{namespace}/{entry}/{VERSIONS}{'/' if name else ''}{name}"


def walk_entries(store: Store, namespace: str, *, calls: bool = True) -> Iterator[str]:
    """Find the entries of a namespace that have a directory of versions.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    namespace : str
        A namespace that was checked.
    calls : bool, optional
        Whether the results of functions' calls are among them, of which there may be very many.

    Yields
    ------
    str
        Names, each before those below it, published or not.

    Raises
    ------
    StoreError
        The store cannot be read.

    Notes
    -----
    One request for each name on the way.

    Examples
    --------
    >>> list(walk_entries(stores.open("memory://doc-layout"), "default"))
    []
    """
    base, names = f"{NAMESPACES}/{namespace}", [""]
    while names:
        name = names.pop()
        inside = stores.list_dirs(store, f"{base}/{name}" if name else base)
        if name and VERSIONS in inside:
            yield name
        # In sorted order, for where several entries have a token the first one's block is used.
        names += [
            f"{name}/{part}" if name else part
            for part in reversed(inside)
            if is_segment(part) and (calls or not part.startswith(CALL))
        ]


def run_key(run: str) -> str:
    """Give the key of a run's record.

    Parameters
    ----------
    run : str
        The run's id.

    Returns
    -------
    str
        Relative to the store's root.

    Raises
    ------
    InvalidInputError
        The id is not one segment of a path.

    Examples
    --------
    >>> run_key("r1")
    'runs/r1.json'
    """
    if not is_segment(run):
        raise InvalidInputError(f"the run's id is {run!r}; expected letters, digits, '.', '_' and '-'")
    return f"{RUNS}/{run}.json"


def is_segment(name: str) -> bool:
    """Tell whether a name may be one segment of a path.

    Parameters
    ----------
    name : str
        Such as one that a listing gave: others put files into directories, too.

    Returns
    -------
    bool
        What `check_namespace` takes.

    Examples
    --------
    >>> is_segment("era5"), is_segment("lost+found")
    (True, False)
    """
    try:
        check_namespace(name)
    except InvalidInputError:
        return False
    return True


def write_json(document: Any) -> bytes:
    r"""Write a small document.

    Parameters
    ----------
    document : object
        JSON.

    Returns
    -------
    bytes
        One line.

    Examples
    --------
    >>> write_json({"format": 0})
    b'{"format": 0}\n'
    """
    return json.dumps(document).encode("ascii") + b"\n"

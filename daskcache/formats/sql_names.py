"""What tables and columns are called in a database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

__all__ = ["INDEX", "LONGEST", "PART", "ROW", "column_names", "digest_of", "table_name"]

INDEX = "daskcache_tables"
"""The table that lists the others."""

PART = "daskcache_part"
"""The column that says which call, and which partition, put a row in."""

ROW = "daskcache_row"
"""The column that says where in its part a row stands."""

LONGEST = 63
"""Bytes that PostgreSQL keeps of a name."""

_DIGITS = 12


def digest_of(*parts: str) -> str:
    """Give what texts are known by together.

    Parameters
    ----------
    *parts : str
        The texts.

    Returns
    -------
    str
        40 hex digits.

    Examples
    --------
    >>> digest_of("a", "bc") == digest_of("ab", "c")
    False
    """
    digest = hashlib.blake2b(digest_size=20, person=b"daskcache sql")
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def table_name(store: str, namespace: str, entry: str) -> str:
    """Name the table of an entry: by its function, and digits that tell it from all others.

    Parameters
    ----------
    store : str
        Which store has the entry.
    namespace : str
        The entry's.
    entry : str
        Its name.

    Returns
    -------
    str
        Letters, digits and underscores, at most 63, which need no quotes.

    Examples
    --------
    >>> table_name("/data", "default", "stations.daily-mean/call-" + 40 * "0")
    'stations_daily_mean_4f775de1a6b4'
    """
    readable = re.sub(r"[^a-z0-9]+", "_", entry.partition("/")[0].lower()).strip("_")
    readable = readable[-(LONGEST - _DIGITS - 1) :].strip("_")
    if not readable or readable[0].isdigit():
        readable = f"t_{readable}"[: LONGEST - _DIGITS - 1].rstrip("_")
    return f"{readable}_{digest_of(store, namespace, entry)[:_DIGITS]}"


def column_names(names: Sequence[str]) -> list[str]:
    """Name the columns of a table as they are called, where a database takes that.

    Parameters
    ----------
    names : sequence of str
        What they are called.

    Returns
    -------
    list of str
        Each another, however it is written, and none longer than 63 bytes.

    Examples
    --------
    >>> column_names(["t2m (K)", "T", "t", ""])
    ['t2m (K)', 'T', 't_2', 'column_3']
    """
    taken = {PART, ROW}
    found = []
    for number, name in enumerate(names):
        wanted = name.replace("\0", "") or f"column_{number}"
        if len(wanted.encode("utf-8", "replace")) > LONGEST or wanted.casefold() in taken or wanted != name:
            short = wanted.encode("utf-8", "replace")[: LONGEST - 10].decode("utf-8", "ignore")
            wanted = wanted if wanted.startswith("column_") and name == "" else f"{short}_{number}"
        while wanted.casefold() in taken:
            wanted = f"{wanted[:40]}_{number}_{digest_of(name)[:6]}"
        taken.add(wanted.casefold())
        found.append(wanted)
    return found

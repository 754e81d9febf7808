"""What to tell somebody whose entry is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from daskcache.catalog.records import RunRecord

__all__ = ["hint_of_names", "hint_of_run"]


def hint_of_run(namespace: str, entry: str, records: Iterable[RunRecord]) -> str:
    """Tell of a run that will publish an entry.

    Parameters
    ----------
    namespace : str
        Where the entry is looked for.
    entry : str
        The name.
    records : iterable of RunRecord
        Newest first.

    Returns
    -------
    str
        Empty where no run is under way.

    Examples
    --------
    >>> hint_of_run("default", "era5", ())
    ''
    """
    for record in records:
        if (record.namespace, record.entry, record.finished) == (namespace, entry, None):
            return (
                f"run {record.run}, begun {record.time}, is under way or was broken off: "
                "`status` tells how far it came, and running it again goes on from there"
            )
    return ""


def hint_of_names(entry: str, names: Sequence[str], namespaces: Sequence[str]) -> str:
    """Tell what may have been meant.

    Parameters
    ----------
    entry : str
        The name that was given.
    names : sequence of str
        The namespace's entries.
    namespaces : sequence of str
        Other namespaces that have the entry.

    Returns
    -------
    str
        Names that are alike, else where else the name is, else some names.

    Examples
    --------
    >>> hint_of_names("clim", ["climate", "mask"], [])
    "there is 'climate'"
    """
    near = difflib.get_close_matches(entry, names, n=3, cutoff=0.5)
    if near:
        return f"there is {', '.join(map(repr, near))}"
    if namespaces:
        return f"namespace {', '.join(map(repr, namespaces[:3]))} has it: pass namespace={namespaces[0]!r}"
    if names:
        return f"there is {', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''}"
    return "the namespace has no entries: check `store` and `namespace`"

"""What the policy ``auto`` found of each layer: what its blocks cost to compute, and to store and load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

__all__ = ["Weighed", "describe_weighed", "is_weighed", "merge", "to_counts"]

_PREFIX = "weighed"


@dataclass(frozen=True, slots=True)
class Weighed:
    """What was measured of a layer's blocks, summed, and what became of them."""

    stored: int = 0
    """Blocks that were stored."""
    left: int = 0
    """Blocks that were not, because computing them again is cheaper, or because they have no storage form."""
    compute_s: float = 0.0
    """Seconds that they took, with their share of what they depend on."""
    store_s: float = 0.0
    """Seconds that storing and loading them takes, as measured on this store."""
    nbytes: int = 0
    """Their bytes in memory."""

    def __repr__(self) -> str:
        blocks = max(self.stored + self.left, 1)
        return (
            f"<{self.stored} of {blocks} blocks stored: one took {self.compute_s / blocks:.2g} s to compute, and takes "
            f"{self.store_s / blocks:.2g} s to store and load>"
        )


_FIELDS = tuple(field.name for field in fields(Weighed))


def to_counts(layer: str, found: Weighed) -> dict[str, float]:
    """Give what was found as counts, which can be added up.

    Parameters
    ----------
    layer : str
        The layer's name, as people see it.
    found : Weighed
        Of one block or more.

    Returns
    -------
    dict of str to float
        For `merge`.

    Examples
    --------
    >>> merge({}, to_counts("mean_chunk", Weighed(stored=1, compute_s=2.0, store_s=0.01, nbytes=800)))
    {'mean_chunk': <1 of 1 blocks stored: one took 2 s to compute, and takes 0.01 s to store and load>}
    """
    return {f"{_PREFIX}:{name}:{layer}": getattr(found, name) for name in _FIELDS}


def merge(known: Mapping[str, Weighed], counts: Mapping[str, float]) -> dict[str, Weighed]:
    """Add counts to what is known.

    Parameters
    ----------
    known : mapping of str to Weighed
        By layer.
    counts : mapping of str to float
        What `to_counts` gave, among other counts.

    Returns
    -------
    dict of str to Weighed
        By layer.

    Examples
    --------
    >>> merge({}, {"computed": 3})
    {}
    """
    merged = dict(known)
    for name, value in counts.items():
        prefix, _, rest = name.partition(":")
        field, _, layer = rest.partition(":")
        if prefix == _PREFIX and field in _FIELDS:
            old = merged.get(layer, Weighed())
            values = {other: getattr(old, other) for other in _FIELDS}
            values[field] += value
            merged[layer] = Weighed(**values)
    return merged


def describe_weighed(found: Weighed) -> str:
    """Say what became of a layer's blocks, and by which times.

    Parameters
    ----------
    found : Weighed
        Of one run, or of several.

    Returns
    -------
    str
        In words.

    Examples
    --------
    >>> describe_weighed(Weighed(stored=4, compute_s=2.0, store_s=0.01, nbytes=800))
    '4 of 4 blocks stored: one took 500ms to compute, 200 times the 2.5ms to store and load it'
    >>> describe_weighed(Weighed(left=4, compute_s=0.002, store_s=0.01, nbytes=800))
    'none of 4 blocks stored: one took 0.5ms to compute, 0.2 times the 2.5ms to store and load it'
    """
    blocks = max(found.stored + found.left, 1)
    compute_s, store_s = found.compute_s / blocks, found.store_s / blocks
    times = f"{_round(compute_s / store_s)} times " if store_s > 0 else "and "
    return (
        f"{found.stored or 'none'} of {blocks} blocks stored: one took {_in_words(compute_s)} to compute, "
        f"{times}the {_in_words(store_s)} to store and load it"
    )


def _in_words(seconds: float) -> str:
    return f"{_round(seconds)}s" if seconds >= 1 else f"{_round(seconds * 1000)}ms"


def _round(number: float) -> str:
    # Two digits, and never an exponent.
    return f"{number:.0f}" if number >= 10 else f"{float(f'{number:.2g}'):g}" if number >= 0.001 else "0"


def is_weighed(name: str) -> bool:
    """Tell whether a count is one of `to_counts`.

    Parameters
    ----------
    name : str
        The count's.

    Returns
    -------
    bool
        True where `merge` takes it.

    Examples
    --------
    >>> is_weighed("computed")
    False
    """
    return name.startswith(f"{_PREFIX}:")

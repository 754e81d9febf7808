"""What the demo promises, checked against what its acts did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from daskcache.demo.acts import Outcome
from daskcache.demo.table import Row

__all__ = ["Check", "check_acts", "check_memory"]

_EDITED = {"warming", "trends"}
_WHOLE = "trends"
_TELLING_BYTES = 1.5e9


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, and whether it was kept."""

    promise: str
    """What must hold."""
    is_kept: bool
    """Whether it does."""
    found: str = ""
    """What was found instead."""

    def __str__(self) -> str:
        return f"  ok      {self.promise}" if self.is_kept else f"  BROKEN  {self.promise}: {self.found}"


def check_acts(outcomes: Sequence[Outcome]) -> list[Check]:
    """Check the four acts against each other.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Cold, again, grown, edited.

    Returns
    -------
    list of Check
        In the order of the acts.
    """
    cold, again, grown, edited = outcomes
    return [
        *_check_cold(cold),
        *_check_again(cold, again),
        *_check_grown(again, grown),
        *_check_edited(cold, grown, edited),
    ]


def check_memory(outcomes: Sequence[Outcome], size_bytes: int) -> list[Check]:
    """Check that no act held the whole array.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Any acts.
    size_bytes : int
        Size of the array.

    Returns
    -------
    list of Check
        Empty where the array is so small that Python itself takes more, or the system does not tell.
    """
    peak = max(outcome.peak_bytes for outcome in outcomes)
    if size_bytes < _TELLING_BYTES or not peak:
        return []
    found = f"{peak / 1e6:.0f} MB of {size_bytes / 1e6:.0f}"
    return [Check("memory: no act holds as much as the array", peak < size_bytes, found)]


def _check_cold(cold: Outcome) -> list[Check]:
    scenarios = [row for row in cold.rows if "/" not in row.step]
    shared = [row for row in cold.rows if "/" in row.step and row.namespace != cold.rows[0].namespace]
    checks = [
        _equal("cold: every block is computed", _sum(scenarios, "computed"), _sum(scenarios, "blocks")),
        _equal("cold: what is computed is stored", _sum(cold.rows, "stored"), _sum(cold.rows, "computed")),
        Check("cold: the costly step runs", cold.calls.get("bootstrap", 0) > 0, "it never ran"),
    ]
    if shared:
        found = f"{_sum(shared, 'computed')} blocks"
        promise = "cold: what both scenarios share is computed once"
        checks.append(Check(promise, _sum(shared, "computed") == 0, f"{found} were computed again"))
    return checks


def _check_again(cold: Outcome, again: Outcome) -> list[Check]:
    return [
        _equal("again: the same recipes have the same versions", _versions(again), _versions(cold)),
        _equal("again: no block is computed", _sum(again.rows, "computed"), 0),
        _equal("again: dask runs no task", again.tasks, 0),
        _equal("again: nothing is stored", _sum(again.rows, "stored"), 0),
        _equal("again: none of the pipeline's functions is called", again.calls, {}),
    ]


def _check_grown(before: Outcome, grown: Outcome) -> list[Check]:
    old = _by_step(before)
    expected: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    for (namespace, step), row in _by_step(grown).items():
        new = row.blocks - old[namespace, step].blocks
        if step == _WHOLE and row.version != old[namespace, step].version:
            # It is made of all the years at once.
            new = row.blocks
        # What both scenarios share is new to the first of them only.
        expected[namespace, step] = 0 if "/" in step and step in seen else new
        seen.add(step)
    fronts, bounds = (_growth(before, grown, step) for step in ("ocean/fronts", "bounds"))
    calls = {
        "steepness": fronts,
        "bootstrap": bounds,
        "region_means": _growth(before, grown, "warming"),
        "fit_line": int(bounds > 0),
    }
    return [
        _equal("grown: the new blocks are computed, and no others", _computed(grown), expected),
        _equal(
            "grown: functions are called for them alone", grown.calls, {k: n for k, n in calls.items() if n}
        ),
        Check("grown: something is new", _sum(grown.rows, "computed") > 0, "nothing was computed"),
    ]


def _check_edited(cold: Outcome, before: Outcome, edited: Outcome) -> list[Check]:
    old, new = _by_step(before), _by_step(edited)
    changed = {key for key, row in new.items() if row.version != old[key].version}
    depend = {key for key in new if key[1] in _EDITED}
    others = [row for key, row in new.items() if key not in depend]
    calls = {
        name: number for name, number in edited.calls.items() if name not in ("region_means", "fit_line")
    }
    means = sum(row.blocks for key, row in new.items() if key[1] == "warming")
    return [
        _equal(
            "edited: what depends on the helper has another version, and nothing else has", changed, depend
        ),
        _equal("edited: no other block is computed", _sum(others, "computed"), 0),
        _equal("edited: every mean over a region is taken anew", edited.calls.get("region_means"), means),
        _equal("edited: every line is fitted anew", edited.calls.get("fit_line"), cold.calls.get("fit_line")),
        _equal("edited: the costly step, and all that is not edited, is not called", calls, {}),
    ]


def _equal(promise: str, found: object, expected: object) -> Check:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
        text = ", ".join(f"{key}: {found.get(key)}, not {expected.get(key)}" for key in sorted(keys, key=str))
    else:
        text = f"{found}, not {expected}"
    return Check(promise, found == expected, text)


def _sum(rows: Sequence[Row], field: str) -> int:
    return sum(getattr(row, field) for row in rows)


def _by_step(outcome: Outcome) -> dict[tuple[str, str], Row]:
    return {(row.namespace, row.step): row for row in outcome.rows}


def _versions(outcome: Outcome) -> dict[tuple[str, str], str]:
    return {key: row.version for key, row in _by_step(outcome).items()}


def _computed(outcome: Outcome) -> Counter[tuple[str, str]]:
    return Counter({key: row.computed for key, row in _by_step(outcome).items()})


def _growth(before: Outcome, after: Outcome, step: str) -> int:
    blocks = [
        {key: row.blocks for key, row in _by_step(act).items() if key[1] == step} for act in (before, after)
    ]
    return max((number - blocks[0][key] for key, number in blocks[1].items()), default=0)

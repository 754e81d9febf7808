"""Interleaved runs: what is compared runs in turns, and ratios of neighbouring runs are summed up by their median."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Cost", "compare", "header", "timed"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    wall_s: float
    """Seconds by the clock."""
    cpu_s: float
    """Seconds of all processors, in user and system mode: trustworthy on a machine that others use."""
    user_s: float
    """The same in user mode: on virtual machines short of memory, giving pages takes any time."""


def timed(run: Callable[[], object]) -> Cost:
    """Run once.

    Parameters
    ----------
    run : callable
        What is measured. Its result is dropped within the measurement.

    Returns
    -------
    Cost
        Garbage that was there before is not in it.
    """
    gc.collect()
    wall, before = time.perf_counter(), os.times()
    run()
    after = os.times()
    user = after.user - before.user
    return Cost(time.perf_counter() - wall, user + after.system - before.system, user)


def compare(
    label: str,
    ours: Callable[[int], Callable[[], object]],
    theirs: Callable[[int], Callable[[], object]],
    *,
    repeats: int,
    limit: float | None = None,
) -> float:
    """Run two things in turns and print the medians of their ratios.

    Parameters
    ----------
    label : str
        What is printed in front.
    ours, theirs : callable
        Give, for the number of a repeat, the run that is measured; what they do themselves is not.
    repeats : int
        How often; one more of each warms up and is not counted.
    limit : float, optional
        What the ratio must not pass.

    Returns
    -------
    float
        The median ratio of processor times.
    """
    costs: list[tuple[Cost, Cost]] = []
    for number in range(repeats + 1):
        # By turns first and second, because what runs first pays for what the other left behind.
        if number % 2:
            one, other = timed(ours(number)), timed(theirs(number))
        else:
            other, one = timed(theirs(number)), timed(ours(number))
        if number:
            costs.append((one, other))
    wall = [one.wall_s / other.wall_s for one, other in costs]
    cpu = [one.cpu_s / max(other.cpu_s, 0.01) for one, other in costs]
    user = [one.user_s / max(other.user_s, 0.01) for one, other in costs]
    ratio = statistics.median(cpu)
    seconds = statistics.median(one.wall_s for one, _ in costs)
    verdict = "" if limit is None else f"   (limit {limit})"
    print(
        f"  {label:<44} cpu x{ratio:5.3f}   user x{statistics.median(user):5.3f}   wall x{statistics.median(wall):5.3f} "
        f"[{min(wall):.2f} to {max(wall):.2f}]   {1000 * seconds:8.1f} ms{verdict}",
        flush=True,
    )
    return ratio


def header(text: str) -> None:
    """Print what follows.

    Parameters
    ----------
    text : str
        One line.
    """
    print(f"\n{text}", flush=True)

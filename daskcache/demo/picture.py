"""The demo's picture: how much warmer North America gets under each scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["Scenario", "draw"]

_COLORS = {"a1b": "#c1272d", "e1": "#1f6fb4"}
_TITLES = {"a1b": "A1B: medium to high emissions", "e1": "E1: strong mitigation"}
_GREY = "#555555"
_DASHES = (0, (4, 2))


@dataclass(frozen=True, slots=True)
class Scenario:
    """The results of one scenario that are drawn."""

    warming: xr.Dataset
    """``steps`` and ``periods``, in kelvin, by region."""
    trends: xr.Dataset
    """``slope``, in kelvin a century, and ``start``, in kelvin, by region."""
    periods: xr.DataArray
    """Shape (time, latitude, longitude): the mean anomaly of each decade, in kelvin."""


def draw(
    path: Path, scenarios: Mapping[str, Scenario], *, baseline: tuple[str, str], trend_since: str
) -> None:
    """Draw warming over time, and where it is by the end of the century.

    Parameters
    ----------
    path : Path
        The PNG to write.
    scenarios : mapping of str to Scenario
        By namespace, two of them.
    baseline : tuple of str
        First and last year of the reference period.
    trend_since : str
        The year in which the fitted lines start.
    """
    # Imported here, so that the acts do not wait for it; a Figure of one's own, so that no display is looked for.
    from matplotlib.figure import Figure

    settings = {"left": 0.065, "right": 0.925, "bottom": 0.1, "top": 0.84, "wspace": 0.16, "hspace": 0.28}
    figure = Figure(figsize=(11.5, 5.6), dpi=150)
    grid = figure.add_gridspec(2, 2, width_ratios=(2.2, 1), **settings)
    lines = figure.add_subplot(grid[:, 0])
    _draw_lines(lines, scenarios, baseline, int(trend_since))
    limit = max(float(np.abs(_end(scenario)).max()) for scenario in scenarios.values())
    maps = [figure.add_subplot(grid[row, 1]) for row in range(len(scenarios))]
    images = [
        _draw_map(axes, name, scenario, limit, is_last=axes is maps[-1])
        for axes, (name, scenario) in zip(maps, scenarios.items(), strict=True)
    ]
    top, bottom = maps[0].get_position(), maps[-1].get_position()
    bar_axes = figure.add_axes((top.x1 + 0.012, bottom.y0, 0.012, top.y1 - bottom.y0))
    figure.colorbar(images[0], cax=bar_axes, label="warming (K)", extend="neither")
    left = settings["left"]
    figure.text(left, 0.94, "North America under two scenarios", fontsize=15, fontweight="bold", va="center")
    about = f"Air temperature, Met Office model, 15–60°N 135–45°W; difference from {'–'.join(baseline)}"
    figure.text(left, 0.888, about, fontsize=10, color=_GREY, va="center")
    figure.savefig(path)


def _draw_lines(axes: Any, scenarios: Mapping[str, Scenario], baseline: tuple[str, str], since: int) -> None:
    axes.axvspan(int(baseline[0]), int(baseline[1]) + 1, color="#eeeeee", lw=0, zorder=0)
    axes.axhline(0, color=_GREY, lw=0.8, zorder=1)
    shared = _count_shared(scenarios.values())
    for number, (name, scenario) in enumerate(scenarios.items()):
        if shared and number == 0:
            _draw_warming(axes, scenario.warming, slice(0, shared), _GREY, "the past, the same in both")
        _draw_warming(axes, scenario.warming, slice(max(shared - 1, 0), None), _COLORS[name], _TITLES[name])
        _draw_trend(axes, scenario, _COLORS[name], since)
    axes.plot([], [], color=_GREY, lw=0.8, alpha=0.6, label="single years")
    axes.plot([], [], color=_GREY, lw=1.6, ls=_DASHES, label=f"trend since {since}")
    middle = (int(baseline[0]) + int(baseline[1]) + 1) / 2
    bottom = axes.get_ylim()[0]
    axes.text(middle, bottom + 0.08, "baseline", color=_GREY, fontsize=9, ha="center", va="bottom")
    axes.set_ylim(bottom=bottom)
    axes.set_xlim(1858, 2130)
    axes.set_xticks(range(1860, 2101, 40))
    axes.set_xlabel("year")
    axes.set_ylabel("warming, mean over the area (K)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=False, fontsize=9.5)


def _count_shared(scenarios: Iterable[Scenario]) -> int:
    # In decades, because the last one that they share is where the lines part.
    first, *others = (scenario.warming["periods"].sel(region="all").values for scenario in scenarios)
    differs = np.any([first != other for other in others], axis=0)
    return int(np.argmax(differs)) if differs.any() else len(first)


def _draw_warming(axes: Any, warming: xr.Dataset, decades: slice, color: str, label: str) -> None:
    over_all = warming.sel(region="all")
    years = over_all["time"].dt.year.values + 0.5
    shape = (over_all.sizes["period"], -1)
    steps = over_all["steps"].values.reshape(shape)[decades]
    axes.plot(years.reshape(shape)[decades].ravel(), steps.ravel(), color=color, lw=0.8, alpha=0.4, zorder=2)
    middles = years.reshape(shape).mean(axis=1)[decades]
    order = 5 if color == _GREY else 4
    axes.plot(
        middles,
        over_all["periods"][decades],
        color=color,
        lw=2.4,
        marker="o",
        ms=4,
        zorder=order,
        label=label,
    )


def _draw_trend(axes: Any, scenario: Scenario, color: str, since: int) -> None:
    slope = float(scenario.trends["slope"].sel(region="all"))
    start = float(scenario.trends["start"].sel(region="all"))
    years = np.array([since + 0.5, int(scenario.warming["time"].dt.year[-1]) + 0.5])
    line = start + slope / 100 * (years - years[0])
    axes.plot(years, line, color=color, lw=1.6, ls=_DASHES, zorder=3)
    axes.annotate(
        f"{slope:+.1f} K\nper century",
        (years[1], line[1]),
        xytext=(8, 0),
        textcoords="offset points",
        color=color,
        fontsize=9,
        fontweight="bold",
        va="center",
    )


def _end(scenario: Scenario) -> xr.DataArray:
    return scenario.periods.isel(time=slice(-3, None)).mean("time")


def _draw_map(axes: Any, name: str, scenario: Scenario, limit: float, *, is_last: bool) -> Any:
    end = _end(scenario)
    west_east = ((end["longitude"] + 180) % 360 - 180).values
    image = axes.pcolormesh(
        west_east, end["latitude"].values, end.values, cmap="YlOrRd", vmin=0, vmax=limit, shading="nearest"
    )
    first, last = (int(scenario.periods["time"].dt.year[index]) for index in (-3, -1))
    axes.set_title(f"{name.upper()}, {first}–{last + 9}", fontsize=10, loc="left", color=_COLORS[name])
    axes.set_ylabel("latitude (°N)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_xticks([-120, -90, -60], ["120°W", "90°W", "60°W"] if is_last else [])
    if is_last:
        axes.set_xlabel("longitude", fontsize=9)
    return image

"""Figures of over-optimisation: gold and reward over the distance from the start, with the fits of gold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.comparing.aggregate import Estimate
from agents.comparing.figures import PALE, RC, finish, shape
from agents.overoptimisation.fits import Fit
from agents.training.figures import GOLD, GREY, INK, REWARD

DISTANCE = "distance from the start: √KL (√nats)"
HEIGHTS = (1.5, 1, 0.08)  # of gold, of reward, and of the space below each pair


class Course(NamedTuple):
    """Points of one run on its way from the start: distance sqrt(KL), gold less the start's, reward; each (n,)."""

    d: np.ndarray
    gold: np.ndarray
    reward: np.ndarray


class Panels(NamedTuple):
    """A panel of gold above one of reward; ``legend`` above both, where the figure has one."""

    legend: Axes | None
    gold: Axes
    reward: Axes


def algorithms(
    courses: Mapping[str, Sequence[Course]],
    fits: Mapping[str, Fit],
    path: Path,
    title: str,
    peaks: Mapping[str, Estimate] | None = None,
) -> None:
    """Gold and reward over the distance, a pair of panels for each algorithm; gold with its fit and peak.

    The fits of the others are grey lines behind it.

    Args:
        courses: algorithm -> its runs.
        fits: algorithm -> fit of gold; one that could not be fitted is left out.
        path: of the pictures, without ending.
        title: above the figure.
        peaks: algorithm -> the peak with its interval, drawn as a band.
    """
    rows, columns = shape(len(courses))
    with plt.rc_context(RC):
        figure = plt.figure(figsize=(3.1 * columns + 0.6, 3.6 * rows + 0.9), layout="constrained")
        for (name, runs), panels in zip(courses.items(), _panels(figure, len(courses), HEIGHTS), strict=True):
            for run in runs:
                panels.gold.plot(run.d, run.gold, ".", color=GOLD, markersize=5, alpha=0.6, markeredgewidth=0)
                panels.reward.plot(run.d, run.reward, ".", color=REWARD, markersize=5, alpha=0.6, markeredgewidth=0)
            panels.gold.set_title(name, loc="left")
            panels.gold.axhline(0, color=GREY, linewidth=0.8)
            for other in fits.values():
                panels.gold.plot(*_line(other), color=PALE, linewidth=0.8, zorder=1)
            if name in fits:
                _draw_fit(panels.gold, fits[name], (peaks or {}).get(name))
        figure.supxlabel(DISTANCE, fontsize=10)
        finish(figure, path, title)


def variations(
    groups: Mapping[str, Mapping[str, Sequence[Course]]],
    fits: Mapping[str, Fit],
    peaks: Mapping[str, Estimate],
    path: Path,
    title: str,
) -> None:
    """Gold and reward over the distance, a pair of panels for what is varied, a colour for each value.

    Fits have their peak as a dot and its interval as a bar, within the distances that runs reached.

    Args:
        groups: what is varied -> name of a value, in their order -> its runs.
        fits: name -> fit of gold; one that could not be fitted is left out.
        peaks: name -> the peak with its interval.
        path: of the pictures, without ending.
        title: above the figure.
    """
    rows, columns = shape(len(groups))
    deepest = max(len(values) for values in groups.values())
    heights = (0.13 * deepest, *HEIGHTS)
    with plt.rc_context(RC):
        figure = plt.figure(figsize=(3.6 * columns + 0.6, (3.8 + 0.2 * deepest) * rows + 0.9), layout="constrained")
        for (group, values), panels in zip(groups.items(), _panels(figure, len(groups), heights), strict=True):
            assert panels.legend is not None
            panels.legend.set_title(group, loc="left")
            panels.legend.axis("off")
            panels.gold.axhline(0, color=GREY, linewidth=0.8)
            colours = plt.get_cmap("viridis")(np.linspace(0.74, 0.1, max(2, len(values))))
            for y, (name, runs) in enumerate(values.items()):
                for run in runs:
                    panels.gold.plot(run.d, run.gold, ".", color=colours[y], markersize=3, alpha=0.4, markeredgewidth=0)
                    panels.reward.plot(
                        run.d, run.reward, ".", color=colours[y], markersize=3, alpha=0.5, markeredgewidth=0
                    )
                text = _draw_variation(panels.gold, fits[name], peaks[name], colours[y]) if name in fits else "no fit"
                panels.legend.text(
                    0, 1 - (y + 0.5) / deepest, f"{name}: {text}", color=colours[y], fontsize=8.5, va="center",
                    fontweight="bold", transform=panels.legend.transAxes,
                )  # fmt: skip
        figure.supxlabel(DISTANCE, fontsize=10)
        finish(figure, path, title)


def _panels(figure: Figure, count: int, heights: Sequence[float]) -> Iterator[Panels]:
    """Pairs of panels with common axes; four heights leave room for a legend. Numbers stand at the edges alone."""
    rows, columns = shape(count)
    size, above = len(heights), len(heights) - len(HEIGHTS)
    grid = figure.add_gridspec(size * rows, columns, height_ratios=list(heights) * rows)
    first: Panels | None = None
    for k in range(count):
        row, column = divmod(k, columns)
        top = size * row
        legend = figure.add_subplot(grid[top, column]) if above else None
        gold = figure.add_subplot(
            grid[top + above, column], sharex=first.gold if first else None, sharey=first.gold if first else None
        )
        reward = figure.add_subplot(grid[top + above + 1, column], sharex=gold, sharey=first.reward if first else None)
        panels = Panels(legend, gold, reward)
        first = first or panels
        yield panels
        gold.tick_params(labelbottom=False, labelleft=column == 0)
        reward.tick_params(labelbottom=k + columns >= count, labelleft=column == 0)
        if column == 0:
            gold.set_ylabel("gold gained", color="#8A6000")
            reward.set_ylabel("reward", color=REWARD)


def _draw_variation(axis: Axes, fit: Fit, peak: Estimate, colour: Any) -> str:
    """One value's fit with its peak; where the peak is, in words."""
    axis.plot(*_line(fit), color=colour, linewidth=2)
    if not fit.seen:
        return "no peak seen"
    height = float(fit.at(np.array(fit.peak)))
    if np.isfinite(peak.low):
        axis.plot(
            [float(peak.low), min(float(peak.high), fit.reach)], [height] * 2, color=colour, linewidth=5, alpha=0.45,
            solid_capstyle="butt",
        )  # fmt: skip
    axis.plot(fit.peak, height, "o", color=colour, markersize=6, markeredgecolor="white")
    interval = "" if np.isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"
    return f"peak at {fit.peak:.2f}{interval}"


def _line(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """A fit over the distances that runs reached."""
    d = np.linspace(0, fit.reach, 200)
    return d, fit.at(d)


def _draw_fit(axis: Axes, fit: Fit, peak: Estimate | None) -> None:
    """The fit, its highest point, and the interval of that."""
    axis.plot(*_line(fit), color=INK, linewidth=1.5)
    if fit.peak > 0 and fit.seen:
        axis.plot(fit.peak, float(fit.at(np.array(fit.peak))), "o", color=INK, markersize=5)
        axis.axvline(fit.peak, color=INK, linestyle=":", linewidth=1)
        if peak is not None and np.isfinite(peak.low):
            high = min(float(peak.high), fit.reach)
            axis.axvspan(float(peak.low), high, color=INK, alpha=0.1, linewidth=0, zorder=0)
    where = f"peak at {fit.peak:.2f}" if fit.seen else "no peak seen"
    axis.annotate(
        where, (1, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", ha="right", fontsize=8.5,
        color=INK,
    )  # fmt: skip

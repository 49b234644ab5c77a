"""Figures that compare algorithms: intervals, profiles, sample efficiency, pairs, and gold over the distance.

Every function writes an SVG and a PNG beside it, and keeps the order of the algorithms that it is given. Of many
algorithms each has a panel of its own, where the others stand in grey behind it: twelve colours that everybody can tell
apart do not exist.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from agents.comparing.aggregate import Estimate
from agents.overoptimisation.fits import Fit
from agents.training.figures import GOLD, GREY, INK, REWARD, STYLE

PALE = "#C8C8C8"
# The same hashes and no date: drawn again, an SVG changes only where the numbers do.
RC: dict[str, Any] = {**STYLE, "svg.hashsalt": "mmenv"}
# Worse than even bluish, better orange, even white; pale enough to be written on.
VERSUS = LinearSegmentedColormap.from_list("versus", ["#7FB8DA", "#FFFFFF", "#F2BE55"], N=512, bad="#EEEEEE")
COLUMNS = 4


class Course(NamedTuple):
    """Points of one run on its way from the start: distance sqrt(KL), gold less the start's, reward; each (n,)."""

    d: np.ndarray
    gold: np.ndarray
    reward: np.ndarray


def intervals(table: Mapping[str, Mapping[str, Estimate]], path: Path, title: str) -> None:
    """A column an aggregate, a row an algorithm: the value as a dot, its interval as a bar, and both as numbers.

    Args:
        table: algorithm -> aggregate's name -> estimate; the first on top.
        path: of the pictures, without ending.
        title: above the figure.
    """
    columns = list(next(iter(table.values())))
    names = list(reversed(table))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(
            1, len(columns), figsize=(3.1 * len(columns) + 1, 0.36 * len(names) + 1.5), sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axis, column in zip(axes[0], columns, strict=True):
            for y, name in enumerate(names):
                _bar(axis, y, table[name][column])
            axis.set_title(column + (" (less is better)" if column == "optimality gap" else ""), loc="left")
            axis.set_ylim(-0.6, len(names) - 0.4)
            axis.margins(x=0.08)
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
        axes[0, 0].set_yticks(range(len(names)), names)
        _finish(figure, path, title)


def _bar(axis: Axes, y: int, estimate: Estimate) -> None:
    if np.isfinite(estimate.low):
        axis.plot([estimate.low, estimate.high], [y, y], color=REWARD, linewidth=7, alpha=0.3, solid_capstyle="butt")
    axis.plot(estimate.value, y, "o", color=REWARD, markersize=5)
    axis.annotate(f"{estimate.value:.2f}", (estimate.value, y), xytext=(0, 5), textcoords="offset points",
                  ha="center", fontsize=7.5, color=INK)  # fmt: skip


def profiles(curves: Mapping[str, Estimate], thresholds: np.ndarray, path: Path, title: str) -> None:
    """Share of runs above each threshold, a panel an algorithm.

    Args:
        curves: algorithm -> (thresholds,).
        thresholds: (thresholds,) in the unit of scores.
        path: of the pictures, without ending.
        title: above the figure.
    """
    _multiples(curves, thresholds, path, title, "score above", "share of runs")


def efficiency(curves: Mapping[str, Estimate], tokens: np.ndarray, path: Path, title: str) -> None:
    """IQM over tokens, a panel an algorithm.

    Args:
        curves: algorithm -> (points,).
        tokens: (points,).
        path: of the pictures, without ending.
        title: above the figure.
    """
    _multiples(curves, np.asarray(tokens) / 1000, path, title, "thousand tokens", "IQM of gold", last=True)


def _multiples(
    curves: Mapping[str, Estimate], x: np.ndarray, path: Path, title: str, below: str, beside: str, last: bool = False
) -> None:
    """A panel an algorithm: its curve and band before the others in grey; ``last`` names its end."""
    names = list(curves)
    with plt.rc_context(RC):
        figure, axes = _grid(len(names), 3.1, 2.3)
        for axis, name in zip(axes, names, strict=True):
            for other in names:
                axis.plot(x, curves[other].value, color=PALE, linewidth=0.8, zorder=1)
            own = curves[name]
            axis.fill_between(x, own.low, own.high, color=REWARD, alpha=0.25, linewidth=0, zorder=2)
            axis.plot(x, own.value, color=REWARD, linewidth=2, zorder=3)
            axis.set_title(name, loc="left")
            if last:
                axis.annotate(f"{own.value[-1]:.2f}", (x[-1], own.value[-1]), xytext=(4, 0), color=REWARD, va="center",
                              textcoords="offset points", fontweight="bold", fontsize=9)  # fmt: skip
        figure.supxlabel(below, fontsize=10)
        figure.supylabel(beside, fontsize=10)
        _finish(figure, path, f"{title}\nblue: the algorithm with its 95% band; grey: the others")


def _shape(panels: int) -> tuple[int, int]:
    """Rows and columns of so many panels: five are three and two, not four and one."""
    rows = -(-panels // COLUMNS)
    return rows, -(-panels // rows)


def _grid(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """So many panels of common axes, in rows of at most ``COLUMNS``; numbers stand where nothing is below."""
    rows, columns = _shape(panels)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + 0.5, height * rows + 0.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    kept = list(axes.flat)[:panels]
    for axis in list(axes.flat)[panels:]:
        axis.remove()
    for axis in kept[-columns:]:
        axis.tick_params(labelbottom=True)
    return figure, kept


def improvement(pairs: Mapping[tuple[str, str], Estimate], path: Path, title: str, can_tell: bool = True) -> None:
    """How probably the row's algorithm beats the column's, with its interval; bold where that leaves out 0.5.

    Args:
        pairs: (x, y) -> probability that x beats y; each pair once, the other way round follows.
        path: of the pictures, without ending.
        title: above the figure.
        can_tell: whether there are enough runs for anything to be bold.
    """
    both = {**pairs, **{(y, x): Estimate(1 - e.value, 1 - e.high, 1 - e.low) for (x, y), e in pairs.items()}}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    grid = np.array([[both[x, y].value if x != y else np.nan for y in names] for x in names])
    with plt.rc_context({**RC, "axes.grid": False}):
        width, height = 0.82 * len(names) + 2.8, 0.6 * len(names) + 2.2
        figure, axis = plt.subplots(figsize=(max(6.0, width), height), layout="constrained")
        image = axis.imshow(grid, cmap=VERSUS, vmin=0, vmax=1, aspect="auto")
        for i, x in enumerate(names):
            for j, y in enumerate(names):
                if x != y:
                    _cell(axis, j, i, both[x, y], can_tell)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="left", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        axis.spines[:].set_visible(False)
        figure.colorbar(image, label="P(row beats column)", aspect=30)
        told = "bold: the 95% interval leaves out one half" if can_tell else "so few runs cannot tell: none is bold"
        _finish(figure, path, f"{title}\n{told}")


def _cell(axis: Axes, x: int, y: int, estimate: Estimate, can_tell: bool) -> None:
    known = bool(np.isfinite(estimate.low))
    sure = can_tell and known and not estimate.low <= 0.5 <= estimate.high
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "color": INK}
    weight = "bold" if sure else "normal"
    axis.annotate(f"{estimate.value:.2f}", (x, y), xytext=(0, 5 * known), fontsize=10, fontweight=weight, **style)
    if known:
        axis.annotate(f"{estimate.low:.2f}–{estimate.high:.2f}", (x, y), xytext=(0, -8), fontsize=6.5, **style)


def overoptimisation(
    courses: Mapping[str, Sequence[Course]],
    fits: Mapping[str, Fit],
    path: Path,
    title: str,
    peaks: Mapping[str, Estimate] | None = None,
) -> None:
    """Gold and reward over the distance from the start, an algorithm a pair of panels; gold with its fit and peak.

    The fits of the others stand in grey behind it.

    Args:
        courses: algorithm -> its runs.
        fits: algorithm -> fit of gold; one that could not be fitted is left out.
        path: of the pictures, without ending.
        title: above the figure.
        peaks: algorithm -> the peak with its interval, a band where it is known.
    """
    rows, columns = _shape(len(courses))
    with plt.rc_context(RC):
        figure = plt.figure(figsize=(3.1 * columns + 0.6, 3.6 * rows + 0.9), layout="constrained")
        # The third row is air below each pair.
        grid = figure.add_gridspec(3 * rows, columns, height_ratios=[1.5, 1, 0.08] * rows)
        first: dict[str, Axes] = {}
        for k, (name, runs) in enumerate(courses.items()):
            row, column = divmod(k, columns)
            gold = figure.add_subplot(grid[3 * row, column], sharex=first.get("gold"), sharey=first.get("gold"))
            reward = figure.add_subplot(grid[3 * row + 1, column], sharex=gold, sharey=first.get("reward"))
            first = first or {"gold": gold, "reward": reward}
            for run in runs:
                gold.plot(run.d, run.gold, ".", color=GOLD, markersize=5, alpha=0.6, markeredgewidth=0)
                reward.plot(run.d, run.reward, ".", color=REWARD, markersize=5, alpha=0.6, markeredgewidth=0)
            gold.set_title(name, loc="left")
            gold.axhline(0, color=GREY, linewidth=0.8)
            for other in fits:
                gold.plot(*_line(fits[other]), color=PALE, linewidth=0.8, zorder=1)
            if name in fits:
                _fitted(gold, fits[name], (peaks or {}).get(name))
            _labels(gold, reward, left=column == 0, bottom=k + columns >= len(courses))
        figure.supxlabel("distance from the start: √KL (√nats)", fontsize=10)
        _finish(figure, path, title)


def variations(
    groups: Mapping[str, Mapping[str, Sequence[Course]]],
    fits: Mapping[str, Fit],
    peaks: Mapping[str, Estimate],
    path: Path,
    title: str,
) -> None:
    """Gold and reward over the distance from the start, a pair of panels for what is varied, a colour a value.

    Fits have their peak as a dot and its interval as a bar, as far as distances were seen.

    Args:
        groups: what is varied -> name of a value, in their order -> its runs.
        fits: name -> fit of gold; one that could not be fitted is left out.
        peaks: name -> the peak with its interval.
        path: of the pictures, without ending.
        title: above the figure.
    """
    rows, columns = _shape(len(groups))
    deepest = max(len(values) for values in groups.values())
    with plt.rc_context(RC):
        figure = plt.figure(figsize=(3.6 * columns + 0.6, (3.8 + 0.2 * deepest) * rows + 0.9), layout="constrained")
        # The first row holds what the colours mean, the fourth is air.
        grid = figure.add_gridspec(4 * rows, columns, height_ratios=[0.13 * deepest, 1.5, 1, 0.08] * rows)
        first: dict[str, Axes] = {}
        for k, (group, values) in enumerate(groups.items()):
            row, column = divmod(k, columns)
            legend = figure.add_subplot(grid[4 * row, column])
            gold = figure.add_subplot(grid[4 * row + 1, column], sharex=first.get("gold"), sharey=first.get("gold"))
            reward = figure.add_subplot(grid[4 * row + 2, column], sharex=gold, sharey=first.get("reward"))
            first = first or {"gold": gold, "reward": reward}
            legend.set_title(group, loc="left")
            legend.axis("off")
            gold.axhline(0, color=GREY, linewidth=0.8)
            colours = plt.get_cmap("viridis")(np.linspace(0.74, 0.1, max(2, len(values))))
            for y, ((name, runs), colour) in enumerate(zip(values.items(), colours)):
                for run in runs:
                    gold.plot(run.d, run.gold, ".", color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
                    reward.plot(run.d, run.reward, ".", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
                told = _varied(gold, fits[name], peaks[name], colour) if name in fits else "no fit"
                legend.text(0, 1 - (y + 0.5) / deepest, f"{name}: {told}", color=colour, fontsize=8.5, va="center",
                            fontweight="bold", transform=legend.transAxes)  # fmt: skip
            _labels(gold, reward, left=column == 0, bottom=k + columns >= len(groups))
        figure.supxlabel("distance from the start: √KL (√nats)", fontsize=10)
        _finish(figure, path, title)


def _varied(axis: Axes, fit: Fit, peak: Estimate, colour: Any) -> str:
    """One value's fit with its peak; what is said of it."""
    axis.plot(*_line(fit), color=colour, linewidth=2)
    if not fit.seen:
        return "no peak seen"
    height = float(fit.at(np.array(fit.peak)))
    if np.isfinite(peak.low):
        axis.plot([peak.low, min(peak.high, fit.reach)], [height] * 2, color=colour, linewidth=5, alpha=0.45,
                  solid_capstyle="butt")  # fmt: skip
    axis.plot(fit.peak, height, "o", color=colour, markersize=6, markeredgecolor="white")
    interval = "" if np.isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"
    return f"peak at {fit.peak:.2f}{interval}"


def _line(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """A fit as far as it was seen."""
    d = np.linspace(0, fit.reach, 200)
    return d, fit.at(d)


def _fitted(axis: Axes, fit: Fit, peak: Estimate | None) -> None:
    """The fit as far as it was seen, and where it is highest."""
    axis.plot(*_line(fit), color=INK, linewidth=1.5)
    if fit.peak > 0 and fit.seen:
        axis.plot(fit.peak, fit.at(fit.peak), "o", color=INK, markersize=5)
        axis.axvline(fit.peak, color=INK, linestyle=":", linewidth=1)
        if peak is not None and np.isfinite(peak.low):
            axis.axvspan(peak.low, min(peak.high, fit.reach), color=INK, alpha=0.1, linewidth=0, zorder=0)
    where = f"peak at {fit.peak:.2f}" if fit.seen else "no peak seen"
    axis.annotate(where, (1, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", ha="right",
                  fontsize=8.5, color=INK)  # fmt: skip


def _labels(gold: Axes, reward: Axes, left: bool, bottom: bool) -> None:
    """Numbers and names only at the figure's edges."""
    gold.tick_params(labelbottom=False, labelleft=left)
    reward.tick_params(labelbottom=bottom, labelleft=left)
    if left:
        gold.set_ylabel("gold gained", color="#8A6000")
        reward.set_ylabel("reward", color=REWARD)


def _finish(figure: Figure, path: Path, title: str) -> None:
    """Title, both files, and the figure's memory back."""
    width = int(10.5 * figure.get_figwidth())  # characters of this size; a longer line would be cut off
    title = "\n".join(textwrap.fill(line, width) for line in title.splitlines())
    figure.suptitle(title, fontweight="bold", fontsize=11)
    figure.savefig(f"{path}.svg", metadata={"Date": None})
    figure.savefig(f"{path}.png")
    plt.close(figure)

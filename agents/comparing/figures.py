"""Figures that compare algorithms: intervals, profiles, sample efficiency and pairs.

Every function writes an SVG and a PNG beside it, and keeps the order of its algorithms. Each algorithm has
a panel, with the others as grey lines behind it: there are no twelve colours that everybody can tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from agents.comparing.aggregate import Estimate
from agents.training.figures import INK, REWARD, STYLE

PALE = "#C8C8C8"
# The same hashes and no date: drawn again, an SVG changes only where the numbers do.
RC: Any = {**STYLE, "svg.hashsalt": "mmenv"}
# Worse than even bluish, better orange, even white; pale enough to be written on.
VERSUS = LinearSegmentedColormap.from_list("versus", ["#7FB8DA", "#FFFFFF", "#F2BE55"], N=512, bad="#EEEEEE")
COLUMNS = 4


def intervals(table: Mapping[str, Mapping[str, Estimate]], path: Path, title: str) -> None:
    """A column an aggregate, a row an algorithm: the value as a dot, its interval as a bar, and both as numbers.

    Args:
        table: algorithm -> aggregate's name -> estimate; the first on top.
        path: of the pictures, without ending.
        title: above the figure.
    """
    columns = list(next(iter(table.values())))
    names = list(table)[::-1]
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
        finish(figure, path, title)


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
            estimate, values = curves[name], np.asarray(curves[name].value)
            axis.fill_between(x, estimate.low, estimate.high, color=REWARD, alpha=0.25, linewidth=0, zorder=2)
            axis.plot(x, estimate.value, color=REWARD, linewidth=2, zorder=3)
            axis.set_title(name, loc="left")
            if last:
                axis.annotate(f"{values[-1]:.2f}", (x[-1], values[-1]), xytext=(4, 0), color=REWARD, va="center",
                              textcoords="offset points", fontweight="bold", fontsize=9)  # fmt: skip
        figure.supxlabel(below, fontsize=10)
        figure.supylabel(beside, fontsize=10)
        finish(figure, path, f"{title}\nblue: the algorithm with its 95% band; grey: the others")


def shape(panels: int) -> tuple[int, int]:
    """Rows and columns for a number of panels: five are three and two, not four and one."""
    rows = -(-panels // COLUMNS)
    return rows, -(-panels // rows)


def _grid(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """So many panels of common axes, in rows of at most ``COLUMNS``; numbers stand where nothing is below."""
    rows, columns = shape(panels)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + 0.5, height * rows + 0.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    used = list(axes.flat)[:panels]
    for axis in list(axes.flat)[panels:]:
        axis.remove()
    for axis in used[-columns:]:
        axis.tick_params(labelbottom=True)
    return figure, used


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
        note = "bold: the 95% interval leaves out one half" if can_tell else "so few runs cannot tell: none is bold"
        finish(figure, path, f"{title}\n{note}")


def _cell(axis: Axes, x: int, y: int, estimate: Estimate, can_tell: bool) -> None:
    has_interval = bool(np.isfinite(estimate.low))
    is_sure = can_tell and has_interval and not estimate.low <= 0.5 <= estimate.high
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "color": INK}
    weight = "bold" if is_sure else "normal"
    axis.annotate(
        f"{estimate.value:.2f}", (x, y), xytext=(0, 5 * has_interval), fontsize=10, fontweight=weight, **style
    )
    if has_interval:
        axis.annotate(f"{estimate.low:.2f}–{estimate.high:.2f}", (x, y), xytext=(0, -8), fontsize=6.5, **style)


def finish(figure: Figure, path: Path, title: str) -> None:
    """Title, both files, and the figure's memory back."""
    width = int(10.5 * figure.get_figwidth())  # characters of this size; a longer line would be cut off
    title = "\n".join(textwrap.fill(line, width) for line in title.splitlines())
    figure.suptitle(title, fontweight="bold", fontsize=11)
    figure.savefig(f"{path}.svg", metadata={"Date": None})
    figure.savefig(f"{path}.png")
    plt.close(figure)

"""The pictures of a run: curves over tokens, and samples before and after."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

from mmenv.data.sample import Sample
from mmenv.envs import fonts
from mmenv.models.ceilings import Marks

# Colours of Okabe and Ito, which colour-blind readers can distinguish.
GOLD, REWARD, KL, LENGTH, ENTROPY, ENDED = "#E69F00", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#56B4E9"
TYPEFACE = "DejaVu Sans"  # matplotlib's default
JUDGE, GREY, INK = "#7A5195", "#777777", "#222222"
STYLE: Any = {  # matplotlib has a type of its own for the keys
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10,
    "axes.titleweight": "bold", "axes.titlesize": 11, "figure.dpi": 130, "legend.frameon": False,
}  # fmt: skip


class Panel(NamedTuple):
    """One curve: a column of the metrics, its colour, its title, and the range of its axis, if it is fixed."""

    name: str
    colour: str
    title: str
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("gold", GOLD, "gold: what is true", (0, 1.02)),
    Panel("reward", REWARD, "reward"),
    Panel("kl", KL, "KL to the start (nats a response)"),
    Panel("length", LENGTH, "tokens a response"),
    Panel("entropy", ENTROPY, "entropy (nats a token)"),
    Panel("ended", ENDED, "responses that end by themselves", (0, 1.02)),
)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` values at each point, without nan; nan where all are nan."""
    valid = ~np.isnan(values)
    sums = np.cumsum(np.insert(np.where(valid, values, 0.0), 0, 0.0))
    counts = np.cumsum(np.insert(valid.astype(float), 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    n = counts[ends] - counts[starts]
    return np.where(n > 0, (sums[ends] - sums[starts]) / np.maximum(n, 1), np.nan)


def curves(
    metrics: list[dict[str, Any]],
    path: Path,
    title: str,
    alarm: int | None = None,
    reward_is: str = "what was trained on",
    evaluations: tuple[dict[str, Any], dict[str, Any]] | None = None,
    marks: Marks | None = None,
) -> None:
    """Gold beside reward, KL, length, entropy and ends over tokens, in panels that share their horizontal axis.

    Args:
        metrics: a row an update; ``judge``, if it is there, is drawn beside reward.
        path: the picture.
        title: above all panels.
        alarm: tokens at which the hacking alarm went off, marked in every panel.
        reward_is: what the reward is to the algorithm, in the title of its panel.
        evaluations: before and after training, drawn as diamonds at both ends.
        marks: gold of start and oracle, whose line is drawn.
    """
    tokens = np.array([m["tokens"] for m in metrics]) / 1000
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(13, 6.2), sharex=True, layout="constrained")
        for axis, panel in zip(axes.flat, PANELS, strict=True):
            if panel.name == "reward":
                panel = panel._replace(title=f"reward: {reward_is}")
                axis.axhline(0, color=GREY, linewidth=0.8)
            _curve(axis, tokens, np.array([m.get(panel.name, np.nan) for m in metrics], dtype=float), panel)
            if evaluations and len(tokens):
                _evaluated(axis, [e.get(panel.name) for e in evaluations], tokens[-1], panel.colour)
            if evaluations and len(tokens) and panel.name == "gold":
                greedy = [e.get("greedy", {}).get("gold") for e in evaluations]
                _evaluated(axis, greedy, tokens[-1], GREY, ("greedy", "greedy"), label_at=6)
        if marks is not None:
            axes[0, 0].axhline(marks.oracle, color=GREY, linestyle="--", linewidth=1)
            axes[0, 0].text(0.01, marks.oracle + 0.01, "oracle, greedy", color=GREY, fontsize=8,
                            transform=axes[0, 0].get_yaxis_transform())  # fmt: skip
        if any("judge" in m for m in metrics):
            judge = smooth(np.array([m.get("judge", np.nan) for m in metrics], dtype=float), max(1, len(tokens) // 30))
            axes[0, 1].plot(tokens, judge, color=JUDGE, linewidth=2)
            axes[0, 1].annotate("judge", (tokens[-1], judge[-1]), xytext=(4, 0), textcoords="offset points",
                                color=JUDGE, fontsize=9, va="center", annotation_clip=False)  # fmt: skip
        if alarm is not None:
            for axis in axes.flat:
                axis.axvline(alarm / 1000, color=ENTROPY, linestyle=":", linewidth=1.5)
            axes[0, 0].text(alarm / 1000, 0.02, " alarm", color=ENTROPY, fontsize=9)
        for axis in axes[1]:
            axis.set_xlabel("thousand tokens")
        figure.suptitle(title, fontweight="bold")
        figure.savefig(path)
        plt.close(figure)


def _curve(axis: Axes, tokens: np.ndarray, values: np.ndarray, panel: Panel) -> None:
    axis.set_title(panel.title, loc="left")
    if panel.limits:
        axis.set_ylim(*panel.limits)
    valid = ~np.isnan(values)
    if not valid.any():
        why = "not known for this task" if panel.name == "gold" else "not logged by this algorithm"
        axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", color=GREY)
        return
    # One update has no line; a dot shows it.
    few = "o" if valid.sum() < 3 else ""
    axis.plot(tokens, values, color=panel.colour, alpha=0.25, linewidth=1, marker=few)
    mean = smooth(values, max(1, len(tokens) // 30))
    axis.plot(tokens, mean, color=panel.colour, linewidth=2)
    axis.annotate(
        f"{mean[valid][-1]:.2f}", (tokens[valid][-1], mean[valid][-1]), xytext=(4, 0), textcoords="offset points",
        color=panel.colour, fontweight="bold", fontsize=9, va="center", annotation_clip=False,
    )  # fmt: skip


def _evaluated(
    axis: Axes,
    values: list[float | None],
    end: float,
    colour: str,
    labels: tuple[str, str] = ("before", "after"),
    label_at: int = -11,
) -> None:
    """The evaluations before and after training, where there are values; each has a label so many points above it."""
    for at, value, when in zip((0.0, end), values, labels, strict=True):
        if value is not None:
            axis.plot(at, value, "D", color=colour, markerfacecolor="white", markersize=6, zorder=4, clip_on=False)
            axis.annotate(when, (at, value), xytext=(0, label_at), textcoords="offset points", color=colour, fontsize=7,
                          ha="center", annotation_clip=False)  # fmt: skip


def rounds(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Gold, reward, KL and labels by round of the loop; gold and reward before and after each round."""
    x = np.arange(1, len(rows) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
        for axis, name, colour, about in (
            (axes[0], "gold", GOLD, "gold: what is true"),
            (axes[1], "reward", REWARD, "reward: what was trained on"),
        ):
            has_score = [r[name]["after"] is not None for r in rows]
            axis.set_title(about, loc="left")
            if not all(has_score):
                axis.text(0.5, 0.5, "not known for this task", transform=axis.transAxes, ha="center", color=GREY)
                continue
            for k, r in enumerate(rows):
                # Each round has another reward function, so that no line joins two rounds.
                axis.plot([k + 0.5, k + 1], [r[name]["before"], r[name]["after"]], color=colour, marker="o")
                axis.annotate(f"{r[name]['after']:.2f}", (k + 1, r[name]["after"]), xytext=(0, 5), fontsize=8,
                              textcoords="offset points", ha="center", color=colour)  # fmt: skip
        axes[0].set_ylim(0, 1.06)
        for axis, values, colour, about in (
            (axes[2], [r["kl"] for r in rows], KL, "KL to the round's start (nats)"),
            (axes[3], [r["labels"] for r in rows], LENGTH, "labels so far"),
        ):
            axis.bar(x, values, color=colour, width=0.55)
            axis.set_title(about, loc="left")
        for axis in axes:
            axis.set_xticks(x)
            axis.set_xlim(0.3, len(rows) + 0.6)
            axis.set_xlabel("round")
        figure.suptitle(title, fontweight="bold")
        figure.savefig(path)
        plt.close(figure)


def samples(pairs: list[tuple[Sample, dict[str, Any], dict[str, Any]]], path: Path) -> None:
    """Pictures with their prompt, and the responses of the policy before and after training."""
    if not pairs:
        return
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    responses = [(_response(old), _response(new)) for _, old, new in pairs]
    written = "".join(text for sample, *_ in pairs for text in (sample.prompt, sample.said)) + "".join(
        map("".join, responses)
    )
    lines = 1 + max(text.count("\n") for both in responses for text in both)
    box = 2 * (0.34 + 0.15 * lines)  # inches: no more than the longest response needs
    families = _families(written)
    weight = "bold" if len(families) == 1 else "normal"  # few typefaces of other scripts are bold
    with plt.rc_context({**STYLE, "axes.grid": False, "font.family": families, "axes.titleweight": weight}):
        figure = plt.figure(figsize=(3.2 * columns, (3.2 + box) * rows), layout="constrained")
        # Each sample has a picture and, below it, a box of text of its own height, so that nothing overlaps.
        grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3.2, box] * rows, wspace=0.1)
        for k, (sample, old, new) in enumerate(pairs):
            row, column = divmod(k, columns)
            _picture(figure.add_subplot(grid[2 * row, column]), sample)
            _texts(figure.add_subplot(grid[2 * row + 1, column]), (old, new), responses[k], 0.2 / box)
        with warnings.catch_warnings():
            # A missing font was warned of before; samples.jsonl has the text.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(path)
        plt.close(figure)


def _families(text: str) -> list[str]:
    """matplotlib's typeface, and installed ones that have the characters of a text that it lacks."""
    default = Path(font_manager.findfont(TYPEFACE))
    missing = [c for c in dict.fromkeys(text) if not fonts.has(default, c)]
    paths = dict.fromkeys(path for c in missing if (path := fonts.fallback(c)))
    for path in paths:
        font_manager.fontManager.addfont(path)
    return [TYPEFACE, *(font_manager.FontProperties(fname=path).get_name() for path in paths)]


def _picture(axis: Axes, sample: Sample) -> None:
    """The picture under its prompt; where there is none, the sound."""
    axis.axis("off")
    if sample.image is not None:
        axis.imshow(sample.image, interpolation="nearest")
        axis.set_anchor("W")  # where its text begins
    elif sample.audio is not None:
        axis.plot(sample.audio, color=GREY, linewidth=0.5)
    prompt = sample.prompt or sample.said or "(a spoken question)"
    reference = [_wrap(f"right: {sample.references[0]}", 44, 1)] if sample.references else []
    axis.set_title("\n".join([_wrap(prompt, 38, 2), *reference]), fontsize=9, color=INK, loc="left")


def _response(row: dict[str, Any]) -> str:
    return _wrap(row["response"] or "(silence)", 44, 3)


def _texts(axis: Axes, rows: tuple[dict[str, Any], ...], responses: tuple[str, str], line: float) -> None:
    """Both responses with gold and reward; ``line`` is the share of the height that a line of text takes."""
    axis.axis("off")
    for y, when, row, text, colour in zip((1.0, 0.5), ("before", "after"), rows, responses, (GREY, INK), strict=True):
        gold = "" if row["gold"] is None else f"gold {row['gold']:.2f}   "
        axis.text(0, y, when, transform=axis.transAxes, fontsize=8, color=colour, fontweight="bold", va="top",
                  family=TYPEFACE)  # fmt: skip
        worth = f"{gold}reward {row['reward']:+.2f}"
        axis.text(1, y, worth, transform=axis.transAxes, fontsize=8, color=colour, va="top", ha="right")
        axis.text(0, y - line, text, transform=axis.transAxes, fontsize=8, color=colour, va="top")


def _wrap(text: str, width: int, lines: int) -> str:
    """At most so many lines; what does not fit ends in an ellipsis."""
    # A dollar sign would begin a formula.
    return "\n".join(fonts.wrapped(fonts.drawable(text), width, lines)).replace("$", r"\$")

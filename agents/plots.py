"""The pictures of a run: curves over tokens, and samples before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mmenv.data.sample import Sample

# Okabe and Ito's colours, told apart by everybody.
GOLD, REWARD, KL, LENGTH, GREY = "#E69F00", "#0072B2", "#CC79A7", "#009E73", "#777777"
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10,
    "axes.titleweight": "bold", "axes.titlesize": 11, "figure.dpi": 130, "legend.frameon": False,
}  # fmt: skip


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` values at each point."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def curves(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    """Gold, reward, KL and length over tokens, in four panels that share their horizontal axis."""
    panels = [("gold", GOLD, "gold"), ("reward", REWARD, "reward"), ("kl", KL, "KL to the start (nats)"), ("length", LENGTH, "tokens a response")]
    tokens = np.array([m["tokens"] for m in metrics]) / 1000
    window = max(1, len(tokens) // 30)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
        for axis, (name, colour, label) in zip(axes.flat, panels):
            values = np.array([m.get(name, np.nan) for m in metrics], dtype=float)
            axis.plot(tokens, values, color=colour, alpha=0.25, linewidth=1)
            axis.plot(tokens, smooth(values, window), color=colour, linewidth=2)
            axis.set_title(label, loc="left")
        axes[0, 0].set_ylim(0, 1.02)
        for axis in axes[1]:
            axis.set_xlabel("thousand tokens")
        figure.suptitle(title)
        figure.savefig(path)
        plt.close(figure)


def samples(pairs: list[tuple[Sample, dict[str, Any], dict[str, Any]]], path: Path) -> None:
    """Pictures with their prompt, and what the policy said before and after training."""
    if not pairs:
        return
    columns = 4
    rows = -(-len(pairs) // columns)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 3.5 * rows), layout="constrained", squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, (sample, old, new) in zip(axes.flat, pairs):
            if sample.image is not None:
                axis.imshow(sample.image, interpolation="nearest")
            axis.set_title(_wrap(sample.prompt or "(a spoken question)"), fontsize=9, loc="left")
            for k, (word, row, colour) in enumerate((("before", old, GREY), ("after", new, REWARD))):
                text = f"{word}: {row['response'] or '(silence)'}  [gold {row['gold']:.2f}]"
                axis.text(0, -0.04 - 0.17 * k, _wrap(text), transform=axis.transAxes, fontsize=8, color=colour, va="top")
        figure.savefig(path)
        plt.close(figure)


def _wrap(text: str, width: int = 42) -> str:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += word + " "
    return "\n".join([*lines, line]).strip()

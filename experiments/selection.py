"""Does it matter which pairs people are asked about? Preference accuracy over the number of labels.

    python -m experiments.selection            # docs/selection.json, docs/img/selection.png, docs/preference_models.md
    python -m experiments.selection page       # figure and table again, from docs/selection.json

Pairs of the start's responses are judged once a seed by an annotator with 10% slips. Each strategy begins with the same
labels, trains an ensemble on what it has, asks for as many again, and so on. Accuracy is agreement with gold on
held-out pairs of the validation split whose golds differ by at least 0.05.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track
from scipy import stats
from torch import Tensor

from agents.training import figures
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.selection import STRATEGIES, select
from mmenv.models.checkpoints import load_pretrained
from mmenv.models.transformer import Network
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import fit_members, fresh_models, preference_spread
from mmenv.rewards.preference.evidence import Evidence, flatten
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, all_features, head_scores
from scripts.make_weights import sample_pairs

DOCS = Path(__file__).parent.parent / "docs"
LABELS = (50, 100, 200, 400, 800)
POOL, HELD_OUT, MEMBERS, SEEDS = 2400, 1000, 5, 5
ANNOTATOR = SyntheticAnnotator(0.05, flip=0.1)
CONFIG = RewardConfig()
COLOURS = dict(zip(STRATEGIES, (figures.GREY, figures.ENTROPY, figures.REWARD), strict=True))
BEGIN, END = "<!-- selection: written by experiments/selection.py -->", "<!-- end of selection -->"


class Read(NamedTuple):
    """Pairs with what the backbone makes of their responses; pair i has responses 2i and 2i + 1."""

    pairs: Pairs
    features: Tensor
    mask: Tensor


def read(backbone: Network, task: str, split: str, n: int, seed: int) -> Read:
    """Pairs of a split, read once."""
    pairs = sample_pairs(task, split, n, seed)
    return Read(pairs, *all_features(fresh_models(backbone, 0, 1)[0], *pairs.flat()))


def judge(pairs: Pairs, seed: int) -> tuple[list[Comparison], Evidence]:
    """Every pair of the pool, and the label it will have if it is asked for; rows of it count the responses."""
    rng = np.random.default_rng([seed, 17])
    bare = [
        Comparison(s.id, s.prompt, tuple(r.text for r in both), stops=tuple(r.stop for r in both))
        for s, both in zip(pairs.samples, pairs.responses, strict=True)
    ]
    judged = [ANNOTATOR.judge(c, g, rng) for c, g in zip(bare, pairs.gold, strict=True)]
    return bare, flatten(judged, pairs.samples, CONFIG)[2]


def curve(backbone: Network, pool: Read, test: Read, strategy: str, seed: int) -> list[float]:
    """Accuracy on the held-out pairs after each number of labels."""
    comparisons, evidence = judge(pool.pairs, seed)
    rng = np.random.default_rng(seed)
    asked = select(comparisons, LABELS[0], "random", rng=rng)  # the same for every strategy
    found = []
    for step, labels in enumerate(LABELS):
        models = fresh_models(backbone, 100 * seed + step, MEMBERS)
        config = dataclasses.replace(CONFIG, seed=100 * seed + step)
        fit_members(models, pool.features, pool.mask, evidence.take(torch.tensor(asked)), config)
        scale = torch.tensor([[m.mean, m.std] for m in models])
        held = (raw_scores(models, test) - scale[:, :1]) / scale[:, 1:]
        found.append(accuracy(held.mean(0).numpy(), test.pairs))
        if labels == LABELS[-1]:
            return found
        raw = raw_scores(models, pool).numpy()
        left = sorted(set(range(len(comparisons))) - set(asked))
        doubt = np.array([preference_spread(raw[:, 2 * i : 2 * i + 2]) for i in left])
        more = LABELS[step + 1] - labels
        chosen = select([comparisons[i] for i in left], more, strategy, lambda _, d=doubt: d, rng)  # type: ignore[misc]
        asked += [left[i] for i in chosen]
    return found


def raw_scores(models: list[PreferenceModel], read: Read) -> Tensor:
    """Scores (members, 2n) of all responses, before normalisation."""
    return torch.stack([head_scores(m.head, read.features, read.mask) for m in models])


def accuracy(scores: np.ndarray, pairs: Pairs) -> float:
    """Share of the distinct pairs that scores (2n,) order as gold does."""
    gap, gold = np.diff(scores.reshape(-1, 2))[:, 0], np.diff(pairs.gold)[:, 0]
    keep = pairs.distinct
    return float(((gap > 0) == (gold > 0))[keep].mean())


def run(task: str) -> dict[str, Any]:
    """The curves of a task by strategy, and how they were made."""
    torch.set_num_threads(1)
    backbone, started = load_pretrained("base"), time.perf_counter()
    pool, test = read(backbone, task, "train", POOL, 5), read(backbone, task, "validation", HELD_OUT, 6)
    curves: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
    for seed in track(range(SEEDS), f"{task} seeds"):
        for strategy in STRATEGIES:
            curves[strategy].append(curve(backbone, pool, test, strategy, seed))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    about = {
        "labels": LABELS, "pool": POOL, "held_out": HELD_OUT, "members": MEMBERS, "epochs": CONFIG.epochs,
        "batch": CONFIG.batch, "annotator": {"temperature": ANNOTATOR.temperature, "flip": ANNOTATOR.flip},
        "seconds": round(time.perf_counter() - started), "commit": commit.strip(), "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    return {"about": about, "curves": {task: curves}}


def difference(one: list[list[float]], other: list[list[float]], step: int) -> tuple[float, float, float]:
    """Mean difference in points at a number of labels, and the 95% t interval over paired seeds."""
    gap = 100 * (np.array(one)[:, step] - np.array(other)[:, step])
    half = float(stats.t.ppf(0.975, len(gap) - 1) * stats.sem(gap))
    return float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half)


def figure(curves: dict[str, Any], path: Path) -> None:
    """Accuracy over labels: a line a seed, the mean in bold."""
    with plt.rc_context(figures.STYLE):
        chart, axes = plt.subplots(
            1, len(curves), figsize=(5.2 * len(curves), 3.9), layout="constrained", squeeze=False
        )
        for axis, (task, by_strategy) in zip(axes[0], curves.items(), strict=True):
            for strategy, rows in by_strategy.items():
                colour = COLOURS[strategy]
                for row in rows:
                    axis.plot(LABELS, row, color=colour, alpha=0.2, linewidth=0.8)
                axis.plot(LABELS, np.mean(rows, 0), color=colour, linewidth=2, marker="o", markersize=3, label=strategy)
            axis.set_xscale("log")
            axis.set_xticks(LABELS, map(str, LABELS))
            axis.minorticks_off()
            axis.set_xlabel("labels")
            axis.set_title(task, loc="left")
        axes[0, 0].set_ylabel("agreement with gold, held-out pairs")
        axes[0, 0].legend(loc="lower right")
        chart.savefig(path)
        plt.close(chart)


def section(stored: dict[str, Any]) -> str:
    """The part of the page that the numbers write."""
    about, lines = stored["about"], []
    lines += [
        f"Agreement with gold in percent, mean of {SEEDS} seeds; below, the difference to random in points with the "
        f"95% t interval over paired seeds. Pool of {about['pool']:,} pairs, {about['held_out']:,} held-out pairs, an "
        f"ensemble of {about['members']} trained anew at each step, {about['annotator']['flip']:.0%} of the labels "
        f"turned round; commit {about['commit']}, torch {about['torch']}.", "",
        "| task | strategy | " + " | ".join(f"{n:,}" for n in about["labels"]) + " |",
        "|---|---|" + "---|" * len(about["labels"]),
    ]  # fmt: skip
    for task, by_strategy in stored["curves"].items():
        for strategy, rows in by_strategy.items():
            cells = " | ".join(f"{100 * v:.1f}" for v in np.mean(rows, 0))
            lines.append(f"| {task} | {strategy} | {cells} |")
        for strategy in STRATEGIES[1:]:
            found = [difference(by_strategy[strategy], by_strategy["random"], i) for i in range(1, len(LABELS))]
            cells = " | ".join(f"{m:+.1f} [{low:+.1f}, {high:+.1f}]" for m, low, high in found)
            lines.append(f"| {task} | {strategy} - random | | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "page"), default="all")
    parser.add_argument("--tasks", nargs="*", default=["vqa", "captioning"])
    args = parser.parse_args()
    data, page = DOCS / "selection.json", DOCS / "preference_models.md"
    if args.what == "all":
        before = json.loads(data.read_text(encoding="utf-8"))["curves"] if data.is_file() else {}
        for task in args.tasks:  # each is kept as soon as it is done
            found = run(task)
            before = found["curves"] = {**before, **found["curves"]}
            data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(data.read_text(encoding="utf-8"))
    figure(stored["curves"], DOCS / "img" / "selection.png")
    text = page.read_text(encoding="utf-8")
    between = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    page.write_text(between.sub(lambda _: f"{BEGIN}\n{section(stored)}\n{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main()

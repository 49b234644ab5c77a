"""Does it matter which pairs people are asked about? Preference accuracy over the number of labels.

    python -m experiments.selection run        # docs/selection.json, then the page
    python -m experiments.selection page       # figure and table of docs/preference_models.md, from docs/selection.json

Pairs of the start's responses are judged once a seed by an annotator with 10% slips. Each strategy begins with the same
labels, trains an ensemble on what it has, asks for as many again, and so on. Accuracy is agreement with gold on
held-out pairs of the validation split whose golds differ by at least 0.1.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from rich.progress import track

from agents.comparing import tables
from agents.comparing.aggregate import mean_interval
from agents.training import figures, run_folder
from experiments.pages import DOCS, figure, read_data, write_data, write_section
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.selection import STRATEGIES, select
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import each_of, fit_members, fresh_models, preference_spread
from mmenv.rewards.preference.evidence import Evidence, flatten
from mmenv.rewards.preference.files import Backbone, read_backbone
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.reading import PART, Reader, Reading
from mmenv.rewards.preference.training import Pairs
from scripts.preference_weights import sample_pairs

LABELS = (50, 100, 200, 400, 800)
POOL, HELD_OUT, MEMBERS, SEEDS = 2400, 1000, 5, 5
ANNOTATOR = SyntheticAnnotator(0.05, flip=0.1)
CONFIG = RewardConfig()
COLOURS = dict(zip(STRATEGIES, (figures.GREY, figures.ENTROPY, figures.REWARD), strict=True))


class Pool(NamedTuple):
    """Pairs as the models read them; pair i has responses 2i and 2i + 1."""

    pairs: Pairs
    reading: Reading


def pool_of(parent: Backbone, task: str, split: str, n: int, seed: int) -> Pool:
    """Pairs of a split, their media encoded once."""
    pairs = sample_pairs(task, split, n, seed)
    return Pool(pairs, Reader(parent.network, parent.tokenizer, "selection").read_many(*pairs.flat()))


def judge(pairs: Pairs, seed: int) -> tuple[list[Comparison], Evidence]:
    """Every pair of the pool, and the label it will have if it is asked for; rows of it count the responses."""
    rng = np.random.default_rng([seed, 17])
    bare = [
        Comparison(s.id, s.prompt, tuple(r.text for r in both), stops=tuple(r.stop for r in both))
        for s, both in zip(pairs.samples, pairs.responses, strict=True)
    ]
    judged = [ANNOTATOR.judge(c, g, rng) for c, g in zip(bare, pairs.gold, strict=True)]
    return bare, flatten(judged, pairs.samples, CONFIG)[2]


def curve(parent: Backbone, pool: Pool, test: Pool, strategy: str, seed: int) -> list[float]:
    """Accuracy on the held-out pairs after each number of labels."""
    comparisons, evidence = judge(pool.pairs, seed)
    rng = np.random.default_rng(seed)
    labelled = select(comparisons, LABELS[0], "random", rng=rng)  # the same for every strategy
    accuracies = []
    for step, labels in enumerate(LABELS):
        config = dataclasses.replace(CONFIG, seed=100 * seed + step)
        models = fresh_models(parent, config, MEMBERS)
        fit_members(models, pool.reading, evidence.take(torch.tensor(labelled)), config)
        accuracies.append(accuracy(member_scores(models, test).mean(0), test.pairs))
        if labels == LABELS[-1]:
            return accuracies
        raw = member_scores(models, pool) * np.array([[m.std] for m in models])
        left = sorted(set(range(len(comparisons))) - set(labelled))
        doubt = np.array([preference_spread(raw[:, 2 * i : 2 * i + 2]) for i in left])
        more = LABELS[step + 1] - labels
        chosen = select([comparisons[i] for i in left], more, strategy, lambda _, d=doubt: d, rng)  # type: ignore[misc]
        labelled += [left[i] for i in chosen]
    return accuracies


@torch.no_grad()
def member_scores(models: list[PreferenceModel], pool: Pool) -> np.ndarray:
    """Normalised scores (members, 2n) of all responses."""
    parts = torch.split(torch.arange(2 * len(pool.pairs.samples)), PART)
    return torch.cat([each_of(models, pool.reading.take(rows)) for rows in parts], 1).numpy()


def accuracy(scores: np.ndarray, pairs: Pairs) -> float:
    """Share of the distinct pairs that scores (2n,) order as gold does."""
    gap, gold = np.diff(scores.reshape(-1, 2))[:, 0], np.diff(pairs.gold)[:, 0]
    keep = pairs.distinct
    return float(((gap > 0) == (gold > 0))[keep].mean())


def run(tasks: tuple[str, ...] = ("vqa", "captioning")) -> None:
    """Measure the curves of every task; each task is stored as soon as it is done."""
    torch.set_num_threads(1)
    for task in tasks:
        parent, started = read_backbone("start"), time.perf_counter()
        pool, test = pool_of(parent, task, "train", POOL, 5), pool_of(parent, task, "validation", HELD_OUT, 6)
        curves: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
        for seed in track(range(SEEDS), f"{task} seeds"):
            for strategy in STRATEGIES:
                curves[strategy].append(curve(parent, pool, test, strategy, seed))
        about = {
            "labels": list(LABELS), "pool": POOL, "held_out": HELD_OUT, "members": MEMBERS, "epochs": CONFIG.epochs,
            "batch": CONFIG.batch, "annotator": {"temperature": ANNOTATOR.temperature, "flip": ANNOTATOR.flip},
            "seconds": round(time.perf_counter() - started), "commit": run_folder.commit(), **run_folder.versions(),
        }  # fmt: skip
        stored = read_data("selection").get("curves", {})
        write_data("selection", {"about": about, "curves": {**stored, task: curves}})
        page()


def draw(curves: dict[str, Any]) -> None:
    """Accuracy over labels: a line a seed, the mean in bold."""
    with figure("selection", 1, len(curves), (5.2 * len(curves), 3.9)) as (_, axes):
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


def section(stored: dict[str, Any]) -> str:
    """The table, and what its numbers are."""
    about, lines = stored["about"], []
    for task, by_strategy in stored["curves"].items():
        percent = {strategy: 100 * np.array(rows) for strategy, rows in by_strategy.items()}  # (seeds, numbers)
        lines += [[task, strategy, *(f"{v:.1f}" for v in p.mean(0))] for strategy, p in percent.items()]
        for strategy in STRATEGIES[1:]:
            gaps = (percent[strategy] - percent["random"])[:, 1:]
            cells = [tables.as_text(mean_interval(gap), 1, sign="+") for gap in gaps.T]
            lines.append([task, f"{strategy} - random", "", *cells])
    text = (
        f"The table shows agreement with gold in percent, the mean of {SEEDS} seeds. Rows with a minus show the "
        "difference to random in points, with the 95% t interval over paired seeds. "
        f"The pool has {about['pool']:,} pairs, the test {about['held_out']:,} held-out pairs. "
        f"At each step an ensemble of {about['members']} is trained from scratch; {about['annotator']['flip']:.0%} of "
        f"the labels are flipped. Commit {about['commit']}, torch {about['torch']}."
    )
    return text + "\n\n" + tables.table(["task", "strategy", *(f"{n:,}" for n in about["labels"])], lines)


def page() -> None:
    """Write the table of docs/preference_models.md between its marks, and its figure."""
    stored = read_data("selection")
    draw(stored["curves"])
    picture = "![Agreement with gold over labels](img/selection.png)"
    write_section(DOCS / "preference_models.md", "selection", f"{picture}\n\n{section(stored)}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)

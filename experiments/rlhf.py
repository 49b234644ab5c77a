"""Rounds of RLHF against one round, and one preference model against ensembles: docs/rlhf.md.

    python -m experiments.rlhf loop      # rounds of RLHF against one round with the same PPO tokens
    python -m experiments.rlhf defaults  # the loop with its defaults, an ensemble of five and a kl_coef of 0.05
    python -m experiments.rlhf labels    # that one round with ensembles of five on the same labels
    python -m experiments.rlhf ensemble  # the same for the few labels of the shipped weak models, and greedy PPO
    python -m experiments.rlhf page      # tables and figures from docs/feedback.json

Runs land in runs/feedback and are not repeated. ``--seeds 0 5`` is the range of seeds. The numbers of a run that is in
docs/feedback.json stay there when its folder is gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console

from agents import files
from agents.comparing import results, tables
from agents.comparing.config import GridConfig
from agents.comparing.grid import Cell
from agents.rlhf.config import RLHFConfig, RoundPPOConfig
from agents.rlhf.loop import RLHFLoop
from agents.rollouts.pairs import annotate
from agents.training import figures
from agents.training.alarm import first_alarm, means
from experiments.pages import DOCS, IDS, RUNS, bootstrapped, figure, read_data, write_data, write_section
from experiments.runs import in_processes
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import fit_ensemble
from mmenv.rewards.preference.files import read_backbone
from mmenv.rewards.preference.training import Pairs, agreement
from scripts.preference_weights import RECIPES, sample_pairs

FOLDER, PAGE = RUNS / "feedback", DOCS / "rlhf.md"
TASKS = ("vqa", "captioning")
LABELS, FLIP = 2000, 0.1
LOOP_ROUNDS = 4
LOOP_TOKENS = {"vqa": 15_000, "captioning": 50_000}  # a round
# The loop is studied where a round's reward is weak: one preference model, and a kl_coef that lets PPO go where it
# likes.
WEAK_KL_COEF = 0.01
ONE: dict[str, Any] = {"members": 1, "combine": "mean"}
WEIGHTS = (1, 3)  # of the variance; 3 was chosen on seeds from 100 on
# Greedy PPO, for the weak model's labels and the alarm: over-optimisation is quick where steps do not shrink.
GREEDY = {"kl_coef": 0.01, "learning_rate": 0.001, "final_learning_rate": 0.001, "eval_episodes": 0}
GREEDY_TOKENS = {"vqa": 16_000, "captioning": 36_000}
POOL = 6000
HONEST = SyntheticAnnotator(0.1, flip=FLIP)
BIASED = SyntheticAnnotator(0.1, flip=FLIP, length_bias=0.08)
MODELS = {
    "1": "one model",
    "5": "ensemble of five, mean - variance",
    "5x3": "ensemble of five, mean - 3 variance",
}
# What the loop's runs are named by, and their colour.
LOOPS = {
    "4": ("the loop", figures.LENGTH),
    "1": ("one round, 2,000 labels", figures.ENTROPY),
    "1x4": ("one round, 8,000 labels", figures.KL),
}
WINDOW = 6  # updates that training gold is averaged over
POINTS = 60  # kept of a curve
PICTURES = {
    "loop": "Gold and reward over tokens, rounds against one round",
    "labels": "Gold over tokens, one model against ensembles, on the labels of the loop",
    "ensemble": "Gold over tokens, one model against ensembles, on few labels",
}
AGAINST = "one preference model against ensembles on the same, a line a seed"


class Reward(NamedTuple):
    """A preference model that a study makes.

    Attributes:
        kind: ``weak`` or ``biased``, or ``judge`` for the one that only the alarm sees.
        task: whose responses are compared.
        seed: of the pairs, the labels and the heads.
        members: models in the ensemble.
        weight: of the variance that is taken off its mean.
    """

    kind: str
    task: str
    seed: int
    members: int = 1
    weight: int = 1

    @property
    def name(self) -> str:
        """``5``, or ``5x3`` where three times the variance is taken off."""
        return str(self.members) if self.weight == 1 else f"{self.members}x{self.weight}"

    @property
    def file(self) -> str:
        """Its weights, below the folder of the study."""
        if self.kind == "judge":
            return f"models/judge-{self.task}.safetensors"
        return f"models/{self.kind}-{self.task}-{self.name}-{self.seed}.safetensors"


@functools.cache
def pool(task: str, split: str, n: int, seed: int) -> Pairs:
    """Pairs of the start's responses, sampled once a process."""
    return sample_pairs(task, split, n, seed)


def make_reward(reward: Reward) -> None:
    """Train a preference model where its file is missing; no judge has labels that another model has."""
    path, task = FOLDER / reward.file, reward.task
    if path.is_file():
        return
    if reward.kind == "judge":
        pairs, annotator, seed = pool(task, "train", LABELS, 1900), HONEST, 900
    else:
        weak = RECIPES["weak"][task]
        n, annotator = (weak.labels[-1], weak.annotator) if reward.kind == "weak" else (LABELS, BIASED)
        pairs = pool(task, "train", POOL, 1000).take(np.random.default_rng(reward.seed).permutation(POOL)[:n])
        seed = reward.seed
    labels = annotate(pairs, annotator, np.random.default_rng(seed))
    combine = "mean" if reward.members == 1 else "variance"
    parent, config = read_backbone("start"), RewardConfig(seed=seed)
    model = fit_ensemble(parent, labels, pairs.samples, config, reward.members, combine, reward.weight)
    right, _ = agreement(model, pool(task, "validation", 1000, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path, {"agreement": f"{right:.3f}"})


def greedy_cell(label: str, reward: Reward | None, task: str, seed: int, **files: str) -> Cell:
    """One greedy run of PPO, against the shipped strong model where there is no reward."""
    overrides = {**GREEDY, "total_tokens": GREEDY_TOKENS[task]}
    if reward is None:
        return Cell(label, "ppo", IDS[task], seed, {**overrides, "reward": "preference"}, files)
    return Cell(label, "ppo", IDS[task], seed, overrides, {**files, "reward": reward.file})


def complete(cells: list[Cell], jobs: int) -> None:
    """Run the cells that are missing."""
    settings = GridConfig(jobs=jobs, mark_versions=True)
    results.complete(cells, FOLDER / "results.jsonl", settings, Console())


def loop_config(name: str, task: str, seed: int, rounds: int, tokens: int | None = None, **settings: Any) -> RLHFConfig:
    """A loop; with ``tokens`` for each of its rounds PPO has the low kl_coef."""
    weak: dict[str, Any] = {} if tokens is None else {"kl_coef": WEAK_KL_COEF, "total_tokens": tokens}
    return RLHFConfig(
        env_id=IDS[task], rounds=rounds, flip=FLIP, seed=seed, ppo=RoundPPOConfig(threads=1, **weak),
        out=str(FOLDER / f"{name}-{seed}"), **{"labels": LABELS, **settings},
    )  # fmt: skip


def run_loop(config: RLHFConfig) -> None:
    """Run a loop to its end, where its folder does not hold that."""
    if not (Path(config.folder) / "summary.json").is_file() and RLHFLoop(config).run() is None:
        raise KeyboardInterrupt


def loop(tasks: tuple[str, ...] = TASKS, seeds: tuple[int, int] = (0, 5), jobs: int = 2) -> None:
    """The loop, and one round with the same PPO tokens: with the labels of one round, and with those of all."""
    kinds = (("4", LOOP_ROUNDS, LABELS), ("1", 1, LABELS), ("1x4", 1, LOOP_ROUNDS * LABELS))
    configs = [
        loop_config(
            f"loop-{task}-{kind}", task, seed, rounds, LOOP_TOKENS[task] * LOOP_ROUNDS // rounds, labels=labels, **ONE
        )
        for seed in range(*seeds)
        for task in tasks
        for kind, rounds, labels in kinds
    ]
    in_processes(run_loop, configs, jobs)


def defaults(tasks: tuple[str, ...] = TASKS, seeds: tuple[int, int] = (0, 5), jobs: int = 2) -> None:
    """The loop with its defaults."""
    configs = [loop_config(f"defaults-{task}", task, seed, LOOP_ROUNDS) for task in tasks for seed in range(*seeds)]
    in_processes(run_loop, configs, jobs)


def labels(
    tasks: tuple[str, ...] = TASKS, seeds: tuple[int, int] = (0, 5), weights: tuple[int, ...] = WEIGHTS, jobs: int = 2
) -> None:
    """The one round again, on the same labels, with an ensemble of five that pays its mean less its variance."""
    configs = []
    for weight in weights:
        five = {"members": 5, "combine": "variance", "weight": float(weight)}
        for seed in range(*seeds):
            for task in tasks:
                name = f"labels-{task}-{Reward('', task, seed, 5, weight).name}"
                configs.append(loop_config(name, task, seed, 1, LOOP_TOKENS[task] * LOOP_ROUNDS, **five))
    in_processes(run_loop, configs, jobs)


def ensemble(
    tasks: tuple[str, ...] = TASKS, seeds: tuple[int, int] = (0, 5), weights: tuple[int, ...] = WEIGHTS, jobs: int = 2
) -> None:
    """A single model and ensembles of five on the same weak labels."""
    rewards = [
        Reward("weak", task, seed, members, weight)
        for seed in range(*seeds)
        for task in tasks
        for members, weight in ((1, 1), *((5, weight) for weight in weights))
    ]
    in_processes(make_reward, rewards, jobs)
    complete([greedy_cell(f"ensemble-{r.task}-{r.name}", r, r.task, r.seed) for r in rewards], jobs)


def curve(folder: Path) -> dict[str, list[float]]:
    """Tokens, gold and reward of a run, averaged over a window of updates and thinned."""
    rows = files.read_lines(folder / "metrics.jsonl")
    window = min(WINDOW, len(rows))
    tokens = [row["tokens"] for row in rows[window - 1 :]]
    indices = np.unique(np.linspace(0, len(tokens) - 1, min(POINTS, len(tokens))).astype(int))
    scores = {name: means(rows, name, window)[indices].round(4).tolist() for name in ("gold", "reward")}
    return {"tokens": [tokens[i] for i in indices], **scores}


def collect_loops(kind: str) -> dict[str, Any]:
    """Name of a loop -> its rounds with their curves: those of docs/feedback.json, and of folders."""
    loops = {}
    for path in sorted(FOLDER.glob(f"{kind}-*/summary.json")):
        rounds = files.read_lines(path.parent / "rounds.jsonl")
        for row in rounds:
            row["curve"] = curve(path.parent / f"round-{row['round']}" / "ppo")
        loops[path.parent.name] = rounds
    return {**read_data("feedback").get(kind, {}), **loops}


def collect_runs(kind: str) -> dict[str, Any]:
    """Name of a run -> where gold peaked and ended, the alarm, and the curve."""
    runs = {}
    for path in sorted((FOLDER / "runs").glob(f"{kind}-*/*/*/summary.json")):
        rows = files.read_lines(path.parent / "metrics.jsonl")
        gold = means(rows, "gold", min(WINDOW, len(rows)))
        summary = files.read_json(path)
        peak = int(gold.argmax())
        # Computed from the metrics, so that the page has the alarm as it is now.
        alarm = first_alarm(rows)
        runs[f"{path.parts[-4]}-{summary['seed']}"] = {
            "tokens": summary["tokens"], "start": float(gold[0]), "peak": float(gold[peak]), "end": float(gold[-1]),
            "peak_tokens": rows[peak + WINDOW - 1]["tokens"], "alarm_tokens": alarm.tokens if alarm else None,
            "curve": curve(path.parent), "commit": summary["commit"],
        }  # fmt: skip
    return {**read_data("feedback").get(kind, {}), **runs}


def by_seed(rows: Mapping[str, Any], start: str) -> list[Any]:
    """Values of the names that begin with ``start``, by seed."""
    names = sorted((name for name in rows if name.startswith(start)), key=seed_of)
    return [rows[name] for name in names]


def seed_of(name: str) -> int:
    """The seed at the end of a run's name."""
    return int(name.rpartition("-")[2])


def interval(values: list[float]) -> str:
    """Mean and the 95% bootstrap interval of it."""
    return tables.as_text(bootstrapped(values))


def loop_table(loops: Mapping[str, Any]) -> str:
    """Gold at the end of every round, of the loop and of single rounds, and how far these stay below the loop."""
    lines = []
    for task in TASKS:
        last = {seed_of(n): rows[-1] for n, rows in loops.items() if n.startswith(f"loop-{task}-4-")}
        for kind, (what, _) in LOOPS.items():
            once = {seed_of(n): rows[-1] for n, rows in loops.items() if n.startswith(f"loop-{task}-{kind}-")}
            gains = [last[s]["gold"]["after"] - once[s]["gold"]["after"] for s in sorted(last.keys() & once.keys())]
            gain = interval(gains) if gains and kind != "4" else ""
            lines.append([task, what, *rounds_cells(by_seed(loops, f"loop-{task}-{kind}-")), gain])
    return tables.table(["task", "what", *ROUNDS, "the loop's 4 less this, by seed"], lines)


ROUNDS = ("seeds", "labels", "PPO tokens", "start", "round 1", "2", "3", "4")


def defaults_table(loops: Mapping[str, Any]) -> str:
    """Gold at the end of every round of the loop with its defaults."""
    lines = [[task, *rounds_cells(by_seed(loops, f"defaults-{task}-"))] for task in TASKS]
    return tables.table(["task", *ROUNDS], lines)


def rounds_cells(loops: list[list[dict[str, Any]]]) -> list[str]:
    """Number of seeds, labels, tokens, and test gold before and after each round, as cells of a table."""
    if not loops:
        return ["0", "", "", "not run", *[""] * LOOP_ROUNDS]
    after = [interval([rounds[k]["gold"]["after"] for rounds in loops]) for k in range(len(loops[0]))]
    before = np.mean([rounds[0]["gold"]["before"] for rounds in loops])
    tokens = np.mean([sum(row["tokens"] for row in rounds) for rounds in loops])
    counts = [str(len(loops)), f"{loops[0][-1]['labels']:,}", f"{tokens:,.0f}", f"{before:.3f}"]
    return [*counts, *after, *[""] * (LOOP_ROUNDS - len(after))]


def loop_figure(loops: Mapping[str, Any]) -> None:
    """Training gold over PPO tokens, the loop against single rounds; below, reward."""
    tasks = [task for task in TASKS if by_seed(loops, f"loop-{task}-4-")] or list(TASKS)
    size = (5.5 * len(tasks) + 2 * (len(tasks) == 1), 6.4)
    with figure("loop", 2, len(tasks), size, sharex="col") as (chart, axes):
        for column, task in enumerate(tasks):
            for kind, (name, colour) in LOOPS.items():
                for k, rounds in enumerate(by_seed(loops, f"loop-{task}-{kind}-")):
                    begun = 0
                    for row in rounds:
                        x = [(begun + t) / 1000 for t in row["curve"]["tokens"]]
                        label = name if k == 0 and row["round"] == 1 else None
                        axes[0, column].plot(x, row["curve"]["gold"], color=colour, linewidth=1.2, label=label)
                        axes[1, column].plot(x, row["curve"]["reward"], color=colour, linewidth=1.2)
                        begun += row["tokens"]
            axes[0, column].set_title(IDS[task], loc="left")
            axes[0, column].set_ylim(0, 1.02)
            axes[1, column].set_xlabel("thousand tokens of PPO")
        axes[0, 0].set_ylabel("gold")
        axes[1, 0].set_ylabel("reward of the round's model")
        axes[0, 0].legend(loc="lower left")
        chart.suptitle("Rounds of RLHF against one round with as many PPO tokens, a line a seed")


def ensemble_table(runs: Mapping[str, Any], kind: str) -> str:
    """What a single model and ensembles lose after the peak of gold."""
    lines = []
    for task in TASKS:
        for name, what in MODELS.items():
            rows = by_seed(runs, f"{kind}-{task}-{name}-")
            if not rows:
                lines.append([task, what, "0", "not run", "", ""])
                continue
            peak, end = [row["peak"] for row in rows], [row["end"] for row in rows]
            lost = interval([p - e for p, e in zip(peak, end, strict=True)])
            lines.append([task, what, str(len(rows)), interval(peak), interval(end), lost])
    return tables.table(["task", "model", "seeds", "gold at its peak", "at the end", "lost"], lines)


def one_round(loops: Mapping[str, Any], ensembles: Mapping[str, Any]) -> dict[str, Any]:
    """The single rounds of one model and of ensembles on the same labels, as ``ensemble_table`` reads runs."""
    single = {n.replace("loop-", "labels-"): rounds for n, rounds in loops.items() if n.split("-")[2] == "1"}
    curves = {name: rounds[0]["curve"] for name, rounds in {**single, **ensembles}.items()}
    return {name: {"curve": c, "peak": max(c["gold"]), "end": c["gold"][-1]} for name, c in curves.items()}


def ensemble_figure(runs: Mapping[str, Any], kind: str, title: str) -> None:
    """Gold over tokens, one model against ensembles on the same labels."""
    tasks = [task for task in TASKS if by_seed(runs, f"{kind}-{task}-")]
    with figure(kind, 1, len(tasks), (5.5 * len(tasks) + 2 * (len(tasks) == 1), 3.8)) as (chart, axes):
        for axis, task in zip(axes[0], tasks, strict=True):
            for (name, what), colour in zip(MODELS.items(), (figures.ENTROPY, figures.LENGTH, figures.KL), strict=True):
                for k, row in enumerate(by_seed(runs, f"{kind}-{task}-{name}-")):
                    tokens, label = [t / 1000 for t in row["curve"]["tokens"]], what if k == 0 else None
                    axis.plot(tokens, row["curve"]["gold"], color=colour, linewidth=1.4, label=label)
            axis.set_title(IDS[task], loc="left")
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("thousand tokens")
        axes[0, 0].set_ylabel("gold")
        axes[0, 0].legend(loc="lower left")
        chart.suptitle(title, fontsize=11)


def page() -> None:
    """Write the tables of docs/rlhf.md that have runs between their marks, their figures, and docs/feedback.json."""
    data = read_data("feedback")
    data |= {kind: collect_loops(kind) for kind in ("loop", "defaults", "labels")}
    data["ensemble"] = collect_runs("ensemble")
    write_data("feedback", data)
    single = one_round(data["loop"], data["labels"])
    if data["loop"]:
        loop_figure(data["loop"])
        _write("loop", loop_table(data["loop"]))
    if data["defaults"]:
        write_section(PAGE, "defaults", defaults_table(data["defaults"]))
    if single:
        ensemble_figure(single, "labels", f"The loop's labels: {AGAINST}")
        _write("labels", ensemble_table(single, "labels"))
    if data["ensemble"]:
        ensemble_figure(data["ensemble"], "ensemble", f"Few labels: {AGAINST}")
        _write("ensemble", ensemble_table(data["ensemble"], "ensemble"))


def _write(name: str, table: str) -> None:
    """A table and its figure, between the marks of the page."""
    write_section(PAGE, name, f"{table}\n\n![{PICTURES[name]}](img/{name}.png)")


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {
        "loop": loop,
        "defaults": defaults,
        "labels": labels,
        "ensemble": ensemble,
        "page": page,
    }
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)

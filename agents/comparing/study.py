"""Algorithms against each other: a grid of runs, then tables and figures that say which is better and how surely.

``results.jsonl`` holds a row for every run, ``report.md`` and the figures what follows from the rows alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from agents import progress
from agents.comparing import aggregate, claims, conditions, pilot, results, tables, tuning
from agents.comparing import figures as plots
from agents.comparing.aggregate import Cells, Estimate
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.paired_tests import paired_tests
from agents.comparing.pilot import Pilot
from agents.comparing.results import Row
from agents.comparing.settings import overrides_of, shared_overrides, split_setting
from agents.settings.ids import check_ids
from agents.settings.tuned import tuned_settings
from agents.training import run_folder
from mmenv.registration import default_task
from mmenv.tasks.world_task import COMP

THRESHOLDS = np.linspace(0, 1, 101)
FIGURES = ("intervals", "profiles", "efficiency", "improvement")


def labelled(name: str) -> tuple[str, str]:
    """Label and algorithm of ``LABEL=NAME``, or of a name that is its own label."""
    label, _, algorithm = name.rpartition("=")
    return label or algorithm, algorithm


def variant_of(env_id: str, name: str) -> str:
    """The Hard or Shifted variant of an id, or its split comp, as an entry of the setting ``also``.

    Raises:
        ValueError: it has none.
    """
    if name == "comp":
        if COMP not in default_task(env_id).splits:
            raise ValueError(f"{env_id} has no split {COMP}: leave {name} out of --also")
        return f"{env_id}@{COMP}"
    stem, _, version = env_id.rpartition("-")
    variant = f"{stem}{name.capitalize()}-{version}"
    if variant.rpartition(":")[2] not in gym.registry:
        raise ValueError(f"{env_id} has no variant {variant}: leave {name} out of --also")
    return variant


class Comparison:
    """What ``python -m agents compare`` does.

    Args:
        config: see ``CompareConfig``.
        console: where progress and the report are printed.

    Raises:
        ValueError: an algorithm, id or setting does not exist; nothing has run then.
    """

    def __init__(self, config: CompareConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        self.folder = Path(config.out or "runs/compare")
        named = [labelled(name) for name in config.algorithms]
        if len({label for label, _ in named}) < len(named):
            raise ValueError(f"algorithms={config.algorithms}: two have one label, write the second as LABEL=NAME")
        if stray := {split_setting(setting)[0] for setting in config.settings} - {label for label, _ in named}:
            raise ValueError(
                f"settings of {', '.join(sorted(stray))}: algorithms={config.algorithms} has no such label"
            )
        for env_id in config.envs:
            check_ids(env_id)
        shared = shared_overrides(config, config.reward)
        self.firsts = []
        for env_id in config.envs:
            also = {"also": tuple(variant_of(env_id, name) for name in config.also)} if config.also else {}
            for label, algorithm in named:
                stored = tuned_settings(label, env_id) if config.tuned else {}
                overrides = overrides_of(label, algorithm, config.settings, {**shared, **also, **stored})
                self.firsts.append(Cell(label, algorithm, env_id, config.first_seed, overrides))

    def run(self) -> list[Row]:
        """Run what is missing, and write the report; all rows. With ``estimate`` nothing but short runs; no rows.

        Raises:
            ValueError: the folder holds results of other versions or settings; the budget gives too few updates; or
                runs failed, after the report.
        """
        with run_folder.writing(self.folder):
            if self.config.estimate or self.config.min_updates:
                self.measure()
            return [] if self.config.estimate else self._compared()

    def measure(self) -> list[Pilot]:
        """Play a short run of each algorithm on each id, and print what all runs will take.

        Raises:
            ValueError: a short run failed, or the budget gives an algorithm too few updates.
        """
        config = self.config
        pilots = pilot.measure(self.firsts, self.folder / "pilots.jsonl", config, self.console)
        tables.show(self.console, pilot.table(pilots))
        progress.say(self.console, self.cost(pilots))
        pilot.check_updates(pilots, config.min_updates)
        return pilots

    def cost(self, pilots: Sequence[Pilot]) -> str:
        """A sentence on how long tuning and all runs will take on this machine, from the start."""
        config = self.config
        duration = pilot.hours(pilot.total_seconds(pilots, config.seeds, config.jobs))
        runs = f"{len(pilots) * config.seeds} runs take about {duration} with {config.jobs} at a time"
        if not config.tune:
            return runs
        searched = [p for p, cell in zip(pilots, self.firsts, strict=True) if tuning.space_of(cell)]
        duration = pilot.hours(pilot.total_seconds(searched, config.tune, config.jobs))
        return f"{len(searched) * config.tune} trials of tuning take at most about {duration}; then {runs}"

    def _compared(self) -> list[Row]:
        config = self.config
        rows = results.complete(self.cells(), self.folder / "results.jsonl", config, self.console)
        text = "# Comparison\n\n" + report(rows, self.folder, config.baseline)
        (self.folder / "report.md").write_text(text, encoding="utf-8")
        tables.show(self.console, text)
        progress.say(self.console, f"comparison: {self.folder} (results.jsonl, report.md, {', '.join(FIGURES)})")
        if failed := [row for row in rows if row["status"] == "failed"]:
            raise ValueError(
                f"{len(failed)} of {len(rows)} runs failed: see report.md; the same command tries them again"
            )
        return rows

    def cells(self) -> list[Cell]:
        """All runs, by id, algorithm and seed; the trials of tuning are played first."""
        config = self.config
        cells = tuning.tuned(self.firsts, config, self.folder / "tuning.jsonl", self.console)
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        return [cell._replace(seed=seed) for cell in cells for seed in seeds]


def report(
    rows: Sequence[Row], figures: Path, baseline: str | None = None, ids: Sequence[str] = (), prefix: str = ""
) -> str:
    """Draw the figures and write the report in Markdown, its headings from the second level on.

    Args:
        rows: of results, all of one grid.
        figures: folder of the figures.
        baseline: label that the others are tested against; None tests all pairs.
        ids: what aggregates and pairs are taken over; none takes all.
        prefix: before the figures' names where the report shows them.
    """
    figures.mkdir(parents=True, exist_ok=True)
    name = results.score_of(rows)
    marks = results.marks(rows)

    def by_id(score: str, some: Sequence[Row] = rows, also: str = "") -> str:
        by_label = results.scores(some, score, also)
        return tables.by_environment({label + marks.get(label, ""): cells for label, cells in by_label.items()}, score)

    done = [row for row in rows if row["status"] == "done"]
    parts = [header(rows, name), f"## {name.capitalize()}", by_id(name)]
    if name == "gold":
        parts += ["Of greedy responses:", by_id(f"greedy {name}")]
    for env_id in sorted({env_id for row in rows for env_id in row.get("also", {})}):
        parts += [
            f"The same policies on `{env_id}`:",
            by_id(name, [r for r in rows if env_id in r.get("also", {})], env_id),
        ]
    if name == "gold":
        parts += ["## Reward that was trained against", by_id("reward")]
    parts += ["## KL to the start", "Nats a response.", by_id("kl")]
    parts += ["## What differs beside the algorithm", conditions.table(done), *conditions.differences(done)]
    complete, incomplete = _complete(results.scores([row for row in rows if not ids or row["env_id"] in ids], name))
    if incomplete:
        parts.append(f"Left out of what follows, because runs are missing or failed: {', '.join(incomplete)}.")
    if complete:
        parts += _statistics(complete, rows, figures, name, baseline if baseline in complete else None, prefix)
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        parts += ["## Failed", tables.failures(failed)]
    return "\n\n".join(parts) + "\n"


def header(rows: Sequence[Row], name: str) -> str:
    """What was run: numbers of runs and episodes, seeds, budget, commits, versions and machines."""
    done = [row for row in rows if row["status"] == "done"]
    facts = results.Facts(rows)
    played = f"{done[0]['episodes']} episodes of the {done[0]['split']} split" if done else "no episodes"
    few = _few(done)
    lines = [
        facts.runs,
        f"{facts.budget} tokens each;",
        f"{name} over {played}, mean with Student's 95% interval over seeds.",
        f"Commit {facts.commits}; {' / '.join(facts.versions)}; {facts.machines}.",
        *([few] if few else []),
        *facts.mixed_versions,
    ]
    return "\n".join(lines)


def _few(rows: Sequence[Row]) -> str:
    """A warning where intervals are over one or two seeds."""
    counts = set(Counter((row["label"], row["env_id"]) for row in rows).values())
    notes = {1: "One seed: no interval, and no telling how much is luck.", 2: "Two seeds: their interval says little."}
    return " ".join(notes[n] for n in sorted(counts & notes.keys()))


def _complete(scores: Mapping[str, Cells]) -> tuple[dict[str, Cells], list[str]]:
    """Labels that have every cell that any has, and the names of the others."""
    wanted = {cell for cells in scores.values() for cell in cells}
    complete = {label: cells for label, cells in scores.items() if cells and cells.keys() == wanted}
    return complete, [label for label in scores if label not in complete]


def _statistics(
    scores: Mapping[str, Cells], rows: Sequence[Row], folder: Path, name: str, baseline: str | None, prefix: str
) -> list[str]:
    """Sections on aggregates, profiles, curves and pairs of labels that have every run; figures go to files."""
    arrays = {label: aggregate.matrix(cells) for label, cells in scores.items()}
    aggregates = {label: aggregate.aggregates(array) for label, array in arrays.items()}
    # The best first, in this order in every table and figure.
    order = sorted(aggregates, key=lambda label: -float(aggregates[label]["IQM"].value))
    arrays, aggregates = {label: arrays[label] for label in order}, {label: aggregates[label] for label in order}
    seeds, many = next(iter(arrays.values())).shape
    what = f"{name}, {many} environment{'s' * (many > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    plots.intervals(aggregates, folder / "intervals", f"Aggregates of {what}")
    profiles = {label: aggregate.performance_profile(array, THRESHOLDS) for label, array in arrays.items()}
    plots.profiles(profiles, THRESHOLDS, folder / "profiles", f"Share of runs above a score: {what}")
    ids = sorted({env_id for cells in scores.values() for env_id, _ in cells})
    parts = [
        f"## Over {', '.join(ids)}",
        "Interquartile mean, median, mean and optimality gap with stratified bootstrap intervals "
        "(Agarwal et al. 2021).",
        tables.aggregate(aggregates, {label: array.size for label, array in arrays.items()}),
        f"![aggregates]({prefix}intervals.svg)",
        f"![performance profiles]({prefix}profiles.svg)",
    ]
    done = [row for row in rows if row["status"] == "done"]
    of_these = [row for row in done if row["label"] in scores and row["env_id"] in ids]
    if drawn := efficiency(of_these, order, folder / "efficiency", name):
        parts += ["## Over tokens", drawn, f"![sample efficiency]({prefix}efficiency.svg)"]
    if len(scores) > 1:
        pairs = {
            (x, y): aggregate.stratified_bootstrap((arrays[x], arrays[y]), aggregate.probability_of_improvement)
            for x, y in combinations(arrays, 2)
        }
        sure = aggregate.can_tell(seeds, many)
        tests = paired_tests(scores, baseline)
        plots.improvement(pairs, folder / "improvement", f"Probability of improvement: {what}", sure)
        parts += [
            "## Pairs", f"![probability of improvement]({prefix}improvement.svg)",
            "How probably a run of the row beats one of the column; "
            + ("bold where the interval leaves out one half." if sure else "so few runs cannot tell, none is bold."),
            "Differences of the same environments and seeds; sign-flip test, Holm's correction.",
            tables.paired(tests),
            "What these tests say:",
            "\n".join(f"- {sentence}" for sentence in claims.sentences(tests, name)),
        ]  # fmt: skip
    return parts


def efficiency(rows: Sequence[Row], order: Sequence[str], path: Path, name: str) -> str:
    """Draw the interquartile mean over tokens.

    Args:
        rows: of results that are done.
        order: labels, in the order of the panels.
        path: of the pictures, without ending.
        name: of the score.

    Returns:
        the sentence below the figure; ``""`` where no curve can be drawn.
    """
    curves = [row | {"points": _points(row["curve"], name)} for row in rows]
    budget = max(row["tokens"] for row in rows)
    short = {row["label"] for row in curves if len(row["points"]) < 2 or row["points"][-1, 0] < budget / 2}
    shown = [row for row in curves if row["label"] not in short]
    if not shown:
        return ""
    common = aggregate.common_grid([row["points"][:, 0] for row in shown])
    estimates: dict[str, Estimate] = {}
    for label in (label for label in order if label not in short):
        curve_of = {
            (row["env_id"], row["seed"]): aggregate.interpolate(row["points"][:, 0], row["points"][:, 1], common)
            for row in shown
            if row["label"] == label
        }
        ids, seeds = sorted({e for e, _ in curve_of}), sorted({s for _, s in curve_of})
        stacked = np.array([[curve_of[env_id, seed] for env_id in ids] for seed in seeds])  # (runs, tasks, points)
        estimates[label] = aggregate.sample_efficiency(stacked)
    plots.efficiency(estimates, common, path, f"{name.capitalize()} of training responses")
    left = f" Without {', '.join(sorted(short))}, which ended earlier." if short else ""
    return f"The {name} of responses to the training split as they were sampled.{left}"


def _points(curve: Mapping[str, Sequence[Any]], name: str) -> np.ndarray:
    """Tokens and scores of a curve, (points, 2)."""
    pairs = [(t, v) for t, v in zip(curve["tokens"], curve[name], strict=True) if v is not None]
    return np.array(pairs, dtype=float).reshape(-1, 2)

"""Algorithms against each other: a grid of runs, then tables and figures that say which is better and how surely.

``results.jsonl`` holds a row for every run, ``report.md`` and the figures what follows from the rows alone.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from agents import progress
from agents.algorithms.registry import SB3, find
from agents.comparing import aggregate, results, tables, tuning
from agents.comparing import figures as plots
from agents.comparing.aggregate import Cells, Estimate
from agents.comparing.config import CompareConfig, GridConfig
from agents.comparing.grid import Cell
from agents.comparing.paired_tests import paired_tests
from agents.comparing.results import Row
from agents.settings.bounds import offered
from agents.settings.ids import check_ids
from agents.training import run_folder

THRESHOLDS = np.linspace(0, 1, 101)
FIGURES = ("intervals", "profiles", "efficiency", "improvement")


def labelled(name: str) -> tuple[str, str]:
    """Label and algorithm of ``LABEL=NAME``, or of a name that is its own label."""
    label, _, algorithm = name.rpartition("=")
    return label or algorithm, algorithm


def config_of(algorithm: str) -> type:
    """The dataclass of an algorithm's settings.

    Raises:
        ValueError: there is no such algorithm.
    """
    if algorithm not in SB3:
        return find(algorithm, SB3).Config
    from agents.integrations.sb3 import SB3Config  # needs the sb3 extra

    return SB3Config


def words(config: CompareConfig, label: str, algorithm: str) -> tuple[str, ...]:
    """The command line of a label's runs, but for id, seed and folder; errors as of ``own_words``."""
    return *common_words(config, config.reward), *own_words(config, label, algorithm)


def common_words(config: GridConfig, reward: str) -> tuple[str, ...]:
    """What all runs of a grid are told: what they are paid by, for how long they train, how they are evaluated."""
    given = ["--reward", reward, "--total-tokens", str(config.total_tokens)]
    given += ["--eval-episodes", str(config.eval_episodes)]
    for name in ("max_seconds", "stop_at_kl"):
        if getattr(config, name) is not None:
            given += [f"--{name.replace('_', '-')}", f"{getattr(config, name):g}"]
    return tuple(given)


def own_words(config: GridConfig, label: str, algorithm: str) -> tuple[str, ...]:
    """What the runs of one label are told beside it.

    Raises:
        ValueError: a setting has no such name, or not the form ALGORITHM/NAME=VALUE.
    """
    given: list[str] = []
    fields = [name.replace("_", "-") for name in offered(config_of(algorithm))]
    for setting in config.settings:
        left, equals, value = setting.partition("=")
        owner, slash, name = left.rpartition("/")
        if not (equals and slash):
            raise ValueError(f"settings={setting!r}: write it as ALGORITHM/NAME=VALUE, ppo/kl-coef=0.1")
        if owner != label:
            continue
        if name.replace("_", "-") not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            raise ValueError(
                f"settings={setting!r}: {algorithm} has no {name!r}" + (f", but {close[0]}" if close else "")
            )
        given += [f"--{name.replace('_', '-')}", *value.split()]
    return tuple(given)


def shifted(env_id: str) -> str:
    """The Shifted variant of an id.

    Raises:
        ValueError: it has none.
    """
    stem, _, version = env_id.rpartition("-")
    found = f"{stem}Shifted-{version}"
    if found.rpartition(":")[2] not in gym.registry:
        raise ValueError(f"{env_id} has no variant {found}: leave out --shifted")
    return found


class Comparison:
    """What ``python -m agents compare`` does.

    Args:
        config: see ``CompareConfig``.
        console: where progress and the report are told.

    Raises:
        ValueError: an algorithm, id or setting does not exist; nothing has run then.
    """

    def __init__(self, config: CompareConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        self.folder = Path(config.out or "runs/compare")
        named = [labelled(name) for name in config.algorithms]
        if len({label for label, _ in named}) < len(named):
            raise ValueError(f"algorithms={config.algorithms}: two have one label, write the second as LABEL=NAME")
        owners = {setting.partition("=")[0].rpartition("/")[0] for setting in config.settings}
        if stray := owners - {label for label, _ in named} - {""}:
            raise ValueError(
                f"settings of {', '.join(sorted(stray))}: algorithms={config.algorithms} has no such label"
            )
        for env_id in config.envs:
            check_ids(env_id)  # says what is near, where there is no such id
        self.configs = {label: config_of(algorithm) for label, algorithm in named}
        self.firsts = [
            Cell(label, algorithm, env_id, config.first_seed, words(config, label, algorithm) + self._also(env_id))
            for env_id in config.envs
            for label, algorithm in named
        ]

    def _also(self, env_id: str) -> tuple[str, ...]:
        return ("--also", shifted(env_id)) if self.config.shifted else ()

    def train(self) -> list[Row]:
        """Run what is missing, and write the report; all rows.

        Raises:
            ValueError: the folder holds results of other versions or settings; or runs failed, after the report.
        """
        with run_folder.writing(self.folder):
            return self._compared()

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
        """All runs, by id, algorithm and seed; those of random search are played first."""
        config = self.config
        return [
            first._replace(seed=seed, settings=first.settings + tuned)
            for first, tuned in zip(self.firsts, self._tuned(), strict=True)
            for seed in range(config.first_seed, config.first_seed + config.seeds)
        ]

    def _tuned(self) -> list[tuple[str, ...]]:
        """Settings that random search found, for each of ``firsts``; the trials go into ``tuning.jsonl``."""
        config = self.config
        if not config.tune:
            return [()] * len(self.firsts)
        asked = [tuning.trials(first, self.configs[first.label], config.tune) for first in self.firsts]
        cells = [cell for group in asked for cell in group]
        rows = results.complete(cells, self.folder / "tuning.jsonl", config, self.console)
        left = iter(rows)
        return [tuning.best([next(left) for _ in group]) for group in asked]


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
        found = results.scores(some, score, also)
        return tables.by_environment({label + marks.get(label, ""): cells for label, cells in found.items()}, score)

    parts = [header(rows, name), f"## {name.capitalize()}", by_id(name)]
    for env_id in sorted({env_id for row in rows for env_id in row.get("also", {})}):
        parts += [f"The same policies on `{env_id}`:", by_id(name, [r for r in rows if env_id in r["also"]], env_id)]
    if name == "gold":
        parts += ["## Reward that was trained against", by_id("reward")]
    parts += ["## KL to the start", "Nats a response.", by_id("kl")]
    whole, lacking = _whole(results.scores([row for row in rows if not ids or row["env_id"] in ids], name))
    if lacking:
        parts.append(f"Left out of what follows, because runs are missing or failed: {', '.join(lacking)}.")
    if whole:
        parts += _statistics(whole, rows, figures, name, baseline if baseline in whole else None, prefix)
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        parts += ["## Failed", tables.failures(failed)]
    return "\n\n".join(parts) + "\n"


def header(rows: Sequence[Row], name: str) -> str:
    """What was run, of which the numbers speak."""
    done = [row for row in rows if row["status"] == "done"]
    seeds = sorted({row["seed"] for row in rows})
    commits = sorted({str(row["commit"]) for row in rows})
    machines = sorted({row["machine"] for row in rows})
    budget = sorted({row["config"]["total_tokens"] for row in done})
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
    played = f"{done[0]['episodes']} episodes of the {done[0]['split']} split" if done else "no episodes"
    told = [
        f"{len(done)} of {len(rows)} runs are done; seeds {', '.join(map(str, seeds))};",
        f"{' or '.join(f'{b:,}' for b in budget) or 'no'} tokens each;",
        f"{name} over {played}, mean with Student's 95% interval over seeds.",
        f"Commit {', '.join(commits)}; {' / '.join(versions)}; {' / '.join(machines)}.",
    ]
    if few := _few(done):
        told.append(few)
    if len(versions) > 1:
        told.append("† marks rows of other versions than the first: their numbers may differ for that reason alone.")
    return "\n".join(told)


def _few(rows: Sequence[Row]) -> str:
    """What is to be said of intervals over two seeds, and where there is one."""
    counts = set(Counter((row["label"], row["env_id"]) for row in rows).values())
    said = {1: "One seed: no interval, and no telling how much is luck.", 2: "Two seeds: their interval says little."}
    return " ".join(said[n] for n in sorted(counts & said.keys()))


def _whole(found: Mapping[str, Cells]) -> tuple[dict[str, Cells], list[str]]:
    """Labels that have every cell that any has, and the names of the others."""
    wanted = {cell for cells in found.values() for cell in cells}
    whole = {label: cells for label, cells in found.items() if cells and cells.keys() == wanted}
    return whole, [label for label in found if label not in whole]


def _statistics(
    found: Mapping[str, Cells], rows: Sequence[Row], folder: Path, name: str, baseline: str | None, prefix: str
) -> list[str]:
    """Aggregates, profiles, curves and pairs of the labels that are whole, as sections; figures as files."""
    arrays = {label: aggregate.matrix(cells) for label, cells in found.items()}
    aggregates = {label: aggregate.aggregates(array) for label, array in arrays.items()}
    # The best first, in this order in every table and figure.
    order = sorted(aggregates, key=lambda label: -float(aggregates[label]["IQM"].value))
    arrays, aggregates = {label: arrays[label] for label in order}, {label: aggregates[label] for label in order}
    seeds, many = next(iter(arrays.values())).shape
    what = f"{name}, {many} environment{'s' * (many > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    plots.intervals(aggregates, folder / "intervals", f"Aggregates of {what}")
    profiles = {label: aggregate.performance_profile(array, THRESHOLDS) for label, array in arrays.items()}
    plots.profiles(profiles, THRESHOLDS, folder / "profiles", f"Share of runs above a score: {what}")
    ids = sorted({env_id for cells in found.values() for env_id, _ in cells})
    parts = [
        f"## Over {', '.join(ids)}",
        "Interquartile mean, median, mean and optimality gap with stratified bootstrap intervals "
        "(Agarwal et al. 2021).",
        tables.aggregate(aggregates, {label: array.size for label, array in arrays.items()}),
        f"![aggregates]({prefix}intervals.svg)",
        f"![performance profiles]({prefix}profiles.svg)",
    ]
    kept = [row for row in rows if row["label"] in found and row["env_id"] in ids]
    if drawn := _efficiency(kept, order, folder, name):
        parts += ["## Over tokens", drawn, f"![sample efficiency]({prefix}efficiency.svg)"]
    if len(found) > 1:
        pairs = {
            (x, y): aggregate.stratified_bootstrap((arrays[x], arrays[y]), aggregate.probability_of_improvement)
            for x, y in combinations(arrays, 2)
        }
        sure = aggregate.can_tell(seeds, many)
        plots.improvement(pairs, folder / "improvement", f"Probability of improvement: {what}", sure)
        parts += [
            "## Pairs", f"![probability of improvement]({prefix}improvement.svg)",
            "How probably a run of the row beats one of the column; "
            + ("bold where the interval leaves out one half." if sure else "so few runs cannot tell, none is bold."),
            "Differences of the same environments and seeds; sign-flip test, Holm's correction.",
            tables.paired(paired_tests(found, baseline)),
        ]  # fmt: skip
    return parts


def _efficiency(rows: Sequence[Row], order: Sequence[str], folder: Path, name: str) -> str:
    """Draw the interquartile mean over tokens; what is said of it, or nothing where no curve can be drawn."""
    curves = [row | {"points": _points(row["curve"], name)} for row in rows]
    budget = max(row["tokens"] for row in rows)
    short = {row["label"] for row in curves if len(row["points"]) < 2 or row["points"][-1, 0] < budget / 2}
    kept = [row for row in curves if row["label"] not in short]
    if not kept:
        return ""
    common = aggregate.common_grid([row["points"][:, 0] for row in kept])
    found: dict[str, Estimate] = {}
    for label in (label for label in order if label not in short):
        own = {(r["env_id"], r["seed"]): aggregate.interpolate(*r["points"].T, common)
               for r in kept if r["label"] == label}  # fmt: skip
        ids, seeds = sorted({e for e, _ in own}), sorted({s for _, s in own})
        stacked = np.array([[own[env_id, seed] for env_id in ids] for seed in seeds])  # (runs, tasks, points)
        found[label] = aggregate.sample_efficiency(stacked)
    plots.efficiency(found, common, folder / "efficiency", f"{name.capitalize()} of what was said in training")
    left = f" Without {', '.join(sorted(short))}, which ended earlier." if short else ""
    return f"The {name} of responses to the training split as they were sampled.{left}"


def _points(curve: Mapping[str, Sequence[Any]], name: str) -> np.ndarray:
    """Tokens and scores of a curve, (points, 2)."""
    pairs = [(t, v) for t, v in zip(curve["tokens"], curve[name], strict=True) if v is not None]
    return np.array(pairs, dtype=float).reshape(-1, 2)

"""A short run of each algorithm on each id: the updates that a budget gives, and how long all runs will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from agents.comparing import results, tables
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.settings.bounds import offered
from agents.training.launch import config_class

SECONDS = 8.0  # of training in a short run
EPISODES = 128  # of its evaluations, at most: what one batch of lanes plays


class Pilot(NamedTuple):
    """What a short run of an algorithm on an id says about the full ones.

    Attributes:
        label: the algorithm's row in tables.
        env_id: where it trains.
        first_update: tokens of its first update.
        updates: in a full run, about; None of an algorithm that takes no gradient steps.
        seconds: of a full run, training and evaluations, at most about.
    """

    label: str
    env_id: str
    first_update: int
    updates: float | None
    seconds: float


def measure(cells: Sequence[Cell], path: Path, config: CompareConfig, console: Console) -> list[Pilot]:
    """Play a short run of each cell, as many at a time as full ones.

    Args:
        cells: one for each algorithm and id.
        path: where the rows go; those that it holds are not played again.
        config: of the comparison.
        console: where progress is shown.

    Raises:
        ValueError: short runs failed; the message has their rows and reasons.
    """
    episodes = min(EPISODES, config.eval_episodes)
    short = {"max_seconds": _limit(config), "eval_episodes": episodes}
    runs = [c._replace(label=f"{c.label}.pilot", overrides={**c.overrides, **short}) for c in cells]
    rows = results.complete(runs, path, config, console)
    failed = [(cell, row["error"]) for cell, row in zip(cells, rows, strict=True) if row["status"] == "failed"]
    if failed:
        reasons = "; ".join(f"{cell.label} on {cell.env_id}: {error}" for cell, error in failed)
        raise ValueError(f"short runs failed, leave these rows out or mend them: {reasons}")
    return [_pilot(cell, row, config, config.eval_episodes / episodes) for cell, row in zip(cells, rows, strict=True)]


def _pilot(cell: Cell, row: Row, config: CompareConfig, evaluations: float) -> Pilot:
    """Scale a short run to the budget.

    Args:
        cell: of the full run.
        row: of the short run.
        config: of the comparison.
        evaluations: how many times as many episodes the full run evaluates.
    """
    tokens = row["curve"]["tokens"]
    ended = row["seconds"] < _limit(config)  # by itself, as best of n does after one update, or at the budget
    seconds = row["seconds"] if ended else row["seconds"] * config.total_tokens / row["tokens"]
    if config.max_seconds is not None:
        seconds = min(seconds, config.max_seconds)
    learns = "learning_rate" in offered(config_class(cell.algorithm))
    updates = row["updates"] * seconds / row["seconds"] if learns else None
    outside = (row["wall"] - row["seconds"]) * evaluations
    return Pilot(cell.label, cell.env_id, int(tokens[0]) if tokens else 0, updates, outside + seconds)


def _limit(config: CompareConfig) -> float:
    """Seconds of training of a short run."""
    return SECONDS if config.max_seconds is None else min(SECONDS, config.max_seconds)


def check_updates(pilots: Sequence[Pilot], least: int) -> None:
    """Refuse a budget in which an algorithm makes too few updates.

    Raises:
        ValueError: names the algorithms, and the budget that gives all of them enough.
    """
    short = [(pilot, pilot.updates) for pilot in pilots if pilot.updates is not None and pilot.updates < least]
    if short:
        names = ", ".join(f"{pilot.label} on {pilot.env_id} ({updates:.0f})" for pilot, updates in short)
        times = max(least / max(updates, 1e-9) for _, updates in short)
        raise ValueError(
            f"the budget gives fewer than {least} updates to {names}: give {times:.1f} times the --total-tokens, or "
            "these a smaller num-envs"
        )


def total_seconds(pilots: Sequence[Pilot], runs: int, jobs: int) -> float:
    """Seconds of ``runs`` runs of each, ``jobs`` at a time."""
    return sum(pilot.seconds for pilot in pilots) * runs / jobs


def hours(seconds: float) -> str:
    """``3.4 hours``, or ``12 minutes``."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def table(pilots: Sequence[Pilot]) -> str:
    """Updates and seconds of a run of each algorithm on each id, in Markdown."""
    lines = [
        [p.label, p.env_id, "-" if p.updates is None else f"{p.updates:.0f}", f"{p.first_update:,}", f"{p.seconds:.0f}"]
        for p in pilots
    ]
    return tables.table(["algorithm", "environment", "updates", "tokens of the first", "seconds a run"], lines)

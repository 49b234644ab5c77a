"""Tuning with optuna: for every algorithm as many trials, on the validation split, with seeds of its own.

An algorithm is tuned in its learning rate and in one more setting: the first of ``OWN`` that it offers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from agents.comparing import results
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.settings.bounds import default_of, offered
from agents.training import run_folder
from agents.training.launch import config_class
from mmenv.arguments import require


class Interval(NamedTuple):
    """Where a setting is searched, log-uniformly; whole numbers where both ends are whole."""

    low: float
    high: float


LEARNING_RATE = Interval(1e-4, 2e-3)
# In this order: the KL penalty where there is one; else the cap of CISPO, the clip of DAPO and of Dr. GRPO, the passes
# over a batch of imitation.
OWN = {
    "kl_coef": Interval(0.02, 0.3),
    "weight_cap": Interval(2.0, 10.0),
    "clip_high": Interval(0.2, 0.5),
    "clip_coef": Interval(0.1, 0.4),
    "epochs": Interval(1, 4),
}
FIRST_SEED = 1_000_000  # far from those of the comparison
BATCH = 4  # trials of an algorithm that run side by side, before the sampler learns from them


def space_of(cell: Cell) -> dict[str, Interval]:
    """What is searched of an algorithm: its learning rate and one more setting, of those that the cell leaves free.

    An algorithm without a learning rate has nothing to search.
    """
    cls = config_class(cell.algorithm)
    if "learning_rate" not in offered(cls):
        return {}
    free = set(offered(cls)) - cell.overrides.keys()
    rate = {"learning_rate": LEARNING_RATE} if "learning_rate" in free else {}
    own = next((name for name in OWN if name in free and default_of(cls, name) is not None), None)
    return rate if own is None else {**rate, own: OWN[own]}


class Search:
    """The trials of one algorithm on one id.

    The sampler is seeded by label and id: whatever else is compared, the trials are the same, and rows on disk stand
    for those that have run. The first has the defaults, where they lie in the space.

    Args:
        cell: any run of the algorithm on the id.
    """

    def __init__(self, cell: Cell) -> None:
        with require("agents"):
            import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.cell, cls = cell, config_class(cell.algorithm)
        self.space: dict[str, Any] = {}
        for name, (low, high) in space_of(cell).items():
            if isinstance(low, int):
                self.space[name] = optuna.distributions.IntDistribution(low, int(high), log=True)
            else:
                self.space[name] = optuna.distributions.FloatDistribution(low, high, log=True)
        seed = zlib.crc32(f"{cell.label} {cell.env_id}".encode())
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        defaults = {name: default_of(cls, name) for name in self.space}
        self.study.enqueue_trial({k: v for k, v in defaults.items() if self.space[k].low <= v <= self.space[k].high})
        self.trials: list[Any] = []

    def ask(self, n: int) -> list[Cell]:
        """The next ``n`` trials; none where there is nothing to vary."""
        if not self.space:
            return []
        self.trials = [self.study.ask(self.space) for _ in range(n)]
        return [
            self.cell._replace(
                label=f"{self.cell.label}.trial",
                seed=FIRST_SEED + trial.number,
                overrides={**_without_variants(self.cell.overrides), "final_split": "validation", **trial.params},
            )
            for trial in self.trials
        ]

    def tell(self, rows: Sequence[Row]) -> None:
        """Learn from the rows of the last batch of trials.

        The objective is gold on the validation split, or reward where gold is unknown: the reward that is trained
        against would favour settings that exploit it.
        """
        from optuna.trial import TrialState

        for trial, row in zip(self.trials, rows, strict=True):
            if row["status"] == "failed":
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                score = row["gold"]["after"]
                self.study.tell(trial, row["reward"]["after"] if score is None else score)

    @property
    def best(self) -> dict[str, float]:
        """The settings of the best trial; none where all failed, or nothing was varied."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return dict(self.study.best_params) if done else {}

    def record(self) -> dict[str, Any]:
        """What a file of tuned settings holds of the row: the best settings, and the trials that they stand on."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {
            "algorithm": self.cell.algorithm,
            "settings": self.best,
            "validation_score": self.study.best_value if done else None,
            "trials": [{"settings": trial.params, "validation_score": trial.value} for trial in done],
            "total_tokens": self.cell.overrides.get("total_tokens"),
            "commit": run_folder.commit(),
            "versions": run_folder.versions(),
        }


def _without_variants(overrides: Any) -> dict[str, Any]:
    """Settings without further ids to evaluate on: a trial is ranked by the validation split alone."""
    return {name: value for name, value in overrides.items() if name != "also"}


def searches(cells: Sequence[Cell], config: CompareConfig, path: Path, console: Console) -> list[Search]:
    """Searches of ``config.tune`` trials each, run to their end.

    Args:
        cells: one for each algorithm and id.
        config: of the comparison.
        path: where the rows of trials go.
        console: where progress is shown.
    """
    running = [Search(cell) for cell in cells]
    for first in range(0, config.tune, BATCH):
        trials = [search.ask(min(BATCH, config.tune - first)) for search in running]
        rows = iter(results.complete([trial for batch in trials for trial in batch], path, config, console))
        for search, batch in zip(running, trials, strict=True):
            search.tell([next(rows) for _ in batch])
    return running


def tuned(cells: Sequence[Cell], config: CompareConfig, path: Path, console: Console) -> list[Cell]:
    """Cells with the best settings of ``config.tune`` trials each; as they are where that is 0."""
    if not config.tune:
        return list(cells)
    finished = searches(cells, config, path, console)
    return [
        cell._replace(overrides={**cell.overrides, **search.best}) for cell, search in zip(cells, finished, strict=True)
    ]

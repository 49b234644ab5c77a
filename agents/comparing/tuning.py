"""Tuning with optuna: for every algorithm as many trials, one space, the validation split, seeds of its own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.comparing import results
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.settings.bounds import default_of, offered
from agents.training.launch import config_class
from mmenv.arguments import require

# Log-uniform, (lowest, highest); an algorithm is tuned in those of the settings that it has.
SPACE = {"learning_rate": (1e-4, 2e-3), "kl_coef": (0.02, 0.3)}
FIRST_SEED = 1_000_000  # far from those of the comparison
BATCH = 4  # trials of an algorithm that run side by side, before the sampler learns from them


class Search:
    """The trials of one algorithm on one id.

    The sampler is seeded by label and id: whatever else is compared, the trials are the same, and rows on disk stand
    for those that have run. The first has the settings as they are.

    Args:
        cell: any run of the algorithm on the id.
    """

    def __init__(self, cell: Cell) -> None:
        with require("agents"):
            import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.cell, cls = cell, config_class(cell.algorithm)
        names = sorted(SPACE.keys() & set(offered(cls)) - cell.overrides.keys())  # those of the command stay
        self.space: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(*SPACE[name], log=True) for name in names
        }
        seed = zlib.crc32(f"{cell.label} {cell.env_id}".encode())
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self.study.enqueue_trial({name: default_of(cls, name) for name in names})
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
                overrides={**self.cell.overrides, "final_split": "validation", **trial.params},
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


def tuned(cells: Sequence[Cell], config: CompareConfig, path: Path, console: Console) -> list[Cell]:
    """Cells with the best settings of ``config.tune`` trials each; as they are where that is 0.

    Args:
        cells: one for each algorithm and id.
        config: of the comparison.
        path: where the rows of trials go.
        console: where progress is shown.
    """
    if not config.tune:
        return list(cells)
    searches = [Search(cell) for cell in cells]
    for first in range(0, config.tune, BATCH):
        trials = [search.ask(min(BATCH, config.tune - first)) for search in searches]
        rows = iter(results.complete([trial for batch in trials for trial in batch], path, config, console))
        for search, batch in zip(searches, trials, strict=True):
            search.tell([next(rows) for _ in batch])
    return [
        cell._replace(overrides={**cell.overrides, **search.best}) for cell, search in zip(cells, searches, strict=True)
    ]

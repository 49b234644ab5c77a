"""A finished run's policy on further ids of its task: Shifted and Hard, another split, more episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from agents import report, runs
from agents.config import EvaluateConfig, check_ids
from agents.trainer import resume


class Evaluations:
    """What ``python -m agents evaluate`` does: ``evaluations.json`` in the run's folder, an entry for each id.

    Args:
        config: see ``EvaluateConfig``.
        console: where the results are told.
    """

    def __init__(self, config: EvaluateConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or Console(emoji=False)

    def train(self) -> dict[str, Any]:
        """Evaluate; returns what was found, by id.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: an id is of another task.
        """
        config, folder = self.config, Path(self.config.run)
        trained = resume(folder)
        check_ids(trained.config.env_id, *config.env_ids)
        found = {}
        for env_id in config.env_ids or (trained.config.env_id,):
            result = trained.evaluate(env_id, config.split, config.episodes)
            self.console.print(f"{env_id} {config.split}: {result}", highlight=False)
            found[env_id] = {k: v for k, v in report.as_dict(result).items() if k != "rows"} | {"split": config.split}
        runs.write_json(folder / "evaluations.json", found)
        return found

"""A run's policy elsewhere: on further ids of its task, another split, level or shift, with more episodes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from agents import files, progress
from agents.settings.bounds import Checked, EpisodeCount, Share
from agents.settings.ids import check_ids
from agents.training import checkpoints, report
from agents.training.loading import resume
from agents.training.trainer import Trainer
from mmenv.models.checkpoints import WeightsError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """A run's policy on ids of its task."""

    run: str
    """Folder of the run."""
    env_ids: tuple[str, ...] = ()
    """Ids to evaluate on; by default the id that the run trained on."""
    split: str = "test"
    """Split of each."""
    level: Literal["plain", "hard"] | None = None
    """Level of the world; that of each id if not given."""
    shifts: tuple[Share, ...] = ()
    """Shifts of the world, 0 0.25 0.5 1 for example: an entry for each; that of each id if not given."""
    episodes: EpisodeCount = 512
    """Episodes of each."""
    trust: tuple[str, ...] = ()
    """Modules of your own that the run's config.json may have imported: of package.module:Class and of
    package.module:namespace/Name-v0."""


class Evaluations:
    """What ``python -m agents evaluate`` does: ``evaluations.json`` in the run's folder, an entry for each id and
    shift.

    Nothing else is written: the run may be under way, and its folder may be read-only.

    Args:
        config: see ``EvaluateConfig``.
        console: where the results are printed.
    """

    def __init__(self, config: EvaluateConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()

    def run(self) -> dict[str, Any]:
        """Evaluate; returns the results by id, or by id and shift.

        Raises:
            FileNotFoundError: the folder holds no run, or one without a checkpoint.
            ValueError: an id is of another task, or a file of the run is damaged.
        """
        config, folder = self.config, Path(self.config.run)
        trained = self._trained(folder)
        check_ids(trained.config.env_id, *config.env_ids)
        results = {}
        for env_id, shift in itertools.product(config.env_ids or (trained.config.env_id,), config.shifts or (None,)):
            name = env_id if shift is None else f"{env_id} shift {shift:g}"
            results[name] = self._evaluated(trained, env_id, name, shift)
        try:
            files.write_json(folder / "evaluations.json", results)
        except OSError as error:
            progress.say(self.console, f"not saved: {files.explain(error)}")
        return results

    def _evaluated(self, trained: Trainer, env_id: str, name: str, shift: float | None) -> dict[str, Any]:
        """The entry of an id and a shift, which is printed under a name."""
        config = self.config
        world = {key: value for key, value in (("level", config.level), ("shift", shift)) if value is not None}
        sampled, greedy = (
            trained.evaluate(env_id, config.split, config.episodes, greedily, **world) for greedily in (False, True)
        )
        progress.say(self.console, f"{name} {config.split}, sampled: {sampled}")
        progress.say(self.console, f"{name} {config.split}, greedy: {greedy}")
        result = report.both_as_dict(sampled, greedy)
        return {k: v for k, v in result.items() if k != "rows"} | {"split": config.split, **world}

    def _trained(self, folder: Path) -> Trainer:
        """The run as its newest checkpoint has it."""
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no run (no config.json): give the folder of one")
        trusted = (*self.config.trust, *self.config.env_ids)
        while True:
            checkpoint = checkpoints.newest_checkpoint(folder)
            try:
                trained = resume(folder, trusted)
            except (FileNotFoundError, WeightsError, files.RunError):
                if checkpoint is None or checkpoint.is_dir():
                    raise
                continue  # a run that is under way has replaced it meanwhile
            if trained.checkpoint is None:
                raise FileNotFoundError(f"{folder} holds no checkpoint yet: let the run begin first")
            return trained

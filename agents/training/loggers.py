"""The log of a run: rows of metrics on disk, for TensorBoard and on the screen, and the alarm that listens to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from agents import progress
from agents.distributed import processes
from agents.rollouts.pairs import replies
from agents.rollouts.rollout import Batch
from agents.training import report, run_folder
from agents.training.alarm import Alarm, alarm, first_alarm, mean_and_error
from mmenv.envs.setup import resolve_reward
from mmenv.rewards.base import RewardFunction, score
from mmenv.rewards.preference.ensemble import EnsembleReward
from mmenv.tasks.base import Task


class RunLog:
    """Takes a row of metrics after every update.

    Args:
        folder: of the run.
        tokens: that the run has taken so far.
        console: where the alarm is told of.
        show: shows the rows.

    Attributes:
        alarm: what has rung; it may have done so before the checkpoint.
    """

    def __init__(self, folder: Path, tokens: int, console: Console, show: progress.Show) -> None:
        self.path, self.console, self.show = folder / "metrics.jsonl", console, show
        self.judged = [row for row in metrics_of(folder, console) if "judge" in row]
        self.alarm: Alarm | None = first_alarm(self.judged)
        # Events that a kill left behind the checkpoint are dropped; those at its last step stay.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=tokens + 1 if tokens else None)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        row = run_folder.standard(row)
        run_folder.append_line(self.path, row)
        if "judge" in row:
            self.judged.append(row)
            self._listen()
        for name, value in row.items():
            if value is not None:
                self.writer.add_scalar(name, value, row["tokens"])
        self.show(row["tokens"], report.note(row, self.alarm is not None))

    def _listen(self) -> None:
        """Ring once."""
        if self.alarm is None:
            self.alarm = alarm(self.judged)
            if self.alarm is not None:
                told = f" at {self.alarm.tokens:,} tokens: {self.alarm}"
                self.console.print(Text.assemble(("alarm", "bold red"), told))

    def close(self) -> None:
        """Have the last events reach the disk."""
        self.writer.close()


def metrics_of(folder: Path, console: Console) -> list[dict[str, Any]]:
    """The rows of a run's metrics; what is damaged is told of and left out."""
    return run_folder.read_metrics(folder / "metrics.jsonl", lambda fault: progress.say(console, fault))


def judge_named(judge: str, task: Task) -> RewardFunction:
    """The preference model that the alarm listens to.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return resolve_reward(judge, task)
    except ValueError as error:
        raise ValueError(str(error).replace(f"reward={judge!r}", f"judge={judge!r}")) from error


def judged_by(judge: RewardFunction, reward: RewardFunction, batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores of the judge (S,), and how far the members of a reward that is an ensemble disagree (S,)."""
    responses = replies(batch)
    doubts = reward.disagreement(batch.samples, responses) if isinstance(reward, EnsembleReward) else None
    return score(judge, batch.samples, responses), doubts


def watched(batch: Batch, scores: np.ndarray, doubts: np.ndarray | None) -> dict[str, float]:
    """What the judge says of the responses of all processes, as a part of a row of metrics."""
    # Contexts are numbered by each process for itself.
    contexts = batch.contexts.cpu().numpy()
    before = sum(processes.gather(int(contexts.max()) + 1)[: processes.rank()])
    mean, error = mean_and_error(processes.joined(scores), processes.joined(contexts + before))
    row = {"judge": mean, "judge_error": error}
    return row if doubts is None else {**row, "disagreement": float(processes.joined(doubts).mean())}
